//! A large datagram arrives in several events: they are put together again.

use rustc_hash::FxHashMap;

use crate::source::event::{Datagram, Direction, Event, Nanos, SocketId, Task, Uncaptured};
use crate::telemetry::{Skipped, Telemetry};

/// Most datagrams under way. A thread's pieces follow each other at once, so that as many threads must be at it.
const MAX_UNDER_WAY: usize = 256;
/// The largest datagram there is; what claims to be larger is refused.
const MAX_TOTAL: u32 = 65_535;

/// A datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<'a> {
    pub(super) socket: SocketId,
    pub(super) task: Option<Task>,
    pub(super) direction: Direction,
    pub(super) started: Nanos,
    pub(super) time: Nanos,
    /// Its length, and what was captured of it.
    pub(super) total: u64,
    pub(super) payload: &'a [u8],
    /// Bytes behind the payload that were not captured, and why.
    pub(super) missing: Option<(u64, Skipped)>,
}

/// Which call moved it.
type Key = (u64, u32, Direction);

#[derive(Debug)]
struct Partial {
    time: Nanos,
    /// Bytes that have come, captured or not.
    come: u32,
    bytes: Vec<u8>,
    missing: Option<Skipped>,
}

/// Datagrams that have come in part.
#[derive(Debug, Default)]
pub(super) struct Pieces(FxHashMap<Key, Partial>);

impl Pieces {
    /// Gives up what has come in part: no more will.
    pub(super) fn finish(&mut self, telemetry: &Telemetry) {
        for (_, partial) in self.0.drain() {
            lost(partial.come, telemetry);
        }
    }

    /// Takes a piece in; calls `sink` if it completes its datagram.
    pub(super) fn take(
        &mut self,
        event: &Event<'_>,
        piece: &Datagram<'_>,
        telemetry: &Telemetry,
        sink: &mut dyn FnMut(Whole<'_>),
    ) {
        let whole = |payload, missing: Option<Skipped>, captured: usize| Whole {
            socket: event.socket,
            task: event.task,
            direction: piece.direction,
            started: piece.started,
            time: event.time,
            total: piece.total.into(),
            payload,
            missing: missing.map(|reason| (u64::from(piece.total) - captured as u64, reason)),
        };
        if piece.offset == 0 && piece.length == piece.total {
            let missing = piece.uncaptured.map(reason);
            return sink(whole(piece.payload, missing, piece.payload.len()));
        }
        let thread = event.task.map_or(0, |task| task.tid);
        let key = (event.socket.sk, thread, piece.direction);
        // What is left of an earlier one is not completed any more.
        let known = self.0.remove(&key).filter(|partial| {
            let goes_on = partial.time == event.time && partial.come == piece.offset;
            if !goes_on {
                lost(partial.come, telemetry);
            }
            goes_on
        });
        let mut partial = match known {
            Some(partial) => partial,
            None if piece.offset == 0
                && piece.total <= MAX_TOTAL
                && self.0.len() < MAX_UNDER_WAY =>
            {
                Partial {
                    time: event.time,
                    come: 0,
                    bytes: Vec::new(),
                    missing: None,
                }
            }
            None => return lost(piece.length, telemetry),
        };
        // Nothing is put behind a gap.
        if partial.missing.is_none() {
            partial.bytes.extend_from_slice(piece.payload);
            partial.missing = piece.uncaptured.map(reason);
        }
        partial.come = partial.come.saturating_add(piece.length);
        if partial.come >= piece.total {
            let captured = partial.bytes.len();
            sink(whole(&partial.bytes, partial.missing, captured));
        } else {
            self.0.insert(key, partial);
        }
    }
}

/// Counts pieces of a datagram that is not whole.
fn lost(bytes: u32, telemetry: &Telemetry) {
    telemetry.skipped(Skipped::Partial).add(bytes.into());
    telemetry.lost_bytes.add(bytes.into());
}

fn reason(uncaptured: Uncaptured) -> Skipped {
    match uncaptured {
        Uncaptured::Limit => Skipped::Limit,
        Uncaptured::Unreadable => Skipped::Unreadable,
        Uncaptured::Fault => Skipped::Fault,
    }
}
