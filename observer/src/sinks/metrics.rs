//! The worker that collects metrics at each interval and hands them to every exporter.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::console::Table;
use super::jsonl;
use super::otlp::MetricSender;
use super::text::Writer;
use crate::aggregation::Metrics;

#[derive(Debug)]
pub(super) struct MetricsWorker {
    pub(super) metrics: Arc<Metrics>,
    pub(super) interval: Duration,
    /// Says when to export for the last time.
    pub(super) stopped: Receiver<()>,
    pub(super) writer: Option<Arc<Writer>>,
    pub(super) console: bool,
    pub(super) jsonl: bool,
    pub(super) otlp: Option<MetricSender>,
}

impl MetricsWorker {
    pub(super) fn run(mut self) {
        let mut next = Instant::now() + self.interval;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let stopped = self.stopped.recv_timeout(left);
            self.export();
            if stopped != Err(RecvTimeoutError::Timeout) {
                return;
            }
            // An export that took longer than the interval is not made up for.
            next = (next + self.interval).max(Instant::now());
        }
    }

    fn export(&mut self) {
        let mut table = Table::default();
        let mut json = Vec::new();
        if let Some(otlp) = &mut self.otlp {
            otlp.begin();
        }
        self.metrics.collect(|metrics| {
            if self.console {
                table.add(&metrics);
            }
            if self.jsonl {
                jsonl::metrics(&metrics, &mut json);
            }
            if let Some(otlp) = &mut self.otlp {
                otlp.send(&metrics);
            }
        });
        let mut text = table.render().into_bytes();
        text.append(&mut json);
        if let Some(writer) = self.writer.as_ref().filter(|_| !text.is_empty()) {
            // A failure is reported by the writer; cumulative points come again.
            writer.write(&text);
        }
    }
}
