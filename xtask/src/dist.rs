//! `dist`: what is installed elsewhere: the static binary, and a Debian package and a tarball of it and what belongs to it.
//!
//! What is in the package, and where, is in `observer/Cargo.toml`; the tarball is its content.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::{setup, shell};

/// Cargo's profile for the static binary.
const PROFILE: &str = "packaged";

/// Builds all, says how large it is, and tells in which folder package and tarball are.
pub(crate) fn task() -> Result<PathBuf> {
    let binary = static_binary()?;
    let package = package()?;
    let tarball = tarball(&package)?;
    for file in [&binary, &package, &tarball] {
        let bytes = file.metadata()?.len();
        let size = bytes as f64 / f64::from(1 << 20);
        println!("{size:6.2} MiB  {}", file.display());
    }
    Ok(folder())
}

/// Builds the binary that needs no library of the system it runs on, without names for debuggers, and tells where it is.
pub(crate) fn static_binary() -> Result<PathBuf> {
    setup::toolchain()?;
    setup::musl()?;
    shell::run(shell::program("cargo").args([
        "build",
        "--profile",
        PROFILE,
        "--package",
        "observer",
        "--target",
        setup::STATIC,
    ]))?;
    Ok(built().join("cache-observer"))
}

/// Where cargo puts it.
fn built() -> PathBuf {
    shell::target().join(setup::STATIC).join(PROFILE)
}

/// Where package and tarball are.
fn folder() -> PathBuf {
    shell::target().join("dist")
}

/// Makes the Debian package of the static binary, which is built, and tells where it is.
fn package() -> Result<PathBuf> {
    setup::packager()?;
    let manual = built().join("manual");
    shell::clear(&manual)?;
    fs::create_dir_all(&manual)?;
    shell::run(
        shell::program(built().join("cache-observer"))
            .arg("generate")
            .arg(&manual),
    )?;
    let folder = folder();
    shell::clear(&folder)?;
    fs::create_dir_all(&folder)?;
    let mut cargo = shell::program("cargo");
    cargo.args(["deb", "--quiet", "--no-build", "--package", "observer"]);
    cargo.args(["--target", setup::STATIC, "--profile", PROFILE, "--output"]);
    // Its only output is the name of the package, which is looked up below.
    shell::run(cargo.arg(&folder).stdout(Stdio::null()))?;
    let mut files = fs::read_dir(&folder)?;
    let file = files.next().context("cargo-deb has made no package")??;
    Ok(file.path())
}

/// The content of the package, to be unpacked at `/` where there is no dpkg.
fn tarball(package: &Path) -> Result<PathBuf> {
    let path = package.with_extension("tar.gz");
    let mut pack = shell::program("sh");
    pack.args(["-c", "dpkg-deb --fsys-tarfile \"$0\" | gzip -9"])
        .arg(package)
        .stdout(File::create(&path)?);
    shell::run(&mut pack)?;
    Ok(path)
}
