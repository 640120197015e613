//! What becomes of a server's end whose client's end may be on this host.

use super::Flow;
use crate::stream::pairing::Pairing;
use crate::stream::role::{Role, Verdict};

impl Flow {
    /// Whether the client's end of this server's end is looked for: by its first calls.
    pub(super) fn is_alone(&self, role: Role) -> bool {
        self.verdict == Verdict::Undecided
            || role == Role::Both && self.shared.is_none() && !self.seen.is_full()
    }

    /// The client's end of this server's end, if it is on this host.
    pub(super) fn peer(&self, pairing: &Pairing) -> Option<u64> {
        let found = pairing.find(&self.seen);
        found.or_else(|| pairing.peer_of(&self.socket))
    }

    /// The client's end is `peer`, or not on this host.
    pub(super) fn decide(&mut self, role: Role, peer: Option<u64>) {
        self.verdict = match (role, peer) {
            (Role::Auto, Some(_)) => Verdict::Redundant,
            _ => Verdict::Reported,
        };
        if role == Role::Both {
            self.shared = peer;
        }
    }
}
