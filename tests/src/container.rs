//! Containers under podman and runc, in a store of their own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::pool::Client;
use crate::process::{Folder, output};

/// The words that a command of podman ends with and a program of the container begins with.
const LIMITS: [&str; 2] = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"];

/// The command of a redis-server that other containers reach, on port 6379 unless `--port` follows.
pub const REDIS_SERVER: [&str; 7] = [
    "redis-server",
    "--bind",
    "0.0.0.0",
    "--protected-mode",
    "no",
    "--save",
    "",
];

/// The archive with the image under test.
#[must_use]
pub fn archive() -> PathBuf {
    match std::env::var_os("CACHE_OBSERVER_IMAGE") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image/cache-observer.tar"),
    }
}

/// A store of images and containers; both are gone when it is dropped.
#[derive(Debug)]
pub struct Engine {
    folder: Folder,
}

/// A container of an [`Engine`].
#[derive(Debug)]
pub struct Container {
    /// `container.id`.
    pub id: String,
    /// The number of its first process, on this host.
    pub pid: u32,
}

impl Engine {
    /// Starts with nothing in it.
    ///
    /// # Errors
    ///
    /// When the system's folder for temporary files cannot be written.
    pub fn new() -> Result<Self> {
        Ok(Self {
            folder: Folder::new()?,
        })
    }

    /// A command of podman.
    #[must_use]
    pub fn words(&self, command: &[&str]) -> Vec<String> {
        let at = |option: &str, name: &str| {
            format!("--{option}={}", self.folder.path().join(name).display())
        };
        let mut words = vec!["podman".to_owned()];
        words.extend([
            at("root", "root"),
            at("runroot", "run"),
            at("tmpdir", "tmp"),
        ]);
        // podman prefers crun, which refuses a host with both versions of cgroups.
        let options = [
            "--storage-driver=vfs",
            "--runtime=runc",
            "--events-backend=none",
        ];
        let options = options.iter().chain(&["--cgroup-manager=cgroupfs"]);
        words.extend(options.chain(command).map(|word| (*word).to_owned()));
        words
    }

    /// The command that runs a container in the foreground.
    #[must_use]
    pub fn run(&self, options: &[&str], image: &str) -> Vec<String> {
        // Limits no higher than this process may set.
        self.words(&[&["run"], &LIMITS[..], options, &[image]].concat())
    }

    /// Runs a command of podman and gives what it prints.
    ///
    /// # Errors
    ///
    /// When it is not installed, or fails.
    pub fn podman(&self, command: &[&str]) -> Result<String> {
        let words = self.words(command);
        Ok(output(&words[0], &words[1..])?.trim().to_owned())
    }

    /// Takes in the image under test, and gives its name.
    ///
    /// # Errors
    ///
    /// When it was not built.
    pub fn observer(&self) -> Result<String> {
        let archive = archive();
        ensure!(
            archive.exists(),
            "{} is missing: `cargo xtask image` builds it",
            archive.display()
        );
        let said = self.podman(&["load", "--quiet", "--input", &archive.display().to_string()])?;
        let name = said.strip_prefix("Loaded image: ");
        Ok(name.with_context(|| said.clone())?.to_owned())
    }

    /// Makes an image of this host's redis-server and redis-cli with the libraries that they name, and gives its name.
    ///
    /// # Errors
    ///
    /// When they are not installed.
    pub fn redis(&self) -> Result<String> {
        let mut files = BTreeSet::new();
        for program in ["redis-server", "redis-cli"] {
            let path = output("sh", ["-c", &format!("command -v {program}")])?;
            // `name => /path (address)`, and the loader as `/path (address)`.
            let libraries = output("ldd", [path.trim()])?;
            let words = libraries.split_whitespace().map(str::to_owned);
            files.extend(words.filter(|word| word.starts_with('/')));
            files.insert(path.trim().to_owned());
        }
        let tar = self.folder.path().join("redis.tar").display().to_string();
        let options = [
            "--create",
            "--dereference",
            "--absolute-names",
            "--file",
            &tar,
        ];
        let files = files.iter().map(String::as_str);
        output("tar", options.into_iter().chain(files))?;
        let name = "localhost/redis:files";
        self.podman(&["import", "--quiet", &tar, name])?;
        Ok(name.to_owned())
    }

    /// Starts a container in the background.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start(&self, options: &[&str], image: &str, command: &[&str]) -> Result<Container> {
        let first = ["run", "--detach"];
        let words = [&first, &LIMITS[..], options, &[image], command].concat();
        self.started(self.podman(&words)?)
    }

    /// Starts a container with redis-cli, which is given commands as lines, and says what came back.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn attend(
        &self,
        options: &[&str],
        image: &str,
        command: &[&str],
    ) -> Result<(Container, Client)> {
        let first = ["create", "--interactive"];
        let words = [&first, &LIMITS[..], options, &[image], command].concat();
        let id = self.podman(&words)?;
        let words = self.words(&["start", "--attach", "--interactive", &id]);
        let mut client = Client::start(Command::new(&words[0]).args(&words[1..]))?;
        // It runs when it has answered.
        client.say("PING")?;
        ensure!(client.line()? == "PONG");
        Ok((self.started(id)?, client))
    }

    fn started(&self, id: String) -> Result<Container> {
        ensure!(id.len() == 64, "no container's id: {id:?}");
        let pid = self.podman(&["inspect", "--format={{.State.Pid}}", &id])?;
        let pid = pid.parse()?;
        ensure!(pid != 0, "the container {id} does not run");
        Ok(Container { id, pid })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.podman(&["rm", "--all", "--force", "--time=0"]) {
            eprintln!("containers stay behind: {error:#}");
        }
    }
}
