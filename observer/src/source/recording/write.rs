//! Writes recordings.

use std::io::{self, Write};
use std::net::SocketAddr;

use super::super::event::{
    Address, Direction, End, Event, EventKind, Fault, SocketId, SocketName, Task, Uncaptured,
};
use super::{About, Frame, MAGIC, MAX_FRAME, VERSION};

/// Numbers of frames.
pub(super) mod kind {
    pub(in super::super) const ABOUT: u8 = 0;
    pub(in super::super) const DATA: u8 = 1;
    pub(in super::super) const DATAGRAM: u8 = 2;
    pub(in super::super) const CONNECTING: u8 = 3;
    pub(in super::super) const ESTABLISHED: u8 = 4;
    pub(in super::super) const CLOSED: u8 = 5;
    pub(in super::super) const TICK: u8 = 6;
    pub(in super::super) const CLOCK: u8 = 7;
    pub(in super::super) const PROCESS: u8 = 8;
    pub(in super::super) const OLDER: u8 = 9;
    pub(in super::super) const LOSSES: u8 = 10;
    pub(in super::super) const END: u8 = 11;
    pub(in super::super) const SOCKET: u8 = 12;
    pub(in super::super) const SERVER: u8 = 13;
}

/// Numbers of address families.
pub(super) mod family {
    pub(in super::super) const UNIX: u8 = 1;
    pub(in super::super) const V4: u8 = 4;
    pub(in super::super) const V6: u8 = 6;
}

/// The captured bytes of an event: what is not said is zero.
#[derive(Debug, Default)]
pub struct Payload {
    /// Captured bytes.
    pub length: u32,
    /// Where bytes stand that are kept, in order and apart from each other.
    pub runs: Vec<(u32, Vec<u8>)>,
}

impl Payload {
    /// These bytes stand at `at`, behind all others.
    pub fn push(&mut self, at: u32, bytes: &[u8]) {
        match self.runs.last_mut() {
            Some((start, run)) if *start as usize + run.len() == at as usize => {
                run.extend_from_slice(bytes);
            }
            _ => self.runs.push((at, bytes.to_vec())),
        }
    }

