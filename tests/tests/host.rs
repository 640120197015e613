//! The Debian package and its systemd unit, as a person on a host meets them; and what a service manager is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;
use tests::machine::Machine;
use tests::observer::{Options, call};
use tests::process::{Folder, eventually, output, patience};
use tests::server::{Server, free_port};

const UNIT: &str = "cache-observer.service";
/// CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE, `linux/capability.h`.
const READING: u64 = (1 << 2) | (1 << 19);

/// The package that `cargo xtask dist` makes.
fn package() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist");
    let folder = std::env::var_os("CACHE_OBSERVER_DIST").map_or(folder, PathBuf::from);
    let files = fs::read_dir(&folder).with_context(|| folder.display().to_string());
    let files = files.context("`cargo xtask dist` makes the package")?;
    let mut paths = files.filter_map(|file| Some(file.ok()?.path()));
    let found = paths.find(|path| path.extension().is_some_and(|end| end == "deb"));
    found.context("no package: `cargo xtask dist` makes it")
}

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/cache-observer.service")
}

/// What is known to be worse than it could be has its reason in the unit.
#[test]
fn systemd_finds_the_unit_hardened() -> Result<()> {
    let path = unit();
    let path = path.to_str().context("a printable path")?;
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold=25"];
    output("systemd-analyze", arguments.iter().chain(&[path]))?;
    Ok(())
}

#[test]
fn the_unit_has_the_capabilities_that_doctor_lists() -> Result<()> {
    let doctor = call(&["doctor"])?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let listed: BTreeSet<&str> = doctor
        .lines()
        .filter(|line| line.starts_with("CAP_"))
        .filter(|line| !line.contains("not needed") && !line.contains("kprobe"))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let unit = fs::read_to_string(unit())?;
    for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        let mut lines = unit.lines().filter_map(|line| line.split_once('='));
        let line = lines.find(|(name, _)| *name == key).context(key)?;
        let given: BTreeSet<&str> = line.1.split_whitespace().collect();
        assert_eq!(given, listed, "{key}: {doctor}");
    }
    Ok(())
}

#[test]
fn bash_completes() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path().to_str().context("a printable path")?;
    let generated = call(&["generate", path])?;
    ensure!(generated.status.success());
    for (words, expected) in [
        ("cache-observer d", "doctor"),
        ("cache-observer run --prom", "--prometheus-listen"),
        ("cache-observer run --role cl", "client"),
    ] {
        let script = format!(
            "source {path}/cache-observer.bash; [[ $(complete -p cache-observer) =~ -F\\ ([^ ]+) ]]; \
             COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             ${{BASH_REMATCH[1]}} cache-observer ${{COMP_WORDS[-1]}} ${{COMP_WORDS[-2]}}; echo ${{COMPREPLY[@]}}"
        );
        assert_eq!(output("bash", ["-c", &script])?.trim(), expected, "{words}");
    }
    Ok(())
}

/// Messages of an observer to its service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn next(&self, limit: Duration) -> Result<Option<String>> {
        self.0.set_read_timeout(Some(patience(limit)))?;
        let mut message = [0; 4096];
        match self.0.recv(&mut message) {
            Ok(length) => Ok(Some(
                String::from_utf8_lossy(&message[..length]).into_owned(),
            )),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The next one that is not about the watchdog.
    fn told(&self) -> Result<String> {
        loop {
            let message = self.next(Duration::from_secs(10))?;
            let message = message.context("no message came")?;
            if message != "WATCHDOG=1\n" {
                return Ok(message);
            }
        }
    }
}

/// Stops the thread that reads the ring and runs the stages, and no other.
fn stop_pipeline(process: u32) -> Result<Pid> {
    let mut found = None;
    // A thread gives itself its name, when it first runs.
    eventually(Duration::from_secs(10), "the pipeline's thread", || {
        found = pipeline_thread(process)?;
        Ok(found.is_some())
    })?;
    let thread = found.context("waited for above")?;
    ptrace::seize(thread, ptrace::Options::empty())?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL))?;
    Ok(thread)
}

fn pipeline_thread(process: u32) -> Result<Option<Pid>> {
    let threads = format!("/proc/{process}/task");
    for thread in fs::read_dir(threads)? {
        let thread = thread?;
        // Threads come and go.
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if name.trim() == "observer" {
            let id = thread.file_name().to_string_lossy().parse()?;
            return Ok(Some(Pid::from_raw(id)));
        }
    }
    Ok(None)
}

