//! Programs that end with the value that stands for them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A running program, killed at the end.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// When it is not installed.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| {
            let name = command.get_program().to_string_lossy();
            format!("cannot start {name}: `cargo xtask setup --tests` installs it")
        })?;
        Ok(Self { child })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(self.child.id() as i32).context("no process has the number 0")?;
        kill_process(id, signal).context("the process is gone")
    }

    /// Waits for its end and gives the exit status, negative for a signal.
    ///
    /// # Errors
    ///
    /// When it goes on longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<i32> {
        use std::os::unix::process::ExitStatusExt;
        let mut status = None;
        eventually(limit, "the program ends", || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        let status = status.context("waited for above")?;
        Ok(status
            .code()
            .unwrap_or_else(|| -status.signal().unwrap_or(1)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a program that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A limit of time that is right for an ordinary machine; more where `CACHE_OBSERVER_TEST_LOAD` says that it is slow.
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    match std::env::var_os("CACHE_OBSERVER_TEST_LOAD") {
        Some(_) => limit * 6,
        None => limit,
    }
}

/// Waits until `condition` holds.
///
/// # Errors
///
/// When it does not within `limit` ([`patience`]), or fails itself.
pub fn eventually(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let limit = patience(limit);
    let begun = Instant::now();
    while !condition()? {
        if begun.elapsed() > limit {
            bail!("waited {} s in vain: {what}", limit.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A folder that is gone at the end.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// When the system's folder for temporary files cannot be written.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("cache-observer-{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What remains lies in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A number of commands, cut down where `CACHE_OBSERVER_TEST_LOAD` says that the machine is slow.
///
/// # Errors
///
/// When that is no number.
pub fn load(commands: u64) -> Result<u64> {
    match std::env::var("CACHE_OBSERVER_TEST_LOAD") {
        Ok(divisor) => Ok(commands / divisor.parse::<u64>()?.max(1)),
        Err(_) => Ok(commands),
    }
}

/// Runs a program to its end and gives what it printed.
///
/// # Errors
///
/// When it is not installed, or fails: with what it printed on standard error.
pub fn output<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> Result<String> {
    let name = program.as_ref().to_string_lossy().into_owned();
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {name}: `cargo xtask setup --tests` installs it"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{name} failed: {}\n{text}{error}", output.status);
    }
    Ok(text)
}

/// The Python interpreter of the tests' environment.
#[must_use]
pub fn python() -> PathBuf {
    tools().join("bin/python")
}

/// The tests' Python environment.
#[must_use]
pub fn tools() -> PathBuf {
    match std::env::var_os("CACHE_OBSERVER_TOOLS") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/venv"),
    }
}
