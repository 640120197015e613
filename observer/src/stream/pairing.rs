//! Which two sockets of this host are the two ends of one connection.
//!
//! The client's end and the server's end see the same TCP sequence numbers: where a send begins that one makes, a receive of the
//! other begins, unless it took several at once. A position in each direction is 64 bits that survive address translation and
//! network namespaces. Where no such two were seen, the address pair decides, within one namespace. The addresses and positions of
//! a unix socket are its connection's own.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::source::event::{Address, Nanos, SocketId};

/// Where a call begins or the next one will: the position towards the server, and the one towards the client.
pub type Positions = (u32, u32);

/// How long the end of a connection is remembered after its close, nanoseconds: the other end may report later.
const MEMORY: Nanos = 1_000_000_000;

/// Most ends remembered: of 65,536 connections that close within a second.
const MAX_CLOSED: usize = 65_536;

type Addresses = (u32, Address, Address);

/// The clients' ends on this host, found by the positions or addresses that a server's end sees.
#[derive(Debug, Default)]
pub struct Pairing {
    requests: FxHashMap<u32, u64>,
    replies: FxHashMap<u32, u64>,
    addresses: FxHashMap<Addresses, u64>,
    closed: VecDeque<(Nanos, u64, Registration)>,
}

/// The first positions that an end has seen.
#[derive(Debug, Default)]
pub struct Sightings {
    requests: Vec<u32>,
    replies: Vec<u32>,
    /// More would be of no use.
    enough: bool,
}

impl Sightings {
    /// Most in each direction. Of ends that are met mid-stream, the client may read what the server sent many calls ago.
    const MAX: usize = 64;

    /// Adds the positions of a call. Answers whether there was room.
    pub fn add(&mut self, (request, reply): Positions) -> bool {
        if self.is_full() {
            return false;
        }
        for (list, position) in [(&mut self.requests, request), (&mut self.replies, reply)] {
            if list.len() < Self::MAX && !list.contains(&position) {
                list.push(position);
            }
        }
        true
    }

    /// The connection is known from its beginning: both ends have seen these positions.
    pub fn end(&mut self) {
        self.enough = true;
    }

    /// Whether more positions would be of no use.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.enough || self.requests.len() >= Self::MAX && self.replies.len() >= Self::MAX
    }
}

/// What one client's end has registered.
#[derive(Debug, Default)]
pub struct Registration {
    positions: Sightings,
    addresses: Option<Addresses>,
}

impl Registration {
    /// Whether more positions would be of no use.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.positions.is_full()
    }

    /// See [`Sightings::end`].
    pub fn end(&mut self) {
        self.positions.end();
    }
}

impl Pairing {
    /// A client's end, by its addresses. `owner` tells ends apart.
    pub fn register_addresses(
        &mut self,
        owner: u64,
        socket: &SocketId,
        registration: &mut Registration,
    ) {
        let key = (socket.netns, socket.local, socket.remote);
        self.addresses.insert(key, owner);
        registration.addresses = Some(key);
    }

    /// A client's end, by the positions at a moment.
    pub fn register_positions(
        &mut self,
        owner: u64,
        positions: Positions,
        registration: &mut Registration,
    ) {
        registration.positions.add(positions);
        // Of two ends that see the same position neither can be told from the other by it; each has more.
        if registration.positions.requests.contains(&positions.0) {
            self.requests.entry(positions.0).or_insert(owner);
        }
        if registration.positions.replies.contains(&positions.1) {
            self.replies.entry(positions.1).or_insert(owner);
        }
    }

    /// A client's end is gone at `time`.
    pub fn close(&mut self, owner: u64, time: Nanos, registration: Registration) {
        if self.closed.len() >= MAX_CLOSED {
            self.forget_first();
        }
        self.closed.push_back((time, owner, registration));
    }

