//! Odd ways to move bytes, with a real redis-server and memcached: each command has its span with what the server counted, or
//! it is counted as lost, and what comes after is right. `docs/limits.md` names the test of each limit.
//!
//! `sockets/client.py` asks three plain questions, then odd ones, then five plain ones. The value of `key:N` is N bytes long,
//! so that a reply given to another request shows.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::{Memcached, Redis};
use tests::namespace::Pair;
use tests::observer::{Options, Report};
use tests::process::{Running, eventually, output, python};
use tests::server::{Server, free_port};
use tests::statistics::Statistics;

/// What the client asks for in a plain way, in the odd way, and in a plain way again.
const BEFORE: [u64; 3] = [1, 2, 3];
const ODD: [u64; 6] = [11, 12, 13, 14, 15, 16];
const AFTER: [u64; 5] = [21, 22, 23, 24, 25];
/// Values that only some cases ask for.
const FURTHER: [u64; 2] = [3000, 300_000];

const SYSTEMS: [&str; 2] = ["redis", "memcached"];

fn client() -> String {
    format!("{}/tests/sockets/client.py", env!("CARGO_MANIFEST_DIR"))
}

/// What a case came to.
struct Told {
    report: Report,
    backend: String,
    /// GET and SET of each system, as the servers counted them while they were observed.
    counted: BTreeMap<(&'static str, &'static str), u64>,
    /// What the client printed.
    printed: String,
}

fn counts(redis: &mut Redis, memcached: &mut Memcached) -> Result<[u64; 4]> {
    let statistics = Statistics::of(redis)?;
    let of = |name| statistics.of_command(name).count;
    let [get, set] = ["cmd_get", "cmd_set"].map(|name| memcached.stat(name));
    Ok([of("GET"), of("SET"), get?, set?])
}

/// Runs a case of the client.
fn observe(case: &str) -> Result<Told> {
    let servers = (Server::redis()?, Server::memcached()?);
    let mut redis = Redis::connect(("127.0.0.1", servers.0.port))?;
    let mut memcached = Memcached::connect(("127.0.0.1", servers.1.port))?;
    let all = [&BEFORE[..], &ODD, &AFTER, &FURTHER].concat();
    for number in all {
        let (key, value) = (format!("key:{number}"), "v".repeat(number as usize));
        redis.command(&["SET", &key, &value])?;
        memcached.send(format!("set {key} 0 0 {number}\r\n{value}\r\n").as_bytes())?;
        memcached.until("STORED")?;
    }
    let before = counts(&mut redis, &mut memcached)?;
    drop((redis, memcached));
    let observer = Options::new()
        .redis(servers.0.port)
        .memcached(servers.1.port)
        .with("--metrics-exporter", "jsonl")
        .with("--spans-pipeline", "commands")
        .start()?;
    let ports = [servers.0.port, servers.1.port].map(|port| port.to_string());
    let printed = output(python(), [&client(), case, &ports[0], &ports[1]])?;
    let report = observer.stop()?;
    let after = counts(
        &mut Redis::connect(("127.0.0.1", servers.0.port))?,
        &mut Memcached::connect(("127.0.0.1", servers.1.port))?,
    )?;
    let names = SYSTEMS.map(|system| ["GET", "SET"].map(|name| (system, name)));
    let since = after.into_iter().zip(before).map(|(now, then)| now - then);
    Ok(Told {
        backend: report.backend()?.to_owned(),
        report,
        counted: names.into_iter().flatten().zip(since).collect(),
        printed,
    })
}

impl Told {
    fn is_tracepoint(&self) -> bool {
        self.backend == "tracepoint"
    }

    fn total(&self, name: &str) -> u64 {
        self.report.summary.total(name)
    }

    /// Bytes that were not read, by reason.
    fn skipped(&self, reason: &str) -> u64 {
        let metric = self
            .report
            .metric("observer.payload.skipped", &[("reason", reason)]);
        metric as u64
    }

