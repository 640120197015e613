//! Which end of a connection is reported.

use std::net::IpAddr;

use crate::source::event::{Address, End, SocketId, SocketName};

/// Which end of a connection is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// The client's end; the server's where the client is on another host.
    #[default]
    Auto,
    /// Clients' ends only.
    Client,
    /// Servers' ends only.
    Server,
    /// Every end; those of one connection together.
    Both,
}

impl Role {
    /// Whether it matters which two sockets of this host are the ends of one connection.
    pub(super) fn pairs(self) -> bool {
        matches!(self, Role::Auto | Role::Both)
    }
}

/// The ports and unix sockets on which servers are watched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports {
    ports: Vec<u16>,
    sockets: Vec<SocketName>,
}

impl Ports {
    /// A set of ports.
    #[must_use]
    pub fn new(mut ports: Vec<u16>) -> Self {
        ports.sort_unstable();
        ports.dedup();
        Self {
            ports,
            sockets: Vec::new(),
        }
    }

    /// Whether a server is expected there.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.ports.binary_search(&port).is_ok()
    }

    /// Whether a server is expected there.
    #[must_use]
    pub fn expects(&self, address: Address) -> bool {
        match address {
            Address::Inet(address) => self.contains(address.port()),
            Address::Unix { name, .. } => name.is_some_and(|name| self.sockets.contains(&name)),
        }
    }

    /// A server is expected at this unix socket, too.
    pub fn add(&mut self, name: SocketName) {
        if !self.sockets.contains(&name) {
            self.sockets.push(name);
        }
    }

    /// The unix sockets of `other` in place of its own.
    #[must_use]
    pub fn with_sockets_of(self, other: &Self) -> Self {
        Self {
            sockets: other.sockets.clone(),
            ..self
        }
    }
}

/// Whether a flow is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Reported,
    /// Not yet known whether, or together with which other: the other end may be on this host too.
    Undecided,
    /// It is not: the other end is reported instead.
    Redundant,
}

/// What can be said of a flow at its beginning.
pub(super) fn verdict(role: Role, end: End, socket: &SocketId) -> Verdict {
    match (role, end) {
        (Role::Client | Role::Auto | Role::Both, End::Client) | (Role::Server, End::Server) => {
            Verdict::Reported
        }
        (Role::Client, End::Server) | (Role::Server, End::Client) => Verdict::Redundant,
        (Role::Auto, End::Server) if is_local(socket) => Verdict::Redundant,
        (Role::Auto | Role::Both, End::Server) => Verdict::Undecided,
    }
}

/// Whether both ends of a socket are certainly on this host.
fn is_local(socket: &SocketId) -> bool {
    let loopback = |address: IpAddr| address.is_loopback();
    let (Some(local), Some(remote)) = (socket.local.inet(), socket.remote.inet()) else {
        return true;
    };
    let (local, remote) = (local.ip(), remote.ip());
    local == remote || (loopback(local) && loopback(remote))
}
