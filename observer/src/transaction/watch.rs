//! Who looks on while a connection is decoded, and learns which bytes were read as what.

use crate::protocol::mask::{Ended, Mask, Masked, Shared, SharedNames};
use crate::protocol::{Class, HitRule, Protocol, Request};
use crate::stream::Side;

/// Told of each byte of a conversation what became of it. `()` is nobody, and costs nothing.
pub trait Watch {
    /// So many captured bytes of this side come next.
    fn offered(&mut self, _side: Side, _length: u64) {}
    /// The decoder has read these of them.
    fn read(&mut self, _side: Side, _bytes: &[u8]) {}
    /// With that it has read a request to its end.
    fn requested(&mut self, _request: &Request) {}
    /// With that it has read a reply to its end; `request` is what it answers, if that is known.
    fn replied(&mut self, _request: Option<&Request>) {}
    /// The decoder has bridged a gap.
    fn bridged(&mut self, _side: Side, _length: u64) {}
    /// What was offered and not read will not be read.
    fn passed(&mut self, _side: Side) {}
    /// The decoder of this side is spent.
    fn spent(&mut self, _side: Side) {}
    /// There are new decoders, at a boundary that is not proven.
    fn doubted(&mut self) {}
    /// The boundary is proven.
    fn proven(&mut self) {}
    /// The boundary was wrong, and all that was read from it on.
    fn refuted(&mut self) {}
}

impl Watch for () {}

/// Masks the bytes of a connection ([`Mask`]). What is read from a boundary that is not proven is withheld until it is.
pub struct Masking {
    protocol: Protocol,
    names: Shared,
    requests: Lane,
    replies: Lane,
    /// The boundary is not proven.
    doubted: bool,
}

/// One side.
struct Lane {
    mask: Mask,
    unread: u64,
    /// Decided, but for the boundary.
    withheld: Masked,
    decided: Masked,
}

/// Most pieces withheld of a side; beyond it they are taken for refuted.
const MAX_WITHHELD: usize = 65_536;
/// Most bytes of them that are not zeros.
const MAX_WITHHELD_BYTES: u64 = 1 << 22;

impl Lane {
    fn new(mask: Mask) -> Self {
        Self {
            mask,
            unread: 0,
            withheld: Masked::default(),
            decided: Masked::default(),
        }
    }

    fn refute(&mut self) {
        let length = self.withheld.clear();
        self.decided.zeros(length);
    }

    fn lose(&mut self, doubted: bool) {
        self.act(doubted, |mask, out| mask.lose(out));
    }

    fn act(&mut self, doubted: bool, act: impl FnOnce(&mut Mask, &mut Masked)) {
        match doubted {
            false => act(&mut self.mask, &mut self.decided),
            true => {
                act(&mut self.mask, &mut self.withheld);
                if self.withheld.pieces() > MAX_WITHHELD
                    || self.withheld.held() > MAX_WITHHELD_BYTES
                {
                    self.refute();
                }
            }
        }
    }
}

impl Masking {
    /// Of a connection that speaks this.
    #[must_use]
    pub fn new(protocol: Protocol, names: SharedNames) -> Self {
        let names = Shared::new(names);
        Self {
            protocol,
            requests: Lane::new(Mask::requests(protocol, Shared::clone(&names))),
            replies: Lane::new(Mask::replies(protocol, Shared::clone(&names))),
            names,
            doubted: false,
        }
    }

    /// What is decided of a side since the last call, in the order of the stream.
    pub fn decided(&mut self, side: Side) -> &mut Masked {
        &mut self.lane(side).decided
    }

    /// Nothing more comes: what is not decided is gone.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.doubted) {
            self.requests.refute();
            self.replies.refute();
        }
        for side in [Side::Request, Side::Reply] {
            self.lane(side).lose(false);
            self.passed(side);
        }
    }

    fn lane(&mut self, side: Side) -> &mut Lane {
        match side {
            Side::Request => &mut self.requests,
            Side::Reply => &mut self.replies,
        }
    }

    fn act(&mut self, side: Side, act: impl FnOnce(&mut Mask, &mut Masked)) {
        let doubted = self.doubted;
        self.lane(side).act(doubted, act);
    }
}

impl Watch for Masking {
    fn offered(&mut self, side: Side, length: u64) {
        self.lane(side).unread += length;
    }

    fn read(&mut self, side: Side, bytes: &[u8]) {
        let lane = self.lane(side);
        lane.unread = lane.unread.saturating_sub(bytes.len() as u64);
        self.act(side, |mask, out| mask.feed(bytes, out));
    }

    fn requested(&mut self, request: &Request) {
        self.act(Side::Request, |mask, out| {
            mask.end(Ended::Request(request), out);
        });
    }

    fn replied(&mut self, request: Option<&Request>) {
        let number = request.is_some_and(|request| {
            request.class == Class::Delete
                || matches!(request.hit_rule, HitRule::Count { .. } | HitRule::MinusTwo)
        });
        self.act(Side::Reply, |mask, out| {
            mask.end(Ended::Reply { number }, out);
        });
    }

    fn bridged(&mut self, side: Side, length: u64) {
        self.act(side, |mask, out| mask.skip(length, out));
    }

    fn passed(&mut self, side: Side) {
        let doubted = self.doubted;
        let lane = self.lane(side);
        let unread = std::mem::take(&mut lane.unread);
        if unread > 0 {
            // In the order of the stream: what the mask holds came before.
            lane.act(doubted, |mask, out| {
                mask.lose(out);
                out.zeros(unread);
            });
        }
    }

    fn spent(&mut self, side: Side) {
        let doubted = self.doubted;
        self.lane(side).lose(doubted);
    }

    fn doubted(&mut self) {
        for side in [Side::Request, Side::Reply] {
            let doubted = self.doubted;
            self.lane(side).lose(doubted);
        }
        self.refuted();
        self.doubted = true;
        let names = || Shared::clone(&self.names);
        let (requests, replies) = (
            Mask::requests(self.protocol, names()),
            Mask::replies(self.protocol, names()),
        );
        self.requests.mask = requests;
        self.replies.mask = replies;
    }

    fn proven(&mut self) {
        self.doubted = false;
        for lane in [&mut self.requests, &mut self.replies] {
            lane.decided.append(&mut lane.withheld);
        }
    }

    fn refuted(&mut self) {
        self.doubted = false;
        self.requests.refute();
        self.replies.refute();
    }
}
