//! Pairs replies with requests: first in, first out, with the exceptions that the protocols make.
//!
//! Both protocols answer in order. The exceptions are requests without an answer (noreply, CLIENT REPLY), requests with
//! several (SUBSCRIBE), and answers without a request (pushes).

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::{Call, GroupId, Groups};
use super::{Ending, Exchange, Transaction};
use crate::protocol::{
    Answer, Client, Effect, HitRule, Operation, Outcome, Protocol, Reply, ReplyKind, Request,
    outcome,
};
use crate::source::event::{Nanos, Task};
use crate::telemetry::{Resync, Skipped};

/// Most requests outstanding on one connection. Deeper pipelines exist only in bulk loading; a `Pending` takes some
/// 300 bytes, so that this bounds a connection to 20 MB.
pub const MAX_PENDING: usize = 65_536;
/// Most replies held that came before their request.
pub const MAX_EARLY: usize = 4_096;
/// How long such a reply is held, nanoseconds. Where one thread sends and another receives, the reply can be
/// reported before the request: by the time between the kernel's send and its hook, microseconds unless preempted.
pub const EARLY_HOLD: Nanos = 20_000_000;

#[derive(Debug)]
struct Pending {
    request: Request,
    start: Nanos,
    task: Option<Task>,
    /// `None` for a replica's: it is not handed on.
    group: Option<GroupId>,
    /// Confirmations still to come ([`Answer::Subscriptions`]).
    confirmations: u32,
}

