//! An observer that gets more than it can take: what it does not see is counted, what it says is right, and afterwards it goes on.
//! That the ledger closes is checked wherever an observer ends.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tests::client::{Redis, Reply};
use tests::load::{Load, check_spans, value};
use tests::observer::{Observer, Options, Report};
use tests::process::{Folder, eventually, load, output, python};
use tests::server::Server;
use tests::statistics::Statistics;

/// How much more memory an observer may have afterwards than before: what allocators keep.
const KEPT: u64 = 48 << 20;

/// One that tells each command of a batch, with these budgets.
fn limited(folder: &Folder, limits: &str) -> Result<Options> {
    let path = folder.path().join("observer.toml");
    let text = format!("[spans]\npipeline = \"commands\"\n[limits]\n{limits}\n");
    fs::write(&path, text)?;
    let path = path.to_str().expect("a printable path");
    Ok(Options::new().with("--config", path))
}

/// Asks for a key of its own again and again until that is told.
fn goes_on(observer: &Observer, port: u16) -> Result<()> {
    let mut number = 0;
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    eventually(Duration::from_secs(60), "commands are told again", || {
        number += 1;
        redis.command(&["GET", &format!("after:{number}")])?;
        thread::sleep(Duration::from_millis(100));
        let spans = observer.spans()?;
        let after = |key: &str| key.starts_with("after:");
        let told =
            |span: &serde_json::Value| span["attributes"]["cache.key"].as_str().is_some_and(after);
        Ok(spans.iter().rev().take(100).any(told))
    })
}

/// Bytes that found the ring full, and changes of state.
fn lost(report: &Report) -> u64 {
    let ways = ["sent", "received", "states"];
    ways.iter()
        .map(|way| report.summary.ledger(&[way, "ring_full"]))
        .sum()
}

/// Compares with the server's own count. What was lost is more than what is missing.
fn agrees(report: &Report, server: &Server) -> Result<()> {
    let statistics = Statistics::of(&mut Redis::connect(("127.0.0.1", server.port))?)?;
    let summary = &report.summary;
    if lost(report) == 0 && summary.total("lost_bytes") == 0 {
        let mut server = statistics;
        // This question came after the observer.
        server.remove("INFO", tests::statistics::Counts::new(1, 0))?;
        return server.compare(summary);
    }
    for name in ["GET", "SET", "MULTI", "EXEC"] {
        let (server, seen) = (
            statistics.of_command(name).count,
            summary.of("redis", name, "count"),
        );
        // The shortest of them has 14 bytes.
        let most = (lost(report) + summary.total("lost_bytes")) / 14 + 1;
        ensure!(
            seen <= server && server - seen <= most,
            "{name}: the server has {server}, the observer {seen}, lost: {}",
            summary.0
        );
    }
    Ok(())
}

#[test]
fn a_ring_of_one_page() -> Result<()> {
    let (server, folder) = (Server::redis()?, Folder::new()?);
    let observer = limited(&folder, "ring-bytes = 4096")?
        .redis(server.port)
        .start()?;
    let load = Load::redis(server.port, Duration::from_millis(1))?;
    thread::sleep(Duration::from_secs(4));
    let commands = load.stop()?;
    thread::sleep(Duration::from_millis(300));
    goes_on(&observer, server.port)?;
    let report = observer.stop()?;
    check_spans(&report.spans)?;
    agrees(&report, &server)?;
    println!(
        "{commands} commands, {} told, {} bytes lost",
        report.summary.total("transactions"),
        lost(&report)
    );
    ensure!(lost(&report) > 0, "nothing was lost: {}", report.summary.0);
    Ok(())
}

