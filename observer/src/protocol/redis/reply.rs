//! Frames replies: RESP2 and RESP3 as one grammar.

mod nesting;

use super::super::message::{FramingLost, Malformed, Redirect, Word};
use super::super::number::{Decimal, Number, short};
use super::super::reply::{Reply, ReplyKind};
use super::head::{MESSAGES, first_word, is_numeric, prefix};
use super::{MAX_DEPTH, MAX_ELEMENTS, MAX_LINE, MAX_STRING};
use crate::protocol::part;
use crate::telemetry::work;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The type byte of a reply or element.
    Type,
    /// A line, up to CRLF; of this type.
    Line(u8),
    /// The same, after CR.
    LineLf(u8),
    /// A number: the value of `:`, or the length or count of this type.
    Number(u8),
    /// This many bytes of a string, at least one.
    Body(u64),
    /// CR after a string.
    Cr,
    /// LF after a string.
    Lf,
    /// `;` before a chunk of a streamed string.
    Chunk,
    /// CR after the `.` that ends a streamed aggregate.
    EndCr,
    /// LF after it.
    EndLf,
}

/// Remaining elements of a streamed aggregate: it ends at `.`.
const STREAMED: u64 = u64::MAX;
/// Bytes kept of a line or string that may hold a status or an error: `MOVED 16383 ` and a target.
const HEAD: usize = 12 + Redirect::CAPACITY;

