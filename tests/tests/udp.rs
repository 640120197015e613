//! Memcached over UDP, live: what the observer counts is what the server counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::client::Memcached;
use tests::namespace::Pair;
use tests::observer::{Options, Report, replay};
use tests::process::{Folder, Running, eventually, output, python};
use tests::server::{Server, free_port};

/// A memcached that speaks TCP and UDP on one port.
fn server(options: &[&str]) -> Result<Server> {
    let port = free_port()?;
    let number = port.to_string();
    Server::memcached_on(port, &[&["-U", &number], options].concat())
}

/// A socket, and who it talks to.
struct Client {
    socket: UdpSocket,
    /// `None` when it is connected.
    server: Option<SocketAddr>,
}

impl Client {
    fn unconnected(server: SocketAddr) -> Result<Self> {
        let any = if server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self {
            socket,
            server: Some(server),
        })
    }

    fn connected(server: SocketAddr) -> Result<Self> {
        let mut client = Self::unconnected(server)?;
        client.socket.connect(server)?;
        client.server = None;
        Ok(client)
    }

    fn send(&self, id: u16, request: &[u8]) -> Result<()> {
        let mut datagram = frame(id, 0, 1);
        datagram.extend(request);
        match self.server {
            Some(server) => self.socket.send_to(&datagram, server)?,
            None => self.socket.send(&datagram)?,
        };
        Ok(())
    }

    /// One datagram: id, sequence number, how many, body.
    fn receive(&self) -> Result<(u16, u16, u16, Vec<u8>)> {
        let mut buffer = [0; 2048];
        let length = match self.server {
            Some(_) => self.socket.recv_from(&mut buffer)?.0,
            None => self.socket.recv(&mut buffer)?,
        };
        ensure!(length >= 8, "a datagram of {length} bytes");
        let word = |at: usize| u16::from_be_bytes([buffer[at], buffer[at + 1]]);
        Ok((word(0), word(2), word(4), buffer[8..length].to_vec()))
    }

    /// The reply to `id`, all of its datagrams.
    fn reply(&self, wanted: u16) -> Result<Vec<u8>> {
        let mut parts = BTreeMap::new();
        loop {
            let (id, sequence, count, body) = self.receive()?;
            ensure!(id == wanted, "a reply to {id}");
            parts.insert(sequence, body);
            if parts.len() == usize::from(count) {
                return Ok(parts.into_values().flatten().collect());
            }
        }
    }

    fn call(&self, id: u16, request: &str) -> Result<String> {
        self.send(id, request.as_bytes())?;
        Ok(String::from_utf8(self.reply(id)?)?)
    }
}

fn frame(id: u16, sequence: u16, count: u16) -> Vec<u8> {
    [id, sequence, count, 0]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .collect()
}

/// Compares with the server's own counters.
fn assert_as_the_server_counts(server: &Server, report: &Report) -> Result<()> {
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    let summary = &report.summary;
    let of = |operation, number| summary.of("memcached", operation, number);
    for (stat, seen) in [
        ("cmd_get", of("GET", "hits") + of("GET", "misses")),
        ("get_hits", of("GET", "hits")),
        ("get_misses", of("GET", "misses")),
        ("cmd_set", of("SET", "count")),
    ] {
        assert_eq!(seen, memcached.stat(stat)?, "{stat} in {}", summary.0);
    }
    for total in [
        "unanswered",
        "unresolved",
        "orphaned_replies",
        "lost_bytes",
        "resynchronizations",
    ] {
        assert_eq!(summary.total(total), 0, "{total} in {}", summary.0);
    }
    for span in &report.spans {
        assert_eq!(span["attributes"]["network.transport"], "udp", "{span}");
    }
    Ok(())
}

/// Hits, misses, stores and silence by one client.
fn exchange(client: &Client) -> Result<()> {
    ensure!(
        client.call(1, "set k 0 60 5\r\nhello\r\n")? == "STORED\r\n",
        "stored"
    );
    ensure!(
        client.call(2, "get k\r\n")? == "VALUE k 0 5\r\nhello\r\nEND\r\n",
        "hit"
    );
    ensure!(client.call(3, "get absent\r\n")? == "END\r\n", "miss");
    client.send(4, b"set quiet 0 0 2 noreply\r\nhi\r\n")?;
    ensure!(client.call(5, "delete k\r\n")? == "DELETED\r\n", "deleted");
    Ok(())
}

