//! What the bytes say: requests and replies of Redis and Memcached.
//!
//! Decoders are incremental and sans-IO. They are given bytes in stream order, in pieces of any size, and
//! never look at a byte twice. Three answers are kept apart: *incomplete* (`Ok(None)`: go on with the next
//! bytes), *gap* ([`RequestDecoder::skip`]: bridged inside a value of declared length, else [`FramingLost`])
//! and *malformed* ([`Malformed`]). After either of the last two a decoder is spent: the caller makes a new one
//! at the next sure boundary.

pub mod message;

pub use message::{
    Answer, Class, Detail, Effect, FramingLost, HitRule, Malformed, Operation, Outcome, Protocol,
    Redirect, Request, Word,
};
