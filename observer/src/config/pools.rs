//! When a pool of connections is said to be in trouble.

use serde::{Deserialize, Serialize};

/// Thresholds of the rules that `docs/pools.md` states.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pools {
    /// Over how long the rules look, seconds.
    pub window_seconds: u32,
    /// Churn: at least this many connections are closed within the window …
    pub churn_connections: u32,
    /// … and this share of them, 0 to 1, …
    pub churn_share: f64,
    /// … after at most this many commands beyond their set-up.
    pub churn_commands: u64,
    /// Exhaustion: no connection was idle, while one was being opened or commands queued, for this long within the window,
    /// seconds.
    pub exhausted_seconds: f64,
    /// At most one line a pool and rule in the log in this time, seconds.
    pub log_seconds: u32,
}

impl Default for Pools {
    fn default() -> Self {
        Self {
            window_seconds: 10,
            churn_connections: 20,
            churn_share: 0.8,
            churn_commands: 1,
            exhausted_seconds: 1.0,
            log_seconds: 60,
        }
    }
}

impl Pools {
    /// # Errors
    ///
    /// The key whose value makes no sense, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if !(1..=3_600).contains(&self.window_seconds) {
            return Err(("window-seconds", "not within 1 to 3600".to_owned()));
        }
        if !(0.0..=1.0).contains(&self.churn_share) {
            return Err(("churn-share", "not within 0 to 1".to_owned()));
        }
        if !(0.0..=f64::from(self.window_seconds)).contains(&self.exhausted_seconds) {
            return Err(("exhausted-seconds", "not within the window".to_owned()));
        }
        Ok(())
    }
}
