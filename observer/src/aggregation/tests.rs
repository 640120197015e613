//! From transactions to collected points.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::{Key, KeyValue};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};

use super::testing::{endpoint, other, service, transaction};
use super::{Aggregator, Metrics, Options, SeriesId};
use crate::enrichment::{Endpoint, Service};
use crate::protocol::{Class, Expiry, Protocol, Redirect, Word};
use crate::source::event::{Clock, End};
use crate::telemetry::{Limit, Telemetry};
use crate::transaction::{Ending, Transaction};

struct Fixture {
    telemetry: Arc<Telemetry>,
    metrics: Arc<Metrics>,
    aggregator: Aggregator,
}

/// The names of the services that have points.
fn services(points: &BTreeMap<String, String>) -> Vec<String> {
    let mut names: Vec<_> = points
        .keys()
        .filter_map(|name| name.split(' ').next())
        .map(str::to_owned)
        .collect();
    names.dedup();
    names
}

fn fixture(options: Options) -> Fixture {
    let telemetry = Arc::new(Telemetry::default());
    let metrics = Arc::new(Metrics::new(options, Arc::clone(&telemetry)));
    Fixture {
        telemetry,
        aggregator: Aggregator::new(Arc::clone(&metrics)),
        metrics,
    }
}

impl Fixture {
    fn bind(&mut self, id: u32, name: &str, end: End) -> SeriesId {
        let endpoint = endpoint(end, "127.0.0.1:6379");
        self.aggregator
            .bind(&endpoint, &service(id, name), Protocol::Redis)
    }

    /// All points but the observer's own, as `service metric{attributes}` to `value` or `count/sum/buckets that are not 0`.
    fn collect(&self) -> BTreeMap<String, String> {
        let mut points = BTreeMap::new();
        self.metrics
            .collect(|metrics| describe(&metrics, &mut points));
        points.retain(|name, _| !name.starts_with("cache-observer "));
        points
    }
}

pub(super) fn describe(metrics: &ResourceMetrics, points: &mut BTreeMap<String, String>) {
    let service = metrics
        .resource()
        .get(&Key::from_static_str("service.name"));
    let service = service.map(|name| name.to_string()).unwrap_or_default();
    for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
        let name = |attributes: Vec<&KeyValue>| {
            let mut list: Vec<_> = attributes
                .iter()
                .map(|a| format!("{}={}", a.key, a.value))
                .collect();
            list.sort();
            format!("{service} {}{{{}}}", metric.name(), list.join(","))
        };
        let histogram = |bounds: Vec<f64>, counts: Vec<u64>| {
            let bounds = bounds.into_iter().chain([f64::INFINITY]);
            let filled = bounds.zip(counts).filter(|(_, count)| *count > 0);
            filled
                .map(|(bound, count)| format!("{count}≤{bound}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        match metric.data() {
            AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                for point in sum.data_points() {
                    points.insert(
                        name(point.attributes().collect()),
                        point.value().to_string(),
                    );
                }
            }
            AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                for point in sum.data_points() {
                    let value = point.value().to_string();
                    points.insert(name(point.attributes().collect()), value);
                }
            }
            AggregatedMetrics::I64(MetricData::Gauge(gauge)) => {
                for point in gauge.data_points() {
                    let value = point.value().to_string();
                    points.insert(name(point.attributes().collect()), value);
                }
            }
            AggregatedMetrics::F64(MetricData::Sum(sum)) => {
                for point in sum.data_points() {
                    let value = format!("{:.3}", point.value());
                    points.insert(name(point.attributes().collect()), value);
                }
            }
            AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                for point in gauge.data_points() {
                    points.insert(
                        name(point.attributes().collect()),
                        format!("{:.3}", point.value()),
                    );
                }
            }
            AggregatedMetrics::U64(MetricData::Histogram(data)) => {
                for point in data.data_points() {
                    let text = histogram(point.bounds().collect(), point.bucket_counts().collect());
                    points.insert(
                        name(point.attributes().collect()),
                        format!("sum {}: {text}", point.sum()),
                    );
                }
            }
            AggregatedMetrics::F64(MetricData::Histogram(data)) => {
                for point in data.data_points() {
                    let text = histogram(point.bounds().collect(), point.bucket_counts().collect());
                    points.insert(
                        name(point.attributes().collect()),
                        format!("sum {:.6}: {text}", point.sum()),
                    );
                }
            }
            _ => {}
        }
    }
}

fn expect(points: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    assert_eq!(*points, expected);
}

fn with(transaction: Transaction, change: impl FnOnce(&mut Transaction)) -> Transaction {
    let mut transaction = transaction;
    change(&mut transaction);
    transaction
}

