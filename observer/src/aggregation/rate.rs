//! Hit rates: hits / (hits + misses) of each cache since the last collection.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::telemetry::names::{attribute, metric, value};

/// Most caches of one service with rates of their own; further ones share `_OTHER`.
const MAX_CACHES: usize = 128;

/// Hits and misses of one cache since the last collection.
#[derive(Debug, Default)]
pub(super) struct Rate {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Rate {
    /// Counts keys that were found, and keys that were not.
    pub(super) fn add(&self, hits: u32, misses: u32) {
        if hits > 0 {
            self.hits.fetch_add(hits.into(), Ordering::Relaxed);
        }
        if misses > 0 {
            self.misses.fetch_add(misses.into(), Ordering::Relaxed);
        }
    }

    /// The rate since the last call; `None` when nothing was asked for.
    fn take(&self) -> Option<f64> {
        let hits = self.hits.swap(0, Ordering::Relaxed);
        let misses = self.misses.swap(0, Ordering::Relaxed);
        let asked = hits + misses;
        (asked > 0).then(|| hits as f64 / asked as f64)
    }
}

/// The caches of one service.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<BTreeMap<String, Arc<Rate>>>);

impl Rates {
    /// The rate of a cache by its name.
    pub(super) fn of(&self, cache: &str) -> Arc<Rate> {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rates.contains_key(cache) || rates.len() < MAX_CACHES;
        let name = if known { cache } else { value::OTHER };
        Arc::clone(rates.entry(name.to_owned()).or_default())
    }

    /// Declares the gauge. The meter keeps it.
    pub(super) fn show(self: &Arc<Self>, meter: &Meter) {
        let rates = Arc::clone(self);
        let _ = meter
            .f64_observable_gauge(metric::HIT_RATE)
            .with_unit("1")
            .with_description("Hits of hits and misses since the last collection.")
            .with_callback(move |observer| {
                let rates = rates.0.lock().unwrap_or_else(PoisonError::into_inner);
                for (cache, rate) in &*rates {
                    if let Some(rate) = rate.take() {
                        let labels = [KeyValue::new(attribute::CACHE_NAME, cache.clone())];
                        observer.observe(rate, &labels);
                    }
                }
            })
            .build();
    }
}
