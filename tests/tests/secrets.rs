//! Secrets and values stay where they are: a marker that is sent in every place where one can be appears in nothing that
//! leaves the observer.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::capture::{Capture, Side};
use tests::client::{Memcached, Redis, Reply, encode};
use tests::collector::Collector;
use tests::observer::{Observer, Options, Report, binary, replay, replayed};
use tests::process::{Folder, Running, eventually, output};
use tests::recording::{Recorder, convert};
use tests::secrets::memcached::{SASL_AUTH, SASL_LIST_MECHS, SASL_STEP, request};
use tests::secrets::{KEY, MARKER, REQUESTS, capture, excerpt, leak};
use tests::server::{Server, free_port};

/// Ways of a replay: what it is, arguments, variables.
type Way = (
    &'static str,
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
);

const LINES: Way = (
    "commands as JSON Lines, every log line",
    &[
        "--traces-exporter",
        "jsonl",
        "--metrics-exporter",
        "jsonl",
        "--spans-pipeline",
        "commands",
    ],
    &[("CACHE_OBSERVER_LOG", "trace"), ("RUST_LOG", "trace")],
);

const CONSOLE: Way = (
    "batches on the console",
    &[
        "--traces-exporter",
        "console",
        "--metrics-exporter",
        "console",
    ],
    &[("CACHE_OBSERVER_LOG", "debug")],
);

/// Nothing of the marker is in it.
fn assert_silent(what: &str, all: &[u8]) -> Result<()> {
    let found = leak(all);
    ensure!(found.is_none(), "{what}: {}", found.unwrap_or_default());
    Ok(())
}

#[test]
fn the_search_finds_what_it_looks_for() {
    for text in [
        "x S3CR3T-marker y",
        "x S3CR3T y",
        "x -MARKER y",
        "x T%2DmarkeR y",
        "x \\x533CR3T y",
        "x \\u0053\\u0033CR3T y",
        "{\"x\":\"S3CR3T\"}",
        "x 533343523354 y",
        "x UzNDUjNU y",
        // The whole one, after one and after two other bytes.
        "x IFMzQ1IzVC1tYXJrZXI= y",
        "x ICBTM0NSM1QtbWFya2Vy y",
    ] {
        assert!(leak(text.as_bytes()).is_some(), "{text}");
    }
    assert_eq!(leak(b"S3CR3 marke s3cr3 100% \\x5"), None);
}

#[test]
fn no_damage_brings_a_secret_to_light() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("capture.pcap");
    capture(&file, true)?;
    for (what, arguments, variables) in [LINES, CONSOLE] {
        let all = replayed(&file, arguments, variables)?;
        assert_silent(what, &all)?;
        // Something was told, of nearly every connection.
        let shown = String::from_utf8_lossy(&all).matches(KEY).count();
        ensure!(shown > 50_000, "{what}: {shown}");
    }
    Ok(())
}

#[test]
fn a_number_is_hidden_where_a_secret_is_expected() -> Result<()> {
    // Short enough to be shown as an option's number.
    const NUMBER: &str = "4815162342";
    let folder = Folder::new()?;
    let file = folder.path().join("capture.pcap");
    let mut capture = Capture::create(&file)?;
    let commands = [
        "AUTH",
        "HELLO 3",
        "ACL SETUSER",
        "CONFIG SET",
        "SENTINEL",
        "MIGRATE",
        "SETEX",
        "HSETEX",
        "MSET",
        "LPUSH",
        "PUBLISH",
        "EVAL",
    ];
    for request in REQUESTS {
        if !commands.iter().any(|command| request.starts_with(command)) {
            continue;
        }
        let words = request.replace('§', NUMBER).replace("EMPTY", "");
        let words: Vec<_> = words.split(' ').collect();
        let mut connection = capture.connect("10.1.0.1:6379".parse()?)?;
        connection.send(Side::Client, &encode(&words))?;
        connection.send(Side::Server, b"+OK\r\n")?;
        connection.close()?;
    }
    capture.finish()?;
    let all = replayed(&file, LINES.1, LINES.2)?;
    let recording = folder.path().join("recording");
    convert(&file, &recording, &[])?;
    let recording = fs::read(recording)?;
    for (all, auth) in [(all, "\"AUTH\""), (recording, "AUTH")] {
        let all = String::from_utf8_lossy(&all);
        ensure!(all.contains(auth) && all.contains(KEY), "{all}");
        let found = all.find(NUMBER).map(|at| excerpt(&all, at));
        ensure!(found.is_none(), "{}", found.unwrap_or_default());
    }
    Ok(())
}

