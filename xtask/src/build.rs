//! `build`: the release binary.

use std::path::PathBuf;

use anyhow::Result;

use crate::{setup, shell};

/// Installs what is missing, builds, and tells where the binary is.
pub(crate) fn task() -> Result<PathBuf> {
    setup::toolchain()?;
    shell::run(shell::program("cargo").args(["build", "--release", "--package", "observer"]))?;
    Ok(shell::target().join("release/cache-observer"))
}
