//! Memcached: the text dialects, classic and meta, and the binary one.
//!
//! Classic text and meta share connection and framing: one decoder reads both, line by line. The binary dialect has
//! connections of its own: their first byte tells.

use super::message::{FramingLost, Malformed, Operation, Request};
use super::reply::{Reply, ReplyKind};

pub mod binary;
pub(super) mod mask;
pub mod meta;
pub mod text;

#[cfg(test)]
mod tests;

/// Decodes requests in the dialect that the first byte tells.
#[derive(Debug)]
pub enum RequestDecoder {
    /// Nothing was read so far.
    Unknown {
        /// See [`super::RequestDecoder::new`].
        keep_detail: bool,
    },
    /// Classic text and meta.
    Text(text::RequestDecoder),
    /// Binary.
    Binary(binary::RequestDecoder),
}

impl RequestDecoder {
    /// A decoder at a message boundary.
    #[must_use]
    pub fn new(keep_detail: bool) -> Self {
        Self::Unknown { keep_detail }
    }

    /// See [`RequestDecoder::decode`](super::RequestDecoder::decode).
    ///
    /// # Errors
    ///
    /// [`Malformed`]: as the dialect's decoder says.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Request>, Malformed> {
        if let (Self::Unknown { keep_detail }, Some(first)) = (&self, input.first()) {
            *self = match first {
                0x80 => Self::Binary(binary::RequestDecoder::new(*keep_detail)),
                _ => Self::Text(text::RequestDecoder::new(*keep_detail)),
            };
        }
        match self {
            Self::Unknown { .. } => Ok(None),
            Self::Text(decoder) => decoder.decode(input),
            Self::Binary(decoder) => decoder.decode(input),
        }
    }

    /// See [`RequestDecoder::skip`](super::RequestDecoder::skip).
    ///
    /// # Errors
    ///
    /// [`FramingLost`]: as the dialect's decoder says.
    pub fn skip(&mut self, length: u64) -> Result<Option<Request>, FramingLost> {
        match self {
            Self::Unknown { .. } if length == 0 => Ok(None),
            Self::Unknown { .. } => Err(FramingLost),
            Self::Text(decoder) => decoder.skip(length),
            Self::Binary(decoder) => decoder.skip(length),
        }
    }

    /// See [`RequestDecoder::at_boundary`](super::RequestDecoder::at_boundary).
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            Self::Text(decoder) => decoder.at_boundary(),
            Self::Binary(decoder) => decoder.at_boundary(),
        }
    }

    /// Bytes held on the heap.
    pub(in crate::protocol) fn memory(&self) -> usize {
        match self {
            Self::Unknown { .. } => 0,
            Self::Text(decoder) => decoder.memory(),
            Self::Binary(decoder) => decoder.memory(),
        }
    }
}

/// Decodes replies in the dialect that the first byte tells.
#[derive(Debug, Default)]
pub enum ReplyDecoder {
    /// Nothing was read so far.
    #[default]
    Unknown,
    /// Classic text and meta.
    Text(text::ReplyDecoder),
    /// Binary.
    Binary(binary::ReplyDecoder),
}

impl ReplyDecoder {
    /// A decoder at a message boundary.
    #[must_use]
    pub fn new() -> Self {
        Self::Unknown
    }

    /// See [`ReplyDecoder::decode`](super::ReplyDecoder::decode).
    ///
    /// # Errors
    ///
    /// [`Malformed`]: as the dialect's decoder says.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, Malformed> {
        if let (Self::Unknown, Some(first)) = (&self, input.first()) {
            *self = match first {
                0x81 => Self::Binary(binary::ReplyDecoder::new()),
                _ => Self::Text(text::ReplyDecoder::new()),
            };
        }
        match self {
            Self::Unknown => Ok(None),
            Self::Text(decoder) => decoder.decode(input),
            Self::Binary(decoder) => decoder.decode(input),
        }
    }

    /// See [`ReplyDecoder::skip`](super::ReplyDecoder::skip).
    ///
    /// # Errors
    ///
    /// [`FramingLost`]: as the dialect's decoder says.
    pub fn skip(&mut self, length: u64) -> Result<Option<Reply>, FramingLost> {
        match self {
            Self::Unknown if length == 0 => Ok(None),
            Self::Unknown => Err(FramingLost),
            Self::Text(decoder) => decoder.skip(length),
            Self::Binary(decoder) => decoder.skip(length),
        }
    }

    /// See [`ReplyDecoder::at_boundary`](super::ReplyDecoder::at_boundary).
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        match self {
            Self::Unknown => true,
            Self::Text(decoder) => decoder.at_boundary(),
            Self::Binary(decoder) => decoder.at_boundary(),
        }
    }

    /// Bytes held on the heap.
    pub(in crate::protocol) fn memory(&self) -> usize {
        match self {
            Self::Unknown => 0,
            Self::Text(decoder) => decoder.memory(),
            Self::Binary(decoder) => decoder.memory(),
        }
    }
}

/// Whether a reply can be the answer to a request, by what each command may be answered. An error answers any.
#[must_use]
pub fn can_answer(request: &Request, reply: &Reply) -> bool {
    let tags = match (request.tag, reply.tag) {
        (Some(asked), Some(repeated)) => asked == repeated,
        (None, Some(_)) => false,
        (_, None) => true,
    };
    let Operation::Known { index, .. } = request.operation else {
        return tags;
    };
    if reply.kind == ReplyKind::Error {
        return tags;
    }
    let row = usize::from(index);
    tags && match row.checked_sub(usize::from(meta::FIRST_INDEX)) {
        None => text::can_answer(row, reply),
        Some(row) => meta::can_answer(row, reply).unwrap_or(true),
    }
}
