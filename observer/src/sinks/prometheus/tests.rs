//! Pages of services as they are scraped.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{SpanId, TraceId};

use super::exposition::{Exposition, Snapshot};
use super::family::Format;
use crate::aggregation::testing::{endpoint, service, transaction};
use crate::aggregation::{Aggregator, Metrics, Options, SpanReference};
use crate::config::histograms::Histograms;
use crate::enrichment::Service;
use crate::protocol::{Protocol, Word};
use crate::source::event::{Clock, End};
use crate::telemetry::Telemetry;

fn metrics(options: Options) -> Arc<Metrics> {
    let options = Options {
        scraped: Some(Duration::from_secs(60)),
        ..options
    };
    Arc::new(Metrics::new(options, Arc::new(Telemetry::default())))
}

fn page(metrics: &Metrics, format: Format) -> String {
    let pieces: Vec<_> = Exposition::new(format, Arc::new(Snapshot::take(metrics))).collect();
    String::from_utf8(pieces.concat()).unwrap()
}

/// The lines of a page that are not of the observer itself.
fn lines(page: &str) -> Vec<&str> {
    let own = |line: &&str| !line.contains("observer");
    page.lines().filter(own).collect()
}

fn of_two_services(options: Options) -> Arc<Metrics> {
    let metrics = metrics(options);
    let mut aggregator = Aggregator::new(Arc::clone(&metrics));
    let endpoint = endpoint(End::Client, "127.0.0.1:6379");
    let odd = Arc::new(Service {
        pid: Some(8),
        ..service_named("a\"b\\c\nd")
    });
    let web = aggregator.bind(&endpoint, &service(1, "web"), Protocol::Redis);
    let odd = aggregator.bind(&endpoint, &odd, Protocol::Redis);
    let mut hit = transaction("GET", 3);
    hit.outcome.hits = 1;
    let mut wrong = transaction("SET", 5);
    wrong.outcome.error = Some(Word::new(b"WRONGTYPE"));
    let clock = Clock {
        offset: 1_795_404_452_000_000_000,
    };
    aggregator.record(web, &hit, clock);
    aggregator.record(odd, &wrong, clock);
    let span = SpanReference {
        trace: TraceId::from(0xabc),
        span: SpanId::from(0xdef),
    };
    aggregator.point(web, &hit, clock, span);
    metrics
}

fn service_named(name: &str) -> Service {
    Service {
        id: 2,
        name: name.to_owned(),
        host: Some("node-1".to_owned()),
        ..Service::default()
    }
}

#[test]
fn the_older_text() {
    let metrics = of_two_services(Options::default());
    let page = page(&metrics, Format::Text);
    let lines = lines(&page);
    for line in [
        "# TYPE target_info gauge",
        r#"target_info{service_name="web",service_instance_id="node-1:4711",host_name="node-1",process_executable_name="app",process_pid="4711"} 1"#,
        "# TYPE cache_hits_total counter",
        r#"cache_hits_total{service_name="web",service_instance_id="node-1:4711",cache_name="127.0.0.1:6379",cache_operation="get",db_system_name="redis"} 1"#,
        r#"cache_errors_total{service_name="a\"b\\c\nd",service_instance_id="node-1:8",cache_name="127.0.0.1:6379",error_type="WRONGTYPE"} 1"#,
        "# TYPE cache_hit_rate_ratio gauge",
        r#"cache_hit_rate_ratio{service_name="web",service_instance_id="node-1:4711",cache_name="127.0.0.1:6379"} 1.0"#,
        "# TYPE db_client_operation_duration_seconds histogram",
        "# HELP db_client_operation_duration_seconds Duration of database client operations, seen at the socket of the client.",
        r#"db_client_operation_duration_seconds_bucket{service_name="web",service_instance_id="node-1:4711",db_namespace="0",db_operation_name="GET",db_system_name="redis",server_address="127.0.0.1",server_port="6379",le="5e-05"} 0"#,
        r#"cache_latency_milliseconds_bucket{service_name="web",service_instance_id="node-1:4711",cache_name="127.0.0.1:6379",cache_operation="get",le="0.25"} 1"#,
        r#"cache_latency_milliseconds_bucket{service_name="web",service_instance_id="node-1:4711",cache_name="127.0.0.1:6379",cache_operation="get",le="+Inf"} 1"#,
        r#"cache_latency_milliseconds_sum{service_name="web",service_instance_id="node-1:4711",cache_name="127.0.0.1:6379",cache_operation="get"} 0.2"#,
        r#"cache_latency_milliseconds_count{service_name="web",service_instance_id="node-1:4711",cache_name="127.0.0.1:6379",cache_operation="get"} 1"#,
    ] {
        assert!(lines.contains(&line), "{line}\nis not in\n{page}");
    }
    assert!(!page.contains("# UNIT") && !page.contains("# EOF") && !page.contains(" # {"));
    assert!(page.contains("\nobserver_memory_bytes{service_name=\"cache-observer\","));
    // Each family is told of once.
    let mut types: Vec<&str> = page.lines().filter(|l| l.starts_with("# TYPE")).collect();
    let count = types.len();
    types.dedup();
    assert_eq!(types.len(), count);
}

