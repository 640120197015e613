//! What a transaction costs the pipeline thread in aggregation and in the hand-over to the sinks.
//!
//! `cargo bench -p observer --bench hot_path` prints nanoseconds for each, the median of several rounds.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use observer::aggregation::pattern::pattern_into;
use observer::aggregation::{Aggregator, Metrics, Options};
use observer::enrichment::{Endpoint, Enricher, Observation, Places};
use observer::protocol::{Class, Detail, HitRule, Operation, Outcome, Protocol, Request};
use observer::sinks::{Exporter, Output, Overflow, Sample, SinkOptions, Sinks};
use observer::source::event::{Clock, End, Task};
use observer::telemetry::{SpanOutcome, Telemetry};
use observer::transaction::{Ending, Exchange, Transaction};

const ROUNDS: usize = 9;

fn main() {
    let names = [
        "GET", "SET", "HGET", "MGET", "DEL", "EXPIRE", "INCR", "LPUSH",
    ];
    let transactions: Vec<_> = (0..names.len())
        .map(|i| transaction(names[i], i as u16))
        .collect();
    enrich();
    patterns();
    record(&transactions);
    throughput(&transactions, Exporter::Jsonl, "jsonl");
    throughput(&transactions, Exporter::Console, "console");
    submit(&transactions, vec![Exporter::Jsonl], "jsonl to /dev/null");
    submit(
        &transactions,
        vec![Exporter::Console],
        "console to /dev/null",
    );
    submit(&transactions, vec![Exporter::Otlp], "otlp, nobody listens");
}

fn transaction(name: &'static str, index: u16) -> Transaction {
    let operation = Operation::Known {
        index: index * 17,
        name,
    };
    Transaction {
        protocol: Protocol::Redis,
        request: Request {
            key_count: 1,
            hit_rule: HitRule::Null,
            detail: Some(Box::new(Detail {
                text: format!("{name} user:42:profile"),
                keys: vec!["user:42:profile".to_owned()],
                stored_procedure: None,
                ..Detail::default()
            })),
            ..Request::new(operation, Class::ALL[usize::from(index) % 4])
        },
        outcome: Outcome {
            hits: 1,
            value_size: Some(512),
            ..Outcome::default()
        },
        ending: Ending::Replied,
        start: 1_000,
        end: 150_000 + 50_000 * u64::from(index),
        database: Some(0),
        position: 0,
        client: None,
        task: None,
        alone: false,
    }
}

/// The first sight of a process, and a look-up of one that is known.
fn enrich() {
    let task = Task {
        pid: std::process::id(),
        ..Task::default()
    };
    let first = (0..99).map(|_| {
        let mut enricher = Enricher::new(Places::default());
        let start = Instant::now();
        black_box(enricher.service(Some(&task)));
        start.elapsed().as_nanos() as f64
    });
    println!("service, first sight: {:.0} ns", median(first.collect()));
    const COUNT: u32 = 100_000;
    let mut enricher = Enricher::new(Places::default());
    let known = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        for _ in 0..COUNT {
            black_box(enricher.service(Some(black_box(&task))));
        }
        start.elapsed().as_nanos() as f64 / f64::from(COUNT)
    });
    println!("service, known: {:.0} ns", median(known.collect()));
}

