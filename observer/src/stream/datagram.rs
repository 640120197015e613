//! Memcached over UDP: from datagrams to exchanges of one request and its reply.
//!
//! ```text
//!   0         2          4          6          8
//!   │request id│ sequence │ datagrams│ reserved │ request or reply …        (doc/protocol.txt, "UDP protocol")
//! ```
//!
//! Every datagram is a whole: nothing here depends on what came before it on a socket. A request is one datagram, a
//! reply one or more, which say their place in it; what belongs together has the same request id, socket and other end.
//! memcached 1.6 answers a `get` of several keys in several such replies, each numbered from 0: they are read in the
//! order in which they arrive, until the request is answered.
//!
//! Datagrams are lost in the normal course of things. A request whose reply does not come, or not whole, within
//! [`TIMEOUT`] is of unknown outcome: the server may have done it. Its id may be used again at any time. Where that happens
//! before the reply, the next reply may be either's, so that none is paired until the first can come no more.

mod exchanges;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod host;
mod pieces;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use rustc_hash::FxHashMap;

use super::Segment;
use super::flows::{Ports, Role, Verdict};
use crate::source::event::{Datagram, Direction, End, Event, Nanos, SocketId, Task};
use crate::telemetry::{Limit, Skipped, Telemetry};
use host::Request;
use pieces::{Pieces, Whole};

/// How long a reply is waited for, nanoseconds: clients give up after 0.5 to 1 s.
pub const TIMEOUT: Nanos = 2_000_000_000;
/// How long a reply is held that was reported before its request, nanoseconds; as for connections.
const EARLY_HOLD: Nanos = 20_000_000;
/// How long a server's end waits for its client's to show up on this host, nanoseconds; as for connections.
const GRACE: Nanos = 200_000_000;
/// A pair of endpoints that was silent this long is forgotten, nanoseconds: source ports are many.
const IDLE: Nanos = 60_000_000_000;
/// Bytes of the frame header.
const HEAD: usize = 8;
/// Most exchanges remembered until their [`TIMEOUT`], ended ones included: these keep their duplicates from being taken for
/// replies to others.
const MAX_REMEMBERED: usize = 131_072;
/// Most exchanges under way; each takes 2 to 4 KiB.
const MAX_LIVE: usize = 8_192;
/// Most bytes held of datagrams that came out of order.
const MAX_HELD: usize = 16 << 20;
/// Most exchanges kept of a pair of endpoints that is not decided yet; beyond it they are reported.
const MAX_UNDECIDED: usize = 1_024;
/// Requests of a server's end that are looked up again when its grace ends.
const MAX_SEEN: usize = 8;

/// How exchanges are kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which end is reported.
    pub role: Role,
    /// Where Memcached servers are expected.
    pub ports: Ports,
    /// Most pairs of endpoints tracked; beyond it one of the longest idle makes room.
    pub max_pairs: usize,
}

/// Two endpoints, seen from one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The socket, and the other end of these datagrams.
    pub socket: SocketId,
    /// Which end the socket is.
    pub end: End,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Pair {
    /// The server's address; unspecified at its own end when it is bound to none.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        match self.end {
            End::Client => self.remote,
            End::Server => self.local,
        }
    }

    /// The client's address; unspecified at its own end when it is bound to none.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        match self.end {
            End::Client => self.local,
            End::Server => self.remote,
        }
    }
}

/// What is done with exchanges.
pub trait Handler {
    /// What is kept with each pair of endpoints.
    type Peer;
    /// What is kept with each exchange.
    type Exchange;
    /// A pair of endpoints is met.
    fn meet(&mut self, pair: &Pair) -> Self::Peer;
    /// It is forgotten.
    fn part(&mut self, peer: Self::Peer);
    /// An exchange begins.
    fn begin(&mut self, pair: &Pair) -> Self::Exchange;
    /// The next piece of it, in order. Answers whether it is complete.
    fn segment(
        &mut self,
        peer: &mut Self::Peer,
        exchange: &mut Self::Exchange,
        segment: &Segment<'_>,
    ) -> bool;
    /// It is over at `time`: what is outstanding is of unknown outcome. `reported`: whether it is to be told.
    fn end(&mut self, peer: &mut Self::Peer, exchange: Self::Exchange, reported: bool, time: Nanos);
}

