//! Decodes the records that the kernel programs send. The bytes are foreign input: lengths and
//! discriminants are checked, nothing is cast.

use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use observer_ebpf::{HEADER, Header, VERSION, direction, flag, kind, reason, state};

use super::event::{
    Address, Data, Datagram, Direction, End, Event, EventKind, Fault, Rest, SocketId, SocketName,
    Task, Uncaptured,
};

/// Why a record could not be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than its header, or than the payload that the header announces.
    #[error("the record has {have} bytes instead of at least {need}")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes there should be.
        need: usize,
    },
    /// Made by programs of another version.
    #[error("the record has version {0} instead of {VERSION}")]
    Version(u8),
    /// A field has a value without a meaning.
    #[error("the record's {field} cannot be {value}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
}

/// Linux's numbers, the same on every architecture.
const UNIX: u16 = 1;
const INET: u16 = 2;
const INET6: u16 = 10;

/// Decodes one record.
///
/// # Errors
/// When it is not exactly what the kernel programs of this version send.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, RecordError> {
    let (head, body) = bytes
        .split_first_chunk::<HEADER>()
        .ok_or(RecordError::Short {
            have: bytes.len(),
            need: HEADER,
        })?;
    let head = Head(head);
    let version = head.u8(offset_of!(Header, version));
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let flags = head.u8(offset_of!(Header, flags));
    if flags & !flag::ALL != 0 {
        return Err(value("flags", flags));
    }
    let captured = head.u32(offset_of!(Header, captured)) as usize;
    let payload = body.get(..captured).ok_or(RecordError::Short {
        have: bytes.len(),
        need: HEADER.saturating_add(captured),
    })?;
    let position = head.u32(offset_of!(Header, position));
    let opposite = head.u32(offset_of!(Header, opposite));
    let state = head.u8(offset_of!(Header, state));
    let kind = match head.u8(offset_of!(Header, kind)) {
        kind::DATA => EventKind::Data(Data {
            direction: direction(&head)?,
            started: head.u64(offset_of!(Header, started)),
            position,
            opposite: (state != state::SYN_SENT).then_some(opposite),
            length: length(&head, captured)?,
            payload,
            uncaptured: uncaptured(&head, captured)?,
            continued: flags & flag::CONTINUED != 0,
            opening: matches!(state, state::SYN_SENT | state::SYN_RECV),
        }),
        kind::DATAGRAM => {
            let length = length(&head, captured)?;
            if position
                .checked_add(length)
                .is_none_or(|end| end > opposite)
            {
                return Err(RecordError::Value {
                    field: "position",
                    value: position,
                });
            }
            EventKind::Datagram(Datagram {
                direction: direction(&head)?,
                started: head.u64(offset_of!(Header, started)),
                offset: position,
                total: opposite,
                length,
                payload,
                uncaptured: uncaptured(&head, captured)?,
            })
        }
        kind::CONNECTING => EventKind::Connecting,
        kind::ESTABLISHED => EventKind::Established {
            end: if flags & flag::SERVER != 0 {
                End::Server
            } else {
                End::Client
            },
            send_position: Some(position),
            receive_position: Some(opposite),
        },
        kind::CLOSED => EventKind::Closed {
            fault: fault(head.u8(offset_of!(Header, reason))),
            rest: Some(Rest {
                sent: position,
                taken: opposite,
                unread: head.u32(offset_of!(Header, length)),
            }),
        },
        other => return Err(value("kind", other)),
    };
    Ok(Event {
        time: head.u64(offset_of!(Header, time)),
        socket: SocketId {
            sk: head.u64(offset_of!(Header, sk)),
            netns: head.u32(offset_of!(Header, netns)),
            local: head.address(offset_of!(Header, local), offset_of!(Header, local_port))?,
            remote: head.address(offset_of!(Header, remote), offset_of!(Header, remote_port))?,
        },
        task: (flags & flag::TASK != 0).then(|| Task {
            pid: head.u32(offset_of!(Header, pid)),
            tid: head.u32(offset_of!(Header, tid)),
            cgroup: head.u64(offset_of!(Header, cgroup)),
            comm: head.bytes(offset_of!(Header, comm)),
        }),
        kind,
    })
}

