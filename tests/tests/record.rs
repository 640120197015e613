//! Recordings: their replay tells what was told live, broken ones say where, and what they hold is what may be kept.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tests::client::{Memcached, Redis, encode};
use tests::observer::{Options, Summary, binary, call, replay};
use tests::process::{Folder, eventually, load};
use tests::recording::{Recorder, convert};
use tests::secrets::memcached::request;
use tests::secrets::{KEY, MARKER, capture, leak};
use tests::server::Server;

/// Spans without what is drawn for each: ids.
fn told(spans: Vec<Value>) -> Vec<String> {
    let strip = |mut span: Value| {
        if let Some(span) = span.as_object_mut() {
            for id in ["trace_id", "span_id", "parent_span_id"] {
                span.remove(id);
            }
        }
        span.to_string()
    };
    spans.into_iter().map(strip).collect()
}

/// The first difference.
fn assert_same(what: &str, wanted: &[String], found: &[String]) -> Result<()> {
    for (wanted, found) in wanted.iter().zip(found) {
        ensure!(wanted == found, "{what}:\nwant {wanted}\ngot  {found}");
    }
    let (wanted, found) = (wanted.len(), found.len());
    ensure!(wanted == found, "{what}: {found} spans, want {wanted}");
    Ok(())
}

const COMMANDS: [&str; 2] = ["--spans-pipeline", "commands"];

fn replayed(file: &Path, options: &[&str]) -> Result<(Vec<String>, Value)> {
    let (output, spans, summary) = replay(file, options)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {error}", output.status);
    Ok((told(spans), summary.context("no summary")?.0))
}

/// Hashes by the order in which they come.
fn renamed(spans: &[String]) -> Vec<String> {
    let is_hash =
        |word: &str| word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut known = HashMap::new();
    spans
        .iter()
        .map(|span| {
            let words = span.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric());
            words
                .map(|word| {
                    let end = word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
                    if !is_hash(end) {
                        return word.to_owned();
                    }
                    let next = known.len();
                    let number = *known.entry(end.to_owned()).or_insert(next);
                    format!("hash {number}{}", &word[end.len()..])
                })
                .collect()
        })
        .collect()
}

#[test]
fn a_recorded_capture_tells_the_same() -> Result<()> {
    let folder = Folder::new()?;
    let recording = folder.path().join("recording");
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let mut count = 0;
    for entry in fs::read_dir(captures)? {
        let capture = entry?.path();
        let name = capture.to_string_lossy().into_owned();
        if !name.ends_with(".pcap") && !name.ends_with(".pcapng") {
            continue;
        }
        count += 1;
        for keys in ["full", "pattern", "hash", "none"] {
            let options = [&COMMANDS[..], &["--keys", keys]].concat();
            convert(&capture, &recording, &options[2..])?;
            let (wanted, wanted_summary) = replayed(&capture, &options)?;
            let (found, summary) = replayed(&recording, &options)?;
            let what = format!("{name} with --keys {keys}");
            match keys {
                "hash" => assert_same(&what, &renamed(&wanted), &renamed(&found))?,
                _ => assert_same(&what, &wanted, &found)?,
            }
            ensure!(
                wanted_summary == summary,
                "{what}: {wanted_summary} {summary}"
            );
        }
    }
    ensure!(count > 20, "{count} captures");
    Ok(())
}

#[test]
fn what_is_not_in_a_recording_is_not_shown() -> Result<()> {
    let folder = Folder::new()?;
    let recording = folder.path().join("recording");
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let capture = captures.join("redis_basic.pcap");
    convert(&capture, &recording, &["--keys", "none"])?;
    let (wanted, _) = replayed(&capture, &["--keys", "none"])?;
    // Stand-ins are no keys.
    for keys in ["full", "pattern", "hash"] {
        let (found, _) = replayed(&recording, &["--keys", keys])?;
        assert_same(keys, &wanted, &found)?;
    }
    Ok(())
}

