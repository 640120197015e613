//! Real client libraries against a real redis-server: what they are known to do is what is observed.
//!
//! The programs are in `tests/clients`. Each prints, as one line of JSON, what only it can know ([`Told`]); everything
//! else is asked from the server. The value of `key:…:N` is N bytes long, and `absent:…` never exists, so that a reply
//! which is paired with a wrong request shows in a size or in a hit.

use std::fs;
use std::path::{Path, PathBuf};

use ::fred::types::RespVersion;
use anyhow::{Context, Result};
use tests::client::encode;
use tests::coverage::{self, Kind};
use tests::observer::{Options, Report};
use tests::process::{Folder, output, python, tools};
use tests::server::Server;
use tests::statistics::Counts;
use tokio::runtime::Runtime;

#[path = "../clients/compare.rs"]
mod compare;
#[path = "../clients/rust/fred.rs"]
mod fred_client;
#[path = "../clients/rust/redis_rs.rs"]
mod redis_rs;
#[path = "../clients/told.rs"]
mod told;

use compare::{
    assert_batches, assert_complete, assert_counts, assert_pairs, assert_process,
    assert_tasks_apart, counted, server_bytes,
};
use told::Told;

/// Tasks that share a connection, and the keys of each.
const TASKS: usize = 16;
const KEYS: u64 = 100;

/// The keys of a task, with the lengths of their values, each as long as few others.
fn keys_of(task: usize) -> impl Iterator<Item = (String, usize)> {
    (1..=KEYS as usize).map(move |n| {
        let length = 1 + (task * 61 + n * 7) % 997;
        (format!("key:{task}:{length}"), length)
    })
}

/// Threads for asynchronous clients.
fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(4).enable_all().build()?)
}

/// Observes one client, which tells what it did, and compares.
fn observe(
    client: &str,
    executable: &str,
    run: impl FnOnce(&Server) -> Result<Told>,
) -> Result<Report> {
    let server = Server::redis()?;
    let observer = Options::new()
        .redis(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    let told = run(&server)?;
    let counted = counted(server.port, &told)?;
    let report = observer.stop()?;
    assert_counts(&report, &counted, &told)?;
    assert_complete(&report, &told);
    assert_pairs(&report);
    assert_batches(&report, &told);
    assert_process(&report, executable)?;
    coverage::note(Kind::Client, client)?;
    Ok(report)
}

/// The name of this program, for clients that run inside it.
fn own_name() -> Result<String> {
    let path = std::env::current_exe()?;
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.context("a printable name")?.to_owned())
}

/// The environment's interpreter is a link to the system's.
fn python_name() -> Result<String> {
    let path = python()
        .canonicalize()
        .context("`cargo xtask setup --tests` makes it")?;
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.context("a printable name")?.to_owned())
}

fn program(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(path)
}

fn python_program(path: &str, server: &Server, arguments: &[&str]) -> Result<Told> {
    let port = server.port.to_string();
    let path = program(path);
    let mut words = vec!["-B", path.to_str().context("a printable path")?, &port];
    words.extend(arguments);
    Told::parse(&output(python(), words)?)
}

fn node_program(path: &str, server: &Server, arguments: &[&str]) -> Result<Told> {
    let port = server.port.to_string();
    let path = program(path);
    // Node's own variable for packages that lie elsewhere.
    let packages = tools().with_file_name("node").join("node_modules");
    let variable = format!("NODE_PATH={}", packages.display());
    let path = path.to_str().context("a printable path")?;
    let mut words = vec![&variable, "node", path, &port];
    words.extend(arguments);
    Told::parse(&output("env", words)?)
}

fn redigo_program(server: &Server, arguments: &[&str]) -> Result<Told> {
    let program = tools().with_file_name("go").join("redigo");
    let port = server.port.to_string();
    let words = [port.as_str()].into_iter().chain(arguments.iter().copied());
    Told::parse(&output(program, words)?)
}

/// A command line, to its end.
fn run(program: &str, port: u16, arguments: &[&str]) -> Result<String> {
    let port = port.to_string();
    output(program, ["-p", &port].iter().chain(arguments))
}

/// Pipelines of 10,000 commands that leave in sends of 64 KiB at most: nothing is lost.
#[test]
fn ten_thousand_in_many_sends() -> Result<()> {
    observe("redis-py 8.1, 10,000 commands", &python_name()?, |server| {
        python_program("python/sync.py", server, &["2", "ten_thousand"])
    })?;
    observe("redigo 1.8, 10,000 commands", "redigo", |server| {
        redigo_program(server, &["ten_thousand"])
    })?;
    observe("node-redis 6.3, 10,000 commands", "node", |server| {
        let mut told = node_program("node/node_redis.cjs", server, &["3", "ten_thousand"])?;
        // A call holds as many as the library puts into its vector, and replies may come between two.
        told.unordered();
        Ok(told)
    })?;
    Ok(())
}

