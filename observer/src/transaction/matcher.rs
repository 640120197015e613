//! Pairs replies with requests: first in, first out, with the exceptions that the protocols make.
//!
//! Both protocols answer in order. The exceptions are requests without an answer (noreply, CLIENT REPLY), requests that
//! are answered only sometimes ([`quiet`](super::quiet)), requests with several answers (SUBSCRIBE), and answers without a
//! request (pushes).

mod state;

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::{Call, GroupId, Groups};
use super::quiet::{Doubt, Fate, Placed, Quiets};
use super::reply_mode::ReplyMode;
use super::subscribed::{Subscribed, is_confirmation, is_message};
use super::{Ending, Exchange, Origin};
use crate::protocol::reply::{contradicts, silent};
use crate::protocol::{
    Answer, Client, Effect, Outcome, Protocol, Reply, ReplyKind, Request, outcome,
};
use crate::source::event::Nanos;
use crate::telemetry::{Resync, Skipped};

/// Most requests outstanding on one connection. Deeper pipelines exist only in bulk loading; a `Pending` takes some
/// 300 bytes, so that this bounds a connection to 20 MB.
pub const MAX_PENDING: usize = 65_536;
/// Most replies held that came before their request.
pub const MAX_EARLY: usize = 4_096;
/// Most requests that an idle connection keeps room for.
const MAX_IDLE: usize = 1_024;
/// How long such a reply is held, nanoseconds. Where one thread sends and another receives, the reply can be
/// reported before the request: by the time between the kernel's send and its hook, microseconds unless preempted.
pub const EARLY_HOLD: Nanos = 20_000_000;

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) start: Nanos,
    origin: Origin,
    /// `None` for a replica's: it is not handed on.
    group: Option<GroupId>,
    /// Confirmations still to come ([`Answer::Subscriptions`]).
    confirmations: u32,
    /// Requests with noreply came just before: an error may be theirs.
    doubtful: bool,
    /// Nothing else was outstanding since it was sent.
    alone: bool,
}

/// The outstanding requests of a connection, and its state.
#[derive(Debug)]
pub struct Matcher {
    protocol: Protocol,
    pending: VecDeque<Pending>,
    early: VecDeque<(Reply, Nanos)>,
    database: Option<u32>,
    reply_mode: ReplyMode,
    /// The last request gets no reply, if CLIENT REPLY was obeyed.
    hushed: bool,
    /// RESP2: while subscribed to channels or patterns, or to shard channels, messages come as arrays.
    subscribed: Subscribed,
    /// RESP3: pushes are of a type of their own, and no array is one.
    resp3: bool,
    stream: Option<Skipped>,
    /// What the client has said of itself.
    client: Option<Arc<Client>>,
    groups: Groups,
    /// What MULTI has queued, in order: each outcome is an element of EXEC's reply.
    queued: VecDeque<Pending>,
    /// Elements of EXEC's reply still to come, while it arrives.
    executing: bool,
    /// The boundary that this began with is proven.
    trusted: bool,
    /// Pushes seen.
    pushes: u64,
    quiets: Quiets,
    doubt: Doubt,
}

impl Matcher {
    /// A connection seen `from_start`, or joined. `gather`: commands that left together are handed on together.
    #[must_use]
    pub fn new(protocol: Protocol, from_start: bool, gather: bool) -> Self {
        Self {
            protocol,
            pending: VecDeque::new(),
            early: VecDeque::new(),
            // Redis starts every connection in database 0 (`initClient`: selectDb(c,0)).
            database: (from_start && protocol == Protocol::Redis).then_some(0),
            reply_mode: ReplyMode::On,
            hushed: false,
            subscribed: Subscribed::default(),
            resp3: false,
            stream: None,
            client: None,
            groups: Groups::new(gather),
            queued: VecDeque::new(),
            executing: false,
            trusted: from_start,
            pushes: 0,
            quiets: Quiets::new(!from_start),
            doubt: Doubt::default(),
        }
    }

