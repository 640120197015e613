//! Debian's packages.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::shell;

const LIMIT: Duration = Duration::from_secs(1200);

/// Whether this host has Debian's package manager.
pub(super) fn available() -> bool {
    shell::found("apt-get")
}

/// Installs the packages of those programs, or of those files given by their whole path, that are missing.
pub(super) fn programs(wanted: &[(&str, &str)], why: &str) -> Result<()> {
    let there = |name: &str| match name.starts_with('/') {
        true => Path::new(name).exists(),
        false => shell::found(name),
    };
    let missing: Vec<_> = wanted.iter().filter(|(name, _)| !there(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !available() {
        let names: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
        bail!(
            "missing: {} ({why}); install it with this host's package manager",
            names.join(", ")
        );
    }
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    install(&packages, why)
}

/// Installs packages, without starting the services that some of them bring.
pub(super) fn install(packages: &[&str], why: &str) -> Result<()> {
    shell::step(
        &format!("apt-get install {}", packages.join(" ")),
        why,
        || {
            let apt = |arguments: &[&str]| -> Result<()> {
                let mut command = shell::as_root("env")?;
                command
                    .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"])
                    .args(arguments);
                shell::run_quietly(&mut command, LIMIT)
            };
            let quiet = NoServices::begin()?;
            apt(&["update"])?;
            let mut arguments = vec!["install", "--no-install-recommends"];
            arguments.extend(packages);
            let installed = apt(&arguments);
            quiet.end()?;
            installed
        },
    )
}

/// Keeps packages from starting their services, by the means that Debian's policy gives for it.
struct NoServices {
    /// Whether the policy is ours, to be taken away again.
    ours: bool,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn begin() -> Result<Self> {
        if Path::new(Self::POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let draft = shell::target().join("policy-rc.d");
        fs::create_dir_all(shell::target())?;
        let mut file = fs::File::create(&draft)?;
        file.write_all(b"#!/bin/sh\n# Written by cargo xtask setup for the time of one installation.\nexit 101\n")?;
        file.set_permissions(PermissionsExt::from_mode(0o755))?;
        shell::run_quietly(
            shell::as_root("install")?
                .args(["-m", "755"])
                .arg(&draft)
                .arg(Self::POLICY),
            Duration::from_secs(30),
        )
        .context("cannot keep packages from starting services")?;
        Ok(Self { ours: true })
    }

    fn end(self) -> Result<()> {
        if self.ours {
            shell::run_quietly(
                shell::as_root("rm")?.args(["-f", Self::POLICY]),
                Duration::from_secs(30),
            )?;
        }
        Ok(())
    }
}