/// Two pipelines of 10,000 commands, each in one send of 2.9 MB and 0.3 MB, of which 64 KiB are captured. The rest is
/// counted as lost, no reply is given to a wrong request, and the commands that follow are seen to the last.
#[test]
fn ten_thousand_in_one_send() -> Result<()> {
    overlong("ioredis 6.0, 10,000 commands", |server| {
        node_program("node/ioredis.cjs", server, &["ioredis", "ten_thousand"])
    })?;
    overlong("redis-py 8.1, asyncio, 10,000 commands", |server| {
        python_program("python/asynchronous.py", server, &["2", "ten_thousand"])
    })?;
    overlong("redis-rs 1.8, 10,000 commands", |server| {
        redis_rs::ten_thousand(server.port, false)
    })
}

fn overlong(client: &str, run: impl FnOnce(&Server) -> Result<Told>) -> Result<()> {
    const PIPELINE: u64 = 10_000;
    let server = Server::redis()?;
    let observer = Options::new()
        .redis(server.port)
        .with("--spans-pipeline", "commands")
        .with("--metrics-exporter", "jsonl")
        .start()?;
    let told = run(&server)?;
    let mut counted = counted(server.port, &told)?;
    // The next question is ours, too.
    counted.add("INFO", Counts::new(1, 0));
    let bytes = server_bytes(server.port)?;
    let report = observer.stop()?;
    assert_pairs(&report);

    // What the kernel saw was captured or counted as lost.
    let skipped = |reason| report.metric("observer.payload.skipped", &[("reason", reason)]) as u64;
    let captured = report.metric("observer.payload.captured", &[]) as u64;
    let (limit, beyond) = (skipped("limit"), skipped("unsynchronized"));
    assert!(limit > 3_000_000, "{limit}");
    assert_eq!(captured + limit, bytes);
    let summary = &report.summary;
    // The second pipeline may follow so soon that its boundary is not proven when its captured beginning ends.
    let unproven = summary.total("lost_bytes") - (limit + beyond);
    assert!([0, 64 << 10].contains(&unproven), "{}", summary.0);
    // One a pipeline; and more where a boundary that was tried while replies still came was refuted.
    assert!(summary.total("resynchronizations") >= 2, "{}", summary.0);
    assert_eq!(summary.total("unanswered"), 0, "{}", summary.0);
    // The second pipeline may follow so soon that its boundary is not proven: its replies are then given to none.
    let unresolved = summary.total("unresolved");
    assert!(
        summary.total("orphaned_replies") <= unresolved,
        "{}",
        summary.0
    );

    // Of the pipelines, what was captured is seen with its outcome. All other commands are seen.
    let of = |operation: &str, number: &str| summary.of("redis", operation, number);
    assert_eq!(of("GET", "misses"), told.misses["GET"]);
    for name in ["SET", "GET"] {
        let missing = counted.of_command(name).count - of(name, "count");
        let most = PIPELINE - u64::from(name == "SET" || unproven == 0);
        assert!(0 < missing && missing <= most, "{name} {missing}");
        counted.remove(name, Counts::new(missing, 0))?;
        if name == "GET" {
            let hits = told.hits["GET"] - missing - unresolved;
            assert_eq!(of("GET", "hits"), hits, "{}", summary.0);
        }
    }
    counted.compare(summary)?;
    coverage::note(Kind::Client, client)
}

#[test]
fn redis_cli() -> Result<()> {
    for (client, option) in [("redis-cli 7.0", "-2"), ("redis-cli 7.0, RESP3", "-3")] {
        observe(client, "redis-cli", |server| {
            let mut told = Told::new();
            let cli = |arguments: &[&str]| {
                run("redis-cli", server.port, &[&[option], arguments].concat())
            };
            for n in [1, 10, 100, 1000] {
                let key = format!("key:{n}");
                assert_eq!(cli(&["set", &key, &"v".repeat(n)])?, "OK\n");
                assert_eq!(cli(&["-r", "5", "get", &key])?.len(), 5 * (n + 1));
                told.hit("GET", 5);
            }
            assert_eq!(cli(&["get", "absent:1"])?, "\n");
            told.miss("GET", 1);
            assert_eq!(cli(&["--scan", "--pattern", "key:*"])?.lines().count(), 4);
            assert!(cli(&["info", "clients"])?.contains("connected_clients"));
            cli(&["hset", "hash", "one", "1", "two", "22"])?;
            assert!(cli(&["hgetall", "hash"])?.ends_with("22\n"));
            told.hit("HGETALL", 1);
            cli(&["eval", "return redis.call('get', KEYS[1])", "1", "key:10"])?;
            told.script("GET", 1);
            Ok(told)
        })?;
    }
    Ok(())
}

/// Mass insertion: sends of 16 KiB, cut anywhere, with replies read between them.
#[test]
fn redis_cli_with_pipe() -> Result<()> {
    const KEYS: usize = 5_000;
    let folder = Folder::new()?;
    let commands = folder.path().join("commands");
    let length = |n: usize| 1 + n * 7919 % 509;
    let set = |n| {
        encode(&[
            "SET",
            &format!("key:{n}:{}", length(n)),
            &"v".repeat(length(n)),
        ])
    };
    fs::write(&commands, (0..KEYS).flat_map(set).collect::<Vec<_>>())?;
    let report = observe("redis-cli 7.0 --pipe", "redis-cli", |server| {
        let shell = format!(
            "redis-cli -p {} --pipe < {}",
            server.port,
            commands.display()
        );
        let printed = output("sh", ["-c", &shell])?;
        assert!(printed.contains("errors: 0, replies: 5000"), "{printed}");
        let mut told = Told::new();
        told.unordered();
        Ok(told)
    })?;
    let bytes: usize = (0..KEYS).map(length).sum();
    assert_eq!(
        report.summary.of("redis", "SET", "value_bytes"),
        bytes as u64
    );
    Ok(())
}

