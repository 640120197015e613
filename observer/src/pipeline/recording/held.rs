//! Frames that wait until it is decided what of their bytes is kept.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::protocol::mask::{Masked, Piece};
use crate::source::event::{Direction, Nanos};
use crate::source::recording::Payload;

/// Most memory for frames that wait, bytes.
const MAX_HELD: usize = 64 << 20;
/// What a frame takes beside its bytes.
const FRAME: usize = 160;

/// A frame.
struct Frame {
    time: Nanos,
    body: Vec<u8>,
    payload: Option<Payload>,
    undecided: u32,
}

/// Where a captured piece of a stream is.
#[derive(Clone, Copy)]
struct Arrival {
    position: u32,
    length: u32,
    /// Bytes that have not been handed on.
    left: u32,
    frame: u64,
}

/// Frames in the order in which they are written.
pub(super) struct Held {
    frames: VecDeque<Frame>,
    /// Number of the first.
    first: u64,
    size: usize,
    /// Longest wait.
    wait: Nanos,
    /// Pieces that `stream` has not handed on in order yet, by socket and direction.
    arrivals: FxHashMap<(u64, Direction), VecDeque<Arrival>>,
    /// Captured bytes that were given up.
    undecided: u64,
}

impl Held {
    /// Nothing waits longer than `wait`.
    pub(super) fn new(wait: Nanos) -> Self {
        Self {
            frames: VecDeque::new(),
            first: 0,
            size: 0,
            wait,
            arrivals: FxHashMap::default(),
            undecided: 0,
        }
    }

    /// A frame with nothing to decide on.
    pub(super) fn push(&mut self, time: Nanos, body: Vec<u8>) {
        self.add(time, body, None);
    }

    /// A frame of an event with so many captured bytes. Answers its number.
    pub(super) fn push_payload(&mut self, time: Nanos, body: Vec<u8>, length: u32) -> u64 {
        let payload = Payload {
            length,
            runs: Vec::new(),
        };
        self.add(time, body, Some(payload))
    }

    fn add(&mut self, time: Nanos, body: Vec<u8>, payload: Option<Payload>) -> u64 {
        self.size += FRAME + body.len();
        self.frames.push_back(Frame {
            time,
            body,
            undecided: payload.as_ref().map_or(0, |payload| payload.length),
            payload,
        });
        self.first + self.frames.len() as u64 - 1
    }

    /// The frame's bytes belong at `position` of a stream.
    pub(super) fn arrived(
        &mut self,
        (sk, direction): (u64, Direction),
        position: u32,
        length: u32,
        frame: u64,
    ) {
        let arrival = Arrival {
            position,
            length,
            left: length,
            frame,
        };
        let arrivals = self.arrivals.entry((sk, direction)).or_default();
        arrivals.push_back(arrival);
    }

    /// The next `length` bytes of a stream stand at `position`: their frame, and the place in it.
    pub(super) fn find(
        &mut self,
        key: (u64, Direction),
        position: u32,
        length: u32,
    ) -> Option<(u64, u32)> {
        let arrivals = self.arrivals.get_mut(&key)?;
        let holds = |one: &Arrival| position.wrapping_sub(one.position) < one.length;
        let index = arrivals.iter().rposition(holds)?;
        let arrival = &mut arrivals[index];
        let found = (arrival.frame, position.wrapping_sub(arrival.position));
        arrival.left = arrival.left.saturating_sub(length);
        if arrival.left == 0 {
            arrivals.remove(index);
        }
        if arrivals.is_empty() {
            self.arrivals.remove(&key);
        }
        Some(found)
    }

    /// A socket is gone.
    pub(super) fn forget(&mut self, sk: u64) {
        for direction in [Direction::Send, Direction::Receive] {
            if let Some(arrivals) = self.arrivals.remove(&(sk, direction)) {
                for arrival in arrivals {
                    self.settle(arrival.frame, arrival.left);
                }
            }
        }
    }

