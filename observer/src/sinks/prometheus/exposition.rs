//! The points of many resources as one page: each family once, with the series of all services.
//!
//! What is kept for a page are the points as the SDK hands them out, about 1 KiB a series; text is five times that, so it is
//! made piece by piece, while it is sent.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use hyper::body::Bytes;
use opentelemetry::{Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData};

use super::family::{Exponential, Family, Format, Histogram, Kind, Number, Sample};
use super::{name, text};
use crate::aggregation::{HIT_RATE_TEXT, Metrics, Scraped};
use crate::telemetry::names::{attribute, metric, resource};

/// A piece is sent once it has this size.
const PIECE: usize = 64 * 1024;

/// All points at one time.
#[derive(Debug)]
pub(super) struct Snapshot {
    services: Vec<(Service, Scraped)>,
    families: Vec<Family>,
}

impl Snapshot {
    /// Collects in the calling thread.
    pub(super) fn take(metrics: &Metrics) -> Self {
        let mut services = Vec::new();
        // A number of a process that is given again makes two of one: the newer comes first, and stays.
        let mut known = HashSet::new();
        metrics.scrape(|scraped| {
            let service = Service::of(scraped.metrics.resource());
            if known.insert(service.clone()) {
                services.push((service, scraped));
            }
        });
        let families = families(&services);
        Self { services, families }
    }
}

fn families(services: &[(Service, Scraped)]) -> Vec<Family> {
    let mut families = Vec::new();
    let mut known = HashSet::new();
    let mut add = |instrument: &str, unit: &str, kind, help: &str| {
        if known.insert(instrument.to_owned()) {
            families.push(Family::new(instrument, unit, kind, help));
        }
    };
    for (_, scraped) in services {
        for metric in metrics(scraped) {
            let kind = match metric.data() {
                AggregatedMetrics::F64(data) => kind(data),
                AggregatedMetrics::U64(data) => kind(data),
                AggregatedMetrics::I64(data) => kind(data),
            };
            add(metric.name(), metric.unit(), kind, metric.description());
        }
        if !scraped.hit_rates.is_empty() {
            add(metric::HIT_RATE, "1", Kind::Gauge, HIT_RATE_TEXT);
        }
    }
    families.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    // OpenMetrics wants the target first.
    families.insert(0, Family::target());
    families
}

fn metrics(scraped: &Scraped) -> impl Iterator<Item = &Metric> {
    let all = scraped.metrics.scope_metrics();
    let all = all.flat_map(|scope| scope.metrics());
    // Where scrapes have a reader of their own, the SDK puts the rates that were pushed there, too.
    all.filter(|metric| metric.name() != metric::HIT_RATE)
}

fn kind<T>(data: &MetricData<T>) -> Kind {
    match data {
        MetricData::Sum(sum) if sum.is_monotonic() => Kind::Counter,
        MetricData::Sum(_) | MetricData::Gauge(_) => Kind::Gauge,
        MetricData::Histogram(_) | MetricData::ExponentialHistogram(_) => Kind::Histogram,
    }
}

/// A page in one of the formats, piece by piece.
#[derive(Debug)]
pub(super) struct Exposition {
    format: Format,
    snapshot: Arc<Snapshot>,
    family: usize,
    service: usize,
}

impl Exposition {
    pub(super) fn new(format: Format, snapshot: Arc<Snapshot>) -> Self {
        Self {
            format,
            snapshot,
            family: 0,
            service: 0,
        }
    }

    /// Writes the next service's series of the family, or its head before the first.
    fn step(&mut self, snapshot: &Snapshot, out: &mut Vec<u8>) {
        let family = &snapshot.families[self.family];
        if self.format == Format::Protobuf {
            // The length of a family stands before it.
            let mut series = Vec::new();
            for (service, scraped) in &snapshot.services {
                self.series(family, service, scraped, &mut series);
            }
            family.write_head(self.format, series.len(), out);
            out.append(&mut series);
            self.family += 1;
            return;
        }
        if self.service == 0 {
            family.write_head(self.format, 0, out);
        }
        if let Some((service, scraped)) = snapshot.services.get(self.service) {
            self.series(family, service, scraped, out);
            self.service += 1;
        } else {
            self.service = 0;
            self.family += 1;
            if self.family == snapshot.families.len() {
                out.extend_from_slice(text::end(self.format).as_bytes());
            }
        }
    }

