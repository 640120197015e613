//! The command line, and the environment variables that stand for its options.

use std::ffi::OsStr;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, Args, CommandFactory, Parser, Subcommand, ValueEnum};

use super::export::{ExportArguments, Keys};
use super::sockets::SocketArgument;

/// Observe Redis and Memcached traffic without touching any application.
#[derive(Debug, Parser)]
#[command(name = "cache-observer", version, about, long_about = None)]
pub struct Cli {
    /// Configuration file (TOML): every option, and what has none; options and variables stand before it
    #[arg(
        long,
        global = true,
        env = "CACHE_OBSERVER_CONFIG",
        value_name = "FILE"
    )]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Observe this host (as root, or with the capabilities that `doctor` lists)
    Run(Run),
    /// Read captures (pcap, pcapng) and recordings: same answers, no root, no kernel
    Replay(Replay),
    /// Write what the kernel sends to a file, for a later replay; values and credentials are zeroed
    Record(Record),
    /// Say what this kernel and user allow, and what to do
    Doctor(Doctor),
    /// Write man pages and shell completions; for those who make packages
    #[command(hide = true)]
    Generate(Generate),
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// What is watched and reported.
    #[command(flatten)]
    pub common: Common,
    /// How this host is looked at.
    #[command(flatten)]
    pub live: LiveArguments,
    /// Where the prometheus exporter serves /metrics [default: 127.0.0.1:9464]
    #[arg(long, env = "CACHE_OBSERVER_PROMETHEUS_LISTEN", value_parser = address, value_name = "ADDR")]
    pub prometheus_listen: Option<SocketAddr>,
    /// Where /healthz and /readyz are served; may be the same address [default: nowhere]
    #[arg(long, env = "CACHE_OBSERVER_HEALTH_LISTEN", value_parser = address, value_name = "ADDR")]
    pub health_listen: Option<SocketAddr>,
    /// The node.
    #[command(flatten)]
    pub node: NodeArguments,
    /// Print the configuration in effect as a file, with each value's origin, and stop
    #[arg(long)]
    pub print_config: bool,
}

/// Options of `replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// Captures and recordings, read one after the other
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What is read and reported.
    #[command(flatten)]
    pub common: Common,
}

/// Options of `record`.
#[derive(Debug, Args)]
pub struct Record {
    /// The recording, created or emptied
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Ports.
    #[command(flatten)]
    pub ports: PortArguments,
    /// Unix sockets.
    #[command(flatten)]
    pub sockets: SocketArguments,
    /// Which end of a connection is recorded; `auto`: the client's, the server's where the client is elsewhere
    #[arg(
        long,
        env = "CACHE_OBSERVER_ROLE",
        value_enum,
        default_value_t,
        value_name = "ROLE"
    )]
    pub role: RoleArgument,
    /// How every key appears, as long as it is: itself, one of the same pattern, an alias, or not at all [default: full]
    #[arg(
        long,
        env = "CACHE_OBSERVER_KEYS",
        value_enum,
        value_name = "full|pattern|hash|none",
        hide_possible_values = true
    )]
    pub keys: Option<Keys>,
    /// How this host is looked at.
    #[command(flatten)]
    pub live: LiveArguments,
    /// Read this capture instead of the kernel: a copy of it without values and credentials
    #[arg(long, value_name = "CAPTURE")]
    pub from: Option<PathBuf>,
    /// The node.
    #[command(flatten)]
    pub node: NodeArguments,
}

impl Record {
    /// What it has in common with observing.
    #[must_use]
    pub fn common(&self) -> Common {
        Common {
            ports: self.ports.clone(),
            sockets: self.sockets.clone(),
            role: self.role,
            traces_exporter: vec![Exporter::None],
            metrics_exporter: vec![Exporter::None],
            export: ExportArguments {
                keys: self.keys,
                ..ExportArguments::default()
            },
            output: None,
            summary: false,
        }
    }
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Ports.
    #[command(flatten)]
    pub ports: PortArguments,
}

/// How this host is looked at.
#[derive(Debug, Args)]
pub struct LiveArguments {
    /// Kernel hooks; `auto` takes the first that loads: fentry, kprobe, tracepoint
    #[arg(
        long,
        env = "CACHE_OBSERVER_BACKEND",
        value_enum,
        default_value_t,
        value_name = "BACKEND"
    )]
    pub backend: BackendArgument,
    /// Stop after this time, such as 10s or 5m [default: at SIGINT or SIGTERM]
    #[arg(long, env = "CACHE_OBSERVER_DURATION", value_parser = duration, value_name = "T")]
    pub duration: Option<Duration>,
    /// Keep all privileges and system calls after the start, to find out whether a fault comes of giving them up
    #[arg(long, env = "CACHE_OBSERVER_UNCONFINED")]
    pub unconfined: bool,
}

/// Options of `generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// A folder that is there
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}

