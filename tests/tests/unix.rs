//! Redis and Memcached over unix sockets: what the observer counts is what the servers count.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::client::{Memcached, Redis, Reply, encode};
use tests::observer::{Observer, Options, Report, Summary};
use tests::process::{Folder, eventually, load, output, python};
use tests::server::Server;
use tests::statistics::Statistics;

/// A folder with a socket of a redis-server in it.
struct Place {
    server: Server,
    path: PathBuf,
    _folder: Folder,
}

impl Place {
    fn redis() -> Result<Self> {
        let folder = Folder::new()?;
        let path = folder.path().join("redis.sock");
        let server = Server::redis_at(&path)?;
        Ok(Self {
            server,
            path,
            _folder: folder,
        })
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    fn watched(&self) -> Options {
        Options::new().with("--redis-socket", self.name())
    }

    fn connect(&self) -> Result<Redis> {
        Redis::connect_unix(&self.path)
    }

    fn cli(&self, words: &[&str]) -> Result<String> {
        output("redis-cli", ["-s", self.name()].iter().chain(words))
    }

    fn python(&self, script: &str) -> Result<String> {
        output(python(), ["-c", script, self.name()])
    }

    /// What the server has counted, and what the observer has left, which is the same.
    fn finish(&self, observer: Observer) -> Result<Report> {
        let statistics = Statistics::of(&mut self.connect()?)?;
        let report = observer.stop()?;
        statistics.compare(&report.summary)?;
        statistics.compare_keyspace(&report.summary)?;
        assert_complete(&report.summary);
        Ok(report)
    }
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

#[test]
fn commands_typed_by_hand_become_spans() -> Result<()> {
    let place = Place::redis()?;
    let observer = place.watched().start()?;
    place.cli(&["set", "user:42", "hello", "EX", "60"])?;
    place.cli(&["get", "user:42"])?;
    place.cli(&["get", "user:43"])?;
    place.cli(&["lpush", "user:42", "x"])?;
    let report = place.finish(observer)?;
    let spans = |name| report.of(name);
    assert_eq!(spans("GET").len(), 2);
    for span in ["SET", "GET", "LPUSH"].into_iter().flat_map(spans) {
        let attributes = &span["attributes"];
        for (name, value) in [
            ("db.system.name", json!("redis")),
            ("server.address", json!(place.name())),
            ("server.port", Value::Null),
            ("cache.name", json!(place.name())),
            ("network.transport", json!("unix")),
            ("network.type", Value::Null),
            ("network.peer.address", Value::Null),
            ("network.peer.port", Value::Null),
            ("db.namespace", json!("0")),
        ] {
            assert_eq!(attributes[name], value, "{name} in {span}");
        }
        let operation = attributes["db.operation.name"].as_str().context("a name")?;
        assert_eq!(span["name"], format!("{operation} {}", place.name()));
        assert_eq!(span["kind"], "CLIENT");
        let executable = &span["resource"]["process.executable.name"];
        assert_eq!(executable, "redis-cli", "{span}");
    }
    assert_eq!(
        spans("LPUSH")[0]["attributes"]["error.type"],
        json!("WRONGTYPE")
    );
    // Each redis-cli once, and the test's own.
    assert_eq!(report.summary.total("connections"), 5);
    Ok(())
}

#[test]
fn a_library_with_pipelines_transactions_and_large_values() -> Result<()> {
    let place = Place::redis()?;
    let observer = place
        .watched()
        .with("--spans-pipeline", "commands")
        .start()?;
    place.python(
        "
import sys, redis
r = redis.Redis(unix_socket_path=sys.argv[1])
for i in range(100):
    r.set(f'k{i}', b'x' * i, ex=60)
    assert len(r.get(f'k{i}')) == i
    assert r.get(f'absent{i}') is None
for size in (4095, 4096, 4097, 65536, 300000, 5 << 20):
    r.set('large', b'v' * size)
    assert len(r.get('large')) == size
with r.pipeline(transaction=False) as p:
    for i in range(500):
        p.set(f'p{i}', 'v' * (i % 50))
        p.get(f'p{i}')
    assert len(p.execute()) == 1000
with r.pipeline() as p:
    p.incr('n'); p.incr('n'); p.get('n')
    assert p.execute() == [1, 2, b'2']
r.close()
",
    )?;
    let statistics = Statistics::of(&mut place.connect()?)?;
    let report = observer.stop()?;
    statistics.compare(&report.summary)?;
    statistics.compare_keyspace(&report.summary)?;
    let largest = report
        .of("GET")
        .iter()
        .filter_map(|span| span["attributes"]["cache.value_size"].as_u64())
        .max();
    assert_eq!(largest, Some(5 << 20));
    for total in ["unanswered", "orphaned_replies", "resynchronizations"] {
        assert_eq!(report.summary.total(total), 0, "{}", report.summary.0);
    }
    Ok(())
}

#[test]
fn memcached_at_a_socket() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path().join("memcached.sock");
    let name = path.to_str().context("a printable path")?;
    let _server = Server::memcached_at(&path)?;
    let observer = Options::new().with("--memcached-socket", name).start()?;
    let script = "
import sys
from pymemcache.client.base import Client
c = Client('unix:' + sys.argv[1])
for i in range(200):
    c.set(f'k{i}', b'x' * (i + 1), noreply=i % 2 == 0)
    assert len(c.get(f'k{i}')) == i + 1
    assert c.get(f'absent{i}') is None
c.set('large', b'x' * 1000000, noreply=False)
assert len(c.get('large')) == 1000000
assert len(c.get_many([f'k{i}' for i in range(0, 400, 40)])) == 5
c.close()
";
    output(python(), ["-c", script, name])?;
    let stats = Memcached::connect_unix(&path)?.stats()?;
    let report = observer.stop()?;
    let sum = |number: &str| {
        let of = |operation| report.summary.of("memcached", operation, number);
        of("GET") + of("GETS")
    };
    assert_eq!(sum("hits"), stats["get_hits"]);
    assert_eq!(sum("misses"), stats["get_misses"]);
    let sets = report.summary.of("memcached", "SET", "count");
    assert_eq!(sets, stats["cmd_set"]);
    assert_eq!(report.summary.total("no_reply"), 100);
    let span = report.of("SET")[0];
    assert_eq!(span["attributes"]["server.address"], name);
    assert_eq!(span["attributes"]["db.system.name"], "memcached");
    for total in ["unanswered", "orphaned_replies", "resynchronizations"] {
        assert_eq!(report.summary.total(total), 0, "{}", report.summary.0);
    }
    Ok(())
}

#[test]
fn either_end_is_reported() -> Result<()> {
    for (role, kinds) in [
        ("auto", vec!["CLIENT"]),
        ("client", vec!["CLIENT"]),
        ("server", vec!["SERVER"]),
        ("both", vec!["CLIENT", "SERVER"]),
    ] {
        let place = Place::redis()?;
        let observer = place.watched().with("--role", role).start()?;
        for number in 0..20 {
            place.cli(&["set", &format!("k{number}"), "v"])?;
        }
        let report = observer.stop()?;
        assert_complete(&report.summary);
        let sets = report.of("SET");
        assert_eq!(sets.len(), 20 * kinds.len(), "{role}");
        let seen: BTreeSet<_> = sets.iter().filter_map(|s| s["kind"].as_str()).collect();
        assert_eq!(seen, kinds.into_iter().collect(), "{role}");
        let clients: Vec<_> = sets
            .iter()
            .filter(|span| span["kind"] == "CLIENT")
            .collect();
        for span in sets.iter().filter(|_| role == "both") {
            // Each request at the server's end is a child of the same request at the client's.
            let is_parent = |client: &&&&Value| client["span_id"] == span["parent_span_id"];
            let parent = clients.iter().find(is_parent);
            let key = |span: &Value| span["attributes"]["cache.key"].clone();
            match span["kind"].as_str() {
                Some("SERVER") => assert_eq!(parent.map(|client| key(client)), Some(key(span))),
                _ => assert!(parent.is_none(), "{span}"),
            }
        }
        for span in sets {
            let resource = &span["resource"];
            match span["kind"].as_str() {
                Some("SERVER") => assert_eq!(resource["process.pid"], place.server.process.id()),
                _ => assert_eq!(resource["process.executable.name"], "redis-cli"),
            }
            assert_eq!(span["attributes"]["server.address"], place.name());
        }
    }
    Ok(())
}

#[test]
fn connections_from_before_are_joined() -> Result<()> {
    let place = Place::redis()?;
    let mut older = place.connect()?;
    older.command(&["SELECT", "3"])?;
    older.command(&["SET", "before", "v"])?;
    // In the middle of a request.
    let mut cut = place.connect()?;
    let whole = encode(&["SET", "cut", &"v".repeat(1000)]);
    cut.send(&whole[..500])?;
    thread::sleep(Duration::from_millis(100));
    let observer = place.watched().start()?;
    cut.send(&whole[500..])?;
    assert_eq!(cut.reply()?, Reply::Status("OK".to_owned()));
    thread::sleep(Duration::from_millis(100));
    for number in 0..20 {
        let key = format!("k{number}");
        older.command(&["GET", &key])?;
        cut.command(&["SET", &key, "v"])?;
    }
    let mut new = place.connect()?;
    new.command(&["GET", "before"])?;
    let report = observer.stop()?;
    assert_eq!(report.summary.of("redis", "GET", "count"), 21);
    assert_eq!(report.summary.of("redis", "SET", "count"), 20);
    // Which database an older one has selected is not known; a new one begins with the first.
    for span in report.of("GET") {
        let attributes = &span["attributes"];
        let known = attributes["cache.key"] == "before";
        assert_eq!(
            attributes["db.namespace"],
            if known { json!("0") } else { Value::Null }
        );
    }
    assert_eq!(report.summary.total("unanswered"), 0);
    Ok(())
}

#[test]
fn many_connections_come_and_go() -> Result<()> {
    let place = Place::redis()?;
    let observer = place
        .watched()
        .traces("none")
        .with("--metrics-exporter", "jsonl")
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "500")
        .start()?;
    let count = load(2_000)?.max(200);
    let mut open = Vec::new();
    for number in 0..count {
        let mut redis = place.connect()?;
        redis.command(&["SET", &format!("k{number}"), "v"])?;
        // Some stay for a while.
        if number % 4 == 0 {
            open.push(redis);
        }
        if open.len() > 100 {
            open.remove(0).command(&["GET", "k0"])?;
        }
    }
    drop(open);
    // Memory that closed sockets have left is used again.
    for _ in 0..5 {
        place.cli(&["get", "k0"])?;
    }
    let report = place.finish(observer)?;
    let all = count + 6;
    assert_eq!(report.summary.total("connections"), all);
    let opened = report.metric("cache.connection.opened", &[]);
    assert_eq!(opened, all as f64);
    let closed = report.metric("cache.connection.closed", &[]);
    assert_eq!(closed, all as f64);
    Ok(())
}

