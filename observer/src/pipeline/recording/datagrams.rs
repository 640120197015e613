//! Datagrams, each masked as it comes: with the decoders of its exchange, where it is a reply's second or later one.

use rustc_hash::FxHashMap;

use super::held::{Held, Lane};
use crate::protocol::mask::{Ended, Mask, Masked, Shared, SharedNames};
use crate::protocol::{Protocol, ReplyDecoder, RequestDecoder};
use crate::source::event::{Datagram, Direction, Event, SocketId};
use crate::stream::Ports;

/// Bytes of the frame header.
const HEAD: usize = 8;
/// Most exchanges, and most datagrams in pieces, that are followed; beyond it all are forgotten.
const MAX_FOLLOWED: usize = 8_192;

type Key = (SocketId, Direction, u16);

enum Decoder {
    Requests(RequestDecoder),
    Replies(Box<ReplyDecoder>),
}

/// What is being read.
struct Message {
    decoder: Decoder,
    mask: Mask,
    masked: Masked,
    lane: Lane,
    /// The number of the datagram that goes on with it, of so many.
    next: u16,
    count: u16,
}

impl Message {
    fn new(request: bool, names: &Shared) -> Self {
        let names = Shared::clone(names);
        let protocol = Protocol::Memcached;
        let (decoder, mask) = match request {
            true => (
                Decoder::Requests(RequestDecoder::new(protocol, false)),
                Mask::requests(protocol, names),
            ),
            false => (
                Decoder::Replies(Box::new(ReplyDecoder::new(protocol))),
                Mask::replies(protocol, names),
            ),
        };
        Self {
            decoder,
            mask,
            masked: Masked::default(),
            lane: Lane::default(),
            next: 1,
            count: 1,
        }
    }

    fn read(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            let before = input;
            let read = |input: &[u8]| &before[..before.len() - input.len()];
            let out = &mut self.masked;
            let ended = match &mut self.decoder {
                Decoder::Requests(decoder) => match decoder.decode(&mut input) {
                    Ok(message) => {
                        self.mask.feed(read(input), out);
                        message.map(|request| self.mask.end(Ended::Request(&request), out))
                    }
                    Err(_) => return self.lose(before),
                },
                Decoder::Replies(decoder) => match decoder.decode(&mut input) {
                    Ok(message) => {
                        self.mask.feed(read(input), out);
                        message.map(|_| self.mask.end(Ended::Reply { number: false }, out))
                    }
                    Err(_) => return self.lose(before),
                },
            };
            if ended.is_none() {
                return;
            }
        }
    }

    fn lose(&mut self, rest: &[u8]) {
        self.mask.lose(&mut self.masked);
        self.mask.feed(rest, &mut self.masked);
    }

    fn skip(&mut self, length: u64) {
        let out = &mut self.masked;
        let bridged = match &mut self.decoder {
            Decoder::Requests(decoder) => decoder.skip(length).map(|message| {
                self.mask.skip(length, out);
                if let Some(request) = message {
                    self.mask.end(Ended::Request(&request), out);
                }
            }),
            Decoder::Replies(decoder) => decoder.skip(length).map(|message| {
                self.mask.skip(length, out);
                if message.is_some() {
                    self.mask.end(Ended::Reply { number: false }, out);
                }
            }),
        };
        if bridged.is_err() {
            self.mask.lose(out);
        }
    }
}

/// What is followed.
pub(super) struct Datagrams {
    ports: Ports,
    names: Shared,
    messages: FxHashMap<Key, Message>,
    /// Datagrams in pieces, by thread: how much of each has come, and whose it is.
    pieces: FxHashMap<(u64, u32, Direction), (u32, Key)>,
}

impl Datagrams {
    pub(super) fn new(ports: Ports, names: SharedNames) -> Self {
        Self {
            ports,
            names: Shared::new(names),
            messages: FxHashMap::default(),
            pieces: FxHashMap::default(),
        }
    }

    /// Masks the bytes of a frame.
    pub(super) fn event(
        &mut self,
        event: &Event<'_>,
        datagram: &Datagram<'_>,
        frame: u64,
        held: &mut Held,
    ) {
        let length = datagram.payload.len() as u32;
        if self.messages.len() > MAX_FOLLOWED || self.pieces.len() > MAX_FOLLOWED {
            self.messages.clear();
            self.pieces.clear();
        }
        let thread = event.task.map_or(0, |task| task.tid);
        let piece = (event.socket.sk, thread, datagram.direction);
        let begun = self.pieces.remove(&piece);
        let (key, head) = if datagram.offset == 0 {
            match self.begin(event, datagram) {
                Some(key) => (key, HEAD as u32),
                None => return held.settle(frame, length),
            }
        } else {
            match begun {
                Some((come, key)) if come == datagram.offset => (key, 0),
                _ => return held.settle(frame, length),
            }
        };
        let come = datagram.offset.saturating_add(datagram.length);
        if come < datagram.total {
            self.pieces.insert(piece, (come, key));
        }
        let Some(message) = self.messages.get_mut(&key) else {
            return held.settle(frame, length);
        };
        let (header, body) = datagram.payload.split_at(head as usize);
        message.lane.push(Some((frame, 0)), length);
        if let [numbers @ .., _, _] = header {
            // What is reserved means nothing.
            message.masked.bytes(numbers);
            message.masked.zeros(2);
        }
        message.read(body);
        let missing = datagram.length - length;
        if missing > 0 {
            message.skip(missing.into());
        }
        // What goes on in another datagram, or piece of one, waits for it.
        let over = come >= datagram.total && message.next >= message.count;
        if over {
            message.mask.lose(&mut message.masked);
        }
        message.lane.settle(&mut message.masked, held);
        if over {
            self.messages.remove(&key);
        }
    }

    /// A datagram begins: what it belongs to.
    fn begin(&mut self, event: &Event<'_>, datagram: &Datagram<'_>) -> Option<Key> {
        let socket = &event.socket;
        let at_client = match (
            self.ports.expects(socket.local),
            self.ports.expects(socket.remote),
        ) {
            (true, false) => false,
            (false, true) => true,
            _ => return None,
        };
        let head: &[u8; HEAD] = datagram.payload.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let (id, sequence, count) = (word(0), word(2), word(4));
        let request = at_client == (datagram.direction == Direction::Send);
        // What is no header is anything.
        let sound = match request {
            true => (sequence, count) == (0, 1),
            false => sequence < count,
        };
        if !sound {
            return None;
        }
        let key = (*socket, datagram.direction, id);
        if request || sequence == 0 {
            let message = Message {
                count,
                ..Message::new(request, &self.names)
            };
            self.messages.insert(key, message);
        } else {
            let message = self.messages.get_mut(&key)?;
            if message.next != sequence {
                self.messages.remove(&key);
                return None;
            }
            message.next += 1;
        }
        Some(key)
    }
}
