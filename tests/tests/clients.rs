//! Real client libraries against a real redis-server: what they are known to do is what is observed.
//!
//! The programs are in `tests/clients`. Each prints, as one line of JSON, what only it can know ([`Told`]); everything
//! else is asked from the server. The value of `key:…:N` is N bytes long, and `absent:…` never exists, so that a reply
//! which is paired with a wrong request shows in a size or in a hit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ::fred::types::RespVersion;
use anyhow::{Context, Result};
use serde_json::Value;
use tests::client::{Redis, Reply, encode};
use tests::coverage::{self, Kind};
use tests::observer::{Options, Report};
use tests::process::{Folder, output, python, tools};
use tests::server::Server;
use tokio::runtime::Runtime;

#[path = "../clients/rust/fred.rs"]
mod fred_client;
#[path = "../clients/rust/redis_rs.rs"]
mod redis_rs;

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

type Counts = BTreeMap<String, u64>;

/// What a client program knows of its own traffic.
#[derive(Debug, Default)]
struct Told {
    /// Keys and fields found, by command.
    hits: Counts,
    /// Keys and fields not found, by command.
    misses: Counts,
    /// Commands called by scripts: the server counts them, and they are on no wire.
    scripts: Counts,
    /// Sizes of batches that hold keys, `PIPELINE` and `MULTI`. `None` where they depend on the scheduler.
    batches: Option<BTreeMap<String, Vec<u64>>>,
    /// Messages out of band.
    pushes: u64,
}

impl Told {
    fn new() -> Self {
        Self {
            batches: Some(BTreeMap::new()),
            ..Self::default()
        }
    }

    fn hit(&mut self, operation: &str, number: u64) {
        *self.hits.entry(operation.to_owned()).or_default() += number;
    }

    fn miss(&mut self, operation: &str, number: u64) {
        *self.misses.entry(operation.to_owned()).or_default() += number;
    }

    fn script(&mut self, operation: &str, number: u64) {
        *self.scripts.entry(operation.to_owned()).or_default() += number;
    }

    fn push(&mut self) {
        self.pushes += 1;
    }

    fn batch(&mut self, kind: &str, size: u64) {
        let batches = self.batches.get_or_insert_default();
        batches.entry(kind.to_owned()).or_default().push(size);
    }

    /// What leaves together depends on the scheduler.
    fn unordered(&mut self) {
        self.batches = None;
    }

    /// The last line that a program prints.
    fn parse(printed: &str) -> Result<Self> {
        let line = printed.lines().last().context("a line")?;
        let told: Value =
            serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let counts = |name: &str| -> Counts {
            let numbers = told[name].as_object().into_iter().flatten();
            let numbers = numbers.filter_map(|(name, one)| Some((name.clone(), one.as_u64()?)));
            numbers.collect()
        };
        let sizes = |sizes: &Value| -> Vec<u64> {
            let sizes = sizes.as_array().into_iter().flatten();
            sizes.filter_map(Value::as_u64).collect()
        };
        let batches = told["batches"].as_object().map(|batches| {
            let batches = batches.iter().map(|(kind, all)| (kind.clone(), sizes(all)));
            batches.filter(|(_, sizes)| !sizes.is_empty()).collect()
        });
        Ok(Self {
            hits: counts("hits"),
            misses: counts("misses"),
            scripts: counts("scripts"),
            batches,
            pushes: told["pushes"].as_u64().context("pushes")?,
        })
    }
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
    let counted = counted(server.port)?;
    let report = observer.stop()?;
    assert_counts(&report, counted, &told);
    assert_complete(&report, &told);
    assert_pairs(&report);
    assert_batches(&report, &told);
    assert_process(&report, executable)?;
    coverage::note(Kind::Client, client)?;
    Ok(report)
}

/// How often the server was asked each command, by its own count, with those it refused to run. Subcommands count with
/// their command.
fn counted(port: u16) -> Result<Counts> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    let Reply::Bulk(Some(info)) = redis.command(&["INFO", "commandstats"])? else {
        anyhow::bail!("INFO is answered by a text");
    };
    let mut counted = Counts::new();
    for line in String::from_utf8(info)?.lines() {
        let Some((name, numbers)) = line
            .strip_prefix("cmdstat_")
            .and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        let number = |wanted: &str| -> Result<u64> {
            let part = numbers
                .split(',')
                .find_map(|part| part.strip_prefix(wanted));
            Ok(part.context("a number")?.parse()?)
        };
        let name = name.split('|').next().unwrap_or(name).to_ascii_uppercase();
        let sum = number("calls=")? + number("rejected_calls=")?;
        *counted.entry(name).or_default() += sum;
    }
    // The question itself, which is counted only when it was answered.
    *counted.entry("INFO".to_owned()).or_default() += 1;
    Ok(counted)
}

/// The observer has counted each command as often as the server, and hits and misses as the program.
fn assert_counts(report: &Report, mut counted: Counts, told: &Told) {
    for (name, inner) in &told.scripts {
        *counted.entry(name.clone()).or_default() -= inner;
    }
    counted.retain(|_, number| *number > 0);
    let numbers = |wanted: &str| -> Counts {
        let operations = report.summary.0["operations"]["redis"].as_object();
        operations
            .into_iter()
            .flatten()
            .fold(Counts::new(), |mut counts, (name, numbers)| {
                let number = numbers[wanted].as_u64().unwrap_or(0);
                if number > 0 {
                    let name = name.split(' ').next().unwrap_or(name);
                    *counts.entry(name.to_owned()).or_default() += number;
                }
                counts
            })
    };
    let mut observed = numbers("count");
    // Libraries try subcommands of CLIENT that this server does not know, and then does not count.
    let tried = observed.remove("CLIENT") >= counted.remove("CLIENT");
    assert!(tried, "{}", report.summary.0);
    assert_eq!(observed, counted, "counted by the observer and the server");
    assert_eq!(numbers("hits"), told.hits, "hits observed and known");
    assert_eq!(numbers("misses"), told.misses, "misses observed and known");
}

