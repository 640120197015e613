//! Where the answers go: the console, JSON Lines, OTLP.
//!
//! ```text
//! pipeline thread              worker threads
//! Sinks::submit ──▶ queue ──▶ text: console, JSON Lines ──▶ standard output or a file
//!               └─▶ queue ──▶ otlp: batches by service  ──▶ collector
//!                             metrics: Metrics::collect every interval ──▶ all of these
//! ```
//!
//! Queues are bounded. When one is full a span is dropped and counted, or, for capture files, [`Sinks::submit`] waits. A
//! span counts in `observer.spans` once for the text worker and once for the OTLP worker.

mod console;
mod jsonl;
mod metrics;
mod options;
mod otlp;
mod queue;
mod span;
#[cfg(test)]
mod tests;
mod text;
mod transport;

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use self::console::Console;
use self::metrics::MetricsWorker;
use self::otlp::{MetricSender, SpanWorker};
use self::queue::Queue;
use self::span::Ids;
use self::text::{TextWorker, Writer};
use self::transport::Transport;
use crate::aggregation::Metrics;
use crate::enrichment::Observation;
use crate::source::confine;
use crate::telemetry::{SpanOutcome, Telemetry};

pub use options::{
    Compression, Exporter, OtlpOptions, OtlpProtocol, OtlpSignal, OtlpTls, Output, Overflow,
    SinkError, SinkOptions,
};

/// Text is formatted and written in batches of this many spans while they come in fast.
const TEXT_BATCH: usize = 512;
/// Left at the end of a shutdown for threads to notice that it is over.
const GRACE: Duration = Duration::from_millis(100);

/// What goes through the queues.
#[derive(Debug)]
struct Item {
    observation: Observation,
    ids: Ids,
}

/// The running exporters.
#[derive(Debug)]
pub struct Sinks {
    queues: Vec<Arc<Queue<Arc<Item>>>>,
    telemetry: Arc<Telemetry>,
    writer: Option<Arc<Writer>>,
    deadline: watch::Sender<Option<Instant>>,
    running: Mutex<Running>,
}

/// What a shutdown takes down.
#[derive(Debug, Default)]
struct Running {
    spans: Vec<Worker>,
    metrics: Option<(Sender<()>, Worker)>,
    runtime: Option<Runtime>,
}

/// A thread, by the channel that it closes when it ends.
#[derive(Debug)]
struct Worker(Receiver<()>);

