//! What of replies may be kept.

use super::super::super::mask::{Disagrees, Masked};
use super::super::super::message::Redirect;
use super::super::head::{MESSAGES, first_word, is_numeric, prefix};
use super::decimal;
use crate::protocol::part;

/// First bytes of a reply's line that are looked at, as many as the decoder does.
const HEAD: usize = 12 + Redirect::CAPACITY;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Type,
    /// Up to CRLF, of this type.
    Line(u8),
    /// So many bytes of a string.
    Body(u64),
    Cr,
    Lf,
}

/// Replies. Nesting does not matter here: whatever holds it, an element shows no more than its own framing.
#[derive(Debug)]
pub(in crate::protocol) struct Replies {
    next: Next,
    line: Vec<u8>,
    /// Bytes of the line beyond those that are looked at.
    beyond: u64,
    /// Types and lengths read of this reply.
    tokens: u32,
    /// The first token was of an array or push.
    array: bool,
    /// Type and length of the string that is being read.
    string: (u8, u64),
    /// Its first bytes, where they matter: an error's, and what may say what kind of message this is.
    head: Vec<u8>,
    /// How many of them are looked at.
    looked: usize,
    /// The whole reply, when it is an integer.
    integer: Option<Vec<u8>>,
}

impl Replies {
    pub(in crate::protocol) fn new() -> Self {
        Self {
            next: Next::Type,
            line: Vec::new(),
            beyond: 0,
            tokens: 0,
            array: false,
            string: (0, 0),
            head: Vec::new(),
            looked: 0,
            integer: None,
        }
    }

    pub(in crate::protocol) fn feed(
        &mut self,
        mut input: &[u8],
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        while let Some((&byte, rest)) = input.split_first() {
            match self.next {
                Next::Type => {
                    input = rest;
                    if let Some(line) = self.integer.take() {
                        // More than one token: no integer by itself.
                        out.bytes(&number_filler(&line));
                    }
                    self.tokens += 1;
                    self.line.push(byte);
                    self.next = Next::Line(byte);
                }
                Next::Line(kind) => {
                    let end = input.iter().position(|byte| *byte == b'\n');
                    let part = &input[..end.map_or(input.len(), |end| end + 1)];
                    input = &input[part.len()..];
                    let room = (HEAD + 3).saturating_sub(self.line.len()).min(part.len());
                    let (kept, over) = part.split_at(room);
                    self.line.extend_from_slice(kept);
                    self.beyond += over.len() as u64;
                    if end.is_some() {
                        self.end_line(kind, out)?;
                    }
                }
                Next::Body(remaining) => {
                    let take = part(remaining, input);
                    let (body, rest) = input.split_at(take);
                    self.body(body, out);
                    input = rest;
                    self.next = match remaining - take as u64 {
                        0 => Next::Cr,
                        remaining => Next::Body(remaining),
                    };
                }
                Next::Cr if byte == b'\r' => {
                    input = rest;
                    out.bytes(b"\r");
                    self.next = Next::Lf;
                }
                Next::Lf if byte == b'\n' => {
                    input = rest;
                    out.bytes(b"\n");
                    self.next = Next::Type;
                }
                Next::Cr | Next::Lf => return Err(Disagrees),
            }
        }
        Ok(())
    }

    pub(in crate::protocol) fn skip(
        &mut self,
        length: u64,
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        // Part of what is looked at says nothing.
        self.decide_head(out);
        let (body, tail) = match self.next {
            Next::Body(remaining) => (remaining, 2),
            Next::Cr => (0, 2),
            Next::Lf => (0, 1),
            _ => return Err(Disagrees),
        };
        self.next = match length.checked_sub(body) {
            None => Next::Body(body - length),
            Some(past) if past == tail => Next::Type,
            Some(0) => Next::Cr,
            Some(1) if tail == 2 => Next::Lf,
            Some(_) => return Err(Disagrees),
        };
        Ok(())
    }

    pub(in crate::protocol) fn end(
        &mut self,
        number: bool,
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        if let Some(line) = self.integer.take() {
            match number {
                true => out.bytes(&line),
                false => out.bytes(&number_filler(&line)),
            }
        }
        (self.tokens, self.array) = (0, false);
        match self.next {
            Next::Type => Ok(()),
            _ => Err(Disagrees),
        }
    }

