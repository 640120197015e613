//! Counts, errors, hits and misses, as real servers count them: INFO commandstats, keyspace_hits, keyspace_misses.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::client::{Redis, Reply, encode};
use tests::coverage::{Kind, note};
use tests::observer::{Observer, Options};
use tests::process::eventually;
use tests::server::{Module, Server, free_port};
use tests::statistics::{Counts, Statistics};

/// Each data type, a command a line; no line fails.
const COMMANDS: &str = include_str!("statistics/redis_7.txt");

/// What Redis 8 has more.
const COMMANDS_8: &str = include_str!("statistics/redis_8.txt");

/// Each fails, as it says.
const ERRORS: [(&str, &str); 20] = [
    ("SET s string", ""),
    ("LPUSH s x", "WRONGTYPE"),
    ("HGET s f", "WRONGTYPE"),
    ("MGET", "ERR wrong number"),
    ("SET s", "ERR wrong number"),
    ("CONFIG GET", "ERR wrong number"),
    ("SET s v EX nothing", "ERR"),
    ("INCR s", "ERR"),
    ("EXPIRE s never", "ERR"),
    ("LSET none 0 v", "ERR no such key"),
    ("RENAME none other", "ERR no such key"),
    ("EVALSHA abc 0", "NOSCRIPT"),
    ("FCALL none 0", "ERR Function not found"),
    ("XGROUP CREATE x g $ MKSTREAM", ""),
    ("XGROUP CREATE x g $", "BUSYGROUP"),
    ("XREADGROUP GROUP none c STREAMS x >", "NOGROUP"),
    ("RESTORE s 0 x", "BUSYKEY"),
    ("AUTH none secret", "WRONGPASS"),
    ("HELLO 9", "NOPROTO"),
    ("SELECT 99", "ERR DB index"),
];

/// Servers' modes in which they refuse commands: how to begin, what is refused, how, how to end.
const MODES: [[&str; 4]; 4] = [
    [
        "CONFIG SET maxmemory 1",
        "SET k v",
        "OOM",
        "CONFIG SET maxmemory 0",
    ],
    [
        "CONFIG SET min-replicas-to-write 1",
        "SET k v",
        "NOREPLICAS",
        "CONFIG SET min-replicas-to-write 0",
    ],
    [
        "REPLICAOF 127.0.0.1 1",
        "SET k v",
        "READONLY",
        "REPLICAOF NO ONE",
    ],
    [
        "ACL SETUSER default -get",
        "GET k",
        "NOPERM",
        "ACL SETUSER default +@all",
    ],
];

/// A server under observation.
struct Bench {
    server: Server,
    observer: Observer,
    redis: Redis,
    /// What the server had counted before.
    before: Statistics,
    /// What the server leaves out.
    uncounted: Vec<(&'static str, Counts)>,
}

impl Bench {
    fn new(server: Server) -> Result<Self> {
        let before = Statistics::of(&mut Redis::connect(("127.0.0.1", server.port))?)?;
        let observer = Options::new().redis(server.port).traces("none").start()?;
        let redis = Redis::connect(("127.0.0.1", server.port))?;
        Ok(Self {
            server,
            observer,
            redis,
            before,
            uncounted: Vec::new(),
        })
    }

    fn connect(&self) -> Result<Redis> {
        Redis::connect(("127.0.0.1", self.server.port))
    }

    /// Fails unless the reply is an error that begins like this; any other reply for none.
    fn expect(&mut self, line: &str, error: &str) -> Result<()> {
        expect(&mut self.redis, line, error)
    }

