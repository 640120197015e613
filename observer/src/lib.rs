//! The cache traffic observer: Redis and Memcached traffic in, OpenTelemetry spans and metrics out.
//!
//! Data flows one way. Each module imports only from its left; [`config`] and [`telemetry`] are open to
//! all, and only [`pipeline`] sees them all:
//!
//! ```text
//! source → stream  → protocol → transaction → enrichment  → aggregation → sinks
//! Event    Segment   Message    Transaction   Observation   Series        OTLP · Prometheus · console · JSON Lines
//! ```
//!
//! - [`source`]: where bytes come from: the kernel programs, or a capture file.
//! - [`stream`]: which connection they belong to, in which order, and what is missing.
//! - [`protocol`]: what they say: requests and replies of Redis and Memcached.
//! - [`transaction`]: which reply answers which request.
//! - [`enrichment`]: whose they are: process, container, service.
//! - [`aggregation`]: what they add up to.
//! - [`sinks`]: where the answers go.
//! - [`pipeline`]: wiring, threads, queues, shutdown.
//!
//! `stream`, `protocol` and `transaction` are sans-IO: they open no file or socket and read no clock.

pub mod aggregation;
pub mod config;
pub mod enrichment;
pub mod pipeline;
pub mod protocol;
pub mod sinks;
pub mod source;
pub mod stream;
pub mod telemetry;
pub mod transaction;
