//! Which spans are exported: decided on the pipeline thread, before anything is formatted or queued.
//!
//! What failed, missed or was slow is kept where the settings say so, each for itself. The rest is drawn by its trace id, with a
//! probability that the settings give and that falls when there would be more than the limit of a second allows:
//!
//! ```text
//! this second is as busy as the one before was   probability = 5/8 of the limit / spans of the second before
//! 3/4 of the limit are used up                   a quarter of the probability; again for each half of what is left
//! ```
//!
//! The probability that holds is decided before a span is looked at. So the sum of the weights, 1 / probability, is the number of spans
//! in expectation, whatever comes: also in the first second of a burst. For the same reason the limit is never
//! a wall: past it each span that is kept makes the next one four times rarer.

use std::collections::HashMap;

use opentelemetry::trace::TraceId;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

use crate::aggregation::{failure, has_latency};
use crate::config::export::{Slow, SpanPolicy};
use crate::source::event::Nanos;
use crate::transaction::{Exchange, Transaction};

/// Values of the random part of a trace id: its last 56 bits (W3C Trace Context, level 2).
const RANDOM: u64 = 1 << 56;
const SECOND: Nanos = 1_000_000_000;

/// How a span came to be exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// What was drawn; `None`: it was certain.
    pub(super) trace: Option<TraceId>,
    /// Trace ids whose random part is less were left out: of 2⁵⁶.
    threshold: u64,
}

impl Sample {
    /// The probability with which the span was kept, if it was not certain. Its inverse is what it counts.
    pub(super) fn ratio(self) -> Option<f64> {
        (self.threshold > 0).then(|| (RANDOM - self.threshold) as f64 / RANDOM as f64)
    }

    /// The same as the value of the key `ot` in the trace state: OpenTelemetry's TraceState, "Probability Sampling".
    pub(super) fn trace_state(self) -> Option<String> {
        let digits = format!("{:014x}", self.threshold);
        (self.threshold > 0).then(|| format!("th:{}", digits.trim_end_matches('0')))
    }
}

/// The spans of the second, of one service under one policy; from [`Policy::bind`] to [`Policy::release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetId(u32);

/// Decides which spans are exported. One a pipeline thread.
#[derive(Debug)]
pub struct Policy {
    per_second: u32,
    budgets: Vec<Option<Budget>>,
    free: Vec<u32>,
    /// By service.
    bound: HashMap<u32, Vec<u32>>,
}

#[derive(Debug)]
struct Budget {
    service: u32,
    policy: SpanPolicy,
    connections: usize,
    /// Most spans in a second; 0: no limit.
    limit: u32,
    /// Accepted of [`RANDOM`] at most.
    share: u64,
    /// Accepted of [`RANDOM`] now.
    accepted: u64,
    second: u64,
    /// Spans that were drawn in this second.
    seen: u64,
    /// Those of them that are kept.
    kept: u32,
    /// With so many kept, `accepted` falls.
    next: u32,
}

impl Policy {
    /// `per_second`: the limit where settings name none; 0: none.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second,
            budgets: Vec::new(),
            free: Vec::new(),
            bound: HashMap::new(),
        }
    }

    /// The budget of a connection. Connections of one service with the same settings share it.
    pub fn bind(&mut self, service: u32, policy: &SpanPolicy) -> BudgetId {
        let bound = self.bound.entry(service).or_default();
        let same = bound.iter().copied().find(|id| {
            let budget = self.budgets[*id as usize].as_ref();
            budget.is_some_and(|budget| budget.policy == *policy)
        });
        let id = same.unwrap_or_else(|| {
            let id = self.free.pop().unwrap_or_else(|| {
                self.budgets.push(None);
                (self.budgets.len() - 1) as u32
            });
            bound.push(id);
            id
        });
        let limit = policy.per_second.unwrap_or(self.per_second);
        let budget = &mut self.budgets[id as usize];
        budget
            .get_or_insert_with(|| Budget::new(service, policy, limit))
            .connections += 1;
        BudgetId(id)
    }

    /// The connection is gone, or has another service; `id` must not be used again for it.
    pub fn release(&mut self, id: BudgetId) {
        let Some(Some(budget)) = self.budgets.get_mut(id.0 as usize) else {
            return;
        };
        budget.connections -= 1;
        if budget.connections > 0 {
            return;
        }
        let service = budget.service;
        self.budgets[id.0 as usize] = None;
        self.free.push(id.0);
        if let Some(bound) = self.bound.get_mut(&service) {
            bound.retain(|other| *other != id.0);
            if bound.is_empty() {
                self.bound.remove(&service);
            }
        }
    }

    /// Whether the spans of an exchange are exported: all of them, or none. `slow`: one of its commands took longer than
    /// 99 of 100 do.
    pub fn decide(&mut self, id: BudgetId, exchange: &Exchange, slow: bool) -> Option<Sample> {
        let budget = self.budgets.get_mut(id.0 as usize)?.as_mut()?;
        budget.decide(exchange, slow)
    }
}