#[test]
fn a_reader_that_is_stopped() -> Result<()> {
    let server = Server::redis()?;
    let folder = Folder::new()?;
    let observer = limited(&folder, "")?.redis(server.port).start()?;
    let before = observer.memory()?;
    let load = Load::redis(server.port, Duration::from_millis(1))?;
    thread::sleep(Duration::from_secs(1));
    observer.process.signal(Signal::STOP)?;
    thread::sleep(Duration::from_secs(10));
    observer.process.signal(Signal::CONT)?;
    thread::sleep(Duration::from_secs(2));
    let commands = load.stop()?;
    goes_on(&observer, server.port)?;
    let after = observer.memory()?;
    let report = observer.stop()?;
    check_spans(&report.spans)?;
    agrees(&report, &server)?;
    println!(
        "{commands} commands, {} told, {} bytes lost, {before} bytes of memory, then {after}",
        report.summary.total("transactions"),
        lost(&report)
    );
    ensure!(lost(&report) > 0, "nothing was lost: {}", report.summary.0);
    ensure!(after < before + KEPT, "{before} bytes, then {after}");
    Ok(())
}

#[test]
fn fifty_thousand_connections() -> Result<()> {
    let connections = load(50_000)?;
    let server = Server::redis()?;
    let folder = Folder::new()?;
    let options = limited(&folder, "ring-bytes = 16777216")?;
    let observer = options.redis(server.port).start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for number in 0..500 {
        let key = format!("key:{number}");
        redis.command(&[b"SET", key.as_bytes(), &value(&key)])?;
    }
    let before = observer.memory()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/connections.py");
    let script = script.to_str().expect("a printable path");
    let base = value("key:0").len();
    let numbers = [
        server.port.to_string(),
        connections.to_string(),
        base.to_string(),
    ];
    output(
        python(),
        ["-B", script]
            .into_iter()
            .chain(numbers.iter().map(String::as_str)),
    )?;
    goes_on(&observer, server.port)?;
    thread::sleep(Duration::from_secs(1));
    let after = observer.memory()?;
    let report = observer.stop()?;
    check_spans(&report.spans)?;
    agrees(&report, &server)?;
    let seen = report.summary.total("connections");
    println!("{connections} connections, {seen} seen, {before} bytes of memory, then {after}");
    if lost(&report) == 0 {
        // And the two of this test.
        ensure!(
            seen == connections + 2,
            "{seen} of {connections} connections"
        );
        ensure!(
            report.summary.total("unresolved") == 0,
            "{}",
            report.summary.0
        );
    }
    ensure!(after < before + KEPT, "{before} bytes, then {after}");
    Ok(())
}

/// An exporter that hangs: a collector that never answers, and an output that nobody reads.
#[test]
fn queues_that_are_full() -> Result<()> {
    let server = Server::redis()?;
    let folder = Folder::new()?;
    let pipe = folder.path().join("pipe");
    let name = pipe.to_str().expect("a printable path");
    output("mkfifo", [name])?;
    // Who has it open, and does not read.
    let reader = thread::spawn({
        let pipe = pipe.clone();
        move || fs::File::open(pipe)
    });
    let collector = TcpListener::bind(("127.0.0.1", 0))?;
    let endpoint = format!("http://{}", collector.local_addr()?);
    let swallow = thread::spawn(move || -> Result<()> {
        let mut streams = Vec::new();
        for stream in collector.incoming().take(1) {
            streams.push(stream?);
        }
        let mut buffer = vec![0; 65_536];
        while streams[0].read(&mut buffer)? > 0 {}
        Ok(())
    });
    let observer = limited(&folder, "span-queue = 500\nring-bytes = 16777216")?
        .redis(server.port)
        .traces("jsonl,otlp")
        .with("--output", name)
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let observer = observer.start()?;
    let before = observer.memory()?;
    let load = Load::redis(server.port, Duration::from_millis(1))?;
    thread::sleep(Duration::from_secs(5));
    let commands = load.stop()?;
    let after = observer.memory()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    ensure!(redis.command(&["PING"])? == Reply::Status("PONG".to_owned()));
    let report = observer.stop()?;
    drop(reader.join());
    agrees(&report, &server)?;
    let spans = |outcome| report.summary.ledger(&["spans", outcome]);
    println!(
        "{commands} commands, spans: {} exported, {} dropped",
        spans("exported"),
        spans("dropped")
    );
    ensure!(spans("dropped") > commands, "{}", report.summary.0);
    ensure!(after < before + KEPT, "{before} bytes, then {after}");
    // It ends with the observer's connection.
    swallow.join().expect("it does not panic")?;
    Ok(())
}
