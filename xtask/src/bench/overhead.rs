//! A real redis-server under redis-benchmark, without and with the observer, in alternating pairs.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::observer::{Observer, Options as Observed, Report};
use tests::process::output;
use tests::server::{Server, free_port};

use super::table::Table;
use super::{Options, median};

/// What the observer is asked to do.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    pipeline: u64,
    traces: &'static str,
    /// Whether the benchmark's server is watched.
    watched: bool,
    goal: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "metrics",
        pipeline: 1,
        traces: "none",
        watched: true,
        goal: "≥ 0.95",
    },
    Case {
        name: "metrics",
        pipeline: 16,
        traces: "none",
        watched: true,
        goal: "≥ 0.95",
    },
    Case {
        name: "spans as JSON Lines",
        pipeline: 1,
        traces: "jsonl",
        watched: true,
        goal: "",
    },
    Case {
        name: "rejected port",
        pipeline: 1,
        traces: "none",
        watched: false,
        goal: "",
    },
];

/// One run of redis-benchmark: commands a second for each of its tests.
fn throughput(port: u16, requests: u64, pipeline: u64) -> Result<Vec<(String, f64)>> {
    let [port, requests, pipeline] =
        [u64::from(port), requests, pipeline].map(|number| number.to_string());
    let printed = output(
        "redis-benchmark",
        [
            "-p", &port, "-t", "set,get", "-n", &requests, "-P", &pipeline, "-d", "64", "--csv",
        ],
    )?;
    let mut rates = Vec::new();
    for line in printed.lines().skip(1) {
        let mut cells = line.split(',').map(|cell| cell.trim_matches('"'));
        let name = cells.next().context("a name")?;
        rates.push((name.to_owned(), cells.next().context("a rate")?.parse()?));
    }
    Ok(rates)
}

/// What one observer cost and saw.
struct Seen {
    attached_ms: f64,
    peak_mib: f64,
    cpu_us_per_command: f64,
    counted: u64,
    report: Report,
}

fn observe(case: Case, server: &Server, requests: u64) -> Result<(Vec<(String, f64)>, Seen)> {
    let watched = if case.watched {
        server.port
    } else {
        free_port()?
    };
    let observer = Observed::new()
        .redis(watched)
        .traces(case.traces)
        .with("--metrics-exporter", "jsonl")
        .start()?;
    let before = cpu_seconds(&observer)?;
    let rates = throughput(server.port, requests, case.pipeline)?;
    let cpu = cpu_seconds(&observer)? - before;
    let attached_ms = observer.attached_in.as_secs_f64() * 1e3;
    let peak_mib = observer.peak_memory()? as f64 / f64::from(1 << 20);
    let report = observer.stop()?;
    let counted = ["SET", "GET"]
        .iter()
        .map(|name| report.summary.of("redis", name, "count"))
        .sum();
    let cpu_us_per_command = cpu * 1e6 / (2 * requests) as f64;
    Ok((
        rates,
        Seen {
            attached_ms,
            peak_mib,
            cpu_us_per_command,
            counted,
            report,
        },
    ))
}

/// Processor time of the observer so far, its hooks not included: those are the callers' time.
pub(super) fn cpu_seconds(observer: &Observer) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", observer.process.id()))?;
    let behind_name = stat.rsplit(") ").next().context("a process has a name")?;
    let ticks: Vec<&str> = behind_name.split(' ').collect();
    // Fields 14 and 15, of which the first two lie before.
    let [user, system] = [ticks[11], ticks[12]].map(str::parse::<f64>);
    // The unit of this file is 1/100 s on every Linux.
    Ok((user? + system?) / 100.0)
}

