//! The stages in a row: what is done with each flow, from segments to series and spans.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tracing::info;

use crate::aggregation::{Aggregator, Connection, Pool, SeriesId, fault_name};
use crate::enrichment::{Endpoint, Enricher, Observation, Service};
use crate::protocol::Protocol;
use crate::sinks::Sinks;
use crate::source::event::{Clock, End, Nanos, SocketId, Task};
use crate::stream::datagram::{self, Pair};
use crate::stream::flows::{Close, Flow, Handler, Verdict};
use crate::stream::{Ports, Segment};
use crate::telemetry::names::value;
use crate::telemetry::{Skipped, SpanOutcome, Telemetry};
use crate::transaction::conversation::{Conversation, Settings};
use crate::transaction::{Ending, Exchange, Life, LifeStage};

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
    pub(super) clock: Clock,
    pub(super) spans: Spans,
    pub(super) telemetry: Arc<Telemetry>,
}

/// Which spans there are beside those of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spans {
    /// Those of tests of idle connections.
    pub health_checks: bool,
    /// Those of connections that begin and end.
    pub connections: bool,
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
    /// Its part in a pool, of a client's end.
    connection: Option<Connection>,
}

/// Resolved once per connection and process.
struct Bound {
    pid: Option<u32>,
    service: Arc<Service>,
    series: SeriesId,
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

    /// Time has passed on the source's clock.
    pub(super) fn tick(&mut self, now: Nanos) {
        self.reporter.aggregator.tick(now);
    }

    fn protocol(&self, server: SocketAddr) -> Protocol {
        if self.memcached.contains(server.port()) {
            Protocol::Memcached
        } else {
            Protocol::Redis
        }
    }

    /// A client's socket that has no flow yet.
    fn early(&mut self, socket: &SocketId, connection: Connection) -> Caller {
        Caller {
            protocol: self.protocol(socket.remote),
            endpoint: Arc::new(Endpoint::new(End::Client, socket.remote, socket.local)),
            bound: None,
            connection: Some(connection),
        }
    }

