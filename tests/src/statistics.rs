//! What a Redis server says it has done, beside what the observer says it has seen.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::client::{Redis, Reply};
use crate::observer::Summary;

/// How often a command came, and how often it failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls, those that were refused among them.
    pub count: u64,
    /// Errors, refusals among them.
    pub errors: u64,
}

impl Counts {
    /// So many of them, so many with an error.
    #[must_use]
    pub fn new(count: u64, errors: u64) -> Self {
        Self { count, errors }
    }
}

/// A server's own statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    /// By name, in capitals; subcommands are counted with their command.
    pub commands: BTreeMap<String, Counts>,
    /// `keyspace_hits`.
    pub hits: u64,
    /// `keyspace_misses`.
    pub misses: u64,
}

impl Statistics {
    /// Asks the server. The question itself is counted.
    ///
    /// # Errors
    ///
    /// When the connection ends, or the answer is none to INFO.
    pub fn of(redis: &mut Redis) -> Result<Self> {
        Self::section(redis, "everything")
    }

    /// As [`Self::of`], but only hits and misses.
    ///
    /// # Errors
    ///
    /// When the connection ends, or the answer is none to INFO.
    pub fn keyspace(redis: &mut Redis) -> Result<Self> {
        Self::section(redis, "stats")
    }

    fn section(redis: &mut Redis, section: &str) -> Result<Self> {
        let Reply::Bulk(Some(info)) = redis.command(&["INFO", section])? else {
            bail!("INFO is answered by a text");
        };
        let mut statistics = Self {
            commands: BTreeMap::new(),
            hits: 0,
            misses: 0,
        };
        // It is counted when it is done.
        statistics.add("INFO", Counts::new(1, 0));
        for line in String::from_utf8(info)?.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            match name.strip_prefix("cmdstat_") {
                Some(name) => {
                    let number = |wanted: &str| -> Result<u64> {
                        let value = value
                            .split(',')
                            .find_map(|part| part.strip_prefix(wanted))
                            .with_context(|| format!("no {wanted} in {line}"))?;
                        Ok(value.parse()?)
                    };
                    let rejected = number("rejected_calls=")?;
                    let counts = Counts::new(
                        number("calls=")? + rejected,
                        number("failed_calls=")? + rejected,
                    );
                    statistics.add(name, counts);
                }
                None if name == "keyspace_hits" => statistics.hits = value.parse()?,
                None if name == "keyspace_misses" => statistics.misses = value.parse()?,
                None => {}
            }
        }
        Ok(statistics)
    }

    /// Counts what the server leaves out: commands that it does not know, or that MULTI has queued and nobody has run.
    pub fn add(&mut self, name: &str, counts: Counts) {
        let name = name.split('|').next().unwrap_or(name);
        let entry = self.commands.entry(name.to_ascii_uppercase()).or_default();
        entry.count += counts.count;
        entry.errors += counts.errors;
    }

    /// Takes off what the server counts beyond what can be seen.
    pub fn remove(&mut self, name: &str, counts: Counts) {
        let entry = self.commands.entry(name.to_ascii_uppercase()).or_default();
        entry.count = entry.count.saturating_sub(counts.count);
        entry.errors = entry.errors.saturating_sub(counts.errors);
    }

    /// What has been counted since `earlier`: modules call commands while the server starts.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        for (name, counts) in &earlier.commands {
            self.remove(name, *counts);
        }
        self.hits -= earlier.hits;
        self.misses -= earlier.misses;
        self
    }

    /// Compares them with what the observer has seen of the same server, command by command.
    ///
    /// # Errors
    ///
    /// When they differ: with each difference.
    pub fn compare(&self, summary: &Summary) -> Result<()> {
        let mut seen = BTreeMap::<String, Counts>::new();
        for (name, numbers) in summary.0["operations"]["redis"]
            .as_object()
            .into_iter()
            .flatten()
        {
            let name = name.split(' ').next().unwrap_or(name);
            let entry = seen.entry(name.to_owned()).or_default();
            entry.count += numbers["count"].as_u64().unwrap_or(0);
            entry.errors += numbers["errors"].as_u64().unwrap_or(0);
        }
        let mut differences = Vec::new();
        for name in self.commands.keys().chain(seen.keys()) {
            let of =
                |counts: &BTreeMap<String, Counts>| counts.get(name).copied().unwrap_or_default();
            let (server, observer) = (of(&self.commands), of(&seen));
            if server != observer {
                differences.push(format!("{name}: server {server:?}, observer {observer:?}"));
            }
        }
        differences.sort();
        differences.dedup();
        if !differences.is_empty() {
            bail!("{}\n{}", differences.join("\n"), summary.0);
        }
        Ok(())
    }
}
