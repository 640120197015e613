//! Several Redis servers that belong together: a cluster, a master and its replica. And what holds for
//! whatever they refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::client::{Redis, Reply};
use crate::observer::{Observer, Options, Report, Summary};
use crate::process::{eventually, output};
use crate::server::{Server, free_port};

/// How long servers may need to find each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// Three masters that share all slots.
#[derive(Debug)]
pub struct Cluster {
    /// Its nodes; the first third of the slots belongs to the first.
    pub nodes: Vec<Server>,
}

impl Cluster {
    /// Starts it on free ports, and waits until each node serves.
    ///
    /// # Errors
    ///
    /// When redis-server or redis-cli is not installed, or the nodes do not find each other.
    pub fn start() -> Result<Self> {
        let mut nodes = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..3 {
            let (port, bus) = (free_port()?, free_port()?);
            nodes.push(cluster_node(port, bus)?);
            addresses.push(format!("127.0.0.1:{port}@{bus}"));
        }
        let create = ["--cluster", "create"].map(str::to_owned);
        let yes = ["--cluster-replicas", "0", "--cluster-yes"].map(str::to_owned);
        output("redis-cli", create.iter().chain(&addresses).chain(&yes))?;
        let cluster = Self { nodes };
        for node in &cluster.nodes {
            let mut redis = Redis::connect(("127.0.0.1", node.port))?;
            eventually(PATIENCE, "the cluster serves", || {
                Ok(text(&mut redis, &["CLUSTER", "INFO"])?.contains("cluster_state:ok"))
            })?;
        }
        Ok(cluster)
    }

    /// Which node serves a key.
    ///
    /// # Errors
    ///
    /// When the first node is gone.
    pub fn owner(&self, key: &str) -> Result<usize> {
        Ok(usize::from(self.slot(key)?) * 3 / 16_384)
    }

    /// The slot of a key.
    ///
    /// # Errors
    ///
    /// When the first node is gone.
    pub fn slot(&self, key: &str) -> Result<u16> {
        match self.connect(0)?.command(&["CLUSTER", "KEYSLOT", key])? {
            Reply::Integer(slot) => Ok(u16::try_from(slot)?),
            other => bail!("no slot: {other:?}"),
        }
    }

    /// A connection to a node.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn connect(&self, node: usize) -> Result<Redis> {
        Redis::connect(("127.0.0.1", self.nodes[node].port))
    }

    /// `host:port` of a node, as it names itself.
    #[must_use]
    pub fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[node].port)
    }
}

/// A server in cluster mode that serves no slot yet.
///
/// # Errors
///
/// When it is not installed or does not start.
pub fn cluster_node(port: u16, bus: u16) -> Result<Server> {
    let bus = bus.to_string();
    Server::redis_on(port, &["--cluster-enabled", "yes", "--cluster-port", &bus])
}

/// A replica of a server on this host, which has not taken its data yet; [`synchronized`] waits for that.
///
/// # Errors
///
/// When it is not installed or does not start.
pub fn replica(master: &Server, options: &[&str]) -> Result<Server> {
    let port = master.port.to_string();
    let replica_of = [
        "--replicaof",
        "127.0.0.1",
        &port,
        "--repl-diskless-sync-delay",
        "0",
    ];
    Server::redis_on(free_port()?, &[&replica_of, options].concat())
}

/// Waits until a replica follows its master.
///
/// # Errors
///
/// When it does not, or is gone.
pub fn synchronized(replica: &mut Redis) -> Result<()> {
    eventually(PATIENCE, "the replica follows its master", || {
        Ok(text(replica, &["INFO", "replication"])?.contains("master_link_status:up"))
    })
}

/// A reply that is a text.
///
/// # Errors
///
/// When the connection ends, or it is another.
pub fn text(redis: &mut Redis, words: &[&str]) -> Result<String> {
    match redis.command(words)? {
        Reply::Bulk(Some(text)) => Ok(String::from_utf8(text)?),
        other => bail!("{words:?} is answered by {other:?}"),
    }
}

/// Watches servers, with a span for every command.
///
/// # Errors
///
/// As [`Options::start`].
pub fn watch(ports: &[u16]) -> Result<Observer> {
    let options = Options::new().with("--spans-pipeline", "commands");
    ports
        .iter()
        .fold(options, |options, port| options.redis(*port))
        .start()
}

/// Sends a command that is refused with this error.
///
/// # Errors
///
/// When it is not, or the connection ends.
pub fn refused(redis: &mut Redis, prefix: &str, words: &[&str]) -> Result<()> {
    match redis.command(words)? {
        Reply::Error(error) if error.split(' ').next() == Some(prefix) => Ok(()),
        other => bail!("{words:?}: {other:?} in place of {prefix}"),
    }
}

/// Sends commands that succeed.
///
/// # Errors
///
/// When one does not, or the connection ends.
pub fn done(redis: &mut Redis, commands: &[&[&str]]) -> Result<()> {
    for words in commands {
        let reply = redis.command(words)?;
        ensure!(!matches!(reply, Reply::Error(_)), "{words:?}: {reply:?}");
    }
    Ok(())
}

/// Spans of commands: those of batches are left out.
pub fn commands(report: &Report) -> impl Iterator<Item = &Value> {
    report.spans.iter().filter(|span| {
        let name = span["name"].as_str().unwrap_or_default();
        let batch = name.starts_with("PIPELINE ") || name.starts_with("MULTI ");
        !(batch && span["parent_span_id"].is_null())
    })
}

/// Checks what holds for every error and every redirect, and gives how often there was which.
///
/// # Errors
///
/// When a span says it otherwise, or the summary counts other errors.
pub fn check_errors(report: &Report) -> Result<BTreeMap<String, u64>> {
    let mut codes = BTreeMap::new();
    let mut failed: BTreeMap<&str, u64> = BTreeMap::new();
    for span in commands(report) {
        let attributes = &span["attributes"];
        let (redirect, error) = (&attributes["cache.redirect"], &attributes["error.type"]);
        let Some(code) = attributes["db.response.status_code"].as_str() else {
            ensure!(redirect.is_null(), "{span}");
            continue;
        };
        *codes.entry(code.to_owned()).or_insert(0) += 1;
        let status = &span["status"]["code"];
        if matches!(code, "MOVED" | "ASK") {
            ensure!(redirect.is_string() && error.is_null(), "{span}");
            ensure!(status == "UNSET", "{span}");
        } else {
            ensure!(redirect.is_null() && error == code, "{span}");
            ensure!(status == "ERROR", "{span}");
            let operation = attributes["db.operation.name"].as_str().unwrap_or_default();
            *failed.entry(operation).or_insert(0) += 1;
        }
    }
    let summary = &report.summary.0;
    for (operation, numbers) in summary["operations"]["redis"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let wanted = failed.get(operation.as_str()).copied().unwrap_or(0);
        ensure!(
            numbers["errors"] == wanted,
            "{operation}: {wanted} failed, {summary}"
        );
    }
    Ok(codes)
}

/// Nothing was lost, guessed or left over.
///
/// # Errors
///
/// When something was.
pub fn complete(summary: &Summary) -> Result<()> {
    for total in [
        "unanswered",
        "unresolved",
        "orphaned_replies",
        "lost_bytes",
        "resynchronizations",
    ] {
        ensure!(summary.total(total) == 0, "{total} in {}", summary.0);
    }
    Ok(())
}