#[test]
fn a_manager_is_told_when_it_observes_reloads_hangs_and_ends() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path)?);
    // Root is given up before anything is told.
    let all = folder.path().to_str().context("a printable path")?;
    output("chmod", ["-R", "a+rwX", all])?;
    let file = folder.path().join("configuration");
    let (first, second) = (free_port()?, free_port()?);
    let write = |port: u16| fs::write(&file, format!("redis-port = {port}\nmemcached-port = []\n"));
    write(first)?;
    let observer = Options::new()
        .with("--config", file.to_str().context("a printable path")?)
        .variable("NOTIFY_SOCKET", path.to_str().context("a printable path")?)
        .variable("WATCHDOG_USEC", "1000000")
        .start()?;
    let ready = |port: u16| format!("READY=1\nSTATUS=observing redis {port}\n");
    assert_eq!(manager.told()?, ready(first));

    write(second)?;
    observer.process.signal(Signal::HUP)?;
    assert!(manager.told()?.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(manager.told()?, ready(second));
    // What cannot be used is no reason to wait for its end.
    fs::write(&file, "redis-prot = 1\n")?;
    observer.process.signal(Signal::HUP)?;
    assert!(manager.told()?.starts_with("RELOADING=1\n"));
    assert_eq!(manager.told()?, ready(second));

    let alive = || manager.next(Duration::from_secs(10));
    assert_eq!(alive()?.as_deref(), Some("WATCHDOG=1\n"));
    let thread = stop_pipeline(observer.process.id())?;
    // What was on its way, and then none in three times the interval.
    while manager.next(Duration::from_millis(1500))?.is_some() {}
    ptrace::detach(thread, None)?;
    assert_eq!(alive()?.as_deref(), Some("WATCHDOG=1\n"));

    observer.stop()?;
    assert!(manager.told()?.starts_with("STOPPING=1\n"));
    Ok(())
}

/// What the kernel says of the service's first thread.
fn status(machine: &Machine) -> Result<BTreeMap<String, String>> {
    let id = machine.property(UNIT, "MainPID")?;
    let status = machine.run(&["cat", &format!("/proc/{id}/status")])?;
    let pairs = status.lines().filter_map(|line| line.split_once(":\t"));
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.trim().to_owned());
    Ok(pairs.map(owned).collect())
}

/// Waits until the metrics that the installed service serves count so many commands.
fn served(machine: &Machine, cache: &str, count: u64) -> Result<()> {
    const SCRAPE: &str = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/metrics').read().decode())";
    let mut page = String::new();
    eventually(Duration::from_secs(20), "the commands are served", || {
        page = machine.run(&["python3", "-c", SCRAPE])?;
        let ours = page.lines().filter(|line| {
            line.starts_with("cache_operations_total{")
                && line.contains(&format!("cache_name=\"{cache}\""))
                && line.contains("cache_operation=\"set\"")
        });
        let counts = ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(counts.sum::<f64>() as u64 == count)
    })
    .with_context(|| page.clone())
}

/// All that is called like the package, outside of the folders of users.
fn traces(machine: &Machine) -> Result<String> {
    machine.run(&[
        "find",
        "/etc",
        "/usr",
        "/var",
        "/run",
        "-xdev",
        "-name",
        "*cache-observer*",
    ])
}

/// The package once more, with a higher version and another default of the environment.
fn newer(package: &Path, folder: &Path) -> Result<()> {
    let tree = folder.join("tree");
    let dpkg = |words: [&std::ffi::OsStr; 3]| output("dpkg-deb", words);
    dpkg(["-R".as_ref(), package.as_ref(), tree.as_ref()])?;
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let version = |line: &str| match line.starts_with("Version:") {
        true => "Version: 99.0-1\n".to_owned(),
        false => format!("{line}\n"),
    };
    fs::write(control, text.lines().map(version).collect::<String>())?;
    let default = tree.join("etc/default/cache-observer");
    let text = fs::read_to_string(&default)?;
    fs::write(default, format!("{text}# newer\n"))?;
    let file = folder.join("newer.deb");
    output(
        "dpkg-deb",
        [
            "-Znone".as_ref(),
            "-b".as_ref(),
            tree.as_os_str(),
            file.as_os_str(),
        ],
    )?;
    Ok(())
}

