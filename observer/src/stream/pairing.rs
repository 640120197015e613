//! Which two sockets of this host are the two ends of one connection.
//!
//! The client's end and the server's end see the same TCP sequence numbers: what one sends next, the other
//! receives next. A pair of positions, one for each direction, is 64 bits that survive address translation and network
//! namespaces. Where no such pair was seen, the address pair decides, within one namespace.

use std::collections::VecDeque;
use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use crate::source::event::{Nanos, SocketId};

/// Next position towards the server, and towards the client.
pub type Positions = (u32, u32);

/// How long the end of a connection is remembered after its close, nanoseconds: the other end may report later.
const MEMORY: Nanos = 1_000_000_000;

/// Most ends remembered: of 65,536 connections that close within a second.
const MAX_CLOSED: usize = 65_536;

type Addresses = (u32, SocketAddr, SocketAddr);

/// The clients' ends on this host, found by the positions or addresses that a server's end sees.
#[derive(Debug, Default)]
pub struct Pairing {
    positions: FxHashMap<Positions, u64>,
    addresses: FxHashMap<Addresses, u64>,
    closed: VecDeque<(Nanos, u64, Registration)>,
}

/// What one client's end has registered.
#[derive(Debug, Default)]
pub struct Registration {
    positions: Vec<Positions>,
    addresses: Option<Addresses>,
}

impl Registration {
    /// Positions registered by one end: a server's end that is met mid-stream sees one of the first sends after that.
    pub const MAX_POSITIONS: usize = 8;

    /// Whether more positions would be of use.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.positions.len() >= Self::MAX_POSITIONS
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
        if !registration.is_full() && self.positions.insert(positions, owner).is_none() {
            registration.positions.push(positions);
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
            for key in registration.positions {
                remove(&mut self.positions, &key, owner);
            }
            if let Some(key) = registration.addresses {
                remove(&mut self.addresses, &key, owner);
            }
        }
    }

    /// Whether a client's end with these positions is on this host.
    #[must_use]
    pub fn has_positions(&self, positions: Positions) -> bool {
        self.positions.contains_key(&positions)
    }

    /// Whether the other end of this server's socket is in the same network namespace.
    #[must_use]
    pub fn has_peer_of(&self, server: &SocketId) -> bool {
        self.addresses
            .contains_key(&(server.netns, server.remote, server.local))
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
        assert!(pairing.has_peer_of(&socket(7, "10.0.0.2:6379", "10.0.0.1:4000")));
        assert!(!pairing.has_peer_of(&socket(8, "10.0.0.2:6379", "10.0.0.1:4000")));
    }

    #[test]
    fn an_end_is_remembered_for_a_while_and_a_successor_is_not_forgotten() {
        let mut pairing = Pairing::default();
        let mut first = Registration::default();
        pairing.register_positions(1, (10, 20), &mut first);
        pairing.close(1, 0, first);
        pairing.tick(MEMORY - 1);
        assert!(pairing.has_positions((10, 20)));
        let mut second = Registration::default();
        let socket = socket(7, "10.0.0.1:4000", "10.0.0.2:6379");
        pairing.register_addresses(2, &socket, &mut second);
        pairing.tick(MEMORY);
        assert!(!pairing.has_positions((10, 20)));
        assert_eq!(pairing.addresses.len(), 1);
    }
}
