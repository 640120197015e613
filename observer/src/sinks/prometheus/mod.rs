//! Scrapes: cumulative points of all services on one page, as Prometheus reads it.
//!
//! ```text
//! request ─▶ Format::accepted ─▶ Scrapes ─▶ Metrics::scrape ─▶ Exposition ─▶ Page ─▶ response
//!                                one at a time               families of text       shared by who waited
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

use self::exposition::Exposition;
use crate::aggregation::Metrics;
use crate::telemetry::{ScrapeOutcome, Telemetry};

pub(super) use self::family::Format;

/// Pages of one format that are being made or read. Who asks while a page is made shares the next. When all are held by slow
/// readers, the last of them is given out again.
const MAX_PAGES: usize = 2;
/// Most bytes of a page. 5,000 histograms of 18 buckets take 25 MB.
const MAX_PAGE: usize = 64 * 1024 * 1024;

/// An answer to a scrape.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) pieces: Vec<Bytes>,
    begun: Instant,
    _permit: OwnedSemaphorePermit,
}

/// Why a scrape is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("more than {} MiB of metrics: fewer series, or OTLP, would help", MAX_PAGE >> 20)]
    Size,
    #[error("stopping")]
    Stopping,
}

/// Answers scrapes.
#[derive(Debug)]
pub(super) struct Scrapes {
    metrics: Arc<Metrics>,
    telemetry: Arc<Telemetry>,
    places: [Arc<Semaphore>; Format::ALL.len()],
    /// The last page of each format, while somebody reads it.
    last: Mutex<[Weak<Page>; Format::ALL.len()]>,
}

impl Scrapes {
    pub(super) fn new(metrics: Arc<Metrics>, telemetry: Arc<Telemetry>) -> Self {
        Self {
            metrics,
            telemetry,
            places: Format::ALL.map(|_| Arc::new(Semaphore::new(MAX_PAGES))),
            last: Mutex::default(),
        }
    }

    /// All points as of now.
    pub(super) async fn scrape(&self, format: Format) -> Result<Arc<Page>, Refused> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        let shared = last[format as usize].upgrade();
        let held = self.places[format as usize].available_permits() == 0;
        let page = match shared.filter(|page| held || page.begun >= asked) {
            Some(page) => page,
            None => Arc::new(self.page(format).await?),
        };
        last[format as usize] = Arc::downgrade(&page);
        self.telemetry.scrapes(ScrapeOutcome::Answered).add(1);
        Ok(page)
    }

    async fn page(&self, format: Format) -> Result<Page, Refused> {
        let places = Arc::clone(&self.places[format as usize]);
        let permit = places.acquire_owned().await;
        let permit = permit.map_err(|_| Refused::Stopping)?;
        let begun = Instant::now();
        let metrics = Arc::clone(&self.metrics);
        let made = tokio::task::spawn_blocking(move || {
            let mut exposition = Exposition::new(format, MAX_PAGE);
            metrics.scrape(|scraped| exposition.add(scraped));
            exposition.finish()
        });
        let Some(pieces) = made.await.map_err(|_| Refused::Stopping)? else {
            self.telemetry.scrapes(ScrapeOutcome::Refused).add(1);
            return Err(Refused::Size);
        };
        Ok(Page {
            pieces,
            begun,
            _permit: permit,
        })
    }
}
