//! `image`: the container image.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{dist, setup, shell};

/// Most bytes of the image.
const MOST: u64 = 20 << 20;
const LIMIT: Duration = Duration::from_secs(300);

/// Builds the static binary and from it the image, and tells where its archive is, for `podman load` and `docker load`.
pub(crate) fn task() -> Result<PathBuf> {
    let binary = dist::static_binary()?;
    setup::image()?;
    of(&binary)
}

/// The image of a static binary.
fn of(binary: &Path) -> Result<PathBuf> {
    let folder = shell::target().join("image");
    let context = folder.join("context");
    fs::create_dir_all(&context)?;
    fs::copy(binary, context.join("cache-observer")).context("the static binary")?;
    let name = concat!("localhost/cache-observer:", env!("CARGO_PKG_VERSION"));
    // Neither this host's images nor its settings: a store of its own, which is gone afterwards.
    let (store, run) = (folder.join("store"), folder.join("run"));
    let buildah = || -> Result<_> {
        let mut command = shell::as_root("buildah")?;
        command.arg("--root").arg(&store).arg("--runroot").arg(&run);
        command.args(["--storage-driver", "vfs"]);
        Ok(command)
    };
    // A fixed time: the same binary makes the same image.
    shell::run_quietly(
        buildah()?
            .args(["bud", "--isolation", "chroot", "--timestamp", "0"])
            .args(["--tag", name, "--file"])
            .arg(shell::workspace().join("deploy/Containerfile"))
            .arg(&context),
        LIMIT,
    )?;
    let archive = folder.join("cache-observer.tar");
    shell::clear(&archive)?;
    shell::run_quietly(
        buildah()?
            .args(["push", "--quiet", name])
            .arg(format!("docker-archive:{}:{name}", archive.display())),
        LIMIT,
    )?;
    shell::run_quietly(shell::as_root("rm")?.arg("-rf").args([&store, &run]), LIMIT)?;
    let size = fs::metadata(&archive)?.len();
    ensure!(size < MOST, "the image has {size} bytes, more than {MOST}");
    let mib = size as f64 / f64::from(1 << 20);
    eprintln!("image: {name}, {mib:.1} MiB, in {}", archive.display());
    Ok(archive)
}
