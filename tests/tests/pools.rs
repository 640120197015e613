//! Pools of connections: what client libraries know of their own is what is observed, and so is what servers count.
//!
//! The programs in `tests/clients/pools` hold still after each line that they print, so that both sides can be compared
//! at rest.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::{Memcached, Redis, Reply, encode};
use tests::namespace::Pair;
use tests::observer::{Observer, Options};
use tests::pool::{Client, Pool};
use tests::process::{Running, eventually, python, tools};
use tests::server::{Server, free_port};

fn program(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/pools");
    folder.join(name).display().to_string()
}

fn options(observer: Options) -> Options {
    observer
        .traces("none")
        .with("--metrics-exporter", "jsonl")
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "100")
}

fn redis(port: u16) -> Result<Observer> {
    options(Options::new().redis(port)).start()
}

#[test]
fn redis_py() -> Result<()> {
    let server = Server::redis()?;
    let observer = redis(server.port)?;
    let mut command = Command::new(python());
    command.args(["-B", &program("redis_py.py"), &server.port.to_string()]);
    let mut client = Client::start(&mut command)?;
    let pool = Pool::of(client.process.id(), server.port);
    for step in 0.. {
        let told = client.hold()?;
        let points = pool.agrees_with(&observer, &told)?;
        // Who waits to borrow one leaves no trace.
        if told["waiting"] == 3 {
            assert_eq!(pool.number(&points, "cache.connection.queued"), 0);
            assert_eq!(pool.number(&points, "cache.connection.exhausted"), 0);
        }
        if step == 6 {
            assert_eq!(told["size"], 0);
            break;
        }
        client.go()?;
    }
    client.end()?;
    let report = observer.stop()?;
    let points = &report.metrics;
    assert_eq!(pool.seen(points), [0, 0, 12, 12]);
    for metric in [
        "db.client.connection.create_time",
        "cache.connection.connect_time",
        "cache.connection.age",
        "cache.connection.commands",
    ] {
        assert_eq!(pool.number(points, metric), 12, "{metric}");
    }
    // redis-py says HELLO, CLIENT SETINFO twice and more first: the sum tells set-up from the rest, 18 commands.
    let commands = points.iter().rev().find(|point| {
        point["name"] == "cache.connection.commands" && point["resource"]["process.pid"] == pool.pid
    });
    assert_eq!(commands.context("commands")?["sum"], 18);
    assert_eq!(pool.number(points, "cache.connection.health_checks"), 0);
    Ok(())
}

#[test]
fn generic_pool() -> Result<()> {
    let server = Server::redis()?;
    let observer = redis(server.port)?;
    let mut command = Command::new("node");
    command
        .args([&program("generic_pool.cjs"), &server.port.to_string()])
        .env(
            "NODE_PATH",
            tools().with_file_name("node").join("node_modules"),
        );
    let mut client = Client::start(&mut command)?;
    let pool = Pool::of(client.process.id(), server.port);
    for sizes in [2, 6, 7, 0] {
        let told = client.hold()?;
        // What is borrowed and not used is idle on the wire.
        assert_eq!(told["size"], sizes);
        pool.agrees_with(&observer, &told)?;
        if sizes > 0 {
            client.go()?;
            continue;
        }
        let tested = told["tested"].as_u64().context("a number")?;
        client.end()?;
        let report = observer.stop()?;
        let points = &report.metrics;
        // Each test is a PING; those right after the connection was opened belong to its set-up.
        assert_eq!(report.summary.of("redis", "PING", "count"), tested);
        let checks = pool.number(points, "cache.connection.health_checks");
        assert!((1..=tested).contains(&checks), "{checks} of {tested}");
        let created = pool.number(points, "db.client.connection.create_time");
        assert_eq!(created, told["opened"]);
        return Ok(());
    }
    Ok(())
}

#[test]
fn redigo() -> Result<()> {
    let server = Server::redis()?;
    let observer = options(Options::new().redis(server.port)).start()?;
    let mut command = Command::new(tools().with_file_name("go").join("redigo_pool"));
    let mut client = Client::start(command.arg(server.port.to_string()))?;
    let pool = Pool::of(client.process.id(), server.port);
    for _ in 0..3 {
        let told = client.hold()?;
        pool.agrees_with(&observer, &told)?;
        eventually(Duration::from_secs(10), "each test is seen", || {
            let checks = pool.number(&observer.metrics()?, "cache.connection.health_checks");
            Ok(told["tested"] == checks)
        })?;
        client.go()?;
    }
    let told = client.hold()?;
    let points = pool.agrees_with(&observer, &told)?;
    assert_eq!(told["size"], 0);
    // SELECT and CLIENT SETNAME are its set-up.
    let created = pool.number(&points, "db.client.connection.create_time");
    assert_eq!(created, told["opened"]);
    client.end()?;
    observer.stop()?;
    Ok(())
}