    /// Appends it to a [`head`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.length.to_le_bytes());
        let mut at = 0;
        for (start, bytes) in &self.runs {
            out.extend(start.saturating_sub(at).to_le_bytes());
            out.extend((bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
            at = start.saturating_add(bytes.len() as u32);
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    /// Bytes written.
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a recording.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(mut output: W, about: &About) -> io::Result<Self> {
        output.write_all(&MAGIC)?;
        output.write_all(&VERSION.to_le_bytes())?;
        let mut writer = Self {
            output,
            written: 12,
        };
        let mut body = vec![kind::ABOUT];
        serde_json::to_writer(&mut body, about)?;
        writer.body(&body)?;
        Ok(writer)
    }

    /// Writes a frame whose body is this.
    ///
    /// # Errors
    /// When it cannot be written, or is longer than [`MAX_FRAME`].
    pub fn body(&mut self, body: &[u8]) -> io::Result<()> {
        if body.len() > MAX_FRAME {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.output.write_all(&(body.len() as u32).to_le_bytes())?;
        self.output.write_all(body)?;
        self.output
            .write_all(&crc32fast::hash(body).to_le_bytes())?;
        self.written += body.len() as u64 + 8;
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Hands on what is buffered.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The body of a frame, of an event without its payload. A [`Payload`] must follow those that have one.
pub fn head(frame: &Frame<'_>, out: &mut Vec<u8>) {
    match frame {
        Frame::Event(event) => self::event(event, out),
        Frame::Tick(time) => {
            out.push(kind::TICK);
            out.extend(time.to_le_bytes());
        }
        Frame::Clock(offset) => {
            out.push(kind::CLOCK);
            out.extend(offset.to_le_bytes());
        }
        Frame::Process(process) => {
            out.push(kind::PROCESS);
            // Strings and numbers only: it cannot fail.
            let _ = serde_json::to_writer(out, process);
        }
        Frame::Server(server) => {
            out.push(kind::SERVER);
            let _ = serde_json::to_writer(out, server);
        }
        Frame::Older(sockets) => {
            out.push(kind::OLDER);
            out.extend((sockets.len() as u32).to_le_bytes());
            for (id, task) in sockets {
                socket(id, out);
                self::task(Some(task), out);
            }
        }
        Frame::Socket(socket, memcached) => {
            out.push(kind::SOCKET);
            out.push((*memcached).into());
            name(Some(*socket), out);
        }
        Frame::Losses(losses) => {
            out.push(kind::LOSSES);
            for number in [losses.ring_full, losses.recursion, losses.record] {
                out.extend(number.to_le_bytes());
            }
        }
        Frame::End(ended) => {
            out.push(kind::END);
            for number in [ended.time, ended.events, ended.undecided] {
                out.extend(number.to_le_bytes());
            }
        }
    }
}

fn event(event: &Event<'_>, out: &mut Vec<u8>) {
    out.push(match event.kind {
        EventKind::Data(_) => kind::DATA,
        EventKind::Datagram(_) => kind::DATAGRAM,
        EventKind::Connecting => kind::CONNECTING,
        EventKind::Established { .. } => kind::ESTABLISHED,
        EventKind::Closed { .. } => kind::CLOSED,
    });
    out.extend(event.time.to_le_bytes());
    socket(&event.socket, out);
    task(event.task.as_ref(), out);
    match &event.kind {
        EventKind::Data(data) => {
            out.push(direction(data.direction));
            out.extend(data.started.to_le_bytes());
            out.extend(data.position.to_le_bytes());
            position(data.opposite, out);
            out.extend(data.length.to_le_bytes());
            out.push(uncaptured(data.uncaptured));
            out.push(data.continued.into());
            out.push(data.opening.into());
        }
        EventKind::Datagram(datagram) => {
            out.push(direction(datagram.direction));
            out.extend(datagram.started.to_le_bytes());
            for number in [datagram.offset, datagram.total, datagram.length] {
                out.extend(number.to_le_bytes());
            }
            out.push(uncaptured(datagram.uncaptured));
        }
        EventKind::Connecting => {}
        EventKind::Established {
            end,
            send_position,
            receive_position,
        } => {
            out.push(match end {
                End::Client => 0,
                End::Server => 1,
            });
            position(*send_position, out);
            position(*receive_position, out);
        }
        EventKind::Closed { fault, rest } => {
            let place = |fault| Fault::ALL.iter().position(|one| *one == fault);
            out.push(fault.and_then(place).map_or(0, |place| place as u8 + 1));
            out.push(rest.is_some().into());
            if let Some(rest) = rest {
                for number in [rest.sent, rest.taken, rest.unread] {
                    out.extend(number.to_le_bytes());
                }
            }
        }
    }
}

fn direction(direction: Direction) -> u8 {
    match direction {
        Direction::Send => 0,
        Direction::Receive => 1,
    }
}

fn uncaptured(reason: Option<Uncaptured>) -> u8 {
    match reason {
        None => 0,
        Some(Uncaptured::Limit) => 1,
        Some(Uncaptured::Unreadable) => 2,
        Some(Uncaptured::Fault) => 3,
    }
}

fn position(position: Option<u32>, out: &mut Vec<u8>) {
    out.push(position.is_some().into());
    out.extend(position.unwrap_or(0).to_le_bytes());
}

fn socket(socket: &SocketId, out: &mut Vec<u8>) {
    out.extend(socket.sk.to_le_bytes());
    out.extend(socket.netns.to_le_bytes());
    address(&socket.local, out);
    address(&socket.remote, out);
}

fn address(address: &Address, out: &mut Vec<u8>) {
    let inet = match address {
        Address::Inet(inet) => inet,
        Address::Unix { name, client } => {
            out.push(family::UNIX);
            out.extend(client.to_le_bytes());
            return self::name(*name, out);
        }
    };
    match inet {
        SocketAddr::V4(v4) => {
            out.push(family::V4);
            out.extend(v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            out.push(family::V6);
            out.extend(v6.ip().octets());
            out.extend(v6.scope_id().to_le_bytes());
        }
    }
    out.extend(inet.port().to_le_bytes());
}

/// The name of a unix socket; none is empty.
fn name(name: Option<SocketName>, out: &mut Vec<u8>) {
    let text = name.map(SocketName::text);
    let bytes = text.as_deref().unwrap_or_default().as_bytes();
    out.extend((bytes.len() as u16).to_le_bytes());
    out.extend(bytes);
}

fn task(task: Option<&Task>, out: &mut Vec<u8>) {
    out.push(task.is_some().into());
    if let Some(task) = task {
        out.extend(task.pid.to_le_bytes());
        out.extend(task.tid.to_le_bytes());
        out.extend(task.cgroup.to_le_bytes());
        out.extend(task.comm);
    }
}
