//! Servers that refuse: every prefix of an error is told as it came. And how connections end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::client::{Redis, Reply, encode};
use tests::observer::{Observer, Report};
use tests::process::{Folder, eventually};
use tests::server::{Server, free_port};
use tests::statistics::{Counts, Statistics};
use tests::topology::{
    check_errors, commands, complete, done, refused, replica, synchronized, text, watch,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the server has counted with what it leaves out, and that the observer counts the same.
fn compare(
    redis: &mut Redis,
    observer: Observer,
    before: &Statistics,
    uncounted: &[(&str, Counts)],
) -> Result<Report> {
    let mut statistics = Statistics::of(redis)?.since(before)?;
    let report = observer.stop()?;
    assert_eq!(check_errors(&report)?, statistics.codes);
    for (name, counts) in uncounted {
        statistics.add(name, *counts);
    }
    statistics.compare(&report.summary)?;
    Ok(report)
}

/// As [`compare`], with a server that was not asked before and leaves nothing out.
fn compare_all(redis: &mut Redis, observer: Observer) -> Result<Report> {
    compare(redis, observer, &Statistics::default(), &[])
}

#[test]
fn data_of_another_kind() -> Result<()> {
    let server = Server::redis()?;
    let observer = watch(&[server.port])?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    let unknown = "0000000000000000000000000000000000000000";
    done(
        &mut redis,
        &[
            &["SET", "text", "value"],
            &["XADD", "stream", "*", "field", "value"],
            &["XGROUP", "CREATE", "stream", "group", "0"],
        ],
    )?;
    for (prefix, words) in [
        ("WRONGTYPE", &["LPUSH", "text", "value"][..]),
        ("WRONGTYPE", &["HGET", "text", "field"]),
        ("ERR", &["INCR", "text"]),
        ("ERR", &["SET", "text"]),
        ("ERR", &["NOSUCH", "text"]),
        ("ERR", &["SELECT", "99"]),
        ("NOSCRIPT", &["EVALSHA", unknown, "0"]),
        ("BUSYGROUP", &["XGROUP", "CREATE", "stream", "group", "0"]),
        (
            "NOGROUP",
            &[
                "XREADGROUP",
                "GROUP",
                "other",
                "one",
                "STREAMS",
                "stream",
                ">",
            ],
        ),
        ("NOTBUSY", &["SCRIPT", "KILL"]),
        ("IOERR", &["MIGRATE", "127.0.0.1", "1", "text", "0", "100"]),
    ] {
        refused(&mut redis, prefix, words)?;
    }
    // Inside a transaction: each its own.
    done(
        &mut redis,
        &[
            &["MULTI"],
            &["LPUSH", "text", "value"],
            &["GET", "text"],
            &["EXEC"],
        ],
    )?;
    done(&mut redis, &[&["MULTI"]])?;
    refused(&mut redis, "ERR", &["NOSUCH"])?;
    refused(&mut redis, "EXECABORT", &["EXEC"])?;
    // The server does not count what it does not know.
    let unknown = [("NOSUCH", Counts::new(2, 2))];
    let report = compare(&mut redis, observer, &Statistics::default(), &unknown)?;
    complete(&report.summary)?;
    assert_eq!(report.summary.of("redis", "LPUSH", "errors"), 2);
    assert_eq!(report.summary.of("redis", "EXEC", "errors"), 1);
    Ok(())
}

#[test]
fn a_server_that_may_not_write() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path().to_str().context("a printable path")?;
    let server = Server::redis_on(free_port()?, &["--dir", path, "--save", "3600 1000000"])?;
    let observer = watch(&[server.port])?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    // What the dump is renamed to is a folder: saving fails.
    fs::create_dir(folder.path().join("dump.rdb"))?;
    done(&mut redis, &[&["BGSAVE"]])?;
    eventually(PATIENCE, "saving fails", || {
        Ok(text(&mut redis, &["INFO", "persistence"])?.contains("rdb_last_bgsave_status:err"))
    })?;
    refused(&mut redis, "MISCONF", &["SET", "key", "value"])?;
    done(
        &mut redis,
        &[&["CONFIG", "SET", "save", ""], &["SET", "key", "value"]],
    )?;
    done(
        &mut redis,
        &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
    )?;
    refused(&mut redis, "NOREPLICAS", &["SET", "key", "value"])?;
    done(
        &mut redis,
        &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
    )?;
    done(&mut redis, &[&["CONFIG", "SET", "maxmemory", "1"]])?;
    refused(&mut redis, "OOM", &["SET", "key", "value"])?;
    done(&mut redis, &[&["GET", "key"]])?;
    let report = compare_all(&mut redis, observer)?;
    complete(&report.summary)?;
    assert_eq!(report.summary.of("redis", "SET", "errors"), 3);
    Ok(())
}