    fn spans<'a>(&'a self, system: &'a str, name: &str) -> Vec<&'a Value> {
        let of_system = |span: &&Value| span["attributes"]["db.system.name"] == system;
        self.report.of(name).into_iter().filter(of_system).collect()
    }

    /// No reply was given to another's request, nothing was taken for unanswered, no event was lost.
    fn check_pairs(&self) -> Result<()> {
        let summary = &self.report.summary.0;
        for span in &self.report.spans {
            let of = |name: &str| &span["attributes"][name];
            if !of("db.operation.batch.size").is_null() {
                // Each of its commands has a span, too.
                continue;
            }
            let known = of("db.operation.name") == "GET" || of("db.operation.name") == "SET";
            ensure!(known && span["status"]["code"] == "UNSET", "{span}");
            let key = of("cache.key").as_str().context("one key")?;
            let number = key.strip_prefix("key:").context("a key of ours")?;
            ensure!(of("cache.value_size") == number.parse::<u64>()?, "{span}");
            ensure!(
                of("db.operation.name") == "SET" || of("cache.hit") == true,
                "{span}"
            );
        }
        ensure!(self.total("unanswered") == 0, "{summary}");
        ensure!(
            self.report.metric("observer.events.lost", &[]) == 0.0,
            "{summary}"
        );
        Ok(())
    }

    /// Each command that the servers counted has its span, but `hidden` requests of each server, which were not read, and
    /// `unresolved` whose replies were not.
    fn check_counts(&self, hidden: u64, unresolved: u64) -> Result<()> {
        self.check_pairs()?;
        let summary = &self.report.summary;
        for (&(system, name), &counted) in &self.counted {
            let (hidden, unresolved) = match name {
                "GET" => (hidden, unresolved),
                _ => (0, 0),
            };
            let seen = summary.of(system, name, "count");
            let spans = self.spans(system, name).len() as u64;
            ensure!(
                seen + hidden == counted && spans + unresolved == seen,
                "{}: {system} {name}: {counted} counted, {hidden} hidden, {seen} seen, {unresolved} unresolved, {spans} spans\n{}",
                self.backend,
                summary.0
            );
        }
        ensure!(
            summary.total("unresolved") == 2 * unresolved,
            "{}",
            summary.0
        );
        Ok(())
    }

    /// Everything was seen as it was.
    fn check_whole(&self) -> Result<()> {
        self.check_counts(0, 0)?;
        for total in ["lost_bytes", "orphaned_replies", "resynchronizations"] {
            ensure!(
                self.total(total) == 0,
                "{}: {total} in {}",
                self.backend,
                self.report.summary.0
            );
        }
        Ok(())
    }

    /// After what was odd each plain question has its span, in turn.
    fn check_after(&self, from: u64) -> Result<()> {
        for system in SYSTEMS {
            let keys: Vec<_> = self
                .spans(system, "GET")
                .into_iter()
                .filter_map(|span| span["attributes"]["cache.key"].as_str())
                .collect();
            for number in AFTER.into_iter().filter(|number| *number >= from) {
                let key = format!("key:{number}");
                let times = keys.iter().filter(|other| **other == key).count();
                ensure!(times == 1, "{}: {key} in {keys:?}", self.backend);
            }
        }
        Ok(())
    }
}

/// Bytes that ask for these keys, of both servers.
fn requests(numbers: &[u64]) -> u64 {
    let of = |number: &u64| {
        let key = format!("key:{number}").len();
        let redis = format!("*2\r\n$3\r\nGET\r\n${key}\r\n").len() + key + 2;
        (redis + "get \r\n".len() + key) as u64
    };
    numbers.iter().map(of).sum()
}

/// Bytes that answer.
fn replies(numbers: &[u64]) -> u64 {
    numbers.iter().map(|number| reply(*number, [1, 1])).sum()
}