/// With other times than the unit's, which are long.
fn is_started_anew_when_it_hangs(machine: &Machine) -> Result<()> {
    let set = |text: &str| -> Result<()> {
        let script = "d=/run/systemd/system/$0.d; mkdir -p $d; printf \"$1\" > $d/times.conf; systemctl daemon-reload";
        machine.run(&["sh", "-c", script, UNIT, text])?;
        machine.run(&["systemctl", "restart", UNIT])?;
        Ok(())
    };
    set("[Service]\nWatchdogSec=1s\nRestartSec=100ms\n")?;
    let processes = machine.processes(UNIT)?;
    assert_eq!(processes.len(), 1);
    let thread = stop_pipeline(processes[0])?;
    eventually(Duration::from_secs(20), "it is ended", || {
        let status = waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))?;
        Ok(matches!(
            status,
            WaitStatus::Signaled(..) | WaitStatus::Exited(..)
        ))
    })?;
    eventually(Duration::from_secs(20), "it is started anew", || {
        let restarts = machine.property(UNIT, "NRestarts")?;
        Ok(restarts == "1" && machine.property(UNIT, "ActiveState")? == "active")
    })?;
    set("")?;
    machine.run(&["rm", "-r", &format!("/run/systemd/system/{UNIT}.d")])?;
    machine.run(&["systemctl", "daemon-reload"])?;
    Ok(())
}

