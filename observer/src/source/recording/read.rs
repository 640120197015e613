//! Reads recordings. The bytes are foreign: every length has a budget, and every value is checked.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::super::event::{
    Address, Data, Datagram, Direction, End, Event, EventKind, Fault as Closing, Rest, SocketId,
    SocketName, Task, Uncaptured,
};
use super::write::{family, kind};
use super::{
    About, Ended, Fault, Frame, Losses, MAGIC, MAX_FRAME, MAX_OLDER, MAX_PAYLOAD, VERSION,
};

/// Reads frames, one after the other.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    about: About,
    body: Vec<u8>,
    payload: Vec<u8>,
    /// Where the frame that was read last begins.
    offset: u64,
    next: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads what a recording says of itself. `None`: it is none.
    ///
    /// # Errors
    /// When it cannot be read, and where in it that is.
    pub fn new(mut input: R) -> Result<Option<Self>, (u64, Fault)> {
        let mut magic = [0; 8];
        match fill(&mut input, &mut magic) {
            Ok(8) if magic == MAGIC => {}
            Ok(_) => return Ok(None),
            Err(error) => return Err((0, Fault::Io(error))),
        }
        let mut version = [0; 4];
        match fill(&mut input, &mut version) {
            Ok(4) => {}
            Ok(_) => return Err((8, Fault::CutOff)),
            Err(error) => return Err((8, Fault::Io(error))),
        }
        let version = u32::from_le_bytes(version);
        if version != VERSION {
            return Err((8, Fault::Version(version)));
        }
        let mut reader = Self {
            input,
            about: About {
                observer: String::new(),
                source: super::Origin::Live,
                kernel: None,
                backend: None,
                records: None,
                redis_ports: Vec::new(),
                memcached_ports: Vec::new(),
                role: String::new(),
                keys: String::new(),
            },
            body: Vec::new(),
            payload: Vec::new(),
            offset: 12,
            next: 12,
            ended: false,
        };
        reader.read_body().map_err(|fault| (12, fault))?;
        let about = match reader.body.split_first() {
            Some((&kind::ABOUT, json)) => serde_json::from_slice(json).ok(),
            _ => None,
        };
        reader.about = about.ok_or((12, Fault::Field("what the recording says of itself")))?;
        Ok(Some(reader))
    }

    /// What it says of itself.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Where the last frame begins, bytes from the beginning of the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame; `None` behind [`Frame::End`].
    ///
    /// # Errors
    /// When there is none that can be understood. Nothing more can be read then.
    pub fn frame(&mut self) -> Result<Option<Frame<'_>>, Fault> {
        if self.ended {
            return match fill(&mut self.input, &mut [0]) {
                Ok(0) => Ok(None),
                Ok(_) => Err(Fault::Field("what follows the end")),
                Err(error) => Err(Fault::Io(error)),
            };
        }
        self.read_body()?;
        let frame = decode(&self.body, &mut self.payload)?;
        self.ended = matches!(frame, Frame::End(_));
        Ok(Some(frame))
    }

    /// Reads a body and its checksum.
    fn read_body(&mut self) -> Result<(), Fault> {
        self.offset = self.next;
        let mut length = [0; 4];
        self.exactly(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 || length > MAX_FRAME {
            return Err(Fault::Field("the length of a frame"));
        }
        let mut body = std::mem::take(&mut self.body);
        body.resize(length, 0);
        self.exactly(&mut body)?;
        self.body = body;
        let mut checksum = [0; 4];
        self.exactly(&mut checksum)?;
        if u32::from_le_bytes(checksum) != crc32fast::hash(&self.body) {
            return Err(Fault::Checksum);
        }
        self.next += length as u64 + 8;
        Ok(())
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        match fill(&mut self.input, buffer) {
            Ok(read) if read == buffer.len() => Ok(()),
            Ok(_) => Err(Fault::CutOff),
            Err(error) => Err(Fault::Io(error)),
        }
    }
}

