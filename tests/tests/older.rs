//! Connections that are older than the observer: counted from its start, told from the first sure boundary on, and nothing
//! wrong before.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::{Memcached, Redis, Reply, encode};
use tests::namespace::Pair;
use tests::observer::{Observer, Options, Report};
use tests::pool::Pool;
use tests::process::{eventually, load};
use tests::server::{Server, free_port};

/// Bytes of a large value.
fn large() -> Result<usize> {
    Ok(load(100_000_000)?.max(8_000_000) as usize)
}

/// Commands of whose telling a test is sure: their keys begin with `known`.
const ROUNDS: usize = 5;

/// Goes on with a connection that is in step, and leaves it pauses, as one that is not busy.
fn go_on(client: &mut Redis, name: &str) -> Result<()> {
    for round in 1..=ROUNDS {
        let key = format!("known:{name}:{round}");
        client.command(&["SET", &key, &"v".repeat(round)])?;
        let reply = client.command(&["GET", &key])?;
        ensure!(
            reply == Reply::Bulk(Some("v".repeat(round).into())),
            "{reply:?}"
        );
        sleep(Duration::from_millis(30));
    }
    Ok(())
}

fn key(span: &Value) -> &str {
    span["attributes"]["cache.key"].as_str().unwrap_or_default()
}

/// What [`go_on`] did is told as it was; of what else, nothing is.
fn is_told(report: &Report, name: &str) -> Result<()> {
    for operation in ["SET", "GET"] {
        for round in 1..=ROUNDS {
            let wanted = format!("known:{name}:{round}");
            let found = report.of(operation);
            let spans: Vec<_> = found.iter().filter(|span| key(span) == wanted).collect();
            ensure!(
                spans.len() == 1,
                "{} times {operation} {wanted}",
                spans.len()
            );
            let attributes = &spans[0]["attributes"];
            ensure!(attributes["cache.value_size"] == round, "{}", spans[0]);
            ensure!(
                operation == "SET" || attributes["cache.hit"] == true,
                "{}",
                spans[0]
            );
            ensure!(spans[0]["status"]["code"] == "UNSET", "{}", spans[0]);
        }
    }
    Ok(())
}

/// No span is of anything but what is known.
fn nothing_else(report: &Report) -> Result<()> {
    for span in &report.spans {
        ensure!(key(span).starts_with("known:"), "{span}");
    }
    Ok(())
}

fn observe(port: u16) -> Result<Observer> {
    Options::new()
        .redis(port)
        .with("--metrics-exporter", "jsonl")
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "100")
        .start()
}

/// The end of a reply of which `read` bytes are read already.
fn read_on(stream: &mut TcpStream, mut left: usize) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let most = left.min(buffer.len());
        stream.read_exact(&mut buffer[..most])?;
        left -= most;
    }
    Ok(())
}

#[test]
fn in_the_middle_of_a_large_reply() -> Result<()> {
    let server = Server::redis()?;
    let address = ("127.0.0.1", server.port);
    // The value looks like replies.
    let value = b"$4\r\nfake\r\n+OK\r\n".repeat(large()? / 15);
    Redis::connect(address)?.command(&[b"SET".as_slice(), b"large", &value])?;
    let mut old = Vec::new();
    for _ in 0..2 {
        let client = Redis::connect(address)?;
        let mut stream = client.stream()?;
        stream.write_all(&encode(&["GET", "large"]))?;
        let head = format!("${}\r\n", value.len()).len();
        read_on(&mut stream, head + value.len() / 3)?;
        old.push((client, stream));
    }
    let observer = observe(server.port)?;
    let pool = Pool::own(server.port);
    eventually(Duration::from_secs(10), "both are counted", || {
        let [idle, used, ..] = pool.seen(&observer.metrics()?);
        Ok(idle + used == 2)
    })?;
    let left = value.len() - value.len() / 3 + 2;
    let [(first, stream), (second, hasty)] = &mut old[..] else {
        unreachable!("two");
    };
    read_on(stream, left)?;
    go_on(first, "reply")?;
    // The other sends its next command before the reply has ended.
    read_on(hasty, left / 2)?;
    second.send(&encode(&["GET", "hasty"]))?;
    sleep(Duration::from_millis(30));
    read_on(hasty, left - left / 2)?;
    ensure!(second.reply()? == Reply::Bulk(None));
    sleep(Duration::from_millis(30));
    go_on(second, "hasty")?;
    pool.agrees(&observer, [2, 0, 0, 0])?;
    let report = observer.stop()?;
    is_told(&report, "reply")?;
    is_told(&report, "hasty")?;
    for span in &report.spans {
        // What is sure of it is that it missed.
        let missed = key(span) == "hasty" && span["attributes"]["cache.hit"] == false;
        ensure!(missed || key(span).starts_with("known:"), "{span}");
    }
    Ok(())
}

