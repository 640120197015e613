//! The Go programs of the tests, built with Debian's packages of Go libraries.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell;

/// Where Debian puts the sources of libraries.
const SOURCES: &str = "/usr/share/gocode";
/// A library that the programs use.
pub(super) const REDIGO: &str = "/usr/share/gocode/src/github.com/gomodule/redigo";

/// Another.
pub(super) const GOMEMCACHE: &str = "/usr/share/gocode/src/github.com/bradfitz/gomemcache";

/// And another.
pub(super) const GO_REDIS: &str = "/usr/share/gocode/src/gopkg.in/redis.v5";

/// Folders of `tests`, and the programs there.
const PROGRAMS: [(&str, &str); 4] = [
    ("clients/go", "redigo"),
    ("clients/gomemcache", "gomemcache"),
    ("clients/pools/go", "redigo_pool"),
    ("guide", "go_redis"),
];

const LIMIT: Duration = Duration::from_secs(600);

/// Builds them, unless they were built from just these sources.
pub(super) fn programs() -> Result<()> {
    PROGRAMS
        .iter()
        .try_for_each(|(folder, name)| build(folder, name))
}

fn build(sources: &str, name: &str) -> Result<()> {
    let file = format!("{name}.go");
    let source = shell::workspace().join("tests").join(sources).join(&file);
    let folder = shell::target().join("tools/go");
    let program = folder.join(name);
    let wanted = fs::read_to_string(&source).context("a program of the tests")?;
    // Written last, so that a build that was cut off is done again.
    let stamp = folder.join(&file);
    if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) && program.exists() {
        return Ok(());
    }
    let why = format!("a client that uses {name}, for tests");
    shell::step("go build", &why, || {
        fs::create_dir_all(&folder)?;
        let mut go = shell::program("go");
        go.env("GO111MODULE", "off").env("GOPATH", SOURCES);
        // Beside the program: the user's own cache may be anywhere, or nowhere.
        go.env("GOCACHE", folder.join("cache"));
        go.args(["build", "-o"]).arg(&program).arg(&source);
        shell::run_quietly(&mut go, LIMIT)?;
        fs::write(&stamp, &wanted)?;
        Ok(())
    })
}
