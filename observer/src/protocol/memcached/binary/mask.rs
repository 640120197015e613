//! What of the binary dialect may be kept: headers, keys, and the times in extras.

use super::super::super::mask::{Disagrees, Masked, Shared};
use super::super::mask::FILLER;
use super::MAX_KEY;
use super::header::{Header, LENGTH, Part, REPLY, REQUEST};
use super::opcodes::{MECHANISMS, OPCODES, STATISTICS, Shape, row};
use crate::protocol::part;

#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    /// Extras and key.
    Prefix(Header),
    /// So many bytes that are not kept.
    Body(u64),
}

/// Requests or replies.
#[derive(Debug)]
pub(in crate::protocol) struct Messages {
    names: Shared,
    magic: u8,
    state: State,
    raw: Vec<u8>,
}

impl Messages {
    pub(in crate::protocol) fn requests(names: Shared) -> Self {
        Self::new(names, REQUEST)
    }

    pub(in crate::protocol) fn replies(names: Shared) -> Self {
        Self::new(names, REPLY)
    }

    fn new(names: Shared, magic: u8) -> Self {
        Self {
            names,
            magic,
            state: State::Header,
            raw: Vec::new(),
        }
    }

    pub(in crate::protocol) fn feed(
        &mut self,
        mut input: &[u8],
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        while !input.is_empty() {
            let wanted = match self.state {
                State::Header => LENGTH,
                State::Prefix(header) => header.prefix(),
                State::Body(remaining) => {
                    let take = part(remaining, input);
                    out.zeros(take as u64);
                    input = &input[take..];
                    self.state = match remaining - take as u64 {
                        0 => State::Header,
                        remaining => State::Body(remaining),
                    };
                    continue;
                }
            };
            let take = (wanted - self.raw.len()).min(input.len());
            self.raw.extend_from_slice(&input[..take]);
            input = &input[take..];
            if self.raw.len() < wanted {
                return Ok(());
            }
            let raw = std::mem::take(&mut self.raw);
            match self.state {
                State::Prefix(header) => {
                    self.prefix(&header, &raw, out);
                    self.body(header.value());
                }
                _ => self.header(&raw, out)?,
            }
        }
        Ok(())
    }

    pub(in crate::protocol) fn skip(&mut self, length: u64) -> Result<(), Disagrees> {
        let State::Body(remaining) = self.state else {
            return Err(Disagrees);
        };
        self.body(remaining.checked_sub(length).ok_or(Disagrees)?);
        Ok(())
    }

    pub(in crate::protocol) fn end(&mut self) -> Result<(), Disagrees> {
        match self.state {
            State::Header if self.raw.is_empty() => Ok(()),
            _ => Err(Disagrees),
        }
    }

    fn body(&mut self, length: u64) {
        self.state = match length {
            0 => State::Header,
            length => State::Body(length),
        };
    }

    fn header(&mut self, raw: &[u8], out: &mut Masked) -> Result<(), Disagrees> {
        let parsed = Part::default().header(&mut &*raw, self.magic);
        let header = parsed.ok().flatten().ok_or(Disagrees)?;
        out.bytes(&raw[..6]);
        // A reply's status; a request's partition means nothing here.
        match self.magic {
            REPLY => out.bytes(&raw[6..8]),
            _ => out.zeros(2),
        }
        out.bytes(&raw[8..12]);
        out.bytes(&self.names.opaque(&raw[12..16], false));
        out.zeros(8);
        let shape = row(header.opcode).map(|row| OPCODES[row].shape);
        let read = match self.magic {
            REQUEST => shape.is_some(),
            _ => shape.is_some_and(Shape::repeats_key),
        };
        if read && header.prefix() > 0 && usize::from(header.key) <= MAX_KEY {
            self.state = State::Prefix(header);
        } else {
            self.body(u64::from(header.body));
        }
        Ok(())
    }

    fn prefix(&self, header: &Header, raw: &[u8], out: &mut Masked) {
        let Some(opcode) = row(header.opcode).map(|row| &OPCODES[row]) else {
            return out.zeros(raw.len() as u64);
        };
        let (extras, key) = raw.split_at(usize::from(header.extras).min(raw.len()));
        let time = match (self.magic, opcode.shape) {
            (REPLY, _) => None,
            (_, Shape::GetTouch | Shape::GetTouchKey | Shape::Touch) => Some(0),
            (_, Shape::Store) => Some(4),
            (_, Shape::Count) => Some(16),
            _ => None,
        };
        let mut masked = vec![0; extras.len()];
        if let Some((to, from)) =
            time.and_then(|at| Some((masked.get_mut(at..at + 4)?, extras.get(at..at + 4)?)))
        {
            to.copy_from_slice(from);
        }
        out.bytes(&masked);
        let listed = |words: &[&str], word: &[u8]| words.iter().any(|one| one.as_bytes() == word);
        match opcode.shape {
            Shape::Stat => {
                let mut masked = Vec::with_capacity(key.len());
                for (index, word) in key.split(|byte| *byte == b' ').enumerate() {
                    if index > 0 {
                        masked.push(b' ');
                    }
                    match listed(&STATISTICS, word) {
                        true => masked.extend_from_slice(word),
                        false => masked.resize(masked.len() + word.len(), FILLER),
                    }
                }
                out.bytes(&masked);
            }
            Shape::Sasl if listed(&MECHANISMS, key) => out.bytes(key),
            Shape::Sasl | Shape::Flush | Shape::Verbosity | Shape::Bare | Shape::Quit => {
                out.bytes(&vec![FILLER; key.len()]);
            }
            _ if self.names.hides(opcode.name) => out.bytes(&vec![FILLER; key.len()]),
            _ if self.magic == REPLY => out.bytes(&self.names.repeated(key)),
            shape => {
                if shape.repeats_key() {
                    self.names.ask(key);
                }
                out.bytes(&self.names.key(key));
            }
        }
    }
}
