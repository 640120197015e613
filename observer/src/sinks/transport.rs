//! The connection to a collector: one gRPC channel or HTTP client, shared by the exporters of all services.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, RetryPolicy, SpanExporter, WithExportConfig,
    WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::options::{
    Compression, OtlpProtocol, OtlpSignal, OtlpTls, SinkError, check_endpoint, shown,
};

/// The connection of one signal.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    pub(super) signal: OtlpSignal,
    /// The endpoint as it may be logged.
    pub(super) endpoint: String,
    connection: Connection,
}

#[derive(Debug, Clone)]
enum Connection {
    Grpc(Channel),
    Http(HttpClient),
}

/// The shared client. The exporter reduces every failure to "network error"; this one keeps what it was.
#[derive(Debug, Clone)]
struct HttpClient {
    client: reqwest::Client,
    trouble: Arc<Mutex<Option<String>>>,
}

#[async_trait::async_trait]
impl opentelemetry_http::HttpClient for HttpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let result = opentelemetry_http::HttpClient::send_bytes(&self.client, request).await;
        result.map_err(|error| {
            // The URL is said elsewhere, and may hold a password.
            let error = error.downcast::<reqwest::Error>();
            let error = error.map_or_else(|error| error, |error| Box::new(error.without_url()));
            let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            *trouble = Some(causes(error.as_ref()));
            error
        })
    }
}

impl Transport {
    /// Checks the settings; connects at the first export. To be called within the runtime that drives the connection.
    pub(super) fn new(
        name: &str,
        signal: &OtlpSignal,
        shared: Option<&Transport>,
    ) -> Result<Self, SinkError> {
        let setting = |reason: String| SinkError::Setting {
            name: name.to_owned(),
            reason,
        };
        check_endpoint(name, &signal.endpoint)?;
        if signal.protocol == OtlpProtocol::HttpProtobuf && port(&signal.endpoint) == Some(4317) {
            tracing::warn!(
                endpoint = shown(&signal.endpoint),
                "port 4317 is ordinarily for gRPC, but the protocol is http/protobuf: is OTEL_EXPORTER_OTLP_PROTOCOL=grpc meant?"
            );
        }
        for (header, text) in &signal.headers {
            let usable = tonic::codegen::http::HeaderName::try_from(header).is_ok()
                && tonic::codegen::http::HeaderValue::try_from(text).is_ok();
            if !usable {
                return Err(setting(format!("the header `{header}` cannot be sent")));
            }
        }
        // A channel is for one endpoint, an HTTP client for any with the same keys.
        let shared = shared.map(|other| (&other.signal, &other.connection));
        let shared = shared.filter(|(other, _)| {
            other.protocol == signal.protocol
                && other.tls == signal.tls
                && other.endpoint.starts_with("https:") == signal.endpoint.starts_with("https:")
                && (signal.protocol == OtlpProtocol::HttpProtobuf
                    || other.endpoint == signal.endpoint)
        });
        let connection = match (shared, signal.protocol) {
            (Some((_, connection)), _) => connection.clone(),
            (None, OtlpProtocol::Grpc) => Connection::Grpc(channel(signal).map_err(setting)?),
            (None, OtlpProtocol::HttpProtobuf) => {
                Connection::Http(client(signal).map_err(setting)?)
            }
        };
        let transport = Self {
            signal: signal.clone(),
            endpoint: shown(&signal.endpoint),
            connection,
        };
        // Whatever else the exporters refuse shows here, not at the first span.
        transport
            .span_exporter(&Resource::builder_empty().build())
            .map_err(|error| setting(error.to_string()))?;
        Ok(transport)
    }

    /// What is known of a failure that the exporter described as `reason`.
    pub(super) fn reason(&self, reason: String) -> String {
        let trouble = match &self.connection {
            Connection::Grpc(_) => None,
            Connection::Http(client) => client
                .trouble
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        };
        match trouble {
            Some(trouble) => format!("{reason}: {trouble}"),
            None => reason,
        }
    }

