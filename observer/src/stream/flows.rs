//! The table of sockets: their roles, their beginning and end, and which of them is reported.

mod decision;
mod ends;
mod older;
mod room;

use rustc_hash::FxHashMap;

use super::Segment;
use super::early::EarlySockets;
use super::lanes::{Closing, LINGER, Lanes};
use super::pairing::{Pairing, Positions, Registration, Sightings};
use super::reassembly::Limits;
use super::role::verdict;
pub use super::role::{Ports, Role, Verdict};
use crate::source::event::{
    Address, Data, Direction, End, Event, EventKind, Fault, Nanos, SocketId, SocketName, Task,
};
use crate::telemetry::{Limit, Skipped, Telemetry, work};

/// How flows are kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which end is reported.
    pub role: Role,
    /// Where servers are expected.
    pub ports: Ports,
    /// What the source's positions are like.
    pub limits: Limits,
    /// Most sockets tracked; beyond it one of the longest idle makes room.
    pub max_flows: usize,
    /// Most bytes held of messages that are not complete; beyond it one of the longest idle gives up what it holds. A single socket may hold
    /// three quarters.
    pub max_held: usize,
}

/// How long a server's end waits for its client's end to show up on this host, nanoseconds. The client's call comes
/// first in time but may be reported later; 200 ms outlasts any scheduling delay of a host that still works.
const GRACE: Nanos = 200_000_000;

/// One socket.
#[derive(Debug)]
pub struct Flow {
    /// Which.
    pub socket: SocketId,
    /// Which end it is.
    pub end: End,
    /// Whether it was seen from its establishment on.
    pub from_start: bool,
    /// Whether it is reported.
    pub verdict: Verdict,
    /// Under [`Role::Both`]: the number that the two ends of a connection share. A server's end has one when its client's end was
    /// found on this host.
    pub shared: Option<u64>,
    number: u64,
    since: Nanos,
    last: Nanos,
    registration: Registration,
    /// Positions that a server's end has seen, looked up again when its grace ends.
    seen: Sightings,
    attended: bool,
    /// Joined before it was established, by what was sent with the SYN.
    opening: bool,
}

impl Flow {
    /// The server's address.
    #[must_use]
    pub fn server(&self) -> Address {
        self.socket.server(self.end)
    }

    /// The client's address.
    #[must_use]
    pub fn client(&self) -> Address {
        self.socket.client(self.end)
    }
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The connection ended; by what, where it was neither end's close.
    Closed(Option<Fault>),
    /// It is not known any more: it made room for others, or its end was not seen.
    Abandoned,
    /// Observation has ended, with the connection still there.
    Over,
}

