//! The image: what is in it, and a Redis and its client in two more containers, seen and named from inside one.

use std::process::Command;
use std::time::Duration;
use std::{fs, process};

use anyhow::{Context, Result, ensure};
use tests::client::Redis;
use tests::container::{Engine, REDIS_SERVER, archive};
use tests::namespace::Pair;
use tests::observer::{FOLDER, Options, Report};
use tests::process::{Folder, eventually, output};
use tests::server::{Server, free_port};

/// What the guide gives to a container, beside what only names it.
fn options_of_the_guide() -> Result<Vec<&'static str>> {
    let (_, rest) = include_str!("../../deploy/container.md")
        .split_once("podman run --detach")
        .context("how to run it")?;
    let (command, _) = rest.split_once("```").context("its end")?;
    let words = command
        .split_whitespace()
        .filter(|word| word.starts_with("--"));
    let options: Vec<_> = words.filter(|word| !word.starts_with("--name=")).collect();
    ensure!(options.len() > 10, "{options:?}");
    Ok(options)
}

/// A Redis in one container, its client in a second, each with a network namespace of its own, and the observer in a third.
/// Gives the ids of client and server, too.
fn observed(options: &[&str]) -> Result<(Report, String, String)> {
    let pair = Pair::new()?;
    let engine = Engine::new()?;
    let redis = engine.redis()?;
    let observer = engine.observer()?;
    let port = free_port()?;
    let number = port.to_string();
    let network = |end| format!("--network=ns:{}", pair.path(end));
    let command = [&REDIS_SERVER[..], &["--port", &number]].concat();
    let server = engine.start(&[&network(1)], &redis, &command)?;
    eventually(Duration::from_secs(10), "the server answers", || {
        let mut cli = pair.inside(0, "redis-cli");
        cli.args(["-h", Pair::ADDRESSES[1], "-p", &number, "ping"]);
        Ok(cli.output()?.status.success())
    })?;
    let command = ["redis-cli", "-h", Pair::ADDRESSES[1], "-p", &number];
    let (client, mut cli) = engine.attend(&[&network(0)], &redis, &command)?;

    let volume = format!("--volume={FOLDER}:{FOLDER}");
    let words = engine.run(&[&["--rm", &volume], options].concat(), &observer);
    let observing = Options::new().redis(port).with("--role", "both").by(&words);
    let observing = observing.start()?;
    for (command, reply) in [
        ("SET key value", "OK"),
        ("GET key", "value"),
        ("GET no", ""),
    ] {
        cli.say(command)?;
        let said = cli.line()?;
        ensure!(said == reply, "{command}: {said}");
    }
    Ok((observing.stop()?, client.id, server.id))
}

/// Each command, at both ends, in the right container; what else it says of the processes.
fn named(options: &[&str]) -> Result<()> {
    let (report, client, server) = observed(options)?;
    ensure!(
        report.spans.len() == 6,
        "{}\n{}",
        report.summary.0,
        report.log
    );
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    for span in &report.spans {
        let resource = &span["resource"];
        let (id, program) = match span["kind"].as_str() {
            Some("CLIENT") => (&client, "redis-cli"),
            _ => (&server, "redis-server"),
        };
        ensure!(resource["container.id"] == **id, "{span}");
        ensure!(resource["process.executable.name"] == program, "{span}");
        ensure!(resource["host.name"] == host.trim(), "{span}");
    }
    ensure!(!report.log.contains("WARN"), "{}", report.log);
    Ok(())
}

#[test]
fn privileged_with_the_hosts_namespaces() -> Result<()> {
    named(&[
        "--privileged",
        "--pid=host",
        "--uts=host",
        "--network=host",
        "--volume=/sys/fs/cgroup:/sys/fs/cgroup:ro",
    ])
}

#[test]
fn as_the_guide_says() -> Result<()> {
    named(&options_of_the_guide()?)
}

/// Of a server that the observer's container shares no files with.
#[test]
fn unix_sockets_are_found() -> Result<()> {
    let folder = Folder::new()?;
    let socket = folder.path().join("socket");
    let name = socket.to_str().context("a printable path")?;
    let _server = Server::redis_at(&socket)?;
    let options = options_of_the_guide()?;
    let engine = Engine::new()?;
    let volume = format!("--volume={FOLDER}:{FOLDER}");
    let words = engine.run(
        &[&["--rm", &volume], &options[..]].concat(),
        &engine.observer()?,
    );
    let observing = Options::new().with("--redis-socket", "auto").by(&words);
    let observing = observing.start()?;
    Redis::connect_unix(&socket)?.command(&["GET", "unix"])?;
    let report = observing.stop()?;
    let mut ours = report.spans.iter();
    let ours = ours.find(|span| span["attributes"]["server.address"] == name);
    let ours = ours.with_context(|| report.log.clone())?;
    ensure!(ours["attributes"]["network.transport"] == "unix", "{ours}");
    Ok(())
}

