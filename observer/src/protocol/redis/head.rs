//! What the first bytes of lines and strings say: statuses, errors, kinds of messages.

use super::super::message::{Redirect, Word};

/// The prefix of an error, and where it points. `whole`: nothing of it is missing.
///
/// `-MOVED 3999 127.0.0.1:6381`, `-ASK 3999 127.0.0.1:6381` (Redis cluster specification). The host is empty when the
/// server does not know it: it is then the one that was asked.
pub(super) fn prefix(head: &[u8], whole: bool) -> (Word, Option<Redirect>) {
    let mut words = head.split(|byte| *byte == b' ');
    let first = words.next().unwrap_or(&[]);
    let complete = whole || first.len() < head.len();
    // No prefix of a server has a digit, nearly every generated password or token has.
    let plain = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'_' | b'-');
    let fits = (1..=Word::CAPACITY).contains(&first.len());
    if !complete || !fits || !first.iter().all(plain) {
        return (Word::new(b"ERR"), None);
    }
    let redirect = if matches!(first, b"MOVED" | b"ASK") {
        // Whatever it looks like, it is no error of the application.
        words
            .nth(1)
            .filter(|target| is_address(target))
            .and_then(Redirect::new)
            .or_else(|| Redirect::new(b"?"))
    } else {
        None
    };
    (Word::new(first), redirect)
}

/// Whether this is `host:port`, or the beginning of one that is longer than what is kept. A script can return an error
/// that is anything. The host may be empty or `?` (`clusterRedirectClient` in `redis/src/cluster.c`).
fn is_address(target: &[u8]) -> bool {
    let host = |bytes: &[u8]| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]%?".contains(byte);
        bytes.iter().all(plain)
    };
    match target.rsplitn(2, |byte| *byte == b':').collect::<Vec<_>>()[..] {
        [port, name] if (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit) => {
            host(name)
        }
        _ => target.len() >= Redirect::CAPACITY && host(target),
    }
}

/// First elements of RESP2 pub/sub messages (`redis/src/pubsub.c`).
pub(super) const MESSAGES: [&[u8]; 9] = [
    b"message",
    b"pmessage",
    b"smessage",
    b"subscribe",
    b"psubscribe",
    b"ssubscribe",
    b"unsubscribe",
    b"punsubscribe",
    b"sunsubscribe",
];

/// Up to the first space.
pub(super) fn first_word(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b' ').next().unwrap_or(text)
}

/// Bytes of doubles and big numbers, `inf` and `nan` among them.
pub(super) fn is_numeric(byte: u8) -> bool {
    byte.is_ascii_digit() || b"+-.eEinfa".contains(&byte)
}