#[test]
fn a_server_that_ends_ends_its_connections() -> Result<()> {
    let place = Place::redis()?;
    let observer = place
        .watched()
        .traces("none")
        .with("--metrics-exporter", "jsonl")
        .start()?;
    let mut redis = place.connect()?;
    redis.command(&["PING"])?;
    redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"])?;
    ensure!(redis.command(&["PING"]).is_err(), "it is closed");
    drop(redis);
    let report = observer.stop()?;
    assert_eq!(report.metric("cache.connection.opened", &[]), 1.0);
    assert_eq!(report.metric("cache.connection.closed", &[]), 1.0);
    Ok(())
}

#[test]
fn other_unix_sockets_are_left_alone() -> Result<()> {
    let place = Place::redis()?;
    let folder = Folder::new()?;
    let observer = place.watched().start()?;
    let get = encode(&["GET", "k"]);
    // A pair.
    let (mut one, mut other) = UnixStream::pair()?;
    one.write_all(&get)?;
    let mut bytes = vec![0; get.len()];
    other.read_exact(&mut bytes)?;
    // A name of the same length.
    let path = folder.path().join("redis.sick");
    let listener = UnixListener::bind(&path)?;
    let mut client = UnixStream::connect(&path)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(&get)?;
    server.read_exact(&mut bytes)?;
    server.write_all(b"$-1\r\n")?;
    client.read_exact(&mut bytes[..5])?;
    // Datagrams.
    let path = folder.path().join("datagrams");
    let receiver = UnixDatagram::bind(&path)?;
    UnixDatagram::unbound()?.send_to(&get, &path)?;
    receiver.recv(&mut bytes)?;
    // The same server, by its port.
    Redis::connect(("127.0.0.1", place.server.port))?.command(&["PING"])?;
    let report = observer.stop()?;
    assert_eq!(report.summary.total("connections"), 0);
    assert_eq!(report.spans.len(), 0);
    Ok(())
}

