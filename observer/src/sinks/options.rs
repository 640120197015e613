//! What the sinks are told: plain data, and the parts of it that the OpenTelemetry environment variables set.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::config::Output;

use crate::enrichment::percent_decoded;

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
    /// Whether the sinks' threads give up all privileges.
    pub confined: bool,
    /// Of the attributes of a span.
    pub limits: SpanLimits,
    /// Where `/metrics` is served.
    pub prometheus: Option<SocketAddr>,
    /// Where `/healthz` and `/readyz` are served. It may be the same address.
    pub health: Option<SocketAddr>,
    /// Of the OTLP exporters.
    pub otlp: OtlpOptions,
}

/// What a span holds at most. `OTEL_SPAN_ATTRIBUTE_…`, else `OTEL_ATTRIBUTE_…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanLimits {
    /// Attributes; further ones are dropped, and their number told. `…_COUNT_LIMIT`.
    pub attributes: usize,
    /// Characters of a text; longer ones are cut. `…_VALUE_LENGTH_LIMIT`.
    pub length: usize,
}

impl Default for SpanLimits {
    fn default() -> Self {
        Self {
            attributes: 128,
            length: usize::MAX,
        }
    }
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            traces: Vec::new(),
            metrics: Vec::new(),
            output: Output::Stdout,
            color: None,
            idle: None,
            queue: crate::config::limits::Limits::default().span_queue,
            overflow: Overflow::Drop,
            metric_interval: Duration::from_secs(60),
            confined: false,
            limits: SpanLimits::default(),
            prometheus: None,
            health: None,
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

/// Files for `https` endpoints, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OtlpTls {
    /// Trusted instead of the system's certificates. `OTEL_EXPORTER_OTLP_CERTIFICATE`.
    pub certificate: Option<PathBuf>,
    /// Shown to the collector. `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`.
    pub client_certificate: Option<PathBuf>,
    /// Its key. `OTEL_EXPORTER_OTLP_CLIENT_KEY`.
    pub client_key: Option<PathBuf>,
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
    /// For `https`.
    pub tls: OtlpTls,
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
            tls: OtlpTls::default(),
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
    /// An address cannot be listened on.
    #[error("{option}: cannot listen on {address}: {source}")]
    Listen {
        /// Who asked for it.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A thread or the runtime could not be started.
    #[error("cannot start an exporter thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl SinkOptions {
    /// Defaults, with what the OpenTelemetry environment variables set on top. `lookup` is `|name| std::env::var(name).ok()`.
    ///
    /// Honoured: `OTEL_METRIC_EXPORT_INTERVAL`, `OTEL_METRIC_EXPORT_TIMEOUT`, `OTEL_BSP_SCHEDULE_DELAY`,
    /// `OTEL_BSP_EXPORT_TIMEOUT`, `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`,
    /// `OTEL_{,SPAN_}ATTRIBUTE_{COUNT,VALUE_LENGTH}_LIMIT` and `OTEL_EXPORTER_OTLP_{,TRACES_,METRICS_}{ENDPOINT,PROTOCOL,HEADERS,TIMEOUT,COMPRESSION,INSECURE,
    /// CERTIFICATE,CLIENT_CERTIFICATE,CLIENT_KEY}`.
    /// An endpoint, protocol or compression that cannot be used is an error; a number that is none is ignored with a
    /// warning, as the specification asks. `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` and `OTEL_BSP_MAX_QUEUE_SIZE` are the
    /// caller's.
    ///
    /// # Errors
    ///
    /// [`SinkError::Setting`], which names the variable.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SinkError> {
        let env = Env(&lookup);
        let mut options = Self::default();
        let millis =
            |name, default: Duration| env.number(name).map_or(default, Duration::from_millis);
        let count = |name: &str, default: usize| {
            env.number(name)
                .and_then(|number| usize::try_from(number).ok())
                .unwrap_or(default)
        };
        options.metric_interval = millis("OTEL_METRIC_EXPORT_INTERVAL", options.metric_interval);
        options.otlp = OtlpOptions {
            traces: OtlpSignal::from_env(&env, "TRACES", "v1/traces")?,
            metrics: OtlpSignal::from_env(&env, "METRICS", "v1/metrics")?,
            schedule_delay: millis("OTEL_BSP_SCHEDULE_DELAY", options.otlp.schedule_delay),
            batch: count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", options.otlp.batch),
        };
        // The processor's limit of time beside the exporter's: the shorter one ends an export.
        for (signal, name) in [
            (&mut options.otlp.traces, "OTEL_BSP_EXPORT_TIMEOUT"),
            (&mut options.otlp.metrics, "OTEL_METRIC_EXPORT_TIMEOUT"),
        ] {
            signal.timeout = signal.timeout.min(millis(name, signal.timeout));
        }
        let limit = |what: &str, default| {
            let own = format!("OTEL_SPAN_ATTRIBUTE_{what}_LIMIT");
            count(
                &own,
                count(&format!("OTEL_ATTRIBUTE_{what}_LIMIT"), default),
            )
        };
        options.limits = SpanLimits {
            attributes: limit("COUNT", options.limits.attributes),
            length: limit("VALUE_LENGTH", options.limits.length),
        };
        Ok(options)
    }
}

