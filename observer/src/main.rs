//! `cache-observer`: the command line. Only here are exit codes decided.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use observer::config::cli::{Cli, Command, one_line};
use observer::config::{Config, LiveConfig, Surroundings};
use observer::pipeline::{self, Failure};
use tracing_subscriber::EnvFilter;

/// Something failed that is not the user's doing.
const FAILED: u8 = 1;
/// Wrong arguments, ports, files, addresses.
const USAGE: u8 = 2;
/// Privileges or kernel features are missing.
const UNSUPPORTED: u8 = 3;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let filter =
        EnvFilter::try_from_env("CACHE_OBSERVER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cache-observer: {failure}");
            ExitCode::from(match failure {
                Failure::Usage(_) | Failure::Replay(_) => USAGE,
                Failure::Unsupported(_) => UNSUPPORTED,
                Failure::Runtime(_) => FAILED,
            })
        }
    }
}

fn execute(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Run(run) => {
            let config = Config::new(&run.common, Surroundings::look())?;
            let live = LiveConfig {
                backend: run.backend,
                duration: run.duration,
                unconfined: run.unconfined,
            };
            pipeline::run(&config, &live)
        }
        Command::Replay(replay) => {
            let config = Config::new(&replay.common, Surroundings::look())?;
            pipeline::replay(&config, &replay.files)
        }
        Command::Doctor(doctor) => pipeline::doctor(&doctor.ports),
    }
}

/// Help and version go to standard output, a refusal is one line on standard error.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            eprintln!("cache-observer: {}", one_line(error));
            ExitCode::from(USAGE)
        }
    }
}