impl Worker {
    fn start(
        name: &str,
        begin: fn(),
        work: impl FnOnce() + Send + 'static,
    ) -> Result<Self, SinkError> {
        let (end, ended) = mpsc::channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                begin();
                let _end = end;
                work();
            })?;
        Ok(Self(ended))
    }

    fn wait(&self, until: Instant) {
        let _ = self
            .0
            .recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

impl Sinks {
    /// Opens the output, checks the OTLP settings and starts the worker threads. Connects to nothing yet: a collector that
    /// is away is no error.
    ///
    /// # Errors
    ///
    /// [`SinkError`] for the user to correct.
    pub fn start(
        options: SinkOptions,
        telemetry: Arc<Telemetry>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SinkError> {
        let spans_to = |exporter| options.traces.contains(&exporter);
        let metrics_to = |exporter| options.metrics.contains(&exporter);
        let any = |exporter| spans_to(exporter) || metrics_to(exporter);
        let (stop, deadline) = watch::channel(None);
        // What needs privileges is done here, on the caller's thread.
        let begin = match options.confined {
            true => confine::give_up_all,
            false => || {},
        };
        let mut running = Running::default();
        let mut queues = Vec::new();

        let writer = match any(Exporter::Console) || any(Exporter::Jsonl) {
            true => Some(Arc::new(Writer::open(&options.output)?)),
            false => None,
        };
        let console = writer.as_ref().map(|writer| {
            let plain = || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let color = options
                .color
                .unwrap_or_else(|| writer.is_terminal() && !plain());
            Console::new(color, TimeZone::system())
        });

        let mut sender = None;
        if any(Exporter::Otlp) {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("otlp-io")
                .on_thread_start(begin)
                .enable_all()
                .build()?;
            let otlp = &options.otlp;
            let within = runtime.enter();
            let traces = match spans_to(Exporter::Otlp) {
                true => Some(Transport::new(
                    "OTLP exporter for traces",
                    &otlp.traces,
                    None,
                )?),
                false => None,
            };
            if metrics_to(Exporter::Otlp) {
                let name = "OTLP exporter for metrics";
                let transport = Transport::new(name, &otlp.metrics, traces.as_ref())?;
                let handle = runtime.handle().clone();
                let made =
                    MetricSender::new(&transport, handle, Arc::clone(&telemetry), deadline.clone());
                sender = Some(made.map_err(|error| SinkError::Setting {
                    name: name.to_owned(),
                    reason: error.to_string(),
                })?);
            }
            if let Some(transport) = traces {
                let batch = otlp.batch.clamp(1, options.queue.max(1));
                let queue = Arc::new(Queue::new(options.queue, batch, options.overflow));
                queues.push(Arc::clone(&queue));
                let worker = SpanWorker {
                    queue,
                    runtime: runtime.handle().clone(),
                    telemetry: Arc::clone(&telemetry),
                    transport,
                    delay: otlp.schedule_delay,
                    batch,
                    deadline,
                };
                running
                    .spans
                    .push(Worker::start("otlp-spans", begin, || worker.run())?);
            }
            drop(within);
            running.runtime = Some(runtime);
        }

        if let Some(writer) = &writer
            && (spans_to(Exporter::Console) || spans_to(Exporter::Jsonl))
        {
            let queue = Arc::new(Queue::new(options.queue, TEXT_BATCH, options.overflow));
            queues.push(Arc::clone(&queue));
            let worker = TextWorker {
                queue,
                writer: Arc::clone(writer),
                telemetry: Arc::clone(&telemetry),
                console: console.clone().filter(|_| spans_to(Exporter::Console)),
                jsonl: spans_to(Exporter::Jsonl),
                idle: options.idle.clone(),
            };
            running
                .spans
                .push(Worker::start("text", begin, || worker.run())?);
        }

        if !options.metrics.is_empty() {
            let (stop, stopped) = mpsc::channel();
            let worker = MetricsWorker {
                metrics,
                interval: options.metric_interval.max(Duration::from_millis(1)),
                stopped,
                writer: writer.clone(),
                console: metrics_to(Exporter::Console),
                jsonl: metrics_to(Exporter::Jsonl),
                otlp: sender,
            };
            running.metrics = Some((stop, Worker::start("metrics", begin, || worker.run())?));
        }

        Ok(Self {
            queues,
            telemetry,
            writer,
            deadline: stop,
            running: Mutex::new(running),
        })
    }

    /// Whether any exporter takes spans. When none does, `submit` does nothing and details need not be decoded.
    #[must_use]
    pub fn wants_spans(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Hands over an observation to be exported as a span. Never blocks with [`Overflow::Drop`].
    pub fn submit(&self, observation: Observation) {
        if self.queues.is_empty() {
            return;
        }
        let item = Arc::new(Item {
            observation,
            ids: Ids::random(),
        });
        let weight = item.observation.exchange.transactions().len();
        for queue in &self.queues {
            if !queue.push(Arc::clone(&item), weight) {
                self.telemetry.spans(SpanOutcome::Dropped).add(1);
            }
        }
    }

    /// Whether the reader of the output went away (`| head`), so that nobody will see more of it.
    #[must_use]
    pub fn output_closed(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.closed())
    }

    /// Exports what is queued and the last metrics, for at most `deadline`; what is left then is dropped and counted.
    ///
    /// To be called after the last `submit`, from a thread that may block (not from an async task). A second call does
    /// nothing.
    pub fn shutdown(&self, deadline: Duration) {
        let running =
            std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let end = Instant::now() + deadline.saturating_sub(GRACE);
        // Spans first, so that the last metrics count them; those get a quarter of the time at least.
        let spans_end = match &running.metrics {
            Some(_) => end - deadline.saturating_sub(GRACE) / 4,
            None => end,
        };
        self.deadline.send_replace(Some(spans_end));
        for queue in &self.queues {
            queue.close();
        }
        for worker in &running.spans {
            worker.wait(spans_end + GRACE / 2);
        }
        for queue in &self.queues {
            let left = queue.discard();
            self.telemetry.spans(SpanOutcome::Dropped).add(left as u64);
        }
        self.deadline.send_replace(Some(end));
        if let Some((stop, worker)) = &running.metrics {
            let _ = stop.send(());
            worker.wait(end + GRACE / 2);
        }
        if let Some(runtime) = running.runtime {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}
