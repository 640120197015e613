//! Pairs replies with requests: first in, first out, with the exceptions that the protocols make.
//!
//! Both protocols answer in order. The exceptions are requests without an answer (noreply, CLIENT REPLY), requests with
//! several (SUBSCRIBE), and answers without a request (pushes).

use std::collections::VecDeque;

use super::{Ending, Transaction};
use crate::protocol::{
    Answer, Effect, HitRule, Operation, Outcome, Protocol, Reply, ReplyKind, Request, outcome,
};
use crate::source::event::{Nanos, Task};
use crate::telemetry::Resync;

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
    subscribed: bool,
    streaming: bool,
    /// SELECT was queued by MULTI: whether it takes effect is told inside EXEC's reply only.
    select_queued: bool,
    /// Pushes seen.
    pushes: u64,
}

impl Matcher {
    /// A connection seen `from_start`, or joined.
    #[must_use]
    pub fn new(protocol: Protocol, from_start: bool) -> Self {
        Self {
            protocol,
            pending: VecDeque::new(),
            early: VecDeque::new(),
            // Redis starts every connection in database 0 (`initClient`: selectDb(c,0)).
            database: (from_start && protocol == Protocol::Redis).then_some(0),
            reply_mode: ReplyMode::On,
            subscribed: false,
            streaming: false,
            select_queued: false,
            pushes: 0,
        }
    }

    /// Whether every request is answered and no reply waits for a request.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.pending.is_empty() && self.early.is_empty()
    }

    /// Whether replies wait for their request: [`Self::expire`] has to be called.
    #[must_use]
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Whether what the server sends from here on is a stream, not replies.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// Pushes seen since the last call.
    pub fn take_pushes(&mut self) -> u64 {
        std::mem::take(&mut self.pushes)
    }

    /// Takes a request in. Answers the transaction when it is complete already.
    ///
    /// # Errors
    ///
    /// When more are outstanding than the budget allows, or when a reply had come for which there never was a request.
    /// The request is outstanding then, too: [`Self::give_up`] ends it.
    pub fn request(
        &mut self,
        request: Request,
        start: Nanos,
        now: Nanos,
        task: Option<Task>,
    ) -> Result<Option<Transaction>, Resync> {
        let mut trouble = self.expire(now);
        if trouble.is_ok() && !self.is_answered(&request) {
            return Ok(Some(self.ended(
                request,
                start,
                start,
                task,
                Ending::NoReply,
            )));
        }
        if self.pending.len() >= MAX_PENDING {
            trouble = Err(Resync::Budget);
        }
        let confirmations = match request.answer {
            Answer::Subscriptions(count) => {
                self.subscribed = true;
                count.max(1)
            }
            Answer::One | Answer::None => 0,
        };
        self.pending.push_back(Pending {
            request,
            start,
            task,
            confirmations,
        });
        // Only now, so that the request ends with the others when they are given up.
        trouble?;
        match self.early.pop_front() {
            Some((reply, time)) => self.reply(reply, time),
            None => Ok(None),
        }
    }

    /// Takes a reply in. Answers the transaction that it completes, if any.
    ///
    /// # Errors
    ///
    /// When it cannot be the reply of the request that waits.
    pub fn reply(&mut self, reply: Reply, time: Nanos) -> Result<Option<Transaction>, Resync> {
        if self.is_push(&reply) {
            return Ok(self.push(&reply, time));
        }
        let Some(front) = self.pending.front() else {
            if self.early.len() >= MAX_EARLY {
                return Err(Resync::Orphan);
            }
            self.early.push_back((reply, time));
            return Ok(None);
        };
        let outcome = outcome(&front.request, &reply);
        if !outcome.queued && contradicts(&front.request, &reply) {
            return Err(Resync::Mismatch);
        }
        Ok(self.complete(outcome, time))
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
    pub fn give_up(
        &mut self,
        ending: Ending,
        time: Nanos,
        out: &mut dyn FnMut(Transaction),
    ) -> u64 {
        while let Some(pending) = self.pending.pop_front() {
            let end = time.max(pending.start);
            let ended = self.ended(pending.request, pending.start, end, pending.task, ending);
            out(ended);
        }
        let orphans = self.early.len() as u64;
        self.early.clear();
        orphans
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
            ReplyKind::Aggregate => {
                (self.subscribed || self.pending.front().is_some_and(subscription))
                    && (is_message(reply) || is_confirmation(reply))
            }
            _ => false,
        }
    }

    fn push(&mut self, reply: &Reply, time: Nanos) -> Option<Transaction> {
        let confirms = self.pending.front().is_some_and(|front| {
            front.confirmations > 0 && front.request.operation.name() == reply.word.as_str()
        });
        if !confirms {
            self.pushes += 1;
            return None;
        }
        let front = self.pending.front_mut()?;
        front.confirmations -= 1;
        if front.confirmations > 0 {
            return None;
        }
        self.complete(Outcome::default(), time)
    }

    fn complete(&mut self, outcome: Outcome, time: Nanos) -> Option<Transaction> {
        let Pending {
            request,
            start,
            task,
            ..
        } = self.pending.pop_front()?;
        self.apply(&request, &outcome);
        let mut transaction = self.ended(request, start, time.max(start), task, Ending::Replied);
        transaction.outcome = outcome;
        Some(transaction)
    }

    /// What a reply says of the connection's state.
    fn apply(&mut self, request: &Request, outcome: &Outcome) {
        if outcome.queued {
            self.select_queued |= matches!(request.effect, Effect::Select(_));
            return;
        }
        if outcome.error.is_some() {
            return;
        }
        match request.effect {
            Effect::Select(database) => self.database = Some(database),
            Effect::Reset => {
                self.database = Some(0);
                self.reply_mode = ReplyMode::On;
                self.subscribed = false;
                self.select_queued = false;
            }
            Effect::EndMulti if self.select_queued => {
                self.select_queued = false;
                self.database = None;
            }
            Effect::Stream => self.streaming = true,
            _ => {}
        }
    }

    fn ended(
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
            task,
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

/// Whether a reply certainly is not that request's: the pairing is off. Only commands that the table knows are judged.
fn contradicts(request: &Request, reply: &Reply) -> bool {
    if reply.kind == ReplyKind::Error || matches!(request.operation, Operation::Other(_)) {
        return false;
    }
    match request.hit_rule {
        HitRule::NullElements { asked } | HitRule::ZeroElements { asked } => {
            reply.kind != ReplyKind::Null
                && (reply.kind != ReplyKind::Aggregate || reply.elements != u64::from(asked))
        }
        HitRule::Count { .. } | HitRule::MinusTwo => reply.kind != ReplyKind::Integer,
        HitRule::Values { asked } => {
            reply.kind != ReplyKind::Aggregate || reply.elements > u64::from(asked)
        }
        HitRule::None | HitRule::Null | HitRule::Empty | HitRule::Found => false,
    }
}
