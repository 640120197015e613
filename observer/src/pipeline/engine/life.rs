//! Connections that begin and end, as spans.

use super::{Caller, Reporter};
use crate::sinks::Sample;
use crate::source::event::Nanos;
use crate::transaction::{Exchange, Life, LifeStage};

impl Reporter {
    /// A connection was ready at `end`, or the attempt at it failed then.
    pub(super) fn begun(&self, caller: &Caller, end: Nanos, error: Option<&'static str>) {
        if let Some(connection) = &caller.connection
            && let Some(start) = connection.began()
        {
            let established = connection.established();
            let stage = LifeStage::Connect { established };
            self.life(caller, stage, (start, end), error);
        }
    }

    /// A connection begins or ends.
    pub(super) fn life(
        &self,
        caller: &Caller,
        stage: LifeStage,
        (start, end): (Nanos, Nanos),
        error: Option<&'static str>,
    ) {
        let Some(bound) = &caller.bound else { return };
        let wanted = bound.export.spans.connections && bound.accounts.is_some();
        if wanted && self.sinks.wants_spans() {
            let life = Exchange::Life(Life {
                protocol: caller.protocol,
                stage,
                start,
                end,
                error,
            });
            let observation = bound.observation(&caller.endpoint, life, self.clock);
            self.sinks.submit(observation, Sample::default());
        }
    }
}
