//! The instruments of a service's pools, and the numbers that collection reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};

use super::super::metrics::Options;
use crate::config::pools::Pools as Limits;
use crate::source::event::Fault;
use crate::telemetry::names::{attribute, metric, value};

/// Bounds of the histogram of ages, s: from a connection a request to one for weeks.
const AGES: [f64; 13] = [
    0.001,
    0.01,
    0.1,
    1.0,
    10.0,
    60.0,
    300.0,
    900.0,
    3600.0,
    21600.0,
    86400.0,
    604_800.0,
    2_592_000.0,
];
/// Bounds of the histogram of commands.
const COMMANDS: [f64; 13] = [
    0.0,
    1.0,
    2.0,
    5.0,
    10.0,
    50.0,
    100.0,
    500.0,
    1000.0,
    5000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
];
/// With and without a fault.
const FAULTS: usize = Fault::ALL.len() + 1;

/// A number of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::aggregation) enum Slot {
    Opening,
    Idle,
    Used,
    Queued,
    Opened,
    HealthChecks,
    Churned,
    Churning,
    Exhausted,
    ExhaustedNanos,
    Closed(Option<Fault>),
    Failed(Option<Fault>),
}

impl Slot {
    const PLAIN: usize = 10;
    pub(super) const COUNT: usize = Self::PLAIN + 2 * FAULTS;

    pub(super) fn index(self) -> usize {
        let fault = |fault: Option<Fault>| fault.map_or(0, |fault| fault as usize + 1);
        match self {
            Self::Opening => 0,
            Self::Idle => 1,
            Self::Used => 2,
            Self::Queued => 3,
            Self::Opened => 4,
            Self::HealthChecks => 5,
            Self::Churned => 6,
            Self::Churning => 7,
            Self::Exhausted => 8,
            Self::ExhaustedNanos => 9,
            Self::Closed(by) => Self::PLAIN + fault(by),
            Self::Failed(by) => Self::PLAIN + FAULTS + fault(by),
        }
    }
}

/// Every way in which a connection can end.
fn faults() -> impl Iterator<Item = Option<Fault>> {
    std::iter::once(None).chain(Fault::ALL.map(Some))
}

/// Value of `error.type`.
#[must_use]
pub fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::Refused => value::CONNECTION_REFUSED,
        Fault::Reset => value::CONNECTION_RESET,
        Fault::TimedOut => value::TIMEOUT,
        Fault::Unreachable => value::UNREACHABLE,
        Fault::Aborted => value::CONNECTION_ABORTED,
        Fault::Other => value::OTHER,
    }
}

/// The numbers of the pools of one name.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) label: KeyValue,
    /// Whether it is of Redis, whose pools have older names, too.
    pub(super) redis: bool,
    pub(super) slots: [AtomicI64; Slot::COUNT],
}

impl Shared {
    fn get(&self, slot: Slot) -> i64 {
        self.slots[slot.index()].load(Ordering::Relaxed)
    }

    fn count(&self, slot: Slot) -> u64 {
        u64::try_from(self.get(slot)).unwrap_or(0)
    }

    fn labels(&self, name: &'static str, text: &'static str) -> [KeyValue; 2] {
        [self.label.clone(), KeyValue::new(name, text)]
    }
}

type All = Arc<Mutex<BTreeMap<String, Arc<Shared>>>>;

/// The pools of a service.
#[derive(Debug)]
pub(in crate::aggregation) struct Pools {
    all: All,
    most: usize,
    limits: Limits,
    pub(super) create: Histogram<f64>,
    pub(super) acquire: Option<Histogram<f64>>,
    pub(super) connect: Histogram<f64>,
    pub(super) busy: Histogram<f64>,
    pub(super) queue: Histogram<f64>,
    pub(super) age: Histogram<f64>,
    pub(super) commands: Histogram<u64>,
}

