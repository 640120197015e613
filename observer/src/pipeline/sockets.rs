//! Which unix sockets are watched: those that options name, and those on which known servers listen.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};

use super::Failure;
use crate::config::Config;
use crate::protocol::Protocol;
use crate::source::event::SocketName;
use crate::source::live::{Live, LiveError};
use crate::source::unix;

/// How often servers are looked for: a few milliseconds of reading `/proc`.
const INTERVAL: Duration = Duration::from_secs(5);

/// Servers that are known by the name of their process.
const SERVERS: [(&str, Protocol); 4] = [
    ("redis-server", Protocol::Redis),
    ("valkey-server", Protocol::Redis),
    ("keydb-server", Protocol::Redis),
    ("memcached", Protocol::Memcached),
];

type Found = BTreeMap<SocketName, Protocol>;

/// The watched ones, and the search for more.
pub(super) struct Sockets {
    watched: Found,
    /// `None` where no servers are looked for.
    found: Option<Receiver<Found>>,
}

impl Sockets {
    /// Watches those that options name and those of servers that run, and goes on looking for servers. `each` is told of each.
    pub(super) fn start(
        config: &Config,
        source: &mut Live,
        each: &mut dyn FnMut(SocketName, Protocol),
    ) -> Result<Self, Failure> {
        let (redis, memcached) = (&config.redis_sockets, &config.memcached_sockets);
        let mut wanted = Found::new();
        let named = |protocol| move |name: &SocketName| (*name, protocol);
        wanted.extend(redis.names.iter().map(named(Protocol::Redis)));
        wanted.extend(memcached.names.iter().map(named(Protocol::Memcached)));
        let auto = |protocol| match protocol {
            Protocol::Redis => redis.auto,
            Protocol::Memcached => memcached.auto,
        };
        let servers: Vec<_> = SERVERS.into_iter().filter(|one| auto(one.1)).collect();
        for (name, protocol) in listening(&servers) {
            wanted.entry(name).or_insert(protocol);
        }
        let mut sockets = Self {
            watched: Found::new(),
            found: None,
        };
        let failed = |error: LiveError| Failure::Runtime(error.to_string());
        let observed = sockets.watch(wanted, source, each).map_err(failed)?;
        if observed && !servers.is_empty() {
            let (sender, receiver) = mpsc::channel();
            sockets.found = Some(receiver);
            thread::Builder::new()
                .name("sockets".to_owned())
                .spawn(move || {
                    loop {
                        thread::sleep(INTERVAL);
                        // The receiver is gone when observation is over.
                        if sender.send(listening(&servers)).is_err() {
                            return;
                        }
                    }
                })
                .map_err(|error| Failure::Runtime(error.to_string()))?;
        }
        Ok(sockets)
    }

    /// Watches what was found meanwhile.
    pub(super) fn adopt(&mut self, source: &mut Live, each: &mut dyn FnMut(SocketName, Protocol)) {
        let Some(Ok(mut found)) = self.found.as_ref().map(Receiver::try_recv) else {
            return;
        };
        found.retain(|name, _| !self.watched.contains_key(name));
        if let Err(error) = self.watch(found, source, each) {
            warn!(%error, "unix sockets cannot be watched");
        }
    }

    /// Answers whether unix sockets are observed at all.
    fn watch(
        &mut self,
        wanted: Found,
        source: &mut Live,
        each: &mut dyn FnMut(SocketName, Protocol),
    ) -> Result<bool, LiveError> {
        for (&name, &protocol) in &wanted {
            // Stages before kernel programs: no event comes of a socket that they do not know.
            each(name, protocol);
        }
        let names: Vec<_> = wanted.keys().copied().collect();
        if names.is_empty() {
            return Ok(source.observes_unix());
        }
        let observed = source.watch_sockets(&names)?;
        for (name, protocol) in &wanted {
            if observed {
                info!(protocol = protocol.name(), socket = %name.text(), "watching");
            }
        }
        self.watched.extend(wanted);
        Ok(observed)
    }
}

/// The sockets on which these servers listen.
fn listening(servers: &[(&'static str, Protocol)]) -> Found {
    let names: Vec<_> = servers.iter().map(|(name, _)| *name).collect();
    unix::listeners(Path::new("/proc"), &names)
        .into_iter()
        .filter_map(|(index, name)| Some((name, servers.get(index)?.1)))
        .collect()
}
