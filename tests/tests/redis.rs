//! A real redis-server, real clients, the real kernel.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::client::{Redis, Reply, encode};
use tests::observer::{Observer, Options, Report, Summary};
use tests::process::{load, output, python};
use tests::server::Server;
use tests::statistics::Statistics;

fn cli(port: u16, words: &[&str]) -> Result<String> {
    let port = port.to_string();
    output("redis-cli", ["-p", &port].iter().chain(words))
}

fn python_script(script: &str, port: u16) -> Result<String> {
    output(python(), ["-c", script, &port.to_string()])
}

/// Nothing was lost, guessed or left over.
fn assert_complete(summary: &Summary) {
    for total in [
        "unanswered",
        "orphaned_replies",
        "lost_bytes",
        "resynchronizations",
    ] {
        assert_eq!(summary.total(total), 0, "{total} in {}", summary.0);
    }
}

fn assert_attributes(span: &Value, wanted: &Value) {
    for (name, value) in wanted.as_object().expect("an object") {
        assert_eq!(&span["attributes"][name], value, "{name} in {span}");
    }
}

/// What the server has counted, and what the observer has left, which is the same. For workloads that look for keys, not
/// for what is inside of them.
fn finish(server: &Server, observer: Observer) -> Result<(Statistics, Report)> {
    let statistics = Statistics::of(&mut Redis::connect(("127.0.0.1", server.port))?)?;
    let report = observer.stop()?;
    statistics.compare(&report.summary)?;
    statistics.compare_keyspace(&report.summary)?;
    Ok((statistics, report))
}

#[test]
fn commands_typed_by_hand_become_spans() -> Result<()> {
    let server = Server::redis()?;
    let port = server.port;
    let observer = Options::new().redis(port).start()?;
    cli(port, &["set", "user:42", "hello", "EX", "60"])?;
    cli(port, &["get", "user:42"])?;
    cli(port, &["get", "user:43"])?;
    cli(port, &["mget", "user:42", "user:43", "user:44"])?;
    cli(port, &["lpush", "list", "one", "three"])?;
    cli(port, &["lpush", "user:42", "x"])?;
    let (statistics, report) = finish(&server, observer)?;

    // One span a command: the server's end of each connection is here too, and adds none.
    statistics.compare_spans(&report, port)?;
    let spans: Vec<_> = report
        .spans
        .iter()
        .filter(|span| span["attributes"]["db.operation.name"] != "INFO")
        .collect();
    let cache = format!("127.0.0.1:{port}");
    let wanted = [
        json!({"db.operation.name": "SET", "cache.operation": "set", "cache.key": "user:42", "cache.value_size": 5,
            "cache.ttl": 60, "db.query.text": "SET user:42 ? EX 60", "cache.hit": null}),
        json!({"db.operation.name": "GET", "cache.operation": "get", "cache.key": "user:42", "cache.value_size": 5,
            "cache.hit": true, "db.query.text": "GET user:42"}),
        json!({"db.operation.name": "GET", "cache.key": "user:43", "cache.hit": false}),
        json!({"db.operation.name": "MGET", "cache.key": ["user:42", "user:43", "user:44"], "cache.key_count": 3,
            "cache.hits": 1, "cache.misses": 2, "cache.value_size": 5}),
        json!({"db.operation.name": "LPUSH", "cache.operation": "set", "cache.key": "list", "cache.value_size": 8}),
        json!({"db.operation.name": "LPUSH", "db.response.status_code": "WRONGTYPE", "error.type": "WRONGTYPE"}),
    ];
    assert_eq!(spans.len(), wanted.len(), "{spans:#?}");
    for (span, wanted) in spans.iter().zip(&wanted) {
        assert_attributes(span, wanted);
        assert_attributes(
            span,
            &json!({"db.system.name": "redis", "server.address": "127.0.0.1", "server.port": port,
            "cache.name": cache, "network.transport": "tcp", "network.type": "ipv4",
            "network.peer.address": "127.0.0.1", "network.peer.port": port, "db.namespace": "0"}),
        );
        assert_eq!(
            span["name"],
            format!(
                "{} {cache}",
                wanted["db.operation.name"].as_str().context("a name")?
            )
        );
        assert_eq!(span["kind"], "CLIENT");
        assert_eq!(span["parent_span_id"], Value::Null);
        assert_eq!(
            span["resource"]["service.name"], "unknown_service:redis-cli",
            "{span}"
        );
        assert_eq!(
            span["resource"]["process.executable.name"], "redis-cli",
            "{span}"
        );
        assert!(
            span["resource"]["process.pid"]
                .as_u64()
                .is_some_and(|pid| pid > 1),
            "{span}"
        );
        let failed = wanted["error.type"] == "WRONGTYPE";
        assert_eq!(
            span["status"]["code"],
            if failed { "ERROR" } else { "UNSET" },
            "{span}"
        );
        let time = |name: &str| span[name].as_u64().context("a time");
        let (start, end) = (time("start_time_unix_nano")?, time("end_time_unix_nano")?);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_nanos() as u64;
        assert!(
            start <= end && end < now && now - start < 120_000_000_000,
            "{span}"
        );
    }
    assert_complete(&report.summary);
    Ok(())
}

