//! Capture files written packet by packet, for conversations that no real client would have.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

/// 2026-01-01 00:00:00 UTC, nanoseconds since the Unix epoch.
const BEGINNING: u64 = 1_767_225_600_000_000_000;
/// Between two packets.
const STEP: u64 = 20_000;
/// Longest payload of a packet.
const MSS: usize = 32 * 1024;
/// Length of an IPv4 header without options.
const IPV4: usize = 20;
/// Numbers of the protocols that it carries.
const TCP: u8 = 6;
const UDP: u8 = 17;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A file of the pcap format, nanosecond variant, whose packets begin with IPv4.
#[derive(Debug)]
pub struct Capture {
    file: BufWriter<File>,
    now: u64,
    connections: u32,
}

impl Capture {
    /// Creates the file.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        // Magic, version, time zone, accuracy, longest packet, LINKTYPE_RAW.
        file.write_all(&0xa1b2_3c4d_u32.to_le_bytes())?;
        for half in [2_u16, 4] {
            file.write_all(&half.to_le_bytes())?;
        }
        for word in [0_u32, 0, 262_144, 101] {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Self {
            file,
            now: BEGINNING,
            connections: 0,
        })
    }

    /// A connection whose handshake is in the file.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn connect(&mut self, server: SocketAddrV4) -> Result<Connection<'_>> {
        let mut connection = self.join(server);
        connection.positions = [999, 4_999];
        connection.packet(Side::Client, SYN, &[], 0)?;
        connection.positions[0] += 1;
        connection.packet(Side::Server, SYN | ACK, &[], 0)?;
        connection.positions[1] += 1;
        connection.packet(Side::Client, ACK, &[], 0)?;
        Ok(connection)
    }

    /// A connection that is older than the file.
    pub fn join(&mut self, server: SocketAddrV4) -> Connection<'_> {
        Connection {
            client: self.client(),
            server,
            positions: [1_000, 5_000],
            capture: self,
        }
    }

    /// Two ends of UDP.
    pub fn associate(&mut self, server: SocketAddrV4) -> Association<'_> {
        Association {
            client: self.client(),
            server,
            capture: self,
        }
    }

    /// Several ports of many hosts, so that no two clients are the same.
    fn client(&mut self) -> SocketAddrV4 {
        self.connections += 1;
        let host = 0x0ac8_0000 | (self.connections >> 14);
        let port = 40_000 + (self.connections & 0x3fff) as u16;
        SocketAddrV4::new(Ipv4Addr::from(host), port)
    }

    /// One packet: the transport's header and the payload, of which `missing` more bytes were on the wire.
    fn packet(
        &mut self,
        (from, to): (SocketAddrV4, SocketAddrV4),
        protocol: u8,
        parts: [&[u8]; 2],
        missing: usize,
    ) -> Result<()> {
        let captured = IPV4 + parts[0].len() + parts[1].len();
        let length = captured + missing;
        let mut packet = Vec::with_capacity(16 + captured);
        let (seconds, nanos) = (self.now / 1_000_000_000, self.now % 1_000_000_000);
        for word in [seconds as u32, nanos as u32, captured as u32, length as u32] {
            packet.extend(word.to_le_bytes());
        }
        // IPv4: header length, total length, time to live, protocol. No checksum: nothing verifies it.
        packet.extend([0x45, 0]);
        packet.extend((length as u16).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        packet.extend(from.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(parts.concat());
        self.file.write_all(&packet)?;
        self.now += STEP;
        Ok(())
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        Ok(self.file.flush()?)
    }
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Requests.
    Client,
    /// Replies.
    Server,
}

/// A connection of a capture.
#[derive(Debug)]
pub struct Connection<'a> {
    capture: &'a mut Capture,
    client: SocketAddrV4,
    server: SocketAddrV4,
    /// The next byte's, of the client and of the server.
    positions: [u32; 2],
}

impl Connection<'_> {
    /// Bytes that one end sends.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn send(&mut self, side: Side, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(MSS) {
            self.packet(side, ACK, part, 0)?;
            self.positions[side as usize] += part.len() as u32;
        }
        Ok(())
    }

    /// As [`Self::send`], of which the capture holds all but the last `missing` bytes, as with a small snapshot length.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn send_cut(&mut self, side: Side, bytes: &[u8], missing: usize) -> Result<()> {
        self.packet(side, ACK, &bytes[..bytes.len() - missing], missing)?;
        self.positions[side as usize] += bytes.len() as u32;
        Ok(())
    }

    /// Bytes that one end sends and the capture has not.
    pub fn lose(&mut self, side: Side, length: usize) {
        self.positions[side as usize] += length as u32;
    }

    /// Nothing happens for a while.
    pub fn pause(&mut self, time: Duration) {
        self.capture.now += time.as_nanos() as u64;
    }

    /// Both ends are done.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn close(mut self) -> Result<()> {
        self.packet(Side::Client, FIN | ACK, &[], 0)?;
        self.packet(Side::Server, FIN | ACK, &[], 0)
    }

    /// One end breaks it off.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn reset(mut self, side: Side) -> Result<()> {
        self.packet(side, RST | ACK, &[], 0)
    }

    /// One packet; of its payload `missing` more bytes were on the wire.
    fn packet(&mut self, side: Side, flags: u8, payload: &[u8], missing: usize) -> Result<()> {
        let (from, to) = match side {
            Side::Client => (self.client, self.server),
            Side::Server => (self.server, self.client),
        };
        let [sequence, acknowledgment] = match side {
            Side::Client => self.positions,
            Side::Server => [self.positions[1], self.positions[0]],
        };
        let mut header = Vec::with_capacity(20);
        header.extend(from.port().to_be_bytes());
        header.extend(to.port().to_be_bytes());
        header.extend(sequence.to_be_bytes());
        let acknowledgment = if flags & ACK == 0 { 0 } else { acknowledgment };
        header.extend(acknowledgment.to_be_bytes());
        // Header length, flags, window.
        header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        self.capture
            .packet((from, to), TCP, [&header, payload], missing)
    }
}

/// A client and a server that send each other datagrams.
#[derive(Debug)]
pub struct Association<'a> {
    capture: &'a mut Capture,
    client: SocketAddrV4,
    server: SocketAddrV4,
}

impl Association<'_> {
    /// One datagram, of which the capture holds all but the last `missing` bytes.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn send(&mut self, side: Side, bytes: &[u8], missing: usize) -> Result<()> {
        let (from, to) = match side {
            Side::Client => (self.client, self.server),
            Side::Server => (self.server, self.client),
        };
        let mut header = Vec::with_capacity(8);
        header.extend(from.port().to_be_bytes());
        header.extend(to.port().to_be_bytes());
        header.extend((8 + bytes.len() as u16).to_be_bytes());
        header.extend([0, 0]);
        let captured = &bytes[..bytes.len() - missing];
        self.capture
            .packet((from, to), UDP, [&header, captured], missing)
    }

    /// Nothing happens for a while.
    pub fn pause(&mut self, time: Duration) {
        self.capture.now += time.as_nanos() as u64;
    }
}