/// Reads until the buffer is full or the input ends. Answers how much came.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match input.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Decodes the body of a frame. A payload is put together in `payload`.
fn decode<'a>(body: &[u8], payload: &'a mut Vec<u8>) -> Result<Frame<'a>, Fault> {
    let (&kind, rest) = body.split_first().ok_or(Fault::Field("a frame"))?;
    let mut fields = Fields(rest);
    let frame = match kind {
        kind::TICK => Frame::Tick(fields.u64("a time")?),
        kind::CLOCK => Frame::Clock(i64::from_le_bytes(fields.array("a clock")?)),
        kind::PROCESS => {
            let json = std::mem::take(&mut fields.0);
            let process = serde_json::from_slice(json).map_err(|_| Fault::Field("a process"))?;
            Frame::Process(process)
        }
        kind::SERVER => {
            let json = std::mem::take(&mut fields.0);
            let server = serde_json::from_slice(json).map_err(|_| Fault::Field("a server"))?;
            Frame::Server(server)
        }
        kind::OLDER => {
            let count = fields.u32("a number of sockets")? as usize;
            if count > MAX_OLDER {
                return Err(Fault::Field("a number of sockets"));
            }
            let mut sockets = Vec::new();
            for _ in 0..count {
                let socket = fields.socket()?;
                let task = fields.task()?.ok_or(Fault::Field("a task"))?;
                sockets.push((socket, task));
            }
            Frame::Older(sockets)
        }
        kind::SOCKET => {
            let memcached = fields.bool("a flag")?;
            let name = fields.name()?.ok_or(Fault::Field("the name of a socket"))?;
            Frame::Socket(name, memcached)
        }
        kind::LOSSES => Frame::Losses(Losses {
            ring_full: fields.u64("a loss")?,
            recursion: fields.u64("a loss")?,
            record: fields.u64("a loss")?,
        }),
        kind::END => Frame::End(Ended {
            time: fields.u64("the end")?,
            events: fields.u64("the end")?,
            undecided: fields.u64("the end")?,
        }),
        kind::DATA..=kind::CLOSED => Frame::Event(event(kind, &mut fields, payload)?),
        _ => return Err(Fault::Field("the kind of a frame")),
    };
    match fields.0 {
        [] => Ok(frame),
        _ => Err(Fault::Field("the length of a frame")),
    }
}

fn event<'a>(
    kind: u8,
    fields: &mut Fields<'_>,
    payload: &'a mut Vec<u8>,
) -> Result<Event<'a>, Fault> {
    let time = fields.u64("a time")?;
    let socket = fields.socket()?;
    let task = fields.task()?;
    let kind = match kind {
        kind::DATA => {
            let direction = fields.direction()?;
            let started = fields.u64("a time")?;
            let position = fields.u32("a position")?;
            let opposite = fields.position()?;
            let length = fields.u32("a length")?;
            let uncaptured = fields.uncaptured()?;
            let continued = fields.bool("a flag")?;
            let opening = fields.bool("a flag")?;
            fields.payload(payload)?;
            check(length, payload, uncaptured)?;
            EventKind::Data(Data {
                direction,
                started,
                position,
                opposite,
                length,
                payload,
                uncaptured,
                continued,
                opening,
            })
        }
        kind::DATAGRAM => {
            let direction = fields.direction()?;
            let started = fields.u64("a time")?;
            let offset = fields.u32("a position")?;
            let total = fields.u32("a length")?;
            let length = fields.u32("a length")?;
            let uncaptured = fields.uncaptured()?;
            fields.payload(payload)?;
            check(length, payload, uncaptured)?;
            if offset.checked_add(length).is_none_or(|end| end > total) {
                return Err(Fault::Field("a position"));
            }
            EventKind::Datagram(Datagram {
                direction,
                started,
                offset,
                total,
                length,
                payload,
                uncaptured,
            })
        }
        kind::CONNECTING => EventKind::Connecting,
        kind::ESTABLISHED => EventKind::Established {
            end: match fields.bool("an end")? {
                false => End::Client,
                true => End::Server,
            },
            send_position: fields.position()?,
            receive_position: fields.position()?,
        },
        _ => EventKind::Closed {
            fault: match fields.u8("a fault")? {
                0 => None,
                place => {
                    let fault = Closing::ALL.get(usize::from(place) - 1);
                    Some(*fault.ok_or(Fault::Field("a fault"))?)
                }
            },
            rest: match fields.bool("a flag")? {
                false => None,
                true => Some(Rest {
                    sent: fields.u32("a position")?,
                    taken: fields.u32("a position")?,
                    unread: fields.u32("a length")?,
                }),
            },
        },
    };
    Ok(Event {
        time,
        socket,
        task,
        kind,
    })
}

