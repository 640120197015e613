//! Clients' sockets that have no flow yet: those that connect, and those from before the observation.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::source::event::{Address, SocketId};

/// Namespace, this end, the other end: what tells a connection whose `struct sock` is not known.
pub(super) type Key = (u32, Address, Address);

pub(super) fn key(socket: &SocketId) -> Key {
    (socket.netns, socket.local, socket.remote)
}

/// What is kept of them.
#[derive(Debug)]
pub(super) struct EarlySockets<E> {
    /// By `struct sock`: `connect` to this server was called, and nothing came of it yet.
    pub(super) connecting: FxHashMap<u64, (Address, E)>,
    /// Connections from before the observation of which nothing was seen yet.
    pub(super) older: FxHashMap<Key, E>,
    /// What has ended since older connections were expected; `None` when none are.
    ended: Option<FxHashSet<Key>>,
}

impl<E> Default for EarlySockets<E> {
    fn default() -> Self {
        Self {
            connecting: FxHashMap::default(),
            older: FxHashMap::default(),
            ended: None,
        }
    }
}

impl<E> EarlySockets<E> {
    pub(super) fn expect(&mut self) {
        self.ended = Some(FxHashSet::default());
    }

    /// What has ended since; `None` when no older connections may be taken in.
    pub(super) fn expected(&mut self) -> Option<FxHashSet<Key>> {
        self.ended.take()
    }

    /// What is kept of a socket that gets a flow now.
    pub(super) fn take(&mut self, socket: &SocketId) -> Option<E> {
        let connecting = match self.connecting.is_empty() {
            true => None,
            false => self.connecting.remove(&socket.sk).map(|(_, early)| early),
        };
        if connecting.is_some() || self.older.is_empty() {
            return connecting;
        }
        self.older.remove(&key(socket))
    }

    /// A socket has ended: what is kept of it. Beyond `most` ends that would have to be remembered older connections are given
    /// up, since one that has ended could be taken for one that has not.
    pub(super) fn closed(&mut self, socket: &SocketId, most: usize) -> Option<E> {
        if let Some(ended) = &mut self.ended {
            ended.insert(key(socket));
            if ended.len() > most {
                self.ended = None;
            }
        }
        self.take(socket)
    }

    /// What is kept of connections to servers that `which` names, which is forgotten.
    pub(super) fn give_up(&mut self, which: impl Fn(Address) -> bool) -> Vec<E> {
        let connecting = self.connecting.extract_if(|_, (server, _)| which(*server));
        let mut all: Vec<_> = connecting.map(|(_, (_, early))| early).collect();
        let older = self.older.extract_if(|(_, _, server), _| which(*server));
        all.extend(older.map(|(_, early)| early));
        all
    }

    /// All that is kept.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = E> {
        let connecting = std::mem::take(&mut self.connecting).into_values();
        let connecting = connecting.map(|(_, early)| early);
        connecting.chain(std::mem::take(&mut self.older).into_values())
    }
}
