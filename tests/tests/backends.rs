//! All backends, on all kernels, tell the same of the same traffic: what `backends.expected` says. Times are aside.
//!
//! Where spans are meant to change, `CACHE_OBSERVER_RENEW=1` writes that file anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::observer::{Options, Report};
use tests::process::{output, python};
use tests::server::{Server, free_port};

/// Every way to move bytes that each backend reads, in turn; then 64 threads that wait for their replies at the same time, more
/// than a kretprobe follows without being told to.
const TRAFFIC: &str = r"
import os, socket, struct, sys, threading, time
redis, memcached = int(sys.argv[1]), int(sys.argv[2])

def connect():
    s = socket.create_connection(('127.0.0.1', redis))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s

def request(*words):
    words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    return b'*%d\r\n' % len(words) + b''.join(b'$%d\r\n%s\r\n' % (len(w), w) for w in words)

def bulk(value):
    return b'$-1\r\n' if value is None else b'$%d\r\n%s\r\n' % (len(value), value)

def take(s, reply, read=None):
    got = b''
    while len(got) < len(reply):
        got += read(len(reply) - len(got)) if read else s.recv(len(reply) - len(got))
    assert got == reply, (got[:100], reply[:100])

def ask(s, question, reply, read=None):
    s.sendall(question)
    take(s, reply, read)

s = connect()
fd = s.fileno()
for n in range(15):
    ask(s, request('SET', f'key:{n}', b'v' * n), b'+OK\r\n')
    ask(s, request('GET', f'key:{n}'), bulk(b'v' * n))
    ask(s, request('GET', f'absent:{n}'), bulk(None))
# write and read.
os.write(fd, request('GET', 'key:7'))
take(s, bulk(b'v' * 7), lambda n: os.read(fd, n))
# In single bytes out, and into single bytes in.
os.writev(fd, [bytes([b]) for b in request('GET', 'key:8')])
def scattered(n):
    into = [bytearray(1) for _ in range(n)]
    moved = os.readv(fd, into)
    return b''.join(bytes(piece) for piece in into)[:moved]
take(s, bulk(b'v' * 8), scattered)
ask(s, request('GET', 'key:9'), bulk(b'v' * 9), lambda n: s.recv(1))
# sendmsg and recvmsg, with empty pieces too.
whole = request('SET', 'key:10', b'w' * 3000)
assert s.sendmsg([whole[:5], b'', whole[5:2000], whole[2000:]]) == len(whole)
take(s, b'+OK\r\n', lambda n: s.recvmsg(n)[0])
def message(n):
    into = [bytearray(), bytearray(1000), bytearray(1)]
    moved = s.recvmsg_into(into)[0]
    return b''.join(bytes(piece) for piece in into)[:moved]
s.sendall(request('GET', 'key:10'))
take(s, bulk(b'w' * 3000), lambda n: s.recvmsg(n)[0])
s.sendall(request('GET', 'key:11'))
take(s, bulk(b'v' * 11), message)
# More than is captured of one call, more than the buffers hold.
large = b'x' * 300_000
ask(s, request('SET', 'large', large), b'+OK\r\n')
ask(s, request('GET', 'large'), bulk(large))
ask(s, request('GET', 'large'), bulk(large), lambda n: s.recv(n, socket.MSG_WAITALL))
pieces = [large[at:at + 1000] for at in range(0, 300_000, 1000)]
head = b'*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$300000\r\n'
left = b''.join([head, *pieces, b'\r\n'])
while left:
    left = left[s.sendmsg([left[at:at + 1000] for at in range(0, min(len(left), 500_000), 1000)]):]
take(s, b'+OK\r\n')
# Looked at, then taken; taken without being looked at.
s.sendall(request('GET', 'key:12'))
assert s.recv(4, socket.MSG_PEEK)
take(s, bulk(b'v' * 12))
# Without blocking.
s.setblocking(False)
s.sendall(request('GET', 'key:13'))
def patient(n):
    while True:
        try:
            return s.recv(n)
        except BlockingIOError:
            time.sleep(0.001)
take(s, bulk(b'v' * 13), patient)
s.setblocking(True)
# Together.
s.sendall(b''.join(request('GET', f'key:{n}') for n in range(10)))
take(s, b''.join(bulk(b'v' * n) for n in range(10)))
s.sendall(request('MULTI') + request('INCR', 'n') + request('GET', 'absent') + request('EXEC'))
take(s, b'+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n$-1\r\n')
wrong = b'-WRONGTYPE Operation against a key holding the wrong kind of value\r\n'
ask(s, request('LPUSH', 'key:1', 'x'), wrong)
# One thread writes, another reads.
taken = threading.Semaphore(0)
def reads():
    for _ in range(100):
        take(s, bulk(b'v' * 14))
        taken.release()
