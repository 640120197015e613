//! The series of one service at one server: handles found by array index and bound at their first use.
//!
//! A handle is bound late because the SDK exports every bound series, also those that were never written. Attributes are
//! given sorted by name: the SDK then keeps one key for each series, not two.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundHistogram};

use super::exemplar::{Exemplar, Exemplars, SpanReference};
use super::facts::{self, Failure};
use super::metrics::ServiceMetrics;
use super::quantile::Percentile;
use super::rate::Rate;
use crate::enrichment::Endpoint;
use crate::protocol::{Class, Operation, Protocol, Word};
use crate::source::event::{Clock, End};
use crate::telemetry::names::{attribute, metric, value};
use crate::transaction::Transaction;

/// Names outside the command table with latency series of their own; further ones share `_OTHER`.
const MAX_OTHERS: usize = 16;
/// Error types with series of their own; further ones share `_OTHER`.
const MAX_FAILURES: usize = 16;
/// Databases with latency series of their own; further ones share `_OTHER`.
const MAX_DATABASES: usize = 32;
/// Largest index of a known operation that is believed. The tables hold a few hundred.
const MAX_INDEX: u16 = 4096;
/// No slot yet.
const NONE: u16 = u16::MAX;

#[derive(Debug)]
pub(super) struct SeriesSet {
    service: Arc<ServiceMetrics>,
    labels: Labels,
    databases: Vec<Database>,
    /// Index of the database used last: connections rarely change it.
    last: usize,
    classes: [Option<Box<ClassSeries>>; Class::ALL.len()],
    failures: Failures<BoundCounter<u64>>,
    ttl: Option<BoundHistogram<u64>>,
    rate: Arc<Rate>,
}

/// Attribute values that are fixed for the set.
#[derive(Debug)]
struct Labels {
    end: End,
    protocol: Protocol,
    cache: String,
    address: String,
    /// A unix socket has none.
    port: Option<i64>,
}

/// The value of `db.namespace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Unknown,
    Number(u32),
    /// One of those beyond the budget.
    Beyond,
}

#[derive(Debug)]
struct Database {
    namespace: Namespace,
    /// Index of a known operation to its slot.
    known: Vec<u16>,
    others: Vec<(Word, u16)>,
    beyond: u16,
    slots: Vec<Latency>,
}

#[derive(Debug, Default)]
struct Latency {
    success: Option<Timed>,
    returned: Option<BoundHistogram<u64>>,
    failures: Failures<Timed>,
}

#[derive(Debug)]
struct Timed {
    histogram: BoundHistogram<f64>,
    /// From the first exported span on.
    exemplars: Option<Arc<Exemplars>>,
}

impl Timed {
    fn new(histogram: BoundHistogram<f64>) -> Self {
        Self {
            histogram,
            exemplars: None,
        }
    }
}

#[derive(Debug)]
struct ClassSeries {
    operations: BoundCounter<u64>,
    /// Hits and misses: bound together, so that a hit rate can be told from the first on.
    keys: Option<(BoundCounter<u64>, BoundCounter<u64>)>,
    latency: Option<Timed>,
    value_size: Option<BoundHistogram<u64>>,
    slow: Percentile,
}

/// One handle for each error type, few enough to be searched.
#[derive(Debug)]
struct Failures<T> {
    named: Vec<(Failure, T)>,
    beyond: Option<T>,
}

impl<T> Default for Failures<T> {
    fn default() -> Self {
        Self {
            named: Vec::new(),
            beyond: None,
        }
    }
}

impl<T> Failures<T> {
    /// The handle for an error type, and the name it is bound under.
    fn get(&mut self, failure: Failure, bind: impl FnOnce(&str) -> T) -> (&mut T, &str) {
        let known = self.named.iter().position(|(known, _)| *known == failure);
        let at = match known {
            None if self.named.len() >= MAX_FAILURES => {
                let beyond = self.beyond.get_or_insert_with(|| bind(value::OTHER));
                return (beyond, value::OTHER);
            }
            None => {
                self.named.push((failure, bind(failure.name())));
                self.named.len() - 1
            }
            Some(at) => at,
        };
        let (failure, handle) = &mut self.named[at];
        (handle, failure.name())
    }
}

impl SeriesSet {
    pub(super) fn new(
        service: Arc<ServiceMetrics>,
        endpoint: &Endpoint,
        protocol: Protocol,
    ) -> Self {
        Self {
            rate: service.rate(&endpoint.cache),
            service,
            labels: Labels {
                end: endpoint.end,
                protocol,
                cache: endpoint.cache.clone(),
                address: endpoint.server_address(),
                port: endpoint.server.port().map(i64::from),
            },
            databases: Vec::new(),
            last: 0,
            classes: [const { None }; Class::ALL.len()],
            failures: Failures::default(),
            ttl: None,
        }
    }

    pub(super) fn service(&self) -> &Arc<ServiceMetrics> {
        &self.service
    }

