//! The span of a batch: what its commands add up to.

use opentelemetry::{Array, KeyValue, Value};

use super::super::keys;
use super::connection::{client, connection};
use super::{found, integer, shown};
use crate::aggregation::{failure, value_size};
use crate::enrichment::Observation;
use crate::protocol::{Class, Detail, Effect};
use crate::telemetry::names::attribute;
use crate::transaction::{Batch, BatchKind, Ending, Transaction};

/// Most bytes of the query texts of a batch, joined.
const MAX_TEXT: usize = 4_096;

/// The commands proper: MULTI and EXEC are only the brackets of a transaction.
fn commands(batch: &Batch) -> impl Iterator<Item = &Transaction> {
    let brackets = batch.kind == BatchKind::Transaction;
    batch.transactions.iter().filter(move |one| {
        !brackets || !matches!(one.request.effect, Effect::Multi | Effect::EndMulti)
    })
}

/// `MULTI`, `PIPELINE GET` where all commands are the same, `PIPELINE`.
pub(super) fn operation(batch: &Batch) -> String {
    match batch.kind {
        BatchKind::Transaction => "MULTI".to_owned(),
        BatchKind::Pipeline => {
            match same(commands(batch).map(|one| one.request.operation.name())) {
                Some(name) => format!("PIPELINE {name}"),
                None => "PIPELINE".to_owned(),
            }
        }
    }
}

/// The one value that all have.
fn same<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// In the order of the contract's table.
pub(super) fn attributes(observation: &Observation, batch: &Batch) -> Vec<KeyValue> {
    let Some(first) = batch.transactions.first() else {
        return Vec::new();
    };
    let class = match batch.kind {
        BatchKind::Transaction => Class::Transaction,
        BatchKind::Pipeline => {
            same(commands(batch).map(|one| one.request.class)).unwrap_or(Class::Other)
        }
    };
    let mut list = connection(observation, first.protocol, operation(batch).into(), class);
    let mut put = |name: &'static str, value: Value| list.push(KeyValue::new(name, value));
    if let Some(Some(database)) = same(batch.transactions.iter().map(|one| one.database)) {
        put(attribute::DB_NAMESPACE, database.to_string().into());
    }
    let text = text(observation, batch);
    if !text.is_empty() {
        put(attribute::DB_QUERY_TEXT, text.into());
    }
    if let Some(failed) = batch.transactions.iter().find(|one| failure(one).is_some()) {
        if let Some(error) = &failed.outcome.error {
            put(
                attribute::DB_RESPONSE_STATUS_CODE,
                error.as_str().to_owned().into(),
            );
        }
        if let Some(failure) = failure(failed) {
            put(attribute::ERROR_TYPE, failure.name().to_owned().into());
        }
    }
    let size = commands(batch).count() as u64;
    if size > 1 {
        put(attribute::DB_OPERATION_BATCH_SIZE, integer(size));
    }
    let details = || commands(batch).filter_map(|one| one.request.detail.as_deref());
    let keys = details().flat_map(|detail| &detail.keys);
    let keys = shown(observation, keys.take(Detail::MAX_KEYS));
    if !keys.is_empty() {
        put(attribute::CACHE_KEY, Value::Array(Array::String(keys)));
    }
    let count: u64 = commands(batch)
        .map(|one| u64::from(one.request.key_count))
        .sum();
    if count > 1 {
        put(attribute::CACHE_KEY_COUNT, integer(count));
    }
    let hits = commands(batch).map(|one| u64::from(one.outcome.hits)).sum();
    let misses = commands(batch)
        .map(|one| u64::from(one.outcome.misses))
        .sum();
    found(hits, misses, &mut put);
    let ran = || commands(batch).filter(|one| one.ending != Ending::NotExecuted);
    if let Some(size) = total(ran().map(value_size)) {
        put(attribute::CACHE_VALUE_SIZE, integer(size));
    }
    if let Some(deleted) = total(commands(batch).map(|one| one.outcome.deleted)) {
        put(attribute::CACHE_DELETED_COUNT, integer(deleted));
    }
    // Who it is at the end: a pipeline may begin with AUTH.
    list.extend(
        batch
            .transactions
            .last()
            .into_iter()
            .flat_map(|one| client(observation, one)),
    );
    list
}

/// The sum of what is known; `None` when nothing is.
fn total(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.flatten().reduce(u64::saturating_add)
}

