//! Aggregates: where elements belong, and when a reply is complete.

use super::*;

impl ReplyDecoder {
    /// An aggregate (or attribute) of `elements` begins.
    pub(super) fn aggregate(&mut self, kind: u8, elements: u64) -> Result<bool, Malformed> {
        self.state = State::Type;
        let attribute = kind == b'|';
        if self.attributes == 0 && !attribute {
            if self.depth == self.base {
                let push = kind == b'>' && self.base == 0;
                self.reply.kind = if push {
                    ReplyKind::Push
                } else {
                    ReplyKind::Aggregate
                };
                self.first = true;
                if self.unfold && kind == b'*' && self.base == 0 && elements != STREAMED {
                    return Ok(self.unfolded(elements));
                }
            } else {
                self.first = false;
            }
        }
        if elements == 0 {
            return Ok(!attribute && self.complete());
        }
        if self.depth == MAX_DEPTH {
            return Err(Malformed::Depth);
        }
        self.levels[self.depth] = elements;
        self.attributes |= u32::from(attribute) << self.depth;
        self.depth += 1;
        Ok(false)
    }

    /// Delivers the head of a reply that is unfolded.
    pub(super) fn unfolded(&mut self, elements: u64) -> bool {
        self.unfold = false;
        self.reply.kind = ReplyKind::Unfolded;
        self.reply.elements = elements;
        if elements > 0 {
            self.levels[0] = elements;
            (self.depth, self.base) = (1, 1);
        }
        true
    }

    /// An element (or a whole reply) is complete; perhaps what holds it is, too. `true` for a whole reply.
    #[inline]
    pub(super) fn complete(&mut self) -> bool {
        self.state = State::Type;
        loop {
            if self.depth == self.base {
                self.end_reply();
                return true;
            }
            let top = self.depth - 1;
            if top == self.base {
                self.first = false;
                if self.attributes == 0 {
                    self.reply.elements += 1;
                }
            }
            if self.levels[top] == STREAMED {
                return false;
            }
            self.levels[top] -= 1;
            if self.levels[top] > 0 || self.close_level() {
                return false;
            }
        }
    }

    /// `.` was read: the streamed aggregate is complete.
    pub(super) fn close(&mut self) -> bool {
        self.state = State::Type;
        !self.close_level() && self.complete()
    }

    /// Leaves the innermost aggregate. `true` if it was an attribute.
    pub(super) fn close_level(&mut self) -> bool {
        self.depth -= 1;
        let bit = 1 << self.depth;
        let attribute = self.attributes & bit != 0;
        self.attributes &= !bit;
        self.attributed |= attribute && self.depth == self.base;
        attribute
    }

    /// A reply is complete.
    #[inline]
    pub(super) fn end_reply(&mut self) {
        self.attributed = false;
        if self.base > 0 {
            self.levels[0] -= 1;
            if self.levels[0] == 0 {
                (self.depth, self.base) = (0, 0);
            }
        } else if self.reply.kind != ReplyKind::Push {
            self.unfold = false;
        }
    }
}
