//! Sockets of one host, and which of them are reported.

use std::net::SocketAddr;

use super::flows::{Close, Flow, Flows, Handler, Options, Ports, Role, Verdict};
use super::reassembly::Limits;
use super::{Content, Segment, Side};
use crate::source::event::{
    Data, Direction, End, Event, EventKind, Fault, Nanos, Rest, SocketId, Task,
};
use crate::telemetry::{Limit, Skipped, Telemetry, work};

const MS: Nanos = 1_000_000;

/// Keeps what each reported flow carried.
#[derive(Default)]
struct Log {
    lines: Vec<String>,
    /// What the two ends of a connection share, of each that has ended.
    shared: Vec<(End, Option<u64>)>,
}

/// Bytes of a flow, withheld until it is decided.
#[derive(Default)]
struct Bytes(String);

impl Handler for Log {
    type Session = Bytes;
    type Early = &'static str;

    fn connecting(&mut self, _: &SocketId, _: Option<&Task>, _: Nanos) -> &'static str {
        "connecting"
    }

    fn older(&mut self, _: &SocketId, _: &Task) -> &'static str {
        "older"
    }

    fn vanish(&mut self, early: &'static str, close: Close, _: Nanos) {
        self.lines.push(format!("{early} {close:?}"));
    }

    fn open(&mut self, _: &Flow, early: Option<&'static str>, _: Nanos) -> (Bytes, bool) {
        (Bytes(early.unwrap_or_default().to_owned()), false)
    }

    fn segment(&mut self, _: &Flow, session: &mut Bytes, segment: &Segment<'_>) -> bool {
        session.0.push(match segment.side {
            Side::Request => '>',
            Side::Reply => '<',
        });
        match segment.content {
            Content::Bytes(bytes) => session.0.push_str(std::str::from_utf8(bytes).unwrap()),
            Content::Gap { length, .. } => session.0.push_str(&".".repeat(length as usize)),
            Content::Break => session.0.push('!'),
            Content::Dropped { .. } => {}
        }
        false
    }

    fn memory(&self, session: &Bytes) -> usize {
        session.0.len()
    }

    fn relieve(&mut self, _: &Flow, session: &mut Bytes, _: Nanos) {
        self.lines.push(format!("relieved of {}", session.0));
        session.0.clear();
    }

    fn tick(&mut self, _: &Flow, _: &mut Bytes, _: Nanos) -> bool {
        false
    }

    fn decided(&mut self, _: &Flow, _: &mut Bytes) {}

    fn close(&mut self, flow: &Flow, session: Bytes, close: Close, _: Nanos) {
        self.shared.push((flow.end, flow.shared));
        if flow.verdict == Verdict::Reported {
            self.lines
                .push(format!("{:?} {} {close:?}", flow.end, session.0));
        }
    }
}

fn closed(fault: Option<Fault>) -> EventKind<'static> {
    EventKind::Closed { fault, rest: None }
}

struct Host {
    flows: Flows<Log>,
    log: Log,
    telemetry: Telemetry,
    now: Nanos,
}

impl Host {
    fn new(role: Role) -> Self {
        Self {
            flows: Flows::new(Options {
                role,
                ports: Ports::new(vec![6379]),
                limits: Limits::LIVE,
                max_flows: 100,
                max_held: 1 << 20,
            }),
            log: Log::default(),
            telemetry: Telemetry::default(),
            now: 0,
        }
    }

    fn event(&mut self, socket: SocketId, kind: EventKind<'_>) {
        self.now += MS / 100;
        let event = Event {
            time: self.now,
            socket,
            task: None,
            kind,
        };
        self.flows.event(&event, &mut self.log, &self.telemetry);
    }

    fn data(
        &mut self,
        socket: SocketId,
        direction: Direction,
        (position, opposite): (u32, u32),
        text: &str,
    ) {
        self.event(
            socket,
            EventKind::Data(Data {
                direction,
                started: self.now,
                position,
                opposite: Some(opposite),
                length: text.len() as u32,
                payload: text.as_bytes(),
                uncaptured: None,
                continued: false,
                opening: false,
            }),
        );
    }

    fn established(&mut self, socket: SocketId, end: End, send: u32, receive: u32) {
        self.event(
            socket,
            EventKind::Established {
                end,
                send_position: Some(send),
                receive_position: Some(receive),
            },
        );
    }