    /// Forgets ends that closed long before `now`.
    pub fn tick(&mut self, now: Nanos) {
        while let Some((time, _, _)) = self.closed.front() {
            if now.saturating_sub(*time) < MEMORY {
                return;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, owner, registration)) = self.closed.pop_front() {
            for position in registration.positions.requests {
                remove(&mut self.requests, &position, owner);
            }
            for position in registration.positions.replies {
                remove(&mut self.replies, &position, owner);
            }
            if let Some(key) = registration.addresses {
                remove(&mut self.addresses, &key, owner);
            }
        }
    }

    /// The client's end on this host that has one of these positions in each direction.
    #[must_use]
    pub fn find(&self, seen: &Sightings) -> Option<u64> {
        let mut last = None;
        let mut owners = seen.requests.iter().filter_map(|position| {
            let owner = self.requests.get(position);
            // Nearly always all are one's.
            owner.filter(|_| std::mem::replace(&mut last, owner) != owner)
        });
        let replies = |owner: &&u64| {
            let mut replies = seen.replies.iter();
            replies.any(|position| self.replies.get(position) == Some(owner))
        };
        owners.find(replies).copied()
    }

    /// The other end of this server's socket, if it is in the same network namespace.
    #[must_use]
    pub fn peer_of(&self, server: &SocketId) -> Option<u64> {
        let key = (server.netns, server.remote, server.local);
        self.addresses.get(&key).copied()
    }
}

fn remove<K: Eq + std::hash::Hash>(map: &mut FxHashMap<K, u64>, key: &K, owner: u64) {
    if map.get(key) == Some(&owner) {
        map.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(positions: &[Positions]) -> Sightings {
        let mut seen = Sightings::default();
        for positions in positions {
            seen.add(*positions);
        }
        seen
    }

    fn socket(netns: u32, local: &str, remote: &str) -> SocketId {
        SocketId {
            sk: 1,
            netns,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn addresses_pair_within_a_namespace_only() {
        let mut pairing = Pairing::default();
        let mut registration = Registration::default();
        pairing.register_addresses(
            1,
            &socket(7, "10.0.0.1:4000", "10.0.0.2:6379"),
            &mut registration,
        );
        let server = |netns| socket(netns, "10.0.0.2:6379", "10.0.0.1:4000");
        assert_eq!(pairing.peer_of(&server(7)), Some(1));
        assert_eq!(pairing.peer_of(&server(8)), None);
    }

    #[test]
    fn an_end_is_remembered_for_a_while_and_a_successor_is_not_forgotten() {
        let mut pairing = Pairing::default();
        let mut first = Registration::default();
        pairing.register_positions(1, (10, 20), &mut first);
        pairing.close(1, 0, first);
        pairing.tick(MEMORY - 1);
        assert_eq!(pairing.find(&seen(&[(10, 20)])), Some(1));
        let mut second = Registration::default();
        let socket = socket(7, "10.0.0.1:4000", "10.0.0.2:6379");
        pairing.register_addresses(2, &socket, &mut second);
        pairing.tick(MEMORY);
        assert_eq!(pairing.find(&seen(&[(10, 20)])), None);
        assert_eq!(pairing.addresses.len(), 1);
        assert!(pairing.requests.is_empty() && pairing.replies.is_empty());
    }

    #[test]
    fn a_position_in_each_direction_is_needed() {
        let mut pairing = Pairing::default();
        let mut registrations = [Registration::default(), Registration::default()];
        for (owner, registration) in registrations.iter_mut().enumerate() {
            for n in 0..100 {
                let at = 1_000 * owner as u32 + n;
                pairing.register_positions(owner as u64, (at, at + 500), registration);
            }
            assert!(registration.is_full());
        }
        // Seen at different moments, as where much is under way.
        assert_eq!(pairing.find(&seen(&[(3, 9_999), (8_888, 506)])), Some(0));
        assert_eq!(
            pairing.find(&seen(&[(8_888, 506), (1_007, 1_500)])),
            Some(1)
        );
        // Of two, and of later ones than are kept.
        assert_eq!(pairing.find(&seen(&[(3, 1_503)])), None);
        assert_eq!(pairing.find(&seen(&[(64, 564)])), None);
    }
}
