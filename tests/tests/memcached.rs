//! A real memcached: what the observer counts is what the server counts.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::client::Memcached;
use tests::observer::{Options, Report};
use tests::process::{output, python};
use tests::server::Server;

fn sum(report: &Report, operations: &[&str], number: &str) -> u64 {
    operations
        .iter()
        .map(|operation| report.summary.of("memcached", operation, number))
        .sum()
}

const STORES: [&str; 6] = ["SET", "ADD", "REPLACE", "APPEND", "PREPEND", "CAS"];

/// Compares with the server's own counters.
fn assert_as_the_server_counts(server: &Server, report: &Report) -> Result<()> {
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    for (stat, operations, number) in [
        ("get_hits", ["GET", "GETS"].as_slice(), "hits"),
        ("get_misses", &["GET", "GETS"], "misses"),
        ("cmd_set", &STORES, "count"),
    ] {
        let wanted = memcached.stat(stat)?;
        assert_eq!(
            sum(report, operations, number),
            wanted,
            "{stat} in {}",
            report.summary.0
        );
    }
    assert_eq!(
        report.summary.total("unanswered"),
        0,
        "{}",
        report.summary.0
    );
    assert_eq!(
        report.summary.total("orphaned_replies"),
        0,
        "{}",
        report.summary.0
    );
    assert_eq!(
        report.summary.total("lost_bytes"),
        0,
        "{}",
        report.summary.0
    );
    Ok(())
}

#[test]
fn a_client_library() -> Result<()> {
    let server = Server::memcached()?;
    let observer = Options::new().memcached(server.port).start()?;
    let script = "
import sys
from pymemcache.client.base import Client
c = Client(('127.0.0.1', int(sys.argv[1])))
for i in range(200):
    c.set(f'k{i}', b'x' * (i + 1), noreply=i % 2 == 0)
    assert len(c.get(f'k{i}')) == i + 1
    assert c.get(f'absent{i}') is None
assert len(c.get_many([f'k{i}' for i in range(0, 400, 40)])) == 5
c.add('k1', b'no', noreply=False)
c.replace('k1', b'yes', noreply=False)
c.append('k1', b'!', noreply=False)
value, cas = c.gets('k1')
assert value == b'yes!'
assert c.cas('k1', b'new', cas)
c.set('n', b'41', noreply=False)
assert c.incr('n', 1) == 42
assert c.decr('n', 2) == 40
assert c.incr('absent', 1) is None
assert c.touch('k1', 100, noreply=False)
assert c.delete('k1', noreply=False)
assert not c.delete('k1', noreply=False)
c.version()
c.quit()
";
    output(python(), ["-c", script, &server.port.to_string()])?;
    let report = observer.stop()?;
    assert_as_the_server_counts(&server, &report)?;
    assert_eq!(
        report.summary.total("no_reply"),
        100 + u64::from(!report.of("QUIT").is_empty())
    );
    assert_eq!(sum(&report, &["INCR"], "count"), 2);
    assert_eq!(sum(&report, &["DELETE"], "count"), 2);
    for (index, span) in report.of("SET").iter().take(200).enumerate() {
        let attributes = &span["attributes"];
        assert_eq!(attributes["cache.value_size"], json!(index + 1), "{span}");
        let no_reply = if index % 2 == 0 {
            json!(true)
        } else {
            json!(null)
        };
        assert_eq!(attributes["cache.no_reply"], no_reply, "{span}");
        assert_eq!(attributes["db.system.name"], "memcached");
        assert_eq!(attributes["db.namespace"], json!(null));
        assert_eq!(span["name"], format!("SET 127.0.0.1:{}", server.port));
        assert_eq!(span["status"]["code"], "UNSET", "{span}");
    }
    let single: Vec<_> = report
        .of("GET")
        .into_iter()
        .filter(|s| s["attributes"]["cache.hit"].is_boolean())
        .collect();
    assert_eq!(single.len(), 400);
    for (index, pair) in single.chunks(2).enumerate() {
        assert_eq!(pair[0]["attributes"]["cache.hit"], true);
        assert_eq!(pair[0]["attributes"]["cache.value_size"], json!(index + 1));
        assert_eq!(pair[1]["attributes"]["cache.hit"], false);
    }
    Ok(())
}

#[test]
fn requests_in_one_segment_and_in_many() -> Result<()> {
    let server = Server::memcached()?;
    let observer = Options::new().memcached(server.port).start()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    // A value that looks like commands, silent stores, then a reply to wait for: one send.
    let value = "get a\r\nEND\r\nset b 0 0 1\r\n";
    let batch = format!(
        "set a 0 0 {} noreply\r\n{value}\r\nset c 0 0 3 noreply\r\nabc\r\ndelete absent noreply\r\nget a b c\r\n",
        value.len()
    );
    memcached.send(batch.as_bytes())?;
    ensure!(memcached.values()?.len() == 2, "a and c are there");
    for byte in "get c absent\r\n".bytes() {
        memcached.send(&[byte])?;
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    ensure!(memcached.values()?.len() == 1, "c is there");
    ensure!(memcached.line("nonsense")? == "ERROR", "not a command");
    let report = observer.stop()?;
    assert_as_the_server_counts(&server, &report)?;
    assert_eq!(report.summary.total("no_reply"), 3, "{}", report.summary.0);
    assert_eq!(
        sum(&report, &["SET"], "value_bytes"),
        value.len() as u64 + 3
    );
    Ok(())
}

#[test]
fn a_large_value_and_what_follows() -> Result<()> {
    const SIZE: usize = 900_000;
    let server = Server::memcached()?;
    let observer = Options::new().memcached(server.port).start()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    memcached.store("set", "big", &vec![b'x'; SIZE], 60)?;
    memcached.get(&["big"])?;
    memcached.get(&["absent"])?;
    memcached.store("set", "small", b"seven77", 0)?;
    memcached.get(&["small", "big", "absent"])?;
    // Beyond the server's limit.
    memcached.store("set", "huge", &vec![b'x'; 2_000_000], 0)?;
    let report = observer.stop()?;
    let gets = report.of("GET");
    assert_eq!(gets.len(), 3, "{:#?}", report.spans);
    assert_eq!(gets[0]["attributes"]["cache.value_size"], SIZE);
    assert_eq!(gets[1]["attributes"]["cache.hit"], false);
    assert_eq!(gets[2]["attributes"]["cache.hits"], 2);
    assert_eq!(gets[2]["attributes"]["cache.value_size"], SIZE + 7);
    let sets = report.of("SET");
    assert_eq!(sets[0]["attributes"]["cache.value_size"], SIZE);
    assert_eq!(sets[0]["attributes"]["cache.ttl"], 60);
    assert_eq!(sets[1]["attributes"]["cache.value_size"], 7);
    assert_eq!(sets[2]["attributes"]["error.type"], "SERVER_ERROR");
    assert_eq!(sets[2]["status"]["code"], "ERROR");
    assert_eq!(
        report.summary.total("resynchronizations"),
        0,
        "{}",
        report.summary.0
    );
    Ok(())
}
