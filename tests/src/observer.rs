//! The built observer, live and in replay.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Folder, Running, eventually, patience};

/// The binary under test.
#[must_use]
pub fn binary() -> PathBuf {
    match std::env::var_os("CACHE_OBSERVER_BIN") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/cache-observer"),
    }
}

/// See [`Options::by`].
pub const FOLDER: &str = "{folder}";

/// How `run` is started.
#[derive(Debug, Default, Clone)]
pub struct Options {
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    traces: Option<String>,
    launcher: Vec<String>,
}

impl Options {
    /// Watches these ports, with spans written as JSON Lines.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes this port as Redis.
    #[must_use]
    pub fn redis(self, port: u16) -> Self {
        self.with("--redis-port", &port.to_string())
    }

    /// Takes this port as Memcached.
    #[must_use]
    pub fn memcached(self, port: u16) -> Self {
        self.with("--memcached-port", &port.to_string())
    }

    /// Exports spans in this way instead.
    #[must_use]
    pub fn traces(mut self, exporter: &str) -> Self {
        self.traces = Some(exporter.to_owned());
        self
    }

    /// A further option.
    #[must_use]
    pub fn with(mut self, option: &str, value: &str) -> Self {
        self.arguments.extend([option.to_owned(), value.to_owned()]);
        self
    }

    /// Started by this program with these first arguments, which end with the observer's binary. It may be another user's.
    /// [`FOLDER`] in them stands for the folder that it writes to.
    #[must_use]
    pub fn by<T: AsRef<str>>(mut self, words: &[T]) -> Self {
        self.launcher = words.iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts it and waits until it observes.
    ///
    /// # Errors
    ///
    /// When it ends before, or needs longer than 90 s.
    pub fn start(self) -> Result<Observer> {
        Observer::start(self)
    }
}

/// An observer that is attached; killed when dropped, unless it was stopped.
#[derive(Debug)]
pub struct Observer {
    /// The process.
    pub process: Running,
    /// From its start until it observed.
    pub attached_in: Duration,
    folder: Folder,
}

/// What an observer left behind.
#[derive(Debug)]
pub struct Report {
    /// The spans, in the order they were written.
    pub spans: Vec<Value>,
    /// The metric points, in the order they were written.
    pub metrics: Vec<Value>,
    /// The summary.
    pub summary: Summary,
    /// All of standard error.
    pub log: String,
    /// Exit status.
    pub status: i32,
}

impl Observer {
    fn start(options: Options) -> Result<Self> {
        let folder = Folder::new()?;
        // What runs in the background may have been told to ignore hangups, which those it starts inherit.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP");
        if options.launcher.is_empty() {
            command.arg(binary());
        } else {
            fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
            let path = folder.path().to_str().context("a printable path")?;
            command.args(
                options
                    .launcher
                    .iter()
                    .map(|word| word.replace(FOLDER, path)),
            );
        }
        command.arg("run").arg("--summary").args(&options.arguments);
        command.args([
            "--traces-exporter",
            options.traces.as_deref().unwrap_or("jsonl"),
        ]);
        if !options
            .arguments
            .iter()
            .any(|argument| argument == "--metrics-exporter")
        {
            command.args(["--metrics-exporter", "none"]);
        }
        // A test counts every span, unless it says otherwise.
        if !options
            .arguments
            .iter()
            .any(|argument| argument == "--spans-per-second")
        {
            command.args(["--spans-per-second", "0"]);
        }
        // Ports that are not named have defaults, which belong to others here.
        let named = |option: &str| options.arguments.iter().any(|argument| argument == option);
        for (option, unused) in [
            ("--redis-port", "1"),
            ("--memcached-port", "2"),
            ("--redis-socket", "none"),
            ("--memcached-socket", "none"),
        ] {
            // A file names all.
            if !named(option) && !named("--config") {
                command.args([option, unused]);
            }
        }
        if !options
            .arguments
            .iter()
            .any(|argument| argument == "--output")
        {
            command.arg("--output").arg(folder.path().join("lines"));
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        command.envs(&options.environment).stdin(Stdio::null());
        command.stdout(File::create(folder.path().join("stdout"))?);
        command.stderr(File::create(folder.path().join("stderr"))?);
        let begun = Instant::now();
        let mut process = Running::start(&mut command)?;
        let log = folder.path().join("stderr");
        // Long, for a slow machine: an emulated one with other work took 9 s.
        eventually(
            Duration::from_secs(90),
            "the observer says that it observes",
            || {
                let text = fs::read_to_string(&log)?;
                if let Some(status) = process.child().try_wait()? {
                    bail!(
                        "the observer, which `cargo xtask build` makes, ended at once: {status}\n{text}"
                    );
                }
                Ok(text.contains("observing"))
            },
        )?;
        Ok(Self {
            process,
            attached_in: begun.elapsed(),
            folder,
        })
    }

    /// All that it has said on standard error so far.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("stderr"))?)
    }