impl Budget {
    fn new(service: u32, policy: &SpanPolicy, limit: u32) -> Self {
        let share = (policy.share.get() * RANDOM as f64) as u64;
        Self {
            service,
            policy: policy.clone(),
            connections: 0,
            limit,
            share,
            accepted: share,
            second: 0,
            seen: 0,
            kept: 0,
            next: first(limit),
        }
    }

    fn decide(&mut self, exchange: &Exchange, slow: bool) -> Option<Sample> {
        let transactions = exchange.transactions();
        if self.is_kept(transactions) {
            return Some(Sample::default());
        }
        if !self.policy.health_checks && exchange.is_health_check() {
            return None;
        }
        if self.is_slow(transactions, slow) {
            return Some(Sample::default());
        }
        self.draw(transactions.last()?.end / SECOND)
    }

    fn is_kept(&self, transactions: &[Transaction]) -> bool {
        let SpanPolicy { errors, misses, .. } = self.policy;
        (errors || misses)
            && transactions
                .iter()
                .any(|one| misses && one.outcome.misses > 0 || errors && failure(one).is_some())
    }

    fn is_slow(&self, transactions: &[Transaction], slow: bool) -> bool {
        match self.policy.slow {
            Slow::None => false,
            Slow::P99 => slow,
            Slow::Over(limit) => transactions.iter().any(|one| {
                let took = one.end.saturating_sub(one.start);
                has_latency(one) && u128::from(took) > limit.as_nanos()
            }),
        }
    }

    /// One of the rest, in this second.
    fn draw(&mut self, second: u64) -> Option<Sample> {
        // What ended on one connection may come after what ended later on another.
        if second > self.second {
            self.begin(second);
        }
        self.seen += 1;
        if self.accepted == 0 {
            return None;
        }
        let mut sample = Sample::default();
        if self.accepted < RANDOM {
            let trace = RandomIdGenerator::default().new_trace_id();
            sample.threshold = RANDOM - self.accepted;
            sample.trace = Some(trace);
            if random(trace) < sample.threshold {
                return None;
            }
        }
        self.kept += 1;
        if self.limit > 0 && self.kept >= self.next {
            self.accepted = (self.accepted / 4).max(1);
            self.next = self.kept + (self.limit.saturating_sub(self.kept) / 2).max(1);
        }
        Some(sample)
    }

    fn begin(&mut self, second: u64) {
        // Another pause than that of a moment says nothing of what comes.
        let last = if second == self.second + 1 {
            self.seen
        } else {
            0
        };
        let wanted = last as f64 * self.share as f64 / RANDOM as f64;
        let limit = f64::from(self.limit);
        self.accepted = self.share;
        if self.limit > 0 && wanted > 0.75 * limit {
            self.accepted = ((self.share as f64 * 0.625 * limit / wanted) as u64).max(1);
        }
        (self.second, self.seen, self.kept) = (second, 0, 0);
        self.next = first(self.limit);
    }
}

/// So many spans of a second are kept with the probability that it began with.
fn first(limit: u32) -> u32 {
    (limit - limit / 4).max(1)
}

fn random(trace: TraceId) -> u64 {
    let [.., a, b, c, d, e, f, g] = trace.to_bytes();
    u64::from_be_bytes([0, a, b, c, d, e, f, g])
}

#[cfg(test)]
mod tests;
