//! Loads the kernel programs and attaches them, one backend at a time, for real.

use std::error::Error;
use std::fmt;
use std::fs::File;

use aya::maps::{Array, MapError, ProgramArray};
use aya::programs::{
    CgroupAttachMode, CgroupSockAddr, FEntry, FExit, Program, ProgramError, RawTracePoint,
};
use aya::{Ebpf, EbpfError, EbpfLoader};
use observer_ebpf::{PORT_WORDS, config, direction, name};
use tracing::warn;

use super::btf::{Btf, BtfError};
use super::hooks_unix as unix;
use super::kprobe::{self, Returns};
use super::layout::Config;
use super::surroundings;
use super::wait::page_size;

/// The kernel programs. Aligned, because the loader reads it in place.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cache-observer-ebpf"));

/// A way to hook the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// fentry and fexit of `tcp_sendmsg_locked` and `tcp_recvmsg`. Linux 5.17 or later (`bpf_loop`) with BTF and
    /// trampolines; x86-64, or arm64 since 6.4.
    Fentry,
    /// kprobe and kretprobe of the same functions. Linux 5.17 or later (`bpf_loop`) with BTF and kprobes.
    Kprobe,
    /// Raw tracepoints `sock_send_length` and `sock_recv_length`. Linux 6.3 or later with BTF.
    Tracepoint,
}