fn assert_exchange(report: &Report) {
    let gets = report.of("GET");
    assert_eq!(gets.len(), 2, "{:#?}", report.spans);
    assert_eq!(gets[0]["attributes"]["cache.hit"], true);
    assert_eq!(gets[0]["attributes"]["cache.value_size"], 5);
    assert_eq!(gets[1]["attributes"]["cache.hit"], false);
    let sets = report.of("SET");
    assert_eq!(sets.len(), 2, "{:#?}", report.spans);
    assert_eq!(sets[0]["attributes"]["cache.ttl"], 60);
    assert_eq!(sets[1]["attributes"]["cache.no_reply"], true);
    assert_eq!(
        report.of("DELETE")[0]["attributes"]["cache.deleted_count"],
        1
    );
    assert_eq!(report.summary.total("no_reply"), 1);
}

#[test]
fn sockets_with_and_without_a_connection() -> Result<()> {
    for connected in [false, true] {
        let server = server(&[])?;
        let observer = Options::new().memcached(server.port).start()?;
        let address = SocketAddr::from(([127, 0, 0, 1], server.port));
        let client = match connected {
            true => Client::connected(address)?,
            false => Client::unconnected(address)?,
        };
        exchange(&client)?;
        let report = observer.stop()?;
        assert_as_the_server_counts(&server, &report)?;
        assert_exchange(&report);
        for span in &report.spans {
            let attributes = &span["attributes"];
            assert_eq!(span["kind"], "CLIENT");
            assert_eq!(attributes["server.address"], "127.0.0.1");
            assert_eq!(attributes["network.peer.port"], server.port);
            assert_eq!(span["resource"]["process.pid"], std::process::id());
        }
    }
    Ok(())
}

#[test]
fn over_ipv6() -> Result<()> {
    for connected in [false, true] {
        let server = server(&["-l", "::1"])?;
        let observer = Options::new().memcached(server.port).start()?;
        let address = SocketAddr::new("::1".parse()?, server.port);
        let client = match connected {
            true => Client::connected(address)?,
            false => Client::unconnected(address)?,
        };
        exchange(&client)?;
        let report = observer.stop()?;
        assert_as_the_server_counts(&server, &report)?;
        assert_exchange(&report);
        for span in &report.spans {
            assert_eq!(span["attributes"]["server.address"], "::1");
            assert_eq!(span["attributes"]["network.type"], "ipv6");
        }
    }
    Ok(())
}

#[test]
fn an_ipv6_socket_that_talks_to_an_ipv4_address() -> Result<()> {
    let server = server(&[])?;
    let observer = Options::new().memcached(server.port).start()?;
    let mapped = SocketAddr::new("::ffff:127.0.0.1".parse()?, server.port);
    exchange(&Client::unconnected(mapped)?)?;
    let report = observer.stop()?;
    assert_as_the_server_counts(&server, &report)?;
    assert_exchange(&report);
    assert_eq!(report.spans[0]["attributes"]["server.address"], "127.0.0.1");
    Ok(())
}

#[test]
fn the_servers_end() -> Result<()> {
    let server = server(&[])?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--role", "server")
        .start()?;
    let client = Client::unconnected(SocketAddr::from(([127, 0, 0, 1], server.port)))?;
    exchange(&client)?;
    let report = observer.stop()?;
    assert_as_the_server_counts(&server, &report)?;
    assert_exchange(&report);
    for span in &report.spans {
        let port = client.socket.local_addr()?.port();
        assert_eq!(span["kind"], "SERVER");
        assert_eq!(span["attributes"]["network.peer.port"], port);
        assert_eq!(span["resource"]["process.pid"], server.process.id());
    }
    Ok(())
}

#[test]
fn replies_of_many_datagrams() -> Result<()> {
    const SIZE: usize = 100_000;
    let server = server(&[])?;
    let observer = Options::new().memcached(server.port).start()?;
    let client = Client::connected(SocketAddr::from(([127, 0, 0, 1], server.port)))?;
    // Too large for a datagram, so that it comes over TCP.
    Memcached::connect(("127.0.0.1", server.port))?.store("set", "big", &vec![b'x'; SIZE], 0)?;
    let large = format!("set medium 0 0 30000\r\n{}\r\n", "y".repeat(30_000));
    ensure!(client.call(6, &large)? == "STORED\r\n", "stored");
    client.send(7, b"get big\r\n")?;
    ensure!(client.reply(7)?.len() > SIZE, "all of it");
    // Several keys: a reply for each, all with the same id.
    client.send(8, b"get medium absent medium\r\n")?;
    let mut length = 0;
    while length < 2 * 30_000 + 53 {
        length += client.receive()?.3.len();
    }
    ensure!(client.call(9, "get absent\r\n")? == "END\r\n", "miss");
    let report = observer.stop()?;
    let (over_tcp, spans): (Vec<_>, Vec<_>) = report
        .spans
        .iter()
        .cloned()
        .partition(|span| span["attributes"]["network.transport"] == "tcp");
    assert_eq!(over_tcp.len(), 1);
    let report = Report { spans, ..report };
    assert_as_the_server_counts(&server, &report)?;
    let gets = report.of("GET");
    assert_eq!(gets.len(), 3, "{:#?}", report.spans);
    assert_eq!(gets[0]["attributes"]["cache.value_size"], SIZE);
    assert_eq!(gets[1]["attributes"]["cache.hits"], 2);
    assert_eq!(gets[1]["attributes"]["cache.value_size"], 60_000);
    assert_eq!(
        report.of("SET")[0]["attributes"]["cache.value_size"],
        30_000
    );
    Ok(())
}

