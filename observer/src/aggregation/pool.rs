//! Pools, seen from the wire: the connections of one process to one cache.
//!
//! ```text
//! pipeline thread                        export thread
//! Connection ─▶ Pool ── at each tick ──▶ Shared ──▶ observable instruments
//!               (plain numbers)          (atomics)
//! ```
//!
//! A pool's numbers are plain fields of the pipeline thread, which are added to what collection reads once a tick, and only
//! where they changed. `docs/pools.md` says what each of them means.

mod connection;
mod instruments;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundHistogram, Histogram};

pub use connection::Connection;
pub(super) use instruments::Pools;
pub use instruments::fault_name;
use instruments::{Shared, Slot};
use rules::Rules;

use super::metrics::ServiceMetrics;
use crate::source::event::{Fault, Nanos};
use crate::telemetry::names::{attribute, value};

/// The connections of one process to one cache.
#[derive(Debug)]
pub struct Pool {
    service: Arc<ServiceMetrics>,
    shared: Arc<Shared>,
    /// What was not added to `shared` yet.
    delta: [i64; Slot::COUNT],
    /// It waits for a tick.
    pub(super) dirty: bool,
    now: Held,
    /// What of `now` was added to `shared`.
    told: Held,
    rules: Rules,
    histograms: Histograms,
}

/// What connections add up to. Of one connection each is 0 or 1, but for the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Held {
    /// Being opened, or set up.
    opening: i32,
    idle: i32,
    used: i32,
    /// Used for their set-up.
    setting_up: i32,
    /// Requests behind another.
    queued: i32,
    /// Requests behind another that was sent earlier.
    late: i32,
}

/// Bound when first written to.
#[derive(Debug, Default)]
struct Histograms {
    create: Option<BoundHistogram<f64>>,
    acquire: Option<BoundHistogram<f64>>,
    connect: Option<BoundHistogram<f64>>,
    busy: Option<BoundHistogram<f64>>,
    queue: Option<BoundHistogram<f64>>,
    age: Option<BoundHistogram<f64>>,
    commands: Option<BoundHistogram<u64>>,
}

impl Pool {
    /// No connections yet.
    pub(super) fn new(service: Arc<ServiceMetrics>, cache: &str, redis: bool) -> Self {
        let shared = service.pools.of(cache, redis);
        let rules = Rules::new(service.pools.limits());
        Self {
            service,
            shared,
            delta: [0; Slot::COUNT],
            dirty: false,
            now: Held::default(),
            told: Held::default(),
            rules,
            histograms: Histograms::default(),
        }
    }

    fn add(&mut self, slot: Slot, n: i64) {
        self.delta[slot.index()] += n;
    }

    /// What a connection adds has changed.
    fn change(&mut self, old: Held, new: Held, time: Nanos) {
        let now = &mut self.now;
        now.opening += new.opening - old.opening;
        now.idle += new.idle - old.idle;
        now.used += new.used - old.used;
        now.setting_up += new.setting_up - old.setting_up;
        now.queued += new.queued - old.queued;
        now.late += new.late - old.late;
        self.rules.exhausted(now.is_exhausted(), time);
    }

    fn opened(&mut self) {
        self.add(Slot::Opened, 1);
    }

    fn failed(&mut self, fault: Option<Fault>) {
        self.add(Slot::Failed(fault), 1);
    }

    /// A connection has ended; `age` and `commands` where they are known.
    fn closed(
        &mut self,
        fault: Option<Fault>,
        age: Option<Nanos>,
        commands: Option<u64>,
        time: Nanos,
    ) {
        self.add(Slot::Closed(fault), 1);
        let (pools, label) = (&self.service.pools, &self.shared.label);
        if let Some(age) = age {
            bound(&mut self.histograms.age, &pools.age, label).record(seconds(age));
        }
        if let Some(commands) = commands {
            self.histograms
                .commands
                .get_or_insert_with(|| pools.commands.bind(std::slice::from_ref(label)))
                .record(commands);
        }
        let most = pools.limits().churn_commands;
        let churned = commands.is_some_and(|commands| commands <= most);
        if churned {
            self.add(Slot::Churned, 1);
        }
        self.rules.closed(churned, time);
    }

    fn health_check(&mut self) {
        self.add(Slot::HealthChecks, 1);
    }

    fn connected(&mut self, took: Nanos) {
        let (pools, label) = (&self.service.pools, &self.shared.label);
        bound(&mut self.histograms.connect, &pools.connect, label).record(seconds(took));
    }

    fn created(&mut self, took: Nanos) {
        let (pools, label) = (&self.service.pools, &self.shared.label);
        bound(&mut self.histograms.create, &pools.create, label).record(seconds(took));
        if let Some(acquire) = pools.acquire.as_ref().filter(|_| self.shared.redis) {
            let estimate = KeyValue::new(attribute::ESTIMATED, value::TRUE);
            self.histograms
                .acquire
                .get_or_insert_with(|| acquire.bind(&[label.clone(), estimate]))
                .record(took as f64 / 1e6);
        }
    }

    fn busy(&mut self, took: Nanos) {
        let (pools, label) = (&self.service.pools, &self.shared.label);
        bound(&mut self.histograms.busy, &pools.busy, label).record(seconds(took));
    }

    /// This many requests waited this long.
    fn waited(&mut self, count: u32, took: Nanos) {
        let (pools, label) = (&self.service.pools, &self.shared.label);
        let histogram = bound(&mut self.histograms.queue, &pools.queue, label);
        for _ in 0..count {
            histogram.record(seconds(took));
        }
    }

    /// Hands on what has changed. Answers whether it wants to be called again although nothing changes.
    pub(super) fn tick(&mut self, now: Nanos) -> bool {
        let told = self.rules.tick(now, &self.shared.name, self.service.name());
        for (slot, n) in told {
            self.add(slot, n);
        }
        let (told, now) = (self.told, self.now);
        for (slot, told, now) in [
            (Slot::Opening, told.opening, now.opening),
            (Slot::Idle, told.idle, now.idle),
            (Slot::Used, told.used, now.used),
            (Slot::Queued, told.queued, now.queued),
        ] {
            self.add(slot, i64::from(now) - i64::from(told));
        }
        self.told = now;
        for (shared, delta) in self.shared.slots.iter().zip(&mut self.delta) {
            if *delta != 0 {
                shared.fetch_add(*delta, std::sync::atomic::Ordering::Relaxed);
                *delta = 0;
            }
        }
        self.dirty = self.rules.is_watching();
        self.dirty
    }
}

impl Held {
    /// None idle, others in use, and yet one is being opened or a request waits behind an earlier one.
    fn is_exhausted(&self) -> bool {
        self.idle == 0 && self.used > self.setting_up && (self.opening > 0 || self.late > 0)
    }
}

fn bound<'a>(
    slot: &'a mut Option<BoundHistogram<f64>>,
    histogram: &Histogram<f64>,
    label: &KeyValue,
) -> &'a BoundHistogram<f64> {
    slot.get_or_insert_with(|| histogram.bind(std::slice::from_ref(label)))
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}
