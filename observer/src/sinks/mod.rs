//! Where the answers go: the console, JSON Lines, OTLP, Prometheus.
//!
//! ```text
//! pipeline thread              worker threads
//! Sinks::submit ──▶ queue ──▶ text: console, JSON Lines ──▶ standard output or a file
//!               └─▶ queue ──▶ otlp: batches by service  ──▶ collector
//!                             metrics: Metrics::collect every interval ──▶ all of these
//!                             http: Metrics::scrape when asked ──▶ Prometheus
//! ```
//!
//! Queues are bounded. When one is full a span is dropped and counted, or, for capture files, [`Sinks::submit`] waits. A
//! span counts in `observer.spans` once for the text worker and once for the OTLP worker.

mod console;
mod http;
mod jsonl;
mod keys;
mod metrics;
mod options;
mod otlp;
mod policy;
mod prometheus;
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
use self::http::{Listener, Pages};
use self::metrics::MetricsWorker;
use self::otlp::{MetricSender, SpanWorker};
use self::prometheus::Scrapes;
use self::queue::Queue;
use self::span::{Ids, Span};
use self::text::{TextWorker, Writer};
use self::transport::Transport;
use crate::aggregation::{Metrics, SpanReference};
use crate::config::export::Export;
use crate::enrichment::Observation;
use crate::source::confine;
use crate::telemetry::{SpanOutcome, Telemetry};
use crate::transaction::{Exchange, Transaction};

pub use options::{
    Compression, Exporter, OtlpOptions, OtlpProtocol, OtlpSignal, OtlpTls, Output, Overflow,
    SinkError, SinkOptions, SpanLimits,
};
pub use policy::{BudgetId, Policy, Sample};

/// Text is formatted and written in batches of this many spans while they come in fast.
const TEXT_BATCH: usize = 512;
/// Bytes of detail that an ordinary command has at most.
const ITEM: usize = 1024;
/// How long after its end a shutdown waits for a thread: it has only to count what is left, but may be kept from it by others.
const LATE: Duration = Duration::from_secs(1);
/// Left at the end of a shutdown for threads to notice that it is over.
const GRACE: Duration = Duration::from_millis(100);

/// What goes through the queues.
#[derive(Debug)]
struct Item {
    observation: Observation,
    ids: Ids,
}

impl Item {
    /// How many spans it becomes.
    fn spans(&self) -> usize {
        Span::count(&self.observation.exchange, &self.observation.export)
    }
}

/// An observation that is on its way.
#[derive(Debug)]
pub struct Submitted(Arc<Item>);

impl Submitted {
    /// The span that it becomes: of a batch, the one of all its commands.
    #[must_use]
    pub fn span(&self) -> SpanReference {
        SpanReference {
            trace: self.0.ids.trace,
            span: self.0.ids.span,
        }
    }

    /// What happened.
    #[must_use]
    pub fn transactions(&self) -> &[Transaction] {
        self.0.observation.exchange.transactions()
    }
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

