//! Wiring: the stages in a row, the threads they run on, and an orderly end.
//!
//! ```text
//! observer thread                                                       exporter threads
//! Live::poll ─▶ Flows ─▶ Conversation ─▶ Reporter ─▶ Aggregator, Sinks ─▶ queues ─▶ console, JSON Lines, OTLP
//! replay    ─▶
//! ```

mod doctor;
mod engine;
mod live;
mod recording;
mod sockets;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use doctor::doctor;
pub use live::run;
pub use recording::record;

use opentelemetry_sdk::metrics::Temporality;

use crate::aggregation::{Aggregator, Metrics, said_of_observer};
use crate::config::cli::{Exporter, RoleArgument};
use crate::config::export::Naming;
use crate::config::rules::Rules;
use crate::config::{Config, ConfigError, LiveConfig};
use crate::enrichment::{Enricher, Places, host_name};
use crate::protocol::Protocol;
use crate::sinks::{self, Overflow, Policy, SinkError, SinkOptions, Sinks};
use crate::source::event::{
    Address, Clock, Direction, Event, EventKind, Nanos, SocketId, SocketName, Task,
};
use crate::source::live::StartError;
use crate::source::recording::{Process, ServerName};
use crate::source::replay::{self, ReplayError, Totals};
use crate::stream::datagram::{self, Datagrams};
use crate::stream::flows::{Close, Flows, Options, Ports, Role};
use crate::stream::reassembly::Limits;
use crate::telemetry::Telemetry;
use engine::ends::Ends;
use engine::{Caller, Datagrams as Exchange, Engine, Reporter};

/// How long exporters get to send what is queued at the end.
const FLUSH: Duration = Duration::from_secs(4);
/// How often, in event time, the stages are told that time has passed.
const TICK: Nanos = 10_000_000;

/// Why the program ends with another status than success.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something that the user has to correct.
    #[error("{0}")]
    Usage(String),
    /// A capture that cannot be read, or not to its end.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Privileges or kernel features are missing.
    #[error("{0}")]
    Unsupported(String),
    /// Anything else.
    #[error("{0}")]
    Runtime(String),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<SinkError> for Failure {
    fn from(error: SinkError) -> Self {
        match error {
            SinkError::Setting { .. } | SinkError::Output { .. } | SinkError::Listen { .. } => {
                Self::Usage(error.to_string())
            }
            SinkError::Thread(_) => Self::Runtime(error.to_string()),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::Unsupported(error.to_string())
    }
}

/// The stages from `stream` on, for one thread.
pub struct Pipeline {
    flows: Flows<Engine>,
    datagrams: Datagrams<Caller, Exchange>,
    engine: Engine,
    telemetry: Arc<Telemetry>,
    ticked: Nanos,
    role: Role,
    max_flows: usize,
    max_held: usize,
    max_pairs: usize,
}

/// Ports, by protocol.
#[derive(Debug, Clone)]
pub struct Watched {
    /// All of them.
    all: Ports,
    /// Those taken as Memcached; the others are Redis's.
    memcached: Ports,
}

impl Watched {
    /// Those of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::ports(&config.redis_ports, &config.memcached_ports)
    }

    /// These.
    #[must_use]
    pub fn ports(redis: &[u16], memcached: &[u16]) -> Self {
        Self {
            all: Ports::new([redis, memcached].concat()),
            memcached: Ports::new(memcached.to_vec()),
        }
    }
}

/// What a [`Pipeline`] is made of.
pub struct Parts {
    /// Which end is reported.
    pub role: Role,
    /// Which ports are watched.
    pub watched: Watched,
    /// What holds for each connection.
    pub rules: Rules,
    /// Most sockets tracked.
    pub max_flows: usize,
    /// Most bytes held of messages that are not complete.
    pub max_held: usize,
    /// Most pairs of endpoints tracked that exchange datagrams.
    pub max_pairs: usize,
    /// What the source's positions are like.
    pub limits: Limits,
    /// The source's clock.
    pub clock: Clock,
    /// Where everything is counted.
    pub telemetry: Arc<Telemetry>,
    /// Where metrics are recorded.
    pub metrics: Arc<Metrics>,
    /// Where spans go.
    pub sinks: Arc<Sinks>,
    /// Most spans a second and service where `rules` name no limit; 0: none.
    pub spans_per_second: u32,
    /// Where it is found out whose traffic it is.
    pub places: Places,
}

