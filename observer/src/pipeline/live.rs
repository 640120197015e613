//! Observing this host: the observer thread, signals, the end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::sockets::Sockets;
use super::{Exporting, Failure, Pipeline, Watched, manager, watched};
use crate::config::cli::{BackendArgument, RoleArgument};
use crate::config::export::SpanPolicy;
use crate::config::reload::Reloader;
use crate::config::{Config, LiveConfig};
use crate::enrichment::Places;
use crate::sinks::Overflow;
use crate::source::confine::{self, Identity};
use crate::source::live::{BackendChoice, Live, Options, StartError, monotonic};
use crate::source::sockets::{self, Found};
use crate::source::surroundings;
use crate::stream::reassembly::Limits;
use crate::telemetry::{Phase, Telemetry};

/// How long the reader sleeps at most when nothing comes.
pub(super) const POLL: Duration = Duration::from_millis(50);
/// How often the kernel's loss counters are read.
pub(super) const LOSSES: Duration = Duration::from_secs(1);

/// Observes until a signal comes or the duration is over. With a `reloader`, SIGHUP has it read the file again.
///
/// # Errors
///
/// [`Failure::Unsupported`] when no backend can be used, [`Failure::Usage`] when an exporter's settings are wrong.
pub fn run(config: &Config, live: &LiveConfig, reloader: Option<Reloader>) -> Result<(), Failure> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    // Before anything is said: whoever waits for that may send a signal at once.
    let signals = Signals::catch(&runtime, reloader.is_some())
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    let exporting = Exporting::start(config, Overflow::Drop, Some(live))?;
    let ports = config.ports();
    let mut source = attach(config, live.backend, &exporting.telemetry)?;
    if !live.unconfined {
        confine(&source);
    }
    let places = places(live.node.clone());
    let clock = source.clock();
    let mut pipeline =
        exporting.pipeline(config, Limits::LIVE, clock, SpanPolicy::PER_SECOND, places);
    // Before it is said that all is observed: connections that are made from then on are seen whole.
    let sockets = Sockets::start(config, &mut source, &mut |name, protocol| {
        pipeline.watch_socket(name, protocol);
    })?;
    info!(
        backend = %source.backend(),
        ports = watched(config),
        attached_ms = started.elapsed().as_millis() as u64,
        "observing"
    );
    let health = &exporting.telemetry.health;
    health.enter(Phase::Observing);
    let older =
        Older::look(ports, &mut pipeline).map_err(|error| Failure::Runtime(error.to_string()))?;
    let searches = (older, sockets);
    let stop = Arc::new(AtomicBool::new(false));
    let (changes, changed) = mpsc::channel();
    let observer = {
        let stop = Arc::clone(&stop);
        let telemetry = Arc::clone(&exporting.telemetry);
        thread::Builder::new()
            .name("observer".to_owned())
            .spawn(move || observe(source, pipeline, searches, &telemetry, &changed, &stop))
            .map_err(|error| Failure::Runtime(error.to_string()))?
    };
    let reload = Reload {
        reloader,
        ports: config.ports(),
        watched: watched(config),
        changes,
    };
    manager::ready(&reload.watched);
    runtime.block_on(until_stopped(
        signals,
        reload,
        live.duration,
        &exporting,
        || observer.is_finished(),
    ));
    health.enter(Phase::Stopping);
    manager::stopping();
    stop.store(true, Ordering::Relaxed);
    let (pipeline, result) = observer
        .join()
        .map_err(|_| Failure::Runtime("the observer thread has died".to_owned()))?;
    exporting.finish(config, &pipeline);
    result
}

