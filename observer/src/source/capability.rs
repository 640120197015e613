//! The Linux capabilities that matter here, and which of them this process holds.

use std::{fs, io};

use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};

/// A capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Loading programs and maps.
    Bpf,
    /// Tracing programs that read memory.
    Perfmon,
    /// Everything that the two before it allow; on kernels before 5.8 the only way.
    SysAdmin,
    /// Attaching programs to a cgroup's sockets.
    NetAdmin,
    /// Writing root's files: tracefs.
    DacOverride,
    /// Looking into other users' processes: their environment and executable.
    SysPtrace,
    /// Reading files whatever their permissions.
    DacReadSearch,
}

impl Capability {
    /// All of them, the needed ones first.
    pub const ALL: [Self; 7] = [
        Self::Bpf,
        Self::Perfmon,
        Self::SysAdmin,
        Self::NetAdmin,
        Self::DacOverride,
        Self::SysPtrace,
        Self::DacReadSearch,
    ];

    /// The kernel's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::DacOverride => "CAP_DAC_OVERRIDE",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
        }
    }

    /// What it is needed for, for a reader, on a kernel that lets others open perf events or not ([`perf_is_open`]).
    #[must_use]
    pub const fn purpose(self, perf: bool) -> &'static str {
        match self {
            Self::Bpf => "needed: load the kernel programs",
            Self::Perfmon => "needed: let them read what applications send and receive",
            Self::SysAdmin if perf => {
                "not needed beside CAP_BPF and CAP_PERFMON, which it includes"
            }
            Self::SysAdmin => {
                "for the kprobe backend, if not root: kernel.perf_event_paranoid lets nobody else open perf events"
            }
            Self::NetAdmin => "for UDP with the tracepoint backend: tell who sent a datagram",
            Self::DacOverride => {
                "for the kprobe backend, if not root: write the list of events in tracefs"
            }
            Self::SysPtrace => "for service names: read other users' processes in /proc",
            Self::DacReadSearch => "for service names: read files of other users in /proc",
        }
    }

    /// As the kernel has it.
    pub(super) const fn set(self) -> CapabilitySet {
        match self {
            Self::Bpf => CapabilitySet::BPF,
            Self::Perfmon => CapabilitySet::PERFMON,
            Self::SysAdmin => CapabilitySet::SYS_ADMIN,
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
            Self::DacOverride => CapabilitySet::DAC_OVERRIDE,
            Self::SysPtrace => CapabilitySet::SYS_PTRACE,
            Self::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
        }
    }
}

/// Whether this thread is root, and then whether it may become somebody else.
#[must_use]
pub fn root() -> Option<bool> {
    let change = CapabilitySet::SETUID | CapabilitySet::SETGID;
    let may = || capabilities(None).is_ok_and(|held| held.effective.contains(change));
    geteuid().is_root().then(may)
}

/// Whether CAP_PERFMON is enough to open perf events. Debian's and Ubuntu's kernels ask for CAP_SYS_ADMIN above 2.
#[must_use]
pub fn perf_is_open() -> bool {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    level.trim().parse().is_ok_and(|level: i32| level <= 2)
}

/// The capabilities in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held(CapabilitySet);

impl Held {
    /// Those of this thread.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of_this_thread() -> io::Result<Self> {
        Ok(Self(capabilities(None)?.effective))
    }

    /// Whether this one is in effect.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        self.0.contains(capability.set())
    }

    /// The needed capabilities that are missing; empty when observing is allowed.
    #[must_use]
    pub fn missing(self) -> Vec<Capability> {
        if self.has(Capability::SysAdmin) {
            return Vec::new();
        }
        [Capability::Bpf, Capability::Perfmon]
            .into_iter()
            .filter(|&needed| !self.has(needed))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        for (mask, missing) in [
            (0x0000_01ff_feff_ffff, vec![]),
            (0x0000_0000_0020_0000, vec![]),
            (0x0000_00c0_0000_0000, vec![]),
            (0x0000_0080_0000_0000, vec![Capability::Perfmon]),
            (0, vec![Capability::Bpf, Capability::Perfmon]),
        ] {
            let held = Held(CapabilitySet::from_bits_retain(mask));
            assert_eq!(held.missing(), missing, "{mask:x}");
        }
    }
}