/// The whole suite.
#[test]
fn redis_benchmark() -> Result<()> {
    const REQUESTS: u64 = 1_600;
    let ways: [(&str, &[&str]); 4] = [
        ("redis-benchmark 7.0", &[]),
        ("redis-benchmark 7.0 -P 16", &["-P", "16"]),
        ("redis-benchmark 7.0 --threads 2", &["--threads", "2"]),
        ("redis-benchmark 7.0 -3", &["-3"]),
    ];
    for (client, options) in ways {
        let server = Server::redis()?;
        let observer = Options::new().redis(server.port).traces("none").start()?;
        let requests = REQUESTS.to_string();
        run(
            "redis-benchmark",
            server.port,
            &[&["-q", "-n", &requests], options].concat(),
        )?;
        let mut told = Told::new();
        told.hit("GET", REQUESTS);
        told.hit("LRANGE", 4 * REQUESTS);
        let counted = counted(server.port, &told)?;
        let report = observer.stop()?;
        assert_counts(&report, &counted, &told)?;
        counted.compare_keyspace(&report.summary)?;
        let bytes = |operation: &str| report.summary.of("redis", operation, "value_bytes");
        assert_eq!(bytes("GET"), 3 * REQUESTS);
        // Of 100, 300, 500 and 600 elements.
        assert_eq!(bytes("LRANGE"), 1_500 * 3 * REQUESTS);
        assert_complete(&report, &told);
        coverage::note(Kind::Client, client)?;
    }
    Ok(())
}

#[test]
fn redis_py() -> Result<()> {
    for (client, protocol) in [("redis-py 8.1", "2"), ("redis-py 8.1, RESP3", "3")] {
        observe(client, &python_name()?, |server| {
            python_program("python/sync.py", server, &[protocol])
        })?;
    }
    Ok(())
}

#[test]
fn redis_py_with_asyncio() -> Result<()> {
    for (client, protocol) in [
        ("redis-py 8.1, asyncio", "2"),
        ("redis-py 8.1, asyncio, RESP3", "3"),
    ] {
        observe(client, &python_name()?, |server| {
            python_program("python/asynchronous.py", server, &[protocol])
        })?;
    }
    Ok(())
}

#[test]
fn ioredis() -> Result<()> {
    for (client, package) in [("ioredis 6.0", "ioredis"), ("ioredis 5.11", "ioredis5")] {
        let arguments = [package, "plain", "pipeline", "multi", "auto", "subscribe"];
        observe(client, "node", |server| {
            node_program("node/ioredis.cjs", server, &arguments)
        })?;
    }
    Ok(())
}

#[test]
fn node_redis() -> Result<()> {
    for (client, protocol) in [("node-redis 6.3", "2"), ("node-redis 6.3, RESP3", "3")] {
        let arguments = [protocol, "plain", "multi", "auto", "subscribe"];
        observe(client, "node", |server| {
            node_program("node/node_redis.cjs", server, &arguments)
        })?;
    }
    Ok(())
}

#[test]
fn redigo() -> Result<()> {
    observe("redigo 1.8", "redigo", |server| redigo_program(server, &[]))?;
    Ok(())
}

#[test]
fn redis_rs() -> Result<()> {
    for (client, resp3) in [("redis-rs 1.8", false), ("redis-rs 1.8, RESP3", true)] {
        observe(client, &own_name()?, |server| {
            redis_rs::blocking(server.port, resp3)
        })?;
        observe(&format!("{client}, asynchronous"), &own_name()?, |server| {
            redis_rs::asynchronous(server.port, resp3)
        })?;
    }
    Ok(())
}

#[test]
fn redis_rs_multiplexed() -> Result<()> {
    let ways = [
        ("redis-rs 1.8, multiplexed", false),
        ("redis-rs 1.8, RESP3, multiplexed", true),
    ];
    for (client, resp3) in ways {
        let report = observe(client, &own_name()?, |server| {
            redis_rs::multiplexed(server.port, resp3)
        })?;
        assert_tasks_apart(&report);
    }
    Ok(())
}

#[test]
fn fred() -> Result<()> {
    for (client, version) in [
        ("fred 10.1", RespVersion::RESP2),
        ("fred 10.1, RESP3", RespVersion::RESP3),
    ] {
        observe(client, &own_name()?, |server| {
            fred_client::alone(server.port, version.clone())
        })?;
        let report = observe(&format!("{client}, multiplexed"), &own_name()?, |server| {
            fred_client::multiplexed(server.port, version)
        })?;
        assert_tasks_apart(&report);
    }
    Ok(())
}
