//! The eBPF toolchain: a compiler that knows the BPF target, and `bpf-linker`.
//!
//! The build script asks rustup for a toolchain called `bpf`. Setup makes that a link to the first that can be had:
//!
//! 1. the nightly toolchain with its sources (`core` is then built along),
//! 2. Debian's own compiler, whose packages hold a `core` for BPF,
//! 3. a pinned nightly with its sources.
//!
//! Both compiler and linker must stand on the same LLVM: an older linker cannot read newer bitcode.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::packages;
use crate::shell;

const TOOLCHAIN: &str = "bpf";
/// The newest that stands on [`LLVM`].
const PINNED: &str = "nightly-2026-05-20";
const LLVM: &str = "22";
const LINKER: &str = "0.13.0";
const DEBIAN: [&str; 4] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "libstd-rust-web-dev-bpf",
];

/// The folder of a toolchain that can compile for BPF.
fn usable(toolchain: &str) -> Option<PathBuf> {
    let rustc = |arguments: [&str; 2]| {
        shell::output(
            "rustup",
            ["run", toolchain, "rustc", arguments[0], arguments[1]],
        )
    };
    let folder = PathBuf::from(rustc(["--print", "sysroot"])?);
    let library = folder.join("lib/rustlib");
    let core = library.join("bpfel-unknown-none/lib").exists()
        || library.join("src/rust/library/core").exists();
    let version = rustc(["--version", "--verbose"])?;
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    (core && llvm.split('.').next() == Some(LLVM)).then_some(folder)
}

/// Makes sure that rustup knows a toolchain `bpf`.
pub(super) fn compiler() -> Result<()> {
    if usable(TOOLCHAIN).is_some() {
        return Ok(());
    }
    if !shell::found("rustup") {
        bail!("rustup is missing: https://rustup.rs tells how to install it");
    }
    let ways = [
        ("the nightly toolchain", nightly as fn() -> Result<PathBuf>),
        ("Debian's compiler", debian),
        ("a pinned nightly toolchain", pinned),
    ];
    let mut tried = Vec::new();
    for (name, way) in ways {
        match way().and_then(|folder| link(&folder)) {
            Ok(()) => return Ok(()),
            Err(error) => tried.push(format!("{name}: {error:#}")),
        }
    }
    bail!(
        "no compiler for the eBPF programs could be installed\n  {}",
        tried.join("\n  ")
    )
}

fn nightly() -> Result<PathBuf> {
    // Not installed when it is missing: the newest may stand on a newer LLVM.
    if shell::output("rustup", ["run", "nightly", "rustc", "--version"]).is_none() {
        bail!("not installed");
    }
    if usable("nightly").is_none() {
        shell::step(
            "rustup component add rust-src",
            "to build `core` for BPF",
            || {
                let mut rustup = shell::program("rustup");
                rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
                shell::run_quietly(&mut rustup, Duration::from_secs(60))
            },
        )
        .context("its sources are out of reach")?;
    }
    usable("nightly").ok_or_else(|| anyhow!("does not stand on LLVM {LLVM}"))
}

fn debian() -> Result<PathBuf> {
    if !packages::available() {
        bail!("no apt-get here");
    }
    packages::install(
        &DEBIAN,
        "a Rust compiler with `core` for BPF; beside rustup's, not in its place",
    )?;
    Ok(PathBuf::from("/usr"))
}

fn pinned() -> Result<PathBuf> {
    shell::step(
        &format!("rustup toolchain install {PINNED}"),
        "a compiler for BPF",
        || {
            let mut rustup = shell::program("rustup");
            rustup.args([
                "toolchain",
                "install",
                PINNED,
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]);
            shell::run_quietly(&mut rustup, Duration::from_secs(600))
        },
    )?;
    usable(PINNED).ok_or_else(|| anyhow!("does not stand on LLVM {LLVM}"))
}

fn link(folder: &Path) -> Result<()> {
    let mut rustup = shell::program("rustup");
    rustup.args(["toolchain", "link", TOOLCHAIN]).arg(folder);
    shell::run_quietly(&mut rustup, Duration::from_secs(30))?;
    match usable(TOOLCHAIN) {
        Some(_) => Ok(()),
        None => bail!("linked as rustup toolchain `{TOOLCHAIN}`, yet it cannot compile for BPF"),
    }
}

/// Whether `core` for BPF must be built along with the programs.
pub(crate) fn builds_core() -> bool {
    usable(TOOLCHAIN)
        .is_some_and(|folder| !folder.join("lib/rustlib/bpfel-unknown-none/lib").exists())
}

/// Makes sure that the toolchain `bpf` has clippy.
pub(crate) fn clippy() -> Result<()> {
    let there =
        || shell::output("rustup", ["run", TOOLCHAIN, "cargo", "clippy", "--version"]).is_some();
    if there() {
        return Ok(());
    }
    let folder = usable(TOOLCHAIN).context("no toolchain for BPF")?;
    if folder == Path::new("/usr") {
        packages::install(&["rust-web-clippy"], "checks the eBPF programs")?;
    } else {
        // The link itself cannot be added to; the toolchain it leads to has its folder's name.
        shell::step(
            "rustup component add clippy",
            "checks the eBPF programs",
            || {
                let mut rustup = shell::program("rustup");
                rustup
                    .args(["component", "add", "clippy", "--toolchain"])
                    .args(folder.file_name());
                shell::run_quietly(&mut rustup, Duration::from_secs(120))
            },
        )?;
    }
    match there() {
        true => Ok(()),
        false => bail!("the toolchain `{TOOLCHAIN}` has no clippy"),
    }
}

/// Makes sure that `bpf-linker` runs.
pub(super) fn linker() -> Result<()> {
    if shell::output("bpf-linker", ["--version"]).is_some() {
        return Ok(());
    }
    if llvm().is_none() && packages::available() {
        packages::install(&["llvm-22-dev"], "bpf-linker links against LLVM")?;
    }
    let Some(llvm) = llvm() else {
        bail!(
            "bpf-linker is missing, and so is LLVM {LLVM} with its development files, to build it: \
             install either, then run this task again"
        );
    };
    shell::step(
        &format!("cargo install bpf-linker {LINKER}"),
        "links the eBPF programs; a minute or two",
        || {
            let mut cargo = shell::program("cargo");
            cargo.args([
                "install",
                "bpf-linker",
                "--version",
                LINKER,
                "--locked",
                "--force",
            ]);
            cargo.args([
                "--no-default-features",
                "--features",
                &format!("llvm-{LLVM}"),
            ]);
            cargo.env("LLVM_PREFIX", llvm);
            shell::run_quietly(&mut cargo, Duration::from_secs(1800))
        },
    )
}

/// The folder of the right LLVM.
fn llvm() -> Option<String> {
    let right = |name: &str| {
        let version = shell::output(name, ["--version"])?;
        (version.split('.').next() == Some(LLVM)).then(|| shell::output(name, ["--prefix"]))?
    };
    right("llvm-config-22").or_else(|| right("llvm-config"))
}
