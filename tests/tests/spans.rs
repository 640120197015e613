//! Which spans leave, what they weigh, what they are called, and what they say beyond the other tests.

use std::time::SystemTime;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::client::{Memcached, Redis, Reply};
use tests::collector::Collector;
use tests::observer::{Observer, Options, Report};
use tests::server::Server;

fn observed(port: u16) -> Options {
    Options::new()
        .redis(port)
        .with("--metrics-exporter", "jsonl")
}

fn outcome(report: &Report, outcome: &str) -> u64 {
    report.metric("observer.spans", &[("outcome", outcome)]) as u64
}

/// What all spans stand for together.
fn weight(spans: &[Value]) -> f64 {
    let one = |span: &Value| match span["attributes"]["sampling.ratio"].as_f64() {
        Some(ratio) => 1.0 / ratio,
        None => 1.0,
    };
    spans.iter().map(one).sum()
}

/// Every span is exported or counted.
fn assert_ledger(report: &Report) {
    let commands = report.summary.total("transactions");
    assert_eq!(outcome(report, "exported"), report.spans.len() as u64);
    let counted = ["exported", "sampled_out", "dropped"].map(|name| outcome(report, name));
    assert_eq!(counted.iter().sum::<u64>(), commands, "{counted:?}");
}

/// `count` reads, and each 100 of them a command that fails.
fn load(port: u16, count: usize) -> Result<u64> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    redis.command(&["SET", "text", "x"])?;
    let mut failed = 0;
    for number in 0..count {
        redis.command(&["GET", "text"])?;
        if number % 100 == 0 {
            let reply = redis.command(&["LPUSH", "text", "x"])?;
            ensure!(matches!(reply, Reply::Error(_)), "{reply:?}");
            failed += 1;
        }
    }
    Ok(failed)
}

fn assert_errors_are_whole(report: &Report, failed: u64) {
    let errors = report.of("LPUSH");
    assert_eq!(errors.len() as u64, failed);
    for error in errors {
        assert!(error["attributes"]["sampling.ratio"].is_null(), "{error}");
    }
}

#[test]
fn a_share_of_spans_stands_for_all() -> Result<()> {
    let server = Server::redis()?;
    let observer = observed(server.port).with("--spans-share", "0.1").start()?;
    let failed = load(server.port, 20_000)?;
    let report = observer.stop()?;
    assert_ledger(&report);
    assert_errors_are_whole(&report, failed);
    assert_eq!(
        report.summary.of("redis", "GET", "count"),
        20_000,
        "metrics count everything"
    );
    // Slow ones are certain, so the sum is exact but for the rest: its spread is at most sqrt(20,000 × 9) = 424.
    let (weight, count) = (
        weight(&report.spans),
        report.summary.total("transactions") as f64,
    );
    assert!((weight - count).abs() < 3_000.0, "{weight} of {count}");
    let kept = report.of("GET").len();
    assert!((1_000..5_000).contains(&kept), "{kept}");
    Ok(())
}

#[test]
fn a_limit_a_second_holds() -> Result<()> {
    let server = Server::redis()?;
    let begun = SystemTime::now();
    let observer = observed(server.port)
        .with("--spans-per-second", "50")
        .variable("OTEL_TRACES_SAMPLER", "always_on")
        .start()?;
    let failed = load(server.port, 20_000)?;
    let seconds = begun.elapsed()?.as_secs() + 2;
    let report = observer.stop()?;
    assert_ledger(&report);
    assert_errors_are_whole(&report, failed);
    let drawn = |span: &&&Value| !span["attributes"]["sampling.ratio"].is_null();
    let gets = report.of("GET");
    let drawn = gets.iter().filter(drawn).count() as u64;
    // A few are kept past the limit, each four times rarer than the one before.
    assert!(
        (1..=seconds * 65).contains(&drawn),
        "{drawn} in {seconds} s"
    );
    assert!(outcome(&report, "sampled_out") > 10_000);
    Ok(())
}

#[test]
fn ordinary_traffic_is_below_the_default_limit() -> Result<()> {
    let server = Server::redis()?;
    let observer = observed(server.port)
        .with("--spans-per-second", "2000")
        .start()?;
    let failed = load(server.port, 1_000)?;
    let report = observer.stop()?;
    assert_eq!(report.spans.len() as u64, 1_001 + failed);
    assert_eq!(weight(&report.spans), report.spans.len() as f64);
    Ok(())
}

#[test]
fn slow_commands_are_kept() -> Result<()> {
    let server = Server::redis()?;
    let observer = observed(server.port).with("--spans-share", "0").start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    let script = "local n = 0 for i = 1, tonumber(ARGV[1]) do n = n + i end return n";
    for _ in 0..2_000 {
        redis.command(&["EVAL", script, "1", "quick", "1"])?;
    }
    redis.command(&["EVAL", script, "1", "slow", "20000000"])?;
    let report = observer.stop()?;
    assert_ledger(&report);
    let kept = |key: &str| {
        let of_key = |span: &&Value| span["attributes"]["cache.key"] == key;
        report.spans.iter().filter(of_key).count()
    };
    assert_eq!(kept("slow"), 1);
    assert!(kept("quick") < 200, "{} of 2,000", kept("quick"));
    Ok(())
}

