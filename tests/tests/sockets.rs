//! Odd ways to move bytes, with a real redis-server and memcached: each command has its span with what the server counted, or
//! it is counted as lost, and what comes after is right. `docs/limits.md` names the test of each limit.
//!
//! `sockets/client.py` asks three plain questions, then odd ones, then five plain ones, and so for each case. The value of
//! `key:N` is N bytes long, so that a reply given to another request shows. Starting an observer takes longer than a case, so
//! that most share one.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tests::client::{Memcached, Redis};
use tests::namespace::Pair;
use tests::observer::{Options, Report};
use tests::process::{Running, eventually, output, python};
use tests::server::{Server, free_port};
use tests::statistics::Statistics;

/// What a case asks for in a plain way, in its odd way, and in a plain way again; to be added to its first key.
const BEFORE: Range<u64> = 1..4;
const ODD: Range<u64> = 11..17;
const AFTER: Range<u64> = 21..26;
/// Values that only some cases ask for or set.
const FURTHER: [u64; 2] = [3000, 300_000];

const SYSTEMS: [&str; 2] = ["redis", "memcached"];

/// How the bytes of the odd calls are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// They are read.
    Whole,
    /// The call is seen, its bytes are not.
    Unreadable,
    /// Not even the call is: the next one tells how many bytes went before.
    Missing,
    /// Where the kernel's own iterator is, which knows any call, they are read; with tracepoints only calls are read that the
    /// registers tell of.
    UnlessTracepoint,
    /// Pages out of the kernel. They pass `tcp_sendmsg` since 6.5, without an address of the application's.
    Pages,
}
use Seen::{Missing, Pages, UnlessTracepoint, Unreadable, Whole};

/// What the odd calls move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moves {
    Requests,
    Replies,
}
use Moves::{Replies, Requests};

/// The cases that share an observer: how their odd calls are seen, and how often each odd key is asked for. The hundred
/// keys from 100 times its place here on are a case's own.
const CASES: [(&str, Moves, Seen, u64); 26] = [
    ("vectors", Requests, Whole, 40),
    ("shared", Requests, Whole, 100),
    ("duplex", Requests, Whole, 100),
    ("io_uring_send", Requests, UnlessTracepoint, 1),
    ("registered_send", Requests, Unreadable, 1),
    ("splice_send", Requests, Pages, 1),
    ("sendfile", Requests, Pages, 1),
    ("zero_copy", Requests, Whole, 1),
    ("sendmmsg", Requests, UnlessTracepoint, 1),
    ("aio_send", Requests, UnlessTracepoint, 1),
    ("partial", Requests, Whole, 3),
    ("plain_oddities", Requests, Whole, 1),
    ("peek", Replies, Whole, 1),
    ("urgent", Requests, Whole, 1),
    ("io_uring_receive", Replies, UnlessTracepoint, 1),
    ("splice_receive", Replies, Missing, 1),
    ("recvmmsg", Replies, UnlessTracepoint, 1),
    ("aio_receive", Replies, UnlessTracepoint, 1),
    ("zero_copy_receive", Replies, Missing, 1),
    ("thrown_away", Replies, Unreadable, 1),
    ("closed_unseen", Replies, Missing, 1),
    ("half_closed", Replies, Whole, 1),
    ("fork", Requests, Whole, 1),
    ("passed_on", Requests, Whole, 1),
    // Behind the others: only x86 has them.
    ("compat_send", Requests, UnlessTracepoint, 1),
    ("compat_receive", Replies, UnlessTracepoint, 1),
];

fn cases() -> &'static [(&'static str, Moves, Seen, u64)] {
    match cfg!(target_arch = "x86_64") {
        true => &CASES,
        false => &CASES[..CASES.len() - 2],
    }
}

/// The case that closes its connections, so that nothing comes after what was missed.
const CLOSES: &str = "closed_unseen";

fn client() -> String {
    format!("{}/tests/sockets/client.py", env!("CARGO_MANIFEST_DIR"))
}

