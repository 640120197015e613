//! Exemplars: the last exported span of each bucket of a latency series.
//!
//! The SDK records none, so they are kept beside it, by the attributes that a series is collected under. A series gets its
//! entry with its first exported span; nothing is done for commands whose spans are not exported.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceId};

use crate::telemetry::names::metric;

/// Most series of one service with exemplars. Each takes about 1.4 KiB with 18 buckets, as much as its histogram.
const MAX_SERIES: usize = 256;

/// A span that is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanReference {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub span: SpanId,
}

/// A measured value, and the span that it was measured of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The span.
    pub span: SpanReference,
    /// In the unit of the metric.
    pub value: f64,
    /// Nanoseconds since the Unix epoch.
    pub time: u64,
}

/// Those of one series, a slot for each bucket.
#[derive(Debug)]
pub(super) struct Exemplars {
    bounds: Arc<[f64]>,
    /// None for a series beyond the budget.
    slots: Mutex<Vec<Option<Exemplar>>>,
}

impl Exemplars {
    pub(super) fn put(&self, exemplar: Exemplar) {
        let bucket = self.bounds.partition_point(|bound| *bound < exemplar.value);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(bucket) {
            *slot = Some(exemplar);
        }
    }
}

type Series = HashMap<Vec<KeyValue>, Arc<Exemplars>>;

/// Those of one service, by metric and attributes.
#[derive(Debug)]
pub(super) struct Table {
    seconds: Arc<[f64]>,
    milliseconds: Arc<[f64]>,
    metrics: Mutex<HashMap<&'static str, Series>>,
}

impl Table {
    /// With a slot for each bucket that these bounds make, seconds.
    pub(super) fn new(bounds: &[f64]) -> Self {
        Self {
            seconds: bounds.into(),
            milliseconds: bounds.iter().map(|seconds| seconds * 1e3).collect(),
            metrics: Mutex::default(),
        }
    }

    fn metrics(&self) -> MutexGuard<'_, HashMap<&'static str, Series>> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of a series. `attributes` are sorted by name, as the SDK hands them out.
    pub(super) fn of(&self, metric: &'static str, attributes: Vec<KeyValue>) -> Arc<Exemplars> {
        let mut metrics = self.metrics();
        let full = metrics.values().map(Series::len).sum::<usize>() >= MAX_SERIES;
        let bounds = match metric {
            metric::LATENCY => &self.milliseconds,
            _ => &self.seconds,
        };
        let new = |slots| {
            Arc::new(Exemplars {
                bounds: Arc::clone(bounds),
                slots: Mutex::new(vec![None; slots]),
            })
        };
        let series = metrics.entry(metric).or_default();
        match series.get(&attributes) {
            Some(known) => Arc::clone(known),
            None if full => new(0),
            None => {
                let exemplars = new(bounds.len() + 1);
                series.insert(attributes, Arc::clone(&exemplars));
                exemplars
            }
        }
    }

    /// What there is of a series now.
    pub(super) fn read(&self, metric: &str, attributes: &[KeyValue]) -> Vec<Exemplar> {
        let metrics = self.metrics();
        let series = metrics
            .get(metric)
            .and_then(|series| series.get(attributes));
        let Some(exemplars) = series else {
            return Vec::new();
        };
        let slots = exemplars.slots.lock();
        let slots = slots.unwrap_or_else(PoisonError::into_inner);
        slots.iter().flatten().copied().collect()
    }

    /// Whether there are any of this metric.
    pub(super) fn knows(&self, metric: &str) -> bool {
        self.metrics().contains_key(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exemplar(value: f64, time: u64) -> Exemplar {
        Exemplar {
            span: SpanReference {
                trace: TraceId::from(7),
                span: SpanId::from(time),
            },
            value,
            time,
        }
    }

    #[test]
    fn the_last_of_each_bucket_stays() {
        let table = Table::new(&[0.001, 0.002]);
        let attributes = || vec![KeyValue::new("cache.name", "a")];
        let exemplars = table.of(metric::LATENCY, attributes());
        for (value, time) in [(0.5, 1), (1.0, 2), (1.5, 3), (2.5, 4), (9.0, 5)] {
            exemplars.put(exemplar(value, time));
        }
        let again = table.of(metric::LATENCY, attributes());
        assert!(Arc::ptr_eq(&exemplars, &again));
        assert_eq!(
            table.read(metric::LATENCY, &attributes()),
            [exemplar(1.0, 2), exemplar(1.5, 3), exemplar(9.0, 5)]
        );
        assert_eq!(table.read(metric::LATENCY, &[]), []);
        assert_eq!(table.read(metric::TTL, &attributes()), []);
        assert!(table.knows(metric::LATENCY) && !table.knows(metric::TTL));
    }

    #[test]
    fn series_beyond_the_budget_have_none() {
        let table = Table::new(&[1.0]);
        for number in 0..MAX_SERIES as i64 + 1 {
            let attributes = vec![KeyValue::new("number", number)];
            let exemplars = table.of(metric::CLIENT_DURATION, attributes.clone());
            exemplars.put(exemplar(1.0, 1));
            let kept = table.read(metric::CLIENT_DURATION, &attributes).len();
            assert_eq!(kept, usize::from(number < MAX_SERIES as i64));
        }
    }
}
