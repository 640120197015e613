//! From TCP segments to the events of one socket per connection: the client's.

use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use super::packet::Packet;
use crate::source::event::{
    Data, Direction, End, Event, EventKind, Fault, Nanos, SocketId, Uncaptured,
};

/// Most connections tracked at a time.
const MAX_CONNECTIONS: usize = 65_536;
/// How long after its end a connection may still have packets that arrive late, nanoseconds.
const LINGER: Nanos = 3_000_000_000;

#[derive(Debug)]
struct Connection {
    sk: u64,
    client: SocketAddr,
    server: SocketAddr,
    /// Sequence number of the client's SYN.
    syn: Option<u32>,
    established: bool,
    /// FIN seen from client, from server.
    fins: [bool; 2],
    /// When it is taken for closed.
    closes: Option<Nanos>,
    /// The server refused or reset it.
    fault: Option<Fault>,
}

impl Connection {
    fn socket(&self) -> SocketId {
        SocketId {
            sk: self.sk,
            netns: 0,
            local: self.client.into(),
            remote: self.server.into(),
        }
    }

    fn closed(&self) -> EventKind<'static> {
        EventKind::Closed {
            fault: self.fault,
            rest: None,
        }
    }

    fn event(&self, time: Nanos, kind: EventKind<'static>) -> Event<'static> {
        Event {
            time,
            socket: self.socket(),
            task: None,
            kind,
        }
    }
}

/// The connections of a capture.
#[derive(Debug, Default)]
pub(super) struct Connections {
    table: FxHashMap<(SocketAddr, SocketAddr), Connection>,
    opened: u64,
    swept: Nanos,
}