/// All connections to a server, over all processes of this host.
fn connections(points: &[Value], port: u16) -> u64 {
    let mut last = std::collections::BTreeMap::new();
    let name = format!("127.0.0.1:{port}");
    for point in points {
        if point["name"] == "db.client.connection.count"
            && point["attributes"]["db.client.connection.pool.name"] == *name
        {
            let series = (
                point["resource"].to_string(),
                point["attributes"].to_string(),
            );
            last.insert(series, point["value"].as_u64().unwrap_or(0));
        }
    }
    last.values().sum()
}

#[test]
fn servers_count_the_same_connections() -> Result<()> {
    let (server, memcached) = (Server::redis()?, Server::memcached()?);
    // Some are older than the observer.
    let mut asker = Redis::connect(("127.0.0.1", server.port))?;
    let mut memcached_asker = Memcached::connect(("127.0.0.1", memcached.port))?;
    let _old = Redis::connect(("127.0.0.1", server.port))?;
    let observer = options(Options::new().redis(server.port).memcached(memcached.port)).start()?;
    let mut clients = Vec::new();
    let mut others = Vec::new();
    for n in 0..20 {
        clients.push(Redis::connect(("127.0.0.1", server.port))?);
        others.push(Memcached::connect(("127.0.0.1", memcached.port))?);
        if n % 3 == 0 {
            clients.remove(0);
            others.remove(0);
        }
    }
    // Another process, too.
    let mut command = Command::new(python());
    command.args(["-B", &program("redis_py.py"), &server.port.to_string()]);
    let mut client = Client::start(&mut command)?;
    client.hold()?;
    let mut counts = [[0; 2]; 2];
    eventually(Duration::from_secs(10), "all count the same", || {
        let Reply::Bulk(Some(text)) = asker.command(&["INFO", "clients"])? else {
            anyhow::bail!("INFO");
        };
        let text = String::from_utf8(text)?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("connected_clients:"));
        let points = observer.metrics()?;
        counts = [
            [
                line.context("connected_clients")?.trim().parse()?,
                connections(&points, server.port),
            ],
            // Without its listener; one that has just been closed may still be counted.
            [
                memcached_asker.stat("curr_connections")?,
                connections(&points, memcached.port),
            ],
        ];
        ensure!(counts[0][0] <= 20 + 2 + 5, "too many connections");
        Ok(counts == [[13 + 2 + 5; 2], [13 + 1; 2]])
    })
    .with_context(|| format!("{counts:?}"))?;
    drop(client);
    observer.stop()?;
    Ok(())
}

#[test]
fn the_link_of_a_replica_is_in_no_pool() -> Result<()> {
    let server = Server::redis()?;
    let observer = redis(server.port)?;
    let master = format!("127.0.0.1 {}", server.port);
    let replica = Server::redis_on(free_port()?, &["--replicaof", &master])?;
    let pool = Pool::of(replica.process.id(), server.port);
    let mut asker = Redis::connect(("127.0.0.1", server.port))?;
    eventually(Duration::from_secs(20), "the replica is known", || {
        let reply = asker.command(&["INFO", "replication"])?;
        Ok(matches!(&reply, Reply::Bulk(Some(text))
            if String::from_utf8_lossy(text).contains("state=online")))
    })?;
    asker.command(&["SET", "key", "value"])?;
    eventually(Duration::from_secs(10), "it left its pool", || {
        let [idle, used, opened, _] = pool.seen(&observer.metrics()?);
        Ok(idle + used == 0 && opened > 0)
    })?;
    observer.stop()?;
    Ok(())
}

