//! Peers that want to have the observer keep more than it may: its memory stays within its budget, what it gave up is counted, and
//! others are observed rightly meanwhile.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::client::{Redis, Reply, encode};
use tests::observer::{Observer, Options, Report};
use tests::process::{eventually, load};
use tests::server::{Server, free_port};

/// What an observer may take with the default limits: `pending-bytes` twice, for what an allocator keeps, and 96 MiB for all else.
const BUDGET: u64 = (2 * 64 + 96) << 20;

/// A server that accepts, and reads or does not.
struct Silent {
    port: u16,
    /// Connections that it does not read from.
    kept: &'static Mutex<Vec<TcpStream>>,
}

impl Silent {
    /// `reads`: what it is sent is read, and not answered.
    fn start(reads: bool) -> Result<Self> {
        let port = free_port()?;
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let kept: &'static Mutex<Vec<TcpStream>> = Box::leak(Box::default());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if reads {
                    thread::spawn(move || swallow(stream));
                } else {
                    kept.lock().expect("nobody panics").push(stream);
                }
            }
        });
        Ok(Self { port, kept })
    }

    fn connect(&self) -> Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", self.port)).context("connecting")
    }

    /// Closes what it has not read, which resets the connections.
    fn reset(&self) {
        self.kept.lock().expect("nobody panics").clear();
    }
}

fn swallow(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 20];
    while matches!(stream.read(&mut buffer), Ok(read) if read > 0) {}
}

/// Watches these beside a real Redis. Spans are wanted, since they take most, and go nowhere.
fn observe(server: &Server, others: &[u16], memcached: &[u16]) -> Result<Observer> {
    let list = |ports: &[u16]| {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        ports.join(",")
    };
    let redis = [&[server.port], others].concat();
    let mut options = Options::new()
        .with("--redis-port", &list(&redis))
        .with("--metrics-exporter", "jsonl")
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "1000");
    if !memcached.is_empty() {
        options = options.with("--memcached-port", &list(memcached));
    }
    options.start()
}

/// A real Redis is observed rightly.
fn works(server: &Server) -> Result<()> {
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["SET", "fine", "value"])?;
    let reply = redis.command(&["GET", "fine"])?;
    ensure!(reply == Reply::Bulk(Some(b"value".to_vec())), "{reply:?}");
    Ok(())
}

/// Stops it: it stayed within its budget, and has told what was asked of the real Redis.
fn finish(observer: Observer, what: &str) -> Result<Report> {
    thread::sleep(Duration::from_millis(1_500));
    let (peak, now) = (observer.peak_memory()?, observer.memory()?);
    let report = observer.stop()?;
    let exceeded = report.metric("observer.limits.exceeded", &[("limit", "pending-bytes")]);
    println!("{what}: {peak} bytes at most, {now} at the end; given up {exceeded} times");
    ensure!(peak < BUDGET, "{what}: {peak} bytes");
    ensure!(!report.log.contains("panicked"), "{}", report.log);
    let fine = report
        .of("GET")
        .into_iter()
        .filter(|span| span["attributes"]["cache.key"] == "fine");
    let hits = fine
        .filter(|span| span["attributes"]["cache.value_size"] == 5)
        .count();
    ensure!(
        hits == 1,
        "{what}: {hits} of 1 are told: {}",
        report.summary.0
    );
    Ok(report)
}

/// The beginning of a request: 50 long keys of an MGET of 60.
fn half() -> Vec<u8> {
    let mut bytes = b"*61\r\n$4\r\nMGET\r\n".to_vec();
    for number in 0..20 {
        let key = format!("{number:0>500}");
        bytes.extend(format!("${}\r\n{key}\r\n", key.len()).into_bytes());
    }
    bytes
}

#[test]
fn a_hundred_thousand_half_finished_messages() -> Result<()> {
    const CONNECTIONS: u64 = 20_000;
    let connections = load(CONNECTIONS)?;
    // Both ends are this process's.
    let files = 2 * connections + 1_000;
    setrlimit(
        Resource::RLIMIT_NOFILE,
        files,
        files.max(getrlimit(Resource::RLIMIT_NOFILE)?.1),
    )
    .context("both ends of 20,000 connections are files of this test: as root")?;
    let server = Server::redis()?;
    let silent = Silent::start(false)?;
    let observer = observe(&server, &[silent.port], &[])?;
    let half = half();
    for round in 0..5 {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let mut stream = silent.connect()?;
            stream.write_all(&half)?;
            streams.push(stream);
        }
        eventually(Duration::from_secs(30), "all are accepted", || {
            Ok(silent.kept.lock().expect("nobody panics").len() as u64 == connections)
        })?;
        println!("round {round}: {} bytes of memory", observer.memory()?);
        if round == 4 {
            works(&server)?;
        }
        silent.reset();
    }
    let report = finish(observer, "half-finished messages")?;
    let exceeded = report.metric("observer.limits.exceeded", &[("limit", "pending-bytes")]);
    ensure!(exceeded > connections as f64, "{exceeded} given up");
    Ok(())
}

