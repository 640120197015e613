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

/// Folders of `tests/clients`, and the programs there.
const PROGRAMS: [(&str, &str); 3] = [
    ("go", "redigo"),
    ("gomemcache", "gomemcache"),
    ("pools/go", "redigo_pool"),
];

const LIMIT: Duration = Duration::from_secs(600);

/// Builds them, unless they were built from just these sources.
pub(super) fn programs() -> Result<()> {
    PROGRAMS
        .iter()
        .try_for_each(|(clients, name)| build(clients, name))
}

fn build(clients: &str, name: &str) -> Result<()> {
    let file = format!("{name}.go");
    let clients = shell::workspace().join("tests/clients").join(clients);
    let source = clients.join(&file);
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
