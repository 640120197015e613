//! Programs and libraries of others that speak to memcached, and authentication.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::client::Memcached;
use tests::coverage::{self, Kind};
use tests::observer::Options;
use tests::process::{Folder, Running, eventually, output, tools};
use tests::server::{Server, free_port};

use super::wire::*;
use super::{assert_as_the_server_counts, assert_sound, observe, spans, sum};

/// A server that asks who its clients are, and knows alice.
struct Guarded {
    port: u16,
    _process: Running,
    _folder: Folder,
}

fn guarded() -> Result<Guarded> {
    let (folder, port) = (Folder::new()?, free_port()?);
    let users = folder.path().join("users");
    let settings = format!(
        "mech_list: PLAIN CRAM-MD5\npwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {}\n",
        users.display()
    );
    std::fs::write(folder.path().join("memcached.conf"), settings)?;
    let mut adding = Command::new("saslpasswd2");
    adding.args(["-p", "-c", "-f"]).arg(&users).arg("alice");
    let mut adding = Running::start(adding.stdin(Stdio::piped()))?;
    std::io::Write::write_all(
        &mut adding.child().stdin.take().context("a pipe")?,
        b"hunter2",
    )?;
    ensure!(adding.wait(Duration::from_secs(10))? == 0, "alice is known");
    let mut command = Command::new("memcached");
    command.args(["-S", "-U", "0", "-l", "127.0.0.1", "-u", "root", "-p"]);
    command.arg(port.to_string());
    command.env("SASL_CONF_PATH", folder.path());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let process = Running::start(&mut command)?;
    eventually(
        Duration::from_secs(10),
        "the server accepts connections",
        || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()),
    )?;
    Ok(Guarded {
        port,
        _process: process,
        _folder: folder,
    })
}

