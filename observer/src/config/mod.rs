//! What the user asked for: the command line, the environment and the file, checked.
//!
//! [`cli`] and [`file`] hold what can be written, [`load`] parses it, and [`Config`] is what may be run: every combination
//! possible. [`effective`] tells it with each value's origin, [`reload`] reads the file again.

pub mod cli;
pub mod effective;
pub mod export;
pub mod file;
pub mod histograms;
pub mod limits;
pub mod load;
pub mod pools;
pub mod redaction;
pub mod reload;
pub mod rules;
pub mod sockets;
pub mod templates;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cli::{BackendArgument, Exporter, RoleArgument};
use effective::{HISTOGRAM_VARIABLE, QUEUE_VARIABLE};
use export::{Export, Naming, Secret, Share, Slow};
use file::Tables;
use rules::{Rules, SpanRule};
use sockets::Sockets;
use templates::Templates;

/// Where output of the `console` and `jsonl` exporters goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Output {
    /// Standard output.
    #[default]
    Stdout,
    /// A file, created or emptied.
    File(PathBuf),
}

/// Everything that is common to observing live and reading captures.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Ports taken as Redis.
    pub redis_ports: Vec<u16>,
    /// Ports taken as Memcached.
    pub memcached_ports: Vec<u16>,
    /// Unix sockets taken as Redis.
    pub redis_sockets: Sockets,
    /// Unix sockets taken as Memcached.
    pub memcached_sockets: Sockets,
    /// Which end is reported.
    pub role: RoleArgument,
    /// Where spans go.
    pub traces: Vec<Exporter>,
    /// Where metrics go.
    pub metrics: Vec<Exporter>,
    /// What of a span leaves, and how it is named, unless a rule says otherwise.
    pub export: Export,
    /// Where `console` and `jsonl` write.
    pub output: Output,
    /// Where `/metrics` is served unless an option says otherwise.
    pub prometheus: SocketAddr,
    /// Whether a summary is printed at the end.
    pub summary: bool,
    /// What has no option: names of caches, rules, limits and the rest of the file.
    pub tables: Tables,
}

/// What `run` needs beyond [`Config`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveConfig {
    /// Kernel hooks.
    pub backend: BackendArgument,
    /// When to stop; `None`: at a signal.
    pub duration: Option<Duration>,
    /// Keep all privileges after the start.
    pub unconfined: bool,
    /// Where `/metrics` is served, if Prometheus is an exporter.
    pub prometheus: Option<SocketAddr>,
    /// Where `/healthz` and `/readyz` are served.
    pub health: Option<SocketAddr>,
    /// `k8s.node.name`.
    pub node: Option<String>,
}

/// Where `/metrics` is served unless said otherwise: the port that the specification gives to Prometheus exporters.
const PROMETHEUS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

impl LiveConfig {
    /// Checks what was written and fills in the defaults.
    #[must_use]
    pub fn new(run: &cli::Run, config: &Config) -> Self {
        let scraped = config.metrics.contains(&Exporter::Prometheus);
        Self {
            backend: run.backend,
            duration: run.duration,
            unconfined: run.unconfined,
            prometheus: scraped.then(|| run.prometheus_listen.unwrap_or(config.prometheus)),
            health: run.health_listen,
            node: run.node.node_name.clone(),
        }
    }
}

/// `OTEL_EXPORTER_PROMETHEUS_HOST` and `OTEL_EXPORTER_PROMETHEUS_PORT`; `None` when neither is set. What cannot be used is ignored
/// with a warning.
fn prometheus_address(lookup: impl Fn(&str) -> Option<String>) -> Option<SocketAddr> {
    let set = |name| lookup(name).filter(|text| !text.is_empty());
    let host = set("OTEL_EXPORTER_PROMETHEUS_HOST");
    let port = set("OTEL_EXPORTER_PROMETHEUS_PORT");
    if host.is_none() && port.is_none() {
        return None;
    }
    let host = host.unwrap_or_else(|| PROMETHEUS.ip().to_string());
    let number = port
        .as_ref()
        .map_or(Ok(PROMETHEUS.port()), |port| port.parse());
    let number = number.map_err(|_| "not a port".to_owned());
    let found = number.and_then(|number| {
        let found = (host.as_str(), number).to_socket_addrs();
        let first = found.map_err(|error| error.to_string())?.next();
        first.ok_or_else(|| "no address".to_owned())
    });
    if let Err(reason) = &found {
        tracing::warn!(
            host,
            port,
            reason,
            "ignored: OTEL_EXPORTER_PROMETHEUS_HOST, OTEL_EXPORTER_PROMETHEUS_PORT"
        );
    }
    found.ok()
}