#[test]
fn a_batch_stays_together() -> Result<()> {
    let server = Server::redis()?;
    let observer = observed(server.port)
        .with("--spans-share", "0")
        .with("--spans-pipeline", "commands")
        .start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["SET", "text", "x"])?;
    for last in ["GET", "LPUSH"] {
        let mut bytes = Vec::new();
        for _ in 0..4 {
            bytes.extend(tests::client::encode(&["GET", "text"]));
        }
        bytes.extend(tests::client::encode(
            &[last, "text", "x"][..if last == "GET" { 2 } else { 3 }],
        ));
        redis.send(&bytes)?;
        for _ in 0..5 {
            redis.reply()?;
        }
    }
    let report = observer.stop()?;
    let names: Vec<_> = report
        .spans
        .iter()
        .map(|span| {
            span["attributes"]["db.operation.name"]
                .as_str()
                .unwrap_or("")
        })
        .collect();
    assert_eq!(names, ["PIPELINE", "GET", "GET", "GET", "GET", "LPUSH"]);
    // SET, and the first batch with its five commands.
    assert_eq!(outcome(&report, "sampled_out"), 7);
    Ok(())
}

#[test]
fn no_sampler_no_spans() -> Result<()> {
    let server = Server::redis()?;
    let observer = observed(server.port)
        .variable("OTEL_TRACES_SAMPLER", "always_off")
        .start()?;
    load(server.port, 10)?;
    let report = observer.stop()?;
    assert_eq!(report.spans.len(), 0);
    assert_ledger(&report);
    Ok(())
}

#[test]
fn a_collector_is_told_what_spans_stand_for() -> Result<()> {
    let server = Server::redis()?;
    let collector = Collector::start()?;
    let observer = Options::new()
        .redis(server.port)
        .traces("otlp")
        .with("--spans-share", "0.5")
        .variable(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("http://127.0.0.1:{}", collector.http),
        )
        .variable("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start()?;
    load(server.port, 100)?;
    collector.expect(&["sampling.ratio", "ot=th:8"])?;
    observer.stop()?;
    Ok(())
}

#[test]
fn older_names_of_redis() -> Result<()> {
    let server = Server::redis()?;
    let observer = observed(server.port)
        .variable("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database/dup")
        .start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["SET", "user:42", "x", "EX", "60"])?;
    redis.command(&["MGET", "user:42", "user:43"])?;
    redis.command(&["DEL", "user:42", "user:43"])?;
    let pipeline =
        [["GET", "user:42"], ["GET", "user:43"]].map(|words| tests::client::encode(&words));
    redis.send(&pipeline.concat())?;
    redis.reply()?;
    redis.reply()?;
    let report = observer.stop()?;
    let port = i64::from(server.port);
    for (operation, expected) in [
        (
            "SET",
            serde_json::json!({"db.system": "redis", "db.operation": "SET", "db.name": "0", "db.statement": "SET user:42 ? EX 60",
                "net.peer.name": "127.0.0.1", "net.peer.port": port, "db.redis.command": "SET", "db.redis.key": "user:42",
                "db.redis.key_pattern": "user:*", "db.redis.ttl_seconds": 60}),
        ),
        (
            "MGET",
            serde_json::json!({"db.redis.key": "user:42, user:43", "db.redis.key_count": 2}),
        ),
        ("DEL", serde_json::json!({"db.redis.deleted_count": 1})),
        (
            "PIPELINE GET",
            serde_json::json!({"db.redis.pipeline_length": 2, "db.statement": "GET user:42; GET user:43"}),
        ),
    ] {
        let found = report.of(operation);
        assert_eq!(found.len(), 1, "{operation}");
        let attributes = &found[0]["attributes"];
        for (name, value) in expected.as_object().into_iter().flatten() {
            assert_eq!(&attributes[name], value, "{operation} {name}: {attributes}");
        }
        let span = found[0];
        let nanos = |name: &str| span[name].as_u64().unwrap_or(0);
        let millis = (nanos("end_time_unix_nano") - nanos("start_time_unix_nano")) as f64 / 1e6;
        assert_eq!(attributes["cache.latency_ms"].as_f64(), Some(millis));
        assert_eq!(attributes["db.system.name"], "redis", "today's names stay");
    }
    Ok(())
}

/// An observer of a memcached, and a client.
fn memcached(options: impl FnOnce(Options) -> Options) -> Result<(Server, Observer, Memcached)> {
    let server = Server::memcached()?;
    let observing = Options::new()
        .memcached(server.port)
        .with("--metrics-exporter", "jsonl");
    let observer = options(observing).start()?;
    let client = Memcached::connect(("127.0.0.1", server.port))?;
    Ok((server, observer, client))
}

