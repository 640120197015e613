//! The binary dialect with a real memcached: each opcode, silence, and what the server counts.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::client::Memcached;
use tests::coverage::{self, Kind};
use tests::observer::{Observer, Options, Report};
use tests::server::Server;

#[path = "memcached_binary/clients.rs"]
mod clients;
#[path = "memcached_binary/wire.rs"]
mod wire;
use wire::*;

const READS: [&str; 4] = ["GET", "GETQ", "GETK", "GETKQ"];
const TOUCHES: [&str; 5] = ["TOUCH", "GAT", "GATQ", "GATK", "GATKQ"];
const STORES: [&str; 10] = [
    "SET", "SETQ", "ADD", "ADDQ", "REPLACE", "REPLACEQ", "APPEND", "APPENDQ", "PREPEND", "PREPENDQ",
];
const DELETES: [&str; 2] = ["DELETE", "DELETEQ"];

fn observe(server: &Server) -> Result<Observer> {
    let options = Options::new().memcached(server.port);
    options.with("--spans-pipeline", "commands").start()
}

fn sum(report: &Report, operations: &[&str], number: &str) -> u64 {
    operations
        .iter()
        .map(|operation| report.summary.of("memcached", operation, number))
        .sum()
}

/// The attributes of an operation's spans, pipelines' own left out.
fn spans<'a>(report: &'a Report, operations: &[&str]) -> Vec<&'a Value> {
    let found = operations.iter().flat_map(|operation| report.of(operation));
    found.map(|span| &span["attributes"]).collect()
}

/// Compares with the server's own counters. `counted`: whether every count was of a key that is there or may not be made.
fn assert_as_the_server_counts(port: u16, report: &Report, counted: bool) -> Result<()> {
    let mut memcached = Memcached::connect(("127.0.0.1", port))?;
    let mut wanted = BTreeMap::from([
        ("get_hits", sum(report, &READS, "hits")),
        ("get_misses", sum(report, &READS, "misses")),
        ("cmd_touch", sum(report, &TOUCHES, "count")),
        ("touch_hits", sum(report, &TOUCHES, "hits")),
        ("touch_misses", sum(report, &TOUCHES, "misses")),
        // What is too large is not counted.
        (
            "cmd_set",
            sum(report, &STORES, "count") - sum(report, &STORES, "errors"),
        ),
        ("cmd_flush", sum(report, &["FLUSH", "FLUSHQ"], "count")),
    ]);
    let deleted = |count: u64| {
        let deletes = spans(report, &DELETES);
        let same = deletes
            .iter()
            .filter(|span| span["cache.deleted_count"] == count);
        same.count() as u64
    };
    wanted.extend([("delete_hits", deleted(1)), ("delete_misses", deleted(0))]);
    if counted {
        let (up, down) = (["INCREMENT", "INCREMENTQ"], ["DECREMENT", "DECREMENTQ"]);
        wanted.extend([
            ("incr_hits", sum(report, &up, "hits")),
            ("incr_misses", sum(report, &up, "misses")),
            ("decr_hits", sum(report, &down, "hits")),
            ("decr_misses", sum(report, &down, "misses")),
        ]);
    }
    for (stat, told) in wanted {
        assert_eq!(
            told,
            memcached.stat(stat)?,
            "{stat} in {}",
            report.summary.0
        );
    }
    assert_sound(report);
    Ok(())
}

/// Nothing was lost, and nothing guessed.
fn assert_sound(report: &Report) {
    for total in [
        "unanswered",
        "orphaned_replies",
        "lost_bytes",
        "resynchronizations",
    ] {
        assert_eq!(
            report.summary.total(total),
            0,
            "{total} in {}",
            report.summary.0
        );
    }
    for operation in report.summary.0["operations"]["memcached"]
        .as_object()
        .into_iter()
        .flat_map(|operations| operations.keys())
    {
        coverage::note(Kind::Command, operation).expect("the file of what is covered");
    }
}

