//! The stages in a row: what is done with each flow, from segments to series and spans.

mod datagrams;
pub(super) mod ends;
mod life;
mod serve;

use std::collections::HashSet;
use std::sync::Arc;

use tracing::info;

use self::ends::{ConnectionId, Ends, Extent, Fate};
use crate::aggregation::{Aggregator, Connection, Pool, SeriesId, fault_name};
use crate::config::export::Export;
use crate::config::rules::{Rules, Who};
use crate::enrichment::{Endpoint, Enricher, Service};
use crate::protocol::Protocol;
use crate::sinks::{BudgetId, Policy, Sinks};
use crate::source::event::{Address, Clock, End, Nanos, SocketId, SocketName, Task};
use crate::source::recording::{Process, ServerName};
use crate::stream::flows::{Close, Flow, Handler, Verdict};
use crate::stream::{Content, Ports, Segment};
use crate::telemetry::names::value;
use crate::telemetry::{LeftOut, Limit, Skipped, Telemetry};
use crate::transaction::conversation::{Conversation, Settings};
use crate::transaction::{Ending, Exchange, LifeStage};

/// Most transactions kept of a connection whose other end may be on this host too. It is decided within 200 ms.
const MAX_UNDECIDED: usize = 1_024;
/// Most transactions kept in that way altogether; further ones are reported at once.
const MAX_ALL_UNDECIDED: usize = 65_536;
/// Most endpoints of which it is said that they are not decoded.
const MAX_TOLD: usize = 1_024;

/// The stages right of `stream`.
pub(super) struct Engine {
    memcached: Ports,
    telemetry: Arc<Telemetry>,
    told: HashSet<(Address, Skipped)>,
    reporter: Reporter,
    /// Exchanges of connections that are not decided.
    undecided: usize,
}

pub(super) use datagrams::Datagrams;

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
    /// Connections that are reported from both ends.
    pub(super) ends: Ends,
    pub(super) telemetry: Arc<Telemetry>,
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
    /// Its part in a pool, of a client's end.
    connection: Option<Connection>,
    /// What it shares with its other end, where both are reported.
    shared: Option<ConnectionId>,
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

impl Caller {
    /// Sets the names of the server and the cache.
    fn rename(&mut self, server: Option<Arc<str>>, cache: Option<String>) {
        let named = self.endpoint.named(server, cache);
        if *self.endpoint != named {
            self.endpoint = Arc::new(named);
        }
    }
}

impl Engine {
    /// `memcached`: the ports that are not Redis's.
    pub(super) fn new(memcached: Ports, telemetry: Arc<Telemetry>, reporter: Reporter) -> Self {
        Self {
            memcached,
            telemetry,
            told: HashSet::new(),
            reporter,
            undecided: 0,
        }
    }

    pub(super) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    pub(super) fn memcached(&self) -> &Ports {
        &self.memcached
    }

    /// Other ports and rules hold from now on.
    pub(super) fn reconfigure(&mut self, memcached: Ports, rules: Rules, now: Nanos) {
        self.memcached = memcached;
        self.reporter.enricher.rename(rules.service_names());
        self.reporter.rules = rules;
        // Of earlier rules; connections move to new series with their next command. What their pools have not handed on yet is
        // handed on first.
        self.tick(now);
        self.reporter.aggregator.forget_unused();
        self.reporter.epoch = self.reporter.epoch.wrapping_add(1);
    }

