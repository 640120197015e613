//! Weights add up to counts; limits hold; what is to be kept is kept.

use std::time::Duration;

use super::*;
use crate::aggregation::testing::transaction;
use crate::config::export::Share;
use crate::protocol::Word;
use crate::transaction::{Batch, BatchKind, Ending};

fn policy(per_second: u32) -> SpanPolicy {
    SpanPolicy {
        per_second: Some(per_second),
        slow: Slow::None,
        ..SpanPolicy::default()
    }
}

fn share(number: f64) -> Share {
    Share::try_from(number).unwrap()
}

fn budget(policy: &SpanPolicy) -> Budget {
    Budget::new(1, policy, policy.per_second.unwrap_or(0))
}

/// `count` spans in this second: how many are kept, and what they weigh.
fn play(budget: &mut Budget, second: u64, count: u32) -> (u32, f64) {
    let mut kept = 0;
    let mut weight = 0.0;
    for _ in 0..count {
        if let Some(sample) = budget.draw(second) {
            kept += 1;
            weight += sample.ratio().map_or(1.0, |ratio| 1.0 / ratio);
        }
    }
    (kept, weight)
}

fn one(name: &'static str) -> Exchange {
    Exchange::One(transaction(name, 3))
}

#[test]
fn below_the_limit_everything_is_kept_and_certain() {
    let mut budget = budget(&policy(1000));
    for second in 1..10 {
        assert_eq!(play(&mut budget, second, 750), (750, 750.0));
    }
    let mut endless = self::budget(&policy(0));
    assert_eq!(play(&mut endless, 1, 100_000), (100_000, 100_000.0));
}

#[test]
fn a_busy_service_stays_within_the_limit() {
    let mut budget = budget(&policy(1000));
    for second in 1..20 {
        let (kept, _) = play(&mut budget, second, 20_000);
        // A few more, each four times rarer than the one before: never a wall.
        assert!(kept <= 1010, "{kept} in second {second}");
        assert!(second == 1 || kept > 450, "{kept} in second {second}");
    }
    assert_eq!(play(&mut budget, 40, 100), (100, 100.0), "after a pause");
}

#[test]
fn weights_add_up_to_counts() {
    // After its first second a steady load is drawn with one probability. The spread of the sum is then sqrt(count / p).
    let mut budget = budget(&policy(1000));
    play(&mut budget, 1, 20_000);
    let total: f64 = (2..52)
        .map(|second| play(&mut budget, second, 20_000).1)
        .sum();
    let spread = (1e6_f64 / (625.0 / 20_000.0)).sqrt();
    assert!((total - 1e6).abs() < 6.0 * spread, "{total}");
    // And of many bursts out of nothing.
    let mut budget = self::budget(&policy(100));
    let total: f64 = (1..2001)
        .map(|turn| play(&mut budget, turn * 10, 1000).1)
        .sum();
    assert!((total - 2e6).abs() < 0.08 * 2e6, "{total}");
}

#[test]
fn a_share_is_a_share() {
    let mut budget = budget(&SpanPolicy {
        share: share(0.25),
        ..policy(0)
    });
    let (kept, weight) = play(&mut budget, 1, 100_000);
    // sqrt(100,000 × 0.25 × 0.75) = 137.
    assert!((24_000..26_000).contains(&kept), "{kept}");
    assert_eq!(weight, f64::from(kept) * 4.0);
    let mut none = self::budget(&SpanPolicy {
        share: Share::NONE,
        ..policy(0)
    });
    assert_eq!(play(&mut none, 1, 1000), (0, 0.0));
}

#[test]
fn what_was_drawn_tells_the_same_to_whoever_draws_again() {
    let mut budget = budget(&SpanPolicy {
        share: share(0.25),
        ..policy(0)
    });
    let sample = loop {
        if let Some(sample) = budget.draw(1) {
            break sample;
        }
    };
    assert_eq!(sample.ratio(), Some(0.25));
    assert_eq!(sample.trace_state().as_deref(), Some("th:c"));
    let text = sample.trace.unwrap().to_string();
    let random = u64::from_str_radix(&text[18..], 16).unwrap();
    assert!(random >= 0xc0_0000_0000_0000, "{text}");
    assert_eq!(Sample::default().ratio(), None);
    assert_eq!(Sample::default().trace_state(), None);
}

