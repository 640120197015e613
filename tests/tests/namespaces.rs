//! Client and server in network namespaces of their own, the observer outside; address translation between them; IPv4
//! addresses written as IPv6 addresses: still one span a command.

use std::io::{Read, Write};
use std::net::TcpListener;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::client::Redis;
use tests::namespace::Pair;
use tests::observer::{Options, Report};
use tests::pair::{pairs, took};
use tests::pool::Pool;
use tests::process::load;
use tests::server::{Server, free_port};

/// How many of each command there are; each is a process of its own.
fn rounds() -> Result<usize> {
    Ok(load(20)?.max(3) as usize)
}

/// Commands from end 0 to a redis-server at end 1.
fn observe(role: &str) -> Result<Report> {
    let pair = Pair::new()?;
    let number = free_port()?;
    let port = number.to_string();
    let _server = pair.redis(number)?;
    let cli = |words: &[&str]| {
        let mut command = pair.inside(0, "redis-cli");
        command
            .args(["-h", Pair::ADDRESSES[1], "-p", &port])
            .args(words)
            .output()
    };
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
    let pairs = pairs(&report)?;
    let of = |name| {
        let of_it = |(span, _): &&(&Value, _)| span["attributes"]["db.operation.name"] == name;
        pairs.iter().filter(of_it).count()
    };
    assert_eq!((of("SET"), of("GET")), (rounds()?, rounds()?));
    Ok(())
}

/// A cable that carries 25 kB a second: what is under way is told from what the server does.
#[test]
fn time_on_the_network_is_told_from_the_servers() -> Result<()> {
    let pair = Pair::new()?;
    let port = free_port()?;
    let _server = pair.redis(port)?;
    pair.shell(
        1,
        "tc qdisc add dev cable root tbf rate 200kbit burst 4kb latency 60s",
    )?;
    let observer = Options::new().redis(port).with("--role", "both").start()?;
    let mut client = pair.client(Pair::ADDRESSES[1], port)?;
    client.say("SETRANGE key 29999 x")?;
    ensure!(client.line()? == "30000");
    client.say("GET key")?;
    ensure!(client.line()?.len() == 30_000);
    let report = observer.stop()?;
    let pairs = pairs(&report)?;
    let (client, server) = *pairs.last().expect("SETRANGE and GET at least");
    ensure!(
        client["attributes"]["cache.value_size"] == 30_000,
        "{client}"
    );
    ensure!(took(client)? - took(server)? > 0.9, "{client} {server}");
    Ok(())
}

/// An address that nobody has, and a port that nobody listens on: packets to it go to the server, as if they came from elsewhere.
/// As a cluster's services, published ports of containers and their hosts' masquerading do.
#[test]
fn the_clients_view_is_kept_behind_address_translation() -> Result<()> {
    const SERVICE: &str = "10.96.0.1";
    const SOURCE: &str = "10.231.7.77";
    let pair = Pair::new()?;
    let [port, published] = [free_port()?, free_port()?];
    let _server = pair.redis(port)?;
    let [near, far] = Pair::ADDRESSES;
    pair.shell(
        0,
        &format!(
            "ip address add {SOURCE}/24 dev cable
             ip route add {SERVICE} via {far}
             nft '
               table ip translation {{
                 chain output {{
                   type nat hook output priority -100;
                   ip daddr {SERVICE} tcp dport {published} dnat to {far}:{port};
                 }}
                 chain postrouting {{
                   type nat hook postrouting priority 100;
                   ip daddr {far} ip saddr {near} meta l4proto tcp snat to {SOURCE}:50000-50999;
                 }}
               }}'"
        ),
    )?;
    // One is older than each observer.
    let mut old = pair.client(SERVICE, published)?;
    old.say("SET old 1")?;
    ensure!(old.line()? == "OK");
    for role in ["auto", "both", "client", "server"] {
        let observer = Options::new()
            .with("--redis-port", &format!("{port},{published}"))
            .with("--role", role)
            .with("--metrics-exporter", "jsonl")
            .variable("OTEL_METRIC_EXPORT_INTERVAL", "100")
            .start()?;
        if role == "auto" {
            let pool = Pool::at(old.process.id(), &format!("{SERVICE}:{published}"));
            pool.agrees(&observer, [1, 0, 0, 0])?;
        }
        old.say("GET old")?;
        ensure!(old.line()? == "1");
        let mut new = pair.client(SERVICE, published)?;
        new.say("GET new")?;
        ensure!(new.line()? == "-1");
        let report = observer.stop()?;
        let spans = report.of("GET");
        ensure!(
            spans.len() == if role == "both" { 4 } else { 2 },
            "{role}: {spans:?}"
        );
        for span in &spans {
            let attributes = &span["attributes"];
            let at = |end: &str| {
                let of = |name: &str| attributes[format!("{end}.{name}")].to_string();
                format!("{}:{}", of("address").trim_matches('"'), of("port"))
            };
            if span["kind"] == "CLIENT" {
                let service = format!("{SERVICE}:{published}");
                assert_eq!(
                    (at("server"), at("network.peer")),
                    (service.clone(), service)
                );
            } else {
                assert_eq!(at("server"), format!("{far}:{port}"));
                assert!(
                    at("network.peer").starts_with(&format!("{SOURCE}:50")),
                    "{span}"
                );
            }
        }
        let kinds = |kind| spans.iter().filter(|span| span["kind"] == kind).count();
        let wanted = match role {
            "auto" | "client" => (2, 0),
            "server" => (0, 2),
            _ => (2, 2),
        };
        assert_eq!((kinds("CLIENT"), kinds("SERVER")), wanted, "{role}");
        if role == "both" {
            pairs(&report)?;
        }
    }
    Ok(())
}

