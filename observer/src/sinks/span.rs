//! An observation as a span, in terms that no exporter owns. telemetry.md, "Spans", says what each attribute means.

mod batch;
mod connection;
mod older;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};

use self::connection::{client, connection};
use super::keys;
use super::options::SpanLimits;
use super::policy::Sample;
use crate::aggregation::{SpanReference, failure, value_size};
use crate::config::export::{Export, Keys, Naming, SpansPipeline};
use crate::enrichment::{Observation, Service};
use crate::protocol::{HitRule, Operation, Request};
use crate::source::event::{End, Nanos};
use crate::telemetry::names::attribute;
use crate::transaction::{Batch, Ending, Exchange, Transaction};

/// The identity of a span, the same for every exporter; and how it came to be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) parent: Option<Parent>,
    pub(super) sample: Sample,
}

/// The span that another is a child of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) span: SpanId,
    /// It is another process's.
    pub(super) remote: bool,
}

impl Ids {
    /// A new span, in the trace that was drawn.
    pub(super) fn new(sample: Sample) -> Self {
        let generator = RandomIdGenerator::default();
        Self {
            trace: sample.trace.unwrap_or_else(|| generator.new_trace_id()),
            span: generator.new_span_id(),
            parent: None,
            sample,
        }
    }

    /// The server's part of a client's span, which was exported as `sample` says.
    pub(super) fn served(client: SpanReference, sample: Sample) -> Self {
        Self {
            trace: client.trace,
            span: RandomIdGenerator::default().new_span_id(),
            parent: Some(Parent {
                span: client.span,
                remote: true,
            }),
            sample,
        }
    }

    /// A child of it.
    fn child(self) -> Self {
        Self {
            span: RandomIdGenerator::default().new_span_id(),
            parent: Some(Parent {
                span: self.span,
                remote: false,
            }),
            ..self
        }
    }
}

/// A span. Those of batches may have children, and a client's may have a server's; each other is a root: the application's
/// trace context is not on the wire.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    pub(super) ids: Ids,
    pub(super) name: String,
    pub(super) kind: SpanKind,
    /// Nanoseconds since the Unix epoch.
    pub(super) start: u64,
    /// Nanoseconds since the Unix epoch.
    pub(super) end: u64,
    pub(super) failed: bool,
    pub(super) attributes: Vec<KeyValue>,
    /// Attributes beyond the limit.
    pub(super) dropped: u32,
    pub(super) service: Arc<Service>,
}

impl Span {
    /// The spans of an observation: one for a command, one for a batch, followed by those of its commands where they
    /// are wanted.
    pub(super) fn of(observation: &Observation, ids: Ids, limits: SpanLimits) -> Vec<Self> {
        let mut spans = match &observation.exchange {
            unseen if !unseen.is_seen() => Vec::new(),
            Exchange::One(transaction) => vec![Self::command(observation, transaction, ids)],
            Exchange::Batch(batch) => {
                let mut spans = vec![Self::batch(observation, batch, ids)];
                if observation.export.spans.pipeline == SpansPipeline::Commands {
                    let seen = |transaction: &&Transaction| !transaction.ending.is_unseen();
                    let child = |transaction: &Transaction| {
                        Self::command(observation, transaction, ids.child())
                    };
                    spans.extend(batch.transactions.iter().filter(seen).map(child));
                }
                spans
            }
            Exchange::Life(life) => vec![Self {
                failed: life.error.is_some(),
                attributes: connection::life(observation, life),
                ..Self::begin(
                    observation,
                    ids,
                    connection::operation(life),
                    (life.start, life.end),
                )
            }],
        };
        for span in &mut spans {
            if let Some(ratio) = ids.sample.ratio() {
                let ratio = KeyValue::new(attribute::SAMPLING_RATIO, ratio);
                span.attributes.push(ratio);
            }
            if observation.export.naming == Naming::Dup {
                span.add_older_names(observation);
            }
            span.limit(limits);
        }
        spans
    }

    fn add_older_names(&mut self, observation: &Observation) {
        let Some(first) = observation.exchange.transactions().first() else {
            return;
        };
        let answered = |pair: &KeyValue| pair.key.as_str() != attribute::CACHE_NO_REPLY;
        let millis = (self.end - self.start) as f64 / 1e6;
        let millis = self.attributes.iter().all(answered).then_some(millis);
        let names = older::names(first.protocol, &self.attributes, millis);
        self.attributes.extend(names);
    }

