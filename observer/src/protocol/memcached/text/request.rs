//! Frames and reads requests: a line, and for storage commands a data block.

use super::super::super::line::Line;
use super::super::super::message::{
    Answer, Class, Effect, Expiry, FramingLost, HitRule, Malformed, Operation, Request,
    Word as Name,
};
use super::super::super::number;
use super::super::super::text::Writer;
use super::super::meta;
use super::authentication::Authentication;
use super::commands::{COMMANDS, Command, SHOWN, Shape, Word, word};
use super::{MAX_DATA, MAX_KEY, MAX_LINE};
use crate::protocol::part;
use crate::telemetry::work;

/// Longest relative expiry, seconds; above it, exptime is a point in time (`REALTIME_MAXDELTA` in `memcached.h`).
const MAX_RELATIVE: i64 = 60 * 60 * 24 * 30;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A command line.
    Line,
    /// This many bytes of a data block, at least one.
    Data(u64),
    /// CR after the data.
    Cr,
    /// LF after the data.
    Lf,
}

/// Decodes what a Memcached client sends in the text dialects.
#[derive(Debug)]
pub struct RequestDecoder {
    state: State,
    line: Line,
    /// A storage command whose data is being passed over.
    pending: Option<Request>,
    keep_detail: bool,
    authentication: Authentication,
}

impl RequestDecoder {
    /// A decoder at a message boundary.
    #[must_use]
    pub fn new(keep_detail: bool) -> Self {
        Self {
            state: State::Line,
            line: Line::default(),
            pending: None,
            keep_detail,
            authentication: Authentication::new(),
        }
    }

    /// See [`RequestDecoder::decode`](crate::protocol::RequestDecoder::decode).
    ///
    /// # Errors
    ///
    /// [`Malformed::Foreign`] for binary commands and HTTP; else when the server would not know either where
    /// the next command begins.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Request>, Malformed> {
        loop {
            work::add(1);
            let Some((&byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            match self.state {
                State::Line => {
                    if self.line.is_empty()
                        && !(byte.is_ascii_graphic() || byte == b'\r' || byte == b'\n')
                    {
                        // 0x80: the binary protocol; 0x16: TLS.
                        let foreign = matches!(byte, 0x80 | 0x16);
                        return Err(if foreign {
                            Malformed::Foreign
                        } else {
                            Malformed::Syntax
                        });
                    }
                    let Some(line) = self.line.read(input, MAX_LINE)? else {
                        return Ok(None);
                    };
                    let (request, data) = read_line(&line, self.keep_detail)?;
                    match data {
                        None => {
                            self.authentication.other();
                            return Ok(Some(request));
                        }
                        Some(length) => {
                            self.authentication.begin(&request, length);
                            self.pending = Some(request);
                            self.state = if length == 0 {
                                State::Cr
                            } else {
                                State::Data(length)
                            };
                        }
                    }
                }
                State::Data(remaining) => {
                    let take = part(remaining, input);
                    self.authentication.data(&input[..take]);
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
                    if let Some(request) = self.complete() {
                        return Ok(Some(request));
                    }
                }
            }
        }
    }

    /// See [`RequestDecoder::skip`](crate::protocol::RequestDecoder::skip).
    ///
    /// # Errors
    ///
    /// [`FramingLost`]: the gap is not inside a data block (and its CRLF).
    pub fn skip(&mut self, length: u64) -> Result<Option<Request>, FramingLost> {
        if length == 0 {
            return Ok(None);
        }
        let (data, tail) = match self.state {
            State::Data(remaining) => (remaining, 2),
            State::Cr => (0, 2),
            State::Lf => (0, 1),
            State::Line => return Err(FramingLost),
        };
        self.authentication.missing();
        self.state = match length.checked_sub(data) {
            None => State::Data(data - length),
            Some(past) if past == tail => State::Line,
            Some(0) => State::Cr,
            Some(1) if tail == 2 => State::Lf,
            Some(_) => return Err(FramingLost),
        };
        Ok(if self.state == State::Line {
            self.complete()
        } else {
            None
        })
    }

    /// The data block is over.
    fn complete(&mut self) -> Option<Request> {
        let request = self.pending.take()?;
        Some(self.authentication.end(request))
    }

    /// See [`RequestDecoder::at_boundary`](crate::protocol::RequestDecoder::at_boundary).
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.state == State::Line && self.line.is_empty()
    }

    /// Bytes held on the heap.
    pub(in crate::protocol) fn memory(&self) -> usize {
        self.line.memory()
    }
}

/// Reads a command line; the second part is the length of the data block that follows.
pub(super) fn read_line(
    line: &[u8],
    keep_detail: bool,
) -> Result<(Request, Option<u64>), Malformed> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // The server splits at spaces only (`tokenize_command`).
    let mut words = line
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty());
    let first = words.next().unwrap_or(&[]);
    match word(first) {
        Word::Known(row) => {
            let command = &COMMANDS[usize::from(row)];
            let operation = Operation::Known {
                index: row,
                name: command.name,
            };
            let mut reader = Reader {
                request: Request::new(operation, command.class),
                writer: keep_detail.then(|| Writer::new(command.name)),
            };
            let data = reader.read(command, words)?;
            reader.request.detail = reader.writer.map(Writer::finish);
            Ok((reader.request, data))
        }
        Word::Meta(row) => meta::read_request(row, words, keep_detail),
        Word::Unknown => {
            if words
                .clone()
                .next_back()
                .is_some_and(|last| last.starts_with(b"HTTP/"))
                || first.ends_with(b":")
            {
                return Err(Malformed::Foreign);
            }
            if first.is_empty() || line.iter().any(u8::is_ascii_control) {
                return Err(Malformed::Syntax);
            }
            let mut request = Request::new(Operation::Other(Name::UNKNOWN), Class::Other);
            if keep_detail {
                let mut writer = Writer::new(request.operation.name());
                for _ in words.take(super::super::super::text::MAX_TEXT) {
                    writer.hidden();
                }
                request.detail = Some(writer.finish());
            }
            Ok((request, None))
        }
    }
}

