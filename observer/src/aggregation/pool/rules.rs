//! Churn and exhaustion: two rules, each over a window of time.

use super::Slot;
use crate::config::pools::Pools as Limits;
use crate::source::event::Nanos;

const SECOND: Nanos = 1_000_000_000;

/// What one pool did in the window, and what was said of it.
#[derive(Debug)]
pub(super) struct Rules {
    limits: Limits,
    /// When the window began.
    began: Nanos,
    closed: u32,
    churned: u32,
    /// Time without an idle connection in this window, up to `since`.
    exhausted: Nanos,
    /// Not handed on yet.
    untold: Nanos,
    /// While there is none: up to when that is counted.
    since: Option<Nanos>,
    churn: State,
    exhaustion: State,
}

/// Whether a rule holds.
#[derive(Debug, Default)]
struct State {
    holds: bool,
    /// It did in this window.
    held: bool,
    /// When the log was told.
    said: Option<Nanos>,
}

impl State {
    /// It holds in this window. Answers whether the log is to be told.
    fn hold(&mut self, now: Nanos, pause: Nanos) -> bool {
        self.held = true;
        if self.holds {
            return false;
        }
        self.holds = true;
        let say = self
            .said
            .is_none_or(|said| now.saturating_sub(said) >= pause);
        if say {
            self.said = Some(now);
        }
        say
    }

    fn end_window(&mut self) {
        self.holds = self.held;
        self.held = false;
    }
}

impl Rules {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            began: 0,
            closed: 0,
            churned: 0,
            exhausted: 0,
            untold: 0,
            since: None,
            churn: State::default(),
            exhaustion: State::default(),
        }
    }

    /// A connection has ended.
    pub(super) fn closed(&mut self, churned: bool, now: Nanos) {
        self.roll(now);
        self.closed += 1;
        self.churned += u32::from(churned);
    }

    /// Whether the pool has none idle and needs one, from now on.
    #[inline]
    pub(super) fn exhausted(&mut self, is: bool, now: Nanos) {
        if !is && self.since.is_none() {
            return;
        }
        if self.since.is_some() {
            self.count(now);
        }
        self.since = match (is, self.since) {
            (false, _) => None,
            (true, None) => {
                self.roll(now);
                Some(now)
            }
            (true, since) => since,
        };
    }

    fn count(&mut self, now: Nanos) {
        self.roll(now);
        if let Some(since) = &mut self.since {
            let time = now.saturating_sub(*since);
            *since = now.max(*since);
            self.exhausted += time;
            self.untold += time;
        }
    }

    fn roll(&mut self, now: Nanos) {
        if now.saturating_sub(self.began) < u64::from(self.limits.window_seconds) * SECOND {
            return;
        }
        self.began = now;
        (self.closed, self.churned, self.exhausted) = (0, 0, 0);
        self.churn.end_window();
        self.exhaustion.end_window();
    }

    /// What has changed: time without an idle connection, and whether the rules hold. `pool` and `service` are for the log.
    pub(super) fn tick(&mut self, now: Nanos, pool: &str, service: &str) -> [(Slot, i64); 3] {
        let before = (self.churn.holds, self.exhaustion.holds);
        self.count(now);
        self.roll(now);
        let limits = &self.limits;
        let pause = u64::from(limits.log_seconds) * SECOND;
        let (closed, churned) = (self.closed, self.churned);
        if closed >= limits.churn_connections.max(1)
            && f64::from(churned) >= limits.churn_share * f64::from(closed)
            && self.churn.hold(now, pause)
        {
            tracing::warn!(
                service,
                pool,
                closed,
                churned,
                "connections are closed after hardly a command: a pool would keep them"
            );
        }
        let seconds = self.exhausted as f64 / SECOND as f64;
        if self.exhausted > 0
            && seconds >= limits.exhausted_seconds
            && self.exhaustion.hold(now, pause)
        {
            tracing::warn!(
                service,
                pool,
                seconds,
                "no connection was idle while one was being opened or commands queued"
            );
        }
        let turned = |before: bool, after: bool| i64::from(after) - i64::from(before);
        [
            (
                Slot::ExhaustedNanos,
                std::mem::take(&mut self.untold) as i64,
            ),
            (Slot::Churning, turned(before.0, self.churn.holds)),
            (Slot::Exhausted, turned(before.1, self.exhaustion.holds)),
        ]
    }

    /// Whether time alone can change something.
    pub(super) fn is_watching(&self) -> bool {
        self.since.is_some() || self.churn.holds || self.exhaustion.holds
    }
}
