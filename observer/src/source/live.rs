//! Live traffic: attaches the kernel programs, reads their ring, decodes what it holds.
//!
//! ```text
//! hook → ring ── poll ──→ decode → Event
//!   └─→ per-CPU counters ── read_losses ──→ telemetry
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, thread};

use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use aya_log::EbpfLogger;
use observer_ebpf::{counter, name};
use tracing::{info, warn};

use super::backend::{self, AttachError, Attached, Backend, Limits};
use super::btf::{Btf, BtfError};
use super::capability::{Capability, Held};
use super::confine;
pub use super::counters::KernelCounters;
use super::counters::{tell, total};
use super::event::{Clock, Direction, Event, SocketName};
use super::hooks_unix;
use super::layout::Config;
use super::memory;
use super::record::decode;
use super::unix::Older;
pub use super::wait::monotonic;
use super::wait::{Waiter, clock};
use crate::telemetry::{Lost, Telemetry};

/// Which backend to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// The first of [`Backend::ALL`] that attaches.
    #[default]
    Auto,
    /// Only [`Backend::Fentry`].
    Fentry,
    /// Only [`Backend::Kprobe`].
    Kprobe,
    /// Only [`Backend::Tracepoint`].
    Tracepoint,
}

impl BackendChoice {
    fn candidates(self) -> &'static [Backend] {
        match self {
            Self::Auto => &Backend::ALL,
            Self::Fentry => &[Backend::Fentry],
            Self::Kprobe => &[Backend::Kprobe],
            Self::Tracepoint => &[Backend::Tracepoint],
        }
    }
}

/// What to observe, and how much of it.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Kernel hooks.
    pub backend: BackendChoice,
    /// Ports; a connection, and a datagram, is observed when either end has one of them.
    pub ports: &'a [u16],
    /// Bytes captured of one call at most; the kernel programs stop at 256 KiB.
    pub max_bytes: u32,
    /// Size of the ring, rounded up to a power of two.
    pub ring_bytes: u32,
    /// Leave out the server's end of connections whose both ends are on this host.
    pub skip_local_server: bool,
    /// Observe unix sockets, too: those that [`Live::watch_sockets`] names.
    pub unix: bool,
}

impl Options<'_> {
    /// A pipeline of a few hundred commands in one call is seen whole.
    pub const MAX_BYTES: u32 = 64 << 10;
    /// 32,000 small calls: 130 ms of 59,000 requests a second whose both ends are reported. 2 MiB disturb the processor's
    /// caches less (`redis-benchmark -P 16` ran at 0.72 of its rate beside the observer, with 8 MiB at 0.60), but hold only 32
    /// calls of 64 KiB.
    pub const RING_BYTES: u32 = 8 << 20;
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            backend: BackendChoice::Auto,
            ports: &[],
            max_bytes: Self::MAX_BYTES,
            ring_bytes: Self::RING_BYTES,
            skip_local_server: true,
            unix: false,
        }
    }
}

/// Why observing cannot start: exit status 3.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process may not load kernel programs.
    #[error("missing privileges: {}; run as root or grant them", names(missing))]
    Privileges {
        /// What it lacks.
        missing: Vec<Capability>,
    },
    /// The kernel does not describe its types, or lacks a field that every backend needs.
    #[error("{}; {}", .0, .0.advice())]
    Btf(#[from] BtfError),
    /// Something keeps this process from bpf(2), whatever it holds.
    #[error("{}", backend::FORBIDDEN)]
    Forbidden,
    /// The kernel refuses each backend that was tried.
    #[error("no backend could be attached{}", listed(reasons))]
    NoBackend {
        /// Each backend that was tried, and why it failed.
        reasons: Vec<(Backend, AttachError)>,
    },
}

