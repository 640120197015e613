//! Captures: the project's own must be read in full, anything else must end in a clear error.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::coverage::{self, Kind};
use tests::observer::replay;
use tests::process::Folder;

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("captures")
}

/// What is wanted and not found, key by key.
fn differences(wanted: &Value, found: &Value, place: &str) -> Vec<String> {
    let Some(wanted) = wanted.as_object() else {
        // A number that was never counted need not be there.
        let same = wanted == found || (*wanted == json!(0) && found.is_null());
        return if same {
            Vec::new()
        } else {
            vec![format!("{place}: want {wanted}, got {found}")]
        };
    };
    let below = wanted
        .iter()
        .flat_map(|(key, value)| differences(value, &found[key], &format!("{place}.{key}")));
    below.collect()
}

fn check(name: &str, case: &Value) -> Result<Vec<String>> {
    let commands = ["--spans-pipeline", "commands"];
    let (output, spans, summary) = replay(&captures().join(name), &commands)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {error}", output.status);
    let mut wrong = differences(
        &case["summary"],
        &summary.context("no summary")?.0,
        "summary",
    );
    let (batches, spans): (Vec<_>, Vec<_>) = spans.into_iter().partition(|span| {
        let name = span["name"].as_str().unwrap_or_default();
        span["parent_span_id"].is_null()
            && (name.starts_with("PIPELINE ") || name.starts_with("MULTI "))
    });
    let names = batches
        .iter()
        .map(|span| span["attributes"]["db.operation.name"].clone());
    wrong.extend(differences(
        case.get("batches").unwrap_or(&json!([])),
        &names.collect(),
        "batches",
    ));
    if let Some(wanted) = case["spans"].as_array() {
        let told: Vec<_> = spans.iter().map(|span| &span["name"]).collect();
        // QUIT has no reply: whether it is a span is not at issue here.
        let spans: Vec<_> = spans
            .iter()
            .filter(|s| s["attributes"]["db.operation.name"] != "QUIT")
            .collect();
        if spans.len() != wanted.len() {
            wrong.push(format!(
                "{} spans, want {}: {told:?}",
                spans.len(),
                wanted.len()
            ));
        }
        for (index, (wanted, span)) in wanted.iter().zip(spans).enumerate() {
            wrong.extend(differences(
                wanted,
                &span["attributes"],
                &format!("span {index}"),
            ));
        }
    }
    Ok(wrong)
}

#[test]
fn every_capture_says_what_was_recorded() -> Result<()> {
    let cases: Value =
        serde_json::from_str(&fs::read_to_string(captures().join("expected.json"))?)?;
    let cases = cases.as_object().context("an object")?;
    let mut wrong = Vec::new();
    for (name, case) in cases {
        let case = case["same_as"].as_str().map_or(case, |other| &cases[other]);
        coverage::note(Kind::Capture, name)?;
        match check(name, case) {
            Ok(found) => wrong.extend(found.into_iter().map(|line| format!("{name}: {line}"))),
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    for entry in fs::read_dir(captures())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let capture = name.ends_with(".pcap") || name.ends_with(".pcapng");
        ensure!(
            !capture || cases.contains_key(&name),
            "{name} has no expectation"
        );
    }
    Ok(())
}

#[test]
fn times_are_those_of_the_packets() -> Result<()> {
    let (_, micro, _) = replay(&captures().join("redis_basic.pcap"), &[])?;
    let (_, nano, _) = replay(&captures().join("redis_basic.pcapng"), &[])?;
    ensure!(!micro.is_empty() && micro.len() == nano.len());
    for (one, other) in micro.iter().zip(&nano) {
        for time in ["start_time_unix_nano", "end_time_unix_nano"] {
            assert_eq!(one[time], other[time], "{time} of {}", one["name"]);
            assert!(
                one[time].as_u64() > Some(1_700_000_000_000_000_000),
                "{one}"
            );
        }
        assert!(
            one["start_time_unix_nano"].as_u64() < one["end_time_unix_nano"].as_u64(),
            "{one}"
        );
    }
    Ok(())
}

#[test]
fn several_files_are_one_replay() -> Result<()> {
    let second = captures().join("memcached_text.pcap");
    let second = second.to_str().context("printable")?;
    let (output, _, summary) = replay(&captures().join("redis_basic.pcap"), &[second])?;
    ensure!(output.status.success());
    let summary = summary.context("no summary")?;
    assert_eq!(summary.of("redis", "MGET", "count"), 1);
    assert_eq!(summary.of("memcached", "GETS", "count"), 1);
    Ok(())
}

#[test]
fn other_ports_are_not_looked_at() -> Result<()> {
    let (output, spans, summary) = replay(
        &captures().join("redis_basic.pcap"),
        &["--redis-port", "7000"],
    )?;
    ensure!(output.status.success());
    assert_eq!(spans.len(), 0);
    assert_eq!(summary.context("no summary")?.total("connections"), 0);
    Ok(())
}

#[test]
fn a_file_that_is_no_capture() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("file");
    for content in [
        b"".as_slice(),
        b"not a capture, whatever its name says",
        &[0; 4096],
        &[0xff; 100],
    ] {
        fs::write(&file, content)?;
        let (output, spans, _) = replay(&file, &[])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code().is_some_and(|code| code != 0),
            "{error}"
        );
        assert!(
            error.contains("file") && !error.contains("panicked"),
            "{error}"
        );
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        assert_eq!(spans.len(), 0);
    }
    Ok(())
}

#[test]
fn a_capture_that_was_cut_off() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("cut");
    for name in ["redis_basic.pcap", "redis_basic.pcapng"] {
        let whole = fs::read(captures().join(name))?;
        // In the middle of a packet near the end.
        fs::write(&file, &whole[..whole.len() - whole.len() / 3 - 7])?;
        let (output, spans, summary) = replay(&file, &[])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code().is_some_and(|code| code != 0),
            "{name}: {error}"
        );
        assert!(
            error.contains("cut") && !error.contains("panicked"),
            "{name}: {error}"
        );
        assert!(
            spans.len() >= 5,
            "{name}: what could be read is reported: {} spans",
            spans.len()
        );
        assert!(
            summary
                .context("a summary all the same")?
                .total("transactions")
                >= 5
        );
    }
    Ok(())
}

#[test]
fn damaged_bytes_never_end_in_a_panic() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("damaged");
    let whole = fs::read(captures().join("redis_basic.pcap"))?;
    for step in 0..40 {
        let mut damaged = whole.clone();
        let mut at = 24 + step;
        while at < damaged.len() {
            damaged[at] ^= 0xa5;
            at += 40 + 17 * step;
        }
        fs::write(&file, &damaged)?;
        let (output, _, _) = replay(&file, &[])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code().is_some_and(|code| code < 100),
            "step {step}: {} {error}",
            output.status
        );
        assert!(!error.contains("panicked"), "step {step}: {error}");
    }
    Ok(())
}
