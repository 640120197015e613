//! Observers come and go, well or not: what they leave behind, and what the clients notice of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};
use rustix::process::Signal;
use serde_json::Value;
use tests::client::{Memcached, Redis, Reply};
use tests::observer::{Observer, Options};
use tests::process::{eventually, python};
use tests::server::Server;

/// How long each phase lasts at least.
const PHASE: Duration = Duration::from_millis(700);

/// Kernel programs, maps and links, by their numbers.
#[derive(Debug, Default)]
struct Kernel {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

impl Kernel {
    /// Those that an observer holds.
    fn of(observer: &Observer) -> Result<Self> {
        let mut kernel = Self::default();
        let folder = Path::new("/proc").join(observer.process.id().to_string());
        for file in fs::read_dir(folder.join("fdinfo"))? {
            // Connections come and go.
            let Ok(text) = fs::read_to_string(file?.path()) else {
                continue;
            };
            for (key, set) in [
                ("prog_id:", &mut kernel.programs),
                ("map_id:", &mut kernel.maps),
                ("link_id:", &mut kernel.links),
            ] {
                let number = text.lines().find_map(|line| line.strip_prefix(key));
                set.extend(number.and_then(|number| number.trim().parse::<u32>().ok()));
            }
        }
        for (set, name) in [
            (&kernel.programs, "programs"),
            (&kernel.maps, "maps"),
            (&kernel.links, "links"),
        ] {
            ensure!(!set.is_empty(), "the observer holds no {name}");
        }
        Ok(kernel)
    }

    /// Waits until the kernel has none of them. It frees them some time after the last descriptor.
    ///
    /// Maps are looked at last. To look at one is to open and close it; while the kernel is about to clear an array of
    /// programs, whose last descriptor was closed, doing so loses count of it, and it stays for good (seen on 6.18). When the
    /// programs within are gone, it was cleared.
    fn gone(&self) -> Result<()> {
        let limit = Duration::from_secs(60);
        // What goes away while the kernel is asked is gone.
        eventually(limit, "links and programs are gone", || {
            let mut links = loaded_links().flatten().map(|one| one.id());
            let mut programs = loaded_programs().flatten().map(|one| one.id());
            Ok(!links.any(|id| self.links.contains(&id))
                && !programs.any(|id| self.programs.contains(&id)))
        })?;
        eventually(limit, "maps are gone", || {
            let mut maps = loaded_maps().flatten().map(|one| one.id());
            Ok(!maps.any(|id| self.maps.contains(&id)))
        })
    }
}

/// The events in tracefs that this process has made, which outlive it when it is killed.
fn events(process: u32) -> Vec<String> {
    // Without tracefs there are none.
    let list = fs::read_to_string("/sys/kernel/tracing/kprobe_events").unwrap_or_default();
    let ours =
        |line: &&str| line.contains(":cache_observer/") && line.contains(&format!("_{process}_"));
    list.lines().filter(ours).map(str::to_owned).collect()
}

/// The clients, as `clients/python/steady.py` has them.
struct Clients {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Clients {
    fn start(redis: &Server, memcached: &Server) -> Result<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/steady.py");
        let mut command = Command::new(python());
        command.arg("-B").arg(program);
        command.args([redis.port.to_string(), memcached.port.to_string()]);
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.context("`cargo xtask setup --tests` makes the environment")?;
        let output = process.stdout.take().context("a pipe")?;
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line == "connected\n", "the clients: {line}");
        Ok(Self { process, output })
    }

    /// Tells them which phase begins.
    fn phase(&mut self, name: &str) -> Result<()> {
        let mut input = self.process.stdin.as_ref().context("a pipe")?;
        Ok(writeln!(input, "{name}")?)
    }

    /// Has them end, and gives what they measured.
    fn end(mut self) -> Result<Value> {
        drop(self.process.stdin.take());
        let mut told = String::new();
        self.output.read_to_string(&mut told)?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the clients: {status}");
        Ok(serde_json::from_str(&told)?)
    }
}

