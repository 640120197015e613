//! Frames and reads requests.

use super::super::super::message::{
    Answer, Class, Effect, Expiry, FramingLost, HitRule, Malformed, Operation, Request,
};
use super::super::super::text::Writer;
use super::MAX_KEY;
use super::header::{Header, Part, REQUEST, tag};
use super::opcodes::{FIRST_INDEX, MECHANISMS, OPCODES, Opcode, STATISTICS, Shape, row, unknown};
use crate::protocol::part;

/// Longest relative expiry, seconds; above it, expiry is a point in time (`REALTIME_MAXDELTA` in `memcached.h`).
const MAX_RELATIVE: u32 = 60 * 60 * 24 * 30;
/// An expiry of INCREMENT and DECREMENT: where the key is not found it is not made.
const NOT_MADE: u32 = u32::MAX;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A header.
    Header,
    /// The extras and the key.
    Prefix(Header),
    /// This many bytes that are passed over, at least one.
    Value(u64),
}

/// Decodes what a Memcached client sends in the binary dialect.
///
/// Lengths that do not go with the opcode do not stop it: framing is sure all the same, and the server says `EINVAL`.
#[derive(Debug)]
pub struct RequestDecoder {
    state: State,
    part: Part,
    /// A request whose value is being passed over.
    pending: Option<Request>,
    keep_detail: bool,
}

impl RequestDecoder {
    /// A decoder at a message boundary.
    #[must_use]
    pub fn new(keep_detail: bool) -> Self {
        Self {
            state: State::Header,
            part: Part::default(),
            pending: None,
            keep_detail,
        }
    }