    fn pass(&mut self, time: Nanos) {
        self.now += time;
        self.flows.tick(self.now, &mut self.log);
    }

    /// The numbers that ends share, clients' first.
    fn shared(mut self) -> Vec<(End, Option<u64>)> {
        self.flows.finish(self.now, Close::Abandoned, &mut self.log);
        self.log
            .shared
            .sort_by_key(|(end, shared)| (*end == End::Server, *shared));
        self.log.shared
    }

    fn lines(mut self) -> Vec<String> {
        self.flows.finish(self.now, Close::Abandoned, &mut self.log);
        self.log.lines
    }
}

fn socket(sk: u64, netns: u32, local: &str, remote: &str) -> SocketId {
    SocketId {
        sk,
        netns,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
    }
}

/// A client in one network namespace, a server in another, with address translation between them.
fn translated() -> (SocketId, SocketId) {
    (
        socket(1, 10, "10.1.0.5:40000", "10.96.0.1:6379"),
        socket(2, 20, "10.1.0.9:6379", "10.1.0.5:40000"),
    )
}

fn exchange(host: &mut Host, client: SocketId, server: SocketId) {
    host.data(client, Direction::Send, (100, 500), "ask");
    host.data(server, Direction::Receive, (100, 500), "ask");
    host.data(server, Direction::Send, (500, 103), "answer");
    host.data(client, Direction::Receive, (500, 103), "answer");
}

#[test]
fn two_ends_of_one_connection_are_reported_once() {
    let (client, server) = translated();
    for (role, want) in [
        (Role::Auto, &["Client >ask<answer Abandoned"][..]),
        (Role::Client, &["Client >ask<answer Abandoned"]),
        (Role::Server, &["Server >ask<answer Abandoned"]),
        (
            Role::Both,
            &[
                "Client >ask<answer Abandoned",
                "Server >ask<answer Abandoned",
            ],
        ),
    ] {
        let mut host = Host::new(role);
        host.established(client, End::Client, 100, 500);
        host.established(server, End::Server, 500, 100);
        exchange(&mut host, client, server);
        host.pass(300 * MS);
        assert_eq!(host.lines(), want, "{role:?}");
    }
}

#[test]
fn ends_met_mid_stream_are_paired_by_position_too() {
    let (client, server) = translated();
    let mut host = Host::new(Role::Auto);
    exchange(&mut host, client, server);
    host.pass(300 * MS);
    assert_eq!(host.lines(), ["Client >ask<answer Abandoned"]);
    // The server's end is reported first: its receive overtakes the client's send.
    let mut host = Host::new(Role::Auto);
    host.data(server, Direction::Receive, (100, 500), "ask");
    host.data(client, Direction::Send, (100, 500), "ask");
    host.data(server, Direction::Send, (500, 103), "answer");
    host.data(client, Direction::Receive, (500, 103), "answer");
    host.pass(300 * MS);
    assert_eq!(host.lines(), ["Client >ask<answer Abandoned"]);
}

#[test]
fn both_ends_share_a_number() {
    let (client, server) = translated();
    let pair = [(End::Client, Some(1)), (End::Server, Some(1))];
    // From the start.
    let mut host = Host::new(Role::Both);
    host.established(client, End::Client, 100, 500);
    host.established(server, End::Server, 500, 100);
    assert_eq!(host.shared(), pair);
    // In the middle, also with the server's end reported first: a little later, or at the end.
    for (pass, end) in [(30 * MS, false), (0, true)] {
        let mut host = Host::new(Role::Both);
        host.established(
            socket(3, 7, "10.0.0.1:1", "10.0.0.2:6379"),
            End::Client,
            9,
            9,
        );
        host.data(server, Direction::Receive, (100, 500), "ask");
        host.data(client, Direction::Send, (100, 500), "ask");
        host.pass(pass);
        if end {
            host.event(
                server,
                EventKind::Closed {
                    fault: None,
                    rest: None,
                },
            );
        }
        let third = (End::Server, Some(3));
        assert_eq!(host.shared()[1..], [(End::Client, Some(3)), third]);
    }
    // Long after the server's end was given up waiting for.
    let mut host = Host::new(Role::Both);
    host.data(server, Direction::Receive, (90, 490), "a");
    host.pass(300 * MS);
    host.data(client, Direction::Send, (100, 500), "ask");
    host.data(server, Direction::Receive, (100, 500), "ask");
    let second = [(End::Client, Some(2)), (End::Server, Some(2))];
    assert_eq!(host.shared(), second);
    // Another connection's positions, and addresses of another namespace.
    let mut host = Host::new(Role::Both);
    host.established(
        socket(1, 10, "10.0.0.1:4", "10.0.0.2:6379"),
        End::Client,
        100,
        500,
    );
    host.established(
        socket(2, 20, "10.0.0.2:6379", "10.0.0.1:4"),
        End::Server,
        501,
        100,
    );
    host.pass(300 * MS);
    assert_eq!(host.shared()[1], (End::Server, None));
}