    /// Drops and cuts what is beyond the limits.
    fn limit(&mut self, limits: SpanLimits) {
        let beyond = self.attributes.len().saturating_sub(limits.attributes);
        self.dropped = beyond as u32;
        self.attributes.truncate(limits.attributes);
        if limits.length == usize::MAX {
            return;
        }
        let cut = |text: &mut StringValue| {
            if let Some((end, _)) = text.as_str().char_indices().nth(limits.length) {
                *text = text.as_str()[..end].to_owned().into();
            }
        };
        for attribute in &mut self.attributes {
            match &mut attribute.value {
                Value::String(text) => cut(text),
                Value::Array(Array::String(texts)) => texts.iter_mut().for_each(cut),
                _ => {}
            }
        }
    }

    /// How many spans an exchange has.
    pub(super) fn count(exchange: &Exchange, export: &Export) -> usize {
        let seen = |transaction: &&Transaction| !transaction.ending.is_unseen();
        match exchange {
            unseen if !unseen.is_seen() => 0,
            Exchange::One(_) => 1,
            Exchange::Batch(batch) => match export.spans.pipeline {
                SpansPipeline::Batch => 1,
                SpansPipeline::Commands => 1 + batch.transactions.iter().filter(seen).count(),
            },
            Exchange::Life(_) => 1,
        }
    }

    fn command(observation: &Observation, transaction: &Transaction, ids: Ids) -> Self {
        let operation = transaction.request.operation.name();
        Self {
            failed: failure(transaction).is_some(),
            attributes: attributes(observation, transaction),
            ..Self::begin(
                observation,
                ids,
                operation,
                (transaction.start, transaction.end),
            )
        }
    }

    fn batch(observation: &Observation, batch: &Batch, ids: Ids) -> Self {
        let seen = || batch.transactions.iter();
        let start = seen().map(|one| one.start).min().unwrap_or(0);
        let end = seen().map(|one| one.end).max().unwrap_or(start);
        Self {
            failed: seen().any(|one| failure(one).is_some()),
            attributes: batch::attributes(observation, batch),
            ..Self::begin(observation, ids, &batch::operation(batch), (start, end))
        }
    }

    /// What all spans have.
    fn begin(observation: &Observation, ids: Ids, operation: &str, times: (Nanos, Nanos)) -> Self {
        let endpoint = &observation.endpoint;
        let start = observation.clock.unix_nanos(times.0);
        Self {
            ids,
            name: format!("{operation} {}", endpoint.authority()),
            kind: match endpoint.end {
                End::Client => SpanKind::Client,
                End::Server => SpanKind::Server,
            },
            start,
            end: observation.clock.unix_nanos(times.1).max(start),
            failed: false,
            attributes: Vec::new(),
            dropped: 0,
            service: Arc::clone(&observation.service),
        }
    }

    /// Tells whoever counts spans what this one counts.
    fn trace_state(&self) -> TraceState {
        let sampled = self.ids.sample.trace_state();
        sampled
            .and_then(|text| TraceState::from_key_value([("ot", text)]).ok())
            .unwrap_or(TraceState::NONE)
    }

    /// As the SDK's exporters take it.
    pub(super) fn into_data(self, scope: &InstrumentationScope) -> SpanData {
        SpanData {
            span_context: SpanContext::new(
                self.ids.trace,
                self.ids.span,
                TraceFlags::SAMPLED,
                false,
                self.trace_state(),
            ),
            parent_span_id: self
                .ids
                .parent
                .map_or(SpanId::INVALID, |parent| parent.span),
            parent_span_is_remote: self.ids.parent.is_some_and(|parent| parent.remote),
            span_kind: self.kind,
            name: Cow::Owned(self.name),
            start_time: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.start),
            end_time: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.end),
            attributes: self.attributes,
            dropped_attributes_count: self.dropped,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            // The server's message may quote keys or values, so it is not given.
            status: match self.failed {
                true => Status::error(""),
                false => Status::Unset,
            },
            instrumentation_scope: scope.clone(),
        }
    }
}

