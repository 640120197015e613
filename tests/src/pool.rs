//! What a client knows of its pool of connections, beside what the observer says of it.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::observer::Observer;
use crate::process::{Running, eventually};

/// A client program that holds still when it is told to.
#[derive(Debug)]
pub struct Client {
    /// The process.
    pub process: Running,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// When it is not installed.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut process = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let child = process.child();
        let input = child.stdin.take().context("a pipe")?;
        let output = child.stdout.take().context("a pipe")?;
        Ok(Self {
            process,
            input,
            lines: BufReader::new(output).lines(),
        })
    }

    /// What it says of its pool. It goes on with [`Self::go`].
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn hold(&mut self) -> Result<Value> {
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// The next line that it prints.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn line(&mut self) -> Result<String> {
        Ok(self.lines.next().context("the program has ended")??)
    }

    /// Gives it a line.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn say(&mut self, line: &str) -> Result<()> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn go(&mut self) -> Result<()> {
        self.say("go")
    }

    /// It holds for the last time.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn end(mut self) -> Result<()> {
        self.go()?;
        ensure!(self.process.wait(Duration::from_secs(10))? == 0);
        Ok(())
    }
}

/// Points of the pool of one process.
#[derive(Debug)]
pub struct Pool {
    name: String,
    /// The process.
    pub pid: u32,
}

impl Pool {
    /// The pool of a process at a port of this host.
    #[must_use]
    pub fn of(pid: u32, port: u16) -> Self {
        Self::at(pid, &format!("127.0.0.1:{port}"))
    }

    /// The pool of this name of a process.
    #[must_use]
    pub fn at(pid: u32, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pid,
        }
    }

    /// The pool of this process at a port of this host.
    #[must_use]
    pub fn own(port: u16) -> Self {
        Self::of(std::process::id(), port)
    }

    /// The last point of a metric, `value` or `count`; the attribute is another than the pool's name.
    #[must_use]
    pub fn last(
        &self,
        points: &[Value],
        metric: &str,
        attribute: Option<(&str, &str)>,
    ) -> Option<f64> {
        let point = points.iter().rev().find(|point| {
            let attributes = &point["attributes"];
            point["name"] == metric
                && point["resource"]["process.pid"] == self.pid
                && attributes["db.client.connection.pool.name"] == *self.name
                && match attribute {
                    Some((name, value)) => attributes[name] == value,
                    None => attributes["error.type"].is_null(),
                }
        })?;
        point.get("value").or(point.get("count"))?.as_f64()
    }

    /// The last value, or count, of a metric without other attributes; 0 where there is none.
    #[must_use]
    pub fn number(&self, points: &[Value], metric: &str) -> u64 {
        self.last(points, metric, None).unwrap_or(0.0) as u64
    }

    /// Connections in this state.
    #[must_use]
    pub fn state(&self, points: &[Value], state: &str) -> u64 {
        let state = ("db.client.connection.state", state);
        let count = self.last(points, "db.client.connection.count", Some(state));
        count.unwrap_or(0.0) as u64
    }

    /// The last value of a metric with this `error.type`.
    #[must_use]
    pub fn error(&self, points: &[Value], metric: &str, error: &str) -> u64 {
        let count = self.last(points, metric, Some(("error.type", error)));
        count.unwrap_or(0.0) as u64
    }

    /// Idle, used, opened, closed.
    #[must_use]
    pub fn seen(&self, points: &[Value]) -> [u64; 4] {
        [
            self.state(points, "idle"),
            self.state(points, "used"),
            self.number(points, "cache.connection.opened"),
            self.number(points, "cache.connection.closed"),
        ]
    }

    /// Waits until the observer says so, who is a little later than what it observes.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn agrees(&self, observer: &Observer, wanted: [u64; 4]) -> Result<Vec<Value>> {
        let mut points = Vec::new();
        eventually(Duration::from_secs(10), "the observer agrees", || {
            points = observer.metrics()?;
            Ok(self.seen(&points) == wanted)
        })
        .with_context(|| format!("{:?} instead of {wanted:?}", self.seen(&points)))?;
        Ok(points)
    }

    /// The same, with what the client says of its pool.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn agrees_with(&self, observer: &Observer, told: &Value) -> Result<Vec<Value>> {
        let of = |name: &str| told[name].as_u64().with_context(|| format!("no {name}"));
        let (size, used) = (of("size")?, of("used")?);
        self.agrees(observer, [size - used, used, of("opened")?, of("closed")?])
    }
}