reader = threading.Thread(target=reads)
reader.start()
for _ in range(100):
    s.sendall(request('GET', 'key:14'))
    taken.acquire()

waiting = [connect() for _ in range(64)]
sent = threading.Barrier(65)
def wait(n):
    waiting[n].sendall(request('BLPOP', 'queue', 0))
    sent.wait()
    take(waiting[n], b'*2\r\n' + bulk(b'queue') + bulk(b'an item'))
threads = [threading.Thread(target=wait, args=(n,)) for n in range(64)]
for thread in threads:
    thread.start()
sent.wait()
# By then all of them are inside the kernel.
time.sleep(1)
for _ in threads:
    s.sendall(request('RPUSH', 'queue', 'an item'))
    assert s.recv(10).startswith(b':')
for thread in threads:
    thread.join()

to = ('127.0.0.1', memcached)
u, c = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
c.connect(to)
frame = lambda id: struct.pack('>HHHH', id, 0, 1, 0)
for n in range(5):
    u.sendto(frame(2 * n) + b'set key:%d 0 0 3\r\nabc\r\n' % n, to)
    assert u.recvfrom(2000)[0][8:] == b'STORED\r\n'
    c.send(frame(2 * n + 1) + b'get key:%d\r\n' % (n * 2))
    assert c.recv(2000)[8:].endswith(b'END\r\n')
u.sendmsg([frame(100), b'get ', b'absent\r\n'], [], 0, to)
into = [bytearray(10), bytearray(100)]
assert u.recvmsg_into(into)[0] == 13
u.sendto(frame(101) + b'get key:1\r\n', to)
assert u.recvfrom(2000, socket.MSG_PEEK | socket.MSG_TRUNC)[0][8:].endswith(b'END\r\n')
assert u.recvfrom(2000, socket.MSG_TRUNC)[0][8:].endswith(b'END\r\n')
";

/// What a backend may not have a say in: no times, no numbers that differ from run to run. Spans that are alike share a line.
fn told(report: &Report) -> String {
    let mut lines = BTreeMap::<String, u32>::new();
    for span in &report.spans {
        let mut attributes = span["attributes"].as_object().cloned().unwrap_or_default();
        for name in ["cache.name", "network.peer.port", "server.port"] {
            attributes.remove(name);
        }
        let name = span["name"].as_str().unwrap_or_default();
        let (name, _) = name.rsplit_once(':').unwrap_or((name, ""));
        let text = Value::from(attributes).to_string();
        let line = format!(
            "{} {name} {} {text}",
            text_of(&span["kind"]),
            text_of(&span["status"]["code"]),
        );
        *lines.entry(line).or_default() += 1;
    }
    lines
        .into_iter()
        .fold(String::new(), |mut text, (line, times)| {
            let _ = writeln!(text, "{times} {line}");
            text
        })
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

#[test]
fn each_tells_the_same() -> Result<()> {
    let redis = Server::redis()?;
    let port = free_port()?;
    let memcached = Server::memcached_on(port, &["-U", &port.to_string()])?;
    let observer = Options::new()
        .redis(redis.port)
        .memcached(memcached.port)
        .with("--metrics-exporter", "jsonl")
        .start()?;
    let [redis, memcached] = [redis.port, memcached.port].map(|port| port.to_string());
    output(python(), ["-c", TRAFFIC, &redis, &memcached])?;
    let report = observer.stop()?;
    let backend = report.backend()?;
    for number in [
        "unresolved",
        "unanswered",
        "orphaned_replies",
        "lost_bytes",
        "resynchronizations",
    ] {
        ensure!(
            report.summary.total(number) == 0,
            "{backend}: {}",
            report.summary.0
        );
    }
    ensure!(
        report.metric("observer.events.lost", &[]) == 0.0,
        "{backend} has lost events: {}",
        report.summary.0
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backends.expected");
    let told = told(&report);
    if std::env::var_os("CACHE_OBSERVER_RENEW").is_some() {
        fs::write(&file, &told)?;
    }
    let expected = fs::read_to_string(file)?;
    for (number, pair) in told.lines().zip(expected.lines()).enumerate() {
        ensure!(
            pair.0 == pair.1,
            "{backend}, line {}:\n{}\nexpected:\n{}",
            number + 1,
            pair.0,
            pair.1
        );
    }
    ensure!(
        told.len() == expected.len(),
        "{backend}: {} lines, expected {}",
        told.lines().count(),
        expected.lines().count()
    );
    Ok(())
}