#[test]
fn authentication_shows_how_and_never_with_what() -> Result<()> {
    let server = guarded()?;
    let options = Options::new().memcached(server.port);
    let observer = options.with("--spans-pipeline", "commands").start()?;
    let mut client = Binary::connect(server.port)?;
    for (request, status) in [
        (bare(SASL_LIST_MECHS, ""), 0),
        (plain(SASL_AUTH, &[], "PLAIN", b"\0alice\0hunter3"), 0x20),
        (plain(SASL_AUTH, &[], "CRAM-MD5", b""), 0x21),
        (plain(SASL_STEP, &[], "CRAM-MD5", b"alice hunter4"), 0x20),
        (plain(SASL_AUTH, &[], "hunter5", b"hunter6"), 0x20),
        (plain(SASL_AUTH, &[], "PLAIN", b"\0alice\0hunter2"), 0),
        (store(SET, "k", b"hunter7", 0), 0),
    ] {
        let reply = client.ask(&request)?;
        ensure!(reply.status == status, "{request:?} {reply:?}");
    }
    let mut stranger = Binary::connect(server.port)?;
    ensure!(
        stranger.ask(&bare(GET, "k"))?.status == 0x20 && stranger.closed()?,
        "refused"
    );
    memjs(server.port, &["known", "alice", "hunter2"])?;
    let report = observer.stop()?;
    assert_sound(&report);
    let texts: Vec<_> = spans(&report, &["SASL_AUTH", "SASL_STEP"])
        .into_iter()
        .map(|span| (span["db.query.text"].clone(), span["error.type"].clone()))
        .collect();
    let refused = json!("AUTH_ERROR");
    assert_eq!(texts[0], (json!("SASL_AUTH PLAIN ?"), refused.clone()));
    assert_eq!(texts[1], (json!("SASL_AUTH CRAM-MD5 ?"), json!(null)));
    assert_eq!(texts[2], (json!("SASL_AUTH ? ?"), refused.clone()));
    assert_eq!(texts[3], (json!("SASL_AUTH PLAIN ?"), json!(null)));
    assert_eq!(sum(&report, &["SASL_AUTH"], "errors"), 2);
    assert_eq!(sum(&report, &["SASL_STEP"], "errors"), 1);
    assert_eq!(sum(&report, &["GET"], "errors"), 1);
    for span in spans(&report, &["SASL_AUTH"]) {
        assert_eq!(span["cache.keys"], json!(null), "{span}");
    }
    let said = format!("{:?}{}{}", report.spans, report.log, report.summary.0);
    assert!(!said.contains("hunter"), "{said}");
    Ok(())
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Runs the program that uses memjs.
fn memjs(port: u16, arguments: &[&str]) -> Result<()> {
    let packages = tools().with_file_name("memjs").join("node_modules");
    let program = clients().join("memjs/memjs.cjs");
    let mut all = vec![
        format!("NODE_PATH={}", packages.display()),
        "node".to_owned(),
        program.display().to_string(),
        port.to_string(),
    ];
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    output("env", all)?;
    coverage::note(Kind::Client, "memjs 1.3.2")
}

#[test]
fn memjs_speaks_binary() -> Result<()> {
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    memjs(server.port, &["plain"])?;
    let report = observer.stop()?;
    // It always allows counters to be made.
    assert_as_the_server_counts(server.port, &report, false)?;
    assert_eq!(sum(&report, &["GET"], "count"), 501);
    assert_eq!(sum(&report, &["SET"], "errors"), 1);
    assert_eq!(sum(&report, &["INCREMENT"], "count"), 3);
    let reads = spans(&report, &["GET"]);
    for (number, pair) in (1..).zip(reads[..400].chunks(2)) {
        assert_eq!(pair[0]["cache.value_size"], number, "{pair:?}");
        assert_eq!(
            (&pair[0]["cache.hit"], &pair[1]["cache.hit"]),
            (&json!(true), &json!(false))
        );
    }
    Ok(())
}

#[test]
fn the_tools_of_libmemcached() -> Result<()> {
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    let folder = Folder::new()?;
    let servers = format!("--servers=127.0.0.1:{}", server.port);
    let run = |program: &str, arguments: &[&str]| {
        let all = [&["--binary", servers.as_str()], arguments].concat();
        output(program, all)
    };
    let files: Vec<_> = (1..=20)
        .map(|n| -> Result<String> {
            let path = folder.path().join(format!("file{n}"));
            std::fs::write(&path, vec![b'x'; n * 100])?;
            Ok(path.display().to_string())
        })
        .collect::<Result<_>>()?;
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    run("memccp", &[&["--expire=60"], &files[..]].concat())?;
    let found = run("memccat", &["file1", "file2", "file20"])?;
    ensure!(found.len() >= 2300, "{}", found.len());
    run("memcexist", &["file1"])?;
    ensure!(run("memcexist", &["absent"]).is_err(), "it is absent");
    run("memctouch", &["--expire=100", "file1"])?;
    run("memcrm", &["file1"])?;
    ensure!(run("memcrm", &["file1"]).is_err(), "it is gone");
    run("memcstat", &[])?;
    output("memcping", [servers.as_str()])?;
    run("memcflush", &[])?;
    let report = observer.stop()?;
    assert_as_the_server_counts(server.port, &report, true)?;
    assert_eq!(sum(&report, &["SET"], "value_bytes"), 21_000);
    assert_eq!(sum(&report, &["TOUCH"], "hits"), 1);
    coverage::note(Kind::Client, "libmemcached 1.1.4 --binary")
}

/// A program that tests servers: each opcode, silent or not, with and without what it needs.
#[test]
fn memccapable() -> Result<()> {
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    let told = output(
        "memccapable",
        ["-b", "-h", "127.0.0.1", "-p", &server.port.to_string()],
    )?;
    ensure!(told.contains("All tests passed"), "{told}");
    let report = observer.stop()?;
    assert_as_the_server_counts(server.port, &report, false)?;
    coverage::note(Kind::Client, "memccapable 1.1.4")
}

#[test]
fn gomemcache_speaks_text() -> Result<()> {
    let server = Server::memcached()?;
    let observer = observe(&server)?;
    let program = tools().with_file_name("go").join("gomemcache");
    output(program, [server.port.to_string()])?;
    let report = observer.stop()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    let reads = ["GET", "GETS"];
    let stores = ["SET", "ADD", "CAS"];
    for (stat, operations, number) in [
        ("get_hits", &reads[..], "hits"),
        ("get_misses", &reads, "misses"),
        ("cmd_set", &stores, "count"),
        ("incr_hits", &["INCR"], "hits"),
        ("incr_misses", &["INCR"], "misses"),
        ("decr_hits", &["DECR"], "hits"),
        ("touch_hits", &["TOUCH"], "hits"),
        ("touch_misses", &["TOUCH"], "misses"),
    ] {
        assert_eq!(
            sum(&report, operations, number),
            memcached.stat(stat)?,
            "{stat}"
        );
    }
    assert_sound(&report);
    coverage::note(Kind::Client, "gomemcache")
}
