//! Builds the kernel programs and leaves their object in `OUT_DIR`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use aya_build::{Package, Toolchain};

/// Name of the kernel programs' package, and of its binary.
const EBPF: &str = "observer-ebpf";

/// The value that lets the one crate with an unstable feature use it on a stable compiler. Any value but `1`
/// leaves `-Z build-std` to nightly, so that Debian's toolchain takes its packaged `core`.
const BOOTSTRAP: (&str, &str) = ("RUSTC_BOOTSTRAP", "aya_ebpf");

/// Settings meant for the host's compiler, which would reach the BPF compiler too.
const LEAKS: [&str; 6] = [
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_TARGET_DIR",
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PATH");
    match build() {
        Ok(code) => code,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<ExitCode, String> {
    if env::var_os(BOOTSTRAP.0).is_none_or(|value| value != BOOTSTRAP.1) {
        return again();
    }
    let root =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?)
            .join("../observer-ebpf");
    println!(
        "cargo::rerun-if-changed={}",
        root.join("Cargo.toml").display()
    );
    if !on_path("bpf-linker") {
        return Err("the kernel programs need bpf-linker, which is not on the PATH; run `cargo xtask setup`".into());
    }
    let toolchain = toolchain().ok_or(
        "the kernel programs need a Rust toolchain for BPF, and neither nightly with rust-src nor one named `bpf` is there; run `cargo xtask setup`",
    )?;
    let sources = root.join("src");
    let package = Package {
        name: EBPF,
        root_dir: sources
            .to_str()
            .ok_or("the path of the sources is not UTF-8")?,
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain))
        .map_err(|error| format!("building the kernel programs failed: {error:#}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs this build script once more in the environment that `aya-build` needs: it reads its own process's,
/// which cannot be changed safely from inside.
fn again() -> Result<ExitCode, String> {
    let this =
        env::current_exe().map_err(|error| format!("finding the build script failed: {error}"))?;
    let mut command = Command::new(this);
    command.env(BOOTSTRAP.0, BOOTSTRAP.1);
    for leak in LEAKS {
        command.env_remove(leak);
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("running the build script failed: {error}"))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if !is_progress(line) {
            println!("{line}");
        }
    }
    // The inner run has printed its own error.
    Ok(if output.status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `aya-build` turns each line of the inner cargo into a warning, the indented ones about progress too.
fn is_progress(line: &str) -> bool {
    let words = [
        "Adding",
        "Blocking",
        "Compiling",
        "Downloaded",
        "Downloading",
        "Finished",
        "Locking",
        "Updating",
    ];
    line.strip_prefix("cargo:warning=  ")
        .and_then(|text| text.split_whitespace().next())
        .is_some_and(|word| words.contains(&word))
}

/// The first toolchain that can build for BPF.
fn toolchain() -> Option<&'static str> {
    let sysroot = |name| {
        let output = Command::new("rustup")
            .args(["run", name, "rustc", "--print", "sysroot"])
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    if sysroot("nightly").is_some_and(|root| root.join("lib/rustlib/src/rust/library").is_dir()) {
        return Some("nightly");
    }
    sysroot("bpf")
        .is_some_and(|root| root.join("lib/rustlib/bpfel-unknown-none").is_dir())
        .then_some("bpf")
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir: PathBuf| Path::new(&dir).join(program).is_file())
}
