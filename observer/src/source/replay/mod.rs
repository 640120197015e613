//! Capture files as a source: pcap and pcapng, TCP and UDP over Ethernet, Linux cooked, loopback and raw link types.
//!
//! A capture sees a connection between its ends; it is reported as the client would see it.

mod connections;
mod packet;

use std::fs::File;
use std::path::{Path, PathBuf};

use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use super::event::{Datagram, Direction, Event, EventKind, Nanos, SocketId, Uncaptured};
use connections::Connections;
use packet::{Frame, UdpPacket};

/// Bytes read at a time; grows up to [`MAX_BUFFER`] for a larger block.
const BUFFER: usize = 256 * 1024;
/// Largest block accepted: packets are at most 256 KiB (`MAXIMUM_SNAPLEN` of libpcap).
const MAX_BUFFER: usize = 16 * 1024 * 1024;

/// Why a capture could not be read to its end. What came before the fault has been delivered.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file could not be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Neither a capture nor a recording.
    #[error("{}: neither pcap nor pcapng nor a recording", .0.display())]
    NotACapture(PathBuf),
    /// It ends inside a packet.
    #[error("{}: cut off after {packets} packets", path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Packets read before.
        packets: u64,
    },
    /// A recording that cannot be read on.
    #[error("{}: {reason}, at byte {offset}", path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// Where the frame begins that cannot be read.
        offset: u64,
        /// Why.
        reason: super::recording::Fault,
    },
    /// A block that cannot be understood.
    #[error("{}: damaged after {packets} packets", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Packets read before.
        packets: u64,
    },
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Packets in the file.
    pub packets: u64,
    /// Those that held a TCP segment with headers captured whole.
    pub tcp: u64,
    /// Those that held a datagram, the same.
    pub udp: u64,
    /// Time of the last packet.
    pub end: Nanos,
}

/// Reads a capture, calling `sink` for each event.
///
/// `watched`: whether a server is expected on a port. Times are nanoseconds since the Unix epoch.
///
/// # Errors
///
/// See [`ReplayError`]; what could be read has been delivered then, and `totals` tells of it.
pub fn replay(
    path: &Path,
    watched: impl Fn(u16) -> bool,
    totals: &mut Totals,
    sink: &mut dyn FnMut(&Event<'_>),
) -> Result<(), ReplayError> {
    let mut connections = Connections::default();
    let result = read(path, &mut |time, frame, link| {
        totals.packets += 1;
        totals.end = totals.end.max(time);
        match packet::parse(frame, link) {
            Some(Frame::Tcp(packet)) => {
                totals.tcp += 1;
                connections.packet(time, &packet, &watched, sink);
            }
            Some(Frame::Udp(packet)) => {
                totals.udp += 1;
                datagram(time, &packet, &watched, sink);
            }
            None => {}
        }
    });
    connections.finish(totals.end, sink);
    result
}

/// Hands on a datagram as its client sees it.
fn datagram(
    time: Nanos,
    packet: &UdpPacket<'_>,
    watched: impl Fn(u16) -> bool,
    sink: &mut dyn FnMut(&Event<'_>),
) {
    let direction = match (
        watched(packet.source.port()),
        watched(packet.destination.port()),
    ) {
        (false, false) => return,
        (true, false) => Direction::Receive,
        // Where both are, `stream` says that it cannot be told.
        (_, true) => Direction::Send,
    };
    let (local, remote) = match direction {
        Direction::Send => (packet.source, packet.destination),
        Direction::Receive => (packet.destination, packet.source),
    };
    if packet.length == 0 {
        return;
    }
    sink(&Event {
        time,
        socket: SocketId {
            sk: 0,
            netns: 0,
            local: local.into(),
            remote: remote.into(),
        },
        task: None,
        kind: EventKind::Datagram(Datagram {
            direction,
            started: time,
            offset: 0,
            total: packet.length,
            length: packet.length,
            payload: packet.payload,
            uncaptured: (packet.payload.len() < packet.length as usize)
                .then_some(Uncaptured::Limit),
        }),
    });
}

/// How an interface of a pcapng file tells time.
struct Interface {
    link: Linktype,
    /// Ticks a second.
    resolution: u64,
    /// Seconds to add.
    offset: i64,
}

fn read(path: &Path, frame: &mut dyn FnMut(Nanos, &[u8], Linktype)) -> Result<(), ReplayError> {
    let io = |source| ReplayError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_dir() {
        return Err(io(std::io::ErrorKind::IsADirectory.into()));
    }
    let mut reader =
        create_reader(BUFFER, file).map_err(|_| ReplayError::NotACapture(path.to_owned()))?;
    let mut packets = 0;
    let mut link = Linktype::NULL;
    let mut nanoseconds = false;
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut capacity = BUFFER;
    loop {
        let fault = match reader.next() {
            Ok((size, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        link = header.network;
                        nanoseconds = header.is_nanosecond_precision();
                    }
                    PcapBlockOwned::Legacy(block) => {
                        packets += 1;
                        let unit = if nanoseconds { 1 } else { 1_000 };
                        let time = u64::from(block.ts_sec) * 1_000_000_000
                            + u64::from(block.ts_usec) * unit;
                        frame(time, block.data, link);
                    }
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => interfaces.clear(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                        interfaces.push(Interface {
                            link: interface.linktype,
                            resolution: interface.ts_resolution().unwrap_or(1_000_000).max(1),
                            offset: interface.ts_offset(),
                        });
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                        packets += 1;
                        if let Some(interface) = interfaces.get(block.if_id as usize) {
                            let ticks = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
                            let time = unix_nanos(ticks, interface);
                            frame(time, block.packet_data(), interface.link);
                        }
                    }
                    PcapBlockOwned::NG(Block::SimplePacket(block)) => {
                        packets += 1;
                        // Such a packet has no time of its own.
                        if let Some(interface) = interfaces.first() {
                            frame(0, block.packet_data(), interface.link);
                        }
                    }
                    PcapBlockOwned::NG(_) => {}
                }
                reader.consume(size);
                continue;
            }
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_) | PcapError::UnexpectedEof) => Fault::NeedMore,
            Err(PcapError::BufferTooSmall) => Fault::NeedRoom,
            Err(_) => Fault::Damaged,
        };
        let mended = match fault {
            Fault::NeedMore if reader.reader_exhausted() => {
                return Err(ReplayError::CutOff {
                    path: path.to_owned(),
                    packets,
                });
            }
            Fault::NeedMore => reader.refill().is_ok(),
            Fault::NeedRoom if capacity < MAX_BUFFER => {
                capacity *= 2;
                reader.grow(capacity)
            }
            Fault::NeedRoom | Fault::Damaged => false,
        };
        if !mended {
            return Err(ReplayError::Damaged {
                path: path.to_owned(),
                packets,
            });
        }
    }
}

/// Why there is no next block yet.
enum Fault {
    NeedMore,
    NeedRoom,
    Damaged,
}

fn unix_nanos(ticks: u64, interface: &Interface) -> Nanos {
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(interface.resolution);
    let offset = i128::from(interface.offset) * 1_000_000_000;
    let nanos = i128::try_from(nanos)
        .unwrap_or(i128::MAX)
        .saturating_add(offset);
    u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
}
