//! From a captured frame to a TCP segment or a datagram.

use std::net::SocketAddr;

use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_parser::Linktype;
use pcap_parser::data::{PacketData, get_packetdata};

/// A TCP segment as it was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    pub(super) acknowledgment: Option<u32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// What was captured of the payload.
    pub(super) payload: &'a [u8],
    /// Its length on the wire.
    pub(super) length: u32,
}

/// A datagram as it was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UdpPacket<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// What was captured of the payload.
    pub(super) payload: &'a [u8],
    /// Its length on the wire.
    pub(super) length: u32,
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Tcp(Packet<'a>),
    Udp(UdpPacket<'a>),
}

/// Finds the TCP segment or datagram in a frame; `None` when there is none, or when its headers were not captured whole.
///
/// Fragments are not reassembled: TCP avoids them (RFC 9293, section 3.7.5), and the stream counts what is missing. Of
/// Memcached's datagrams only large requests are fragmented; their replies are counted as without a request.
pub(super) fn parse(frame: &[u8], link: Linktype) -> Option<Frame<'_>> {
    let packet = match get_packetdata(frame, link, frame.len())? {
        PacketData::L2(frame) => LaxSlicedPacket::from_ethernet(frame).ok()?,
        PacketData::L3(ether_type, packet) => {
            LaxSlicedPacket::from_ether_type(EtherType(ether_type), packet)
        }
        PacketData::L4(..) | PacketData::Unsupported(_) => return None,
    };
    let (source, destination, declared) = match packet.net? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                // Zero where the network card was to fill it in (segmentation offload).
                usize::from(header.total_len()).checked_sub(header.slice().len()),
            )
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                match header.payload_length() {
                    0 => None,
                    length => {
                        let extensions = ip.extensions().slice().len();
                        usize::from(length).checked_sub(extensions)
                    }
                },
            )
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let transport = packet.transport?;
    if let TransportSlice::Udp(udp) = &transport {
        let payload = udp.payload();
        // Zero where the network card was to fill it in.
        let length = match udp.length() {
            0 => payload.len(),
            length => usize::from(length).checked_sub(udp.header_len())?,
        };
        return Some(Frame::Udp(UdpPacket {
            source: SocketAddr::new(source, udp.source_port()),
            destination: SocketAddr::new(destination, udp.destination_port()),
            payload: &payload[..payload.len().min(length)],
            length: u32::try_from(length).ok()?,
        }));
    }
    let TransportSlice::Tcp(tcp) = transport else {
        return None;
    };
    // Ethernet pads short frames: what is beyond the declared length is no payload.
    let payload = tcp.payload();
    let length = declared
        .and_then(|length| length.checked_sub(tcp.header_slice().len()))
        .unwrap_or(payload.len());
    Some(Frame::Tcp(Packet {
        source: SocketAddr::new(source, tcp.source_port()),
        destination: SocketAddr::new(destination, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        acknowledgment: tcp.ack().then(|| tcp.acknowledgment_number()),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        payload: &payload[..payload.len().min(length)],
        length: u32::try_from(length).ok()?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(4000, 6379, 7, 1024)
            .ack(9);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    fn tcp(frame: &[u8], link: Linktype) -> Option<Packet<'_>> {
        match parse(frame, link)? {
            Frame::Tcp(packet) => Some(packet),
            Frame::Udp(_) => None,
        }
    }

    #[test]
    fn datagrams() {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv6([1; 16], [2; 16], 64)
            .udp(4000, 11211);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"get k\r\n").unwrap();
        for (end, payload) in [(frame.len(), &b"get k\r\n"[..]), (frame.len() - 3, b"get ")] {
            let Some(Frame::Udp(packet)) = parse(&frame[..end], Linktype::ETHERNET) else {
                panic!("no datagram");
            };
            assert_eq!((packet.payload, packet.length), (payload, 7));
            assert_eq!(packet.destination.port(), 11211);
        }
    }

    #[test]
    fn link_types() {
        let ethernet = frame(b"PING\r\n");
        let ip = &ethernet[14..];
        let null = [&2_u32.to_ne_bytes(), ip].concat();
        let mut cooked = vec![0, 0, 0, 1, 0, 6, 1, 1, 1, 1, 1, 1, 0, 0, 8, 0];
        cooked.extend_from_slice(ip);
        let mut cooked2 = vec![8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 1, 1, 1, 1, 1, 1, 0, 0];
        cooked2.extend_from_slice(ip);
        let vlan = [&ethernet[..12], &[0x81, 0, 0, 5], &ethernet[12..]].concat();
        let table: [(&str, Linktype, &[u8]); 6] = [
            ("ethernet", Linktype::ETHERNET, &ethernet),
            ("ethernet with VLAN", Linktype::ETHERNET, &vlan),
            ("null", Linktype::NULL, &null),
            ("raw", Linktype::RAW, ip),
            ("cooked", Linktype::LINUX_SLL, &cooked),
            ("cooked v2", Linktype(276), &cooked2),
        ];
        for (name, link, bytes) in table {
            let packet = tcp(bytes, link).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(packet.payload, b"PING\r\n", "{name}");
            assert_eq!(packet.destination, "10.0.0.2:6379".parse().unwrap());
            assert_eq!((packet.sequence, packet.acknowledgment), (7, Some(9)));
        }
    }

    #[test]
    fn cut_and_padded_frames() {
        let whole = frame(b"PING\r\n");
        let cut = tcp(&whole[..whole.len() - 4], Linktype::ETHERNET).unwrap();
        assert_eq!((cut.payload, cut.length), (&b"PI"[..], 6));
        let padded = [whole.as_slice(), &[0; 8]].concat();
        let padded = tcp(&padded, Linktype::ETHERNET).unwrap();
        assert_eq!((padded.payload, padded.length), (&b"PING\r\n"[..], 6));
        for length in 0..whole.len() - 6 {
            // No header is read past the end.
            let _ = parse(&whole[..length], Linktype::ETHERNET);
        }
    }
}
