//! The Node packages of the tests, in the versions of the `package-lock.json` beside what uses them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell;

const LIMIT: Duration = Duration::from_secs(600);

/// Folders of `tests`, what they are called below `target/tools`, and what they bring.
const FOLDERS: [(&str, &str, &str); 3] = [
    (
        "clients/node",
        "node",
        "ioredis, node-redis and generic-pool, for tests",
    ),
    ("clients/memjs", "memjs", "memjs, for tests"),
    (
        "tests/kubernetes/monokle",
        "monokle",
        "what knows the Pod Security Standards, for tests",
    ),
];

/// Installs them, unless they are there in just these versions.
pub(super) fn environment() -> Result<()> {
    FOLDERS
        .iter()
        .try_for_each(|(sources, name, why)| install(sources, name, why))
}

/// Installs those of one folder. They lie beside the Python environment.
fn install(sources: &str, name: &str, why: &str) -> Result<()> {
    let folder = shell::target().join("tools").join(name);
    let pinned = shell::workspace().join("tests").join(sources);
    let wanted = fs::read_to_string(pinned.join("package-lock.json")).context("the versions")?;
    // Written last, so that an installation that was cut off is done again.
    let stamp = folder.join("installed.json");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    shell::step("Node packages", why, || {
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