/// A combination of options that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// One port, two protocols.
    #[error("port {0} is given to both --redis-port and --memcached-port")]
    PortTwice(u16),
    /// One unix socket, two protocols.
    #[error("socket {0} is given to both --redis-socket and --memcached-socket")]
    SocketTwice(Arc<str>),
    /// `none` with other sockets.
    #[error("{0}: none cannot be combined with sockets")]
    NoSocketAndOthers(&'static str),
    /// `none` with others.
    #[error("{0}: none cannot be combined with other exporters")]
    NoneAndOthers(&'static str),
    /// Two writers of one stream.
    #[error("console and jsonl cannot both write to the same output: give one of them alone")]
    OneOutput,
    /// Spans to Prometheus.
    #[error("--traces-exporter: prometheus takes metrics only")]
    PrometheusTraces,
    /// No port and no unix socket at all.
    #[error(
        "nothing to watch: give --redis-port or --memcached-port, --redis-socket or --memcached-socket"
    )]
    Nothing,
}

/// What of the environment decides defaults.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings {
    /// Standard output is a terminal.
    pub terminal: bool,
    /// An OTLP endpoint is set for traces.
    pub traces_endpoint: bool,
    /// An OTLP endpoint is set for metrics.
    pub metrics_endpoint: bool,
    /// `OTEL_SDK_DISABLED=true`.
    pub disabled: bool,
    /// `OTEL_SEMCONV_STABILITY_OPT_IN` names `database/dup`.
    pub duplicate_names: bool,
    /// `OTEL_TRACES_SAMPLER`: how much of the spans is kept. `always_off` is nothing at all.
    pub sampled: Option<Share>,
    /// `CACHE_OBSERVER_KEYS_SECRET`.
    pub secret: Option<Secret>,
    /// `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub span_queue: Option<usize>,
    /// `OTEL_EXPORTER_PROMETHEUS_HOST`, `OTEL_EXPORTER_PROMETHEUS_PORT`.
    pub prometheus: Option<SocketAddr>,
    /// `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION` asks for exponential histograms, or for others.
    pub exponential: Option<bool>,
}

impl Surroundings {
    /// Looks at the process's environment.
    #[must_use]
    pub fn look() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let common = set("OTEL_EXPORTER_OTLP_ENDPOINT");
        Self {
            terminal: std::io::stdout().is_terminal(),
            traces_endpoint: common || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
            metrics_endpoint: common || set("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
            // The specification: only "true", in any case, means true.
            disabled: std::env::var("OTEL_SDK_DISABLED")
                .is_ok_and(|value| value.eq_ignore_ascii_case("true")),
            duplicate_names: std::env::var("OTEL_SEMCONV_STABILITY_OPT_IN")
                .is_ok_and(|list| list.split(',').any(|name| name.trim() == "database/dup")),
            sampled: sampled(|name| std::env::var(name).ok()),
            secret: std::env::var("CACHE_OBSERVER_KEYS_SECRET")
                .ok()
                .filter(|text| !text.is_empty())
                .map(|text| Secret::new(&text)),
            span_queue: span_queue(std::env::var(QUEUE_VARIABLE).ok()),
            prometheus: prometheus_address(|name| std::env::var(name).ok()),
            exponential: exponential(std::env::var(HISTOGRAM_VARIABLE).ok()),
        }
    }

    /// What it says of an [`Export`].
    pub fn apply(&self, export: &mut Export) {
        if self.duplicate_names {
            export.naming = Naming::Dup;
        }
        if let Some(share) = self.sampled {
            export.spans.share = share;
            if share == Share::NONE {
                export.spans.errors = false;
                export.spans.misses = false;
                export.spans.slow = Slow::None;
            }
        }
        if let Some(secret) = self.secret {
            export.secret = secret;
        }
    }
}

