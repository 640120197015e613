//! Readings of a transaction that metrics, spans and the summary must agree on.

use crate::protocol::Word;
use crate::source::event::Clock;
use crate::telemetry::names::value;
use crate::transaction::{Ending, Transaction};

/// How a transaction failed: the value of `error.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// An error reply with this prefix or status.
    Reply(Word),
    /// The connection ended before the reply.
    Closed,
}

impl Failure {
    /// Value of `error.type`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Failure::Reply(word) => word.as_str(),
            Failure::Closed => value::CONNECTION_CLOSED,
        }
    }
}

/// Whether the reply only pointed elsewhere (MOVED, ASK). It is no error of the application.
#[must_use]
pub fn redirected(transaction: &Transaction) -> bool {
    let outcome = &transaction.outcome;
    outcome.redirect.is_some()
        || outcome
            .error
            .is_some_and(|word| matches!(word.as_str(), "MOVED" | "ASK"))
}

/// Why the transaction failed; `None` when it did not. A miss and a redirect are no failures.
#[must_use]
pub fn failure(transaction: &Transaction) -> Option<Failure> {
    match transaction.ending {
        Ending::Unanswered => Some(Failure::Closed),
        Ending::NoReply | Ending::Unresolved | Ending::NotExecuted => None,
        Ending::Replied => {
            let word = transaction.outcome.error?;
            (!redirected(transaction)).then_some(Failure::Reply(word))
        }
    }
}

/// Bytes of the value or values written and read; `None` when there were none to write or read.
#[must_use]
pub fn value_size(transaction: &Transaction) -> Option<u64> {
    match (
        transaction.request.value_size,
        transaction.outcome.value_size,
    ) {
        (Some(written), Some(read)) => Some(written.saturating_add(read)),
        (written, read) => written.or(read),
    }
}

/// Whether the time from request to reply says how long the operation took. It does not when the server may hold
/// the reply back on purpose, and there is none when no reply was to come.
#[must_use]
pub fn has_latency(transaction: &Transaction) -> bool {
    !transaction.request.blocking
        && matches!(transaction.ending, Ending::Replied | Ending::Unanswered)
}

/// The time to live that the transaction set, seconds; `None` when it set none, was refused, or removed its key by a time
/// that is over.
#[must_use]
pub(super) fn ttl(transaction: &Transaction, clock: Clock) -> Option<u64> {
    let expiry = transaction.request.ttl?;
    if transaction.outcome.error.is_some() {
        return None;
    }
    let seconds = expiry.seconds(clock.unix_nanos(transaction.start));
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)
}