#[test]
fn servers_are_found_by_their_process() -> Result<()> {
    let first = Place::redis()?;
    let folder = Folder::new()?;
    let path = folder.path().join("memcached.sock");
    let _memcached = Server::memcached_at(&path)?;
    let observer = Options::new()
        .with("--redis-socket", "auto")
        .with("--memcached-socket", "auto")
        .start()?;
    first.cli(&["set", "k", "v"])?;
    Memcached::connect_unix(&path)?.get(&["k"])?;
    let later = Place::redis()?;
    eventually(Duration::from_secs(60), "the later server is found", || {
        Ok(observer.log()?.contains(later.name()))
    })?;
    later.cli(&["get", "k"])?;
    let report = observer.stop()?;
    let of = |name: &str, server: &str| {
        let spans = report.of(name).into_iter();
        let servers = spans.map(|span| span["attributes"]["server.address"].clone());
        servers.filter(|address| address == server).count()
    };
    assert_eq!(of("SET", first.name()), 1);
    assert_eq!(of("GET", later.name()), 1);
    assert_eq!(of("GET", path.to_str().context("a printable path")?), 1);
    Ok(())
}

#[test]
fn abstract_names_and_rules() -> Result<()> {
    let name = format!("cache-observer-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name)?;
    let listener = UnixListener::bind_addr(&address)?;
    let folder = Folder::new()?;
    let file = folder.path().join("observer.toml");
    std::fs::write(
        &file,
        format!(
            "redis-port = [1]\nmemcached-port = [2]\nredis-socket = '@{name}'\nmemcached-socket = []\n\
            [caches]\n'@{name}' = 'hidden'\n[[rules]]\nserver = '@{name}'\nkeys = 'none'\n"
        ),
    )?;
    let file = file.to_str().context("a printable path")?;
    let observer = Options::new().with("--config", file).start()?;
    let server = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = [0; 512];
        while stream.read(&mut bytes)? > 0 {
            stream.write_all(b"$-1\r\n")?;
        }
        Ok(())
    });
    let mut client = UnixStream::connect_addr(&address)?;
    for _ in 0..3 {
        client.write_all(&encode(&["GET", "secret"]))?;
        client.read_exact(&mut [0; 5])?;
    }
    drop(client);
    server.join().expect("the server does not panic")?;
    let report = observer.stop()?;
    let gets = report.of("GET");
    assert_eq!(gets.len(), 3);
    for span in gets {
        assert_eq!(span["attributes"]["server.address"], format!("@{name}"));
        assert_eq!(span["attributes"]["cache.name"], "hidden");
        assert_eq!(span["attributes"]["cache.key"], Value::Null);
    }
    assert_complete(&report.summary);
    Ok(())
}