#[test]
fn no_recording_holds_a_secret() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path().join("capture.pcap");
    let recording = folder.path().join("recording");
    capture(&file, false)?;
    convert(&file, &recording, &[])?;
    let found = leak(&fs::read(&recording)?);
    ensure!(found.is_none(), "{}", found.unwrap_or_default());
    // What is hidden was read, not passed over.
    let told = |file| -> Result<usize> {
        let (spans, _) = replayed(file, &COMMANDS)?;
        Ok(spans.iter().filter(|span| span.contains(KEY)).count())
    };
    let (captured, recorded) = (told(&file)?, told(&recording)?);
    ensure!(
        recorded * 100 >= captured * 95,
        "{recorded} of {captured} keys are told by the replay"
    );
    capture(&file, true)?;
    convert(&file, &recording, &[])?;
    // 200 MB: what has no piece of the marker as it is has none of its forms either, as was seen above.
    let pieces: Vec<_> = MARKER.as_bytes().windows(6).collect();
    let bytes = fs::read(&recording)?;
    let mut keys = 0;
    for at in 0..bytes.len().saturating_sub(KEY.len()) {
        let is = |text: &[u8]| bytes[at..at + text.len()].eq_ignore_ascii_case(text);
        match bytes[at].to_ascii_lowercase() {
            b'v' => keys += u32::from(is(KEY.as_bytes())),
            b's' | b'3' | b'c' | b'r' | b't' | b'-' | b'm' => {
                ensure!(!pieces.iter().any(|piece| is(piece)), "at byte {at}");
            }
            _ => {}
        }
    }
    ensure!(keys > 100_000, "{keys} keys");
    Ok(())
}

/// All that a client can do with a Redis, more or less.
fn redis(server: &Server) -> Result<()> {
    let address = ("127.0.0.1", server.port);
    let mut redis = Redis::connect(address)?;
    let large = "v".repeat(3_000_000);
    redis.command(&["AUTH", "wrong"])?;
    redis.command(&["AUTH", "open sesame"])?;
    for words in [
        &["SELECT", "1"][..],
        &["SET", "user:1:name", "value", "EX", "100"],
        &["SET", "user:1:name", "value", "PXAT", "4102444800000"],
        &["GET", "user:1:name"],
        &["GET", "user:2:name"],
        &["MSET", "a:1", "x", "a:2", "yy", "a:3", "zzz"],
        &["MGET", "a:1", "a:9", "a:3"],
        &["SET", "large", &large],
        &["GET", "large"],
        &["STRLEN", "large"],
        &["HSET", "h:1", "f", "1", "g", "2"],
        &["HGETALL", "h:1"],
        &["HMGET", "h:1", "f", "x"],
        &["LPUSH", "l:1", "1", "2", "3"],
        &["LRANGE", "l:1", "0", "-1"],
        &["INCRBY", "n:1", "1234567"],
        &["LPUSH", "user:1:name", "wrong type"],
        &["NOSUCH", "a", "b"],
        &["EXPIRE", "a:1", "1000"],
        &["TTL", "a:1"],
        &["EXISTS", "a:1", "a:2", "a:9"],
        &["DEL", "a:1", "a:2", "a:9"],
        &["TYPE", "h:1"],
        &["TYPE", "none"],
        &["EVAL", "return redis.call('GET', KEYS[1])", "1", "a:3", "x"],
        &["CLIENT", "SETNAME", "worker"],
        &["CLIENT", "SETINFO", "LIB-NAME", "by-hand"],
        &["CONFIG", "SET", "requirepass", "open sesame"],
        &["BLPOP", "l:1", "1"],
        &["SCAN", "0", "COUNT", "5"],
        &["MULTI"],
        &["SET", "m:1", "x"],
        &["INCR", "m:1"],
        &["EXEC"],
        &["MULTI"],
        &["GET", "m:1"],
        &["DISCARD"],
        &["SUBSCRIBE", "channel"],
    ] {
        redis.command(words)?;
    }
    let mut other = Redis::connect(address)?;
    other.send(b"AUTH \"open sesame\"\r\nGET user:1:name\r\nPING\r\n")?;
    (0..3).try_for_each(|_| other.reply().map(|_| ()))?;
    other.command(&["PUBLISH", "channel", "message"])?;
    redis.reply()?;
    // RESP3, whose replies the client here does not read.
    let mut stream = TcpStream::connect(address)?;
    for words in [
        &[
            "HELLO",
            "3",
            "AUTH",
            "default",
            "open sesame",
            "SETNAME",
            "three",
        ][..],
        &["HGETALL", "h:1"],
        &["GET", "user:2:name"],
        &["SISMEMBER", "s:1", "x"],
        &["ZADD", "z:1", "1.5", "one"],
        &["ZSCORE", "z:1", "one"],
        &["CLIENT", "TRACKING", "ON"],
    ] {
        stream.write_all(&encode(words))?;
        stream.write_all(b"PING\r\n")?;
        let (mut read, mut part) = (Vec::new(), [0; 1024]);
        while !read.ends_with(b"+PONG\r\n") {
            let length = stream.read(&mut part)?;
            ensure!(length > 0, "closed after {words:?}");
            read.extend_from_slice(&part[..length]);
        }
    }
    // A pipeline.
    let many: Vec<u8> = (0..200)
        .flat_map(|number| encode(&["SET", &format!("p:{number}"), "value"]))
        .collect();
    other.send(&many)?;
    (0..200).try_for_each(|_| other.reply().map(|_| ()))?;
    // A request in two parts, and one that stays without a reply.
    other.send(b"*2\r\n$3\r\nGET\r\n$5\r\np")?;
    std::thread::sleep(Duration::from_millis(50));
    other.send(b":123\r\n")?;
    other.reply()?;
    Ok(())
}