#[test]
fn a_damaged_file_says_no_secret() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("capture.pcap");
    capture(&file, false)?;
    let whole = fs::read(&file)?;
    let damaged = folder.path().join("damaged.pcap");
    for step in 0..16 {
        let mut bytes = whole.clone();
        let mut at = 24 + step;
        while at < bytes.len() {
            bytes[at] ^= 0xa5;
            // From every packet to a few.
            at += 61 + 977 * step;
        }
        bytes.truncate(whole.len() - 7 * step);
        fs::write(&damaged, &bytes)?;
        let output = Command::new(binary())
            .arg("replay")
            .arg(&damaged)
            .args([
                "--summary",
                "--traces-exporter",
                "jsonl",
                "--metrics-exporter",
                "none",
            ])
            .env("CACHE_OBSERVER_LOG", "trace")
            .output()?;
        assert_silent("standard output", &output.stdout)?;
        assert_silent("standard error", &output.stderr)?;
    }
    Ok(())
}

#[test]
fn no_log_level_says_a_secret() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("capture.pcap");
    capture(&file, false)?;
    for level in ["trace", "debug", "info", "warn", "error", "off", "no level"] {
        for name in ["CACHE_OBSERVER_LOG", "RUST_LOG"] {
            let all = replayed(&file, CONSOLE.1, &[(name, level)])?;
            assert_silent(level, &all)?;
        }
    }
    Ok(())
}

#[test]
fn every_dialect_is_understood() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("capture.pcap");
    capture(&file, false)?;
    let all = replayed(&file, LINES.1, LINES.2)?;
    let all = String::from_utf8_lossy(&all);
    let spans: Vec<_> = all
        .lines()
        .filter(|line| line.starts_with("{\"type\":\"span\""))
        .collect();
    // What is hidden was read, not passed over.
    for text in [
        "SET ?",
        "SET visible:key 0 ?",
        "STATS ?",
        "VERSION ?",
        "MS visible:key ? T60 F? I MA O? k",
        "MS visible:key ? b k O?",
        "MG visible:key b k v O?",
        "MG visible:key v O? k",
        "ME visible:key",
        "SASL_AUTH PLAIN ?",
        "SASL_AUTH ? ?",
        "SASL_STEP PLAIN ?",
        "SETQ visible:key 0 ?",
        "GETK visible:key",
        "STAT ?",
    ] {
        let text = format!("\"db.query.text\":\"{text}\"");
        for transport in ["tcp", "udp"] {
            let transport = format!("\"network.transport\":\"{transport}\"");
            let found = spans
                .iter()
                .any(|span| span.contains(&text) && span.contains(&transport));
            ensure!(found, "{text} with {transport} is not among the spans");
        }
    }
    for text in [
        "UNKNOWN ? ?",
        "OPCODE_0X3F",
        "OPCODE_0XA7",
        "SASL_LIST_MECHS",
    ] {
        let text = format!("\"db.query.text\":\"{text}\"");
        ensure!(spans.iter().any(|span| span.contains(&text)), "no {text}");
    }
    Ok(())
}

#[test]
fn colours_hide_no_secret() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("capture.pcap");
    capture(&file, false)?;
    // A terminal of its own, on which both outputs are coloured.
    let line = format!(
        "CACHE_OBSERVER_LOG=trace {} replay {} --traces-exporter console --metrics-exporter console --summary",
        binary().display(),
        file.display()
    );
    let all = output("script", ["-qec", &line, "/dev/null"])?;
    ensure!(all.contains("\u{1b}["), "no colours: {}", excerpt(&all, 0));
    assert_silent("console with colours", all.as_bytes())
}

