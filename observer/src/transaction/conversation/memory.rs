//! What a conversation holds, and how it gives it back.

use super::super::Exchange;
use super::super::matcher::Matcher;
use super::super::probation::Probation;
use super::super::watch::Watch;
use super::{Conversation, Phase, Settings};
use crate::protocol::{ReplyDecoder, RequestDecoder};
use crate::source::event::Nanos;
use crate::stream::Side;
use crate::telemetry::{Resync, Telemetry};

impl<W: Watch> Conversation<W> {
    /// Bytes held on the heap: messages that are not complete, requests that wait, replies and transactions that are held back.
    #[must_use]
    pub fn memory(&self) -> usize {
        let head = match &self.phase {
            Phase::Detecting { head } => head.capacity(),
            _ => 0,
        };
        head + self.requests.memory()
            + self.replies.memory()
            + self.matcher.memory()
            + self.probation.as_ref().map_or(0, Probation::memory)
            + self.details
    }

    /// Requests with so many bytes of detail have left.
    pub fn left(&mut self, details: usize) {
        debug_assert!(details <= self.details, "{details} of {}", self.details);
        self.details = self.details.saturating_sub(details);
    }

    /// Bytes of detail that have not left.
    #[cfg(any(test, fuzzing))]
    pub(in crate::transaction) fn details(&self) -> usize {
        self.details
    }

    /// Gives back what it holds. Where that is more than room for the next messages, what is outstanding is given up, and the
    /// connection waits for a boundary. Answers whether that was so.
    pub fn relieve(
        &mut self,
        now: Nanos,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) -> bool {
        self.requests.shrink();
        if self.matcher.is_drained() {
            self.matcher.shrink();
        }
        if self.memory() == 0 {
            return false;
        }
        self.resynchronize(Resync::Budget, now, telemetry, out);
        self.forget();
        true
    }

    /// Forgets what decoders and matcher hold: nothing of it goes on.
    pub(super) fn forget(&mut self) {
        self.forget_messages();
        let Settings {
            protocol,
            keep_detail,
            ..
        } = self.settings;
        self.matcher = Matcher::new(protocol, false, keep_detail);
    }

    /// Forgets messages that are not complete.
    pub(super) fn forget_messages(&mut self) {
        let Settings {
            protocol,
            keep_detail,
            ..
        } = self.settings;
        self.requests = RequestDecoder::new(protocol, keep_detail);
        self.replies = ReplyDecoder::new(protocol);
        self.watch.spent(Side::Request);
        self.watch.spent(Side::Reply);
    }
}