/// Nothing was lost, guessed or left over.
fn assert_complete(report: &Report, told: &Told) {
    let summary = &report.summary;
    for total in [
        "unanswered",
        "unresolved",
        "orphaned_replies",
        "lost_bytes",
        "resynchronizations",
    ] {
        assert_eq!(summary.total(total), 0, "{total} in {}", summary.0);
    }
    assert_eq!(summary.total("pushes"), told.pushes, "{}", summary.0);
}

/// Each reply was given to its own request.
fn assert_pairs(report: &Report) {
    for span in &report.spans {
        let attributes = &span["attributes"];
        let batch = !attributes["db.operation.batch.size"].is_null();
        let (Some(key), false) = (attributes["cache.key"].as_str(), batch) else {
            continue;
        };
        let failed = !attributes["error.type"].is_null();
        let reads = attributes["db.operation.name"] == "GET";
        if key.starts_with("absent:") {
            assert!(attributes["cache.value_size"].is_null(), "{span}");
            assert!(!reads || attributes["cache.hit"] == false, "{span}");
        } else if key.starts_with("key:") && !failed {
            let length = key
                .rsplit(':')
                .next()
                .and_then(|end| end.parse::<u64>().ok());
            let size = attributes["cache.value_size"].as_u64();
            assert!(size.is_none() || size == length, "{span}");
            assert!(
                !reads || (attributes["cache.hit"] == true && size.is_some()),
                "{span}"
            );
        }
    }
}

/// The spans of each batch's commands, by the batch's own span.
fn batches(report: &Report) -> Vec<(&Value, Vec<&Value>)> {
    let mut children = BTreeMap::<&str, Vec<&Value>>::new();
    for span in &report.spans {
        if let Some(parent) = span["parent_span_id"].as_str() {
            children.entry(parent).or_default().push(span);
        }
    }
    let batches = report
        .spans
        .iter()
        .filter(|span| !span["attributes"]["db.operation.batch.size"].is_null());
    batches
        .map(|span| {
            let id = span["span_id"].as_str().unwrap_or_default();
            (span, children.remove(id).unwrap_or_default())
        })
        .collect()
}

/// The batches are those that the client sent, and each holds as many commands as it says.
fn assert_batches(report: &Report, told: &Told) {
    let mut sizes = BTreeMap::<String, Vec<u64>>::new();
    let mut missing = 0;
    for (span, commands) in batches(report) {
        let attributes = &span["attributes"];
        let name = attributes["db.operation.name"].as_str().unwrap_or_default();
        let kind = name.split(' ').next().unwrap_or_default();
        let size = attributes["db.operation.batch.size"].as_u64().unwrap_or(0);
        let bracket = |command: &&&Value| {
            let name = &command["attributes"]["db.operation.name"];
            kind == "MULTI" && (name == "MULTI" || name == "EXEC")
        };
        let brackets = commands.iter().filter(bracket).count();
        assert!(commands.len() - brackets <= size as usize, "{span}");
        missing += size - (commands.len() - brackets) as u64;
        // One without keys is a library's handshake.
        if !attributes["cache.key"].is_null() {
            sizes.entry(kind.to_owned()).or_default().push(size);
        }
    }
    // What was queued and never ran belongs to the batch and is no operation.
    assert_eq!(missing, report.summary.total("not_executed"));
    let Some(mut told) = told.batches.clone() else {
        return;
    };
    for sizes in sizes.values_mut().chain(told.values_mut()) {
        sizes.sort_unstable();
    }
    assert_eq!(sizes, told, "sizes of batches observed and sent");
}

/// No batch holds two commands of a task that waits for each reply. Keys name their task: `key:TASK:N`.
fn assert_tasks_apart(report: &Report) {
    for (_, commands) in batches(report) {
        let keys = commands
            .iter()
            .filter_map(|span| span["attributes"]["cache.key"].as_str());
        let mut tasks: Vec<_> = keys.filter_map(|key| key.split(':').nth(1)).collect();
        let all = tasks.len();
        tasks.sort_unstable();
        tasks.dedup();
        assert_eq!(tasks.len(), all, "{commands:#?}");
    }
}

/// Each command but our own question came from this program.
fn assert_process(report: &Report, executable: &str) -> Result<()> {
    let me = own_name()?;
    for span in &report.spans {
        let from = span["resource"]["process.executable.name"].as_str();
        let ours = span["attributes"]["db.operation.name"] == "INFO" && from == Some(&me);
        assert!(ours || from == Some(executable), "{span}");
    }
    Ok(())
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

/// A command line, to its end.
fn run(program: &str, port: u16, arguments: &[&str]) -> Result<String> {
    let port = port.to_string();
    output(program, ["-p", &port].iter().chain(arguments))
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
        let counted = counted(server.port)?;
        let report = observer.stop()?;
        let mut told = Told::new();
        told.hit("GET", REQUESTS);
        told.hit("LRANGE", 4 * REQUESTS);
        assert_counts(&report, counted, &told);
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
    observe("redigo 1.8", "redigo", |server| {
        let program = tools().with_file_name("go").join("redigo");
        Told::parse(&output(program, [server.port.to_string()])?)
    })?;
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
    for resp3 in [false, true] {
        let report = observe("redis-rs 1.8, multiplexed", &own_name()?, |server| {
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
