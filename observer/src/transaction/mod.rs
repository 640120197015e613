//! Which reply answers which request.
//!
//! [`Conversation`] turns the segments of one connection into [`Transaction`]s. It is sans-IO: time is that of the
//! segments, and of [`Conversation::tick`].
//!
//! - [`matcher`]: pairing and the state of a connection that a pairing depends on.
//! - `quiet`: the same where some requests are answered only sometimes.
//! - `setup`: what a client says before its connection is ready.
//! - [`batch`]: which commands left together.
//! - [`watch`]: who learns which bytes were read as what.
//! - [`conversation`]: decoding, detection, and what happens when the boundary or the pairing is not sure.

mod alignment;
pub mod batch;
pub mod conversation;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod matcher;
mod probation;
mod quiet;
mod reply_mode;
mod setup;
mod subscribed;
pub mod watch;

#[cfg(test)]
mod tests;

pub use conversation::{Conversation, Load};
pub use setup::Ready;

use std::sync::Arc;

use crate::protocol::{Answer, Client, Outcome, Protocol, Request};
use crate::source::event::{Nanos, Task};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Its reply came.
    Replied,
    /// None was to come; or it was quiet, and none came. Then its outcome is known where a later answer told it, and its end
    /// is the time of that answer.
    NoReply,
    /// The connection ended before its reply.
    Unanswered,
    /// Queued by MULTI, then given up by DISCARD, a failed WATCH or an error: the server never ran it. No operation of the
    /// cache: it is not counted as one.
    NotExecuted,
    /// Its outcome is not known: its reply was lost, could not be paired for sure, or had not come when observation
    /// ended. Counted as an operation; it has neither span nor latency.
    Unresolved,
}

impl Ending {
    /// Whether nothing is known that a span could tell: its end was not seen, or it never ran.
    #[must_use]
    pub fn is_unseen(self) -> bool {
        matches!(self, Ending::Unresolved | Ending::NotExecuted)
    }
}

/// Where a request's first byte is in the stream, and the thread that moved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    /// TCP sequence number.
    pub position: u32,
    /// `None` for captures.
    pub task: Option<Task>,
}

/// A request and how it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// The protocol of the connection.
    pub protocol: Protocol,
    /// The request.
    pub request: Request,
    /// What the reply said, or that there was none; empty unless `ending` is [`Ending::Replied`] or [`Ending::NoReply`].
    pub outcome: Outcome,
    /// How it ended.
    pub ending: Ending,
    /// At the client's end: start of the send of the request's first byte. At the server's: its receive.
    pub start: Nanos,
    /// At the client's end: the receive that holds the reply's last byte. At the server's: its send.
    pub end: Nanos,
    /// The Redis database it ran in, when known.
    pub database: Option<u32>,
    /// TCP sequence number of the request's first byte: tells, of two ends of one connection, which transactions are the same.
    pub position: u32,
    /// What the client had said of itself by then, where it is kept.
    pub client: Option<Arc<Client>>,
    /// The thread at this end that moved the request's first byte; `None` for captures.
    pub task: Option<Task>,
    /// Whether nothing else was outstanding on the connection while it was.
    pub alone: bool,
}

impl Transaction {
    /// Whether a reply told how it ended: its own, or a later one that it was not answered.
    fn is_told(&self) -> bool {
        match self.ending {
            Ending::Replied => true,
            Ending::NoReply => matches!(self.request.answer, Answer::Quiet(_)),
            _ => false,
        }
    }

    /// The reply was another request's.
    fn unresolve(&mut self, time: Nanos) {
        self.ending = Ending::Unresolved;
        self.outcome = Outcome::default();
        self.end = time.max(self.start);
    }
}

/// What leaves a conversation: a transaction, or several that left together.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every exchange is one command: a box would cost each an allocation"
)]
pub enum Exchange {
    /// One command by itself.
    One(Transaction),
    /// Commands that left together.
    Batch(Batch),
    /// No command: the connection begins or ends.
    Life(Life),
}

impl Exchange {
    /// Its transactions, in the order of their replies.
    #[must_use]
    pub fn transactions(&self) -> &[Transaction] {
        match self {
            Exchange::One(transaction) => std::slice::from_ref(transaction),
            Exchange::Batch(batch) => &batch.transactions,
            Exchange::Life(_) => &[],
        }
    }

    /// Bytes of detail that its requests hold.
    #[must_use]
    pub fn detail_memory(&self) -> usize {
        let transactions = self.transactions().iter();
        transactions.map(|one| one.request.detail_memory()).sum()
    }

    /// Whether there is anything that a span could tell.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        match self {
            Exchange::Life(_) => true,
            _ => self
                .transactions()
                .iter()
                .any(|one| !one.ending.is_unseen()),
        }
    }

    /// Whether it only asked whether the connection works: a PING, or Memcached's NOOP, MN or VERSION, sent by itself on an idle
    /// connection.
    #[must_use]
    pub fn is_health_check(&self) -> bool {
        let Exchange::One(Transaction { request, alone, .. }) = self else {
            return false;
        };
        let name = request.operation.name();
        *alone && matches!(name, "PING" | "NOOP" | "MN" | "VERSION")
    }

    /// The same, to be changed.
    pub fn transactions_mut(&mut self) -> &mut [Transaction] {
        match self {
            Exchange::One(transaction) => std::slice::from_mut(transaction),
            Exchange::Batch(batch) => &mut batch.transactions,
            Exchange::Life(_) => &mut [],
        }
    }
}

/// How a connection begins or ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    /// The protocol of the connection.
    pub protocol: Protocol,
    /// Which of the two.
    pub stage: LifeStage,
    /// When `connect` was called; for an end, its time.
    pub start: Nanos,
    /// When it was ready, or the attempt failed; for an end, its time.
    pub end: Nanos,
    /// `error.type`, if it failed.
    pub error: Option<&'static str>,
}

/// The two stages of a connection's life that are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeStage {
    /// From `connect` to ready.
    Connect {
        /// When it was established, if it was.
        established: Option<Nanos>,
    },
    /// Its end.
    Close {
        /// Since `connect`, nanoseconds, where it was seen.
        age: Option<Nanos>,
        /// Commands beyond its set-up, where all were seen.
        commands: Option<u64>,
    },
}

/// Commands that left together.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Why they belong together.
    pub kind: BatchKind,
    /// Two or more, in the order in which they ended.
    pub transactions: Vec<Transaction>,
}

/// Why commands belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchKind {
    /// One send held the start of several.
    Pipeline,
    /// From MULTI to EXEC or DISCARD.
    Transaction,
}
