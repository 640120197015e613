//! Both ends of a connection under `--role both`: what the server's end tells becomes a child of the client's span.
//!
//! A request is the same at both ends when its first byte has the same position on the same connection, and never for another
//! reason. The client's end decides: what becomes of its span becomes of the server's, so that there are both or none. Its
//! exchanges are reported at once, and noted here; the server's commands, ordinarily complete before, wait for them. Both
//! come in the order of the stream, so that one queue each will do:
//!
//! ```text
//! client's exchanges   [100]        [140 … 420]      [600]
//! server's commands    [100]        [140][280][420]           [700] waits
//! ```
//!
//! A command between exchanges has no client's span: it is told by itself. Commands of one exchange are told together, also where the
//! server took them in several pieces, or together with others.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::aggregation::SpanReference;
use crate::enrichment::Observation;
use crate::sinks::Sample;
use crate::source::event::Nanos;
use crate::telemetry::{Limit, Telemetry};
use crate::transaction::{Batch, BatchKind, Exchange, Transaction};

/// Most commands of servers' ends that wait, over all connections: with their keys some 1 KB each. A batch has up to 10,000.
const MAX_SERVED: usize = 32_768;
/// Most of a client's exchanges that are noted of a connection: as many as one receive may answer.
const MAX_TOLD: usize = 4_096;
/// Most of them while its server's end was not met: it may be reported later, or on another host.
const MAX_UNMET: usize = 64;
/// How long a client's exchange is noted, nanoseconds: the server's send, which came before, may be reported later, by as long as its
/// thread is kept from running.
const PATIENCE: Nanos = 1_000_000_000;

/// A command that a server's end told.
#[derive(Debug)]
pub(super) struct Served {
    /// Of one transaction.
    pub(super) observation: Observation,
    /// How it is exported by itself; `None`: not.
    pub(super) alone: Option<Sample>,
}

impl Served {
    fn position(&self) -> u32 {
        let first = self.observation.exchange.transactions().first();
        first.map_or(0, |one| one.position)
    }
}

/// What becomes of what a server's end told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is a child of this span, which was exported with this sample.
    Child(SpanReference, Sample),
    /// The client's span was left out by the policy.
    LeftOut,
    /// The client's span found no room.
    Dropped,
    /// There is no client's span of it: it is exported so, or not.
    Alone(Option<Sample>),
}

/// Which part of a connection's requests a client's exchange is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    id: ConnectionId,
    /// Positions of its first and last request.
    first: u32,
    last: u32,
    size: usize,
    kind: Option<BatchKind>,
    /// When it ended.
    time: Nanos,
}

impl Extent {
    /// `None` for an exchange that has no span.
    pub(super) fn of(id: ConnectionId, exchange: &Exchange) -> Option<Self> {
        let (kind, transactions) = match exchange {
            unseen if !unseen.is_seen() => return None,
            Exchange::One(one) => (None, std::slice::from_ref(one)),
            Exchange::Batch(batch) => (Some(batch.kind), &batch.transactions[..]),
            Exchange::Life(_) => return None,
        };
        let (one, rest) = transactions.split_first()?;
        let mut extent = Self {
            id,
            first: one.position,
            last: one.position,
            size: transactions.len(),
            kind,
            time: one.end,
        };
        for one in rest {
            if is_before(one.position, extent.first) {
                extent.first = one.position;
            }
            if is_before(extent.last, one.position) {
                extent.last = one.position;
            }
            extent.time = extent.time.max(one.end);
        }
        Some(extent)
    }
}

/// A client's exchange that was reported.
#[derive(Debug)]
struct Told {
    extent: Extent,
    fate: Fate,
    /// Commands of it that the server's end did not tell yet.
    left: usize,
    gathered: Vec<Served>,
}

/// A connection with its client's end on this host; from [`Ends::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionId(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// Not met so far.
    Unmet,
    /// It tells, or will.
    Met,
    /// Its end was met, and nothing will come.
    Silent,
    Closed,
}

#[derive(Debug)]
struct Connection {
    /// The number that its two ends share.
    shared: u64,
    client_open: bool,
    server: Server,
    told: VecDeque<Told>,
    served: VecDeque<Served>,
}