fn attributes(observation: &Observation, transaction: &Transaction) -> Vec<KeyValue> {
    let request = &transaction.request;
    let outcome = &transaction.outcome;
    let operation = operation_name(request);
    let protocol = transaction.protocol;
    let mut list = connection(observation, protocol, operation, request.class);
    let mut put = |name: &'static str, value: Value| list.push(KeyValue::new(name, value));
    if let Some(database) = transaction.database {
        put(attribute::DB_NAMESPACE, database.to_string().into());
    }
    let detail = request.detail.as_deref();
    if let Some(detail) = detail.filter(|detail| !detail.text.is_empty()) {
        let text = keys::text(&observation.export, detail).into_owned();
        put(attribute::DB_QUERY_TEXT, text.into());
    }
    // A status that is no error is told too: it has no `error.type`.
    if let Some(error) = outcome.error.as_ref().or(outcome.status.as_ref()) {
        put(
            attribute::DB_RESPONSE_STATUS_CODE,
            error.as_str().to_owned().into(),
        );
    }
    if let Some(failure) = failure(transaction) {
        put(attribute::ERROR_TYPE, failure.name().to_owned().into());
    }
    if let Some(procedure) = detail.and_then(|detail| detail.stored_procedure.as_ref())
        && let Some(procedure) = keys::key(&observation.export, procedure)
    {
        put(
            attribute::DB_STORED_PROCEDURE_NAME,
            procedure.into_owned().into(),
        );
    }
    let mut names = shown(
        observation,
        detail.into_iter().flat_map(|detail| &detail.keys),
    );
    match names.len() {
        0 => {}
        1 if request.key_count <= 1 => put(attribute::CACHE_KEY, names.remove(0).into()),
        _ => put(attribute::CACHE_KEY, Value::Array(Array::String(names))),
    }
    if observation.export.keys != Keys::None
        && let Some(patterns) =
            detail.and_then(|detail| key_patterns(&observation.export, &detail.keys))
    {
        put(attribute::CACHE_KEY_PATTERN, patterns);
    }
    if request.key_count > 1 {
        put(
            attribute::CACHE_KEY_COUNT,
            i64::from(request.key_count).into(),
        );
    }
    match (outcome.hits, outcome.misses) {
        (hits, misses) if hits.saturating_add(misses) == 1 && asked(request) <= 1 => {
            put(attribute::CACHE_HIT, (hits == 1).into());
        }
        (hits, misses) => found(hits.into(), misses.into(), &mut put),
    }
    if let Some(size) = value_size(transaction) {
        put(attribute::CACHE_VALUE_SIZE, integer(size));
    }
    if let Some(ttl) = request.ttl {
        let start = observation.clock.unix_nanos(transaction.start);
        put(attribute::CACHE_TTL, ttl.seconds(start).into());
    }
    if let Some(remaining) = outcome.remaining {
        let end = observation.clock.unix_nanos(transaction.end);
        put(
            attribute::CACHE_TTL_REMAINING,
            remaining.seconds(end).into(),
        );
    }
    if let Some(deleted) = outcome.deleted {
        put(attribute::CACHE_DELETED_COUNT, integer(deleted));
    }
    if let Some(redirect) = &outcome.redirect {
        put(
            attribute::CACHE_REDIRECT,
            redirect.as_str().to_owned().into(),
        );
    }
    if request.blocking {
        put(attribute::CACHE_BLOCKING, true.into());
    }
    if transaction.ending == Ending::NoReply {
        put(attribute::CACHE_NO_REPLY, true.into());
    }
    list.extend(client(observation, transaction));
    list
}

/// Keys as the connection's settings want them.
fn shown<'a>(
    observation: &Observation,
    keys: impl Iterator<Item = &'a String>,
) -> Vec<StringValue> {
    keys.filter_map(|key| keys::key(&observation.export, key))
        .map(|key| StringValue::from(key.into_owned()))
        .collect()
}

/// Several keys or fields: how many of them were there.
fn found(hits: u64, misses: u64, put: &mut dyn FnMut(&'static str, Value)) {
    let total = hits + misses;
    if total > 0 {
        put(attribute::CACHE_HITS, integer(hits));
        put(attribute::CACHE_MISSES, integer(misses));
        put(
            attribute::CACHE_HIT_RATE,
            (hits as f64 / total as f64).into(),
        );
    }
}

/// The pattern that all keys share, or the different ones in order.
fn key_patterns(export: &Export, keys: &[String]) -> Option<Value> {
    let pattern = |key: &String| keys::pattern_of(export, key);
    let (first, rest) = keys.split_first()?;
    let first = pattern(first);
    let mut others: Vec<String> = Vec::new();
    for key in rest {
        let pattern = pattern(key);
        if pattern != first && !others.contains(&pattern) {
            others.push(pattern);
        }
    }
    if others.is_empty() {
        return Some(first.into());
    }
    let all = std::iter::once(first).chain(others).map(StringValue::from);
    Some(Value::Array(Array::String(all.collect())))
}

fn operation_name(request: &Request) -> Value {
    match &request.operation {
        Operation::Known { name, .. } => Value::from(*name),
        Operation::Other(word) => word.as_str().to_owned().into(),
    }
}

/// Keys or fields that the request asked for, as far as its hit rule says.
fn asked(request: &Request) -> u32 {
    match request.hit_rule {
        HitRule::NullElements { asked }
        | HitRule::Count { asked }
        | HitRule::ZeroElements { asked }
        | HitRule::Values { asked } => asked,
        HitRule::None
        | HitRule::Null
        | HitRule::Empty
        | HitRule::MinusTwo
        | HitRule::Type
        | HitRule::Found => 1,
    }
}

fn integer(number: u64) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

#[cfg(test)]
mod tests;
