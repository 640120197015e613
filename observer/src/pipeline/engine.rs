//! The stages in a row: what is done with each flow, from segments to series and spans.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tracing::info;

use crate::aggregation::{Aggregator, SeriesId};
use crate::config::export::Export;
use crate::enrichment::{Endpoint, Enricher, Observation, Service};
use crate::protocol::Protocol;
use crate::sinks::{BudgetId, Policy, Sinks};
use crate::source::event::{Clock, Nanos};
use crate::stream::datagram::{self, Pair};
use crate::stream::flows::{Close, Flow, Handler, Verdict};
use crate::stream::{Ports, Segment};
use crate::telemetry::{Skipped, Telemetry};
use crate::transaction::conversation::{Conversation, Settings};
use crate::transaction::{Ending, Exchange};

/// Most transactions kept of a connection whose other end may be on this host too. It is decided within 200 ms.
const MAX_UNDECIDED: usize = 1_024;
/// Most endpoints of which it is said that they are not decoded.
const MAX_TOLD: usize = 1_024;

/// The stages right of `stream`.
pub(super) struct Engine {
    memcached: Ports,
    telemetry: Arc<Telemetry>,
    told: HashSet<(SocketAddr, Skipped)>,
    reporter: Reporter,
}

/// What transactions are handed to.
pub(super) struct Reporter {
    pub(super) enricher: Enricher,
    pub(super) aggregator: Aggregator,
    pub(super) sinks: Arc<Sinks>,
    pub(super) export: Arc<Export>,
    pub(super) policy: Policy,
    pub(super) clock: Clock,
}

/// What is kept of a flow.
pub(super) struct Session {
    conversation: Conversation,
    caller: Caller,
    undecided: Vec<Exchange>,
    told: bool,
}

/// On whose behalf a connection's transactions are reported.
pub(super) struct Caller {
    protocol: Protocol,
    endpoint: Arc<Endpoint>,
    bound: Option<Bound>,
}

/// Resolved once per connection and process.
struct Bound {
    pid: Option<u32>,
    service: Arc<Service>,
    series: SeriesId,
    export: Arc<Export>,
    budget: BudgetId,
}

impl Engine {
    /// `memcached`: the ports that are not Redis's.
    pub(super) fn new(memcached: Ports, telemetry: Arc<Telemetry>, reporter: Reporter) -> Self {
        Self {
            memcached,
            telemetry,
            told: HashSet::new(),
            reporter,
        }
    }

    pub(super) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Runs the conversation of a session, and reports what comes out unless it is not decided yet.
    fn converse<R>(
        &mut self,
        flow: &Flow,
        session: &mut Session,
        step: impl FnOnce(&mut Conversation, &Telemetry, &mut dyn FnMut(Exchange)) -> R,
    ) -> R {
        let Session {
            conversation,
            caller,
            undecided,
            told,
        } = session;
        let reporter = &mut self.reporter;
        let result = step(conversation, &self.telemetry, &mut |exchange| {
            if flow.verdict == Verdict::Undecided && undecided.len() < MAX_UNDECIDED {
                undecided.push(exchange);
            } else {
                reporter.report(caller, exchange);
            }
        });
        if let Some(reason) = conversation.ignored()
            && !*told
        {
            *told = true;
            tell(&mut self.told, caller, reason);
        }
        result
    }
}

/// Says once for each server that, and why, what it is sent is not decoded.
fn tell(told: &mut HashSet<(SocketAddr, Skipped)>, caller: &Caller, reason: Skipped) {
    let server = caller.endpoint.server;
    if told.len() < MAX_TOLD && told.insert((server, reason)) {
        let protocol = caller.protocol.name();
        info!(%server, protocol, reason = reason.name(), "not decoded");
    }
}

impl Reporter {
    fn report(&mut self, caller: &mut Caller, exchange: Exchange) {
        let Some(first) = exchange.transactions().first() else {
            return;
        };
        let pid = first.task.as_ref().map(|task| task.pid);
        let bound = match &mut caller.bound {
            Some(bound) if bound.pid == pid => bound,
            bound => {
                if let Some(old) = bound.take() {
                    self.aggregator.release(old.series);
                    self.policy.release(old.budget);
                }
                let service = self.enricher.service(first.task.as_ref());
                let series = self
                    .aggregator
                    .bind(&caller.endpoint, &service, caller.protocol);
                let budget = self.policy.bind(service.id, &self.export.spans);
                bound.insert(Bound {
                    pid,
                    service,
                    series,
                    budget,
                    export: Arc::clone(&self.export),
                })
            }
        };
        let mut slow = false;
        for transaction in exchange.transactions() {
            slow |= self
                .aggregator
                .record(bound.series, transaction, self.clock);
        }
        if !self.sinks.wants_spans() {
            return;
        }
        let Some(sample) = self.policy.decide(bound.budget, &exchange, slow) else {
            self.sinks.leave_out(&exchange, &bound.export);
            return;
        };
        let observation = Observation {
            exchange,
            endpoint: Arc::clone(&caller.endpoint),
            service: Arc::clone(&bound.service),
            export: Arc::clone(&bound.export),
            clock: self.clock,
        };
        let Some(submitted) = self.sinks.submit(observation, sample) else {
            return;
        };
        for transaction in submitted.transactions() {
            self.aggregator
                .point(bound.series, transaction, self.clock, submitted.span());
        }
    }

