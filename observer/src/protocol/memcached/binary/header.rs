//! The header, and the parts of a message that are looked at.

use std::borrow::Cow;

use super::super::super::message::Malformed;
use super::MAX_BODY;

/// First byte of a request.
pub(super) const REQUEST: u8 = 0x80;
/// First byte of a reply.
pub(super) const REPLY: u8 = 0x81;
/// Bytes of a header.
pub(super) const LENGTH: usize = 24;

/// A header, without the magic, the data type and the cas number.
///
/// ```text
///  0 magic   1 opcode  2..4 key length
///  4 extras length     5 data type         6..8 partition (request), status (reply)
///  8..12 body length: extras, key and value
/// 12..16 opaque       16..24 cas
/// ```
///
/// `extras + key <= body <= MAX_BODY`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: u8,
    pub(super) extras: u8,
    pub(super) key: u16,
    /// Means something in replies only.
    pub(super) status: u16,
    pub(super) body: u32,
    pub(super) opaque: u32,
}

impl Header {
    /// Reads it; the magic is known to be right.
    #[inline]
    fn parse(bytes: &[u8; LENGTH]) -> Result<Self, Malformed> {
        let [
            _,
            opcode,
            k0,
            k1,
            extras,
            _,
            s0,
            s1,
            b0,
            b1,
            b2,
            b3,
            o0,
            o1,
            o2,
            o3,
            ..,
        ] = *bytes;
        let header = Self {
            opcode,
            extras,
            key: u16::from_be_bytes([k0, k1]),
            status: u16::from_be_bytes([s0, s1]),
            body: u32::from_be_bytes([b0, b1, b2, b3]),
            opaque: u32::from_be_bytes([o0, o1, o2, o3]),
        };
        if header.body > MAX_BODY || header.prefix() as u64 > u64::from(header.body) {
            return Err(Malformed::Length);
        }
        Ok(header)
    }

    /// Bytes before the value.
    #[inline]
    pub(super) fn prefix(&self) -> usize {
        usize::from(self.extras) + usize::from(self.key)
    }

    /// Bytes of the value.
    #[inline]
    pub(super) fn value(&self) -> u64 {
        u64::from(self.body).saturating_sub(self.prefix() as u64)
    }
}

/// Puts together what is cut: a header, or extras and key.
#[derive(Debug, Default)]
pub(super) struct Part {
    buffer: Vec<u8>,
}

impl Part {
    /// Takes `want` bytes. `None`: input is used up. Borrows from `input` when all of them are there; else the buffer is
    /// given away, so that nothing is held between parts.
    #[inline]
    pub(super) fn take<'a>(&mut self, input: &mut &'a [u8], want: usize) -> Option<Cow<'a, [u8]>> {
        if self.buffer.is_empty() {
            if let Some((part, rest)) = input.split_at_checked(want) {
                *input = rest;
                return Some(Cow::Borrowed(part));
            }
            self.buffer.reserve_exact(want);
        }
        let missing = want.saturating_sub(self.buffer.len());
        let (part, rest) = input.split_at(missing.min(input.len()));
        *input = rest;
        self.buffer.extend_from_slice(part);
        (self.buffer.len() >= want).then(|| Cow::Owned(std::mem::take(&mut self.buffer)))
    }

    /// Takes a header. The first byte is judged as soon as it is there.
    #[inline]
    pub(super) fn header(
        &mut self,
        input: &mut &[u8],
        magic: u8,
    ) -> Result<Option<Header>, Malformed> {
        if self.buffer.is_empty() {
            match input.first() {
                None => return Ok(None),
                Some(byte) if *byte == magic => {}
                // TLS: an alert or a handshake.
                Some(0x15 | 0x16) => return Err(Malformed::Foreign),
                Some(_) => return Err(Malformed::Syntax),
            }
        }
        let Some(bytes) = self.take(input, LENGTH) else {
            return Ok(None);
        };
        match bytes.first_chunk() {
            Some(bytes) => Header::parse(bytes).map(Some),
            // Only in a decoder that is spent.
            None => Err(Malformed::Syntax),
        }
    }

    /// Whether nothing was begun.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Bytes held on the heap.
    pub(super) fn memory(&self) -> usize {
        self.buffer.capacity()
    }
}

/// What a reply repeats of its request, as one number: the opcode, the opaque, and for some opcodes the key.
///
/// Without a key no two are the same. With one it is FNV-1a: a client that makes two keys collide deceives itself only.
#[inline]
pub(super) fn tag(opcode: u8, opaque: u32, key: Option<&[u8]>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let seed = u64::from(opcode) << 32 | u64::from(opaque);
    match key {
        None => seed,
        Some(key) => key.iter().fold(OFFSET ^ seed, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
        }),
    }
}