#[test]
fn many_ids_of_many_clients_at_once() -> Result<()> {
    const CLIENTS: u16 = 8;
    const IDS: u16 = 64;
    // At a time, so that the server's socket buffer holds the requests of all clients.
    const OUTSTANDING: u16 = 16;
    let server = server(&[])?;
    let observer = Options::new().memcached(server.port).start()?;
    let address = SocketAddr::from(([127, 0, 0, 1], server.port));
    std::thread::scope(|scope| -> Result<()> {
        let client = |number: u16| -> Result<()> {
            let client = match number % 2 {
                0 => Client::unconnected(address)?,
                _ => Client::connected(address)?,
            };
            for first in (0..IDS).step_by(OUTSTANDING.into()) {
                let ids = first..first + OUTSTANDING;
                for id in ids.clone() {
                    let key = id % 10;
                    let request = match id {
                        0..10 => format!("set k{number}x{key} 0 0 3\r\nabc\r\n"),
                        _ if id % 3 == 0 => format!("get absent{id}\r\n"),
                        _ => format!("get k{number}x{key}\r\n"),
                    };
                    client.send(id, request.as_bytes())?;
                }
                let mut outstanding: BTreeSet<_> = ids.collect();
                while !outstanding.is_empty() {
                    outstanding.remove(&client.receive()?.0);
                }
            }
            Ok(())
        };
        let threads: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || client(number)))
            .collect();
        for thread in threads {
            thread.join().expect("a client does not panic")?;
        }
        Ok(())
    })?;
    let report = observer.stop()?;
    // The server's threads take datagrams in any order: a get may come before its set.
    assert_as_the_server_counts(&server, &report)?;
    assert_eq!(report.spans.len(), usize::from(CLIENTS * IDS));
    Ok(())
}

#[test]
fn an_id_that_is_used_again_before_its_reply() -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let port = socket.local_addr()?.port();
    let observer = Options::new().memcached(port).start()?;
    let client = Client::unconnected(socket.local_addr()?)?;
    let answer = |body: &str, to: SocketAddr| -> Result<()> {
        let mut datagram = frame(1, 0, 1);
        datagram.extend(body.as_bytes());
        socket.send_to(&datagram, to)?;
        Ok(())
    };
    let mut buffer = [0; 100];
    client.send(1, b"get first\r\n")?;
    let (_, from) = socket.recv_from(&mut buffer)?;
    client.send(1, b"get second\r\n")?;
    // Late, and of the right shape for the wrong request.
    answer("END\r\n", from)?;
    client.receive()?;
    let report = observer.stop()?;
    assert!(report.spans.is_empty(), "{:#?}", report.spans);
    assert_eq!(report.summary.of("memcached", "GET", "count"), 2);
    assert_eq!(
        report.summary.total("unresolved"),
        2,
        "{}",
        report.summary.0
    );
    Ok(())
}

#[test]
fn datagrams_that_are_lost_reordered_or_come_twice() -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let port = socket.local_addr()?.port();
    let observer = Options::new()
        .memcached(port)
        .with("--metrics-exporter", "jsonl")
        .start()?;
    let client = Client::unconnected(socket.local_addr()?)?;
    let mut buffer = [0; 100];
    let parts = ["VALUE k 0 10\r\n01", "234567", "89\r\nEND\r\n"];
    for (id, order) in [(1u16, &[2u16, 0, 0, 1, 2][..]), (2, &[2, 0])] {
        client.send(id, b"get k\r\n")?;
        let (_, from) = socket.recv_from(&mut buffer)?;
        for &sequence in order {
            let mut datagram = frame(id, sequence, 3);
            datagram.extend(parts[usize::from(sequence)].as_bytes());
            socket.send_to(&datagram, from)?;
            client.receive()?;
        }
    }
    let report = observer.stop()?;
    let gets = report.of("GET");
    assert_eq!(gets.len(), 1, "{:#?}", report.spans);
    assert_eq!(gets[0]["attributes"]["cache.value_size"], 10);
    assert_eq!(report.summary.of("memcached", "GET", "count"), 2);
    assert_eq!(report.summary.total("unresolved"), 1);
    let lost = report.metric("observer.events.lost", &[("reason", "datagram")]);
    assert_eq!(lost, 1.0);
    Ok(())
}