#[test]
fn openmetrics() {
    let metrics = of_two_services(Options::default());
    let page = page(&metrics, Format::OpenMetrics);
    let lines = lines(&page);
    assert_eq!(lines[0], "# TYPE target info");
    assert!(page.ends_with("\n# EOF\n"));
    for line in [
        "# TYPE cache_hits counter",
        "# UNIT cache_latency_milliseconds milliseconds",
        "# UNIT db_client_operation_duration_seconds seconds",
        r#"db_client_operation_duration_seconds_bucket{service_name="web",service_instance_id="node-1:4711",db_namespace="0",db_operation_name="GET",db_system_name="redis",server_address="127.0.0.1",server_port="6379",le="0.00025"} 1 # {trace_id="00000000000000000000000000000abc",span_id="0000000000000def"} 0.0002 1795404452.001"#,
        r#"cache_latency_milliseconds_bucket{service_name="web",service_instance_id="node-1:4711",cache_name="127.0.0.1:6379",cache_operation="get",le="0.25"} 1 # {trace_id="00000000000000000000000000000abc",span_id="0000000000000def"} 0.2 1795404452.001"#,
        r#"cache_latency_milliseconds_bucket{service_name="web",service_instance_id="node-1:4711",cache_name="127.0.0.1:6379",cache_operation="get",le="0.5"} 1"#,
    ] {
        assert!(lines.contains(&line), "{line}\nis not in\n{page}");
    }
}

#[test]
fn exponential_histograms_as_text_keep_count_and_sum() {
    let metrics = of_two_services(Options {
        histograms: Histograms {
            exponential: true,
            ..Histograms::default()
        },
        ..Options::default()
    });
    let page = page(&metrics, Format::OpenMetrics);
    let latency = "cache_latency_milliseconds_";
    let labels = r#"{service_name="web",service_instance_id="node-1:4711",cache_name="127.0.0.1:6379",cache_operation="get""#;
    let found: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with(latency) && line.contains("web"))
        .collect();
    assert_eq!(
        found,
        [
            format!(
                r#"{latency}bucket{labels},le="+Inf"}} 1 # {{trace_id="00000000000000000000000000000abc",span_id="0000000000000def"}} 0.2 1795404452.001"#
            ),
            format!("{latency}sum{labels}}} 0.2"),
            format!("{latency}count{labels}}} 1"),
        ]
    );
}

#[test]
fn a_process_number_that_is_given_again_makes_one_service() {
    let metrics = metrics(Options::default());
    let mut aggregator = Aggregator::new(Arc::clone(&metrics));
    let endpoint = endpoint(End::Client, "127.0.0.1:6379");
    for (id, commands) in [(1, 3), (2, 1)] {
        let series = aggregator.bind(&endpoint, &service(id, "web"), Protocol::Redis);
        for _ in 0..commands {
            aggregator.record(series, &transaction("GET", 3), Clock::default());
        }
    }
    let page = page(&metrics, Format::Text);
    let counts: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("cache_operations_total"))
        .collect();
    assert_eq!(counts.len(), 1, "{counts:?}");
    assert!(counts[0].ends_with(" 1"), "the newer: {counts:?}");
}
