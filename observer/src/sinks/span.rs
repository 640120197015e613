//! An observation as a span, in terms that no exporter owns. telemetry.md, "Spans", says what each attribute means.

mod batch;
mod connection;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};

use self::connection::{client, connection};
use crate::aggregation::pattern::pattern;
use crate::aggregation::{failure, value_size};
use crate::config::export::SpansPipeline;
use crate::config::templates::Templates;
use crate::enrichment::{Observation, Service, join};
use crate::protocol::{HitRule, Operation, Request};
use crate::source::event::{End, Nanos};
use crate::telemetry::names::attribute;
use crate::transaction::{Batch, Ending, Exchange, Transaction};

/// The identity of a span: the same for every exporter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

impl Ids {
    pub(super) fn random() -> Self {
        let generator = RandomIdGenerator::default();
        Self {
            trace: generator.new_trace_id(),
            span: generator.new_span_id(),
        }
    }
}

/// A span. Those of batches may have children; each other is a root: the application's trace context is not on the
/// wire.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    pub(super) ids: Ids,
    pub(super) parent: Option<SpanId>,
    pub(super) name: String,
    pub(super) kind: SpanKind,
    /// Nanoseconds since the Unix epoch.
    pub(super) start: u64,
    /// Nanoseconds since the Unix epoch.
    pub(super) end: u64,
    pub(super) failed: bool,
    pub(super) attributes: Vec<KeyValue>,
    pub(super) service: Arc<Service>,
}

impl Span {
    /// The spans of an observation: one for a command, one for a batch, followed by those of its commands where they
    /// are wanted.
    pub(super) fn of(observation: &Observation, ids: Ids) -> Vec<Self> {
        match &observation.exchange {
            Exchange::One(transaction) if transaction.ending.is_unseen() => Vec::new(),
            Exchange::One(transaction) => vec![Self::command(observation, transaction, ids, None)],
            Exchange::Batch(batch) => {
                let mut spans = vec![Self::batch(observation, batch, ids)];
                if observation.export.spans.pipeline == SpansPipeline::Commands {
                    let seen = |transaction: &&Transaction| !transaction.ending.is_unseen();
                    let child = |transaction: &Transaction| {
                        let own = Ids {
                            trace: ids.trace,
                            span: Ids::random().span,
                        };
                        Self::command(observation, transaction, own, Some(ids.span))
                    };
                    spans.extend(batch.transactions.iter().filter(seen).map(child));
                }
                spans
            }
        }
    }

    fn command(
        observation: &Observation,
        transaction: &Transaction,
        ids: Ids,
        parent: Option<SpanId>,
    ) -> Self {
        let operation = transaction.request.operation.name();
        Self {
            parent,
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
            parent: None,
            name: format!("{operation} {}", join(endpoint.server)),
            kind: match endpoint.end {
                End::Client => SpanKind::Client,
                End::Server => SpanKind::Server,
            },
            start,
            end: observation.clock.unix_nanos(times.1).max(start),
            failed: false,
            attributes: Vec::new(),
            service: Arc::clone(&observation.service),
        }
    }

