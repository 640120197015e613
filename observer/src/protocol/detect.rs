//! What a connection speaks, and where a message can begin.
//!
//! Biased towards *no*: a connection that is not recognised costs its observation, one that is misread costs wrong
//! numbers.

use super::memcached::text::{Word, word};
use super::message::Protocol;
use super::redis::{MAX_INLINE, MAX_NAME, is_command};

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// Too few bytes to tell.
    NeedMore,
    /// The expected protocol, in a dialect that is decoded.
    Speaks,
    /// A TLS handshake.
    Tls,
    /// The expected protocol, in a dialect that is not decoded: Memcached binary or meta.
    Dialect,
    /// Something else.
    Foreign,
}

/// Looks at the first bytes a client sends on a connection (or after a point of resynchronisation).
#[must_use]
pub fn detect(expected: Protocol, first: &[u8]) -> Detected {
    match first {
        // ContentType handshake, major version 3 (RFC 8446, section 5.1).
        [0x16] => return Detected::NeedMore,
        [0x16, 3, ..] => return Detected::Tls,
        _ => {}
    }
    match expected {
        Protocol::Redis => redis(first),
        Protocol::Memcached => memcached(first),
    }
}

/// Whether these bytes can be the beginning of a request at a message boundary. Strict, to pick a point of
/// resynchronisation: for Redis `*<digit>` and nothing after that contradicts it, or a known inline command; for
/// Memcached a known command word; each followed by what must follow.
#[must_use]
pub fn begins_request(protocol: Protocol, bytes: &[u8]) -> bool {
    match protocol {
        Protocol::Redis => match bytes {
            [b'*', ..] => multibulk(bytes) == Detected::Speaks,
            _ => redis(bytes) == Detected::Speaks,
        },
        Protocol::Memcached => memcached(bytes) == Detected::Speaks,
    }
}

fn redis(first: &[u8]) -> Detected {
    match first {
        [] => Detected::NeedMore,
        [b'*', ..] => multibulk(first),
        _ => {
            let Some((name, rest)) = first_word(first, MAX_NAME) else {
                return incomplete(first, MAX_NAME);
            };
            if !is_command(name) {
                return Detected::Foreign;
            }
            // `GET / HTTP/1.1` begins with a command's name: the end of the line tells.
            if !name.eq_ignore_ascii_case(b"GET") || !rest.starts_with(b" /") {
                return Detected::Speaks;
            }
            let line = &rest[..rest.len().min(MAX_INLINE)];
            match line.iter().position(|byte| *byte == b'\n') {
                None if rest.len() >= MAX_INLINE => Detected::Foreign,
                None => Detected::NeedMore,
                Some(end) if line[..end].windows(6).any(|window| window == b" HTTP/") => {
                    Detected::Foreign
                }
                Some(_) => Detected::Speaks,
            }
        }
    }
}

/// `*<count> CR LF $<length> CR LF <name>`, as far as the bytes go, at least `*<digit>`.
fn multibulk(bytes: &[u8]) -> Detected {
    let Some(rest) = bytes.strip_prefix(b"*") else {
        return Detected::Foreign;
    };
    let (digits, rest) = digits(rest);
    if digits.is_empty() {
        return if rest.is_empty() {
            Detected::NeedMore
        } else {
            Detected::Foreign
        };
    }
    if digits.len() > 10 || (digits.len() > 1 && digits[0] == b'0') {
        return Detected::Foreign;
    }
    let rest = match after(rest, b"\r\n$") {
        Ok(rest) => rest,
        Err(detected) => return detected,
    };
    let (digits, rest) = self::digits(rest);
    if digits.is_empty() && rest.is_empty() {
        return Detected::Speaks;
    }
    if digits.is_empty() || digits.len() > 3 {
        return Detected::Foreign;
    }
    match after(rest, b"\r\n") {
        Ok([]) => Detected::Speaks,
        Ok([byte, ..]) if byte.is_ascii_alphabetic() => Detected::Speaks,
        Ok(_) => Detected::Foreign,
        Err(detected) => detected,
    }
}

/// Splits leading digits off.
fn digits(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(bytes.len());
    bytes.split_at(end)
}

/// What comes after `expected`; `Err(Speaks)` when the bytes end within it.
fn after<'a>(bytes: &'a [u8], expected: &[u8]) -> Result<&'a [u8], Detected> {
    match bytes.strip_prefix(expected) {
        Some(rest) => Ok(rest),
        None if expected.starts_with(bytes) => Err(Detected::Speaks),
        None => Err(Detected::Foreign),
    }
}

fn memcached(first: &[u8]) -> Detected {
    match first {
        [] => return Detected::NeedMore,
        // Request magic of the binary protocol (doc/protocol-binary.xml).
        [0x80, ..] => return Detected::Dialect,
        _ => {}
    }
    let Some((name, _)) = first_word(first, MAX_NAME) else {
        return incomplete(first, MAX_NAME);
    };
    match word(name) {
        Word::Known(_) => Detected::Speaks,
        Word::Meta => Detected::Dialect,
        Word::Unknown => Detected::Foreign,
    }
}

/// The first word, if something that can follow it is there, and the rest.
fn first_word(bytes: &[u8], longest: usize) -> Option<(&[u8], &[u8])> {
    let end = bytes
        .iter()
        .take(longest + 1)
        .position(|byte| matches!(byte, b' ' | b'\r' | b'\n'))?;
    Some(bytes.split_at(end))
}

/// No end of the first word is in sight.
fn incomplete(bytes: &[u8], longest: usize) -> Detected {
    let name = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'-');
    if bytes.len() <= longest && bytes.iter().all(name) {
        Detected::NeedMore
    } else {
        Detected::Foreign
    }
}