struct Env<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Env<'_> {
    /// A variable that is set and not empty.
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name)
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    }

    /// A number above 0.
    fn number(&self, name: &str) -> Option<u64> {
        let text = self.text(name)?;
        match text.parse() {
            Ok(number) if number > 0 => Some(number),
            _ => {
                tracing::warn!(name, value = text, "ignored: not a number above 0");
                None
            }
        }
    }

    /// The variable of the signal, else the one of all signals; and its name.
    fn signal(&self, signal: &str, what: &str) -> Option<(String, String)> {
        let names = [
            format!("OTEL_EXPORTER_OTLP_{signal}_{what}"),
            format!("OTEL_EXPORTER_OTLP_{what}"),
        ];
        names
            .into_iter()
            .find_map(|name| Some((self.text(&name)?, name)))
    }
}

impl OtlpSignal {
    fn from_env(env: &Env<'_>, signal: &str, path: &str) -> Result<Self, SinkError> {
        let protocol = match env.signal(signal, "PROTOCOL") {
            None => OtlpProtocol::default(),
            Some((text, name)) => match text.to_ascii_lowercase().as_str() {
                "grpc" => OtlpProtocol::Grpc,
                "http/protobuf" => OtlpProtocol::HttpProtobuf,
                _ => {
                    let reason =
                        format!("`{text}` is not supported: use `grpc` or `http/protobuf`");
                    return Err(SinkError::Setting { name, reason });
                }
            },
        };
        let compression = match env.signal(signal, "COMPRESSION") {
            None => Compression::None,
            Some((text, name)) => match text.to_ascii_lowercase().as_str() {
                "none" => Compression::None,
                "gzip" => Compression::Gzip,
                _ => {
                    let reason = format!("`{text}` is not supported: use `gzip` or `none`");
                    return Err(SinkError::Setting { name, reason });
                }
            },
        };
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
        let endpoint = match (env.signal(signal, "ENDPOINT"), protocol) {
            (None, OtlpProtocol::Grpc) => "http://localhost:4317".to_owned(),
            (None, OtlpProtocol::HttpProtobuf) => format!("http://localhost:4318/{path}"),
            (Some((text, name)), OtlpProtocol::Grpc) => {
                // A bare host and port means a secure connection, unless OTEL_EXPORTER_OTLP_INSECURE says otherwise.
                let insecure = env
                    .signal(signal, "INSECURE")
                    .is_some_and(|(text, _)| text.eq_ignore_ascii_case("true"));
                let text = match (text.contains("://"), insecure) {
                    (true, _) => text,
                    (false, true) => format!("http://{text}"),
                    (false, false) => format!("https://{text}"),
                };
                check_endpoint(&name, &text)?;
                text
            }
            (Some((text, name)), OtlpProtocol::HttpProtobuf) => {
                check_endpoint(&name, &text)?;
                // The signal's own endpoint is used as it is; to the common one the signal's path is added.
                match name == own {
                    true => text,
                    false => format!("{}/{path}", text.trim_end_matches('/')),
                }
            }
        };
        let headers = match env.signal(signal, "HEADERS") {
            None => Vec::new(),
            Some((text, name)) => headers(&text).ok_or_else(|| SinkError::Setting {
                name,
                // The value may hold a credential, so it is not quoted.
                reason: "not of the form name=value,name=value".to_owned(),
            })?,
        };
        let timeout = env
            .number(&format!("OTEL_EXPORTER_OTLP_{signal}_TIMEOUT"))
            .or_else(|| env.number("OTEL_EXPORTER_OTLP_TIMEOUT"))
            .map_or(Duration::from_secs(10), Duration::from_millis);
        let file = |what| {
            env.signal(signal, what)
                .map(|(path, _)| PathBuf::from(path))
        };
        Ok(Self {
            endpoint,
            protocol,
            headers,
            timeout,
            compression,
            tls: OtlpTls {
                certificate: file("CERTIFICATE"),
                client_certificate: file("CLIENT_CERTIFICATE"),
                client_key: file("CLIENT_KEY"),
            },
        })
    }
}

