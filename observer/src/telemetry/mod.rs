//! The observer's own counters: what it saw, what it lost and why.
//!
//! One shared [`Telemetry`]; every stage counts into it, the sinks export it. All counters only grow, except
//! the one that is called a gauge.

mod health;
mod ledger;
pub mod names;
pub(crate) mod work;

use std::sync::atomic::{AtomicU64, Ordering};

pub use health::{Health, Phase};
pub use ledger::{Account, Ledger, Way};

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts `n` more, of a counter that one thread alone writes: without the locked instruction, 1 ns in place of 6.
    pub fn add_alone(&self, n: u64) {
        let total = self.0.load(Ordering::Relaxed).wrapping_add(n);
        self.0.store(total, Ordering::Relaxed);
    }

    /// Takes over a total kept elsewhere, such as in the kernel.
    pub fn set(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    /// The total.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares an enum of reasons with its attribute values, and a set of counters indexed by it.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every reason, in declaration order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// Value of the `reason` (or `outcome`) attribute.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    /// Why an event did not arrive: `observer.events.lost`.
    Lost {
        /// The ring buffer was full.
        RingFull = "ring_full",
        /// The kernel skipped the hook because it was already running on that CPU, or could not follow one more call that waits.
        Recursion = "recursion",
        /// The record could not be understood.
        Record = "record",
        /// A datagram that others of the same reply tell of: lost on its way, or before it reached the observer.
        Datagram = "datagram",
    }
}

reasons! {
    /// Why payload bytes were not read: `observer.payload.skipped`.
    Skipped {
        /// Beyond the capture limit of one call, or the snapshot length of a capture file.
        Limit = "limit",
        /// A call whose buffer cannot be read at the hook (io_uring, splice, sendfile …).
        Unreadable = "unreadable",
        /// The buffer was not mapped when the hook read it.
        Fault = "fault",
        /// Missing from the stream: the events or packets that held it were lost.
        Missing = "missing",
        /// Overlapping positions that cannot be ordered.
        Race = "race",
        /// Encrypted.
        Tls = "tls",
        /// Not the protocol of that port.
        Foreign = "foreign",
        /// Seen while waiting for a sure boundary.
        Unsynchronized = "unsynchronized",
        /// Which end is the client is not known.
        Role = "role",
        /// After MONITOR or `watch`: a stream, not replies.
        Stream = "stream",
        /// After SYNC or PSYNC: the link of a replica to its master.
        Replication = "replication",
        /// Beyond the budget for data that arrived out of order.
        Budget = "budget",
        /// A datagram whose other end is not known.
        Peer = "peer",
        /// A datagram that came again, or after its exchange was over.
        Duplicate = "duplicate",
        /// Of a connection that a rule says to ignore. They were decoded nevertheless.
        Rule = "rule",
        /// Of an end of a connection whose other end is reported.
        Redundant = "redundant",
        /// A datagram in several, or a reply in several datagrams, the rest of which did not arrive.
        Partial = "partial",
        /// Of a port that is not watched any more.
        Unwatched = "unwatched",
    }
}

reasons! {
    /// Why a connection was resynchronised: `observer.resynchronizations`.
    Resync {
        /// Bytes were missing outside a value.
        Gap = "gap",
        /// Bytes that the protocol does not allow.
        Malformed = "malformed",
        /// A reply that no request waits for.
        Orphan = "orphan",
        /// A reply that cannot answer the request it would pair with.
        Mismatch = "mismatch",
        /// More outstanding requests than the budget.
        Budget = "budget",
        /// Overlapping positions that cannot be ordered.
        Race = "race",
    }
}

reasons! {
    /// Which limit was met, those of the configuration by their names there: `observer.limits.exceeded`.
    Limit {
        /// A process whose metrics went to the service that all beyond the limit share.
        Services = "services",
        /// A service of which an instrument has a series marked `otel.metric.overflow`, which all beyond the limit share.
        Series = "series",
        /// A connection that was forgotten to make room for another.
        Connections = "connections",
        /// A pair of endpoints that exchange datagrams was forgotten, or an exchange given up, to make room for others.
        DatagramPairs = "datagram-pairs",
        /// A connection held too much of messages that are not complete, or all together did and it was silent longest: that was
        /// given up.
        PendingBytes = "pending-bytes",
        /// A command of a server's end, or a span of its client's end, did not wait for the other any longer, to make room.
        Ends = "ends",
    }
}

reasons! {
    /// Why a request that was decoded is told nowhere.
    LeftOut {
        /// Of a connection that a rule says to ignore.
        Rule = "rule",
        /// The other end of the connection tells it.
        Redundant = "redundant",
        /// Of a server's end whose client's end is reported, too, and counts it.
        Served = "served",
        /// It made the connection the link of a replica, or was sent on one.
        Replication = "replication",
        /// It may be a part of a value: what was taken for a boundary did not go on as requests do.
        Unproven = "unproven",
    }
}

reasons! {
    /// What became of a span: `observer.spans`.
    SpanOutcome {
        /// Accepted by the exporter's peer, or written.
        Exported = "exported",
        /// Left out by the span policy.
        SampledOut = "sampled_out",
        /// Dropped: queue full, or the collector refused or was away.
        Dropped = "dropped",
    }
}

/// The observer's own counters.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Whether the observer is alive, and observes.
    pub health: Health,
    /// `observer.events`: events that arrived from the source.
    pub events: Counter,
    /// `observer.payload.captured`: payload bytes that arrived.
    pub captured: Counter,
    /// `observer.connections`, a gauge: connections tracked now.
    pub connections: Counter,
    /// Connections seen so far.
    pub connections_seen: Counter,
    /// `observer.replies.orphaned`: replies that no request waited for.
    pub orphaned: Counter,
    /// Replies out of turn that belong to no request: pub/sub messages and other pushes.
    pub pushes: Counter,
    /// Bytes of the streams that were neither decoded nor bridged: lost, or passed over until a sure boundary.
    pub lost_bytes: Counter,
    /// `observer.metric_exports.failed`: a resource's points of one interval each. Cumulative points arrive with the next.
    pub metric_exports_failed: Counter,
    /// `observer.scrapes`: scrapes that were answered. Whether the answer was read to its end is up to who asked.
    pub scrapes: Counter,
    lost: [Counter; Lost::ALL.len()],
    skipped: [Counter; Skipped::ALL.len()],
    resyncs: [[Counter; Resync::ALL.len()]; 2],
    spans: [Counter; SpanOutcome::ALL.len()],
    limits: [Counter; Limit::ALL.len()],
    /// What was seen at each stage, and where it went.
    pub ledger: Ledger,
}

impl Telemetry {
    /// `observer.events.lost`, by reason.
    #[must_use]
    pub fn lost(&self, reason: Lost) -> &Counter {
        &self.lost[reason as usize]
    }

    /// `observer.payload.skipped` in bytes, by reason.
    #[must_use]
    pub fn skipped(&self, reason: Skipped) -> &Counter {
        &self.skipped[reason as usize]
    }

    /// `observer.resynchronizations`, by protocol and reason.
    #[must_use]
    pub fn resyncs(&self, protocol: crate::protocol::Protocol, reason: Resync) -> &Counter {
        &self.resyncs[protocol as usize][reason as usize]
    }

    /// `observer.limits.exceeded`, by limit.
    #[must_use]
    pub fn exceeded(&self, limit: Limit) -> &Counter {
        &self.limits[limit as usize]
    }

    /// `observer.spans`, by what became of them.
    #[must_use]
    pub fn spans(&self, outcome: SpanOutcome) -> &Counter {
        &self.spans[outcome as usize]
    }
}
