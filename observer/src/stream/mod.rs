//! Which connection bytes belong to, in which order, and what is missing.
//!
//! [`Flows`] takes the events of a source and hands on, for each socket that is to be reported, [`Segment`]s in stream
//! order: bytes, or a gap of known length. It is sans-IO: time is that of the events, and of [`Flows::tick`].
//!
//! - [`reassembly`]: one direction of one socket: order by TCP position, overlaps, gaps, budgets.
//! - [`pairing`]: which two sockets of this host are the two ends of one connection.
//! - [`datagram`]: UDP, where every datagram is a whole.
//! - `role`: which end of a connection is reported.
//! - `lanes`: the two directions of a socket, and where they ended.
//! - `early`: sockets of which no byte was seen yet.
//! - [`flows`]: the table of sockets, their roles, their beginning and end.

pub mod datagram;
mod early;
pub mod flows;
mod lanes;
pub mod pairing;
pub mod reassembly;
mod role;
#[cfg(test)]
mod tests;

pub use flows::{Flow, Flows, Handler, Options, Ports, Role};

use crate::source::event::{Nanos, Task};
use crate::telemetry::Skipped;

/// Which way bytes go, seen from the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Client to server.
    Request,
    /// Server to client.
    Reply,
}

/// A piece of one direction of a connection, in stream order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment<'a> {
    /// Which way it goes.
    pub side: Side,
    /// When the call that moved it began, where the source knows; else `time`.
    pub started: Nanos,
    /// When the call that moved it returned.
    pub time: Nanos,
    /// The thread that made the call, where the source knows.
    pub task: Option<&'a Task>,
    /// Whether its first byte is the first of a call (of a packet, in captures).
    pub call_start: bool,
    /// TCP sequence number of its first byte, also of one that is missing; 0 of datagrams. Both ends of a connection see the same.
    pub position: u32,
    /// What it holds.
    pub content: Content<'a>,
}

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// Bytes of the stream.
    Bytes(&'a [u8]),
    /// This many bytes of the stream were not captured, or were lost.
    Gap {
        /// How many.
        length: u64,
        /// Why.
        reason: Skipped,
    },
    /// Positions contradict each other: what follows belongs to the stream, but from where is not known.
    Break,
    /// This many bytes arrived and are no part of what is handed on. It stands outside of the stream.
    Dropped {
        /// How many.
        length: u64,
        /// Why.
        reason: Skipped,
    },
}