#[test]
fn no_collector_is_told_a_secret() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("capture.pcap");
    capture(&file, false)?;
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start()?;
        let port = match protocol {
            "grpc" => collector.grpc,
            _ => collector.http,
        };
        let endpoint = format!("http://127.0.0.1:{port}");
        let all = replayed(
            &file,
            &[
                "--traces-exporter",
                "otlp",
                "--metrics-exporter",
                "otlp",
                "--spans-pipeline",
                "commands",
            ],
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("CACHE_OBSERVER_LOG", "trace"),
            ],
        )?;
        assert_silent(protocol, &all)?;
        collector.expect(&["cache.operations", "db.client.operation.duration"])?;
        let printed = collector.printed()?;
        let spans = printed.matches("db.query.text").count();
        ensure!(spans > 2_000, "{protocol}: {spans} spans");
        assert_silent(protocol, printed.as_bytes())?;
    }
    Ok(())
}

/// All that an observer said.
fn said(report: &Report) -> String {
    let Report {
        spans,
        metrics,
        summary,
        log,
        ..
    } = report;
    format!("{spans:?}{metrics:?}{}{log}", summary.0)
}

/// A real server that asks for the marker as its password, and clients that know it and that do not.
fn converse(server: &Server) -> Result<()> {
    let address = ("127.0.0.1", server.port);
    let mut watcher = Redis::connect(address)?;
    watcher.command(&["AUTH", MARKER])?;
    watcher.command(&["MONITOR"])?;
    let mut redis = Redis::connect(address)?;
    let refused = |reply: &Reply| matches!(reply, Reply::Error(_));
    let upper = MARKER.to_ascii_uppercase();
    let allowed = format!(">{MARKER}");
    for words in [
        &["GET", KEY][..],
        &["AUTH", &upper],
        &["AUTH", "alice", MARKER],
    ] {
        let reply = redis.command(words)?;
        ensure!(refused(&reply), "{words:?}: {reply:?}");
    }
    for words in [
        &["AUTH", MARKER][..],
        &[
            "ACL", "SETUSER", "alice", "on", &allowed, "~*", "&*", "+@all",
        ],
        &["AUTH", "alice", MARKER],
        &["HELLO", "2", "AUTH", "alice", MARKER, "SETNAME", "x"],
        &["SET", KEY, MARKER, "EX", "60"],
        &["GET", KEY],
        &["HSET", "visible:hash", MARKER, MARKER],
        &["HGETALL", "visible:hash"],
        &["CONFIG", "SET", "masteruser", MARKER, "masterauth", MARKER],
        &["CONFIG", "GET", "masterauth"],
        &["ACL", "GETUSER", "alice"],
        &["ACL", "LIST"],
        &["EVAL", "return ARGV[1]", "0", MARKER],
        &["PUBLISH", MARKER, MARKER],
        &["CLIENT", "LIST"],
        &["CONFIG", "SET", "slowlog-log-slower-than", "0"],
        &["SET", KEY, MARKER],
        &["SLOWLOG", "GET", "10"],
        &["CONFIG", "SET", "requirepass", &upper],
        &["CONFIG", "SET", "maxmemory", "100mb", "requirepass", MARKER],
    ] {
        let reply = redis.command(words)?;
        ensure!(!refused(&reply), "{words:?}: {reply:?}");
    }
    const FAIL: &str = "return redis.error_reply(ARGV[1])";
    for words in [
        &["NOSUCH", MARKER, MARKER][..],
        &["EVAL", FAIL, "0", &format!("-{MARKER} x")],
        &["EVAL", FAIL, "0", &format!("-{upper} x")],
        &["EVAL", FAIL, "0", &format!("-MOVED 1 {MARKER}")],
        &["AUTH", "alice", &upper],
    ] {
        let reply = redis.command(words)?;
        ensure!(refused(&reply), "{words:?}: {reply:?}");
    }
    redis.send(format!("AUTH \"{MARKER}\"\r\n").as_bytes())?;
    redis.reply()?;
    // The password is among the arguments of a process, and in the environment of another.
    let port = server.port.to_string();
    for user in [&["--user", "alice"][..], &[]] {
        let arguments = ["-p", &port, "-a", MARKER, "--no-auth-warning"];
        output(
            "redis-cli",
            arguments.iter().chain(user).chain(&["get", KEY]),
        )?;
    }
    let status = Command::new("redis-cli")
        .args(["-p", &port, "set", KEY, MARKER])
        .env("REDISCLI_AUTH", MARKER)
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "{status}");
    // What MONITOR has said until now.
    for _ in 0..10 {
        watcher.reply()?;
    }
    Ok(())
}

