//! Fuzz entry of the table: whatever comes, each exchange that begins ends exactly once, nothing stays behind, and no
//! exchange holds a reply to another.
//!
//! `observer/fuzz` runs it under libFuzzer, a unit test runs it over the corpus that is kept there. Compiled only for
//! these two.

use std::net::SocketAddr;

use super::{Datagrams, Handler, Options, Pair, Ports, TIMEOUT};
use crate::source::event::{Datagram, Direction, End, Event, EventKind, Nanos, SocketId};
use crate::stream::flows::Role;
use crate::stream::{Content, Segment, Side};
use crate::telemetry::{Skipped, Telemetry};

/// Keeps what each reported exchange held: `>` request, `<` reply, `?` of unknown outcome. A `.` completes one.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) lines: Vec<String>,
    pub(super) ends: Vec<End>,
    pub(super) met: u64,
    pub(super) parted: u64,
    began: u64,
    ended: u64,
    bytes: u64,
}

impl Handler for Log {
    type Peer = End;
    type Exchange = String;

    fn meet(&mut self, pair: &Pair) -> End {
        self.met += 1;
        pair.end
    }

    fn part(&mut self, _: End) {
        self.parted += 1;
    }

    fn begin(&mut self, _: &Pair) -> String {
        self.began += 1;
        String::new()
    }

    fn segment(&mut self, _: &mut End, exchange: &mut String, segment: &Segment<'_>) -> bool {
        exchange.push(match segment.side {
            Side::Request => '>',
            Side::Reply => '<',
        });
        if let Content::Bytes(bytes) = segment.content {
            exchange.push_str(&String::from_utf8_lossy(bytes));
            self.bytes += bytes.len() as u64;
        }
        exchange.ends_with('.')
    }

    fn end(&mut self, end: &mut End, mut exchange: String, reported: bool, _: Nanos) {
        self.ended += 1;
        if reported {
            if !exchange.ends_with('.') {
                exchange.push('?');
            }
            self.lines.push(exchange);
            self.ends.push(*end);
        }
    }
}

/// A datagram, and in which pieces it comes; a piece of 0 is as long as it takes and is lost.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) direction: Direction,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) netns: u32,
    pub(super) pieces: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

impl Step {
    /// At the client's end.
    pub(super) fn new(
        direction: Direction,
        id: u16,
        sequence: u16,
        count: u16,
        body: &str,
    ) -> Self {
        let head = [id, sequence, count, 0];
        let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.extend(body.as_bytes());
        Self {
            direction,
            local: SocketAddr::from(([10, 0, 0, 1], 40_000)),
            remote: SocketAddr::from(([10, 0, 0, 2], 11_211)),
            netns: 1,
            pieces: vec![bytes.len()],
            bytes,
        }
    }
}

/// A table under test.
pub(super) struct Table {
    datagrams: Datagrams<End, String>,
    pub(super) log: Log,
    pub(super) telemetry: Telemetry,
    now: Nanos,
    arrived: u64,
}

impl Table {
    pub(super) fn new(role: Role, max_pairs: usize) -> Self {
        Self {
            datagrams: Datagrams::new(Options {
                role,
                ports: Ports::new(vec![11_211]),
                max_pairs,
            }),
            log: Log::default(),
            telemetry: Telemetry::default(),
            now: 1_000_000_000,
            arrived: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.datagrams.len()
    }

    pub(super) fn step(&mut self, step: &Step) {
        self.now += 1_000;
        let total = step.bytes.len();
        let mut offset = 0;
        for &piece in &step.pieces {
            let known: usize = step.pieces.iter().sum();
            let length = if piece == 0 { total - known } else { piece };
            let datagram = Datagram {
                direction: step.direction,
                started: self.now,
                offset: offset as u32,
                total: total as u32,
                length: length as u32,
                payload: &step.bytes[offset..offset + length],
                uncaptured: None,
            };
            let event = Event {
                time: self.now,
                socket: SocketId {
                    sk: u64::from(step.netns),
                    netns: step.netns,
                    local: step.local.into(),
                    remote: step.remote.into(),
                },
                task: None,
                kind: EventKind::Datagram(datagram),
            };
            if piece > 0 {
                self.arrived += length as u64;
                self.datagrams
                    .event(&event, &datagram, &mut self.log, &self.telemetry);
            }
            offset += length;
        }
    }

    pub(super) fn wait(&mut self, time: Nanos) {
        self.now += time;
        self.datagrams
            .tick(self.now, &mut self.log, &self.telemetry);
    }

    pub(super) fn finish(&mut self) {
        self.datagrams
            .finish(self.now, &mut self.log, &self.telemetry);
        let skipped = Skipped::ALL
            .iter()
            .map(|reason| self.telemetry.skipped(*reason).get());
        let told = self.telemetry.ledger.decoded.get() + self.log.bytes;
        assert_eq!(
            told + skipped.sum::<u64>(),
            self.arrived,
            "bytes handed on and skipped, and bytes that came"
        );
    }
}

/// The first byte chooses the role; then four bytes a step: what happens, id and end, place in the reply, time.
pub fn datagrams(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else {
        return;
    };
    let role = [Role::Auto, Role::Client, Role::Server, Role::Both][usize::from(first % 4)];
    let mut table = Table::new(role, 3);
    while let Some((&[what, who, place, time], next)) = rest.split_first_chunk::<4>() {
        rest = next;
        let id = u16::from(who % 4);
        let (count, sequence) = (u16::from(place / 16), u16::from(place % 16));
        let mut step = match what % 4 {
            0 => Step::new(Direction::Send, id, 0, 1, &format!("{id}")),
            1 => Step::new(Direction::Receive, id, sequence, count, &format!("{id}")),
            2 => Step::new(Direction::Receive, id, sequence, count, &format!("{id}.")),
            _ => Step::new(Direction::Send, id, sequence, count, "."),
        };
        step.local.set_port(40_000 + u16::from(who / 4 % 8));
        if who & 0x80 != 0 {
            step.direction = step.direction.reverse();
            std::mem::swap(&mut step.local, &mut step.remote);
            step.netns = 2;
        }
        table.step(&step);
        table.wait(u64::from(time) * u64::from(time) * 100_000);
    }
    table.finish();
    let log = &table.log;
    assert_eq!(log.began, log.ended, "each exchange ends once");
    assert_eq!(log.met, log.parted, "each pair of endpoints is forgotten");
    assert!(table.datagrams.is_drained(), "nothing stays behind");
    for line in &log.lines {
        let mut ids = line.chars().filter(char::is_ascii_digit);
        let first = ids.next();
        assert!(ids.all(|id| Some(id) == first), "{line}");
    }
    table.wait(TIMEOUT);
    assert_eq!(table.len(), 0);
}