#[test]
fn connections_older_than_the_observer() -> Result<()> {
    let server = Server::redis()?;
    let mut old = (0..5)
        .map(|_| Redis::connect(("127.0.0.1", server.port)))
        .collect::<Result<Vec<_>>>()?;
    let observer = redis(server.port)?;
    let pool = Pool::own(server.port);
    // Before any byte of them is seen.
    pool.agrees(&observer, [5, 0, 0, 0])?;
    old[0].command(&["SET", "key", "value"])?;
    old[1].send(&encode(&["BLPOP", "never", "60"]))?;
    pool.agrees(&observer, [4, 1, 0, 0])?;
    old.push(Redis::connect(("127.0.0.1", server.port))?);
    pool.agrees(&observer, [5, 1, 1, 0])?;
    // One that was seen, one that was not, one that was opened.
    for index in [5, 3, 0] {
        old.remove(index);
    }
    pool.agrees(&observer, [2, 1, 1, 3])?;
    let report = observer.stop()?;
    let points = &report.metrics;
    // How old the others are and what they carried is not known.
    assert_eq!(pool.number(points, "cache.connection.age"), 1);
    assert_eq!(pool.number(points, "cache.connection.commands"), 1);
    assert_eq!(pool.number(points, "db.client.connection.create_time"), 1);
    Ok(())
}

/// A connection of which each command is known: set up, used, tested, closed.
fn test_and_use(port: u16) -> Result<()> {
    let mut client = Redis::connect(("127.0.0.1", port))?;
    client.command(&["CLIENT", "SETNAME", "spans"])?;
    client.command(&["PING"])?;
    client.command(&["GET", "key"])?;
    client.command(&["PING"])?;
    // Not alone.
    client.send(&[encode(&["PING"]), encode(&["GET", "key"])].concat())?;
    client.reply()?;
    client.reply()?;
    Ok(())
}

#[test]
fn tests_of_connections_can_be_left_out_of_spans() -> Result<()> {
    let server = Server::redis()?;
    for (keep, spans) in [("true", 3), ("false", 1)] {
        let observer = options(Options::new().redis(server.port))
            .traces("jsonl")
            .with("--spans-pipeline", "commands")
            .with("--spans-health-checks", keep)
            .start()?;
        test_and_use(server.port)?;
        let report = observer.stop()?;
        assert_eq!(report.of("PING").len(), spans);
        assert_eq!(report.of("GET").len(), 2);
        // Metrics count them either way; the first belongs to the set-up.
        let pool = Pool::own(server.port);
        let checks = pool.number(&report.metrics, "cache.connection.health_checks");
        assert_eq!(checks, 1);
        assert_eq!(report.summary.of("redis", "PING", "count"), 3);
        let sampled = report.metric("observer.spans", &[("outcome", "sampled_out")]);
        assert_eq!(sampled, (3 - spans) as f64);
    }
    Ok(())
}

#[test]
fn connections_as_spans() -> Result<()> {
    let server = Server::redis()?;
    let closed = free_port()?;
    let observer = options(Options::new().redis(server.port))
        .traces("jsonl")
        .with("--memcached-port", &closed.to_string())
        .with("--spans-connections", "true")
        .start()?;
    test_and_use(server.port)?;
    assert!(TcpStream::connect(("127.0.0.1", closed)).is_err());
    let report = observer.stop()?;
    let [ready, refused] = report.of("CONNECT")[..] else {
        anyhow::bail!("{:?}", report.of("CONNECT"));
    };
    assert_eq!(ready["name"], format!("CONNECT 127.0.0.1:{}", server.port));
    assert_eq!(ready["kind"], "CLIENT");
    assert_eq!(ready["status"]["code"], "UNSET");
    assert_eq!(ready["attributes"]["db.system.name"], "redis");
    assert_eq!(ready["attributes"]["cache.operation"], "connection");
    let connected = ready["attributes"]["cache.connection.connect_time"].as_f64();
    // It ends with the last reply of the set-up, before the first other command.
    let time = |span: &Value, name: &str| span[name].as_u64().context("a time");
    let first = report.of("GET")[0];
    assert!(time(ready, "end_time_unix_nano")? <= time(first, "start_time_unix_nano")?);
    let took = time(ready, "end_time_unix_nano")? - time(ready, "start_time_unix_nano")?;
    assert!(connected.context("connect_time")? < took as f64 / 1e9);
    assert_eq!(refused["status"]["code"], "ERROR");
    assert_eq!(refused["attributes"]["error.type"], "connection_refused");
    assert_eq!(refused["attributes"]["db.system.name"], "memcached");
    let [close] = report.of("CLOSE")[..] else {
        anyhow::bail!("{:?}", report.of("CLOSE"));
    };
    assert_eq!(close["attributes"]["cache.connection.commands"], 4);
    assert!(close["attributes"]["cache.connection.age"].as_f64() > connected);
    assert!(close["attributes"]["error.type"].is_null());
    Ok(())
}

