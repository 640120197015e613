//! The meta commands against a real memcached: what the observer counts is what the server counts, silence included.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::client::Memcached;
use tests::coverage::{self, Kind};
use tests::memcached::{assert_as_the_server_counts, sum};
use tests::observer::Options;
use tests::server::Server;

/// Sends requests that end with `mn`, and reads up to its answer.
fn batch(memcached: &mut Memcached, requests: &str) -> Result<()> {
    memcached.send(format!("{requests}mn\r\n").as_bytes())?;
    memcached.until("MN")
}

#[test]
fn every_command() -> Result<()> {
    let server = Server::memcached()?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    for (request, answer) in [
        ("mn", "MN"),
        ("ms k 5 T60 F7\r\nhello", "HD"),
        ("ms k 1 ME\r\nx", "NS"),
        ("ms absent 1 MA\r\nx", "NS"),
        ("ms absent 1 MP\r\nx", "NS"),
        ("ms absent 1 MR\r\nx", "NS"),
        ("ms k 1 C999999\r\nx", "EX"),
        ("ms absent 1 C1\r\nx", "NF"),
        ("mg k s t f k O9", "HD s5 t60 f7 kk O9"),
        ("mg absent k O9", "EN kabsent O9"),
        ("mg k T100", "HD"),
        ("mg absent T100", "EN"),
        ("ms YWJj 3 b k\r\nxyz", "HD kYWJj b"),
        ("mg YWJj b k s", "HD kYWJj b s3"),
        (
            "ma k",
            "CLIENT_ERROR cannot increment or decrement non-numeric value",
        ),
        ("ma absent", "NF"),
        ("ma absent MD", "NF"),
        ("ms n 2\r\n41", "HD"),
        ("ma n", "HD"),
        ("ma n M- D2", "HD"),
        ("ma n C999999", "EX"),
        ("md absent", "NF"),
        ("md k C999999", "EX"),
        ("md k I T30", "HD"),
        ("mg k", "HD X W"),
        ("mg k", "HD Z X"),
        ("md k", "HD"),
        ("me k", "EN"),
        ("mg k zz", "CLIENT_ERROR invalid flag"),
        ("mg", "ERROR"),
        ("get n", "VALUE n 0 2"),
    ] {
        let found = memcached.line(request)?;
        ensure!(found == answer, "{request}: {found}, not {answer}");
    }
    memcached.until("END")?;
    memcached.send(b"mg n v\r\n")?;
    memcached.until("40")?;
    let info = memcached.line("me n")?;
    ensure!(info.starts_with("ME n exp="), "{info}");
    let report = observer.stop()?;
    assert_as_the_server_counts(&server, &report)?;
    let keys: Vec<_> = report
        .of("MG")
        .iter()
        .map(|span| &span["attributes"]["cache.key"])
        .collect();
    assert!(
        keys.contains(&&json!("abc")),
        "a key in base64 is told as it is: {keys:?}"
    );
    let sets = report.of("MS");
    assert_eq!(sets[0]["attributes"]["cache.ttl"], 60);
    assert_eq!(sets[0]["attributes"]["cache.value_size"], 5);
    assert_eq!(sets[0]["attributes"]["db.query.text"], "MS k ? T60 F?");
    for (set, status) in sets
        .iter()
        .zip(["", "NS", "NS", "NS", "NS", "EX", "NF"])
        .skip(1)
    {
        assert_eq!(set["attributes"]["db.response.status_code"], status);
        assert_eq!(set["status"]["code"], "UNSET");
    }
    for name in ["MG", "MS", "MD", "MA", "MN", "ME"] {
        coverage::note(Kind::Command, name)?;
    }
    Ok(())
}