    /// What `stream` will never hand on is forgotten with its frame.
    pub(super) fn prune(&mut self) {
        let first = self.first;
        self.arrivals.retain(|_, arrivals| {
            arrivals.retain(|arrival| arrival.frame >= first);
            !arrivals.is_empty()
        });
    }

    fn frame(&mut self, number: u64) -> Option<&mut Frame> {
        let index = number.checked_sub(self.first)?;
        self.frames.get_mut(usize::try_from(index).ok()?)
    }

    /// So many more bytes of a frame are decided on.
    pub(super) fn settle(&mut self, number: u64, length: u32) {
        if let Some(frame) = self.frame(number) {
            frame.undecided = frame.undecided.saturating_sub(length);
        }
    }

    fn show(&mut self, number: u64, at: u32, bytes: &[u8]) {
        let mut size = 0;
        if let Some(frame) = self.frame(number)
            && let Some(payload) = &mut frame.payload
            && at as usize + bytes.len() <= payload.length as usize
        {
            size = bytes.len() + 40;
            payload.push(at, bytes);
        }
        self.size += size;
        self.settle(number, bytes.len() as u32);
    }

    /// Hands the frames out that may be written at `now`: the first ones that are decided on, or have waited for too long.
    pub(super) fn ready(&mut self, now: Nanos, mut write: impl FnMut(&[u8])) {
        while let Some(frame) = self.frames.front() {
            let late = now.saturating_sub(frame.time) > self.wait || self.size > MAX_HELD;
            if frame.undecided > 0 && !late {
                return;
            }
            let Some(mut frame) = self.frames.pop_front() else {
                return;
            };
            self.first += 1;
            self.undecided += u64::from(frame.undecided);
            self.size = self.size.saturating_sub(FRAME + frame.body.len());
            if let Some(payload) = frame.payload {
                let shown: usize = payload.runs.iter().map(|(_, run)| run.len() + 40).sum();
                self.size = self.size.saturating_sub(shown);
                payload.encode(&mut frame.body);
            }
            write(&frame.body);
        }
        self.size = 0;
    }

    /// Nothing more is decided.
    pub(super) fn give_up(&mut self) {
        for frame in &mut self.frames {
            self.undecided += u64::from(std::mem::take(&mut frame.undecided));
        }
    }

    /// Captured bytes that are hidden since nothing was decided on them in time.
    pub(super) fn undecided(&self) -> u64 {
        self.undecided
    }
}

/// One direction of a stream, in order: where its bytes are that are not decided on.
#[derive(Default)]
pub(super) struct Lane {
    parts: VecDeque<Part>,
}

/// Bytes of a frame.
struct Part {
    /// `None`: of a frame that is not known.
    frame: Option<u64>,
    at: u32,
    length: u32,
}

impl Lane {
    /// So many bytes come next, which stand there.
    pub(super) fn push(&mut self, place: Option<(u64, u32)>, length: u32) {
        self.parts.push_back(Part {
            frame: place.map(|(frame, _)| frame),
            at: place.map_or(0, |(_, at)| at),
            length,
        });
    }

    /// Takes over what was decided.
    pub(super) fn settle(&mut self, masked: &mut Masked, held: &mut Held) {
        while let Some(piece) = masked.take() {
            let (bytes, mut left) = match &piece {
                Piece::Bytes(bytes) => (Some(bytes), bytes.len() as u64),
                Piece::Zeros(count) => (None, *count),
            };
            let mut done = 0_usize;
            while left > 0
                && let Some(part) = self.parts.front_mut()
            {
                let take = u64::from(part.length).min(left) as u32;
                if let Some(frame) = part.frame {
                    match bytes {
                        Some(bytes) => {
                            held.show(frame, part.at, &bytes[done..done + take as usize]);
                        }
                        None => held.settle(frame, take),
                    }
                }
                done += take as usize;
                left -= u64::from(take);
                part.at += take;
                part.length -= take;
                if part.length == 0 {
                    self.parts.pop_front();
                }
            }
        }
    }
}
