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
        let exponential = options.exponential;
        let view = move |instrument: &Instrument| {
            let limit = match instrument.name() {
                metric::CLIENT_DURATION | metric::SERVER_DURATION => latency,
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