#[test]
fn values_never_leave_the_decoder() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    cli(server.port, &["set", "key", "very-secret-value"])?;
    cli(server.port, &["auth", "very-secret-password"])?;
    cli(server.port, &["config", "set", "requirepass", ""])?;
    let (_, report) = finish(&server, observer)?;
    let all = format!("{:?}{}{}", report.spans, report.summary.0, report.log);
    assert_eq!(report.of("AUTH").len(), 1, "{all}");
    assert!(!all.contains("very-secret"), "{all}");
    Ok(())
}

#[test]
fn each_sequential_command_is_one_span() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let script = "
import sys, redis
r = redis.Redis(port=int(sys.argv[1]))
for i in range(1000):
    r.set(f'k{i}', 'x' * (i + 1))
    assert len(r.get(f'k{i}')) == i + 1
";
    python_script(script, server.port)?;
    let (statistics, report) = finish(&server, observer)?;
    assert_eq!(report.of("SET").len(), 1000);
    assert_eq!(report.of("GET").len(), 1000);
    for (index, (set, get)) in report.of("SET").iter().zip(report.of("GET")).enumerate() {
        let key = format!("k{index}");
        assert_attributes(
            set,
            &json!({"cache.key": key, "cache.value_size": index + 1}),
        );
        assert_attributes(
            get,
            &json!({"cache.key": key, "cache.value_size": index + 1, "cache.hit": true}),
        );
    }
    // The others are the library's own handshake.
    statistics.compare_spans(&report, server.port)?;
    assert_complete(&report.summary);
    Ok(())
}

#[test]
fn a_benchmark_is_counted_to_the_last_command() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).traces("none").start()?;
    let (port, each) = (server.port.to_string(), load(50_000)?);
    let number = each.to_string();
    output(
        "redis-benchmark",
        [
            "-p", &port, "-t", "set,get", "-n", &number, "-c", "20", "-q",
        ],
    )?;
    let (statistics, report) = finish(&server, observer)?;
    assert_eq!(
        ["SET", "GET"].map(|name| statistics.of_command(name).count),
        [each; 2]
    );
    let get = |number: &str| report.summary.of("redis", "GET", number);
    assert_eq!(get("hits") + get("misses"), each);
    assert_eq!(report.summary.of("redis", "SET", "value_bytes"), 3 * each);
    assert_complete(&report.summary);
    Ok(())
}

#[test]
fn deep_pipelines_are_counted_to_the_last_command() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).traces("none").start()?;
    let (port, each) = (server.port.to_string(), load(48_000)?);
    let number = each.to_string();
    output(
        "redis-benchmark",
        [
            "-p", &port, "-t", "set,get", "-n", &number, "-c", "5", "-P", "16", "-q",
        ],
    )?;
    let (statistics, report) = finish(&server, observer)?;
    assert_eq!(
        ["SET", "GET"].map(|name| statistics.of_command(name).count),
        [each; 2]
    );
    assert_complete(&report.summary);
    Ok(())
}

