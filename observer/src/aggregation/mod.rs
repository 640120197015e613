//! What transactions add up to: metrics of each observed service, and plain totals.
//!
//! ```text
//! pipeline thread                                   export thread
//! Aggregator ── bound handles ──▶ provider of a ──▶ Metrics::collect ──▶ sinks
//!     │         (one a series)    service (SDK)
//!     └── Summary
//! ```
//!
//! One [`Aggregator`] a pipeline thread; all of them share one [`Metrics`]. [`Aggregator::bind`] resolves what is fixed
//! for a connection; [`Aggregator::record`] then finds its series by array index.

mod aggregator;
mod exemplar;
mod facts;
mod metrics;
mod observer;
pub mod pattern;
mod pool;
mod provider;
mod quantile;
mod rate;
mod resource;
mod series;
mod summary;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use aggregator::{Aggregator, SeriesId};
pub use exemplar::{Exemplar, SpanReference};
pub use facts::{Failure, failure, has_latency, redirected, value_size};
pub use metrics::{Metrics, Options, Scraped};
pub use pool::{Connection, Pool, fault_name};
pub use rate::HIT_RATE_TEXT;
pub use resource::{attributes as resource_attributes, resource, said_of_observer};
pub use summary::{Summary, Totals};