#[test]
fn every_opcode() -> Result<()> {
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    let mut client = Binary::connect(server.port)?;
    let large = vec![b'x'; 2_000_000];
    let set = client.ask(&store(SET, "k", b"hello", 60))?;
    let statuses = [
        (store(SET, "k", b"hello", 0).cas(set.cas), 0),
        (store(SET, "k", b"hello", 0).cas(set.cas), 2),
        (store(SET, "absent", b"", 0).cas(7), 1),
        (store(SET, "large", &large, 0), 3),
        (store(ADD, "new", b"1", 0), 0),
        (store(ADD, "new", b"2", 0), 2),
        (store(REPLACE, "new", b"41", 4_000_000_000), 0),
        (store(REPLACE, "absent", b"", 0), 1),
        (plain(APPEND, &[], "k", b"!"), 0),
        (plain(PREPEND, &[], "k", b"??"), 0),
        (plain(APPEND, &[], "absent", b"!"), 5),
        (bare(GET, "k"), 0),
        (bare(GET, "absent"), 1),
        (bare(GETK, "k"), 0),
        (bare(GETK, "absent"), 1),
        (bare(GETQ, "k"), 0),
        (bare(GETKQ, "k"), 0),
        (touch(TOUCH, "k", 60), 0),
        (touch(TOUCH, "absent", 60), 1),
        (touch(GAT, "k", 60), 0),
        (touch(GAT, "absent", 60), 1),
        (touch(GATK, "k", 0), 0),
        (touch(GATK, "absent", 60), 1),
        (touch(GATQ, "k", 60), 0),
        (touch(GATKQ, "k", 60), 0),
        (count(INCREMENT, "new", 1, None), 0),
        (count(INCREMENT, "absent", 1, None), 1),
        (count(INCREMENT, "k", 1, None), 6),
        (count(INCREMENT, "made", 1, Some(60)), 0),
        (count(DECREMENT, "new", 2, None), 0),
        (count(DECREMENT, "absent", 2, None), 1),
        (bare(DELETE, "k"), 0),
        (bare(DELETE, "k"), 1),
        (bare(NOOP, ""), 0),
        (bare(VERSION, ""), 0),
        // Only in the header file. With a body, the server would lose the boundary after it.
        (bare(VERBOSITY, ""), 0x81),
        (bare(0x3f, ""), 0x81),
        // Refused where it was not asked for.
        (bare(SASL_LIST_MECHS, ""), 0x81),
        (plain(SASL_AUTH, &[], "PLAIN", b"\0user\0hunter2"), 0x81),
        (plain(SASL_STEP, &[], "PLAIN", b"hunter2"), 0x81),
        (bare(FLUSH, ""), 0),
        (touch(FLUSH, "", 1000), 0),
    ];
    for (number, (request, status)) in statuses.iter().enumerate() {
        let reply = client
            .ask(&request.clone().opaque(number as u32))
            .with_context(|| format!("{:?}", (request.opcode, &request.key)))?;
        ensure!(reply.status == *status, "{request:?} {reply:?}");
    }
    client.send(&bare(QUIT, "").bytes())?;
    ensure!(client.reply()?.status == 0 && client.closed()?, "it closes");
    let report = observer.stop()?;
    assert_as_the_server_counts(server.port, &report, true)?;
    let outcome = |operation: &str, names: &[&str]| -> Vec<Value> {
        let told = spans(&report, &[operation]).into_iter().map(|span| {
            let values = names.iter().map(|name| span[*name].clone());
            Value::Array(values.collect())
        });
        told.collect()
    };
    let read = [
        "cache.operation",
        "cache.hit",
        "cache.value_size",
        "db.query.text",
    ];
    for (operation, text) in [("GET", ""), ("GETK", ""), ("GAT", "60 "), ("GATK", "")] {
        let told = outcome(operation, &read);
        let text = |key| format!("{operation} {text}{key}");
        if operation != "GATK" {
            assert_eq!(
                told,
                [
                    json!(["get", true, 8, text("k")]),
                    json!(["get", false, null, text("absent")]),
                ]
            );
        }
    }
    let ttl = [
        "cache.ttl",
        "cache.value_size",
        "cache.operation",
        "error.type",
    ];
    assert_eq!(
        outcome("SET", &ttl),
        [
            json!([60, 5, "set", null]),
            json!([null, 5, "set", null]),
            json!([null, 5, "set", null]),
            json!([null, 0, "set", null]),
            json!([null, 2_000_000, "set", "E2BIG"]),
        ]
    );
    assert_eq!(outcome("APPEND", &ttl).len(), 2);
    assert_eq!(
        outcome("TOUCH", &["cache.ttl", "cache.hit"]),
        [json!([60, true]), json!([60, false])]
    );
    let counted = ["cache.hit", "cache.ttl", "error.type", "cache.operation"];
    assert_eq!(
        outcome("INCREMENT", &counted),
        [
            json!([true, null, null, "increment"]),
            json!([false, null, null, "increment"]),
            json!([null, null, "DELTA_BADVAL", "increment"]),
            json!([null, 60, null, "increment"]),
        ]
    );
    for operation in [
        "VERBOSITY",
        "OPCODE_0X3F",
        "SASL_LIST_MECHS",
        "SASL_AUTH",
        "SASL_STEP",
    ] {
        let told = outcome(operation, &["error.type", "db.response.status_code"]);
        assert_eq!(
            told,
            [json!(["UNKNOWN_COMMAND", "UNKNOWN_COMMAND"])],
            "{operation}"
        );
    }
    assert_eq!(
        outcome("SASL_AUTH", &["db.query.text"]),
        [json!(["SASL_AUTH PLAIN ?"])]
    );
    assert!(!format!("{:?}{}", report.spans, report.log).contains("hunter2"));
    Ok(())
}

