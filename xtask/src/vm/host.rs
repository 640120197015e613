//! This host, as one more machine of the table.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use super::{BACKENDS, LOAD, Machine, Run};
use crate::{setup, shell};

/// What stands for its kernel's version.
pub(super) const NAME: &str = "host";

/// This host with the backends that `doctor` finds.
pub(super) fn machine(binary: &Path) -> Result<Machine> {
    let doctor = shell::as_root(binary)?.arg("doctor").output()?;
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let works = |backend: &&str| {
        told.lines()
            .filter_map(|line| line.strip_prefix("backend "))
            .filter_map(|line| line.strip_prefix(*backend))
            .any(|rest| rest.trim_start().starts_with("works"))
    };
    let names = BACKENDS.into_iter().map(|(backend, _)| backend);
    let (has, lacks): (Vec<_>, Vec<_>) = names.partition(works);
    Ok(Machine {
        release: shell::output("uname", ["-r"]).context("no uname")?,
        has,
        lacks: lacks
            .into_iter()
            .map(|backend| (backend, String::from("refused")))
            .collect(),
        logs: shell::target().join("vm").join(NAME).join("out"),
        kernel: None,
    })
}

/// Runs the tests here, as root. What they print is in a file each.
pub(super) fn run(runs: &[Run], binary: &Path, arguments: &[String], logs: &Path) -> Result<()> {
    for Run {
        backend,
        name,
        program,
        ..
    } in runs
    {
        eprintln!("vm: {backend}: {name}");
        fs::create_dir_all(logs.join(backend))?;
        let log = File::create(logs.join(backend).join(name))?;
        let mut command = shell::as_root("env")?;
        command
            .arg(format!("CACHE_OBSERVER_BIN={}", binary.display()))
            .arg(format!(
                "CACHE_OBSERVER_TOOLS={}",
                setup::python_folder().display()
            ))
            .arg(format!("CACHE_OBSERVER_TEST_LOAD={LOAD}"))
            .arg(format!("CACHE_OBSERVER_BACKEND={backend}"))
            .arg("RUST_LIB_BACKTRACE=0")
            .arg(program)
            .arg("--test-threads=1")
            .args(arguments);
        command
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log);
        // Its outcome is in what it prints.
        command.status().context("env cannot be started")?;
    }
    Ok(())
}