/// Thousands of connections, each of which sends its message byte by byte, all in turn.
#[test]
fn byte_by_byte() -> Result<()> {
    let server = Server::redis()?;
    let silent = Silent::start(false)?;
    let observer = observe(&server, &[silent.port], &[])?;
    let mut streams = (0..2_000)
        .map(|_| silent.connect())
        .collect::<Result<Vec<_>>>()?;
    for stream in &streams {
        stream.set_nodelay(true)?;
    }
    for byte in encode(&["GET", "slow"]) {
        for stream in &mut streams {
            stream.write_all(&[byte])?;
        }
        thread::sleep(Duration::from_millis(50));
    }
    works(&server)?;
    drop(streams);
    silent.reset();
    let report = finish(observer, "byte by byte")?;
    let slow = report
        .of("GET")
        .into_iter()
        .filter(|span| span["attributes"]["cache.key"] == "slow");
    if report.summary.ledger(&["sent", "ring_full"]) == 0 {
        ensure!(slow.count() == 2_000, "{}", report.summary.0);
    }
    Ok(())
}

/// Requests to a server that reads and never answers: commands, a line without an end, and such as want no answer behind one that
/// waits for its own.
#[test]
fn pipelines_without_a_reply() -> Result<()> {
    let server = Server::redis()?;
    let (redis, memcached) = (Silent::start(true)?, Silent::start(true)?);
    let observer = observe(&server, &[redis.port], &[memcached.port])?;
    let gets: Vec<u8> = (0..1_000)
        .flat_map(|number| encode(&["GET", &format!("{number:0>400}")]))
        .collect();
    let line = vec![b'x'; 1 << 20];
    let sets = b"set k 0 0 1 noreply\r\nx\r\n".repeat(2_000);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = redis.connect()?;
        for _ in 0..100 {
            stream.write_all(&gets)?;
        }
        streams.push(stream);
        let mut stream = redis.connect()?;
        stream.write_all(b"GET ")?;
        for _ in 0..20 {
            stream.write_all(&line)?;
        }
        streams.push(stream);
        let mut stream = memcached.connect()?;
        stream.write_all(b"get a\r\n")?;
        for _ in 0..100 {
            stream.write_all(&sets)?;
        }
        streams.push(stream);
    }
    works(&server)?;
    let report = finish(observer, "no replies")?;
    drop(streams);
    ensure!(
        report.summary.total("unresolved") > 100_000,
        "{}",
        report.summary.0
    );
    Ok(())
}

/// What a real server takes: a million elements, keys of 512 MB, no replies, late ones.
#[test]
fn requests_without_measure() -> Result<()> {
    let server = Server::redis()?;
    let observer = observe(&server, &[], &[])?;
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", server.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(stream)
    };

    let mut many = connect()?;
    let key = b"$1\r\na\r\n".repeat(1_000_000);
    many.write_all(b"*1000001\r\n$4\r\nMGET\r\n")?;
    many.write_all(&key)?;
    read(&mut many, "*1000000\r\n".len() + 5 * 1_000_000)?;

    let mut huge = connect()?;
    huge.write_all(format!("*2\r\n$3\r\nGET\r\n${}\r\n", 512 << 20).as_bytes())?;
    let piece = vec![b'k'; 1 << 20];
    for _ in 0..512 {
        huge.write_all(&piece)?;
    }
    huge.write_all(b"\r\n")?;
    read(&mut huge, "$-1\r\n".len())?;

    // 200,000 that are not answered; then replies are on again.
    let mut off = connect()?;
    off.write_all(&encode(&["CLIENT", "REPLY", "OFF"]))?;
    let sets = encode(&["SET", "quiet", "x"]).repeat(2_000);
    for _ in 0..100 {
        off.write_all(&sets)?;
    }
    off.write_all(&encode(&["CLIENT", "REPLY", "ON"]))?;
    read(&mut off, "+OK\r\n".len())?;

    // 30,000 wait on each of four connections.
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["CLIENT", "PAUSE", "1500", "ALL"])?;
    let gets = encode(&["GET", "absent"]).repeat(30_000);
    let mut paused = (0..4).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    for stream in &mut paused {
        stream.write_all(&gets)?;
    }
    for stream in &mut paused {
        read(stream, "$-1\r\n".len() * 30_000)?;
    }

    works(&server)?;
    let report = finish(observer, "without measure")?;
    if report.summary.ledger(&["sent", "ring_full"])
        + report.summary.ledger(&["received", "ring_full"])
        == 0
    {
        let misses = report.summary.of("redis", "MGET", "misses");
        ensure!(misses == 1_000_000, "{misses} misses of a million");
        let count = report.summary.of("redis", "SET", "count");
        ensure!(count == 200_001, "{count} SET");
        let count = report.summary.of("redis", "GET", "count");
        ensure!(count == 120_002, "{count} GET");
    }
    Ok(())
}

fn read(stream: &mut TcpStream, bytes: usize) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(buffer.len());
        let count = stream.read(&mut buffer[..most])?;
        ensure!(count > 0, "{left} bytes are missing");
        left -= count;
    }
    Ok(())
}