/// Why a running observer could not go on.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// Waiting for the ring failed.
    #[error("waiting for events failed: {0}")]
    Wait(#[source] io::Error),
    /// Counters could not be read.
    #[error("reading the kernel's counters failed: {0}")]
    Counters(#[source] Box<MapError>),
    /// Statistics of a program could not be read.
    #[error("reading the statistics of {program} failed: {source}")]
    Statistics {
        /// Which program.
        program: &'static str,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// A program or the port map could not be changed.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// What the kernel accounts to one program. Time and runs only while `kernel.bpf_stats_enabled` is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramStatistics {
    /// Name of the program.
    pub program: &'static str,
    /// How often it ran.
    pub run_count: u64,
    /// How long altogether, nanoseconds, the accounting included.
    pub run_nanos: u64,
    /// How often it was skipped because it was already running on that CPU.
    pub recursion_misses: u64,
}

/// Attached kernel programs and their ring. Dropping it detaches them.
pub struct Live {
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, [u64; counter::COUNT]>,
    waiter: Waiter,
    attached: Attached,
    backend: Backend,
    telemetry: Arc<Telemetry>,
    /// What the kernel programs say of rare events.
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    nap: Duration,
    /// Unix sockets that are watched.
    sockets: BTreeSet<SocketName>,
    older: Older,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

/// Between two looks at the ring. Short naps gather records into batches: waking for each record costs more
/// than the record. The kernel programs wake the reader when a quarter of the ring waits.
const NAP_BUSY: Duration = Duration::from_millis(5);
const NAP_IDLE: Duration = Duration::from_millis(50);
/// How long the counters have to stay as they are for the last program to have ended.
const SETTLE: Duration = Duration::from_millis(1);

impl Live {
    /// Events handed on by one [`Live::poll`] at most, so that its caller gets to look around: a few milliseconds.
    pub const BATCH: usize = 16_384;

    /// Attaches the first backend that this kernel allows.
    ///
    /// # Errors
    /// When privileges or kernel features are missing; what was attached is detached again.
    pub fn start(options: &Options<'_>, telemetry: &Arc<Telemetry>) -> Result<Self, StartError> {
        // Where the kernel does not tell, trying does.
        let missing = Held::of_this_thread()
            .map(Held::missing)
            .unwrap_or_default();
        if !missing.is_empty() {
            return Err(StartError::Privileges { missing });
        }
        let live = Self::attach_first(options, telemetry);
        memory::give_back();
        live
    }

    /// Attaches the first backend that can be.
    fn attach_first(options: &Options<'_>, telemetry: &Arc<Telemetry>) -> Result<Self, StartError> {
        let btf = Btf::from_kernel()?;
        let config = Config::common(&btf)?;
        let mut reasons = Vec::new();
        for &backend in options.backend.candidates() {
            match Self::attach(backend, options, &btf, config.clone(), telemetry) {
                Ok(live) => {
                    for (backend, reason) in &reasons {
                        info!("backend {backend} refused: {reason}");
                    }
                    return Ok(live);
                }
                Err(reason) => reasons.push((backend, reason)),
            }
        }
        Err(
            match reasons.iter().all(|(_, reason)| reason.is_forbidden()) {
                true => StartError::Forbidden,
                false => StartError::NoBackend { reasons },
            },
        )
    }

    fn attach(
        backend: Backend,
        options: &Options<'_>,
        btf: &Btf,
        config: Config,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Self, AttachError> {
        let limits = Limits {
            ports: options.ports,
            max_bytes: options.max_bytes,
            ring_bytes: options.ring_bytes,
            skip_local_server: options.skip_local_server,
            unix: options.unix,
        };
        let mut attached = backend::attach(backend, &limits, btf, config)?;
        let ebpf = &mut attached.ebpf;
        let log = EbpfLogger::init(ebpf)
            .inspect_err(|error| warn!(%error, "what the kernel programs log is not seen"))
            .ok();
        let map = |name| {
            move |source| AttachError::Map {
                map: name,
                source: Box::new(source),
            }
        };
        let ring = ebpf
            .take_map(name::EVENTS)
            .ok_or(AttachError::Absent(name::EVENTS))?;
        let ring = RingBuf::try_from(ring).map_err(|source| AttachError::Ring {
            bytes: backend::ring_size(options.ring_bytes),
            source: Box::new(source),
        })?;
        let counters = ebpf
            .take_map(name::COUNTERS)
            .ok_or(AttachError::Absent(name::COUNTERS))?;
        let counters = PerCpuArray::try_from(counters).map_err(map(name::COUNTERS))?;
        let waiter = Waiter::new(ring.as_fd())
            .map_err(|error| map(name::EVENTS)(MapError::IoError(error)))?;
        Ok(Self {
            ring,
            counters,
            waiter,
            attached,
            backend,
            telemetry: Arc::clone(telemetry),
            log,
            nap: NAP_BUSY,
            sockets: BTreeSet::new(),
            older: Older::default(),
        })
    }

    /// Hands each waiting event to `each`, at most 16,384 of them; waits up to `timeout` when there are none.
    /// Returns how many there were.
    ///
    /// To be called in a loop by one thread. A record is given back to the kernel when `each` returns.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn poll(
        &mut self,
        timeout: Duration,
        each: &mut dyn FnMut(Event<'_>),
    ) -> Result<usize, LiveError> {
        let seen = drain(&mut self.ring, &self.older, &self.telemetry, each);
        if seen == Self::BATCH {
            return Ok(seen);
        }
        // Rest also after a short batch: the next one is cheaper the larger it is.
        let nap = if seen > 0 { NAP_BUSY } else { self.nap };
        self.waiter
            .wait(nap.min(timeout))
            .map_err(LiveError::Wait)?;
        let more = drain(&mut self.ring, &self.older, &self.telemetry, each);
        self.nap = if seen + more > 0 {
            NAP_BUSY
        } else {
            (nap * 2).min(NAP_IDLE)
        };
        Ok(seen + more)
    }

    /// Copies what the kernel counted as lost to the telemetry, and what its programs logged to the log. A few system
    /// calls: meant for once a second.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn read_losses(&mut self, telemetry: &Telemetry) -> Result<(), LiveError> {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        tell(&self.counters()?, self.recursion_misses()?, telemetry);
        Ok(())
    }

    /// The kernel programs' totals.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn counters(&self) -> Result<KernelCounters, LiveError> {
        total(&self.counters)
    }

    /// The capabilities, of those that it holds, without which the calling thread could not go on reading, or finding out
    /// about processes.
    ///
    /// The first is found out by trying: before 5.19 the kernel lets only CAP_BPF at maps that are open already, unless
    /// `kernel.unprivileged_bpf_disabled` is 0.
    #[must_use]
    pub fn needs(&self) -> Vec<Capability> {
        const MAPS: [Capability; 2] = [Capability::Bpf, Capability::SysAdmin];
        let mut needs = vec![Capability::SysPtrace, Capability::DacReadSearch];
        if !matches!(confine::without(&MAPS, || self.counters()), Ok(Ok(_))) {
            let held = Held::of_this_thread().ok();
            needs.extend(
                MAPS.into_iter()
                    .find(|&one| held.is_some_and(|held| held.has(one))),
            );
        }
        needs
    }

    /// What the kernel accounts to each attached program.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn statistics(&self) -> Result<Vec<ProgramStatistics>, LiveError> {
        let failed = |program| move |source| LiveError::Statistics { program, source };
        self.attached
            .programs
            .iter()
            .map(|&program| {
                let fd = self
                    .attached
                    .ebpf
                    .program(program)
                    .and_then(|loaded| loaded.fd().ok())
                    .ok_or_else(|| failed(program)(io::ErrorKind::NotFound.into()))?;
                program_statistics(program, fd.as_fd()).map_err(failed(program))
            })
            .collect()
    }

    /// Makes `ports` the watched ones from now on.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn watch(&mut self, ports: &[u16]) -> Result<(), LiveError> {
        Ok(backend::watch(&mut self.attached.ebpf, ports)?)
    }

    /// Whether unix sockets are observed.
    #[must_use]
    pub fn observes_unix(&self) -> bool {
        self.attached.unix
    }

    /// Watches these unix sockets, beside those that are watched already, from now on. Answers `false` where unix sockets are not
    /// observed.
    ///
    /// # Errors
    /// When the maps cannot be written.
    pub fn watch_sockets(&mut self, names: &[SocketName]) -> Result<bool, LiveError> {
        if !self.attached.unix {
            return Ok(false);
        }
        self.sockets.extend(names);
        hooks_unix::watch(&mut self.attached.ebpf, &self.sockets)?;
        self.older.look(Path::new("/proc"));
        Ok(true)
    }

    /// Also attaches a program that does nothing, so that measurements have a floor. Linux 6.3 or later.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn attach_floor(&mut self) -> Result<(), LiveError> {
        backend::tracepoint(&mut self.attached.ebpf, name::EMPTY, "sock_send_length")?;
        self.attached.programs.push(name::EMPTY);
        Ok(())
    }

    /// Detaches the programs, then hands on what is left in the ring, and the last of the losses.
    ///
    /// # Errors
    /// When the kernel's counters cannot be read; the events have been handed on then.
    pub fn finish(mut self, each: &mut dyn FnMut(Event<'_>)) -> Result<(), LiveError> {
        let misses = self.recursion_misses();
        drop(self.attached);
        // A program that was running when it was detached may have counted its call, and not sent its record yet.
        let mut counters = None;
        loop {
            while drain(&mut self.ring, &self.older, &self.telemetry, each) > 0 {}
            let now = total(&self.counters)?;
            if counters.replace(now) == Some(now) {
                tell(&now, misses?, &self.telemetry);
                return Ok(());
            }
            thread::sleep(SETTLE);
        }
    }

    fn recursion_misses(&self) -> Result<u64, LiveError> {
        let misses = |program: &ProgramStatistics| program.recursion_misses;
        Ok(self.statistics()?.iter().map(misses).sum())
    }

    /// The backend in use.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Turns the events' times into Unix time, as of now.
    #[must_use]
    pub fn clock(&self) -> Clock {
        clock()
    }
}

