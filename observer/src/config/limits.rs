//! Budgets: what the observer may keep.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[limits]`. What is beyond one of them is counted, never kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// Services with metrics of their own; further ones share the service `cache-observer.overflow`. One that has no
    /// connection left makes room. Each takes 150 KiB with the defaults and about 1 KiB more a series (measured).
    pub services: usize,
    /// Latency series of one service: operations × servers × databases × error types. Further ones share a series marked
    /// `otel.metric.overflow`.
    pub latency_series: usize,
    /// Series of each other instrument of a service: caches × classes, or × error types.
    pub series: usize,
    /// How long a service without connections keeps its metrics.
    #[serde(with = "time")]
    pub idle: Duration,
    /// Sockets tracked; beyond it one of the longest idle makes room. Each takes 1 to 2 KiB while its messages are small.
    pub connections: usize,
    /// Bytes held of messages and pipelines that are not complete, of all connections together; beyond it one of the longest idle is
    /// given up. A single connection may hold three quarters.
    pub pending_bytes: usize,
    /// Pairs of endpoints tracked that exchange datagrams. A client may use a port for each request.
    pub datagram_pairs: usize,
    /// Spans that may wait for each of the text and the OTLP worker, 1 KiB each, more with long keys.
    /// `OTEL_BSP_MAX_QUEUE_SIZE` stands before it.
    pub span_queue: usize,
    /// Bytes read of one call at most. A pipeline of a few hundred commands in one call is seen whole with the default.
    pub capture_bytes: u32,
    /// Size of the kernel's ring, bytes, rounded up to a power of two. A larger one loses fewer events in a burst and costs
    /// more of the processor's caches.
    pub ring_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: 256,
            // The SDK makes room for all of them at once, in tables of powers of two: 512 and 128 places, an eighth empty.
            latency_series: 447,
            series: 111,
            idle: Duration::from_secs(600),
            connections: 65_536,
            pending_bytes: 64 << 20,
            datagram_pairs: 16_384,
            // The specification's 2,048 is meant for one process; a host brings that many spans in 100 ms.
            span_queue: 8_192,
            capture_bytes: 64 << 10,
            ring_bytes: 8 << 20,
        }
    }
}

impl Limits {
    /// # Errors
    ///
    /// The key whose value is out of range, and the range.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        const LONGEST: Duration = Duration::from_secs(30 * 86_400);
        for (name, value, least, most) in [
            ("services", self.services, 1, 65_536),
            ("latency-series", self.latency_series, 1, 65_536),
            ("series", self.series, 1, 65_536),
            ("connections", self.connections, 16, 4 << 20),
            ("pending-bytes", self.pending_bytes, 1 << 20, 1 << 40),
            ("datagram-pairs", self.datagram_pairs, 16, 4 << 20),
            ("span-queue", self.span_queue, 1, 16 << 20),
            // The kernel programs stop at 256 KiB.
            ("capture-bytes", self.capture_bytes as usize, 256, 256 << 10),
            // A page: smaller ones are rounded up.
            ("ring-bytes", self.ring_bytes as usize, 4 << 10, 1 << 30),
        ] {
            if !(least..=most).contains(&value) {
                return Err((name, format!("{value} is not within {least} to {most}")));
            }
        }
        if !(Duration::from_secs(1)..=LONGEST).contains(&self.idle) {
            return Err(("idle", "not within 1s to 30days".to_owned()));
        }
        Ok(())
    }
}

/// Times as people write them: `10m`.
mod time {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text)
            .map_err(|error| Error::custom(format!("`{text}` is no time such as 10m: {error}")))
    }
}