#[test]
fn every_kind_of_call_is_seen() -> Result<()> {
    let place = Place::redis()?;
    let observer = place
        .watched()
        .with("--spans-pipeline", "commands")
        .start()?;
    place.python(
        "
import array, os, select, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
def command(*words):
    return b'*%d\\r\\n' % len(words) + b''.join(b'$%d\\r\\n%s\\r\\n' % (len(w), w) for w in words)
set_, get = command(b'SET', b'k', b'x' * 100), command(b'GET', b'k')
reply = b'$100\\r\\n' + b'x' * 100 + b'\\r\\n'
# write and read
os.write(s.fileno(), set_); assert os.read(s.fileno(), 100) == b'+OK\\r\\n'
# writev and readv into small pieces
os.writev(s.fileno(), [get[i:i + 3] for i in range(0, len(get), 3)])
pieces = [bytearray(7) for _ in range(20)]
n = os.readv(s.fileno(), pieces)
assert b''.join(pieces)[:n] == reply
# a look ahead takes nothing
s.sendall(get)
assert s.recv(5, socket.MSG_PEEK) == reply[:5]
assert s.recv(len(reply), socket.MSG_WAITALL) == reply
# descriptors beside the bytes, which the server does not take
with open('/dev/null') as f:
    s.sendmsg([get[:4], get[4:]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [f.fileno()]))])
data, _, _, _ = s.recvmsg(1000, 1000)
assert data == reply
# what is truncated by nobody
s.sendall(get); assert s.recv(1000, socket.MSG_TRUNC) == reply
# sends that take only a part
s.setblocking(False)
big = command(b'SET', b'big', b'y' * 3000000)
sent = 0
while sent < len(big):
    select.select([], [s], [])
    try: sent += s.send(big[sent:])
    except BlockingIOError: pass
s.setblocking(True)
assert s.recv(100) == b'+OK\\r\\n'
# a half-close: the last reply comes after it
s.sendall(get); s.shutdown(socket.SHUT_WR)
answer = b''
while True:
    more = s.recv(1000)
    if not more: break
    answer += more
assert answer == reply
s.close()
",
    )?;
    let statistics = Statistics::of(&mut place.connect()?)?;
    let report = observer.stop()?;
    statistics.compare(&report.summary)?;
    let sizes: Vec<_> = report
        .of("SET")
        .iter()
        .map(|span| span["attributes"]["cache.value_size"].as_u64())
        .collect();
    assert_eq!(sizes, [Some(100), Some(3_000_000)]);
    for total in ["unanswered", "orphaned_replies", "resynchronizations"] {
        assert_eq!(report.summary.total(total), 0, "{}", report.summary.0);
    }
    Ok(())
}
