//! Real client libraries against a real redis-server: what they are known to do is what is observed.
//!
//! The programs are in `tests/clients`. Each prints, as one line of JSON, what only it can know ([`Told`]); everything
//! else is asked from the server. The value of `key:…:N` is N bytes long, and `absent:…` never exists, so that a reply
//! which is paired with a wrong request shows in a size or in a hit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::{Redis, Reply};
use tests::coverage::{self, Kind};
use tests::observer::{Options, Report};
use tests::process::{output, python, tools};
use tests::server::Server;

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
    /// Sizes of batches that hold keys, `PIPELINE` and `MULTI`, sorted. `None` where they depend on the scheduler.
    batches: Option<BTreeMap<String, Vec<u64>>>,
    /// Messages out of band.
    pushes: Option<u64>,
}

impl Told {
    fn parse(line: &str) -> Result<Self> {
        let told: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let counts = |name: &str| -> Counts {
            let numbers = told[name].as_object().into_iter().flatten();
            numbers
                .map(|(name, number)| (name.clone(), number.as_u64().unwrap_or(0)))
                .filter(|(_, number)| *number > 0)
                .collect()
        };
        let sizes = |sizes: &Value| {
            let sizes = sizes.as_array().into_iter().flatten();
            let mut sizes: Vec<_> = sizes.filter_map(Value::as_u64).collect();
            sizes.sort_unstable();
            sizes
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
            pushes: told["pushes"].as_u64(),
        })
    }
}

/// Observes one client program, which gives what it printed, and compares.
fn observe(
    client: &str,
    executable: &str,
    run: impl FnOnce(&Server) -> Result<String>,
) -> Result<Report> {
    let server = Server::redis()?;
    let observer = Options::new()
        .redis(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    let printed = run(&server)?;
    let told = Told::parse(printed.lines().last().context("the program prints a line")?)?;
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
            let part = numbers.split(',').find_map(|part| part.strip_prefix(wanted));
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
    if let Some(pushes) = told.pushes {
        assert_eq!(summary.total("pushes"), pushes, "{}", summary.0);
    }
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
            let length = key.rsplit(':').next().and_then(|end| end.parse::<u64>().ok());
            let size = attributes["cache.value_size"].as_u64();
            assert!(size.is_none() || size == length, "{span}");
            assert!(
                !reads || (attributes["cache.hit"] == true && size.is_some()),
                "{span}"
            );
        }
    }
}

/// The batches are those that the program sent, and each holds as many commands as it says.
fn assert_batches(report: &Report, told: &Told) {
    let mut sizes = BTreeMap::<String, Vec<u64>>::new();
    for batch in &report.spans {
        let attributes = &batch["attributes"];
        let name = attributes["db.operation.name"].as_str().unwrap_or_default();
        let kind = name.split(' ').next().unwrap_or_default();
        let children = || {
            let of_it = |span: &&Value| span["parent_span_id"] == batch["span_id"];
            report.spans.iter().filter(of_it)
        };
        let Some(size) = attributes["db.operation.batch.size"].as_u64() else {
            continue;
        };
        if attributes["cache.key"].is_null() {
            // A library's handshake.
            continue;
        }
        sizes.entry(kind.to_owned()).or_default().push(size);
        let _ = children;
    }
    for sizes in sizes.values_mut() {
        sizes.sort_unstable();
    }
    if let Some(told) = &told.batches {
        assert_eq!(&sizes, told, "sizes of batches observed and sent");
    }
}

/// Each command but our own question came from this program.
fn assert_process(report: &Report, executable: &str) -> Result<()> {
    let me = std::env::current_exe()?;
    let me = me.file_name().and_then(|name| name.to_str());
    for span in &report.spans {
        let from = span["resource"]["process.executable.name"].as_str();
        let ours = span["attributes"]["db.operation.name"] == "INFO" && from == me;
        assert!(ours || from == Some(executable), "{span}");
    }
    Ok(())
}

fn program(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(path)
}

fn python_program(path: &str, server: &Server, arguments: &[&str]) -> Result<String> {
    let port = server.port.to_string();
    let path = program(path);
    let mut words = vec!["-B", path.to_str().context("a printable path")?, &port];
    words.extend(arguments);
    output(python(), words)
}

#[test]
fn redis_py() -> Result<()> {
    observe("redis-py 8.1", &python_name()?, |server| {
        python_program("python/sync.py", server, &["2"])
    })?;
    Ok(())
}

#[test]
fn redis_py_with_resp3() -> Result<()> {
    observe("redis-py 8.1, RESP3", &python_name()?, |server| {
        python_program("python/sync.py", server, &["3"])
    })?;
    Ok(())
}

/// The environment's interpreter is a link to the system's.
fn python_name() -> Result<String> {
    let path = python().canonicalize().context("cargo xtask setup --tests")?;
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.context("a printable name")?.to_owned())
}