fn direction(head: &Head<'_>) -> Result<Direction, RecordError> {
    match head.u8(offset_of!(Header, direction)) {
        direction::SEND => Ok(Direction::Send),
        direction::RECEIVE => Ok(Direction::Receive),
        other => Err(value("direction", other)),
    }
}

/// What the socket's error number says.
fn fault(number: u8) -> Option<Fault> {
    Some(match i32::from(number) {
        0 => return None,
        libc::ECONNREFUSED => Fault::Refused,
        // EPIPE: the other end had closed already, and answered what was sent to it after that.
        libc::ECONNRESET | libc::EPIPE => Fault::Reset,
        libc::ETIMEDOUT => Fault::TimedOut,
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN => Fault::Unreachable,
        libc::ECONNABORTED => Fault::Aborted,
        _ => Fault::Other,
    })
}

/// Stream bytes that the record stands for: not none, and no fewer than it holds.
fn length(head: &Head<'_>, captured: usize) -> Result<u32, RecordError> {
    let length = head.u32(offset_of!(Header, length));
    if length == 0 || captured > length as usize {
        return Err(RecordError::Value {
            field: "length",
            value: length,
        });
    }
    Ok(length)
}

/// The reason must be there exactly if bytes are not.
fn uncaptured(head: &Head<'_>, captured: usize) -> Result<Option<Uncaptured>, RecordError> {
    let number = head.u8(offset_of!(Header, reason));
    let uncaptured = match number {
        reason::NONE => None,
        reason::LIMIT => Some(Uncaptured::Limit),
        reason::UNREADABLE => Some(Uncaptured::Unreadable),
        reason::FAULT => Some(Uncaptured::Fault),
        other => return Err(value("reason", other)),
    };
    let whole = captured == head.u32(offset_of!(Header, length)) as usize;
    if uncaptured.is_none() == whole {
        Ok(uncaptured)
    } else {
        Err(value("reason", number))
    }
}

fn value(field: &'static str, value: u8) -> RecordError {
    RecordError::Value {
        field,
        value: value.into(),
    }
}

/// The header's bytes. Offsets come from `offset_of!`, so that they are always inside.
struct Head<'a>(&'a [u8; HEADER]);