/// Two observers of the same ports that say all they can: one in JSON Lines, one, of the servers' ends, to a collector.
fn observers(ports: &Options, collector: &Collector) -> Result<[(&'static str, Observer); 2]> {
    let lines = ports
        .clone()
        .with("--metrics-exporter", "jsonl")
        .with("--spans-pipeline", "commands")
        .variable("CACHE_OBSERVER_LOG", "trace")
        .start()?;
    let exporting = ports
        .clone()
        .with("--role", "server")
        .traces("otlp")
        .with("--metrics-exporter", "otlp")
        .variable(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("http://127.0.0.1:{}", collector.grpc),
        )
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .variable("RUST_LOG", "trace")
        .start()?;
    Ok([("JSON Lines", lines), ("OTLP", exporting)])
}

#[test]
fn a_server_that_asks_for_a_password() -> Result<()> {
    let server = Server::redis_on(free_port()?, &["--requirepass", MARKER])?;
    let collector = Collector::start()?;
    let observers = observers(&Options::new().redis(server.port), &collector)?;
    let recorder = Recorder::start(server.port, 2, &["--role", "both"])?;
    converse(&server)?;
    let recorded = recorder.stop()?;
    assert_silent("the recording", &recorded.bytes)?;
    assert_silent("the recorder's log", recorded.log.as_bytes())?;
    let shown = String::from_utf8_lossy(&recorded.bytes)
        .matches(KEY)
        .count();
    ensure!(shown > 5, "{shown} keys");
    for (what, observer) in observers {
        let report = observer.stop()?;
        assert_silent(what, said(&report).as_bytes())?;
        let auths = report.summary.of("redis", "AUTH", "count");
        ensure!(auths == 10, "{what}: {auths} AUTH in {}", report.summary.0);
    }
    collector.expect(&[KEY, "WRONGPASS"])?;
    assert_silent("the collector", collector.printed()?.as_bytes())
}

#[test]
fn a_memcached_that_asks_for_a_password() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("users");
    fs::write(&file, format!("alice:{MARKER}\n"))?;
    let users = file.to_str().context("a printable path")?;
    let server = Server::memcached_on(free_port()?, &["-Y", users])?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--metrics-exporter", "jsonl")
        .variable("CACHE_OBSERVER_LOG", "trace")
        .start()?;
    let recorder = Recorder::start(1, server.port, &[])?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    let wrong = memcached.store("set", KEY, format!("bob {MARKER}").as_bytes(), 0)?;
    ensure!(wrong.starts_with("CLIENT_ERROR"), "{wrong}");
    let right = memcached.store("set", KEY, format!("alice {MARKER}").as_bytes(), 0)?;
    ensure!(right == "STORED", "{right}");
    memcached.store("set", KEY, MARKER.as_bytes(), 0)?;
    ensure!(memcached.get(&[KEY])?.len() == 1, "it is there");
    let recorded = recorder.stop()?;
    assert_silent("the recording", &recorded.bytes)?;
    let (_, spans, _) = replay(&recorded.file, &[])?;
    ensure!(spans.len() == 4, "{spans:?}");
    let report = observer.stop()?;
    let all = said(&report);
    assert_silent("memcached", all.as_bytes())?;
    ensure!(all.contains(KEY) && report.of("SET").len() == 3, "{all}");
    Ok(())
}

/// A memcached that asks for the marker as the password of alice, in the binary dialect.
fn guarded(folder: &Folder, port: u16) -> Result<Running> {
    let users = folder.path().join("users");
    let settings = format!(
        "mech_list: PLAIN CRAM-MD5\npwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {}\n",
        users.display()
    );
    fs::write(folder.path().join("memcached.conf"), settings)?;
    let mut adding = Command::new("saslpasswd2");
    adding.args(["-p", "-c", "-f"]).arg(&users).arg("alice");
    let mut adding = Running::start(adding.stdin(Stdio::piped()))?;
    let input = adding.child().stdin.take().context("a pipe")?;
    { input }.write_all(MARKER.as_bytes())?;
    ensure!(adding.wait(Duration::from_secs(10))? == 0, "alice is known");
    let mut command = Command::new("memcached");
    command.args(["-S", "-U", "0", "-l", "127.0.0.1", "-u", "root", "-p"]);
    command.arg(port.to_string());
    command.env("SASL_CONF_PATH", folder.path());
    let process = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    eventually(
        Duration::from_secs(10),
        "the server accepts connections",
        || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()),
    )?;
    Ok(process)
}

