//! What of Redis's streams may be kept.

mod replies;

use super::super::mask::{Disagrees, Masked, Shared};
use super::super::number;
use super::arguments::{Arguments, KEEP_KEYS, KEEP_WORDS, MAX_KEPT};
use super::command::{Role, Roles};
use super::{MAX_INLINE, inline};
use crate::protocol::part;

pub(in super::super) use replies::Replies;

/// Longest line of digits: a sign, 19 digits, CR.
const MAX_NUMBER: usize = 21;
/// Captured bytes of an argument after which what stands before it is decided on: its request may take seconds to arrive.
const LARGE: u64 = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A request begins.
    Start,
    /// `$`.
    Dollar,
    /// Digits after `*` or `$`.
    Number(u8),
    /// So many bytes of an argument, at least one.
    Body(u64),
    Cr,
    Lf,
    Inline,
}

/// What came of a request and is not decided on.
#[derive(Debug)]
enum Held {
    /// To be kept as it is.
    Text(Vec<u8>),
    /// Captured bytes of this argument.
    Argument(usize, u64),
}

/// Requests.
#[derive(Debug)]
pub(in super::super) struct Requests {
    names: Shared,
    state: State,
    line: Vec<u8>,
    arguments: Arguments,
    /// Arguments of the request.
    total: u64,
    missing: u64,
    held: Vec<Held>,
}

impl Requests {
    pub(in super::super) fn new(names: Shared) -> Self {
        Self {
            names,
            state: State::Start,
            line: Vec::new(),
            arguments: Arguments::new(KEEP_KEYS),
            total: 0,
            missing: 0,
            held: Vec::new(),
        }
    }

    pub(in super::super) fn feed(
        &mut self,
        mut input: &[u8],
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        while let Some((&byte, rest)) = input.split_first() {
            match self.state {
                State::Start if byte == b'*' => {
                    self.text(b"*");
                    input = rest;
                    self.state = State::Number(b'*');
                }
                State::Start => self.state = State::Inline,
                State::Dollar if byte == b'$' => {
                    self.text(b"$");
                    input = rest;
                    self.state = State::Number(b'$');
                }
                State::Number(kind) => {
                    input = rest;
                    self.line.push(byte);
                    if byte == b'\n' {
                        let line = std::mem::take(&mut self.line);
                        let digits = line.strip_suffix(b"\r\n").ok_or(Disagrees)?;
                        let value = decimal(digits).ok_or(Disagrees)?;
                        self.text(&line);
                        self.number(kind, value, out)?;
                    } else if self.line.len() > MAX_NUMBER {
                        return Err(Disagrees);
                    }
                }
                State::Body(remaining) => {
                    let take = part(remaining, input);
                    let (body, rest) = input.split_at(take);
                    input = rest;
                    self.arguments.push(body);
                    self.captured(take as u64, out);
                    self.state = match remaining - take as u64 {
                        0 => State::Cr,
                        remaining => State::Body(remaining),
                    };
                }
                State::Cr if byte == b'\r' => {
                    self.text(b"\r");
                    input = rest;
                    self.state = State::Lf;
                }
                State::Lf if byte == b'\n' => {
                    self.text(b"\n");
                    input = rest;
                    self.end_argument();
                }
                State::Inline => {
                    input = rest;
                    self.line.push(byte);
                    if byte == b'\n' {
                        self.end_line()?;
                    } else if self.line.len() > MAX_INLINE + 1 {
                        return Err(Disagrees);
                    }
                }
                State::Dollar | State::Cr | State::Lf => return Err(Disagrees),
            }
        }
        Ok(())
    }

    pub(in super::super) fn skip(&mut self, length: u64) -> Result<(), Disagrees> {
        let body = match self.state {
            State::Body(remaining) => {
                self.arguments.gap();
                remaining
            }
            State::Cr => 0,
            State::Lf if length == 1 => {
                self.end_argument();
                return Ok(());
            }
            _ => return Err(Disagrees),
        };
        self.state = match length.checked_sub(body) {
            None => State::Body(body - length),
            Some(0) => State::Cr,
            Some(1) => State::Lf,
            Some(2) => {
                self.end_argument();
                return Ok(());
            }
            Some(_) => return Err(Disagrees),
        };
        Ok(())
    }