/// A reply's datagram that cannot be read yet.
#[derive(Debug)]
struct Held {
    sequence: u16,
    count: u16,
    started: Nanos,
    time: Nanos,
    task: Option<Task>,
    body: Box<[u8]>,
    missing: Option<(u64, Skipped)>,
}

impl Held {
    /// Bytes of the datagram.
    fn total(&self) -> u64 {
        HEAD as u64 + self.body.len() as u64 + self.missing.map_or(0, |(length, _)| length)
    }
}

/// An exchange under way.
struct Live<E> {
    exchange: E,
    /// An earlier request with this id may still be answered.
    suspect: bool,
    /// Datagrams of the reply that is coming; 0 before its first.
    count: u16,
    /// The next one to read.
    next: u16,
    held: BTreeMap<u16, Held>,
}

enum State<E> {
    Live(Box<Live<E>>),
    /// A reply without its request.
    Early(Vec<Held>),
    Over,
}

struct Entry<E> {
    serial: u64,
    began: Nanos,
    /// Until when replies to earlier requests with this id may come.
    suspect_until: Nanos,
    state: State<E>,
}

struct Slot<P, E> {
    pair: Pair,
    peer: P,
    serial: u64,
    verdict: Verdict,
    since: Nanos,
    last: Nanos,
    entries: FxHashMap<u16, Entry<E>>,
    /// Requests seen while undecided.
    seen: Vec<Request>,
    /// Exchanges that ended while undecided.
    ended: Vec<E>,
}

/// Where to find an entry when its time is over.
struct Due {
    at: Nanos,
    index: usize,
    slot: u64,
    id: u16,
    entry: u64,
}

/// The table of endpoints and their exchanges.
pub struct Datagrams<P, E> {
    options: Options,
    pieces: Pieces,
    by_socket: FxHashMap<SocketId, usize>,
    slots: Vec<Option<Slot<P, E>>>,
    free: Vec<usize>,
    /// In the order of their times.
    due: VecDeque<Due>,
    /// Slots that are not decided, with their serials: one that was forgotten is left out by the next tick.
    undecided: Vec<(usize, u64)>,
    /// Requests sent by clients on this host, with their addresses, and in the order of their times.
    sent: FxHashMap<Request, (IpAddr, IpAddr)>,
    sent_at: VecDeque<(Nanos, Request)>,
    live: usize,
    held: usize,
    serial: u64,
    hand: usize,
}

/// The frame header.
#[derive(Debug, Clone, Copy)]
struct Frame {
    id: u16,
    sequence: u16,
    count: u16,
}

impl Frame {
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, body) = bytes.split_first_chunk::<HEAD>()?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let frame = Self {
            id: word(0),
            sequence: word(2),
            count: word(4),
        };
        Some((frame, body))
    }
}

