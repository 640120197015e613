//! What of the host this process sees, if it runs in a container: events tell of processes and cgroups by the host's numbers.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The namespaces that the kernel starts with, by their inodes, `linux/proc_ns.h`.
const FIRST_PID: u64 = 0xEFFF_FFFC;
const FIRST_UTS: &str = "uts:[4026531838]";
/// Inode of the directory that is the root of a cgroup hierarchy.
const ROOT: u64 = 1;

/// Whether `/proc` shows the host's processes, by the numbers that events have. In a container's own namespace others have
/// these numbers.
///
/// # Errors
///
/// What to do, when it does not.
pub fn processes() -> Result<(), &'static str> {
    match is("/proc/self/ns/pid", FIRST_PID) {
        true => Ok(()),
        false => Err(
            "not seen from this container, so that services have no names: run it with the host's (--pid host, hostPID: true)",
        ),
    }
}

/// Whether the kernel tells the host's name below `proc`, not a container's.
///
/// # Errors
///
/// What is told instead, when it does not.
pub fn name(proc: &Path) -> Result<(), &'static str> {
    match fs::read_link(proc.join("self/ns/uts")) {
        Ok(space) if space != Path::new(FIRST_UTS) => Err(
            "of this container; the host's is that of the node (--node-name), else that in the host's /etc/hostname, or run it with --uts host",
        ),
        _ => Ok(()),
    }
}

/// Where the whole cgroup hierarchy of version 2 is mounted.
///
/// # Errors
///
/// When it is not, or only a container's part of it.
pub fn cgroups() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let paths = mounts
        .lines()
        .filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [_, path, "cgroup2", ..] => Some(path),
            _ => None,
        });
    let mut part = None;
    for path in paths {
        if is(path, ROOT) {
            return Ok(path.into());
        }
        part = Some(path);
    }
    Err(match part {
        None => "no cgroup hierarchy of version 2 is mounted".to_owned(),
        Some(path) => {
            format!(
                "{path} is only a container's part of the cgroups: mount the host's /sys/fs/cgroup"
            )
        }
    })
}

/// Whether a file has this inode.
fn is(path: &str, inode: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode)
}
