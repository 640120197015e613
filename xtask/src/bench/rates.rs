//! What the observer takes of its host, and sends, at fixed rates of commands.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tests::collector::Collector;
use tests::load::Load;
use tests::observer::Options as Observed;
use tests::relay::Relay;
use tests::server::Server;

use super::overhead::cpu_seconds;
use super::table::Table;

/// Commands a second, and how many of them a connection sends at once: one client cannot ask 50,000 times a second and wait.
const RATES: [(u64, u64); 4] = [(0, 1), (1_000, 1), (2_000, 1), (50_000, 16)];
const CONNECTIONS: u64 = 8;
/// How long a rate is held.
const TIME: Duration = Duration::from_secs(60);
/// Until connections are set up and all that is allocated once is.
const WARM_UP: Duration = Duration::from_secs(5);

pub(super) fn measure(table: &mut Table) -> Result<Value> {
    let mut results = Vec::new();
    for (rate, pipeline) in RATES {
        for compression in ["none", "gzip"] {
            eprintln!("bench: {rate} commands a second, compression {compression}");
            results.push(hold(rate, pipeline, compression, table)?);
        }
    }
    Ok(json!(results))
}

/// One rate, with the default policy of spans and the default interval of metrics.
fn hold(rate: u64, pipeline: u64, compression: &str, table: &mut Table) -> Result<Value> {
    let (server, collector) = (Server::redis()?, Collector::start_quiet()?);
    let (traces, metrics) = (
        Relay::before(collector.http)?,
        Relay::before(collector.http)?,
    );
    let observer = Observed::new()
        .redis(server.port)
        .traces("otlp")
        .with("--metrics-exporter", "otlp")
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .variable("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
        .variable(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            &format!("http://127.0.0.1:{}/v1/traces", traces.port),
        )
        .variable(
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            &format!("http://127.0.0.1:{}/v1/metrics", metrics.port),
        )
        .start()?;
    let load = match rate {
        0 => None,
        _ => Some(Load::steady(server.port, rate, CONNECTIONS, pipeline)?),
    };
    thread::sleep(WARM_UP);
    let (begun, before) = (Instant::now(), cpu_seconds(&observer)?);
    let sent = [traces.sent(), metrics.sent()];
    thread::sleep(TIME);
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = (cpu_seconds(&observer)? - before) / seconds;
    let bytes = [traces.sent() - sent[0], metrics.sent() - sent[1]];
    let peak = observer.peak_memory()? as f64 / f64::from(1 << 20);
    let commands = match load {
        Some(load) => load.stop()?,
        None => 0,
    };
    let all_traces = traces.sent();
    let summary = observer.stop()?.summary;
    let spans = summary.ledger(&["spans", "exported"]);
    let label = format!("at {rate} commands a second, {compression}");
    table.row(
        format!("processor, {label}"),
        format!("{:.2} %", cpu * 100.0),
        "",
    );
    table.row(
        format!("resident at most, {label}"),
        format!("{peak:.1} MiB"),
        "≤ 48 MiB",
    );
    let a_second = |bytes: u64| format!("{:.1} kB/s", bytes as f64 / seconds / 1e3);
    table.row(format!("spans sent, {label}"), a_second(bytes[0]), "");
    table.row(format!("metrics sent, {label}"), a_second(bytes[1]), "");
    let a_span = all_traces as f64 / spans.max(1) as f64;
    table.row(
        format!("a span, {label}"),
        format!("{a_span:.0} bytes, {spans} spans"),
        "",
    );
    Ok(
        json!({"rate": rate, "pipeline": pipeline, "compression": compression, "seconds": seconds, "commands": commands,
        "cpu": cpu, "peak_mib": peak, "traces_bytes": bytes[0], "metrics_bytes": bytes[1], "spans": spans,
        "bytes_per_span": a_span, "lost_bytes": summary.total("lost_bytes")}),
    )
}