fn memcached(server: &Server) -> Result<()> {
    let mut client = Memcached::connect(("127.0.0.1", server.port))?;
    // Not beyond the capture limit of a call, together with what is read with it.
    let large = vec![b'v'; 50_000];
    client.store("set", "user:1", b"value", 60)?;
    client.store("set", "large", &large, 0)?;
    client.get(&["user:1", "user:2", "large"])?;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))?;
    for line in [
        "incr user:1 5",
        "touch user:1 100",
        "delete user:9",
        "mg large s v k O7 t",
        "mg user:9 v",
        "ms user:3 5 T60\r\nvalue",
        "mg user:3 v t",
        "md user:3 q",
        "delete user:1",
        "nosuch command",
        "verbosity 1",
        "version",
    ] {
        stream.write_all(format!("{line}\r\nmn\r\n").as_bytes())?;
        let (mut read, mut part) = (Vec::new(), [0; 4096]);
        while !read.ends_with(b"MN\r\n") {
            let length = stream.read(&mut part)?;
            ensure!(length > 0, "closed after {line:?}");
            read.extend_from_slice(&part[..length]);
        }
    }
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))?;
    for (opcode, extras, key, value) in [
        (0x01, &[0; 8][..], &b"binary:1"[..], &b"value"[..]),
        (0x00, &[], b"binary:1", b""),
        (0x0c, &[], b"binary:1", b""),
        (0x00, &[], b"binary:2", b""),
        (0x04, &[], b"binary:1", b""),
        (0x0a, &[], b"", b""),
    ] {
        stream.write_all(&request(opcode, extras, key, value))?;
        let mut header = [0; 24];
        stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        stream.read_exact(&mut vec![0; length as usize])?;
    }
    Ok(())
}

/// Runs an observer and a recorder beside each other; what the one told, and what the replay of the other's file tells.
fn both(
    ports: (u16, u16),
    options: &[&str],
    play: impl FnOnce() -> Result<()>,
) -> Result<[(Vec<String>, Summary); 2]> {
    let mut observer = Options::new().redis(ports.0).memcached(ports.1);
    for pair in [&COMMANDS[..], options].concat().chunks(2) {
        observer = observer.with(pair[0], pair[1]);
    }
    let observer = observer.start()?;
    let recorder = Recorder::start(ports.0, ports.1, options)?;
    play()?;
    let recorded = recorder.stop()?;
    let report = observer.stop()?;
    let arguments = [&COMMANDS[..], &["--spans-per-second", "0"]].concat();
    let (found, summary) = replayed(&recorded.file, &arguments)?;
    Ok([
        (told(report.spans), report.summary),
        (found, Summary(summary)),
    ])
}

/// Times and addresses are each observer's own where hooks run one after the other.
fn without_times(spans: &[String]) -> Result<Vec<String>> {
    let strip = |span: &String| -> Result<String> {
        let mut span: Value = serde_json::from_str(span)?;
        let took = |span: &Value| {
            let time = |name: &str| span[name].as_u64().unwrap_or_default();
            time("end_time_unix_nano").saturating_sub(time("start_time_unix_nano"))
        };
        ensure!(took(&span) < 60_000_000_000, "{span}");
        let fields = span.as_object_mut().context("an object")?;
        fields.remove("start_time_unix_nano");
        fields.remove("end_time_unix_nano");
        Ok(span.to_string())
    };
    let mut spans = spans.iter().map(strip).collect::<Result<Vec<_>>>()?;
    spans.sort();
    Ok(spans)
}

