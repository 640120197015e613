//! What the world does to an observer: disks that are full, processes that are gone, a /proc that says nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Redis;
use tests::observer::{Options, binary};
use tests::process::{Folder, eventually, output};
use tests::server::Server;

#[test]
fn a_full_disk_costs_spans_and_nothing_else() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new()
        .redis(server.port)
        .with("--output", "/dev/full")
        .start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for _ in 0..3 {
        for _ in 0..100 {
            redis.command(&["GET", "x"])?;
        }
        thread::sleep(Duration::from_millis(200));
    }
    let report = observer.stop()?;
    assert_eq!(report.summary.of("redis", "GET", "count"), 300);
    let said = report.log.matches("cannot write the output").count();
    ensure!(said == 1, "said {said} times: {}", report.log);
    Ok(())
}

/// A small file system of its own; gone at the end.
struct Disk(Folder);

impl Disk {
    fn new(size: &str) -> Result<Self> {
        let folder = Folder::new()?;
        let path = folder.path().to_str().context("a printable path")?;
        output("mount", ["-t", "tmpfs", "-o", size, "none", path])?;
        Ok(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What remains mounted is in memory, and small.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_fills_and_is_emptied() -> Result<()> {
    let disk = Disk::new("size=256k")?;
    let server = Server::redis()?;
    let path = disk.path().join("spans");
    let observer = Options::new()
        .redis(server.port)
        .with("--output", path.to_str().context("a printable path")?)
        .start()?;
    let filler = disk.path().join("filler");
    // 32 KiB are left, for 50 spans.
    fs::write(&filler, vec![b'x'; 224 << 10])?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for _ in 0..10 {
        for _ in 0..50 {
            redis.command(&["GET", "x"])?;
        }
        thread::sleep(Duration::from_millis(50));
    }
    eventually(
        Duration::from_secs(20),
        "it is said that spans are lost",
        || Ok(observer.log()?.contains("cannot write the output")),
    )?;
    fs::remove_file(&filler)?;
    redis.command(&["GET", "after"])?;
    eventually(Duration::from_secs(20), "it goes on", || {
        Ok(fs::read_to_string(&path)?.contains("\"after\""))
    })?;
    let report = observer.stop()?;
    ensure!(
        report.summary.of("redis", "GET", "count") == 501,
        "{}",
        report.summary.0
    );
    let spans = |outcome| report.summary.ledger(&["spans", outcome]);
    ensure!(
        spans("exported") > 0 && spans("dropped") > 0,
        "{}",
        report.summary.0
    );
    let said = report.log.matches("cannot write the output").count();
    ensure!(said == 1, "said {said} times: {}", report.log);
    // Each line is whole, but for what was cut off where the disk was full.
    let text = fs::read_to_string(&path)?;
    let broken = text
        .lines()
        .filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err());
    ensure!(broken.count() <= 1, "{text}");
    Ok(())
}

/// The kernel makes the ring, and there is no room to see it.
#[test]
fn a_ring_that_is_refused() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path().join("observer.toml");
    fs::write(&path, "[limits]\nring-bytes = 268435456\n")?;
    let mut command = Command::new("prlimit");
    // Less than twice the ring, and enough for all else.
    command.arg("--as=400000000").arg(binary()).arg("run");
    command
        .args(["--redis-port", "1", "--memcached-port", "2", "--config"])
        .arg(&path);
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3), "{}: {said}", output.status);
    let errors: Vec<_> = said
        .lines()
        .filter(|line| line.contains("cache-observer:"))
        .collect();
    ensure!(errors.len() == 1, "{said}");
    ensure!(
        errors[0].contains("EVENTS") || errors[0].contains("ring"),
        "{said}"
    );
    ensure!(errors[0].contains("emory"), "{said}");
    Ok(())
}

/// Each is gone before or while it is looked up: the kernel told who it was, and what it says of itself is right or absent.
#[test]
fn processes_that_end_at_once() -> Result<()> {
    const PROCESSES: usize = 1_000;
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let script =
        "for i in $(seq 1000); do OTEL_SERVICE_NAME=service-$i redis-cli -p $0 get service-$i &
        [ $((i % 25)) = 0 ] && wait; done; wait";
    output("sh", ["-c", script, &server.port.to_string()])?;
    let report = observer.stop()?;
    let spans = report.of("GET");
    ensure!(spans.len() == PROCESSES, "{} of {PROCESSES}", spans.len());
    let mut named = 0;
    for span in spans {
        let resource = &span["resource"];
        ensure!(resource["process.executable.name"] == "redis-cli", "{span}");
        ensure!(resource["process.pid"].as_u64() > Some(0), "{span}");
        let known = resource["service.name"] == span["attributes"]["cache.key"];
        let absent = resource["service.name"] == "unknown_service:redis-cli";
        ensure!(known || absent, "another's name: {span}");
        named += usize::from(known);
    }
    println!("{named} of {PROCESSES} could be asked for their name");
    Ok(())
}

/// With the capabilities that are needed, and none that read other users' files in /proc.
#[test]
fn a_proc_that_says_nothing_costs_the_name() -> Result<()> {
    let folder = Folder::new()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let copy = folder.path().join("cache-observer");
    fs::copy(binary(), &copy)?;
    let server = Server::redis()?;
    let observer = Options::new()
        .redis(server.port)
        .by(&[
            "setpriv",
            "--reuid=4323",
            "--regid=4323",
            "--clear-groups",
            "--inh-caps=-all,+bpf,+perfmon",
            "--ambient-caps=-all,+bpf,+perfmon",
            copy.to_str().context("a printable path")?,
        ])
        .start()?;
    let mut client = Command::new("redis-cli");
    client.args(["-p", &server.port.to_string(), "-r", "2", "-i", "0.5"]);
    client.args(["get", "x"]).env("OTEL_SERVICE_NAME", "hidden");
    ensure!(client.stdout(Stdio::null()).status()?.success());
    let report = observer.stop()?;
    let spans = report.of("GET");
    ensure!(spans.len() == 2, "{}", report.log);
    for span in spans {
        let resource = &span["resource"];
        ensure!(
            resource["service.name"] == "unknown_service:redis-cli",
            "{span}"
        );
    }
    Ok(())
}
