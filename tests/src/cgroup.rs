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
    mount: PathBuf,
    path: PathBuf,
}

impl Cgroup {
    /// Makes one with this path, below a control group of its own.
    ///
    /// # Errors
    ///
    /// When this process may not, or version 2 is not mounted.
    pub fn new(path: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        let has_version_2 = |mount: &PathBuf| mount.join("cgroup.controllers").exists();
        let mount = mounts.into_iter().find(has_version_2);
        let mount = mount.context("control groups of version 2 are not mounted")?;
        let own = format!("cache-observer-{}-{number}", std::process::id());
        let path = mount.join(own).join(path.trim_start_matches('/'));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        ensure!(path.join("cgroup.procs").exists(), "{}", path.display());
        Ok(Self { mount, path })
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
        let mut path = self.path.as_path();
        // One in which something runs stays, and so do those around it.
        while path != self.mount && fs::remove_dir(path).is_ok() {
            let Some(parent) = path.parent() else { return };
            path = parent;
        }
    }
}