/// A folder with a dump of many keys.
fn dump() -> Result<Folder> {
    let folder = Folder::new()?;
    let path = folder.path().to_str().context("a printable path")?;
    let server = Server::redis_on(free_port()?, &["--dir", path])?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for number in 0..2_000 {
        let value = "v".repeat(64);
        done(&mut redis, &[&["SET", &format!("key:{number}"), &value]])?;
    }
    done(&mut redis, &[&["SAVE"]])?;
    ensure!(Path::new(path).join("dump.rdb").exists(), "a dump");
    Ok(folder)
}

#[test]
fn a_server_that_is_not_ready() -> Result<()> {
    let folder = dump()?;
    let path = folder.path().to_str().context("a printable path")?;
    let port = free_port()?;
    let observer = watch(&[port])?;
    // 20 ms a key, and a look at its clients every few keys.
    let slow = [
        "--key-load-delay",
        "20000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let server = Server::redis_on(port, &[&["--dir", path][..], &slow].concat())?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    refused(&mut redis, "LOADING", &["GET", "key:1"])?;
    refused(&mut redis, "LOADING", &["SET", "key:1", "value"])?;
    let report = compare_all(&mut redis, observer)?;
    complete(&report.summary)?;

    // A master that is not there.
    let master = Server::redis()?;
    let follower = replica(&master, &["--replica-serve-stale-data", "no"])?;
    let mut redis = Redis::connect(("127.0.0.1", follower.port))?;
    synchronized(&mut redis)?;
    drop(master);
    eventually(PATIENCE, "the link is down", || {
        Ok(text(&mut redis, &["INFO", "replication"])?.contains("master_link_status:down"))
    })?;
    let before = Statistics::of(&mut redis)?;
    let observer = watch(&[follower.port])?;
    refused(&mut redis, "MASTERDOWN", &["GET", "key"])?;
    let report = compare(&mut redis, observer, &before, &[])?;
    complete(&report.summary)
}

/// A server whose script runs without end: the connection that waits for it, and another.
fn busy(server: &Server, script: &str) -> Result<[Redis; 2]> {
    let address = ("127.0.0.1", server.port);
    let [mut waiting, mut other] = [Redis::connect(address)?, Redis::connect(address)?];
    waiting.send(&encode(&["EVAL", script, "1", "key"]))?;
    eventually(PATIENCE, "the server is busy", || {
        Ok(match other.command(&["GET", "key"])? {
            Reply::Error(error) => error.starts_with("BUSY "),
            _ => false,
        })
    })?;
    Ok([waiting, other])
}

#[test]
fn a_server_that_is_busy() -> Result<()> {
    let server = Server::redis_on(free_port()?, &["--lua-time-limit", "10"])?;
    let observer = watch(&[server.port])?;
    let [mut waiting, mut other] = busy(&server, "while true do end")?;
    refused(&mut other, "BUSY", &["SET", "key", "value"])?;
    done(&mut other, &[&["SCRIPT", "KILL"]])?;
    let killed = waiting.reply()?;
    ensure!(matches!(killed, Reply::Error(_)), "{killed:?}");
    refused(&mut other, "NOTBUSY", &["SCRIPT", "KILL"])?;
    let report = compare_all(&mut other, observer)?;
    complete(&report.summary)?;
    assert_eq!(report.summary.of("redis", "EVAL", "errors"), 1);
    Ok(())
}

#[test]
fn shutdown_ends_what_is_under_way() -> Result<()> {
    let server = Server::redis_on(free_port()?, &["--lua-time-limit", "10"])?;
    let observer = watch(&[server.port])?;
    let script = "redis.call('SET', KEYS[1], 'value') while true do end";
    let [mut waiting, mut other] = busy(&server, script)?;
    refused(&mut other, "UNKILLABLE", &["SCRIPT", "KILL"])?;
    other.send(&encode(&["SHUTDOWN", "NOSAVE"]))?;
    ensure!(other.reply().is_err(), "the server is gone");
    ensure!(waiting.reply().is_err(), "the server is gone");
    // A client that has read the end closes its side, too.
    drop((waiting, other));
    let report = observer.stop()?;
    let [shutdown] = report.of("SHUTDOWN")[..] else {
        panic!("{} {:?}", report.summary.0, report.of("BLPOP"));
    };
    assert_eq!(shutdown["attributes"]["cache.no_reply"], true, "{shutdown}");
    assert_eq!(shutdown["status"]["code"], "UNSET", "{shutdown}");
    assert!(shutdown["attributes"]["error.type"].is_null(), "{shutdown}");
    // The script was asked for, and nobody answered.
    let [eval] = report.of("EVAL")[..] else {
        panic!("{} {:?}", report.summary.0, report.of("BLPOP"));
    };
    assert_eq!(eval["status"]["code"], "ERROR", "{eval}");
    assert!(eval["attributes"]["error.type"].is_string(), "{eval}");
    assert!(
        eval["attributes"]["db.response.status_code"].is_null(),
        "{eval}"
    );
    assert_eq!(
        report.summary.total("unanswered"),
        1,
        "{}",
        report.summary.0
    );
    assert_eq!(report.summary.total("no_reply"), 1, "{}", report.summary.0);
    Ok(())
}

#[test]
fn connections_end_in_every_way() -> Result<()> {
    let server = Server::redis()?;
    let address = ("127.0.0.1", server.port);
    let observer = watch(&[server.port])?;
    // QUIT with its reply, and without waiting for it.
    let mut polite = Redis::connect(address)?;
    done(&mut polite, &[&["QUIT"]])?;
    ensure!(polite.reply().is_err(), "the server has closed");
    let mut hasty = Redis::connect(address)?;
    hasty.send(&encode(&["QUIT"]))?;
    drop(hasty);
    // Killed while it waits.
    let (mut waiting, mut other) = (Redis::connect(address)?, Redis::connect(address)?);
    let Reply::Integer(id) = waiting.command(&["CLIENT", "ID"])? else {
        bail!("CLIENT ID is a number");
    };
    waiting.send(&encode(&["BLPOP", "queue", "0"]))?;
    eventually(PATIENCE, "it waits", || {
        Ok(text(&mut other, &["INFO", "clients"])?.contains("blocked_clients:1"))
    })?;
    done(&mut other, &[&["CLIENT", "KILL", "ID", &id.to_string()]])?;
    ensure!(waiting.reply().is_err(), "killed");
    drop(waiting);
    // Closed by the server in the middle of a request that it does not understand, and by the client.
    let mut wrong = Redis::connect(address)?;
    done(&mut wrong, &[&["SET", "key", "value"]])?;
    wrong.send(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$x\r\n")?;
    let error = wrong.reply()?;
    ensure!(matches!(error, Reply::Error(_)), "{error:?}");
    ensure!(wrong.reply().is_err(), "the server has closed");
    drop(wrong);
    let mut half = Redis::connect(address)?;
    half.send(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$100\r\nva")?;
    drop(half);
    let statistics = Statistics::of(&mut other)?;
    let report = observer.stop()?;

    // What nobody answers is no error of the server's, and is counted apart.
    statistics.compare(&report.summary)?;
    assert_eq!(
        report.summary.of("redis", "QUIT", "count"),
        2,
        "{}",
        report.summary.0
    );
    assert_eq!(
        report.summary.of("redis", "QUIT", "errors"),
        0,
        "{}",
        report.summary.0
    );
    assert_eq!(
        report.summary.of("redis", "SET", "count"),
        1,
        "{}",
        report.summary.0
    );
    for span in report.of("QUIT") {
        assert_eq!(span["status"]["code"], "UNSET", "{span}");
    }
    let [blocked] = report.of("BLPOP")[..] else {
        panic!("{} {:?}", report.summary.0, report.of("BLPOP"));
    };
    assert_eq!(blocked["status"]["code"], "ERROR", "{blocked}");
    assert!(blocked["attributes"]["error.type"].is_string(), "{blocked}");
    assert_eq!(blocked["attributes"]["cache.blocking"], true, "{blocked}");
    assert_eq!(
        report.summary.total("unanswered"),
        1,
        "{}",
        report.summary.0
    );
    let failed = commands(&report).filter(|span| span["status"]["code"] == "ERROR");
    let mut names = BTreeMap::new();
    for span in failed {
        *names.entry(span["name"].to_string()).or_insert(0) += 1;
    }
    assert_eq!(names.values().sum::<i32>(), 1, "{names:?}");
    Ok(())
}
