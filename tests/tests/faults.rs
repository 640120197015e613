//! What the world does to an observer: disks that are full, processes that are gone, a /proc that says nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests::client::Redis;
use tests::observer::{Options, binary};
use tests::process::{Folder, output};
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
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let report = observer.stop()?;
    assert_eq!(report.summary.of("redis", "GET", "count"), 300);
    let said = report.log.matches("cannot write the output").count();
    ensure!(said == 1, "said {said} times: {}", report.log);
    Ok(())
}

/// Each is gone before its bytes are read: the kernel told who it was.
#[test]
fn processes_that_end_at_once() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let script = "for _ in $(seq 100); do redis-cli -p $0 get x & done; wait";
    output("sh", ["-c", script, &server.port.to_string()])?;
    let report = observer.stop()?;
    let spans = report.of("GET");
    ensure!(spans.len() == 100, "{} of 100", spans.len());
    for span in spans {
        let resource = &span["resource"];
        ensure!(resource["process.executable.name"] == "redis-cli", "{span}");
        ensure!(resource["process.pid"].as_u64() > Some(0), "{span}");
    }
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