/// What the text worker manages when the pipeline waits for it.
fn throughput(transactions: &[Transaction], exporter: Exporter, what: &str) {
    const COUNT: usize = 300_000;
    let telemetry = Arc::new(Telemetry::default());
    let metrics = Arc::new(Metrics::new(Options::default(), Arc::clone(&telemetry)));
    let options = SinkOptions {
        traces: vec![exporter],
        output: Output::File("/dev/null".into()),
        overflow: Overflow::Wait,
        ..SinkOptions::default()
    };
    let sinks = Sinks::start(options, telemetry, metrics).expect("the sinks start");
    let service = Enricher::new(Places::default()).service(None);
    let server = "127.0.0.1:6379".parse().expect("an address");
    let client = "127.0.0.1:40000".parse().expect("an address");
    let endpoint = Arc::new(Endpoint::new(End::Client, server, client));
    let start = Instant::now();
    for number in 0..COUNT {
        let observation = Observation {
            exchange: Exchange::One(transactions[number % transactions.len()].clone()),
            endpoint: Arc::clone(&endpoint),
            service: Arc::clone(&service),
            export: Arc::default(),
            clock: Clock::default(),
        };
        sinks.submit(observation, Sample::default());
    }
    sinks.shutdown(Duration::from_secs(60));
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {:.0} spans a second", COUNT as f64 / seconds);
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Keys as frameworks make them, into one buffer.
fn patterns() {
    const COUNT: usize = 1_000_000;
    const KEYS: [&str; 6] = [
        "user:42:profile",
        "app.settings.theme",
        "session:550e8400-e29b-41d4-a716-446655440000",
        "laravel_session:Hq3vZ8Lk2PpX7sYt1NcWb5RmGd9JfTe4KuVa6QoE",
        "views/products/index:7a1156131a6928cb0026877f8b749ac9/posts/1",
        "login:alice@example.com",
    ];
    let mut out = String::new();
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        for number in 0..COUNT {
            out.clear();
            pattern_into(black_box(KEYS[number % KEYS.len()]), &mut out);
            black_box(&out);
        }
        start.elapsed().as_nanos() as f64 / COUNT as f64
    });
    println!("key pattern: {:.0} ns", median(rounds.collect()));
}

fn record(transactions: &[Transaction]) {
    const COUNT: usize = 1_000_000;
    let metrics = Arc::new(Metrics::new(Options::default(), Arc::default()));
    let mut aggregator = Aggregator::new(metrics);
    let mut enricher = Enricher::new(Places::default());
    let server = "127.0.0.1:6379".parse().expect("an address");
    let client = "127.0.0.1:40000".parse().expect("an address");
    let endpoint = Arc::new(Endpoint::new(End::Client, server, client));
    let id = aggregator.bind(&endpoint, &enricher.service(None), Protocol::Redis);
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        for number in 0..COUNT {
            aggregator.record(
                id,
                black_box(&transactions[number % transactions.len()]),
                Clock::default(),
            );
        }
        start.elapsed().as_nanos() as f64 / COUNT as f64
    });
    println!("record: {:.0} ns", median(rounds.collect()));
    black_box(aggregator.summary().transactions());
}

/// Bursts that fit the queue, with pauses for the worker: what the pipeline thread pays, not what the worker manages.
fn submit(transactions: &[Transaction], traces: Vec<Exporter>, what: &str) {
    const BURST: usize = 4096;
    let telemetry = Arc::new(Telemetry::default());
    let metrics = Arc::new(Metrics::new(Options::default(), Arc::clone(&telemetry)));
    let mut options = SinkOptions {
        traces,
        output: Output::File("/dev/null".into()),
        overflow: Overflow::Drop,
        ..SinkOptions::default()
    };
    options.otlp.traces.endpoint = "http://127.0.0.1:9/v1/traces".to_owned();
    let sinks = Sinks::start(options, Arc::clone(&telemetry), metrics).expect("the sinks start");
    let mut enricher = Enricher::new(Places::default());
    let service = enricher.service(None);
    let server = "127.0.0.1:6379".parse().expect("an address");
    let client = "127.0.0.1:40000".parse().expect("an address");
    let endpoint = Arc::new(Endpoint::new(End::Client, server, client));
    let rounds = (0..ROUNDS).map(|_| {
        let observations: Vec<_> = (0..BURST)
            .map(|number| Observation {
                exchange: Exchange::One(transactions[number % transactions.len()].clone()),
                endpoint: Arc::clone(&endpoint),
                service: Arc::clone(&service),
                export: Arc::default(),
                clock: Clock {
                    offset: 1_795_404_452_000_000_000,
                },
            })
            .collect();
        let start = Instant::now();
        for observation in observations {
            sinks.submit(observation, Sample::default());
        }
        let time = start.elapsed().as_nanos() as f64 / BURST as f64;
        std::thread::sleep(Duration::from_millis(200));
        time
    });
    println!("submit ({what}): {:.0} ns", median(rounds.collect()));

    let start = Instant::now();
    sinks.shutdown(Duration::from_secs(5));
    let spans = |outcome| telemetry.spans(outcome).get();
    println!(
        "  exported {}, dropped {}, shutdown {:?}",
        spans(SpanOutcome::Exported),
        spans(SpanOutcome::Dropped),
        start.elapsed()
    );
}