#[test]
fn counts_reads_and_writes() {
    let mut fixture = fixture(Options::default());
    let id = fixture.bind(1, "web", End::Client);
    let again = fixture.bind(1, "web", End::Client);
    assert_eq!(
        id, again,
        "connections of one service to one server share series"
    );

    let get = || transaction("GET", 3);
    let all = [
        with(get(), |t| {
            (t.outcome.hits, t.outcome.value_size) = (1, Some(100))
        }),
        with(get(), |t| t.outcome.misses = 1),
        with(transaction("MGET", 4), |t| {
            (t.outcome.hits, t.outcome.misses) = (3, 2)
        }),
        with(transaction("SET", 5), |t| {
            t.request.class = Class::Set;
            t.request.value_size = Some(70_000_000);
            t.end = t.start + 20_000_000_000;
        }),
    ];
    for one in &all {
        fixture.aggregator.record(id, one, Clock::default());
    }
    let series = "db.namespace=0,db.operation.name";
    let server = "db.system.name=redis,server.address=127.0.0.1,server.port=6379";
    let class = |class| {
        format!("{{cache.name=127.0.0.1:6379,cache.operation={class},db.system.name=redis}}")
    };
    expect(
        &fixture.collect(),
        &[
            (
                &format!("web db.client.operation.duration{{{series}=GET,{server}}}"),
                "sum 0.000400: 2≤0.00025",
            ),
            (
                &format!("web db.client.operation.duration{{{series}=MGET,{server}}}"),
                "sum 0.000200: 1≤0.00025",
            ),
            (
                &format!("web db.client.operation.duration{{{series}=SET,{server}}}"),
                "sum 20.000000: 1≤inf",
            ),
            (&format!("web cache.operations{}", class("get")), "3"),
            (&format!("web cache.operations{}", class("set")), "1"),
            (&format!("web cache.hits{}", class("get")), "4"),
            (&format!("web cache.misses{}", class("get")), "3"),
            ("web cache.hit_rate{cache.name=127.0.0.1:6379}", "0.571"),
            (
                "web cache.latency{cache.name=127.0.0.1:6379,cache.operation=get}",
                "sum 0.600000: 3≤0.25",
            ),
            (
                "web cache.latency{cache.name=127.0.0.1:6379,cache.operation=set}",
                "sum 20000.000000: 1≤inf",
            ),
            (
                "web cache.value_size{cache.name=127.0.0.1:6379,cache.operation=get}",
                "sum 100: 1≤256",
            ),
            (
                "web cache.value_size{cache.name=127.0.0.1:6379,cache.operation=set}",
                "sum 70000000: 1≤inf",
            ),
        ],
    );
}

#[test]
fn lifetimes_are_from_the_time_of_the_command() {
    let mut fixture = fixture(Options::default());
    let id = fixture.bind(1, "web", End::Client);
    // The transactions are of 1,000 s after the epoch.
    let clock = Clock {
        offset: 999_999_000_000,
    };
    for (expiry, error) in [
        (Expiry::After(60), None),
        (Expiry::At(1_000_500), None),
        // These remove their keys, and this one is refused.
        (Expiry::After(-1), None),
        (Expiry::At(999_000), None),
        (Expiry::After(5), Some(Word::new(b"NOPERM"))),
    ] {
        let expire = with(transaction("EXPIRE", 7), |t| {
            t.request.ttl = Some(expiry);
            t.outcome.error = error;
        });
        fixture.aggregator.record(id, &expire, clock);
    }
    let points = fixture.collect();
    let ttl = "web cache.ttl{cache.name=127.0.0.1:6379}";
    assert_eq!(points[ttl], "sum 61: 1≤1 1≤60");
}

#[test]
fn a_hit_rate_is_that_of_its_interval() {
    let mut fixture = fixture(Options::default());
    let id = fixture.bind(1, "web", End::Client);
    let name = "web cache.hit_rate{cache.name=127.0.0.1:6379}";
    for (hits, misses, rate) in [(3, 1, Some("0.750")), (0, 2, Some("0.000")), (0, 0, None)] {
        let get = with(transaction("MGET", 4), |t| {
            (t.outcome.hits, t.outcome.misses) = (hits, misses);
        });
        fixture.aggregator.record(id, &get, Clock::default());
        let points = fixture.collect();
        assert_eq!(points.get(name).map(String::as_str), rate);
    }
}