impl Pools {
    /// Declares the instruments. The meter keeps those that are observed.
    pub(in crate::aggregation) fn new(meter: &Meter, options: &Options) -> Self {
        let latency = &options.histograms.latency;
        let time = |name, text| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(text)
                .with_boundaries(latency.clone())
                .build()
        };
        let all = All::default();
        observe(meter, &all);
        if options.duplicate_names {
            observe_duplicates(meter, &all);
        }
        Self {
            all,
            most: options.max_pools,
            limits: options.pools,
            create: time(
                metric::CONNECTION_CREATE_TIME,
                "From connect to the last reply of the set-up.",
            ),
            acquire: options.duplicate_names.then(|| {
                meter
                    .f64_histogram(metric::POOL_ACQUIRE_TIME)
                    .with_unit("ms")
                    .with_description("An estimate: the create time.")
                    .with_boundaries(latency.iter().map(|seconds| seconds * 1e3).collect())
                    .build()
            }),
            connect: time(
                metric::CONNECTION_CONNECT_TIME,
                "From connect to the end of TCP's handshake.",
            ),
            busy: time(
                metric::CONNECTION_BUSY_TIME,
                "From a request on an idle connection until it is idle again.",
            ),
            queue: time(
                metric::CONNECTION_QUEUE_TIME,
                "From the send of a request behind another to the reply of the one before it.",
            ),
            age: meter
                .f64_histogram(metric::CONNECTION_AGE)
                .with_unit("s")
                .with_description("Age of connections at their end.")
                .with_boundaries(AGES.to_vec())
                .build(),
            commands: meter
                .u64_histogram(metric::CONNECTION_COMMANDS)
                .with_unit("{operation}")
                .with_description("Commands of connections at their end, without their set-up.")
                .with_boundaries(COMMANDS.to_vec())
                .build(),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// The numbers of a pool by its name.
    pub(super) fn of(&self, cache: &str, redis: bool) -> Arc<Shared> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.contains_key(cache) || all.len() < self.most;
        let name = if known { cache } else { value::OTHER };
        let shared = all.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Shared {
                name: name.to_owned(),
                label: KeyValue::new(attribute::POOL_NAME, name.to_owned()),
                redis,
                slots: std::array::from_fn(|_| AtomicI64::new(0)),
            })
        });
        Arc::clone(shared)
    }
}

fn each(all: &All, mut show: impl FnMut(&Shared)) {
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    for shared in all.values() {
        show(shared);
    }
}

