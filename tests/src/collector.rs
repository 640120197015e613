//! A real OTLP collector that prints what arrives.

use std::fs::{self, File};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::namespace::Pair;
use crate::process::{Folder, Running, eventually, tools};
use crate::server::free_port;

/// Has it print all that arrives.
const PRINTING: [&str; 6] = [
    "--debug-log",
    "traces",
    "--debug-log",
    "metrics",
    "--debug-log-verbosity",
    "detailed",
];

/// A collector that is ready.
#[derive(Debug)]
pub struct Collector {
    /// Its port for OTLP over gRPC.
    pub grpc: u16,
    /// Its port for OTLP over HTTP.
    pub http: u16,
    _process: Running,
    folder: Folder,
}

impl Collector {
    /// Starts one on free ports.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn start() -> Result<Self> {
        Self::start_on(free_port()?, free_port()?)
    }

    /// Starts one on these ports.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn start_on(grpc: u16, http: u16) -> Result<Self> {
        let up = |port: u16| Ok(TcpStream::connect(("127.0.0.1", port)).is_ok());
        let command = Command::new(agent()?);
        Self::run(command, "127.0.0.1", [grpc, http], &PRINTING, up)
    }

    /// Starts one on free ports that prints nothing.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn start_quiet() -> Result<Self> {
        let up = |port: u16| Ok(TcpStream::connect(("127.0.0.1", port)).is_ok());
        let ports = [free_port()?, free_port()?];
        Self::run(Command::new(agent()?), "127.0.0.1", ports, &[], up)
    }

    /// Starts one at an end of a pair of network namespaces, on the usual ports.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn start_in(pair: &Pair, end: usize) -> Result<Self> {
        let agent = agent()?;
        let command = pair.inside(end, agent.to_str().context("a printable path")?);
        let up = |port: u16| {
            let listening = pair.shell(end, &format!("ss -Hltn sport = :{port}"))?;
            Ok(!listening.is_empty())
        };
        Self::run(command, Pair::ADDRESSES[end], [4317, 4318], &PRINTING, up)
    }

    fn run(
        mut command: Command,
        address: &str,
        [grpc, http]: [u16; 2],
        options: &[&str],
        up: impl Fn(u16) -> Result<bool>,
    ) -> Result<Self> {
        let folder = Folder::new()?;
        command.args(["start", "--exporter", "blackhole"]);
        command.args(options);
        command.args(["--otlp-grpc-endpoint", &format!("{address}:{grpc}")]);
        command.args(["--otlp-http-endpoint", &format!("{address}:{http}")]);
        let log = File::create(folder.path().join("log"))?;
        command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log);
        let process = Running::start(&mut command)?;
        eventually(
            Duration::from_secs(10),
            "the collector accepts connections",
            || Ok(up(grpc)? && up(http)?),
        )?;
        Ok(Self {
            grpc,
            http,
            _process: process,
            folder,
        })
    }

    /// All that has arrived, printed.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn printed(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("log"))?)
    }

    /// Waits until all of these have arrived.
    ///
    /// # Errors
    ///
    /// When one does not within 20 s.
    pub fn expect(&self, parts: &[&str]) -> Result<()> {
        for part in parts {
            eventually(
                Duration::from_secs(20),
                &format!("the collector prints {part:?}"),
                || Ok(self.printed()?.contains(part)),
            )
            .with_context(|| self.printed().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// The program inside the wheel.
fn agent() -> Result<std::path::PathBuf> {
    let library = tools().join("lib");
    let folders = fs::read_dir(&library).with_context(|| {
        format!(
            "{} is missing: `cargo xtask setup --tests` makes it",
            library.display()
        )
    })?;
    for folder in folders {
        let agent = folder?.path().join("site-packages/rotel/rotel-agent");
        if agent.exists() {
            return Ok(agent);
        }
    }
    anyhow::bail!("no rotel-agent below {}", library.display())
}