    fn series(&self, family: &Family, service: &Service, scraped: &Scraped, out: &mut Vec<u8>) {
        if family.kind == Kind::Info {
            let labels = service.facts(scraped.metrics.resource());
            let one = Sample::Number(Number::Unsigned(1));
            family.write(self.format, &labels, &one, out);
            return;
        }
        if family.instrument == metric::HIT_RATE {
            for (cache, rate) in &scraped.hit_rates {
                let mut labels = service.labels();
                labels.push((name::label(attribute::CACHE_NAME), Cow::Borrowed(cache)));
                let rate = Sample::Number(Number::Float(*rate));
                family.write(self.format, &labels, &rate, out);
            }
            return;
        }
        let own = metrics(scraped).filter(|metric| metric.name() == family.instrument);
        for metric in own {
            match metric.data() {
                AggregatedMetrics::F64(data) => self.points(family, service, scraped, data, out),
                AggregatedMetrics::U64(data) => self.points(family, service, scraped, data, out),
                AggregatedMetrics::I64(data) => self.points(family, service, scraped, data, out),
            }
        }
    }

    fn points<T: Copy + Into<Number>>(
        &self,
        family: &Family,
        service: &Service,
        scraped: &Scraped,
        data: &MetricData<T>,
        out: &mut Vec<u8>,
    ) {
        let pointing = self.format != Format::Text && scraped.has_exemplars(&family.instrument);
        let exemplars = |attributes: Box<dyn Iterator<Item = &KeyValue> + '_>| match pointing {
            true => scraped.exemplars(&family.instrument, &attributes.cloned().collect::<Vec<_>>()),
            false => Vec::new(),
        };
        match data {
            MetricData::Gauge(gauge) => {
                for point in gauge.data_points() {
                    let sample = Sample::Number(point.value().into());
                    family.write(
                        self.format,
                        &service.series(point.attributes()),
                        &sample,
                        out,
                    );
                }
            }
            MetricData::Sum(sum) => {
                for point in sum.data_points() {
                    let sample = Sample::Number(point.value().into());
                    family.write(
                        self.format,
                        &service.series(point.attributes()),
                        &sample,
                        out,
                    );
                }
            }
            MetricData::Histogram(histogram) => {
                for point in histogram.data_points() {
                    let sample = Sample::Histogram(Histogram {
                        bounds: point.bounds().collect(),
                        counts: point.bucket_counts().collect(),
                        sum: point.sum().into(),
                        exemplars: exemplars(Box::new(point.attributes())),
                    });
                    family.write(
                        self.format,
                        &service.series(point.attributes()),
                        &sample,
                        out,
                    );
                }
            }
            MetricData::ExponentialHistogram(histogram) => {
                for point in histogram.data_points() {
                    // Nothing that is measured is negative.
                    let sample = Sample::Exponential(Exponential {
                        scale: point.scale(),
                        zero_count: point.zero_count(),
                        offset: point.positive_bucket().offset(),
                        counts: point.positive_bucket().counts().collect(),
                        count: point.count() as u64,
                        sum: point.sum().into(),
                        exemplars: exemplars(Box::new(point.attributes())),
                    });
                    family.write(
                        self.format,
                        &service.series(point.attributes()),
                        &sample,
                        out,
                    );
                }
            }
        }
    }
}

impl Iterator for Exposition {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let snapshot = Arc::clone(&self.snapshot);
        let mut out = Vec::new();
        while out.len() < PIECE && self.family < snapshot.families.len() {
            self.step(&snapshot, &mut out);
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}

/// What each series of a service carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Service {
    name: String,
    instance: String,
}

type Label<'a> = (Cow<'a, str>, Cow<'a, str>);

impl Service {
    fn of(from: &Resource) -> Self {
        let find = |name: &'static str| {
            let value = from.get_ref(&Key::from_static_str(name));
            value.map_or_else(String::new, |value| value.as_str().into_owned())
        };
        Self {
            name: find(resource::SERVICE_NAME),
            instance: find(resource::SERVICE_INSTANCE_ID),
        }
    }

    fn labels(&self) -> Vec<Label<'_>> {
        let mut labels = Vec::with_capacity(8);
        labels.push(("service_name".into(), Cow::Borrowed(self.name.as_str())));
        labels.push((
            "service_instance_id".into(),
            Cow::Borrowed(self.instance.as_str()),
        ));
        labels
    }

    fn series<'a>(&'a self, attributes: impl Iterator<Item = &'a KeyValue>) -> Vec<Label<'a>> {
        let mut labels = self.labels();
        labels.extend(attributes.map(|pair| (name::label(pair.key.as_str()), pair.value.as_str())));
        labels
    }

    /// The other attributes of the resource.
    fn facts<'a>(&'a self, from: &'a Resource) -> Vec<Label<'a>> {
        let known = |key: &Key| {
            matches!(
                key.as_str(),
                resource::SERVICE_NAME | resource::SERVICE_INSTANCE_ID
            )
        };
        let others = from.iter().filter(|(key, _)| !known(key));
        let mut labels = self.labels();
        labels.extend(others.map(|(key, value)| (name::label(key.as_str()), value.as_str())));
        labels[2..].sort_unstable();
        labels
    }
}
