//! Which reply answers which request.
//!
//! [`Conversation`] turns the segments of one connection into [`Transaction`]s. It is sans-IO: time is that of the
//! segments, and of [`Conversation::tick`].
//!
//! - [`matcher`]: pairing and the state of a connection that a pairing depends on.
//! - [`conversation`]: decoding, detection, and what happens when the boundary or the pairing is not sure.

pub mod conversation;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod matcher;

#[cfg(test)]
mod tests;

pub use conversation::Conversation;

use crate::protocol::{Outcome, Protocol, Request};
use crate::source::event::{Nanos, Task};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Its reply came.
    Replied,
    /// None was to come.
    NoReply,
    /// The connection ended before its reply.
    Unanswered,
    /// Its outcome is not known: its reply was lost, could not be paired for sure, or had not come when observation
    /// ended. Counted as an operation; it has neither span nor latency.
    Unresolved,
}

/// A request and how it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// The protocol of the connection.
    pub protocol: Protocol,
    /// The request.
    pub request: Request,
    /// What the reply said; empty unless `ending` is [`Ending::Replied`].
    pub outcome: Outcome,
    /// How it ended.
    pub ending: Ending,
    /// At the client's end: start of the send of the request's first byte. At the server's: its receive.
    pub start: Nanos,
    /// At the client's end: the receive that holds the reply's last byte. At the server's: its send.
    pub end: Nanos,
    /// The Redis database it ran in, when known.
    pub database: Option<u32>,
    /// The thread at this end that moved the request's first byte; `None` for captures.
    pub task: Option<Task>,
}
