//! The opcodes, as data.

use super::super::super::detect::Detected;
use super::super::super::message::{Class, Silence, Word};
use super::header::{LENGTH, REQUEST};
use super::{MAX_BODY, MAX_KEY};

/// What a request has beside its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A key.
    Get,
    /// The same; the reply repeats the key.
    GetKey,
    /// Expiry (4 bytes) and a key.
    GetTouch,
    /// The same; the reply repeats the key.
    GetTouchKey,
    /// Flags (4), expiry (4), key and value.
    Store,
    /// Key and value.
    Append,
    /// A key.
    Delete,
    /// Delta (8), initial value (8), expiry (4), and a key.
    Count,
    /// Expiry (4) and a key.
    Touch,
    /// A delay (4), or nothing.
    Flush,
    /// A level (4).
    Verbosity,
    /// Nothing, or words in place of a key.
    Stat,
    /// A mechanism in place of a key, and a secret.
    Sasl,
    /// Nothing.
    Bare,
    /// The same; the server closes.
    Quit,
}

impl Shape {
    /// Whether its reply carries a value.
    pub(super) fn reads(self) -> bool {
        matches!(
            self,
            Shape::Get | Shape::GetKey | Shape::GetTouch | Shape::GetTouchKey
        )
    }

    /// Whether its reply repeats the key.
    pub(super) fn repeats_key(self) -> bool {
        matches!(self, Shape::GetKey | Shape::GetTouchKey)
    }

    /// Whether the server takes these lengths (`dispatch_bin_command`).
    fn allows(self, extras: u8, key: u16, value: u32) -> bool {
        let (allowed, key_wanted, value_allowed) = match self {
            Shape::Get | Shape::GetKey | Shape::Delete => (0, true, false),
            Shape::GetTouch | Shape::GetTouchKey | Shape::Touch => (4, true, false),
            Shape::Store => (8, true, true),
            Shape::Append | Shape::Sasl => (0, true, true),
            Shape::Count => (20, true, false),
            Shape::Flush => (extras & 4, false, false),
            Shape::Verbosity => (4, false, false),
            Shape::Stat => return extras == 0 && value == 0,
            Shape::Bare | Shape::Quit => (0, false, false),
        };
        extras == allowed && (key > 0) == key_wanted && (value == 0 || value_allowed)
    }
}

/// One opcode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opcode {
    pub(super) code: u8,
    /// Value of `db.operation.name`: as in `protocol_binary.h`.
    pub(super) name: &'static str,
    pub(super) class: Class,
    pub(super) shape: Shape,
    /// When the server says nothing.
    pub(super) quiet: Option<Silence>,
    /// The status that stands for success.
    pub(super) success: Word,
}

const fn loud(code: u8, name: &'static str, class: Class, shape: Shape) -> Opcode {
    let success: &[u8] = match shape {
        Shape::Store | Shape::Append => b"STORED",
        Shape::Delete => b"DELETED",
        Shape::Touch => b"TOUCHED",
        _ => b"OK",
    };
    Opcode {
        code,
        name,
        class,
        shape,
        quiet: None,
        success: Word::literal(success),
    }
}

const fn quiet(code: u8, name: &'static str, class: Class, shape: Shape) -> Opcode {
    let silence = match shape {
        Shape::Get | Shape::GetKey | Shape::GetTouch | Shape::GetTouchKey => Silence::Miss,
        _ => Silence::Success,
    };
    Opcode {
        quiet: Some(silence),
        ..loud(code, name, class, shape)
    }
}

/// Number of the first row among the operations of Memcached: the tables of the other dialects stay below.
pub(super) const FIRST_INDEX: u16 = 64;

