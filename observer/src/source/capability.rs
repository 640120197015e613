//! The Linux capabilities that matter here, and which of them this process holds.

use std::{fs, io};

/// A capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Loading programs and maps.
    Bpf,
    /// Tracing programs that read memory.
    Perfmon,
    /// Everything that the others allow; on kernels before 5.8 the only way.
    SysAdmin,
    /// Looking into other users' processes: their environment and executable.
    SysPtrace,
    /// Reading files whatever their permissions.
    DacReadSearch,
}

impl Capability {
    /// All of them, the needed ones first.
    pub const ALL: [Self; 5] = [
        Self::Bpf,
        Self::Perfmon,
        Self::SysAdmin,
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
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
        }
    }

    /// What it is needed for, for a reader.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Bpf => "needed: load the kernel programs",
            Self::Perfmon => "needed: let them read what applications send and receive",
            Self::SysAdmin => "not needed beside CAP_BPF and CAP_PERFMON, which it includes",
            Self::SysPtrace => "for service names: read other users' processes in /proc",
            Self::DacReadSearch => "for service names: read files of other users in /proc",
        }
    }

    /// Its number, `linux/capability.h`.
    const fn bit(self) -> u32 {
        match self {
            Self::DacReadSearch => 2,
            Self::SysPtrace => 19,
            Self::SysAdmin => 21,
            Self::Perfmon => 38,
            Self::Bpf => 39,
        }
    }
}

/// The capabilities in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held(u64);

impl Held {
    /// Those of this process.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn of_this_process() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/self/status")?)
            .ok_or_else(|| io::Error::other("/proc/self/status has no CapEff"))
    }

    fn parse(status: &str) -> Option<Self> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self)
    }

    /// Whether this one is in effect.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        self.0 >> capability.bit() & 1 == 1
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
            ("000001fffeffffff", vec![]),
            ("0000000000200000", vec![]),
            ("000000c000000000", vec![]),
            ("0000008000000000", vec![Capability::Perfmon]),
            (
                "0000000000000000",
                vec![Capability::Bpf, Capability::Perfmon],
            ),
        ] {
            let held = Held::parse(&format!("Name:\tx\nCapEff:\t{mask}\nCapBnd:\t0\n")).unwrap();
            assert_eq!(held.missing(), missing, "{mask}");
        }
        assert_eq!(Held::parse("CapEff:\tzzz\n"), None);
        assert_eq!(Held::parse(""), None);
    }
}
