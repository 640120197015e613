//! The metrics of every observed service, each an OpenTelemetry resource with a provider of its own, and those of
//! the observer itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, MeterProvider};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};

use super::exemplar::{Exemplar, Table};
use super::pool::Pools;
use super::provider::Provider;
use super::rate::{Rate, Rates};
use super::{observer, resource};
use crate::config::histograms::Histograms;
use crate::config::limits::Limits;
use crate::config::pools;
use crate::enrichment::Service;
use crate::telemetry::names::{metric, value};
use crate::telemetry::{Limit, Telemetry};

/// Bounds of the histogram of returned rows. semconv `db/database-metrics`.
const ROWS: [f64; 13] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0,
];

/// Budgets of the metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Services with metrics of their own; further ones share the service `cache-observer.overflow`. One that has no
    /// connection left makes room. Each takes 150 KiB with the limits below and about 1 KiB more a series (measured).
    pub max_services: usize,
    /// Latency series of one service: operations × servers × databases × error types. Further ones share a series marked
    /// `otel.metric.overflow`.
    pub max_latency_series: usize,
    /// Series of each other instrument of a service: caches × classes, or × error types.
    pub max_series: usize,
    /// Pools of one service with numbers of their own; further ones share those of `_OTHER`. They have 18 instruments, 80 KiB of
    /// a service with this limit (measured).
    pub max_pools: usize,
    /// How long a service without connections keeps its metrics while its process lives.
    pub idle: Duration,
    /// Whether the points of [`Metrics::collect`] are totals since the start or since the last collection.
    pub temporality: Temporality,
    /// Whether [`Metrics::collect`] is called.
    pub pushed: bool,
    /// Whether [`Metrics::scrape`] is called, and over what time it tells hit rates.
    pub scraped: Option<Duration>,
    /// Bounds of the histograms, or none.
    pub histograms: Histograms,
    /// When a pool of connections is said to be in trouble.
    pub pools: pools::Pools,
    /// Whether pools have the names of cache guides, too.
    pub duplicate_names: bool,
    /// `host.name` of the observer's own resource.
    pub host: Option<String>,
    /// What else of that resource the user has set.
    pub said: Vec<KeyValue>,
}

impl Default for Options {
    fn default() -> Self {
        Self::within(&Limits::default())
    }
}

impl Options {
    /// With these budgets; defaults otherwise.
    #[must_use]
    pub fn within(limits: &Limits) -> Self {
        Self {
            max_services: limits.services,
            max_latency_series: limits.latency_series,
            max_series: limits.series,
            max_pools: 24,
            idle: limits.idle,
            temporality: Temporality::Cumulative,
            pushed: true,
            scraped: None,
            histograms: Histograms::default(),
            pools: pools::Pools::default(),
            duplicate_names: false,
            host: None,
            said: Vec::new(),
        }
    }
}

/// The instruments of one service.
pub(super) struct ServiceMetrics {
    provider: Provider,
    pub(super) client_duration: Histogram<f64>,
    pub(super) server_duration: Histogram<f64>,
    pub(super) returned: Histogram<u64>,
    pub(super) operations: Counter<u64>,
    pub(super) hits: Counter<u64>,
    pub(super) misses: Counter<u64>,
    pub(super) latency: Histogram<f64>,
    pub(super) ttl: Histogram<u64>,
    pub(super) value_size: Histogram<u64>,
    rates: Arc<Rates>,
    /// For scrapes, the only ones that show them.
    pub(super) exemplars: Option<Arc<Table>>,
    pub(super) errors: Counter<u64>,
    pub(super) pools: Pools,
    name: String,
}

impl fmt::Debug for ServiceMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceMetrics")
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

impl ServiceMetrics {
    fn new(service: &Service, options: &Options) -> Self {
        let provider = Provider::new(resource(service), options);
        let bounds = &options.histograms;
        let meter = provider.provider.meter(value::SCOPE);
        let duration = |name, text| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(text)
                .with_boundaries(bounds.latency.clone())
                .build()
        };
        let counter = |name, unit, text| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(text)
                .build()
        };
        let rates = Arc::new(Rates::default());
        rates.show(&meter);
        Self {
            rates,
            exemplars: options
                .scraped
                .map(|_| Arc::new(Table::new(&bounds.latency))),
            pools: Pools::new(&meter, options),
            name: service.name.clone(),
            latency: meter
                .f64_histogram(metric::LATENCY)
                .with_unit("ms")
                .with_description("From request to reply, at the end that is seen.")
                .with_boundaries(bounds.latency.iter().map(|seconds| seconds * 1e3).collect())
                .build(),
            ttl: meter
                .u64_histogram(metric::TTL)
                .with_unit("s")
                .with_description("Times to live that commands set.")
                .with_boundaries(bounds.ttl.clone())
                .build(),
            client_duration: duration(
                metric::CLIENT_DURATION,
                "Duration of database client operations, seen at the socket of the client.",
            ),
            server_duration: duration(
                metric::SERVER_DURATION,
                "From the receive of a request to the send of its reply, at the server.",
            ),
            returned: meter
                .u64_histogram(metric::RETURNED_ROWS)
                .with_unit("{row}")
                .with_description("Values that a read returned, seen at the client's end.")
                .with_boundaries(ROWS.to_vec())
                .build(),
            operations: counter(metric::OPERATIONS, "{operation}", "Commands."),
            hits: counter(metric::HITS, "{key}", "Keys or fields found."),
            misses: counter(metric::MISSES, "{key}", "Keys or fields not found."),
            errors: counter(
                metric::ERRORS,
                "{error}",
                "Error replies and requests never answered.",
            ),
            value_size: meter
                .u64_histogram(metric::VALUE_SIZE)
                .with_unit("By")
                .with_description("Bytes of the values read or written by a command.")
                .with_boundaries(bounds.value_size.clone())
                .build(),
            provider,
        }
    }
}