impl<P, E> Datagrams<P, E> {
    /// An empty table.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            pieces: Pieces::default(),
            by_socket: FxHashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            due: VecDeque::new(),
            undecided: Vec::new(),
            sent: FxHashMap::default(),
            sent_at: VecDeque::new(),
            live: 0,
            held: 0,
            serial: 0,
            hand: 0,
        }
    }

    /// Pairs of endpoints tracked now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_socket.len()
    }

    /// Whether nothing is under way or held.
    #[cfg(any(test, fuzzing))]
    fn is_drained(&self) -> bool {
        self.live == 0 && self.held == 0 && self.due.is_empty() && self.is_empty()
    }

    /// Whether none is tracked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_socket.is_empty()
    }

    /// Memcached servers are expected on other ports from now on. Pairs of others are forgotten when they were silent long enough.
    pub fn watch(&mut self, ports: Ports) {
        self.options.ports = ports;
    }

    /// Takes in a datagram, or a piece of one.
    pub fn event<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        event: &Event<'_>,
        datagram: &Datagram<'_>,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.take(event, datagram, telemetry, &mut |whole| {
            self.whole(&whole, handler, telemetry);
        });
        self.pieces = pieces;
    }

    fn whole<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        whole: &Whole<'_>,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        let skip = |reason| {
            telemetry.skipped(reason).add(whole.total);
            telemetry.lost_bytes.add(whole.total);
        };
        let socket = whole.socket;
        let (Some(local), Some(remote)) = (socket.local.inet(), socket.remote.inet()) else {
            return;
        };
        if remote.port() == 0 {
            return skip(Skipped::Peer);
        }
        let end = match (
            self.options.ports.contains(local.port()),
            self.options.ports.contains(remote.port()),
        ) {
            (true, false) => End::Server,
            (false, true) => End::Client,
            (true, true) => return skip(Skipped::Role),
            // Of a port where something else is expected.
            (false, false) => {
                return telemetry.skipped(Skipped::Unwatched).add(whole.total);
            }
        };
        let verdict = verdict(self.options.role, end, local.ip(), remote.ip());
        if verdict == Verdict::Redundant {
            return telemetry.skipped(Skipped::Redundant).add(whole.total);
        }
        let Some((frame, body)) = Frame::read(whole.payload) else {
            return match whole.missing {
                Some((_, reason)) => skip(reason),
                None => telemetry.skipped(Skipped::Foreign).add(whole.total),
            };
        };
        let is_request = (end == End::Client) == (whole.direction == Direction::Send);
        if is_request && (frame.sequence, frame.count) != (0, 1) {
            // The server refuses requests of several datagrams (`conn_read`, try_read_udp).
            return telemetry.skipped(Skipped::Foreign).add(whole.total);
        }
        if !is_request && frame.sequence >= frame.count {
            return telemetry.skipped(Skipped::Foreign).add(whole.total);
        }
        let index = match self.by_socket.get(&socket) {
            Some(&index) => index,
            None => self.open(
                Pair {
                    socket,
                    end,
                    local,
                    remote,
                },
                verdict,
                whole.time,
                handler,
                telemetry,
            ),
        };
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        slot.last = whole.time;
        if slot.verdict == Verdict::Redundant {
            return telemetry.skipped(Skipped::Redundant).add(whole.total);
        }
        let held = Held {
            sequence: frame.sequence,
            count: frame.count,
            started: whole.started,
            time: whole.time,
            task: whole.task,
            body: body.into(),
            missing: whole.missing,
        };
        if is_request {
            if self.options.role == Role::Auto {
                self.pair(index, frame.id, whole, handler);
            }
            self.request(index, frame.id, &held, handler, telemetry);
        } else {
            self.reply(index, frame.id, held, handler, telemetry);
        }
    }

    /// Time has passed. To be called at least every 50 ms of event time while events come, and when none do.
    pub fn tick<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        now: Nanos,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        while self.expire_first(now, handler, telemetry, false) {}
        while let Some(&(time, request)) = self.sent_at.front()
            && now.saturating_sub(time) > 2 * GRACE
        {
            self.sent_at.pop_front();
            self.sent.remove(&request);
        }
        let mut undecided = std::mem::take(&mut self.undecided);
        undecided.retain(|&(index, serial)| {
            let slot = self.slots[index].as_ref();
            slot.is_some_and(|slot| slot.serial == serial) && self.decide(index, now, handler)
        });
        self.undecided = undecided;
        // A few at a time: all are looked at within seconds.
        for _ in 0..self.slots.len().min(32) {
            self.hand = (self.hand + 1) % self.slots.len();
            let idle = |slot: &Slot<P, E>| now.saturating_sub(slot.last) >= IDLE;
            if self.slots[self.hand].as_ref().is_some_and(idle) {
                self.close(self.hand, now, handler, telemetry);
            }
        }
    }

    /// The source has ended.
    pub fn finish<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        now: Nanos,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        // In the order in which they began.
        while self.expire_first(now.saturating_add(TIMEOUT), handler, telemetry, false) {}
        for index in 0..self.slots.len() {
            self.close(index, now, handler, telemetry);
        }
        self.undecided.clear();
        self.sent.clear();
        self.sent_at.clear();
        self.pieces.finish(telemetry);
    }

    fn open<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        pair: Pair,
        verdict: Verdict,
        time: Nanos,
        handler: &mut H,
        telemetry: &Telemetry,
    ) -> usize {
        if self.by_socket.len() >= self.options.max_pairs {
            self.evict(time, handler, telemetry);
        }
        self.serial += 1;
        let slot = Slot {
            pair,
            peer: handler.meet(&pair),
            serial: self.serial,
            verdict,
            since: time,
            last: time,
            entries: FxHashMap::default(),
            seen: Vec::new(),
            ended: Vec::new(),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if verdict == Verdict::Undecided {
            self.undecided.push((index, self.serial));
        }
        self.by_socket.insert(pair.socket, index);
        self.slots[index] = Some(slot);
        index
    }

    /// Makes room: of a few pairs in turn, the one that was silent longest goes.
    fn evict<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        time: Nanos,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        const SAMPLE: usize = 16;
        let mut oldest: Option<(Nanos, usize)> = None;
        for _ in 0..self.slots.len().min(SAMPLE) {
            self.hand = (self.hand + 1) % self.slots.len();
            if let Some(slot) = &self.slots[self.hand]
                && oldest.is_none_or(|(last, _)| slot.last < last)
            {
                oldest = Some((slot.last, self.hand));
            }
        }
        if let Some((_, index)) = oldest {
            telemetry.exceeded(Limit::DatagramPairs).add(1);
            self.close(index, time, handler, telemetry);
        }
    }

    fn close<H: Handler<Peer = P, Exchange = E>>(
        &mut self,
        index: usize,
        now: Nanos,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        let mut entries: Vec<_> = std::mem::take(&mut slot.entries).into_values().collect();
        entries.sort_unstable_by_key(|entry| entry.serial);
        if slot.verdict == Verdict::Undecided {
            slot.since = 0;
            self.decide(index, now.max(GRACE), handler);
        }
        for entry in entries {
            match entry.state {
                State::Live(live) => self.hand_on(index, *live, now, handler, telemetry),
                State::Early(replies) => {
                    self.held -= bytes(replies.iter());
                    orphaned(&replies, telemetry);
                }
                State::Over => {}
            }
        }
        if let Some(slot) = self.slots[index].take() {
            self.by_socket.remove(&slot.pair.socket);
            self.free.push(index);
            handler.part(slot.peer);
        }
    }
}

/// Counts a reply whose request was not seen.
fn orphaned(replies: &[Held], telemetry: &Telemetry) {
    telemetry.orphaned.add(1);
    let total = replies.iter().map(Held::total).sum();
    telemetry.skipped(Skipped::Unsynchronized).add(total);
}

fn bytes<'a>(held: impl Iterator<Item = &'a Held>) -> usize {
    held.map(|held| held.body.len()).sum()
}

/// What can be said of a pair of endpoints when it is met.
fn verdict(role: Role, end: End, local: IpAddr, remote: IpAddr) -> Verdict {
    match (role, end) {
        (Role::Both, _)
        | (Role::Client | Role::Auto, End::Client)
        | (Role::Server, End::Server) => Verdict::Reported,
        (Role::Client, End::Server) | (Role::Server, End::Client) => Verdict::Redundant,
        // Only a process of the same network namespace sends from such an address.
        (Role::Auto, End::Server) if remote.is_loopback() || remote == local => Verdict::Redundant,
        (Role::Auto, End::Server) => Verdict::Undecided,
    }
}