/// Starts differ by what two hooks that run one after the other see of one call.
fn assert_times(wanted: &[String], found: &[String]) -> Result<()> {
    let starts = |spans: &[String]| -> Result<Vec<u64>> {
        let start = |span: &String| -> Result<u64> {
            let span: Value = serde_json::from_str(span)?;
            span["start_time_unix_nano"].as_u64().context("a time")
        };
        let mut starts = spans.iter().map(start).collect::<Result<Vec<_>>>()?;
        starts.sort_unstable();
        Ok(starts)
    };
    for (wanted, found) in starts(wanted)?.into_iter().zip(starts(found)?) {
        ensure!(wanted.abs_diff(found) < 1_000_000_000, "{wanted} {found}");
    }
    Ok(())
}

#[test]
fn a_replay_tells_what_was_told_live() -> Result<()> {
    let redis_server = Server::redis_on(
        tests::server::free_port()?,
        &["--requirepass", "open sesame"],
    )?;
    let memcached_server = Server::memcached()?;
    let ports = (redis_server.port, memcached_server.port);
    let [(wanted, wanted_summary), (found, summary)] = both(ports, &[], || {
        redis(&redis_server)?;
        memcached(&memcached_server)
    })?;
    ensure!(wanted.len() > 250, "{} spans", wanted.len());
    assert_same("spans", &without_times(&wanted)?, &without_times(&found)?)?;
    assert_times(&wanted, &found)?;
    ensure!(
        summary == wanted_summary,
        "{}\n{}",
        wanted_summary.0,
        summary.0
    );
    Ok(())
}

#[test]
fn datagrams_are_recorded() -> Result<()> {
    let server = Server::memcached_on(tests::server::free_port()?, &["-U", "0"])?;
    drop(server);
    let port = tests::server::free_port()?;
    let text = port.to_string();
    let server = Server::memcached_on(port, &["-U", &text])?;
    let mut client = Memcached::connect(("127.0.0.1", port))?;
    client.store("set", "large", &[b'v'; 5_000], 0)?;
    let [(wanted, _), (found, _)] = both((1, server.port), &[], || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        for (id, line) in [
            "set udp:1 0 60 5\r\nvalue",
            "get udp:1",
            "get udp:2",
            "get large",
        ]
        .into_iter()
        .enumerate()
        {
            let mut datagram = vec![0, id as u8, 0, 0, 0, 1, 0, 0];
            datagram.extend_from_slice(line.as_bytes());
            datagram.extend_from_slice(b"\r\n");
            socket.send(&datagram)?;
            let mut reply = [0; 2_000];
            let mut left = 1;
            while left > 0 {
                socket.recv(&mut reply)?;
                left = match left {
                    1 if reply[3] == 0 => usize::from(reply[5]),
                    left => left,
                } - 1;
            }
        }
        Ok(())
    })?;
    ensure!(wanted.len() == 4, "{wanted:?}");
    assert_same("spans", &without_times(&wanted)?, &without_times(&found)?)
}

#[test]
fn losses_are_recorded_as_losses() -> Result<()> {
    let server = Server::redis()?;
    let folder = Folder::new()?;
    let settings = folder.path().join("settings.toml");
    // The least that there is: bursts overflow it.
    fs::write(&settings, "[limits]\nring-bytes = 65536\n")?;
    let settings = settings.to_str().context("a printable path")?;
    let recorder = Recorder::start(server.port, 2, &["--config", settings])?;
    let commands = load(200_000)?;
    tests::process::output(
        "redis-benchmark",
        [
            "-p",
            &server.port.to_string(),
            "-t",
            "set,get",
            "-n",
            &commands.to_string(),
            "-P",
            "64",
            "-d",
            "2000",
            "-q",
        ],
    )?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["SET", "after:1", "value"])?;
    let recorded = recorder.stop()?;
    let (_, summary) = replayed(&recorded.file, &[])?;
    let summary = Summary(summary);
    ensure!(summary.total("lost_bytes") > 0, "{}", summary.0);
    ensure!(summary.total("resynchronizations") > 0, "{}", summary.0);
    ensure!(summary.of("redis", "SET", "count") > 0, "{}", summary.0);
    ensure!(!recorded.log.contains("lost=0"), "{}", recorded.log);
    Ok(())
}