impl ServiceMetrics {
    /// The hit rate of one cache, which its series share.
    pub(super) fn rate(&self, cache: &str) -> Arc<Rate> {
        self.rates.of(cache)
    }

    /// Counts, and says, the first time, that an instrument has an overflow series.
    fn overflow(&self, metrics: &ResourceMetrics, telemetry: &Telemetry) {
        if is_overflowing(metrics) && !self.provider.overflowed.swap(true, Ordering::Relaxed) {
            telemetry.exceeded(Limit::Series).add(1);
            tracing::warn!(
                resource = ?metrics.resource(),
                "more metric series than the limit: the rest share one marked otel.metric.overflow"
            );
        }
    }

    /// `service.name`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

struct Held {
    metrics: Arc<ServiceMetrics>,
    /// Aggregators that have series in it.
    holders: usize,
}

struct Retired {
    metrics: Arc<ServiceMetrics>,
    to_push: bool,
    to_scrape: bool,
}

#[derive(Default)]
struct Services {
    live: HashMap<u32, Held>,
    /// No longer recorded to; collected once more by each kind of reader, then dropped.
    retired: Vec<Retired>,
    overflow: Option<Arc<ServiceMetrics>>,
}

/// The metrics of all services, to be collected by the exporters.
pub struct Metrics {
    options: Options,
    telemetry: Arc<Telemetry>,
    services: Mutex<Services>,
    own: Provider,
    /// Held while points are collected: pushes and scrapes share readers.
    collecting: Mutex<()>,
}

/// The points of one resource for a scrape, all cumulative.
#[derive(Debug)]
pub struct Scraped {
    /// All but the hit rates: those in here, if any, are of pushes.
    pub metrics: ResourceMetrics,
    /// `cache.hit_rate` of each cache over the time of [`Options::scraped`].
    pub hit_rates: Vec<(String, f64)>,
    exemplars: Option<Arc<Table>>,
}

impl Scraped {
    /// Whether series of this metric may have exemplars.
    #[must_use]
    pub fn has_exemplars(&self, metric: &str) -> bool {
        let table = self.exemplars.as_ref();
        table.is_some_and(|table| table.knows(metric))
    }

