//! The meta commands: `mg`, `ms`, `md`, `ma`, `mn`, `me`.
//!
//! Lines of the text dialect with flags, one letter each, some followed by a token; replies are a code of two letters,
//! and what the flags asked for. Source: `doc/protocol.txt` and `proto_text.c` of memcached 1.6.18.

mod reply;
mod request;

#[cfg(test)]
mod tests;

use super::super::message::Class;
use super::super::reply::{Reply, ReplyKind};

pub(super) use reply::read as read_reply;
pub(super) use request::read as read_request;

/// Identity of the first row in [`Operation::Known`](crate::protocol::Operation::Known): behind the classic commands.
pub(super) const FIRST_INDEX: u16 = 32;

/// One command.
#[derive(Debug, Clone, Copy)]
struct Command {
    name: &'static str,
    class: Class,
    /// Codes that answer it, beside errors.
    answers: &'static [&'static [u8]],
}

/// The table. A row's index, from [`FIRST_INDEX`] on, is its identity.
static COMMANDS: [Command; 6] = [
    Command {
        name: "MG",
        class: Class::Get,
        answers: &[b"HD", b"VA", b"EN"],
    },
    Command {
        name: "MS",
        class: Class::Set,
        answers: &[b"HD", b"NS", b"EX", b"NF"],
    },
    Command {
        name: "MD",
        class: Class::Delete,
        answers: &[b"HD", b"NF", b"EX"],
    },
    Command {
        name: "MA",
        class: Class::Increment,
        answers: &[b"HD", b"VA", b"NF", b"EX", b"NS"],
    },
    Command {
        name: "MN",
        class: Class::Connection,
        answers: &[b"MN"],
    },
    Command {
        name: "ME",
        class: Class::Exists,
        answers: &[b"ME", b"EN"],
    },
];

/// The row of a first word, in the server's letter case.
pub(super) fn row(word: &[u8]) -> Option<u16> {
    let row = match word {
        b"mg" => 0,
        b"ms" => 1,
        b"md" => 2,
        b"ma" => 3,
        b"mn" => 4,
        b"me" => 5,
        _ => return None,
    };
    Some(row)
}

/// Whether the command of that row has a key.
pub(super) fn has_key(row: u16) -> bool {
    COMMANDS[usize::from(row)].class != Class::Connection
}

/// Whether the length of a data block follows its key.
pub(super) fn has_data(row: u16) -> bool {
    COMMANDS[usize::from(row)].class == Class::Set
}

/// Value of `db.operation.name`.
pub(super) fn name(row: u16) -> &'static str {
    COMMANDS[usize::from(row)].name
}

/// Whether a reply that is no error can answer the command of that row; `None` when there is no such row.
pub(super) fn can_answer(row: usize, reply: &Reply) -> Option<bool> {
    let command = COMMANDS.get(row)?;
    let code = match reply.kind {
        ReplyKind::Simple | ReplyKind::Null | ReplyKind::Value => reply.word.as_bytes(),
        _ => b"",
    };
    Some(command.answers.contains(&code))
}

/// A digest of what a reply repeats of its request: the opaque and the key, where each was asked for. FNV-1a, 64 bits.
fn tag(opaque: Option<&[u8]>, key: Option<&[u8]>) -> Option<u64> {
    if opaque.is_none() && key.is_none() {
        return None;
    }
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    for part in [opaque, key] {
        add(u8::from(part.is_some()));
        part.unwrap_or_default().iter().copied().for_each(&mut add);
        // No opaque and no key holds a space, unless it is base64 decoded; then it is the last part.
        add(b' ');
    }
    Some(hash)
}

/// Decodes base64 with padding, as the server does for keys with the flag `b`. `None` when it is none.
pub(super) fn base64(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text
        .iter()
        .rev()
        .take(2)
        .take_while(|byte| **byte == b'=')
        .count();
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for (index, byte) in group.iter().enumerate() {
            let six = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' if out.len() / 3 == text.len() / 4 - 1 && index >= 4 - padding => 0,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        out.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    out.truncate(out.len() - padding);
    Some(out)
}

/// Encodes base64 with padding.
pub(super) fn to_base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut three = [0; 4];
        three[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(three);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place > group.len() { b'=' } else { digit });
        }
    }
    out
}
