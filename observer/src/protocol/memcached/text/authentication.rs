//! Authentication in the text dialect: a `set` whose data is a name and a password.
//!
//! A server that wants it (`memcached -Y`) reads the first `set` as such, whatever its key. Nothing on the wire tells it
//! from a store of two words, so that this is what is taken for one: a connection's first request, or one after nothing
//! but such, is a `set` of two words. It stays a SET, since it may be one; its key and its sizes are not kept.

use super::super::super::message::{Detail, Operation, Request};

/// Longest data: the server's file of names and passwords holds no longer line (`MAX_ENTRY_LEN` in `authfile.c`).
const MAX_TOKEN: u64 = 256;

/// Whether data read so far is a word, a space, a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Nothing,
    Name,
    Space,
    Password,
    Other,
}

/// What is known of a connection's authentication.
#[derive(Debug, Clone, Copy)]
pub(super) struct Authentication {
    /// Every request so far may have been one.
    possible: bool,
    /// Of the data block that is being read.
    shape: Shape,
}

impl Authentication {
    pub(super) fn new() -> Self {
        Self {
            possible: true,
            shape: Shape::Other,
        }
    }

    /// A request without data.
    pub(super) fn other(&mut self) {
        self.possible = false;
    }

    /// A data block begins.
    pub(super) fn begin(&mut self, request: &Request, length: u64) {
        let set = matches!(request.operation, Operation::Known { name: "SET", .. });
        self.shape = if self.possible && set && length <= MAX_TOKEN {
            Shape::Nothing
        } else {
            Shape::Other
        };
    }

    /// Bytes of it.
    pub(super) fn data(&mut self, bytes: &[u8]) {
        if self.shape == Shape::Other {
            return;
        }
        for byte in bytes {
            self.shape = match (self.shape, byte) {
                (Shape::Nothing | Shape::Name, b'!'..=b'~') => Shape::Name,
                (Shape::Name, b' ') => Shape::Space,
                (Shape::Space | Shape::Password, b'!'..=b'~') => Shape::Password,
                _ => Shape::Other,
            };
        }
    }

    /// Bytes of it are missing: it is taken for what it nearly always is.
    pub(super) fn missing(&mut self) {
        self.shape = Shape::Other;
    }

    /// It is over.
    pub(super) fn end(&mut self, mut request: Request) -> Request {
        self.possible &= self.shape == Shape::Password;
        if self.possible {
            request.key_count = 0;
            request.value_size = None;
            request.ttl = None;
            if let Some(detail) = &mut request.detail {
                **detail = Detail {
                    text: "SET ?".to_owned(),
                    ..Detail::default()
                };
            }
        }
        request
    }
}
