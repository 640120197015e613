//! `record`: from the kernel, or from a capture, into a file.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::super::live::{LOSSES, POLL, Signals, attach, confine, places};
use super::super::sockets::Sockets;
use super::super::{Failure, Watched, watched};
use super::{Recorder, Source};
use crate::config::Config;
use crate::config::cli::Record;
use crate::enrichment::Places;
use crate::source::event::Clock;
use crate::source::live::{Live, monotonic};
use crate::source::recording::{Ended, Origin};
use crate::source::replay::{self, Totals};
use crate::source::sockets::{self, Found};
use crate::telemetry::Telemetry;

/// Bytes gathered before they are written; at the latest after a second.
const BUFFER: usize = 1 << 20;

/// Records until a signal comes or the duration is over; or a capture, to its end.
///
/// # Errors
///
/// [`Failure::Unsupported`] when no backend can be used, [`Failure::Usage`] when the file cannot be made, [`Failure::Runtime`] when it
/// cannot be written on, and [`Failure::Replay`] for a capture that cannot be read to its end.
pub fn record(config: &Config, options: &Record) -> Result<(), Failure> {
    let path = options.file.as_path();
    let telemetry = Arc::new(Telemetry::default());
    if let Some(capture) = &options.from {
        return convert(config, capture, path, telemetry);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    let signals =
        Signals::catch(&runtime, false).map_err(|error| Failure::Runtime(error.to_string()))?;
    let output = create(path)?;
    let mut source = attach(config, options.backend, &telemetry)?;
    let origin = Source {
        origin: Origin::Live,
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .ok()
            .map(|release| release.trim().to_owned()),
        backend: Some(source.backend().to_string()),
        records: Some(observer_ebpf::VERSION),
    };
    if !options.unconfined {
        confine(&source);
    }
    let places = places(options.node.node_name.clone());
    let mut recorder = Recorder::new(config, origin, places, output, Arc::clone(&telemetry))
        .map_err(|error| unwritable(path, &error))?;
    recorder.clock(source.clock(), monotonic());
    let sockets = Sockets::start(config, &mut source, &mut |name, protocol| {
        recorder.watch_socket(name, protocol, monotonic());
    })?;
    info!(
        backend = %source.backend(),
        ports = watched(config),
        file = %path.display(),
        "recording: observing"
    );
    let (sender, found) = mpsc::channel();
    let ports = config.ports();
    thread::Builder::new()
        .name("sockets".to_owned())
        .spawn(move || {
            // The receiver is gone when the recording has ended.
            let _ = sender.send(sockets::clients_of(Path::new("/proc"), &ports));
        })
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    let stop = Arc::new(AtomicBool::new(false));
    let observer = {
        let stop = Arc::clone(&stop);
        thread::Builder::new()
            .name("observer".to_owned())
            .spawn(move || observe(source, recorder, (&found, sockets), &telemetry, &stop))
            .map_err(|error| Failure::Runtime(error.to_string()))?
    };
    runtime.block_on(signals.wait(options.duration, || observer.is_finished()));
    stop.store(true, Ordering::Relaxed);
    let (recorder, result) = observer
        .join()
        .map_err(|_| Failure::Runtime("the observer thread has died".to_owned()))?;
    let ended = end(recorder, monotonic(), path);
    result.and(ended)
}

/// The observer thread: reads the ring and records.
fn observe(
    mut source: Live,
    mut recorder: Recorder,
    (found, mut sockets): (&Receiver<Found>, Sockets),
    telemetry: &Telemetry,
    stop: &AtomicBool,
) -> (Recorder, Result<(), Failure>) {
    let mut looked = Instant::now();
    let mut result = Ok(());
    while !stop.load(Ordering::Relaxed) && recorder.failed().is_none() {
        if let Ok(found) = found.try_recv() {
            recorder.older(&found.sockets, monotonic());
        }
        sockets.adopt(&mut source, &mut |name, protocol| {
            recorder.watch_socket(name, protocol, monotonic());
        });
        match source.poll(POLL, &mut |event| recorder.event(&event)) {
            Ok(seen) if seen < Live::BATCH => recorder.tick(monotonic()),
            Ok(_) => {}
            Err(error) => {
                result = Err(Failure::Runtime(error.to_string()));
                break;
            }
        }
        if looked.elapsed() >= LOSSES {
            looked = Instant::now();
            recorder.clock(source.clock(), monotonic());
            match source.read_losses(telemetry) {
                Ok(()) => recorder.losses(monotonic()),
                Err(error) => warn!(%error, "the kernel's loss counters cannot be read"),
            }
            recorder.flush();
        }
    }
    if let Err(error) = source.finish(&mut |event| recorder.event(&event)) {
        warn!(%error, "the kernel's loss counters cannot be read");
    }
    (recorder, result)
}

/// A capture as a recording.
fn convert(
    config: &Config,
    capture: &Path,
    path: &Path,
    telemetry: Arc<Telemetry>,
) -> Result<(), Failure> {
    let ports = Watched::new(config).all;
    // What cannot be read empties no file.
    File::open(capture).map_err(|source| replay::ReplayError::Io {
        path: capture.to_owned(),
        source,
    })?;
    let origin = Source {
        origin: Origin::Capture,
        kernel: None,
        backend: None,
        records: None,
    };
    let places = Places::nowhere();
    let mut recorder = Recorder::new(config, origin, places, create(path)?, telemetry)
        .map_err(|error| unwritable(path, &error))?;
    recorder.clock(Clock::default(), 0);
    let mut totals = Totals::default();
    let result = replay::replay(
        capture,
        |port| ports.contains(port),
        &mut totals,
        &mut |event| recorder.event(event),
    );
    end(recorder, totals.end, path)?;
    Ok(result?)
}

/// Only its owner may read it: it can hold keys.
fn create(path: &Path) -> Result<Box<dyn Write + Send>, Failure> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    Ok(Box::new(BufWriter::with_capacity(BUFFER, file)))
}

fn end(recorder: Recorder, now: u64, path: &Path) -> Result<(), Failure> {
    let losses = recorder.losses;
    let (ended, bytes) = recorder
        .finish(now)
        .map_err(|error| unwritable(path, &error))?;
    let Ended {
        events, undecided, ..
    } = ended;
    info!(
        events,
        bytes,
        undecided,
        lost = losses.ring_full + losses.recursion + losses.record,
        "recorded"
    );
    Ok(())
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Runtime(format!(
        "{}: {error}; what was recorded before can be replayed",
        path.display()
    ))
}

impl Signals {
    /// Waits for a signal, the end of the duration, or of what is done meanwhile.
    async fn wait(self, duration: Option<Duration>, ended: impl Fn() -> bool) {
        let mut signals = self;
        let over = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let gone = async {
            while !ended() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            _ = signals.interrupt.recv() => {}
            _ = signals.terminate.recv() => {}
            () = over => {}
            () = gone => {}
        }
    }
}