/// A server of one's own on a watched port.
fn listener() -> Result<(TcpListener, u16)> {
    let port = free_port()?;
    Ok((TcpListener::bind(("127.0.0.1", port))?, port))
}

#[test]
fn refused_and_reset() -> Result<()> {
    let (listener, port) = listener()?;
    let closed = free_port()?;
    let observer = options(
        Options::new()
            .redis(port)
            .with("--memcached-port", &closed.to_string()),
    )
    .start()?;
    for _ in 0..4 {
        assert!(TcpStream::connect(("127.0.0.1", closed)).is_err());
    }
    for _ in 0..3 {
        let mut client = TcpStream::connect(("127.0.0.1", port))?;
        client.write_all(&encode(&["PING"]))?;
        let (server, _) = listener.accept()?;
        server.peek(&mut [0])?;
        // What it has not read makes its end a reset.
        drop(server);
        assert!(client.read(&mut [0]).is_err());
    }
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    let (server, _) = listener.accept()?;
    drop(server);
    assert_eq!(client.read(&mut [0])?, 0);
    drop(client);
    let report = observer.stop()?;
    let points = &report.metrics;
    let refused = Pool::own(closed);
    let failed = "cache.connection.failed";
    assert_eq!(refused.error(points, failed, "connection_refused"), 4);
    assert_eq!(refused.seen(points), [0, 0, 0, 0]);
    assert_eq!(refused.number(points, "cache.connection.opening"), 0);
    let pool = Pool::own(port);
    let reset = pool.error(points, "cache.connection.closed", "connection_reset");
    assert_eq!(reset, 3);
    assert_eq!(pool.seen(points), [0, 0, 4, 1]);
    Ok(())
}

/// Attempts that nobody answers, that the network refuses, and that the client gives up.
#[test]
fn attempts_without_an_answer() -> Result<()> {
    const SILENT: &str = "10.231.7.9";
    const ABSENT: &str = "10.231.7.8";
    let pair = Pair::new()?;
    let port = free_port()?;
    let prepare = format!(
        "echo 1 > /proc/sys/net/ipv4/tcp_syn_retries
         echo 1 > /proc/sys/net/ipv4/neigh/cable/mcast_solicit
         ip neighbour add {SILENT} lladdr 02:00:00:00:00:09 dev cable"
    );
    ensure!(
        pair.inside(0, "sh")
            .args(["-c", &prepare])
            .status()?
            .success()
    );
    let observer = redis(port)?;
    let connect = |address: &str, timeout: &str| {
        let script = format!(
            "import socket\ntry:\n socket.create_connection(('{address}', {port}), {timeout})\n\
             except OSError as error:\n print(type(error).__name__)\n"
        );
        let mut command = pair.inside(0, "python3");
        Running::start(command.args(["-c", &script]).stdout(Stdio::null()))
    };
    let mut silent = connect(SILENT, "None")?;
    let mut absent = connect(ABSENT, "None")?;
    let mut hasty = connect(SILENT, "0.5")?;
    let pool = Pool::at(silent.id(), &format!("{SILENT}:{port}"));
    eventually(Duration::from_secs(10), "the attempt is seen", || {
        Ok(pool.number(&observer.metrics()?, "cache.connection.opening") == 1)
    })?;
    for client in [&mut silent, &mut absent, &mut hasty] {
        assert_eq!(client.wait(Duration::from_secs(60))?, 0);
    }
    let report = observer.stop()?;
    for (pid, address, error) in [
        (silent.id(), SILENT, "timeout"),
        (absent.id(), ABSENT, "unreachable"),
        (hasty.id(), SILENT, "canceled"),
    ] {
        let pool = Pool::at(pid, &format!("{address}:{port}"));
        let points = &report.metrics;
        assert_eq!(
            pool.error(points, "cache.connection.failed", error),
            1,
            "{error}"
        );
        assert_eq!(pool.number(points, "cache.connection.opening"), 0);
    }
    Ok(())
}

#[test]
fn a_connection_a_request_is_churn() -> Result<()> {
    let server = Server::redis()?;
    let observer = redis(server.port)?;
    for n in 0..60 {
        let mut client = Redis::connect(("127.0.0.1", server.port))?;
        client.command(&["CLIENT", "SETNAME", "churn"])?;
        client.command(&["GET", &format!("key:{n}")])?;
    }
    let pool = Pool::own(server.port);
    let points = pool.agrees(&observer, [0, 0, 60, 60])?;
    assert_eq!(pool.number(&points, "cache.connection.churned"), 60);
    let log = observer.log()?;
    assert_eq!(log.matches("hardly a command").count(), 1, "{log}");
    let report = observer.stop()?;
    assert_eq!(pool.number(&report.metrics, "cache.connection.churning"), 1);
    Ok(())
}

