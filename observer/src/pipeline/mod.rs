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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use doctor::doctor;
pub use live::run;

use opentelemetry_sdk::metrics::Temporality;

use crate::aggregation::{Aggregator, Metrics};
use crate::config::cli::{Exporter, RoleArgument};
use crate::config::export::Export;
use crate::config::{Config, ConfigError};
use crate::enrichment::Enricher;
use crate::sinks::{self, Overflow, SinkError, SinkOptions, Sinks};
use crate::source::event::{Clock, Event, EventKind, Nanos};
use crate::source::live::StartError;
use crate::source::replay::{self, ReplayError, Totals};
use crate::stream::datagram::{self, Datagrams};
use crate::stream::flows::{Close, Flows, Options, Ports, Role};
use crate::stream::reassembly::Limits;
use crate::telemetry::Telemetry;
use engine::{Caller, Datagrams as Exchange, Engine, Reporter, Session};

/// How long exporters get to send what is queued at the end.
const FLUSH: Duration = Duration::from_secs(4);
/// Most sockets tracked. A socket takes 1 to 2 KiB while its messages are small.
const MAX_FLOWS: usize = 65_536;
/// Most pairs of endpoints tracked that exchange datagrams. A client may use a port for each request.
const MAX_PAIRS: usize = 16_384;
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
            SinkError::Setting { .. } | SinkError::Output { .. } => Self::Usage(error.to_string()),
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
    flows: Flows<Session>,
    datagrams: Datagrams<Caller, Exchange>,
    engine: Engine,
    telemetry: Arc<Telemetry>,
    ticked: Nanos,
}

/// What a [`Pipeline`] is made of.
pub struct Parts {
    /// Which end is reported.
    pub role: Role,
    /// Ports taken as Redis.
    pub redis_ports: Vec<u16>,
    /// Ports taken as Memcached.
    pub memcached_ports: Vec<u16>,
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
    /// What of a span leaves, and how it is named.
    pub export: Arc<Export>,
}

impl Pipeline {
    /// Puts the stages in a row.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let memcached = Ports::new(parts.memcached_ports.clone());
        let ports = Ports::new([parts.redis_ports, parts.memcached_ports].concat());
        let reporter = Reporter {
            enricher: Enricher::new("/proc"),
            aggregator: Aggregator::new(parts.metrics),
            sinks: parts.sinks,
            export: parts.export,
            clock: parts.clock,
        };
        Self {
            datagrams: Datagrams::new(datagram::Options {
                role: parts.role,
                ports: memcached.clone(),
                max_pairs: MAX_PAIRS,
            }),
            flows: Flows::new(Options {
                role: parts.role,
                ports,
                limits: parts.limits,
                max_flows: MAX_FLOWS,
            }),
            engine: Engine::new(memcached, Arc::clone(&parts.telemetry), reporter),
            telemetry: parts.telemetry,
            ticked: 0,
        }
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

    /// Time has passed on the source's clock. To be called when no events come.
    pub fn tick(&mut self, now: Nanos) {
        if now.saturating_sub(self.ticked) >= TICK {
            self.ticked = now;
            self.flows.tick(now, &mut self.engine);
            self.datagrams.tick(now, &mut self.engine, &self.telemetry);
            self.telemetry.connections.set(self.flows.len() as u64);
        }
    }

    /// The source has ended at `now`.
    pub fn finish(&mut self, now: Nanos) {
        self.flows.finish(now, Close::Abandoned, &mut self.engine);
        self.datagrams
            .finish(now, &mut self.engine, &self.telemetry);
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

/// Reads captures, one after the other, through the pipeline.
///
/// # Errors
///
/// [`Failure::Replay`] for the first file that cannot be read to its end: what could be read of it, and all other files,
/// have been reported then.
pub fn replay(config: &Config, files: &[PathBuf]) -> Result<(), Failure> {
    let exporting = Exporting::start(config, Overflow::Wait, None, false)?;
    let mut pipeline = exporting.pipeline(config, Limits::CAPTURE, Clock::default());
    let ports = Ports::new([config.redis_ports.as_slice(), &config.memcached_ports].concat());
    let mut failure = None;
    for file in files {
        let mut totals = Totals::default();
        let telemetry = &exporting.telemetry;
        let result = replay::replay(
            file,
            |port| ports.contains(port),
            &mut totals,
            &mut |event| {
                telemetry.events.add(1);
                telemetry.captured.add(event.kind.payload().len() as u64);
                pipeline.event(event);
            },
        );
        // Each file has a clock and connections of its own.
        pipeline.finish(totals.end);
        pipeline.ticked = 0;
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

/// What runs beside the pipeline.
struct Exporting {
    telemetry: Arc<Telemetry>,
    metrics: Arc<Metrics>,
    sinks: Arc<Sinks>,
}

impl Exporting {
    fn start(
        config: &Config,
        overflow: Overflow,
        idle: Option<String>,
        confined: bool,
    ) -> Result<Self, Failure> {
        let telemetry = Arc::new(Telemetry::default());
        let options = SinkOptions {
            traces: config.traces.iter().filter_map(exporter).collect(),
            metrics: config.metrics.iter().filter_map(exporter).collect(),
            output: config.output.clone(),
            idle,
            overflow,
            confined,
            ..SinkOptions::from_env(|name| std::env::var(name).ok())?
        };
        let metrics = Arc::new(Metrics::new(
            crate::aggregation::Options {
                temporality: temporality()?,
                ..crate::aggregation::Options::default()
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

    fn pipeline(&self, config: &Config, limits: Limits, clock: Clock) -> Pipeline {
        Pipeline::new(Parts {
            role: role(config.role),
            redis_ports: config.redis_ports.clone(),
            memcached_ports: config.memcached_ports.clone(),
            limits,
            clock,
            telemetry: Arc::clone(&self.telemetry),
            metrics: Arc::clone(&self.metrics),
            sinks: Arc::clone(&self.sinks),
            export: Arc::new(config.export.clone()),
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
        Exporter::None => None,
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
