//! Whose traffic it is: the process, container and service behind a socket, and names for servers.

mod cgroup;
mod cgroups;
mod environment;
mod hosts;
mod pods;
mod process;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::export::Export;
use crate::config::rules::Who;
use crate::source::event::{Address, Clock, End};
use crate::transaction::Exchange;

pub use cgroup::Qos;
pub(crate) use environment::percent_decoded;
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

impl Service {
    /// What rules look at.
    #[must_use]
    pub fn who(&self) -> Who<'_> {
        let pod = self.pod.as_ref();
        Who {
            service: Some(&self.name),
            executable: self.executable.as_deref(),
            container: self.container.as_deref(),
            unit: self.unit.as_deref(),
            namespace: pod.and_then(|pod| pod.namespace.as_deref()),
            pod: pod.and_then(|pod| pod.name.as_deref()),
        }
    }
}

/// A pod, as its node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `k8s.pod.uid`.
    pub uid: String,
    /// Its class of service; `None` where the path of its cgroup, or a recording, does not tell.
    pub qos: Option<Qos>,
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
    /// Over a unix socket.
    Unix,
}

impl Transport {
    /// `network.transport`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unix => "unix",
        }
    }
}

/// What is fixed for all transactions of a connection, or of two endpoints that exchange datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The end that is reported: decides the span's kind.
    pub end: End,
    /// The server's address, the same for all its connections.
    pub server: Address,
    /// The client's address.
    pub client: Address,
    /// `server.address`, where it is a name.
    pub name: Option<Arc<str>>,
    /// `cache.name`.
    pub cache: String,
    /// `network.transport`.
    pub transport: Transport,
}

impl Endpoint {
    /// The end `end` of a connection from `client` to `server`; `cache.name` is the server's address and port, or socket.
    #[must_use]
    pub fn new(end: End, server: Address, client: Address) -> Self {
        let (server, transport) = match server {
            Address::Inet(_) => (server, Transport::Tcp),
            Address::Unix { name, .. } => (Address::Unix { name, client: 0 }, Transport::Unix),
        };
        Self {
            end,
            server,
            client,
            name: None,
            cache: join(server),
            transport,
        }
    }

    /// The same of two endpoints that exchange datagrams.
    #[must_use]
    pub fn udp(end: End, server: SocketAddr, client: SocketAddr) -> Self {
        Self {
            transport: Transport::Udp,
            ..Self::new(end, server.into(), client.into())
        }
    }

    /// The same with other names. Without one of its own the cache is called as its server is, with its port.
    #[must_use]
    pub fn named(&self, name: Option<Arc<str>>, cache: Option<String>) -> Self {
        let mut named = Self {
            name,
            ..self.clone()
        };
        named.cache = cache.unwrap_or_else(|| named.authority());
        named
    }

    /// `server.address`: a name, an IP address, or a socket's name.
    #[must_use]
    pub fn server_address(&self) -> String {
        match (&self.name, self.server) {
            (Some(name), _) => (**name).to_owned(),
            (None, Address::Inet(server)) => server.ip().to_string(),
            (None, Address::Unix { .. }) => self.server.to_string(),
        }
    }

    /// `server.address` and `server.port`, as spans and caches are called.
    #[must_use]
    pub fn authority(&self) -> String {
        match (&self.name, self.server) {
            (Some(name), Address::Inet(server)) => format!("{name}:{}", server.port()),
            _ => join(self.server),
        }
    }

    /// `network.peer.address` and `network.peer.port`: the other end. A unix socket has none.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        match self.end {
            End::Client => self.server.inet(),
            End::Server => self.client.inet(),
        }
    }
}

/// `address:port`; an IPv6 address stands in brackets, without its zone. A unix socket's name.
pub(crate) fn join(address: Address) -> String {
    match address {
        Address::Unix { .. } => address.to_string(),
        Address::Inet(address) => match address.ip() {
            IpAddr::V4(ip) => format!("{ip}:{}", address.port()),
            IpAddr::V6(ip) => format!("[{ip}]:{}", address.port()),
        },
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
    use crate::source::event::SocketName;

    #[test]
    fn caches_are_named_after_their_server() {
        for (server, name) in [
            ("10.0.0.7:6379", "10.0.0.7:6379"),
            ("[::1]:11211", "[::1]:11211"),
            ("[fe80::1%3]:6379", "[fe80::1]:6379"),
        ] {
            let server = server.parse().unwrap();
            let client: Address = "10.0.0.9:40000".parse().unwrap();
            let endpoint = Endpoint::new(End::Server, server, client);
            assert_eq!(endpoint.cache, name);
            assert_eq!(endpoint.peer(), client.inet());
            let port = server.port().unwrap();
            let named = endpoint.named(Some("redis-1".into()), None);
            assert_eq!(named.cache, format!("redis-1:{port}"));
            assert_eq!(named.server_address(), "redis-1");
            assert_eq!(named.server, server);
            let both = named.named(Some("redis-1".into()), Some("sessions".to_owned()));
            assert_eq!(
                (both.cache.as_str(), both.authority()),
                ("sessions", named.cache)
            );
            assert_eq!(both.named(None, None), endpoint);
        }
    }

    #[test]
    fn connections_of_a_unix_socket_have_one_server() {
        let name = SocketName::new("/run/a.sock").ok();
        let of = |client| {
            let end = Address::Unix { name: None, client };
            Endpoint::new(End::Client, Address::Unix { name, client }, end)
        };
        assert_eq!(of(1).server, of(2).server);
        assert_eq!(of(1).cache, "/run/a.sock");
        assert_eq!(of(1).server_address(), "/run/a.sock");
        assert_eq!((of(1).peer(), of(1).transport.name()), (None, "unix"));
    }
}
