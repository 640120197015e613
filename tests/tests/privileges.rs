//! What a running observer may still do, and what it needs to start.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Redis;
use tests::observer::{Observer, Options, Report, binary, call};
use tests::process::{Folder, eventually, output};
use tests::server::{Server, free_port};

/// CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE, `linux/capability.h`.
const READING: u64 = (1 << 2) | (1 << 19);
/// Somebody who is neither root nor nobody.
const SOMEBODY: &str = "4321";

/// What the kernel says of each thread: its name, and the rest by keys.
fn threads(observer: &Observer) -> Result<Vec<(String, BTreeMap<String, String>)>> {
    let folder = Path::new("/proc").join(observer.process.id().to_string());
    let mut threads = Vec::new();
    for thread in fs::read_dir(folder.join("task"))? {
        // Threads come and go.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else {
            continue;
        };
        let mut values: BTreeMap<_, _> = status
            .lines()
            .filter_map(|line| line.split_once(":\t"))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        let name = values.remove("Name").context("a thread has a name")?;
        threads.push((name, values));
    }
    Ok(threads)
}

/// Waits until all threads hold no more capabilities than these, and no identity but this user's.
fn confined(observer: &Observer, user: &str) -> Result<()> {
    let mut last = Vec::new();
    let whole = [user; 4].join("\t");
    let result = eventually(Duration::from_secs(5), "all threads are confined", || {
        last = threads(observer)?;
        Ok(!last.is_empty()
            && last.iter().all(|(name, values)| {
                let is = |key: &str, value: &str| values.get(key).is_some_and(|one| one == value);
                let set = |key: &str| {
                    values
                        .get(key)
                        .and_then(|set| u64::from_str_radix(set, 16).ok())
                };
                // Only who looks at processes may look at them.
                let most = match name.as_str() {
                    "observer" | "cache-observer" | "sockets" => READING,
                    _ => 0,
                };
                is("Uid", &whole)
                    && is("Gid", &whole)
                    && is("Groups", "")
                    && ["CapEff", "CapPrm"]
                        .iter()
                        .all(|key| set(key).is_some_and(|set| set & !most == 0))
                    && ["CapInh", "CapAmb"].iter().all(|key| set(key) == Some(0))
                    && is("NoNewPrivs", "1")
                    && is("Seccomp", "2")
            }))
    });
    result.with_context(|| format!("{last:#?}"))
}

/// Commands by somebody else, who has named their service in the environment, and is there while it is looked for.
fn foreign_traffic(server: &Server) -> Result<()> {
    let port = server.port.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups"]);
    command.args(["redis-cli", "-p", &port, "-r", "3", "-i", "0.5"]);
    command.args(["set", "key", "value"]).stdout(Stdio::null());
    let status = command.env("OTEL_SERVICE_NAME", "somebody's").status()?;
    ensure!(status.success());
    Ok(())
}

/// It saw the commands, and whose they were.
fn saw_foreign_traffic(report: &Report) -> Result<()> {
    let spans = report.of("SET");
    ensure!(spans.len() == 3, "{}", report.log);
    for span in spans {
        let resource = &span["resource"];
        ensure!(resource["service.name"] == "somebody's", "{span}");
        ensure!(resource["process.executable.name"] == "redis-cli", "{span}");
    }
    Ok(())
}

#[test]
fn root_is_given_up() -> Result<()> {
    let server = Server::redis()?;
    // A collector that is away, so that its name is looked up.
    let collector = format!("http://localhost:{}", free_port()?);
    let observer = Options::new()
        .redis(server.port)
        .with("--metrics-exporter", "jsonl,otlp")
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector)
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "100")
        .start()?;
    // Takes more than a second: the kernel's counters are read meanwhile.
    foreign_traffic(&server)?;
    confined(&observer, "65534")?;
    let report = observer.stop()?;
    saw_foreign_traffic(&report)?;
    // Of what it was: a connection was tried, and refused.
    ensure!(report.log.contains("refused"), "{}", report.log);
    ensure!(!report.log.contains("not implemented"), "{}", report.log);
    for metric in ["observer.memory", "observer.cpu.time"] {
        ensure!(report.metric(metric, &[]) > 0.0, "{metric}");
    }
    Ok(())
}

#[test]
fn the_capabilities_that_doctor_lists_are_enough() -> Result<()> {
    let doctor = call(&["doctor"])?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let with_kprobe = std::env::var("CACHE_OBSERVER_BACKEND").is_ok_and(|name| name == "kprobe");
    let listed: Vec<String> = doctor
        .lines()
        .filter(|line| line.starts_with("CAP_") && !line.contains("not needed"))
        .filter(|line| with_kprobe || !line.contains("kprobe"))
        .filter_map(|line| line.split_whitespace().next()?.strip_prefix("CAP_"))
        .map(|name| format!("+{}", name.to_lowercase()))
        .collect();
    ensure!(listed.len() > 3, "{doctor}");
    let sets = format!("-all,{}", listed.join(","));
    let folder = Folder::new()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let copy = folder.path().join("cache-observer");
    fs::copy(binary(), &copy)?;

    let server = Server::redis()?;
    let user = ["--reuid", "4322", "--regid", "4322", "--clear-groups"];
    let sets = [
        &format!("--inh-caps={sets}"),
        &format!("--ambient-caps={sets}"),
    ];
    let words = [
        &["setpriv"],
        &user[..],
        &sets.map(String::as_str),
        &[copy.to_str().context("a printable path")?],
    ];
    let observer = Options::new()
        .redis(server.port)
        .by(&words.concat())
        .start()?;
    confined(&observer, "4322")?;
    // Takes more than a second: the kernel's counters are read meanwhile.
    foreign_traffic(&server)?;
    let report = observer.stop()?;
    ensure!(!report.log.contains("WARN"), "{}", report.log);
    saw_foreign_traffic(&report)
}

#[test]
fn privileges_are_kept_where_that_is_asked_for() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new()
        .redis(server.port)
        .variable("CACHE_OBSERVER_UNCONFINED", "true")
        .start()?;
    for (name, values) in threads(&observer)? {
        ensure!(
            values["Seccomp"] == "0" && values["NoNewPrivs"] == "0",
            "{name}: {values:?}"
        );
        ensure!(values["Uid"].starts_with('0'), "{name}: {values:?}");
    }
    Redis::connect(("127.0.0.1", server.port))?.command(&["GET", "x"])?;
    ensure!(observer.stop()?.of("GET").len() == 1);
    Ok(())
}

/// Its memory is no other's to look at, though they may be of the same user now.
#[test]
fn nobody_cannot_look_into_it() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let maps = format!("/proc/{}/maps", observer.process.id());
    let nobody = [
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--inh-caps=-all",
    ];
    ensure!(output("setpriv", nobody.iter().chain(&["cat", &maps])).is_err());
    ensure!(output("cat", [&maps]).is_ok());
    observer.stop()?;
    Ok(())
}
