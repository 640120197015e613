//! What of Memcached's streams may be kept, in the dialect that the first byte tells.

use super::super::mask::{Disagrees, Masked, Shared};
use super::super::message::Request;
use super::{binary, text};

/// Stands for what is not kept of a line: part of no command, flag or number.
pub(super) const FILLER: u8 = b'y';

/// Requests.
#[derive(Debug)]
pub(in super::super) enum Requests {
    /// Nothing was read so far.
    Unknown(Shared),
    /// Classic text and meta.
    Text(text::mask::Requests),
    /// Binary.
    Binary(binary::mask::Messages),
}

impl Requests {
    pub(in super::super) fn new(names: Shared) -> Self {
        Self::Unknown(names)
    }

    pub(in super::super) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        if let (Self::Unknown(names), Some(first)) = (&self, input.first()) {
            let names = Shared::clone(names);
            *self = match first {
                0x80 => Self::Binary(binary::mask::Messages::requests(names)),
                _ => Self::Text(text::mask::Requests::new(names)),
            };
        }
        match self {
            Self::Unknown(_) => Ok(()),
            Self::Text(mask) => mask.feed(input, out),
            Self::Binary(mask) => mask.feed(input, out),
        }
    }

    pub(in super::super) fn skip(&mut self, length: u64) -> Result<(), Disagrees> {
        match self {
            Self::Unknown(_) => Err(Disagrees),
            Self::Text(mask) => mask.skip(length),
            Self::Binary(mask) => mask.skip(length),
        }
    }

    pub(in super::super) fn end(
        &mut self,
        request: &Request,
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        match self {
            Self::Unknown(_) => Err(Disagrees),
            Self::Text(mask) => mask.end(request, out),
            Self::Binary(mask) => mask.end(),
        }
    }
}

/// Replies.
#[derive(Debug)]
pub(in super::super) enum Replies {
    /// Nothing was read so far.
    Unknown(Shared),
    /// Classic text and meta.
    Text(text::mask::Replies),
    /// Binary.
    Binary(binary::mask::Messages),
}

impl Replies {
    pub(in super::super) fn new(names: Shared) -> Self {
        Self::Unknown(names)
    }

    pub(in super::super) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Masked,
    ) -> Result<(), Disagrees> {
        if let (Self::Unknown(names), Some(first)) = (&self, input.first()) {
            let names = Shared::clone(names);
            *self = match first {
                0x81 => Self::Binary(binary::mask::Messages::replies(names)),
                _ => Self::Text(text::mask::Replies::new(names)),
            };
        }
        match self {
            Self::Unknown(_) => Ok(()),
            Self::Text(mask) => mask.feed(input, out),
            Self::Binary(mask) => mask.feed(input, out),
        }
    }

    pub(in super::super) fn skip(&mut self, length: u64) -> Result<(), Disagrees> {
        match self {
            Self::Unknown(_) => Err(Disagrees),
            Self::Text(mask) => mask.skip(length),
            Self::Binary(mask) => mask.skip(length),
        }
    }

    pub(in super::super) fn end(&mut self) -> Result<(), Disagrees> {
        match self {
            Self::Unknown(_) => Err(Disagrees),
            Self::Text(mask) => mask.end(),
            Self::Binary(mask) => mask.end(),
        }
    }
}