    /// As the SDK's exporters take it.
    pub(super) fn into_data(self, scope: &InstrumentationScope) -> SpanData {
        SpanData {
            span_context: SpanContext::new(
                self.ids.trace,
                self.ids.span,
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: self.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: false,
            span_kind: self.kind,
            name: Cow::Owned(self.name),
            start_time: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.start),
            end_time: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.end),
            attributes: self.attributes,
            dropped_attributes_count: 0,
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
    let mut list = connection(observation, transaction, operation, request.class);
    let mut put = |name: &'static str, value: Value| list.push(KeyValue::new(name, value));
    if let Some(database) = transaction.database {
        put(attribute::DB_NAMESPACE, database.to_string().into());
    }
    let detail = request.detail.as_deref();
    if let Some(detail) = detail.filter(|detail| !detail.text.is_empty()) {
        put(attribute::DB_QUERY_TEXT, detail.text.clone().into());
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
    if let Some(procedure) = detail.and_then(|detail| detail.stored_procedure.as_ref()) {
        put(
            attribute::DB_STORED_PROCEDURE_NAME,
            procedure.clone().into(),
        );
    }
    match detail.map(|detail| detail.keys.as_slice()) {
        None | Some([]) => {}
        Some([key]) if request.key_count <= 1 => put(attribute::CACHE_KEY, key.clone().into()),
        Some(keys) => {
            let keys = keys.iter().map(|key| StringValue::from(key.clone()));
            put(
                attribute::CACHE_KEY,
                Value::Array(Array::String(keys.collect())),
            );
        }
    }
    let templates = &observation.export.templates;
    if let Some(patterns) = detail.and_then(|detail| key_patterns(&detail.keys, templates)) {
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
fn key_patterns(keys: &[String], templates: &Templates) -> Option<Value> {
    let pattern = |key: &String| match templates.find(key) {
        Some(own) => own.to_owned(),
        None => pattern(key),
    };
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
mod tests {
    use super::*;
    use crate::aggregation::testing::{endpoint, observation, transaction};
    use crate::protocol::{Class, Client, Detail, Expiry, Redirect, Word};

    fn ids() -> Ids {
        Ids {
            trace: TraceId::from(1_u128),
            span: SpanId::from(2_u64),
        }
    }

    fn one(observation: &Observation) -> Span {
        Span::of(observation, ids()).remove(0)
    }

    /// Attributes as `name=value`, without those that every span has.
    fn special(observation: &Observation) -> Vec<String> {
        let span = one(observation);
        let always = [
            "db.system.name",
            "db.operation.name",
            "cache.operation",
            "server.address",
            "server.port",
            "cache.name",
            "network.peer.address",
            "network.peer.port",
            "network.transport",
            "network.type",
            "db.namespace",
        ];
        let rest = span
            .attributes
            .iter()
            .filter(|attribute| !always.contains(&attribute.key.as_str()));
        rest.map(|attribute| format!("{}={}", attribute.key, attribute.value))
            .collect()
    }

    fn detail(text: &str, keys: &[&str]) -> Option<Box<Detail>> {
        Some(Box::new(Detail {
            text: text.to_owned(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            stored_procedure: None,
            client: None,
        }))
    }

    #[test]
    fn describes_a_hit() {
        let mut hit = transaction("GET", 3);
        hit.request.detail = detail("GET user:42", &["user:42"]);
        hit.outcome.hits = 1;
        hit.outcome.value_size = Some(5);
        let observation = observation(hit);
        let span = one(&observation);

        assert_eq!(span.name, "GET 127.0.0.1:6379");
        assert_eq!(span.kind, SpanKind::Client);
        assert_eq!(
            (span.start, span.end),
            (1_795_404_452_001_000_000, 1_795_404_452_001_200_000)
        );
        assert!(!span.failed);
        let all: Vec<_> = span
            .attributes
            .iter()
            .map(|a| format!("{}={}", a.key, a.value))
            .collect();
        assert_eq!(
            all,
            [
                "db.system.name=redis",
                "db.operation.name=GET",
                "cache.operation=get",
                "server.address=127.0.0.1",
                "server.port=6379",
                "cache.name=127.0.0.1:6379",
                "network.peer.address=127.0.0.1",
                "network.peer.port=6379",
                "network.transport=tcp",
                "network.type=ipv4",
                "db.namespace=0",
                "db.query.text=GET user:42",
                "cache.key=user:42",
                "cache.key_pattern=user:*",
                "cache.hit=true",
                "cache.value_size=5",
            ]
        );
    }

    #[test]
    fn says_who_the_client_is() {
        let mut get = transaction("GET", 3);
        get.client = Some(Arc::new(Client {
            user: Some("alice".to_owned()),
            name: None,
            library: Some("redis-py".to_owned()),
            library_version: Some("8.1.0".to_owned()),
        }));
        assert_eq!(
            special(&observation(get)),
            [
                "cache.user=alice",
                "cache.client.library.name=redis-py",
                "cache.client.library.version=8.1.0"
            ]
        );
    }

    #[test]
    fn describes_what_is_special() {
        let mut miss = transaction("GET", 3);
        miss.outcome.misses = 1;
        assert_eq!(special(&observation(miss)), ["cache.hit=false"]);

        let mut several = transaction("MGET", 4);
        several.request.key_count = 5;
        several.request.hit_rule = HitRule::NullElements { asked: 5 };
        several.request.detail = detail("", &["a", "b"]);
        several.outcome.hits = 3;
        several.outcome.misses = 2;
        assert_eq!(
            special(&observation(several)),
            [
                "cache.key=[\"a\",\"b\"]",
                "cache.key_pattern=[\"a\",\"b\"]",
                "cache.key_count=5",
                "cache.hits=3",
                "cache.misses=2",
                "cache.hit_rate=0.6"
            ]
        );

        let mut alike = transaction("MGET", 4);
        alike.request.key_count = 3;
        alike.request.detail = detail("", &["user:1", "user:2", "user:3"]);
        assert_eq!(special(&observation(alike))[1], "cache.key_pattern=user:*");

        let mut mixed = transaction("MGET", 4);
        mixed.request.key_count = 3;
        mixed.request.detail = detail("", &["user:1", "cart:2", "user:3"]);
        assert_eq!(
            special(&observation(mixed))[1],
            "cache.key_pattern=[\"user:*\",\"cart:*\"]"
        );

        let mut set = transaction("SET", 5);
        set.request.class = Class::Set;
        set.request.hit_rule = HitRule::None;
        set.request.value_size = Some(2046);
        set.request.ttl = Some(Expiry::After(60));
        assert_eq!(
            special(&observation(set)),
            ["cache.value_size=2046", "cache.ttl=60"]
        );

        let mut delete = transaction("DEL", 6);
        delete.outcome.deleted = Some(2);
        assert_eq!(special(&observation(delete)), ["cache.deleted_count=2"]);

        let mut script = transaction("EVALSHA", 7);
        script.request.detail = Some(Box::new(Detail {
            stored_procedure: Some("abc".to_owned()),
            ..Detail::default()
        }));
        assert_eq!(
            special(&observation(script)),
            ["db.stored_procedure.name=abc"]
        );

        let mut blocking = transaction("BLPOP", 8);
        blocking.request.blocking = true;
        assert_eq!(special(&observation(blocking)), ["cache.blocking=true"]);

        let mut quiet = transaction("SET", 5);
        quiet.ending = Ending::NoReply;
        assert_eq!(special(&observation(quiet)), ["cache.no_reply=true"]);
    }

    #[test]
    fn tells_errors_from_redirects() {
        let mut wrong = transaction("GET", 3);
        wrong.outcome.error = Some(Word::new(b"WRONGTYPE"));
        let wrong = observation(wrong);
        assert_eq!(
            special(&wrong),
            ["db.response.status_code=WRONGTYPE", "error.type=WRONGTYPE"]
        );
        assert!(one(&wrong).failed);

        let mut moved = transaction("GET", 3);
        moved.outcome.error = Some(Word::new(b"MOVED"));
        moved.outcome.redirect = Redirect::new(b"10.0.0.8:6380");
        let moved = observation(moved);
        assert_eq!(
            special(&moved),
            [
                "db.response.status_code=MOVED",
                "cache.redirect=10.0.0.8:6380"
            ]
        );
        assert!(!one(&moved).failed);

        let mut lost = transaction("GET", 3);
        lost.ending = Ending::Unanswered;
        let lost = observation(lost);
        assert_eq!(special(&lost), ["error.type=connection_closed"]);
        assert!(one(&lost).failed);
    }

    #[test]
    fn describes_the_server_s_end_and_ipv6() {
        let mut observed = observation(transaction("GET", 3));
        observed.endpoint = endpoint(End::Server, "[::1]:6379");
        let span = one(&observed);
        assert_eq!(span.name, "GET [::1]:6379");
        assert_eq!(span.kind, SpanKind::Server);
        let find = |name: &str| {
            let found = span
                .attributes
                .iter()
                .find(|attribute| attribute.key.as_str() == name);
            found.map(|attribute| attribute.value.to_string()).unwrap()
        };
        assert_eq!(find("server.address"), "::1");
        assert_eq!(find("cache.name"), "[::1]:6379");
        assert_eq!(find("network.peer.address"), "10.0.0.9");
        assert_eq!(find("network.peer.port"), "40000");
        assert_eq!(find("network.type"), "ipv4");
    }
}