impl Config {
    /// Checks what was written and fills in the defaults.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the options contradict each other.
    pub fn new(
        common: &cli::Common,
        tables: &Tables,
        surroundings: Surroundings,
    ) -> Result<Self, ConfigError> {
        let redis: BTreeSet<u16> = common.ports.redis_port.iter().copied().collect();
        let memcached: BTreeSet<u16> = common.ports.memcached_port.iter().copied().collect();
        if let Some(port) = redis.intersection(&memcached).next() {
            return Err(ConfigError::PortTwice(*port));
        }
        let redis_sockets = Sockets::new("--redis-socket", &common.sockets.redis_socket)?;
        let memcached_sockets =
            Sockets::new("--memcached-socket", &common.sockets.memcached_socket)?;
        let mut both = redis_sockets.names.intersection(&memcached_sockets.names);
        if let Some(name) = both.next() {
            return Err(ConfigError::SocketTwice(name.text()));
        }
        let no_socket = redis_sockets.is_none() && memcached_sockets.is_none();
        if redis.is_empty() && memcached.is_empty() && no_socket {
            return Err(ConfigError::Nothing);
        }
        let otlp_or = |endpoint: bool, otherwise: Vec<Exporter>| {
            if endpoint {
                vec![Exporter::Otlp]
            } else {
                otherwise
            }
        };
        let console = if surroundings.terminal {
            vec![Exporter::Console]
        } else {
            Vec::new()
        };
        let traces = exporters(
            "--traces-exporter",
            &common.traces_exporter,
            otlp_or(surroundings.traces_endpoint, console),
        )?;
        if traces.contains(&Exporter::Prometheus) {
            return Err(ConfigError::PrometheusTraces);
        }
        let metrics = exporters(
            "--metrics-exporter",
            &common.metrics_exporter,
            otlp_or(surroundings.metrics_endpoint, Vec::new()),
        )?;
        let uses = |exporter| traces.contains(&exporter) || metrics.contains(&exporter);
        if uses(Exporter::Console) && uses(Exporter::Jsonl) {
            return Err(ConfigError::OneOutput);
        }
        let enabled = |list: Vec<Exporter>| {
            if surroundings.disabled {
                Vec::new()
            } else {
                list
            }
        };
        let mut export = Export {
            redaction: Arc::new(tables.redaction.clone()),
            // A text that is no template was refused when the file was read.
            templates: Arc::new(Templates::new(&tables.key_patterns).unwrap_or_default()),
            ..Export::default()
        };
        tables.spans.apply(&mut export.spans);
        surroundings.apply(&mut export);
        export.apply(&common.export);
        let mut tables = Tables {
            // It is part of `export` from here on.
            spans: SpanRule::default(),
            ..tables.clone()
        };
        if let Some(queue) = surroundings.span_queue {
            tables.limits.span_queue = queue;
        }
        if let Some(exponential) = surroundings.exponential {
            tables.histograms.exponential = exponential;
        }
        Ok(Self {
            redis_ports: redis.into_iter().collect(),
            memcached_ports: memcached.into_iter().collect(),
            redis_sockets,
            memcached_sockets,
            role: common.role,
            traces: enabled(traces),
            metrics: enabled(metrics),
            export,
            output: common.output.clone().map_or(Output::Stdout, Output::File),
            prometheus: surroundings.prometheus.unwrap_or(PROMETHEUS),
            summary: common.summary,
            tables,
        })
    }

    /// All ports.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        [self.redis_ports.as_slice(), &self.memcached_ports].concat()
    }

    /// What holds for each connection.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules::new(&self.tables, self.export.clone())
    }
}

/// `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`. Each span is a root, so `parentbased_` changes nothing. What is not known
/// is ignored with a warning, as the specification asks.
fn sampled(lookup: impl Fn(&str) -> Option<String>) -> Option<Share> {
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    let sampler = lookup("OTEL_TRACES_SAMPLER").filter(|text| !text.is_empty())?;
    let name = sampler.strip_prefix("parentbased_").unwrap_or(&sampler);
    match name {
        "always_on" => Some(Share::ALL),
        "always_off" => Some(Share::NONE),
        "traceidratio" => {
            let argument = lookup(ARGUMENT).filter(|text| !text.is_empty());
            match argument.map(|text| text.trim().parse()) {
                None => Some(Share::ALL),
                Some(Ok(share)) => Some(share),
                Some(Err(reason)) => {
                    let reason: String = reason;
                    tracing::warn!(name = ARGUMENT, reason, "ignored");
                    Some(Share::ALL)
                }
            }
        }
        _ => {
            tracing::warn!(
                name = "OTEL_TRACES_SAMPLER",
                value = sampler,
                "ignored: not supported"
            );
            None
        }
    }
}

/// A number above 0; anything else is ignored with a warning, as the specification asks.
fn span_queue(value: Option<String>) -> Option<usize> {
    let value = value.filter(|text| !text.trim().is_empty())?;
    match value.trim().parse() {
        Ok(number) if number > 0 => Some(number),
        _ => {
            tracing::warn!(
                name = QUEUE_VARIABLE,
                value,
                "ignored: not a number above 0"
            );
            None
        }
    }
}

/// One of the two aggregations of the specification; anything else is ignored with a warning.
fn exponential(value: Option<String>) -> Option<bool> {
    let value = value.filter(|text| !text.trim().is_empty())?;
    match value.trim().to_ascii_lowercase().as_str() {
        "explicit_bucket_histogram" => Some(false),
        "base2_exponential_bucket_histogram" => Some(true),
        _ => {
            tracing::warn!(name = HISTOGRAM_VARIABLE, value, "ignored: not supported");
            None
        }
    }
}

/// `none` is the empty list.
fn exporters(
    option: &'static str,
    given: &[Exporter],
    default: Vec<Exporter>,
) -> Result<Vec<Exporter>, ConfigError> {
    if given.is_empty() {
        return Ok(default);
    }
    if given.contains(&Exporter::None) {
        return if given.iter().all(|exporter| *exporter == Exporter::None) {
            Ok(Vec::new())
        } else {
            Err(ConfigError::NoneAndOthers(option))
        };
    }
    let mut list = Vec::new();
    for exporter in given {
        if !list.contains(exporter) {
            list.push(*exporter);
        }
    }
    Ok(list)
}