/// The same for one, so many times from each server.
fn reply(number: u64, [redis, memcached]: [u64; 2]) -> u64 {
    let heads = [
        format!("${number}\r\n\r\n"),
        format!("VALUE key:{number} 0 {number}\r\n\r\nEND\r\n"),
    ];
    let [one, other] = heads.map(|head| head.len() as u64 + number);
    redis * one + memcached * other
}

/// How the bytes of the odd calls are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// They are read.
    Whole,
    /// The call is seen, its bytes are not.
    Unreadable,
    /// Not even the call is: the next one tells how many bytes went before.
    Missing,
}

/// What the odd calls move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moves {
    Requests,
    Replies,
}

/// A case whose odd calls move requests or replies in one way.
fn check(case: &str, moves: Moves, seen: impl Fn(&Told) -> Result<Seen>) -> Result<()> {
    let told = observe(case)?;
    let seen = seen(&told)?;
    let odd = ODD.len() as u64;
    // What goes missing takes the next exchange with it: when it shows, a part of that has come already.
    let lost = odd + u64::from(seen == Seen::Missing);
    let bytes = match moves {
        Moves::Requests => requests(&ODD),
        Moves::Replies => replies(&ODD),
    };
    match (seen, moves) {
        (Seen::Whole, _) => told.check_whole()?,
        (_, Moves::Requests) => told.check_counts(lost, 0)?,
        (_, Moves::Replies) => told.check_counts(0, lost)?,
    }
    for (reason, wanted) in [("unreadable", Seen::Unreadable), ("missing", Seen::Missing)] {
        let expected = if seen == wanted { bytes } else { 0 };
        ensure!(
            told.skipped(reason) == expected,
            "{}: {} bytes {reason}, expected {expected}",
            told.backend,
            told.skipped(reason)
        );
    }
    told.check_after(AFTER[0] + u64::from(seen == Seen::Missing))
}

/// Read where the kernel's own iterator is, which knows any call; with tracepoints only calls are read that the registers
/// tell of.
fn unless_tracepoint(told: &Told) -> Result<Seen> {
    Ok(match told.is_tracepoint() {
        true => Seen::Unreadable,
        false => Seen::Whole,
    })
}

/// Pages out of the kernel pass `tcp_sendmsg` since 6.5, without an address of the application's.
fn pages(_: &Told) -> Result<Seen> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut next = || anyhow::Ok(numbers.next().context("a number")??);
    Ok(match (next()?, next()?) >= (6, 5) {
        true => Seen::Unreadable,
        false => Seen::Missing,
    })
}

#[test]
fn requests_by_io_uring() -> Result<()> {
    check("io_uring_send", Moves::Requests, unless_tracepoint)
}

#[test]
fn replies_by_io_uring() -> Result<()> {
    check("io_uring_receive", Moves::Replies, unless_tracepoint)
}

#[test]
fn requests_from_buffers_registered_with_io_uring() -> Result<()> {
    check("registered_send", Moves::Requests, |_| Ok(Seen::Unreadable))
}

#[test]
fn requests_by_splice() -> Result<()> {
    check("splice_send", Moves::Requests, pages)
}

#[test]
fn replies_by_splice() -> Result<()> {
    check("splice_receive", Moves::Replies, |_| Ok(Seen::Missing))
}

#[test]
fn requests_by_sendfile() -> Result<()> {
    check("sendfile", Moves::Requests, pages)
}

#[test]
fn requests_without_copying() -> Result<()> {
    observe("zero_copy")?.check_whole()
}

#[test]
fn replies_without_copying() -> Result<()> {
    check("zero_copy_receive", Moves::Replies, |_| Ok(Seen::Missing))
}

#[test]
fn requests_by_sendmmsg() -> Result<()> {
    check("sendmmsg", Moves::Requests, unless_tracepoint)
}

#[test]
fn replies_by_recvmmsg() -> Result<()> {
    check("recvmmsg", Moves::Replies, unless_tracepoint)
}

#[test]
fn requests_by_io_submit() -> Result<()> {
    check("aio_send", Moves::Requests, unless_tracepoint)
}