    pub(in super::super) fn end(&mut self, out: &mut Masked) -> Result<(), Disagrees> {
        if self.state != State::Start {
            return Err(Disagrees);
        }
        self.decide(out);
        self.arguments.clear();
        Ok(())
    }

    fn text(&mut self, text: &[u8]) {
        match self.held.last_mut() {
            Some(Held::Text(last)) => last.extend_from_slice(text),
            _ => self.held.push(Held::Text(text.to_vec())),
        }
    }

    fn number(&mut self, kind: u8, value: i64, out: &mut Masked) -> Result<(), Disagrees> {
        if kind == b'*' {
            self.total = u64::try_from(value).unwrap_or(0);
            self.missing = self.total;
            self.state = match self.total {
                0 => State::Start,
                _ => State::Dollar,
            };
            return Ok(());
        }
        let length = u64::try_from(value).map_err(|_| Disagrees)?;
        if self.arguments.kept() == MAX_KEPT {
            // Nothing is shown of this one and of those that follow.
            self.decide(out);
        }
        self.held
            .push(Held::Argument(self.arguments.count() as usize, 0));
        self.arguments.begin(length);
        self.state = match length {
            0 => State::Cr,
            length => State::Body(length),
        };
        Ok(())
    }

    /// More bytes of the last argument.
    fn captured(&mut self, bytes: u64, out: &mut Masked) {
        let mut large = false;
        match self.held.last_mut() {
            Some(Held::Argument(_, captured)) => {
                *captured += bytes;
                large = *captured > LARGE;
            }
            // What came before of it was decided on.
            _ => out.zeros(bytes),
        }
        if large {
            self.decide(out);
        }
    }

    fn end_argument(&mut self) {
        self.missing = self.missing.saturating_sub(1);
        self.state = match self.missing {
            0 => State::Start,
            _ => State::Dollar,
        };
    }

    /// Gives back what is held.
    fn decide(&mut self, out: &mut Masked) {
        let names = &*self.names;
        let roles = Roles::of(&self.arguments, self.total, names, false);
        for held in self.held.drain(..) {
            match held {
                Held::Text(text) => out.bytes(&text),
                Held::Argument(index, captured) => {
                    let prefix = self.arguments.prefix(index);
                    let shown = shown(roles.get(index), prefix, names);
                    let shown = &shown[..shown.len().min(captured as usize)];
                    out.bytes(shown);
                    out.zeros(captured - shown.len() as u64);
                }
            }
        }
    }

    /// An inline command is there.
    fn end_line(&mut self) -> Result<(), Disagrees> {
        let line = std::mem::take(&mut self.line);
        let body = line.strip_suffix(b"\n").unwrap_or(&line);
        let mut arguments = Arguments::new(KEEP_KEYS);
        let places = inline::places(body, &mut arguments).map_err(|_| Disagrees)?;
        let names = &*self.names;
        let roles = Roles::of(&arguments, arguments.count(), names, true);
        let mut masked = body.to_vec();
        for (index, place) in places.into_iter().enumerate() {
            let role = roles.get(index);
            let raw = &body[place.clone()];
            let plain = arguments.whole(index) == Some(raw);
            let shown = match plain {
                true => shown(role, raw, names),
                false => Vec::new(),
            };
            // A number that is not shown stays none, so do words: the line is read in the same way.
            match shown.len() == raw.len() && shown.iter().all(u8::is_ascii_graphic) {
                true => masked[place].copy_from_slice(&shown),
                false => inline::fill(&mut masked[place]),
            }
        }
        masked.extend_from_slice(&line[body.len()..]);
        self.text(&masked);
        self.state = State::Start;
        Ok(())
    }
}

/// What is shown of an argument, from its first byte on.
fn shown(role: Role, prefix: &[u8], names: &dyn super::super::mask::Names) -> Vec<u8> {
    match role {
        Role::Hidden => Vec::new(),
        Role::Word => prefix.to_vec(),
        Role::Key => names.key(prefix),
        Role::Operation => {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
            let kept = prefix.iter().take(KEEP_WORDS - 1);
            kept.map(|byte| if plain(byte) { *byte } else { b'?' })
                .collect()
        }
    }
}

/// A number as the decoder takes it.
fn decimal(digits: &[u8]) -> Option<i64> {
    number::parse(digits.strip_prefix(b"+").unwrap_or(digits))
}
