//! Observing this host: the observer thread, signals, the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::{Exporting, Failure, Pipeline, watched};
use crate::config::cli::{BackendArgument, RoleArgument};
use crate::config::{Config, LiveConfig};
use crate::sinks::Overflow;
use crate::source::confine::{self, Identity};
use crate::source::live::{BackendChoice, Live, Options, monotonic};
use crate::stream::reassembly::Limits;

/// How long the reader sleeps at most when nothing comes.
const POLL: Duration = Duration::from_millis(50);
/// How often the kernel's loss counters are read.
const LOSSES: Duration = Duration::from_secs(1);

/// Observes until a signal comes or the duration is over.
///
/// # Errors
///
/// [`Failure::Unsupported`] when no backend can be used, [`Failure::Usage`] when an exporter's settings are wrong.
pub fn run(config: &Config, live: &LiveConfig) -> Result<(), Failure> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    // Before anything is said: whoever waits for that may send a signal at once.
    let signals = Signals::catch(&runtime).map_err(|error| Failure::Runtime(error.to_string()))?;
    let idle = format!("watching {}", watched(config));
    let exporting = Exporting::start(config, Overflow::Drop, Some(idle), !live.unconfined)?;
    let ports = [config.redis_ports.as_slice(), &config.memcached_ports].concat();
    let source = Live::start(
        &Options {
            backend: match live.backend {
                BackendArgument::Auto => BackendChoice::Auto,
                BackendArgument::Fentry => BackendChoice::Fentry,
                BackendArgument::Tracepoint => BackendChoice::Tracepoint,
            },
            ports: &ports,
            skip_local_server: config.role == RoleArgument::Auto,
            ..Options::default()
        },
        &exporting.telemetry,
    )?;
    if !live.unconfined {
        confine(&source);
    }
    info!(
        backend = %source.backend(),
        ports = watched(config),
        attached_ms = started.elapsed().as_millis() as u64,
        "observing"
    );
    let pipeline = exporting.pipeline(config, Limits::LIVE, source.clock());
    let stop = Arc::new(AtomicBool::new(false));
    let observer = {
        let stop = Arc::clone(&stop);
        let telemetry = Arc::clone(&exporting.telemetry);
        thread::Builder::new()
            .name("observer".to_owned())
            .spawn(move || observe(source, pipeline, &telemetry, &stop))
            .map_err(|error| Failure::Runtime(error.to_string()))?
    };
    runtime.block_on(until_stopped(signals, live.duration, &exporting, || {
        observer.is_finished()
    }));
    stop.store(true, Ordering::Relaxed);
    let (pipeline, result) = observer
        .join()
        .map_err(|_| Failure::Runtime("the observer thread has died".to_owned()))?;
    exporting.finish(config, &pipeline);
    result
}

/// Gives up what is needed no more. What cannot be given up is said, and no reason to end.
fn confine(source: &Live) {
    let needs = source.needs();
    match confine::give_up(&needs) {
        Ok(Identity::Root(error)) => {
            warn!(%error, "the root identity stays, without its capabilities")
        }
        Ok(Identity::Kept | Identity::Nobody) => {}
        Err(error) => warn!(%error, "capabilities stay that are not needed"),
    }
    if let Err(error) = confine::filter() {
        warn!(%error, "system calls stay that are not needed");
    }
}

/// The observer thread: reads the ring and runs the stages.
fn observe(
    mut source: Live,
    mut pipeline: Pipeline,
    telemetry: &crate::telemetry::Telemetry,
    stop: &AtomicBool,
) -> (Pipeline, Result<(), Failure>) {
    let mut looked = Instant::now();
    let mut result = Ok(());
    while !stop.load(Ordering::Relaxed) {
        match source.poll(POLL, &mut |event| pipeline.event(&event)) {
            // Only when the ring is empty is it later than the last event says.
            Ok(seen) if seen < Live::BATCH => pipeline.tick(monotonic()),
            Ok(_) => {}
            Err(error) => {
                result = Err(Failure::Runtime(error.to_string()));
                break;
            }
        }
        if looked.elapsed() >= LOSSES {
            looked = Instant::now();
            if let Err(error) = source.read_losses(telemetry) {
                warn!(%error, "the kernel's loss counters cannot be read");
            }
        }
    }
    if let Err(error) = source.finish(&mut |event| pipeline.event(&event)) {
        warn!(%error, "the kernel's loss counters cannot be read");
    }
    pipeline.finish(monotonic());
    (pipeline, result)
}

/// The signals that end the program well.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn catch(runtime: &Runtime) -> std::io::Result<Self> {
        let _within = runtime.enter();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

/// Waits for SIGINT, SIGTERM, the end of the duration, of the observer thread, or of whoever reads the output.
async fn until_stopped(
    mut signals: Signals,
    duration: Option<Duration>,
    exporting: &Exporting,
    ended: impl Fn() -> bool,
) {
    let over = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    let gone = async {
        while !ended() && !exporting.sinks.output_closed() {
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
