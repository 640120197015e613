//! What was observed, compared with what the server counted and what the program knows.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::client::{Redis, Reply};
use tests::observer::Report;

use crate::told::{Counts, Told};

/// How often the server was asked each command, by its own count, with those it refused to run. Subcommands count with
/// their command.
pub(crate) fn counted(port: u16) -> Result<Counts> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    let Reply::Bulk(Some(info)) = redis.command(&["INFO", "commandstats"])? else {
        anyhow::bail!("INFO is answered by a text");
    };
    let mut counted = Counts::new();
    for line in String::from_utf8(info)?.lines() {
        let Some((name, numbers)) = line
            .strip_prefix("cmdstat_")
            .and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        let number = |wanted: &str| -> Result<u64> {
            let part = numbers
                .split(',')
                .find_map(|part| part.strip_prefix(wanted));
            Ok(part.context("a number")?.parse()?)
        };
        let name = name.split('|').next().unwrap_or(name).to_ascii_uppercase();
        let sum = number("calls=")? + number("rejected_calls=")?;
        *counted.entry(name).or_default() += sum;
    }
    // The question itself, which is counted only when it was answered.
    *counted.entry("INFO".to_owned()).or_default() += 1;
    Ok(counted)
}

/// One of the numbers that the observer has of each command: `count`, `hits`, `misses`. Subcommands count with their
/// command.
fn observed(report: &Report, wanted: &str) -> Counts {
    let operations = report.summary.0["operations"]["redis"].as_object();
    let mut counts = Counts::new();
    for (name, numbers) in operations.into_iter().flatten() {
        let name = name.split(' ').next().unwrap_or(name);
        *counts.entry(name.to_owned()).or_default() += numbers[wanted].as_u64().unwrap_or(0);
    }
    counts.retain(|_, number| *number > 0);
    counts
}

/// What is on the wire of what the server counted and of what the observer did, to be equal.
pub(crate) fn calls(report: &Report, counted: &Counts, told: &Told) -> [Counts; 2] {
    let mut counted = counted.clone();
    for (name, inner) in &told.scripts {
        *counted.entry(name.clone()).or_default() -= inner;
    }
    counted.retain(|_, number| *number > 0);
    let mut observed = observed(report, "count");
    // Libraries try subcommands of CLIENT that this server does not know, and then does not count.
    let tried = observed.remove("CLIENT") >= counted.remove("CLIENT");
    assert!(tried, "{}", report.summary.0);
    [observed, counted]
}

/// The observer has counted each command as often as the server, and hits and misses as the program.
pub(crate) fn assert_counts(report: &Report, counted: &Counts, told: &Told) {
    let [by_observer, by_server] = calls(report, counted, told);
    assert_eq!(
        by_observer, by_server,
        "counted by the observer and the server"
    );
    assert_eq!(
        observed(report, "hits"),
        told.hits,
        "hits observed and known"
    );
    assert_eq!(
        observed(report, "misses"),
        told.misses,
        "misses observed and known"
    );
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
