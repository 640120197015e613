//! Which reply answers which request.

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
