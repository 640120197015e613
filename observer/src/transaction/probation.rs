//! A boundary that is likely and not proven: what is paired from it on is withheld until it is.

use super::alignment::Alignment;
use super::matcher::Matcher;
use super::{Ending, Exchange};
use crate::protocol::{Protocol, Reply};
use crate::source::event::Nanos;
use crate::telemetry::Resync;

/// A drained connection on which nothing comes for this long, nanoseconds, has nothing outstanding: caches answer within it.
pub(super) const QUIET: Nanos = 10_000_000;
/// So often drained, a connection is taken to be never quiet: what it says is compared.
const PROOFS: u32 = 64;
/// Most transactions withheld; a connection that is not proven by then is refuted.
const MAX_WITHHELD: usize = 16_384;

/// A boundary that is not proven yet.
#[derive(Debug, Default)]
pub(super) struct Probation {
    /// Position of the first request.
    begin: u32,
    withheld: Vec<Exchange>,
    /// Transactions in it.
    count: usize,
    drained: Option<Nanos>,
    proofs: u32,
    /// Of a connection that is never quiet.
    alignment: Alignment,
    /// [`Quiets::taints`](super::quiet::Quiets::taints) when last looked at.
    taints: u32,
}

/// What was taken for requests, and may be none.
pub(super) struct Forgotten {
    /// Bytes in which they were.
    pub(super) bytes: u64,
    pub(super) requests: u64,
    /// Replies that they had been given.
    pub(super) replies: u64,
    /// Bytes of detail that they hold.
    pub(super) details: usize,
}

impl Probation {
    /// A boundary at this position.
    pub(super) fn new(begin: u32) -> Self {
        Self {
            begin,
            ..Self::default()
        }
    }

    /// It is not known whether there was a request at all: forgets them. They end before `end`.
    pub(super) fn forget(self, end: u32) -> Forgotten {
        let transactions = || self.withheld.iter().flat_map(Exchange::transactions);
        let replied = transactions().filter(|one| one.ending == Ending::Replied);
        Forgotten {
            bytes: end.wrapping_sub(self.begin).into(),
            requests: transactions().count() as u64,
            replies: replied.count() as u64,
            details: self.withheld.iter().map(Exchange::detail_memory).sum(),
        }
    }

    /// Keeps what was paired.
    pub(super) fn withhold(&mut self, exchange: Exchange) {
        self.count += exchange.transactions().len();
        self.withheld.push(exchange);
    }

    /// Bytes held on the heap, without the details of requests.
    pub(super) fn memory(&self) -> usize {
        self.withheld.capacity() * size_of::<Exchange>() + self.alignment.memory()
    }

    /// Whether nothing is withheld.
    pub(super) fn is_empty(&self) -> bool {
        self.withheld.is_empty()
    }

    /// Whether the connection was drained when it was last looked at.
    pub(super) fn is_drained(&self) -> bool {
        self.drained.is_some()
    }

    /// A reply is about to be given to the request that it answers.
    pub(super) fn note(&mut self, matcher: &Matcher, reply: &Reply) {
        if self.proofs >= PROOFS
            && !matcher.is_push(reply)
            && let Some(request) = matcher.answered()
        {
            self.alignment.note(request, reply);
        }
    }

    /// Looks whether the connection is drained, after a request or reply at `now`.
    ///
    /// # Errors
    ///
    /// When too much is withheld.
    pub(super) fn look(&mut self, matcher: &Matcher, now: Nanos) -> Result<(), Resync> {
        if self.count > MAX_WITHHELD {
            return Err(Resync::Budget);
        }
        let drained = matcher.is_drained() && !self.withheld.is_empty();
        self.drained = drained.then_some(now);
        Ok(())
    }

    /// A request begins at `now`. Whether that proves the boundary: nothing extra came since the connection was drained,
    /// for long; or again and again, and no reply can be that of an earlier request. `taints`: how often that would have shown
    /// nothing.
    pub(super) fn proves(&mut self, now: Nanos, taints: u32, protocol: Protocol) -> bool {
        let Some(since) = self.drained.take() else {
            return false;
        };
        if self.taints != taints {
            (self.taints, self.proofs) = (taints, 0);
            self.alignment = Alignment::default();
        }
        self.proofs += 1;
        now.saturating_sub(since) >= QUIET || self.alignment.is_proven(protocol)
    }

    /// The boundary is proven from here on. `tainted`: what was told before need not be right.
    pub(super) fn release(self, tainted: bool, out: &mut dyn FnMut(Exchange)) {
        for mut exchange in self.withheld {
            let told = exchange.transactions_mut().iter_mut();
            for transaction in told.filter(|one| tainted && one.is_told()) {
                transaction.unresolve(transaction.end);
            }
            out(exchange);
        }
    }

    /// The boundary was wrong, as is known at `time`: no reply was that of the request it was given to. Answers how many
    /// replies that were.
    pub(super) fn refute(self, time: Nanos, out: &mut dyn FnMut(Exchange)) -> u64 {
        let mut replies = 0;
        for mut exchange in self.withheld {
            let told = exchange.transactions_mut().iter_mut();
            for transaction in told.filter(|one| one.is_told()) {
                replies += u64::from(transaction.ending == Ending::Replied);
                transaction.unresolve(time);
            }
            out(exchange);
        }
        replies
    }
}