#[test]
fn a_short_connection_is_paired_after_its_end() {
    let (client, server) = translated();
    let mut host = Host::new(Role::Auto);
    host.established(client, End::Client, 100, 500);
    host.data(client, Direction::Send, (100, 500), "ask");
    host.event(client, closed(None));
    host.established(server, End::Server, 500, 100);
    host.data(server, Direction::Receive, (100, 500), "ask");
    host.event(server, closed(None));
    assert_eq!(host.lines(), ["Client >ask Closed(None)"]);
}

#[test]
fn a_server_whose_client_is_elsewhere_is_reported() {
    let (_, server) = translated();
    let mut host = Host::new(Role::Auto);
    host.data(server, Direction::Receive, (100, 500), "ask");
    host.data(server, Direction::Send, (500, 103), "answer");
    host.pass(300 * MS);
    assert_eq!(host.lines(), ["Server >ask<answer Abandoned"]);
}

#[test]
fn a_reused_sock_is_another_connection() {
    let first = socket(1, 10, "10.0.0.1:40000", "10.0.0.2:6379");
    let second = socket(1, 10, "10.0.0.1:40001", "10.0.0.2:6379");
    let mut host = Host::new(Role::Auto);
    host.data(first, Direction::Send, (100, 500), "a");
    host.data(second, Direction::Send, (900, 700), "b");
    // The same addresses again, but nowhere near in position.
    host.data(second, Direction::Send, (0x8000_0000, 5), "c");
    assert_eq!(
        host.lines(),
        [
            "Client >a Abandoned",
            "Client >b Abandoned",
            "Client >c Abandoned"
        ]
    );
}

#[test]
fn without_a_handshake_two_watched_ports_tell_no_client() {
    let mut host = Host::new(Role::Auto);
    let both = socket(1, 10, "10.0.0.1:6379", "10.0.0.2:6379");
    host.data(both, Direction::Send, (100, 500), "abc");
    assert_eq!(host.telemetry.skipped(Skipped::Role).get(), 3);
    // The handshake tells.
    host.established(both, End::Server, 100, 500);
    host.data(both, Direction::Receive, (500, 100), "abc");
    host.pass(300 * MS);
    assert_eq!(host.lines(), ["Server >abc Abandoned"]);
}

#[test]
fn a_lost_event_is_a_gap_once_it_is_certain() {
    let (client, _) = translated();
    let mut host = Host::new(Role::Auto);
    host.established(client, End::Client, 100, 500);
    host.data(client, Direction::Send, (105, 500), "late");
    host.pass(10 * MS);
    host.pass(20 * MS);
    host.data(client, Direction::Send, (109, 500), "er");
    assert_eq!(host.lines(), ["Client >.....>late>er Abandoned"]);
}

#[test]
fn a_lost_answer_is_missed_also_when_the_connection_was_joined() {
    let (client, _) = translated();
    let mut host = Host::new(Role::Auto);
    host.data(client, Direction::Send, (100, 500), "ask");
    host.data(client, Direction::Send, (103, 506), "again");
    host.data(client, Direction::Receive, (506, 108), "answer");
    host.pass(30 * MS);
    assert_eq!(host.lines(), ["Client >ask>again<......<answer Abandoned"]);
}

