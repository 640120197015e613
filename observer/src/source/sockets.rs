//! Connections that are older than the observer: found once, in `/proc`, with the process that holds each.
//!
//! The kernel's tables of sockets are per network namespace, and are read through a process that lives in it; they name
//! sockets by inode, which leads to the processes' file descriptors.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustc_hash::FxHashMap;

use super::event::{SocketId, Task};

/// Most connections taken in.
const MAX_SOCKETS: usize = 65_536;
/// Most file descriptors looked at: some seconds of work.
const MAX_DESCRIPTORS: usize = 4_000_000;

/// States of which the application still holds its end: `ESTABLISHED` and `CLOSE_WAIT`.
const HELD: [&str; 2] = ["01", "08"];

/// What a search has found.
#[derive(Debug, Default)]
pub struct Found {
    /// Clients' ends of connections to the watched ports, each with the process that holds it. Neither the address of their
    /// `struct sock` nor a thread is known: both are 0.
    pub sockets: Vec<(SocketId, Task)>,
    /// How many more there are whose process was not found: it may not be looked into, or they were beyond a limit.
    pub ownerless: usize,
}

/// Looks for clients' ends of connections to `ports`, below `root`, ordinarily `/proc`.
///
/// Takes milliseconds, or seconds on a host with millions of file descriptors. What cannot be read is passed over: processes
/// end while they are looked at.
#[must_use]
pub fn clients_of(root: &Path, ports: &[u16]) -> Found {
    let processes = processes(root);
    let mut namespaces: FxHashMap<u32, u32> = FxHashMap::default();
    for &pid in &processes {
        if let Some(netns) = namespace(root, pid) {
            namespaces.entry(netns).or_insert(pid);
        }
    }
    let mut wanted: FxHashMap<u64, SocketId> = FxHashMap::default();
    for (&netns, pid) in &namespaces {
        for table in ["tcp", "tcp6"] {
            let Ok(file) = File::open(root.join(format!("{pid}/net/{table}"))) else {
                continue;
            };
            for line in BufReader::new(file).lines().map_while(Result::ok).skip(1) {
                let Some(entry) = parse(&line) else { continue };
                if ports.contains(&entry.remote.port())
                    && !ports.contains(&entry.local.port())
                    && wanted.len() < MAX_SOCKETS
                {
                    let socket = SocketId {
                        sk: 0,
                        netns,
                        local: entry.local.into(),
                        remote: entry.remote.into(),
                    };
                    wanted.insert(entry.inode, socket);
                }
            }
        }
    }
    let mut found = Found::default();
    let mut looked = 0;
    for pid in processes {
        if wanted.is_empty() || looked >= MAX_DESCRIPTORS {
            break;
        }
        let Ok(descriptors) = fs::read_dir(root.join(format!("{pid}/fd"))) else {
            continue;
        };
        let task = task(root, pid);
        for descriptor in descriptors.flatten() {
            looked += 1;
            let inode = fs::read_link(descriptor.path())
                .ok()
                .and_then(|target| inode(target.to_str()?));
            if let Some(socket) = inode.and_then(|inode| wanted.remove(&inode)) {
                found.sockets.push((socket, task));
            }
        }
    }
    found.ownerless = wanted.len();
    found
}

/// Process numbers, in order: of several processes that share a socket the first is taken.
pub(super) fn processes(root: &Path) -> Vec<u32> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

/// Inode of a process's network namespace.
pub(super) fn namespace(root: &Path, pid: u32) -> Option<u32> {
    let metadata = fs::metadata(root.join(format!("{pid}/ns/net"))).ok()?;
    u32::try_from(metadata.ino()).ok()
}

fn task(root: &Path, pid: u32) -> Task {
    let name = fs::read(root.join(format!("{pid}/comm"))).unwrap_or_default();
    let mut comm = [0; 16];
    // The last byte stays NUL.
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    for (to, from) in comm[..15].iter_mut().zip(name) {
        *to = *from;
    }
    Task {
        pid,
        tid: 0,
        cgroup: 0,
        comm,
    }
}

/// `socket:[1234]`.
pub(super) fn inode(target: &str) -> Option<u64> {
    let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    local: SocketAddr,
    remote: SocketAddr,
    inode: u64,
}

/// A line of `/proc/net/tcp` or `tcp6` (`proc_net_tcp(5)`), if the application still holds the socket.
fn parse(line: &str) -> Option<Entry> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let remote = fields.next()?;
    if !HELD.contains(&fields.next()?) {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok().filter(|inode| *inode != 0)?;
    Some(Entry {
        local: address(local)?,
        remote: address(remote)?,
        inode,
    })
}

/// `0100007F:18EB`: 32-bit words in the machine's byte order, as hexadecimal numbers, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    if ip.len() % 8 != 0 {
        return None;
    }
    let mut bytes = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn reads_the_kernels_tables() {
        let rest = "00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 20 4 24 10 -1";
        let line = |addresses: &str, state: &str| format!("   1: {addresses} {state} {rest}");
        let four = "0100007F:9C40 0200007F:18EB";
        let entry = parse(&line(four, "01")).unwrap();
        assert_eq!(entry.local, "127.0.0.1:40000".parse().unwrap());
        assert_eq!(entry.remote, "127.0.0.2:6379".parse().unwrap());
        assert_eq!(entry.inode, 4711);
        assert!(parse(&line(four, "08")).is_some());
        // TIME_WAIT, LISTEN.
        assert_eq!(parse(&line(four, "06")), None);
        assert_eq!(parse(&line(four, "0A")), None);
        let mapped = "0000000000000000FFFF00000100007F:9C40 00000000000000000000000001000000:18EB";
        let entry = parse(&line(mapped, "01")).unwrap();
        assert_eq!(entry.local, "127.0.0.1:40000".parse().unwrap());
        assert_eq!(entry.remote, "[::1]:6379".parse().unwrap());
        for damaged in ["", "1:", "1: x:y z 01", &line("7F:1 7F:1", "01")] {
            assert_eq!(parse(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn finds_this_programs_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = TcpStream::connect(server).unwrap();
        let found = clients_of(Path::new("/proc"), &[server.port()]);
        let [(socket, task)] = &found.sockets[..] else {
            panic!("{found:?}");
        };
        assert_eq!(socket.remote, server.into());
        assert_eq!(socket.local, client.local_addr().unwrap().into());
        assert_eq!(task.pid, std::process::id());
        let netns = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(u64::from(socket.netns), netns);
    }
}