/// A recording of little.
fn small(folder: &Folder) -> Result<PathBuf> {
    let recording = folder.path().join("recording");
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    convert(&captures.join("redis_basic.pcap"), &recording, &[])?;
    Ok(recording)
}

fn refused(output: &Output, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2), "{}: {said}", output.status);
    let last = said.lines().last().unwrap_or_default();
    for word in words {
        ensure!(last.contains(word), "{word:?} is not in {last:?}");
    }
    ensure!(last.starts_with("cache-observer: "), "{last}");
    Ok(())
}

#[test]
fn a_broken_file_says_where() -> Result<()> {
    let folder = Folder::new()?;
    let whole = fs::read(small(&folder)?)?;
    let file = folder.path().join("broken");
    let broken = |bytes: &[u8]| -> Result<(Output, usize)> {
        fs::write(&file, bytes)?;
        let (output, spans, _) = replay(&file, &[])?;
        Ok((output, spans.len()))
    };
    // What came before is told.
    let (output, spans) = broken(&whole[..whole.len() - 60])?;
    refused(&output, &["the recording was not ended, at byte "])?;
    ensure!(spans > 5, "{spans} spans");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    refused(&broken(&changed)?.0, &["damaged", "at byte "])?;
    let mut later = whole.clone();
    later[8] = 9;
    refused(&broken(&later)?.0, &["version 9", "at byte 8"])?;
    refused(&broken(&whole[..10])?.0, &["not ended", "at byte 8"])?;
    refused(&broken(b"cachereX")?.0, &["neither", "nor a recording"])?;
    let longer = [whole.as_slice(), b"more"].concat();
    refused(&broken(&longer)?.0, &["what follows the end"])?;
    Ok(())
}

#[test]
fn a_crash_leaves_what_was_written() -> Result<()> {
    let server = Server::redis()?;
    let recorder = Recorder::start(server.port, 2, &[])?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for number in 0..100 {
        redis.command(&["SET", &format!("user:{number}"), "value"])?;
    }
    eventually(Duration::from_secs(20), "it is written", || {
        Ok(fs::metadata(&recorder.file)?.len() > 100 * 40)
    })?;
    recorder.process.signal(Signal::KILL)?;
    std::thread::sleep(Duration::from_millis(200));
    let (output, spans, _) = replay(&recorder.file, &[])?;
    refused(&output, &["the recording was not ended"])?;
    ensure!(spans.len() >= 90, "{} spans", spans.len());
    fs::remove_file(&recorder.file)?;
    Ok(())
}

#[test]
fn a_full_disk_ends_it() -> Result<()> {
    let server = Server::redis()?;
    let mut recorder = Recorder::into("/dev/full".into(), server.port, 2, &[])?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["SET", "user:1", "value"])?;
    let status = recorder.process.wait(Duration::from_secs(20))?;
    let log = recorder.log()?;
    ensure!(status == 1, "status {status}: {log}");
    let said = log.matches("No space left on device").count();
    ensure!(said == 1 && log.contains("/dev/full"), "{log}");
    Ok(())
}

#[test]
fn what_cannot_be_recorded_is_said() -> Result<()> {
    let folder = Folder::new()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    refused(
        &call(&["record", &path("no/such/folder")])?,
        &["No such file or directory"],
    )?;
    let file = path("recording");
    refused(
        &call(&["record", &file, "--from", &path("capture")])?,
        &["No such file or directory"],
    )?;
    ensure!(!Path::new(&file).exists(), "nothing was made");
    refused(&call(&["record"])?, &["<FILE>"])?;
    Ok(())
}

#[test]
fn a_recorder_keeps_few_privileges() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::redis()?;
    let recorder = Recorder::start(server.port, 2, &[])?;
    let status = fs::read_to_string(format!("/proc/{}/status", recorder.process.id()))?;
    for line in ["Uid:\t65534", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        ensure!(status.contains(line), "{line} is not in {status}");
    }
    let mode = fs::metadata(&recorder.file)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    recorder.stop()?;
    let help = Command::new(binary()).args(["record", "--help"]).output()?;
    ensure!(help.status.success(), "{}", help.status);
    Ok(())
}
