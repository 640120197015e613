//! A machine of its own to install packages on: a real systemd, booted in namespaces on top of this host's files, of which it
//! changes nothing. What it writes is in memory and gone with it.
//!
//! Its process ids are its own, so an observer in it does not find the processes that the kernel names to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cgroup;
use crate::process::{Folder, Running, eventually, patience};

/// `$0`: an empty folder; `$1`: a folder of this host that the machine finds as `/mnt`; `$2`: a cgroup.
///
/// `/proc/sys` and `/sys` belong to the whole host, so they cannot be written.
const BOOT: &str = r#"
set -e
echo $$ > "$2/cgroup.procs"
exec unshare --kill-child --fork --pid --mount --cgroup --uts --ipc --net sh -c '
set -e
mount -t tmpfs tmpfs "$0"
root="$0/root"
mkdir "$0/changes" "$0/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$0/changes,workdir=$0/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$1" "$root/mnt"
# Of this host, but not for this machine: what it mounts, and that services are not to be started.
: > "$root/etc/fstab"
rm -f "$root/usr/sbin/policy-rc.d"
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
ip link set lo up
mkdir "$root/tmp/old"
cd "$root"
pivot_root . tmp/old
umount -l /tmp/old
exec /lib/systemd/systemd --system --show-status=0 --log-target=journal --unit=basic.target
' "$0" "$1"
"#;

/// It runs until it is dropped.
#[derive(Debug)]
pub struct Machine {
    /// The first process, as this host numbers it.
    first: String,
    process: Running,
    cgroup: PathBuf,
    _folder: Folder,
}

impl Machine {
    /// Boots it. It finds `shared` as `/mnt`.
    ///
    /// # Errors
    ///
    /// When it is not up within 60 s.
    pub fn boot(shared: &Path) -> Result<Self> {
        let cgroup = cgroup::own()?;
        fs::create_dir(&cgroup).with_context(|| cgroup.display().to_string())?;
        let folder = Folder::new()?;
        let mut command = Command::new("env");
        command.args(["-i", "container=test", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["sh", "-c", BOOT]);
        command.arg(folder.path()).arg(shared).arg(&cgroup);
        let process = Running::start(command.stdin(Stdio::null()))?;
        let mut machine = Self {
            first: String::new(),
            process,
            cgroup,
            _folder: folder,
        };
        machine.wait()?;
        Ok(machine)
    }

    fn wait(&mut self) -> Result<()> {
        let id = self.process.id();
        let children = format!("/proc/{id}/task/{id}/children");
        eventually(Duration::from_secs(60), "the machine is up", || {
            if let Some(status) = self.process.child().try_wait()? {
                bail!("it did not boot: {status}");
            }
            self.first = fs::read_to_string(&children)?.trim().to_owned();
            if self.first.is_empty() {
                return Ok(false);
            }
            let state = self.call(&["systemctl", "is-system-running"])?.stdout;
            // Degraded: a unit of this host has no place here.
            Ok(["running", "degraded"].contains(&String::from_utf8_lossy(&state).trim()))
        })
    }

    /// Runs a program in it, to its end, and gives what came of it.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn call(&self, words: &[&str]) -> Result<Output> {
        let limit = patience(Duration::from_secs(60)).as_secs().to_string();
        let mut command = Command::new("timeout");
        command.args([
            &limit,
            "nsenter",
            "--target",
            &self.first,
            "--all",
            "--root",
        ]);
        command.args(words).stdin(Stdio::null());
        // Debconf asks nobody.
        command.env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command.output()?)
    }

    /// Runs a program in it and gives what it printed.
    ///
    /// # Errors
    ///
    /// When it fails: with all that it printed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.call(words)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        let status = output.status;
        ensure!(status.success(), "{words:?}: {status}\n{text}{error}");
        Ok(text)
    }

    /// The processes of a system service, as this host numbers them.
    ///
    /// # Errors
    ///
    /// When it has no cgroup, that is, does not run.
    pub fn processes(&self, service: &str) -> Result<Vec<u32>> {
        let file = self.cgroup.join("system.slice").join(service);
        let text = fs::read_to_string(file.join("cgroup.procs"))?;
        text.lines().map(|line| Ok(line.parse()?)).collect()
    }

    /// A property of a unit.
    ///
    /// # Errors
    ///
    /// When systemd does not answer.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let text = self.run(&["systemctl", "show", "--value", "--property", name, unit])?;
        Ok(text.trim().to_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // All its processes end with the first one, which ends with this.
        let _ = self.process.child().kill();
        let _ = self.process.child().wait();
        let _ = eventually(Duration::from_secs(10), "its cgroups are empty", || {
            remove(&self.cgroup);
            Ok(!self.cgroup.exists())
        });
    }
}

/// Removes a cgroup and those in it, as far as they are empty.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    // Not empty yet.
    let _ = fs::remove_dir(cgroup);
}