/// Hands on what waits in the ring, at most [`Live::BATCH`] events; answers how many there were.
fn drain(
    ring: &mut RingBuf<MapData>,
    older: &Older,
    telemetry: &Telemetry,
    each: &mut dyn FnMut(Event<'_>),
) -> usize {
    let (mut seen, mut events, mut captured) = (0, 0, 0);
    let (mut sent, mut received, mut states) = (0, 0, 0);
    while seen < Live::BATCH
        && let Some(record) = ring.next()
    {
        seen += 1;
        match decode(&record) {
            Ok(event) => {
                events += 1;
                captured += event.kind.payload().len() as u64;
                match event.kind.moved() {
                    Some((Direction::Send, length)) => sent += u64::from(length),
                    Some((Direction::Receive, length)) => received += u64::from(length),
                    None => states += 1,
                }
                if let Some(established) = older.established(&event) {
                    each(established);
                }
                each(event);
            }
            Err(_) => telemetry.lost(Lost::Record).add(1),
        }
    }
    if seen > 0 {
        telemetry.events.add(events);
        telemetry.captured.add(captured);
        telemetry.ledger.sent.arrived.add(sent);
        telemetry.ledger.received.arrived.add(received);
        telemetry.ledger.states.arrived.add(states);
    }
    seen
}

fn program_statistics(program: &'static str, fd: BorrowedFd<'_>) -> io::Result<ProgramStatistics> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    Ok(ProgramStatistics {
        program,
        run_count: number(&text, "run_cnt:"),
        run_nanos: number(&text, "run_time_ns:"),
        recursion_misses: number(&text, "recursion_misses:"),
    })
}

