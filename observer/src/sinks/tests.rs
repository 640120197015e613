//! The sinks as the pipeline sees them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Exporter, OtlpProtocol, Output, Overflow, Sample, SinkError, SinkOptions, Sinks};
use crate::aggregation::testing::{observation, transaction};
use crate::aggregation::{Metrics, Options};
use crate::telemetry::{SpanOutcome, Telemetry};

fn start(options: SinkOptions) -> (Result<Sinks, SinkError>, Arc<Telemetry>) {
    let telemetry = Arc::new(Telemetry::default());
    let metrics = Arc::new(Metrics::new(Options::default(), Arc::clone(&telemetry)));
    (
        Sinks::start(options, Arc::clone(&telemetry), metrics),
        telemetry,
    )
}

fn counts(telemetry: &Telemetry) -> (u64, u64) {
    let count = |outcome| telemetry.spans(outcome).get();
    (count(SpanOutcome::Exported), count(SpanOutcome::Dropped))
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("sinks-{name}-{}", std::process::id()))
}

#[test]
fn writes_everything_before_it_ends() {
    let path = path("everything");
    let (sinks, telemetry) = start(SinkOptions {
        traces: vec![Exporter::Jsonl],
        metrics: vec![Exporter::Jsonl],
        output: Output::File(path.clone()),
        queue: 16,
        overflow: Overflow::Wait,
        ..SinkOptions::default()
    });
    let sinks = sinks.unwrap();
    assert!(sinks.wants_spans());
    for _ in 0..1000 {
        sinks.submit(observation(transaction("GET", 3)), Sample::default());
    }
    sinks.shutdown(Duration::from_secs(5));
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with(r#"{"type":"span""#))
            .count(),
        1000
    );
    let exported = text
        .lines()
        .find(|line| line.contains(r#""outcome":"exported""#))
        .unwrap();
    assert!(
        exported.ends_with(r#""value":1000}"#),
        "the last metrics count the last span: {exported}"
    );
    assert_eq!(counts(&telemetry), (1000, 0));
}

#[test]
fn nothing_to_do_is_fine() {
    let (sinks, telemetry) = start(SinkOptions::default());
    let sinks = sinks.unwrap();
    assert!(!sinks.wants_spans());
    sinks.submit(observation(transaction("GET", 3)), Sample::default());
    sinks.shutdown(Duration::from_secs(5));
    sinks.shutdown(Duration::from_secs(5));
    assert_eq!(counts(&telemetry), (0, 0));
}

#[test]
fn refuses_what_cannot_work() {
    let (sinks, _) = start(SinkOptions {
        traces: vec![Exporter::Jsonl],
        output: Output::File("/nonexistent/directory/file".into()),
        ..SinkOptions::default()
    });
    let error = sinks.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot write /nonexistent/directory/file: "),
        "{error}"
    );

    let mut options = SinkOptions {
        metrics: vec![Exporter::Otlp],
        ..SinkOptions::default()
    };
    options.otlp.metrics.endpoint = "collector".to_owned();
    let error = start(options).0.unwrap_err().to_string();
    assert!(
        error.starts_with("OTLP exporter for metrics: `collector` is no usable URL"),
        "{error}"
    );
}

#[test]
fn refuses_tls_files_that_cannot_be_read() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let mut options = SinkOptions {
            traces: vec![Exporter::Otlp],
            ..SinkOptions::default()
        };
        options.otlp.traces.protocol = protocol;
        options.otlp.traces.endpoint = "https://localhost:4317".to_owned();
        options.otlp.traces.tls.certificate = Some("/nonexistent/ca.pem".into());
        let error = start(options).0.unwrap_err().to_string();
        assert!(
            error.starts_with("OTLP exporter for traces: cannot read /nonexistent/ca.pem: "),
            "{error}"
        );
    }
}

fn otlp(protocol: OtlpProtocol, address: SocketAddr) -> SinkOptions {
    let mut options = SinkOptions {
        traces: vec![Exporter::Otlp],
        queue: 100,
        ..SinkOptions::default()
    };
    options.otlp.traces.protocol = protocol;
    options.otlp.traces.endpoint = format!("http://{address}/v1/traces");
    options.otlp.schedule_delay = Duration::from_millis(10);
    options
}

#[test]
fn a_collector_that_is_away_costs_spans_but_no_time() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        // Bound and then closed: nobody listens there.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let (sinks, telemetry) = start(otlp(protocol, address));
        let sinks = sinks.unwrap();
        let begin = Instant::now();
        for _ in 0..5000 {
            sinks.submit(observation(transaction("GET", 3)), Sample::default());
        }
        assert!(begin.elapsed() < Duration::from_secs(1));
        sinks.shutdown(Duration::from_secs(2));
        assert!(
            begin.elapsed() < Duration::from_millis(3500),
            "{:?}",
            begin.elapsed()
        );
        assert_eq!(counts(&telemetry), (0, 5000), "{protocol:?}");
    }
}

#[test]
fn a_collector_that_never_answers_does_not_hold_up_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let (sinks, telemetry) = start(otlp(protocol, listener.local_addr().unwrap()));
        let sinks = sinks.unwrap();
        for _ in 0..50 {
            sinks.submit(observation(transaction("GET", 3)), Sample::default());
        }
        let begin = Instant::now();
        sinks.shutdown(Duration::from_millis(500));
        assert!(
            begin.elapsed() < Duration::from_secs(2),
            "{:?}",
            begin.elapsed()
        );
        assert_eq!(counts(&telemetry), (0, 50), "{protocol:?}");
    }
}

/// Accepts every request of a connection and counts it.
fn answer(mut stream: TcpStream, seen: &AtomicU64) {
    let mut received = Vec::new();
    let mut buffer = [0; 65536];
    // A request is whole when as many bytes follow its head as the head says.
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            return;
        }
        received.extend_from_slice(&buffer[..count]);
        let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
        let length = text.split("content-length: ").nth(1).unwrap();
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        if received.len() < head + 4 + length {
            continue;
        }
        assert!(text.starts_with("post /v1/traces http/1.1"), "{text}");
        assert!(text.contains("x-key: secret"), "{text}");
        seen.fetch_add(1, Ordering::Relaxed);
        received.clear();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
    }
}

#[test]
fn posts_batches_over_http() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&requests);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let seen = Arc::clone(&seen);
            thread::spawn(move || answer(stream.unwrap(), &seen));
        }
    });
    let mut options = otlp(OtlpProtocol::HttpProtobuf, address);
    options.otlp.batch = 10;
    options.otlp.traces.headers = vec![("X-Key".to_owned(), "secret".to_owned())];
    options.overflow = Overflow::Wait;
    let (sinks, telemetry) = start(options);
    let sinks = sinks.unwrap();
    for _ in 0..1000 {
        sinks.submit(observation(transaction("GET", 3)), Sample::default());
    }
    sinks.shutdown(Duration::from_secs(5));
    assert_eq!(counts(&telemetry), (1000, 0));
    assert!(requests.load(Ordering::Relaxed) >= 100);
}
