//! Which server's ends have their client's end on this host.

use std::hash::Hasher as _;
use std::net::IpAddr;

use rustc_hash::FxHasher;

use super::pieces::Whole;
use super::{Datagrams, GRACE, Handler, MAX_REMEMBERED, MAX_SEEN};
use crate::source::event::{End, Nanos};
use crate::stream::flows::Verdict;

/// What tells a request from others at both of its ends: client's port, server's port, id, length, and what was captured
/// of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Request {
    ports: (u16, u16),
    id: u16,
    length: u32,
    hash: u64,
}

impl<P, E> Datagrams<P, E> {
    /// Notes a client's request, and decides a server's end whose client's end is on this host.
    pub(super) fn pair<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        index: usize,
        id: u16,
        whole: &Whole<'_>,
        handler: &mut H,
    ) {
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        let (client, server) = (slot.pair.client(), slot.pair.server());
        let mut hasher = FxHasher::default();
        hasher.write(whole.payload);
        let request = Request {
            ports: (client.port(), server.port()),
            id,
            length: whole.total as u32,
            hash: hasher.finish(),
        };
        match slot.pair.end {
            End::Client => {
                let addresses = (client.ip(), server.ip());
                if self.sent_at.len() < MAX_REMEMBERED
                    && self.sent.insert(request, addresses).is_none()
                {
                    self.sent_at.push_back((whole.time, request));
                }
            }
            End::Server if slot.verdict == Verdict::Undecided => {
                if slot.seen.len() < MAX_SEEN {
                    slot.seen.push(request);
                }
                if self.is_paired(index) {
                    self.decide(index, whole.time, handler);
                }
            }
            End::Server => {}
        }
    }

    /// Whether a client on this host has sent what this server's end has received: the same bytes between the same ports,
    /// from and to addresses that do not contradict.
    pub(super) fn is_paired(&self, index: usize) -> bool {
        let Some(slot) = &self.slots[index] else {
            return false;
        };
        let same = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() || b.is_unspecified();
        slot.seen.iter().any(|request| {
            self.sent.get(request).is_some_and(|(client, server)| {
                same(*client, slot.pair.client().ip()) && same(*server, slot.pair.server().ip())
            })
        })
    }

    /// Answers whether it is still not decided.
    pub(super) fn decide<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        index: usize,
        now: Nanos,
        handler: &mut H,
    ) -> bool {
        let paired = self.is_paired(index);
        let Some(slot) = self.slots[index].as_mut() else {
            return false;
        };
        if slot.verdict != Verdict::Undecided {
            return false;
        }
        slot.verdict = match paired {
            true => Verdict::Redundant,
            false if now.saturating_sub(slot.since) >= GRACE => Verdict::Reported,
            false => return true,
        };
        for exchange in std::mem::take(&mut slot.ended) {
            handler.end(&mut slot.peer, exchange, !paired, now);
        }
        slot.seen = Vec::new();
        false
    }
}
