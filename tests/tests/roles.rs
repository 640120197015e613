//! Client and server on one host: one span a command, or with `--role both` the pair of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tests::client::{Memcached, Redis, encode};
use tests::observer::{Options, Report};
use tests::pair::{pairs, took};
use tests::process::load;
use tests::server::Server;

fn both(server: &Server) -> Options {
    Options::new().redis(server.port).with("--role", "both")
}

fn text<'a>(span: &'a Value, attribute: &str) -> &'a str {
    span["attributes"][attribute].as_str().unwrap_or_default()
}

/// The pair of the only command of this name.
fn only<'a>(report: &'a Report, operation: &str) -> Result<(&'a Value, &'a Value)> {
    let mut found = pairs(report)?;
    found.retain(|(client, _)| text(client, "db.operation.name") == operation);
    ensure!(found.len() == 1, "{} pairs of {operation}", found.len());
    Ok(found[0])
}

#[test]
fn each_command_has_its_pair() -> Result<()> {
    let (server, memcached) = (Server::redis()?, Server::memcached()?);
    let observer = both(&server).memcached(memcached.port).start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["SET", "a", "value"])?;
    redis.command(&["GET", "a"])?;
    redis.command(&["GET", "none"])?;
    redis.command(&["LPUSH", "a", "x"])?;
    redis.command(&["QUIT"])?;
    let mut client = Memcached::connect(("127.0.0.1", memcached.port))?;
    client.store("set", "k", b"12345", 0)?;
    client.get(&["k", "none"])?;
    // Without a reply, and with one that tells of those before it.
    client.send(b"set k 0 0 1 noreply\r\nx\r\n")?;
    client.get(&["k"])?;
    client.send(b"mg none k v q\r\nmg k k v q\r\nmn\r\n")?;
    client.until("MN")?;
    let report = observer.stop()?;
    let pairs = pairs(&report)?;
    let names: Vec<_> = pairs
        .iter()
        .map(|(client, _)| text(client, "db.operation.name"))
        .collect();
    assert_eq!(
        names,
        [
            "SET", "GET", "GET", "LPUSH", "QUIT", "SET", "GET", "SET", "GET", "PIPELINE"
        ]
    );
    for (client, server) in pairs {
        assert_eq!(
            (&client["kind"], &server["kind"]),
            (&"CLIENT".into(), &"SERVER".into())
        );
        assert_eq!(client["name"], server["name"]);
        assert_eq!(client["status"], server["status"]);
        assert_ne!(
            client["resource"]["process.pid"],
            server["resource"]["process.pid"]
        );
        assert_eq!(client["resource"]["process.pid"], std::process::id());
        for same in [
            "cache.key",
            "cache.hit",
            "cache.value_size",
            "db.operation.batch.size",
            "db.query.text",
            "error.type",
        ] {
            let of = |span: &Value| span["attributes"][same].clone();
            assert_eq!(of(client), of(server), "{same}");
        }
        let port = |span: &Value| span["attributes"]["network.peer.port"].clone();
        assert_eq!(port(client), client["attributes"]["server.port"]);
        assert_ne!(port(server), client["attributes"]["server.port"]);
    }
    assert_eq!(
        report.summary.total("unresolved"),
        0,
        "{}",
        report.summary.0
    );
    Ok(())
}

#[test]
fn waiting_is_told_from_the_servers_time() -> Result<()> {
    let server = Server::redis()?;
    let observer = both(&server).start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["PING"])?;
    // The server works on it, or rather waits.
    redis.command(&["BLPOP", "never", "1"])?;
    // It waits before the server, which does nothing.
    server.process.signal(Signal::STOP)?;
    redis.send(&encode(&["SET", "key", "value"]))?;
    sleep(Duration::from_secs(1));
    server.process.signal(Signal::CONT)?;
    redis.reply()?;
    // The reply waits for the client.
    redis.send(&encode(&["GET", "key"]))?;
    sleep(Duration::from_secs(1));
    redis.reply()?;
    let report = observer.stop()?;
    let elsewhere = |operation| -> Result<f64> {
        let (client, server) = only(&report, operation)?;
        Ok(took(client)? - took(server)?)
    };
    assert!(took(only(&report, "BLPOP")?.1)? > 0.9);
    assert!(elsewhere("SET")? > 0.9, "{:?}", only(&report, "SET"));
    assert!(elsewhere("GET")? > 0.9, "{:?}", only(&report, "GET"));
    Ok(())
}

