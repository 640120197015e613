//! Reading the file again while running.

use std::ffi::OsString;

use super::cli::Command;
use super::effective::{Entry, changed};
use super::load::{Loaded, load};
use super::{Config, Surroundings};

/// Knows what is in effect, and reads the file again.
#[derive(Debug)]
pub struct Reloader {
    arguments: Vec<OsString>,
    /// As of the start: what cannot be reloaded is still like this.
    start: Vec<Entry>,
    /// As of the last reload.
    current: Vec<Entry>,
}

/// What came of it.
#[derive(Debug)]
pub struct Reloaded {
    /// The new configuration. What cannot be reloaded is not to be taken from it.
    pub config: Config,
    /// Keys whose new values hold from now on.
    pub applied: Vec<String>,
    /// Keys that differ from what is in effect and need a restart.
    pub restart: Vec<String>,
}

impl Reloader {
    /// `None` where there is no file. `config` was made of `loaded`, and that of `arguments`.
    #[must_use]
    pub fn new(arguments: Vec<OsString>, loaded: &Loaded, config: &Config) -> Option<Self> {
        loaded.file()?;
        let start = loaded.effective(config);
        Some(Self {
            arguments,
            current: start.clone(),
            start,
        })
    }

    /// Reads the file again.
    ///
    /// # Errors
    ///
    /// One line for people when it cannot be used; all stays as it was then.
    pub fn reload(&mut self) -> Result<Reloaded, String> {
        let surroundings = Surroundings::look();
        let loaded = load(&self.arguments, surroundings).map_err(|error| error.to_string())?;
        let Command::Run(run) = &loaded.cli.command else {
            return Err("only run reads its configuration again".to_owned());
        };
        let config = Config::new(&run.common, &loaded.tables, surroundings)
            .map_err(|error| error.to_string())?;
        let new = loaded.effective(&config);
        let mut applied = changed(&self.current, &new);
        applied.retain(|path| is_reloadable(path));
        let mut restart = changed(&self.start, &new);
        restart.retain(|path| !is_reloadable(path));
        self.current = new;
        Ok(Reloaded {
            config,
            applied,
            restart,
        })
    }
}

/// Whether a value can change while running: all that is looked at for each connection and process anew.
fn is_reloadable(path: &str) -> bool {
    let table = path.split(['.', '[']).next().unwrap_or_default();
    matches!(
        table,
        "redis-port"
            | "memcached-port"
            | "keys"
            | "naming"
            | "key-patterns"
            | "servers"
            | "caches"
            | "spans"
            | "redaction"
            | "rules"
    )
}
