//! What the user asked for: the command line and the environment, checked.
//!
//! [`cli`] holds what can be written, [`Config`] what may be run: every value parsed, every combination possible.

pub mod cli;
pub mod export;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use cli::{BackendArgument, Exporter, RoleArgument};
use export::{Export, Naming, Secret, Share, Slow};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Ports taken as Redis.
    pub redis_ports: Vec<u16>,
    /// Ports taken as Memcached.
    pub memcached_ports: Vec<u16>,
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
    /// Whether a summary is printed at the end.
    pub summary: bool,
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
}

/// A combination of options that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// One port, two protocols.
    #[error("port {0} is given to both --redis-port and --memcached-port")]
    PortTwice(u16),
    /// `none` with others.
    #[error("{0}: none cannot be combined with other exporters")]
    NoneAndOthers(&'static str),
    /// Two writers of one stream.
    #[error("console and jsonl cannot both write to the same output: give one of them alone")]
    OneOutput,
    /// No port at all.
    #[error("no port to watch: give --redis-port or --memcached-port")]
    NoPort,
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
    pub fn new(common: &cli::Common, surroundings: Surroundings) -> Result<Self, ConfigError> {
        let redis: BTreeSet<u16> = common.ports.redis_port.iter().copied().collect();
        let memcached: BTreeSet<u16> = common.ports.memcached_port.iter().copied().collect();
        if let Some(port) = redis.intersection(&memcached).next() {
            return Err(ConfigError::PortTwice(*port));
        }
        if redis.is_empty() && memcached.is_empty() {
            return Err(ConfigError::NoPort);
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
        let mut export = Export::default();
        surroundings.apply(&mut export);
        export.apply(&common.export);
        Ok(Self {
            redis_ports: redis.into_iter().collect(),
            memcached_ports: memcached.into_iter().collect(),
            role: common.role,
            traces: enabled(traces),
            metrics: enabled(metrics),
            export,
            output: common.output.clone().map_or(Output::Stdout, Output::File),
            summary: common.summary,
        })
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

#[cfg(test)]
mod tests {
    use super::cli::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn config(arguments: &str, surroundings: Surroundings) -> Result<Config, String> {
        let line = format!("cache-observer run {arguments}");
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| cli::one_line(&e))?;
        let Command::Run(run) = cli.command else {
            panic!("not run");
        };
        Config::new(&run.common, surroundings).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let plain = config("", Surroundings::default()).unwrap();
        assert_eq!(plain.redis_ports, [6379]);
        assert_eq!(plain.memcached_ports, [11211]);
        assert_eq!((plain.traces.len(), plain.metrics.len()), (0, 0));
        let terminal = Surroundings {
            terminal: true,
            ..Surroundings::default()
        };
        assert_eq!(config("", terminal).unwrap().traces, [Exporter::Console]);
        let endpoint = Surroundings {
            traces_endpoint: true,
            ..terminal
        };
        assert_eq!(config("", endpoint).unwrap().traces, [Exporter::Otlp]);
        let disabled = Surroundings {
            disabled: true,
            ..endpoint
        };
        assert_eq!(config("", disabled).unwrap().traces, []);
    }

    #[test]
    fn lists() {
        let some = config(
            "--redis-port 7000,6380,7000 --traces-exporter otlp,jsonl --metrics-exporter none",
            Surroundings::default(),
        )
        .unwrap();
        assert_eq!(some.redis_ports, [6380, 7000]);
        assert_eq!(some.traces, [Exporter::Otlp, Exporter::Jsonl]);
        assert_eq!(some.metrics, []);
    }

    #[test]
    fn options_stand_before_variables_before_defaults() {
        let surroundings = Surroundings {
            duplicate_names: true,
            sampled: Some("0.5".parse().unwrap()),
            ..Surroundings::default()
        };
        let export = |arguments| config(arguments, surroundings).unwrap().export;
        assert_eq!(export("").naming, Naming::Dup);
        assert_eq!(export("").spans.share.get(), 0.5);
        assert!(export("").spans.errors);
        let given = export("--naming stable --spans-share 0.1 --spans-per-second 7 --keys none");
        assert_eq!(given.naming, Naming::Stable);
        assert_eq!(given.spans.share.get(), 0.1);
        assert_eq!(given.spans.per_second, Some(7));
        assert_eq!(given.keys, export::Keys::None);
    }

    #[test]
    fn samplers_are_shares() {
        for (sampler, argument, share) in [
            ("", "0.5", None),
            ("always_on", "", Some(1.0)),
            ("always_off", "", Some(0.0)),
            ("parentbased_always_off", "", Some(0.0)),
            ("traceidratio", "0.25", Some(0.25)),
            ("parentbased_traceidratio", "0.25", Some(0.25)),
            ("traceidratio", "", Some(1.0)),
            ("traceidratio", "7", Some(1.0)),
            ("jaeger_remote", "endpoint=x", None),
        ] {
            let found = sampled(|name| {
                Some(
                    if name.ends_with("_ARG") {
                        argument
                    } else {
                        sampler
                    }
                    .to_owned(),
                )
            });
            assert_eq!(found.map(Share::get), share, "{sampler} {argument}");
        }
        let mut nothing = Export::default();
        let off = Surroundings {
            sampled: Some(Share::NONE),
            ..Surroundings::default()
        };
        off.apply(&mut nothing);
        assert!(!nothing.spans.errors && nothing.spans.slow == Slow::None);
    }

    #[test]
    fn refusals_are_one_line() {
        let table = [
            ("--redis-port 11211", "port 11211 is given to both"),
            ("--redis-port 0", "invalid value '0'"),
            ("--redis-port 70000", "invalid value '70000'"),
            ("--redis-port x", "invalid value 'x'"),
            ("--traces-exporter none,otlp", "none cannot be combined"),
            ("--traces-exporter zipkin", "invalid value 'zipkin'"),
            (
                "--traces-exporter console --metrics-exporter jsonl",
                "console and jsonl",
            ),
            ("--duration soon", "invalid value 'soon'"),
            ("--duration 0s", "invalid value '0s'"),
            ("--keys half", "invalid value 'half'"),
            ("--spans-share 2", "invalid value '2'"),
            ("--spans-per-second -1", "unexpected argument '-1'"),
            ("--frobnicate", "unexpected argument '--frobnicate'"),
            ("extra", "unexpected argument 'extra'"),
        ];
        for (arguments, want) in table {
            let error = config(arguments, Surroundings::default()).unwrap_err();
            assert!(error.contains(want), "{arguments}: {error}");
            assert!(!error.contains('\n'), "{arguments}: {error}");
        }
    }
}