/// More than the server reads at once, though not than is captured of a send; and a transaction.
fn pipelines(port: u16) -> Result<usize> {
    let count = load(1_000)?.max(100) as usize;
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    let batch: Vec<u8> = (0..count)
        .flat_map(|n| encode(&["SET", &format!("key:{n}"), "1234567890"]))
        .collect();
    redis.send(&batch)?;
    for _ in 0..count {
        redis.reply()?;
    }
    redis.send(
        &[
            encode(&["MULTI"]),
            encode(&["GET", "key:1"]),
            encode(&["INCR", "key:1"]),
            encode(&["EXEC"]),
        ]
        .concat(),
    )?;
    for _ in 0..4 {
        redis.reply()?;
    }
    Ok(count)
}

#[test]
fn a_batch_is_what_the_client_sent_together() -> Result<()> {
    let server = Server::redis()?;
    let observer = both(&server).start()?;
    let count = pipelines(server.port)?;
    // Three by themselves, which the server finds together.
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["PING"])?;
    server.process.signal(Signal::STOP)?;
    for key in ["a", "b", "c"] {
        redis.send(&encode(&["STRLEN", key]))?;
    }
    server.process.signal(Signal::CONT)?;
    for _ in 0..3 {
        redis.reply()?;
    }
    let report = observer.stop()?;
    let pairs = pairs(&report)?;
    let names: Vec<_> = pairs
        .iter()
        .map(|(client, server)| {
            let batch = |span: &Value| span["attributes"]["db.operation.batch.size"].as_u64();
            assert_eq!(batch(client), batch(server));
            assert_eq!(text(client, "cache.key"), text(server, "cache.key"));
            assert_eq!(client["name"], server["name"]);
            (
                text(client, "db.operation.name"),
                batch(client).unwrap_or(1),
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            ("PIPELINE SET", count as u64),
            ("MULTI", 2),
            ("PING", 1),
            ("STRLEN", 1),
            ("STRLEN", 1),
            ("STRLEN", 1)
        ]
    );
    Ok(())
}

#[test]
fn spans_of_a_batchs_commands_have_theirs() -> Result<()> {
    let server = Server::redis()?;
    let observer = both(&server).with("--spans-pipeline", "commands").start()?;
    let count = pipelines(server.port)?;
    let report = observer.stop()?;
    assert_eq!(pairs(&report)?.len(), 2);
    for kind in ["CLIENT", "SERVER"] {
        let spans = report.spans.iter().filter(|span| span["kind"] == kind);
        assert_eq!(spans.count(), 1 + count + 1 + 4, "{kind}");
    }
    Ok(())
}

#[test]
fn sampled_are_both_or_none() -> Result<()> {
    let server = Server::redis()?;
    let observer = both(&server)
        .with("--spans-share", "0.25")
        .with("--metrics-exporter", "jsonl")
        .start()?;
    let count = load(2_000)?.max(200);
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for n in 0..count {
        redis.command(&["GET", &format!("key:{n}")])?;
    }
    let report = observer.stop()?;
    let pairs = pairs(&report)?;
    assert!(
        !pairs.is_empty() && pairs.len() < count as usize,
        "{}",
        pairs.len()
    );
    for (client, server) in &pairs {
        let ratio = |span: &Value| span["attributes"]["sampling.ratio"].clone();
        assert_eq!(ratio(client), ratio(server));
    }
    let of = |outcome| report.metric("observer.spans", &[("outcome", outcome)]);
    assert_eq!(of("exported"), 2.0 * pairs.len() as f64);
    assert_eq!(of("exported") + of("sampled_out"), 2.0 * count as f64);
    Ok(())
}

/// `count` of a histogram, or `value`, over all services: by the executable.
fn counted(report: &Report, name: &str, executable: &str) -> f64 {
    let mut last = std::collections::BTreeMap::new();
    for point in report.metrics.iter().filter(|point| point["name"] == name) {
        let by = &point["resource"]["process.executable.name"];
        if by.as_str().is_some_and(|by| by.starts_with(executable)) {
            let number = point.get("value").or(point.get("count"));
            last.insert(
                point["attributes"].to_string(),
                number.and_then(Value::as_f64).unwrap_or(0.0),
            );
        }
    }
    last.values().sum()
}