#[test]
fn older_names_of_memcached() -> Result<()> {
    let (_server, observer, mut client) = memcached(|options| options.with("--naming", "dup"))?;
    client.store("set", "user:42", b"x", 60)?;
    let report = observer.stop()?;
    let attributes = &report.of("SET")[0]["attributes"];
    assert_eq!(attributes["db.memcached.key"], "user:42");
    assert_eq!(attributes["db.memcached.ttl"], 60);
    assert!(attributes["db.redis.key"].is_null());
    Ok(())
}

/// Sum and count of returned rows of an operation, at the last export.
fn rows(report: &Report, operation: &str) -> (u64, u64) {
    let last = report.metrics.iter().rfind(|point| {
        point["name"] == "db.client.response.returned_rows"
            && point["attributes"]["db.operation.name"] == operation
    });
    last.map_or((0, 0), |point| {
        let number = |name: &str| point[name].as_u64().unwrap_or(0);
        (number("sum"), number("count"))
    })
}

#[test]
fn returned_rows_of_redis() -> Result<()> {
    let server = Server::redis()?;
    let observer = observed(server.port).start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for line in [
        "MSET a 1 b 2",
        "GET a",
        "GET absent",
        "MGET a b absent",
        "HSET h f 1 g 2 i 3",
        "HGETALL h",
        "HMGET h f absent",
        "RPUSH l 1 2 3 4",
        "LRANGE l 1 2",
        "LRANGE absent 5 9",
        "LPOP l 2",
        "LLEN l",
        "ZADD z 1 m 2 n",
        "ZRANGE z 0 -1",
        "ZREVRANGE z 0 -1 WITHSCORES",
        "XADD s * f 1",
        "XRANGE s - +",
        "BLPOP l 1",
        "EXISTS a b",
        "LPUSH a wrong",
        "HGETALL a",
    ] {
        redis.command(&line.split(' ').collect::<Vec<_>>())?;
    }
    let report = observer.stop()?;
    for (operation, expected) in [
        ("GET", (1, 2)),
        ("MGET", (2, 1)),
        // The second is refused.
        ("HGETALL", (3, 1)),
        ("HMGET", (1, 1)),
        ("LRANGE", (2, 2)),
        ("LPOP", (2, 1)),
        ("ZRANGE", (2, 1)),
        ("XRANGE", (1, 1)),
        ("BLPOP", (1, 1)),
        // A number, scores between members, no reads.
        ("LLEN", (0, 0)),
        ("ZREVRANGE", (0, 0)),
        ("EXISTS", (0, 0)),
        ("MSET", (0, 0)),
    ] {
        assert_eq!(rows(&report, operation), expected, "{operation}");
    }
    Ok(())
}

#[test]
fn returned_rows_of_memcached() -> Result<()> {
    let (_server, observer, mut client) = memcached(|options| options)?;
    client.store("set", "a", b"x", 0)?;
    client.store("set", "b", b"x", 0)?;
    client.get(&["a", "b", "absent"])?;
    client.get(&["absent"])?;
    ensure!(client.line("mg a v")?.starts_with("VA "));
    client.line("mg absent v")?;
    // What was the value of the first is a line of its own.
    client.line("mg a s")?;
    let report = observer.stop()?;
    assert_eq!(rows(&report, "GET"), (2, 2));
    assert_eq!(
        rows(&report, "MG"),
        (1, 2),
        "without v there is nothing to return"
    );
    Ok(())
}

#[test]
fn what_keys_have_still_to_live() -> Result<()> {
    let server = Server::redis()?;
    let observer = observed(server.port).start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["SET", "k", "x", "EX", "600"])?;
    redis.command(&["SET", "forever", "x"])?;
    for command in ["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"] {
        for key in ["k", "forever", "absent"] {
            redis.command(&[command, key])?;
        }
    }
    let report = observer.stop()?;
    for command in ["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"] {
        let spans = report.of(command);
        let remaining: Vec<_> = spans
            .iter()
            .map(|span| span["attributes"]["cache.ttl_remaining"].as_i64())
            .collect();
        assert!(
            matches!(remaining[..], [Some(590..=601), None, None]),
            "{command}: {remaining:?}"
        );
        assert!(
            spans[0]["attributes"]["cache.ttl"].is_null(),
            "it sets none"
        );
    }
    let (_server, observer, mut client) = memcached(|options| options)?;
    client.store("set", "k", b"x", 600)?;
    client.line("mg k t")?;
    let report = observer.stop()?;
    let remaining = report.of("MG")[0]["attributes"]["cache.ttl_remaining"].as_i64();
    assert!(matches!(remaining, Some(590..=600)), "{remaining:?}");
    Ok(())
}
