//! What a watched port may carry instead of the protocol: counted, never a span, never a crash.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Result;
use tests::client::Redis;
use tests::observer::{Observer, Options, Report};
use tests::server::{Server, free_port};

/// A server of a single connection that gives `answer` to whatever it is sent.
fn exchange(port: u16, request: &[u8], answer: &'static [u8]) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let server = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut buffer = vec![0; 1 << 16];
        let _ = stream.read(&mut buffer);
        // The client may have closed already.
        let _ = stream.write_all(answer);
        while matches!(stream.read(&mut buffer), Ok(read) if read > 0) {}
        Ok(())
    });
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(request)?;
    let mut buffer = vec![0; 1 << 16];
    let _ = stream.read(&mut buffer);
    drop(stream);
    server.join().expect("the server does not panic")
}

/// Watches a port as both protocols in turn while something else happens on it.
fn observed(action: impl Fn(u16) -> Result<()>) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for memcached in [false, true] {
        let port = free_port()?;
        let options = Options::new().with("--metrics-exporter", "jsonl");
        let observer = if memcached {
            options.memcached(port)
        } else {
            options.redis(port)
        }
        .start()?;
        action(port)?;
        let memory = observer.peak_memory()?;
        assert!(memory < 100 << 20, "{memory} bytes");
        let report = observer.stop()?;
        assert!(!report.log.contains("panicked"), "{}", report.log);
        reports.push(report);
    }
    Ok(reports)
}

#[test]
fn http() -> Result<()> {
    let reports = observed(|port| {
        exchange(
            port,
            b"GET /index.html HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        )
    })?;
    for report in reports {
        assert_eq!(report.spans.len(), 0, "{:#?}", report.spans);
        assert_eq!(
            report.summary.total("transactions"),
            0,
            "{}",
            report.summary.0
        );
        let skipped = report.metric("observer.payload.skipped", &[("reason", "foreign")]);
        assert!(skipped > 0.0, "counted: {:?}", report.metrics);
    }
    Ok(())
}

#[test]
fn tls() -> Result<()> {
    let reports = observed(|port| {
        for _ in 0..3 {
            // The beginning of a ClientHello and of a ServerHello.
            exchange(
                port,
                b"\x16\x03\x01\x00\x20\x01\x00\x00\x1c\x03\x03random",
                b"\x16\x03\x03\x00\x20\x02\x00\x00\x1c\x03\x03x",
            )?;
        }
        Ok(())
    })?;
    for report in reports {
        assert_eq!(report.spans.len(), 0, "{:#?}", report.spans);
        assert_eq!(
            report.summary.total("connections"),
            3,
            "{}",
            report.summary.0
        );
        let skipped = report.metric("observer.payload.skipped", &[("reason", "tls")]);
        assert!(skipped > 0.0, "counted: {:?}", report.metrics);
        let said = report
            .log
            .lines()
            .filter(|line| line.to_lowercase().contains("tls"))
            .count();
        assert_eq!(said, 1, "said once an endpoint: {}", report.log);
    }
    Ok(())
}

#[test]
fn random_bytes() -> Result<()> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = Vec::new();
    for _ in 0..8000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        random.extend(state.to_le_bytes());
    }
    for report in observed(|port| exchange(port, &random, b"\x00\xff\x7f binary"))? {
        assert_eq!(report.of("GET").len(), 0);
    }
    Ok(())
}

/// A Redis connection goes on being observed after what a peer may send.
fn survives(bytes: &[u8]) -> Result<(Observer, Server)> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    // The server may close before all is sent.
    let _ = stream.write_all(bytes);
    let mut buffer = vec![0; 1 << 16];
    let _ = stream.read(&mut buffer);
    drop(stream);
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["SET", "after", "value"])?;
    redis.command(&["GET", "after"])?;
    Ok((observer, server))
}

#[test]
fn nesting_and_lengths_without_end() -> Result<()> {
    for bytes in [
        b"*1\r\n".repeat(10_000),
        b"*1\r\n$9223372036854775807\r\n".to_vec(),
        b"*9223372036854775807\r\n$3\r\nGET\r\n".to_vec(),
        b"*-9\r\n$-7\r\n".to_vec(),
        b"*2\r\n$3\r\nGET\r\n$18446744073709551617\r\nx\r\n".to_vec(),
        [b"GET ".as_slice(), &b"x".repeat(200_000)].concat(),
    ] {
        let (observer, _server) = survives(&bytes)?;
        let memory = observer.peak_memory()?;
        assert!(memory < 100 << 20, "{memory} bytes");
        let report = observer.stop()?;
        assert!(!report.log.contains("panicked"), "{}", report.log);
        assert_eq!(report.of("SET").len(), 1, "{:#?}", report.spans);
        assert_eq!(
            report.of("GET").last().expect("a GET")["attributes"]["cache.hit"],
            true
        );
    }
    Ok(())
}

#[test]
fn a_reply_nested_without_end() -> Result<()> {
    let nested: &'static [u8] = Box::leak(b"*1\r\n".repeat(10_000).into_boxed_slice());
    let port = free_port()?;
    let observer = Options::new().redis(port).start()?;
    exchange(port, b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n", nested)?;
    exchange(
        port,
        b"*2\r\n$3\r\nGET\r\n$1\r\ny\r\n",
        b"$9223372036854775807\r\nabc",
    )?;
    exchange(port, b"*2\r\n$3\r\nGET\r\n$1\r\nz\r\n", b"$3\r\nabc\r\n")?;
    let report = observer.stop()?;
    let hits: Vec<_> = report
        .of("GET")
        .into_iter()
        .filter(|span| span["attributes"]["cache.hit"] == true)
        .collect();
    assert_eq!(hits.len(), 1, "{:#?}", report.spans);
    assert_eq!(hits[0]["attributes"]["cache.key"], "z");
    Ok(())
}

#[test]
fn a_connection_that_ends_before_its_reply() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.send(&tests::client::encode(&["BLPOP", "never", "0"]))?;
    std::thread::sleep(Duration::from_millis(200));
    drop(redis);
    let report = observer.stop()?;
    assert_eq!(
        report.summary.total("unanswered"),
        1,
        "{}",
        report.summary.0
    );
    assert_eq!(report.of("BLPOP")[0]["status"]["code"], "ERROR");
    assert!(report.of("BLPOP")[0]["attributes"]["error.type"].is_string());
    Ok(())
}