impl Backend {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    /// Whether it sees when a send began, not only when it returned.
    #[must_use]
    pub const fn has_start_times(self) -> bool {
        matches!(self, Self::Fentry | Self::Kprobe)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a backend could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel lacks something that the programs look up by name.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The object with the programs could not be loaded, or a map not created.
    #[error("creating the maps failed: {}", causes(&**.0))]
    Object(#[source] Box<EbpfError>),
    /// The kernel refused a program.
    #[error("{}", refusal(program, source))]
    Program {
        /// Which.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// The list of events cannot be written.
    #[error("it needs tracefs, to follow calls that wait: {0}")]
    Tracefs(#[source] std::io::Error),
    /// The kernel refused to follow the returns of a function.
    #[error("the kernel refused a kretprobe of {function}: {source}")]
    Probe {
        /// Which.
        function: &'static str,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
    /// The kernel has no such tracepoint.
    #[error(
        "this kernel has no tracepoint {0} (sock_send_length and sock_recv_length came with 6.3)"
    )]
    NoTracepoint(&'static str),
    /// The object lacks a program or map: it was built from other sources.
    #[error("the object with the kernel programs has no {0}")]
    Absent(&'static str),
    /// There is no room for the ring.
    #[error("a ring of {bytes} bytes (limits.ring-bytes) is refused: {}", causes(.source.as_ref()))]
    Ring {
        /// Its size.
        bytes: u32,
        /// What failed.
        #[source]
        source: Box<MapError>,
    },
    /// A map could not be read or written.
    #[error("map {map}: {}", causes(.source.as_ref()))]
    Map {
        /// Which.
        map: &'static str,
        /// What failed.
        #[source]
        source: Box<MapError>,
    },
}

/// Why not even a map can be made by who holds the capabilities, and what to do.
pub const FORBIDDEN: &str = "bpf(2) is refused in spite of the capabilities: by this container's seccomp profile or another guard; let it pass (--security-opt seccomp=unconfined), the observer puts on a narrower filter itself";

impl AttachError {
    /// Whether the kernel would not make a map: not for want of a feature.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        let Self::Object(error) = self else {
            return false;
        };
        let mut next: Option<&(dyn Error + 'static)> = Some(&**error);
        while let Some(cause) = next {
            if let Some(error) = cause.downcast_ref::<std::io::Error>() {
                return error.kind() == std::io::ErrorKind::PermissionDenied;
            }
            next = cause.source();
        }
        false
    }
}

/// What the programs are attached with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits<'a> {
    pub(crate) ports: &'a [u16],
    pub(crate) max_bytes: u32,
    pub(crate) ring_bytes: u32,
    pub(crate) skip_local_server: bool,
    /// Unix sockets are observed, too.
    pub(crate) unix: bool,
}

/// The ring's size must be a power of two and whole pages.
pub(crate) fn ring_size(asked: u32) -> u32 {
    asked.clamp(page_size(), 1 << 30).next_power_of_two()
}

/// Attached programs. Dropping it detaches them.
pub(crate) struct Attached {
    /// Owns them, and all their links but those of `returns`.
    pub(crate) ebpf: Ebpf,
    /// Their names.
    pub(crate) programs: Vec<&'static str>,
    /// Whether they see unix sockets.
    pub(crate) unix: bool,
    _returns: Option<Returns>,
}

/// Attaches `backend`. Whatever was attached before an error is detached again, by what owns it.
pub(crate) fn attach(
    backend: Backend,
    limits: &Limits<'_>,
    btf: &Btf,
    mut config: Config,
) -> Result<Attached, AttachError> {
    let ring_bytes = ring_size(limits.ring_bytes);
    config.limits(limits.max_bytes, ring_bytes, limits.skip_local_server);
    match backend {
        Backend::Fentry => config.iterator(btf)?,
        Backend::Kprobe => {
            config.iterator(btf)?;
            config.0[config::RECEIVE_FLAGS] = kprobe::flags(btf)?;
        }
        Backend::Tracepoint => config.registers(btf)?,
    }
    let unix = limits.unix && unix::is_known(btf, &mut config);
    let calls = match backend {
        Backend::Kprobe => kprobe::CALLS,
        Backend::Fentry | Backend::Tracepoint => 1,
    };
    let mut ebpf = EbpfLoader::new()
        .override_global(config::NAME, &config.0[..], true)
        .map_max_entries(name::EVENTS, ring_bytes)
        .map_max_entries(name::CALLS, calls)
        .load(OBJECT)
        .map_err(|error| AttachError::Object(Box::new(error)))?;
    tracepoint(&mut ebpf, name::SET_STATE, "inet_sock_set_state")?;
    let (mut programs, mut returns) = match backend {
        Backend::Fentry => (fentry(&mut ebpf, btf)?, None),
        Backend::Kprobe => {
            let (programs, returns) = kprobe::attach(&mut ebpf, btf)?;
            (programs, Some(returns))
        }
        Backend::Tracepoint => {
            datagrams(&mut ebpf)?;
            if unix {
                unix::tracepoints(&mut ebpf)?;
            }
            tracepoint(&mut ebpf, name::RECEIVE_LENGTH, "sock_recv_length")?;
            tracepoint(&mut ebpf, name::SEND_LENGTH, "sock_send_length")?;
            (vec![name::RECEIVE_LENGTH, name::SEND_LENGTH], None)
        }
    };
    if unix {
        programs.extend(match &mut returns {
            Some(returns) => unix::kprobes(&mut ebpf, btf, returns)?,
            None if backend == Backend::Fentry => unix::fentry(&mut ebpf, btf)?,
            None => Vec::new(),
        });
    }
    // Last: until a port is watched all hooks see nothing, from then on none misses what another sees.
    watch(&mut ebpf, limits.ports)?;
    Ok(Attached {
        ebpf,
        programs: [vec![name::SET_STATE], programs].concat(),
        unix,
        _returns: returns,
    })
}

/// Makes `ports` the watched ones.
pub(crate) fn watch(ebpf: &mut Ebpf, ports: &[u16]) -> Result<(), AttachError> {
    let mut words = [0u64; PORT_WORDS];
    for &port in ports {
        words[usize::from(port) / 64] |= 1 << (port % 64);
    }
    let failed = |source| AttachError::Map {
        map: name::PORTS,
        source: Box::new(source),
    };
    let map = ebpf
        .map_mut(name::PORTS)
        .ok_or(AttachError::Absent(name::PORTS))?;
    let mut map: Array<_, [u64; PORT_WORDS]> = Array::try_from(map).map_err(failed)?;
    map.set(0, words, 0).map_err(failed)
}

fn fentry(ebpf: &mut Ebpf, btf: &Btf) -> Result<Vec<&'static str>, AttachError> {
    const SEND: &str = "tcp_sendmsg_locked";
    const RECEIVE: &str = "tcp_recvmsg";
    let receive = match btf.parameters(RECEIVE)? {
        names if names.len() == 4 && names[3] == "flags" => name::RECEIVE_EXIT_4,
        names if names.len() == 5 && names[3] == "flags" => name::RECEIVE_EXIT_5,
        names if names.len() == 6 && names[4] == "flags" => name::RECEIVE_EXIT_6,
        names => {
            let why = format!("its parameters are {}", names.join(", "));
            return Err(BtfError::Unexpected {
                field: format!("{RECEIVE}.flags"),
                why,
            }
            .into());
        }
    };
    if btf.parameters(SEND)?.len() != 3 {
        let why = "it has not three parameters".to_owned();
        return Err(BtfError::Unexpected {
            field: format!("{SEND}.size"),
            why,
        }
        .into());
    }
    let types = aya::Btf::from_sys_fs().map_err(|error| object(error.into()))?;
    let mut exits = vec![(receive, RECEIVE), (name::SEND_EXIT, SEND)];
    let mut entries = vec![(name::SEND_ENTRY, SEND)];
    for (index, (send, receive)) in [
        ("udp_sendmsg", "udp_recvmsg"),
        ("udpv6_sendmsg", "udpv6_recvmsg"),
    ]
    .into_iter()
    .enumerate()
    {
        // A kernel may be built without IPv6, or with it as a module.
        let Ok(parameters) = btf.parameters(receive) else {
            warn!("this kernel has no {receive}: its datagrams are not observed");
            continue;
        };
        let variant = match &parameters[..] {
            [_, _, _, flags] if flags == "flags" => 0,
            [_, _, _, flags, _] if flags == "flags" => 1,
            [_, _, _, _, flags, _] if flags == "flags" => 2,
            names => {
                let why = format!("its parameters are {}", names.join(", "));
                return Err(BtfError::Unexpected {
                    field: format!("{receive}.flags"),
                    why,
                }
                .into());
            }
        };
        exits.push((name::RECEIVE_UDP_EXIT[variant][index], receive));
        exits.push((name::SEND_UDP_EXIT[index], send));
        entries.push((name::SEND_UDP_ENTRY[index], send));
    }
    // The entries last: a start without an exit to take it away would stay.
    for &(program, function) in &exits {
        let exit: &mut FExit = self::program(ebpf, program)?;
        exit.load(function, &types)
            .and_then(|()| exit.attach())
            .map_err(refused(program))?;
    }
    for &(program, function) in &entries {
        let entry: &mut FEntry = self::program(ebpf, program)?;
        entry
            .load(function, &types)
            .and_then(|()| entry.attach())
            .map_err(refused(program))?;
    }
    let attached = entries.iter().chain(&exits);
    Ok(attached.map(|&(program, _)| program).collect())
}

/// Loads the programs that the tracepoints' hand datagrams to. Those that tell who sent a datagram to an unconnected socket
/// need a cgroup hierarchy of version 2; without it such datagrams are counted, not read.
fn datagrams(ebpf: &mut Ebpf) -> Result<(), AttachError> {
    for (way, program) in [
        (direction::SEND, name::SEND_DATAGRAM),
        (direction::RECEIVE, name::RECEIVE_DATAGRAM),
    ] {
        hand_on(ebpf, name::DATAGRAMS, way, program)?;
    }
    if let Err(error) = senders(ebpf) {
        warn!("who sends datagrams to unconnected sockets is not seen: {error}");
    }
    Ok(())
}

/// Loads a program, and has the one that is attached to a tracepoint hand on to it by an array of programs.
pub(crate) fn hand_on(
    ebpf: &mut Ebpf,
    array: &'static str,
    way: u8,
    program: &'static str,
) -> Result<(), AttachError> {
    let loaded: &mut RawTracePoint = self::program(ebpf, program)?;
    loaded.load().map_err(refused(program))?;
    let fd = loaded
        .fd()
        .and_then(|fd| Ok(fd.try_clone()?))
        .map_err(refused(program))?;
    let failed = |source| AttachError::Map {
        map: array,
        source: Box::new(source),
    };
    let map = ebpf.map_mut(array).ok_or(AttachError::Absent(array))?;
    let mut map = ProgramArray::try_from(map).map_err(failed)?;
    map.set(way.into(), &fd, 0).map_err(failed)
}

/// Attaches the programs that note who sent a datagram, to the root of the cgroup hierarchy.
fn senders(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let root = surroundings::cgroups().map_err(anyhow::Error::msg)?;
    let root = File::open(root)?;
    for name in [name::SENDER_4, name::SENDER_6] {
        let program: &mut CgroupSockAddr = program(ebpf, name)?;
        program
            .load()
            // A link always leaves room for others and takes no flags.
            .and_then(|()| program.attach(&root, CgroupAttachMode::Single))
            .map_err(refused(name))?;
    }
    Ok(())
}

/// Attaches one program to a raw tracepoint.
pub(crate) fn tracepoint(
    ebpf: &mut Ebpf,
    name: &'static str,
    tracepoint: &'static str,
) -> Result<(), AttachError> {
    let program: &mut RawTracePoint = program(ebpf, name)?;
    match program.load().and_then(|()| program.attach(tracepoint)) {
        Ok(_) => Ok(()),
        Err(ProgramError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Err(AttachError::NoTracepoint(tracepoint))
        }
        Err(error) => Err(refused(name)(error)),
    }
}

pub(crate) fn program<'a, P>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut P, AttachError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(AttachError::Absent(name))?
        .try_into()
        .map_err(refused(name))
}

pub(crate) fn refused(program: &'static str) -> impl FnOnce(ProgramError) -> AttachError {
    move |source| AttachError::Program {
        program,
        source: Box::new(source),
    }
}

fn object(error: EbpfError) -> AttachError {
    AttachError::Object(Box::new(error))
}

/// What went wrong and why, each without the kernel's many lines of explanation.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let cause = error.to_string();
        let line = cause.lines().next().unwrap_or_default();
        // Some errors say their cause themselves.
        if !text.ends_with(line) {
            let between = if text.is_empty() { "" } else { ": " };
            text.push_str(between);
            text.push_str(line);
        }
        next = error.source();
    }
    text
}

/// One line: what the kernel said, and for a program that its verifier turned down the last thing it said.
fn refusal(program: &str, error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let last = log.lines().rev().find(|line| {
                // The verifier ends with statistics.
                !line.is_empty()
                    && !["processed ", "verification time", "stack depth"]
                        .iter()
                        .any(|s| line.starts_with(s))
            });
            match last {
                Some(last) => format!("the kernel refused program {program}: {io_error}: {last}"),
                None => format!("the kernel refused program {program}: {io_error}"),
            }
        }
        ProgramError::SyscallError(error) => {
            format!(
                "the kernel refused to attach {program}: {}: {}",
                error.call, error.io_error
            )
        }
        other => format!("the kernel refused to attach {program}: {}", causes(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_sizes_are_powers_of_two() {
        for (asked, size) in [
            (0, page_size()),
            (65_537, 1 << 17),
            (8 << 20, 8 << 20),
            (u32::MAX, 1 << 30),
        ] {
            assert_eq!(ring_size(asked), size);
        }
    }
}
