//! The text dialects: `get`, `set` and relatives, and the framing that [`meta`](super::meta) shares with them.
//!
//! Source: `doc/protocol.txt` and `proto_text.c` of memcached 1.6.

mod authentication;
mod commands;
pub(super) mod mask;
mod reply;
mod request;

#[cfg(test)]
mod tests;

pub use reply::ReplyDecoder;
pub use request::RequestDecoder;

/// Longest line. The server takes a line of any length for `get` and relatives and 2048 bytes else (`try_read_command_ascii`);
/// this is enough for 260 keys of the longest kind in one retrieval.
pub const MAX_LINE: usize = 64 * 1024;
/// Longest key (`KEY_MAX_LENGTH` in `memcached.h`).
pub const MAX_KEY: usize = 250;
/// Longest data block (`INT_MAX - 2` in `process_update_command`).
pub const MAX_DATA: u64 = i32::MAX as u64 - 2;

pub(super) use commands::can_answer;
pub(crate) use commands::{Word, word};
pub(super) use request::expiry;