#[test]
fn pipelines_and_transactions_of_a_client_library() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let script = "
import sys, redis
r = redis.Redis(port=int(sys.argv[1]))
for transaction in (False, True):
    for _ in range(10):
        p = r.pipeline(transaction=transaction)
        for i in range(20):
            p.set(f'k{i}', i)
            p.get(f'k{i}')
            p.get(f'absent{i}')
        p.execute()
";
    python_script(script, server.port)?;
    let (statistics, report) = finish(&server, observer)?;
    assert_eq!(
        ["SET", "GET", "MULTI", "EXEC"].map(|name| statistics.of_command(name).count),
        [400, 800, 10, 10]
    );
    // What was queued in a transaction is answered inside EXEC's reply.
    let get = |number: &str| report.summary.of("redis", "GET", number);
    assert_eq!(
        (get("hits"), get("misses")),
        (400, 400),
        "{}",
        report.summary.0
    );
    assert_complete(&report.summary);
    Ok(())
}

#[test]
fn five_megabytes_and_what_follows() -> Result<()> {
    const SIZE: usize = 5 * 1024 * 1024;
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    let value = vec![b'v'; SIZE];
    redis.command(&[b"SET".as_slice(), b"big", &value])?;
    redis.command(&["SET", "small", "seven77"])?;
    redis.command(&["GET", "big"])?;
    redis.command(&["GET", "small"])?;
    redis.command(&["MGET", "big", "absent", "small"])?;
    redis.command(&["GET", "absent"])?;
    let script = "
import sys, redis
r = redis.Redis(port=int(sys.argv[1]))
r.set('python', 'p' * 5242880)
assert len(r.get('python')) == 5242880
r.get('small')
";
    python_script(script, server.port)?;
    let (_, report) = finish(&server, observer)?;
    let spans = |key: &str, operation: &str| -> Vec<Value> {
        report
            .of(operation)
            .into_iter()
            .filter(|s| s["attributes"]["cache.key"] == key)
            .cloned()
            .collect()
    };
    for (operation, key, size) in [
        ("SET", "big", SIZE),
        ("GET", "big", SIZE),
        ("SET", "python", SIZE),
        ("GET", "python", SIZE),
        ("SET", "small", 7),
        ("GET", "small", 7),
    ] {
        let found = spans(key, operation);
        assert!(
            !found.is_empty(),
            "{operation} {key} in {:#?}",
            report.spans
        );
        for span in found {
            assert_attributes(&span, &json!({"cache.value_size": size}));
        }
    }
    assert_eq!(report.of("GET").len(), 5);
    assert_attributes(
        report.of("MGET")[0],
        &json!({"cache.hits": 2, "cache.misses": 1, "cache.value_size": SIZE + 7}),
    );
    assert_attributes(&spans("absent", "GET")[0], &json!({"cache.hit": false}));
    // Values of known length are bridged: nothing had to be found again.
    for total in ["unanswered", "orphaned_replies", "resynchronizations"] {
        assert_eq!(
            report.summary.total(total),
            0,
            "{total} in {}",
            report.summary.0
        );
    }
    Ok(())
}

#[test]
fn a_connection_older_than_the_observer() -> Result<()> {
    let server = Server::redis()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["SET", "before", "x"])?;
    let observer = Options::new().redis(server.port).start()?;
    for size in 1..=100 {
        redis.command(&["SET", &format!("key:{size}"), &"v".repeat(size)])?;
        redis.command(&["GET", &format!("key:{size}")])?;
    }
    let report = observer.stop()?;
    assert_pairs(&report, 99);
    Ok(())
}

