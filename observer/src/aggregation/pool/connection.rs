//! One connection's part in its pool.

use std::collections::VecDeque;

use super::{Held, Pool};
use crate::source::event::{Fault, Nanos};
use crate::stream::{Segment, Side};
use crate::transaction::{Load, Ready};

/// A client's connection, or its attempt at one.
///
/// It may belong to no pool yet, as long as the process is not known: then each call is given `None`, and [`Self::join`]
/// makes up for what lasts.
#[derive(Debug, Default)]
pub struct Connection {
    stage: Stage,
    /// When `connect` was called.
    began: Option<Nanos>,
    established: Option<Nanos>,
    ready: Option<Ready>,
    load: Load,
    used: bool,
    /// Since when it is used.
    since: Nanos,
    /// Requests behind another, by the call they were sent with.
    queue: VecDeque<Queued>,
    late: u32,
    commands: u64,
    /// What moved last was not decoded, so that its commands are not known.
    undecoded: bool,
    /// It was opened before its pool was known.
    untold: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    Connecting,
    #[default]
    Open,
}

#[derive(Debug)]
struct Queued {
    sent: Nanos,
    count: u32,
    /// What they wait for was sent earlier, not with the same call.
    late: bool,
}

impl Connection {
    /// `connect` was called.
    #[must_use]
    pub fn connecting(time: Nanos) -> Self {
        Self {
            stage: Stage::Connecting,
            began: Some(time),
            ..Self::default()
        }
    }

    /// From now on it belongs to `pool`.
    pub fn join(&mut self, pool: &mut Pool, time: Nanos) {
        if std::mem::take(&mut self.untold) {
            pool.opened();
        }
        pool.change(Held::default(), self.held(), time);
    }

    /// It belongs to `pool` no more, without having ended.
    pub fn leave(&self, pool: &mut Pool, time: Nanos) {
        pool.change(self.held(), Held::default(), time);
    }

    /// It is established; seen from its start or not.
    pub fn open(&mut self, mut pool: Option<&mut Pool>, from_start: bool, time: Nanos) {
        let old = self.held();
        self.stage = Stage::Open;
        if from_start {
            self.established = Some(time);
            self.untold = pool.is_none();
            if let Some(pool) = pool.as_deref_mut() {
                pool.opened();
                if let Some(began) = self.began {
                    pool.connected(time.saturating_sub(began));
                }
            }
        }
        self.changed(old, pool, time);
    }

    /// When it was ready is known.
    pub fn ready(&mut self, pool: Option<&mut Pool>, ready: Ready) {
        self.ready = Some(ready);
        if let (Some(pool), Some(began)) = (pool, self.began) {
            pool.created(ready.time.saturating_sub(began));
        }
    }

    /// Commands have ended.
    pub fn count(&mut self, commands: usize) {
        self.commands += commands as u64;
    }

    /// One of them was a test of an idle connection. It is told apart, unless it belongs to the set-up.
    pub fn health_check(&mut self, pool: Option<&mut Pool>) {
        if let Some(pool) = pool.filter(|_| !self.awaits_ready()) {
            pool.health_check();
        }
    }

    /// Bytes have moved. Where they are not decoded (`load` is `None`), the connection is used from a send to a receive.
    pub fn moved(&mut self, pool: Option<&mut Pool>, load: Option<Load>, segment: &Segment<'_>) {
        self.undecoded = load.is_none();
        let load = load.unwrap_or(Load {
            occupied: segment.side == Side::Request,
            ..Load::default()
        });
        self.update(pool, load, segment.started, segment.time);
    }

    /// Time has passed, which may tell that requests are not answered.
    pub fn passed(&mut self, pool: Option<&mut Pool>, load: Option<Load>, now: Nanos) {
        if let Some(load) = load {
            self.update(pool, load, now, now);
        }
    }

    fn update(&mut self, mut pool: Option<&mut Pool>, load: Load, started: Nanos, time: Nanos) {
        if load == self.load && load.occupied == self.used {
            return;
        }
        let old = self.held();
        let before = self.load.waiting;
        self.load = load;
        if load.waiting > before {
            let new = load.waiting - before;
            let late = before > 0;
            let count = if late { new } else { new - 1 };
            if count > 0 {
                self.queue.push_back(Queued {
                    sent: started,
                    count,
                    late,
                });
                self.late += if late { count } else { 0 };
            }
        } else if load.waiting < before {
            let left = load.waiting.saturating_sub(1);
            self.dequeue(before.saturating_sub(1) - left, &mut pool, time);
        }
        match (self.used, load.occupied) {
            (false, true) => self.since = started,
            (true, false) => {
                if let Some(pool) = pool.as_deref_mut() {
                    pool.busy(time.saturating_sub(self.since));
                }
            }
            _ => {}
        }
        self.used = load.occupied;
        self.changed(old, pool, time);
    }

    /// This many requests are behind no other any more.
    fn dequeue(&mut self, mut count: u32, pool: &mut Option<&mut Pool>, time: Nanos) {
        while count > 0
            && let Some(first) = self.queue.front_mut()
        {
            let taken = first.count.min(count);
            if let Some(pool) = pool {
                pool.waited(taken, time.saturating_sub(first.sent));
            }
            count -= taken;
            first.count -= taken;
            if first.late {
                self.late = self.late.saturating_sub(taken);
            }
            if first.count == 0 {
                self.queue.pop_front();
            }
        }
    }

    /// Whether it is established, and not known to have been ready.
    fn awaits_ready(&self) -> bool {
        self.established.is_some() && self.ready.is_none()
    }

    /// When `connect` was called.
    #[must_use]
    pub fn began(&self) -> Option<Nanos> {
        self.began
    }

    /// When it was established.
    #[must_use]
    pub fn established(&self) -> Option<Nanos> {
        self.established
    }

    /// Whether nothing came of the call of `connect` yet.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        self.stage == Stage::Connecting
    }

    /// Time since `connect`, where that was seen.
    #[must_use]
    pub fn age(&self, time: Nanos) -> Option<Nanos> {
        let start = self.began.or(self.established)?;
        Some(time.saturating_sub(start))
    }

    /// Commands beyond the set-up, where all were seen.
    #[must_use]
    pub fn commands(&self) -> Option<u64> {
        let set_up = self.ready.map_or(0, |ready| ready.commands);
        (self.established.is_some() && !self.undecoded)
            .then(|| self.commands.saturating_sub(set_up.into()))
    }

    /// It has ended, or the attempt at it.
    pub fn close(&mut self, pool: Option<&mut Pool>, fault: Option<Fault>, time: Nanos) {
        let Some(pool) = pool else { return };
        pool.change(self.held(), Held::default(), time);
        if self.stage == Stage::Connecting {
            return pool.failed(fault);
        }
        if self.used {
            pool.busy(time.saturating_sub(self.since));
        }
        pool.closed(fault, self.age(time), self.commands(), time);
    }

    fn changed(&self, old: Held, pool: Option<&mut Pool>, time: Nanos) {
        if let Some(pool) = pool {
            pool.change(old, self.held(), time);
        }
    }

    /// What it adds to its pool. Requests outstanding are far fewer than an `i32` holds.
    fn held(&self) -> Held {
        if self.stage == Stage::Connecting {
            return Held {
                opening: 1,
                ..Held::default()
            };
        }
        Held {
            opening: self.load.setting_up.into(),
            idle: (!self.used).into(),
            used: self.used.into(),
            setting_up: self.load.setting_up.into(),
            queued: self.load.waiting.saturating_sub(1) as i32,
            late: self.late as i32,
        }
    }
}
