//! A provider of the SDK with its readers.
//!
//! Collecting cumulative points changes nothing, so one reader serves pushes and scrapes. Delta points are handed out once:
//! then scrapes have a reader of their own, with which a service takes twice the memory.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{
    Aggregation, Instrument, InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Stream,
    Temporality,
};

use super::metrics::Options;
use crate::telemetry::names::metric;

/// Most buckets of an exponential histogram: the default of the specification.
const BUCKETS: u32 = 160;
/// Finest resolution of an exponential histogram: the default of the specification. It coarsens by itself as values spread.
const SCALE: i8 = 20;

/// A reader that this side and the provider share.
#[derive(Debug, Clone)]
struct SharedReader(Arc<ManualReader>);

impl SharedReader {
    fn new(temporality: Temporality) -> Self {
        let reader = ManualReader::builder().with_temporality(temporality);
        Self(Arc::new(reader.build()))
    }
}

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// A provider, and the readers that collect from it.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) provider: SdkMeterProvider,
    pushes: SharedReader,
    /// `None`: the same as `pushes`.
    scrapes: Option<SharedReader>,
    pub(super) overflowed: AtomicBool,
}

impl Provider {
    pub(super) fn new(resource: Resource, options: &Options) -> Self {
        let temporality = match options.pushed {
            true => options.temporality,
            false => Temporality::Cumulative,
        };
        let pushes = SharedReader::new(temporality);
        let apart = options.scraped.is_some() && temporality != Temporality::Cumulative;
        let scrapes = apart.then(|| SharedReader::new(Temporality::Cumulative));
        let (latency, others) = (options.max_latency_series, options.max_series);
        // Two states of each pool, and of the one that the rest share; a few failures. One series more would take the SDK's tables
        // of 24 pools to twice their size.
        let pools = 2 * options.max_pools + 7;
        let of_pools = ["cache.connection.", "db.client.connection.", "redis.pool."];
        let exponential = options.histograms.exponential;
        let view = move |instrument: &Instrument| {
            let limit = match instrument.name() {
                metric::CLIENT_DURATION | metric::SERVER_DURATION | metric::RETURNED_ROWS => {
                    latency
                }
                name if of_pools.iter().any(|start| name.starts_with(start)) => pools,
                _ => others,
            };
            let mut stream = Stream::builder().with_cardinality_limit(limit);
            if exponential && instrument.kind() == InstrumentKind::Histogram {
                stream = stream.with_aggregation(Aggregation::Base2ExponentialHistogram {
                    max_size: BUCKETS,
                    max_scale: SCALE,
                    record_min_max: true,
                });
            }
            stream.build().ok()
        };
        let mut builder = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_reader(pushes.clone())
            .with_view(view);
        if let Some(reader) = &scrapes {
            builder = builder.with_reader(reader.clone());
        }
        Self {
            provider: builder.build(),
            pushes,
            scrapes,
            overflowed: AtomicBool::new(false),
        }
    }

    /// The points of the options' temporality.
    pub(super) fn collect(&self) -> Option<ResourceMetrics> {
        read(&self.pushes)
    }

    /// The cumulative points.
    pub(super) fn scrape(&self) -> Option<ResourceMetrics> {
        read(self.scrapes.as_ref().unwrap_or(&self.pushes))
    }
}