/// Who answers each request with a null on one socket that takes both families.
fn dual_stack() -> Result<u16> {
    let port = free_port()?;
    let listener = TcpListener::bind(("::", port))?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream?;
            std::thread::spawn(move || -> std::io::Result<()> {
                while stream.read(&mut [0; 1_000])? > 0 {
                    stream.write_all(b"$-1\r\n")?;
                }
                Ok(())
            });
        }
        std::io::Result::Ok(())
    });
    Ok(port)
}

#[test]
fn ipv4_written_as_ipv6() -> Result<()> {
    let redis = Server::redis()?;
    let dual = dual_stack()?;
    for role in ["auto", "client", "server", "both"] {
        let observer = Options::new()
            .with("--redis-port", &format!("{},{dual}", redis.port))
            .with("--role", role)
            .start()?;
        let mut keys = Vec::new();
        for (address, family) in [
            ("127.0.0.1", "ipv4"),
            ("::ffff:127.0.0.1", "ipv4"),
            ("::1", "ipv6"),
        ] {
            for port in [redis.port, dual] {
                let key = format!("{family}:{address}:{port}");
                let mut client = Redis::connect((address, port))?;
                client.command(&["GET", &key])?;
                keys.push(key);
            }
        }
        let report = observer.stop()?;
        let ends = if role == "both" { 2 } else { 1 };
        ensure!(
            report.spans.len() == ends * keys.len(),
            "{role}: {:?}",
            report.spans
        );
        for span in &report.spans {
            let attributes = &span["attributes"];
            let family = attributes["network.type"].as_str().unwrap_or_default();
            let address = match family {
                "ipv4" => "127.0.0.1",
                _ => "::1",
            };
            assert_eq!(attributes["server.address"], address);
            assert_eq!(attributes["network.peer.address"], address);
            let key = attributes["cache.key"].as_str().unwrap_or_default();
            assert!(key.starts_with(family), "{span}");
        }
        if role == "both" {
            ensure!(pairs(&report)?.len() == keys.len());
        }
    }
    Ok(())
}

/// Over IPv6 between two hosts.
#[test]
fn ipv6_between_namespaces() -> Result<()> {
    let pair = Pair::new()?;
    let port = free_port()?;
    let _server = pair.redis(port)?;
    for role in ["auto", "both"] {
        let observer = Options::new().redis(port).with("--role", role).start()?;
        let mut client = pair.client(Pair::ADDRESSES_6[1], port)?;
        client.say("SET key value")?;
        ensure!(client.line()? == "OK");
        let report = observer.stop()?;
        let spans = report.of("SET");
        ensure!(
            spans.len() == if role == "both" { 2 } else { 1 },
            "{role}: {spans:?}"
        );
        for span in spans {
            let attributes = &span["attributes"];
            assert_eq!(attributes["server.address"], Pair::ADDRESSES_6[1]);
            assert_eq!(attributes["network.type"], "ipv6");
            assert_eq!(
                attributes["cache.name"],
                format!("[{}]:{port}", Pair::ADDRESSES_6[1])
            );
        }
    }
    Ok(())
}
