//! Two services with real clients and pools, on a real Redis and a real Memcached: something for dashboards to show.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::process::{Running, python};
use crate::server::{Server, free_port};

/// The traffic of `tests/clients/python/traffic.py`; ends when dropped.
#[derive(Debug)]
pub struct Traffic {
    // Dropped first: clients complain when their servers are gone.
    shop: Running,
    crawler: Running,
    /// The Redis that both services use.
    pub redis: Server,
    /// The Memcached that `shop` uses.
    pub memcached: Server,
    /// A port where nobody listens, which `crawler` tries.
    pub closed: u16,
}

impl Traffic {
    /// Starts the servers and, once `observe` has returned, the services `shop` and `crawler`.
    ///
    /// # Errors
    ///
    /// When something is not installed or does not start.
    pub fn start<T>(observe: impl FnOnce(&Server, &Server, u16) -> Result<T>) -> Result<(Self, T)> {
        let (redis, memcached, closed) = (
            Server::redis_8(&[], &[])?,
            Server::memcached()?,
            free_port()?,
        );
        let observed = observe(&redis, &memcached, closed)?;
        let service = |name: &str| {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/traffic.py");
            let mut command = Command::new(python());
            command
                .arg(program)
                .arg(name)
                .args([redis.port, memcached.port, closed].map(|port| port.to_string()))
                .env("OTEL_SERVICE_NAME", name)
                .stdin(Stdio::null());
            Running::start(&mut command)
        };
        let (shop, crawler) = (service("shop")?, service("crawler")?);
        let traffic = Self {
            redis,
            memcached,
            closed,
            shop,
            crawler,
        };
        Ok((traffic, observed))
    }

    /// Lets `shop` empty both caches.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn empty(&self) -> Result<()> {
        self.shop.signal(Signal::USR1)
    }

    /// Ends both services; the servers stay.
    ///
    /// # Errors
    ///
    /// When one failed before.
    pub fn stop(&mut self) -> Result<()> {
        for service in [&mut self.shop, &mut self.crawler] {
            service.signal(Signal::TERM)?;
            let status = service.wait(Duration::from_secs(10))?;
            ensure!(status == 0, "traffic.py ended with {status}");
        }
        Ok(())
    }
}