/// The number behind `key`; 0 on kernels that do not have it yet.
fn number(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

fn names(missing: &[Capability]) -> String {
    missing
        .iter()
        .map(|capability| capability.name())
        .collect::<Vec<_>>()
        .join(", ")
}

fn listed(reasons: &[(Backend, AttachError)]) -> String {
    reasons
        .iter()
        .fold(String::new(), |mut text, (backend, reason)| {
            let _ = write!(text, "; {backend}: {reason}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_statistics_are_found() {
        let text = "prog_type:\t17\nrun_time_ns:\t4200\nrun_cnt:\t42\n";
        assert_eq!(number(text, "run_cnt:"), 42);
        assert_eq!(number(text, "run_time_ns:"), 4200);
        assert_eq!(number(text, "recursion_misses:"), 0);
    }

    #[test]
    fn errors_name_what_is_missing() {
        let missing = vec![Capability::Bpf, Capability::Perfmon];
        assert_eq!(
            StartError::Privileges { missing }.to_string(),
            "missing privileges: CAP_BPF, CAP_PERFMON; run as root or grant them"
        );
        let reasons = vec![(Backend::Tracepoint, AttachError::Absent("send_length"))];
        assert_eq!(
            StartError::NoBackend { reasons }.to_string(),
            "no backend could be attached; tracepoint: the object with the kernel programs has no send_length"
        );
    }
}