/// The connections of clients' ends on this host.
#[derive(Debug)]
pub(in crate::pipeline) struct Ends {
    telemetry: Arc<Telemetry>,
    slots: Vec<Option<Connection>>,
    free: Vec<u32>,
    by_shared: FxHashMap<u64, u32>,
    /// Those whose client's end was closed before their server's end was met.
    closed: VecDeque<(Nanos, u64)>,
    /// Commands that wait.
    waiting: usize,
}

impl Ends {
    pub(in crate::pipeline) fn new(telemetry: Arc<Telemetry>) -> Self {
        Self {
            telemetry,
            slots: Vec::new(),
            free: Vec::new(),
            by_shared: FxHashMap::default(),
            closed: VecDeque::new(),
            waiting: 0,
        }
    }

    /// A client's end opens.
    pub(super) fn open(&mut self, shared: u64) -> ConnectionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[index as usize] = Some(Connection {
            shared,
            client_open: true,
            server: Server::Unmet,
            told: VecDeque::new(),
            served: VecDeque::new(),
        });
        self.by_shared.insert(shared, index);
        ConnectionId(index)
    }

    /// The server's end of a connection was found; `None` when the client's was forgotten.
    pub(super) fn meet(&mut self, shared: u64) -> Option<ConnectionId> {
        let index = *self.by_shared.get(&shared)?;
        let connection = self.slots[index as usize].as_mut()?;
        if connection.server != Server::Unmet {
            return None;
        }
        connection.server = Server::Met;
        Some(ConnectionId(index))
    }

    /// What became of an exchange's span at the client's end.
    pub(super) fn tell(
        &mut self,
        extent: Extent,
        fate: Fate,
        out: &mut dyn FnMut(Observation, Fate),
    ) {
        let Some(connection) = self.slots[extent.id.0 as usize].as_mut() else {
            return;
        };
        let most = match connection.server {
            Server::Unmet => MAX_UNMET,
            Server::Met => MAX_TOLD,
            Server::Closed if !connection.served.is_empty() => MAX_TOLD,
            Server::Closed | Server::Silent => return,
        };
        while let Some(oldest) = connection.told.front()
            && (connection.told.len() >= most
                || extent.time.saturating_sub(oldest.extent.time) > PATIENCE)
        {
            if connection.told.len() >= MAX_TOLD {
                self.telemetry.exceeded(Limit::Ends).add(1);
            }
            connection.give_up(&mut self.waiting, out);
        }
        connection.told.push_back(Told {
            left: extent.size,
            extent,
            fate,
            gathered: Vec::new(),
        });
        connection.merge(&mut self.waiting, out);
    }

    /// The server's end told a command.
    pub(super) fn serve(
        &mut self,
        id: ConnectionId,
        served: Served,
        out: &mut dyn FnMut(Observation, Fate),
    ) {
        let Some(connection) = self.slots[id.0 as usize].as_mut() else {
            return out(served.observation, Fate::Alone(served.alone));
        };
        connection.server = Server::Met;
        connection.served.push_back(served);
        self.waiting += 1;
        connection.merge(&mut self.waiting, out);
        if self.waiting > MAX_SERVED {
            self.telemetry.exceeded(Limit::Ends).add(1);
            if connection.served.is_empty() {
                connection.give_up(&mut self.waiting, out);
            } else {
                connection.alone(&mut self.waiting, out);
            }
        }
    }

    /// The server's end is not reported.
    pub(super) fn hush(&mut self, id: ConnectionId, out: &mut dyn FnMut(Observation, Fate)) {
        if let Some(connection) = self.slots[id.0 as usize].as_mut() {
            connection.server = Server::Silent;
            while !connection.told.is_empty() {
                connection.give_up(&mut self.waiting, out);
            }
        }
    }

    /// The client's end is closed: no more is told of it. `id` must not be used again for it.
    pub(super) fn close_client(
        &mut self,
        id: ConnectionId,
        time: Nanos,
        out: &mut dyn FnMut(Observation, Fate),
    ) {
        let Some(connection) = self.slots[id.0 as usize].as_mut() else {
            return;
        };
        connection.client_open = false;
        connection.merge(&mut self.waiting, out);
        match connection.server {
            Server::Closed => self.forget(id, out),
            // Of a short connection it may be reported later.
            Server::Unmet => self.closed.push_back((time, connection.shared)),
            Server::Met | Server::Silent => {}
        }
    }

    /// The server's end is closed. What it told may still wait for its client to read it. `id` must not be used again for it.
    pub(super) fn close_server(
        &mut self,
        id: ConnectionId,
        out: &mut dyn FnMut(Observation, Fate),
    ) {
        let Some(connection) = self.slots[id.0 as usize].as_mut() else {
            return;
        };
        connection.server = Server::Closed;
        connection.merge(&mut self.waiting, out);
        if !connection.client_open {
            self.forget(id, out);
        }
    }

    /// Forgets connections whose client's end was closed long before `now`.
    pub(super) fn tick(&mut self, now: Nanos) {
        while let Some((time, shared)) = self.closed.front()
            && now.saturating_sub(*time) > PATIENCE
        {
            let index = self.by_shared.get(shared).copied();
            self.closed.pop_front();
            if let Some(index) = index
                && let Some(connection) = &self.slots[index as usize]
                && connection.server == Server::Unmet
            {
                // Nothing waits where no server's end was met.
                self.forget(ConnectionId(index), &mut |_, _| {});
            }
        }
    }

    fn forget(&mut self, id: ConnectionId, out: &mut dyn FnMut(Observation, Fate)) {
        if let Some(mut connection) = self.slots[id.0 as usize].take() {
            connection.client_open = false;
            connection.merge(&mut self.waiting, out);
            self.by_shared.remove(&connection.shared);
            self.free.push(id.0);
        }
    }
}

