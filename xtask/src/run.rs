//! `run`: builds, becomes root, observes this host.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{build, demo, setup, shell};

/// How to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Start a Redis and a Memcached server with a small workload, to have something to see.
    #[arg(long)]
    demo: bool,
    /// Options of `cache-observer run`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn task(options: &Options) -> Result<ExitCode> {
    let binary = build::task()?;
    let mut observer = shell::as_root(&binary)?;
    observer.arg("run");
    if options.demo {
        setup::demo()?;
        let demo = demo::Demo::start()?;
        observer.args(demo.arguments());
        // A demonstration is to be seen, also where standard output is no terminal.
        let chosen = |argument: &String| argument.starts_with("--traces-exporter");
        if !options.arguments.iter().any(chosen) {
            observer.args(["--traces-exporter", "console"]);
        }
        observer.args(&options.arguments);
        return watch(&mut observer);
    }
    // Signals, terminal and exit status are the observer's own from here on.
    let error = observer.args(&options.arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}

/// Waits for the observer; signals are for it, and this process outlives it to stop the demonstration.
fn watch(observer: &mut Command) -> Result<ExitCode> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let mut child = observer.spawn().context("cannot start the observer")?;
    let mut interrupted = None;
    loop {
        if let Some(status) = child.try_wait()? {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
        for signal in signals.pending() {
            match signal {
                // A terminal has sent it to the observer too. If it came from elsewhere, it is passed on below.
                SIGINT => interrupted = Some(Instant::now() + Duration::from_secs(1)),
                _ => interrupted = Some(Instant::now()),
            }
        }
        if interrupted.is_some_and(|at| at <= Instant::now()) {
            interrupted = None;
            stop(&child)?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks the observer, which may run as root, to end.
pub(crate) fn stop(child: &Child) -> Result<()> {
    shell::run(
        shell::as_root("kill")?
            .arg("-TERM")
            .arg(child.id().to_string()),
    )
}