#[test]
fn in_the_middle_of_a_large_request() -> Result<()> {
    let server = Server::redis()?;
    // Each piece of the value begins like a command, and pauses make it look like one.
    let piece = encode(&["SET", "fake", "x"]).repeat(1_000);
    let pieces = large()? / piece.len();
    let mut client = Redis::connect(("127.0.0.1", server.port))?;
    let length = pieces * piece.len();
    client.send(format!("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n${length}\r\n").as_bytes())?;
    for _ in 0..pieces / 3 {
        client.send(&piece)?;
    }
    let observer = observe(server.port)?;
    for number in pieces / 3..pieces {
        client.send(&piece)?;
        // Not faster than the observer reads on a busy machine.
        sleep(Duration::from_millis(if number % 100 == 0 {
            30
        } else {
            1
        }));
    }
    client.send(b"\r\n")?;
    ensure!(client.reply()? == Reply::Status("OK".to_owned()));
    go_on(&mut client, "request")?;
    Pool::own(server.port).agrees(&observer, [1, 0, 0, 0])?;
    let report = observer.stop()?;
    is_told(&report, "request")?;
    nothing_else(&report)
}

#[test]
fn in_the_middle_of_anything_else() -> Result<()> {
    let server = Server::redis()?;
    let connect = || Redis::connect(("127.0.0.1", server.port));
    let mut pipeline = connect()?;
    for n in 0..200 {
        pipeline.send(&encode(&["SET", &format!("old:{n}"), "x"]))?;
    }
    pipeline.reply()?;
    let mut multi = connect()?;
    multi.command(&["MULTI"])?;
    multi.command(&["SET", "old:a", "x"])?;
    multi.command(&["GET", "old:a"])?;
    let mut blocking = connect()?;
    blocking.send(&encode(&["BLPOP", "old:list", "0"]))?;
    let mut subscriber = connect()?;
    subscriber.command(&["SUBSCRIBE", "news"])?;
    let mut monitor = connect()?;
    monitor.command(&["MONITOR"])?;
    let mut half = connect()?;
    half.send(b"*2\r\n$3\r\nGET\r\n$5\r\nold")?;
    let mut idle = connect()?;
    let mut silent = connect()?;
    silent.send(&encode(&["CLIENT", "REPLY", "OFF"]))?;
    let mut other = connect()?;

    let observer = observe(server.port)?;
    Pool::own(server.port).agrees(&observer, [9, 0, 0, 0])?;
    for _ in 1..200 {
        pipeline.reply()?;
    }
    go_on(&mut pipeline, "pipeline")?;
    multi.command(&["SET", "old:b", "x"])?;
    let Reply::Array(replies) = multi.command(&["EXEC"])? else {
        anyhow::bail!("EXEC");
    };
    ensure!(replies.len() == 3);
    go_on(&mut multi, "multi")?;
    other.command(&["RPUSH", "known:list", "x"])?;
    other.command(&["RPUSH", "old:list", "x"])?;
    blocking.reply()?;
    go_on(&mut blocking, "blocking")?;
    for n in 0..10 {
        other.command(&["PUBLISH", "news", &format!("$-1\r\n:{n}\r\n")])?;
    }
    for _ in 0..10 {
        subscriber.reply()?;
    }
    subscriber.command(&["UNSUBSCRIBE", "news"])?;
    sleep(Duration::from_millis(30));
    go_on(&mut subscriber, "subscriber")?;
    half.send(b":x\r\n")?;
    half.reply()?;
    go_on(&mut half, "half")?;
    go_on(&mut idle, "idle")?;
    silent.send(&encode(&["SET", "old:c", "x"]))?;
    sleep(Duration::from_millis(30));
    drop(monitor);
    let report = observer.stop()?;
    for name in [
        "pipeline",
        "multi",
        "blocking",
        "subscriber",
        "half",
        "idle",
    ] {
        is_told(&report, name)?;
    }
    for span in &report.spans {
        let operation = &span["attributes"]["db.operation.name"];
        let sure = ["RPUSH", "PUBLISH", "UNSUBSCRIBE"]
            .iter()
            .any(|name| operation == name);
        ensure!(sure || key(span).starts_with("known:"), "{span}");
    }
    Ok(())
}