    /// A Memcached server is expected at this unix socket, too.
    pub(super) fn add_memcached(&mut self, name: SocketName) {
        self.memcached.add(name);
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

    pub(super) fn set_clock(&mut self, clock: Clock) {
        self.reporter.clock = clock;
    }

    /// Another one finds out about processes from now on.
    pub(super) fn set_enricher(&mut self, enricher: Enricher) {
        self.reporter.enricher = enricher;
        let names = self.reporter.rules.service_names();
        self.reporter.enricher.rename(names);
    }

    /// A process is known without being looked up.
    pub(super) fn told(&mut self, process: Process) {
        self.reporter.enricher.told(process);
    }

    /// So is what it calls a server.
    pub(super) fn told_server(&mut self, server: ServerName) {
        self.reporter.enricher.told_server(server);
    }

    /// Time has passed on the source's clock.
    pub(super) fn tick(&mut self, now: Nanos) {
        self.reporter.aggregator.tick(now);
        self.reporter.ends.tick(now);
    }

    fn protocol(&self, server: Address) -> Protocol {
        if self.memcached.expects(server) {
            Protocol::Memcached
        } else {
            Protocol::Redis
        }
    }

    /// A client's socket that has no flow yet.
    fn early(&mut self, socket: &SocketId, connection: Connection) -> Caller {
        let endpoint = Endpoint::new(End::Client, socket.remote, socket.local);
        let protocol = self.protocol(socket.remote);
        self.reporter.caller(protocol, endpoint, Some(connection))
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
        let (reporter, telemetry) = (&mut self.reporter, &*self.telemetry);
        let (all, mut details) = (&mut self.undecided, 0);
        let result = step(conversation, telemetry, &mut |exchange| {
            details += exchange.detail_memory();
            match flow.verdict {
                Verdict::Redundant => leave_out(LeftOut::Redundant, &exchange, telemetry),
                Verdict::Undecided
                    if undecided.len() < MAX_UNDECIDED && *all < MAX_ALL_UNDECIDED =>
                {
                    *all += 1;
                    undecided.push(exchange);
                }
                Verdict::Undecided | Verdict::Reported => reporter.report(caller, exchange),
            }
        });
        conversation.left(details);
        if let Some(reason) = conversation.ignored()
            && !*told
        {
            *told = true;
            tell(&mut self.told, caller, reason);
        }
        result
    }
}

/// Counts the requests of an exchange that is told nowhere.
fn leave_out(reason: LeftOut, exchange: &Exchange, telemetry: &Telemetry) {
    let requests = exchange.transactions().len() as u64;
    telemetry.left_out(reason).add(requests);
}

/// Says once for each server that, and why, what it is sent is not decoded.
fn tell(told: &mut HashSet<(Address, Skipped)>, caller: &Caller, reason: Skipped) {
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
    fn caller(
        &self,
        protocol: Protocol,
        endpoint: Endpoint,
        connection: Option<Connection>,
    ) -> Caller {
        Caller {
            protocol,
            ignored: self.rules.resolve(endpoint.server, &Who::default()).ignore,
            endpoint: Arc::new(endpoint),
            bound: None,
            connection,
            shared: None,
        }
    }

    /// Resolves what holds for a connection, by the process that uses it at `time`.
    fn bind(&mut self, caller: &mut Caller, task: Option<&Task>, time: Nanos) {
        let (pid, epoch) = (task.map(|task| task.pid), self.epoch);
        let is_current = |bound: &Bound| bound.pid == pid && bound.epoch == epoch;
        if caller.bound.as_ref().is_some_and(is_current) {
            return;
        }
        self.pooled(caller, |connection, pool| {
            if let Some(pool) = pool {
                connection.leave(pool, time);
            }
        });
        self.release(caller.bound.take());
        let service = self.enricher.service(task);
        let server = caller.endpoint.server;
        let resolved = self.rules.resolve(server, &service.who());
        // What a server calls itself is no name by which others know it.
        let asked = caller.endpoint.end == End::Client;
        let name = resolved.server.or_else(|| {
            let name = asked.then(|| self.enricher.server_name(task, server));
            name.flatten()
        });
        caller.rename(name, resolved.cache);
        caller.ignored = resolved.ignore;
        let accounts = (!resolved.ignore).then(|| {
            let series = self
                .aggregator
                .bind(&caller.endpoint, &service, caller.protocol);
            let budget = self.policy.bind(service.id, &resolved.export.spans);
            (series, budget)
        });
        caller.bound = Some(Bound {
            pid,
            epoch,
            service,
            accounts,
            export: resolved.export,
        });
        self.pooled(caller, |connection, pool| {
            if let Some(pool) = pool {
                connection.join(pool, time);
            }
        });
    }

    fn release(&mut self, bound: Option<Bound>) {
        if let Some((series, budget)) = bound.and_then(|bound| bound.accounts) {
            self.aggregator.release(series);
            self.policy.release(budget);
        }
    }

    /// Lets a client's connection act on its pool.
    fn pooled(
        &mut self,
        caller: &mut Caller,
        act: impl FnOnce(&mut Connection, Option<&mut Pool>),
    ) {
        if let Some(connection) = &mut caller.connection {
            let accounts = caller.bound.as_ref().and_then(|bound| bound.accounts);
            act(
                connection,
                accounts.and_then(|(series, _)| self.aggregator.pool(series)),
            );
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
        self.close_end(&caller, time);
        self.release(caller.bound);
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
        let Some((series, budget)) = bound.accounts else {
            self.hush(caller);
            return leave_out(LeftOut::Rule, &exchange, &self.telemetry);
        };
        if caller.shared.is_some() && caller.endpoint.end == End::Server {
            return self.serve(caller, exchange);
        }
        let mut slow = false;
        for transaction in exchange.transactions() {
            slow |= self.aggregator.record(series, transaction, self.clock);
        }
        if !self.sinks.wants_spans() {
            return;
        }
        let extent = caller.shared.and_then(|id| Extent::of(id, &exchange));
        let Some(sample) = self.policy.decide(budget, &exchange, slow) else {
            self.sinks.leave_out(&exchange, &bound.export);
            return self.tell(extent, Fate::LeftOut);
        };
        let observation = bound.observation(&caller.endpoint, exchange, self.clock);
        let Some(submitted) = self.sinks.submit(observation, sample) else {
            return self.tell(extent, Fate::Dropped);
        };
        for transaction in submitted.transactions() {
            self.aggregator
                .point(series, transaction, self.clock, submitted.span());
        }
        self.tell(extent, Fate::Child(submitted.span(), sample));
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
        let pooled = flow.end == End::Client && flow.verdict == Verdict::Reported;
        let endpoint = Endpoint::new(flow.end, flow.server(), flow.client());
        let mut caller = self.reporter.caller(protocol, endpoint, None);
        caller.connection = match early {
            Some(early) => {
                let Endpoint { name, cache, .. } = &*early.endpoint;
                caller.rename(name.clone(), Some(cache.clone()));
                caller.ignored = early.ignored;
                caller.bound = early.bound;
                early.connection
            }
            None => Some(Connection::default()),
        }
        .filter(|_| pooled);
        caller.shared = flow.shared.map(|shared| self.reporter.ends.open(shared));
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
        if matches!(segment.content, Content::Dropped { .. }) {
            return wanted;
        }
        if session.caller.connection.is_some() {
            if session.caller.bound.is_none() {
                let caller = &mut session.caller;
                self.reporter.bind(caller, segment.task, segment.time);
            }
            self.look(session, segment.time, Change::Moved(segment));
        }
        self.count_ignored(&session.caller, segment);
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

    fn memory(&self, session: &Session) -> usize {
        session.conversation.memory()
    }

    fn relieve(&mut self, flow: &Flow, session: &mut Session, now: Nanos) {
        let given_up = self.converse(flow, session, |conversation, telemetry, out| {
            conversation.relieve(now, telemetry, out)
        });
        if given_up {
            self.telemetry.exceeded(Limit::PendingBytes).add(1);
        }
    }

    fn decided(&mut self, flow: &Flow, session: &mut Session) {
        if let (Some(shared), None) = (flow.shared, session.caller.shared) {
            session.caller.shared = self.reporter.ends.meet(shared);
        }
        for exchange in std::mem::take(&mut session.undecided) {
            self.undecided -= 1;
            match flow.verdict {
                Verdict::Reported => self.reporter.report(&mut session.caller, exchange),
                _ => leave_out(LeftOut::Redundant, &exchange, &self.telemetry),
            }
        }
    }

    fn close(&mut self, flow: &Flow, mut session: Session, close: Close, time: Nanos) {
        let ending = match close {
            Close::Closed(_) => Ending::Unanswered,
            Close::Abandoned | Close::Over => Ending::Unresolved,
        };
        self.converse(flow, &mut session, |conversation, telemetry, out| {
            conversation.close(ending, time, telemetry, out);
        });
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