/// `k1=v1,k2=v2`, values percent-encoded (OTLP exporter specification, "Specifying headers via environment variables").
fn headers(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let name = name.trim();
            (!name.is_empty()).then(|| (name.to_owned(), percent_decoded(value.trim())))
        })
        .collect()
}

/// The URL for logs and errors: without user, password and query, which may be secret.
pub(super) fn shown(endpoint: &str) -> String {
    let endpoint = endpoint.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    match scheme {
        "" => format!("{host}{path}"),
        _ => format!("{scheme}://{host}{path}"),
    }
}

/// An `http` or `https` URL with a host.
pub(super) fn check_endpoint(name: &str, endpoint: &str) -> Result<(), SinkError> {
    let refuse = |reason: String| {
        Err(SinkError::Setting {
            name: name.to_owned(),
            reason: format!("`{}` is no usable URL: {reason}", shown(endpoint)),
        })
    };
    match endpoint.parse::<tonic::transport::Uri>() {
        Err(error) => refuse(error.to_string()),
        Ok(uri) => match (uri.scheme_str(), uri.host()) {
            (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(()),
            (Some("http" | "https"), _) => refuse("it names no host".to_owned()),
            _ => refuse("it must begin with http:// or https://".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<SinkOptions, SinkError> {
        SinkOptions::from_env(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_are_the_specification_s() {
        assert_eq!(from(&[]).unwrap(), SinkOptions::default());
        let grpc = from(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap();
        assert_eq!(grpc.otlp.traces.endpoint, "http://localhost:4317");
    }

    #[test]
    fn reads_the_variables() {
        let options = from(&[
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "30000"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "2000"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "20"),
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "30"),
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "10"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/base/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=y"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://metrics:4317"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip"),
        ])
        .unwrap();
        assert_eq!(options.metric_interval, Duration::from_secs(1));
        assert_eq!((options.limits.attributes, options.limits.length), (20, 10));
        assert_eq!(options.otlp.metrics.timeout, Duration::from_secs(2));
        let otlp = options.otlp;
        assert_eq!(
            (otlp.schedule_delay, otlp.batch),
            (Duration::from_millis(200), 64)
        );
        assert_eq!(otlp.traces.endpoint, "http://collector:4318/base/v1/traces");
        assert_eq!(
            otlp.traces.headers,
            [("api-key".into(), "a b".into()), ("x".into(), "y".into())]
        );
        assert_eq!(otlp.traces.timeout, Duration::from_secs(3));
        assert_eq!(
            otlp.traces.tls.certificate.as_deref(),
            Some("/etc/ca.pem".as_ref())
        );
        assert_eq!(otlp.metrics.endpoint, "http://metrics:4317");
        assert_eq!(otlp.metrics.protocol, OtlpProtocol::Grpc);
        assert_eq!(otlp.metrics.compression, Compression::Gzip);
    }

    #[test]
    fn hides_credentials_of_urls() {
        for (url, text) in [
            (
                "http://u:p@host:4318/v1/traces?token=x",
                "http://host:4318/v1/traces",
            ),
            ("u:p@host", "host"),
            ("https://host", "https://host"),
        ] {
            assert_eq!(shown(url), text);
        }
    }

    #[test]
    fn names_what_cannot_be_used() {
        for (name, text) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://a b"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zip"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://u:secret@collector"),
        ] {
            let error = from(&[(name, text)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