/// Reads a binary reply: the status, and what follows the header.
fn answer(stream: &mut TcpStream, opcode: u8) -> Result<(u16, Vec<u8>)> {
    let mut header = [0; 24];
    stream.read_exact(&mut header)?;
    ensure!(header[..2] == [0x81, opcode], "{header:?}");
    let [a, b, c, d] = [header[8], header[9], header[10], header[11]];
    let mut body = vec![0; u32::from_be_bytes([a, b, c, d]) as usize];
    stream.read_exact(&mut body)?;
    Ok((u16::from_be_bytes([header[6], header[7]]), body))
}

#[test]
fn a_memcached_that_authenticates_by_sasl() -> Result<()> {
    let (folder, port) = (Folder::new()?, free_port()?);
    let _server = guarded(&folder, port)?;
    let collector = Collector::start()?;
    let observers = observers(&Options::new().memcached(port), &collector)?;
    let recorder = Recorder::start(1, port, &[])?;
    let (key, marker) = (KEY.as_bytes(), MARKER.as_bytes());
    let upper = MARKER.to_ascii_uppercase();
    let right = format!("\0alice\0{MARKER}");
    let wrong = format!("\0alice\0{upper}");
    let stranger = format!("{MARKER}\0{MARKER}\0{MARKER}");
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    };
    let mut stream = connect()?;
    for (opcode, extras, key, value, status) in [
        (SASL_LIST_MECHS, &[][..], &b""[..], &b""[..], 0),
        (SASL_AUTH, &[], b"PLAIN", wrong.as_bytes(), 0x20),
        (SASL_AUTH, &[], b"PLAIN", stranger.as_bytes(), 0x20),
        (SASL_AUTH, &[], b"PLAIN", marker, 0x20),
        (SASL_AUTH, &[], b"CRAM-MD5", b"", 0x21),
        (SASL_STEP, &[], b"CRAM-MD5", stranger.as_bytes(), 0x20),
        (SASL_AUTH, &[], marker, marker, 0x20),
        (SASL_AUTH, &[], b"PLAIN", right.as_bytes(), 0),
        (0x01, &[0; 8], key, marker, 0),
        (0x00, &[], key, b"", 0),
    ] {
        stream.write_all(&request(opcode, extras, key, value))?;
        let (found, body) = answer(&mut stream, opcode)?;
        ensure!(
            found == status,
            "{opcode:#x}: {found:#x} instead of {status:#x}"
        );
        ensure!(opcode != 0x00 || body.ends_with(marker), "it is there");
    }
    // One byte at a time.
    let mut stream = connect()?;
    for byte in request(SASL_AUTH, &[], b"PLAIN", right.as_bytes()) {
        stream.write_all(&[byte])?;
    }
    let (status, _) = answer(&mut stream, SASL_AUTH)?;
    ensure!(status == 0, "{status:#x}");
    drop(stream);
    let recorded = recorder.stop()?;
    assert_silent("the recording", &recorded.bytes)?;
    let text = String::from_utf8_lossy(&recorded.bytes).into_owned();
    ensure!(text.contains("CRAM-MD5") && text.contains(KEY), "{text}");
    for (what, observer) in observers {
        let report = observer.stop()?;
        assert_silent(what, said(&report).as_bytes())?;
        let of = |operation, number| report.summary.of("memcached", operation, number);
        ensure!(
            of("SASL_AUTH", "count") == 7,
            "{what}: {}",
            report.summary.0
        );
        ensure!(
            of("SASL_AUTH", "errors") == 4,
            "{what}: {}",
            report.summary.0
        );
        ensure!(of("GET", "hits") == 1, "{what}: {}", report.summary.0);
    }
    collector.expect(&[KEY, "SASL_AUTH PLAIN"])?;
    assert_silent("the collector", collector.printed()?.as_bytes())
}