fn read(reader: &SharedReader) -> Option<ResourceMetrics> {
    let mut metrics = ResourceMetrics::default();
    reader.collect(&mut metrics).ok()?;
    Some(metrics)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};

    use super::super::testing::{endpoint, service, transaction};
    use super::super::{Aggregator, Metrics, SeriesId};
    use super::*;
    use crate::config::histograms::Histograms;
    use crate::protocol::Protocol;
    use crate::source::event::{Clock, End};
    use crate::telemetry::Telemetry;

    const WINDOW: Duration = Duration::from_secs(60);

    struct Fixture {
        metrics: Arc<Metrics>,
        aggregator: Aggregator,
        series: SeriesId,
    }

    fn fixture(options: Options) -> Fixture {
        let metrics = Arc::new(Metrics::new(options, Arc::new(Telemetry::default())));
        let mut aggregator = Aggregator::new(Arc::clone(&metrics));
        let endpoint = endpoint(End::Client, "127.0.0.1:6379");
        let series = aggregator.bind(&endpoint, &service(1, "web"), Protocol::Redis);
        Fixture {
            metrics,
            aggregator,
            series,
        }
    }

    impl Fixture {
        fn ask(&mut self, hits: u32, misses: u32) {
            let mut transaction = transaction("MGET", 4);
            transaction.outcome.hits = hits;
            transaction.outcome.misses = misses;
            self.aggregator
                .record(self.series, &transaction, Clock::default());
        }

        /// Commands and hit rate of what is pushed.
        fn pushed(&self) -> (Option<u64>, Option<f64>) {
            let (mut commands, mut rate) = (None, None);
            self.metrics.collect(|metrics| {
                commands = commands.or(self::commands(&metrics));
                rate = rate.or(gauge(&metrics));
            });
            (commands, rate)
        }

        /// Commands and hit rate of a scrape.
        fn scraped(&self) -> (Option<u64>, Option<f64>) {
            let (mut commands, mut rate) = (None, None);
            self.metrics.scrape(|scraped| {
                commands = commands.or(self::commands(&scraped.metrics));
                rate = rate.or(scraped.hit_rates.first().map(|(_, rate)| *rate));
            });
            (commands, rate)
        }
    }

    fn commands(metrics: &ResourceMetrics) -> Option<u64> {
        let mut all = metrics.scope_metrics().flat_map(|scope| scope.metrics());
        let metric = all.find(|metric| metric.name() == metric::OPERATIONS)?;
        match metric.data() {
            AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                Some(sum.data_points().map(|point| point.value()).sum())
            }
            _ => None,
        }
    }

    fn gauge(metrics: &ResourceMetrics) -> Option<f64> {
        let mut all = metrics.scope_metrics().flat_map(|scope| scope.metrics());
        let metric = all.find(|metric| metric.name() == metric::HIT_RATE)?;
        match metric.data() {
            AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                gauge.data_points().map(|point| point.value()).next()
            }
            _ => None,
        }
    }

    #[test]
    fn scrapes_take_nothing_from_pushes() {
        for (temporality, pushed) in [
            (Temporality::Cumulative, [Some(1), Some(2), Some(2)]),
            (Temporality::Delta, [Some(1), Some(1), None]),
            (Temporality::LowMemory, [Some(1), Some(1), None]),
        ] {
            let mut fixture = fixture(Options {
                temporality,
                scraped: Some(WINDOW),
                ..Options::default()
            });
            fixture.ask(3, 1);
            assert_eq!(fixture.scraped(), (Some(1), Some(0.75)));
            assert_eq!(fixture.scraped(), (Some(1), Some(0.75)), "a second scraper");
            assert_eq!(fixture.pushed(), (pushed[0], Some(0.75)));
            fixture.ask(0, 4);
            assert_eq!(fixture.scraped(), (Some(2), Some(0.375)));
            assert_eq!(fixture.pushed(), (pushed[1], Some(0.0)));
            assert_eq!(fixture.pushed(), (pushed[2], None));
            assert_eq!(fixture.scraped(), (Some(2), Some(0.375)));
        }
    }

    #[test]
    fn a_second_reader_is_made_only_when_it_must() {
        for (temporality, pushed, scraped, apart) in [
            (Temporality::Cumulative, true, Some(WINDOW), false),
            (Temporality::Delta, true, None, false),
            (Temporality::Delta, false, Some(WINDOW), false),
            (Temporality::Delta, true, Some(WINDOW), true),
            (Temporality::LowMemory, true, Some(WINDOW), true),
        ] {
            let options = Options {
                temporality,
                pushed,
                scraped,
                ..Options::default()
            };
            let provider = Provider::new(Resource::builder_empty().build(), &options);
            assert_eq!(provider.scrapes.is_some(), apart, "{options:?}");
        }
    }

    #[test]
    fn who_goes_is_seen_once_more_by_each_kind_of_reader() {
        for (pushed, scraped) in [
            (true, Some(WINDOW)),
            (true, None),
            (false, Some(WINDOW)),
            (false, None),
        ] {
            let mut fixture = fixture(Options {
                pushed,
                scraped,
                idle: Duration::ZERO,
                ..Options::default()
            });
            fixture.ask(1, 0);
            let now = Instant::now();
            fixture.aggregator.release_at(fixture.series, now);
            // Another service: who is idle makes room.
            let endpoint = endpoint(End::Client, "127.0.0.1:6379");
            fixture
                .aggregator
                .bind_at(&endpoint, &service(2, "next"), Protocol::Redis, now);
            let once = |there: bool| [there.then_some(1), None];
            let pushes = [fixture.pushed().0, fixture.pushed().0];
            assert_eq!(pushes, once(pushed));
            let scrapes = [fixture.scraped().0, fixture.scraped().0];
            assert_eq!(scrapes, once(scraped.is_some()));
        }
    }

    #[test]
    fn exponential_histograms_take_the_place_of_the_others() {
        let mut fixture = fixture(Options {
            histograms: Histograms {
                exponential: true,
                ..Histograms::default()
            },
            ..Options::default()
        });
        fixture.ask(1, 0);
        let mut counts = Vec::new();
        fixture.metrics.collect(|metrics| {
            for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
                match metric.data() {
                    AggregatedMetrics::F64(MetricData::ExponentialHistogram(data)) => {
                        counts.extend(data.data_points().map(|point| point.count()));
                    }
                    AggregatedMetrics::F64(MetricData::Histogram(_)) => panic!("with bounds"),
                    _ => {}
                }
            }
        });
        assert_eq!(counts, [1, 1], "by operation and by class");
    }
}