#[test]
fn memcached_in_the_middle() -> Result<()> {
    let server = Server::memcached_on(free_port()?, &["-I", "64m", "-m", "256"])?;
    let mut reader = Memcached::connect(("127.0.0.1", server.port))?;
    let mut writer = Memcached::connect(("127.0.0.1", server.port))?;
    let value = b"VALUE fake 0 1\r\nx\r\nEND\r\nSTORED\r\n".repeat(large()?.min(50_000_000) / 32);
    ensure!(reader.store("set", "large", &value, 0)? == "STORED");
    reader.send(b"get large\r\n")?;
    let mut stream = reader.stream()?;
    let head = format!("VALUE large 0 {}\r\n", value.len());
    read_on(&mut stream, head.len() + value.len() / 3)?;
    let piece = b"set fake 0 0 1\r\nx\r\n".repeat(1_000);
    writer.send(format!("set large 0 0 {}\r\n", 100 * piece.len()).as_bytes())?;
    writer.send(&piece)?;
    let observer = Options::new().memcached(server.port).start()?;
    read_on(
        &mut stream,
        value.len() - value.len() / 3 + "\r\nEND\r\n".len(),
    )?;
    for _ in 1..100 {
        writer.send(&piece)?;
        sleep(Duration::from_millis(1));
    }
    ensure!(writer.line("")? == "STORED");
    for client in [&mut reader, &mut writer] {
        for round in 1..=ROUNDS {
            client.store("set", &format!("known:{round}"), &vec![b'v'; round], 0)?;
            ensure!(client.get(&[&format!("known:{round}")])?.len() == 1);
            sleep(Duration::from_millis(30));
        }
    }
    let report = observer.stop()?;
    for operation in ["SET", "GET"] {
        ensure!(
            report.of(operation).len() == 2 * ROUNDS,
            "{}",
            report.summary.0
        );
    }
    nothing_else(&report)
}

/// Idle ones on several ports, over IPv4 and IPv6, in a namespace of their own; and again after a restart of the observer.
#[test]
fn all_are_counted_from_the_start() -> Result<()> {
    let servers = [Server::redis()?, Server::redis()?];
    let memcached = Server::memcached()?;
    let pair = Pair::new()?;
    let inner = free_port()?;
    let _inner = pair.redis(inner)?;
    let mut clients = Vec::new();
    for (count, server) in [2, 3].into_iter().zip(&servers) {
        for _ in 0..count {
            clients.push(Redis::connect(("127.0.0.1", server.port))?);
        }
    }
    let mut six = Redis::connect(("::1", servers[0].port))?;
    let mapped = Redis::connect(("::ffff:127.0.0.1", servers[0].port))?;
    let _cached = Memcached::connect(("127.0.0.1", memcached.port))?;
    let strangers = [Pair::ADDRESSES[1], Pair::ADDRESSES_6[1]];
    let mut strangers = strangers
        .into_iter()
        .map(|address| pair.client(address, inner))
        .collect::<Result<Vec<_>>>()?;
    for stranger in &mut strangers {
        stranger.say("SET key 1")?;
        ensure!(stranger.line()? == "OK");
    }
    let ports = [servers[0].port, servers[1].port, inner].map(|port| port.to_string());
    let own = |port: u16, wanted| (Pool::own(port), wanted);
    for restart in [false, true] {
        let observer = Options::new()
            .with("--redis-port", &ports.join(","))
            .memcached(memcached.port)
            .with("--metrics-exporter", "jsonl")
            .variable("OTEL_METRIC_EXPORT_INTERVAL", "100")
            .start()?;
        let at = |pid, address: &str, port| (Pool::at(pid, &format!("{address}:{port}")), 1);
        for (pool, wanted) in [
            // One of them over an IPv4 address that was written as an IPv6 address.
            own(servers[0].port, 3),
            own(servers[1].port, 3),
            own(memcached.port, 1),
            at(std::process::id(), "[::1]", servers[0].port),
            at(strangers[0].process.id(), Pair::ADDRESSES[1], inner),
            at(
                strangers[1].process.id(),
                &format!("[{}]", Pair::ADDRESSES_6[1]),
                inner,
            ),
        ] {
            pool.agrees(&observer, [wanted, 0, 0, 0])
                .with_context(|| format!("{pool:?}, restart: {restart}"))?;
        }
        six.command(&["SET", "known:six", "x"])?;
        clients[4].command(&["SET", "known:four", "x"])?;
        for stranger in &mut strangers {
            stranger.say("SET known:stranger x")?;
            ensure!(stranger.line()? == "OK");
        }
        let report = observer.stop()?;
        assert_eq!(report.of("SET").len(), 4, "{:?}", report.of("SET"));
        assert!(report.spans.iter().all(|span| span["kind"] == "CLIENT"));
        nothing_else(&report)?;
    }
    drop(mapped);
    Ok(())
}
