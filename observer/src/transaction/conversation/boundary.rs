//! A boundary that is likely: where it may be, and what proves or refutes it.

use super::{Conversation, Phase, Side};
use crate::protocol::detect::begins_request;
use crate::source::event::Nanos;
use crate::stream::Segment;
use crate::telemetry::{LeftOut, Resync, Skipped, Telemetry};
use crate::transaction::probation::{Forgotten, Probation, QUIET};
use crate::transaction::watch::Watch;
use crate::transaction::{Ending, Exchange};

impl<W: Watch> Conversation<W> {
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
        self.lose();
    }

    /// The boundary is here, perhaps.
    pub(super) fn restart(&mut self, position: u32) {
        self.forget();
        self.probation = Some(Probation::new(position));
        self.watch.doubted();
        self.phase = Phase::Synced;
        #[cfg(any(test, fuzzing))]
        {
            self.proven = self.ledger.len();
        }
    }

    /// On probation: what was sent up to `end` does not go on as requests do. So those since the boundary may be a part of a
    /// value that holds requests: they are counted as bytes that were lost.
    pub(super) fn discard(&mut self, reason: Resync, end: u32, time: Nanos, telemetry: &Telemetry) {
        let Some(mut probation) = self.probation.take() else {
            return;
        };
        telemetry.resyncs(self.settings.protocol, reason).add(1);
        let withhold = &mut |exchange| probation.withhold(exchange);
        let orphans = self.matcher.give_up(Ending::Unresolved, time, withhold);
        let Forgotten {
            bytes,
            requests,
            replies,
            details,
        } = probation.forget(end);
        telemetry.lost_bytes.add(bytes);
        telemetry.left_out(LeftOut::Unproven).add(requests);
        telemetry.orphaned.add(orphans + replies);
        self.left(details);
        self.wait(telemetry);
        self.watch.refuted();
        #[cfg(any(test, fuzzing))]
        self.ledger.truncate(self.proven);
    }

    /// A request begins: nothing extra came since the connection was drained.
    pub(super) fn prove(&mut self, now: Nanos, out: &mut dyn FnMut(Exchange)) {
        let taints = self.matcher.quiets().taints();
        if self
            .probation
            .as_mut()
            .is_some_and(|probation| probation.proves(now, taints, self.settings.protocol))
        {
            self.confirm(out);
        }
    }

    /// The boundary is proven.
    pub(super) fn confirm(&mut self, out: &mut dyn FnMut(Exchange)) {
        if let Some(probation) = self.probation.take() {
            self.watch.proven();
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
            self.watch.refuted();
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