    /// The connection is gone.
    fn release(&mut self, caller: Caller) {
        if let Some(bound) = caller.bound {
            self.aggregator.release(bound.series);
            self.policy.release(bound.budget);
        }
    }
}

impl Handler for Engine {
    type Session = Session;

    fn open(&mut self, flow: &Flow, _time: Nanos) -> Session {
        let protocol = if self.memcached.contains(flow.server().port()) {
            Protocol::Memcached
        } else {
            Protocol::Redis
        };
        Session {
            conversation: Conversation::new(Settings {
                protocol,
                end: flow.end,
                from_start: flow.from_start,
                keep_detail: self.reporter.sinks.wants_spans(),
            }),
            caller: Caller {
                protocol,
                endpoint: Arc::new(Endpoint::new(flow.end, flow.server(), flow.client())),
                bound: None,
            },
            undecided: Vec::new(),
            told: false,
        }
    }

    fn segment(&mut self, flow: &Flow, session: &mut Session, segment: &Segment<'_>) -> bool {
        self.converse(flow, session, |conversation, telemetry, out| {
            conversation.segment(segment, telemetry, out)
        })
    }

    fn tick(&mut self, flow: &Flow, session: &mut Session, now: Nanos) -> bool {
        self.converse(flow, session, |conversation, telemetry, out| {
            conversation.tick(now, telemetry, out)
        })
    }

    fn decided(&mut self, flow: &Flow, session: &mut Session) {
        let undecided = std::mem::take(&mut session.undecided);
        if flow.verdict == Verdict::Reported {
            for exchange in undecided {
                self.reporter.report(&mut session.caller, exchange);
            }
        }
    }

    fn close(&mut self, flow: &Flow, mut session: Session, close: Close, time: Nanos) {
        if flow.verdict != Verdict::Redundant {
            let ending = match close {
                Close::Closed => Ending::Unanswered,
                Close::Abandoned => Ending::Unresolved,
            };
            self.converse(flow, &mut session, |conversation, telemetry, out| {
                conversation.close(ending, time, telemetry, out);
            });
        }
        self.reporter.release(session.caller);
    }
}

/// An exchange of datagrams: a conversation of its own, whose results are kept until it is over.
pub(super) struct Datagrams {
    conversation: Conversation,
    exchanges: Vec<Exchange>,
}

impl datagram::Handler for Engine {
    type Peer = Caller;
    type Exchange = Datagrams;

    fn meet(&mut self, pair: &Pair) -> Caller {
        Caller {
            protocol: Protocol::Memcached,
            endpoint: Arc::new(Endpoint::udp(pair.end, pair.server(), pair.client())),
            bound: None,
        }
    }

    fn part(&mut self, caller: Caller) {
        self.reporter.release(caller);
    }

    fn begin(&mut self, pair: &Pair) -> Datagrams {
        Datagrams {
            conversation: Conversation::new(Settings {
                protocol: Protocol::Memcached,
                end: pair.end,
                from_start: true,
                keep_detail: self.reporter.sinks.wants_spans(),
            }),
            exchanges: Vec::new(),
        }
    }

    fn segment(
        &mut self,
        caller: &mut Caller,
        exchange: &mut Datagrams,
        segment: &Segment<'_>,
    ) -> bool {
        let Datagrams {
            conversation,
            exchanges,
        } = exchange;
        conversation.segment(segment, &self.telemetry, &mut |exchange| {
            exchanges.push(exchange);
        });
        if let Some(reason) = conversation.ignored() {
            tell(&mut self.told, caller, reason);
        }
        conversation.is_settled()
    }

    fn end(&mut self, caller: &mut Caller, exchange: Datagrams, reported: bool, time: Nanos) {
        let Datagrams {
            mut conversation,
            mut exchanges,
        } = exchange;
        // Not `Unanswered`, which is a failure: datagrams are lost in the normal course of things, also by the observer.
        let ending = Ending::Unresolved;
        conversation.close(ending, time, &self.telemetry, &mut |exchange| {
            exchanges.push(exchange);
        });
        if reported {
            for exchange in exchanges {
                self.reporter.report(caller, exchange);
            }
        }
    }
}
