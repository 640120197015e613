//! Control groups of version 2, named as container runtimes and systemd name theirs.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

/// A control group; gone when dropped, as soon as nothing runs in it.
#[derive(Debug)]
pub struct Cgroup {
    /// The highest one that was made.
    own: PathBuf,
    path: PathBuf,
}

impl Cgroup {
    /// Makes one with this path, below a control group of its own.
    ///
    /// # Errors
    ///
    /// When this process may not, or version 2 is not mounted.
    pub fn new(path: &str) -> Result<Self> {
        let own = own()?;
        let path = own.join(path.trim_start_matches('/'));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        ensure!(path.join("cgroup.procs").exists(), "{}", path.display());
        Ok(Self { own, path })
    }

    /// A program that runs in it.
    #[must_use]
    pub fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]);
        command.arg(&self.path).arg(program);
        command
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let made = self.path.ancestors();
        let mut made = made.take_while(|path| path.starts_with(&self.own));
        // One in which something runs stays, and so do those around it.
        let _ = made.try_for_each(fs::remove_dir);
    }
}

/// Where a control group of version 2 may be made that nobody else has.
pub(crate) fn own() -> Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut lines = mounts.lines().map(|line| line.split(' '));
    let mount = lines.find_map(|mut words| {
        let place = words.nth(1)?;
        (words.next()? == "cgroup2").then_some(place)
    });
    let mount = mount.context("control groups of version 2 are not mounted")?;
    let name = format!("cache-observer-{}-{number}", std::process::id());
    Ok(Path::new(mount).join(name))
}
