//! What a conversation says of its connection, beside its transactions.

use super::super::setup::{Ready, Setup};
use super::super::watch::Watch;
use super::{Conversation, Phase};
use crate::source::event::Nanos;
use crate::telemetry::Skipped;

/// What occupies a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests that wait for their reply.
    pub waiting: u32,
    /// Whether it is in use: requests wait, or one is being sent; MULTI without EXEC; subscribed; a stream.
    pub occupied: bool,
    /// Whether requests of its set-up wait.
    pub setting_up: bool,
}

impl<W: Watch> Conversation<W> {
    /// This one, of a connection that was established at `time`: [`Self::take_ready`] will tell when it is ready.
    #[must_use]
    pub fn established(mut self, time: Nanos) -> Self {
        self.setup = Some(Setup::new(time));
        self
    }

    /// When the connection was ready, once that is known at `now`; with `ends` it says no more.
    pub fn take_ready(&mut self, now: Nanos, ends: bool) -> Option<Ready> {
        let ready = self.setup.as_ref()?.ready(now, ends)?;
        self.setup = None;
        Some(ready)
    }

    /// Whether [`Self::take_ready`] has still to tell.
    #[must_use]
    pub fn awaits_ready(&self) -> bool {
        self.setup.is_some()
    }

    /// What occupies the connection; `None` while it is not decoded.
    #[must_use]
    pub fn load(&self) -> Option<Load> {
        let occupied = match self.phase {
            Phase::Synced | Phase::Draining => {
                self.matcher.is_occupied() || !self.requests.at_boundary()
            }
            Phase::Ignored(Skipped::Stream | Skipped::Replication) => true,
            Phase::Detecting { .. } | Phase::Waiting | Phase::Ignored(_) => return None,
        };
        Some(Load {
            waiting: self.matcher.waiting() as u32,
            occupied,
            setting_up: self.setup.as_ref().is_some_and(Setup::is_outstanding),
        })
    }
}
