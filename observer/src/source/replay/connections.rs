//! From TCP segments to the events of one socket per connection: the client's.

use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use super::packet::Packet;
use crate::source::event::{Data, Direction, End, Event, EventKind, Nanos, SocketId, Uncaptured};

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
}

impl Connection {
    fn socket(&self) -> SocketId {
        SocketId {
            sk: self.sk,
            netns: 0,
            local: self.client,
            remote: self.server,
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
                let connection = self.begin(packet.source, packet.destination);
                self.table.insert(
                    key,
                    Connection {
                        syn: Some(packet.sequence),
                        ..connection
                    },
                );
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
        if !connection.established && (begins || connection.syn.is_some() && !packet.syn) {
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
            sink(&connection.event(time, EventKind::Closed { fault: None }));
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
        }
    }

    fn close(
        &mut self,
        key: &(SocketAddr, SocketAddr),
        time: Nanos,
        sink: &mut dyn FnMut(&Event<'_>),
    ) {
        if let Some(connection) = self.table.remove(key) {
            sink(&connection.event(time, EventKind::Closed { fault: None }));
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
    }
}
