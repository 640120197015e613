//! Client and server in network namespaces of their own, the observer outside: still one span a command.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::namespace::Pair;
use tests::observer::Options;
use tests::process::{Running, eventually, load};
use tests::server::free_port;

/// How many of each command there are; each is a process of its own.
fn rounds() -> Result<usize> {
    Ok(load(20)?.max(3) as usize)
}

/// Commands from end 0 to a redis-server at end 1.
fn observe(role: &str) -> Result<tests::observer::Report> {
    let pair = Pair::new()?;
    let port = free_port()?.to_string();
    let mut server = pair.inside(1, "redis-server");
    server.args([
        "--port",
        &port,
        "--save",
        "",
        "--bind",
        "0.0.0.0",
        "--protected-mode",
        "no",
    ]);
    let _server = Running::start(server.stdout(Stdio::null()))?;
    let cli = |words: &[&str]| {
        let mut command = pair.inside(0, "redis-cli");
        command
            .args(["-h", Pair::ADDRESSES[1], "-p", &port])
            .args(words)
            .output()
    };
    eventually(Duration::from_secs(10), "the server answers", || {
        Ok(cli(&["ping"])?.status.success())
    })?;
    let observer = Options::new()
        .redis(port.parse()?)
        .with("--role", role)
        .start()?;
    for _ in 0..rounds()? {
        ensure!(cli(&["set", "key", "value"])?.status.success(), "redis-cli");
        ensure!(cli(&["get", "key"])?.status.success(), "redis-cli");
    }
    observer.stop()
}

#[test]
fn one_span_a_command_from_the_clients_end() -> Result<()> {
    let report = observe("auto")?;
    assert_eq!(
        (report.of("SET").len(), report.of("GET").len()),
        (rounds()?, rounds()?),
        "{}",
        report.summary.0
    );
    for span in &report.spans {
        assert_eq!(span["kind"], "CLIENT");
        assert_eq!(span["attributes"]["server.address"], Pair::ADDRESSES[1]);
        assert_eq!(
            span["attributes"]["network.peer.address"],
            Pair::ADDRESSES[1]
        );
        assert_eq!(
            span["resource"]["service.name"],
            "unknown_service:redis-cli"
        );
    }
    Ok(())
}

#[test]
fn the_servers_end_when_asked_for() -> Result<()> {
    let report = observe("server")?;
    assert_eq!(
        (report.of("SET").len(), report.of("GET").len()),
        (rounds()?, rounds()?),
        "{}",
        report.summary.0
    );
    for span in &report.spans {
        assert_eq!(span["kind"], "SERVER");
        assert_eq!(span["attributes"]["server.address"], Pair::ADDRESSES[1]);
        assert_eq!(
            span["attributes"]["network.peer.address"],
            Pair::ADDRESSES[0]
        );
        // Debian's redis-server is a link to this file.
        let service = &span["resource"]["service.name"];
        let names = [
            "unknown_service:redis-server",
            "unknown_service:redis-check-rdb",
        ];
        assert!(names.iter().any(|name| service == name), "{span}");
    }
    Ok(())
}

#[test]
fn both_ends_when_asked_for() -> Result<()> {
    let report = observe("both")?;
    assert_eq!(
        (report.of("SET").len(), report.of("GET").len()),
        (2 * rounds()?, 2 * rounds()?),
        "{}",
        report.summary.0
    );
    Ok(())
}
