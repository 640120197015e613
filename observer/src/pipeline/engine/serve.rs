//! Reports the two ends of a connection under `--role both`.

use std::sync::Arc;

use super::ends::{Extent, Fate, Served};
use super::{Bound, Caller, Reporter, leave_out};
use crate::enrichment::{Endpoint, Observation};
use crate::sinks::Sinks;
use crate::source::event::{Clock, End, Nanos};
use crate::telemetry::LeftOut;
use crate::transaction::Exchange;

impl Bound {
    /// What leaves of an exchange.
    pub(super) fn observation(
        &self,
        endpoint: &Arc<Endpoint>,
        mut exchange: Exchange,
        clock: Clock,
    ) -> Observation {
        let redaction = &self.export.redaction;
        if !redaction.commands.is_empty() {
            for transaction in exchange.transactions_mut() {
                if redaction.hides(transaction.request.operation.name()) {
                    transaction.request.detail = None;
                }
            }
        }
        Observation {
            exchange,
            endpoint: Arc::clone(endpoint),
            service: Arc::clone(&self.service),
            export: Arc::clone(&self.export),
            clock,
        }
    }
}

impl Reporter {
    /// What became of a client's exchange, of which the server's end may be reported, too.
    pub(super) fn tell(&mut self, extent: Option<Extent>, fate: Fate) {
        if let Some(extent) = extent {
            let out = &mut |observation, fate| export(&self.sinks, observation, fate);
            self.ends.tell(extent, fate, out);
        }
    }

    /// Reports what a server's end tells whose client's end is reported, too. That end counts the commands: only their
    /// duration is recorded here.
    pub(super) fn serve(&mut self, caller: &Caller, exchange: Exchange) {
        leave_out(LeftOut::Served, &exchange, &self.telemetry);
        let (Some(id), Some(bound)) = (caller.shared, &caller.bound) else {
            return;
        };
        let Some((series, budget)) = bound.accounts else {
            return;
        };
        for transaction in exchange.transactions() {
            self.aggregator.record_duration(series, transaction);
        }
        if !self.sinks.wants_spans() {
            return;
        }
        let mut transactions = match exchange {
            Exchange::One(transaction) => vec![transaction],
            Exchange::Batch(batch) => batch.transactions,
            Exchange::Life(_) => return,
        };
        // Those without a reply end before others that were sent before them.
        let begin = transactions.first().map_or(0, |one| one.position);
        transactions.sort_by_key(|one| one.position.wrapping_sub(begin) as i32);
        for transaction in transactions {
            let exchange = Exchange::One(transaction);
            let served = Served {
                alone: self.policy.decide(budget, &exchange, false),
                observation: bound.observation(&caller.endpoint, exchange, self.clock),
            };
            let out = &mut |observation, fate| export(&self.sinks, observation, fate);
            self.ends.serve(id, served, out);
        }
    }

    /// A rule says that this end is not reported.
    pub(super) fn hush(&mut self, caller: &Caller) {
        if let (Some(id), End::Server) = (caller.shared, caller.endpoint.end) {
            let out = &mut |observation, fate| export(&self.sinks, observation, fate);
            self.ends.hush(id, out);
        }
    }

    /// An end is closed.
    pub(super) fn close_end(&mut self, caller: &Caller, time: Nanos) {
        if let Some(id) = caller.shared {
            let out = &mut |observation, fate| export(&self.sinks, observation, fate);
            match caller.endpoint.end {
                End::Client => self.ends.close_client(id, time, out),
                End::Server => self.ends.close_server(id, out),
            }
        }
    }
}

fn export(sinks: &Sinks, observation: Observation, fate: Fate) {
    match fate {
        Fate::Child(client, sample) => {
            sinks.submit_served(observation, client, sample);
        }
        Fate::Alone(Some(sample)) => {
            sinks.submit(observation, sample);
        }
        Fate::Alone(None) | Fate::LeftOut => {
            sinks.leave_out(&observation.exchange, &observation.export);
        }
        Fate::Dropped => sinks.drop_served(&observation.exchange, &observation.export),
    }
}