#[test]
fn silence_is_resolved_by_the_next_loud_answer() -> Result<()> {
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    let mut client = Binary::connect(server.port)?;
    // Every third is not stored, so every third is a miss below.
    for round in 0..20_u32 {
        let key = |n: u32| format!("key:{round}:{n}");
        let mut requests: Vec<_> = (0..30)
            .filter(|n| n % 3 != 0)
            .map(|n| store(SETQ, &key(n), &vec![b'v'; n as usize], 0).opaque(n))
            .collect();
        requests.push(bare(NOOP, "").opaque(1000));
        client.pipeline(&requests)?;
        ensure!(client.reply()?.opaque == 1000, "all stored without a word");
        let opcodes = [GETKQ, GETQ, GATQ, GATKQ];
        let opcode = opcodes[round as usize % 4];
        // The number is the same for all, as some clients have it, where the reply has the key.
        let opaque = |n| {
            if matches!(opcode, GETKQ | GATKQ) {
                0
            } else {
                n
            }
        };
        let mut requests: Vec<_> = (0..30)
            .map(|n| match opcode {
                GETKQ | GETQ => bare(opcode, &key(n)),
                _ => touch(opcode, &key(n), 60),
            })
            .zip(0..)
            .map(|(request, n)| request.opaque(opaque(n)))
            .collect();
        requests.push(bare(NOOP, "").opaque(1001));
        client.pipeline(&requests)?;
        for n in (0..30).filter(|n| n % 3 != 0) {
            let reply = client.reply()?;
            ensure!(reply.value.len() == n as usize, "{reply:?}");
        }
        ensure!(client.reply()?.opaque == 1001, "the last");
    }
    let report = observer.stop()?;
    assert_as_the_server_counts(server.port, &report, true)?;
    assert_eq!(sum(&report, &["SETQ"], "count"), 400);
    for operation in ["GETKQ", "GETQ", "GATQ", "GATKQ"] {
        let told = spans(&report, &[operation]);
        assert_eq!(told.len(), 150);
        for span in told {
            let text = span["db.query.text"].as_str().context("a text")?;
            let number = text
                .rsplit(':')
                .next()
                .context("a number")?
                .parse::<u64>()?;
            let there = number % 3 != 0;
            assert_eq!(span["cache.hit"], there, "{span}");
            let size = if there { json!(number) } else { Value::Null };
            assert_eq!(span["cache.value_size"], size, "{span}");
        }
    }
    Ok(())
}

