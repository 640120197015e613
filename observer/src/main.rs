//! `cache-observer`: the command line. Only here are exit codes decided.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use observer::config::cli::{Command, one_line};
use observer::config::load::{Loaded, Refusal, load};
use observer::config::reload::Reloader;
use observer::config::{Config, LiveConfig, Surroundings, effective, manual};
use observer::pipeline::{self, Failure};
use tracing_subscriber::EnvFilter;

/// Something failed that is not the user's doing.
const FAILED: u8 = 1;
/// Wrong arguments, ports, files, addresses.
const USAGE: u8 = 2;
/// Privileges or kernel features are missing.
const UNSUPPORTED: u8 = 3;

fn main() -> ExitCode {
    let filter =
        EnvFilter::try_from_env("CACHE_OBSERVER_LOG").unwrap_or_else(|_| EnvFilter::new(level()));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let surroundings = Surroundings::look();
    let loaded = match load(&arguments, surroundings) {
        Ok(loaded) => loaded,
        Err(Refusal::Arguments(error)) => return refuse(&error),
        Err(error) => {
            eprintln!("cache-observer: {error}");
            return ExitCode::from(USAGE);
        }
    };
    match execute(&loaded, surroundings, arguments) {
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

/// `OTEL_LOG_LEVEL`, where it names a level.
fn level() -> &'static str {
    let wanted = std::env::var("OTEL_LOG_LEVEL").unwrap_or_default();
    match wanted.to_ascii_lowercase().as_str() {
        "none" | "off" => "off",
        "error" => "error",
        "warn" | "warning" => "warn",
        "debug" => "debug",
        "trace" | "all" | "verbose" => "trace",
        _ => "info",
    }
}

fn execute(
    loaded: &Loaded,
    surroundings: Surroundings,
    arguments: Vec<OsString>,
) -> Result<(), Failure> {
    match &loaded.cli.command {
        Command::Run(run) => {
            let config = Config::new(&run.common, &loaded.tables, surroundings)?;
            if run.print_config {
                let text = effective::print(&loaded.effective(&config), loaded.file());
                return std::io::stdout()
                    .write_all(text.as_bytes())
                    .map_err(|error| Failure::Runtime(error.to_string()));
            }
            let live = LiveConfig::new(run, &config);
            let reloader = Reloader::new(arguments, loaded, &config);
            pipeline::run(&config, &live, reloader)
        }
        Command::Replay(replay) => {
            let config = Config::new(&replay.common, &loaded.tables, surroundings)?;
            pipeline::replay(&config, &replay.files)
        }
        Command::Record(record) => {
            let config = Config::new(&record.common(), &loaded.tables, surroundings)?;
            pipeline::record(&config, record)
        }
        Command::Doctor(doctor) => pipeline::doctor(&doctor.ports),
        Command::Generate(generate) => manual::write(&generate.folder)
            .map_err(|error| Failure::Runtime(format!("{}: {error}", generate.folder.display()))),
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
