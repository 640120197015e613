//! What of the host this process sees, if it runs in a container: events tell of processes and cgroups by the host's numbers.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The namespaces of all processes and of the host's own name, `PROC_PID_INIT_INO` and `PROC_UTS_INIT_INO` in `linux/proc_ns.h`.
const PROCESSES: &str = "pid:[4026531836]";
const NAME: &str = "uts:[4026531838]";
/// Inode of the directory that is the root of a cgroup hierarchy.
const ROOT: u64 = 1;

/// Whether processes have the numbers below `proc` that the kernel gives with events: those of the host.
///
/// # Errors
///
/// What that means, when they have others.
pub fn processes(proc: &Path) -> Result<(), &'static str> {
    match is_elsewhere(proc, "pid", PROCESSES) {
        false => Ok(()),
        true => Err(
            "named by their threads and control groups only: this is not the host's process namespace (--pid host, hostPID: true)",
        ),
    }
}

/// Whether the kernel tells the host's name below `proc`, not a container's.
///
/// # Errors
///
/// What is told instead, when it does not.
pub fn name(proc: &Path) -> Result<(), &'static str> {
    match is_elsewhere(proc, "uts", NAME) {
        false => Ok(()),
        true => Err(
            "of this container; the host's is that of the node (--node-name), else that in the host's /etc/hostname, or run it with --uts host",
        ),
    }
}

/// Whether this process is in a namespace of its own.
fn is_elsewhere(proc: &Path, kind: &str, host: &str) -> bool {
    let own = fs::read_link(proc.join("self/ns").join(kind));
    own.is_ok_and(|own| own.as_os_str() != host)
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
        if fs::metadata(path).is_ok_and(|metadata| metadata.ino() == ROOT) {
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