#[test]
fn silent_writes_that_speak() -> Result<()> {
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    let mut client = Binary::connect(server.port)?;
    let large = vec![b'x'; 2_000_000];
    client.pipeline(&[
        store(SETQ, "k", b"41", 60),
        store(ADDQ, "k", b"no", 0).opaque(1),
        store(ADDQ, "new", b"yes", 0),
        store(REPLACEQ, "k", b"42", 0),
        store(REPLACEQ, "absent", b"no", 0).opaque(2),
        plain(APPENDQ, &[], "new", b"!"),
        plain(APPENDQ, &[], "absent", b"!").opaque(3),
        plain(PREPENDQ, &[], "new", b"!"),
        count(INCREMENTQ, "k", 1, None),
        count(INCREMENTQ, "absent", 1, None).opaque(4),
        count(INCREMENTQ, "new", 1, None).opaque(5),
        count(DECREMENTQ, "k", 1, None),
        count(DECREMENTQ, "absent", 1, None).opaque(6),
    ])?;
    // In a send of its own: what follows a value as large as this in one send is not captured.
    client.pipeline(&[store(SETQ, "large", &large, 0).opaque(7)])?;
    client.pipeline(&[
        bare(GETQ, "k").opaque(8),
        bare(GETQ, "absent"),
        bare(DELETEQ, "new"),
        bare(DELETEQ, "new").opaque(9),
        bare(GET, "new").opaque(10),
        bare(FLUSHQ, ""),
        bare(NOOP, "").opaque(11),
    ])?;
    let told: Vec<_> = (1..=11)
        .map(|_| client.reply().map(|reply| (reply.opaque, reply.status)))
        .collect::<Result<_>>()?;
    let statuses = [2, 1, 5, 1, 6, 1, 3, 0, 1, 1, 0];
    assert_eq!(told, (1..).zip(statuses).collect::<Vec<_>>());
    client.send(&bare(QUITQ, "").bytes())?;
    ensure!(client.closed()?, "it closes without a word");
    let report = observer.stop()?;
    assert_as_the_server_counts(server.port, &report, true)?;
    let of = |operation: &str, name: &str| -> Vec<Value> {
        let told = spans(&report, &[operation]);
        told.into_iter().map(|span| span[name].clone()).collect()
    };
    assert_eq!(of("SETQ", "error.type"), [json!(null), json!("E2BIG")]);
    assert_eq!(of("ADDQ", "error.type"), [json!(null), json!(null)]);
    assert_eq!(
        of("INCREMENTQ", "cache.hit"),
        [json!(true), json!(false), json!(null)]
    );
    assert_eq!(
        of("INCREMENTQ", "error.type"),
        [json!(null), json!(null), json!("DELTA_BADVAL")]
    );
    assert_eq!(of("DECREMENTQ", "cache.hit"), [json!(true), json!(false)]);
    assert_eq!(of("DELETEQ", "cache.deleted_count"), [json!(1), json!(0)]);
    assert_eq!(of("GETQ", "cache.hit"), [json!(true), json!(false)]);
    assert_eq!(sum(&report, &["QUITQ"], "count"), 1);
    Ok(())
}

