//! The ledger: what was seen at each stage, and where each part of it went. Nothing may be missing at the end.
//!
//! ```text
//! sent, received, states:  seen by the kernel programs = arrived + found the ring full
//! streams:                 bytes arrived               = decoded + skipped, by reason
//! requests:                decoded                     = transactions + not executed + left out, by reason
//! spans:                   due                         = exported + sampled out + dropped
//! ```
//!
//! Two reasons of skipped bytes stand outside of the second line: those that are `missing` never arrived, and those of
//! a `rule` were decoded.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Counter, LeftOut, Skipped, SpanOutcome, Telemetry};

/// What moved one way.
#[derive(Debug, Default)]
pub struct Way {
    /// Seen by the kernel programs; of captures, read from the file.
    pub seen: Counter,
    /// Found the ring full.
    pub ring_full: Counter,
    /// Handed to the stages.
    pub arrived: Counter,
}

/// The counters of the ledger that nothing else counts.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Bytes that applications sent.
    pub sent: Way,
    /// Bytes that applications received.
    pub received: Way,
    /// Changes of connections' states.
    pub states: Way,
    /// Bytes that decoders took in.
    pub decoded: Counter,
    /// Requests that were decoded.
    pub requests: Counter,
    /// Spans that exporters were to get, one for each queue.
    pub spans_due: Counter,
    pub(super) left_out: [Counter; LeftOut::ALL.len()],
}

/// The ledger at the end, as it stands in the summary.
#[derive(Debug, Serialize)]
pub struct Account {
    sent: WayAccount,
    received: WayAccount,
    states: WayAccount,
    streams: Streams,
    requests: Requests,
    spans: Spans,
}

#[derive(Debug, Serialize)]
struct WayAccount {
    seen: u64,
    arrived: u64,
    ring_full: u64,
}

#[derive(Debug, Serialize)]
struct Streams {
    decoded: u64,
    skipped: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Requests {
    decoded: u64,
    left_out: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Spans {
    due: u64,
    exported: u64,
    sampled_out: u64,
    dropped: u64,
}

impl Telemetry {
    /// The ledger. It closes once the source is drained, the pipeline has finished and the exporters are shut down.
    #[must_use]
    pub fn account(&self) -> Account {
        let ledger = &self.ledger;
        let way = |way: &Way| WayAccount {
            seen: way.seen.get(),
            arrived: way.arrived.get(),
            ring_full: way.ring_full.get(),
        };
        let skipped = Skipped::ALL
            .iter()
            .map(|reason| (reason.name(), self.skipped(*reason).get()));
        let left_out = LeftOut::ALL
            .iter()
            .map(|reason| (reason.name(), self.left_out(*reason).get()));
        let some = |(_, count): &(&str, u64)| *count > 0;
        let spans = |outcome| self.spans(outcome).get();
        Account {
            sent: way(&ledger.sent),
            received: way(&ledger.received),
            states: way(&ledger.states),
            streams: Streams {
                decoded: ledger.decoded.get(),
                skipped: skipped.filter(some).collect(),
            },
            requests: Requests {
                decoded: ledger.requests.get(),
                left_out: left_out.filter(some).collect(),
            },
            spans: Spans {
                due: ledger.spans_due.get(),
                exported: spans(SpanOutcome::Exported),
                sampled_out: spans(SpanOutcome::SampledOut),
                dropped: spans(SpanOutcome::Dropped),
            },
        }
    }

    /// Requests that were decoded and are no transactions of ours, by reason.
    #[must_use]
    pub fn left_out(&self, reason: LeftOut) -> &Counter {
        &self.ledger.left_out[reason as usize]
    }
}