#[test]
fn tells_failures_from_what_is_none() {
    let mut fixture = fixture(Options::default());
    let id = fixture.bind(1, "db", End::Server);
    let get = || with(transaction("GET", 3), |t| t.database = None);
    let all = [
        with(get(), |t| t.outcome.error = Some(Word::new(b"WRONGTYPE"))),
        with(get(), |t| t.ending = Ending::Unanswered),
        with(get(), |t| {
            t.outcome.error = Some(Word::new(b"MOVED"));
            t.outcome.redirect = Redirect::new(b"10.0.0.8:6380");
        }),
        with(get(), |t| t.outcome.queued = true),
        // Neither of these has a latency.
        with(get(), |t| t.request.blocking = true),
        with(get(), |t| t.ending = Ending::NoReply),
    ];
    for one in &all {
        fixture.aggregator.record(id, one, Clock::default());
    }
    let get = "db.operation.name=GET,db.system.name=redis";
    let server = "server.address=127.0.0.1,server.port=6379";
    let name = |error: &str| format!("db cache.server.duration{{{get},{error}{server}}}");
    expect(
        &fixture.collect(),
        &[
            (&name(""), "sum 0.000400: 2≤0.00025"),
            (
                "db cache.latency{cache.name=127.0.0.1:6379,cache.operation=get}",
                "sum 0.800000: 4≤0.25",
            ),
            (&name("error.type=WRONGTYPE,"), "sum 0.000200: 1≤0.00025"),
            (
                &name("error.type=connection_closed,"),
                "sum 0.000200: 1≤0.00025",
            ),
            (
                "db cache.operations{cache.name=127.0.0.1:6379,cache.operation=get,db.system.name=redis}",
                "6",
            ),
            (
                "db cache.errors{cache.name=127.0.0.1:6379,error.type=WRONGTYPE}",
                "1",
            ),
            (
                "db cache.errors{cache.name=127.0.0.1:6379,error.type=connection_closed}",
                "1",
            ),
        ],
    );
    let totals = fixture
        .aggregator
        .summary()
        .operation(Protocol::Redis, "GET");
    assert_eq!((totals.count, totals.errors), (6, 1));
}

#[test]
fn bounds_names_from_the_wire() {
    let mut fixture = fixture(Options::default());
    let id = fixture.bind(1, "web", End::Client);
    for number in 0..100 {
        let mut odd = other(&format!("X{number}"));
        odd.outcome.error = Some(Word::new(format!("E{number}").as_bytes()));
        fixture.aggregator.record(id, &odd, Clock::default());
        let mut far = transaction("GET", 3);
        far.database = Some(number);
        fixture.aggregator.record(id, &far, Clock::default());
    }
    let points = fixture.collect();
    let count = |part: &str| points.keys().filter(|name| name.contains(part)).count();
    assert_eq!(count("cache.errors{"), 17);
    assert!(count("db.operation.name=X") > 0);
    assert!(count("db.operation.name=_OTHER") > 0);
    assert_eq!(count("db.operation.name=GET"), 33);
    assert_eq!(
        points["web cache.errors{cache.name=127.0.0.1:6379,error.type=_OTHER}"],
        "84"
    );
    assert_eq!(fixture.telemetry.exceeded(Limit::Series).get(), 0);
}

#[test]
fn says_when_series_overflow() {
    let mut fixture = fixture(Options {
        max_latency_series: 4,
        ..Options::default()
    });
    let id = fixture.bind(1, "web", End::Client);
    for number in 0..10 {
        fixture
            .aggregator
            .record(id, &transaction("GET", number), Clock::default());
        let mut far = transaction("GET", number);
        far.database = Some(u32::from(number));
        fixture.aggregator.record(id, &far, Clock::default());
    }
    let points = fixture.collect();
    assert!(
        points
            .keys()
            .any(|name| name.contains("otel.metric.overflow=true")),
        "{points:?}"
    );
    assert_eq!(fixture.telemetry.exceeded(Limit::Series).get(), 1);
}

#[test]
fn a_service_without_connections_makes_room() {
    let mut fixture = fixture(Options {
        max_services: 2,
        ..Options::default()
    });
    let ids = [1, 2, 3].map(|id| fixture.bind(id, &format!("s{id}"), End::Client));
    for id in ids {
        fixture
            .aggregator
            .record(id, &transaction("GET", 3), Clock::default());
    }
    assert_eq!(fixture.telemetry.exceeded(Limit::Services).get(), 1);
    assert_eq!(
        services(&fixture.collect()),
        ["cache-observer.overflow", "s1", "s2"]
    );

    fixture
        .aggregator
        .record(ids[0], &transaction("GET", 3), Clock::default());
    fixture.aggregator.release(ids[0]);
    let fourth = fixture.bind(4, "s4", End::Client);
    fixture
        .aggregator
        .record(fourth, &transaction("GET", 3), Clock::default());
    assert_eq!(fixture.telemetry.exceeded(Limit::Services).get(), 1);
    let points = fixture.collect();
    assert_eq!(
        services(&points),
        ["cache-observer.overflow", "s1", "s2", "s4"],
        "s1 is collected once more"
    );
    let operations =
        "cache.operations{cache.name=127.0.0.1:6379,cache.operation=get,db.system.name=redis}";
    assert_eq!(points[&format!("s1 {operations}")], "2");
    assert_eq!(
        services(&fixture.collect()),
        ["cache-observer.overflow", "s2", "s4"]
    );
    assert_eq!(fixture.aggregator.summary().transactions(), 5);
}

