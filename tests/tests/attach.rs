//! Attaching that fails half-way: nothing of it stays.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use observer::source::backend::Backend;
use observer::source::live::{BackendChoice, Live, Options};
use observer::source::preflight;
use observer::telemetry::Telemetry;

/// Descriptors of this process by number, with what the kernel says of those that are programs, maps or links.
fn held() -> Result<(usize, Vec<String>)> {
    let mut count = 0;
    let mut kernel = Vec::new();
    for file in fs::read_dir("/proc/self/fdinfo")? {
        // The folder itself is among them.
        let Ok(text) = fs::read_to_string(file?.path()) else {
            continue;
        };
        count += 1;
        let of_kernel = |line: &&str| {
            let keys = ["prog_id:", "map_id:", "link_id:", "btf_id:"];
            keys.iter().any(|key| line.starts_with(key))
        };
        kernel.extend(text.lines().find(of_kernel).map(str::to_owned));
    }
    Ok((count, kernel))
}

/// Events of this process in tracefs.
fn events() -> Vec<String> {
    // Without tracefs there are none.
    let list = fs::read_to_string("/sys/kernel/tracing/kprobe_events").unwrap_or_default();
    let ours = format!("_{}_", std::process::id());
    let is_ours = |line: &&str| line.contains("cache_observer/") && line.contains(&ours);
    list.lines().filter(is_ours).map(str::to_owned).collect()
}

/// Each descriptor that may be opened takes the start one step further: maps, the ring, programs, their links. One test,
/// as the limit is the whole process's.
#[test]
fn whatever_fails_all_is_undone() -> Result<()> {
    let mut tried = 0;
    for report in preflight::check().backends {
        if report.result.is_ok() {
            eprintln!("{}:", report.backend);
            undone(match report.backend {
                Backend::Fentry => BackendChoice::Fentry,
                Backend::Kprobe => BackendChoice::Kprobe,
                Backend::Tracepoint => BackendChoice::Tracepoint,
            })?;
            tried += 1;
        }
    }
    ensure!(tried > 0, "this kernel allows no backend");
    Ok(())
}

fn undone(backend: BackendChoice) -> Result<()> {
    let (_, whole) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let telemetry = Arc::new(Telemetry::default());
    let mut reasons = BTreeSet::new();
    let mut refused = 0;
    loop {
        let (count, kernel) = held()?;
        ensure!(kernel.is_empty(), "{kernel:?} after {refused} failures");
        ensure!(events().is_empty(), "{:?} after {refused}", events());
        ensure!(refused < 200, "never attached: {reasons:?}");
        setrlimit(Resource::RLIMIT_NOFILE, (count + refused) as u64, whole)?;
        let options = Options {
            backend,
            ports: &[1],
            ..Options::default()
        };
        let result = Live::start(&options, &telemetry);
        setrlimit(Resource::RLIMIT_NOFILE, whole, whole)?;
        match result {
            // Without what comes last and may fail, perhaps.
            Ok(live) => {
                ensure!(!held()?.1.is_empty());
                drop(live);
                break;
            }
            Err(error) => {
                let text = error.to_string();
                ensure!(text.lines().count() == 1, "{text}");
                ensure!(text.contains("Too many open files"), "{text}");
                reasons.insert(text);
                refused += 1;
            }
        }
    }
    let (_, kernel) = held()?;
    ensure!(kernel.is_empty(), "{kernel:?} at the end");
    ensure!(events().is_empty(), "{:?} at the end", events());
    for reason in &reasons {
        eprintln!("{reason}");
    }
    // Type information, maps, programs and links fail in different words.
    ensure!(reasons.len() > 5, "{reasons:?}");
    for step in ["creating the maps", "refused program", "refused to attach"] {
        ensure!(
            reasons.iter().any(|reason| reason.contains(step)),
            "{step}: {reasons:?}"
        );
    }
    Ok(())
}
