//! What every source delivers: one event for each piece of payload or change of a connection.

pub use super::address::{Address, SocketName};

/// Nanoseconds on the source's clock: monotonic for live traffic, since the Unix epoch for captures.
///
/// [`Clock`] turns it into Unix time.
pub type Nanos = u64;

/// Turns a source's [`Nanos`] into nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    /// Unix time minus source time, nanoseconds.
    pub offset: i64,
}

impl Clock {
    /// Nanoseconds since the Unix epoch for a time of this source.
    #[must_use]
    pub fn unix_nanos(self, time: Nanos) -> u64 {
        time.saturating_add_signed(self.offset)
    }
}

/// One socket, that is, one end of a connection.
///
/// Addresses alone do not identify it: namespaces repeat them. A kernel `sock` pointer alone does not
/// either: the kernel reuses it. Together they do, from establishment to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId {
    /// Address of the kernel's `struct sock`, or inode number of a unix socket; a number of the source's own for captures.
    pub sk: u64,
    /// Inode of the network namespace; 0 for captures.
    pub netns: u32,
    /// This end.
    pub local: Address,
    /// The other end.
    pub remote: Address,
}

impl SocketId {
    /// The server's address, given which end this is.
    #[must_use]
    pub fn server(&self, end: End) -> Address {
        match end {
            End::Client => self.remote,
            End::Server => self.local,
        }
    }

    /// The client's address, given which end this is.
    #[must_use]
    pub fn client(&self, end: End) -> Address {
        match end {
            End::Client => self.local,
            End::Server => self.remote,
        }
    }
}

/// The thread that made the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Task {
    /// Process id in the initial pid namespace (the kernel's `tgid`).
    pub pid: u32,
    /// Thread id (the kernel's `pid`).
    pub tid: u32,
    /// Id of the cgroup in the v2 hierarchy; 0 when there is none.
    pub cgroup: u64,
    /// The thread's name, NUL-padded.
    pub comm: [u8; 16],
}

/// Which way bytes crossed the observed socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Out of the observed process.
    Send,
    /// Into the observed process.
    Receive,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub fn reverse(self) -> Self {
        match self {
            Direction::Send => Direction::Receive,
            Direction::Receive => Direction::Send,
        }
    }
}

/// Which end of the connection the observed socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// It has connected: it sent the SYN.
    Client,
    /// It accepted the connection.
    Server,
}

/// What ended a connection, or an attempt at one, other than a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nobody listens there.
    Refused,
    /// The other end sent a reset.
    Reset,
    /// No answer, until the kernel gave up.
    TimedOut,
    /// The network said that there is no way there.
    Unreachable,
    /// Ended from outside, such as by `ss --kill`.
    Aborted,
    /// Anything else.
    Other,
}

impl Fault {
    /// Every fault, in declaration order.
    pub const ALL: [Fault; 6] = [
        Fault::Refused,
        Fault::Reset,
        Fault::TimedOut,
        Fault::Unreachable,
        Fault::Aborted,
        Fault::Other,
    ];
}

/// Why payload that the application moved was not captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Uncaptured {
    /// Beyond the capture limit of one call, or beyond a capture file's snapshot length.
    Limit,
    /// Moved by a call whose buffer cannot be read there: io_uring, splice, sendfile, sendmmsg and the like.
    Unreadable,
    /// The buffer was not mapped when the hook read it.
    Fault,
}

/// One event of a source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event<'a> {
    /// When the call returned, or the packet was captured.
    pub time: Nanos,
    /// The socket it happened on.
    pub socket: SocketId,
    /// The thread that made the call. `None` where the source cannot know (captures, softirq).
    pub task: Option<Task>,
    /// What happened.
    pub kind: EventKind<'a>,
}

/// What happened on a socket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EventKind<'a> {
    /// Payload moved.
    Data(Data<'a>),
    /// A datagram moved, or a piece of one. [`SocketId::remote`] is its other end, also where the socket is not connected;
    /// its port is 0 where that could not be known. [`SocketId::local`] has no address where the socket is bound to none.
    Datagram(Datagram<'a>),
    /// `connect` was called. Local port and address may still be unset: match it by `sk`.
    Connecting,
    /// The handshake is complete.
    Established {
        /// Which end this socket is.
        end: End,
        /// TCP sequence number of the first byte that this end will send, if known.
        send_position: Option<u32>,
        /// TCP sequence number of the first byte that this end will receive, if known.
        receive_position: Option<u32>,
    },
    /// The connection, or the attempt at one, is gone; the socket sends and receives no more.
    Closed {
        /// What ended it, where it was neither end's close.
        fault: Option<Fault>,
        /// Where its streams ended, if known.
        rest: Option<Rest>,
    },
}

impl<'a> EventKind<'a> {
    /// The bytes captured, if there are any.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        match self {
            Self::Data(data) => data.payload,
            Self::Datagram(datagram) => datagram.payload,
            Self::Connecting | Self::Established { .. } | Self::Closed { .. } => &[],
        }
    }

    /// Which way payload moved, and how many bytes of it, captured or not; `None` for a change of state.
    #[must_use]
    pub fn moved(&self) -> Option<(Direction, u32)> {
        match self {
            Self::Data(data) => Some((data.direction, data.length)),
            Self::Datagram(datagram) => Some((datagram.direction, datagram.length)),
            Self::Connecting | Self::Established { .. } | Self::Closed { .. } => None,
        }
    }
}

/// Where the streams of a socket that is closed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// TCP sequence number behind the last byte that was sent.
    pub sent: u32,
    /// TCP sequence number behind the last byte that was taken.
    pub taken: u32,
    /// Bytes that have arrived and can still be taken.
    pub unread: u32,
}

/// One piece of payload: `length` bytes of the stream, of which the first `payload.len()` are here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Data<'a> {
    /// Which way.
    pub direction: Direction,
    /// When the call began, where the source knows; else equal to [`Event::time`].
    pub started: Nanos,
    /// TCP sequence number of the first byte.
    pub position: u32,
    /// The position of the other direction at that moment: for a send the next byte to receive, for a
    /// receive the next byte to send. `None` where the source cannot know.
    pub opposite: Option<u32>,
    /// Bytes of the stream that this event stands for, at least `payload.len()`.
    pub length: u32,
    /// The bytes captured.
    pub payload: &'a [u8],
    /// Why `payload` is shorter than `length`; `None` when it is not.
    pub uncaptured: Option<Uncaptured>,
    /// Whether this is a further piece of the same call as the event before it on this socket.
    pub continued: bool,
    /// Whether the connection was not established yet: data that travels with the SYN (TCP Fast Open).
    pub opening: bool,
}

/// A piece of a datagram: `length` bytes of it, of which the first `payload.len()` are here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Datagram<'a> {
    /// Which way.
    pub direction: Direction,
    /// When the call began, where the source knows; else equal to [`Event::time`]. Pieces of a datagram have the times of
    /// the one call.
    pub started: Nanos,
    /// Where the piece begins, bytes.
    pub offset: u32,
    /// Bytes of the whole datagram.
    pub total: u32,
    /// Bytes that this event stands for.
    pub length: u32,
    /// The bytes captured.
    pub payload: &'a [u8],
    /// Why `payload` is shorter than `length`; `None` when it is not.
    pub uncaptured: Option<Uncaptured>,
}
