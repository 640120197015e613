//! `dist`: what is installed elsewhere.

use std::path::PathBuf;

use anyhow::Result;

use crate::{setup, shell};

/// The target whose programs need nothing of the system they run on.
#[cfg(target_arch = "x86_64")]
const TARGET: &str = "x86_64-unknown-linux-musl";
#[cfg(target_arch = "aarch64")]
const TARGET: &str = "aarch64-unknown-linux-musl";

pub(crate) fn task() -> Result<()> {
    let binary = static_binary()?;
    eprintln!("dist: {}", binary.display());
    Ok(())
}

/// Builds the binary that needs no library of the system it runs on, without names for debuggers, and tells where it is.
pub(crate) fn static_binary() -> Result<PathBuf> {
    setup::toolchain()?;
    setup::musl(TARGET)?;
    shell::run(shell::program("cargo").args([
        "build",
        "--profile",
        "dist",
        "--package",
        "observer",
        "--target",
        TARGET,
    ]))?;
    Ok(shell::target().join(TARGET).join("dist/cache-observer"))
}