/// What is done with flows.
pub trait Handler {
    /// What is kept with each flow.
    type Session;
    /// What is kept of a client's socket that has no flow yet.
    type Early;
    /// `connect` was called. The local end is not known yet.
    fn connecting(&mut self, socket: &SocketId, task: Option<&Task>, time: Nanos) -> Self::Early;
    /// There is a connection from before the observation, which `task` holds.
    fn older(&mut self, socket: &SocketId, task: &Task) -> Self::Early;
    /// A socket ends that never had a flow.
    fn vanish(&mut self, early: Self::Early, close: Close, time: Nanos);
    /// A flow begins. Answers also whether [`Self::tick`] is to be called for it.
    fn open(
        &mut self,
        flow: &Flow,
        early: Option<Self::Early>,
        time: Nanos,
    ) -> (Self::Session, bool);
    /// The next piece of a flow. Answers whether [`Self::tick`] is to be called for it.
    fn segment(&mut self, flow: &Flow, session: &mut Self::Session, segment: &Segment<'_>) -> bool;
    /// Bytes that a session holds of messages that are not complete.
    fn memory(&self, session: &Self::Session) -> usize;
    /// A session has to give up what it holds.
    fn relieve(&mut self, flow: &Flow, session: &mut Self::Session, now: Nanos);
    /// Time has passed. Answers whether to be called again.
    fn tick(&mut self, flow: &Flow, session: &mut Self::Session, now: Nanos) -> bool;
    /// A flow that was [`Verdict::Undecided`] is decided; or its other end was found later.
    fn decided(&mut self, flow: &Flow, session: &mut Self::Session);
    /// A flow ends.
    fn close(&mut self, flow: &Flow, session: Self::Session, close: Close, time: Nanos);
}

struct Slot<S> {
    flow: Flow,
    lanes: Lanes,
    session: S,
    closing: Option<Closing>,
    /// Bytes that it held when it was last looked at.
    held: usize,
    /// Where it stands among those that hold something.
    place: usize,
}

/// The table of sockets.
pub struct Flows<H: Handler> {
    options: Options,
    by_sk: FxHashMap<u64, usize>,
    slots: Vec<Option<Slot<H::Session>>>,
    /// Sockets that have no flow yet.
    early: EarlySockets<H::Early>,
    free: Vec<usize>,
    pairing: Pairing,
    /// Slots that need [`Flows::tick`], with the number of their flow: one that has ended is left out by the next.
    attention: Vec<(usize, u64)>,
    opened: u64,
    hand: usize,
    /// Bytes that all hold, slots that hold something, and the last of them that was looked at.
    held: usize,
    holders: Vec<usize>,
    holder: usize,
}

impl<H: Handler> Flows<H> {
    /// An empty table.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            by_sk: FxHashMap::default(),
            slots: Vec::new(),
            early: EarlySockets::default(),
            free: Vec::new(),
            pairing: Pairing::default(),
            attention: Vec::new(),
            opened: 0,
            hand: 0,
            held: 0,
            holders: Vec::new(),
            holder: 0,
        }
    }

    /// Sockets tracked now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_sk.len()
    }

    /// Whether no socket is tracked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_sk.is_empty()
    }

    /// Takes in one event.
    pub fn event(&mut self, event: &Event<'_>, handler: &mut H, telemetry: &Telemetry) {
        match &event.kind {
            EventKind::Data(data) => {
                if let Some(index) = self.find_or_join(event, data, handler, telemetry) {
                    self.data(index, event, data, handler, telemetry);
                }
            }
            EventKind::Connecting => {
                let socket = &event.socket;
                if !self.options.ports.expects(socket.remote)
                    || verdict(self.options.role, End::Client, socket) != Verdict::Reported
                {
                    return;
                }
                if self.early.connecting.len() >= self.options.max_flows {
                    telemetry.exceeded(Limit::Connections).add(1);
                } else {
                    let early = handler.connecting(socket, event.task.as_ref(), event.time);
                    let early = (socket.remote, early);
                    if let Some((_, lost)) = self.early.connecting.insert(socket.sk, early) {
                        handler.vanish(lost, Close::Abandoned, event.time);
                    }
                }
            }
            // Of no connection: `datagram` takes those.
            EventKind::Datagram(_) => {}
            EventKind::Established {
                end,
                send_position,
                receive_position,
            } => {
                if self.goes_on(event, (*send_position, *receive_position)) {
                    return;
                }
                self.close_sk(event.socket.sk, event.time, Close::Closed(None), handler);
                let server = match end {
                    End::Client => event.socket.remote,
                    End::Server => event.socket.local,
                };
                if self.options.ports.expects(server) {
                    let index = self.open(
                        event,
                        *end,
                        Some((*send_position, *receive_position)),
                        handler,
                        telemetry,
                    );
                    let positions = match end {
                        End::Client => send_position.zip(*receive_position),
                        End::Server => receive_position.zip(*send_position),
                    };
                    if let Some(positions) = positions {
                        self.pair(index, positions, handler);
                        if let Some(Slot { flow, .. }) = &mut self.slots[index] {
                            flow.registration.end();
                            flow.seen.end();
                        }
                    }
                }
            }
            EventKind::Closed { fault, rest } => {
                let close = Close::Closed(*fault);
                let (sk, time) = (event.socket.sk, event.time);
                let closing = rest.map(|rest| Closing { time, close, rest });
                if !self.lingers(sk, closing) {
                    self.close_sk(sk, time, close, handler);
                }
                if let Some(early) = self.early.closed(&event.socket, self.options.max_flows) {
                    handler.vanish(early, close, event.time);
                }
            }
        }
    }

    /// Time has passed: gives up holes and decisions that have waited long enough. To be called at least every 50 ms
    /// of event time while events come, and when none do.
    pub fn tick(&mut self, now: Nanos, handler: &mut H) {
        self.pairing.tick(now);
        let mut attention = std::mem::take(&mut self.attention);
        let mut over = Vec::new();
        attention.retain(|&(index, number)| {
            work::add(1);
            let slot = self.slots.get_mut(index).and_then(Option::as_mut);
            let Some(slot) = slot.filter(|slot| slot.flow.number == number) else {
                return false;
            };
            let Slot {
                flow,
                lanes,
                session,
                closing,
                ..
            } = slot;
            let mut wanted = false;
            for direction in [Direction::Send, Direction::Receive] {
                let lane = lanes.get_mut(direction);
                lane.expire(now, &self.options.limits, &mut |segment| {
                    wanted |= handler.segment(flow, session, &segment);
                });
                wanted |= lane.is_waiting();
            }
            wanted |= handler.tick(flow, session, now);
            if flow.verdict == Verdict::Undecided {
                let peer = flow.peer(&self.pairing);
                if peer.is_some() || now.saturating_sub(flow.since) >= GRACE {
                    flow.decide(self.options.role, peer);
                    handler.decided(flow, session);
                } else {
                    wanted = true;
                }
            }
            if let Some(closing) = closing {
                wanted = true;
                if closing.is_complete(lanes) || now.saturating_sub(closing.time) >= LINGER {
                    over.push(flow.socket.sk);
                }
            }
            flow.attended = wanted;
            wanted
        });
        // Handlers open no flows, so nothing was added meanwhile.
        self.attention = attention;
        for sk in over {
            self.close_sk(sk, now, Close::Abandoned, handler);
        }
    }

    /// Servers are expected on other ports from now on, and at the same unix sockets.
    pub fn watch(&mut self, ports: Ports) {
        self.options.ports = ports.with_sockets_of(&self.options.ports);
    }

    /// A server is expected at this unix socket, too.
    pub fn watch_socket(&mut self, name: SocketName) {
        self.options.ports.add(name);
    }

    /// Gives up the connections to servers that `which` names.
    pub fn give_up(&mut self, which: impl Fn(Address) -> bool, time: Nanos, handler: &mut H) {
        let slots = self.slots.iter().flatten();
        let mut all: Vec<_> = slots
            .filter(|slot| which(slot.flow.server()))
            .map(|slot| slot.flow.socket.sk)
            .collect();
        all.sort_unstable();
        for sk in all {
            self.close_sk(sk, time, Close::Abandoned, handler);
        }
        for early in self.early.give_up(which) {
            handler.vanish(early, Close::Abandoned, time);
        }
    }

    /// The source has ended. For a capture that is the end of each connection; live ones go on unobserved.
    pub fn finish(&mut self, time: Nanos, close: Close, handler: &mut H) {
        let mut all: Vec<_> = self.by_sk.keys().copied().collect();
        all.sort_unstable();
        for sk in all {
            self.close_sk(sk, time, close, handler);
        }
        for early in self.early.drain() {
            handler.vanish(early, close, time);
        }
    }

    fn find_or_join(
        &mut self,
        event: &Event<'_>,
        data: &Data<'_>,
        handler: &mut H,
        telemetry: &Telemetry,
    ) -> Option<usize> {
        if let Some(&index) = self.by_sk.get(&event.socket.sk)
            && let Some(slot) = &self.slots[index]
        {
            let lane = slot.lanes.get(data.direction);
            let same = slot.flow.socket == event.socket || slot.is_behind(event);
            if same && !lane.is_discontinuous(data.position) {
                return Some(index);
            }
            // The kernel has reused the `sock` and its close was lost.
            self.close_sk(event.socket.sk, event.time, Close::Abandoned, handler);
        }
        if event.socket.local.port() == Some(0) {
            // Taken long after the connection's end, with which it was counted.
            return None;
        }
        let end = match (
            self.options.ports.expects(event.socket.local),
            self.options.ports.expects(event.socket.remote),
        ) {
            (true, false) => End::Server,
            (false, true) => End::Client,
            (true, true) => {
                telemetry.skipped(Skipped::Role).add(data.length.into());
                telemetry.lost_bytes.add(data.length.into());
                return None;
            }
            // Of a port that was watched when the source saw it.
            (false, false) => {
                telemetry
                    .skipped(Skipped::Unwatched)
                    .add(data.length.into());
                return None;
            }
        };
        // While it connects, a client can send once: what goes with the SYN.
        let first = data.opening && self.early.connecting.contains_key(&event.socket.sk);
        let start = first.then_some((Some(data.position), None));
        let index = self.open(event, end, start, handler, telemetry);
        if let Some(slot) = &mut self.slots[index] {
            slot.flow.opening = data.opening;
        }
        Some(index)
    }

    fn open(
        &mut self,
        event: &Event<'_>,
        end: End,
        start: Option<(Option<u32>, Option<u32>)>,
        handler: &mut H,
        telemetry: &Telemetry,
    ) -> usize {
        if self.by_sk.len() >= self.options.max_flows {
            telemetry.exceeded(Limit::Connections).add(1);
            self.evict(event.time, handler);
        }
        let (send, receive) = start.unwrap_or_default();
        self.opened += 1;
        let mut flow = Flow {
            socket: event.socket,
            end,
            from_start: start.is_some(),
            verdict: verdict(self.options.role, end, &event.socket),
            shared: (self.options.role == Role::Both && end == End::Client).then_some(self.opened),
            number: self.opened,
            since: event.time,
            last: event.time,
            registration: Registration::default(),
            seen: Sightings::default(),
            attended: false,
            opening: false,
        };
        let lanes = Lanes::new(end, send, receive);
        if self.options.role.pairs() && end == End::Client {
            self.pairing
                .register_addresses(flow.number, &flow.socket, &mut flow.registration);
        }
        // Not for `both`, which wants to know which: the addresses may be those of a connection that was closed just now.
        if self.options.role == Role::Auto
            && flow.verdict == Verdict::Undecided
            && self.pairing.peer_of(&flow.socket).is_some()
        {
            flow.verdict = Verdict::Redundant;
        }
        if flow.verdict != Verdict::Redundant {
            telemetry.connections_seen.add(1);
        }
        let early = match end {
            End::Client => self.early.take(&flow.socket),
            End::Server => None,
        };
        let (session, ticks) = handler.open(&flow, early, event.time);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if ticks || flow.verdict == Verdict::Undecided {
            flow.attended = true;
            self.attention.push((index, flow.number));
        }
        self.by_sk.insert(event.socket.sk, index);
        self.slots[index] = Some(Slot {
            flow,
            lanes,
            session,
            closing: None,
            held: 0,
            place: 0,
        });
        index
    }

    fn data(
        &mut self,
        index: usize,
        event: &Event<'_>,
        data: &Data<'_>,
        handler: &mut H,
        telemetry: &Telemetry,
    ) {
        let redundant = || {
            telemetry
                .skipped(Skipped::Redundant)
                .add(data.length.into());
        };
        let Some(slot) = self.slots[index].as_mut() else {
            return;
        };
        slot.flow.last = event.time;
        if slot.flow.verdict == Verdict::Redundant {
            return redundant();
        }
        let role = self.options.role;
        if role.pairs()
            && let Some(opposite) = data.opposite
        {
            let (wanted, towards) = match slot.flow.end {
                End::Client => (!slot.flow.registration.is_full(), Direction::Send),
                End::Server => (slot.flow.is_alone(role), Direction::Receive),
            };
            if wanted {
                let positions = match data.direction == towards {
                    true => (data.position, opposite),
                    false => (opposite, data.position),
                };
                self.pair(index, positions, handler);
            }
        }
        let Some(Slot {
            flow,
            lanes,
            session,
            ..
        }) = self.slots[index].as_mut()
        else {
            return;
        };
        if flow.verdict == Verdict::Redundant {
            return redundant();
        }
        if let Some(opposite) = data.opposite {
            // A reply to what is sent here that is lost must be missed, also on a connection that was joined.
            lanes.get_mut(data.direction.reverse()).begin_at(opposite);
        }
        let lane = lanes.get_mut(data.direction);
        let limits = &self.options.limits;
        let mut wanted = false;
        lane.insert(
            event.time,
            event.task.as_ref(),
            data,
            limits,
            &mut |segment| wanted |= handler.segment(flow, session, &segment),
        );
        wanted |= lane.is_waiting();
        if wanted && !flow.attended {
            flow.attended = true;
            self.attention.push((index, flow.number));
        }
        self.weigh(index, event.time, handler);
    }

    /// Notes the positions that one end sees, and decides a server's end whose client's end is here.
    fn pair(&mut self, index: usize, positions: Positions, handler: &mut H) {
        let Some(Slot { flow, session, .. }) = self.slots[index].as_mut() else {
            return;
        };
        match flow.end {
            End::Client => {
                self.pairing
                    .register_positions(flow.number, positions, &mut flow.registration);
            }
            End::Server if flow.is_alone(self.options.role) => {
                if flow.seen.add(positions)
                    && let Some(peer) = self.pairing.find(&flow.seen)
                {
                    flow.decide(self.options.role, Some(peer));
                    handler.decided(flow, session);
                }
            }
            End::Server => {}
        }
    }

    /// Ends a flow; one that lingers as its socket did.
    fn close_sk(&mut self, sk: u64, time: Nanos, close: Close, handler: &mut H) {
        let Some(index) = self.by_sk.remove(&sk) else {
            return;
        };
        self.set_held(index, 0);
        let Some(Slot {
            mut flow,
            mut lanes,
            mut session,
            closing,
            ..
        }) = self.slots[index].take()
        else {
            return;
        };
        self.free.push(index);
        let (time, close) = closing.map_or((time, close), |closing| (closing.time, closing.close));
        lanes.finish(closing, &mut |segment| {
            handler.segment(&flow, &mut session, &segment);
        });
        if flow.verdict == Verdict::Undecided {
            let peer = flow.peer(&self.pairing);
            flow.decide(self.options.role, peer);
            handler.decided(&flow, &mut session);
        }
        self.pairing
            .close(flow.number, time, std::mem::take(&mut flow.registration));
        handler.close(&flow, session, close, time);
    }
}