impl Head<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }

    fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(at))
    }

    fn address(&self, address: usize, port: usize) -> Result<Address, RecordError> {
        let number = self.u16(port);
        let ip = match self.u16(offset_of!(Header, family)) {
            UNIX => {
                let name = SocketName::from_number(number);
                if name.is_none() && number != 0 {
                    return Err(RecordError::Value {
                        field: "socket name",
                        value: number.into(),
                    });
                }
                let client = self.u64(address);
                return Ok(Address::Unix { name, client });
            }
            INET => IpAddr::V4(Ipv4Addr::from(self.bytes::<4>(address))),
            // One connection has one name, whether its socket speaks both families or not.
            INET6 => Ipv6Addr::from(self.bytes::<16>(address)).to_canonical(),
            family => {
                return Err(RecordError::Value {
                    field: "family",
                    value: family.into(),
                });
            }
        };
        Ok(SocketAddr::new(ip, number).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
        record[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A receive of seven bytes, five of them captured, in a record with room for eight.
    fn record() -> Vec<u8> {
        let mut record = vec![0; HEADER + 8];
        let r = &mut record;
        put(
            r,
            offset_of!(Header, version),
            &[
                VERSION,
                kind::DATA,
                direction::RECEIVE,
                reason::LIMIT,
                flag::TASK,
            ],
        );
        put(r, offset_of!(Header, family), &INET.to_ne_bytes());
        put(r, offset_of!(Header, time), &20u64.to_ne_bytes());
        put(r, offset_of!(Header, started), &10u64.to_ne_bytes());
        put(r, offset_of!(Header, sk), &0xffff_8880u64.to_ne_bytes());
        put(r, offset_of!(Header, netns), &7u32.to_ne_bytes());
        put(r, offset_of!(Header, position), &100u32.to_ne_bytes());
        put(r, offset_of!(Header, opposite), &200u32.to_ne_bytes());
        put(r, offset_of!(Header, length), &7u32.to_ne_bytes());
        put(r, offset_of!(Header, captured), &5u32.to_ne_bytes());
        put(r, offset_of!(Header, pid), &11u32.to_ne_bytes());
        put(r, offset_of!(Header, tid), &12u32.to_ne_bytes());
        put(r, offset_of!(Header, local_port), &40_000u16.to_ne_bytes());
        put(r, offset_of!(Header, remote_port), &6379u16.to_ne_bytes());
        put(r, offset_of!(Header, local), &[127, 0, 0, 1]);
        put(r, offset_of!(Header, remote), &[127, 0, 0, 2]);
        put(r, offset_of!(Header, cgroup), &13u64.to_ne_bytes());
        put(r, offset_of!(Header, comm), b"redis-cli");
        put(r, HEADER, b"+OK\r\nxxx");
        record
    }

    #[test]
    fn every_field_arrives() {
        let record = record();
        let mut comm = [0; 16];
        comm[..9].copy_from_slice(b"redis-cli");
        let expected = Event {
            time: 20,
            socket: SocketId {
                sk: 0xffff_8880,
                netns: 7,
                local: "127.0.0.1:40000".parse().unwrap(),
                remote: "127.0.0.2:6379".parse().unwrap(),
            },
            task: Some(Task {
                pid: 11,
                tid: 12,
                cgroup: 13,
                comm,
            }),
            kind: EventKind::Data(Data {
                direction: Direction::Receive,
                started: 10,
                position: 100,
                opposite: Some(200),
                length: 7,
                payload: b"+OK\r\n",
                uncaptured: Some(Uncaptured::Limit),
                continued: false,
                opening: false,
            }),
        };
        assert_eq!(decode(&record), Ok(expected));
    }

    #[test]
    fn states_are_told_apart() {
        let established = |end| EventKind::Established {
            end,
            send_position: Some(100),
            receive_position: Some(200),
        };
        for (number, flags, expected) in [
            (kind::CONNECTING, flag::TASK, EventKind::Connecting),
            (kind::ESTABLISHED, 0, established(End::Client)),
            (kind::ESTABLISHED, flag::SERVER, established(End::Server)),
            (
                kind::CLOSED,
                0,
                EventKind::Closed {
                    fault: Some(Fault::Reset),
                    rest: Some(Rest {
                        sent: 100,
                        taken: 200,
                        unread: 7,
                    }),
                },
            ),
        ] {
            let mut record = record();
            put(&mut record, offset_of!(Header, kind), &[number]);
            put(&mut record, offset_of!(Header, flags), &[flags]);
            if number == kind::CLOSED {
                let reset = [libc::ECONNRESET as u8];
                put(&mut record, offset_of!(Header, reason), &reset);
            }
            put(
                &mut record,
                offset_of!(Header, captured),
                &0u32.to_ne_bytes(),
            );
            let event = decode(&record[..HEADER]).unwrap();
            assert_eq!(event.kind, expected);
            assert_eq!(event.task.is_some(), flags & flag::TASK != 0);
        }
    }

    #[test]
    fn faults_are_told_apart() {
        for (number, expected) in [
            (0, None),
            (libc::ECONNREFUSED, Some(Fault::Refused)),
            (libc::ECONNRESET, Some(Fault::Reset)),
            (libc::EPIPE, Some(Fault::Reset)),
            (libc::ETIMEDOUT, Some(Fault::TimedOut)),
            (libc::EHOSTUNREACH, Some(Fault::Unreachable)),
            (libc::ECONNABORTED, Some(Fault::Aborted)),
            (255, Some(Fault::Other)),
        ] {
            assert_eq!(fault(number as u8), expected, "{number}");
        }
    }

    #[test]
    fn pieces_of_datagrams_lie_within_them() {
        let mut record = record();
        put(&mut record, offset_of!(Header, kind), &[kind::DATAGRAM]);
        for (offset, total, whole) in [(0u32, 7u32, true), (4, 11, true), (4, 10, false)] {
            put(
                &mut record,
                offset_of!(Header, position),
                &offset.to_ne_bytes(),
            );
            put(
                &mut record,
                offset_of!(Header, opposite),
                &total.to_ne_bytes(),
            );
            let event = decode(&record);
            let expected = EventKind::Datagram(Datagram {
                direction: Direction::Receive,
                started: 10,
                offset,
                total,
                length: 7,
                payload: b"+OK\r\n",
                uncaptured: Some(Uncaptured::Limit),
            });
            match whole {
                true => assert_eq!(event.unwrap().kind, expected),
                false => assert!(event.is_err()),
            }
        }
    }

    #[test]
    fn addresses_are_canonical() {
        for (bytes, expected) in [
            (
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 7],
                "10.0.0.7:6379",
            ),
            (
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                "[::1]:6379",
            ),
        ] {
            let mut record = record();
            put(
                &mut record,
                offset_of!(Header, family),
                &INET6.to_ne_bytes(),
            );
            put(&mut record, offset_of!(Header, remote), &bytes);
            assert_eq!(
                decode(&record).unwrap().socket.remote,
                expected.parse().unwrap()
            );
        }
    }

    #[test]
    fn unix_sockets_have_the_number_of_a_name() {
        let name = SocketName::new("/run/record.sock").unwrap();
        let mut record = record();
        let r = &mut record;
        put(r, offset_of!(Header, family), &UNIX.to_ne_bytes());
        put(r, offset_of!(Header, local_port), &0u16.to_ne_bytes());
        put(
            r,
            offset_of!(Header, remote_port),
            &name.number().to_ne_bytes(),
        );
        put(r, offset_of!(Header, local), &2u64.to_ne_bytes());
        put(r, offset_of!(Header, remote), &2u64.to_ne_bytes());
        let socket = decode(&record).unwrap().socket;
        assert_eq!(
            socket.local,
            Address::Unix {
                name: None,
                client: 2
            }
        );
        let server = Address::Unix {
            name: Some(name),
            client: 2,
        };
        assert_eq!(socket.remote, server);
        let unknown = u16::MAX.to_ne_bytes();
        put(&mut record, offset_of!(Header, remote_port), &unknown);
        assert!(decode(&record).is_err());
    }

    #[test]
    fn malformed_records_are_errors() {
        let captured = offset_of!(Header, captured);
        let length = offset_of!(Header, length);
        for (what, at, bytes) in [
            ("version 0", 0, &[0u8][..]),
            ("version 2", 0, &[2]),
            ("kind 0", offset_of!(Header, kind), &[0]),
            ("kind 6", offset_of!(Header, kind), &[6]),
            ("direction 2", offset_of!(Header, direction), &[2]),
            ("reason 4", offset_of!(Header, reason), &[4]),
            (
                "no reason for missing bytes",
                offset_of!(Header, reason),
                &[0],
            ),
            ("flags", offset_of!(Header, flags), &[8]),
            ("family", offset_of!(Header, family), &[1, 1]),
            ("payload beyond the end", captured, &9u32.to_ne_bytes()),
            ("payload beyond any end", captured, &u32::MAX.to_ne_bytes()),
            ("a reason for nothing", captured, &7u32.to_ne_bytes()),
            ("more captured than moved", length, &4u32.to_ne_bytes()),
            ("nothing moved", length, &0u32.to_ne_bytes()),
        ] {
            let mut record = record();
            put(&mut record, at, bytes);
            assert!(decode(&record).is_err(), "{what}");
        }
        let record = record();
        for end in 0..HEADER + 5 {
            assert!(
                matches!(decode(&record[..end]), Err(RecordError::Short { .. })),
                "cut at {end}"
            );
        }
    }
}
