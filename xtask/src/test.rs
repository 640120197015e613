//! `test`: unit tests, then the tests in `tests/` with the built binary, real servers and the real kernel, as root, then those
//! that depend on the kernel once more in guests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;
use std::{fs, io};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{build, dist, image, setup, shell, vm};

/// Which tests to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only those that need neither root nor a server.
    #[arg(long, conflicts_with = "live")]
    unit: bool,
    /// Only those with the built binary on this host.
    #[arg(long)]
    live: bool,
    /// Passed to every test program: a part of a test's name, `--nocapture` …
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What the tests run.
struct Built {
    binary: PathBuf,
    /// The folder of the packages.
    packages: PathBuf,
    /// The image's archive.
    image: PathBuf,
}

pub(crate) fn task(options: &Options) -> Result<()> {
    let begun = Instant::now();
    setup::toolchain()?;
    if !options.live {
        unit(options)?;
    }
    if !options.unit {
        setup::tests()?;
        let built = Built {
            binary: build::task()?,
            packages: dist::task()?,
            image: image::task()?,
        };
        live(options, &built)?;
    }
    // A name belongs to tests of this host.
    if !options.unit && !options.live && options.arguments.is_empty() {
        vm::task(&vm::Options::guests())?;
    }
    eprintln!("test: all passed in {} s", begun.elapsed().as_secs());
    Ok(())
}

fn unit(options: &Options) -> Result<()> {
    // The eBPF programs themselves build only for their own target.
    let parts: [&[&str]; 3] = [
        &[
            "--workspace",
            "--exclude",
            "observer-ebpf",
            "--exclude",
            "tests",
        ],
        &["--package", "observer-ebpf", "--lib"],
        &["--package", "tests", "--lib"],
    ];
    for part in parts {
        let mut cargo = shell::program("cargo");
        cargo
            .arg("test")
            .args(part)
            .arg("--")
            .args(&options.arguments);
        shell::run(&mut cargo)?;
    }
    Ok(())
}

fn live(options: &Options, built: &Built) -> Result<()> {
    let mut failed = Vec::new();
    let coverage = shell::target().join("coverage");
    // Written by root, in a folder that is ours.
    shell::clear(&coverage).context("what the last run covered")?;
    for (name, program) in programs()? {
        if vm::GUEST_ONLY.contains(&name.as_str()) {
            continue;
        }
        eprintln!("test: {name}, as root");
        let mut command = shell::as_root("env")?;
        command
            .arg(format!("CACHE_OBSERVER_BIN={}", built.binary.display()))
            .arg(format!("CACHE_OBSERVER_DIST={}", built.packages.display()))
            .arg(format!("CACHE_OBSERVER_IMAGE={}", built.image.display()))
            .arg(format!(
                "CACHE_OBSERVER_TOOLS={}",
                setup::python_folder().display()
            ))
            .arg(format!("CACHE_OBSERVER_COVERAGE={}", coverage.display()))
            // An error of a test says where it comes from; a backtrace through the test runner hides it.
            .arg("RUST_LIB_BACKTRACE=0")
            .arg(program)
            // Each test runs servers and an observer of its own.
            .arg("--test-threads=2")
            .args(&options.arguments);
        if shell::run(&mut command).is_err() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    match fs::read_to_string(&coverage) {
        Ok(notes) => eprintln!("test: covered {}", covered(&notes)),
        // Tests that were picked by name may note nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// How many different things of each kind the tests have noted, one line each: its kind and its name.
fn covered(notes: &str) -> String {
    let mut kinds = BTreeMap::<&str, BTreeSet<&str>>::new();
    for (kind, name) in notes.lines().filter_map(|line| line.split_once(' ')) {
        kinds.entry(kind).or_default().insert(name);
    }
    let counts = kinds
        .iter()
        .map(|(kind, names)| format!("{} {kind}s", names.len()));
    counts.collect::<Vec<_>>().join(", ")
}

/// Builds the test programs as the present user and tells where they are.
pub(crate) fn programs() -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = shell::program("cargo");
    cargo.args([
        "test",
        "--package",
        "tests",
        "--test",
        "*",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    let output = cargo.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut programs = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages are JSON")?;
        if let (Some(program), Some(name)) = (
            message["executable"].as_str(),
            message["target"]["name"].as_str(),
        ) {
            programs.push((name.to_owned(), PathBuf::from(program)));
        }
    }
    programs.sort();
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::covered;

    #[test]
    fn things_count_once() {
        let notes = "command GET\ncommand CONFIG GET\ncapture a.pcap\ncommand GET\n";
        assert_eq!(covered(notes), "1 captures, 2 commands");
    }
}