/// The keys of a case, by its place.
fn keys(index: usize, of: Range<u64>) -> Vec<u64> {
    of.map(|number| 100 * index as u64 + number).collect()
}

/// What the cases came to.
struct Told {
    report: Report,
    backend: String,
    /// GET and SET of each system, as the servers counted them while they were observed.
    counted: BTreeMap<(&'static str, &'static str), u64>,
    /// What the client printed.
    printed: Vec<Value>,
}

fn counts(redis: &mut Redis, memcached: &mut Memcached) -> Result<[u64; 4]> {
    let statistics = Statistics::of(redis)?;
    let of = |name| statistics.of_command(name).count;
    let [get, set] = ["cmd_get", "cmd_set"].map(|name| memcached.stat(name));
    Ok([of("GET"), of("SET"), get?, set?])
}

/// Runs these cases of the client.
fn observe(cases: &[&str]) -> Result<Told> {
    let servers = (Server::redis()?, Server::memcached()?);
    let mut redis = Redis::connect(("127.0.0.1", servers.0.port))?;
    let mut memcached = Memcached::connect(("127.0.0.1", servers.1.port))?;
    let own = (0..cases.len()).flat_map(|index| keys(index, BEFORE.start..AFTER.end));
    for number in own.chain(FURTHER) {
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
    let (script, ports) = (client(), [servers.0.port, servers.1.port]);
    let [redis, memcached] = ports.map(|port| port.to_string());
    let mut arguments = vec![script.as_str(), &redis, &memcached];
    arguments.extend(cases);
    let printed = output(python(), arguments)?;
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
        printed: printed
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?,
    })
}

/// All of [`CASES`], observed once.
fn all() -> Result<&'static Told> {
    static TOLD: OnceLock<Result<Told, String>> = OnceLock::new();
    let observed = TOLD.get_or_init(|| {
        let names: Vec<_> = cases().iter().map(|case| case.0).collect();
        observe(&names).map_err(|error| format!("{error:?}"))
    });
    observed.as_ref().map_err(|error| anyhow!("{error}"))
}

impl Told {
    fn total(&self, name: &str) -> u64 {
        self.report.summary.total(name)
    }

    /// Bytes that were not read, by reason.
    fn skipped(&self, reason: &str) -> u64 {
        let metric = "observer.payload.skipped";
        self.report.metric(metric, &[("reason", reason)]) as u64
    }

    fn spans<'a>(&'a self, system: &'a str, name: &str) -> impl Iterator<Item = &'a Value> {
        let of_system = move |span: &&Value| span["attributes"]["db.system.name"] == system;
        self.report.of(name).into_iter().filter(of_system)
    }

    /// How often each key was read, as the spans say.
    fn read(&self, system: &str) -> BTreeMap<u64, u64> {
        let mut times = BTreeMap::new();
        for span in self.spans(system, "GET") {
            // As long as its value, which is checked once for all.
            let number = span["attributes"]["cache.value_size"].as_u64();
            *times.entry(number.unwrap_or_default()).or_default() += 1;
        }
        times
    }