#[test]
fn what_is_asked_for_is_kept_and_certain() {
    let nothing_else = SpanPolicy {
        share: Share::NONE,
        misses: true,
        slow: Slow::Over(Duration::from_millis(1)),
        ..policy(0)
    };
    let mut failed = transaction("GET", 3);
    failed.outcome.error = Some(Word::new(b"WRONGTYPE"));
    let mut cut_off = transaction("GET", 3);
    cut_off.ending = Ending::Unanswered;
    let mut moved = transaction("GET", 3);
    moved.outcome.error = Some(Word::new(b"MOVED"));
    let mut missed = transaction("MGET", 4);
    (missed.outcome.hits, missed.outcome.misses) = (4, 1);
    let mut late = transaction("GET", 3);
    late.end = late.start + 1_000_001;
    let mut waiting = late.clone();
    waiting.request.blocking = true;
    let plain = transaction("GET", 3);
    let certain = Some(Sample::default());
    for (transaction, kept) in [
        (&failed, certain),
        (&cut_off, certain),
        (&moved, None),
        (&missed, certain),
        (&late, certain),
        (&waiting, None),
        (&plain, None),
    ] {
        let mut budget = budget(&nothing_else);
        let alone = Exchange::One(transaction.clone());
        assert_eq!(budget.decide(&alone, false), kept, "{transaction:?}");
        let batch = Exchange::Batch(Batch {
            kind: BatchKind::Pipeline,
            transactions: vec![plain.clone(), transaction.clone(), plain.clone()],
        });
        assert_eq!(budget.decide(&batch, false), kept, "{transaction:?}");
    }
    let mut relative = budget(&SpanPolicy {
        share: Share::NONE,
        slow: Slow::P99,
        ..policy(0)
    });
    assert_eq!(relative.decide(&one("GET"), true), certain);
    assert_eq!(relative.decide(&one("GET"), false), None);
}

#[test]
fn health_checks_can_be_left_out() {
    let mut budget = budget(&SpanPolicy {
        health_checks: false,
        ..policy(0)
    });
    for (name, kept) in [
        ("PING", false),
        ("MN", false),
        ("VERSION", false),
        ("GET", true),
    ] {
        assert_eq!(budget.decide(&one(name), false).is_some(), kept, "{name}");
    }
    let mut refused = transaction("PING", 3);
    refused.outcome.error = Some(Word::new(b"NOAUTH"));
    assert!(budget.decide(&Exchange::One(refused), false).is_some());
    let batch = Exchange::Batch(Batch {
        kind: BatchKind::Pipeline,
        transactions: vec![transaction("PING", 3), transaction("GET", 3)],
    });
    assert!(budget.decide(&batch, false).is_some());
}

#[test]
fn connections_of_a_service_share_a_budget() {
    let mut policies = Policy::new(4);
    let (ours, other) = (policy(8), SpanPolicy::default());
    let first = policies.bind(7, &ours);
    assert_eq!(policies.bind(7, &ours), first);
    let second = policies.bind(7, &other);
    assert_ne!(second, first);
    assert_ne!(policies.bind(8, &ours), first);
    // Where nothing is said, the default holds.
    let kept = |policies: &mut Policy, id| {
        let kept = (0..3).filter(|_| policies.decide(id, &one("GET"), false).is_some());
        kept.count()
    };
    assert_eq!(kept(&mut policies, second), 3);
    assert_eq!(
        policies.budgets[second.0 as usize]
            .as_ref()
            .map(|b| b.limit),
        Some(4)
    );
    policies.release(first);
    assert!(policies.decide(first, &one("GET"), false).is_some());
    policies.release(first);
    assert!(policies.decide(first, &one("GET"), false).is_none());
    assert_eq!(policies.bind(9, &ours), first, "its place is used again");
}