    /// What occupies the connection may have changed; asks once whether it is ready.
    fn look(&mut self, session: &mut Session, now: Nanos, change: Change<'_>) {
        let Session {
            conversation,
            caller,
            ..
        } = session;
        let load = conversation.load();
        // A replica's link is no client's.
        let replica = conversation.ignored() == Some(Skipped::Replication);
        let ready = conversation.take_ready(now, matches!(change, Change::Ends));
        if let Some(ready) = ready {
            self.reporter.begun(caller, ready.time, None);
        }
        self.reporter.pooled(caller, |connection, mut pool| {
            if let Some(ready) = ready {
                connection.ready(pool.as_deref_mut(), ready);
            }
            match change {
                Change::Moved(segment) => connection.moved(pool.as_deref_mut(), load, segment),
                Change::Passed => connection.passed(pool.as_deref_mut(), load, now),
                Change::Ends => {}
            }
            if replica && let Some(pool) = pool {
                connection.leave(pool, now);
            }
        });
        if replica {
            caller.connection = None;
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

/// Why a connection is looked at.
enum Change<'a> {
    Moved(&'a Segment<'a>),
    Passed,
    Ends,
}

impl Reporter {
    /// Resolves the service and series of a connection, by the process that uses it at `time`.
    fn bind(&mut self, caller: &mut Caller, task: Option<&Task>, time: Nanos) {
        let pid = task.map(|task| task.pid);
        if caller.bound.as_ref().is_some_and(|bound| bound.pid == pid) {
            return;
        }
        self.pooled(caller, |connection, pool| {
            if let Some(pool) = pool {
                connection.leave(pool, time);
            }
        });
        if let Some(old) = caller.bound.take() {
            self.aggregator.release(old.series);
        }
        let service = self.enricher.service(task);
        let series = self
            .aggregator
            .bind(&caller.endpoint, &service, caller.protocol);
        caller.bound = Some(Bound {
            pid,
            service,
            series,
        });
        self.pooled(caller, |connection, pool| {
            if let Some(pool) = pool {
                connection.join(pool, time);
            }
        });
    }

    /// Lets a client's connection act on its pool.
    fn pooled(
        &mut self,
        caller: &mut Caller,
        act: impl FnOnce(&mut Connection, Option<&mut Pool>),
    ) {
        if let Some(connection) = &mut caller.connection {
            let series = caller.bound.as_ref().map(|bound| bound.series);
            act(connection, series.and_then(|id| self.aggregator.pool(id)));
        }
    }

    /// A connection was ready at `end`, or the attempt at it failed then.
    fn begun(&self, caller: &Caller, end: Nanos, error: Option<&'static str>) {
        if let Some(connection) = &caller.connection
            && let Some(start) = connection.began()
        {
            let established = connection.established();
            let stage = LifeStage::Connect { established };
            self.life(caller, stage, (start, end), error);
        }
    }

    /// A connection begins or ends.
    fn life(
        &self,
        caller: &Caller,
        stage: LifeStage,
        (start, end): (Nanos, Nanos),
        error: Option<&'static str>,
    ) {
        let Some(bound) = &caller.bound else { return };
        if self.spans.connections && self.sinks.wants_spans() {
            self.sinks.submit(Observation {
                exchange: Exchange::Life(Life {
                    protocol: caller.protocol,
                    stage,
                    start,
                    end,
                    error,
                }),
                endpoint: Arc::clone(&caller.endpoint),
                service: Arc::clone(&bound.service),
                clock: self.clock,
            });
        }
    }

    /// A connection is over, or not observed any more.
    fn part(&mut self, mut caller: Caller, close: Close, time: Nanos) {
        if let (Close::Closed(fault), Some(connection)) = (close, &caller.connection) {
            let error = fault.map(fault_name);
            if connection.is_connecting() {
                self.begun(&caller, time, error.or(Some(value::CANCELED)));
            } else {
                let (age, commands) = (connection.age(time), connection.commands());
                let stage = LifeStage::Close { age, commands };
                self.life(&caller, stage, (time, time), error);
            }
        }
        self.pooled(&mut caller, |connection, pool| match (close, pool) {
            (Close::Closed(fault), pool) => connection.close(pool, fault, time),
            (Close::Abandoned, Some(pool)) => connection.leave(pool, time),
            // What was there at the end is what is told last.
            (Close::Over | Close::Abandoned, _) => {}
        });
        if let Some(bound) = caller.bound {
            self.aggregator.release(bound.series);
        }
    }

    fn report(&mut self, caller: &mut Caller, exchange: Exchange) {
        let Some(first) = exchange.transactions().first() else {
            return;
        };
        let (task, end) = (first.task, first.end);
        if let Some(connection) = &mut caller.connection {
            connection.count(exchange.transactions().len());
        }
        if exchange.is_health_check() {
            self.pooled(caller, Connection::health_check);
        }
        self.bind(caller, task.as_ref(), end);
        let Some(bound) = &caller.bound else { return };
        for transaction in exchange.transactions() {
            self.aggregator
                .record(bound.series, transaction, self.clock);
        }
        if exchange.is_health_check() && !self.spans.health_checks {
            self.telemetry.spans(SpanOutcome::SampledOut).add(1);
        } else if self.sinks.wants_spans() {
            self.sinks.submit(Observation {
                exchange,
                endpoint: Arc::clone(&caller.endpoint),
                service: Arc::clone(&bound.service),
                clock: self.clock,
            });
        }
    }
}

impl Handler for Engine {
    type Session = Session;
    type Early = Caller;

    fn connecting(&mut self, socket: &SocketId, task: Option<&Task>, time: Nanos) -> Caller {
        let mut caller = self.early(socket, Connection::connecting(time));
        self.reporter.bind(&mut caller, task, time);
        caller
    }

    fn older(&mut self, socket: &SocketId, task: &Task) -> Caller {
        let mut caller = self.early(socket, Connection::default());
        self.reporter.bind(&mut caller, Some(task), 0);
        caller
    }

    fn vanish(&mut self, early: Caller, close: Close, time: Nanos) {
        self.reporter.part(early, close, time);
    }

    fn open(&mut self, flow: &Flow, early: Option<Caller>, time: Nanos) -> (Session, bool) {
        let protocol = self.protocol(flow.server());
        let mut conversation = Conversation::new(Settings {
            protocol,
            end: flow.end,
            from_start: flow.from_start,
            keep_detail: self.reporter.sinks.wants_spans(),
        });
        let (bound, connection) = match early {
            Some(early) => (early.bound, early.connection),
            None => (None, Some(Connection::default())),
        };
        let pooled = flow.end == End::Client && flow.verdict == Verdict::Reported;
        let mut caller = Caller {
            protocol,
            endpoint: Arc::new(Endpoint::new(flow.end, flow.server(), flow.client())),
            bound,
            connection: connection.filter(|_| pooled),
        };
        self.reporter.pooled(&mut caller, |connection, pool| {
            connection.open(pool, flow.from_start, time);
        });
        let ticks = pooled && flow.from_start;
        if ticks {
            conversation = conversation.established(time);
        }
        let session = Session {
            conversation,
            caller,
            undecided: Vec::new(),
            told: false,
        };
        (session, ticks)
    }

    fn segment(&mut self, flow: &Flow, session: &mut Session, segment: &Segment<'_>) -> bool {
        let wanted = self.converse(flow, session, |conversation, telemetry, out| {
            conversation.segment(segment, telemetry, out)
        });
        if session.caller.connection.is_some() {
            if session.caller.bound.is_none() {
                let caller = &mut session.caller;
                self.reporter.bind(caller, segment.task, segment.time);
            }
            self.look(session, segment.time, Change::Moved(segment));
        }
        wanted
    }

    fn tick(&mut self, flow: &Flow, session: &mut Session, now: Nanos) -> bool {
        let wanted = self.converse(flow, session, |conversation, telemetry, out| {
            conversation.tick(now, telemetry, out)
        });
        if session.caller.connection.is_some() {
            self.look(session, now, Change::Passed);
        }
        wanted || session.conversation.awaits_ready()
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
                Close::Closed(_) => Ending::Unanswered,
                Close::Abandoned | Close::Over => Ending::Unresolved,
            };
            self.converse(flow, &mut session, |conversation, telemetry, out| {
                conversation.close(ending, time, telemetry, out);
            });
        }
        if session.caller.connection.is_some() {
            self.look(&mut session, time, Change::Ends);
            if let Close::Closed(fault) = close
                && session.conversation.awaits_ready()
            {
                let error = fault.map_or(value::CONNECTION_CLOSED, fault_name);
                self.reporter.begun(&session.caller, time, Some(error));
            }
        }
        self.reporter.part(session.caller, close, time);
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
            connection: None,
        }
    }

    fn part(&mut self, caller: Caller) {
        self.reporter.part(caller, Close::Over, 0);
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