#[test]
fn connections_in_use_while_the_observer_attaches() -> Result<()> {
    let server = Server::redis()?;
    let address = ("127.0.0.1", server.port);
    let stop = AtomicBool::new(false);
    let (report, sent) = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..=8)
            .map(|number: usize| {
                let stop = &stop;
                scope.spawn(move || -> Result<usize> {
                    let mut redis = Redis::connect(address)?;
                    let (key, value) = (format!("key:{number}"), "v".repeat(number));
                    let mut sent = 0;
                    while !stop.load(Ordering::Relaxed) {
                        redis.command(&["SET", &key, &value])?;
                        redis.command(&["GET", &key])?;
                        sent += 2;
                        // Each in a rhythm of its own.
                        std::thread::sleep(Duration::from_millis(number as u64));
                    }
                    Ok(sent)
                })
            })
            .collect();
        let observer = Options::new().redis(server.port).start()?;
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        let sent: Result<Vec<usize>> = workers
            .into_iter()
            .map(|worker| worker.join().expect("no worker panics"))
            .collect();
        anyhow::Ok((observer.stop()?, sent?))
    })?;
    assert_pairs(&report, 8);
    // One exchange for each connection may have been under way.
    assert!(
        report.summary.total("unresolved") <= 8,
        "{}",
        report.summary.0
    );
    assert!(
        report.summary.total("orphaned_replies") <= 8,
        "{}",
        report.summary.0
    );
    assert!(report.spans.len() <= sent.iter().sum(), "{sent:?}");
    Ok(())
}

#[test]
fn a_reply_to_an_earlier_request_is_given_to_none() -> Result<()> {
    let server = Server::redis()?;
    let address = ("127.0.0.1", server.port);
    let mut waiting = Redis::connect(address)?;
    waiting.send(&encode(&["BLPOP", "queue", "0"]))?;
    let observer = Options::new().redis(server.port).start()?;
    Redis::connect(address)?.command(&["LPUSH", "queue", "an item"])?;
    assert!(matches!(waiting.reply()?, Reply::Array(_)));
    for size in 1..=50 {
        waiting.command(&["SET", &format!("key:{size}"), &"v".repeat(size)])?;
        waiting.command(&["GET", &format!("key:{size}")])?;
    }
    let report = observer.stop()?;
    assert!(report.of("BLPOP").is_empty(), "{:?}", report.of("BLPOP"));
    assert_pairs(&report, 49);
    Ok(())
}

#[test]
fn joining_in_the_middle_of_a_request() -> Result<()> {
    let server = Server::redis()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    let request = encode(&["SET", "key:7", "not known"]);
    let (first, second) = request.split_at(request.len() - 6);
    redis.send(first)?;
    let observer = Options::new().redis(server.port).start()?;
    redis.send(second)?;
    redis.reply()?;
    for size in 1..=50 {
        redis.command(&["SET", &format!("key:{size}"), &"v".repeat(size)])?;
        redis.command(&["GET", &format!("key:{size}")])?;
    }
    let report = observer.stop()?;
    assert_pairs(&report, 49);
    for span in &report.spans {
        let name = &span["attributes"]["db.operation.name"];
        assert!(name == "SET" || name == "GET", "{span}");
    }
    Ok(())
}

/// Every value of `key:N` is N bytes long: a reply given to the wrong request would say another size.
fn assert_pairs(report: &Report, at_least: usize) {
    let sizes: HashMap<String, usize> = (1..=100)
        .map(|size| (format!("key:{size}"), size))
        .collect();
    for operation in ["SET", "GET"] {
        let spans = report.of(operation);
        assert!(
            spans.len() >= at_least,
            "{} {operation}: {}",
            spans.len(),
            report.summary.0
        );
        for span in spans {
            let key = span["attributes"]["cache.key"].as_str().unwrap_or_default();
            assert_attributes(span, &json!({"cache.value_size": sizes[key]}));
            if operation == "GET" {
                assert_attributes(span, &json!({"cache.hit": true}));
            }
        }
    }
}

