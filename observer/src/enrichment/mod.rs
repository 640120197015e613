//! Whose traffic it is: the process, container and service behind a socket, and names for servers.

mod cgroup;
mod cgroups;
mod pods;
mod process;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::export::Export;
use crate::source::event::{Clock, End};
use crate::transaction::Exchange;

pub use cgroup::Qos;
pub(crate) use process::percent_decoded;
pub use process::{Enricher, Places, host_name};

/// The observed process, as an OpenTelemetry resource.
#[derive(Debug, Clone, PartialEq, Default)]
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
    /// The pod it runs in.
    pub pod: Option<Pod>,
    /// `k8s.node.name`, of processes in pods.
    pub node: Option<String>,
    /// The systemd unit it runs in, if in no container.
    pub unit: Option<String>,
    /// `host.name`.
    pub host: Option<String>,
}

/// A pod, as its node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `k8s.pod.uid`.
    pub uid: String,
    /// Its class of service.
    pub qos: Qos,
    /// `k8s.namespace.name`, where the node's folder of pod logs tells.
    pub namespace: Option<String>,
    /// `k8s.pod.name`, likewise.
    pub name: Option<String>,
}

/// How two endpoints talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Over a connection.
    #[default]
    Tcp,
    /// In datagrams.
    Udp,
}

impl Transport {
    /// `network.transport`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What is fixed for all transactions of a connection, or of two endpoints that exchange datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The end that is reported: decides the span's kind.
    pub end: End,
    /// `server.address` and `server.port`.
    pub server: SocketAddr,
    /// The client's address.
    pub client: SocketAddr,
    /// `cache.name`.
    pub cache: String,
    /// `network.transport`.
    pub transport: Transport,
}

impl Endpoint {
    /// The end `end` of a TCP connection from `client` to `server`; `cache.name` is the server's address and port.
    #[must_use]
    pub fn new(end: End, server: SocketAddr, client: SocketAddr) -> Self {
        Self {
            end,
            server,
            client,
            cache: join(server),
            transport: Transport::Tcp,
        }
    }

    /// The same over UDP.
    #[must_use]
    pub fn udp(end: End, server: SocketAddr, client: SocketAddr) -> Self {
        Self {
            transport: Transport::Udp,
            ..Self::new(end, server, client)
        }
    }

    /// `network.peer.address` and `network.peer.port`: the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        match self.end {
            End::Client => self.server,
            End::Server => self.client,
        }
    }
}

/// `address:port`; an IPv6 address stands in brackets, without its zone.
pub(crate) fn join(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => format!("{ip}:{}", address.port()),
        IpAddr::V6(ip) => format!("[{ip}]:{}", address.port()),
    }
}

/// A transaction, or several that left together, with all that is known of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// What happened.
    pub exchange: Exchange,
    /// Between whom.
    pub endpoint: Arc<Endpoint>,
    /// On whose behalf.
    pub service: Arc<Service>,
    /// What of it leaves, and how it is named.
    pub export: Arc<Export>,
    /// Turns the transactions' times into Unix time.
    pub clock: Clock,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_named_after_their_server() {
        for (server, name) in [
            ("10.0.0.7:6379", "10.0.0.7:6379"),
            ("[::1]:11211", "[::1]:11211"),
            ("[fe80::1%3]:6379", "[fe80::1]:6379"),
        ] {
            let server = server.parse().unwrap();
            let client = "10.0.0.9:40000".parse().unwrap();
            let endpoint = Endpoint::new(End::Server, server, client);
            assert_eq!(endpoint.cache, name);
            assert_eq!(endpoint.peer(), client);
        }
    }
}
