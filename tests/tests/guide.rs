//! The guide's wrappers, one by one: a program with the same access pattern and no instrumentation, and from outside all that
//! the wrapper would have set, or the reason why the wire does not tell it. `docs/guide.md` is the list.
//!
//! The programs are in `tests/guide`. Each checks its replies, and prints what the wrapper would have set around its calls.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::{Memcached, Redis};
use tests::coverage::{Kind, note};
use tests::observer::{Options, Report};
use tests::process::{Folder, Running, eventually, python, tools};
use tests::server::Server;

#[path = "../guide/compare.rs"]
mod compare;
#[path = "../guide/table.rs"]
mod table;

use compare::Comparison;

/// A port where nobody listens, in place of the default.
const UNUSED: u16 = 1;

/// A program of the folder, with the ports of its servers.
fn program(name: &str, ports: &[u16]) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guide");
    let path = |extension: &str| folder.join(name).with_extension(extension);
    let mut command = if path("cjs").exists() {
        let packages = |name: &str| tools().with_file_name(name).join("node_modules");
        let mut node = Command::new("node");
        // Node's own variable for packages that lie elsewhere.
        let folders = [packages("node"), packages("memjs")];
        let folders = folders.map(|folder| folder.display().to_string());
        node.env("NODE_PATH", folders.join(":")).arg(path("cjs"));
        node
    } else if path("py").exists() {
        let mut interpreter = Command::new(python());
        interpreter.arg("-B").arg(path("py"));
        interpreter
    } else {
        Command::new(tools().with_file_name("go").join(name))
    };
    command.args(ports.iter().map(u16::to_string));
    command
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
    let printed = printed(&mut self::program(program, &ports))?;
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
    let options = Options::new().redis(server.port).memcached(UNUSED);
    observe(program, &[(&server, program)], options)
}

/// What a program prints until its end.
fn printed(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .context("cannot start it: `cargo xtask setup --tests` installs what it needs")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {error}");
    Ok(String::from_utf8(output.stdout)?)
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
    let options = Options::new().memcached(server.port).redis(UNUSED);
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

/// A pool's own figures are the observer's at each of its steps; who waits to borrow is the exception.
#[test]
fn pools() -> Result<()> {
    const WAITING: u64 = 3;
    let server = Server::redis()?;
    let observer = Options::new()
        .redis(server.port)
        .with("--naming", "dup")
        .with("--spans-connections", "true")
        .with("--metrics-exporter", "jsonl")
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "100")
        .start()?;
    let mut command = program("pools", &[server.port]);
    let mut client = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut input = client.child().stdin.take().context("a pipe")?;
    let output = client.child().stdout.take().context("a pipe")?;
    let mut lines = BufReader::new(output).lines();
    let names = ["size", "available", "pending"].map(|name| format!("redis.pool.{name}"));
    for (step, available, waiting) in [(0, 2, 0), (1, 0, WAITING), (2, 10, 0), (3, 0, 0)] {
        if step == 2 {
            let mut other = Redis::connect(("127.0.0.1", server.port))?;
            let jobs = vec!["job"; 10 + WAITING as usize];
            other.command(&[&["RPUSH", "jobs"], &jobs[..]].concat())?;
        }
        writeln!(input)?;
        let told: Value = serde_json::from_str(&lines.next().context("it has ended")??)?;
        ensure!(told["pending"] == waiting, "{told}");
        ensure!(
            told["size"] == 0 || told["available"] == available,
            "{told}"
        );
        let size = told["size"].as_u64().context("a size")?;
        // Who waits to borrow has sent nothing.
        let expected = [size, available, 0];
        let mut seen = [u64::MAX; 3];
        eventually(Duration::from_secs(10), "the pool is seen as it is", || {
            let points = observer.metrics()?;
            for (seen, name) in seen.iter_mut().zip(&names) {
                let last = last(&points, name, client.id(), "value");
                *seen = last.map_or(u64::MAX, |number| number as u64);
            }
            Ok(seen == expected)
        })
        .with_context(|| format!("{seen:?} in place of {expected:?}: {told}"))?;
    }
    let id = client.id();
    drop(input);
    ensure!(client.wait(Duration::from_secs(10))? == 0);
    let report = observer.stop()?;
    let last = |name: &str, member: &str| last(&report.metrics, name, id, member);
    for name in [
        "redis.pool.acquire_time",
        "db.client.connection.create_time",
    ] {
        ensure!(last(name, "count") == Some(10.0), "{name}");
    }
    ensure!(last("cache.connection.closed", "value") == Some(10.0));
    let estimated = |name: &str| {
        let mut points = report.metrics.iter().filter(|point| point["name"] == name);
        points.all(|point| point["attributes"]["estimated"] == "true")
    };
    ensure!(estimated("redis.pool.pending") && estimated("redis.pool.acquire_time"));
    for name in ["CONNECT", "CLOSE"] {
        // This program's own connection has spans, too.
        let spans = report.of(name);
        let spans = spans
            .iter()
            .filter(|span| span["resource"]["process.pid"] == id);
        let count = spans.count();
        ensure!(count == 10, "{name} {count}");
    }
    let cache = format!("127.0.0.1:{}", server.port);
    let rows = table::rows()?;
    for row in rows.iter().filter(|row| row.programs == ["pools"]) {
        let told = |name: &str| {
            let mut lines = report.spans.iter().chain(&report.metrics);
            lines.any(|line| line["name"] == *name)
        };
        let ours = row.ours.as_deref();
        let ours = ours.map(|ours| ours.replace("{server.address}:{server.port}", &cache));
        ensure!(ours.as_deref().is_none_or(told), "{row:?}");
        ensure!(told(&row.name) == row.dup, "{row:?}");
    }
    Ok(())
}

/// The last point of a process.
fn last(points: &[Value], name: &str, process: u32, member: &str) -> Option<f64> {
    let of = |point: &&Value| point["name"] == name && point["resource"]["process.pid"] == process;
    points.iter().rfind(of)?[member].as_f64()
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
    let known: BTreeSet<_> = table::ALL.into_iter().chain(["pools"]).collect();
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