impl Pipeline {
    /// Puts the stages in a row.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Watched { all, memcached } = parts.watched;
        let mut enricher = Enricher::new(parts.places);
        enricher.rename(parts.rules.service_names());
        let reporter = Reporter {
            enricher,
            aggregator: Aggregator::new(parts.metrics),
            sinks: parts.sinks,
            rules: parts.rules,
            epoch: 0,
            policy: Policy::new(parts.spans_per_second),
            clock: parts.clock,
            ends: Ends::new(Arc::clone(&parts.telemetry)),
            telemetry: Arc::clone(&parts.telemetry),
        };
        Self {
            datagrams: Datagrams::new(datagram::Options {
                role: parts.role,
                ports: memcached.clone(),
                max_pairs: parts.max_pairs,
            }),
            flows: Flows::new(Options {
                role: parts.role,
                ports: all,
                limits: parts.limits,
                max_flows: parts.max_flows,
                max_held: parts.max_held,
            }),
            engine: Engine::new(memcached, Arc::clone(&parts.telemetry), reporter),
            telemetry: parts.telemetry,
            ticked: 0,
            role: parts.role,
            max_flows: parts.max_flows,
            max_held: parts.max_held,
            max_pairs: parts.max_pairs,
        }
    }

    /// Another source begins, after [`Self::finish`]: its ports, how its positions are, and who finds out whose its processes are.
    fn begin(&mut self, watched: Watched, rules: Rules, limits: Limits, enricher: Enricher) {
        let Watched { all, memcached } = watched;
        self.ticked = 0;
        self.datagrams = Datagrams::new(datagram::Options {
            role: self.role,
            ports: memcached.clone(),
            max_pairs: self.max_pairs,
        });
        self.flows = Flows::new(Options {
            role: self.role,
            ports: all,
            limits,
            max_flows: self.max_flows,
            max_held: self.max_held,
        });
        self.engine.reconfigure(memcached, rules, 0);
        self.engine.set_clock(Clock::default());
        self.engine.set_enricher(enricher);
    }

    /// A process is known without being looked up.
    fn told(&mut self, process: Process) {
        self.engine.told(process);
    }

    /// So is what it calls a server.
    fn told_server(&mut self, server: ServerName) {
        self.engine.told_server(server);
    }

    /// Takes in one event.
    pub fn event(&mut self, event: &Event<'_>) {
        self.tick(event.time);
        match &event.kind {
            EventKind::Datagram(datagram) => {
                self.datagrams
                    .event(event, datagram, &mut self.engine, &self.telemetry);
            }
            _ => self.flows.event(event, &mut self.engine, &self.telemetry),
        }
    }

    /// The source's clock has another relation to the time of day from now on.
    pub fn set_clock(&mut self, clock: Clock) {
        self.engine.set_clock(clock);
    }

    /// Time has passed on the source's clock. To be called when no events come.
    pub fn tick(&mut self, now: Nanos) {
        if now.saturating_sub(self.ticked) >= TICK {
            self.ticked = now;
            self.flows.tick(now, &mut self.engine);
            self.datagrams.tick(now, &mut self.engine, &self.telemetry);
            self.engine.tick(now);
            self.telemetry.connections.set(self.flows.len() as u64);
        }
    }

    /// Other ports and rules hold from now on, `now` on the source's clock. Connections of ports that are watched no longer, or as another
    /// protocol, are given up; all others go on, and are looked at anew with their next command.
    pub fn reconfigure(&mut self, watched: Watched, rules: Rules, now: Nanos) {
        let Watched { all, memcached } = watched;
        let before = self.engine.memcached().clone();
        let memcached = memcached.with_sockets_of(&before);
        // Unix sockets stay as they are.
        let given_up = |server: Address| {
            server.port().is_some_and(|port| {
                !all.contains(port) || before.contains(port) != memcached.contains(port)
            })
        };
        self.flows.give_up(given_up, now, &mut self.engine);
        self.flows.watch(all);
        self.datagrams.watch(memcached.clone());
        self.engine.reconfigure(memcached, rules, now);
    }

    /// This unix socket is watched, too, for Memcached or for Redis. To be called before its first event comes.
    pub fn watch_socket(&mut self, name: SocketName, protocol: Protocol) {
        self.flows.watch_socket(name);
        if protocol == Protocol::Memcached {
            self.engine.add_memcached(name);
        }
    }

    /// Connections from before the observation will be told by [`Self::adopt`].
    pub fn expect_older(&mut self) {
        self.flows.expect_older();
    }

    /// Takes in connections from before the observation, found after [`Self::expect_older`].
    pub fn adopt(&mut self, found: &[(SocketId, Task)]) {
        self.flows.adopt(found, &mut self.engine);
    }

    /// The source has ended at `now`.
    pub fn finish(&mut self, now: Nanos) {
        self.flows.finish(now, Close::Over, &mut self.engine);
        self.datagrams
            .finish(now, &mut self.engine, &self.telemetry);
        self.engine.tick(now);
        self.telemetry.connections.set(0);
    }

    /// The line of `--summary`.
    #[must_use]
    pub fn summary(&self) -> String {
        self.engine
            .reporter()
            .aggregator
            .summary()
            .line(&self.telemetry)
    }
}

