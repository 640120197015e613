//! Attaching the `kprobe` backend.
//!
//! A kretprobe follows only as many calls at a time as it was given room for, and a receive that waits is such a call: the kernel's
//! own room, twice the processors, is used up by a pool of clients, whose replies would go unseen. Only events in tracefs take a
//! number. They are names that outlive a process that was killed; the next start removes them.
#![allow(unsafe_code, reason = "perf events have no safe wrapper here")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process;

use aya::Ebpf;
use aya::programs::KProbe;
use observer_ebpf::name;
use tracing::warn;

use super::backend::{self, AttachError};
use super::btf::{Btf, BtfError};
use super::capability::perf_is_open;
use super::live::monotonic;

/// Calls that each kretprobe follows at a time: the most that the kernel takes.
const ROOM: u32 = 4096;

/// Calls under way that the programs keep the arguments of, of all functions.
pub(crate) const CALLS: u32 = 16_384;

/// Where tracefs is.
const TRACING: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The list of events, there.
const EVENTS: &str = "kprobe_events";

/// The group of our events.
const GROUP: &str = "cache_observer";

/// Attaches all programs; answers their names, and what keeps the returns attached.
pub(crate) fn attach(
    ebpf: &mut Ebpf,
    btf: &Btf,
) -> Result<(Vec<&'static str>, Returns), AttachError> {
    let mut returns = Returns::open().map_err(AttachError::Tracefs)?;
    let there = |function| match btf.has_function(function) {
        // A kernel may be built without IPv6, or with it as a module.
        Ok(false) if function.starts_with("udpv6") => {
            warn!("this kernel has no {function}: its datagrams are not observed");
            Ok(false)
        }
        Ok(false) => Err(BtfError::Missing(format!("function {function}"))),
        other => other,
    };
    let mut functions = Vec::new();
    for each in name::PROBES {
        if there(each[0])? {
            functions.push(each);
        }
    }
    let mut programs = Vec::new();
    // The entries last: what they keep is for a return to take away.
    for &[function, _, program] in &functions {
        let loaded: &mut KProbe = backend::program(ebpf, program)?;
        loaded.load().map_err(backend::refused(program))?;
        let fd = loaded.fd().map_err(backend::refused(program))?;
        returns
            .add(function, fd.as_fd().as_raw_fd())
            .map_err(|source| AttachError::Probe { function, source })?;
        programs.push(program);
    }
    for &[function, program, _] in &functions {
        let loaded: &mut KProbe = backend::program(ebpf, program)?;
        loaded
            .load()
            .and_then(|()| loaded.attach(function, 0))
            .map_err(backend::refused(program))?;
        programs.push(program);
    }
    Ok((programs, returns))
}

/// Which parameter of `tcp_recvmsg`, and so of each other protocol's, is the flags.
pub(crate) fn flags(btf: &Btf) -> Result<u32, BtfError> {
    const RECEIVE: &str = "tcp_recvmsg";
    let names = btf.parameters(RECEIVE)?;
    match names.iter().position(|name| name == "flags") {
        Some(3) => Ok(3),
        Some(4) => Ok(4),
        _ => Err(BtfError::Unexpected {
            field: format!("{RECEIVE}.flags"),
            why: format!("its parameters are {}", names.join(", ")),
        }),
    }
}

/// Kretprobes as events in tracefs. Dropping it detaches and removes them.
#[derive(Debug)]
pub(crate) struct Returns {
    root: PathBuf,
    /// Open for writing: it may be that this process can open nothing when it ends.
    events: File,
    names: Vec<String>,
    probes: Vec<OwnedFd>,
}

impl Returns {
    /// Opens the list of events, and removes what observers that were killed have left in it.
    fn open() -> io::Result<Self> {
        let mut tried = TRACING.iter().map(|root| {
            let path = Path::new(root).join(EVENTS);
            let events = OpenOptions::new().append(true).open(&path);
            (*root, path, events)
        });
        let there = tried.find(
            |(.., events)| !matches!(events, Err(error) if error.kind() == io::ErrorKind::NotFound),
        );
        let Some((root, path, events)) = there else {
            return Err(io::Error::other(
                "no tracefs is mounted (in a container: mount the host's /sys/kernel/tracing)",
            ));
        };
        let events = events.map_err(|error| {
            let who = match error.kind() {
                io::ErrorKind::PermissionDenied => "; root may write it, or CAP_DAC_OVERRIDE",
                _ => "",
            };
            io::Error::new(error.kind(), format!("{}: {error}{who}", path.display()))
        })?;
        clean(&path, &events);
        Ok(Self {
            root: root.into(),
            events,
            names: Vec::new(),
            probes: Vec::new(),
        })
    }