    /// The ends: the server's counts and the observer's agree.
    fn compare(mut self) -> Result<()> {
        let mut statistics = Statistics::of(&mut self.redis)?.since(&self.before)?;
        // The error that CLIENT UNBLOCK gives to another is counted as its own, too.
        statistics.remove("CLIENT", Counts::new(0, 1))?;
        for (name, counts) in self.uncounted {
            statistics.add(name, counts);
        }
        statistics.compare(&self.observer.stop()?.summary)
    }
}

fn expect(redis: &mut Redis, line: &str, error: &str) -> Result<()> {
    match redis.command(&words(line))? {
        Reply::Error(text) if !error.is_empty() && text.starts_with(error) => Ok(()),
        Reply::Error(text) => bail!("{line}: {text}, not {error}"),
        _ if error.is_empty() => Ok(()),
        other => bail!("{line}: {other:?}, not {error}"),
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[test]
fn counts_as_redis_7_counts() -> Result<()> {
    let mut bench = Bench::new(Server::redis()?)?;
    work(&mut bench, COMMANDS)?;
    bench.compare()
}

#[test]
fn counts_as_redis_8_counts() -> Result<()> {
    let server = Server::redis_8(&Module::ALL, &[])?;
    let mut bench = Bench::new(server)?;
    work(&mut bench, &format!("{COMMANDS}{COMMANDS_8}"))?;
    // Since 7.2 a command that blocks is counted when it is done, and one was never done.
    bench.uncounted.push(("BLPOP", Counts::new(1, 0)));
    bench.compare()
}

fn work(bench: &mut Bench, commands: &str) -> Result<()> {
    for line in commands.lines().filter(|line| !line.is_empty()) {
        bench.expect(line, "")?;
        note(Kind::Command, line.split(' ').next().unwrap_or(line))?;
    }
    for (line, error) in ERRORS {
        bench.expect(line, error)?;
    }
    for [begin, line, error, end] in MODES {
        bench.expect(begin, "")?;
        bench.expect(line, error)?;
        bench.expect(end, "")?;
    }
    unknown(bench)?;
    authentication(bench)?;
    transactions(bench)?;
    blocking(bench)?;
    busy(bench)?;
    connections(bench)
}

/// The server counts no command that it does not know.
fn unknown(bench: &mut Bench) -> Result<()> {
    for (line, name) in [
        ("NO.SUCH a b", "NO.SUCH"),
        ("CONFIG NOSUCH", "CONFIG"),
        ("XGROUP NOSUCH a b", "XGROUP"),
    ] {
        bench.expect(line, "ERR unknown")?;
        bench.uncounted.push((name, Counts::new(1, 1)));
    }
    Ok(())
}

fn authentication(bench: &mut Bench) -> Result<()> {
    bench.expect("CONFIG SET requirepass secret", "")?;
    let mut other = bench.connect()?;
    expect(&mut other, "GET k", "NOAUTH")?;
    expect(&mut other, "AUTH secret", "")?;
    expect(&mut other, "GET k", "")?;
    bench.expect("CONFIG SET requirepass ", "")
}

/// What is queued counts when it is run.
fn transactions(bench: &mut Bench) -> Result<()> {
    for (line, error) in [
        ("DEL s l", ""),
        ("EXEC", "ERR EXEC without MULTI"),
        ("DISCARD", "ERR DISCARD without MULTI"),
        ("MULTI", ""),
        ("SET s 1", ""),
        ("GET s", ""),
        ("LPUSH s x", ""),
        ("EXEC", ""),
        ("MULTI", ""),
        ("GET s", ""),
        ("DISCARD", ""),
        ("MULTI", ""),
        ("MULTI", "ERR MULTI calls"),
        ("EXEC", ""),
        ("MULTI", ""),
        ("WATCH s", "ERR WATCH"),
        ("GET s", ""),
        ("EXEC", ""),
        ("MULTI", ""),
        ("GET s", ""),
        ("GET", "ERR wrong number"),
        ("EXEC", "EXECABORT"),
        ("WATCH s", ""),
        ("SET s 2", ""),
        ("MULTI", ""),
        ("GET s", ""),
        ("EXEC", ""),
        ("WATCH s", ""),
        ("UNWATCH", ""),
        ("MULTI", ""),
        ("BLPOP l 1", ""),
        ("EXEC", ""),
        ("MULTI", ""),
        ("EXEC", ""),
    ] {
        bench.expect(line, error)?;
    }
    Ok(())
}

fn blocking(bench: &mut Bench) -> Result<()> {
    for line in [
        "BLPOP none 0.01",
        "BRPOP none 0.01",
        "BLMPOP 0.01 1 none LEFT",
        "BRPOPLPUSH none other 0.01",
        "BLMOVE none other LEFT LEFT 0.01",
        "BZPOPMIN none 0.01",
        "BZPOPMAX none 0.01",
        "BZMPOP 0.01 1 none MIN",
        "XREAD BLOCK 10 STREAMS none 0",
    ] {
        bench.expect(line, "")?;
        note(Kind::Command, line.split(' ').next().unwrap_or(line))?;
    }
    let mut waiting = bench.connect()?;
    let Reply::Integer(id) = waiting.command(&["CLIENT", "ID"])? else {
        bail!("CLIENT ID is a number");
    };
    waiting.send(&encode(&["BLPOP", "queue", "0"]))?;
    blocked(bench, 1)?;
    bench.expect("LPUSH queue item", "")?;
    ensure!(matches!(waiting.reply()?, Reply::Array(_)));
    waiting.send(&encode(&["BLPOP", "queue", "0"]))?;
    blocked(bench, 1)?;
    bench.expect(&format!("CLIENT UNBLOCK {id} ERROR"), "")?;
    ensure!(matches!(waiting.reply()?, Reply::Error(text) if text.starts_with("UNBLOCKED")));
    waiting.send(&encode(&["BLPOP", "queue", "0"]))?;
    blocked(bench, 1)?;
    bench.expect("SET queue string", "")?;
    bench.expect("DEL queue", "")?;
    drop(waiting);
    blocked(bench, 0)
}

/// Waits until so many clients are blocked.
fn blocked(bench: &mut Bench, wanted: usize) -> Result<()> {
    let redis = &mut bench.redis;
    eventually(Duration::from_secs(10), "clients are blocked", || {
        let Reply::Bulk(Some(info)) = redis.command(&["INFO", "clients"])? else {
            bail!("INFO is answered by a text");
        };
        let line = format!("blocked_clients:{wanted}\r\n");
        Ok(String::from_utf8(info)?.contains(&line))
    })
}

/// While a script runs for long, others are refused.
fn busy(bench: &mut Bench) -> Result<()> {
    bench.expect("CONFIG SET busy-reply-threshold 10", "")?;
    let mut script = bench.connect()?;
    script.send(&encode(&["EVAL", "while true do end", "0"]))?;
    let redis = &mut bench.redis;
    eventually(Duration::from_secs(10), "the script runs for long", || {
        let reply = redis.command(&["GET", "k"])?;
        Ok(matches!(reply, Reply::Error(text) if text.starts_with("BUSY")))
    })?;
    bench.expect("SCRIPT KILL", "")?;
    ensure!(matches!(script.reply()?, Reply::Error(_)));
    Ok(())
}

/// What changes a connection.
fn connections(bench: &mut Bench) -> Result<()> {
    let mut other = bench.connect()?;
    other.send(&encode(&["SUBSCRIBE", "a", "b"]))?;
    for _ in 0..2 {
        other.reply()?;
    }
    bench.expect("PUBLISH a message", "")?;
    other.reply()?;
    expect(&mut other, "GET k", "ERR Can't execute")?;
    other.send(&encode(&["UNSUBSCRIBE", "a", "b"]))?;
    for _ in 0..2 {
        other.reply()?;
    }
    expect(&mut other, "GET k", "")?;
    expect(&mut other, "RESET", "")?;
    other.send(&encode(&["CLIENT", "REPLY", "SKIP"]))?;
    other.send(&encode(&["GET", "k"]))?;
    expect(&mut other, "PING", "")?;
    expect(&mut other, "MONITOR", "")?;
    let mut other = bench.connect()?;
    expect(&mut other, "QUIT", "")
}

/// A server refuses a redirected command, for the observer it has not failed.
#[test]
fn redirects_are_no_errors() -> Result<()> {
    let owner = cluster_node()?;
    let other = cluster_node()?;
    let mut redis = Redis::connect(("127.0.0.1", owner.port))?;
    expect(&mut redis, "CLUSTER ADDSLOTSRANGE 0 16383", "")?;
    let Reply::Bulk(Some(nodes)) = redis.command(&["CLUSTER", "NODES"])? else {
        bail!("CLUSTER NODES is a text");
    };
    // The port of the cluster's bus stands after `@`.
    let nodes = String::from_utf8(nodes)?;
    let bus = nodes
        .split_once('@')
        .and_then(|(_, rest)| rest.split([' ', ',']).next())
        .context("a bus port")?;
    let meet = format!("CLUSTER MEET 127.0.0.1 {} {bus}", owner.port);
    expect(&mut Redis::connect(("127.0.0.1", other.port))?, &meet, "")?;

    let mut bench = Bench::new(other)?;
    let redis = &mut bench.redis;
    let mut errors = 0;
    eventually(Duration::from_secs(20), "the node redirects", || {
        let reply = redis.command(&["GET", "k"])?;
        let moved = matches!(&reply, Reply::Error(text) if text.starts_with("MOVED"));
        errors += u64::from(!moved);
        Ok(moved)
    })?;
    bench.expect("SET k v", "MOVED")?;
    bench.expect("MGET a b", "CROSSSLOT")?;
    bench.expect("ASKING", "")?;
    let mut statistics = Statistics::of(&mut bench.redis)?.since(&bench.before)?;
    let summary = bench.observer.stop()?.summary;
    ensure!(
        summary.of("redis", "GET", "errors") == errors,
        "{}",
        summary.0
    );
    statistics.remove("GET", Counts::new(0, 1))?;
    statistics.remove("SET", Counts::new(0, 1))?;
    statistics.compare(&summary)
}

fn cluster_node() -> Result<Server> {
    let bus = free_port()?.to_string();
    Server::redis_on(
        free_port()?,
        &["--cluster-enabled", "yes", "--cluster-port", &bus],
    )
}
