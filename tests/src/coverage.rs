//! What a run of the tests has covered: `cargo xtask test` says it at the end.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;

use anyhow::{Context, Result};

/// A kind of thing that is covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A command of a real server, by its name, with a space before a subcommand.
    Command,
    /// A client program or library, with its version where it is pinned.
    Client,
    /// A capture file, by its name.
    Capture,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Command => "command",
            Kind::Client => "client",
            Kind::Capture => "capture",
        })
    }
}

/// Notes that `name` was covered by a test that is about to pass. Said twice it counts once. Does nothing where nobody
/// asked for it, as under plain `cargo test`.
///
/// # Errors
///
/// When the file that was asked for cannot be written.
pub fn note(kind: Kind, name: &str) -> Result<()> {
    let Some(path) = std::env::var_os("CACHE_OBSERVER_COVERAGE") else {
        return Ok(());
    };
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    // One write: test programs append to it at the same time.
    Ok(file.write_all(format!("{kind} {name}\n").as_bytes())?)
}