        let listeners = listeners(&options, &telemetry, &metrics)?;
        let mut sender = None;
        if any(Exporter::Otlp) || !listeners.is_empty() {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .on_thread_start(begin)
                // Pages of metrics are made there, one at a time, and host names looked up.
                .max_blocking_threads(4)
                .thread_name("exporter-io")
                .enable_all()
                .build()?;
            for listener in listeners {
                listener.start(runtime.handle())?;
            }
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
                    limits: options.limits,
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
                limits: options.limits,
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

    /// Hands over an observation to be exported as a span; `None` when no exporter takes it. Never blocks with
    /// [`Overflow::Drop`].
    pub fn submit(&self, observation: Observation, sample: Sample) -> Option<Submitted> {
        self.put(observation, Ids::new(sample))
    }

    /// Hands over what the server did of a client's span, which was submitted with `sample`: it becomes a child of it.
    pub fn submit_served(
        &self,
        observation: Observation,
        client: SpanReference,
        sample: Sample,
    ) -> Option<Submitted> {
        self.put(observation, Ids::served(client, sample))
    }

    fn put(&self, observation: Observation, ids: Ids) -> Option<Submitted> {
        if self.queues.is_empty() {
            return None;
        }
        let item = Arc::new(Item { observation, ids });
        let exchange = &item.observation.exchange;
        let commands = exchange.transactions().len();
        // With long keys it takes the place of several.
        let weight = commands.max(exchange.detail_memory() / ITEM).max(1);
        self.due(item.spans());
        let mut taken = false;
        for queue in &self.queues {
            if queue.push(Arc::clone(&item), weight) {
                taken = true;
            } else {
                self.count(
                    SpanOutcome::Dropped,
                    &item.observation.exchange,
                    &item.observation.export,
                );
            }
        }
        taken.then_some(Submitted(item))
    }

    /// Counts the spans of an exchange that the policy leaves out.
    pub fn leave_out(&self, exchange: &Exchange, export: &Export) {
        self.due(Span::count(exchange, export));
        for _ in &self.queues {
            self.count(SpanOutcome::SampledOut, exchange, export);
        }
    }

    /// Each queue is to have so many spans.
    fn due(&self, spans: usize) {
        let due = spans * self.queues.len();
        self.telemetry.ledger.spans_due.add(due as u64);
    }

    /// Counts the spans of an exchange whose client's span found no room.
    pub fn drop_served(&self, exchange: &Exchange, export: &Export) {
        self.due(Span::count(exchange, export));
        for _ in &self.queues {
            self.count(SpanOutcome::Dropped, exchange, export);
        }
    }

    fn count(&self, outcome: SpanOutcome, exchange: &Exchange, export: &Export) {
        let spans = Span::count(exchange, export);
        self.telemetry.spans(outcome).add(spans as u64);
    }

    /// Whether the reader of the output went away (`| head`), so that nobody will see more of it.
    #[must_use]
    pub fn output_closed(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.closed())
    }

    /// What workers still hold, such as one that waits for whoever does not read its output, is not exported any more.
    fn give_up(&self) {
        let told = |outcome| self.telemetry.spans(outcome).get();
        let told: u64 = SpanOutcome::ALL.iter().map(|outcome| told(*outcome)).sum();
        let held = self.telemetry.ledger.spans_due.get().saturating_sub(told);
        self.telemetry.spans(SpanOutcome::Dropped).add(held);
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
            worker.wait(spans_end + LATE);
        }
        for queue in &self.queues {
            let left: usize = queue.discard().iter().map(|item| item.spans()).sum();
            self.telemetry.spans(SpanOutcome::Dropped).add(left as u64);
        }
        self.give_up();
        self.deadline.send_replace(Some(end));
        if let Some((stop, worker)) = &running.metrics {
            let _ = stop.send(());
            worker.wait(end + LATE);
        }
        if let Some(runtime) = running.runtime {
            runtime.shutdown_background();
        }
    }
}

/// The listeners that are asked for: one for both uses if the address is the same.
fn listeners(
    options: &SinkOptions,
    telemetry: &Arc<Telemetry>,
    metrics: &Arc<Metrics>,
) -> Result<Vec<Listener>, SinkError> {
    const PROMETHEUS: &str = "--prometheus-listen";
    const HEALTH: &str = "--health-listen";
    let scrapes = || {
        Some(Arc::new(Scrapes::new(
            Arc::clone(metrics),
            Arc::clone(telemetry),
        )))
    };
    let health = || Some(Arc::clone(telemetry));
    let both = options.prometheus.is_some() && options.prometheus == options.health;
    let mut listeners = Vec::new();
    if let Some(address) = options.prometheus {
        let pages = Pages {
            metrics: scrapes(),
            health: health().filter(|_| both),
        };
        listeners.push(Listener::bind(PROMETHEUS, address, pages)?);
    }
    if let Some(address) = options.health.filter(|_| !both) {
        let pages = Pages {
            metrics: None,
            health: health(),
        };
        listeners.push(Listener::bind(HEALTH, address, pages)?);
    }
    Ok(listeners)
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}