/// Ports.
#[derive(Debug, Clone, Args)]
pub struct PortArguments {
    /// Ports taken as Redis
    #[arg(long, env = "CACHE_OBSERVER_REDIS_PORT", value_delimiter = ',', default_value = "6379",
        value_parser = clap::value_parser!(u16).range(1..), value_name = "P[,P…]")]
    pub redis_port: Vec<u16>,
    /// Ports taken as Memcached
    #[arg(long, env = "CACHE_OBSERVER_MEMCACHED_PORT", value_delimiter = ',', default_value = "11211",
        value_parser = clap::value_parser!(u16).range(1..), value_name = "P[,P…]")]
    pub memcached_port: Vec<u16>,
}

/// What is observed.
#[derive(Debug, Clone, Args)]
pub struct NodeArguments {
    /// Name of the Kubernetes node, for `k8s.node.name` [default: none]
    #[arg(long, env = "K8S_NODE_NAME", value_parser = node_name, value_name = "NAME")]
    pub node_name: Option<String>,
}

/// Unix sockets.
#[derive(Debug, Clone, Args)]
pub struct SocketArguments {
    /// Unix sockets taken as Redis, named as the server binds them, `@` before abstract names; `auto`: those of redis-server,
    /// valkey-server and keydb-server; `none`
    #[arg(long, env = "CACHE_OBSERVER_REDIS_SOCKET", value_delimiter = ',', default_value = "auto",
        value_parser = str::parse::<SocketArgument>, value_name = "PATH[,PATH…]")]
    pub redis_socket: Vec<SocketArgument>,
    /// Unix sockets taken as Memcached; `auto`: those of memcached
    #[arg(long, env = "CACHE_OBSERVER_MEMCACHED_SOCKET", value_delimiter = ',', default_value = "auto",
        value_parser = str::parse::<SocketArgument>, value_name = "PATH[,PATH…]")]
    pub memcached_socket: Vec<SocketArgument>,
}

/// Options common to `run` and `replay`.
#[derive(Debug, Args)]
pub struct Common {
    /// Ports.
    #[command(flatten)]
    pub ports: PortArguments,
    /// Unix sockets.
    #[command(flatten)]
    pub sockets: SocketArguments,
    /// Which end of a connection is reported; `auto`: the client's, the server's where the client is elsewhere
    #[arg(
        long,
        env = "CACHE_OBSERVER_ROLE",
        value_enum,
        default_value_t,
        value_name = "ROLE"
    )]
    pub role: RoleArgument,
    /// Where spans go [default: otlp if an endpoint is set, else console on a terminal, else none]
    #[arg(
        long,
        env = "OTEL_TRACES_EXPORTER",
        value_enum,
        value_delimiter = ',',
        value_name = "LIST"
    )]
    pub traces_exporter: Vec<Exporter>,
    /// Where metrics go [default: otlp if an endpoint is set, else none]
    #[arg(
        long,
        env = "OTEL_METRICS_EXPORTER",
        value_enum,
        value_delimiter = ',',
        value_name = "LIST"
    )]
    pub metrics_exporter: Vec<Exporter>,
    /// What of a span leaves, and how it is named.
    #[command(flatten)]
    pub export: ExportArguments,
    /// Where console and jsonl write [default: standard output]
    #[arg(long, env = "CACHE_OBSERVER_OUTPUT", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print one JSON summary line at the end, on standard output
    #[arg(long, env = "CACHE_OBSERVER_SUMMARY")]
    pub summary: bool,
}

/// Kernel hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum BackendArgument {
    /// The first that loads.
    #[default]
    Auto,
    /// BPF trampolines.
    Fentry,
    /// kprobes and kretprobes.
    Kprobe,
    /// Raw tracepoints.
    Tracepoint,
}

/// Which end of a connection is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum RoleArgument {
    /// The client's end; the server's where the client is on another host.
    #[default]
    Auto,
    /// Clients' ends only.
    Client,
    /// Servers' ends only.
    Server,
    /// Every end; those of one connection as a pair.
    Both,
}

/// Where spans or metrics go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Exporter {
    /// For people.
    Console,
    /// JSON, one object a line.
    Jsonl,
    /// An OpenTelemetry collector.
    Otlp,
    /// Whoever scrapes; metrics only.
    Prometheus,
    /// Nowhere.
    None,
}

/// `127.0.0.1:9464`, `[::1]:9464`, `localhost:9464`.
fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| error.to_string())?;
    found
        .next()
        .ok_or_else(|| "the host has no address".to_owned())
}

/// Whether this may be a DNS subdomain, which names of Kubernetes are.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(allowed)
}

fn node_name(text: &str) -> Result<String, String> {
    match is_subdomain(text) {
        true => Ok(text.to_owned()),
        false => Err("not 1 to 253 letters, digits, - and .".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// The command line. A variable that is set but empty stands for nothing, as the OpenTelemetry specifications ask.
#[must_use]
pub fn command() -> clap::Command {
    fn of_value(argument: Arg) -> Arg {
        let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|text| text.is_empty());
        match argument.get_env().is_some_and(is_empty) {
            true => argument.env(Resettable::Reset),
            false => argument,
        }
    }
    Cli::command().mut_subcommands(|command| command.mut_args(of_value))
}

/// A refusal of clap's as one line, without usage and hints.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let message: Vec<&str> = text
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .map(str::trim)
        .collect();
    message.join(" ").trim_start_matches("error: ").to_owned()
}
