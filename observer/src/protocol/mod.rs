//! What the bytes say: requests and replies of Redis and Memcached.
//!
//! Decoders are incremental and sans-IO. They are given bytes in stream order, in pieces of any size, and
//! never look at a byte twice. Three answers are kept apart: *incomplete* (`Ok(None)`: go on with the next
//! bytes), *gap* ([`RequestDecoder::skip`]: bridged inside a value of declared length, else [`FramingLost`])
//! and *malformed* ([`Malformed`]). After either of the last two a decoder is spent: the caller makes a new one
//! at the next sure boundary.
//!
//! - [`redis`]: RESP2, RESP3 and inline commands, with the command table.
//! - [`memcached`]: the text dialects, classic and meta.
//! - [`mod@detect`]: what a new connection speaks, and where a message can begin.
//! - [`reply`]: the shape of replies, and what they mean.
//! - [`mask`]: what of a stream may be kept in a recording.
//!
//! Nothing here allocates by a length read from the wire. Values and credentials stay in the decoder: a
//! [`Request`] is built from what the command table allows to appear, never by taking secrets out.

pub mod detect;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod line;
pub mod mask;
pub mod memcached;
pub mod message;
mod number;
pub mod redis;
pub mod reply;
mod text;

#[cfg(test)]
mod linear;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use detect::{Detected, begins_request, detect};
pub use message::{
    Answer, Class, Client, Detail, Effect, Expiry, FramingLost, HitRule, Malformed, Operation,
    Outcome, Places, Protocol, Redirect, ReplyValues, Request, Silence, Word,
};
pub use reply::{Reply, ReplyKind, outcome};

/// How much of `input` belongs to a value of which `remaining` bytes are to come.
fn part(remaining: u64, input: &[u8]) -> usize {
    let whole = usize::try_from(remaining).unwrap_or(usize::MAX);
    whole.min(input.len())
}

/// Decodes what a client sends.
#[derive(Debug)]
pub enum RequestDecoder {
    /// Redis: RESP or inline.
    Redis(redis::RequestDecoder),
    /// Memcached, in any dialect.
    Memcached(memcached::RequestDecoder),
}

impl RequestDecoder {
    /// A decoder at a message boundary. `keep_detail`: fill [`Request::detail`], at the cost of allocations.
    #[must_use]
    pub fn new(protocol: Protocol, keep_detail: bool) -> Self {
        match protocol {
            Protocol::Redis => Self::Redis(redis::RequestDecoder::new(keep_detail)),
            Protocol::Memcached => Self::Memcached(memcached::RequestDecoder::new(keep_detail)),
        }
    }

    /// Takes bytes off the front of `input` up to the end of one message. `Ok(None)`: all input is used up
    /// and the message is incomplete.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: the stream cannot be read on. The decoder is spent.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Request>, Malformed> {
        match self {
            Self::Redis(decoder) => decoder.decode(input),
            Self::Memcached(decoder) => decoder.decode(input),
        }
    }

    /// `length` bytes of the stream are missing here. Bridged when they lie inside an argument or data block
    /// of declared length, its trailing CRLF included; `Some` when that completes the message.
    ///
    /// # Errors
    ///
    /// [`FramingLost`]: anything else was swallowed. The decoder is spent.
    pub fn skip(&mut self, length: u64) -> Result<Option<Request>, FramingLost> {
        match self {
            Self::Redis(decoder) => decoder.skip(length),
            Self::Memcached(decoder) => decoder.skip(length),
        }
    }

    /// Whether the next byte begins a message.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        match self {
            Self::Redis(decoder) => decoder.at_boundary(),
            Self::Memcached(decoder) => decoder.at_boundary(),
        }
    }

    /// Bytes held on the heap.
    #[must_use]
    pub fn memory(&self) -> usize {
        match self {
            Self::Redis(decoder) => decoder.memory(),
            Self::Memcached(decoder) => decoder.memory(),
        }
    }

    /// Gives memory back that is kept for the next request. To be called between two.
    pub fn shrink(&mut self) {
        if let Self::Redis(decoder) = self {
            decoder.shrink();
        }
    }
}

/// Decodes what a server sends.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "600 bytes at most, held once a connection; a box would cost the common case an indirection"
)]
pub enum ReplyDecoder {
    /// Redis: RESP2 and RESP3.
    Redis(redis::ReplyDecoder),
    /// Memcached, in any dialect.
    Memcached(memcached::ReplyDecoder),
}

impl ReplyDecoder {
    /// A decoder at a message boundary.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Redis => Self::Redis(redis::ReplyDecoder::new()),
            Protocol::Memcached => Self::Memcached(memcached::ReplyDecoder::new()),
        }
    }

    /// As [`RequestDecoder::decode`].
    ///
    /// # Errors
    ///
    /// [`Malformed`]: the stream cannot be read on. The decoder is spent.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, Malformed> {
        match self {
            Self::Redis(decoder) => decoder.decode(input),
            Self::Memcached(decoder) => decoder.decode(input),
        }
    }

    /// As [`RequestDecoder::skip`].
    ///
    /// # Errors
    ///
    /// [`FramingLost`]: anything but the inside of a value was swallowed. The decoder is spent.
    pub fn skip(&mut self, length: u64) -> Result<Option<Reply>, FramingLost> {
        match self {
            Self::Redis(decoder) => decoder.skip(length),
            Self::Memcached(decoder) => decoder.skip(length),
        }
    }

    /// Whether the next byte begins a message.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        match self {
            Self::Redis(decoder) => decoder.at_boundary(),
            Self::Memcached(decoder) => decoder.at_boundary(),
        }
    }

    /// Delivers the next reply in parts if it is an array: its head, then each element as a reply of its own. For the
    /// reply to EXEC; see [`redis::ReplyDecoder::unfold`]. Does nothing for Memcached.
    pub fn unfold(&mut self) {
        if let Self::Redis(decoder) = self {
            decoder.unfold();
        }
    }

    /// Bytes held on the heap.
    #[must_use]
    pub fn memory(&self) -> usize {
        match self {
            Self::Redis(_) => 0,
            Self::Memcached(decoder) => decoder.memory(),
        }
    }
}
