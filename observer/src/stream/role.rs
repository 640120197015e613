//! Which end of a connection is reported.

use std::net::IpAddr;

use crate::source::event::{End, SocketId};

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

/// The ports on which servers are watched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports(Vec<u16>);

impl Ports {
    /// A set of ports.
    #[must_use]
    pub fn new(mut ports: Vec<u16>) -> Self {
        ports.sort_unstable();
        ports.dedup();
        Self(ports)
    }

    /// Whether a server is expected there.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.binary_search(&port).is_ok()
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

/// Whether both ends of a socket are certainly in one network namespace.
fn is_local(socket: &SocketId) -> bool {
    let loopback = |address: IpAddr| address.is_loopback();
    let (local, remote) = (socket.local.ip(), socket.remote.ip());
    local == remote || (loopback(local) && loopback(remote))
}
