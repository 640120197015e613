//! `lint`: format, compiler lints, dependencies, and the rules of the house that no tool knows.

mod direction;
mod files;
mod source;

use anyhow::{Result, bail};

use crate::{setup, shell};

/// A named check.
type Check = (&'static str, fn() -> Result<()>);

/// Runs every check, also after one has failed, and names those that did.
pub(crate) fn task() -> Result<()> {
    setup::toolchain()?;
    setup::lint()?;
    let checks: [Check; 7] = [
        ("format", || {
            shell::run(shell::program("cargo").args(["fmt", "--all", "--check"]))
        }),
        ("clippy", clippy),
        ("clippy for the eBPF programs", clippy_bpf),
        ("64-bit Arm", arm),
        ("dependencies", dependencies),
        ("direction of imports", direction::check),
        ("length of files, unsafe code", files::check),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        match check() {
            Ok(()) => eprintln!("lint: {name}: passed"),
            Err(error) => {
                eprintln!("lint: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    Ok(())
}

fn clippy() -> Result<()> {
    let run = |part: &[&str]| {
        let mut cargo = shell::program("cargo");
        shell::run(
            cargo
                .args(["clippy", "--quiet"])
                .args(part)
                .args(["--", "--deny", "warnings"]),
        )
    };
    run(&["--workspace", "--exclude", "observer-ebpf", "--all-targets"])?;
    run(&["--package", "observer-ebpf", "--lib", "--tests"])
}

/// The programs build only for BPF, with the toolchain of that name; Debian's has clippy in a package of its own.
fn clippy_bpf() -> Result<()> {
    setup::bpf_clippy()?;
    let mut cargo = shell::program("rustup");
    cargo.args([
        "run",
        "bpf",
        "cargo",
        "clippy",
        "--quiet",
        "--release",
        "--package",
        "observer-ebpf",
    ]);
    cargo.args(["--target", "bpfel-unknown-none"]);
    if setup::bpf_builds_core() {
        cargo.args(["-Z", "build-std=core"]);
    }
    cargo.args(["--", "--deny", "warnings"]);
    // aya-ebpf uses unstable features; a folder of its own keeps the compilers from discarding each other's work.
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", shell::target().join("lint-bpf"));
    cargo.env(
        "CARGO_ENCODED_RUSTFLAGS",
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    );
    shell::run(&mut cargo)
}

/// The daemon and, by its build script, the programs for kernels with the other register layout.
fn arm() -> Result<()> {
    setup::arm()?;
    shell::run(shell::program("cargo").args([
        "check",
        "--quiet",
        "--package",
        "observer",
        "--target",
        setup::ARM,
    ]))
}

fn dependencies() -> Result<()> {
    let deny = |checks: &[&str]| {
        shell::run(
            shell::program("cargo")
                .args([
                    "deny",
                    "--log-level",
                    "error",
                    "check",
                    "--hide-inclusion-graph",
                ])
                .args(checks),
        )
    };
    deny(&["licenses", "bans", "sources"])?;
    // The database of advisories is fetched; a host that cannot reach it is no reason to fail.
    let mut fetch = shell::program("cargo");
    fetch.args(["deny", "fetch", "db"]);
    match shell::run_quietly(&mut fetch, std::time::Duration::from_secs(60)) {
        Ok(()) => deny(&["advisories"]),
        Err(_) => {
            eprintln!("lint: advisories: NOT CHECKED, their database is out of reach");
            Ok(())
        }
    }
}