/// Attaches the kernel programs.
pub(super) fn attach(
    config: &Config,
    backend: BackendArgument,
    telemetry: &Arc<Telemetry>,
) -> Result<Live, StartError> {
    let options = Options {
        backend: match backend {
            BackendArgument::Auto => BackendChoice::Auto,
            BackendArgument::Fentry => BackendChoice::Fentry,
            BackendArgument::Kprobe => BackendChoice::Kprobe,
            BackendArgument::Tracepoint => BackendChoice::Tracepoint,
        },
        ports: &config.ports(),
        max_bytes: config.tables.limits.capture_bytes,
        ring_bytes: config.tables.limits.ring_bytes,
        skip_local_server: config.role == RoleArgument::Auto,
        unix: !(config.redis_sockets.is_none() && config.memcached_sockets.is_none()),
    };
    Live::start(&options, telemetry)
}

/// Where it is found out whose traffic it is.
pub(super) fn places(node: Option<String>) -> Places {
    let places = Places {
        node,
        ..Places::default()
    };
    if let Err(problem) = surroundings::processes(&places.proc) {
        warn!("processes are {problem}");
    }
    places
}

/// Gives up what is needed no more. What cannot be given up is said, and no reason to end.
pub(super) fn confine(source: &Live) {
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

/// The search for connections to these ports that were there before they were watched.
struct Older {
    ports: Vec<u16>,
    /// `None`: it is over.
    found: Option<Receiver<Found>>,
}

impl Older {
    /// Looks for them on a thread of its own: the ring does not wait. To be called when the ports are watched, so that every end
    /// of a connection is seen.
    fn look(ports: Vec<u16>, pipeline: &mut Pipeline) -> std::io::Result<Self> {
        pipeline.expect_older();
        let (sender, found) = mpsc::channel();
        let wanted = ports.clone();
        thread::Builder::new()
            .name("sockets".to_owned())
            .spawn(move || {
                // The receiver is gone when observation is over, or other ports are watched.
                let _ = sender.send(sockets::clients_of(Path::new("/proc"), &wanted));
            })?;
        Ok(Self {
            ports,
            found: Some(found),
        })
    }

    /// Hands on what was found.
    fn adopt(&mut self, pipeline: &mut Pipeline) {
        let Some(Ok(found)) = self.found.as_ref().map(Receiver::try_recv) else {
            return;
        };
        self.found = None;
        let (connections, ownerless) = (found.sockets.len(), found.ownerless);
        info!(connections, ownerless, "connections from before");
        pipeline.adopt(&found.sockets);
    }

    /// Other ports are watched now, `before` until now.
    fn widen(&mut self, before: &[u16], now: &[u16], pipeline: &mut Pipeline) {
        let is_new = |port: &&u16| !before.contains(*port) || self.is_sought(**port);
        let wanted: Vec<u16> = now.iter().filter(is_new).copied().collect();
        if wanted.is_empty() {
            return;
        }
        match Self::look(wanted, pipeline) {
            Ok(older) => *self = older,
            Err(error) => warn!(%error, "connections from before cannot be looked for"),
        }
    }

    /// What a search that is not over has found is not known yet.
    fn is_sought(&self, port: u16) -> bool {
        self.found.is_some() && self.ports.contains(&port)
    }
}

/// The observer thread: reads the ring and runs the stages.
fn observe(
    mut source: Live,
    mut pipeline: Pipeline,
    (mut older, mut sockets): (Older, Sockets),
    telemetry: &Telemetry,
    changed: &Receiver<Change>,
    stop: &AtomicBool,
) -> (Pipeline, Result<(), Failure>) {
    let mut looked = Instant::now();
    let mut result = Ok(());
    while !stop.load(Ordering::Relaxed) {
        older.adopt(&mut pipeline);
        sockets.adopt(&mut source, &mut |name, protocol| {
            pipeline.watch_socket(name, protocol);
        });
        match source.poll(POLL, &mut |event| pipeline.event(&event)) {
            // Only when the ring is empty is it later than the last event says.
            Ok(seen) if seen < Live::BATCH => pipeline.tick(monotonic()),
            Ok(_) => {}
            Err(error) => {
                result = Err(Failure::Runtime(error.to_string()));
                break;
            }
        }
        while let Ok(change) = changed.try_recv() {
            change.apply(&mut source, &mut pipeline, &mut older);
        }
        telemetry.health.tick();
        if looked.elapsed() >= LOSSES {
            looked = Instant::now();
            // Somebody may have set the time of day, or the host have slept.
            pipeline.set_clock(source.clock());
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

/// A new configuration on its way to the observer thread.
struct Change {
    config: Config,
    /// Ports that were watched until now.
    before: Vec<u16>,
    /// Keys, for people.
    applied: String,
    /// Told, or dropped, when it is in effect.
    done: oneshot::Sender<()>,
}

impl Change {
    fn apply(self, source: &mut Live, pipeline: &mut Pipeline, older: &mut Older) {
        let Self {
            config,
            before,
            applied,
            done,
        } = self;
        // Stages before kernel programs: no event comes of a port that they do not know.
        pipeline.reconfigure(Watched::new(&config), config.rules(), monotonic());
        let ports = config.ports();
        let result = source.watch(&ports);
        older.widen(&before, &ports, pipeline);
        match result {
            Ok(()) => info!(applied, ports = watched(&config), "configuration reloaded"),
            Err(error) => {
                warn!(%error, applied, "configuration reloaded, but the ports are still the old ones")
            }
        }
        // Nobody waits for it at the end.
        let _ = done.send(());
    }
}

/// What SIGHUP does.
struct Reload {
    reloader: Option<Reloader>,
    /// The ports that are watched.
    ports: Vec<u16>,
    /// The same, for people.
    watched: String,
    changes: Sender<Change>,
}

impl Reload {
    /// Reads the file again, and waits until that is in effect.
    async fn run(&mut self) {
        manager::reloading();
        if let Some(applied) = self.read() {
            // An error: the observer thread is gone, and so is the program soon.
            let _ = applied.await;
        }
        manager::ready(&self.watched);
    }

    /// Reads the file again. One that cannot be used changes nothing.
    fn read(&mut self) -> Option<oneshot::Receiver<()>> {
        let reloaded = match self.reloader.as_mut()?.reload() {
            Ok(reloaded) => reloaded,
            Err(error) => {
                warn!("configuration not reloaded, all stays as it was: {error}");
                return None;
            }
        };
        if !reloaded.restart.is_empty() {
            let keys = reloaded.restart.join(", ");
            warn!(
                keys,
                "changed in the configuration, but this needs a restart"
            );
        }
        if reloaded.applied.is_empty() {
            info!("configuration reloaded: nothing changed that can be applied");
            return None;
        }
        let before = std::mem::replace(&mut self.ports, reloaded.config.ports());
        self.watched = watched(&reloaded.config);
        let (done, applied) = oneshot::channel();
        let change = Change {
            before,
            config: reloaded.config,
            applied: reloaded.applied.join(", "),
            done,
        };
        self.changes.send(change).ok().map(|()| applied)
    }
}

/// The signals that end the program well, and the one that has it read its file again.
pub(super) struct Signals {
    pub(super) interrupt: Signal,
    pub(super) terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Without a file a hangup ends the program, as it does others: its terminal is gone.
    pub(super) fn catch(runtime: &Runtime, reload: bool) -> std::io::Result<Self> {
        let _within = runtime.enter();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: match reload {
                true => Some(signal(SignalKind::hangup())?),
                false => None,
            },
        })
    }
}

/// Waits for SIGINT, SIGTERM, the end of the duration, of the observer thread, or of whoever reads the output.
async fn until_stopped(
    signals: Signals,
    mut reload: Reload,
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
    let Signals {
        mut interrupt,
        mut terminate,
        hangup,
    } = signals;
    let reloads = async {
        let Some(mut hangup) = hangup else {
            return std::future::pending().await;
        };
        while hangup.recv().await.is_some() {
            reload.run().await;
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = over => {}
        () = gone => {}
        () = reloads => {}
        () = manager::watchdog(&exporting.telemetry) => {}
    }
}
