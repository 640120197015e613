//! Attaching the programs that see unix sockets.

use aya::maps::{Array, HashMap};
use aya::programs::{FEntry, FExit, KProbe};
use aya::{Ebpf, Pod};
use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, AsRawFd as _};

use observer_ebpf::{direction, name};
use tracing::warn;

use super::address::SocketName;
use super::backend::{self, AttachError, refused};
use super::btf::Btf;
use super::kprobe::Returns;
use super::layout::Config;

/// Completes the configuration. A kernel where unix sockets are not what the programs expect is observed without them.
pub(crate) fn is_known(btf: &Btf, config: &mut Config) -> bool {
    config
        .unix(btf)
        .inspect_err(|error| warn!("unix sockets are not observed: {error}"))
        .is_ok()
}

/// Loads what the tracepoints' programs hand on to.
pub(crate) fn tracepoints(ebpf: &mut Ebpf) -> Result<(), AttachError> {
    for way in [direction::SEND, direction::RECEIVE] {
        let program = name::UNIX_LENGTH[usize::from(way)];
        backend::hand_on(ebpf, name::OTHERS, way, program)?;
    }
    Ok(())
}

/// The functions that this kernel has, of those that matter. Before 6.5 `sendfile` has one of its own.
fn functions(btf: &Btf) -> Result<Vec<(&'static str, [&'static str; 3])>, AttachError> {
    let mut there = Vec::new();
    for (function, parameters, exit, call, back) in name::UNIX {
        if !btf.has_function(function)? {
            if function != "unix_stream_sendpage" {
                warn!("this kernel has no {function}: what it moves is not observed");
            }
        } else if btf.parameters(function)?.len() != parameters {
            warn!("{function} has not {parameters} parameters: what it moves is not observed");
        } else {
            there.push((function, [exit, call, back]));
        }
    }
    Ok(there)
}

/// Attaches the programs of the `fentry` backend; answers their names.
pub(crate) fn fentry(ebpf: &mut Ebpf, btf: &Btf) -> Result<Vec<&'static str>, AttachError> {
    let types =
        aya::Btf::from_sys_fs().map_err(|error| AttachError::Object(Box::new(error.into())))?;
    let mut programs = Vec::new();
    let functions = functions(btf)?;
    for &(function, [exit, _, _]) in &functions {
        let program: &mut FExit = backend::program(ebpf, exit)?;
        program
            .load(function, &types)
            .and_then(|()| program.attach())
            .map_err(refused(exit))?;
        programs.push(exit);
    }
    let (release, entry, _) = name::UNIX_RELEASE;
    for (function, entry) in [
        (release, entry),
        // Last: a start without an exit to take it away would stay.
        ("unix_stream_sendmsg", name::SEND_UNIX_ENTRY),
    ] {
        if btf.has_function(function)? {
            let program: &mut FEntry = backend::program(ebpf, entry)?;
            program
                .load(function, &types)
                .and_then(|()| program.attach())
                .map_err(refused(entry))?;
            programs.push(entry);
        }
    }
    Ok(programs)
}

/// Attaches the programs of the `kprobe` backend; answers their names.
pub(crate) fn kprobes(
    ebpf: &mut Ebpf,
    btf: &Btf,
    returns: &mut Returns,
) -> Result<Vec<&'static str>, AttachError> {
    let functions = functions(btf)?;
    let mut programs = Vec::new();
    for &(function, [_, _, back]) in &functions {
        let program: &mut KProbe = backend::program(ebpf, back)?;
        program.load().map_err(refused(back))?;
        let fd = program.fd().map_err(refused(back))?;
        returns
            .add(function, fd.as_fd().as_raw_fd())
            .map_err(|source| AttachError::Probe { function, source })?;
        programs.push(back);
    }
    let (release, _, release_call) = name::UNIX_RELEASE;
    let calls = functions
        .iter()
        .map(|&(function, [_, call, _])| (function, call));
    // The entries last: what they keep is for a return to take away.
    for (function, call) in std::iter::once((release, release_call)).chain(calls) {
        let program: &mut KProbe = backend::program(ebpf, call)?;
        program
            .load()
            .and_then(|()| program.attach(function, 0))
            .map_err(refused(call))?;
        programs.push(call);
    }
    Ok(programs)
}

/// A name as the map has it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(observer_ebpf::SocketName);

#[allow(unsafe_code, reason = "a map's key is plain memory")]
// SAFETY: a number and bytes, without padding.
unsafe impl Pod for Key {}

/// Watches all of these names.
pub(crate) fn watch(ebpf: &mut Ebpf, names: &BTreeSet<SocketName>) -> Result<(), AttachError> {
    let failed = |map| {
        move |source| AttachError::Map {
            map,
            source: Box::new(source),
        }
    };
    let (servers, lengths) = (name::SERVERS, name::LENGTHS);
    let map = ebpf.map_mut(servers).ok_or(AttachError::Absent(servers))?;
    let mut map: HashMap<_, Key, u32> = HashMap::try_from(map).map_err(failed(servers))?;
    let mut bits = [0u64; 2];
    for name in names {
        let key = name.kernel();
        bits[usize::from(key.length >= 64)] |= 1 << (key.length % 64);
        map.insert(Key(key), u32::from(name.number()), 0)
            .map_err(failed(servers))?;
    }
    // Then what lets the programs look for them.
    let map = ebpf.map_mut(lengths).ok_or(AttachError::Absent(lengths))?;
    let mut map: Array<_, [u64; 2]> = Array::try_from(map).map_err(failed(lengths))?;
    map.set(0, bits, 0).map_err(failed(lengths))
}
