//! One direction of one socket: pieces in, the stream in order out.
//!
//! ```text
//!            next            held[0]                held[1]
//!  delivered  │     hole       │▓▓▓▓▓▓▓▓│    hole     │▓▓▓▓│
//! ────────────┴────────────────┴────────┴─────────────┴────┴──▶ position
//! ```
//!
//! Invariants: `held` is sorted by distance from `next`; no two held pieces overlap; none is empty; each begins
//! after `next`. A hole is held open until it is filled, until [`Limits::hold`] has passed, or until the budget
//! is used up; then it becomes a gap.

use std::collections::VecDeque;

use super::{Content, Segment, Side};
use crate::source::event::{Data, Nanos, Task, Uncaptured};
use crate::telemetry::{Skipped, work};

/// How a source's positions behave, and what may be held for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a hole may stay open, nanoseconds of event time.
    pub hold: Nanos,
    /// Most payload bytes held behind holes, in each direction of each socket.
    pub bytes: usize,
    /// Most pieces held: bounds the cost of one-byte pieces.
    pub pieces: usize,
    /// Whether the same bytes may come twice (packets are retransmitted; calls are not).
    pub retransmissions: bool,
}

impl Limits {
    /// Calls seen by the kernel: out of order only where two threads race (3 in 400,000 measured), by microseconds.
    pub const LIVE: Limits = Limits {
        hold: 20_000_000,
        bytes: 256 * 1024,
        pieces: 256,
        retransmissions: false,
    };
    /// Packets: a hole is filled by a retransmission, after 200 ms at the earliest and seconds under back-off.
    pub const CAPTURE: Limits = Limits {
        hold: 3_000_000_000,
        bytes: 1024 * 1024,
        pieces: 1024,
        retransmissions: true,
    };
}

/// A piece that waits for a hole before it to be filled.
#[derive(Debug)]
struct Held {
    position: u32,
    length: u32,
    payload: Box<[u8]>,
    uncaptured: Option<Uncaptured>,
    started: Nanos,
    time: Nanos,
    task: Option<Task>,
    continued: bool,
}

impl Held {
    fn new(time: Nanos, task: Option<&Task>, data: &Data<'_>) -> Self {
        Self {
            position: data.position,
            length: data.length,
            payload: data.payload.into(),
            uncaptured: data.uncaptured,
            started: data.started,
            time,
            task: task.copied(),
            continued: data.continued,
        }
    }

    fn end(&self) -> u32 {
        self.position.wrapping_add(self.length)
    }

    /// The first `length` bytes of the stream, and the rest.
    fn split(mut self, length: u32) -> (Self, Self) {
        let at = (length as usize).min(self.payload.len());
        let (front, back) = self.payload.split_at(at);
        let rest = Held {
            position: self.position.wrapping_add(length),
            length: self.length - length,
            payload: back.into(),
            continued: self.continued || length > 0,
            ..self
        };
        self.payload = front.into();
        self.length = length;
        (self, rest)
    }
}

/// One direction of one socket.
#[derive(Debug)]
pub struct Reassembler {
    side: Side,
    next: Option<u32>,
    held: VecDeque<Held>,
    held_bytes: usize,
}

/// Signed distance from `from` to `to` in sequence space: positive when `to` is later (RFC 9293, section 3.4).
fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

