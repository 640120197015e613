//! The Node packages of the tests: client libraries, in the versions of `tests/clients/node/package-lock.json`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell;

const LIMIT: Duration = Duration::from_secs(600);

/// Where they lie, beside the Python environment.
fn folder() -> PathBuf {
    shell::target().join("tools/node")
}

/// Installs them, unless they are there in just these versions.
pub(super) fn environment() -> Result<()> {
    let folder = folder();
    let pinned = shell::workspace().join("tests/clients/node");
    let wanted = fs::read_to_string(pinned.join("package-lock.json")).context("the versions")?;
    // Written last, so that an installation that was cut off is done again.
    let stamp = folder.join("installed.json");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    shell::step("Node packages", "ioredis and node-redis, for tests", || {
        fs::create_dir_all(&folder)?;
        for name in ["package.json", "package-lock.json"] {
            fs::copy(pinned.join(name), folder.join(name))?;
        }
        let mut npm = shell::program("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        shell::run_quietly(npm.current_dir(&folder), LIMIT)?;
        fs::write(&stamp, &wanted)?;
        Ok(())
    })
}
