//! Peers that want to have the observer keep more than it may: its memory stays within its budget, what it gave up is counted, and
//! others are observed rightly meanwhile.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::{Redis, Reply, encode};
use tests::observer::{Observer, Options, Report};
use tests::process::{Running, eventually, load, python};
use tests::server::{Server, free_port};

/// What an observer may take with the default limits: `pending-bytes` twice, for what an allocator keeps, and 96 MiB for all else.
const BUDGET: u64 = (2 * 64 + 96) << 20;

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(1);

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

/// A real Redis is observed rightly. A span is dropped while batches of others fill the queue, so it is asked until a reply is
/// told; answers how often.
fn works(server: &Server, observer: &Observer) -> Result<u64> {
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    let mut asked = 0;
    eventually(Duration::from_secs(30), "a reply is told", || {
        redis.command(&["SET", "fine", "value"])?;
        let reply = redis.command(&["GET", "fine"])?;
        ensure!(reply == Reply::Bulk(Some(b"value".to_vec())), "{reply:?}");
        asked += 1;
        thread::sleep(Duration::from_millis(500));
        Ok(observer.spans()?.iter().any(is_fine))
    })?;
    Ok(asked)
}

/// Whether a span is that of the read that [`works`] asks for, with what it answered.
fn is_fine(span: &Value) -> bool {
    let attributes = &span["attributes"];
    attributes["cache.key"] == "fine"
        && attributes["db.operation.name"] == "GET"
        && attributes["cache.value_size"] == 5
}

/// Stops it: it stayed within its budget, and has told of what [`works`] asked this often, nothing twice.
fn finish(observer: Observer, what: &str, asked: u64) -> Result<Report> {
    thread::sleep(Duration::from_millis(1_500));
    let (peak, now) = (observer.peak_memory()?, observer.memory()?);
    let report = observer.stop()?;
    let exceeded = report.metric("observer.limits.exceeded", &[("limit", "pending-bytes")]);
    println!("{what}: {peak} bytes at most, {now} at the end; given up {exceeded} times");
    ensure!(peak < BUDGET, "{what}: {peak} bytes");
    ensure!(!report.log.contains("panicked"), "{}", report.log);
    let told = report.of("GET").into_iter().filter(|span| is_fine(span));
    let told = told.count() as u64;
    ensure!(
        (1..=asked).contains(&told),
        "{what}: {told} of {asked} are told: {}",
        report.summary.0
    );
    Ok(report)
}

/// Each process may have 20,000 files on many hosts, and has both ends of its connections: so there are several.
#[test]
fn a_hundred_thousand_half_finished_messages() -> Result<()> {
    const PROCESSES: u64 = 3;
    const ROUNDS: u64 = 4;
    let each = load(9_000)?;
    let server = Server::redis()?;
    let ports = (0..PROCESSES)
        .map(|_| free_port())
        .collect::<Result<Vec<_>>>()?;
    let observer = observe(&server, &ports, &[])?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/halves.py");
    let mut peers = Vec::new();
    for port in &ports {
        let mut command = Command::new(python());
        command.arg("-B").arg(&script);
        command.args([port.to_string(), each.to_string(), ROUNDS.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut peer = Running::start(&mut command)?;
        let output = peer.child().stdout.take().context("piped above")?;
        peers.push((peer, BufReader::new(output)));
    }
    for round in 0..ROUNDS {
        for (_, output) in &mut peers {
            let mut line = String::new();
            output.read_line(&mut line)?;
            ensure!(
                line.trim() == each.to_string(),
                "of {each} connections: {line}"
            );
        }
        println!("round {round}: {} bytes of memory", observer.memory()?);
    }
    let asked = works(&server, &observer)?;
    for (peer, _) in &mut peers {
        drop(peer.child().stdin.take());
        ensure!(peer.wait(Duration::from_secs(30))? == 0);
    }
    let report = finish(observer, "half-finished messages", asked)?;
    let exceeded = report.metric("observer.limits.exceeded", &[("limit", "pending-bytes")]);
    let messages = PROCESSES * ROUNDS * each;
    println!("{messages} messages, {exceeded} of them given up for others");
    ensure!(exceeded > messages as f64 / 2.0, "{exceeded} of {messages}");
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
    let asked = works(&server, &observer)?;
    drop(streams);
    silent.reset();
    let report = finish(observer, "byte by byte", asked)?;
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
    let gets: Vec<u8> = (0..20_000)
        .flat_map(|number| encode(&["GET", &format!("{number:0>40}")]))
        .collect();
    let line = [b"GET ".to_vec(), vec![b'x'; 2 << 20]].concat();
    let sets = [
        b"get a\r\n".to_vec(),
        b"set k 0 0 1 noreply\r\nx\r\n".repeat(20_000),
    ]
    .concat();
    let mut streams = Vec::new();
    for _ in 0..40 {
        for (peer, bytes) in [(&redis, &gets), (&redis, &line), (&memcached, &sets)] {
            let mut stream = peer.connect()?;
            send(&mut stream, bytes)?;
            streams.push(stream);
        }
    }
    let asked = works(&server, &observer)?;
    let report = finish(observer, "no replies", asked)?;
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
    send(&mut many, &key)?;
    read(&mut many, "*1000000\r\n".len() + 5 * 1_000_000)?;

    let mut huge = connect()?;
    huge.write_all(format!("*2\r\n$3\r\nGET\r\n${}\r\n", 512 << 20).as_bytes())?;
    let piece = vec![b'k'; 1 << 20];
    for _ in 0..512 {
        huge.write_all(&piece)?;
        thread::sleep(PAUSE);
    }
    huge.write_all(b"\r\n")?;
    read(&mut huge, "$-1\r\n".len())?;

    // 200,000 that are not answered; then replies are on again.
    let mut off = connect()?;
    off.write_all(&encode(&["CLIENT", "REPLY", "OFF"]))?;
    send(&mut off, &encode(&["SET", "quiet", "x"]).repeat(200_000))?;
    off.write_all(&encode(&["CLIENT", "REPLY", "ON"]))?;
    read(&mut off, "+OK\r\n".len())?;

    // 30,000 wait on each of four connections.
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["CLIENT", "PAUSE", "1500", "ALL"])?;
    let gets = encode(&["GET", "absent"]).repeat(30_000);
    let mut paused = (0..4).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    for stream in &mut paused {
        send(stream, &gets)?;
    }
    for stream in &mut paused {
        read(stream, "$-1\r\n".len() * 30_000)?;
    }

    let asked = works(&server, &observer)?;
    let report = finish(observer, "without measure", asked)?;
    if report.summary.ledger(&["sent", "ring_full"])
        + report.summary.ledger(&["received", "ring_full"])
        == 0
    {
        let misses = report.summary.of("redis", "MGET", "misses");
        ensure!(misses == 1_000_000, "{misses} misses of a million");
        let count = report.summary.of("redis", "SET", "count");
        ensure!(count == 200_000 + asked, "{count} SET");
        let count = report.summary.of("redis", "GET", "count");
        ensure!(count == 120_001 + asked, "{count} GET");
    }
    Ok(())
}

/// Sends in calls of which all is captured, and that the ring holds while the observer has no processor.
fn send(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    for piece in bytes.chunks(60_000) {
        stream.write_all(piece)?;
        thread::sleep(PAUSE);
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