/// Whether the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplyMode {
    On,
    /// Not the next request, then on.
    SkipNext,
    Off,
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
        }
    }

    /// Whether every request is answered and no reply waits for a request.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.pending.is_empty() && self.queued.is_empty() && self.early.is_empty()
    }

    /// Whether requests wait for their replies.
    #[must_use]
    pub fn awaits_reply(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The boundary that this began with is proven.
    pub fn trust(&mut self) {
        self.trusted = true;
    }

    /// Whether replies wait for their request: [`Self::expire`] has to be called.
    #[must_use]
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
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
        task: Option<Task>,
        out: &mut dyn FnMut(Exchange),
    ) -> Result<(), Resync> {
        let mut trouble = self.expire(now);
        let start = call.started;
        let answered = trouble.is_err() || self.is_answered(&request);
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
            if request.effect == Effect::Replicate {
                self.stream = Some(Skipped::Replication);
            }
            if let Some(group) = group {
                let ended = self.transaction(request, start, start, task, Ending::NoReply);
                self.groups.ended(group, ended, out);
            }
            return Ok(());
        }
        let confirmations = match request.answer {
            Answer::Subscriptions(count) => count.max(1),
            Answer::One | Answer::None | Answer::Quiet(_) => 0,
        };
        self.pending.push_back(Pending {
            request,
            start,
            task,
            group,
            confirmations,
        });
        // Only now, so that the request ends with the others when they are given up.
        trouble?;
        match self.early.pop_front() {
            Some((reply, time)) => {
                self.groups.reply_begins(out);
                self.reply(reply, time, out)
            }
            None => Ok(()),
        }
    }

    /// A reply byte has arrived.
    pub fn reply_begins(&mut self, out: &mut dyn FnMut(Exchange)) {
        self.groups.reply_begins(out);
    }

    /// Whether requests without a reply wait for their batch to be complete: [`Self::settle`] has to be called.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.groups.lingers()
    }

    /// Nothing more was sent for a while: what lingers is complete.
    pub fn settle(&mut self, out: &mut dyn FnMut(Exchange)) {
        if self.groups.lingers() {
            self.groups.close();
            self.groups.deliver(out);
        }
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
        if self.executing {
            return self.element(reply, time, out);
        }
        if self.is_push(&reply) {
            self.push(&reply, time, out);
            return Ok(());
        }
        let Some(front) = self.pending.front() else {
            if self.early.len() >= MAX_EARLY {
                return Err(Resync::Orphan);
            }
            self.early.push_back((reply, time));
            // Silence was refused: what was taken to have no reply has one.
            let refused = self.hushed && reply.kind == ReplyKind::Error;
            return if refused { Err(Resync::Orphan) } else { Ok(()) };
        };
        let outcome = outcome(&front.request, &reply);
        if outcome.queued {
            self.queued.extend(self.pending.pop_front());
            return Ok(());
        }
        if contradicts(&front.request, &reply, self.trusted) {
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

    /// Takes in an element of EXEC's reply.
    fn element(
        &mut self,
        reply: Reply,
        time: Nanos,
        out: &mut dyn FnMut(Exchange),
    ) -> Result<(), Resync> {
        // It stays outstanding until the reply is sure to be its own.
        let trusted = self.trusted;
        let Some(queued) = self
            .queued
            .pop_front_if(|queued| !contradicts(&queued.request, &reply, trusted))
        else {
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
        while let Some(pending) = self.pending.pop_front() {
            self.end(pending, ending, time, out);
        }
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
        let Some(group) = pending.group else {
            return;
        };
        let ending = match (ending, pending.request.effect) {
            // The server may close at once, and the client need not wait for a reply.
            (Ending::Unanswered, Effect::Quit) => Ending::NoReply,
            (ending, _) => ending,
        };
        let end = time.max(pending.start);
        let ended = self.transaction(pending.request, pending.start, end, pending.task, ending);
        self.groups.ended(group, ended, out);
    }

    /// Whether the server will answer, given what the client has asked of it.
    fn is_answered(&mut self, request: &Request) -> bool {
        match request.effect {
            Effect::ReplyOn => {
                self.reply_mode = ReplyMode::On;
                return true;
            }
            Effect::ReplyOff => {
                self.reply_mode = ReplyMode::Off;
                return false;
            }
            Effect::ReplySkip if self.reply_mode != ReplyMode::Off => {
                self.reply_mode = ReplyMode::SkipNext;
                return false;
            }
            _ => {}
        }
        match self.reply_mode {
            ReplyMode::On => request.answer != Answer::None,
            ReplyMode::SkipNext => {
                self.reply_mode = ReplyMode::On;
                false
            }
            ReplyMode::Off => false,
        }
    }

    /// Whether a reply is out of turn, or a confirmation of a subscription.
    fn is_push(&self, reply: &Reply) -> bool {
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
        if let Some(front) = self.pending.pop_front() {
            self.replied(front, outcome, time, out);
        }
    }

    fn replied(
        &mut self,
        pending: Pending,
        outcome: Outcome,
        time: Nanos,
        out: &mut dyn FnMut(Exchange),
    ) {
        let Pending {
            mut request,
            start,
            task,
            group,
            ..
        } = pending;
        self.apply(&mut request, &outcome);
        let Some(group) = group else {
            return;
        };
        let mut transaction =
            self.transaction(request, start, time.max(start), task, Ending::Replied);
        transaction.outcome = outcome;
        self.groups.ended(group, transaction, out);
    }

    /// What a reply says of the connection's state.
    fn apply(&mut self, request: &mut Request, outcome: &Outcome) {
        let refused = outcome.error.is_some();
        if let Some(said) = request
            .detail
            .as_mut()
            .and_then(|detail| detail.client.take())
        {
            self.introduce(*said, refused);
        }
        if refused {
            return;
        }
        match request.effect {
            Effect::Select(database) => self.database = Some(database),
            Effect::Hello(Some(version)) => self.resp3 = version >= 3,
            Effect::Reset => {
                self.database = Some(0);
                self.reply_mode = ReplyMode::On;
                self.subscribed = Subscribed::default();
                self.resp3 = false;
                let forget = Client {
                    user: Some(String::new()),
                    name: Some(String::new()),
                    ..Client::default()
                };
                self.introduce(forget, false);
            }
            Effect::Stream => self.stream = Some(Skipped::Stream),
            Effect::Replicate => self.stream = Some(Skipped::Replication),
            _ => {}
        }
    }

    /// Takes over what the client has said. Its library is what it says it is also where the server does not know the
    /// command (before 7.2); its user and name are not.
    fn introduce(&mut self, said: Client, refused: bool) {
        fn take(known: &mut Option<String>, said: Option<String>) {
            if let Some(said) = said {
                *known = Some(said).filter(|said| !said.is_empty());
            }
        }
        let mut client = self.client.as_deref().cloned().unwrap_or_default();
        if !refused {
            take(&mut client.user, said.user);
            take(&mut client.name, said.name);
        }
        take(&mut client.library, said.library);
        take(&mut client.library_version, said.library_version);
        self.client = (client != Client::default()).then(|| Arc::new(client));
    }

    fn transaction(
        &self,
        request: Request,
        start: Nanos,
        end: Nanos,
        task: Option<Task>,
        ending: Ending,
    ) -> Transaction {
        Transaction {
            protocol: self.protocol,
            request,
            outcome: Outcome::default(),
            ending,
            start,
            end,
            database: self.database,
            client: self.client.clone(),
            task,
        }
    }
}

/// What a RESP2 connection is subscribed to: the server counts channels and patterns together, shard channels apart
/// (`redis/src/pubsub.c`, `addReplyPubsubSubscribed`).
#[derive(Debug, Clone, Copy, Default)]
struct Subscribed {
    channels: bool,
    shards: bool,
}

impl Subscribed {
    fn any(self) -> bool {
        self.channels || self.shards
    }

    /// A confirmation ends with the number of subscriptions left.
    fn confirm(&mut self, confirmation: &Reply) {
        let left = confirmation.zeros == 0;
        match confirmation.word.as_str() {
            "SSUBSCRIBE" | "SUNSUBSCRIBE" => self.shards = left,
            _ => self.channels = left,
        }
    }
}

fn is_message(reply: &Reply) -> bool {
    matches!(reply.word.as_str(), "MESSAGE" | "PMESSAGE" | "SMESSAGE")
}

fn is_confirmation(reply: &Reply) -> bool {
    matches!(
        reply.word.as_str(),
        "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE"
    )
}

/// Whether a reply certainly is not that request's: the pairing is off. Only commands that the table knows are judged. As
/// long as the boundary is not `trusted`, a status does not answer a read either: it may answer the write whose value
/// looks like that read.
fn contradicts(request: &Request, reply: &Reply, trusted: bool) -> bool {
    if reply.kind == ReplyKind::Error || matches!(request.operation, Operation::Other(_)) {
        return false;
    }
    match request.hit_rule {
        HitRule::NullElements { asked } | HitRule::ZeroElements { asked } => {
            reply.kind != ReplyKind::Null
                && (reply.kind != ReplyKind::Aggregate || reply.elements != u64::from(asked))
        }
        HitRule::Count { .. } | HitRule::MinusTwo => reply.kind != ReplyKind::Integer,
        HitRule::Type => reply.kind != ReplyKind::Simple,
        HitRule::Values { asked } => {
            reply.kind != ReplyKind::Aggregate || reply.elements > u64::from(asked)
        }
        HitRule::Null | HitRule::Empty => !trusted && reply.kind == ReplyKind::Simple,
        HitRule::None | HitRule::Found => false,
    }
}
