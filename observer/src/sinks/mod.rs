//! Where the answers go: the console, JSON Lines, OTLP.
//!
//! ```text
//! pipeline thread              worker threads
//! Sinks::submit ──▶ queue ──▶ text: console, JSON Lines ──▶ standard output or a file
//!               └─▶ queue ──▶ otlp: batches by service  ──▶ collector
//!                             metrics: Metrics::collect every interval ──▶ all of these
//! ```
//!
//! Queues are bounded. When one is full a span is dropped and counted, or, for capture files, [`Sinks::submit`] waits.

mod options;

use std::sync::Arc;
use std::time::Duration;

use crate::aggregation::Metrics;
use crate::enrichment::Observation;
use crate::telemetry::Telemetry;

pub use options::{
    Compression, Exporter, OtlpOptions, OtlpProtocol, OtlpSignal, Output, Overflow, SinkError,
    SinkOptions,
};

/// The running exporters.
#[derive(Debug)]
pub struct Sinks {}

impl Sinks {
    /// Opens the output, checks the OTLP settings and starts the worker threads. Connects to nothing yet: a collector that
    /// is away is no error.
    pub fn start(
        _options: SinkOptions,
        _telemetry: Arc<Telemetry>,
        _metrics: Arc<Metrics>,
    ) -> Result<Self, SinkError> {
        Ok(Self {})
    }

    /// Whether any exporter takes spans. When none does, `submit` does nothing and details need not be decoded.
    #[must_use]
    pub fn wants_spans(&self) -> bool {
        false
    }

    /// Hands over an observation to be exported as a span. Never blocks with [`Overflow::Drop`].
    pub fn submit(&self, _observation: Observation) {}

    /// Whether standard output was closed by its reader (`| head`), so that nobody will see more.
    #[must_use]
    pub fn output_closed(&self) -> bool {
        false
    }

    /// Exports what is queued and the last metrics, for at most `deadline`; what is left then is dropped and counted. To be
    /// called once, after the last `submit`.
    pub fn shutdown(&self, _deadline: Duration) {}
}