    /// Attaches a program to the return of a function.
    pub(crate) fn add(&mut self, function: &str, program: i32) -> io::Result<()> {
        let name = format!("{function}_{}_{}", process::id(), monotonic());
        writeln(&self.events, &format!("r{ROOM}:{GROUP}/{name} {function}"))?;
        let id = self.root.join("events").join(GROUP).join(&name).join("id");
        self.names.push(name);
        let id = fs::read_to_string(id)?;
        let id = id.trim().parse().map_err(io::Error::other)?;
        self.probes.push(perf_event(id, program).map_err(|error| {
            match error.kind() {
                io::ErrorKind::PermissionDenied if !perf_is_open() => io::Error::new(
                    error.kind(),
                    format!(
                        "{error}; where kernel.perf_event_paranoid is above 2, root may, or CAP_SYS_ADMIN"
                    ),
                ),
                _ => error,
            }
        })?);
        Ok(())
    }
}

impl Drop for Returns {
    fn drop(&mut self) {
        // An event that is in use cannot be removed.
        self.probes.clear();
        for name in &self.names {
            if let Err(error) = remove(&self.events, name) {
                warn!(
                    "the event {name} stays behind in {}: {error}",
                    self.root.display()
                );
            }
        }
    }
}

/// Removes the events of processes that are gone.
fn clean(path: &Path, events: &File) {
    let Ok(list) = fs::read_to_string(path) else {
        return;
    };
    for name in list.lines().filter_map(ours) {
        let mut parts = name.rsplit('_').skip(1);
        if let Some(process) = parts.next()
            && !Path::new("/proc").join(process).exists()
        {
            // One that is in use all the same, by a process of another namespace, cannot be removed, which is right.
            let _ = remove(events, name);
        }
    }
}

/// The name of an event of ours in a line of the list: `r4096:cache_observer/NAME FUNCTION`.
fn ours(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(':')?;
    let (group, rest) = rest.split_once('/')?;
    let (name, _) = rest.split_once(' ')?;
    (group == GROUP).then_some(name)
}

fn remove(events: &File, name: &str) -> io::Result<()> {
    writeln(events, &format!("-:{GROUP}/{name}"))
}

/// The kernel takes a line at a time.
fn writeln(mut events: &File, line: &str) -> io::Result<()> {
    events.write_all(format!("{line}\n").as_bytes())
}

/// `struct perf_event_attr` as it was at first, which every kernel takes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample: u64,
    read: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    address: u64,
}

/// Opens the event `id` and runs `program` at it, on all processors.
fn perf_event(id: u64, program: i32) -> io::Result<OwnedFd> {
    /// `PERF_TYPE_TRACEPOINT`, `PERF_FLAG_FD_CLOEXEC`, `PERF_EVENT_IOC_SET_BPF`, `PERF_EVENT_IOC_ENABLE`.
    const TRACEPOINT: u32 = 2;
    const CLOEXEC: libc::c_ulong = 8;
    const SET_BPF: libc::c_ulong = 0x4004_2408;
    const ENABLE: libc::c_ulong = 0x2400;
    let attributes = Attributes {
        kind: TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: id,
        ..Attributes::default()
    };
    // SAFETY: the attributes live through the call and say how long they are. All processes, on processor 0: the program runs on
    // each.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            -1,
            0,
            -1,
            CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    for (request, argument) in [(SET_BPF, program), (ENABLE, 0)] {
        // SAFETY: both requests take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_events_are_known_by_their_group() {
        let line = "r4096:cache_observer/tcp_recvmsg_12_3456 tcp_recvmsg";
        assert_eq!(ours(line), Some("tcp_recvmsg_12_3456"));
        assert_eq!(ours("p:kprobes/other vfs_read"), None);
        assert_eq!(ours(""), None);
        assert_eq!(size_of::<Attributes>(), 64);
    }
}
