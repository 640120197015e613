//! Wrong arguments, missing privileges, signals: status and words.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tests::client::Redis;
use tests::observer::{Options, binary, call};
use tests::process::{Folder, Running, eventually};
use tests::server::{Server, free_port};

#[test]
fn an_empty_variable_says_nothing() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("capture.pcap");
    tests::capture::Capture::create(&file)?.finish()?;
    for name in [
        "OTEL_TRACES_EXPORTER",
        "OTEL_METRICS_EXPORTER",
        "OTEL_TRACES_SAMPLER",
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "CACHE_OBSERVER_KEYS",
        "CACHE_OBSERVER_REDIS_PORT",
        "CACHE_OBSERVER_OUTPUT",
    ] {
        let output = Command::new(binary())
            .arg("replay")
            .arg(&file)
            .env(name, "")
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_one_clear_line() -> Result<()> {
    let folder = Folder::new()?;
    let directory = folder.path().to_str().context("printable")?;
    for arguments in [
        ["run", "--redis-port", "notaport"].as_slice(),
        &["run", "--redis-port", "0"],
        &["run", "--redis-port", "70000"],
        &["run", "--redis-port", "6379,"],
        &["run", "--redis-port", "6379", "--memcached-port", "6379"],
        &["run", "--backend", "magic"],
        &["run", "--role", "spectator"],
        &["run", "--traces-exporter", "pigeon"],
        &["run", "--metrics-exporter", "none,console"],
        &["run", "--duration", "soon"],
        &["run", "--traces-exporter", "jsonl", "--output", directory],
        &[
            "run",
            "--traces-exporter",
            "jsonl",
            "--output",
            "/nonexistent/file",
        ],
        &["run", "--no-such-option"],
        &["dance"],
        &["replay"],
        &["replay", "/nonexistent/file.pcap"],
    ] {
        let output = call(arguments)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert_eq!(
            error.trim_end().lines().count(),
            1,
            "{arguments:?}: {error}"
        );
        assert_eq!(output.stdout, b"", "{arguments:?}");
        assert!(!error.contains("panicked"), "{arguments:?}: {error}");
    }
    Ok(())
}

#[test]
fn help_and_version() -> Result<()> {
    for arguments in [
        ["--help"].as_slice(),
        &["--version"],
        &["run", "--help"],
        &["replay", "--help"],
    ] {
        let output = call(arguments)?;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    Ok(())
}

/// The binary, where another user can read it.
fn readable_binary(folder: &Folder) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let copy = folder.path().join("cache-observer");
    fs::copy(binary(), &copy)?;
    Ok(copy)
}

#[test]
fn without_privileges() -> Result<()> {
    let folder = Folder::new()?;
    let binary = readable_binary(&folder)?;
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
        ]);
        command.arg(&binary).args(arguments).output()
    };
    let run = nobody(&["run", "--duration", "1s"])?;
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(3), "{error}");
    assert!(
        error.contains("root") || error.contains("CAP_BPF"),
        "{error}"
    );
    // It says what is missing, and that is no failure of its own to say it.
    let doctor = nobody(&["doctor"])?;
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("root") || said.contains("CAP_BPF"), "{said}");
    Ok(())
}

#[test]
fn a_backend_that_this_kernel_refuses() -> Result<()> {
    let output = call(&[
        "run",
        "--backend",
        "fentry",
        "--duration",
        "1s",
        "--traces-exporter",
        "none",
    ])?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    // Where the kernel allows it, it works.
    match output.status.code() {
        Some(0) => assert!(error.contains("fentry"), "{error}"),
        code => {
            assert_eq!(code, Some(3), "{error}");
            assert!(error.contains("fentry"), "{error}");
        }
    }
    Ok(())
}

#[test]
fn the_doctor_knows_this_host() -> Result<()> {
    let server = Server::redis_on(free_port()?, &[])?;
    let output = call(&["doctor", "--redis-port", &server.port.to_string()])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for part in [
        "kernel",
        "BTF",
        "tracepoint",
        "fentry",
        &server.port.to_string(),
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    Ok(())
}

#[test]
fn both_signals_end_it_well() -> Result<()> {
    for signal in [Signal::INT, Signal::TERM] {
        let server = Server::redis()?;
        let observer = Options::new().redis(server.port).start()?;
        Redis::connect(("127.0.0.1", server.port))?.command(&["GET", "x"])?;
        let report = observer.stop_by(signal)?;
        assert_eq!(report.status, 0, "{}", report.log);
        assert!(
            !report.log.contains('\x1b'),
            "no colour in a file: {}",
            report.log
        );
        assert_eq!(report.spans.len(), 1, "{}", report.log);
    }
    Ok(())
}

#[test]
fn it_ends_by_itself_after_its_duration() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new()
        .redis(server.port)
        .with("--duration", "2s")
        .start()?;
    Redis::connect(("127.0.0.1", server.port))?.command(&["GET", "x"])?;
    let report = observer.finish(Duration::from_secs(7))?;
    assert_eq!(report.status, 0, "{}", report.log);
    assert_eq!(report.spans.len(), 1);
    Ok(())
}

#[test]
fn two_observers_see_the_same() -> Result<()> {
    let server = Server::redis()?;
    let observers = [
        Options::new().redis(server.port).start()?,
        Options::new().redis(server.port).start()?,
    ];
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for _ in 0..100 {
        redis.command(&["SET", "key", "value"])?;
    }
    for observer in observers {
        assert_eq!(observer.stop()?.of("SET").len(), 100);
    }
    Ok(())
}

#[test]
fn a_console_line_a_command() -> Result<()> {
    let server = Server::redis()?;
    let folder = Folder::new()?;
    let [file, log] = ["console", "log"].map(|name| folder.path().join(name));
    let mut command = Command::new(binary());
    command.args([
        "run",
        "--redis-port",
        &server.port.to_string(),
        "--traces-exporter",
        "console",
    ]);
    command.stdout(fs::File::create(&file)?);
    command.stderr(fs::File::create(&log)?);
    let mut process = Running::start(&mut command)?;
    eventually(Duration::from_secs(20), "it observes", || {
        Ok(fs::read_to_string(&log)?.contains("observing"))
    })?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["SET", "user:42", "hello"])?;
    redis.command(&["GET", "user:42"])?;
    redis.command(&["GET", "absent"])?;
    redis.command(&[b"GET".as_slice(), b"bad\x1b[31m\xff\nkey"])?;
    std::thread::sleep(Duration::from_millis(300));
    process.signal(Signal::INT)?;
    process.wait(Duration::from_secs(5))?;
    let text = fs::read(&file)?;
    assert!(
        !text.contains(&0x1b),
        "no colour, no raw key: {}",
        String::from_utf8_lossy(&text)
    );
    let text = String::from_utf8(text).context("only UTF-8")?;
    let line = |parts: &[&str]| {
        text.lines()
            .any(|line| parts.iter().all(|part| line.contains(part)))
    };
    assert!(line(&["SET", "user:42", "5"]), "{text}");
    assert!(line(&["GET", "user:42", "HIT"]), "{text}");
    assert!(line(&["GET", "absent", "MISS"]), "{text}");
    assert!(line(&["GET", "bad", "key", "MISS"]), "{text}");
    Ok(())
}