#[test]
fn the_table_is_bounded() {
    let mut host = Host::new(Role::Both);
    for i in 0..1_000_u32 {
        let local = format!("10.0.{}.{}:40000", i / 250, i % 250);
        host.data(
            socket(u64::from(i) + 1, 1, &local, "10.9.0.1:6379"),
            Direction::Send,
            (1, 1),
            "x",
        );
        assert!(host.flows.len() <= 100);
    }
    assert_eq!(host.telemetry.exceeded(Limit::Connections).get(), 900);
    assert_eq!(host.lines().len(), 1_000);
}

#[test]
fn other_ports_from_now_on() {
    let mut host = Host::new(Role::Auto);
    let old = socket(1, 10, "10.0.0.1:40000", "10.0.0.2:6379");
    let kept = socket(2, 10, "10.0.0.1:40001", "10.0.0.2:6380");
    host.flows.watch(Ports::new(vec![6379, 6380]));
    host.data(old, Direction::Send, (100, 500), "a");
    host.data(kept, Direction::Send, (100, 500), "b");
    host.flows.give_up(
        |server| server.port() == Some(6379),
        host.now,
        &mut host.log,
    );
    host.flows.watch(Ports::new(vec![6380, 6381]));
    // Still on its way from the kernel; nobody wants it, so it is no loss.
    host.data(old, Direction::Send, (101, 500), "late");
    host.data(kept, Direction::Send, (101, 500), "c");
    let new = socket(3, 10, "10.0.0.1:40002", "10.0.0.2:6381");
    host.data(new, Direction::Send, (7, 5), "d");
    assert_eq!(host.telemetry.skipped(Skipped::Role).get(), 0);
    assert_eq!(
        host.lines(),
        [
            "Client >a Abandoned",
            "Client >b>c Abandoned",
            "Client >d Abandoned"
        ]
    );
}

#[test]
fn an_attempt_becomes_a_flow_or_fails() {
    let attempt = socket(1, 10, "0.0.0.0:0", "10.0.0.2:6379");
    let client = socket(1, 10, "10.0.0.1:40000", "10.0.0.2:6379");
    let fault = Some(Fault::Refused);
    let mut host = Host::new(Role::Auto);
    host.event(attempt, EventKind::Connecting);
    host.established(client, End::Client, 100, 500);
    host.event(client, closed(None));
    host.event(attempt, EventKind::Connecting);
    host.event(client, closed(fault));
    // Its end was lost, and its `struct sock` is another's.
    host.event(attempt, EventKind::Connecting);
    host.event(attempt, EventKind::Connecting);
    assert_eq!(
        host.lines(),
        [
            "Client connecting Closed(None)",
            "connecting Closed(Some(Refused))",
            "connecting Abandoned",
            "connecting Abandoned",
        ]
    );
    let mut host = Host::new(Role::Server);
    host.event(attempt, EventKind::Connecting);
    assert!(host.lines().is_empty());
}

#[test]
fn older_connections_are_taken_in_once_and_only_while_they_last() {
    let of = |sk, port: u16| socket(sk, 10, &format!("10.0.0.1:{port}"), "10.0.0.2:6379");
    let mut host = Host::new(Role::Auto);
    host.flows.expect_older();
    // Ends while they are looked for; is seen while they are looked for; opens meanwhile.
    host.event(of(1, 1), closed(None));
    host.data(of(2, 2), Direction::Send, (100, 500), "seen");
    host.established(of(3, 3), End::Client, 100, 500);
    let mut found: Vec<_> = (1..=6).map(|port| (of(0, port), Task::default())).collect();
    found.push((
        socket(0, 10, "10.0.0.2:6379", "10.0.0.1:9"),
        Task::default(),
    ));
    host.flows.adopt(&found, &mut host.log);
    host.data(of(4, 4), Direction::Send, (100, 500), "late");
    host.event(of(5, 5), closed(None));
    assert_eq!(
        host.lines(),
        [
            "older Closed(None)",
            "Client >seen Abandoned",
            "Client  Abandoned",
            "Client older>late Abandoned",
            "older Abandoned",
        ]
    );
}

fn ended(sent: u32, taken: u32, unread: u32) -> EventKind<'static> {
    let rest = Some(Rest {
        sent,
        taken,
        unread,
    });
    EventKind::Closed { fault: None, rest }
}