/// Decodes what a Redis server sends.
///
/// Source: the Redis serialization protocol specification (RESP2, RESP3), and RESP3 at
/// `github.com/redis/redis-specifications` for streamed types and attributes. Attributes are read and ignored.
#[derive(Debug)]
pub struct ReplyDecoder {
    state: State,
    number: Number,
    /// Open aggregates: elements each of them still misses.
    levels: [u64; MAX_DEPTH],
    depth: usize,
    /// Bit `d` is set when `levels[d]` is an attribute: not an element of what holds it.
    attributes: u32,
    /// Depth at which replies are delivered: 1 inside a reply that is unfolded, else 0.
    base: usize,
    /// Unfold the next reply if it is an aggregate.
    unfold: bool,
    /// The type of the string being read: `$`, `=`, `!`.
    string: u8,
    /// The string comes in chunks.
    chunked: bool,
    /// Length of the line or string so far, without CRLF.
    length: u64,
    /// Its first bytes, where they matter.
    head: [u8; HEAD],
    head_length: usize,
    /// Whether more of them are wanted.
    head_open: bool,
    /// An attribute of the reply to come was read.
    attributed: bool,
    /// The next element is the first of an aggregate at the base.
    first: bool,
    reply: Reply,
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
            state: State::Type,
            number: Number::default(),
            levels: [0; MAX_DEPTH],
            depth: 0,
            attributes: 0,
            base: 0,
            unfold: false,
            string: 0,
            chunked: false,
            length: 0,
            head: [0; HEAD],
            head_length: 0,
            head_open: false,
            attributed: false,
            first: false,
            reply: Reply::default(),
        }
    }

    /// Unfolds the next reply, if it is an array: it is delivered in parts: first its head
    /// ([`ReplyKind::Unfolded`] with [`Reply::elements`], nothing else), then each element as a reply of its own. For
    /// EXEC, whose elements are the replies of the queued commands. Call it at a message boundary, when EXEC's is the
    /// reply to come; a push that comes before it is delivered as always.
    pub fn unfold(&mut self) {
        self.unfold = true;
    }

    /// See [`ReplyDecoder::decode`](crate::protocol::ReplyDecoder::decode).
    ///
    /// # Errors
    ///
    /// [`Malformed`]: no reply looks like this.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, Malformed> {
        loop {
            work::add(1);
            let Some((&byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            let done = match self.state {
                State::Type => {
                    *input = rest;
                    match self.whole(byte, rest) {
                        Some((rest, done)) => {
                            *input = rest;
                            done
                        }
                        None => {
                            self.begin(byte)?;
                            false
                        }
                    }
                }
                State::Number(kind) => match self.number.read(input)? {
                    None => return Ok(None),
                    Some(number) => self.number(kind, number)?,
                },
                State::Body(remaining) => {
                    let take = part(remaining, input);
                    let (body, rest) = input.split_at(take);
                    self.keep(body);
                    *input = rest;
                    self.state = match remaining - take as u64 {
                        0 => State::Cr,
                        remaining => State::Body(remaining),
                    };
                    false
                }
                State::Cr | State::EndCr => {
                    if byte != b'\r' {
                        return Err(Malformed::Syntax);
                    }
                    *input = rest;
                    self.state = if self.state == State::Cr {
                        State::Lf
                    } else {
                        State::EndLf
                    };
                    false
                }
                State::Lf => {
                    if byte != b'\n' {
                        return Err(Malformed::Syntax);
                    }
                    *input = rest;
                    self.end_string()
                }
                State::Line(kind) => {
                    self.line(kind, input)?;
                    false
                }
                State::LineLf(kind) => {
                    if byte != b'\n' {
                        return Err(Malformed::Syntax);
                    }
                    *input = rest;
                    self.end_line(kind)?
                }
                State::Chunk => {
                    if byte != b';' {
                        return Err(Malformed::Syntax);
                    }
                    *input = rest;
                    self.state = State::Number(b';');
                    false
                }
                State::EndLf => {
                    if byte != b'\n' {
                        return Err(Malformed::Syntax);
                    }
                    *input = rest;
                    self.close()
                }
            };
            if done {
                return Ok(Some(std::mem::take(&mut self.reply)));
            }
        }
    }

    /// See [`ReplyDecoder::skip`](crate::protocol::ReplyDecoder::skip).
    ///
    /// # Errors
    ///
    /// [`FramingLost`]: the gap is not inside a string of declared length (and its CRLF).
    pub fn skip(&mut self, length: u64) -> Result<Option<Reply>, FramingLost> {
        if length == 0 {
            return Ok(None);
        }
        let (body, tail) = match self.state {
            State::Body(remaining) => (remaining, 2),
            State::Cr => (0, 2),
            State::Lf => (0, 1),
            _ => return Err(FramingLost),
        };
        if body > 0 {
            // Nothing after the gap continues what was kept.
            self.head_open = false;
        }
        match length.checked_sub(body) {
            None => self.state = State::Body(body - length),
            Some(past) if past == tail => {
                let done = self.end_string();
                return Ok(done.then(|| std::mem::take(&mut self.reply)));
            }
            Some(0) => self.state = State::Cr,
            Some(1) if tail == 2 => self.state = State::Lf,
            Some(_) => return Err(FramingLost),
        }
        Ok(None)
    }

    /// See [`ReplyDecoder::at_boundary`](crate::protocol::ReplyDecoder::at_boundary). False between the elements of a
    /// reply that is unfolded.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.depth == 0 && self.state == State::Type && !self.attributed
    }

    /// Takes a short reply or element that is in the input whole: the common cases; it takes a small value from 28 to 19 ns. What comes after
    /// it, and whether it completes a reply.
    #[inline]
    fn whole<'a>(&mut self, kind: u8, input: &'a [u8]) -> Option<(&'a [u8], bool)> {
        match kind {
            b'$' => {
                let Some((length, rest)) = short(input) else {
                    let rest = input.strip_prefix(b"-1\r\n")?;
                    return Some((rest, self.null()));
                };
                let (body, rest) = rest.split_at_checked(length as usize)?;
                let rest = rest.strip_prefix(b"\r\n")?;
                if self.first {
                    self.open_head(b'$');
                    self.length = length;
                    self.keep(body);
                    self.message_kind();
                }
                Some((rest, self.value(length)))
            }
            b':' => {
                let (value, rest) = short(input)?;
                Some((rest, self.integer(value as i64)))
            }
            b'+' if self.depth == self.base && self.attributes == 0 => {
                let rest = input.strip_prefix(b"OK\r\n")?;
                self.reply.kind = ReplyKind::Simple;
                self.reply.word = const { Word::literal(b"OK") };
                Some((rest, self.complete()))
            }
            _ => None,
        }
    }

    /// A type byte.
    #[inline]
    fn begin(&mut self, kind: u8) -> Result<(), Malformed> {
        match kind {
            b'$' | b':' | b'*' | b'%' | b'~' | b'>' | b'=' | b'!' | b'|' => {
                self.state = State::Number(kind)
            }
            b'+' | b'-' | b'_' | b'#' | b',' | b'(' => {
                self.state = State::Line(kind);
                self.open_head(kind);
            }
            b'.' if self.depth > self.base && self.levels[self.depth - 1] == STREAMED => {
                self.state = State::EndCr
            }
            // A TLS handshake record or alert.
            0x15 | 0x16 => return Err(Malformed::Foreign),
            _ => return Err(Malformed::Syntax),
        }
        Ok(())
    }

    /// A line or string begins: decides whether its first bytes matter.
    #[inline]
    fn open_head(&mut self, kind: u8) {
        self.length = 0;
        self.head_length = 0;
        self.head_open = match kind {
            b'#' | b',' | b'(' => true,
            _ if self.attributes != 0 => false,
            b'+' => self.depth <= self.base + usize::from(self.first),
            b'-' | b'!' => self.depth <= self.base + 1,
            _ => self.first && self.depth == self.base + 1,
        };
    }

    /// Keeps first bytes.
    #[inline]
    fn keep(&mut self, bytes: &[u8]) {
        if self.head_open {
            let take = bytes.len().min(HEAD - self.head_length);
            self.head[self.head_length..self.head_length + take].copy_from_slice(&bytes[..take]);
            self.head_length += take;
        }
    }

    /// The number after a type byte. `true` when a reply is complete.
    #[inline]
    fn number(&mut self, kind: u8, number: Decimal) -> Result<bool, Malformed> {
        let value = match number {
            Decimal::Value(value) => value,
            Decimal::Streamed => return self.streamed(kind),
        };
        match kind {
            b':' => Ok(self.integer(value)),
            b'$' | b'=' | b'!' => {
                if value == -1 && kind == b'$' {
                    return Ok(self.null());
                }
                if !(0..=MAX_STRING).contains(&value) {
                    return Err(Malformed::Length);
                }
                self.string = kind;
                self.chunked = false;
                self.open_head(kind);
                self.string_part(value as u64);
                Ok(false)
            }
            b';' => {
                if !(0..=MAX_STRING).contains(&value) {
                    return Err(Malformed::Length);
                }
                if value == 0 {
                    return Ok(self.string_done());
                }
                self.string_part(value as u64);
                Ok(false)
            }
            _ => {
                if value == -1 && kind == b'*' {
                    return Ok(self.null());
                }
                if !(0..=MAX_ELEMENTS).contains(&value) {
                    return Err(Malformed::Length);
                }
                let each = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
                self.aggregate(kind, value as u64 * each)
            }
        }
    }

    /// `length` bytes of a string follow.
    fn string_part(&mut self, length: u64) {
        self.length = self.length.saturating_add(length);
        self.state = if length == 0 {
            State::Cr
        } else {
            State::Body(length)
        };
    }

    /// A streamed string or aggregate begins.
    #[cold]
    fn streamed(&mut self, kind: u8) -> Result<bool, Malformed> {
        match kind {
            b'$' => {
                self.string = kind;
                self.chunked = true;
                self.open_head(kind);
                self.state = State::Chunk;
                Ok(false)
            }
            b'*' | b'%' | b'~' => self.aggregate(kind, STREAMED),
            _ => Err(Malformed::Syntax),
        }
    }

    fn integer(&mut self, value: i64) -> bool {
        if self.attributes == 0 {
            if self.depth == self.base {
                self.reply.kind = ReplyKind::Integer;
                self.reply.integer = Some(value);
            } else if self.depth == self.base + 1 {
                self.reply.zeros += u64::from(value == 0);
            }
        }
        self.complete()
    }

    fn null(&mut self) -> bool {
        if self.attributes == 0 {
            if self.depth == self.base {
                self.reply.kind = ReplyKind::Null;
            } else if self.depth == self.base + 1 {
                self.reply.nulls += 1;
            }
        }
        self.complete()
    }

    /// A value of `size` bytes.
    fn value(&mut self, size: u64) -> bool {
        if self.attributes == 0 {
            self.reply.value_size = self.reply.value_size.saturating_add(size);
            if self.depth == self.base {
                self.reply.kind = ReplyKind::Value;
            } else if self.reply.elements % 2 == 1 {
                self.reply.second_size = self.reply.second_size.saturating_add(size);
            }
        }
        self.complete()
    }

    /// An error, whose first bytes were kept.
    #[cold]
    fn error(&mut self) -> bool {
        if self.attributes == 0 && self.depth <= self.base + 1 {
            let whole = self.head_open && self.length <= HEAD as u64;
            let (word, redirect) = prefix(&self.head[..self.head_length], whole);
            if self.depth == self.base {
                self.reply.kind = ReplyKind::Error;
                self.reply.error = Some(word);
                self.reply.redirect = redirect;
            } else {
                if self.reply.errors == 0 {
                    self.reply.word = word;
                }
                self.reply.errors += 1;
            }
        }
        self.complete()
    }

    /// A string's CRLF was read.
    fn end_string(&mut self) -> bool {
        if self.chunked {
            self.state = State::Chunk;
            return false;
        }
        self.string_done()
    }

    fn string_done(&mut self) -> bool {
        match self.string {
            b'!' => return self.error(),
            // A verbatim string begins with its format: `txt:`.
            b'=' => return self.value(self.length.saturating_sub(4)),
            _ => {}
        }
        self.message_kind();
        self.value(self.length)
    }

    /// The first element of a push, or of a RESP2 message, says what it is.
    #[inline]
    fn message_kind(&mut self) {
        if self.first && self.attributes == 0 && self.depth == self.base + 1 {
            let whole = self.head_open && self.length == self.head_length as u64;
            let text = &self.head[..self.head_length];
            if whole && (self.reply.kind == ReplyKind::Push || MESSAGES.contains(&text)) {
                self.reply.word = Word::new(text);
            }
        }
    }

    /// Reads on in a line.
    fn line(&mut self, kind: u8, input: &mut &[u8]) -> Result<(), Malformed> {
        let bytes = *input;
        let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let part = &bytes[..end.unwrap_or(bytes.len())];
        self.length += part.len() as u64;
        if self.length > MAX_LINE {
            return Err(Malformed::Line);
        }
        self.keep(part);
        *input = &bytes[part.len()..];
        if let Some((byte, rest)) = input.split_first() {
            if *byte == b'\n' {
                return Err(Malformed::Syntax);
            }
            *input = rest;
            self.state = State::LineLf(kind);
        }
        Ok(())
    }

    /// A line's CRLF was read.
    fn end_line(&mut self, kind: u8) -> Result<bool, Malformed> {
        let head = &self.head[..self.head_length];
        match kind {
            b'+' => {
                if self.attributes == 0 && self.depth == self.base {
                    self.reply.kind = ReplyKind::Simple;
                    self.reply.word = Word::new(first_word(head));
                } else {
                    self.message_kind();
                }
                Ok(self.complete())
            }
            b'-' => Ok(self.error()),
            b'_' if self.length == 0 => Ok(self.null()),
            b'#' => match head {
                b"t" => Ok(self.integer(1)),
                b"f" => Ok(self.integer(0)),
                _ => Err(Malformed::Syntax),
            },
            b',' | b'(' if self.length > 0 && head.iter().all(|byte| is_numeric(*byte)) => {
                Ok(self.value(self.length))
            }
            _ => Err(Malformed::Syntax),
        }
    }
}