/// Reads captures and recordings, one after the other, through the pipeline.
///
/// # Errors
///
/// [`Failure::Replay`] for the first file that cannot be read to its end: what could be read of it, and all other files,
/// have been reported then.
pub fn replay(config: &Config, files: &[PathBuf]) -> Result<(), Failure> {
    if config.metrics.contains(&Exporter::Prometheus) {
        return Err(Failure::Usage(
            "--metrics-exporter: prometheus is for run: replay ends before anyone could scrape it"
                .to_owned(),
        ));
    }
    let exporting = Exporting::start(config, Overflow::Wait, None)?;
    let mut pipeline = exporting.pipeline(
        config,
        Limits::CAPTURE,
        Clock::default(),
        0,
        Places::nowhere(),
    );
    let mut failure = None;
    for file in files {
        let telemetry = &exporting.telemetry;
        // Each file has a clock and connections of its own.
        let (end, result) = match recording::open(file) {
            Ok(Some(found)) => recording::replay(file, found, config, &mut pipeline, telemetry),
            Ok(None) => capture(file, config, &mut pipeline, telemetry),
            Err(error) => (0, Err(error)),
        };
        pipeline.finish(end);
        // The first failure is told at the end, by `main`.
        match result {
            Err(error) if failure.is_some() => tracing::error!("{error}"),
            Err(error) => failure = Some(error),
            Ok(()) => {}
        }
    }
    exporting.finish(config, &pipeline);
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Sends a capture through the stages. Answers when it ended, too.
fn capture(
    file: &Path,
    config: &Config,
    pipeline: &mut Pipeline,
    telemetry: &Telemetry,
) -> (Nanos, Result<(), ReplayError>) {
    let watched = Watched::new(config);
    let ports = watched.all.clone();
    pipeline.begin(
        watched,
        config.rules(),
        Limits::CAPTURE,
        Enricher::new(Places::nowhere()),
    );
    let mut totals = Totals::default();
    let result = replay::replay(
        file,
        |port| ports.contains(port),
        &mut totals,
        &mut |event| {
            count(event, telemetry);
            pipeline.event(event);
        },
    );
    (totals.end, result)
}

/// Counts an event that comes out of a file.
fn count(event: &Event<'_>, telemetry: &Telemetry) {
    telemetry.events.add(1);
    telemetry.captured.add(event.kind.payload().len() as u64);
    let (way, count) = match event.kind.moved() {
        Some((Direction::Send, length)) => (&telemetry.ledger.sent, length),
        Some((Direction::Receive, length)) => (&telemetry.ledger.received, length),
        None => (&telemetry.ledger.states, 1),
    };
    way.seen.add(count.into());
    way.arrived.add(count.into());
}

/// What runs beside the pipeline.
struct Exporting {
    telemetry: Arc<Telemetry>,
    metrics: Arc<Metrics>,
    sinks: Arc<Sinks>,
}

impl Exporting {
    /// `live`: there is what only makes sense then.
    fn start(
        config: &Config,
        overflow: Overflow,
        live: Option<&LiveConfig>,
    ) -> Result<Self, Failure> {
        let telemetry = Arc::new(Telemetry::default());
        let limits = &config.tables.limits;
        let options = SinkOptions {
            traces: config.traces.iter().filter_map(exporter).collect(),
            metrics: config.metrics.iter().filter_map(exporter).collect(),
            output: config.output.clone(),
            idle: live.map(|_| format!("watching {}", watched(config))),
            prometheus: live.and_then(|live| live.prometheus),
            health: live.and_then(|live| live.health),
            overflow,
            confined: live.is_some_and(|live| !live.unconfined),
            queue: limits.span_queue,
            ..SinkOptions::from_env(|name| std::env::var(name).ok())?
        };
        let metrics = Arc::new(Metrics::new(
            crate::aggregation::Options {
                temporality: temporality()?,
                pushed: !options.metrics.is_empty(),
                scraped: options.prometheus.map(|_| options.metric_interval),
                histograms: config.tables.histograms.clone(),
                pools: config.tables.pools,
                duplicate_names: config.export.naming == Naming::Dup,
                host: host_name("/proc".as_ref(), live.and_then(|live| live.node.as_deref())),
                said: said_of_observer(|name| std::env::var(name).ok()),
                ..crate::aggregation::Options::within(limits)
            },
            Arc::clone(&telemetry),
        ));
        let sinks = Sinks::start(options, Arc::clone(&telemetry), Arc::clone(&metrics))?;
        Ok(Self {
            telemetry,
            metrics,
            sinks: Arc::new(sinks),
        })
    }

    fn pipeline(
        &self,
        config: &Config,
        limits: Limits,
        clock: Clock,
        spans_per_second: u32,
        places: Places,
    ) -> Pipeline {
        Pipeline::new(Parts {
            role: role(config.role),
            watched: Watched::new(config),
            rules: config.rules(),
            max_flows: config.tables.limits.connections,
            max_held: config.tables.limits.pending_bytes,
            max_pairs: config.tables.limits.datagram_pairs,
            limits,
            clock,
            telemetry: Arc::clone(&self.telemetry),
            metrics: Arc::clone(&self.metrics),
            sinks: Arc::clone(&self.sinks),
            spans_per_second,
            places,
        })
    }

    /// Sends what is queued, then prints the summary if it was asked for.
    fn finish(&self, config: &Config, pipeline: &Pipeline) {
        self.sinks.shutdown(FLUSH);
        if config.summary {
            use std::io::Write;
            // A reader that has gone needs no summary.
            let _ = writeln!(std::io::stdout(), "{}", pipeline.summary());
        }
    }
}

/// `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`; cumulative unless it says otherwise.
fn temporality() -> Result<Temporality, Failure> {
    const NAME: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    match std::env::var(NAME) {
        Ok(value) if !value.is_empty() => value.parse().map_err(|()| {
            Failure::Usage(format!(
                "{NAME}: {value:?} is not cumulative, delta or lowmemory"
            ))
        }),
        _ => Ok(Temporality::Cumulative),
    }
}

fn exporter(exporter: &Exporter) -> Option<sinks::Exporter> {
    match exporter {
        Exporter::Console => Some(sinks::Exporter::Console),
        Exporter::Jsonl => Some(sinks::Exporter::Jsonl),
        Exporter::Otlp => Some(sinks::Exporter::Otlp),
        // It fetches; the sinks learn of it by the address.
        Exporter::Prometheus | Exporter::None => None,
    }
}

fn role(role: RoleArgument) -> Role {
    match role {
        RoleArgument::Auto => Role::Auto,
        RoleArgument::Client => Role::Client,
        RoleArgument::Server => Role::Server,
        RoleArgument::Both => Role::Both,
    }
}

/// Which servers, as said to people: `redis 6379, memcached 11211`.
fn watched(config: &Config) -> String {
    let list = |ports: &[u16]| {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        ports.join(" ")
    };
    let mut parts = Vec::new();
    for (name, ports) in [
        ("redis", &config.redis_ports),
        ("memcached", &config.memcached_ports),
    ] {
        if !ports.is_empty() {
            parts.push(format!("{name} {}", list(ports)));
        }
    }
    parts.join(", ")
}