impl Reassembler {
    /// A direction whose first position is `next`; `None` when it is joined mid-stream.
    #[must_use]
    pub fn new(side: Side, next: Option<u32>) -> Self {
        Self {
            side,
            next,
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// The stream goes on at `position`, if nothing is known of it yet.
    pub fn begin_at(&mut self, position: u32) {
        self.next.get_or_insert(position);
    }

    /// Whether pieces wait behind a hole: [`Self::expire`] has to be called.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes held on the heap.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.held_bytes + self.held.capacity() * size_of::<Held>()
    }

    /// Whether `position` is so far from the stream that it must be of another connection.
    #[must_use]
    pub fn is_discontinuous(&self, position: u32) -> bool {
        // A receive window is at most 1 GiB (RFC 7323, section 2.3).
        self.next
            .is_some_and(|next| distance(next, position).unsigned_abs() > 1 << 30)
    }

    /// Takes a piece in; hands on what is now in order.
    pub fn insert(
        &mut self,
        time: Nanos,
        task: Option<&Task>,
        data: &Data<'_>,
        limits: &Limits,
        out: &mut dyn FnMut(Segment<'_>),
    ) {
        if data.length == 0 {
            return;
        }
        let next = *self.next.get_or_insert(data.position);
        match distance(next, data.position) {
            0 if self.held.is_empty() => self.deliver(time, task, data, out),
            ahead if ahead >= 0 => {
                self.hold(Held::new(time, task, data), limits, out);
                self.expire(time, limits, out);
            }
            behind => {
                let old = behind.unsigned_abs();
                if limits.retransmissions {
                    self.drop_bytes(time, old.min(data.length), Skipped::Duplicate, out);
                    if let Some(rest) = trimmed(data, old) {
                        self.insert(time, task, &rest, limits, out);
                    }
                } else {
                    self.break_up(time, data, out);
                }
            }
        }
    }

    /// Gives up holes that have been open for too long.
    pub fn expire(&mut self, now: Nanos, limits: &Limits, out: &mut dyn FnMut(Segment<'_>)) {
        while let Some(first) = self.held.front() {
            if Some(first.position) != self.next
                && now.saturating_sub(first.time) < limits.hold
                && self.held_bytes <= limits.bytes
                && self.held.len() <= limits.pieces
            {
                return;
            }
            self.deliver_first(out);
        }
    }

    /// Gives up all holes: nothing more will come.
    pub fn finish(&mut self, out: &mut dyn FnMut(Segment<'_>)) {
        while !self.held.is_empty() {
            self.deliver_first(out);
        }
        self.held = VecDeque::new();
    }

    /// Takes the first held piece out. Holes are rare: no room is kept for the next.
    fn pop(&mut self) -> Option<Held> {
        let first = self.held.pop_front()?;
        self.held_bytes -= first.payload.len();
        if self.held.is_empty() {
            self.held = VecDeque::new();
        }
        Some(first)
    }

    /// Whether what lies before `end` was not all handed on yet.
    #[must_use]
    pub fn lags(&self, end: u32) -> bool {
        self.is_waiting() || self.next.is_some_and(|next| distance(next, end) > 0)
    }

    /// The stream has ended at `end`: what nobody told of is a gap.
    pub fn end_at(&mut self, end: u32, time: Nanos, out: &mut dyn FnMut(Segment<'_>)) {
        if !self.lags(end) {
            return;
        }
        let next = self.next.replace(end).unwrap_or(end);
        out(self.missing(end.wrapping_sub(next), next, time, time));
    }

    /// Bytes that nobody told of.
    fn missing(&self, length: u32, position: u32, started: Nanos, time: Nanos) -> Segment<'static> {
        Segment {
            side: self.side,
            started,
            time,
            task: None,
            call_start: false,
            position,
            content: Content::Gap {
                length: length.into(),
                reason: Skipped::Missing,
            },
        }
    }

    /// Delivers the first held piece, and the hole before it, if any, as a gap.
    fn deliver_first(&mut self, out: &mut dyn FnMut(Segment<'_>)) {
        let Some(first) = self.pop() else {
            return;
        };
        let hole = self
            .next
            .map_or(0, |next| first.position.wrapping_sub(next));
        if hole > 0 {
            out(self.missing(
                hole,
                first.position.wrapping_sub(hole),
                first.started,
                first.time,
            ));
        }
        let data = Data {
            direction: crate::source::event::Direction::Send,
            opening: false,
            started: first.started,
            position: first.position,
            opposite: None,
            length: first.length,
            payload: &first.payload,
            uncaptured: first.uncaptured,
            continued: first.continued,
        };
        self.deliver(first.time, first.task.as_ref(), &data, out);
    }

    /// Tells of bytes that are not handed on.
    fn drop_bytes(
        &self,
        time: Nanos,
        length: u32,
        reason: Skipped,
        out: &mut dyn FnMut(Segment<'_>),
    ) {
        if length > 0 {
            out(Segment {
                side: self.side,
                started: time,
                time,
                task: None,
                call_start: false,
                position: self.next.unwrap_or(0),
                content: Content::Dropped {
                    length: length.into(),
                    reason,
                },
            });
        }
    }

    /// Hands on a piece that is next in the stream.
    fn deliver(
        &mut self,
        time: Nanos,
        task: Option<&Task>,
        data: &Data<'_>,
        out: &mut dyn FnMut(Segment<'_>),
    ) {
        self.next = Some(data.position.wrapping_add(data.length));
        let segment = |call_start, position, content| Segment {
            side: self.side,
            started: data.started,
            time,
            task,
            call_start,
            position,
            content,
        };
        if !data.payload.is_empty() {
            let content = Content::Bytes(data.payload);
            out(segment(!data.continued, data.position, content));
        }
        let missing = u64::from(data.length).saturating_sub(data.payload.len() as u64);
        if missing > 0 {
            let reason = match data.uncaptured {
                None | Some(Uncaptured::Limit) => Skipped::Limit,
                Some(Uncaptured::Unreadable) => Skipped::Unreadable,
                Some(Uncaptured::Fault) => Skipped::Fault,
            };
            out(segment(
                data.payload.is_empty() && !data.continued,
                data.position.wrapping_add(data.payload.len() as u32),
                Content::Gap {
                    length: missing,
                    reason,
                },
            ));
        }
    }

    /// Puts a piece behind a hole, resolving overlaps with what is held already.
    fn hold(&mut self, new: Held, limits: &Limits, out: &mut dyn FnMut(Segment<'_>)) {
        let Some(next) = self.next else { return };
        let at = self
            .held
            .partition_point(|held| distance(next, held.position) < distance(next, new.position));
        let overlaps_left = at
            .checked_sub(1)
            .and_then(|left| self.held.get(left))
            .is_some_and(|left| distance(new.position, left.end()) > 0);
        let overlaps_right = self
            .held
            .get(at)
            .is_some_and(|right| distance(right.position, new.end()) > 0);
        if !overlaps_left && !overlaps_right {
            self.held_bytes += new.payload.len();
            // The queue moves the smaller part.
            work::add(1 + at.min(self.held.len() - at));
            self.held.insert(at, new);
        } else if limits.retransmissions {
            self.fill(new, at, out);
        } else {
            self.relocate(new, at, overlaps_left, out);
        }
    }

    /// Captures: keeps of a retransmission what is not held yet.
    fn fill(&mut self, mut new: Held, mut at: usize, out: &mut dyn FnMut(Segment<'_>)) {
        let time = new.time;
        let left = at.checked_sub(1).and_then(|left| self.held.get(left));
        let covered = left.map_or(0, |left| distance(new.position, left.end()).max(0));
        let covered = covered.unsigned_abs().min(new.length);
        self.drop_bytes(time, covered, Skipped::Duplicate, out);
        if covered == new.length {
            return;
        }
        new = new.split(covered).1;
        while let Some(right) = self.held.get(at) {
            let room = distance(new.position, right.position).max(0).unsigned_abs();
            if room >= new.length {
                break;
            }
            let beyond = distance(new.position, right.end()).max(0).unsigned_abs();
            let (before, rest) = new.split(room);
            if before.length > 0 {
                self.held_bytes += before.payload.len();
                self.held.insert(at, before);
                at += 1;
            }
            at += 1;
            let covered = (beyond - room).min(rest.length);
            self.drop_bytes(time, covered, Skipped::Duplicate, out);
            if covered == rest.length {
                return;
            }
            new = rest.split(covered).1;
        }
        self.held_bytes += new.payload.len();
        self.held.insert(at, new);
    }

    /// Live: two threads raced, and one read the position after the other had moved it. The piece with the wrong
    /// position ends where the later one ends, and the hole that it left is exactly as long as it is. Where
    /// that is so, the order is certain; else it is not, and the stream breaks.
    ///
    /// ```text
    ///   next      B                truth:  A at next, then B
    ///    │  hole   │▓▓▓▓▓▓▓▓▓▓│     seen:   A' ends with B, B right
    ///    │◀─ |A| ─▶│    │ A' │
    /// ```
    fn relocate(
        &mut self,
        new: Held,
        at: usize,
        overlaps_left: bool,
        out: &mut dyn FnMut(Segment<'_>),
    ) {
        let Some(next) = self.next else { return };
        let other = if overlaps_left { at - 1 } else { at };
        let Some(other) = self.held.remove(other) else {
            return;
        };
        self.held_bytes -= other.payload.len();
        let (mut moved, right) = if new.length < other.length {
            (new, other)
        } else {
            (other, new)
        };
        let hole = right.position.wrapping_sub(next);
        if self.held.is_empty() && moved.end() == right.end() && hole == moved.length {
            moved.position = next;
            for piece in [moved, right] {
                self.held_bytes += piece.payload.len();
                self.held.push_back(piece);
            }
            while !self.held.is_empty() {
                self.deliver_first(out);
            }
        } else {
            let end = if distance(moved.end(), right.end()) > 0 {
                right.end()
            } else {
                moved.end()
            };
            let time = moved.time.max(right.time);
            for piece in [&moved, &right] {
                self.drop_bytes(time, piece.length, Skipped::Race, out);
            }
            self.give_up(time, end, out);
        }
    }

    /// Live: a piece that lies before `next`, though calls never repeat bytes.
    fn break_up(&mut self, time: Nanos, data: &Data<'_>, out: &mut dyn FnMut(Segment<'_>)) {
        let end = data.position.wrapping_add(data.length);
        let next = self.next.unwrap_or(end);
        let end = if distance(next, end) > 0 { end } else { next };
        self.drop_bytes(time, data.length, Skipped::Race, out);
        self.give_up(time, end, out);
    }

    /// Goes on at `end`, without what is held before.
    fn give_up(&mut self, time: Nanos, end: u32, out: &mut dyn FnMut(Segment<'_>)) {
        // What is held beyond `end` stays held, behind an ordinary hole; what is before it is part of the break.
        self.next = Some(end);
        while let Some(first) = self.held.front() {
            if distance(end, first.position) >= 0 {
                break;
            }
            let length = first.length;
            self.pop();
            self.drop_bytes(time, length, Skipped::Race, out);
        }
        out(Segment {
            side: self.side,
            started: time,
            time,
            task: None,
            call_start: false,
            position: end,
            content: Content::Break,
        });
    }
}

/// The part of a piece beyond its first `old` bytes; `None` when nothing is left.
fn trimmed<'a>(data: &Data<'a>, old: u32) -> Option<Data<'a>> {
    (old < data.length).then(|| Data {
        position: data.position.wrapping_add(old),
        length: data.length - old,
        payload: data.payload.get(old as usize..).unwrap_or(&[]),
        continued: true,
        ..*data
    })
}

#[cfg(test)]
mod tests;
