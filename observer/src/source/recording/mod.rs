//! Recordings: events of a source in a file, with what else their replay needs. The format is described in `docs/recordings.md`.
//!
//! Nothing here masks anything: what is written is what is given.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod read;
mod write;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::event::{Event, Nanos, SocketId, SocketName, Task};

pub use read::Reader;
pub use write::{Payload, Writer, head};

/// First bytes of a recording.
pub const MAGIC: [u8; 8] = *b"cacherec";
/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// Most bytes of a frame's body.
pub const MAX_FRAME: usize = 1 << 20;
/// Most bytes of a payload: packets of captures have up to 256 KiB.
pub const MAX_PAYLOAD: usize = 1 << 19;
/// Most sockets in one [`Frame::Older`].
pub const MAX_OLDER: usize = 4_096;

/// Where a recording's events are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The kernel: times are monotonic, and calls never repeat bytes.
    Live,
    /// A capture file.
    Capture,
}

/// What a recording says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Version of the observer that wrote it.
    pub observer: String,
    /// Where its events are from.
    pub source: Origin,
    /// Release of the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Hooks that were used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Version of the records that crossed the ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u8>,
    /// Ports taken as Redis.
    pub redis_ports: Vec<u16>,
    /// Ports taken as Memcached.
    pub memcached_ports: Vec<u16>,
    /// Which end was recorded, as `--role` says it.
    pub role: String,
    /// How keys appear, as `--keys` says it.
    pub keys: String,
}

/// What was known of an observed process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// `service.name`.
    pub service: String,
    /// Whether it has given itself that name: no rule of the replay's gives it another.
    #[serde(default)]
    pub named: bool,
    /// `process.executable.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// `container.id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `host.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `k8s.pod.uid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// `k8s.pod.qos_class`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_qos: Option<String>,
    /// `k8s.pod.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// `k8s.namespace.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `k8s.node.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `systemd.unit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// What a process calls a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerName {
    /// The process's number.
    pub pid: u32,
    /// Where the server is.
    pub address: IpAddr,
    /// `server.address`.
    pub name: String,
}

/// What did not reach the recorder, since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Records that found the ring full.
    pub ring_full: u64,
    /// Hooks that were skipped.
    pub recursion: u64,
    /// Records that could not be understood.
    pub record: u64,
}

/// How a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ended {
    /// When, on the source's clock.
    pub time: Nanos,
    /// Events in it.
    pub events: u64,
    /// Captured bytes of them that are hidden because nothing was decided on them in time.
    pub undecided: u64,
}

/// One frame of a recording.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame<'a> {
    /// An event of the source.
    Event(Event<'a>),
    /// Time has passed without one.
    Tick(Nanos),
    /// Unix time minus source time from now on, nanoseconds.
    Clock(i64),
    /// A process whose events follow.
    Process(Process),
    /// What it calls a server that it connects to.
    Server(ServerName),
    /// Connections from before the recording: clients' sockets, and who holds them.
    Older(Vec<(SocketId, Task)>),
    /// A unix socket that is watched from now on, and whether it is Memcached's.
    Socket(SocketName, bool),
    /// What was lost until now.
    Losses(Losses),
    /// The end.
    End(Ended),
}

/// Why a recording cannot be read on.
#[derive(Debug)]
pub enum Fault {
    /// The file cannot be read.
    Io(std::io::Error),
    /// Of a version that is not known.
    Version(u32),
    /// It ends within a frame, or without the last.
    CutOff,
    /// A frame whose checksum is wrong.
    Checksum,
    /// A field has a value without a meaning.
    Field(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Version(version) => {
                write!(
                    f,
                    "a recording of version {version}, not of version {VERSION}"
                )
            }
            Self::CutOff => f.write_str("the recording was not ended"),
            Self::Checksum => f.write_str("damaged: the checksum of a frame is wrong"),
            Self::Field(field) => write!(f, "damaged: {field} cannot be that"),
        }
    }
}