pub(super) fn measure(options: &Options, table: &mut Table) -> Result<Value> {
    let server = Server::redis()?;
    // The first run finds cold caches.
    throughput(server.port, options.requests, 1)?;
    let mut results = Vec::new();
    for case in CASES {
        let requests = options.requests * if case.pipeline > 1 { 8 } else { 1 };
        let (mut ratios, mut seen) = (Vec::<(String, Vec<f64>, Vec<f64>)>::new(), Vec::new());
        for pair in 0..options.pairs {
            eprintln!(
                "bench: overhead, {}, -P {}: pair {} of {}",
                case.name,
                case.pipeline,
                pair + 1,
                options.pairs
            );
            // The order changes, so that a drift of the machine favours neither.
            let alone_first = pair % 2 == 0;
            let mut alone = Vec::new();
            if alone_first {
                alone = throughput(server.port, requests, case.pipeline)?;
            }
            let (observed, one) = observe(case, &server, requests)?;
            if !alone_first {
                alone = throughput(server.port, requests, case.pipeline)?;
            }
            seen.push(one);
            for (index, ((name, alone), (_, observed))) in
                alone.into_iter().zip(observed).enumerate()
            {
                if ratios.len() <= index {
                    ratios.push((name, Vec::new(), Vec::new()));
                }
                ratios[index].1.push(alone);
                ratios[index].2.push(observed);
            }
        }
        results.push(report(case, requests, &ratios, &seen, table));
    }
    Ok(json!(results))
}

fn report(
    case: Case,
    requests: u64,
    rates: &[(String, Vec<f64>, Vec<f64>)],
    seen: &[Seen],
    table: &mut Table,
) -> Value {
    let label = format!("{}, -P {}", case.name, case.pipeline);
    let mut tests = Vec::new();
    for (name, alone, observed) in rates {
        let pairs: Vec<f64> = alone
            .iter()
            .zip(observed)
            .map(|(alone, observed)| observed / alone)
            .collect();
        let ratio = median(&pairs);
        let [without, with] = [median(alone), median(observed)];
        table.row(
            format!("throughput, {label}, {name}"),
            format!("{ratio:.3} ({with:.0}/s of {without:.0}/s)"),
            case.goal,
        );
        tests.push(json!({"test": name, "median_ratio": ratio, "ratios": pairs, "without": alone, "with": observed}));
    }
    let middle = |number: fn(&Seen) -> f64| median(&seen.iter().map(number).collect::<Vec<_>>());
    let lost: u64 = seen
        .iter()
        .map(|one| one.report.summary.total("lost_bytes"))
        .sum();
    let events: f64 = seen
        .iter()
        .map(|one| one.report.metric("observer.events", &[]))
        .sum();
    let events_lost: f64 = seen
        .iter()
        .map(|one| one.report.metric("observer.events.lost", &[]))
        .sum();
    let counted: u64 = seen.iter().map(|one| one.counted).sum();
    let sent = if case.watched {
        2 * requests * seen.len() as u64
    } else {
        0
    };
    table.row(
        format!("commands counted, {label}"),
        format!("{counted} of {sent}"),
        "all",
    );
    table.row(
        format!("lost, {label}"),
        format!("{events_lost} of {events} events, {lost} bytes"),
        "none",
    );
    let (attached, peak) = (middle(|one| one.attached_ms), middle(|one| one.peak_mib));
    let cpu = middle(|one| one.cpu_us_per_command);
    table.row(
        format!("attached in, {label}"),
        format!("{attached:.0} ms"),
        "≤ 500 ms",
    );
    table.row(
        format!("resident at most, {label}"),
        format!("{peak:.1} MiB"),
        "≤ 48 MiB",
    );
    table.row(
        format!("the observer's own processor time, {label}"),
        format!("{cpu:.2} µs a command"),
        "",
    );
    json!({"case": case.name, "pipeline": case.pipeline, "traces": case.traces, "watched": case.watched,
        "requests": requests, "tests": tests, "sent": sent, "counted": counted, "events": events,
        "events_lost": events_lost, "lost_bytes": lost, "attached_ms": attached, "peak_mib": peak,
        "cpu_us_per_command": cpu})
}