#[test]
fn what_the_hooks_cannot_see_is_counted() -> Result<()> {
    let server = server(&[])?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--metrics-exporter", "jsonl")
        .start()?;
    // Receives without asking who sends: nobody can know.
    let script = "
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
head = lambda id: struct.pack('>HHHH', id, 0, 1, 0)
to = ('127.0.0.1', int(sys.argv[1]))
s.sendto(head(1) + b'get absent\\r\\n', to)
assert s.recv(100)[8:] == b'END\\r\\n'
# Peeked, then taken, with the length of the whole asked for.
s.sendto(head(2) + b'get absent\\r\\n', to)
assert s.recvfrom(100, socket.MSG_PEEK)[0][8:] == b'END\\r\\n'
assert s.recvfrom(100, socket.MSG_TRUNC)[0][8:] == b'END\\r\\n'
# Through sendmsg and recvmsg.
s.sendmsg([head(3), b'get ', b'absent\\r\\n'], [], 0, to)
assert s.recvmsg(100)[0][8:] == b'END\\r\\n'
";
    output(python(), ["-c", script, &server.port.to_string()])?;
    let report = observer.stop()?;
    assert_eq!(report.of("GET").len(), 2, "{:#?}", report.spans);
    assert_eq!(report.summary.of("memcached", "GET", "count"), 3);
    assert_eq!(report.summary.total("unresolved"), 1);
    let skipped = |reason| report.metric("observer.payload.skipped", &[("reason", reason)]);
    assert_eq!(skipped("peer"), 13.0, "{}", report.summary.0);
    Ok(())
}

#[test]
fn calls_that_move_several_datagrams() -> Result<()> {
    let server = server(&[])?;
    let observer = Options::new()
        .memcached(server.port)
        .with("--metrics-exporter", "jsonl")
        .start()?;
    let script = "
import ctypes, socket, struct, sys
class Piece(ctypes.Structure):
    _fields_ = [('base', ctypes.c_char_p), ('len', ctypes.c_size_t)]
class Message(ctypes.Structure):
    _fields_ = [('name', ctypes.c_void_p), ('namelen', ctypes.c_uint), ('iov', ctypes.POINTER(Piece)),
                ('iovlen', ctypes.c_size_t), ('control', ctypes.c_void_p), ('controllen', ctypes.c_size_t),
                ('flags', ctypes.c_int), ('padding', ctypes.c_int), ('sent', ctypes.c_size_t)]
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect(('127.0.0.1', int(sys.argv[1])))
alive = []
def messages(bodies):
    pieces = [Piece(body, len(body)) for body in bodies]
    alive.append((bodies, pieces))
    return (Message * len(bodies))(*[Message(None, 0, ctypes.pointer(p), 1, None, 0, 0, 0, 0) for p in pieces])
head = lambda id: struct.pack('>HHHH', id, 0, 1, 0)
assert libc.sendmmsg(s.fileno(), messages([head(1) + b'get a\\r\\n', head(2) + b'get b\\r\\n']), 2, 0) == 2
assert len(s.recv(100)) == 13 and len(s.recv(100)) == 13
s.send(head(3) + b'get c\\r\\n')
s.recv(100, socket.MSG_PEEK)
assert libc.recvmmsg(s.fileno(), messages([bytes(100)]), 1, 0, None) == 1
s.send(head(4) + b'get d\\r\\n')
assert len(s.recv(100)) == 13
";
    output(python(), ["-c", script, &server.port.to_string()])?;
    let report = observer.stop()?;
    let summary = &report.summary;
    let skipped = report.metric("observer.payload.skipped", &[("reason", "unreadable")]);
    if report.backend()? == "tracepoint" {
        assert_eq!(report.of("GET").len(), 1, "{:#?}", report.spans);
        assert_eq!(summary.of("memcached", "GET", "count"), 2);
        assert_eq!(summary.total("unresolved"), 1, "{}", summary.0);
        assert_eq!(summary.total("orphaned_replies"), 2, "{}", summary.0);
        // Two requests and a reply.
        assert_eq!(skipped, 15.0 + 15.0 + 13.0);
    } else {
        assert_eq!(report.of("GET").len(), 4, "{:#?}", report.spans);
        assert_eq!(summary.total("unresolved"), 0, "{}", summary.0);
        assert_eq!(skipped, 0.0);
    }
    Ok(())
}

