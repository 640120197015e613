//! What a command costs in user space: request and reply, from the source's event to the metrics.
//!
//! Prints one JSON object a line. Beside it: what decoding alone costs, and what the crate `redis-protocol` needs to
//! decode the same frames. The method is described in CONTRIBUTING.md.

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use observer::aggregation::{Metrics, Options};
use observer::config::rules::Rules;
use observer::enrichment::Places;
use observer::pipeline::{Parts, Pipeline, Watched};
use observer::protocol::{Protocol, ReplyDecoder, RequestDecoder, outcome};
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

/// Larger ones, for the decoders alone.
fn larger() -> Vec<Exchange> {
    let array = |words: &[String]| {
        let bulk = |word: &String| format!("${}\r\n{word}\r\n", word.len());
        let body: String = words.iter().map(bulk).collect();
        format!("*{}\r\n{body}", words.len()).into_bytes()
    };
    let keys = |name: &str| -> Vec<String> {
        let keys = (0..100).map(|number| format!("user:{number}:profile"));
        std::iter::once(name.to_owned()).chain(keys).collect()
    };
    let fields: Vec<_> = (0..50)
        .flat_map(|number| [format!("field:{number}"), "v".repeat(24)])
        .collect();
    let large = "x".repeat(1 << 20);
    vec![
        Exchange {
            name: "mget of 100 keys",
            request: array(&keys("MGET")),
            reply: array(&vec!["v".repeat(64); 100]),
            pipelined: 1,
        },
        Exchange {
            name: "hgetall of 50 fields",
            request: array(&["HGETALL".to_owned(), "user:42".to_owned()]),
            reply: array(&fields),
            pipelined: 1,
        },
        Exchange {
            name: "get of 1 MiB",
            request: array(&["GET".to_owned(), "large".to_owned()]),
            reply: format!("${}\r\n{large}\r\n", large.len()).into_bytes(),
            pipelined: 1,
        },
    ]
}

/// The same two in each dialect of Memcached, for the decoders alone.
fn memcached() -> Vec<Exchange> {
    let (key, value) = ("key:000000000042", "x".repeat(64));
    let frame = |magic: u8, opcode: u8, extras: &[u8], key: &str, value: &str| {
        let body = (extras.len() + key.len() + value.len()) as u32;
        let mut frame = vec![
            magic,
            opcode,
            0,
            key.len() as u8,
            extras.len() as u8,
            0,
            0,
            0,
        ];
        frame.extend(body.to_be_bytes());
        frame.extend([0; 12]);
        [&frame, extras, key.as_bytes(), value.as_bytes()].concat()
    };
    let exchange = |name, request: Vec<u8>, reply: Vec<u8>| Exchange {
        name,
        request,
        reply,
        pipelined: 1,
    };
    let line = |line: String| line.into_bytes();
    vec![
        exchange(
            "text get",
            line(format!("get {key}\r\n")),
            line(format!("VALUE {key} 0 64\r\n{value}\r\nEND\r\n")),
        ),
        exchange(
            "text set",
            line(format!("set {key} 0 60 64\r\n{value}\r\n")),
            line("STORED\r\n".to_owned()),
        ),
        exchange(
            "meta get",
            line(format!("mg {key} v\r\n")),
            line(format!("VA 64\r\n{value}\r\n")),
        ),
        exchange(
            "meta set",
            line(format!("ms {key} 64 T60\r\n{value}\r\n")),
            line("HD\r\n".to_owned()),
        ),
        exchange(
            "binary getk",
            frame(0x80, 0x0c, &[], key, ""),
            frame(0x81, 0x0c, &[0; 4], key, &value),
        ),
        exchange(
            "binary set",
            frame(0x80, 0x01, &[0, 0, 0, 0, 0, 0, 0, 60], key, &value),
            frame(0x81, 0x01, &[], "", ""),
        ),
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
        watched: Watched::ports(&[6379], &[11211]),
        rules: Rules::default(),
        max_flows: 65_536,
        max_held: 64 << 20,
        max_pairs: 16_384,
        limits: Limits::LIVE,
        clock: Clock::default(),
        telemetry,
        metrics,
        sinks: Arc::new(sinks),
        spans_per_second: 0,
        places: Places::default(),
    })
}

fn socket(number: u64) -> SocketId {
    SocketId {
        sk: 0xffff_8880_0000_0000 + number * 2_496,
        netns: 4_026_531_840,
        local: SocketAddr::from(([127, 0, 0, 1], 40_000 + number as u16)).into(),
        remote: SocketAddr::from(([127, 0, 0, 1], 6379)).into(),
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
                opening: false,
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

/// Calls that decode some 100 MB, or [`COMMANDS`].
fn calls(exchange: &Exchange) -> u64 {
    let bytes = exchange.request.len() + exchange.reply.len();
    (COMMANDS / exchange.pipelined).min(100_000_000 / bytes as u64)
}

/// Nanoseconds a command to decode it and to read its reply's meaning, in pieces as the kernel programs cut them.
fn decode(protocol: Protocol, exchange: &Exchange, keep_detail: bool) -> f64 {
    const PIECE: usize = 4096;
    let mut requests = RequestDecoder::new(protocol, keep_detail);
    let mut replies = ReplyDecoder::new(protocol);
    let mut waiting = VecDeque::new();
    let calls = calls(exchange);
    let mut decoded = 0;
    let begun = Instant::now();
    for _ in 0..calls {
        for mut piece in black_box(&exchange.request).chunks(PIECE) {
            while let Ok(Some(request)) = requests.decode(&mut piece) {
                waiting.push_back(request);
            }
        }
        for mut piece in black_box(&exchange.reply).chunks(PIECE) {
            while let Ok(Some(reply)) = replies.decode(&mut piece) {
                let request = waiting.pop_front().expect("a request for each reply");
                black_box(outcome(&request, &reply));
                decoded += 1;
            }
        }
    }
    assert_eq!(decoded, calls * exchange.pipelined);
    begun.elapsed().as_nanos() as f64 / decoded as f64
}

/// Nanoseconds a command for `redis-protocol` to decode the same frames.
fn redis_protocol(exchange: &Exchange) -> f64 {
    use redis_protocol::resp2::decode::decode;
    let calls = calls(exchange);
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
    let told = |bench: &str, exchange: &Exchange, measure: &dyn Fn(&Exchange) -> f64| {
        let nanos = median((0..ROUNDS).map(|_| measure(exchange)).collect());
        let line = serde_json::json!({
            "bench": format!("{bench}, {}", exchange.name),
            "ns_per_command": (nanos * 10.0).round() / 10.0,
        });
        println!("{line}");
    };
    for exchange in exchanges() {
        told("pipeline", &exchange, &observe);
    }
    let decoded = |protocol, exchange: &Exchange| {
        told("decode", exchange, &|exchange| {
            decode(protocol, exchange, false)
        });
        told("decode for spans", exchange, &|exchange| {
            decode(protocol, exchange, true)
        });
    };
    for exchange in exchanges().into_iter().chain(larger()) {
        decoded(Protocol::Redis, &exchange);
        told("redis-protocol", &exchange, &redis_protocol);
    }
    for exchange in memcached() {
        decoded(Protocol::Memcached, &exchange);
    }
}