#[test]
fn ipv6() -> Result<()> {
    let server = Server::redis()?;
    let port = server.port;
    let observer = Options::new().redis(port).start()?;
    let mut redis = Redis::connect(("::1", port))?;
    redis.command(&["SET", "key", "value"])?;
    redis.command(&["GET", "key"])?;
    let (_, report) = finish(&server, observer)?;
    // The third is the question over IPv4.
    assert_eq!(report.spans.len(), 3, "{:#?}", report.spans);
    for span in &report.spans[..2] {
        assert_attributes(
            span,
            &json!({"server.address": "::1", "server.port": port, "network.type": "ipv6",
            "cache.name": format!("[::1]:{port}")}),
        );
    }
    Ok(())
}

#[test]
fn a_server_that_listens_on_ipv6_for_ipv4_clients() -> Result<()> {
    let port = tests::server::free_port()?;
    // One socket for both families: what it accepts from IPv4 has v4-mapped addresses.
    let listener = std::net::TcpListener::bind(("::", port))?;
    let observer = Options::new()
        .redis(port)
        .with("--role", "server")
        .start()?;
    let answer = std::thread::spawn(move || -> Result<()> {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept()?;
        let mut buffer = [0; 512];
        for reply in [b"+OK\r\n".as_slice(), b"$5\r\nvalue\r\n"] {
            let read = stream.read(&mut buffer)?;
            anyhow::ensure!(read > 0, "a request");
            stream.write_all(reply)?;
        }
        Ok(())
    });
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    redis.command(&["SET", "key", "value"])?;
    redis.command(&["GET", "key"])?;
    answer.join().expect("the server does not panic")?;
    let report = observer.stop()?;
    assert_eq!(report.spans.len(), 2, "{:#?}", report.spans);
    for span in &report.spans {
        assert_eq!(span["kind"], "SERVER");
        assert_attributes(
            span,
            &json!({"server.address": "127.0.0.1", "network.type": "ipv4"}),
        );
    }
    Ok(())
}

#[test]
fn vectored_calls_are_read_in_full() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let script = "
import sys, os, socket
s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
def reply(length):
    got = b''
    while len(got) < length:
        parts = [bytearray(3), bytearray(1), bytearray(1000)]
        n, *_ = s.recvmsg_into(parts)
        got += b''.join(parts)[:n]
    return got
s.sendmsg([b'*3\\r\\n$3\\r\\nSE', b'T\\r\\n', b'$3\\r\\nkey\\r\\n$10\\r\\n01234', b'56789', b'\\r\\n'])
assert reply(5) == b'+OK\\r\\n'
os.writev(s.fileno(), [b'*2\\r\\n$3\\r\\nG', b'ET\\r\\n$3\\r\\nkey', b'\\r\\n'])
assert reply(17) == b'$10\\r\\n0123456789\\r\\n'
s.sendmsg([b'*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\n', b'', b'x', b'\\r\\n'])
peek = s.recv(100, socket.MSG_PEEK)
assert peek == b'$-1\\r\\n'
assert s.recv(100) == peek
";
    python_script(script, server.port)?;
    let (_, report) = finish(&server, observer)?;
    assert_attributes(
        report.of("SET")[0],
        &json!({"cache.key": "key", "cache.value_size": 10}),
    );
    assert_attributes(
        report.of("GET")[0],
        &json!({"cache.key": "key", "cache.value_size": 10, "cache.hit": true}),
    );
    assert_attributes(
        report.of("GET")[1],
        &json!({"cache.key": "x", "cache.hit": false}),
    );
    assert_complete(&report.summary);
    Ok(())
}

#[test]
fn a_rejected_port_is_not_seen() -> Result<()> {
    let [watched, other] = [Server::redis()?, Server::redis()?];
    let observer = Options::new().redis(watched.port).start()?;
    Command::new("redis-cli")
        .args(["-p", &other.port.to_string(), "set", "a", "b"])
        .output()?;
    let report = observer.stop()?;
    assert_eq!(report.spans.len(), 0, "{:#?}", report.spans);
    assert_eq!(report.summary.total("connections"), 0);
    Ok(())
}