#[test]
fn replies_by_io_submit() -> Result<()> {
    check("aio_receive", Moves::Replies, unless_tracepoint)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn requests_by_32_bit_calls() -> Result<()> {
    check("compat_send", Moves::Requests, unless_tracepoint)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn replies_by_32_bit_calls() -> Result<()> {
    check("compat_receive", Moves::Replies, unless_tracepoint)
}

#[test]
fn replies_thrown_away() -> Result<()> {
    check("thrown_away", Moves::Replies, |_| Ok(Seen::Unreadable))
}

#[test]
fn replies_only_looked_at() -> Result<()> {
    observe("peek")?.check_whole()
}

#[test]
fn sends_taken_in_part() -> Result<()> {
    observe("partial")?.check_whole()
}

#[test]
fn more_buffers_than_records() -> Result<()> {
    observe("vectors")?.check_whole()
}

#[test]
fn corked_empty_duplicated_and_waited_for() -> Result<()> {
    observe("plain_oddities")?.check_whole()
}

#[test]
fn connections_half_closed() -> Result<()> {
    observe("half_closed")?.check_whole()
}

#[test]
fn connections_closed_after_what_was_not_seen() -> Result<()> {
    let told = observe("closed_unseen")?;
    // The replies have come, so that nobody may call the requests unanswered.
    told.check_counts(0, ODD.len() as u64)?;
    ensure!(
        told.skipped("missing") == replies(&ODD),
        "{}",
        told.report.summary.0
    );
    told.check_after(AFTER[0])
}

#[test]
fn urgent_bytes() -> Result<()> {
    let told = observe("urgent")?;
    told.check_pairs()?;
    let summary = &told.report.summary;
    for system in SYSTEMS {
        // Between commands only the byte is lost. Within one it may be a part of it or not.
        ensure!(
            summary.of(system, "GET", "count") == told.counted[&(system, "GET")],
            "{}",
            summary.0
        );
        ensure!(told.counted[&(system, "SET")] == 2, "{:?}", told.counted);
        ensure!(told.spans(system, "SET").is_empty(), "{}", summary.0);
    }
    ensure!(told.skipped("unreadable") == 2 * 8, "{}", summary.0);
    ensure!(told.total("resynchronizations") == 2 * 8, "{}", summary.0);
    told.check_after(AFTER[0])
}

#[test]
fn urgent_bytes_among_replies() -> Result<()> {
    let port = free_port()?;
    let observer = Options::new()
        .redis(port)
        .with("--metrics-exporter", "jsonl")
        .start()?;
    output(python(), [&client(), "urgent_reply", &port.to_string()])?;
    let report = observer.stop()?;
    let told = Told {
        backend: report.backend()?.to_owned(),
        counted: BTreeMap::new(),
        printed: String::new(),
        report,
    };
    told.check_pairs()?;
    let summary = &told.report.summary;
    let all = (BEFORE.len() + ODD.len() + AFTER.len()) as u64;
    ensure!(summary.of("redis", "GET", "count") == all, "{}", summary.0);
    ensure!(
        told.total("unresolved") == ODD.len() as u64,
        "{}",
        summary.0
    );
    ensure!(told.skipped("missing") == ODD.len() as u64, "{}", summary.0);
    ensure!(
        told.report.spans.len() == BEFORE.len() + AFTER.len(),
        "{:#?}",
        told.report.spans
    );
    Ok(())
}

/// Each span is of the process that asked, as the client has printed.
fn check_processes(told: &Told) -> Result<()> {
    told.check_whole()?;
    for (line, system) in told.printed.lines().zip(SYSTEMS) {
        let asked: BTreeMap<String, u64> = serde_json::from_str(line)?;
        let mut seen = BTreeMap::new();
        for span in told.spans(system, "GET") {
            let key = span["attributes"]["cache.key"]
                .as_str()
                .context("one key")?;
            let pid = span["resource"]["process.pid"]
                .as_u64()
                .context("a process")?;
            if asked.contains_key(key) {
                seen.insert(key.to_owned(), pid);
            }
        }
        ensure!(seen == asked, "{system}: {seen:?}, and {asked:?} asked");
    }
    ensure!(
        told.printed.lines().count() == SYSTEMS.len(),
        "{}",
        told.printed
    );
    Ok(())
}

#[test]
fn a_socket_inherited() -> Result<()> {
    check_processes(&observe("fork")?)
}

#[test]
fn a_socket_passed_on() -> Result<()> {
    check_processes(&observe("passed_on")?)
}

#[test]
fn threads_that_take_turns() -> Result<()> {
    observe("shared")?.check_whole()
}

#[test]
fn one_thread_writes_while_another_reads() -> Result<()> {
    observe("duplex")?.check_whole()
}

/// With tracepoints a position is read after the socket was released, so that two that write at the same time may be told at
/// the same position. What cannot be put in order is given up, and every byte of it is counted.
#[test]
fn threads_that_write_at_the_same_time() -> Result<()> {
    let told = observe("race")?;
    if !told.is_tracepoint() {
        return told.check_whole();
    }
    told.check_pairs()?;
    told.check_after(AFTER[0])?;
    let summary = &told.report.summary;
    let (mut lost, mut answered) = (0, Vec::new());
    for (system, length) in [("redis", 25), ("memcached", 12)] {
        let (sent, seen) = (
            told.counted[&(system, "GET")],
            summary.of(system, "GET", "count"),
        );
        ensure!(sent == 408 && seen <= sent, "{}", summary.0);
        lost += (sent - seen) * length;
        let lengths = SYSTEMS.map(|other| u64::from(other == system));
        for number in [&BEFORE[..], &AFTER, &ODD[..4].repeat(100)].concat() {
            lost += reply(number, lengths);
        }
        for span in told.spans(system, "GET") {
            let number = span["attributes"]["cache.value_size"].as_u64();
            answered.push(reply(number.context("a size")?, lengths));
        }
    }
    let lost = lost - answered.iter().sum::<u64>();
    // Replies that were read, though nobody knows to what.
    let orphans = told.total("orphaned_replies");
    let [least, most] = [orphans * reply(11, [1, 0]), orphans * reply(14, [0, 1])];
    let counted = told.total("lost_bytes");
    ensure!(
        (lost - most.min(lost)..=lost - least).contains(&counted),
        "{lost} bytes lost, {counted} counted: {}",
        summary.0
    );
    Ok(())
}

/// Redis in a network namespace whose kernel takes data with the SYN.
#[test]
fn requests_that_travel_with_the_syn() -> Result<()> {
    let (pair, port) = (Pair::new()?, free_port()?.to_string());
    let script =
        "echo 1543 > /proc/sys/net/ipv4/tcp_fastopen && exec redis-server --save '' --port $0";
    let mut server = pair.inside(0, "sh");
    let _server = Running::start(server.args(["-c", script, &port]).stdout(Stdio::null()))?;
    eventually(Duration::from_secs(10), "the server answers", || {
        let mut ping = pair.inside(0, "redis-cli");
        Ok(ping.args(["-p", &port, "ping"]).output()?.status.success())
    })?;
    let observer = Options::new()
        .redis(port.parse()?)
        .with("--metrics-exporter", "jsonl")
        .with("--spans-pipeline", "commands")
        .start()?;
    let mut asks = pair.inside(0, &python().to_string_lossy());
    let asked = asks.args([&client(), "fast_open", &port]).output()?;
    ensure!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    let report = observer.stop()?;
    let odd = ODD.len() as u64;
    let told = Told {
        backend: report.backend()?.to_owned(),
        report,
        counted: BTreeMap::from([(("redis", "SET"), odd), (("redis", "GET"), 3 * odd)]),
        printed: String::new(),
    };
    told.check_whole()?;
    ensure!(
        told.total("connections") == 2 * odd,
        "{}",
        told.report.summary.0
    );
    Ok(())
}
