//! The binary dialect: a header of 24 bytes, then extras, key and value, each of declared length.
//!
//! Source: `protocol_binary.h` and `proto_bin.c` of memcached 1.6, and its wiki's page `BinaryProtocolRevamped`.
//!
//! # What a reply's status means
//!
//! | status | told as |
//! |---|---|
//! | 0x0000 | success |
//! | 0x0001 key not found | a miss of what reads, counts or touches; nothing deleted; for a store not an error either |
//! | 0x0002 key exists | outcome: `ADD` of a key that is there, or another writer came first (cas) |
//! | 0x0005 not stored | outcome: nothing to append to |
//! | 0x0021 continue | outcome: another step of authentication follows |
//! | 0x0003 | error `E2BIG`: the value is too large |
//! | 0x0004 | error `EINVAL`: lengths that do not go with the opcode; the server closes |
//! | 0x0006 | error `DELTA_BADVAL`: counting what is no number |
//! | 0x0020 | error `AUTH_ERROR` |
//! | 0x0081 | error `UNKNOWN_COMMAND` |
//! | 0x0082 | error `ENOMEM` |
//! | 0x0007, 0x0083 to 0x0086 | errors `NOT_MY_VBUCKET`, `NOT_SUPPORTED`, `EINTERNAL`, `EBUSY`, `ETMPFAIL`, of servers other than memcached |
//! | others | error `STATUS_0X…`, the number in four hexadecimal digits |

mod header;
pub(super) mod mask;
mod opcodes;
mod reply;
mod request;

#[cfg(test)]
mod tests;

pub use reply::ReplyDecoder;
pub use request::RequestDecoder;

pub(in crate::protocol) use opcodes::begins;

/// Longest key (`KEY_MAX_LENGTH` in `memcached.h`; the field has room for more).
pub const MAX_KEY: usize = 250;
/// Longest body: the server counts it in an `int`.
pub const MAX_BODY: u32 = i32::MAX as u32;