#[test]
fn large_values_in_pieces() -> Result<()> {
    const SIZE: usize = 900_000;
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    let mut client = Binary::connect(server.port)?;
    // A value that is full of beginnings of requests.
    let value: Vec<_> = bare(NOOP, "")
        .bytes()
        .into_iter()
        .cycle()
        .take(SIZE)
        .collect();
    let wire = store(SET, "big", &value, 60).bytes();
    for piece in [&wire[..1], &wire[1..23], &wire[23..30], &wire[30..50_000]] {
        client.send(piece)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    for piece in wire[50_000..].chunks(100_000) {
        client.send(piece)?;
    }
    ensure!(client.reply()?.status == 0, "stored");
    for byte in bare(GETK, "big").bytes() {
        client.send(&[byte])?;
    }
    ensure!(client.reply()?.value == value, "the same");
    client.pipeline(&[
        bare(GETKQ, "big"),
        bare(GETKQ, "absent"),
        bare(GETKQ, "big"),
        bare(GET, "big"),
    ])?;
    for _ in 0..3 {
        ensure!(client.reply()?.value.len() == SIZE, "the same");
    }
    let report = observer.stop()?;
    assert_as_the_server_counts(server.port, &report, true)?;
    let reads = spans(&report, &READS);
    assert_eq!(reads.len(), 5);
    let there = reads.iter().filter(|span| span["cache.hit"] == true);
    assert_eq!(
        there
            .filter(|span| span["cache.value_size"] == SIZE)
            .count(),
        4
    );
    assert_eq!(spans(&report, &["SET"])[0]["cache.value_size"], SIZE);
    assert_eq!(sum(&report, &["SET"], "value_bytes"), SIZE as u64);
    Ok(())
}

#[test]
fn statistics_are_one_reply() -> Result<()> {
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    let mut client = Binary::connect(server.port)?;
    let asked = [
        "",
        "settings",
        "items",
        "slabs",
        "conns",
        "detail on",
        "reset",
        "nonsense",
    ];
    let requests: Vec<_> = asked.iter().map(|words| bare(STAT, words)).collect();
    client.pipeline(&requests)?;
    client.send(&bare(GET, "absent").bytes())?;
    let mut ends = 0;
    let mut parts = 0;
    while ends < asked.len() {
        let reply = client.reply()?;
        ensure!(reply.opcode == STAT, "{reply:?}");
        parts += 1;
        ends += usize::from(reply.key.is_empty());
    }
    ensure!(parts > 100, "{parts}");
    ensure!(client.reply()?.status == 1, "a miss");
    let report = observer.stop()?;
    assert_sound(&report);
    let texts: Vec<_> = spans(&report, &["STAT"])
        .iter()
        .map(|span| span["db.query.text"].clone())
        .collect();
    let wanted: Vec<_> = asked
        .iter()
        .map(|words| format!("STAT {}", words.replace("nonsense", "?")))
        .collect();
    assert_eq!(
        texts,
        wanted
            .iter()
            .map(|text| json!(text.trim_end()))
            .collect::<Vec<_>>()
    );
    assert_eq!(sum(&report, &["GET"], "misses"), 1);
    assert_eq!(sum(&report, &["STAT"], "errors"), 0);
    Ok(())
}

#[test]
fn a_connection_that_was_there_before() -> Result<()> {
    let server = Server::memcached()?;
    let mut client = Binary::connect(server.port)?;
    client.ask(&store(SET, "k", b"hello", 0))?;
    let observer = observe(&server)?;
    for _ in 0..10 {
        client.ask(&bare(GETK, "k"))?;
        client.pipeline(&[bare(GETKQ, "absent"), bare(GETKQ, "k"), bare(NOOP, "")])?;
        client.reply()?;
        client.reply()?;
    }
    let report = observer.stop()?;
    assert_as_the_server_counts_reads(server.port, &report)
}

fn assert_as_the_server_counts_reads(port: u16, report: &Report) -> Result<()> {
    let mut memcached = Memcached::connect(("127.0.0.1", port))?;
    assert_eq!(sum(report, &READS, "hits"), memcached.stat("get_hits")?);
    assert_eq!(sum(report, &READS, "misses"), memcached.stat("get_misses")?);
    assert_sound(report);
    Ok(())
}

/// The server counts it neither as found nor as missed.
#[test]
fn a_delete_of_another_version() -> Result<()> {
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    let mut client = Binary::connect(server.port)?;
    let set = client.ask(&store(SET, "k", b"hello", 0))?;
    for opcode in [DELETE, DELETEQ] {
        let reply = client.ask(&bare(opcode, "k").cas(set.cas + 1))?;
        ensure!(reply.status == 2, "{reply:?}");
    }
    let report = observer.stop()?;
    assert_sound(&report);
    let deletes = spans(&report, &DELETES);
    assert_eq!(deletes.len(), 2);
    for span in deletes {
        assert_eq!(span["cache.deleted_count"], 0, "{span}");
        assert_eq!(span["error.type"], json!(null), "{span}");
    }
    Ok(())
}

/// What the server closes after, having said why.
#[test]
fn lengths_that_the_server_refuses() -> Result<()> {
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    for request in [
        touch(GET, "k", 1),
        bare(SET, "k"),
        bare(GET, ""),
        count(TOUCH, "k", 1, None),
    ] {
        let mut client = Binary::connect(server.port)?;
        // What a connection begins with has to be sound.
        client.ask(&bare(NOOP, ""))?;
        let reply = client.ask(&request)?;
        ensure!(reply.status == 4 && client.closed()?, "{reply:?}");
    }
    let report = observer.stop()?;
    assert_sound(&report);
    assert_eq!(sum(&report, &["GET", "SET", "TOUCH"], "errors"), 4);
    for span in spans(&report, &["GET", "SET", "TOUCH"]) {
        assert_eq!(span["error.type"], "EINVAL", "{span}");
    }
    Ok(())
}
