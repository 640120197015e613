//! Spans and metrics to a collector, over gRPC or HTTP/protobuf.
//!
//! Each observed service is a resource of its own and so has a span exporter of its own; all of them share one gRPC
//! channel or HTTP client. An export that fails for a reason that may pass is tried again by opentelemetry-otlp, after longer and
//! longer pauses or when the collector says (`Retry-After`, RetryInfo), until its timeout; then its spans are dropped and
//! counted. The next batch tries anew, so a collector that comes back is found without help.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::SpanExporter as _;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Item;
use super::options::SpanLimits;
use super::queue::{Drained, Queue};
use super::span::Span;
use super::transport::Transport;
use crate::aggregation::resource;
use crate::enrichment::Service;
use crate::telemetry::names::value;
use crate::telemetry::{SpanOutcome, Telemetry};

/// Requests under way at once. It bounds memory and keeps a far collector busy.
const CONCURRENT: usize = 4;
/// Exporters kept, each of a service; the one used longest ago is forgotten.
const MAX_EXPORTERS: usize = 512;
/// Between two log lines about the same trouble.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Why an export ends at the deadline.
const STOPPING: &str = "stopping";

/// When exports must end, once the sinks are told to stop.
pub(super) type Deadline = watch::Receiver<Option<Instant>>;

/// Runs an export, for at most `timeout` and not beyond the deadline.
async fn bounded(
    export: impl Future<Output = OTelSdkResult>,
    timeout: Duration,
    mut deadline: Deadline,
) -> Result<(), String> {
    let ended = async move {
        let end = match deadline.wait_for(Option::is_some).await {
            Ok(end) => *end,
            Err(_) => None,
        };
        match end {
            Some(end) => tokio::time::sleep_until(end.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = tokio::time::timeout(timeout, export) => match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {timeout:?}")),
        },
        () = ended => Err(STOPPING.to_owned()),
    }
}

/// Says that exports fail, at most once a minute, and that they work again, if it said that they fail.
#[derive(Debug)]
struct Log {
    what: &'static str,
    said: Option<Instant>,
    /// The last thing said is that exports fail.
    complaining: bool,
    /// Lost and not yet said.
    lost: u64,
}

impl Log {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            said: None,
            complaining: false,
            lost: 0,
        }
    }

    fn failed(&mut self, lost: u64, endpoint: &str, reason: &str) {
        self.lost += lost;
        let now = Instant::now();
        if self
            .said
            .is_some_and(|said| now.duration_since(said) < LOG_EVERY)
        {
            return;
        }
        tracing::warn!(
            what = self.what,
            endpoint,
            reason,
            lost = self.lost,
            "OTLP export fails"
        );
        self.said = Some(now);
        self.complaining = true;
        self.lost = 0;
    }

    fn succeeded(&mut self, endpoint: &str) {
        if self.complaining {
            tracing::info!(
                what = self.what,
                endpoint,
                lost = self.lost,
                "OTLP export works again"
            );
            self.complaining = false;
            self.lost = 0;
        }
    }
}

/// Exports the spans of a queue until it is closed.
#[derive(Debug)]
pub(super) struct SpanWorker {
    pub(super) queue: Arc<Queue<Arc<Item>>>,
    pub(super) runtime: Handle,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) transport: Transport,
    /// Longest wait before a batch goes out.
    pub(super) delay: Duration,
    /// Most spans in a request.
    pub(super) batch: usize,
    pub(super) limits: SpanLimits,
    pub(super) deadline: Deadline,
}

/// Exporters by service, with the time of their last use.
#[derive(Debug, Default)]
struct Exporters(HashMap<u32, (Arc<SpanExporter>, u64)>, u64);

impl Exporters {
    fn get(
        &mut self,
        service: &Service,
        transport: &Transport,
    ) -> Result<Arc<SpanExporter>, ExporterBuildError> {
        self.1 += 1;
        if let Some((exporter, used)) = self.0.get_mut(&service.id) {
            *used = self.1;
            return Ok(Arc::clone(exporter));
        }
        if self.0.len() >= MAX_EXPORTERS
            && let Some(oldest) = self
                .0
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(id, _)| *id)
        {
            self.0.remove(&oldest);
        }
        let exporter = Arc::new(transport.span_exporter(&resource(service))?);
        self.0.insert(service.id, (Arc::clone(&exporter), self.1));
        Ok(exporter)
    }
}

impl SpanWorker {
    pub(super) fn run(self) {
        const LONG: Duration = Duration::from_secs(3600);
        let scope = InstrumentationScope::builder(value::SCOPE)
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let mut exporters = Exporters::default();
        let mut log = Log::new("spans");
        let mut items = Vec::new();
        loop {
            match self.queue.drain(&mut items, LONG, self.delay) {
                Drained::Closed => return,
                Drained::Idle => {}
                Drained::Items => {
                    let batches = self.batches(&mut items, &mut exporters, &mut log);
                    self.runtime
                        .block_on(self.export(batches, &scope, &mut log));
                }
            }
        }
    }

