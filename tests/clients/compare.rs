//! What was observed, compared with what the server counted and what the program knows.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::client::{Redis, Reply};
use tests::observer::Report;
use tests::statistics::Statistics;

use crate::told::{Counts, Told};

/// What is on the wire of what the server has counted.
pub(crate) fn counted(port: u16, told: &Told) -> Result<Statistics> {
    let mut statistics = Statistics::of(&mut Redis::connect(("127.0.0.1", port))?)?;
    for (name, inner) in &told.scripts {
        statistics.remove(name, tests::statistics::Counts::new(*inner, 0))?;
    }
    Ok(statistics)
}

/// One of the numbers that the observer has of each command: `hits`, `misses`.
fn observed(report: &Report, wanted: &str) -> Counts {
    let operations = report.summary.0["operations"]["redis"].as_object();
    let counts = operations.into_iter().flatten();
    let counts =
        counts.map(|(name, numbers)| (name.clone(), numbers[wanted].as_u64().unwrap_or(0)));
    counts.filter(|(_, number)| *number > 0).collect()
}

/// The observer has counted each command as the server has, and hits and misses as the program.
pub(crate) fn assert_counts(report: &Report, counted: &Statistics, told: &Told) -> Result<()> {
    counted.compare(&report.summary)?;
    for (number, told) in [("hits", &told.hits), ("misses", &told.misses)] {
        assert_eq!(
            observed(report, number),
            *told,
            "{number} observed and known"
        );
    }
    Ok(())
}

/// Nothing was lost, guessed or left over.
pub(crate) fn assert_complete(report: &Report, told: &Told) {
    let summary = &report.summary;
    for total in [
        "unanswered",
        "unresolved",
        "orphaned_replies",
        "lost_bytes",
        "resynchronizations",
    ] {
        assert_eq!(summary.total(total), 0, "{total} in {}", summary.0);
    }
    assert_eq!(summary.total("pushes"), told.pushes, "{}", summary.0);
}

/// Each reply was given to its own request: sizes and hits are those of its keys.
pub(crate) fn assert_pairs(report: &Report) {
    for span in &report.spans {
        let attributes = &span["attributes"];
        let keys: Vec<_> = match &attributes["cache.key"] {
            Value::Array(keys) => keys.iter().filter_map(Value::as_str).collect(),
            key => key.as_str().into_iter().collect(),
        };
        let known = |key: &&str| key.starts_with("key:") || key.starts_with("absent:");
        let batch = !attributes["db.operation.batch.size"].is_null();
        if batch || keys.is_empty() || !keys.iter().all(known) {
            continue;
        }
        let there = keys.iter().filter(|key| key.starts_with("key:"));
        let lengths = there.filter_map(|key| key.rsplit(':').next()?.parse::<u64>().ok());
        let (found, bytes) = lengths.fold((0, 0), |(found, bytes), one| (found + 1, bytes + one));
        let size = attributes["cache.value_size"].as_u64();
        match attributes["db.operation.name"].as_str() {
            Some("SET" | "SETEX") => assert_eq!(size, Some(bytes), "{span}"),
            Some("GET") => {
                assert_eq!(size, (found == 1).then_some(bytes), "{span}");
                assert_eq!(attributes["cache.hit"], (found == 1), "{span}");
            }
            Some("MGET") => {
                assert_eq!(size, Some(bytes), "{span}");
                assert_eq!(attributes["cache.hits"], found, "{span}");
                assert_eq!(attributes["cache.misses"], keys.len() - found, "{span}");
            }
            _ => {}
        }
    }
}

/// The spans of each batch's commands, by the batch's own span.
fn batches(report: &Report) -> Vec<(&Value, Vec<&Value>)> {
    let mut children = BTreeMap::<&str, Vec<&Value>>::new();
    for span in &report.spans {
        if let Some(parent) = span["parent_span_id"].as_str() {
            children.entry(parent).or_default().push(span);
        }
    }
    let batches = report
        .spans
        .iter()
        .filter(|span| !span["attributes"]["db.operation.batch.size"].is_null());
    batches
        .map(|span| {
            let id = span["span_id"].as_str().unwrap_or_default();
            (span, children.remove(id).unwrap_or_default())
        })
        .collect()
}

/// The batches are those that the client sent, and each holds as many commands as it says.
pub(crate) fn assert_batches(report: &Report, told: &Told) {
    let mut sizes = BTreeMap::<String, Vec<u64>>::new();
    let mut missing = 0;
    for (span, commands) in batches(report) {
        let attributes = &span["attributes"];
        let name = attributes["db.operation.name"].as_str().unwrap_or_default();
        let kind = name.split(' ').next().unwrap_or_default();
        let size = attributes["db.operation.batch.size"].as_u64().unwrap_or(0);
        let bracket = |command: &&&Value| {
            let name = &command["attributes"]["db.operation.name"];
            kind == "MULTI" && (name == "MULTI" || name == "EXEC")
        };
        let brackets = commands.iter().filter(bracket).count();
        assert!(commands.len() - brackets <= size as usize, "{span}");
        missing += size - (commands.len() - brackets) as u64;
        // One without keys is a library's handshake.
        if !attributes["cache.key"].is_null() {
            sizes.entry(kind.to_owned()).or_default().push(size);
        }
    }
    // What was queued and never ran belongs to the batch and is no operation.
    assert_eq!(missing, report.summary.total("not_executed"));
    let Some(mut told) = told.batches.clone() else {
        return;
    };
    for sizes in sizes.values_mut().chain(told.values_mut()) {
        sizes.sort_unstable();
    }
    assert_eq!(sizes, told, "sizes of batches observed and sent");
}

/// No batch holds two commands of a task that waits for each reply. Keys name their task: `key:TASK:N`.
pub(crate) fn assert_tasks_apart(report: &Report) {
    for (_, commands) in batches(report) {
        let keys = commands
            .iter()
            .filter_map(|span| span["attributes"]["cache.key"].as_str());
        let mut tasks: Vec<_> = keys.filter_map(|key| key.split(':').nth(1)).collect();
        let all = tasks.len();
        tasks.sort_unstable();
        tasks.dedup();
        assert_eq!(tasks.len(), all, "{commands:#?}");
    }
}

/// Each command but our own question came from this program.
pub(crate) fn assert_process(report: &Report, executable: &str) -> Result<()> {
    let me = crate::own_name()?;
    for span in &report.spans {
        let from = span["resource"]["process.executable.name"].as_str();
        let ours = span["attributes"]["db.operation.name"] == "INFO" && from == Some(&me);
        assert!(ours || from == Some(executable), "{span}");
    }
    Ok(())
}

/// Bytes that have gone over the server's connections, by its own count, with this question and its answer.
pub(crate) fn server_bytes(port: u16) -> Result<u64> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    let Reply::Bulk(Some(info)) = redis.command(&["INFO", "stats"])? else {
        anyhow::bail!("INFO is answered by a text");
    };
    let text = String::from_utf8(info)?;
    let number = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.context("a number")?.trim().parse()?)
    };
    let answer = format!("${}\r\n{text}\r\n", text.len()).len() as u64;
    Ok(number("total_net_input_bytes:")? + number("total_net_output_bytes:")? + answer)
}
