//! Whether the observer is alive and observes: what health checks are told.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the pipeline thread may be silent. It ticks at least every 50 ms while it observes.
const SILENCE: Duration = Duration::from_secs(10);

/// How far the program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The kernel programs are not attached yet.
    Starting,
    /// Attached.
    Observing,
    /// What is queued is exported; nothing is observed any more.
    Stopping,
}

/// Written by the pipeline thread, read by health checks and the watchdog.
#[derive(Debug)]
pub struct Health {
    since: Instant,
    phase: AtomicU8,
    /// Milliseconds from `since` to the last tick.
    ticked: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            phase: AtomicU8::new(Phase::Starting as u8),
            ticked: AtomicU64::new(0),
        }
    }
}

impl Health {
    /// The pipeline thread is at work.
    pub fn tick(&self) {
        let now = self.since.elapsed().as_millis() as u64;
        self.ticked.store(now, Ordering::Relaxed);
    }

    /// When the pipeline thread was last at work, in milliseconds since the start.
    #[must_use]
    pub fn ticked(&self) -> u64 {
        self.ticked.load(Ordering::Relaxed)
    }

    /// The next phase has begun.
    pub fn enter(&self, phase: Phase) {
        self.tick();
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// How far the program is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Observing,
            _ => Phase::Stopping,
        }
    }

    /// How long the pipeline thread has been silent, if that is too long. Only while it observes: attaching and the last
    /// exports have limits of their own.
    #[must_use]
    pub fn stuck(&self) -> Option<Duration> {
        let ticked = Duration::from_millis(self.ticked());
        let silent = self.since.elapsed().saturating_sub(ticked);
        (self.phase() == Phase::Observing && silent > SILENCE).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_stuck_only_while_it_should_tick() {
        let long_ago = Instant::now()
            .checked_sub(SILENCE * 2)
            .expect("the clock has run for longer");
        let health = Health {
            since: long_ago,
            ..Health::default()
        };
        assert_eq!((health.phase(), health.stuck()), (Phase::Starting, None));
        health.enter(Phase::Observing);
        assert_eq!((health.phase(), health.stuck()), (Phase::Observing, None));
        health.ticked.store(0, Ordering::Relaxed);
        assert!(health.stuck().is_some_and(|silent| silent >= SILENCE * 2));
        health.enter(Phase::Stopping);
        assert_eq!((health.phase(), health.stuck()), (Phase::Stopping, None));
    }
}
