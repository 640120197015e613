//! Frames replies, and puts those to `STAT` together.

use super::super::super::message::{FramingLost, Malformed, Word};
use super::super::super::reply::{Reply, ReplyKind};
use super::MAX_KEY;
use super::header::{Header, Part, REPLY, tag};
use super::opcodes::{OPCODES, Shape, numbered, row};
use crate::protocol::part;

/// Success.
const SUCCESS: u16 = 0x00;
/// The key was not found.
const NOT_FOUND: u16 = 0x01;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A header.
    Header,
    /// The extras and the key, which tells whose reply it is.
    Prefix(Header),
    /// This many bytes that are passed over, at least one.
    Body(u64),
}

/// Decodes what a Memcached server sends in the binary dialect. A reply delimits itself, whatever was asked.
#[derive(Debug)]
pub struct ReplyDecoder {
    state: State,
    part: Part,
    /// What is being read; for `STAT` of all its parts.
    reply: Reply,
    /// The opaque of the `STAT` whose parts are being read.
    parts: Option<u32>,
}

impl Default for ReplyDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplyDecoder {
    /// A decoder at a message boundary.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Header,
            part: Part::default(),
            reply: Reply::default(),
            parts: None,
        }
    }

    /// See [`ReplyDecoder::decode`](crate::protocol::ReplyDecoder::decode).
    ///
    /// # Errors
    ///
    /// As for requests; and [`Malformed::Syntax`] for another reply between the parts of one.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, Malformed> {
        loop {
            match self.state {
                State::Header => {
                    let Some(header) = self.part.header(input, REPLY)? else {
                        return Ok(None);
                    };
                    if let Some(length) = self.read(&header)? {
                        if let Some(reply) = self.body(length) {
                            return Ok(Some(reply));
                        }
                    } else {
                        self.state = State::Prefix(header);
                    }
                }
                State::Prefix(header) => {
                    let Some(prefix) = self.part.take(input, header.prefix()) else {
                        return Ok(None);
                    };
                    let key = prefix.get(usize::from(header.extras)..);
                    self.reply.tag = Some(tag(header.opcode, header.opaque, key));
                    if let Some(reply) = self.body(header.value()) {
                        return Ok(Some(reply));
                    }
                }
                State::Body(remaining) => {
                    let take = part(remaining, input);
                    *input = &input[take..];
                    match self.passed(remaining - take as u64) {
                        Some(reply) => return Ok(Some(reply)),
                        None if input.is_empty() => return Ok(None),
                        None => {}
                    }
                }
            }
        }
    }

    /// See [`ReplyDecoder::skip`](crate::protocol::ReplyDecoder::skip).
    ///
    /// # Errors
    ///
    /// [`FramingLost`]: the gap is not inside a value, a message, or one statistic.
    pub fn skip(&mut self, length: u64) -> Result<Option<Reply>, FramingLost> {
        if length == 0 {
            return Ok(None);
        }
        let State::Body(remaining) = self.state else {
            return Err(FramingLost);
        };
        match remaining.checked_sub(length) {
            None => Err(FramingLost),
            Some(remaining) => Ok(self.passed(remaining)),
        }
    }

    /// See [`ReplyDecoder::at_boundary`](crate::protocol::ReplyDecoder::at_boundary).
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.state == State::Header && self.part.is_empty() && self.parts.is_none()
    }

    /// Bytes held on the heap.
    pub(in crate::protocol) fn memory(&self) -> usize {
        self.part.memory()
    }

    /// Reads a header into the reply. Answers how many bytes are to be passed over; `None`: the key is to be read first.
    #[inline]
    fn read(&mut self, header: &Header) -> Result<Option<u64>, Malformed> {
        let opcode = row(header.opcode).map(|row| &OPCODES[row]);
        let shape = opcode.map(|opcode| opcode.shape);
        if let Some(opaque) = self.parts
            && (shape != Some(Shape::Stat) || opaque != header.opaque)
        {
            return Err(Malformed::Syntax);
        }
        if shape == Some(Shape::Stat) && header.status == SUCCESS {
            return Ok(Some(self.statistic(header)));
        }
        self.parts = None;
        let reads = shape.is_some_and(Shape::reads);
        let mut reply = Reply {
            tag: Some(tag(header.opcode, header.opaque, None)),
            ..Reply::default()
        };
        match header.status {
            SUCCESS | NOT_FOUND if reads => {
                reply.kind = ReplyKind::Aggregate;
                if header.status == SUCCESS {
                    reply.elements = 1;
                    reply.value_size = header.value();
                }
            }
            SUCCESS if shape == Some(Shape::Count) => reply.kind = ReplyKind::Integer,
            SUCCESS => reply.word = opcode.map_or(Word::literal(b"OK"), |opcode| opcode.success),
            status => match outcome(status) {
                Some(word) => reply.word = word,
                None => {
                    reply.kind = ReplyKind::Error;
                    reply.error = Some(error(status));
                }
            },
        }
        let mut length = Some(u64::from(header.body));
        if shape.is_some_and(Shape::repeats_key) {
            if header.key > 0 {
                if usize::from(header.key) > MAX_KEY {
                    return Err(Malformed::Length);
                }
                length = None;
            } else {
                // An error's reply does not say whose it is, as far as the key goes.
                reply.tag = None;
            }
        }
        self.reply = reply;
        Ok(length)
    }

    /// A part of the reply to `STAT`: one statistic, or with no key the end.
    fn statistic(&mut self, header: &Header) -> u64 {
        if self.parts.is_none() {
            self.reply = Reply {
                kind: ReplyKind::Aggregate,
                tag: Some(tag(header.opcode, header.opaque, None)),
                ..Reply::default()
            };
        }
        if header.key > 0 {
            self.reply.elements += 1;
            self.parts = Some(header.opaque);
        } else {
            self.parts = None;
        }
        u64::from(header.body)
    }

    /// This many bytes come next, and are passed over.
    #[inline]
    fn body(&mut self, length: u64) -> Option<Reply> {
        self.state = State::Body(length);
        self.passed(length)
    }

    /// This many bytes are left to be passed over. The reply, when that ends it.
    #[inline]
    fn passed(&mut self, remaining: u64) -> Option<Reply> {
        if remaining > 0 {
            self.state = State::Body(remaining);
            return None;
        }
        self.state = State::Header;
        self.parts
            .is_none()
            .then(|| std::mem::take(&mut self.reply))
    }
}

/// What is no success, and no error either.
fn outcome(status: u16) -> Option<Word> {
    const WORDS: [(u16, Word); 4] = [
        (NOT_FOUND, Word::literal(b"NOT_FOUND")),
        (0x02, Word::literal(b"EXISTS")),
        (0x05, Word::literal(b"NOT_STORED")),
        (0x21, Word::literal(b"AUTH_CONTINUE")),
    ];
    WORDS
        .iter()
        .find(|(known, _)| *known == status)
        .map(|(_, word)| *word)
}

/// The name of a status that is an error: `db.response.status_code`.
fn error(status: u16) -> Word {
    let name: &[u8] = match status {
        0x03 => b"E2BIG",
        0x04 => b"EINVAL",
        0x06 => b"DELTA_BADVAL",
        0x07 => b"NOT_MY_VBUCKET",
        0x20 => b"AUTH_ERROR",
        0x81 => b"UNKNOWN_COMMAND",
        0x82 => b"ENOMEM",
        0x83 => b"NOT_SUPPORTED",
        0x84 => b"EINTERNAL",
        0x85 => b"EBUSY",
        0x86 => b"ETMPFAIL",
        _ => return numbered(*b"STATUS_0X0000", status, 4),
    };
    Word::new(name)
}