/// How many connections this server has ever had.
fn connections(redis: &mut Redis) -> Result<u64> {
    let Reply::Bulk(Some(text)) = redis.command(&["INFO", "stats"])? else {
        bail!("not a reply to INFO");
    };
    let text = String::from_utf8(text)?;
    let number = text
        .lines()
        .find_map(|line| line.strip_prefix("total_connections_received:"));
    Ok(number.context("no such number")?.trim().parse()?)
}

#[test]
fn clients_notice_nothing_and_nothing_is_left() -> Result<()> {
    let (redis, memcached) = (Server::redis()?, Server::memcached()?);
    let start = || {
        let options = Options::new().redis(redis.port).memcached(memcached.port);
        let observer = options.start()?;
        let kernel = Kernel::of(&observer)?;
        anyhow::Ok((observer, kernel))
    };
    let mut connection = Redis::connect(("127.0.0.1", redis.port))?;
    let mut clients = Clients::start(&redis, &memcached)?;
    let mut seen = Vec::new();

    thread::sleep(PHASE);
    let before = connections(&mut connection)?;
    let opened = Memcached::connect(("127.0.0.1", memcached.port))?.stat("total_connections")?;

    clients.phase("start")?;
    let (observer, kernel) = start()?;
    clients.phase("observed")?;
    thread::sleep(PHASE);
    clients.phase("stop")?;
    let process = observer.process.id();
    seen.push(observer.stop()?);
    kernel.gone()?;
    ensure!(events(process).is_empty(), "{:?}", events(process));

    clients.phase("start again")?;
    let (mut observer, kernel) = start()?;
    thread::sleep(PHASE);
    clients.phase("crash")?;
    observer.process.signal(Signal::KILL)?;
    observer.process.wait(Duration::from_secs(5))?;
    kernel.gone()?;
    let killed = observer.process.id();
    thread::sleep(PHASE);

    clients.phase("start after the crash")?;
    let (old, kernel) = start()?;
    // What is in use cannot be removed: they were but names.
    ensure!(events(killed).is_empty(), "{:?}", events(killed));
    thread::sleep(PHASE);
    // The new one is there before the old one goes, so that nothing is missed.
    clients.phase("upgrade")?;
    let (new, newer) = start()?;
    seen.push(old.stop_by(Signal::TERM)?);
    kernel.gone()?;
    thread::sleep(PHASE);
    clients.phase("last stop")?;
    let process = new.process.id();
    seen.push(new.stop()?);
    newer.gone()?;
    ensure!(events(process).is_empty(), "{:?}", events(process));
    clients.phase("without again")?;
    thread::sleep(PHASE);

    let after = connections(&mut connection)?;
    let reopened = Memcached::connect(("127.0.0.1", memcached.port))?.stat("total_connections")?;
    let told = clients.end()?;
    println!("{told:#}");
    ensure!(told["reconnected"] == false, "{told}");
    ensure!(after == before, "{before} connections, then {after}");
    ensure!(
        reopened == opened + 1,
        "{opened} connections, then {reopened}"
    );
    let phases = told["phases"].as_array().context("phases")?;
    for phase in phases {
        eprintln!(
            "{:<22} {:>6} commands, median {:.3} ms, 99 % within {:.3} ms, slowest {:.1} ms",
            phase["phase"].as_str().context("a name")?,
            phase["commands"],
            phase["median_ms"].as_f64().unwrap_or_default(),
            phase["p99_ms"].as_f64().unwrap_or_default(),
            phase["slowest_ms"].as_f64().unwrap_or_default(),
        );
        ensure!(phase["commands"].as_u64() > Some(0), "a stall: {phase}");
        ensure!(
            phase["errors"].as_array().is_some_and(Vec::is_empty),
            "{phase}"
        );
    }
    for report in &seen {
        ensure!(report.status == 0, "{}", report.log);
        for system in ["redis", "memcached"] {
            ensure!(
                report.summary.of(system, "GET", "count") > 0,
                "{}",
                report.summary.0
            );
        }
    }
    Ok(())
}
