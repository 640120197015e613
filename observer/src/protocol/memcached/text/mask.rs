//! What of the text dialects may be kept.

use std::ops::Range;

use super::super::super::mask::{Disagrees, Masked, Names, Shared, words};
use super::super::super::message::Request;
use super::super::super::number;
use super::super::mask::FILLER;
use super::super::meta;
use super::commands::{COMMANDS, SHOWN, Shape, Word, word};
use super::reply::value_length;
use super::request::read_line;
use super::{MAX_KEY, MAX_LINE};
use crate::protocol::part;

/// Longest data that may be a name and a password.
const MAX_TOKEN: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Line,
    /// So many bytes of a data block.
    Data(u64),
    Cr,
    Lf,
}

impl State {
    fn data(length: u64) -> Self {
        match length {
            0 => Self::Cr,
            length => Self::Data(length),
        }
    }

    /// After a gap of this length within data and its CRLF.
    fn after(self, length: u64) -> Result<Self, Disagrees> {
        let (data, tail) = match self {
            Self::Data(remaining) => (remaining, 2),
            Self::Cr => (0, 2),
            Self::Lf => (0, 1),
            Self::Line => return Err(Disagrees),
        };
        match length.checked_sub(data) {
            None => Ok(Self::Data(data - length)),
            Some(past) if past == tail => Ok(Self::Line),
            Some(0) => Ok(Self::Cr),
            Some(1) if tail == 2 => Ok(Self::Lf),
            Some(_) => Err(Disagrees),
        }
    }
}

/// Requests.
#[derive(Debug)]
pub(in crate::protocol) struct Requests {
    names: Shared,
    state: State,
    line: Vec<u8>,
    /// A line whose data may be a password, where its key is, and how many bytes of data and CRLF came.
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    line: Vec<u8>,
    key: Option<Range<usize>>,
    data: u64,
    tail: Vec<u8>,
}

impl Requests {
    pub(in crate::protocol) fn new(names: Shared) -> Self {
        Self {
            names,
            state: State::Line,
            line: Vec::new(),
            held: None,
        }
    }

    pub(in crate::protocol) fn feed(
        &mut self,
        mut input: &[u8],
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        while let Some((&byte, rest)) = input.split_first() {
            match self.state {
                State::Line => {
                    let Some(line) = take_line(&mut self.line, &mut input)? else {
                        return Ok(());
                    };
                    self.request_line(&line, out)?;
                }
                State::Data(remaining) => {
                    let take = part(remaining, input);
                    match &mut self.held {
                        Some(held) => held.data += take as u64,
                        None => out.zeros(take as u64),
                    }
                    input = &input[take..];
                    self.state = State::data(remaining - take as u64);
                }
                State::Cr if byte == b'\r' => {
                    input = rest;
                    self.tail(byte, out);
                    self.state = State::Lf;
                }
                State::Lf if byte == b'\n' => {
                    input = rest;
                    self.tail(byte, out);
                    self.state = State::Line;
                }
                State::Cr | State::Lf => return Err(Disagrees),
            }
        }
        Ok(())
    }

    pub(in crate::protocol) fn skip(&mut self, length: u64) -> Result<(), Disagrees> {
        self.state = self.state.after(length)?;
        Ok(())
    }

    pub(in crate::protocol) fn end(
        &mut self,
        request: &Request,
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        if let Some(held) = self.held.take() {
            let mut line = held.line;
            let secret = request.key_count == 0;
            if secret && let Some(key) = held.key {
                line[key].fill(FILLER);
            }
            out.bytes(&line);
            match secret {
                // It stays a word, a space, a word; how long each is, is not told.
                true => {
                    let mut data = vec![FILLER; held.data as usize];
                    if let Some(space) = data.get_mut(1) {
                        *space = b' ';
                    }
                    out.bytes(&data);
                }
                false => out.zeros(held.data),
            }
            out.bytes(&held.tail);
        }
        match self.state {
            State::Line if self.line.is_empty() => Ok(()),
            _ => Err(Disagrees),
        }
    }

    fn tail(&mut self, byte: u8, out: &mut Masked) {
        match &mut self.held {
            Some(held) => held.tail.push(byte),
            None => out.bytes(&[byte]),
        }
    }

    fn request_line(&mut self, line: &[u8], out: &mut Masked) -> Result<(), Disagrees> {
        let body = line.strip_suffix(b"\n").ok_or(Disagrees)?;
        let (_, data) = read_line(body, false).map_err(|_| Disagrees)?;
        let text = body.strip_suffix(b"\r").unwrap_or(body);
        let mut masked = line.to_vec();
        let all = words(text);
        let filled: Vec<_> = all.into_iter().filter(|word| !word.is_empty()).collect();
        let key = mask_request(text, &filled, &mut masked, &self.names);
        match data {
            Some(length) => {
                self.state = State::data(length);
                if length <= MAX_TOKEN {
                    self.held = Some(Held {
                        line: masked,
                        key,
                        data: 0,
                        tail: Vec::new(),
                    });
                } else {
                    out.bytes(&masked);
                }
            }
            None => out.bytes(&masked),
        }
        Ok(())
    }
}

