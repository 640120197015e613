//! `setup`: installs what is missing, and nothing else.
//!
//! Every part is first looked for by what it does, not by which package it would come from, so that a tool
//! installed in another way counts, and a second run takes no time.

mod bpf;
mod go;
mod kernels;
mod kubernetes;
mod node;
mod packages;
mod python;

use std::time::Duration;

use anyhow::Result;

use crate::shell;
pub(crate) use bpf::{builds_core as bpf_builds_core, clippy as bpf_clippy};
pub(crate) use kernels::{Kernel, kernel};
pub(crate) use python::folder as python_folder;

/// What to set up beside the toolchain.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Also what the tests need: real servers, clients in several languages, a collector.
    #[arg(long)]
    tests: bool,
    /// Also what `run --demo` needs: a Redis and a Memcached server.
    #[arg(long)]
    demo: bool,
    /// Also what `lint` needs.
    #[arg(long)]
    lint: bool,
}

/// A version that builds with the workspace's compiler.
const CARGO_DENY: &str = "0.20.2";

pub(crate) fn task(options: &Options) -> Result<()> {
    toolchain()?;
    if options.demo {
        demo()?;
    }
    if options.tests {
        tests()?;
    }
    if options.lint {
        lint()?;
    }
    eprintln!("setup: all there");
    Ok(())
}

/// What builds the eBPF programs.
pub(crate) fn toolchain() -> Result<()> {
    bpf::compiler()?;
    bpf::linker()
}

/// Real servers to look at.
pub(crate) fn demo() -> Result<()> {
    packages::programs(
        &[
            ("redis-server", "redis-server"),
            ("redis-cli", "redis-tools"),
            ("memcached", "memcached"),
        ],
        "servers to observe",
    )
}

/// What the tests and the bench talk to.
pub(crate) fn tests() -> Result<()> {
    demo()?;
    packages::programs(
        &[
            ("redis-benchmark", "redis-tools"),
            ("ip", "iproute2"),
            ("tc", "iproute2"),
            ("nft", "nftables"),
            ("setpriv", "util-linux"),
            ("python3", "python3"),
            ("node", "nodejs"),
            ("npm", "npm"),
            ("go", "golang-go"),
            (go::REDIGO, "golang-github-gomodule-redigo-dev"),
            (go::GOMEMCACHE, "golang-github-bradfitz-gomemcache-dev"),
            (go::GO_REDIS, "golang-gopkg-redis.v5-dev"),
            ("memccp", "libmemcached-tools"),
            ("saslpasswd2", "sasl2-bin"),
            ("prometheus", "prometheus"),
            ("promtool", "prometheus"),
            ("systemd-analyze", "systemd"),
            ("podman", "podman"),
            // Not crun, which podman prefers: it refuses a host with both versions of cgroups.
            ("runc", "runc"),
        ],
        "the tests use it",
    )?;
    musl()?;
    packager()?;
    image()?;
    python::environment()?;
    node::environment()?;
    kubernetes::programs()?;
    go::programs()
}

/// A version that builds with the workspace's compiler.
const CARGO_DEB: &str = "3.8.0";

/// What makes the Debian package.
pub(crate) fn packager() -> Result<()> {
    packages::programs(&[("dpkg-deb", "dpkg")], "the package")?;
    cargo_program("deb", CARGO_DEB, "makes Debian packages; a few minutes")
}

/// The target whose programs need nothing of the system they run on.
#[cfg(target_arch = "x86_64")]
pub(crate) const STATIC: &str = "x86_64-unknown-linux-musl";
#[cfg(target_arch = "aarch64")]
pub(crate) const STATIC: &str = "aarch64-unknown-linux-musl";

/// What builds the static binary.
pub(crate) fn musl() -> Result<()> {
    packages::programs(
        &[("musl-gcc", "musl-tools")],
        "the C parts of the static binary",
    )?;
    standard_library(STATIC, "the static binary")
}

/// What builds the image.
pub(crate) fn image() -> Result<()> {
    packages::programs(&[("buildah", "buildah")], "it builds the image")
}

/// The target of the check for 64-bit Arm.
pub(crate) const ARM: &str = "aarch64-unknown-linux-gnu";

/// What compiles for 64-bit Arm.
pub(crate) fn arm() -> Result<()> {
    packages::programs(
        &[
            ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
            (
                "/usr/aarch64-linux-gnu/include/stdlib.h",
                "libc6-dev-arm64-cross",
            ),
        ],
        "lint compiles for 64-bit Arm",
    )?;
    standard_library(ARM, "lint compiles for 64-bit Arm")
}

/// The standard library of another target.
fn standard_library(target: &str, why: &str) -> Result<()> {
    let there = shell::output("rustup", ["target", "list", "--installed"]);
    if there.is_some_and(|there| there.lines().any(|line| line == target)) {
        return Ok(());
    }
    shell::step(&format!("rustup target add {target}"), why, || {
        shell::run_quietly(
            shell::program("rustup").args(["target", "add", target]),
            Duration::from_secs(600),
        )
    })
}

/// What `lint` calls.
pub(crate) fn lint() -> Result<()> {
    cargo_program(
        "deny",
        CARGO_DENY,
        "checks licences and sources of dependencies; a few minutes",
    )
}

/// `cargo NAME`, of this version if there is none.
fn cargo_program(name: &str, version: &str, why: &str) -> Result<()> {
    if shell::output("cargo", [name, "--version"]).is_some() {
        return Ok(());
    }
    let package = format!("cargo-{name}");
    shell::step(&format!("cargo install {package} {version}"), why, || {
        shell::run_quietly(
            shell::program("cargo").args(["install", &package, "--version", version, "--locked"]),
            Duration::from_secs(1800),
        )
    })
}
