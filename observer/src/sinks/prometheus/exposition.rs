//! From the points of many resources to one page: each family once, with the series of all services.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use hyper::body::Bytes;
use opentelemetry::{Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData};

use super::family::{Exponential, Family, Format, Histogram, Kind, Number, Sample};
use super::{name, text};
use crate::aggregation::{HIT_RATE_TEXT, Scraped};
use crate::telemetry::names::{attribute, metric, resource};

/// A page that is being made.
#[derive(Debug)]
pub(super) struct Exposition {
    format: Format,
    families: Vec<Family>,
    /// By the instrument's name.
    index: HashMap<String, usize>,
    /// Services on this page. A number of a process that is given again makes two of one: the newer comes first, and stays.
    services: HashSet<(String, String)>,
    room: usize,
    full: bool,
}

impl Exposition {
    /// A page of at most `limit` bytes.
    pub(super) fn new(format: Format, limit: usize) -> Self {
        let target = Family::new(
            "target".to_owned(),
            Kind::Info,
            None,
            "Attributes of the observed process.",
        );
        Self {
            format,
            families: vec![target],
            index: HashMap::new(),
            services: HashSet::new(),
            room: limit,
            full: false,
        }
    }

    /// Adds the points of one service.
    pub(super) fn add(&mut self, scraped: &Scraped) {
        let of = scraped.metrics.resource();
        let service = Service::of(of);
        if !self
            .services
            .insert((service.name.clone(), service.instance.clone()))
        {
            return;
        }
        let facts = of
            .iter()
            .filter(|(key, _)| {
                !matches!(
                    key.as_str(),
                    resource::SERVICE_NAME | resource::SERVICE_INSTANCE_ID
                )
            })
            .map(|(key, value)| (name::label(key.as_str()), value.as_str()));
        let mut labels = service.labels();
        labels.extend(facts);
        labels[2..].sort_unstable();
        self.write(0, &labels, &Sample::Number(Number::Unsigned(1)));
        let metrics = scraped.metrics.scope_metrics();
        let metrics = metrics.flat_map(|scope| scope.metrics());
        // Where scrapes have a reader of their own, the SDK puts the rates that were pushed there, too.
        for metric in metrics.filter(|metric| metric.name() != metric::HIT_RATE) {
            match metric.data() {
                AggregatedMetrics::F64(data) => self.points(scraped, &service, metric, data),
                AggregatedMetrics::U64(data) => self.points(scraped, &service, metric, data),
                AggregatedMetrics::I64(data) => self.points(scraped, &service, metric, data),
            }
        }
        for (cache, rate) in &scraped.hit_rates {
            let at = self.family(metric::HIT_RATE, "1", Kind::Gauge, HIT_RATE_TEXT);
            let mut labels = service.labels();
            labels.push((name::label(attribute::CACHE_NAME), Cow::Borrowed(cache)));
            self.write(at, &labels, &Sample::Number(Number::Float(*rate)));
        }
    }

    fn points<T: Copy + Into<Number>>(
        &mut self,
        scraped: &Scraped,
        service: &Service,
        metric: &Metric,
        data: &MetricData<T>,
    ) {
        let kind = match data {
            MetricData::Sum(sum) if sum.is_monotonic() => Kind::Counter,
            MetricData::Sum(_) | MetricData::Gauge(_) => Kind::Gauge,
            MetricData::Histogram(_) | MetricData::ExponentialHistogram(_) => Kind::Histogram,
        };
        let at = self.family(metric.name(), metric.unit(), kind, metric.description());
        let pointing = self.format != Format::Text && scraped.has_exemplars(metric.name());
        let exemplars = |attributes: Box<dyn Iterator<Item = &KeyValue> + '_>| match pointing {
            true => scraped.exemplars(metric.name(), &attributes.cloned().collect::<Vec<_>>()),
            false => Vec::new(),
        };
        match data {
            MetricData::Gauge(gauge) => {
                for point in gauge.data_points() {
                    let sample = Sample::Number(point.value().into());
                    self.write(at, &service.series(point.attributes()), &sample);
                }
            }
            MetricData::Sum(sum) => {
                for point in sum.data_points() {
                    let sample = Sample::Number(point.value().into());
                    self.write(at, &service.series(point.attributes()), &sample);
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
                    self.write(at, &service.series(point.attributes()), &sample);
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
                    self.write(at, &service.series(point.attributes()), &sample);
                }
            }
        }
    }

    /// The index of an instrument's family.
    fn family(&mut self, instrument: &str, unit: &str, kind: Kind, help: &str) -> usize {
        if let Some(at) = self.index.get(instrument) {
            return *at;
        }
        let (name, unit) = name::family(instrument, unit, kind);
        self.families.push(Family::new(name, kind, unit, help));
        let at = self.families.len() - 1;
        self.index.insert(instrument.to_owned(), at);
        at
    }

    fn write(&mut self, family: usize, labels: &[(Cow<'_, str>, Cow<'_, str>)], sample: &Sample) {
        if self.full {
            return;
        }
        let written = self.families[family].write(self.format, labels, sample);
        match self.room.checked_sub(written) {
            Some(room) => self.room = room,
            None => self.full = true,
        }
    }

    /// The page; `None` when it does not fit.
    pub(super) fn finish(mut self) -> Option<Vec<Bytes>> {
        if self.full {
            return None;
        }
        // OpenMetrics wants the target first.
        self.families[1..].sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut pieces = Vec::new();
        for family in self.families {
            family.finish(self.format, &mut pieces);
        }
        pieces.push(Bytes::from_static(text::end(self.format).as_bytes()));
        Some(pieces)
    }
}

/// What each series of a service carries.
struct Service {
    name: String,
    instance: String,
}

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

    fn labels(&self) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
        let mut labels = Vec::with_capacity(8);
        labels.push(("service_name".into(), Cow::Borrowed(self.name.as_str())));
        labels.push((
            "service_instance_id".into(),
            Cow::Borrowed(self.instance.as_str()),
        ));
        labels
    }

    fn series<'a>(
        &'a self,
        attributes: impl Iterator<Item = &'a KeyValue>,
    ) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
        let mut labels = self.labels();
        labels.extend(attributes.map(|pair| (name::label(pair.key.as_str()), pair.value.as_str())));
        labels
    }
}