/// Not none, no fewer than are here, and a reason exactly if some are not.
fn check(length: u32, payload: &[u8], uncaptured: Option<Uncaptured>) -> Result<(), Fault> {
    let whole = payload.len() == length as usize;
    match length > 0 && payload.len() <= length as usize && uncaptured.is_none() == whole {
        true => Ok(()),
        false => Err(Fault::Field("a length")),
    }
}

/// What is left of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Fault> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Fault::Field(field))?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, Fault> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, Fault> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    fn bool(&mut self, field: &'static str) -> Result<bool, Fault> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Fault::Field(field)),
        }
    }

    fn direction(&mut self) -> Result<Direction, Fault> {
        Ok(match self.bool("a direction")? {
            false => Direction::Send,
            true => Direction::Receive,
        })
    }

    fn uncaptured(&mut self) -> Result<Option<Uncaptured>, Fault> {
        Ok(match self.u8("a reason")? {
            0 => None,
            1 => Some(Uncaptured::Limit),
            2 => Some(Uncaptured::Unreadable),
            3 => Some(Uncaptured::Fault),
            _ => return Err(Fault::Field("a reason")),
        })
    }

    fn position(&mut self) -> Result<Option<u32>, Fault> {
        let known = self.bool("a position")?;
        let position = self.u32("a position")?;
        Ok(known.then_some(position))
    }

    fn address(&mut self) -> Result<Address, Fault> {
        match self.u8("an address")? {
            family::V4 => {
                let ip = Ipv4Addr::from(self.array::<4>("an address")?);
                Ok(SocketAddr::new(IpAddr::V4(ip), self.u16("a port")?).into())
            }
            family::V6 => {
                let ip = Ipv6Addr::from(self.array::<16>("an address")?);
                let scope = self.u32("an address")?;
                let port = self.u16("a port")?;
                Ok(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)).into())
            }
            family::UNIX => Ok(Address::Unix {
                client: self.u64("an address")?,
                name: self.name()?,
            }),
            _ => Err(Fault::Field("an address")),
        }
    }

    /// The name of a unix socket, if it has one.
    fn name(&mut self) -> Result<Option<SocketName>, Fault> {
        const FIELD: Fault = Fault::Field("the name of a socket");
        let length = usize::from(self.u16("the name of a socket")?);
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(FIELD)?;
        self.0 = rest;
        if bytes.is_empty() {
            return Ok(None);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| FIELD)?;
        SocketName::new(text).map(Some).map_err(|_| FIELD)
    }

    fn socket(&mut self) -> Result<SocketId, Fault> {
        Ok(SocketId {
            sk: self.u64("a socket")?,
            netns: self.u32("a socket")?,
            local: self.address()?,
            remote: self.address()?,
        })
    }

    fn task(&mut self) -> Result<Option<Task>, Fault> {
        if !self.bool("a task")? {
            return Ok(None);
        }
        Ok(Some(Task {
            pid: self.u32("a task")?,
            tid: self.u32("a task")?,
            cgroup: self.u64("a task")?,
            comm: self.array("a task")?,
        }))
    }

    /// All that is left is a payload.
    fn payload(&mut self, payload: &mut Vec<u8>) -> Result<(), Fault> {
        const FIELD: Fault = Fault::Field("a payload");
        let length = self.u32("a payload")? as usize;
        if length > MAX_PAYLOAD {
            return Err(FIELD);
        }
        payload.clear();
        while !self.0.is_empty() {
            let zeros = self.u32("a payload")? as usize;
            let bytes = self.u32("a payload")? as usize;
            let (run, rest) = self.0.split_at_checked(bytes).ok_or(FIELD)?;
            self.0 = rest;
            let end = payload.len().saturating_add(zeros).saturating_add(bytes);
            // Each run holds something, so that their number is bounded by the frame.
            if end > length || bytes == 0 {
                return Err(FIELD);
            }
            payload.resize(payload.len() + zeros, 0);
            payload.extend_from_slice(run);
        }
        payload.resize(length, 0);
        Ok(())
    }
}
