//! Hit rates: hits / (hits + misses) of each cache over a time.
//!
//! Keys are counted from the start. Who asks for a rate keeps where it began, so that one exporter takes nothing from
//! another: what is pushed covers the time since the last push, what is scraped covers a window that no scraper moves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::telemetry::names::{attribute, metric, value};

/// Most caches of one service with rates of their own; further ones share `_OTHER`.
const MAX_CACHES: usize = 128;
/// Marks in a window: a rate covers at most this part of it more than the window.
const MARKS: u32 = 6;

/// What the gauge is, for those who read it.
pub const HIT_RATE_TEXT: &str = "Hits of hits and misses over the export interval.";

/// Hits and misses of one cache since the start.
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

    fn keys(&self) -> Keys {
        Keys {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Keys {
    hits: u64,
    misses: u64,
}

impl Keys {
    /// The rate since then; `None` when nothing was asked for.
    fn since(self, then: Keys) -> Option<f64> {
        let (hits, misses) = (self.hits - then.hits, self.misses - then.misses);
        let asked = hits + misses;
        (asked > 0).then(|| hits as f64 / asked as f64)
    }
}

#[derive(Debug, Default)]
struct Cache {
    rate: Arc<Rate>,
    /// At the last push.
    pushed: Keys,
    /// At some times past, oldest first. At most [`MARKS`] + 2 of them; none before the first scrape.
    marks: VecDeque<(Instant, Keys)>,
}

impl Cache {
    fn push(&mut self) -> Option<f64> {
        let keys = self.rate.keys();
        keys.since(std::mem::replace(&mut self.pushed, keys))
    }

    /// The rate over the last `window`, or over what is known if that is less.
    fn scrape(&mut self, window: Duration, born: Instant, now: Instant) -> Option<f64> {
        let keys = self.rate.keys();
        if self.marks.is_empty() {
            self.marks.push_back((born, Keys::default()));
        }
        let old = |mark: Option<&(Instant, Keys)>| {
            mark.is_some_and(|(at, _)| now.duration_since(*at) >= window)
        };
        while old(self.marks.get(1)) {
            self.marks.pop_front();
        }
        let rate = self.marks.front().and_then(|(_, then)| keys.since(*then));
        let last = self.marks.back().map_or(born, |(at, _)| *at);
        if now.duration_since(last) >= window / MARKS {
            self.marks.push_back((now, keys));
        }
        rate
    }
}

/// The caches of one service.
#[derive(Debug)]
pub(super) struct Rates {
    caches: Mutex<BTreeMap<String, Cache>>,
    born: Instant,
    /// What is collected now is for a scrape, which asks for its rates by itself.
    scraping: AtomicBool,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            caches: Mutex::default(),
            born: Instant::now(),
            scraping: AtomicBool::new(false),
        }
    }
}

impl Rates {
    fn caches(&self) -> MutexGuard<'_, BTreeMap<String, Cache>> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rate of a cache by its name.
    pub(super) fn of(&self, cache: &str) -> Arc<Rate> {
        let mut caches = self.caches();
        let known = caches.contains_key(cache) || caches.len() < MAX_CACHES;
        let name = if known { cache } else { value::OTHER };
        Arc::clone(&caches.entry(name.to_owned()).or_default().rate)
    }

    /// Collects for a scrape: the gauge shows nothing meanwhile, and the pushed rates stay as they are.
    pub(super) fn while_scraping<T>(&self, collect: impl FnOnce() -> T) -> T {
        self.scraping.store(true, Ordering::Relaxed);
        let collected = collect();
        self.scraping.store(false, Ordering::Relaxed);
        collected
    }

    /// The rate of each cache over the last `window`.
    pub(super) fn scrape(&self, window: Duration, now: Instant) -> Vec<(String, f64)> {
        let mut caches = self.caches();
        let rates = caches.iter_mut().filter_map(|(name, cache)| {
            let rate = cache.scrape(window, self.born, now)?;
            Some((name.clone(), rate))
        });
        rates.collect()
    }

    /// Declares the gauge of what is pushed. The meter keeps it.
    pub(super) fn show(self: &Arc<Self>, meter: &Meter) {
        let rates = Arc::clone(self);
        let _ = meter
            .f64_observable_gauge(metric::HIT_RATE)
            .with_unit("1")
            .with_description(HIT_RATE_TEXT)
            .with_callback(move |observer| {
                if rates.scraping.load(Ordering::Relaxed) {
                    return;
                }
                for (name, cache) in &mut *rates.caches() {
                    if let Some(rate) = cache.push() {
                        let labels = [KeyValue::new(attribute::CACHE_NAME, name.clone())];
                        observer.observe(rate, &labels);
                    }
                }
            })
            .build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn a_window_is_moved_by_time_only() {
        let born = Instant::now();
        let mut cache = Cache::default();
        let mut at = |second: u64, hits, misses| {
            cache.rate.add(hits, misses);
            let now = born + Duration::from_secs(second);
            let first = cache.scrape(WINDOW, born, now);
            assert_eq!(cache.scrape(WINDOW, born, now), first, "a second scraper");
            assert!(cache.marks.len() <= MARKS as usize + 2);
            first
        };
        assert_eq!(at(1, 0, 0), None);
        // What came before the first scrape counts, too.
        assert_eq!(at(15, 10, 0), Some(1.0));
        for second in 16..=70 {
            assert_eq!(at(second, 0, 0), Some(1.0), "at {second} s");
        }
        assert_eq!(at(71, 0, 10), Some(0.5));
        // The hits are older than the window and a sixth of it.
        assert_eq!(at(90, 0, 0), Some(0.0));
        assert_eq!(at(151, 0, 0), None);
        // Nobody scraped for long: since the last scrape.
        assert_eq!(at(900, 3, 1), Some(0.75));
        assert_eq!(cache.push(), Some(13.0 / 24.0), "nothing was taken away");
        assert_eq!(cache.push(), None);
    }
}
