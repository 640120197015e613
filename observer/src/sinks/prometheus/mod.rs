//! Scrapes: cumulative points of all services on one page, as Prometheus reads it.
//!
//! ```text
//! request ─▶ Scrapes ─▶ Metrics::scrape ─▶ Snapshot ─▶ Exposition ─▶ response
//!            one at a time               shared by    text, piece by piece
//!                                        who waited
//! ```
//!
//! Written here because no crate does it: prometheus-client and prometheus keep registries of their own,
//! opentelemetry-prometheus stands on the latter and has neither OpenMetrics nor exemplars, and all want one resource.

mod exposition;
mod family;
mod name;
mod protobuf;
#[cfg(test)]
mod tests;
mod text;

use std::sync::{Arc, Weak};
use std::time::Instant;

use hyper::body::Bytes;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use self::exposition::{Exposition, Snapshot};
use crate::aggregation::Metrics;
use crate::telemetry::Telemetry;

pub(super) use self::family::Format;

/// Snapshots at once. Who asks while one is taken shares the next. When slow readers hold all of them, the last is given out
/// again.
const MAX_SNAPSHOTS: usize = 2;

/// A snapshot that is being read.
#[derive(Debug)]
struct Held {
    snapshot: Arc<Snapshot>,
    begun: Instant,
    _permit: OwnedSemaphorePermit,
}

/// An answer to a scrape, made while it is sent.
#[derive(Debug)]
pub(super) struct Page {
    exposition: Exposition,
    /// Keeps the place of the snapshot.
    _held: Arc<Held>,
}

impl Iterator for Page {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.exposition.next()
    }
}

/// Answers scrapes.
#[derive(Debug)]
pub(super) struct Scrapes {
    metrics: Arc<Metrics>,
    telemetry: Arc<Telemetry>,
    places: Arc<Semaphore>,
    /// The last snapshot, while somebody reads it.
    last: Mutex<Weak<Held>>,
}

impl Scrapes {
    pub(super) fn new(metrics: Arc<Metrics>, telemetry: Arc<Telemetry>) -> Self {
        Self {
            metrics,
            telemetry,
            places: Arc::new(Semaphore::new(MAX_SNAPSHOTS)),
            last: Mutex::default(),
        }
    }

    /// All points as of now; `None` at the end of the program.
    pub(super) async fn scrape(&self, format: Format) -> Option<Page> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        let full = self.places.available_permits() == 0;
        let shared = last.upgrade().filter(|held| full || held.begun >= asked);
        let held = match shared {
            Some(held) => held,
            None => Arc::new(self.take().await?),
        };
        *last = Arc::downgrade(&held);
        self.telemetry.scrapes.add(1);
        Some(Page {
            exposition: Exposition::new(format, Arc::clone(&held.snapshot)),
            _held: held,
        })
    }

    async fn take(&self) -> Option<Held> {
        let permit = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let begun = Instant::now();
        let metrics = Arc::clone(&self.metrics);
        // The place goes along: who asked may go away meanwhile, and the next must not begin beside it.
        let taken = tokio::task::spawn_blocking(move || Held {
            snapshot: Arc::new(Snapshot::take(&metrics)),
            begun,
            _permit: permit,
        });
        taken.await.ok()
    }
}
