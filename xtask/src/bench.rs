//! `bench`: what observing costs, beside the goals. It measures and reports; it never fails for a slow result.
//!
//! CONTRIBUTING.md describes the method.

mod hooks;
mod overhead;
mod pipeline;
mod rates;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{build, setup, shell};
use table::Table;

/// How long to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Pairs of runs, without and with the observer.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Commands of each unpipelined run; pipelined runs have eight times as many.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Only these parts.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Set by this task when it calls itself as root.
    #[arg(long, hide = true)]
    as_root: bool,
}

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Throughput of a server with and without the observer.
    Overhead,
    /// Nanoseconds a hook takes in the kernel.
    Hooks,
    /// Nanoseconds a command takes in user space.
    Pipeline,
    /// Processor time, memory and what leaves by OTLP, at fixed rates of commands.
    Rates,
}

/// Measures, prints a table, writes target/bench.json.
pub(crate) fn task(options: &Options) -> Result<()> {
    if !options.as_root {
        setup::tests()?;
        build::task()?;
        if !shell::is_root() {
            // What must be built has been built as the present user.
            hooks::build()?;
            let this = std::env::current_exe()?;
            let mut again = shell::as_root(this)?;
            again
                .args(["bench", "--as-root"])
                .args(std::env::args_os().skip(2));
            return shell::run(&mut again);
        }
    }
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut table = Table::default();
    let mut results = json!({});
    if wanted(Part::Pipeline) {
        results["pipeline"] = pipeline::measure(&mut table)?;
    }
    if wanted(Part::Hooks) {
        results["hooks"] = hooks::measure(&mut table)?;
    }
    if wanted(Part::Overhead) {
        results["overhead"] = overhead::measure(options, &mut table)?;
    }
    if wanted(Part::Rates) {
        results["rates"] = rates::measure(&mut table)?;
    }
    let file = shell::target().join("bench.json");
    fs::write(&file, serde_json::to_string_pretty(&results)?)?;
    println!("{table}");
    eprintln!("bench: all numbers are in {}", file.display());
    Ok(())
}

/// Builds a bench target of the observer and gives its program; `None` when there is no such target.
fn bench_program(name: &str) -> Result<Option<PathBuf>> {
    if !shell::workspace()
        .join(format!("observer/benches/{name}.rs"))
        .exists()
    {
        eprintln!("bench: observer/benches/{name}.rs is not there: not measured");
        return Ok(None);
    }
    let mut cargo = shell::program("cargo");
    cargo.args([
        "bench",
        "--package",
        "observer",
        "--bench",
        name,
        "--no-run",
    ]);
    cargo.arg("--message-format=json-render-diagnostics");
    let output = cargo.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the bench `{name}` does not build");
    }
    let program = String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.context("cargo has built no program").map(Some)
}

/// The lines of a text that are JSON objects.
fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The middle of these numbers.
fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }
}
