//! What a memcached counts itself, beside what the observer counted.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::client::Memcached;
use crate::observer::Report;
use crate::server::Server;

/// A number of some operations together.
#[must_use]
pub fn sum(report: &Report, operations: &[&str], number: &str) -> u64 {
    operations
        .iter()
        .map(|operation| report.summary.of("memcached", operation, number))
        .sum()
}

/// Spans of these operations that an attribute says this of.
#[must_use]
pub fn spans(report: &Report, operations: &[&str], attribute: &str, wanted: &Value) -> u64 {
    let spans = operations.iter().flat_map(|name| report.of(name));
    spans
        .filter(|span| span["attributes"][attribute] == *wanted)
        .count() as u64
}

/// Compares with the server's own counters, all of which begin with the observation. What was not answered, such as with
/// noreply, must have had no effect on these.
///
/// # Errors
///
/// When the server does not answer.
pub fn assert_as_the_server_counts(server: &Server, report: &Report) -> Result<()> {
    let stats = Memcached::connect(("127.0.0.1", server.port))?.stats()?;
    let of = |operations: &[&str], number: &str| sum(report, operations, number);
    let told = |operations: &[&str], attribute: &str, value: Value| {
        spans(report, operations, attribute, &value)
    };
    // A gat is counted as a touch instead; an mg that sets a time to live where it hits.
    let (reads, touches) = (["GET", "GETS", "BGET"], ["GAT", "GATS", "TOUCH"]);
    let meta: Vec<_> = report.of("MG");
    let touched = |span: &&&Value| {
        !span["attributes"]["cache.ttl"].is_null() && span["attributes"]["cache.hit"] == true
    };
    let hit = |span: &&&Value, wanted: bool| span["attributes"]["cache.hit"] == wanted;
    let meta_touches = meta.iter().filter(touched).count() as u64;
    let meta_reads = |wanted| {
        let reads = meta.iter().filter(|span| !touched(span));
        reads.filter(|span| hit(span, wanted)).count() as u64
    };
    let stores = ["SET", "ADD", "REPLACE", "APPEND", "PREPEND", "CAS", "MS"];
    // Refused before anything is stored, or the answer to a secret.
    let refused = stores.iter().map(|name| of(&[name], "errors")).sum::<u64>();
    let secrets = told(&["SET"], "db.query.text", "SET ?".into());
    let decrement = |span: &&&Value| {
        let text = span["attributes"]["db.query.text"]
            .as_str()
            .unwrap_or_default();
        text.contains(" MD") || text.contains(" M-")
    };
    let counted = |down: bool, wanted: bool| {
        let counters = report.of("MA");
        let of_that = counters.iter().filter(|span| decrement(span) == down);
        of_that.filter(|span| hit(span, wanted)).count() as u64
    };
    let compared = |span: &&&Value| {
        let text = span["attributes"]["db.query.text"]
            .as_str()
            .unwrap_or_default();
        text.starts_with("CAS ") || text.contains(" C?")
    };
    let stored = |span: &&&Value| span["attributes"]["db.response.status_code"].is_null();
    let cas_stored = [report.of("CAS"), report.of("MS")].concat();
    let cas_stored = cas_stored.iter().filter(compared).filter(stored).count() as u64;
    for (stat, counted) in [
        ("get_hits", of(&reads, "hits") + meta_reads(true)),
        ("get_misses", of(&reads, "misses") + meta_reads(false)),
        ("cmd_set", of(&stores, "count") - refused - secrets),
        (
            "cas_badval",
            told(&["CAS"], "db.response.status_code", "EXISTS".into())
                + told(&["MS"], "db.response.status_code", "EX".into()),
        ),
        (
            "cas_misses",
            told(&["CAS"], "db.response.status_code", "NOT_FOUND".into())
                + told(&["MS"], "db.response.status_code", "NF".into()),
        ),
        ("cas_hits", cas_stored),
        ("cmd_flush", of(&["FLUSH_ALL"], "count")),
        ("cmd_meta", of(&["ME"], "count")),
    ] {
        let wanted = stats.get(stat).with_context(|| format!("no {stat}"))?;
        assert_eq!(counted, *wanted, "{stat} in {}", report.summary.0);
    }
    // Of those with noreply only their number is known.
    let muted = |name: &str| told(&[name], "cache.no_reply", true.into());
    for (name, [hits, misses], counted) in [
        (
            "TOUCH",
            ["touch_hits", "touch_misses"],
            [of(&touches, "hits") + meta_touches, of(&touches, "misses")],
        ),
        (
            "INCR",
            ["incr_hits", "incr_misses"],
            [
                of(&["INCR"], "hits") + counted(false, true),
                of(&["INCR"], "misses") + counted(false, false),
            ],
        ),
        (
            "DECR",
            ["decr_hits", "decr_misses"],
            [
                of(&["DECR"], "hits") + counted(true, true),
                of(&["DECR"], "misses") + counted(true, false),
            ],
        ),
        (
            "DELETE",
            ["delete_hits", "delete_misses"],
            [1, 0].map(|count| told(&["DELETE", "MD"], "cache.deleted_count", count.into())),
        ),
    ] {
        let wanted = [hits, misses].map(|stat| stats.get(stat).copied().unwrap_or(u64::MAX));
        let place = || format!("{hits} {misses} in {}", report.summary.0);
        match muted(name) {
            0 => assert_eq!(counted, wanted, "{}", place()),
            muted => {
                assert!(
                    counted[0] <= wanted[0] && counted[1] <= wanted[1],
                    "{}",
                    place()
                );
                assert_eq!(
                    counted[0] + counted[1] + muted,
                    wanted[0] + wanted[1],
                    "{}",
                    place()
                );
            }
        }
    }
    assert_eq!(
        stats.get("cmd_touch").copied(),
        stats
            .get("touch_hits")
            .zip(stats.get("touch_misses"))
            .map(|(a, b)| a + b)
    );
    for nothing in [
        "unanswered",
        "orphaned_replies",
        "lost_bytes",
        "resynchronizations",
        "unresolved",
    ] {
        assert_eq!(
            report.summary.total(nothing),
            0,
            "{nothing} in {}",
            report.summary.0
        );
    }
    Ok(())
}
