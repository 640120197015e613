//! `--keys`: with patterns, hashes or nothing in their place, no key is in anything that leaves the observer.

use std::fs;

use anyhow::{Result, ensure};
use tests::client::{Memcached, Redis};
use tests::collector::Collector;
use tests::observer::{Options, Report, replayed};
use tests::process::Folder;
use tests::recording::convert;
use tests::secrets::{capture, excerpt};
use tests::server::Server;

/// Every sink of text, and every line of the log.
const SINKS: [[&str; 4]; 2] = [
    ["--traces-exporter", "jsonl", "--metrics-exporter", "jsonl"],
    [
        "--traces-exporter",
        "console",
        "--metrics-exporter",
        "console",
    ],
];

fn assert_absent(what: &str, all: &str, pieces: &[&str]) -> Result<()> {
    for piece in pieces {
        let hex: String = piece.bytes().map(|byte| format!("{byte:02x}")).collect();
        for piece in [*piece, &hex] {
            let found = all.find(piece).map(|at| excerpt(all, at));
            ensure!(found.is_none(), "{what}: {}", found.unwrap_or_default());
        }
    }
    Ok(())
}

#[test]
fn no_damage_brings_a_key_to_light() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("capture.pcap");
    // Whatever is shown of these conversations are keys `visible:…`, in each place that a key can have.
    capture(&file, true)?;
    for (keys, sinks, naming) in [("none", SINKS[0], "dup"), ("hash", SINKS[1], "stable")] {
        let options = [
            "--keys",
            keys,
            "--naming",
            naming,
            "--spans-pipeline",
            "commands",
        ];
        let arguments = [&sinks[..], &options].concat();
        let all = replayed(&file, &arguments, &[("CACHE_OBSERVER_LOG", "trace")])?;
        let all = String::from_utf8_lossy(&all);
        let commands = all.matches("GET").count();
        ensure!(commands > 50_000, "{keys}: {commands} lines tell of a GET");
        assert_absent(keys, &all, &["visible"])?;
    }
    let recording = folder.path().join("recording");
    convert(&file, &recording, &["--keys", "none"])?;
    let all = fs::read(recording)?;
    assert_absent(
        "the recording",
        &String::from_utf8_lossy(&all),
        &["visible"],
    )
}

/// Long enough that its pieces are nowhere else by chance.
const ID: &str = "73104829561";

fn key(name: &str) -> String {
    format!("{name}:{ID}:row")
}

/// Keys wherever Redis takes some.
fn ask_redis(port: u16) -> Result<()> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    let library =
        format!("#!lua name=l{ID}\nredis.register_function('f{ID}', function() return 1 end)");
    let (one, two) = (key("acct"), key("cart"));
    let function = format!("f{ID}");
    for words in [
        &["FUNCTION", "LOAD", &library][..],
        &["SET", &one, "x", "EX", "60"],
        &["GET", &one],
        &["MGET", &one, &two],
        &["MSET", &one, "x", &two, "x"],
        &["COPY", &one, &two],
        &["RENAME", &two, &one],
        &["OBJECT", "ENCODING", &one],
        &["SORT", &two, "STORE", &two],
        &["BITOP", "AND", &two, &one],
        &["XADD", &key("stream"), "*", "f", "x"],
        &["XREAD", "COUNT", "1", "STREAMS", &key("stream"), "0"],
        &["XGROUP", "CREATE", &key("stream"), &key("group"), "$"],
        &["PUBLISH", &key("channel"), "x"],
        &["HSET", &key("hash"), &key("field"), "x"],
        &["SADD", &key("set"), &key("member")],
        &["EVAL", "return redis.call('GET', KEYS[1])", "1", &one],
        &["FCALL", &function, "1", &one],
        &["FCALL_RO", "absent", "1", &one],
        &[
            "EVALSHA",
            "731048295617310482956173104829561731048",
            "1",
            &one,
        ],
        &["LPUSH", &one, "x"],
        &["DEL", &one, &two],
        &["SCAN", "0", "MATCH", &one],
        &["KEYS", &one],
        &["NOSUCHCOMMAND", &one],
    ] {
        redis.command(words)?;
    }
    redis.send(format!("GET {one}\r\n").as_bytes())?;
    redis.reply()?;
    let many: Vec<String> = (0..30).map(|number| format!("many:{ID}{number}")).collect();
    let mut words = vec!["MGET"];
    words.extend(many.iter().map(String::as_str));
    redis.command(&words)?;
    let long = format!("{ID}:").repeat(400);
    redis.command(&["GET", &long])?;
    for words in [
        &["MULTI"][..],
        &["GET", &one],
        &["SET", &two, "x"],
        &["EXEC"],
    ] {
        redis.command(words)?;
    }
    let pipeline = [["GET", &one], ["GET", &two]].map(|words| tests::client::encode(&words));
    redis.send(&pipeline.concat())?;
    redis.reply()?;
    redis.reply()?;
    redis.command(&["SUBSCRIBE", &key("channel")])?;
    Ok(())
}

