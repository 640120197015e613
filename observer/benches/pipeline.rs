//! What a command costs in user space: request and reply, from the source's event to the metrics.
//!
//! Prints one JSON object a line. `redis-protocol` decodes the same frames beside it, without reassembly, pairing
//! and metrics. The method is described in CONTRIBUTING.md.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use observer::aggregation::{Metrics, Options};
use observer::pipeline::{Parts, Pipeline};
use observer::sinks::{SinkOptions, Sinks};
use observer::source::event::{Clock, Data, Direction, End, Event, EventKind, SocketId, Task};
use observer::stream::flows::Role;
use observer::stream::reassembly::Limits;
use observer::telemetry::Telemetry;

/// Connections that take turns: what `redis-benchmark` opens.
const CONNECTIONS: u64 = 50;
const COMMANDS: u64 = 400_000;
const ROUNDS: usize = 7;

/// One exchange, as it goes over the wire.
struct Exchange {
    name: &'static str,
    request: Vec<u8>,
    reply: Vec<u8>,
    /// Exchanges in one call.
    pipelined: u64,
}

fn exchanges() -> Vec<Exchange> {
    let value = "x".repeat(64);
    let get = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000042\r\n".to_vec();
    let found = format!("$64\r\n{value}\r\n").into_bytes();
    let set =
        format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000042\r\n$64\r\n{value}\r\n").into_bytes();
    vec![
        Exchange {
            name: "get",
            request: get.clone(),
            reply: found.clone(),
            pipelined: 1,
        },
        Exchange {
            name: "set",
            request: set.clone(),
            reply: b"+OK\r\n".to_vec(),
            pipelined: 1,
        },
        Exchange {
            name: "get, 16 pipelined",
            request: get.repeat(16),
            reply: found.repeat(16),
            pipelined: 16,
        },
        Exchange {
            name: "set, 16 pipelined",
            request: set.repeat(16),
            reply: b"+OK\r\n".repeat(16),
            pipelined: 16,
        },
    ]
}

fn pipeline() -> Pipeline {
    let telemetry = Arc::new(Telemetry::default());
    let metrics = Arc::new(Metrics::new(Options::default(), Arc::clone(&telemetry)));
    let sinks = Sinks::start(
        SinkOptions::default(),
        Arc::clone(&telemetry),
        Arc::clone(&metrics),
    )
    .expect("no sink is asked for");
    Pipeline::new(Parts {
        role: Role::Auto,
        redis_ports: vec![6379],
        memcached_ports: vec![11211],
        limits: Limits::LIVE,
        clock: Clock::default(),
        telemetry,
        metrics,
        sinks: Arc::new(sinks),
    })
}

fn socket(number: u64) -> SocketId {
    SocketId {
        sk: 0xffff_8880_0000_0000 + number * 2_496,
        netns: 4_026_531_840,
        local: ([127, 0, 0, 1], 40_000 + number as u16).into(),
        remote: ([127, 0, 0, 1], 6379).into(),
    }
}

/// Nanoseconds a command through the whole pipeline.
fn observe(exchange: &Exchange) -> f64 {
    let mut pipeline = pipeline();
    let task = Task {
        pid: std::process::id(),
        tid: 1,
        cgroup: 1,
        comm: *b"redis-benchmark\0",
    };
    let mut time = 1_000_000;
    for number in 0..CONNECTIONS {
        let kind = EventKind::Established {
            end: End::Client,
            send_position: Some(1),
            receive_position: Some(1),
        };
        pipeline.event(&Event {
            time,
            socket: socket(number),
            task: Some(task),
            kind,
        });
    }
    let calls = COMMANDS / exchange.pipelined;
    let begun = Instant::now();
    for call in 0..calls {
        let turn = (call / CONNECTIONS) as u32;
        let sides = [
            (Direction::Send, &exchange.request),
            (Direction::Receive, &exchange.reply),
        ];
        for (direction, bytes) in sides {
            time += 5_000;
            let length = bytes.len() as u32;
            let position = 1_u32.wrapping_add(turn.wrapping_mul(length));
            let kind = EventKind::Data(Data {
                direction,
                started: time,
                position,
                opposite: Some(position),
                length,
                payload: bytes,
                uncaptured: None,
                continued: false,
            });
            pipeline.event(black_box(&Event {
                time,
                socket: socket(call % CONNECTIONS),
                task: Some(task),
                kind,
            }));
        }
    }
    let nanos = begun.elapsed().as_nanos() as f64 / (calls * exchange.pipelined) as f64;
    pipeline.finish(time);
    let summary = pipeline.summary();
    assert!(
        summary.contains(&format!("\"count\":{}", calls * exchange.pipelined)),
        "{summary}"
    );
    nanos
}

/// Nanoseconds a command for `redis-protocol` to decode the same frames.
fn redis_protocol(exchange: &Exchange) -> f64 {
    use redis_protocol::resp2::decode::decode;
    let calls = COMMANDS / exchange.pipelined;
    let begun = Instant::now();
    for _ in 0..calls {
        for bytes in [&exchange.request, &exchange.reply] {
            let mut rest = bytes.as_slice();
            while let Ok(Some((frame, used))) = decode(black_box(rest)) {
                black_box(frame);
                rest = &rest[used..];
            }
        }
    }
    begun.elapsed().as_nanos() as f64 / (calls * exchange.pipelined) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    for exchange in exchanges() {
        let observed = median((0..ROUNDS).map(|_| observe(&exchange)).collect());
        let decoded = median((0..ROUNDS).map(|_| redis_protocol(&exchange)).collect());
        for (bench, nanos) in [("pipeline", observed), ("redis-protocol decode", decoded)] {
            let line = serde_json::json!({
                "bench": format!("{bench}: {}", exchange.name),
                "ns_per_command": (nanos * 10.0).round() / 10.0,
            });
            println!("{line}");
        }
    }
}
