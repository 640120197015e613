//! `soak`: both caches under mixed load for a long time, with clients that come and go. Nothing may be lost without being counted,
//! and neither memory nor descriptors may grow.

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tests::client::{Memcached, Redis};
use tests::load::Load;
use tests::observer::{Observer, Options as Observed, Summary};
use tests::process::Running;
use tests::scrape::{OPENMETRICS, Page};
use tests::server::{Server, free_port};
use tests::statistics::Statistics;

use crate::{build, setup, shell};

/// How long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Minutes of load.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Set by this task when it calls itself as root.
    #[arg(long, hide = true)]
    as_root: bool,
}

/// Between two looks at the observer.
const EVERY: Duration = Duration::from_secs(1);
/// Between two steps of a client: some 5,000 commands a second altogether, and bursts of redis-benchmark on top.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two bursts.
const BURSTS: Duration = Duration::from_secs(5);
/// How much the least memory of the last third may lie above that of the second: what an allocator needs until it has met every
/// size.
const GROWTH: u64 = 3 << 20;
/// Bytes of the smallest request there is here: so many requests at most can be in bytes that were lost.
const SMALLEST: u64 = 4;

/// The observer at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    resident: u64,
    descriptors: usize,
}

/// Soaks, prints a table, writes target/soak.json.
pub(crate) fn task(options: &Options) -> Result<()> {
    if !options.as_root {
        setup::tests()?;
        build::task()?;
        if !shell::is_root() {
            let mut again = shell::as_root(std::env::current_exe()?)?;
            again.args(["soak", "--as-root"]);
            return shell::run(again.args(std::env::args_os().skip(2)));
        }
    }
    soak(Duration::from_secs_f64(options.minutes * 60.0))
}

fn soak(time: Duration) -> Result<()> {
    let (redis, memcached) = (Server::redis()?, Server::memcached()?);
    let listen = free_port()?;
    let observer = Observed::new()
        .redis(redis.port)
        .memcached(memcached.port)
        .with("--spans-per-second", "1000")
        .with("--output", "/dev/null")
        .with("--metrics-exporter", "prometheus")
        .with("--prometheus-listen", &format!("127.0.0.1:{listen}"))
        .start()?;
    let before = Samples::cpu(&observer)?;
    let load = Load::mixed(redis.port, memcached.port, PAUSE)?;
    let mut samples = Samples::default();
    let begun = Instant::now();
    let mut burst: Option<Running> = None;
    let mut next = begun;
    while begun.elapsed() < time {
        thread::sleep(EVERY);
        ensure!(!load.has_ended(), "a client has ended: {:?}", load.stop());
        samples.look(&observer)?;
        Page::scrape(listen, OPENMETRICS)?;
        let over = match &mut burst {
            Some(running) => running.child().try_wait()?.is_some(),
            None => true,
        };
        if over && Instant::now() >= next {
            next += BURSTS;
            burst = Some(bursts(redis.port)?);
        }
    }
    if let Some(mut last) = burst {
        last.wait(Duration::from_secs(60))?;
    }
    load.stop()?;
    let (cpu, peak) = (Samples::cpu(&observer)? - before, observer.peak_memory()?);
    let elapsed = begun.elapsed();
    let server = Statistics::of(&mut Redis::connect(("127.0.0.1", redis.port))?)?;
    let stats = Memcached::connect(("127.0.0.1", memcached.port))?.stats()?;
    // Its ledger is checked by that.
    let report = observer.stop()?;
    let summary = &report.summary;
    let lost = lost(summary);
    if lost == 0 {
        server.compare(summary)?;
    }
    let of = |names: [&str; 2], number: &str| -> u64 {
        names
            .iter()
            .map(|name| summary.of("memcached", name, number))
            .sum()
    };
    let lookups = |number| of(["GET", "MG"], number);
    for (name, seen) in [
        ("get_hits", lookups("hits")),
        ("get_misses", lookups("misses")),
        ("cmd_set", of(["SET", "MS"], "count")),
    ] {
        let counted = stats.get(name).copied().context("memcached counts it")?;
        let most = if lost == 0 { 0 } else { lost / SMALLEST + 1 };
        ensure!(
            seen <= counted && counted - seen <= most,
            "{name}: memcached has {counted}, the observer {seen}; {lost} bytes lost"
        );
    }
    let calls: u64 = server.commands.values().map(|counts| counts.count).sum();
    let seen = operations(summary, "redis");
    ensure!(
        seen <= calls && calls - seen <= lost / SMALLEST + 1,
        "Redis has {calls} commands, the observer {seen}; {lost} bytes lost"
    );
    let spans =
        ["exported", "sampled_out", "dropped"].map(|outcome| summary.ledger(&["spans", outcome]));
    let table = samples.table(&[
        ("minutes", format!("{:.1}", elapsed.as_secs_f64() / 60.0)),
        ("commands, Redis's own count", calls.to_string()),
        ("commands observed, Redis", seen.to_string()),
        (
            "commands observed, Memcached",
            operations(summary, "memcached").to_string(),
        ),
        ("connections", summary.total("connections").to_string()),
        ("bytes arrived", bytes(summary).to_string()),
        ("bytes lost or passed over", lost.to_string()),
        (
            "resynchronisations",
            summary.total("resynchronizations").to_string(),
        ),
        ("unresolved", summary.total("unresolved").to_string()),
        ("spans exported, left out, dropped", format!("{spans:?}")),
        ("processor time of the observer, s", format!("{cpu:.1}")),
        ("peak memory, MiB", format!("{:.1}", mebibytes(peak))),
    ]);
    println!("{table}");
    fs::write(
        shell::target().join("soak.json"),
        json!({"minutes": elapsed.as_secs_f64() / 60.0, "cpu_s": cpu, "peak": peak, "resident": samples.resident(),
               "summary": summary.0})
        .to_string(),
    )?;
    samples.check()
}