    /// The spans written so far.
    ///
    /// # Errors
    ///
    /// When a whole line is no JSON.
    pub fn spans(&self) -> Result<Vec<Value>> {
        Ok(lines(&self.folder.path().join("lines"), "span")?.0)
    }

    /// The metric points written so far.
    ///
    /// # Errors
    ///
    /// When a whole line is no JSON.
    pub fn metrics(&self) -> Result<Vec<Value>> {
        Ok(lines(&self.folder.path().join("lines"), "span")?.1)
    }

    /// Its peak of resident memory, bytes.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn peak_memory(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    /// Its resident memory, bytes.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn memory(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    fn status(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name}"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Stops it as Ctrl-C does, which must take less than 5 s and end with status 0.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn stop(self) -> Result<Report> {
        let report = self.stop_by(Signal::INT)?;
        ensure!(
            report.status == 0,
            "status {} after SIGINT\n{}",
            report.status,
            report.log
        );
        Ok(report)
    }

    /// Stops it by a signal.
    ///
    /// # Errors
    ///
    /// When it does not end within 5 s, or leaves no summary.
    pub fn stop_by(self, signal: Signal) -> Result<Report> {
        // What the last client has received is still on its way through the ring.
        std::thread::sleep(Duration::from_millis(300));
        self.process.signal(signal)?;
        self.finish(Duration::from_secs(5))
    }

    /// Waits for its own end.
    ///
    /// # Errors
    ///
    /// When it does not end in time, or leaves no summary.
    pub fn finish(mut self, limit: Duration) -> Result<Report> {
        let status = self.process.wait(limit)?;
        let path = |name: &str| self.folder.path().join(name);
        let log = fs::read_to_string(path("stderr"))?;
        let (spans, metrics) = match path("lines").exists() {
            true => lines(&path("lines"), "span")?,
            false => (Vec::new(), Vec::new()),
        };
        let summary = Summary::from_lines(&fs::read_to_string(path("stdout"))?)
            .with_context(|| log.clone())?;
        summary.closes().with_context(|| log.clone())?;
        Ok(Report {
            spans,
            metrics,
            summary,
            log,
            status,
        })
    }
}

impl Report {
    /// The backend that was in use, as the log says.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn backend(&self) -> Result<&str> {
        let words = self.log.split_whitespace();
        let mut named = words.filter_map(|word| word.strip_prefix("backend="));
        named.next().context("the log names no backend")
    }

    /// The last value of a metric, added up over those of its series that have these attributes.
    #[must_use]
    pub fn metric(&self, name: &str, attributes: &[(&str, &str)]) -> f64 {
        let wanted = |point: &&Value| {
            let has = |(key, value): &(&str, &str)| point["attributes"][*key] == *value;
            point["name"] == name && attributes.iter().all(has)
        };
        let mut last = BTreeMap::new();
        for point in self.metrics.iter().filter(wanted) {
            let series = (
                point["resource"].to_string(),
                point["attributes"].to_string(),
            );
            last.insert(series, point["value"].as_f64().unwrap_or(0.0));
        }
        last.values().sum()
    }

    /// The spans of one operation.
    #[must_use]
    pub fn of(&self, operation: &str) -> Vec<&Value> {
        self.spans
            .iter()
            .filter(|span| span["attributes"]["db.operation.name"] == operation)
            .collect()
    }
}