    fn printed(&self, case: &str) -> Result<Vec<&Value>> {
        let lines = self.printed.iter().filter(|line| line["case"] == case);
        let lines: Vec<_> = lines.collect();
        ensure!(lines.len() == SYSTEMS.len(), "{lines:?}");
        for line in &lines {
            ensure!(
                line["error"].is_null(),
                "{case}: {}",
                line["error"].as_str().unwrap_or("?")
            );
        }
        Ok(lines)
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

    /// Every command has its span, and nothing had to be found again.
    fn check_whole(&self) -> Result<()> {
        self.check_pairs()?;
        for (&(system, name), &counted) in &self.counted {
            let spans = self.spans(system, name).count() as u64;
            ensure!(
                spans == counted,
                "{}: {system} {name}: {spans} spans of {counted}",
                self.backend
            );
        }
        for total in [
            "unresolved",
            "lost_bytes",
            "orphaned_replies",
            "resynchronizations",
        ] {
            ensure!(
                self.total(total) == 0,
                "{}: {total} in {}",
                self.backend,
                self.report.summary.0
            );
        }
        Ok(())
    }

    /// How the odd calls are seen by this backend on this kernel.
    fn seen(&self, seen: Seen) -> Result<Seen> {
        Ok(match seen {
            UnlessTracepoint if self.backend == "tracepoint" => Unreadable,
            UnlessTracepoint => Whole,
            Pages => {
                let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
                let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
                let mut next = || anyhow::Ok(numbers.next().context("a number")??);
                match (next()?, next()?) >= (6, 5) {
                    true => Unreadable,
                    false => Missing,
                }
            }
            seen => seen,
        })
    }

    /// Odd keys of a case, and the first of those after: what goes missing takes the next exchange with it, since a part of
    /// that has come already when it shows.
    fn lost(&self, index: usize) -> Result<Vec<u64>> {
        let (case, _, seen, _) = cases()[index];
        let mut lost = keys(index, ODD);
        match self.seen(seen)? {
            Whole => lost.clear(),
            Missing if case != CLOSES => lost.push(keys(index, AFTER)[0]),
            _ => {}
        }
        Ok(lost)
    }
}

/// Bytes that ask for these keys, of both servers.
fn requests(numbers: &[u64]) -> u64 {
    let of = |number: &u64| {
        let key = format!("key:{number}");
        let redis = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        (redis.len() + format!("get {key}\r\n").len()) as u64
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

/// One of [`CASES`]: each key was read as often as it was asked for, but what was lost.
fn check(case: &str) -> Result<()> {
    let told = all()?;
    told.printed(case)?;
    let index = cases().iter().position(|(name, ..)| *name == case);
    let index = index.context("a case")?;
    let (lost, times) = (told.lost(index)?, cases()[index].3);
    for system in SYSTEMS {
        let read = told.read(system);
        for number in keys(index, BEFORE.start..AFTER.end) {
            let asked = match number % 100 {
                odd if ODD.contains(&odd) && case == "partial" && odd > ODD.start + 1 => 0,
                odd if ODD.contains(&odd) => times,
                plain => u64::from(BEFORE.contains(&plain) || AFTER.contains(&plain)),
            };
            let expected = if lost.contains(&number) { 0 } else { asked };
            let seen = read.get(&number).copied().unwrap_or(0);
            ensure!(
                seen == expected,
                "{}: {case}: {system}: key:{number} is read {seen} times, expected {expected}\n{}",
                told.backend,
                told.report.summary.0
            );
        }
    }
    Ok(())
}

/// What the servers counted is what was seen and what was lost, and the bytes that were lost are those that the odd calls
/// moved.
#[test]
fn the_ledger_closes() -> Result<()> {
    let told = all()?;
    told.check_pairs()?;
    let summary = &told.report.summary;
    let (mut hidden, mut unresolved) = (0, 0);
    // The urgent bytes, of which those within SET make it unreadable.
    let (mut unreadable, mut missing) = (2 * 8, 0);
    for (index, &(_, moves, seen, _)) in cases().iter().enumerate() {
        let lost = told.lost(index)?.len() as u64;
        let bytes = match moves {
            Requests => requests(&keys(index, ODD)),
            Replies => replies(&keys(index, ODD)),
        };
        match moves {
            Requests => hidden += lost,
            Replies => unresolved += lost,
        }
        match told.seen(seen)? {
            Unreadable => unreadable += bytes,
            Missing => missing += bytes,
            _ => {}
        }
    }
    for (&(system, name), &counted) in &told.counted {
        let hidden = if name == "GET" { hidden } else { 2 };
        let seen = summary.of(system, name, "count");
        ensure!(
            seen + hidden == counted,
            "{}: {system} {name}: {counted} counted, {hidden} hidden, {seen} seen\n{}",
            told.backend,
            summary.0
        );
    }
    ensure!(
        told.total("unresolved") == 2 * unresolved,
        "{unresolved} of each: {}",
        summary.0
    );
    let skipped = ["unreadable", "missing"].map(|reason| told.skipped(reason));
    ensure!(
        skipped == [unreadable, missing],
        "{}: unreadable and missing: {skipped:?}, expected {unreadable} and {missing}",
        told.backend
    );
    Ok(())
}

macro_rules! cases {
    ($($test:ident $case:literal;)*) => { $(
        #[test]
        fn $test() -> Result<()> {
            check($case)
        }
    )* };
}

cases! {
    requests_by_io_uring "io_uring_send";
    replies_by_io_uring "io_uring_receive";
    requests_from_buffers_registered_with_io_uring "registered_send";
    requests_by_splice "splice_send";
    replies_by_splice "splice_receive";
    requests_by_sendfile "sendfile";
    requests_without_copying "zero_copy";
    replies_without_copying "zero_copy_receive";
    requests_by_sendmmsg "sendmmsg";
    replies_by_recvmmsg "recvmmsg";
    requests_by_io_submit "aio_send";
    replies_by_io_submit "aio_receive";
    replies_thrown_away "thrown_away";
    replies_only_looked_at "peek";
    sends_taken_in_part "partial";
    more_buffers_than_records "vectors";
    corked_empty_duplicated_and_waited_for "plain_oddities";
    connections_half_closed "half_closed";
    connections_closed_after_what_was_not_seen "closed_unseen";
    urgent_bytes "urgent";
    threads_that_take_turns "shared";
    one_thread_writes_while_another_reads "duplex";
}

#[cfg(target_arch = "x86_64")]
cases! {
    requests_by_32_bit_calls "compat_send";
    replies_by_32_bit_calls "compat_receive";
}

/// Each span is of the process that asked, as the client has printed.
fn check_processes(case: &str) -> Result<()> {
    check(case)?;
    let told = all()?;
    for (line, system) in told.printed(case)?.into_iter().zip(SYSTEMS) {
        let asked = line["pids"].as_object().context("processes")?;
        for span in told.spans(system, "GET") {
            let key = span["attributes"]["cache.key"].as_str().context("a key")?;
            if let Some(pid) = asked.get(key) {
                ensure!(span["resource"]["process.pid"] == *pid, "{pid}: {span}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_socket_inherited() -> Result<()> {
    check_processes("fork")
}

#[test]
fn a_socket_passed_on() -> Result<()> {
    check_processes("passed_on")
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
        printed: Vec::new(),
        report,
    };
    told.check_pairs()?;
    let summary = &told.report.summary;
    let all = BEFORE.chain(ODD).chain(AFTER).count() as u64;
    ensure!(summary.of("redis", "GET", "count") == all, "{}", summary.0);
    ensure!(
        told.total("unresolved") == ODD.count() as u64,
        "{}",
        summary.0
    );
    ensure!(
        told.skipped("missing") == ODD.count() as u64,
        "{}",
        summary.0
    );
    ensure!(
        told.report.spans.len() == BEFORE.chain(AFTER).count(),
        "{:#?}",
        told.report.spans
    );
    Ok(())
}

/// With tracepoints a position is read after the socket was released, so that two that write at the same time may be told at
/// the same position. What cannot be put in order is given up, and every byte of it is counted.
#[test]
fn threads_that_write_at_the_same_time() -> Result<()> {
    let told = observe(&["race"])?;
    told.printed("race")?;
    if told.backend != "tracepoint" {
        return told.check_whole();
    }
    told.check_pairs()?;
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
        let racing = [11, 12, 13, 14].repeat(100);
        for number in BEFORE.chain(AFTER).chain(racing) {
            lost += reply(number, lengths);
        }
        let read = told.read(system);
        ensure!(
            AFTER
                .into_iter()
                .all(|number| read.get(&number) == Some(&1)),
            "{read:?}"
        );
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
    let odd = ODD.count() as u64;
    let told = Told {
        backend: report.backend()?.to_owned(),
        report,
        counted: BTreeMap::from([(("redis", "SET"), odd), (("redis", "GET"), 3 * odd)]),
        printed: Vec::new(),
    };
    told.check_whole()?;
    ensure!(
        told.total("connections") == 2 * odd,
        "{}",
        told.report.summary.0
    );
    Ok(())
}