/// What an exptime means: 0 is no expiry; above 30 days it is a point in time (`memcached/doc/protocol.txt`, "Expiration
/// times").
pub(in super::super) fn expiry(seconds: i64) -> Option<Expiry> {
    match seconds {
        0 => None,
        _ if seconds <= MAX_RELATIVE => Some(Expiry::After(seconds)),
        _ => Some(Expiry::At(seconds.saturating_mul(1000))),
    }
}

/// Fills a request in from the words of its line.
struct Reader {
    request: Request,
    writer: Option<Writer>,
}

impl Reader {
    fn read<'a>(
        &mut self,
        command: &Command,
        mut words: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<Option<u64>, Malformed> {
        match command.shape {
            Shape::Get => self.keys(words),
            Shape::GetTouch => {
                self.exptime(words.next());
                self.keys(words);
            }
            Shape::Store => return self.store(command, words).map(Some),
            Shape::Delete => {
                self.key(words.next());
                self.noreply(words, 2);
            }
            Shape::Count => {
                self.key(words.next());
                self.hide(words.next());
                self.request.hit_rule = HitRule::Found;
                self.noreply(words, 1);
            }
            Shape::Touch => {
                self.key(words.next());
                self.exptime(words.next());
                self.request.hit_rule = HitRule::Found;
                self.noreply(words, 1);
            }
            Shape::Admin { noreply } => self.admin(command, noreply, words),
        }
        Ok(None)
    }

    fn keys<'a>(&mut self, words: impl Iterator<Item = &'a [u8]>) {
        for word in words {
            self.key(Some(word));
        }
        self.request.hit_rule = HitRule::Values {
            asked: self.request.key_count,
        };
        self.request.returns = true;
    }

    fn key(&mut self, word: Option<&[u8]>) {
        if let Some(key) = word {
            self.request.key_count += 1;
            if let Some(writer) = &mut self.writer {
                writer.key(&key[..key.len().min(MAX_KEY)]);
            }
        }
    }

    fn hide(&mut self, word: Option<&[u8]>) {
        if let (Some(_), Some(writer)) = (word, &mut self.writer) {
            writer.hidden();
        }
    }

    fn exptime(&mut self, word: Option<&[u8]>) {
        let Some(word) = word else { return };
        let seconds = number::parse(word);
        self.request.ttl = seconds.and_then(expiry);
        if let Some(writer) = &mut self.writer {
            match seconds.filter(|seconds| (-1..=i64::from(u32::MAX)).contains(seconds)) {
                Some(seconds) => writer.number(seconds),
                None => writer.hidden(),
            }
        }
    }

    /// `set <key> <flags> <exptime> <bytes> [noreply]`, `cas` with its number before noreply.
    ///
    /// A line the server refuses leaves the data to be read as commands: what follows cannot be trusted then.
    fn store<'a>(
        &mut self,
        command: &Command,
        mut words: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<u64, Malformed> {
        let (Some(key), Some(flags), Some(exptime), Some(bytes)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Malformed::Syntax);
        };
        if key.len() > MAX_KEY {
            return Err(Malformed::Length);
        }
        let length = number::parse(bytes).ok_or(Malformed::Syntax)?;
        let length = u64::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_DATA)
            .ok_or(Malformed::Length)?;
        if number::parse(flags).is_none() || number::parse(exptime).is_none() {
            return Err(Malformed::Syntax);
        }
        if command.name == "CAS" && words.next().is_none() {
            return Err(Malformed::Syntax);
        }
        self.key(Some(key));
        self.exptime(Some(exptime));
        self.hide(Some(bytes));
        if words.clone().count() > 1 {
            return Err(Malformed::Syntax);
        }
        self.request.value_size = Some(length);
        self.noreply(words, 1);
        Ok(length)
    }

    /// The server looks at the last word only (`set_noreply_maybe`); before, it answers a line with more words than the
    /// command takes.
    fn noreply<'a>(&mut self, words: impl Iterator<Item = &'a [u8]> + Clone, most: usize) {
        if words.clone().count() <= most && words.last() == Some(b"noreply") {
            self.request.answer = Answer::None;
            if let Some(writer) = &mut self.writer {
                writer.word("noreply");
            }
        }
    }

    fn admin<'a>(
        &mut self,
        command: &Command,
        noreply: Option<(usize, usize)>,
        words: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        if let Some(writer) = &mut self.writer {
            // A line holds at most this many words worth showing.
            for word in words.clone().take(16) {
                match SHOWN.iter().find(|shown| **shown == word) {
                    Some(shown) => writer.word(std::str::from_utf8(shown).unwrap_or("?")),
                    None => writer.hidden(),
                }
            }
        }
        let count = words.clone().count();
        if noreply.is_some_and(|(least, most)| (least..=most).contains(&count))
            && words.last() == Some(b"noreply")
        {
            self.request.answer = Answer::None;
        }
        match command.word {
            "quit" => {
                self.request.effect = Effect::Quit;
                // The server closes without a word (`process_quit_command`).
                self.request.answer = Answer::None;
            }
            "watch" => self.request.effect = Effect::Stream,
            // It is answered only when it is refused.
            "shutdown" => self.request.effect = Effect::Quit,
            _ => {}
        }
    }
}