#[test]
fn metrics_count_a_command_once() -> Result<()> {
    let server = Server::redis()?;
    for role in ["auto", "both"] {
        let observer = Options::new()
            .redis(server.port)
            .with("--role", role)
            .with("--metrics-exporter", "jsonl")
            .start()?;
        let mut redis = Redis::connect(("127.0.0.1", server.port))?;
        redis.command(&["SET", "key", "value"])?;
        for _ in 0..9 {
            redis.command(&["GET", "key"])?;
        }
        let report = observer.stop()?;
        assert_eq!(report.summary.total("transactions"), 10, "{role}");
        assert_eq!(report.summary.of("redis", "GET", "hits"), 9, "{role}");
        let client = |name| counted(&report, name, "roles");
        let server = |name| counted(&report, name, "redis-");
        for (name, number) in [
            ("cache.operations", 10.0),
            ("cache.hits", 9.0),
            ("cache.value_size", 10.0),
            ("cache.latency", 10.0),
            ("db.client.operation.duration", 10.0),
        ] {
            assert_eq!((client(name), server(name)), (number, 0.0), "{role} {name}");
        }
        assert_eq!(client("cache.server.duration"), 0.0);
        let durations = if role == "both" { 10.0 } else { 0.0 };
        assert_eq!(server("cache.server.duration"), durations, "{role}");
    }
    Ok(())
}

/// Ends that are closed before all was read or sent, and connections from before.
#[test]
fn ends_that_come_late_or_go_early() -> Result<()> {
    let server = Server::redis()?;
    let mut old = Redis::connect(("127.0.0.1", server.port))?;
    let observer = both(&server).start()?;
    old.command(&["GET", "old"])?;
    // The server closes behind its reply, which is read after that.
    let mut quitter = TcpStream::connect(("127.0.0.1", server.port))?;
    quitter.write_all(&encode(&["QUIT"]))?;
    sleep(Duration::from_millis(300));
    let mut reply = Vec::new();
    quitter.read_to_end(&mut reply)?;
    assert_eq!(reply, b"+OK\r\n");
    drop(quitter);
    // The client closes before the reply.
    let mut hasty = TcpStream::connect(("127.0.0.1", server.port))?;
    hasty.write_all(&encode(&["BLPOP", "never", "0"]))?;
    sleep(Duration::from_millis(300));
    drop(hasty);
    sleep(Duration::from_millis(300));
    let report = observer.stop()?;
    let pairs = pairs(&report)?;
    let mut names: Vec<_> = pairs
        .iter()
        .map(|(client, _)| text(client, "db.operation.name"))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["BLPOP", "GET", "QUIT"]);
    let (client, server) = only(&report, "BLPOP")?;
    assert_eq!(text(client, "error.type"), text(server, "error.type"));
    Ok(())
}

/// One that the observer sees at both ends, through a program that hands on.
#[test]
fn a_proxy_makes_two_connections() -> Result<()> {
    let server = Server::redis()?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", tests::server::free_port()?))?;
    let proxy = listener.local_addr()?.port();
    let port = server.port;
    let relay = std::thread::spawn(move || -> Result<()> {
        let (mut client, _) = listener.accept()?;
        let mut server = TcpStream::connect(("127.0.0.1", port))?;
        let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
        let back = std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        std::io::copy(&mut client, &mut server)?;
        server.shutdown(std::net::Shutdown::Both)?;
        back.join().ok().context("the relay")??;
        Ok(())
    });
    let observer = Options::new()
        .with("--redis-port", &format!("{port},{proxy}"))
        .with("--role", "both")
        .start()?;
    let mut redis = Redis::connect(("127.0.0.1", proxy))?;
    redis.command(&["SET", "key", "value"])?;
    drop(redis);
    relay.join().ok().context("the relay")??;
    let report = observer.stop()?;
    let mut ports: Vec<_> = pairs(&report)?
        .iter()
        .map(|(client, server)| {
            assert_eq!(
                client["attributes"]["server.port"],
                server["attributes"]["server.port"]
            );
            client["attributes"]["server.port"].clone()
        })
        .collect();
    ports.sort_unstable_by_key(Value::as_u64);
    let mut wanted = [port, proxy];
    wanted.sort_unstable();
    assert_eq!(ports, wanted);
    Ok(())
}