    fn metadata(&self) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for (name, text) in &self.signal.headers {
            if let (Ok(name), Ok(text)) = (
                MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes()),
                text.parse(),
            ) {
                metadata.insert(name, text);
            }
        }
        metadata
    }

    pub(super) fn span_exporter(
        &self,
        resource: &Resource,
    ) -> Result<SpanExporter, ExporterBuildError> {
        let gzip = self.signal.compression == Compression::Gzip;
        let mut exporter = match &self.connection {
            Connection::Grpc(channel) => {
                let mut builder = SpanExporter::builder()
                    .with_tonic()
                    .with_channel(channel.clone())
                    .with_timeout(self.signal.timeout)
                    .with_retry_policy(retry())
                    .with_metadata(self.metadata());
                if gzip {
                    builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
                }
                builder.build()?
            }
            Connection::Http(client) => {
                let mut builder = SpanExporter::builder()
                    .with_http()
                    .with_http_client(client.clone())
                    .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                    .with_endpoint(&self.signal.endpoint)
                    .with_timeout(self.signal.timeout)
                    .with_retry_policy(retry())
                    .with_headers(self.signal.headers.iter().cloned().collect());
                if gzip {
                    builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
                }
                builder.build()?
            }
        };
        exporter.set_resource(resource);
        Ok(exporter)
    }

    pub(super) fn metric_exporter(&self) -> Result<MetricExporter, ExporterBuildError> {
        let gzip = self.signal.compression == Compression::Gzip;
        match &self.connection {
            Connection::Grpc(channel) => {
                let mut builder = MetricExporter::builder()
                    .with_tonic()
                    .with_channel(channel.clone())
                    .with_timeout(self.signal.timeout)
                    .with_retry_policy(retry())
                    .with_metadata(self.metadata());
                if gzip {
                    builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
                }
                builder.build()
            }
            Connection::Http(client) => {
                let mut builder = MetricExporter::builder()
                    .with_http()
                    .with_http_client(client.clone())
                    .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                    .with_endpoint(&self.signal.endpoint)
                    .with_timeout(self.signal.timeout)
                    .with_retry_policy(retry())
                    .with_headers(self.signal.headers.iter().cloned().collect());
                if gzip {
                    builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
                }
                builder.build()
            }
        }
    }
}

/// As often as the timeout of an export allows: 250 ms, 500 ms, 1 s … 5 s apart. A collector that restarts meanwhile costs nothing.
fn retry() -> RetryPolicy {
    RetryPolicy::default()
        .with_max_retries(usize::MAX)
        .with_initial_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(5))
        .with_max_jitter(Duration::from_millis(250))
}

fn port(endpoint: &str) -> Option<u16> {
    endpoint.parse::<tonic::transport::Uri>().ok()?.port_u16()
}

/// A channel that connects at its first use.
fn channel(signal: &OtlpSignal) -> Result<Channel, String> {
    let mut endpoint = Endpoint::from_shared(signal.endpoint.clone())
        .map_err(|error| causes(&error))?
        .connect_timeout(signal.timeout);
    if secure(signal) {
        let mut tls = ClientTlsConfig::new();
        tls = match &signal.tls.certificate {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.with_native_roots(),
        };
        if let Some(own) = own_certificate(&signal.tls)? {
            tls = tls.identity(Identity::from_pem(own.certificate, own.key));
        }
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|error| without_roots(signal, &error))?;
    }
    Ok(endpoint.connect_lazy())
}

fn client(signal: &OtlpSignal) -> Result<HttpClient, String> {
    // With a provider already set, by us or by whoever embeds this, that one stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = reqwest::Client::builder();
    if secure(signal) {
        if let Some(path) = &signal.tls.certificate {
            let certificates = reqwest::Certificate::from_pem_bundle(&read(path)?);
            client = client.tls_certs_only(certificates.map_err(|error| causes(&error))?);
        }
        if let Some(own) = own_certificate(&signal.tls)? {
            let both = [own.certificate, own.key].join(&b'\n');
            let identity = reqwest::Identity::from_pem(&both);
            client = client.identity(identity.map_err(|error| causes(&error))?);
        }
    } else {
        // The system's certificates are not looked for: a small container has none.
        client = client.tls_certs_only([]);
    }
    Ok(HttpClient {
        client: client
            .build()
            .map_err(|error| without_roots(signal, &error))?,
        trouble: Arc::default(),
    })
}

/// Why there is no TLS. Mostly because an image has no certificates.
fn without_roots(signal: &OtlpSignal, error: &(dyn std::error::Error + 'static)) -> String {
    let advice = match &signal.tls.certificate {
        None if secure(signal) => {
            "; where the system has no root certificates, OTEL_EXPORTER_OTLP_CERTIFICATE names a file with some"
        }
        _ => "",
    };
    causes(error) + advice
}

fn secure(signal: &OtlpSignal) -> bool {
    signal.endpoint.starts_with("https:")
}

/// What this side shows to a collector that asks, PEM.
struct OwnCertificate {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

fn own_certificate(tls: &OtlpTls) -> Result<Option<OwnCertificate>, String> {
    match (&tls.client_certificate, &tls.client_key) {
        (Some(certificate), Some(key)) => Ok(Some(OwnCertificate {
            certificate: read(certificate)?,
            key: read(key)?,
        })),
        (None, None) => Ok(None),
        _ => Err("a client certificate needs its key, and the key its certificate".to_owned()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// An error with what caused it.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
