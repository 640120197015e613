//! Whose traffic it is: the process, container and service behind a socket, and names for servers.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::source::event::{Clock, End};
use crate::transaction::Transaction;

/// The observed process, as an OpenTelemetry resource.
#[derive(Debug, PartialEq)]
pub struct Service {
    /// A number of our own, dense from 0 and never reused.
    pub id: u32,
    /// `service.name`.
    pub name: String,
    /// `process.pid`; `None` for captures.
    pub pid: Option<u32>,
    /// `process.executable.name`, or the thread's name when the process was gone before it was looked up.
    pub executable: Option<String>,
    /// `container.id`.
    pub container: Option<String>,
    /// `host.name`.
    pub host: Option<String>,
}

/// What is fixed for all transactions of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The end that is reported: decides the span's kind.
    pub end: End,
    /// `server.address` and `server.port`.
    pub server: SocketAddr,
    /// The client's address.
    pub client: SocketAddr,
    /// `cache.name`.
    pub cache: String,
}

impl Endpoint {
    /// `network.peer.address` and `network.peer.port`: the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        match self.end {
            End::Client => self.server,
            End::Server => self.client,
        }
    }
}

/// A transaction with all that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// What happened.
    pub transaction: Transaction,
    /// Between whom.
    pub endpoint: Arc<Endpoint>,
    /// On whose behalf.
    pub service: Arc<Service>,
    /// Turns the transaction's times into Unix time.
    pub clock: Clock,
}