/// Whole lines of a file: those of this type, and all others.
fn lines(path: &Path, kind: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let text = fs::read_to_string(path)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parsed: Vec<Value> = whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
        .collect::<Result<_>>()?;
    Ok(parsed.into_iter().partition(|line| line["type"] == kind))
}

/// The line of `--summary`.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary(pub Value);

impl Summary {
    fn from_lines(stdout: &str) -> Result<Self> {
        let line = stdout
            .lines()
            .rev()
            .find(|line| line.contains("\"summary\""))
            .context("no summary line")?;
        Ok(Self(serde_json::from_str(line)?))
    }

    /// One of the totals: `connections`, `lost_bytes` …
    #[must_use]
    pub fn total(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or(0)
    }

    /// A number of one operation: `count`, `hits`, `misses`, `errors`, `value_bytes`. What was never seen is 0.
    #[must_use]
    pub fn of(&self, system: &str, operation: &str, number: &str) -> u64 {
        self.0["operations"][system][operation][number]
            .as_u64()
            .unwrap_or(0)
    }
}

mod ledger;

/// Runs a replay and gives all that it printed and wrote.
///
/// # Errors
///
/// When it fails.
pub fn replayed(file: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Vec<u8>> {
    let folder = Folder::new()?;
    let lines = folder.path().join("lines");
    let mut command = Command::new(binary());
    command
        .arg("replay")
        .arg(file)
        .arg("--summary")
        .args(arguments);
    command.arg("--output").arg(&lines).stdin(Stdio::null());
    command.envs(variables.iter().copied());
    let stderr = folder.path().join("stderr");
    let output = command.stderr(File::create(&stderr)?).output()?;
    let mut all = output.stdout;
    all.extend(fs::read(stderr)?);
    let error = String::from_utf8_lossy(&all).into_owned();
    ensure!(output.status.success(), "{}: {error}", output.status);
    if lines.exists() {
        all.extend(fs::read(lines)?);
    }
    Ok(all)
}

/// `cache-observer` with these arguments, run to its end.
///
/// # Errors
///
/// When it is not built, or goes on for more than 30 s.
pub fn call(arguments: &[&str]) -> Result<Output> {
    let limit = patience(Duration::from_secs(30)).as_secs().to_string();
    let mut command = Command::new("timeout");
    command.arg(limit).arg(binary()).args(arguments);
    Ok(command.stdin(Stdio::null()).output()?)
}

/// `replay` of one file with spans as JSON Lines: output as it is, spans and summary.
///
/// # Errors
///
/// When it prints something else.
pub fn replay(file: &Path, arguments: &[&str]) -> Result<(Output, Vec<Value>, Option<Summary>)> {
    let name = file.to_str().context("a printable path")?;
    let folder = Folder::new()?;
    let path = folder.path().join("lines");
    let lines_path = path.to_str().context("a printable path")?;
    let mut all = vec!["replay", name, "--summary", "--metrics-exporter", "none"];
    all.extend(["--traces-exporter", "jsonl", "--output", lines_path]);
    all.extend(arguments);
    let output = call(&all)?;
    let spans = match path.exists() {
        true => lines(&path, "span")?.0,
        false => Vec::new(),
    };
    let summary = Summary::from_lines(&String::from_utf8_lossy(&output.stdout)).ok();
    if let Some(summary) = &summary {
        summary.closes()?;
    }
    Ok((output, spans, summary))
}
