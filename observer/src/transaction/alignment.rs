//! Whether replies can be those of earlier requests than the ones they are given to.
//!
//! A client that always has a number of requests under way, and sends another for each reply, looks drained after every reply to
//! whoever joined in between: each request is given the reply that belongs to one so many places before. If it were so, each
//! reply would fit the request that many places before its own. A number is refuted by a reply that does not fit there, and a boundary
//! is proven when all numbers are.
//!
//! Where all commands are alike nothing is refuted, and nothing proven: only a silence tells then.

use std::collections::VecDeque;

use crate::protocol::reply::contradicts;
use crate::protocol::{Answer, Effect, Protocol, Reply, Request, outcome};

/// Most requests that a client is expected to have under way all the time.
const MAX_UNDER_WAY: usize = 64;
/// Replies looked at. A connection needs 30 KiB for them.
const MAX_PAIRS: usize = 96;

/// The last requests of a connection and the replies they were given.
#[derive(Debug, Default)]
pub(super) struct Alignment {
    pairs: VecDeque<(Request, Reply)>,
    /// Replies since it was last looked whether all is refuted.
    fresh: usize,
}

impl Alignment {
    /// A reply was given to a request.
    pub(super) fn note(&mut self, request: &Request, reply: &Reply) {
        let queued = outcome(request, reply).queued;
        if queued || request.answer != Answer::One || request.effect != Effect::None {
            // Not one reply for one request: places do not tell any more.
            self.pairs.clear();
            return;
        }
        if self.pairs.len() == MAX_PAIRS {
            self.pairs.pop_front();
        }
        let request = Request {
            operation: request.operation,
            detail: None,
            ..*request
        };
        self.pairs.push_back((request, reply.clone()));
        self.fresh += 1;
    }

    /// Bytes held on the heap.
    pub(super) fn memory(&self) -> usize {
        self.pairs.capacity() * size_of::<(Request, Reply)>()
    }

    /// Whether every number of requests under way is refuted. Looks once for so many replies as it compares.
    pub(super) fn is_proven(&mut self, protocol: Protocol) -> bool {
        if self.fresh < MAX_PAIRS || self.pairs.len() < MAX_PAIRS {
            return false;
        }
        self.fresh = 0;
        let pairs = self.pairs.make_contiguous();
        (1..=MAX_UNDER_WAY).all(|number| {
            let requests = pairs.iter().map(|(request, _)| request);
            let replies = pairs[number..].iter().map(|(_, reply)| reply);
            requests
                .zip(replies)
                .any(|(request, reply)| contradicts(protocol, request, reply, false))
        })
    }
}
