//! What a connection speaks, and where a message can begin.
//!
//! Biased towards *no*: a connection that is not recognised costs its observation, one that is misread costs wrong
//! numbers.

use super::memcached::binary::begins as binary_begins;
use super::memcached::text::{Word, word};
use super::message::Protocol;
use super::redis::{MAX_INLINE, MAX_NAME, is_command};

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// Too few bytes to tell.
    NeedMore,
    /// The expected protocol.
    Speaks,
    /// A TLS handshake.
    Tls,
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
/// resynchronisation: for Redis `*<digit>` and nothing after that contradicts it, or a known inline command without
/// arguments; for Memcached a known command word; each followed by what must follow.
///
/// An inline command with arguments may be the end of another one: of `HMSET key field value`, from its second byte on, the
/// field would be taken for a value, and the value for a key, which is shown.
#[must_use]
pub fn begins_request(protocol: Protocol, bytes: &[u8]) -> bool {
    match protocol {
        Protocol::Redis => match bytes {
            [b'*', ..] => multibulk(bytes) == Detected::Speaks,
            _ => first_word(bytes, MAX_NAME).is_some_and(|(name, rest)| {
                is_command(name) && matches!(rest, [b'\r', b'\n', ..] | [b'\n', ..])
            }),
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
        [0x80, ..] => return binary_begins(first),
        _ => {}
    }
    let Some((name, _)) = first_word(first, MAX_NAME) else {
        return incomplete(first, MAX_NAME);
    };
    match word(name) {
        Word::Known(_) | Word::Meta(_) => Detected::Speaks,
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

#[cfg(test)]
mod tests {
    use super::*;
    use Detected::{Foreign, NeedMore, Speaks, Tls};

    #[test]
    fn first_bytes_of_redis() {
        for (first, expected) in [
            (&b""[..], NeedMore),
            (b"*", NeedMore),
            (b"*1", Speaks),
            (b"*2\r\n$3\r\nGET\r\n", Speaks),
            (b"*2\r\n$3\r\n", Speaks),
            (b"*2\r\n$", Speaks),
            (b"*2\rx", Foreign),
            (b"*2\r\n+OK", Foreign),
            (b"*2\r\n$3\r\n\x00", Foreign),
            (b"*02\r\n", Foreign),
            (b"*99999999999", Foreign),
            (b"*x", Foreign),
            (b"P", NeedMore),
            (b"PING", NeedMore),
            (b"PING\r\n", Speaks),
            (b"get k", Speaks),
            (b"hunter2\r\n", Foreign),
            (b"hello there", Speaks),
            (b"GET / HTT", NeedMore),
            (b"GET / HTTP/1.1\r\n", Foreign),
            (b"GET /key\r\n", Speaks),
            (b"POST / HTTP/1.1\r\n", Foreign),
            (b"PRI * HTTP/2.0\r\n", Foreign),
            (b"SSH-2.0-OpenSSH\r\n", Foreign),
            (b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Foreign),
            (b"\x16", NeedMore),
            (b"\x16\x03\x01", Tls),
            (b"\x16\x04", Foreign),
            (b"\x80\x00", Foreign),
            (b"$5\r\nhello", Foreign),
        ] {
            assert_eq!(
                detect(Protocol::Redis, first),
                expected,
                "{}",
                first.escape_ascii()
            );
        }
    }

    #[test]
    fn first_bytes_of_memcached() {
        for (first, expected) in [
            (&b""[..], NeedMore),
            (b"ge", NeedMore),
            (b"get", NeedMore),
            (b"get k\r\n", Speaks),
            (b"version\r\n", Speaks),
            (b"\x80\x0a", NeedMore),
            (b"\x80\x0a\0\0\0\0\0\0\0\0\0\0", Speaks),
            (b"\x80\x0a\0\0\0\0\0\0\0\0\0\x01", Foreign),
            (b"\x80\x3f", Foreign),
            (b"mg k v\r\n", Speaks),
            (b"mn\r\n", Speaks),
            (b"m", NeedMore),
            (b"mg", NeedMore),
            (b"mx k\r\n", Foreign),
            (b"GET / HTTP/1.1\r\n", Foreign),
            (b"nosuch k\r\n", Foreign),
            (b"VALUE k 0 1\r\n", Foreign),
            (b"\x16\x03\x03", Tls),
            (b"\x00\x01", Foreign),
        ] {
            assert_eq!(
                detect(Protocol::Memcached, first),
                expected,
                "{}",
                first.escape_ascii()
            );
        }
    }

    #[test]
    fn beginnings_are_strict() {
        for (protocol, bytes, expected) in [
            (Protocol::Redis, &b"*1\r\n$4\r\nPING\r\n"[..], true),
            (Protocol::Redis, b"*3", true),
            (Protocol::Redis, b"*", false),
            (Protocol::Redis, b"* 1", false),
            (Protocol::Redis, b"*1\r\n:1\r\n", false),
            (Protocol::Redis, b"PING\r\n", true),
            (Protocol::Redis, b"PING\n", true),
            (Protocol::Redis, b"PING", false),
            (Protocol::Redis, b"PIN", false),
            (Protocol::Redis, b"NOSUCH\r\n", false),
            (Protocol::Redis, b"GET k\r\n", false),
            (Protocol::Redis, b"MSET key field secret\r\n", false),
            (Protocol::Redis, b"value bytes", false),
            (Protocol::Redis, b"", false),
            (Protocol::Memcached, b"get k", true),
            (Protocol::Memcached, b"get", false),
            (Protocol::Memcached, b"getter k", false),
            (Protocol::Memcached, b"mg k", true),
            (Protocol::Memcached, b"mg", false),
            (Protocol::Memcached, b"mx k", false),
        ] {
            assert_eq!(
                begins_request(protocol, bytes),
                expected,
                "{}",
                bytes.escape_ascii()
            );
        }
    }
}
