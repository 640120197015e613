//! A real memcached: what the observer counts is what the server counts.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::client::Memcached;
use tests::coverage::{self, Kind};
use tests::memcached::{assert_as_the_server_counts, sum};
use tests::observer::Options;
use tests::process::{Folder, output, python};
use tests::server::Server;

#[test]
fn a_client_library() -> Result<()> {
    let server = Server::memcached()?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
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
    coverage::note(Kind::Client, "pymemcache 4.0.0")?;
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
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
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
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
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

#[test]
fn an_asynchronous_client_library() -> Result<()> {
    let server = Server::memcached()?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    let script = "
import asyncio, sys
import aiomcache
async def main():
    c = aiomcache.Client('127.0.0.1', int(sys.argv[1]), pool_size=4)
    async def one(i):
        key = b'k%d' % i
        assert await c.set(key, b'x' * i, exptime=60)
        assert len(await c.get(key)) == i
        assert await c.get(b'absent%d' % i) is None
        assert await c.touch(key, 100)
        assert await c.append(key, b'!')
    await asyncio.gather(*(one(i) for i in range(1, 101)))
    found = await c.multi_get(*(b'k%d' % i for i in range(1, 200, 20)))
    assert sum(value is not None for value in found) == 5
    value, cas = await c.gets(b'k1')
    assert await c.cas(b'k1', b'new', cas)
    assert not await c.cas(b'k1', b'new', cas)
    assert not await c.add(b'k1', b'no')
    assert await c.replace(b'k1', b'41')
    assert await c.incr(b'k1', 1) == 42
    assert await c.decr(b'k1', 2) == 40
    try:
        await c.incr(b'absent')
        assert False, 'there is nothing to count'
    except aiomcache.exceptions.ClientException:
        pass
    assert await c.delete(b'k1')
    assert not await c.delete(b'k1')
    assert b'pid' in await c.stats()
    assert await c.version()
    await c.flush_all()
    await c.close()
asyncio.run(main())
";
    output(python(), ["-c", script, &server.port.to_string()])?;
    let report = observer.stop()?;
    assert_as_the_server_counts(&server, &report)?;
    assert!(report.summary.total("connections") >= 4);
    assert_eq!(sum(&report, &["TOUCH"], "hits"), 100);
    for span in report.of("TOUCH") {
        assert_eq!(span["attributes"]["cache.ttl"], 100, "{span}");
    }
    coverage::note(Kind::Client, "aiomcache 0.8.2")
}

#[test]
fn every_command_of_the_text_protocol() -> Result<()> {
    let server = Server::memcached()?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    for (request, answer) in [
        ("set a 0 0 1\r\nx", "STORED"),
        ("add a 0 0 1\r\nx", "NOT_STORED"),
        ("add b 0 60 1\r\nx", "STORED"),
        ("replace absent 0 0 1\r\nx", "NOT_STORED"),
        ("append a 0 0 1\r\ny", "STORED"),
        ("prepend absent 0 0 1\r\ny", "NOT_STORED"),
        ("cas a 0 0 1 99999\r\nx", "EXISTS"),
        ("cas absent 0 0 1 1\r\nx", "NOT_FOUND"),
        ("set n 0 0 2\r\n41", "STORED"),
        ("incr n 1", "42"),
        ("decr n 1", "41"),
        ("incr absent 1", "NOT_FOUND"),
        ("decr absent 1", "NOT_FOUND"),
        (
            "incr a 1",
            "CLIENT_ERROR cannot increment or decrement non-numeric value",
        ),
        ("touch a 100", "TOUCHED"),
        ("touch absent 100", "NOT_FOUND"),
        ("delete b", "DELETED"),
        ("delete b", "NOT_FOUND"),
        ("delete n noreply\r\nget n", "END"),
        (
            "incr absent 1 noreply\r\ntouch absent 1 noreply\r\nget n",
            "END",
        ),
        ("verbosity 0", "OK"),
        ("cache_memlimit 64", "OK"),
        (
            "cache_memlimit 1",
            "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m",
        ),
        ("slabs automove 1", "OK"),
        (
            "slabs reassign 1 2",
            "NOSPARE source class has no spare pages",
        ),
        ("lru mode segmented", "OK"),
        ("lru_crawler crawl all", "OK"),
        ("shutdown", "ERROR: shutdown not enabled"),
        ("nonsense", "ERROR"),
        ("get", "ERROR"),
        ("gat 100 absent", "END"),
        ("bget absent", "END"),
        ("stats reset2", "ERROR"),
    ] {
        let said = memcached.line(request).with_context(|| request.to_owned());
        assert_eq!(said?, answer, "{request}");
    }
    for request in [
        "stats",
        "stats items",
        "stats slabs",
        "stats settings",
        "stats sizes",
        "stats conns",
    ] {
        memcached.send(format!("{request}\r\n").as_bytes())?;
        memcached.until("END").context(request)?;
    }
    memcached.send(b"gat 100 a absent\r\n")?;
    memcached.until("END")?;
    // The crawl from above may still go on.
    memcached.send(b"lru_crawler metadump all\r\n")?;
    memcached.until_one_of(&["END", "BUSY"])?;
    // Refused before it is read.
    memcached.store("set", "huge", &vec![b'x'; 2_000_000], 0)?;
    memcached.store("set", "after", b"x", 0)?;
    memcached.send(b"watch\r\n")?;
    memcached.until("OK")?;
    let mut other = Memcached::connect(("127.0.0.1", server.port))?;
    other.get(&["a", "after"])?;
    other.line("flush_all 10 noreply\r\nversion")?;
    let report = observer.stop()?;
    assert_as_the_server_counts(&server, &report)?;
    assert_eq!(report.summary.total("no_reply"), 4, "{}", report.summary.0);
    assert_eq!(sum(&report, &["STATS"], "count"), 7);
    assert_eq!(sum(&report, &["BGET"], "count"), 1);
    assert_eq!(sum(&report, &["LRU_CRAWLER"], "count"), 2);
    let huge = report
        .spans
        .iter()
        .find(|span| span["attributes"]["cache.key"] == "huge");
    let huge = huge.map(|span| &span["attributes"]["error.type"]);
    assert_eq!(huge, Some(&json!("SERVER_ERROR")));
    Ok(())
}

#[test]
fn authentication() -> Result<()> {
    const SECRET: &str = "correct-horse";
    let folder = Folder::new()?;
    let file = folder.path().join("users");
    std::fs::write(&file, format!("alice:{SECRET}\n"))?;
    let file = file.to_string_lossy().into_owned();
    let server = Server::memcached_on(tests::server::free_port()?, &["-Y", &file])?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    let wrong = format!("alice {SECRET}!");
    let answer = memcached.store("set", "whatever", wrong.as_bytes(), 0)?;
    ensure!(answer.starts_with("CLIENT_ERROR"), "{answer}");
    let right = format!("alice {SECRET}");
    ensure!(memcached.store("set", "whatever", right.as_bytes(), 0)? == "STORED");
    ensure!(memcached.store("set", "key", b"one-word", 0)? == "STORED");
    ensure!(memcached.get(&["key"])?.len() == 1);
    let mut stranger = Memcached::connect(("127.0.0.1", server.port))?;
    let answer = stranger.line("get key")?;
    ensure!(answer == "CLIENT_ERROR unauthenticated", "{answer}");
    let report = observer.stop()?;
    let told = format!("{:?} {}", report.spans, report.summary.0);
    assert!(
        !told.contains(SECRET) && !told.contains("whatever"),
        "{told}"
    );
    let sets = report.of("SET");
    assert_eq!(sets.len(), 3, "{sets:#?}");
    for (set, key) in sets.iter().zip([json!(null), json!(null), json!("key")]) {
        assert_eq!(set["attributes"]["cache.key"], key);
        assert_eq!(
            set["attributes"]["cache.value_size"].is_null(),
            key.is_null()
        );
    }
    assert_eq!(sets[0]["attributes"]["error.type"], "CLIENT_ERROR");
    Ok(())
}
