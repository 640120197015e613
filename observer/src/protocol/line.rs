//! Lines across pieces of input, within a budget.

use std::borrow::Cow;

use super::message::Malformed;
use crate::telemetry::work;

/// What came of a line so far.
#[derive(Debug, Default)]
pub(super) struct Line {
    buffer: Vec<u8>,
}

impl Line {
    /// Takes bytes up to LF; the line comes without it. `Ok(None)`: input is used up. Borrows from `input` when the
    /// whole line is there; else the buffer is given away, so that nothing is held between lines.
    #[inline]
    pub(super) fn read<'a>(
        &mut self,
        input: &mut &'a [u8],
        budget: usize,
    ) -> Result<Option<Cow<'a, [u8]>>, Malformed> {
        let bytes = *input;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let length = self.buffer.len() + part.len();
        work::add(part.len() + 1);
        if length > budget {
            return Err(Malformed::Line);
        }
        *input = end.map_or(&[], |end| &bytes[end + 1..]);
        if end.is_some() && self.buffer.is_empty() {
            return Ok(Some(Cow::Borrowed(part)));
        }
        // Doubles, but never beyond the budget.
        let want = length.max(self.buffer.capacity().saturating_mul(2).min(budget));
        if length > self.buffer.capacity() {
            self.buffer.reserve_exact(want - self.buffer.len());
        }
        self.buffer.extend_from_slice(part);
        Ok(end.map(|_| Cow::Owned(std::mem::take(&mut self.buffer))))
    }

    /// Whether no line was begun.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Bytes held on the heap.
    pub(super) fn memory(&self) -> usize {
        self.buffer.capacity()
    }
}