    /// See [`RequestDecoder::decode`](crate::protocol::RequestDecoder::decode).
    ///
    /// # Errors
    ///
    /// [`Malformed::Foreign`] for TLS, [`Malformed::Syntax`] for any other byte in place of the magic, and
    /// [`Malformed::Length`] for lengths that contradict each other or that no server takes.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Request>, Malformed> {
        loop {
            match self.state {
                State::Header => {
                    let Some(header) = self.part.header(input, REQUEST)? else {
                        return Ok(None);
                    };
                    let Some(row) = row(header.opcode) else {
                        let request = strange(&header, self.keep_detail);
                        if let Some(request) = self.value(request, u64::from(header.body)) {
                            return Ok(Some(request));
                        }
                        continue;
                    };
                    if usize::from(header.key) > MAX_KEY {
                        return Err(Malformed::Length);
                    }
                    let Some(prefix) = self.part.take(input, header.prefix()) else {
                        self.state = State::Prefix(header);
                        return Ok(None);
                    };
                    let request = read(row, &header, &prefix, self.keep_detail);
                    if let Some(request) = self.value(request, header.value()) {
                        return Ok(Some(request));
                    }
                }
                State::Prefix(header) => {
                    let Some(prefix) = self.part.take(input, header.prefix()) else {
                        return Ok(None);
                    };
                    let row = row(header.opcode).unwrap_or_default();
                    let request = read(row, &header, &prefix, self.keep_detail);
                    if let Some(request) = self.value(request, header.value()) {
                        return Ok(Some(request));
                    }
                }
                State::Value(remaining) => {
                    let take = part(remaining, input);
                    *input = &input[take..];
                    match remaining - take as u64 {
                        0 => {
                            self.state = State::Header;
                            return Ok(self.pending.take());
                        }
                        remaining => self.state = State::Value(remaining),
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// A value of this length comes next. Gives the request back if there is none.
    #[inline]
    fn value(&mut self, request: Request, length: u64) -> Option<Request> {
        if length == 0 {
            self.state = State::Header;
            return Some(request);
        }
        self.pending = Some(request);
        self.state = State::Value(length);
        None
    }

    /// See [`RequestDecoder::skip`](crate::protocol::RequestDecoder::skip).
    ///
    /// # Errors
    ///
    /// [`FramingLost`]: the gap is not inside a value.
    pub fn skip(&mut self, length: u64) -> Result<Option<Request>, FramingLost> {
        if length == 0 {
            return Ok(None);
        }
        let State::Value(remaining) = self.state else {
            return Err(FramingLost);
        };
        match remaining.checked_sub(length) {
            None => Err(FramingLost),
            Some(0) => {
                self.state = State::Header;
                Ok(self.pending.take())
            }
            Some(remaining) => {
                self.state = State::Value(remaining);
                Ok(None)
            }
        }
    }

    /// See [`RequestDecoder::at_boundary`](crate::protocol::RequestDecoder::at_boundary).
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.state == State::Header && self.part.is_empty()
    }

    /// Bytes held on the heap.
    pub(in crate::protocol) fn memory(&self) -> usize {
        self.part.memory()
    }
}

/// A request whose opcode has no row: the number is all that is known of it. What stands where others have a key may be
/// anything.
#[cold]
fn strange(header: &Header, keep_detail: bool) -> Request {
    let operation = Operation::Other(unknown(header.opcode));
    let detail = keep_detail.then(|| Writer::new(operation.name()).finish());
    Request {
        tag: Some(tag(header.opcode, header.opaque, None)),
        detail,
        ..Request::new(operation, Class::Other)
    }
}

/// Reads a request of that row; `prefix` is its extras and key.
fn read(row: usize, header: &Header, prefix: &[u8], keep_detail: bool) -> Request {
    let opcode = &OPCODES[row];
    let (extras, key) = prefix.split_at(usize::from(header.extras));
    let repeated = opcode.shape.repeats_key().then_some(key);
    let operation = Operation::Known {
        index: FIRST_INDEX + row as u16,
        name: opcode.name,
    };
    let mut reader = Reader {
        request: Request {
            answer: opcode.quiet.map_or(Answer::One, Answer::Quiet),
            tag: Some(tag(header.opcode, header.opaque, repeated)),
            ..Request::new(operation, opcode.class)
        },
        writer: keep_detail.then(|| Writer::new(opcode.name)),
    };
    reader.read(opcode, extras, key, header.value());
    reader.request.detail = reader.writer.map(Writer::finish);
    reader.request
}

/// Fills a request in.
struct Reader {
    request: Request,
    writer: Option<Writer>,
}

impl Reader {
    #[inline]
    fn read(&mut self, opcode: &Opcode, extras: &[u8], key: &[u8], value: u64) {
        match opcode.shape {
            Shape::Get | Shape::GetKey => {
                self.key(key);
                self.request.hit_rule = HitRule::Values { asked: 1 };
                self.request.returns = true;
            }
            // As the text dialect is shown: `GAT 60 k`.
            Shape::GetTouch | Shape::GetTouchKey => {
                self.expiry(number(extras, 0));
                self.key(key);
                self.request.hit_rule = HitRule::Values { asked: 1 };
                self.request.returns = true;
            }
            Shape::Store => {
                self.key(key);
                self.expiry(number(extras, 4));
                self.hide();
                self.request.value_size = Some(value);
            }
            Shape::Append => {
                self.key(key);
                self.hide();
                self.request.value_size = Some(value);
            }
            Shape::Delete => self.key(key),
            Shape::Count => self.count(extras, key),
            Shape::Touch => {
                self.key(key);
                self.expiry(number(extras, 0));
                self.request.hit_rule = HitRule::Found;
            }
            Shape::Flush | Shape::Verbosity => {
                if !extras.is_empty() {
                    self.hide();
                }
            }
            Shape::Stat => {
                for word in key
                    .split(|byte| *byte == b' ')
                    .filter(|word| !word.is_empty())
                {
                    self.word(&STATISTICS, word);
                }
            }
            Shape::Sasl => {
                self.word(&MECHANISMS, key);
                self.hide();
            }
            Shape::Bare => {}
            Shape::Quit => self.request.effect = Effect::Quit,
        }
    }

    /// Where the key is not there and may be made, the reply does not tell whether it was, so neither hit nor miss.
    fn count(&mut self, extras: &[u8], key: &[u8]) {
        self.key(key);
        self.hide();
        match number(extras, 16) {
            Some(NOT_MADE) | None => self.request.hit_rule = HitRule::Found,
            made => {
                self.hide();
                self.expiry(made);
            }
        }
    }

    fn key(&mut self, key: &[u8]) {
        if key.is_empty() {
            return;
        }
        self.request.key_count = 1;
        if let Some(writer) = &mut self.writer {
            writer.key(key);
        }
    }

    fn hide(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.hidden();
        }
    }

    fn word(&mut self, shown: &[&'static str], word: &[u8]) {
        if let Some(writer) = &mut self.writer {
            match shown.iter().find(|shown| shown.as_bytes() == word) {
                Some(shown) => writer.word(shown),
                None => writer.hidden(),
            }
        }
    }

    /// 0 is no expiry; above 30 days it is a point in time (`realtime` in `memcached.c`). Never negative.
    fn expiry(&mut self, seconds: Option<u32>) {
        let Some(seconds) = seconds else { return };
        self.request.ttl = match seconds {
            0 => None,
            1..=MAX_RELATIVE => Some(Expiry::After(i64::from(seconds))),
            _ => Some(Expiry::At(i64::from(seconds) * 1000)),
        };
        if let Some(writer) = &mut self.writer {
            writer.number(i64::from(seconds));
        }
    }
}

/// The four bytes at `at`; `None` when the extras are shorter than the opcode asks for.
#[inline]
fn number(extras: &[u8], at: usize) -> Option<u32> {
    let bytes = extras.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}
