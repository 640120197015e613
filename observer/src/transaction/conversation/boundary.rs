//! A boundary that is likely: where it may be, and what proves or refutes it.

use super::{Conversation, Phase, Side};
use crate::protocol::detect::begins_request;
use crate::source::event::Nanos;
use crate::stream::Segment;
use crate::telemetry::{Skipped, Telemetry};
use crate::transaction::Exchange;
use crate::transaction::probation::{Probation, QUIET};

impl Conversation {
    /// Whether a sure boundary may be here: a send that starts a request, after a reply or after a silence.
    pub(super) fn may_begin(&self, bytes: &[u8], segment: &Segment<'_>) -> bool {
        segment.side == Side::Request
            && segment.call_start
            && match self.last {
                None | Some((Side::Reply, _)) => true,
                Some((Side::Request, time)) => segment.time.saturating_sub(time) >= QUIET,
            }
            && begins_request(self.settings.protocol, bytes)
    }

    /// Waits for a boundary: what messages began is no part of any.
    pub(super) fn wait(&mut self, telemetry: &Telemetry) {
        if let Phase::Detecting { head } = &self.phase {
            // Too few to tell what it spoke.
            let left = head.len() as u64;
            telemetry.skipped(Skipped::Unsynchronized).add(left);
        }
        self.phase = Phase::Waiting;
        self.forget_messages();
    }

    /// The boundary is here, perhaps.
    pub(super) fn restart(&mut self) {
        self.forget();
        self.probation = Some(Probation::default());
        self.phase = Phase::Synced;
    }

    /// A request begins: nothing extra came since the connection was drained.
    pub(super) fn prove(&mut self, now: Nanos, out: &mut dyn FnMut(Exchange)) {
        let taints = self.matcher.quiets().taints();
        if self
            .probation
            .as_mut()
            .is_some_and(|probation| probation.proves(now, taints))
        {
            self.confirm(out);
        }
    }

    /// The boundary is proven.
    pub(super) fn confirm(&mut self, out: &mut dyn FnMut(Exchange)) {
        if let Some(probation) = self.probation.take() {
            let tainted = self.matcher.trust();
            probation.release(tainted, out);
        }
    }

    /// The boundary was wrong: the requests were seen, their replies were others'.
    pub(super) fn refute(
        &mut self,
        time: Nanos,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) {
        if let Some(probation) = self.probation.take() {
            let replies = probation.refute(time, out);
            telemetry.orphaned.add(replies);
        }
    }

    /// Whether what comes where a request would begin is the end of a value: then the requests before it were a part of it. No client
    /// sends an empty line.
    pub(super) fn ends_value(&self, input: &[u8]) -> bool {
        self.probation.is_some() && input.first() == Some(&b'\r')
    }
}