#[test]
fn a_pool_that_grows_and_shrinks_is_no_churn() -> Result<()> {
    let server = Server::redis()?;
    let observer = redis(server.port)?;
    for _ in 0..10 {
        let mut clients = (0..6)
            .map(|_| Redis::connect(("127.0.0.1", server.port)))
            .collect::<Result<Vec<_>>>()?;
        for client in &mut clients {
            for n in 0..5 {
                client.command(&["GET", &format!("key:{n}")])?;
            }
        }
    }
    let pool = Pool::own(server.port);
    pool.agrees(&observer, [0, 0, 60, 60])?;
    let report = observer.stop()?;
    assert_eq!(pool.number(&report.metrics, "cache.connection.churned"), 0);
    assert_eq!(pool.number(&report.metrics, "cache.connection.churning"), 0);
    assert!(!report.log.contains("hardly a command"), "{}", report.log);
    Ok(())
}

#[test]
fn commands_behind_a_slow_one_exhaust_a_pool() -> Result<()> {
    let server = Server::redis()?;
    let observer = redis(server.port)?;
    let mut clients = (0..2)
        .map(|_| Redis::connect(("127.0.0.1", server.port)))
        .collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.send(&encode(&["BLPOP", "never", "2"]))?;
        for n in 0..3 {
            client.send(&encode(&["GET", &format!("key:{n}")]))?;
        }
    }
    let pool = Pool::own(server.port);
    let points = pool.agrees(&observer, [0, 2, 2, 0])?;
    assert_eq!(pool.number(&points, "cache.connection.queued"), 6);
    for client in &mut clients {
        for _ in 0..4 {
            client.reply()?;
        }
    }
    let points = pool.agrees(&observer, [2, 0, 2, 0])?;
    assert_eq!(pool.number(&points, "cache.connection.queued"), 0);
    assert_eq!(pool.number(&points, "cache.connection.queue_time"), 6);
    assert_eq!(pool.number(&points, "cache.connection.busy_time"), 2);
    let report = observer.stop()?;
    let points = &report.metrics;
    // BLPOP took two seconds by the server's clock, at both connections at once.
    let time = pool.last(points, "cache.connection.exhausted_time", None);
    assert!(time.is_some_and(|time| time > 1.5), "{time:?}");
    assert_eq!(pool.number(points, "cache.connection.exhausted"), 1);
    assert!(
        report.log.contains("no connection was idle"),
        "{}",
        report.log
    );
    Ok(())
}

#[test]
fn pipelines_and_idle_connections_are_no_exhaustion() -> Result<()> {
    let server = Server::redis()?;
    let observer = redis(server.port)?;
    let mut clients = (0..3)
        .map(|_| Redis::connect(("127.0.0.1", server.port)))
        .collect::<Result<Vec<_>>>()?;
    // Commands wait behind a slow one, but others could take them.
    clients[0].send(&encode(&["BLPOP", "never", "2"]))?;
    clients[0].send(&encode(&["GET", "key"]))?;
    // One subscribes, which is use.
    clients[1].command(&["SUBSCRIBE", "news"])?;
    let pool = Pool::own(server.port);
    pool.agrees(&observer, [1, 2, 3, 0])?;
    clients[0].reply()?;
    clients[0].reply()?;
    // What leaves together waits for its own kind only.
    let batch: Vec<u8> = (0..100).flat_map(|_| encode(&["GET", "key"])).collect();
    for _ in 0..50 {
        for client in [0, 2] {
            clients[client].send(&batch)?;
            for _ in 0..100 {
                clients[client].reply()?;
            }
        }
    }
    let points = pool.agrees(&observer, [2, 1, 3, 0])?;
    let queued = pool.number(&points, "cache.connection.queue_time");
    assert_eq!(queued, 1 + 2 * 50 * 99);
    let report = observer.stop()?;
    assert_eq!(
        pool.number(&report.metrics, "cache.connection.exhausted"),
        0
    );
    assert!(
        !report.log.contains("no connection was idle"),
        "{}",
        report.log
    );
    Ok(())
}
