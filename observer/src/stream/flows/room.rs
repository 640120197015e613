//! Room for connections, and for what they hold.

use super::{Close, Flows, Handler};
use crate::source::event::{Direction, Nanos};
use crate::telemetry::work;

/// Of so many sockets in turn, the one that was silent longest goes: the oldest of all but for chance, without keeping them in order.
const SAMPLE: usize = 16;

impl<H: Handler> Flows<H> {
    /// Bytes held of messages that are not complete, and of what waits for what is before it.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Looks at what a socket holds. Where it, or all together, hold too much, somebody's is given up.
    pub(super) fn weigh(&mut self, index: usize, now: Nanos, handler: &mut H) {
        let Some(slot) = &self.slots[index] else {
            return;
        };
        let held = slot.lanes.memory() + handler.memory(&slot.session);
        self.set_held(index, held);
        if held > self.options.max_held / 4 * 3 {
            self.relieve(index, now, handler);
        }
        while self.held > self.options.max_held
            && let Some(index) = self.oldest_holder()
        {
            self.relieve(index, now, handler);
        }
    }

    fn relieve(&mut self, index: usize, now: Nanos, handler: &mut H) {
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        for direction in [Direction::Send, Direction::Receive] {
            slot.lanes.get_mut(direction).finish(&mut |segment| {
                handler.segment(&slot.flow, &mut slot.session, &segment);
            });
        }
        handler.relieve(&slot.flow, &mut slot.session, now);
        // What could not be given up is not looked for again before the socket moves.
        self.set_held(index, 0);
    }

    /// Notes what a socket holds.
    pub(super) fn set_held(&mut self, index: usize, held: usize) {
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        self.held = self.held - slot.held + held;
        let before = std::mem::replace(&mut slot.held, held);
        if before == 0 && held > 0 {
            slot.place = self.holders.len();
            self.holders.push(index);
        } else if before > 0 && held == 0 {
            let place = slot.place;
            self.holders.swap_remove(place);
            if let Some(&moved) = self.holders.get(place)
                && let Some(slot) = self.slots[moved].as_mut()
            {
                slot.place = place;
            }
        }
    }

    /// Of a few sockets in turn that hold something, the one that was silent longest.
    fn oldest_holder(&mut self) -> Option<usize> {
        let mut oldest: Option<(Nanos, usize)> = None;
        for _ in 0..self.holders.len().min(SAMPLE) {
            work::add(1);
            self.holder = (self.holder + 1) % self.holders.len();
            let index = self.holders[self.holder];
            if let Some(slot) = &self.slots[index]
                && oldest.is_none_or(|(last, _)| slot.flow.last < last)
            {
                oldest = Some((slot.flow.last, index));
            }
        }
        oldest.map(|(_, index)| index)
    }

    /// Makes room for a socket. All slots are taken then.
    pub(super) fn evict(&mut self, time: Nanos, handler: &mut H) {
        let mut oldest: Option<(Nanos, u64)> = None;
        for _ in 0..self.slots.len().min(SAMPLE) {
            work::add(1);
            self.hand = (self.hand + 1) % self.slots.len();
            if let Some(slot) = &self.slots[self.hand]
                && oldest.is_none_or(|(last, _)| slot.flow.last < last)
            {
                oldest = Some((slot.flow.last, slot.flow.socket.sk));
            }
        }
        if let Some((_, sk)) = oldest {
            self.close_sk(sk, time, Close::Abandoned, handler);
        }
    }
}