/// Numbers of processes mean others there: nothing is looked up by them.
#[test]
fn a_container_without_the_hosts_processes_names_none_of_its_own() -> Result<()> {
    let mut options = options_of_the_guide()?;
    options.retain(|option| !option.ends_with("=host"));
    options.push("--network=none");
    let (report, client, server) = observed(&options)?;
    ensure!(
        report.spans.len() == 6,
        "{}\n{}",
        report.summary.0,
        report.log
    );
    for span in &report.spans {
        let resource = &span["resource"];
        // By the number of the cgroup, which the host's tree tells.
        let container = resource["container.id"].as_str().context("a container")?;
        ensure!(
            [&client, &server].contains(&&container.to_owned()),
            "{span}"
        );
        let thread = resource["process.executable.name"].as_str();
        ensure!(
            thread.is_some_and(|name| name.starts_with("redis-")),
            "{span}"
        );
        ensure!(resource["host.name"].is_null(), "{span}");
    }
    ensure!(report.log.contains("--pid host"), "{}", report.log);
    Ok(())
}

/// What the guide says that is told where an option is missing.
#[test]
fn what_is_missing_is_said() -> Result<()> {
    let all = options_of_the_guide()?;
    let engine = Engine::new()?;
    let image = engine.observer()?;
    for (missing, said_by_run, said_by_doctor) in [
        ("--cap-add=BPF", "CAP_BPF", "missing: needed"),
        ("--cap-add=PERFMON", "CAP_PERFMON", "missing: needed"),
        (
            "--cap-add=NET_ADMIN",
            "who sends datagrams",
            "CAP_NET_ADMIN          missing",
        ),
        ("--cap-add=SYS_PTRACE", "", "CAP_SYS_PTRACE         missing"),
        (
            "--cap-add=SETUID",
            "the root identity stays",
            "root, and stays it",
        ),
        ("--volume=", "who sends datagrams", "cgroup hierarchy"),
        ("--uts=host", "", "of this container"),
    ] {
        let mut left = all.clone();
        left.retain(|option| !option.starts_with(missing));
        ensure!(left.len() + 1 == all.len(), "{missing}");
        for (command, expected) in [
            (&["run", "--duration=1ms"][..], said_by_run),
            (&["doctor"], said_by_doctor),
        ] {
            let words = engine.run(&left, &image);
            let output = Command::new(&words[0])
                .args(&words[1..])
                .args(command)
                .output()?;
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said)?;
            ensure!(
                said.contains(expected),
                "{missing}: no {expected} in {said}"
            );
            // It observes all the same, or says why it cannot.
            ensure!(matches!(output.status.code(), Some(0 | 3)), "{said}");
        }
    }
    Ok(())
}

#[test]
fn a_filter_that_forbids_bpf_is_named() -> Result<()> {
    let mut options = options_of_the_guide()?;
    options.retain(|option| !option.contains("seccomp"));
    // The runtime's own filter may let it pass: one that does not.
    let filter = std::env::temp_dir().join(format!("seccomp-{}.json", process::id()));
    let rule = r#"{"names":["bpf"],"action":"SCMP_ACT_ERRNO","errnoRet":1}"#;
    let text = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
    fs::write(&filter, text)?;
    let security = format!("--security-opt=seccomp={}", filter.display());
    options.push(&security);
    let engine = Engine::new()?;
    let image = engine.observer()?;
    for command in ["run", "doctor"] {
        let mut words = engine.run(&options, &image);
        words.push(command.to_owned());
        let output = Command::new(&words[0]).args(&words[1..]).output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(3), "{said}");
        let lines: Vec<_> = said.lines().filter(|line| !line.contains("INFO")).collect();
        ensure!(lines.len() == 1 && said.contains("seccomp"), "{said}");
    }
    fs::remove_file(&filter)?;
    Ok(())
}

#[test]
fn certificates_that_the_image_lacks_are_asked_for() -> Result<()> {
    let options = options_of_the_guide()?;
    let engine = Engine::new()?;
    let image = engine.observer()?;
    for protocol in ["grpc", "http/protobuf"] {
        let protocol = format!("--env=OTEL_EXPORTER_OTLP_PROTOCOL={protocol}");
        let endpoint = "--env=OTEL_EXPORTER_OTLP_ENDPOINT=https://localhost:4317";
        let words = engine.run(&[&options[..], &[endpoint, &protocol]].concat(), &image);
        let mut command = Command::new(&words[0]);
        let output = command.args(&words[1..]).arg("run").output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(2), "{said}");
        ensure!(said.contains("OTEL_EXPORTER_OTLP_CERTIFICATE"), "{said}");
    }
    Ok(())
}

#[test]
fn it_holds_one_file() -> Result<()> {
    let folder = Folder::new()?;
    let unpacked = folder.path().to_str().context("a printable path")?;
    let archive = archive();
    let archive = archive.to_str().context("a printable path")?;
    output(
        "tar",
        ["--extract", "--file", archive, "--directory", unpacked],
    )?;
    let manifest = fs::read_to_string(folder.path().join("manifest.json"))?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest)?;
    let layers = manifest[0]["Layers"].as_array().context("layers")?;
    ensure!(layers.len() == 1, "{manifest}");
    let layer = folder.path().join(layers[0].as_str().context("a file")?);
    let files = output(
        "tar",
        [
            "--list",
            "--file",
            layer.to_str().context("a printable path")?,
        ],
    )?;
    ensure!(files.trim() == "cache-observer", "{files}");
    Ok(())
}