#[test]
fn one_span_an_exchange_across_namespaces() -> Result<()> {
    for (role, kinds) in [("auto", &["CLIENT"][..]), ("both", &["CLIENT", "SERVER"])] {
        let pair = Pair::new()?;
        let port = free_port()?.to_string();
        let mut command = pair.inside(1, "memcached");
        command.args([
            "-u",
            "root",
            "-l",
            Pair::ADDRESSES[1],
            "-p",
            &port,
            "-U",
            &port,
        ]);
        let _server = Running::start(&mut command)?;
        let script = "
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
for id in range(20):
    s.sendto(struct.pack('>HHHH', id, 0, 1, 0) + b'get absent\\r\\n', (sys.argv[1], int(sys.argv[2])))
    assert s.recvfrom(100)[0][8:] == b'END\\r\\n'
";
        let client = || {
            let mut command = pair.inside(0, python().to_str().expect("a printable path"));
            command.args(["-c", script, Pair::ADDRESSES[1], &port]);
            command.output()
        };
        eventually(Duration::from_secs(10), "the server answers", || {
            Ok(client()?.status.success())
        })?;
        let observer = Options::new()
            .memcached(port.parse()?)
            .with("--role", role)
            .start()?;
        ensure!(client()?.status.success(), "the client");
        let report = observer.stop()?;
        assert_eq!(
            report.of("GET").len(),
            20 * kinds.len(),
            "{}",
            report.summary.0
        );
        for kind in kinds {
            let of_kind = report.spans.iter().filter(|span| span["kind"] == *kind);
            assert_eq!(of_kind.count(), 20, "{role} {kind}");
        }
    }
    Ok(())
}

/// A capture of raw IPv4 packets.
fn capture(packets: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    // Magic, version 2.4, no offset, snapshot length, LINKTYPE_RAW.
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 101] {
        file.extend(word.to_le_bytes());
    }
    for (index, (source, destination, payload)) in packets.iter().enumerate() {
        let length = 28 + payload.len() as u32;
        for word in [1_700_000_000, index as u32 * 100, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend([0x45, 0]);
        file.extend((length as u16).to_be_bytes());
        file.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        for port in [source, destination] {
            file.extend([10, 0, 0, if *port == 11_211 { 2 } else { 1 }]);
        }
        for word in [*source, *destination, length as u16 - 20, 0] {
            file.extend(word.to_be_bytes());
        }
        file.extend(payload);
    }
    file
}

#[test]
fn captures() -> Result<()> {
    let datagram = |id, sequence, count, body: &str| -> Vec<u8> {
        [frame(id, sequence, count), body.as_bytes().to_vec()].concat()
    };
    let (client, other, cache) = (40_000, 40_001, 11_211);
    let folder = Folder::new()?;
    let path = folder.path().join("udp.pcap");
    // Two clients with the same ids; one reply in two datagrams, in the wrong order.
    std::fs::write(
        &path,
        capture(&[
            (client, cache, datagram(1, 0, 1, "get a\r\n")),
            (other, cache, datagram(1, 0, 1, "get b\r\n")),
            (cache, other, datagram(1, 0, 1, "END\r\n")),
            (cache, client, datagram(1, 1, 2, "c\r\nEND\r\n")),
            (
                client,
                cache,
                datagram(2, 0, 1, "set s 0 0 1 noreply\r\nx\r\n"),
            ),
            (cache, client, datagram(1, 0, 2, "VALUE a 0 3\r\nab")),
            (other, cache, datagram(2, 0, 1, "get lost\r\n")),
        ]),
    )?;
    let (output, spans, summary) = replay(&path, &[])?;
    ensure!(output.status.success(), "{output:?}");
    let summary = summary.context("no summary")?;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let told = |index: usize, name: &str| spans[index]["attributes"][name].clone();
    assert_eq!(
        (told(0, "cache.key"), told(0, "cache.hit")),
        (json!("b"), json!(false))
    );
    assert_eq!(told(1, "cache.no_reply"), true);
    assert_eq!(
        (told(2, "cache.key"), told(2, "cache.value_size")),
        (json!("a"), json!(3))
    );
    assert_eq!(summary.of("memcached", "GET", "count"), 3);
    assert_eq!(summary.total("unresolved"), 1, "{}", summary.0);
    Ok(())
}
