//! Requests and replies of the same id.

use std::collections::BTreeMap;

use super::{
    Datagrams, Due, EARLY_HOLD, Entry, HEAD, Handler, Held, Live, MAX_HELD, MAX_LIVE,
    MAX_REMEMBERED, MAX_UNDECIDED, State, TIMEOUT, bytes, orphaned,
};
use crate::source::event::Nanos;
use crate::stream::flows::Verdict;
use crate::stream::{Content, Segment, Side};
use crate::telemetry::{Limit, Lost, Skipped, Telemetry};

impl<P, E> Datagrams<P, E> {
    pub(super) fn request<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        index: usize,
        id: u16,
        request: &Held,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        let now = request.time;
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        if slot.verdict == Verdict::Redundant {
            telemetry.skipped(Skipped::Redundant).add(request.total());
            return;
        }
        let mut early = Vec::new();
        let mut suspect_until = 0;
        if let Some(old) = slot.entries.remove(&id) {
            suspect_until = old.suspect_until;
            match old.state {
                State::Over => {}
                State::Early(replies) => {
                    self.held -= bytes(replies.iter());
                    if now.saturating_sub(old.began) <= EARLY_HOLD {
                        early = replies;
                    } else {
                        orphaned(&replies, telemetry);
                    }
                }
                State::Live(live) => {
                    suspect_until = suspect_until.max(old.began.saturating_add(TIMEOUT));
                    self.hand_on(index, *live, now, handler, telemetry);
                }
            }
        }
        while self.live >= MAX_LIVE || self.due.len() >= MAX_REMEMBERED {
            if !self.expire_first(now, handler, telemetry, true) {
                break;
            }
        }
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        let mut live = Live {
            exchange: handler.begin(&slot.pair),
            suspect: now < suspect_until,
            count: 0,
            next: 0,
            held: BTreeMap::new(),
        };
        self.live += 1;
        let complete = deliver(
            handler,
            &mut slot.peer,
            &mut live.exchange,
            Side::Request,
            request,
            telemetry,
        );
        let state = State::Live(Box::new(live));
        self.remember(index, id, now, suspect_until, state);
        if complete {
            self.complete(index, id, now, handler, telemetry);
        }
        for reply in early {
            self.reply(index, id, reply, handler, telemetry);
        }
    }

    pub(super) fn reply<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        index: usize,
        id: u16,
        reply: Held,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        let now = reply.time;
        let (length, total) = (reply.body.len(), reply.total());
        let skip = |reason| telemetry.skipped(reason).add(total);
        let budget = self.held + length <= MAX_HELD;
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        let Some(entry) = slot.entries.get_mut(&id) else {
            if budget {
                self.held += length;
                self.remember(index, id, now, 0, State::Early(vec![reply]));
            } else {
                skip(Skipped::Budget);
            }
            return;
        };
        let live = match &mut entry.state {
            State::Over => return skip(Skipped::Duplicate),
            State::Early(replies) => {
                if budget {
                    self.held += length;
                    replies.push(reply);
                } else {
                    skip(Skipped::Budget);
                }
                return;
            }
            State::Live(live) => live,
        };
        if live.suspect {
            skip(Skipped::Race);
            return self.complete(index, id, now, handler, telemetry);
        }
        if live.count == 0 {
            (live.count, live.next) = (reply.count, 0);
        }
        if live.count != reply.count {
            // Two replies in one another: which datagram belongs to which is not known.
            skip(Skipped::Race);
            return self.complete(index, id, now, handler, telemetry);
        }
        if reply.sequence < live.next || live.held.contains_key(&reply.sequence) {
            return skip(Skipped::Duplicate);
        }
        if reply.sequence > live.next {
            if budget {
                self.held += length;
                live.held.insert(reply.sequence, reply);
            } else {
                skip(Skipped::Budget);
            }
            return;
        }
        let mut complete = false;
        let mut next = Some(reply);
        while let Some(reply) = next {
            complete |= deliver(
                handler,
                &mut slot.peer,
                &mut live.exchange,
                Side::Reply,
                &reply,
                telemetry,
            );
            live.next += 1;
            next = live.held.remove(&live.next);
            self.held -= next.as_ref().map_or(0, |held| held.body.len());
        }
        if live.next == live.count {
            live.count = 0;
        }
        if complete {
            self.complete(index, id, now, handler, telemetry);
        }
    }

    /// Ends a live exchange, and remembers that it was.
    pub(super) fn complete<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        index: usize,
        id: u16,
        now: Nanos,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        let entry = self.slots[index]
            .as_mut()
            .and_then(|slot| slot.entries.get_mut(&id));
        if let Some(entry) = entry
            && let State::Live(live) = std::mem::replace(&mut entry.state, State::Over)
        {
            self.hand_on(index, *live, now, handler, telemetry);
        }
    }

    /// Hands an exchange on, or keeps it until its endpoints are decided.
    pub(super) fn hand_on<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        index: usize,
        live: Live<E>,
        now: Nanos,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        self.live -= 1;
        self.held -= bytes(live.held.values());
        let rest = live.held.values().map(Held::total).sum();
        telemetry.skipped(Skipped::Partial).add(rest);
        if live.count > 0 && !live.suspect {
            let arrived = usize::from(live.next) + live.held.len();
            let lost = usize::from(live.count).saturating_sub(arrived);
            telemetry.lost(Lost::Datagram).add(lost as u64);
        }
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        if slot.verdict == Verdict::Undecided && slot.ended.len() < MAX_UNDECIDED {
            slot.ended.push(live.exchange);
        } else {
            let reported = slot.verdict != Verdict::Redundant;
            handler.end(&mut slot.peer, live.exchange, reported, now);
        }
    }

    pub(super) fn remember(
        &mut self,
        index: usize,
        id: u16,
        began: Nanos,
        suspect_until: Nanos,
        state: State<E>,
    ) {
        self.serial += 1;
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        slot.entries.insert(
            id,
            Entry {
                serial: self.serial,
                began,
                suspect_until,
                state,
            },
        );
        self.due.push_back(Due {
            at: began.saturating_add(TIMEOUT),
            index,
            slot: slot.serial,
            id,
            entry: self.serial,
        });
    }

    /// Forgets the exchange that began first, if its time has come, or if room is needed. Answers whether there was one.
    pub(super) fn expire_first<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        now: Nanos,
        handler: &mut H,
        telemetry: &Telemetry,
        room: bool,
    ) -> bool {
        if !self.due.front().is_some_and(|due| room || due.at <= now) {
            return false;
        }
        let Some(due) = self.due.pop_front() else {
            return false;
        };
        let Some(slot) = self.slots[due.index]
            .as_mut()
            .filter(|slot| slot.serial == due.slot)
        else {
            return true;
        };
        if slot
            .entries
            .get(&due.id)
            .is_none_or(|entry| entry.serial != due.entry)
        {
            return true;
        }
        match slot.entries.remove(&due.id).map(|entry| entry.state) {
            Some(State::Live(live)) => {
                if room && due.at > now {
                    telemetry.exceeded(Limit::DatagramPairs).add(1);
                }
                self.hand_on(due.index, *live, now, handler, telemetry);
            }
            Some(State::Early(replies)) => {
                self.held -= bytes(replies.iter());
                orphaned(&replies, telemetry);
            }
            Some(State::Over) | None => {}
        }
        true
    }
}

/// Hands on what a datagram holds behind its header.
fn deliver<H: Handler>(
    handler: &mut H,
    peer: &mut H::Peer,
    exchange: &mut H::Exchange,
    side: Side,
    datagram: &Held,
    telemetry: &Telemetry,
) -> bool {
    telemetry.ledger.decoded.add_alone(HEAD as u64);
    let segment = |content, call_start| Segment {
        side,
        started: datagram.started,
        time: datagram.time,
        task: datagram.task.as_ref(),
        call_start,
        position: 0,
        content,
    };
    let mut complete = false;
    if !datagram.body.is_empty() {
        let bytes = segment(Content::Bytes(&datagram.body), true);
        complete = handler.segment(peer, exchange, &bytes);
    }
    if let Some((length, reason)) = datagram.missing {
        let gap = Content::Gap { length, reason };
        complete = handler.segment(peer, exchange, &segment(gap, datagram.body.is_empty()));
    }
    complete
}