#[test]
fn silence_is_counted_as_the_server_counts_it() -> Result<()> {
    const ROUNDS: usize = 300;
    let server = Server::memcached()?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    // xorshift64*: the same workload each time.
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut below = |limit: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    };
    let (mut opaque, mut quiet, mut values) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let mut requests = String::new();
        for _ in 0..below(12) {
            opaque += 1;
            let key = below(30);
            let silent = if below(4) > 0 { " q" } else { "" };
            let tag = match below(2) {
                0 => format!("O{opaque}"),
                _ => format!("k O{opaque}"),
            };
            requests += &match below(9) {
                0 | 1 => {
                    let size = 1 + below(200) as usize;
                    values += size as u64;
                    let mode = ["", " ME", " MR", " T100"][below(4) as usize];
                    format!(
                        "ms k{key} {size} {tag}{silent}{mode}\r\n{}\r\n",
                        "x".repeat(size)
                    )
                }
                2 => format!("md k{key} {tag}{silent}\r\n"),
                3 => {
                    values += 1;
                    format!("ms n{key} 1 {tag}{silent}\r\n7\r\n")
                }
                4 => format!(
                    "ma n{key} {tag}{silent}{}\r\n",
                    ["", " MD", " v"][below(3) as usize]
                ),
                5 => format!("mg k{key} T100 {tag}{silent}\r\n"),
                6 => format!("mg k{key} s {tag}{silent}\r\n"),
                _ => format!("mg k{key} v {tag}{silent}\r\n"),
            };
            quiet += usize::from(!silent.is_empty());
        }
        batch(&mut memcached, &requests)?;
    }
    let report = observer.stop()?;
    assert_as_the_server_counts(&server, &report)?;
    assert_eq!(sum(&report, &["MN"], "count"), ROUNDS as u64);
    assert_eq!(sum(&report, &["MS"], "value_bytes"), values);
    let silent = report.summary.total("no_reply");
    assert!(silent > 0 && silent < quiet as u64, "{silent} of {quiet}");
    Ok(())
}

#[test]
fn without_opaque_and_key_the_order_tells() -> Result<()> {
    let server = Server::memcached()?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    // All of them answered; none; those that the kind of the answer tells.
    batch(&mut memcached, "ms a 1 q\r\nx\r\nms b 1 q\r\nx\r\n")?;
    batch(&mut memcached, "mg a v q\r\nmg b v q\r\n")?;
    batch(&mut memcached, "mg absent v q\r\nmg none v q\r\n")?;
    batch(
        &mut memcached,
        "mg absent v q\r\nms a 1 q ME\r\nx\r\nmg none v q\r\nmd absent q\r\n",
    )?;
    let report = observer.stop()?;
    assert_as_the_server_counts(&server, &report)?;
    assert_eq!(report.summary.total("no_reply"), 6, "{}", report.summary.0);
    // One answer to two requests: not known whose, and never guessed.
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    batch(&mut memcached, "mg a v q\r\nmg absent v q\r\n")?;
    let report = observer.stop()?;
    assert_eq!(
        report.summary.total("unresolved"),
        2,
        "{}",
        report.summary.0
    );
    assert_eq!(
        (
            sum(&report, &["MG"], "hits"),
            sum(&report, &["MG"], "misses")
        ),
        (0, 0)
    );
    assert_eq!(report.summary.total("resynchronizations"), 0);
    Ok(())
}

#[test]
fn large_values() -> Result<()> {
    const SIZE: usize = 900_000;
    let server = Server::memcached()?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    // Of a send this large only the beginning is captured, so that `mn` has one of its own.
    let value = "x".repeat(SIZE);
    memcached.send(format!("ms big {SIZE} q T60\r\n{value}\r\n").as_bytes())?;
    batch(&mut memcached, "")?;
    batch(
        &mut memcached,
        "mg big v q O1\r\nmg absent v q O2\r\nmg big v O3\r\n",
    )?;
    // Beyond the server's limit: refused while it is sent, quiet or not.
    let value = "x".repeat(2_000_000);
    memcached.send(format!("ms huge {} q O4\r\n{value}\r\n", value.len()).as_bytes())?;
    batch(&mut memcached, "")?;
    batch(&mut memcached, "mg huge v q O5\r\n")?;
    let report = observer.stop()?;
    assert_as_the_server_counts(&server, &report)?;
    let gets = report.of("MG");
    let sizes: Vec<_> = gets
        .iter()
        .map(|span| &span["attributes"]["cache.value_size"])
        .collect();
    assert_eq!(
        sizes,
        [&json!(SIZE), &json!(null), &json!(SIZE), &json!(null)]
    );
    let sets = report.of("MS");
    assert_eq!(sets[0]["attributes"]["cache.value_size"], SIZE);
    assert_eq!(sets[1]["attributes"]["error.type"], "SERVER_ERROR");
    Ok(())
}

#[test]
fn a_connection_that_was_there_before() -> Result<()> {
    let server = Server::memcached()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    batch(&mut memcached, "ms a 1 q\r\nx\r\n")?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--spans-pipeline", "commands")
        .start()?;
    for _ in 0..3 {
        batch(&mut memcached, "mg a v q O1\r\nmg absent v q O2\r\n")?;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let report = observer.stop()?;
    assert_eq!(
        (
            sum(&report, &["MG"], "hits"),
            sum(&report, &["MG"], "misses")
        ),
        (3, 3)
    );
    assert_eq!(
        report.summary.total("resynchronizations"),
        0,
        "{}",
        report.summary.0
    );
    Ok(())
}
