//! Reads the line of a meta reply: its code, and what it repeats of the request.

use super::super::super::message::{Malformed, Word};
use super::super::super::number;
use super::super::super::reply::{Reply, ReplyKind};
use super::super::text::MAX_DATA;
use super::{base64, tag};

/// Reads a line that begins with `code`, if it is a meta reply; the second part is the length of the data block that
/// follows, and ends the reply.
///
/// # Errors
///
/// [`Malformed`]: `VA` without a length.
pub(in super::super) fn read(
    code: &[u8],
    line: &[u8],
) -> Result<Option<(Reply, Option<u64>)>, Malformed> {
    let kind = match code {
        b"VA" => ReplyKind::Value,
        b"EN" => ReplyKind::Null,
        b"HD" | b"NF" | b"NS" | b"EX" | b"MN" | b"ME" => ReplyKind::Simple,
        _ => return Ok(None),
    };
    let mut reply = Reply {
        kind,
        word: Word::new(code),
        ..Reply::default()
    };
    let mut words = line.split(|byte| *byte == b' ').skip(1);
    let mut data = None;
    match code {
        b"VA" => {
            let length = words.next().and_then(number::parse);
            let length = length.ok_or(Malformed::Syntax)?;
            let length = u64::try_from(length)
                .ok()
                .filter(|length| *length <= MAX_DATA)
                .ok_or(Malformed::Length)?;
            reply.value_size = length;
            data = Some(length);
        }
        // What follows is the item, not flags.
        b"ME" => return Ok(Some((reply, None))),
        _ => {}
    }
    let (mut opaque, mut key, mut binary) = (None, None, false);
    for word in words {
        match word.split_first() {
            Some((b'O', token)) => opaque = Some(token),
            Some((b'k', token)) => key = Some(token),
            Some((b'b', [])) => binary = true,
            Some((b't', token)) => reply.remaining = number::parse(token),
            _ => {}
        }
    }
    let decoded = key.filter(|_| binary).and_then(base64);
    reply.tag = tag(opaque, decoded.as_deref().or(key));
    Ok(Some((reply, data)))
}
