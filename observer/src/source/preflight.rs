//! What this kernel and user allow, found out by trying: the data behind `doctor`.

use std::collections::BTreeSet;
use std::fs;

use super::backend::{self, AttachError, Backend, Limits};
use super::btf::{Btf, BtfError};
use super::capability::{self, Capability, Held};
use super::layout::Config;

/// One capability, and whether this process holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilityReport {
    /// Which.
    pub capability: Capability,
    /// Whether it is in effect.
    pub held: bool,
    /// What it is needed for, on this kernel.
    pub purpose: &'static str,
}

/// One backend, and what came of attaching it.
#[derive(Debug)]
pub struct BackendReport {
    /// Which.
    pub backend: Backend,
    /// `Ok` when it was attached, and detached again.
    pub result: Result<(), AttachError>,
}

/// What this kernel and user allow.
#[derive(Debug)]
pub struct Report {
    /// Release of the running kernel, such as `6.1.0-44-amd64`.
    pub kernel: String,
    /// Whether the kernel describes its types, with every field that all backends need.
    pub btf: Result<(), BtfError>,
    /// Each capability that matters; empty when the kernel does not tell.
    pub capabilities: Vec<CapabilityReport>,
    /// Those that are needed and missing.
    pub missing: Vec<Capability>,
    /// Each backend in the order in which they are tried; empty without type information.
    pub backends: Vec<BackendReport>,
}

impl Report {
    /// The backend that `auto` would take.
    #[must_use]
    pub fn chosen(&self) -> Option<Backend> {
        self.backends
            .iter()
            .find(|report| report.result.is_ok())
            .map(|report| report.backend)
    }

    /// Whether something keeps this process from bpf(2), whatever capabilities it holds.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        let forbidden =
            |report: &BackendReport| matches!(&report.result, Err(error) if error.is_forbidden());
        !self.backends.is_empty() && self.backends.iter().all(forbidden)
    }
}

/// Tries everything. Nothing stays attached, and no port is watched meanwhile.
#[must_use]
pub fn check() -> Report {
    let held = Held::of_this_thread().ok();
    let perf = capability::perf_is_open();
    let config = Btf::from_kernel().and_then(|btf| Ok((Config::common(&btf)?, btf)));
    let (btf, backends) = match config {
        Ok((config, btf)) => (
            Ok(()),
            Backend::ALL
                .map(|backend| attempt(backend, &btf, &config))
                .into(),
        ),
        Err(error) => (Err(error), Vec::new()),
    };
    Report {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
            |_| "unknown".to_owned(),
            |release| release.trim().to_owned(),
        ),
        btf,
        capabilities: held.map_or_else(Vec::new, |held| {
            Capability::ALL
                .map(|capability| CapabilityReport {
                    capability,
                    held: held.has(capability),
                    purpose: capability.purpose(perf),
                })
                .into()
        }),
        missing: held.map_or_else(Vec::new, Held::missing),
        backends,
    }
}

fn attempt(backend: Backend, btf: &Btf, config: &Config) -> BackendReport {
    // A small ring: it stays empty.
    let limits = Limits {
        ports: &[],
        max_bytes: super::live::Options::MAX_BYTES,
        ring_bytes: 0,
        skip_local_server: false,
        unix: true,
    };
    let result = backend::attach(backend, &limits, btf, config.clone()).map(drop);
    BackendReport { backend, result }
}

/// TCP ports on which something listens in this process's network namespace; empty when /proc does not tell.
#[must_use]
pub fn listening() -> BTreeSet<u16> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| table.lines().filter_map(listener).collect::<Vec<_>>())
        .collect()
}

/// The local port of a line of /proc/net/tcp, if its socket listens: `sl local_address rem_address st …`,
/// addresses and state in hexadecimal.
fn listener(line: &str) -> Option<u16> {
    /// `TCP_LISTEN`.
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace().skip(1);
    let (_, port) = fields.next()?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_connections() {
        let head = "  sl  local_address rem_address   st tx_queue";
        let listens = "   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000";
        let connected = "   1: 0100007F:18EB 0100007F:A000 01 00000000:00000000";
        assert_eq!(
            [head, listens, connected].map(listener),
            [None, Some(6379), None]
        );
        assert_eq!(listener("::"), None);
    }
}
