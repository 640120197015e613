//! Beginnings and ends that come out of order.

use super::{Closing, Direction, Event, Flows, Handler, Slot, Verdict};

impl<S> Slot<S> {
    /// Whether an event is of the socket of a flow that lingers: the kernel has taken its port away.
    pub(super) fn is_behind(&self, event: &Event<'_>) -> bool {
        self.closing.is_some()
            && event.socket.local.port() == Some(0)
            && self.flow.socket.remote == event.socket.remote
    }
}

impl<H: Handler> Flows<H> {
    /// A connection is established on which data was sent before: its flow goes on. Answers whether there is one.
    pub(super) fn goes_on(&mut self, event: &Event<'_>, start: (Option<u32>, Option<u32>)) -> bool {
        let index = self.by_sk.get(&event.socket.sk);
        let Some(slot) = index.and_then(|&index| self.slots[index].as_mut()) else {
            return false;
        };
        if !slot.flow.opening || slot.flow.socket != event.socket {
            return false;
        }
        slot.flow.opening = false;
        let positions = [(Direction::Send, start.0), (Direction::Receive, start.1)];
        for (direction, position) in positions {
            if let Some(position) = position {
                slot.lanes.get_mut(direction).begin_at(position);
            }
        }
        true
    }

    /// A socket is closed. Answers whether its flow goes on for a while, since not all that it moved was told yet.
    pub(super) fn lingers(&mut self, sk: u64, closing: Option<Closing>) -> bool {
        let (Some(&index), Some(closing)) = (self.by_sk.get(&sk), closing) else {
            return false;
        };
        let Some(slot) = self.slots[index].as_mut() else {
            return false;
        };
        if slot.flow.verdict == Verdict::Redundant || closing.is_complete(&slot.lanes) {
            return false;
        }
        slot.closing = Some(closing);
        if !slot.flow.attended {
            slot.flow.attended = true;
            self.attention.push((index, slot.flow.number));
        }
        true
    }
}