/// The same for Memcached.
fn ask_memcached(port: u16) -> Result<()> {
    let mut client = Memcached::connect(("127.0.0.1", port))?;
    let (one, two) = (key("acct"), key("cart"));
    client.store("set", &one, b"x", 60)?;
    client.get(&[&one, &two])?;
    for line in [
        format!("delete {two}"),
        format!("incr {two} 1"),
        format!("touch {one} 60"),
        format!("mg {one} k t O{ID}"),
        "mg NzMxMDQ4Mjk1NjE= b k v".to_owned(),
        format!("md {two} q"),
        format!("me {two}"),
        "mn".to_owned(),
    ] {
        client.send(format!("{line}\r\n").as_bytes())?;
    }
    client.until("MN")
}

fn said(report: &Report) -> String {
    let Report {
        spans,
        metrics,
        summary,
        log,
        ..
    } = report;
    format!("{spans:?}{metrics:?}{}{log}", summary.0)
}

#[test]
fn real_servers() -> Result<()> {
    for keys in ["full", "pattern", "hash", "none"] {
        let (redis, memcached) = (Server::redis()?, Server::memcached()?);
        let collector = Collector::start()?;
        let observing = || {
            Options::new()
                .redis(redis.port)
                .memcached(memcached.port)
                .with("--keys", keys)
                .with("--naming", "dup")
                .with("--spans-pipeline", "commands")
                .variable("CACHE_OBSERVER_LOG", "trace")
                .variable("CACHE_OBSERVER_KEYS_SECRET", "of this test")
        };
        let lines = observing().with("--metrics-exporter", "jsonl").start()?;
        let endpoint = format!("http://127.0.0.1:{}", collector.http);
        let exporting = observing()
            .traces("otlp")
            .with("--metrics-exporter", "otlp")
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
            .start()?;
        ask_redis(redis.port)?;
        ask_memcached(memcached.port)?;
        let report = lines.stop()?;
        exporting.stop()?;
        collector.expect(&["PIPELINE GET", "db.redis.command", "cache.operations"])?;
        let reported = said(&report);
        let printed = collector.printed()?;
        for (what, all) in [("JSON Lines", &reported), ("the collector", &printed)] {
            if keys == "full" {
                ensure!(all.contains(&key("acct")), "{what}");
                continue;
            }
            assert_absent(&format!("{keys}, {what}"), all, &[&ID[..7], &ID[4..]])?;
            let name = if keys == "pattern" {
                "acct:*:row"
            } else {
                "acct"
            };
            let shown = all.contains(name);
            // Patterns go with hashes, nothing goes with nothing.
            ensure!(shown == (keys != "none"), "{keys}, {what}: {name}");
        }
        if keys == "hash" {
            let hashes: Vec<_> = report
                .of("GET")
                .iter()
                .filter_map(|span| span["attributes"]["cache.key"].as_str())
                .collect();
            let is_hash =
                |text: &&str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
            ensure!(
                hashes.len() >= 5 && hashes.iter().all(is_hash),
                "{hashes:?}"
            );
            ensure!(hashes[0] == hashes[1], "one key, one hash: {hashes:?}");
        }
    }
    Ok(())
}
