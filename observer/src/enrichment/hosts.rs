//! Names of servers, as the file of hosts has them that a process sees: `/etc/hosts` of its own file system, which container
//! runtimes and the kubelet write.
//!
//! The file is anybody's. So nothing of it is followed (a symbolic link leads through the observer's file system), nothing is waited
//! for (it may be a pipe), and so much is read of it and no more.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Weak};

/// Most bytes read of a file. Names beyond them are not found.
const MAX_FILE: u64 = 64 * 1024;
/// Most bytes of a name: that of a DNS name.
const MAX_NAME: usize = 253;
/// Most names that a recording tells of one process.
const MAX_TOLD: usize = 4_096;
/// So many files are known before those are forgotten that no process uses.
const MAX_FILES: usize = 1_024;

/// Names by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hosts(HashMap<IpAddr, Arc<str>>);

impl Hosts {
    /// The name of this address.
    pub(super) fn name(&self, address: IpAddr) -> Option<Arc<str>> {
        self.0.get(&address).cloned()
    }

    /// A further name, as a recording tells it.
    pub(super) fn add(&mut self, address: IpAddr, name: Arc<str>) {
        if self.0.len() < MAX_TOLD || self.0.contains_key(&address) {
            self.0.insert(address, name);
        }
    }

    /// Reads lines of an address, its name and further ones (`hosts(5)`). The first line of an address holds, as it does for resolvers.
    fn parse(text: &str) -> Self {
        let mut names = HashMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(name)) = (words.next(), words.next()) else {
                continue;
            };
            let address = address.split('%').next().unwrap_or_default();
            if let Ok(address) = address.parse::<IpAddr>()
                && is_named(address.to_canonical())
                && is_name(name)
            {
                let first = names.entry(address.to_canonical());
                first.or_insert_with(|| name.into());
            }
        }
        Self(names)
    }
}

/// Whether names are looked for. What loopback is called (`localhost`, the host itself) tells nothing of a server.
pub(super) fn is_named(address: IpAddr) -> bool {
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    name.len() <= MAX_NAME && name.bytes().all(allowed)
}

/// What a file is, and whether it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

/// The files that were read. Processes that see the same one share it.
#[derive(Debug, Default)]
pub(super) struct HostsFiles(HashMap<Version, Weak<Hosts>>);

impl HostsFiles {
    /// What the process sees whose directory in `/proc` this is; `None` where there is no such file, or it cannot be read.
    pub(super) fn of(&mut self, process: &Path) -> Option<Arc<Hosts>> {
        let file = open(process)?;
        let metadata = file.metadata().ok().filter(|found| found.is_file())?;
        let version = Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            length: metadata.len(),
        };
        if let Some(known) = self.0.get(&version).and_then(Weak::upgrade) {
            return Some(known);
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 == MAX_FILE {
            // The last line may go on.
            let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
            bytes.truncate(end);
        }
        let hosts = Arc::new(Hosts::parse(&String::from_utf8_lossy(&bytes)));
        if self.0.len() >= MAX_FILES {
            self.0.retain(|_, hosts| hosts.strong_count() > 0);
        }
        self.0.insert(version, Arc::downgrade(&hosts));
        Some(hosts)
    }
}

fn open(process: &Path) -> Option<File> {
    let open = |path: &Path, flags: i32| {
        let mut options = OpenOptions::new();
        let options = options.read(true);
        options.custom_flags(flags | libc::O_NOFOLLOW).open(path)
    };
    let folder = open(&process.join("root/etc"), libc::O_PATH | libc::O_DIRECTORY).ok()?;
    let file = format!("/proc/self/fd/{}/hosts", folder.as_raw_fd());
    open(Path::new(&file), libc::O_NONBLOCK).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn lines() {
        let hosts = Hosts::parse(
            "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 node-1\nff02::1 ip6-allnodes\n\
             10.0.0.7\tredis-1.example.com redis-1 # a comment\n10.0.0.7 again\n  fd00::7   pages\n::ffff:10.0.0.8 mapped\n\
             fe80::1%eth0 near\n#10.0.0.9 no\n10.0.0.10\nx y\n10.0.0.11 a\u{1b}[31m\n0.0.0.0 advertisement.example",
        );
        let name = |address: &str| hosts.name(address.parse().unwrap());
        for (address, expected) in [
            ("10.0.0.7", "redis-1.example.com"),
            ("fd00::7", "pages"),
            ("10.0.0.8", "mapped"),
            ("fe80::1", "near"),
        ] {
            assert_eq!(name(address).as_deref(), Some(expected), "{address}");
        }
        assert_eq!(hosts.0.len(), 4, "{hosts:?}");
    }

    #[test]
    fn files() {
        let folder = std::env::temp_dir().join(format!("hosts-{}", std::process::id()));
        let etc = folder.join("7/root/etc");
        let path = etc.join("hosts");
        fs::create_dir_all(&etc).unwrap();
        let mut files = HostsFiles::default();
        let mut read = || files.of(&folder.join("7"));
        assert_eq!(read(), None);
        fs::write(&path, "10.0.0.7 one\n").unwrap();
        let first = read().unwrap();
        assert!(Arc::ptr_eq(&first, &read().unwrap()), "read once");
        fs::write(&path, "10.0.0.7 three\n").unwrap();
        let named = |hosts: &Hosts| hosts.name("10.0.0.7".parse().unwrap());
        assert_eq!(named(&read().unwrap()).as_deref(), Some("three"));
        // What is cut off is no name.
        let long = format!("{}10.0.0.7 cut", "#\n".repeat(32 * 1024 - 6));
        fs::write(&path, long + ".off\n").unwrap();
        assert_eq!(named(&read().unwrap()), None);
        // Neither followed nor waited for.
        fs::remove_file(&path).unwrap();
        symlink("/etc/hosts", &path).unwrap();
        assert_eq!(read(), None);
        fs::remove_file(&path).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(read(), None);
        fs::remove_file(&path).unwrap();
        fs::remove_dir(&etc).unwrap();
        symlink("/etc", &etc).unwrap();
        assert_eq!(read(), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
