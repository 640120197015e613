//! A real OTLP collector: what arrives, and what happens while there is none.

use std::time::Duration;

use anyhow::Result;
use tests::client::Redis;
use tests::collector::Collector;
use tests::observer::{Options, Report};
use tests::process::output;
use tests::server::{Server, free_port};

fn exporting(port: u16, endpoint: &str, protocol: &str) -> Options {
    Options::new()
        .redis(port)
        .traces("otlp")
        .with("--metrics-exporter", "otlp")
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "1000")
        .variable("OTEL_BSP_SCHEDULE_DELAY", "200")
}

fn arrives(endpoint: impl Fn(&Collector) -> String, protocol: &str) -> Result<()> {
    let server = Server::redis()?;
    let port = server.port;
    let collector = Collector::start()?;
    let observer = exporting(port, &endpoint(&collector), protocol).start()?;
    let cli = |words: &[&str]| output("redis-cli", ["-p", &port.to_string()].iter().chain(words));
    cli(&["set", "user:42", "hello"])?;
    cli(&["get", "user:42"])?;
    cli(&["get", "absent"])?;
    cli(&["mget", "user:42", "absent"])?;
    cli(&["lpush", "user:42", "x"])?;
    collector.expect(&[
        // Spans.
        &format!("Name           : SET 127.0.0.1:{port}"),
        &format!("Name           : GET 127.0.0.1:{port}"),
        &format!("Name           : MGET 127.0.0.1:{port}"),
        &format!("Name           : LPUSH 127.0.0.1:{port}"),
        "SPAN_KIND_CLIENT",
        "db.system.name: Str(redis)",
        "db.operation.name: Str(GET)",
        "cache.operation: Str(get)",
        "cache.key: Str(user:42)",
        "cache.hit: Bool(true)",
        "cache.hit: Bool(false)",
        "cache.hits: Int(1)",
        "cache.misses: Int(1)",
        "cache.value_size: Int(5)",
        "db.query.text: Str(SET user:42 ?)",
        "db.response.status_code: Str(WRONGTYPE)",
        "error.type: Str(WRONGTYPE)",
        "server.address: Str(127.0.0.1)",
        &format!("server.port: Int({port})"),
        &format!("cache.name: Str(127.0.0.1:{port})"),
        // The observed process, not the observer.
        "service.name: Str(unknown_service:redis-cli)",
        "process.executable.name: Str(redis-cli)",
        "process.pid: Int(",
        // Metrics.
        "db.client.operation.duration",
        "cache.operations",
        "cache.hits",
        "cache.misses",
        "cache.value_size",
        "observer.events",
    ])?;
    let printed = collector.printed()?;
    assert!(!printed.contains("hello"), "a value has left the observer");
    for (start, end) in times(&printed) {
        assert!(
            start <= end && start > 1_700_000_000_000_000_000,
            "{start} … {end}"
        );
    }
    observer.stop()?;
    let spans = collector
        .printed()?
        .matches("Name           : GET 127.0.0.1")
        .count();
    assert_eq!(spans, 2, "one span a command");
    Ok(())
}

/// Start and end of every span that was printed.
fn times(printed: &str) -> Vec<(u64, u64)> {
    let all = |label: &str| -> Vec<u64> {
        printed
            .lines()
            .filter_map(|line| line.trim().strip_prefix(label)?.trim().parse().ok())
            .collect()
    };
    let (starts, ends) = (all("Start time:"), all("End time:"));
    assert!(
        !starts.is_empty() && starts.len() == ends.len(),
        "{starts:?} {ends:?}"
    );
    starts.into_iter().zip(ends).collect()
}

#[test]
fn grpc() -> Result<()> {
    arrives(
        |collector| format!("http://127.0.0.1:{}", collector.grpc),
        "grpc",
    )
}

#[test]
fn http() -> Result<()> {
    arrives(
        |collector| format!("http://127.0.0.1:{}", collector.http),
        "http/protobuf",
    )
}

#[test]
fn a_collector_that_comes_later() -> Result<()> {
    let server = Server::redis()?;
    let [grpc, http] = [free_port()?, free_port()?];
    let observer = exporting(server.port, &format!("http://127.0.0.1:{grpc}"), "grpc")
        .variable("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")
        .start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for _ in 0..500 {
        redis.command(&["GET", "nobody listens"])?;
    }
    std::thread::sleep(Duration::from_secs(3));
    let collector = Collector::start_on(grpc, http)?;
    let begun = std::time::Instant::now();
    // Recovers by itself; how soon is up to the connection's own pauses.
    while !collector.printed()?.contains("Str(GET somebody)") {
        redis.command(&["GET", "somebody"])?;
        std::thread::sleep(Duration::from_millis(100));
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(30), "nothing arrives");
    }
    let report: Report = observer.stop()?;
    assert_eq!(report.summary.total("lost_bytes"), 0);
    assert!(
        report.summary.of("redis", "GET", "count") > 500,
        "{}",
        report.summary.0
    );
    Ok(())
}

#[test]
fn no_collector_at_all() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new()
        .redis(server.port)
        .traces("otlp")
        .with("--metrics-exporter", "jsonl")
        .variable(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("http://127.0.0.1:{}", free_port()?),
        )
        .start()?;
    let port = server.port.to_string();
    output(
        "redis-benchmark",
        ["-p", &port, "-t", "get", "-n", "20000", "-q"],
    )?;
    std::thread::sleep(Duration::from_secs(2));
    // `stop` asks for an end within 5 s and status 0.
    let report = observer.stop()?;
    assert_eq!(report.summary.of("redis", "GET", "count"), 20_000);
    let said = report.log.matches("OTLP export fails").count();
    assert!(
        (1..=5).contains(&said),
        "said, not repeated for every batch: {}",
        report.log
    );
    // Each command's span is accounted for; redis-benchmark asks its two CONFIG GET in one pipeline, one span.
    let spans = |outcome: &str| report.metric("observer.spans", &[("outcome", outcome)]);
    assert_eq!(
        (spans("dropped"), spans("exported")),
        (report.summary.total("transactions") as f64 - 1.0, 0.0)
    );
    Ok(())
}