    /// Bytes held on the heap, without the details of requests.
    #[must_use]
    pub fn memory(&self) -> usize {
        (self.pending.capacity() + self.queued.capacity()) * size_of::<Pending>()
            + self.early.capacity() * size_of::<(Reply, Nanos)>()
            + self.groups.memory()
            + self.quiets.memory()
    }

    /// Gives back what is empty.
    pub fn shrink(&mut self) {
        self.pending.shrink_to_fit();
        self.queued.shrink_to_fit();
        self.early.shrink_to_fit();
        self.groups.shrink();
        self.quiets.shrink();
    }

    /// Whether every request is answered and no reply waits for a request.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.pending.is_empty() && self.queued.is_empty() && self.early.is_empty()
    }

    /// Whether requests wait for replies, each of which is sure to come: a quiet one could be given a later one's.
    #[must_use]
    pub fn awaits_reply(&self) -> bool {
        !self.pending.is_empty() && self.quiets.is_empty()
    }

    /// The boundary that this began with is proven.
    pub(super) fn trust(&mut self) -> bool {
        self.trusted = true;
        self.quiets.prove()
    }

    /// Whether replies wait for their request: [`Self::expire`] has to be called.
    #[must_use]
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// What the next reply answers, if it is no push and its request was seen.
    #[must_use]
    pub fn answered(&self) -> Option<&Request> {
        let next = match self.executing {
            true => self.queued.front(),
            false => self.pending.front(),
        };
        next.map(|pending| &pending.request)
    }

    /// Requests that wait for their reply.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Whether the connection is occupied: by requests that wait, a transaction that was begun, or a subscription.
    #[must_use]
    pub fn is_occupied(&self) -> bool {
        !self.pending.is_empty() || !self.queued.is_empty() || self.subscribed.any()
    }

    /// Which stream the server sends from here on in place of replies.
    #[must_use]
    pub fn stream(&self) -> Option<Skipped> {
        self.stream
    }

    /// Pushes seen since the last call.
    pub fn take_pushes(&mut self) -> u64 {
        std::mem::take(&mut self.pushes)
    }

    /// Whether the next reply is EXEC's, whose elements answer the queued commands: it has to be unfolded.
    #[must_use]
    pub fn unfolds(&self) -> bool {
        !self.queued.is_empty()
            && !self.executing
            && self
                .pending
                .front()
                .is_some_and(|front| front.request.effect == Effect::EndMulti)
    }

    /// Takes a request in, whose first byte was sent with `call`. Answers whether it has ended with that.
    ///
    /// # Errors
    ///
    /// When more are outstanding than the budget allows, or when a reply had come for which there never was a request.
    /// The request is outstanding then, too: [`Self::give_up`] ends it.
    pub fn request(
        &mut self,
        request: Request,
        call: Call,
        now: Nanos,
        origin: Origin,
        out: &mut dyn FnMut(Exchange),
    ) -> Result<(), Resync> {
        let start = call.started;
        let mut trouble = match self.early.front() {
            // The server need not wait for a request's end to refuse it (`SERVER_ERROR object too large for cache`).
            Some((reply, time)) if reply.kind == ReplyKind::Error && *time >= start => Ok(()),
            _ => self.expire(now),
        };
        let answered = trouble.is_err() || self.reply_mode.answers(&request);
        if answered && self.pending.len() + self.queued.len() >= MAX_PENDING {
            trouble = Err(Resync::Budget);
        }
        let group = match request.effect {
            Effect::Replica | Effect::Replicate => None,
            effect => Some(self.groups.request(call, effect == Effect::Multi)),
        };
        if request.effect == Effect::EndMulti {
            self.groups.close();
        }
        self.hushed = !answered && self.protocol == Protocol::Redis;
        if !answered {
            if self.protocol == Protocol::Memcached && request.effect != Effect::Quit {
                self.doubt.muted();
            }
            if request.effect == Effect::Replicate {
                self.stream = Some(Skipped::Replication);
            }
            if let Some(group) = group {
                let ended = self.transaction(request, start, start, origin, Ending::NoReply);
                self.groups.ended(group, ended, out);
            }
            return Ok(());
        }
        let confirmations = match request.answer {
            Answer::Subscriptions(count) => count.max(1),
            Answer::One | Answer::None | Answer::Quiet(_) => 0,
        };
        let alone = self.pending.is_empty() && self.queued.is_empty();
        if self.pending.len() == 1 {
            self.pending[0].alone = false;
        }
        self.pending.push_back(Pending {
            request,
            start,
            origin,
            group,
            confirmations,
            doubtful: self.doubt.added(),
            alone,
        });
        self.quiets.added(&self.pending);
        // Only now, so that the request ends with the others when they are given up.
        trouble?;
        while !self.pending.is_empty()
            && let Some((reply, time)) = self.early.pop_front()
        {
            let left = self.early.len();
            self.groups.reply_begins(out);
            self.take(reply, time, out)?;
            if self.early.len() > left {
                // It still has no request, and stays the first.
                self.early.rotate_right(1);
                break;
            }
        }
        Ok(())
    }

    /// A reply byte has arrived.
    pub fn reply_begins(&mut self, out: &mut dyn FnMut(Exchange)) {
        self.groups.reply_begins(out);
    }

    /// Whether requests wait for their batch to be complete, or replies for requests reported late: [`Self::settle`] has to
    /// be called.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.groups.lingers() || self.quiets.waits()
    }

    /// Nothing more was sent for a while: what lingers is complete.
    pub fn settle(&mut self, now: Nanos, out: &mut dyn FnMut(Exchange)) {
        let fates = self.quiets.settle(&self.pending, now);
        self.told(fates, now, Ending::Unresolved, out);
        if self.groups.lingers() {
            self.groups.close();
            self.groups.deliver(out);
        }
    }

    /// The quiet requests outstanding.
    pub(super) fn quiets(&mut self) -> &mut Quiets {
        &mut self.quiets
    }

    /// Takes a reply in, and hands on what it completes.
    ///
    /// # Errors
    ///
    /// When it cannot be the reply of the request that waits.
    pub fn reply(
        &mut self,
        reply: Reply,
        time: Nanos,
        out: &mut dyn FnMut(Exchange),
    ) -> Result<(), Resync> {
        if !self.early.is_empty() && !self.pending.is_empty() {
            return self.hold(reply, time);
        }
        self.take(reply, time, out)
    }

    /// Keeps a reply whose request is not seen yet.
    fn hold(&mut self, reply: Reply, time: Nanos) -> Result<(), Resync> {
        if self.early.len() >= MAX_EARLY {
            return Err(Resync::Orphan);
        }
        self.early.push_back((reply, time));
        Ok(())
    }

    fn take(
        &mut self,
        reply: Reply,
        time: Nanos,
        out: &mut dyn FnMut(Exchange),
    ) -> Result<(), Resync> {
        if self.executing {
            return self.element(reply, time, out);
        }
        if self.is_push(&reply) {
            self.push(&reply, time, out);
            return Ok(());
        }
        if self.doubt.concerns(&reply, self.pending.is_empty()) {
            return Err(Resync::Mismatch);
        }
        if self.quiets.concern(self.pending.front()) {
            return self.place(reply, time, out);
        }
        let Some(front) = self.pending.front() else {
            // Silence was refused: what was taken to have no reply has one.
            let refused = self.hushed && reply.kind == ReplyKind::Error;
            self.hold(reply, time)?;
            return if refused { Err(Resync::Orphan) } else { Ok(()) };
        };
        let outcome = outcome(&front.request, &reply);
        if outcome.queued {
            let queued = self.next();
            self.queued.extend(queued);
            return Ok(());
        }
        if contradicts(self.protocol, &front.request, &reply, self.trusted) {
            return Err(Resync::Mismatch);
        }
        if let (Effect::Multi, Some(_), Some(group)) =
            (front.request.effect, outcome.error, front.group)
        {
            self.groups.refuse(group);
        }
        if front.request.effect == Effect::EndMulti && !self.queued.is_empty() {
            let elements = matches!(reply.kind, ReplyKind::Unfolded | ReplyKind::Aggregate);
            if elements && reply.elements != self.queued.len() as u64 {
                return Err(Resync::Mismatch);
            }
            match reply.kind {
                ReplyKind::Unfolded => {
                    self.executing = true;
                    return Ok(());
                }
                // It came before EXEC was reported, and was not unfolded: they ran, with what result is not known.
                ReplyKind::Aggregate => self.abandon(Ending::Unresolved, time, out),
                // DISCARD, a failed WATCH, EXECABORT.
                _ => self.abandon(Ending::NotExecuted, time, out),
            }
        }
        self.complete(outcome, time, out);
        Ok(())
    }

    /// Takes in a reply that may be a quiet request's.
    fn place(
        &mut self,
        reply: Reply,
        time: Nanos,
        out: &mut dyn FnMut(Exchange),
    ) -> Result<(), Resync> {
        match self.quiets.place(&self.pending, reply, time) {
            Placed::Later => {}
            Placed::Unseen(reply) => return self.hold(reply, time),
            Placed::Never => return Err(Resync::Mismatch),
            Placed::Budget => return Err(Resync::Budget),
            Placed::Told(fates) => self.told(fates, time, Ending::Unresolved, out),
        }
        Ok(())
    }

    /// What became of the first requests outstanding; `open` ends those of which nothing is told.
    fn told(&mut self, fates: Vec<Fate>, time: Nanos, open: Ending, out: &mut dyn FnMut(Exchange)) {
        for fate in fates {
            let Some(pending) = self.next() else { return };
            match fate {
                Fate::Answered(reply, time) => {
                    let outcome = outcome(&pending.request, &reply);
                    self.replied(pending, outcome, time, out);
                }
                Fate::Silent(silence) => {
                    let outcome = silent(&pending.request, silence);
                    self.ended(pending, Ending::NoReply, outcome, time, out);
                }
                Fate::Unknown => self.end(pending, Ending::Unresolved, time, out),
                Fate::Open => self.end(pending, open, time, out),
            }
        }
    }

    /// Takes the first request outstanding out.
    fn next(&mut self) -> Option<Pending> {
        let pending = self.pending.pop_front()?;
        if self.pending.is_empty() && self.pending.capacity() > MAX_IDLE {
            // A deep pipeline is over.
            self.shrink();
        }
        self.doubt.left(pending.doubtful);
        self.quiets.left(&pending);
        Some(pending)
    }

    /// Takes in an element of EXEC's reply.
    fn element(
        &mut self,
        reply: Reply,
        time: Nanos,
        out: &mut dyn FnMut(Exchange),
    ) -> Result<(), Resync> {
        // It stays outstanding until the reply is sure to be its own.
        let (protocol, trusted) = (self.protocol, self.trusted);
        let fits = |queued: &mut Pending| !contradicts(protocol, &queued.request, &reply, trusted);
        let Some(queued) = self.queued.pop_front_if(fits) else {
            return Err(Resync::Mismatch);
        };
        let outcome = outcome(&queued.request, &reply);
        self.replied(queued, outcome, time, out);
        if self.queued.is_empty() {
            self.executing = false;
            self.complete(Outcome::default(), time, out);
        }
        Ok(())
    }

    /// Looks whether a reply has waited for its request for too long.
    ///
    /// # Errors
    ///
    /// When one has: no request will come for it.
    pub fn expire(&self, now: Nanos) -> Result<(), Resync> {
        match self.early.front() {
            Some((_, time)) if now.saturating_sub(*time) > EARLY_HOLD => Err(Resync::Orphan),
            _ => Ok(()),
        }
    }

    /// Gives up what is outstanding: each request ends as `ending`, at `time`. Answers how many replies had no request.
    pub fn give_up(&mut self, ending: Ending, time: Nanos, out: &mut dyn FnMut(Exchange)) -> u64 {
        self.executing = false;
        self.abandon(ending, time, out);
        if ending == Ending::Unanswered {
            let fates = self.quiets.finish(&self.pending);
            self.told(fates, time, ending, out);
        }
        while let Some(pending) = self.next() {
            self.end(pending, ending, time, out);
        }
        self.quiets = Quiets::new(true);
        self.doubt = Doubt::default();
        self.groups.flush(out);
        let orphans = self.early.len() as u64;
        self.early.clear();
        orphans
    }

    /// What MULTI has queued ends as `ending`.
    fn abandon(&mut self, ending: Ending, time: Nanos, out: &mut dyn FnMut(Exchange)) {
        while let Some(queued) = self.queued.pop_front() {
            self.end(queued, ending, time, out);
        }
    }

    fn end(
        &mut self,
        pending: Pending,
        ending: Ending,
        time: Nanos,
        out: &mut dyn FnMut(Exchange),
    ) {
        let request = &pending.request;
        let ending = match (ending, request.effect, request.answer) {
            // The server may close at once, and the client need not wait for a reply. None need come to a quiet request.
            (Ending::Unanswered, Effect::Quit, _) | (Ending::Unanswered, _, Answer::Quiet(_)) => {
                Ending::NoReply
            }
            (ending, _, _) => ending,
        };
        self.ended(pending, ending, Outcome::default(), time, out);
    }

    fn ended(
        &mut self,
        pending: Pending,
        ending: Ending,
        outcome: Outcome,
        time: Nanos,
        out: &mut dyn FnMut(Exchange),
    ) {
        let Some(group) = pending.group else {
            return;
        };
        let end = time.max(pending.start);
        let mut ended =
            self.transaction(pending.request, pending.start, end, pending.origin, ending);
        ended.outcome = outcome;
        ended.alone = pending.alone;
        self.groups.ended(group, ended, out);
    }

    /// Whether a reply is out of turn, or a confirmation of a subscription.
    pub(super) fn is_push(&self, reply: &Reply) -> bool {
        let subscription = |pending: &Pending| pending.confirmations > 0;
        match reply.kind {
            ReplyKind::Push => true,
            // RESP2 has no push type; while subscribed, these words begin nothing else.
            ReplyKind::Aggregate if !self.resp3 => {
                (self.subscribed.any() || self.pending.front().is_some_and(subscription))
                    && (is_message(reply) || is_confirmation(reply))
            }
            _ => false,
        }
    }

    fn push(&mut self, reply: &Reply, time: Nanos, out: &mut dyn FnMut(Exchange)) {
        self.resp3 |= reply.kind == ReplyKind::Push;
        if is_confirmation(reply) {
            self.subscribed.confirm(reply);
        }
        let confirmed = self.pending.front_mut().filter(|front| {
            front.confirmations > 0 && front.request.operation.name() == reply.word.as_str()
        });
        let Some(front) = confirmed else {
            self.pushes += 1;
            return;
        };
        front.confirmations -= 1;
        if front.confirmations == 0 {
            self.complete(Outcome::default(), time, out);
        }
    }

    /// The request at the front has its reply.
    fn complete(&mut self, outcome: Outcome, time: Nanos, out: &mut dyn FnMut(Exchange)) {
        if let Some(front) = self.next() {
            self.replied(front, outcome, time, out);
        }
    }

    fn replied(
        &mut self,
        mut pending: Pending,
        outcome: Outcome,
        time: Nanos,
        out: &mut dyn FnMut(Exchange),
    ) {
        self.apply(&mut pending.request, &outcome);
        self.ended(pending, Ending::Replied, outcome, time, out);
    }
}
