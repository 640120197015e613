//! Connections that begin and end, as spans.

use std::sync::Arc;

use super::{Caller, Reporter};
use crate::enrichment::Observation;
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
            let observation = Observation {
                exchange: Exchange::Life(Life {
                    protocol: caller.protocol,
                    stage,
                    start,
                    end,
                    error,
                }),
                endpoint: Arc::clone(&caller.endpoint),
                service: Arc::clone(&bound.service),
                export: Arc::clone(&bound.export),
                clock: self.clock,
            };
            self.sinks.submit(observation, Sample::default());
        }
    }
}