#[test]
fn what_nobody_told_of_is_missed_at_the_end() {
    let (client, _) = translated();
    let mut host = Host::new(Role::Auto);
    host.established(client, End::Client, 100, 500);
    host.data(client, Direction::Send, (100, 500), "ask");
    // An answer of six bytes was taken, and then something sent.
    host.event(client, ended(105, 506, 0));
    host.pass(30 * MS);
    assert!(host.log.lines.is_empty());
    host.pass(1_000 * MS);
    assert_eq!(host.log.lines, ["Client >ask>..<...... Closed(None)"]);
    assert_eq!(host.flows.len(), 0);
}

#[test]
fn what_nobody_takes_is_no_loss() {
    let (client, _) = translated();
    let mut host = Host::new(Role::Auto);
    host.established(client, End::Client, 100, 500);
    host.data(client, Direction::Send, (100, 500), "quit");
    host.event(client, ended(104, 500, 24));
    host.pass(1_100 * MS);
    assert_eq!(host.log.lines, ["Client >quit Closed(None)"]);
}

#[test]
fn what_is_taken_after_the_end_belongs_to_the_connection() {
    let (client, _) = translated();
    let mut host = Host::new(Role::Auto);
    host.established(client, End::Client, 100, 500);
    host.data(client, Direction::Send, (100, 500), "ask");
    host.event(client, ended(103, 500, 6));
    host.pass(100 * MS);
    // The kernel has taken its port away.
    let mut behind = client;
    behind.local = "10.0.0.1:0".parse().unwrap();
    host.data(behind, Direction::Receive, (500, 103), "ans");
    host.pass(100 * MS);
    host.data(behind, Direction::Receive, (503, 103), "wer");
    host.pass(MS);
    assert_eq!(host.log.lines, ["Client >ask<ans<wer Closed(None)"]);
    // Nobody expects anything any more.
    host.data(behind, Direction::Receive, (506, 103), "late");
    assert_eq!(host.flows.len(), 0);
}

#[test]
fn what_is_sent_with_the_syn_is_the_first() {
    let (client, _) = translated();
    let attempt = socket(client.sk, 10, "0.0.0.0:0", "10.96.0.1:6379");
    let mut host = Host::new(Role::Auto);
    host.event(attempt, EventKind::Connecting);
    host.event(
        client,
        EventKind::Data(Data {
            direction: Direction::Send,
            started: host.now,
            position: 100,
            opposite: None,
            length: 3,
            payload: b"ask",
            uncaptured: None,
            continued: false,
            opening: true,
        }),
    );
    host.established(client, End::Client, 100, 500);
    host.data(client, Direction::Receive, (500, 103), "ans");
    host.event(client, ended(103, 503, 0));
    assert_eq!(host.log.lines, ["Client connecting>ask<ans Closed(None)"]);
}

/// Thousands of sockets, each of which holds a little: the oldest are relieved, and none costs more than a few looks.
#[test]
fn what_all_hold_is_bounded() {
    const SOCKETS: u32 = 20_000;
    let mut host = Host::new(Role::Client);
    host.flows = Flows::new(Options {
        role: Role::Client,
        ports: Ports::new(vec![6379]),
        limits: Limits::LIVE,
        max_flows: SOCKETS as usize,
        max_held: 50_000,
    });
    let text = "x".repeat(99);
    let steps = work::of(|| {
        for number in 0..SOCKETS {
            let mut socket = socket(1, 1, "10.0.0.1:4000", "10.0.0.2:6379");
            socket.sk = u64::from(number) + 1;
            socket.local = SocketAddr::from(([10, 0, 0, 1], 10_000 + number as u16)).into();
            host.data(socket, Direction::Send, (1, 1), &text);
            assert!(host.flows.held() <= 50_000, "{} bytes", host.flows.held());
        }
    });
    let relieved = host
        .log
        .lines
        .iter()
        .filter(|line| line.starts_with("relieved"));
    assert_eq!(relieved.count(), SOCKETS as usize - 500);
    assert!(steps < 64 * u64::from(SOCKETS), "{steps} steps");
    let steps = work::of(|| {
        host.flows.finish(host.now, Close::Abandoned, &mut host.log);
    });
    assert!(steps < 64 * u64::from(SOCKETS), "{steps} steps at the end");
    assert_eq!(host.flows.held(), 0);
}
