//! The guide's wrappers, one by one: a program with the same access pattern and no instrumentation, and from outside all that
//! the wrapper would have set, or the reason why the wire does not tell it. `docs/guide.md` is the list.
//!
//! The programs are in `tests/guide`. Each checks its replies, and prints what the wrapper would have set around its calls.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::{Memcached, Redis};
use tests::coverage::{Kind, note};
use tests::observer::{Options, Report};
use tests::process::{Folder, output, python, tools};
use tests::server::Server;

#[path = "../guide/compare.rs"]
mod compare;
#[path = "../guide/table.rs"]
mod table;

use compare::Comparison;

/// Programs of which the table has rows.
const POOLS: &str = "pools";

/// A program in the folder, and what starts it.
fn command(program: &str, ports: &[u16]) -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guide");
    let path = |extension: &str| folder.join(program).with_extension(extension);
    let ports = ports.iter().map(u16::to_string);
    if path("cjs").exists() {
        let packages = |name: &str| tools().with_file_name(name).join("node_modules");
        let variable = format!(
            "NODE_PATH={}:{}",
            packages("node").display(),
            packages("memjs").display()
        );
        let words = [
            variable,
            "node".to_owned(),
            path("cjs").display().to_string(),
        ];
        return output("env", words.into_iter().chain(ports));
    }
    if path("py").exists() {
        let words = ["-B".to_owned(), path("py").display().to_string()];
        return output(python(), words.into_iter().chain(ports));
    }
    output(tools().with_file_name("go").join(program), ports)
}

/// Observes a program at these servers, with the names that the configuration gives them as caches.
fn observe(program: &str, servers: &[(&Server, &str)], options: Options) -> Result<()> {
    let ports: Vec<_> = servers.iter().map(|(server, _)| server.port).collect();
    let named =
        |(server, name): &(&Server, &str)| format!("\"127.0.0.1:{}\" = {name:?}\n", server.port);
    let folder = Folder::new()?;
    let file = folder.path().join("observer.toml");
    fs::write(
        &file,
        format!(
            "[caches]\n{}",
            servers.iter().map(named).collect::<String>()
        ),
    )?;
    let observer = options
        .with("--config", file.to_str().context("a printable path")?)
        .with("--naming", "dup")
        .with("--spans-pipeline", "commands")
        .with("--metrics-exporter", "jsonl")
        .start()?;
    let printed = command(program, &ports)?;
    let report = observer.stop()?;
    let told: Value = serde_json::from_str(printed.lines().last().context("nothing was said")?)?;
    let rows = table::rows()?;
    let mut comparison = Comparison::new(&rows, &report, &ports);
    comparison.calls(told["calls"].as_array().context("no calls")?)?;
    comparison.assert_rows(program);
    assert_whole(&report);
    Ok(())
}

fn with_redis(program: &str) -> Result<()> {
    let server = Server::redis()?;
    let caches = [(&server, program)];
    observe(program, &caches, Options::new().redis(server.port))
}

/// Nothing is missing, so that what is not told is not told for another reason.
fn assert_whole(report: &Report) {
    for total in [
        "lost_bytes",
        "unanswered",
        "unresolved",
        "resynchronizations",
    ] {
        assert_eq!(report.summary.total(total), 0, "{total}\n{}", report.log);
    }
}

#[test]
fn ioredis() -> Result<()> {
    with_redis("ioredis")
}

#[test]
fn redis_py() -> Result<()> {
    with_redis("redis_py")
}

#[test]
fn go_redis() -> Result<()> {
    with_redis("go_redis")?;
    note(Kind::Client, "go-redis 5.2")
}

#[test]
fn memjs() -> Result<()> {
    let server = Server::memcached()?;
    let options = Options::new().memcached(server.port);
    observe("memjs", &[(&server, "pages")], options)
}

#[test]
fn get_or_set() -> Result<()> {
    with_redis("get_or_set")
}

#[test]
fn multi_level() -> Result<()> {
    let (near, far) = (Server::redis()?, Server::memcached()?);
    let options = Options::new().redis(near.port).memcached(far.port);
    observe("multi_level", &[(&near, "near"), (&far, "far")], options)
}

#[test]
fn cache_aside() -> Result<()> {
    with_redis("cache_aside")
}

#[test]
fn write_through() -> Result<()> {
    with_redis("write_through")
}

/// What a key has left, by every reply that says it.
#[test]
fn time_that_remains() -> Result<()> {
    let (near, far) = (Server::redis()?, Server::memcached()?);
    let observer = Options::new()
        .redis(near.port)
        .memcached(far.port)
        .start()?;
    let mut redis = Redis::connect(("127.0.0.1", near.port))?;
    redis.command(&["SET", "k", "v", "EX", "600"])?;
    redis.command(&["SET", "forever", "v"])?;
    let asked = ["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"];
    for name in asked {
        for key in ["k", "forever", "absent"] {
            redis.command(&[name, key])?;
        }
    }
    let mut memcached = Memcached::connect(("127.0.0.1", far.port))?;
    memcached.line("ms k 1 T600\r\nv")?;
    for line in ["mg k t", "mg k s t f", "mg k s", "mg absent t"] {
        memcached.line(line)?;
    }
    let report = observer.stop()?;
    let told = |name: &str| -> Vec<Option<i64>> {
        let left = |span: &&Value| span["attributes"]["cache.ttl_remaining"].as_i64();
        report.of(name).iter().map(left).collect()
    };
    // Points in time are answered in whole seconds, rounded.
    let about = |left: Option<i64>| left.is_some_and(|left| (500..=601).contains(&left));
    for name in asked {
        let told = told(name);
        ensure!(
            about(told[0]) && told[1..] == [None, None],
            "{name} {told:?}"
        );
    }
    let told = told("MG");
    ensure!(about(told[0]) && about(told[1]), "{told:?}");
    ensure!(told[2..] == [None, None], "{told:?}");
    Ok(())
}

/// A row without a program would be proven by nobody.
#[test]
fn each_row_is_held_against_a_program() -> Result<()> {
    let known: BTreeSet<_> = table::ALL.into_iter().chain([POOLS]).collect();
    let rows = table::rows()?;
    for row in &rows {
        ensure!(!row.programs.is_empty(), "{row:?}");
        for program in &row.programs {
            ensure!(known.contains(program.as_str()), "{program} in {row:?}");
        }
        let same = rows
            .iter()
            .filter(|other| (&other.kind, &other.name) == (&row.kind, &row.name));
        ensure!(same.count() == 1, "twice: {row:?}");
    }
    Ok(())
}