impl Connections {
    /// Takes a packet in. `watched`: whether a server is expected on a port.
    pub(super) fn packet(
        &mut self,
        time: Nanos,
        packet: &Packet<'_>,
        watched: impl Fn(u16) -> bool,
        sink: &mut dyn FnMut(&Event<'_>),
    ) {
        if !watched(packet.source.port()) && !watched(packet.destination.port()) {
            return;
        }
        self.sweep(time, sink);
        let key = if packet.source < packet.destination {
            (packet.source, packet.destination)
        } else {
            (packet.destination, packet.source)
        };
        if packet.syn && packet.acknowledgment.is_none() {
            let same = self
                .table
                .get(&key)
                .is_some_and(|known| known.syn == Some(packet.sequence));
            if !same {
                self.close(&key, time, sink);
                let connection = Connection {
                    syn: Some(packet.sequence),
                    ..self.begin(packet.source, packet.destination)
                };
                sink(&connection.event(time, EventKind::Connecting));
                self.table.insert(key, connection);
            }
        }
        if !self.table.contains_key(&key) {
            // Joined mid-stream: the SYN-ACK, else the port, tells the client from the server.
            let from_server = if packet.syn {
                packet.acknowledgment.is_some()
            } else {
                watched(packet.source.port()) && !watched(packet.destination.port())
            };
            let connection = if from_server {
                self.begin(packet.destination, packet.source)
            } else {
                self.begin(packet.source, packet.destination)
            };
            self.table.insert(key, connection);
        }
        let Some(connection) = self.table.get_mut(&key) else {
            return;
        };
        let from_client = packet.source == connection.client;
        let begins = packet.syn && !from_client && packet.acknowledgment.is_some();
        if !connection.established
            && !packet.rst
            && (begins || connection.syn.is_some() && !packet.syn)
        {
            connection.established = true;
            let (send_position, receive_position) = if begins {
                (packet.acknowledgment, Some(packet.sequence.wrapping_add(1)))
            } else {
                (connection.syn.map(|syn| syn.wrapping_add(1)), None)
            };
            sink(&connection.event(
                time,
                EventKind::Established {
                    end: End::Client,
                    send_position,
                    receive_position,
                },
            ));
        }
        if packet.length > 0 && !packet.rst {
            sink(&Event {
                time,
                socket: connection.socket(),
                task: None,
                kind: EventKind::Data(data(time, packet, from_client)),
            });
        }
        if packet.fin {
            connection.fins[usize::from(!from_client)] = true;
        }
        if packet.rst && !from_client && connection.closes.is_none() {
            connection.fault = Some(match connection.established {
                true => Fault::Reset,
                false => Fault::Refused,
            });
        }
        if packet.rst || connection.fins == [true; 2] {
            connection.closes.get_or_insert(time.saturating_add(LINGER));
        }
    }

    /// The capture has ended: connections whose end was seen are closed.
    pub(super) fn finish(&mut self, time: Nanos, sink: &mut dyn FnMut(&Event<'_>)) {
        let mut ended: Vec<_> = self
            .table
            .values()
            .filter(|connection| connection.closes.is_some())
            .collect();
        ended.sort_unstable_by_key(|connection| connection.sk);
        for connection in ended {
            sink(&connection.event(time, connection.closed()));
        }
        self.table.clear();
    }

    fn begin(&mut self, client: SocketAddr, server: SocketAddr) -> Connection {
        self.opened += 1;
        Connection {
            sk: self.opened,
            client,
            server,
            syn: None,
            established: false,
            fins: [false; 2],
            closes: None,
            fault: None,
        }
    }

    fn close(
        &mut self,
        key: &(SocketAddr, SocketAddr),
        time: Nanos,
        sink: &mut dyn FnMut(&Event<'_>),
    ) {
        if let Some(connection) = self.table.remove(key) {
            sink(&connection.event(time, connection.closed()));
        }
    }

    /// Closes connections whose end is long past; makes room when there are too many.
    fn sweep(&mut self, now: Nanos, sink: &mut dyn FnMut(&Event<'_>)) {
        let full = self.table.len() >= MAX_CONNECTIONS;
        if !full && now.saturating_sub(self.swept) < LINGER {
            return;
        }
        self.swept = now;
        let mut over: Vec<_> = self
            .table
            .iter()
            .filter(|(_, connection)| full || connection.closes.is_some_and(|at| at <= now))
            .map(|(key, _)| *key)
            .collect();
        over.sort_unstable();
        for key in over {
            self.close(&key, now, sink);
        }
    }
}

fn data<'a>(time: Nanos, packet: &Packet<'a>, from_client: bool) -> Data<'a> {
    Data {
        direction: if from_client {
            Direction::Send
        } else {
            Direction::Receive
        },
        started: time,
        // A SYN takes one position itself (RFC 9293, section 3.4); TCP Fast Open puts data behind it.
        position: packet.sequence.wrapping_add(packet.syn.into()),
        opposite: None,
        length: packet.length,
        payload: packet.payload,
        uncaptured: (packet.payload.len() < packet.length as usize).then_some(Uncaptured::Limit),
        continued: false,
        opening: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet between client and server: `S`YN, `A`CK, `R`ST, `F`IN.
    fn packet(from_client: bool, flags: &str) -> Packet<'static> {
        let (client, server) = ("10.0.0.1:40000", "10.0.0.2:6379");
        let (source, destination) = if from_client {
            (client, server)
        } else {
            (server, client)
        };
        Packet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            sequence: 100,
            acknowledgment: flags.contains('A').then_some(101),
            syn: flags.contains('S'),
            fin: flags.contains('F'),
            rst: flags.contains('R'),
            payload: b"",
            length: 0,
        }
    }

    #[test]
    fn how_a_connection_ends() {
        /// Packets, whether it opens, and its end.
        type Row<'a> = (&'a [(bool, &'a str)], bool, Option<Fault>);
        let table: [Row<'_>; 4] = [
            (&[(true, "S"), (false, "RA")], false, Some(Fault::Refused)),
            (
                &[(true, "S"), (false, "SA"), (true, "A"), (false, "R")],
                true,
                Some(Fault::Reset),
            ),
            (&[(true, "S"), (false, "SA"), (true, "R")], true, None),
            (
                &[(true, "S"), (false, "SA"), (true, "FA"), (false, "FA")],
                true,
                None,
            ),
        ];
        for (packets, opens, fault) in table {
            let mut connections = Connections::default();
            let mut kinds = Vec::new();
            let mut sink = |event: &Event<'_>| kinds.push(format!("{:?}", event.kind));
            for (time, (from_client, flags)) in packets.iter().enumerate() {
                let packet = packet(*from_client, flags);
                connections.packet(time as Nanos, &packet, |port| port == 6379, &mut sink);
            }
            connections.finish(9, &mut sink);
            assert_eq!(kinds.len(), 2 + usize::from(opens), "{kinds:?}");
            assert_eq!(kinds[0], "Connecting");
            assert_eq!(
                kinds.last(),
                Some(&format!("Closed {{ fault: {fault:?}, rest: None }}"))
            );
        }
    }
}
