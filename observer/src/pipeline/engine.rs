//! The stages in a row: what is done with each flow, from segments to series and spans.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tracing::info;

use crate::aggregation::{Aggregator, SeriesId};
use crate::config::export::Export;
use crate::config::rules::Rules;
use crate::enrichment::{Endpoint, Enricher, Observation, Service, join};
use crate::protocol::Protocol;
use crate::sinks::{BudgetId, Policy, Sinks};
use crate::source::event::{Clock, Nanos, Task};
use crate::stream::datagram::{self, Pair};
use crate::stream::flows::{Close, Flow, Handler, Verdict};
use crate::stream::{Content, Ports, Segment};
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
    pub(super) rules: Rules,
    /// Which rules these are: bound connections know it.
    pub(super) epoch: u32,
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
    /// A rule says that it is not reported. Before the first transaction only rules without a service are known to fit.
    ignored: bool,
    bound: Option<Bound>,
}

/// Resolved once per connection and process, and again when the rules change.
struct Bound {
    pid: Option<u32>,
    epoch: u32,
    service: Arc<Service>,
    /// Where it is counted; `None`: a rule says that it is not.
    accounts: Option<(SeriesId, BudgetId)>,
    export: Arc<Export>,
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

    pub(super) fn memcached(&self) -> &Ports {
        &self.memcached
    }

    /// Other ports and rules hold from now on.
    pub(super) fn reconfigure(&mut self, memcached: Ports, rules: Rules) {
        self.memcached = memcached;
        self.reporter.rules = rules;
        // Of earlier rules; connections move to new series with their next command.
        self.reporter.aggregator.forget_unused();
        self.reporter.epoch = self.reporter.epoch.wrapping_add(1);
    }

    fn count_ignored(&self, caller: &Caller, segment: &Segment<'_>) {
        if caller.ignored
            && let Content::Bytes(bytes) = segment.content
        {
            self.telemetry
                .skipped(Skipped::Rule)
                .add(bytes.len() as u64);
        }
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
    fn caller(&self, protocol: Protocol, endpoint: Endpoint) -> Caller {
        Caller {
            protocol,
            ignored: self.rules.resolve(endpoint.server, None).ignore,
            endpoint: Arc::new(endpoint),
            bound: None,
        }
    }

    fn release(&mut self, bound: Option<Bound>) {
        if let Some((series, budget)) = bound.and_then(|bound| bound.accounts) {
            self.aggregator.release(series);
            self.policy.release(budget);
        }
    }

    fn report(&mut self, caller: &mut Caller, mut exchange: Exchange) {
        let Some(first) = exchange.transactions().first() else {
            return;
        };
        let pid = first.task.as_ref().map(|task| task.pid);
        let bound = match caller.bound.take() {
            Some(bound) if bound.pid == pid && bound.epoch == self.epoch => bound,
            old => {
                self.release(old);
                self.bind(caller, first.task.as_ref())
            }
        };
        let bound = caller.bound.insert(bound);
        let Some((series, budget)) = bound.accounts else {
            return;
        };
        let mut slow = false;
        for transaction in exchange.transactions() {
            slow |= self.aggregator.record(series, transaction, self.clock);
        }
        if !self.sinks.wants_spans() {
            return;
        }
        let Some(sample) = self.policy.decide(budget, &exchange, slow) else {
            self.sinks.leave_out(&exchange, &bound.export);
            return;
        };
        let redaction = &bound.export.redaction;
        if !redaction.commands.is_empty() {
            for transaction in exchange.transactions_mut() {
                if redaction.hides(transaction.request.operation.name()) {
                    transaction.request.detail = None;
                }
            }
        }
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
                .point(series, transaction, self.clock, submitted.span());
        }
    }

    fn bind(&mut self, caller: &mut Caller, task: Option<&Task>) -> Bound {
        let service = self.enricher.service(task);
        let server = caller.endpoint.server;
        let resolved = self.rules.resolve(server, Some(&service.name));
        let cache = resolved.cache.unwrap_or_else(|| join(server));
        if caller.endpoint.cache != cache {
            caller.endpoint = Arc::new(Endpoint {
                cache,
                ..Endpoint::clone(&caller.endpoint)
            });
        }
        caller.ignored = resolved.ignore;
        let accounts = (!resolved.ignore).then(|| {
            let series = self
                .aggregator
                .bind(&caller.endpoint, &service, caller.protocol);
            let budget = self.policy.bind(service.id, &resolved.export.spans);
            (series, budget)
        });
        Bound {
            pid: task.map(|task| task.pid),
            epoch: self.epoch,
            service,
            accounts,
            export: resolved.export,
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
            caller: self.reporter.caller(
                protocol,
                Endpoint::new(flow.end, flow.server(), flow.client()),
            ),
            undecided: Vec::new(),
            told: false,
        }
    }

    fn segment(&mut self, flow: &Flow, session: &mut Session, segment: &Segment<'_>) -> bool {
        self.count_ignored(&session.caller, segment);
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
        self.reporter.release(session.caller.bound);
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
        self.reporter.caller(
            Protocol::Memcached,
            Endpoint::udp(pair.end, pair.server(), pair.client()),
        )
    }

    fn part(&mut self, caller: Caller) {
        self.reporter.release(caller.bound);
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
        self.count_ignored(caller, segment);
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