    /// Answers whether it took longer than 99 of 100 commands of its class.
    pub(super) fn record(&mut self, transaction: &Transaction, clock: Clock) -> bool {
        let failure = facts::failure(transaction);
        let latency = self.record_duration(transaction);
        if let Some(rows) = transaction.outcome.returned
            && self.labels.end == End::Client
        {
            self.returned(transaction, rows);
        }
        let Self {
            service,
            labels,
            classes,
            failures,
            ttl,
            rate,
            ..
        } = self;
        let class = transaction.request.class;
        let series = classes[class as usize].get_or_insert_with(|| {
            let operations = service.operations.bind(&labels.class(class));
            Box::new(ClassSeries {
                operations,
                keys: None,
                latency: None,
                value_size: None,
                slow: Percentile::default(),
            })
        });
        series.operations.add(1);
        let slow = latency.is_some_and(|nanos| series.slow.exceeded(nanos));
        if let Some(nanos) = latency {
            series
                .latency
                .get_or_insert_with(|| Timed::new(service.latency.bind(&labels.size(class))))
                .histogram
                .record(nanos / 1e6);
        }
        let (hits, misses) = (transaction.outcome.hits, transaction.outcome.misses);
        if hits > 0 || misses > 0 {
            rate.add(hits, misses);
            let (hit, miss) = series.keys.get_or_insert_with(|| {
                let labels = labels.class(class);
                (service.hits.bind(&labels), service.misses.bind(&labels))
            });
            if hits > 0 {
                hit.add(u64::from(hits));
            }
            if misses > 0 {
                miss.add(u64::from(misses));
            }
        }
        if let Some(size) = facts::value_size(transaction) {
            series
                .value_size
                .get_or_insert_with(|| service.value_size.bind(&labels.size(class)))
                .record(size);
        }
        if let Some(seconds) = facts::ttl(transaction, clock) {
            ttl.get_or_insert_with(|| service.ttl.bind(&labels.cache()))
                .record(seconds);
        }
        if let Some(failure) = failure {
            failures
                .get(failure, |name| service.errors.bind(&labels.error(name)))
                .0
                .add(1);
        }
        slow
    }

    /// The duration alone: answers it, nanoseconds, where there is one.
    pub(super) fn record_duration(&mut self, transaction: &Transaction) -> Option<f64> {
        let nanos = facts::has_latency(transaction)
            .then(|| transaction.end.saturating_sub(transaction.start) as f64)?;
        let failure = facts::failure(transaction);
        self.latency(transaction, failure, |timed, _| {
            timed.histogram.record(nanos / 1e9);
        });
        Some(nanos)
    }

    /// The buckets that a transaction was counted in point to the span it is exported as.
    pub(super) fn point(&mut self, transaction: &Transaction, clock: Clock, span: SpanReference) {
        let Some(table) = self.service.exemplars.clone() else {
            return;
        };
        if !facts::has_latency(transaction) {
            return;
        }
        let nanos = transaction.end.saturating_sub(transaction.start) as f64;
        let time = clock.unix_nanos(transaction.end);
        let exemplar = |value| Exemplar { span, value, time };
        let duration = match self.labels.end {
            End::Client => metric::CLIENT_DURATION,
            End::Server => metric::SERVER_DURATION,
        };
        self.latency(transaction, facts::failure(transaction), |timed, labels| {
            timed
                .exemplars
                .get_or_insert_with(|| table.of(duration, labels()))
                .put(exemplar(nanos / 1e9));
        });
        let class = transaction.request.class;
        let series = self.classes[class as usize].as_mut();
        if let Some(timed) = series.and_then(|series| series.latency.as_mut()) {
            timed
                .exemplars
                .get_or_insert_with(|| table.of(metric::LATENCY, self.labels.size(class).to_vec()))
                .put(exemplar(nanos / 1e6));
        }
    }

    /// Does something with the series by operation, which is bound at its first use. What is done may ask for its labels.
    fn latency(
        &mut self,
        transaction: &Transaction,
        failure: Option<Failure>,
        act: impl FnOnce(&mut Timed, &dyn Fn() -> Vec<KeyValue>),
    ) {
        let at = self.database(transaction.database);
        let histogram = match self.labels.end {
            End::Client => &self.service.client_duration,
            End::Server => &self.service.server_duration,
        };
        let operation = &transaction.request.operation;
        let database = &mut self.databases[at];
        let (slot, beyond) = database.slot(operation);
        let namespace = database.namespace;
        let labels = |error: Option<&str>| {
            let name = if beyond {
                value::OTHER
            } else {
                operation.name()
            };
            self.labels.operation(namespace, name, error)
        };
        let bind = |error: Option<&str>| Timed::new(histogram.bind(&labels(error)));
        let latency = &mut database.slots[usize::from(slot)];
        match &failure {
            None => {
                let timed = latency.success.get_or_insert_with(|| bind(None));
                act(timed, &|| labels(None));
            }
            Some(failure) => {
                let (timed, name) = latency.failures.get(*failure, |name| bind(Some(name)));
                act(timed, &|| labels(Some(name)));
            }
        }
    }