    /// Parts items by service, at most `batch` together.
    fn batches(
        &self,
        items: &mut Vec<Arc<Item>>,
        exporters: &mut Exporters,
        log: &mut Log,
    ) -> VecDeque<(Arc<SpanExporter>, Vec<Arc<Item>>)> {
        let mut services: HashMap<u32, Vec<Arc<Item>>> = HashMap::new();
        let mut batches = VecDeque::new();
        let mut close = |items: Vec<Arc<Item>>| {
            let Some(first) = items.first() else { return };
            match exporters.get(&first.observation.service, &self.transport) {
                Ok(exporter) => batches.push_back((exporter, items)),
                Err(error) => self.failed(items.len(), &error.to_string(), log),
            }
        };
        for item in items.drain(..) {
            let batch = services.entry(item.observation.service.id).or_default();
            batch.push(item);
            if batch.len() >= self.batch {
                close(std::mem::take(batch));
            }
        }
        for batch in services.into_values() {
            close(batch);
        }
        batches
    }

    async fn export(
        &self,
        mut batches: VecDeque<(Arc<SpanExporter>, Vec<Arc<Item>>)>,
        scope: &InstrumentationScope,
        log: &mut Log,
    ) {
        let mut running = JoinSet::new();
        loop {
            while running.len() < CONCURRENT
                && let Some((exporter, items)) = batches.pop_front()
            {
                if self.is_over() {
                    let spans = items.iter().map(|item| item.spans()).sum();
                    self.failed(spans, STOPPING, log);
                    continue;
                }
                // Made only now: a span takes several times the room of what it is made of.
                let mut spans: Vec<_> = items
                    .iter()
                    .flat_map(|item| Span::of(&item.observation, item.ids, self.limits))
                    .map(|span| span.into_data(scope))
                    .collect();
                // Batches with children may exceed what a collector takes in one request.
                while !spans.is_empty() {
                    let rest = spans.split_off(self.batch.min(spans.len()));
                    let request = std::mem::replace(&mut spans, rest);
                    let exporter = Arc::clone(&exporter);
                    let (timeout, deadline) =
                        (self.transport.signal.timeout, self.deadline.clone());
                    running.spawn(async move {
                        let count = request.len();
                        let export = async move { exporter.export(request).await };
                        (count, bounded(export, timeout, deadline).await)
                    });
                }
            }
            match running.join_next().await {
                None => return,
                Some(Ok((count, Ok(())))) => {
                    self.telemetry
                        .spans(SpanOutcome::Exported)
                        .add(count as u64);
                    log.succeeded(&self.transport.endpoint);
                }
                Some(Ok((count, Err(reason)))) => {
                    self.failed(count, &self.transport.reason(reason), log);
                }
                // A panic in the exporter: the count of that batch is gone with it.
                Some(Err(error)) => self.failed(0, &error.to_string(), log),
            }
        }
    }

    /// Whether the deadline has passed: what is left is only counted.
    fn is_over(&self) -> bool {
        self.deadline
            .borrow()
            .is_some_and(|end| end <= Instant::now())
    }

    fn failed(&self, count: usize, reason: &str, log: &mut Log) {
        self.telemetry.spans(SpanOutcome::Dropped).add(count as u64);
        log.failed(count as u64, &self.transport.endpoint, reason);
    }
}

/// Exports metrics, resource by resource.
#[derive(Debug)]
pub(super) struct MetricSender {
    exporter: MetricExporter,
    runtime: Handle,
    telemetry: Arc<Telemetry>,
    transport: Transport,
    deadline: Deadline,
    log: Log,
    /// An export of this round failed: the rest would wait for its timeout as well, so it is left out.
    gave_up: bool,
}

impl MetricSender {
    pub(super) fn new(
        transport: &Transport,
        runtime: Handle,
        telemetry: Arc<Telemetry>,
        deadline: Deadline,
    ) -> Result<Self, ExporterBuildError> {
        Ok(Self {
            exporter: transport.metric_exporter()?,
            runtime,
            telemetry,
            transport: transport.clone(),
            deadline,
            log: Log::new("metrics"),
            gave_up: false,
        })
    }

    /// A new round of exports begins.
    pub(super) fn begin(&mut self) {
        self.gave_up = false;
    }

    pub(super) fn send(&mut self, metrics: &ResourceMetrics) {
        if self.gave_up {
            self.telemetry.metric_exports_failed.add(1);
            return;
        }
        let export = bounded(
            self.exporter.export(metrics),
            self.transport.signal.timeout,
            self.deadline.clone(),
        );
        match self.runtime.block_on(export) {
            Ok(()) => self.log.succeeded(&self.transport.endpoint),
            Err(reason) => {
                self.gave_up = true;
                self.telemetry.metric_exports_failed.add(1);
                let reason = self.transport.reason(reason);
                self.log.failed(1, &self.transport.endpoint, &reason);
            }
        }
    }
}