/// Puts `part` and more of `input` together to a line, its LF included.
fn take_line(part: &mut Vec<u8>, input: &mut &[u8]) -> Result<Option<Vec<u8>>, Disagrees> {
    let bytes = *input;
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (more, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
    *input = rest;
    part.extend_from_slice(more);
    if part.len() > MAX_LINE + 1 {
        return Err(Disagrees);
    }
    Ok(end.map(|_| std::mem::take(part)))
}

/// Masks the words of a request's line in `out`. Answers where the key is, of a command that has one.
fn mask_request(
    line: &[u8],
    places: &[Range<usize>],
    out: &mut [u8],
    names: &Shared,
) -> Option<Range<usize>> {
    let first = places.first().map_or(&[][..], |place| &line[place.clone()]);
    let (name, rest) = places.split_first()?;
    let (shape, operation) = match word(first) {
        Word::Known(row) => {
            let command = &COMMANDS[usize::from(row)];
            (command.shape, command.name)
        }
        Word::Meta(row) => return mask_meta(row, line, rest, out, names),
        Word::Unknown => {
            out[name.clone()].fill(FILLER);
            rest.iter()
                .for_each(|place| out[place.clone()].fill(FILLER));
            return None;
        }
    };
    let mut key_at = None;
    for (index, place) in rest.iter().enumerate() {
        let text = &line[place.clone()];
        let masked = &mut out[place.clone()];
        let last = index + 1 == rest.len();
        let noreply = last && text == b"noreply";
        match (shape, index) {
            (Shape::Get, _)
            | (Shape::GetTouch, 1..)
            | (Shape::Store | Shape::Delete | Shape::Count | Shape::Touch, 0) => {
                key_at = Some(place.clone());
                show_key(text, masked, &**names, operation);
            }
            (Shape::GetTouch, 0) | (Shape::Touch, 1) | (Shape::Store, 2 | 3)
                if number::parse(text).is_some() => {}
            // Flags and the unique number of `cas`: digits, as the server wants them.
            (Shape::Store, 1) => masked.fill(b'1'),
            (Shape::Store | Shape::Delete | Shape::Count | Shape::Touch, _) if noreply => {}
            (Shape::Admin { .. }, _) if noreply || SHOWN.contains(&text) => {}
            _ => masked.fill(FILLER),
        }
    }
    key_at
}

fn show_key(text: &[u8], masked: &mut [u8], names: &(dyn Names + Send + Sync), operation: &str) {
    masked.fill(FILLER);
    if !names.hides(operation) {
        let key = &text[..text.len().min(MAX_KEY)];
        copy(&names.key(key), masked);
    }
}

/// Over the first bytes, where that leaves the words of the line what they are.
fn copy(from: &[u8], to: &mut [u8]) {
    let breaks = |byte: &u8| matches!(byte, b' ' | b'\r' | b'\n');
    if from.len() <= to.len() && !from.iter().any(breaks) {
        to[..from.len()].copy_from_slice(from);
    }
}

/// A key, base64 if `binary`, as `show` shows it.
fn meta_key(text: &[u8], binary: bool, masked: &mut [u8], show: impl Fn(&[u8]) -> Vec<u8>) {
    masked.fill(FILLER);
    match binary.then(|| meta::base64(text)).flatten() {
        Some(decoded) => {
            let encoded = meta::to_base64(&show(&decoded));
            if encoded.len() == text.len() {
                copy(&encoded, masked);
            }
        }
        None => copy(&show(text), masked),
    }
}

fn mask_meta(
    row: u16,
    line: &[u8],
    rest: &[Range<usize>],
    out: &mut [u8],
    names: &Shared,
) -> Option<Range<usize>> {
    let hide = |place: &Range<usize>, out: &mut [u8]| out[place.clone()].fill(FILLER);
    let (Some((key, flags)), true) = (rest.split_first(), meta::has_key(row)) else {
        rest.iter().for_each(|place| hide(place, out));
        return None;
    };
    // The length of the data is kept.
    let flags = match meta::has_data(row) {
        true => flags.get(1..).unwrap_or_default(),
        false => flags,
    };
    let binary = flags
        .iter()
        .any(|place| line[place.clone()].first() == Some(&b'b'));
    if names.hides(meta::name(row)) {
        hide(key, out);
    } else {
        meta_key(&line[key.clone()], binary, &mut out[key.clone()], |key| {
            names.ask(key);
            names.key(key)
        });
    }
    for place in flags {
        mask_flag(
            &line[place.clone()],
            &mut out[place.clone()],
            &**names,
            |flag, token| match flag {
                b'T' | b'N' | b'R' => number::parse(token).is_some(),
                b'M' => {
                    matches!(token, [mode] if mode.is_ascii_alphabetic() || matches!(mode, b'+' | b'-'))
                }
                _ => false,
            },
        );
    }
    Some(key.clone())
}

/// A flag and its token. `kept`: whether a token is kept as it is.
fn mask_flag(
    text: &[u8],
    masked: &mut [u8],
    names: &(dyn Names + Send + Sync),
    kept: impl FnOnce(u8, &[u8]) -> bool,
) {
    let Some((&flag, token)) = text.split_first() else {
        return;
    };
    if !flag.is_ascii_alphabetic() {
        // No flag: it stays none.
        masked.fill(b'?');
    } else if flag == b'O' {
        masked[1..].fill(FILLER);
        copy(&names.opaque(token, true), &mut masked[1..]);
    } else if !kept(flag, token) {
        masked[1..].fill(FILLER);
    }
}

/// Replies.
#[derive(Debug)]
pub(in crate::protocol) struct Replies {
    names: Shared,
    state: State,
    line: Vec<u8>,
    /// Inside a list that ends at END.
    list: bool,
}

impl Replies {
    pub(in crate::protocol) fn new(names: Shared) -> Self {
        Self {
            names,
            state: State::Line,
            line: Vec::new(),
            list: false,
        }
    }

    pub(in crate::protocol) fn feed(
        &mut self,
        mut input: &[u8],
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        while let Some((&byte, rest)) = input.split_first() {
            match self.state {
                State::Line => {
                    let Some(line) = take_line(&mut self.line, &mut input)? else {
                        return Ok(());
                    };
                    self.reply_line(&line, out)?;
                }
                State::Data(remaining) => {
                    let take = part(remaining, input);
                    out.zeros(take as u64);
                    input = &input[take..];
                    self.state = State::data(remaining - take as u64);
                }
                State::Cr if byte == b'\r' => {
                    input = rest;
                    out.bytes(b"\r");
                    self.state = State::Lf;
                }
                State::Lf if byte == b'\n' => {
                    input = rest;
                    out.bytes(b"\n");
                    self.state = State::Line;
                }
                State::Cr | State::Lf => return Err(Disagrees),
            }
        }
        Ok(())
    }

    pub(in crate::protocol) fn skip(&mut self, length: u64) -> Result<(), Disagrees> {
        self.state = self.state.after(length)?;
        Ok(())
    }

    pub(in crate::protocol) fn end(&mut self) -> Result<(), Disagrees> {
        self.list = false;
        match self.state {
            State::Line if self.line.is_empty() => Ok(()),
            _ => Err(Disagrees),
        }
    }

    fn reply_line(&mut self, line: &[u8], out: &mut Masked) -> Result<(), Disagrees> {
        let text = line.strip_suffix(b"\n").ok_or(Disagrees)?;
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let places = words(text);
        let Some((first, rest)) = places.split_first() else {
            return Err(Disagrees);
        };
        let code = &text[first.clone()];
        let mut masked = line.to_vec();
        let read = match self.list {
            true => None,
            false => meta::read_reply(code, text).map_err(|_| Disagrees)?,
        };
        let mut length = None;
        if let Some((_, data)) = read {
            length = data;
            let flags = match data {
                Some(_) => rest.get(1..).unwrap_or_default(),
                None => rest,
            };
            mask_reply_flags(code, text, flags, &mut masked, &self.names);
        } else {
            let hidden = match code {
                b"VALUE" => {
                    length = Some(value_length(text).map_err(|_| Disagrees)?);
                    self.list = true;
                    &[0, 1, 3][..]
                }
                b"STAT" | b"ITEM" | b"PREFIX" | b"mg" => {
                    self.list = true;
                    &[]
                }
                _ if code.starts_with(b"key=") => {
                    self.list = true;
                    masked[4..first.end].fill(FILLER);
                    &[]
                }
                // A counter; what a client may be sent behind it are spaces.
                _ if code.iter().all(u8::is_ascii_digit) => {
                    masked[first.clone()].fill(b'1');
                    &[]
                }
                // The decoder knows the word.
                _ if code
                    .iter()
                    .all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'_' | b':')) =>
                {
                    &[]
                }
                _ => return Err(Disagrees),
            };
            for (index, place) in rest.iter().enumerate() {
                // All words, but of a value its length.
                if hidden.is_empty() || hidden.contains(&index) || index > 3 {
                    masked[place.clone()].fill(FILLER);
                }
            }
        }
        out.bytes(&masked);
        if let Some(length) = length {
            self.state = State::data(length);
        }
        Ok(())
    }
}

fn mask_reply_flags(
    code: &[u8],
    line: &[u8],
    flags: &[Range<usize>],
    out: &mut [u8],
    names: &Shared,
) {
    if matches!(code, b"ME" | b"MN") {
        // What follows is the item, not flags.
        flags
            .iter()
            .for_each(|place| out[place.clone()].fill(FILLER));
        return;
    }
    let binary = flags.iter().any(|place| &line[place.clone()] == b"b");
    for place in flags {
        let text = &line[place.clone()];
        match text.split_first() {
            Some((b'k', token)) => {
                let masked = &mut out[place.start + 1..place.end];
                meta_key(token, binary, masked, |key| names.repeated(key));
            }
            _ => mask_flag(text, &mut out[place.clone()], &**names, |flag, token| {
                flag == b't' && number::parse(token).is_some()
            }),
        }
    }
}
