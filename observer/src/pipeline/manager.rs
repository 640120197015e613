//! What a service manager is told, by sd_notify(3): that all is observed, that the pipeline is at work, that a reload or the
//! end has begun. Where there is none (`NOTIFY_SOCKET` is not set) nothing is done.
//!
//! Each message opens a socket of its own, which the system-call filter allows, so it matters not what was given up before.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

use crate::telemetry::Telemetry;

/// All is observed, from the start or after a reload.
pub(super) fn ready(watched: &str) {
    tell(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("observing {watched}")),
    ]);
}

/// The configuration is read again; [`ready`] ends it.
pub(super) fn reloading() {
    // Managers that act on the message at once want to know that it is no older than their request.
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// The end has begun.
pub(super) fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("exporting what is queued"),
    ]);
}

/// Tells twice in the time that the manager allows that the pipeline thread is at work, as long as it is. Without a watchdog
/// it waits for ever.
pub(super) async fn watchdog(telemetry: &Telemetry) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| *limit > Duration::ZERO) else {
        return std::future::pending().await;
    };
    let mut told = None;
    loop {
        tokio::time::sleep(limit / 2).await;
        let ticked = Some(telemetry.health.ticked());
        if ticked != told {
            told = ticked;
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// A manager that cannot be told is no reason to end: it knows best what to do then.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager cannot be told");
    }
}