    /// The last exported span of each bucket of a series, with some buckets missing.
    #[must_use]
    pub fn exemplars(&self, metric: &str, attributes: &[KeyValue]) -> Vec<Exemplar> {
        let table = self.exemplars.as_ref();
        table.map_or_else(Vec::new, |table| table.read(metric, attributes))
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Metrics {
    /// No services yet; `telemetry` is what the observer's own metrics show.
    #[must_use]
    pub fn new(options: Options, telemetry: Arc<Telemetry>) -> Self {
        let own = Provider::new(
            resource::observer(options.host.as_deref(), &options.said),
            &options,
        );
        observer::instruments(&own.provider.meter(value::SCOPE), &telemetry);
        Self {
            options,
            telemetry,
            services: Mutex::default(),
            own,
            collecting: Mutex::default(),
        }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn services(&self) -> MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instruments of a service, for one more aggregator; `None` when the budget is used up.
    pub(super) fn acquire(&self, service: &Service) -> Option<Arc<ServiceMetrics>> {
        let mut services = self.services();
        if let Some(held) = services.live.get_mut(&service.id) {
            held.holders += 1;
            return Some(Arc::clone(&held.metrics));
        }
        if services.live.len() >= self.options.max_services {
            return None;
        }
        let metrics = Arc::new(ServiceMetrics::new(service, &self.options));
        let held = Held {
            metrics: Arc::clone(&metrics),
            holders: 1,
        };
        services.live.insert(service.id, held);
        Some(metrics)
    }

    /// One aggregator less for that service. After the last, its metrics are collected once more and forgotten.
    pub(super) fn release(&self, service: u32) {
        let mut services = self.services();
        let Some(held) = services.live.get_mut(&service) else {
            return;
        };
        held.holders -= 1;
        if held.holders == 0
            && let Some(held) = services.live.remove(&service)
        {
            let retired = Retired {
                metrics: held.metrics,
                to_push: self.options.pushed,
                to_scrape: self.options.scraped.is_some(),
            };
            // Nobody may come for them: the oldest go then.
            if services.retired.len() >= self.options.max_services {
                services.retired.remove(0);
                self.telemetry.exceeded(Limit::Services).add(1);
            }
            if retired.to_push || retired.to_scrape {
                services.retired.push(retired);
            }
        }
    }

    /// What services beyond the budget share.
    pub(super) fn overflow(&self) -> Arc<ServiceMetrics> {
        let mut services = self.services();
        let overflow = services.overflow.get_or_insert_with(|| {
            let service = Service {
                id: u32::MAX,
                name: value::OVERFLOW_SERVICE.to_owned(),
                host: self.options.host.clone(),
                ..Service::default()
            };
            Arc::new(ServiceMetrics::new(&service, &self.options))
        });
        Arc::clone(overflow)
    }

    /// Collects the points of every service and of the observer, resource by resource, in the calling thread.
    ///
    /// With delta temporality each point is handed out once, so one caller must serve all exporters.
    pub fn collect(&self, mut each: impl FnMut(ResourceMetrics)) {
        let _collecting = self.collecting();
        for service in self.current(|retired| &mut retired.to_push) {
            if let Some(metrics) = service.provider.collect() {
                service.overflow(&metrics, &self.telemetry);
                each(metrics);
            }
        }
        if let Some(metrics) = self.own.collect() {
            each(metrics);
        }
    }

    /// Collects the cumulative points of every service and of the observer, resource by resource, in the calling thread.
    /// Anyone may, at any time; [`Options::scraped`] must be set.
    pub fn scrape(&self, mut each: impl FnMut(Scraped)) {
        let _collecting = self.collecting();
        let window = self.options.scraped.unwrap_or(Duration::MAX);
        let now = Instant::now();
        for service in self.current(|retired| &mut retired.to_scrape) {
            let rates = &service.rates;
            if let Some(metrics) = rates.while_scraping(|| service.provider.scrape()) {
                service.overflow(&metrics, &self.telemetry);
                each(Scraped {
                    metrics,
                    hit_rates: rates.scrape(window, now),
                    exemplars: service.exemplars.clone(),
                });
            }
        }
        if let Some(metrics) = self.own.scrape() {
            each(Scraped {
                metrics,
                hit_rates: Vec::new(),
                exemplars: None,
            });
        }
    }

    fn collecting(&self) -> MutexGuard<'_, ()> {
        let lock = self.collecting.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// All services, newest first, and those retired that this kind of reader has not seen yet.
    fn current(&self, to_see: impl Fn(&mut Retired) -> &mut bool) -> Vec<Arc<ServiceMetrics>> {
        let mut services = self.services();
        let mut live: Vec<_> = services.live.iter().collect();
        live.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(**id));
        let live = live.into_iter().map(|(_, held)| &held.metrics);
        let mut all: Vec<_> = live.chain(&services.overflow).cloned().collect();
        services.retired.retain_mut(|retired| {
            if std::mem::take(to_see(retired)) {
                all.push(Arc::clone(&retired.metrics));
            }
            retired.to_push || retired.to_scrape
        });
        all
    }
}

/// Whether an instrument has an overflow series.
fn is_overflowing(metrics: &ResourceMetrics) -> bool {
    let marked = |mut attributes: Box<dyn Iterator<Item = &KeyValue> + '_>| {
        attributes.any(|attribute| attribute.key.as_str() == "otel.metric.overflow")
    };
    let mut instruments = metrics.scope_metrics().flat_map(|scope| scope.metrics());
    instruments.any(|metric| match metric.data() {
        AggregatedMetrics::F64(MetricData::Histogram(data)) => data
            .data_points()
            .any(|point| marked(Box::new(point.attributes()))),
        AggregatedMetrics::U64(MetricData::Histogram(data)) => data
            .data_points()
            .any(|point| marked(Box::new(point.attributes()))),
        AggregatedMetrics::F64(MetricData::ExponentialHistogram(data)) => data
            .data_points()
            .any(|point| marked(Box::new(point.attributes()))),
        AggregatedMetrics::U64(MetricData::ExponentialHistogram(data)) => data
            .data_points()
            .any(|point| marked(Box::new(point.attributes()))),
        AggregatedMetrics::U64(MetricData::Sum(data)) => data
            .data_points()
            .any(|point| marked(Box::new(point.attributes()))),
        _ => false,
    })
}
