//! A collector that is stopped, slow, or refuses, for as long as the variable `OUTAGE` says (`10m`; 30 s by itself), under load:
//! memory is bounded, what is lost is counted, and afterwards everything arrives again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::client::Redis;
use tests::collector::Collector;
use tests::observer::{Observer, Options, Report};
use tests::server::{Server, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What an observer may take, whatever its collector does. Measured: 58 MB, with 8,192 spans in the queue and as many on their way.
const MEMORY: u64 = 96 << 20;

/// What becomes of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nobody listens.
    Stopped,
    /// It accepts connections and requests, and never answers.
    Silent,
    /// It answers 503, and UNAVAILABLE.
    Refusing,
}

/// The ports of a collector.
#[derive(Debug, Clone, Copy)]
struct Ports {
    grpc: u16,
    http: u16,
}

fn outage() -> Result<Duration> {
    let Ok(text) = std::env::var("OUTAGE") else {
        return Ok(Duration::from_secs(30));
    };
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = number.parse().with_context(|| format!("OUTAGE={text}"))?;
    match unit {
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        _ => anyhow::bail!("OUTAGE={text}: neither 30s nor 10m"),
    }
}

/// Stands in for a collector until the runtime ends.
async fn fake(trouble: Trouble, ports: Ports) -> Result<()> {
    if trouble == Trouble::Stopped {
        return Ok(());
    }
    let grpc = TcpListener::bind(("127.0.0.1", ports.grpc)).await?;
    let http = TcpListener::bind(("127.0.0.1", ports.http)).await?;
    for (listener, is_grpc) in [(grpc, true), (http, false)] {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whatever ends a connection is the client's doing.
                match (trouble, is_grpc) {
                    (Trouble::Refusing, true) => _ = tokio::spawn(refuse_grpc(stream)),
                    (Trouble::Refusing, false) => _ = tokio::spawn(refuse_http(stream)),
                    _ => _ = tokio::spawn(swallow(stream)),
                }
            }
        });
    }
    Ok(())
}

async fn swallow(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn refuse_http(mut stream: TcpStream) -> Result<()> {
    let mut received = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buffer[..count]);
        let Some(head) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.context("a request says how long it is")?.parse()?;
        if received.len() >= head + 4 + length {
            received.clear();
            let answer =
                "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}

async fn refuse_grpc(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (_, mut respond) = request?;
        let answer = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "14")
            .body(())?;
        respond.send_response(answer, true)?;
    }
    Ok(())
}

/// Clients that ask as fast as they are answered, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = || {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut redis = Redis::connect(("127.0.0.1", port))?;
                while !stop.load(Ordering::Relaxed) {
                    for number in 0..100 {
                        redis.command(&["GET", &format!("load:{number}")])?;
                    }
                    // Some 4,000 a second fill every queue within seconds, and leave the processors to others.
                    thread::sleep(Duration::from_millis(40));
                }
                Ok(())
            })
        };
        Self {
            clients: vec![client(), client()],
            stop,
        }
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client does not panic")?;
        }
        Ok(())
    }
}

fn observe(port: u16, ports: Ports) -> Result<Observer> {
    Options::new()
        .redis(port)
        .traces("otlp")
        .with("--metrics-exporter", "otlp,jsonl")
        .variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
        .variable(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            &format!("http://127.0.0.1:{}", ports.grpc),
        )
        .variable("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")
        .variable(
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            &format!("http://127.0.0.1:{}/v1/metrics", ports.http),
        )
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "1000")
        .start()
}

/// Asks until the collector shows it, and a metric.
fn recovered(collector: &Collector, redis: &mut Redis) -> Result<()> {
    let begun = Instant::now();
    loop {
        redis.command(&["GET", "after:the:outage"])?;
        thread::sleep(Duration::from_millis(500));
        let printed = collector.printed()?;
        if printed.contains("GET after:the:outage") && printed.contains("cache.operations") {
            return Ok(());
        }
        // What is queued goes first, and may wait for its timeout.
        ensure!(
            begun.elapsed() < Duration::from_secs(120),
            "nothing arrives"
        );
    }
}

#[test]
fn collectors_that_fail() -> Result<()> {
    let server = Server::redis()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mut observers = Vec::new();
    for trouble in [Trouble::Stopped, Trouble::Silent, Trouble::Refusing] {
        let ports = Ports {
            grpc: free_port()?,
            http: free_port()?,
        };
        runtime.block_on(fake(trouble, ports))?;
        observers.push((trouble, ports, observe(server.port, ports)?));
    }
    let load = Load::start(server.port);
    let end = Instant::now() + outage()?;
    while Instant::now() < end {
        thread::sleep(Duration::from_secs(1));
        for (trouble, _, observer) in &observers {
            let memory = observer.peak_memory()?;
            ensure!(memory < MEMORY, "{trouble:?}: {memory} bytes");
        }
    }
    load.stop()?;
    runtime.shutdown_timeout(Duration::from_secs(5));
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for (trouble, ports, observer) in observers {
        let collector = Collector::start_on(ports.grpc, ports.http)?;
        recovered(&collector, &mut redis).with_context(|| format!("{trouble:?}"))?;
        let memory = observer.peak_memory()?;
        let report = observer.stop()?;
        assert_counted(trouble, &report, memory);
    }
    Ok(())
}

/// Every command's span arrived or was counted as dropped; there were both.
fn assert_counted(trouble: Trouble, report: &Report, memory: u64) {
    let spans = |outcome| report.metric("observer.spans", &[("outcome", outcome)]) as u64;
    let (exported, dropped) = (spans("exported"), spans("dropped"));
    let commands = report.summary.total("transactions");
    println!(
        "{trouble:?}: {commands} commands, {exported} exported, {dropped} dropped, {memory} bytes"
    );
    assert_eq!(exported + dropped, commands, "{trouble:?}");
    assert!(
        exported > 0 && dropped > 0,
        "{trouble:?}: {exported} {dropped}"
    );
    assert_eq!(report.summary.total("lost_bytes"), 0, "{trouble:?}");
    assert!(
        report.log.contains("OTLP export fails"),
        "{trouble:?}: {}",
        report.log
    );
    assert!(
        report.log.contains("OTLP export works again"),
        "{trouble:?}: {}",
        report.log
    );
}