#[test]
fn forgets_services_that_were_idle_for_long() {
    let mut fixture = fixture(Options::default());
    let start = Instant::now();
    let web = service(1, "web");
    let end = endpoint(End::Client, "127.0.0.1:6379");
    let id = fixture
        .aggregator
        .bind_at(&end, &web, Protocol::Redis, start);
    fixture
        .aggregator
        .record(id, &transaction("GET", 3), Clock::default());
    fixture.aggregator.release_at(id, start);

    // It comes back in time, and its counters go on.
    let later = start + Options::default().idle - Duration::from_secs(1);
    let id = fixture
        .aggregator
        .bind_at(&end, &web, Protocol::Redis, later);
    fixture
        .aggregator
        .record(id, &transaction("GET", 3), Clock::default());
    let operations =
        "web cache.operations{cache.name=127.0.0.1:6379,cache.operation=get,db.system.name=redis}";
    assert_eq!(fixture.collect()[operations], "2");

    fixture.aggregator.release_at(id, later);
    let much_later = later + Options::default().idle;
    fixture
        .aggregator
        .bind_at(&end, &service(2, "new"), Protocol::Redis, much_later);
    assert!(fixture.collect().contains_key(operations), "once more");
    assert!(!fixture.collect().contains_key(operations));
}

#[test]
fn forgets_services_whose_process_has_ended() {
    let mut fixture = fixture(Options::default());
    let start = Instant::now();
    let end = endpoint(End::Client, "127.0.0.1:6379");
    for (id, name) in [(1, "gone"), (2, "alive"), (3, "connected")] {
        let id = fixture
            .aggregator
            .bind_at(&end, &service(id, name), Protocol::Redis, start);
        fixture
            .aggregator
            .record(id, &transaction("GET", 3), Clock::default());
        if name != "connected" {
            fixture.aggregator.release_at(id, start);
        }
    }
    let mut look = |seconds| {
        let now = start + Duration::from_secs(seconds);
        let ended = |service: &Service| service.name != "alive";
        fixture.aggregator.forget_ended(now, ended);
        services(&fixture.collect())
    };
    let all = ["alive", "connected", "gone"];
    assert_eq!(look(1), all);
    assert_eq!(look(30), all, "once more");
    assert_eq!(look(60), ["alive", "connected"]);
}

#[test]
fn delta_points_are_given_once() {
    let mut fixture = fixture(Options {
        temporality: Temporality::Delta,
        ..Options::default()
    });
    let id = fixture.bind(1, "web", End::Client);
    let operations =
        "web cache.operations{cache.name=127.0.0.1:6379,cache.operation=get,db.system.name=redis}";
    fixture
        .aggregator
        .record(id, &transaction("GET", 3), Clock::default());
    assert_eq!(fixture.collect()[operations], "1");
    assert!(!fixture.collect().contains_key(operations));
    fixture
        .aggregator
        .record(id, &transaction("GET", 3), Clock::default());
    assert_eq!(fixture.collect()[operations], "1");
}

#[test]
fn counters_go_on_when_unused_series_were_forgotten() {
    let mut fixture = fixture(Options::default());
    let get = transaction("GET", 3);
    let kept = fixture.bind(1, "web", End::Client);
    let named = Endpoint {
        cache: "old".to_owned(),
        ..Endpoint::clone(&endpoint(End::Client, "127.0.0.1:6380"))
    };
    let named = Arc::new(named);
    for _ in 0..2 {
        let id = fixture
            .aggregator
            .bind(&named, &service(1, "web"), Protocol::Redis);
        fixture.aggregator.record(id, &get, Clock::default());
        fixture.aggregator.release(id);
        fixture.aggregator.forget_unused();
        fixture.aggregator.record(kept, &get, Clock::default());
    }
    let points = fixture.collect();
    for cache in ["old", "127.0.0.1:6379"] {
        let name = format!(
            "web cache.operations{{cache.name={cache},cache.operation=get,db.system.name=redis}}"
        );
        assert_eq!(points[&name], "2", "{points:?}");
    }
}