/// Twenty clients that come, send 60,000 commands, and go.
fn bursts(port: u16) -> Result<Running> {
    let mut command = std::process::Command::new("redis-benchmark");
    let port = port.to_string();
    command.args([
        "-p", &port, "-c", "20", "-P", "4", "-n", "10000", "-r", "500", "-q",
    ]);
    command.args(["-t", "set,get,incr,lpush,lpop,sadd"]);
    command.stdout(std::process::Stdio::null());
    Running::start(command.stderr(std::process::Stdio::null()))
}

/// Bytes that did not arrive, or were passed over.
fn lost(summary: &Summary) -> u64 {
    let ways = ["sent", "received"].map(|way| summary.ledger(&[way, "ring_full"]));
    let changes = summary.ledger(&["states", "ring_full"]);
    ways.iter().sum::<u64>() + changes + summary.total("lost_bytes")
}

fn bytes(summary: &Summary) -> u64 {
    ["sent", "received"]
        .iter()
        .map(|way| summary.ledger(&[way, "arrived"]))
        .sum()
}

fn operations(summary: &Summary, system: &str) -> u64 {
    let all = summary.0["operations"][system].as_object();
    let counts = all.into_iter().flatten();
    counts
        .filter_map(|(_, numbers)| numbers["count"].as_u64())
        .sum()
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What was seen of the observer, every second.
#[derive(Debug, Default)]
struct Samples(Vec<Sample>);

impl Samples {
    fn look(&mut self, observer: &Observer) -> Result<()> {
        let folder = format!("/proc/{}", observer.process.id());
        self.0.push(Sample {
            resident: observer.memory()?,
            descriptors: fs::read_dir(format!("{folder}/fd"))?.count(),
        });
        Ok(())
    }

    /// Seconds of the processor.
    fn cpu(observer: &Observer) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", observer.process.id()))?;
        let (_, rest) = stat.rsplit_once(')').context("a name in brackets")?;
        let ticks: Vec<f64> = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }

    /// The samples of the second and of the last third: the first is warm-up.
    fn thirds(&self) -> [&[Sample]; 2] {
        let third = self.0.len() / 3;
        [&self.0[third..2 * third], &self.0[2 * third..]]
    }

    fn resident(&self) -> Vec<u64> {
        self.0.iter().map(|sample| sample.resident).collect()
    }

    fn table(&self, rows: &[(&str, String)]) -> String {
        let mut rows: Vec<(&str, String)> = rows.to_vec();
        for (name, samples) in [
            ("memory in the second third, MiB", self.thirds()[0]),
            ("in the last", self.thirds()[1]),
        ] {
            let of = |pick: fn(u64, u64) -> u64| {
                let all = samples.iter().map(|sample| sample.resident);
                mebibytes(all.reduce(pick).unwrap_or(0))
            };
            rows.push((name, format!("{:.1} to {:.1}", of(u64::min), of(u64::max))));
        }
        let descriptors = || self.0.iter().map(|sample| sample.descriptors);
        let (least, most) = (descriptors().min(), descriptors().max());
        rows.push((
            "descriptors",
            format!("{} to {}", least.unwrap_or(0), most.unwrap_or(0)),
        ));
        let mut table = String::from("| | |\n|---|---:|\n");
        for (name, value) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "| {name} | {value} |");
        }
        table
    }

    /// Least values are compared: what a moment needs comes and goes.
    fn check(&self) -> Result<()> {
        let [second, last] = self.thirds();
        let memory = |samples: &[Sample]| samples.iter().map(|sample| sample.resident).min();
        let descriptors =
            |samples: &[Sample]| samples.iter().map(|sample| sample.descriptors).min();
        let (Some(before), Some(after)) = (memory(second), memory(last)) else {
            bail!("too short to tell anything");
        };
        ensure!(
            after <= before + GROWTH,
            "memory grows: {before} bytes, then {after}"
        );
        let (before, after) = (descriptors(second), descriptors(last));
        ensure!(
            after <= before,
            "descriptors grow: {before:?}, then {after:?}"
        );
        Ok(())
    }
}