/// The table. A row's index, from [`FIRST_INDEX`] on, is its identity in
/// [`Operation::Known`](crate::protocol::Operation::Known). The range commands (0x30 to 0x3c) are in the header file, and
/// in no server.
pub(super) static OPCODES: [Opcode; 36] = [
    loud(0x00, "GET", Class::Get, Shape::Get),
    loud(0x01, "SET", Class::Set, Shape::Store),
    loud(0x02, "ADD", Class::Set, Shape::Store),
    loud(0x03, "REPLACE", Class::Set, Shape::Store),
    loud(0x04, "DELETE", Class::Delete, Shape::Delete),
    loud(0x05, "INCREMENT", Class::Increment, Shape::Count),
    loud(0x06, "DECREMENT", Class::Increment, Shape::Count),
    loud(0x07, "QUIT", Class::Connection, Shape::Quit),
    loud(0x08, "FLUSH", Class::Delete, Shape::Flush),
    quiet(0x09, "GETQ", Class::Get, Shape::Get),
    loud(0x0a, "NOOP", Class::Connection, Shape::Bare),
    loud(0x0b, "VERSION", Class::Admin, Shape::Bare),
    loud(0x0c, "GETK", Class::Get, Shape::GetKey),
    quiet(0x0d, "GETKQ", Class::Get, Shape::GetKey),
    loud(0x0e, "APPEND", Class::Set, Shape::Append),
    loud(0x0f, "PREPEND", Class::Set, Shape::Append),
    loud(0x10, "STAT", Class::Admin, Shape::Stat),
    quiet(0x11, "SETQ", Class::Set, Shape::Store),
    quiet(0x12, "ADDQ", Class::Set, Shape::Store),
    quiet(0x13, "REPLACEQ", Class::Set, Shape::Store),
    quiet(0x14, "DELETEQ", Class::Delete, Shape::Delete),
    quiet(0x15, "INCREMENTQ", Class::Increment, Shape::Count),
    quiet(0x16, "DECREMENTQ", Class::Increment, Shape::Count),
    quiet(0x17, "QUITQ", Class::Connection, Shape::Quit),
    quiet(0x18, "FLUSHQ", Class::Delete, Shape::Flush),
    quiet(0x19, "APPENDQ", Class::Set, Shape::Append),
    quiet(0x1a, "PREPENDQ", Class::Set, Shape::Append),
    loud(0x1b, "VERBOSITY", Class::Admin, Shape::Verbosity),
    loud(0x1c, "TOUCH", Class::Touch, Shape::Touch),
    loud(0x1d, "GAT", Class::Get, Shape::GetTouch),
    quiet(0x1e, "GATQ", Class::Get, Shape::GetTouch),
    loud(0x20, "SASL_LIST_MECHS", Class::Connection, Shape::Bare),
    loud(0x21, "SASL_AUTH", Class::Connection, Shape::Sasl),
    loud(0x22, "SASL_STEP", Class::Connection, Shape::Sasl),
    loud(0x23, "GATK", Class::Get, Shape::GetTouchKey),
    quiet(0x24, "GATKQ", Class::Get, Shape::GetTouchKey),
];

/// Each code's row, or [`NO_ROW`].
static ROWS: [u8; 256] = {
    let mut rows = [NO_ROW; 256];
    let mut row = 0;
    while row < OPCODES.len() {
        rows[OPCODES[row].code as usize] = row as u8;
        row += 1;
    }
    rows
};
const NO_ROW: u8 = u8::MAX;

/// Finds an opcode's row.
#[inline]
pub(super) fn row(code: u8) -> Option<usize> {
    Some(ROWS[usize::from(code)])
        .filter(|row| *row != NO_ROW)
        .map(usize::from)
}

/// The name of an opcode that has no row: `OPCODE_0X3F`.
#[cold]
pub(super) fn unknown(code: u8) -> Word {
    numbered(*b"OPCODE_0X00", u16::from(code), 2)
}

/// Writes a number's last digits, hexadecimal, over the end of `name`.
pub(super) fn numbered<const N: usize>(mut name: [u8; N], number: u16, digits: usize) -> Word {
    for (place, byte) in name.iter_mut().rev().take(digits).enumerate() {
        *byte = b"0123456789ABCDEF"[usize::from(number >> (4 * place) & 0xf)];
    }
    Word::new(&name)
}

/// Words of `STAT` that may be shown.
pub(super) const STATISTICS: [&str; 12] = [
    "items", "slabs", "sizes", "settings", "conns", "reset", "detail", "on", "off", "dump",
    "extstore", "proxy",
];

/// Mechanisms of SASL that may be shown.
pub(super) const MECHANISMS: [&str; 12] = [
    "PLAIN",
    "LOGIN",
    "CRAM-MD5",
    "DIGEST-MD5",
    "SCRAM-SHA-1",
    "SCRAM-SHA-256",
    "SCRAM-SHA-512",
    "NTLM",
    "GSSAPI",
    "EXTERNAL",
    "ANONYMOUS",
    "OAUTHBEARER",
];

/// Whether these bytes can begin a request: a known opcode with lengths that go with it, as far as the bytes go.
pub(in crate::protocol) fn begins(first: &[u8]) -> Detected {
    let mut header = [0; LENGTH];
    let there = first.len().min(LENGTH);
    header[..there].copy_from_slice(&first[..there]);
    let [magic, code, k0, k1, extras, kind, _, _, b0, b1, b2, b3, ..] = header;
    if there == 0 {
        return Detected::NeedMore;
    }
    if magic != REQUEST {
        return Detected::Foreign;
    }
    if there == 1 {
        return Detected::NeedMore;
    }
    let Some(row) = row(code) else {
        return Detected::Foreign;
    };
    if there < 12 {
        return Detected::NeedMore;
    }
    let key = u16::from_be_bytes([k0, k1]);
    let body = u32::from_be_bytes([b0, b1, b2, b3]);
    let value = body.checked_sub(u32::from(key) + u32::from(extras));
    // Data type 0: raw bytes, the only one there is.
    let sound = kind == 0
        && usize::from(key) <= MAX_KEY
        && body <= MAX_BODY
        && value.is_some_and(|value| OPCODES[row].shape.allows(extras, key, value));
    if sound {
        Detected::Speaks
    } else {
        Detected::Foreign
    }
}
