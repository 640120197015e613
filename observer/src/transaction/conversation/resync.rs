//! What happens when the boundary or the pairing is not sure.

use super::super::Ending;
use super::super::watch::Watch;
use super::{Conversation, Exchange, Phase, pass_over};
use crate::protocol::Malformed;
use crate::source::event::Nanos;
use crate::stream::{Content, Segment, Side};
use crate::telemetry::{Resync, Skipped, Telemetry};

impl<W: Watch> Conversation<W> {
    pub(super) fn malformed(
        &mut self,
        malformed: Malformed,
        rest: usize,
        segment: &Segment<'_>,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) {
        // A connection on which no exchange ever made sense speaks something else.
        if malformed == Malformed::Foreign || !(self.answered || self.probation.is_some()) {
            self.resynchronize(Resync::Malformed, segment.time, telemetry, out);
            self.ignore(Skipped::Foreign, rest, telemetry);
        } else {
            pass_over(rest as u64, telemetry);
            let Content::Bytes(bytes) = segment.content else {
                return;
            };
            let reason = Resync::Malformed;
            if segment.side == Side::Request && self.probation.is_some() {
                let position = segment.position.wrapping_add((bytes.len() - rest) as u32);
                return self.discard(reason, position, segment.time, telemetry);
            }
            self.resynchronize(reason, segment.time, telemetry, out);
        }
    }

    pub(super) fn ignore(&mut self, reason: Skipped, length: usize, telemetry: &Telemetry) {
        telemetry.skipped(reason).add(length as u64);
        self.phase = Phase::Ignored(reason);
        self.lose();
        self.probation = None;
        // What sets it up is not known.
        self.setup = None;
    }

    /// Drops what is not sure, counts it, and waits for a boundary.
    pub(super) fn resynchronize(
        &mut self,
        reason: Resync,
        time: Nanos,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) {
        if self.ignored().is_some() {
            return;
        }
        telemetry.resyncs(self.settings.protocol, reason).add(1);
        self.give_up(Ending::Unresolved, time, telemetry, out);
        let orphan = u64::from(reason == Resync::Mismatch);
        telemetry.orphaned.add(orphan);
        self.wait(telemetry);
    }

    /// The decoders are spent.
    pub(super) fn lose(&mut self) {
        self.forget_messages();
        if self.probation.is_some() {
            self.watch.refuted();
        }
    }

    /// Ends what is outstanding. A boundary that is not proven by now was wrong.
    pub(super) fn give_up(
        &mut self,
        ending: Ending,
        time: Nanos,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) {
        let orphans = match &mut self.probation {
            None => self.matcher.give_up(ending, time, out),
            Some(probation) => {
                // Batches that are not complete hold what was answered, too.
                let withhold = &mut |exchange| probation.withhold(exchange);
                let orphans = self.matcher.give_up(ending, time, withhold);
                self.refute(time, telemetry, out);
                orphans
            }
        };
        telemetry.orphaned.add(orphans);
    }
}