impl Connection {
    /// Hands on what is known by now. Then only one of the queues holds something.
    fn merge(&mut self, waiting: &mut usize, out: &mut dyn FnMut(Observation, Fate)) {
        while let Some(served) = self.served.front() {
            let position = served.position();
            let Some(told) = self.told.front_mut() else {
                if self.client_open {
                    return;
                }
                self.alone(waiting, out);
                continue;
            };
            if is_before(position, told.extent.first) {
                self.alone(waiting, out);
            } else if is_before(told.extent.last, position) {
                self.give_up(waiting, out);
            } else {
                told.gathered.extend(self.served.pop_front());
                told.left -= 1;
                if told.left == 0 {
                    self.give_up(waiting, out);
                }
            }
        }
        while self.server == Server::Closed && !self.told.is_empty() {
            self.give_up(waiting, out);
        }
    }

    /// The first command that waits has no client's span.
    fn alone(&mut self, waiting: &mut usize, out: &mut dyn FnMut(Observation, Fate)) {
        if let Some(served) = self.served.pop_front() {
            *waiting -= 1;
            out(served.observation, Fate::Alone(served.alone));
        }
    }

    /// Hands on what was gathered of the client's first exchange, which waits for no more.
    fn give_up(&mut self, waiting: &mut usize, out: &mut dyn FnMut(Observation, Fate)) {
        let Some(told) = self.told.pop_front() else {
            return;
        };
        *waiting -= told.gathered.len();
        let several = told.gathered.len() > 1;
        let mut gathered = told.gathered.into_iter().map(|served| served.observation);
        match told.extent.kind.filter(|_| several) {
            None => gathered.for_each(|observation| out(observation, told.fate)),
            Some(kind) => {
                let Some(mut whole) = gathered.next() else {
                    return;
                };
                let mut transactions = Vec::with_capacity(gathered.len() + 1);
                transactions.extend(transaction(whole.exchange));
                transactions.extend(gathered.flat_map(|one| transaction(one.exchange)));
                whole.exchange = Exchange::Batch(Batch { kind, transactions });
                out(whole, told.fate);
            }
        }
    }
}

/// The transaction of an exchange that is one.
fn transaction(exchange: Exchange) -> Option<Transaction> {
    match exchange {
        Exchange::One(transaction) => Some(transaction),
        Exchange::Batch(_) | Exchange::Life(_) => None,
    }
}

/// Whether a position is before another in sequence space (RFC 9293, section 3.4).
fn is_before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

#[cfg(test)]
mod tests;
