//! The two directions of a socket, and where they ended.

use super::flows::Close;
use super::reassembly::Reassembler;
use super::{Segment, Side};
use crate::source::event::{Direction, End, Nanos, Rest};

/// How long what a closed socket has moved may still be told, nanoseconds: a call that ends together with the connection is
/// told after it, and what has arrived may be taken later. A process that works takes it within milliseconds.
pub(super) const LINGER: Nanos = 1_000_000_000;

/// The two directions of a socket.
pub(super) struct Lanes {
    send: Reassembler,
    receive: Reassembler,
}

impl Lanes {
    /// The positions of the first byte sent and received, where they are known.
    pub(super) fn new(end: End, send: Option<u32>, receive: Option<u32>) -> Self {
        let (send_side, receive_side) = match end {
            End::Client => (Side::Request, Side::Reply),
            End::Server => (Side::Reply, Side::Request),
        };
        Self {
            send: Reassembler::new(send_side, send),
            receive: Reassembler::new(receive_side, receive),
        }
    }

    pub(super) fn get_mut(&mut self, direction: Direction) -> &mut Reassembler {
        match direction {
            Direction::Send => &mut self.send,
            Direction::Receive => &mut self.receive,
        }
    }

    pub(super) fn get(&self, direction: Direction) -> &Reassembler {
        match direction {
            Direction::Send => &self.send,
            Direction::Receive => &self.receive,
        }
    }

    /// Bytes that both hold.
    pub(super) fn memory(&self) -> usize {
        self.send.memory() + self.receive.memory()
    }

    /// Nothing more will come: hands on what waits, and what was moved unseen as a gap. What an application has not taken by
    /// now, it has closed without reading, as clients do after QUIT: that did not move.
    pub(super) fn finish(&mut self, closing: Option<Closing>, out: &mut dyn FnMut(Segment<'_>)) {
        for (lane, direction) in [
            (&mut self.send, Direction::Send),
            (&mut self.receive, Direction::Receive),
        ] {
            lane.finish(out);
            if let Some(closing) = closing {
                lane.end_at(closing.moved(direction), closing.time, out);
            }
        }
    }
}

/// The end of a socket of which not all was told yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    /// When it was.
    pub(super) time: Nanos,
    pub(super) close: Close,
    pub(super) rest: Rest,
}

impl Closing {
    /// The position behind the last byte that had moved at the end.
    fn moved(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Send => self.rest.sent,
            Direction::Receive => self.rest.taken,
        }
    }

    /// The position behind the last byte that may still move.
    fn end(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Send => self.rest.sent,
            Direction::Receive => self.rest.taken.wrapping_add(self.rest.unread),
        }
    }

    /// Whether all was told.
    pub(super) fn is_complete(&self, lanes: &Lanes) -> bool {
        [Direction::Send, Direction::Receive]
            .into_iter()
            .all(|direction| !lanes.get(direction).lags(self.end(direction)))
    }
}
