//! Connections from before the observation.

use rustc_hash::FxHashSet;

use super::super::early;
use super::{Flows, Handler, Verdict, verdict};
use crate::source::event::{End, SocketId, Task};

impl<H: Handler> Flows<H> {
    /// Connections from before the observation will be told by [`Self::adopt`]: until then it is noted which ones end.
    pub fn expect_older(&mut self) {
        self.early.expect();
    }

    /// Takes in connections that were there before the observation, each with who holds it, as they were found at some time
    /// after [`Self::expect_older`]. Only clients' ends are taken.
    pub fn adopt(&mut self, found: &[(SocketId, Task)], handler: &mut H) {
        let known: FxHashSet<early::Key> = self
            .slots
            .iter()
            .flatten()
            .map(|slot| early::key(&slot.flow.socket))
            .collect();
        let Some(closed) = self.early.expected() else {
            return;
        };
        for (socket, task) in found {
            let key = early::key(socket);
            let wanted = self.options.ports.expects(socket.remote)
                && !self.options.ports.expects(socket.local)
                && verdict(self.options.role, End::Client, socket) == Verdict::Reported;
            if wanted
                && !known.contains(&key)
                && !closed.contains(&key)
                && self.early.older.len() < self.options.max_flows
            {
                self.early.older.insert(key, handler.older(socket, task));
            }
        }
    }
}
