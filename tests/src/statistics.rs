//! What a Redis server says it has done, beside what the observer says it has seen.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::client::{Redis, Reply};
use crate::observer::{Report, Summary};
use crate::topology::commands;

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

    fn plus(&mut self, other: Self) {
        self.count += other.count;
        self.errors += other.errors;
    }

    fn minus(self, other: Self) -> Option<Self> {
        Some(Self {
            count: self.count.checked_sub(other.count)?,
            errors: self.errors.checked_sub(other.errors)?,
        })
    }
}

/// A server's own statistics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// By name, in capitals; subcommands are counted with their command.
    pub commands: BTreeMap<String, Counts>,
    /// How often each error was the answer, by its first word: refusals and redirects, too.
    pub codes: BTreeMap<String, u64>,
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
        let mut statistics = Self::default();
        // It is counted when it is done.
        statistics.add("INFO", Counts::new(1, 0));
        for line in String::from_utf8(info)?.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let number = |wanted: &str| -> Result<u64> {
                let value = value
                    .split(',')
                    .find_map(|part| part.strip_prefix(wanted))
                    .with_context(|| format!("no {wanted} in {line}"))?;
                Ok(value.parse()?)
            };
            if let Some(name) = name.strip_prefix("cmdstat_") {
                let rejected = number("rejected_calls=")?;
                let count = number("calls=")? + rejected;
                let errors = number("failed_calls=")? + rejected;
                statistics.add(name, Counts::new(count, errors));
            } else if let Some(code) = name.strip_prefix("errorstat_") {
                statistics.codes.insert(code.to_owned(), number("count=")?);
            } else if name == "keyspace_hits" {
                statistics.hits = value.parse()?;
            } else if name == "keyspace_misses" {
                statistics.misses = value.parse()?;
            }
        }
        Ok(statistics)
    }

    /// What the server has of a command.
    #[must_use]
    pub fn of_command(&self, name: &str) -> Counts {
        self.commands.get(name).copied().unwrap_or_default()
    }

    /// Counts what the server leaves out: commands that it does not know, or that MULTI has queued and nobody has run.
    pub fn add(&mut self, name: &str, counts: Counts) {
        let name = name.split('|').next().unwrap_or(name);
        let entry = self.commands.entry(name.to_ascii_uppercase()).or_default();
        entry.plus(counts);
    }

    /// Takes off what the server counts beyond what can be seen: calls inside scripts, redirects as errors.
    ///
    /// # Errors
    ///
    /// When the server has not counted as much.
    pub fn remove(&mut self, name: &str, counts: Counts) -> Result<()> {
        let entry = self.commands.entry(name.to_ascii_uppercase()).or_default();
        *entry = entry
            .minus(counts)
            .with_context(|| format!("{name}: {entry:?}, and {counts:?} of them"))?;
        Ok(())
    }

    /// What has been counted since `earlier`: by servers that were asked something before they were observed.
    ///
    /// # Errors
    ///
    /// When it was less than then.
    pub fn since(mut self, earlier: &Self) -> Result<Self> {
        for (name, counts) in &earlier.commands {
            self.remove(name, *counts)?;
        }
        for (code, number) in &earlier.codes {
            let entry = self.codes.entry(code.clone()).or_default();
            let left = entry.checked_sub(*number);
            *entry = left.with_context(|| format!("{code}: {entry}, and {number} before"))?;
        }
        self.codes.retain(|_, number| *number > 0);
        let less = |now: u64, before| now.checked_sub(before).context("fewer lookups than before");
        self.hits = less(self.hits, earlier.hits)?;
        self.misses = less(self.misses, earlier.misses)?;
        Ok(self)
    }

    /// What this server and another have counted.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (name, counts) in &other.commands {
            self.add(name, *counts);
        }
        for (code, number) in &other.codes {
            *self.codes.entry(code.clone()).or_default() += number;
        }
        self.hits += other.hits;
        self.misses += other.misses;
        self
    }

    /// Compares calls and errors, command by command, with all that the observer has seen of Redis.
    ///
    /// They are the same, with one exception: libraries try subcommands of CLIENT that an older server does not know,
    /// and it counts those nowhere. So the observer may have more of CLIENT, each of these an error.
    ///
    /// # Errors
    ///
    /// When they differ: with each difference.
    pub fn compare(&self, summary: &Summary) -> Result<()> {
        let of = |numbers: &Value, number: &str| numbers[number].as_u64().unwrap_or(0);
        let operations = summary.0["operations"]["redis"].as_object();
        let seen = operations.into_iter().flatten().map(|(name, numbers)| {
            let counts = Counts::new(of(numbers, "count"), of(numbers, "errors"));
            (name.as_str(), counts)
        });
        self.compare_with(seen)
            .with_context(|| summary.0.to_string())
    }

    /// As [`Self::compare`], with the spans of one server. There must be one for each command.
    ///
    /// # Errors
    ///
    /// When they differ: with each difference.
    pub fn compare_spans(&self, report: &Report, port: u16) -> Result<()> {
        let spans = commands(report).filter(|span| span["attributes"]["server.port"] == port);
        let seen = spans.map(|span| {
            let name = span["attributes"]["db.operation.name"].as_str();
            let failed = span["status"]["code"] == "ERROR";
            (name.unwrap_or_default(), Counts::new(1, u64::from(failed)))
        });
        self.compare_with(seen)
    }

    fn compare_with<'a>(&self, seen: impl Iterator<Item = (&'a str, Counts)>) -> Result<()> {
        let mut observer = Self::default();
        for (name, counts) in seen {
            observer.add(name.split(' ').next().unwrap_or(name), counts);
        }
        let names: BTreeSet<_> = self
            .commands
            .keys()
            .chain(observer.commands.keys())
            .collect();
        let mut differences = Vec::new();
        for name in names {
            let (server, observer) = (self.of_command(name), observer.of_command(name));
            let unknown = |more: Counts| name == "CLIENT" && more.count == more.errors;
            if server != observer && !observer.minus(server).is_some_and(unknown) {
                differences.push(format!("{name}: server {server:?}, observer {observer:?}"));
            }
        }
        if !differences.is_empty() {
            bail!("{}", differences.join("\n"));
        }
        Ok(())
    }

    /// Compares hits and misses with those of all that the observer has seen of Redis. For commands that look for keys:
    /// what they find inside of one counts for the observer alone.
    ///
    /// # Errors
    ///
    /// When they differ.
    pub fn compare_keyspace(&self, summary: &Summary) -> Result<()> {
        let operations = summary.0["operations"]["redis"].as_object();
        let sum = |number: &str| -> u64 {
            let all = operations.into_iter().flatten();
            all.filter_map(|(_, numbers)| numbers[number].as_u64())
                .sum()
        };
        let (server, observer) = ([self.hits, self.misses], ["hits", "misses"].map(sum));
        if server != observer {
            bail!(
                "hits and misses: server {server:?}, observer {observer:?}\n{}",
                summary.0
            );
        }
        Ok(())
    }
}