    fn returned(&mut self, transaction: &Transaction, rows: u64) {
        let at = self.database(transaction.database);
        let operation = &transaction.request.operation;
        let database = &mut self.databases[at];
        let (slot, beyond) = database.slot(operation);
        let namespace = database.namespace;
        let slot = &mut database.slots[usize::from(slot)];
        slot.returned
            .get_or_insert_with(|| {
                let name = if beyond {
                    value::OTHER
                } else {
                    operation.name()
                };
                let labels = self.labels.operation(namespace, name, None);
                self.service.returned.bind(&labels)
            })
            .record(rows);
    }

    /// Index of the database's series.
    fn database(&mut self, number: Option<u32>) -> usize {
        let namespace = number.map_or(Namespace::Unknown, Namespace::Number);
        if self
            .databases
            .get(self.last)
            .is_some_and(|database| database.namespace == namespace)
        {
            return self.last;
        }
        let find = |databases: &[Database], namespace| {
            databases
                .iter()
                .position(|database| database.namespace == namespace)
        };
        let namespace = match find(&self.databases, namespace) {
            None if self.databases.len() >= MAX_DATABASES => Namespace::Beyond,
            _ => namespace,
        };
        self.last = find(&self.databases, namespace).unwrap_or_else(|| {
            self.databases.push(Database::new(namespace));
            self.databases.len() - 1
        });
        self.last
    }
}

impl Database {
    fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            known: Vec::new(),
            others: Vec::new(),
            beyond: NONE,
            slots: Vec::new(),
        }
    }

    /// The slot of an operation, and whether it is the one that names beyond the budget share.
    fn slot(&mut self, operation: &Operation) -> (u16, bool) {
        match operation {
            Operation::Known { index, .. } if *index <= MAX_INDEX => {
                let index = usize::from(*index);
                if self.known.len() <= index {
                    self.known.resize(index + 1, NONE);
                }
                if self.known[index] == NONE {
                    self.known[index] = new_slot(&mut self.slots);
                }
                return (self.known[index], false);
            }
            Operation::Known { .. } => {}
            Operation::Other(word) => {
                if let Some((_, slot)) = self.others.iter().find(|(other, _)| other == word) {
                    return (*slot, false);
                }
                if self.others.len() < MAX_OTHERS {
                    let slot = new_slot(&mut self.slots);
                    self.others.push((*word, slot));
                    return (slot, false);
                }
            }
        }
        if self.beyond == NONE {
            self.beyond = new_slot(&mut self.slots);
        }
        (self.beyond, true)
    }
}

/// At most [`MAX_INDEX`] + [`MAX_OTHERS`] + 2 slots are ever asked for, which a `u16` holds.
fn new_slot(slots: &mut Vec<Latency>) -> u16 {
    slots.push(Latency::default());
    (slots.len() - 1) as u16
}

impl Labels {
    fn operation(
        &self,
        namespace: Namespace,
        operation: &str,
        error: Option<&str>,
    ) -> Vec<KeyValue> {
        let mut labels = Vec::with_capacity(6);
        match namespace {
            Namespace::Unknown => {}
            Namespace::Number(number) => {
                labels.push(KeyValue::new(attribute::DB_NAMESPACE, number.to_string()))
            }
            Namespace::Beyond => labels.push(KeyValue::new(attribute::DB_NAMESPACE, value::OTHER)),
        }
        labels.push(KeyValue::new(
            attribute::DB_OPERATION_NAME,
            operation.to_owned(),
        ));
        labels.push(KeyValue::new(
            attribute::DB_SYSTEM_NAME,
            self.protocol.name(),
        ));
        if let Some(error) = error {
            labels.push(KeyValue::new(attribute::ERROR_TYPE, error.to_owned()));
        }
        labels.push(KeyValue::new(
            attribute::SERVER_ADDRESS,
            self.address.clone(),
        ));
        labels.extend(
            self.port
                .map(|port| KeyValue::new(attribute::SERVER_PORT, port)),
        );
        labels
    }

    fn class(&self, class: Class) -> [KeyValue; 3] {
        [
            KeyValue::new(attribute::CACHE_NAME, self.cache.clone()),
            KeyValue::new(attribute::CACHE_OPERATION, class.name()),
            KeyValue::new(attribute::DB_SYSTEM_NAME, self.protocol.name()),
        ]
    }

    fn size(&self, class: Class) -> [KeyValue; 2] {
        [
            KeyValue::new(attribute::CACHE_NAME, self.cache.clone()),
            KeyValue::new(attribute::CACHE_OPERATION, class.name()),
        ]
    }

    fn cache(&self) -> [KeyValue; 1] {
        [KeyValue::new(attribute::CACHE_NAME, self.cache.clone())]
    }

    fn error(&self, error: &str) -> [KeyValue; 2] {
        [
            KeyValue::new(attribute::CACHE_NAME, self.cache.clone()),
            KeyValue::new(attribute::ERROR_TYPE, error.to_owned()),
        ]
    }
}