/// The query texts, joined as the conventions ask for batches.
fn text(observation: &Observation, batch: &Batch) -> String {
    let mut text = String::new();
    let texts = batch
        .transactions
        .iter()
        .filter_map(|one| one.request.detail.as_deref())
        .filter(|detail| !detail.text.is_empty())
        .map(|detail| keys::text(&observation.export, detail));
    for one in texts {
        if text.len() + one.len() > MAX_TEXT {
            text.push_str("; …");
            break;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&one);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Ids, Parent, Sample, Span, SpanLimits};
    use super::*;
    use crate::aggregation::testing::{observation, transaction};
    use crate::config::export::{Export, SpanPolicy, SpansPipeline};
    use crate::protocol::Word;
    use crate::transaction::Exchange;

    fn batch(kind: BatchKind, names: &[&'static str]) -> Observation {
        let one = |(index, name): (usize, &&'static str)| {
            let mut one = transaction(name, index as u16);
            one.request.effect = match *name {
                "MULTI" => Effect::Multi,
                "EXEC" => Effect::EndMulti,
                _ => Effect::None,
            };
            one.request.key_count = 1;
            one.request.detail = Some(Box::new(Detail {
                text: format!("{name} k{index}"),
                keys: vec![format!("k{index}")],
                stored_procedure: None,
                ..Detail::default()
            }));
            one
        };
        let transactions = names.iter().enumerate().map(one).collect();
        let mut observation = observation(transaction("GET", 3));
        observation.exchange = Exchange::Batch(Batch { kind, transactions });
        observation
    }

    fn text(span: &Span, name: &str) -> String {
        let found = span.attributes.iter().find(|a| a.key.as_str() == name);
        found.map(|a| a.value.to_string()).unwrap_or_default()
    }

    #[test]
    fn names_and_sizes() {
        let table: [(BatchKind, &[&'static str], &str, &str); 3] = [
            (BatchKind::Pipeline, &["GET", "GET"], "PIPELINE GET", "2"),
            (BatchKind::Pipeline, &["GET", "SET", "GET"], "PIPELINE", "3"),
            (
                BatchKind::Transaction,
                &["MULTI", "GET", "SET", "EXEC"],
                "MULTI",
                "2",
            ),
        ];
        for (kind, names, operation, size) in table {
            let spans = Span::of(
                &batch(kind, names),
                Ids::new(Sample::default()),
                SpanLimits::default(),
            );
            assert_eq!(spans.len(), 1);
            assert_eq!(spans[0].name, format!("{operation} 127.0.0.1:6379"));
            assert_eq!(text(&spans[0], "db.operation.name"), operation);
            assert_eq!(text(&spans[0], "db.operation.batch.size"), size);
        }
    }

    #[test]
    fn children_add_up_to_their_parent() {
        let mut observation = batch(BatchKind::Pipeline, &["GET", "GET", "SET"]);
        if let Exchange::Batch(batch) = &mut observation.exchange {
            batch.transactions[0].outcome.hits = 1;
            batch.transactions[0].outcome.value_size = Some(5);
            batch.transactions[1].outcome.misses = 1;
            batch.transactions[2].request.value_size = Some(7);
            batch.transactions[2].outcome.error = Some(Word::new(b"OOM"));
        }
        observation.export = Arc::new(Export {
            spans: SpanPolicy {
                pipeline: SpansPipeline::Commands,
                ..SpanPolicy::default()
            },
            ..Export::default()
        });
        let spans = Span::of(
            &observation,
            Ids::new(Sample::default()),
            SpanLimits::default(),
        );
        assert_eq!(spans.len(), 4);
        let parent = &spans[0];
        assert_eq!(text(parent, "db.query.text"), "GET k0; GET k1; SET k2");
        assert_eq!(text(parent, "cache.hits"), "1");
        assert_eq!(text(parent, "cache.misses"), "1");
        assert_eq!(text(parent, "cache.value_size"), "12");
        assert_eq!(text(parent, "error.type"), "OOM");
        assert!(parent.failed);
        for child in &spans[1..] {
            let (span, remote) = (parent.ids.span, false);
            assert_eq!(child.ids.parent, Some(Parent { span, remote }));
            assert_eq!(child.ids.trace, parent.ids.trace);
            assert_ne!(child.ids.span, parent.ids.span);
        }
        assert_eq!(text(&spans[1], "cache.hit"), "true");
    }

    #[test]
    fn of_what_nothing_is_known_there_is_no_span() {
        let mut observation = batch(BatchKind::Pipeline, &["GET", "GET"]);
        let count = |observation: &Observation| {
            let ids = Ids::new(Sample::default());
            let spans = Span::of(observation, ids, SpanLimits::default()).len();
            assert_eq!(
                spans,
                Span::count(&observation.exchange, &observation.export)
            );
            spans
        };
        assert_eq!(count(&observation), 1);
        for left in [1, 0] {
            let one = &mut observation.exchange.transactions_mut()[left];
            one.ending = Ending::Unresolved;
            assert_eq!(count(&observation), left);
        }
    }
}
