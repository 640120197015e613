//! `record`, live and from captures.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rustix::process::Signal;

use crate::observer::binary;
use crate::process::{Folder, Running, eventually};

/// A recorder that is attached; killed when dropped, unless it was stopped.
#[derive(Debug)]
pub struct Recorder {
    /// The process.
    pub process: Running,
    /// What it writes.
    pub file: PathBuf,
    /// Of its log, and of the recording unless that was told where to be.
    folder: Folder,
}

impl Recorder {
    /// Records traffic of these ports; 1 and 2 stand for none.
    ///
    /// # Errors
    ///
    /// When it ends before it observes, or needs longer than 90 s.
    pub fn start(redis: u16, memcached: u16, options: &[&str]) -> Result<Self> {
        Self::begin(None, redis, memcached, options)
    }

    /// The same, into this file.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn into(file: PathBuf, redis: u16, memcached: u16, options: &[&str]) -> Result<Self> {
        Self::begin(Some(file), redis, memcached, options)
    }

    fn begin(file: Option<PathBuf>, redis: u16, memcached: u16, options: &[&str]) -> Result<Self> {
        let folder = Folder::new()?;
        let file = file.unwrap_or_else(|| folder.path().join("recording"));
        let log = folder.path().join("stderr");
        let mut command = Command::new(binary());
        command.arg("record").arg(&file);
        command.args(["--redis-port", &redis.to_string()]);
        command.args(["--memcached-port", &memcached.to_string()]);
        command.args(options).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut process = Running::start(&mut command)?;
        eventually(
            Duration::from_secs(90),
            "the recorder says that it observes",
            || {
                let text = fs::read_to_string(&log)?;
                if let Some(status) = process.child().try_wait()? {
                    bail!("the recorder ended at once: {status}\n{text}");
                }
                Ok(text.contains("observing"))
            },
        )?;
        Ok(Self {
            process,
            file,
            folder,
        })
    }

    /// All that it has said on standard error so far.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("stderr"))?)
    }

    /// Stops it as Ctrl-C does. The file is left to the caller.
    ///
    /// # Errors
    ///
    /// When it does not end well within 5 s.
    pub fn stop(mut self) -> Result<Recorded> {
        // What the last client has received is still on its way through the ring.
        std::thread::sleep(Duration::from_millis(300));
        self.process.signal(Signal::INT)?;
        let status = self.process.wait(Duration::from_secs(5))?;
        let log = self.log()?;
        ensure!(status == 0, "status {status}\n{log}");
        Ok(Recorded {
            bytes: fs::read(&self.file)?,
            file: self.file,
            log,
            _folder: self.folder,
        })
    }
}

/// What a recorder left behind.
#[derive(Debug)]
pub struct Recorded {
    /// The recording.
    pub file: PathBuf,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// All of standard error.
    pub log: String,
    _folder: Folder,
}

/// A capture as a recording.
///
/// # Errors
///
/// When it cannot be made.
pub fn convert(capture: &Path, recording: &Path, options: &[&str]) -> Result<()> {
    let mut command = Command::new(binary());
    command.arg("record").arg(recording);
    command.arg("--from").arg(capture).args(options);
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(())
}
