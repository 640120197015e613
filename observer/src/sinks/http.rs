//! The listeners of scrapes and health checks.
//!
//! A client costs little, whatever it does: one request a connection, a head of at most [`MAX_HEAD`] within [`HEAD`], all
//! over within [`WHOLE`], and [`MAX_CONNECTIONS`] at once. One more cuts off the oldest, so that those who say or read
//! nothing keep nobody out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::options::SinkError;
use super::prometheus::{Format, Page, Scrapes};
use crate::telemetry::{Phase, Telemetry};

/// Connections served at once by one listener.
const MAX_CONNECTIONS: usize = 32;
/// Most bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may take, from its start until the answer was read. Prometheus gives up after 10 s.
const WHOLE: Duration = Duration::from_secs(15);

/// What a listener answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    pub(super) metrics: Option<Arc<Scrapes>>,
    pub(super) health: Option<Arc<Telemetry>>,
}

/// An address that is ours.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    pages: Pages,
}

impl Listener {
    /// Takes the address. `option` is who asked for it.
    pub(super) fn bind(
        option: &'static str,
        address: SocketAddr,
        pages: Pages,
    ) -> Result<Self, SinkError> {
        let failed = |source| SinkError::Listen {
            option,
            address,
            source,
        };
        let socket = TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let paths = pages.paths().join(" ");
        tracing::info!(%address, paths, "listening");
        Ok(Self { socket, pages })
    }

    /// Answers until the runtime ends.
    pub(super) fn start(self, runtime: &Handle) -> Result<(), SinkError> {
        let _within = runtime.enter();
        let socket = tokio::net::TcpListener::from_std(self.socket)?;
        let pages = self.pages;
        runtime.spawn(async move {
            let mut connections: VecDeque<AbortHandle> = VecDeque::new();
            loop {
                let Ok((stream, _)) = socket.accept().await else {
                    // Out of descriptors, most likely: others give theirs back.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                connections.retain(|connection| !connection.is_finished());
                if connections.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = connections.pop_front()
                {
                    oldest.abort();
                }
                let pages = pages.clone();
                // That a client went away is its own affair.
                let serving = tokio::spawn(async move {
                    let _ = tokio::time::timeout(WHOLE, serve(stream, pages)).await;
                });
                connections.push_back(serving.abort_handle());
            }
        });
        Ok(())
    }
}

async fn serve(stream: TcpStream, pages: Pages) -> Result<(), hyper::Error> {
    let service = service_fn(|request| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(pages.answer(&request).await) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

impl Pages {
    fn paths(&self) -> Vec<&'static str> {
        let metrics = self.metrics.iter().map(|_| "/metrics");
        let health = self.health.iter().flat_map(|_| ["/healthz", "/readyz"]);
        metrics.chain(health).collect()
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Content> {
        let path = request.uri().path();
        if path != "/" && !self.paths().contains(&path) {
            return text(StatusCode::NOT_FOUND, "not found");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD only");
            let allowed = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, allowed);
            return refused;
        }
        match (path, &self.metrics, &self.health) {
            ("/metrics", Some(scrapes), _) => {
                let accept = request.headers().get_all(header::ACCEPT);
                let accept = accept.iter().filter_map(|value| value.to_str().ok());
                let format = Format::accepted(accept);
                match scrapes.scrape(format).await {
                    Some(page) => {
                        answer(StatusCode::OK, format.content_type(), Content::Page(page))
                    }
                    None => text(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
                }
            }
            ("/healthz", _, Some(telemetry)) => match telemetry.health.stuck() {
                None => text(StatusCode::OK, "ok"),
                Some(silent) => {
                    let reason = format!("nothing was read for {} s", silent.as_secs());
                    text(StatusCode::SERVICE_UNAVAILABLE, &reason)
                }
            },
            ("/readyz", _, Some(telemetry)) => match telemetry.health.phase() {
                Phase::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting"),
                Phase::Observing => text(StatusCode::OK, "observing"),
                Phase::Stopping => text(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            },
            _ => text(StatusCode::OK, &self.paths().join("\n")),
        }
    }
}

fn text(status: StatusCode, text: &str) -> Response<Content> {
    let line = Bytes::from(format!("{text}\n"));
    answer(
        status,
        "text/plain; charset=utf-8",
        Content::Line(Some(line)),
    )
}

fn answer(status: StatusCode, content_type: &'static str, body: Content) -> Response<Content> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// What is answered.
enum Content {
    Line(Option<Bytes>),
    Page(Page),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Line(line) => line.take(),
            Self::Page(page) => page.next(),
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Line(line) => SizeHint::with_exact(line.as_ref().map_or(0, |it| it.len() as u64)),
            Self::Page(_) => SizeHint::default(),
        }
    }
}