    /// A line is there; `line` holds it, or its beginning.
    fn end_line(&mut self, kind: u8, out: &mut Masked) -> Result<(), Disagrees> {
        let line = std::mem::take(&mut self.line);
        let beyond = std::mem::take(&mut self.beyond);
        self.next = Next::Type;
        // Without the type and CRLF.
        let length = (line.len() as u64 + beyond)
            .checked_sub(3)
            .ok_or(Disagrees)?;
        let whole = length <= HEAD as u64;
        let content = &line[1..=length.min(HEAD as u64) as usize];
        let first = self.tokens == 1;
        let element = self.tokens == 2 && self.array;
        match kind {
            b':' if first && whole => {
                self.integer = Some(line);
                return Ok(());
            }
            b':' if whole => out.bytes(&number_filler(&line)),
            b'$' | b'=' | b'!' | b';' | b'*' | b'%' | b'~' | b'>' | b'|' if whole => {
                let value = match content {
                    b"?" => -1,
                    digits => decimal(digits).ok_or(Disagrees)?,
                };
                out.bytes(&line);
                self.array |= first && matches!(kind, b'*' | b'>');
                if matches!(kind, b'$' | b'=' | b'!' | b';') && value >= 0 {
                    self.begin_body(kind, value as u64, element);
                }
            }
            b'_' | b'.' if length == 0 => out.bytes(&line),
            b'#' if matches!(content, b"t" | b"f") => out.bytes(&line),
            b',' | b'(' if content.iter().all(|byte| is_numeric(*byte)) => {
                out.bytes(&line[..1]);
                out.bytes(&vec![b'1'; length as usize]);
                out.bytes(b"\r\n");
            }
            b'+' | b'-' => {
                let kept = match kind {
                    b'+' => status(content, element && whole),
                    _ => error(content, whole),
                };
                out.bytes(&line[..1]);
                out.bytes(&kept);
                out.zeros(length.saturating_sub(kept.len() as u64));
                out.bytes(b"\r\n");
            }
            _ => return Err(Disagrees),
        }
        Ok(())
    }

    fn begin_body(&mut self, kind: u8, length: u64, element: bool) {
        if kind == b';' && length == 0 {
            return;
        }
        let longest = MESSAGES.iter().map(|word| word.len()).max();
        let looked = match kind {
            b'!' => HEAD,
            b'$' if element && length <= longest.unwrap_or(0) as u64 => length as usize,
            _ => 0,
        };
        self.head = Vec::new();
        self.looked = looked.min(length as usize);
        self.string = (kind, length);
        self.next = match length {
            0 => Next::Cr,
            length => Next::Body(length),
        };
    }

    /// More bytes of a string.
    fn body(&mut self, bytes: &[u8], out: &mut Masked) {
        let wanted = self.looked.saturating_sub(self.head.len());
        let (looked, hidden) = bytes.split_at(wanted.min(bytes.len()));
        self.head.extend_from_slice(looked);
        if self.looked > 0 && self.head.len() == self.looked {
            self.decide_head(out);
        }
        out.zeros(hidden.len() as u64);
    }

    /// The first bytes of a string are there, as far as they are looked at, or no more of them come.
    fn decide_head(&mut self, out: &mut Masked) {
        let head = std::mem::take(&mut self.head);
        let complete = head.len() == std::mem::take(&mut self.looked);
        let (kind, length) = self.string;
        let kept = match kind {
            _ if !complete => Vec::new(),
            b'!' => error(&head, length <= HEAD as u64),
            _ if MESSAGES.contains(&head.as_slice()) => head.clone(),
            _ => Vec::new(),
        };
        out.bytes(&kept);
        out.zeros((head.len() - kept.len()) as u64);
    }
}

/// A line with an integer: one digit says little, and decides what was found; others become ones.
fn number_filler(line: &[u8]) -> Vec<u8> {
    match line {
        [b':', b'0'..=b'9', b'\r', b'\n'] | [b':', b'-', b'1' | b'2', b'\r', b'\n'] => {
            line.to_vec()
        }
        _ => {
            let ones = |byte: &u8| match byte {
                b':' | b'\r' | b'\n' => *byte,
                _ => b'1',
            };
            line.iter().map(ones).collect()
        }
    }
}

/// First words of statuses, and types of keys.
const STATUSES: [&[u8]; 15] = [
    b"OK",
    b"QUEUED",
    b"PONG",
    b"NOKEY",
    b"RESET",
    b"CONTINUE",
    b"FULLRESYNC",
    b"none",
    b"string",
    b"list",
    b"set",
    b"zset",
    b"hash",
    b"stream",
    b"Background",
];

/// What is kept of a status: its first word, if it is known.
fn status(content: &[u8], element: bool) -> Vec<u8> {
    let word = first_word(content);
    match STATUSES.contains(&word) || element && MESSAGES.contains(&content) {
        true => word.to_vec(),
        false => Vec::new(),
    }
}

/// What is kept of an error: its prefix, and where a redirect points.
fn error(content: &[u8], whole: bool) -> Vec<u8> {
    let (word, redirect) = prefix(content, whole);
    let first = first_word(content);
    if word.as_bytes() != first {
        return Vec::new();
    }
    let mut kept = first.to_vec();
    if first.len() < content.len() {
        kept.push(b' ');
    }
    let mut rest = content.splitn(4, |byte| *byte == b' ').skip(1);
    if let (Some(redirect), Some(slot), Some(target)) = (redirect, rest.next(), rest.next())
        && target.starts_with(redirect.as_str().as_bytes())
    {
        kept.resize(kept.len() + slot.len(), b'0');
        kept.push(b' ');
        kept.extend_from_slice(redirect.as_str().as_bytes());
    }
    kept
}
