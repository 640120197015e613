//! Frames replies: single lines, values up to END, statistics up to END; meta replies, which a value may end.

use super::super::super::line::Line;
use super::super::super::message::{FramingLost, Malformed, Word};
use super::super::super::number;
use super::super::super::reply::{Reply, ReplyKind};
use super::super::meta;
use super::{MAX_DATA, MAX_LINE};
use crate::protocol::part;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A line.
    Line,
    /// This many bytes of a value, at least one.
    Data(u64),
    /// CR after the value.
    Cr,
    /// LF after the value.
    Lf,
}

/// Decodes what a Memcached server sends in the text dialects. A reply delimits itself, whatever was asked.
#[derive(Debug)]
pub struct ReplyDecoder {
    state: State,
    line: Line,
    reply: Reply,
    /// Inside a list of values or statistics that ends at END.
    list: bool,
    /// The value being passed over ends its reply (`VA`).
    last: bool,
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
            state: State::Line,
            line: Line::default(),
            reply: Reply::default(),
            list: false,
            last: false,
        }
    }

    /// See [`ReplyDecoder::decode`](crate::protocol::ReplyDecoder::decode).
    ///
    /// # Errors
    ///
    /// [`Malformed`]: no reply of these dialects looks like this.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, Malformed> {
        loop {
            let Some((&byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            match self.state {
                State::Line => {
                    if self.line.is_empty() && !byte.is_ascii_graphic() {
                        // 0x81: the binary protocol; 0x15, 0x16: TLS.
                        let foreign = matches!(byte, 0x81 | 0x15 | 0x16);
                        return Err(if foreign {
                            Malformed::Foreign
                        } else {
                            Malformed::Syntax
                        });
                    }
                    let Some(line) = self.line.read(input, MAX_LINE)? else {
                        return Ok(None);
                    };
                    let line = match line.strip_suffix(b"\r") {
                        Some(line) => line,
                        // `lru_crawler metadump` and `mgdump` end their lines with LF alone.
                        None if line.starts_with(b"key=") || line.starts_with(b"mg ") => &line,
                        None => return Err(Malformed::Syntax),
                    };
                    let ends = match self.list {
                        true => None,
                        false => meta::read_reply(first_word(line), line)?,
                    };
                    let ends = match ends {
                        Some((reply, data)) => {
                            self.reply = reply;
                            self.last = data.is_some();
                            self.state = data.map_or(State::Line, State::value);
                            data.is_none()
                        }
                        None => {
                            Self::read_line(&mut self.reply, &mut self.list, &mut self.state, line)?
                        }
                    };
                    if ends {
                        self.list = false;
                        return Ok(Some(std::mem::take(&mut self.reply)));
                    }
                }
                State::Data(remaining) => {
                    let take = part(remaining, input);
                    *input = &input[take..];
                    self.state = match remaining - take as u64 {
                        0 => State::Cr,
                        remaining => State::Data(remaining),
                    };
                }
                State::Cr => {
                    if byte != b'\r' {
                        return Err(Malformed::Syntax);
                    }
                    *input = rest;
                    self.state = State::Lf;
                }
                State::Lf => {
                    if byte != b'\n' {
                        return Err(Malformed::Syntax);
                    }
                    *input = rest;
                    self.state = State::Line;
                    if let Some(reply) = self.value_over() {
                        return Ok(Some(reply));
                    }
                }
            }
        }
    }

    /// A value and its CRLF are over; that ends the reply, or not.
    fn value_over(&mut self) -> Option<Reply> {
        std::mem::take(&mut self.last).then(|| std::mem::take(&mut self.reply))
    }

    /// See [`ReplyDecoder::skip`](crate::protocol::ReplyDecoder::skip).
    ///
    /// # Errors
    ///
    /// [`FramingLost`]: the gap is not inside a value (and its CRLF).
    pub fn skip(&mut self, length: u64) -> Result<Option<Reply>, FramingLost> {
        if length == 0 {
            return Ok(None);
        }
        let (data, tail) = match self.state {
            State::Data(remaining) => (remaining, 2),
            State::Cr => (0, 2),
            State::Lf => (0, 1),
            State::Line => return Err(FramingLost),
        };
        self.state = match length.checked_sub(data) {
            None => State::Data(data - length),
            Some(past) if past == tail => State::Line,
            Some(0) => State::Cr,
            Some(1) if tail == 2 => State::Lf,
            Some(_) => return Err(FramingLost),
        };
        Ok(match self.state {
            State::Line => self.value_over(),
            _ => None,
        })
    }

    /// See [`ReplyDecoder::at_boundary`](crate::protocol::ReplyDecoder::at_boundary).
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.state == State::Line && !self.list && self.line.is_empty()
    }

    /// Bytes held on the heap.
    pub(in crate::protocol) fn memory(&self) -> usize {
        self.line.memory()
    }

    /// Reads a line. `true` when it ends the reply.
    fn read_line(
        reply: &mut Reply,
        list: &mut bool,
        state: &mut State,
        line: &[u8],
    ) -> Result<bool, Malformed> {
        let first = first_word(line);
        match first {
            b"VALUE" => {
                let length = value_length(line)?;
                reply.elements += 1;
                reply.value_size = reply.value_size.saturating_add(length);
                *list = true;
                *state = State::value(length);
                return Ok(false);
            }
            // EN: lru_crawler mgdump.
            b"END" | b"EN" if first.len() == line.len() => {
                reply.kind = ReplyKind::Aggregate;
                return Ok(true);
            }
            // stats; stats cachedump; stats detail dump.
            b"STAT" | b"ITEM" | b"PREFIX" => {
                reply.elements += 1;
                *list = true;
                return Ok(false);
            }
            // An error may also break a list off (`SERVER_ERROR out of memory writing get response`).
            b"ERROR"
            | b"ERROR:"
            | b"CLIENT_ERROR"
            | b"SERVER_ERROR"
            | b"WATCHER_TOO_MANY"
            | b"WATCHER_FAILED"
            | b"MEMLIMIT_TOO_SMALL"
            | b"MEMLIMIT_ADJUST_FAILED" => {
                let word = first.strip_suffix(b":").unwrap_or(first);
                *reply = Reply {
                    kind: ReplyKind::Error,
                    error: Some(Word::new(word)),
                    ..Reply::default()
                };
                return Ok(true);
            }
            // lru_crawler metadump, lru_crawler mgdump.
            _ if first.starts_with(b"key=") || first == b"mg" => {
                reply.elements += 1;
                *list = true;
                return Ok(false);
            }
            _ => {}
        }
        if *list {
            return Err(Malformed::Syntax);
        }
        match first {
            b"STORED" | b"NOT_STORED" | b"EXISTS" | b"NOT_FOUND" | b"DELETED" | b"TOUCHED"
            | b"OK" | b"RESET" | b"VERSION" | b"BUSY" | b"BADCLASS" | b"NOSPARE" | b"NOTFULL"
            | b"UNSAFE" | b"SAME" | b"NOTSTARTED" => {
                reply.kind = ReplyKind::Simple;
                reply.word = Word::new(first);
                Ok(true)
            }
            b"HTTP/1.0" | b"HTTP/1.1" => Err(Malformed::Foreign),
            _ => {
                // A counter: up to 20 digits; a client may be sent trailing spaces (doc/protocol.txt, decr).
                let digits = line.trim_ascii_end();
                if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit)
                {
                    return Err(Malformed::Syntax);
                }
                reply.kind = ReplyKind::Integer;
                reply.integer = number::parse(digits);
                Ok(true)
            }
        }
    }
}

impl State {
    /// At the beginning of a value.
    fn value(length: u64) -> Self {
        match length {
            0 => Self::Cr,
            _ => Self::Data(length),
        }
    }
}

fn first_word(line: &[u8]) -> &[u8] {
    line.split(|byte| *byte == b' ').next().unwrap_or(line)
}

/// `VALUE <key> <flags> <bytes> [<cas unique>]`
pub(super) fn value_length(line: &[u8]) -> Result<u64, Malformed> {
    let bytes = line
        .split(|byte| *byte == b' ')
        .nth(3)
        .ok_or(Malformed::Syntax)?;
    let length = number::parse(bytes).ok_or(Malformed::Syntax)?;
    u64::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_DATA)
        .ok_or(Malformed::Length)
}
