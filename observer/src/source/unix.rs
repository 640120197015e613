//! Unix sockets as `/proc` shows them: those that there are, and those that servers listen on.
//!
//! The kernel's tables are per network namespace, and are read through a process that lives in it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use observer_ebpf::unix_start;
use rustc_hash::{FxHashMap, FxHashSet};

use super::event::{Address, Direction, End, Event, EventKind, Nanos, SocketName};
use super::sockets::{inode, namespace, processes};
use super::wait::monotonic;

/// Most sockets that are remembered as older than the observer. Those beyond are taken for new ones, which is said.
const MAX_EXISTING: usize = 1 << 20;

/// `SOCK_STREAM`, as the table has it.
const STREAM: &str = "0001";
/// The flag of a socket that listens, `__SO_ACCEPTCON`.
const LISTENS: u32 = 0x0001_0000;

/// Inode numbers of all stream sockets there are, below `root`, ordinarily `/proc`. Takes milliseconds.
fn existing(root: &Path) -> FxHashSet<u64> {
    let mut found = FxHashSet::default();
    for pid in namespaces(root).into_values() {
        each(root, pid, |entry| {
            if found.len() < MAX_EXISTING {
                found.insert(entry.inode);
            }
        });
    }
    if found.len() == MAX_EXISTING {
        tracing::warn!("more unix sockets than can be told from new ones");
    }
    found
}

/// Names of the sockets on which processes listen that are called one of `servers`, each with which one of them.
///
/// Only their descriptors are looked at: a few milliseconds. What cannot be read is passed over.
#[must_use]
pub fn listeners(root: &Path, servers: &[&str]) -> Vec<(usize, SocketName)> {
    let mut found = Vec::new();
    for pid in processes(root) {
        let Ok(name) = fs::read_to_string(root.join(format!("{pid}/comm"))) else {
            continue;
        };
        let Some(server) = servers.iter().position(|one| *one == name.trim_end()) else {
            continue;
        };
        let descriptors = fs::read_dir(root.join(format!("{pid}/fd")));
        let held: FxHashSet<u64> = descriptors
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|descriptor| inode(fs::read_link(descriptor.path()).ok()?.to_str()?))
            .collect();
        each(root, pid, |entry| {
            if entry.listens
                && held.contains(&entry.inode)
                && let Some(Ok(name)) = entry.name.map(SocketName::new)
                && !found.contains(&(server, name))
            {
                found.push((server, name));
            }
        });
    }
    found
}

/// Unix sockets that were there before they were watched. The kernel says of none when it was connected.
#[derive(Debug, Default)]
pub(super) struct Older {
    inodes: FxHashSet<u64>,
    /// Until then it is not known of any: those that are gone were not found.
    until: Nanos,
}

impl Older {
    /// To be called when names are watched: what is not found now was made after that, and all of its bytes were seen.
    pub(super) fn look(&mut self, root: &Path) {
        self.inodes.extend(existing(root));
        self.until = monotonic();
    }

    /// The establishment of the connection, if the event holds its first byte.
    pub(super) fn established<'a>(&self, event: &Event<'_>) -> Option<Event<'a>> {
        let (EventKind::Data(data), Address::Unix { name, client }) =
            (&event.kind, event.socket.local)
        else {
            return None;
        };
        let (request, reply) = unix_start(client);
        let (end, (send, receive)) = match name {
            Some(_) => (End::Server, (reply, request)),
            None => (End::Client, (request, reply)),
        };
        let first = match data.direction {
            Direction::Send => (send, receive),
            Direction::Receive => (receive, send),
        };
        let is_first = (data.position, data.opposite) == (first.0, Some(first.1));
        if !is_first || data.continued || data.started <= self.until {
            return None;
        }
        (!self.inodes.contains(&event.socket.sk)).then_some(Event {
            time: data.started,
            socket: event.socket,
            task: None,
            kind: EventKind::Established {
                end,
                send_position: Some(send),
                receive_position: Some(receive),
            },
        })
    }
}

/// A process of each network namespace.
fn namespaces(root: &Path) -> FxHashMap<u32, u32> {
    let mut namespaces = FxHashMap::default();
    for pid in processes(root) {
        if let Some(netns) = namespace(root, pid) {
            namespaces.entry(netns).or_insert(pid);
        }
    }
    namespaces
}

/// Goes through the table of a process's network namespace.
fn each(root: &Path, pid: u32, mut act: impl FnMut(Entry<'_>)) {
    let Ok(file) = File::open(root.join(format!("{pid}/net/unix"))) else {
        return;
    };
    for line in BufReader::new(file).lines().map_while(Result::ok).skip(1) {
        if let Some(entry) = parse(&line) {
            act(entry);
        }
    }
}

/// A line of the table, of a stream socket.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    inode: u64,
    listens: bool,
    name: Option<&'a str>,
}

/// `Num RefCount Protocol Flags Type St Inode Path`, in hexadecimal but for the inode; the path may hold spaces.
fn parse(line: &str) -> Option<Entry<'_>> {
    let mut rest = line;
    let mut fields = [""; 7];
    for field in &mut fields {
        rest = rest.trim_start();
        let end = rest.find(' ').unwrap_or(rest.len());
        (*field, rest) = rest.split_at(end);
    }
    let [_, _, _, flags, kind, _, inode] = fields;
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let name = rest.strip_prefix(' ').filter(|name| !name.is_empty());
    (kind == STREAM).then_some(Entry {
        inode: inode.parse().ok()?,
        listens: flags & LISTENS != 0,
        name,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn reads_the_kernels_table() {
        let listens = "ffff8880: 00000002 00000000 00010000 0001 01 21537 /run/a b.sock";
        let expected = Entry {
            inode: 21537,
            listens: true,
            name: Some("/run/a b.sock"),
        };
        assert_eq!(parse(listens), Some(expected));
        let client = "0000000000000000: 00000003 00000000 00000000 0001 03    42";
        let expected = Entry {
            inode: 42,
            listens: false,
            name: None,
        };
        assert_eq!(parse(client), Some(expected));
        for other in ["", "a: b c", &client.replace("0001", "0002")] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn finds_what_this_program_listens_on() {
        let path = format!("cache-observer-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(path);
        let listener = UnixListener::bind(&path).unwrap();
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        let found = listeners(Path::new("/proc"), &["nobody", own.trim_end()]);
        let name = SocketName::new(path.to_str().unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(found.contains(&(1, name)), "{found:?}");
        use std::os::fd::AsRawFd as _;
        let link = format!("/proc/self/fd/{}", listener.as_raw_fd());
        let number = inode(fs::read_link(link).unwrap().to_str().unwrap()).unwrap();
        assert!(existing(Path::new("/proc")).contains(&number));
    }
}
