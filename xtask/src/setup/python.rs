//! The Python environment of the tests: real client libraries, and a collector that comes as a wheel.

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use anyhow::Result;

use super::packages;
use crate::shell;

/// Pinned: the tests know what these say on the wire.
const REQUIREMENTS: [&str; 3] = ["redis==8.1.0", "pymemcache==4.0.0", "rotel==0.0.1a15"];

const LIMIT: Duration = Duration::from_secs(600);

/// Where it lies.
pub(crate) fn folder() -> PathBuf {
    shell::target().join("tools/venv")
}

/// Makes the environment, unless it is there with just these versions.
pub(super) fn environment() -> Result<()> {
    let folder = folder();
    // Written last, so that an installation that was cut off is done again.
    let stamp = folder.join("requirements.txt");
    let wanted = REQUIREMENTS.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted)
        && folder.join("bin/python").exists()
    {
        return Ok(());
    }
    shell::step(
        "Python environment",
        "redis-py, pymemcache and the collector rotel, for tests",
        || {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            let make = || {
                shell::run_quietly(
                    shell::program("python3").args(["-m", "venv"]).arg(&folder),
                    LIMIT,
                )
            };
            if let Err(error) = make() {
                if !packages::available() {
                    return Err(error.context("python3 cannot make a virtual environment"));
                }
                // Debian keeps this part of Python apart.
                packages::install(
                    &["python3-venv"],
                    "python3 cannot make a virtual environment without it",
                )?;
                make()?;
            }
            let mut pip = shell::program(folder.join("bin/python"));
            pip.args(["-m", "pip", "install", "--disable-pip-version-check"])
                .args(REQUIREMENTS);
            shell::run_quietly(&mut pip, LIMIT)?;
            fs::write(&stamp, &wanted)?;
            Ok(())
        },
    )
}