fn observe(meter: &Meter, all: &All) {
    let pools = Arc::clone(all);
    let _ = meter
        .i64_observable_up_down_counter(metric::CONNECTION_COUNT)
        .with_unit("{connection}")
        .with_description("Connections that are established, by whether a request is outstanding.")
        .with_callback(move |observer| {
            each(&pools, |pool| {
                for (state, slot) in [("idle", Slot::Idle), ("used", Slot::Used)] {
                    observer.observe(pool.get(slot), &pool.labels(attribute::POOL_STATE, state));
                }
            });
        })
        .build();
    for (name, unit, slot, text) in [
        (
            metric::CONNECTION_OPENING,
            "{connection}",
            Slot::Opening,
            "Connections being opened or set up.",
        ),
        (
            metric::CONNECTION_QUEUED,
            "{request}",
            Slot::Queued,
            "Requests outstanding behind another on their connection.",
        ),
    ] {
        let pools = Arc::clone(all);
        let _ = meter
            .i64_observable_up_down_counter(name)
            .with_unit(unit)
            .with_description(text)
            .with_callback(move |observer| {
                each(&pools, |pool| {
                    observer.observe(pool.get(slot), std::slice::from_ref(&pool.label));
                });
            })
            .build();
    }
    for (name, slot, text) in [
        (
            metric::CONNECTION_CHURNING,
            Slot::Churning,
            "1 while nearly every connection ends after hardly a command.",
        ),
        (
            metric::CONNECTION_EXHAUSTED,
            Slot::Exhausted,
            "1 while for long no connection is idle when one is needed.",
        ),
    ] {
        let pools = Arc::clone(all);
        let _ = meter
            .i64_observable_gauge(name)
            .with_unit("{pool}")
            .with_description(text)
            .with_callback(move |observer| {
                each(&pools, |pool| {
                    observer.observe(pool.get(slot), std::slice::from_ref(&pool.label));
                });
            })
            .build();
    }
    for (name, unit, slot, text) in [
        (
            metric::CONNECTION_OPENED,
            "{connection}",
            Slot::Opened,
            "Connections established.",
        ),
        (
            metric::CONNECTION_HEALTH_CHECKS,
            "{operation}",
            Slot::HealthChecks,
            "Tests of idle connections, without those of their set-up.",
        ),
        (
            metric::CONNECTION_CHURNED,
            "{connection}",
            Slot::Churned,
            "Connections that ended after hardly a command.",
        ),
    ] {
        let pools = Arc::clone(all);
        let _ = meter
            .u64_observable_counter(name)
            .with_unit(unit)
            .with_description(text)
            .with_callback(move |observer| {
                each(&pools, |pool| {
                    observer.observe(pool.count(slot), std::slice::from_ref(&pool.label));
                });
            })
            .build();
    }
    let pools = Arc::clone(all);
    let _ = meter
        .f64_observable_counter(metric::CONNECTION_EXHAUSTED_TIME)
        .with_unit("s")
        .with_description("Time without an idle connection when one was needed.")
        .with_callback(move |observer| {
            each(&pools, |pool| {
                let nanos = pool.count(Slot::ExhaustedNanos);
                observer.observe(nanos as f64 / 1e9, std::slice::from_ref(&pool.label));
            });
        })
        .build();
    let closed: fn(Option<Fault>) -> Slot = Slot::Closed;
    for (name, slot, none, text) in [
        (
            metric::CONNECTION_CLOSED,
            closed,
            None,
            "Connections that ended; with error.type where neither end closed them.",
        ),
        (
            metric::CONNECTION_FAILED,
            Slot::Failed,
            Some(value::CANCELED),
            "Attempts that led to no connection.",
        ),
    ] {
        let pools = Arc::clone(all);
        let _ = meter
            .u64_observable_counter(name)
            .with_unit("{connection}")
            .with_description(text)
            .with_callback(move |observer| {
                each(&pools, |pool| {
                    for fault in faults() {
                        let count = pool.count(slot(fault));
                        match fault.map(fault_name).or(none) {
                            None => observer.observe(count, std::slice::from_ref(&pool.label)),
                            Some(error) if count > 0 => {
                                observer.observe(count, &pool.labels(attribute::ERROR_TYPE, error));
                            }
                            Some(_) => {}
                        }
                    }
                });
            })
            .build();
    }
}

/// The names of cache guides.
fn observe_duplicates(meter: &Meter, all: &All) {
    type Read = fn(&Shared) -> i64;
    let size: Read = |pool| pool.get(Slot::Idle) + pool.get(Slot::Used);
    for (name, estimate, read) in [
        (metric::POOL_SIZE, false, size),
        (metric::POOL_AVAILABLE, false, |pool: &Shared| {
            pool.get(Slot::Idle)
        }),
        (metric::POOL_PENDING, true, |pool: &Shared| {
            pool.get(Slot::Opening) + pool.get(Slot::Queued)
        }),
    ] {
        let pools = Arc::clone(all);
        let _ = meter
            .i64_observable_gauge(name)
            .with_callback(move |observer| {
                each(&pools, |pool| {
                    if !pool.redis {
                        return;
                    }
                    if estimate {
                        let labels = pool.labels(attribute::ESTIMATED, value::TRUE);
                        observer.observe(read(pool), &labels);
                    } else {
                        observer.observe(read(pool), std::slice::from_ref(&pool.label));
                    }
                });
            })
            .build();
    }
}