#[test]
fn installed_started_reloaded_upgraded_removed() -> Result<()> {
    let shared = Folder::new()?;
    let package = package()?;
    fs::copy(&package, shared.path().join("this.deb"))?;
    let tarball = package.with_extension("tar.gz");
    fs::copy(tarball, shared.path().join("this.tar.gz"))?;
    newer(&package, shared.path())?;
    let machine = Machine::boot(shared.path())?;
    let before = traces(&machine)?;

    // Installed: it runs.
    let begun = Instant::now();
    machine.run(&["dpkg", "-i", "/mnt/this.deb"])?;
    let installed = begun.elapsed();
    machine.run(&["systemd-analyze", "verify", "--man=no", UNIT])?;
    for (property, expected) in [
        ("ActiveState", "active"),
        ("SubState", "running"),
        ("UnitFileState", "enabled"),
        ("WatchdogUSec", "30s"),
        ("StatusText", "observing redis 6379, memcached 11211"),
    ] {
        assert_eq!(machine.property(UNIT, property)?, expected, "{property}");
    }
    let held = status(&machine)?;
    let set = |key: &str| -> Result<u64> { Ok(u64::from_str_radix(&held[key], 16)?) };
    ensure!(!held["Uid"].starts_with('0'), "{held:?}");
    assert_eq!((set("CapPrm")?, set("CapEff")?), (READING, READING));
    assert_eq!((set("CapInh")?, set("CapAmb")?), (0, 0));
    assert_eq!((&*held["NoNewPrivs"], &*held["Seccomp"]), ("1", "2"));
    // Of root's rights none is left to be had.
    assert_eq!(set("CapBnd")?.count_ones(), 5);

    // It observes a real server.
    let server = [
        "systemd-run",
        "--unit=cache",
        "--",
        "redis-server",
        "--save",
        "",
        "--port",
    ];
    machine.run(&[&server[..], &["6379"]].concat())?;
    let client = |port: &str| -> Result<()> {
        let ping = ["redis-cli", "-p", port, "ping"];
        eventually(Duration::from_secs(10), "the server answers", || {
            Ok(machine.call(&ping)?.status.success())
        })?;
        machine.run(&["redis-cli", "-p", port, "-r", "7", "set", "key", "value"])?;
        Ok(())
    };
    client("6379")?;
    served(&machine, "127.0.0.1:6379", 7)?;
    let package = package.metadata()?.len() as f64 / f64::from(1 << 20);
    eprintln!(
        "package {package:.2} MiB; installed and observing in {:.1} s; resident {}, at most {}",
        installed.as_secs_f64(),
        status(&machine)?["VmRSS"],
        held["VmHWM"],
    );
    let log = machine.run(&["journalctl", "--no-pager", "--output=cat", "--unit", UNIT])?;
    let observing = log.lines().find(|line| line.contains("observing"));
    eprintln!("{}", observing.context(log.clone())?);
    // The machine is itself in namespaces, of which the observer says what cannot be told from within.
    let of_namespaces = |line: &str| {
        line.contains("container's part of the cgroups") || line.contains("process namespace")
    };
    let mut warnings = log.lines().filter(|line| line.contains("WARN"));
    ensure!(warnings.all(of_namespaces), "{log}");

    // An edit, without and with a restart.
    let edit = "s/^redis-port = .*/redis-port = [6379, 6380]/";
    machine.run(&["sed", "-i", edit, "/etc/cache-observer.toml"])?;
    let first = machine.property(UNIT, "MainPID")?;
    machine.run(&["systemctl", "reload", UNIT])?;
    let both = "observing redis 6379 6380, memcached 11211";
    eventually(Duration::from_secs(10), "it is reloaded", || {
        Ok(machine.property(UNIT, "StatusText")? == both)
    })?;
    assert_eq!(machine.property(UNIT, "ActiveState")?, "active");
    assert_eq!(machine.property(UNIT, "MainPID")?, first);

    is_started_anew_when_it_hangs(&machine)?;
    let first = machine.property(UNIT, "MainPID")?;

    // Upgraded: the new one runs, the edit is kept, what was not edited is new.
    machine.run(&["dpkg", "-i", "/mnt/newer.deb"])?;
    assert_eq!(machine.property(UNIT, "ActiveState")?, "active");
    assert_ne!(machine.property(UNIT, "MainPID")?, first);
    assert_eq!(machine.property(UNIT, "StatusText")?, both);
    machine.run(&["grep", "-q", "newer", "/etc/default/cache-observer"])?;
    let other = [
        "systemd-run",
        "--unit=other",
        "--",
        "redis-server",
        "--save",
        "",
        "--port",
    ];
    machine.run(&[&other[..], &["6380"]].concat())?;
    client("6380")?;
    served(&machine, "127.0.0.1:6380", 7)?;

    // What cannot be used ends it, once, with its reason in the log.
    machine.run(&[
        "sed",
        "-i",
        "s/^redis-port/redis-prot/",
        "/etc/cache-observer.toml",
    ])?;
    ensure!(
        !machine
            .call(&["systemctl", "restart", UNIT])?
            .status
            .success()
    );
    assert_eq!(machine.property(UNIT, "ActiveState")?, "failed");
    assert_eq!(machine.property(UNIT, "NRestarts")?, "0");
    let log = machine.run(&["journalctl", "--no-pager", "--output=cat", "--unit", UNIT])?;
    ensure!(log.contains("unknown key `redis-prot`"), "{log}");
    machine.run(&[
        "sed",
        "-i",
        "s/^redis-prot/redis-port/",
        "/etc/cache-observer.toml",
    ])?;
    machine.run(&["systemctl", "restart", UNIT])?;

    // Removed: it is stopped, and of it the configuration is left; purged: nothing.
    machine.run(&["dpkg", "-r", "cache-observer"])?;
    assert_eq!(machine.property(UNIT, "ActiveState")?, "inactive");
    ensure!(
        !machine
            .call(&["cache-observer", "--version"])?
            .status
            .success()
    );
    machine.run(&["grep", "-q", "6380", "/etc/cache-observer.toml"])?;
    machine.run(&["dpkg", "-P", "cache-observer"])?;
    assert_eq!(traces(&machine)?, before);

    // Without dpkg: the same files.
    machine.run(&["tar", "-C", "/", "-xzf", "/mnt/this.tar.gz"])?;
    machine.run(&["systemctl", "enable", "--now", UNIT])?;
    assert_eq!(machine.property(UNIT, "ActiveState")?, "active");
    Ok(())
}

/// It is another build, with another C library.
#[test]
fn the_installed_binary_observes_what_the_built_one_does() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path().to_str().context("a printable path")?;
    output(
        "dpkg-deb",
        [
            "-x".as_ref(),
            package()?.as_os_str(),
            folder.path().as_os_str(),
        ],
    )?;
    output("chmod", ["a+rx", path])?;
    let server = Server::redis()?;
    let observer = Options::new()
        .redis(server.port)
        .by(&[&format!("{path}/usr/bin/cache-observer")])
        .start()?;
    let port = server.port.to_string();
    let load = [
        "-p", &port, "-t", "set,get", "-n", "20000", "-c", "20", "-P", "8", "-q",
    ];
    ensure!(
        Command::new("redis-benchmark")
            .args(load)
            .output()?
            .status
            .success()
    );
    let report = observer.stop()?;
    for command in ["SET", "GET"] {
        assert_eq!(report.summary.of("redis", command, "count"), 20_000);
    }
    Ok(())
}
