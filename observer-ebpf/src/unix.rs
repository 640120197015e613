//! Unix sockets: whose they are, and how far their streams are.
//!
//! A server's socket has the name that it was bound to, and those it accepts share it; a client's has none, but its peer is one
//! of these. The kernel keeps the peer's `struct sock` for as long as a socket refers to it.

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated};
use observer_ebpf::{
    Header, MAX_SOCKET_NAME, NAME_WORDS, config, counter, direction, kind, lane, unix_start,
};

use crate::buffer::Buffer;
use crate::capture::{self, Call};
use crate::globals::{LENGTHS, NAMES, SERVERS, STREAMS, Streams, count, offset, setting};
use crate::socket::{Common, Ports, bytes, read};
use crate::task::Task;

/// `AF_UNIX`.
pub(crate) const UNIX: u16 = 1;
/// `SOCK_STREAM`.
const STREAM: u16 = 1;
/// `TCP_CLOSE`, which is the state of a closed unix socket, too.
const CLOSE: u8 = 7;

/// What tells a connection: inode number of its client's end.
pub(crate) struct Ends(u64);

impl Ends {
    /// Fills the socket's part of `header`.
    #[inline(always)]
    pub(crate) fn identify(&self, inode: u64, ports: &Ports, header: &mut Header) {
        header.family = UNIX;
        header.local_port = ports.local;
        header.remote_port = ports.remote;
        header.sk = inode;
        header.local = place(self.0);
        header.remote = place(self.0);
    }
}

/// A number in place of an address.
#[inline(always)]
fn place(number: u64) -> [u8; 16] {
    let (low, high) = (number as u32, (number >> 32) as u32);
    if cfg!(target_endian = "little") {
        bytes([low, high, 0, 0])
    } else {
        bytes([high, low, 0, 0])
    }
}

/// A watched socket.
pub(crate) struct Socket {
    sk: u64,
    peer: u64,
    ports: Ports,
}

impl Socket {
    /// `None` where it is not to be reported. While no name is watched that takes one look-up. `lane` is the program's own.
    #[inline(always)]
    pub(crate) fn judge(lane: u32, sk: u64) -> Option<Self> {
        let lengths = LENGTHS.get(0)?;
        if lengths[0] | lengths[1] == 0 {
            return None;
        }
        let own = number(lane, lengths, sk);
        // Both ends of a unix socket are on this host.
        if own != 0 && setting(config::SKIP_LOCAL_SERVER) == 1 {
            return None;
        }
        let peer: u64 = read(sk, offset(config::UNIX_PEER))?;
        let other = if own == 0 && peer != 0 {
            number(lane, lengths, peer)
        } else {
            0
        };
        if own | other == 0 || read(sk, offset(config::SK_TYPE)) != Some(STREAM) {
            return None;
        }
        Some(Self {
            sk,
            peer,
            ports: Ports {
                local: own as u16,
                remote: other as u16,
                family: UNIX,
                local_watched: own != 0,
                remote_watched: other != 0,
            },
        })
    }

    /// Sends the records of a call that moved `length` bytes. `started` is 0 where that is not known.
    #[inline(always)]
    pub(crate) fn send(
        &self,
        way: (u8, u32),
        length: u32,
        started: u64,
        buffer: impl FnOnce(Task) -> Buffer,
    ) -> Option<()> {
        let sk = self.sk;
        let mut common = Common::uninit();
        // SAFETY: the helper writes as many bytes as `common` has.
        if unsafe {
            generated::bpf_probe_read_kernel(
                common.as_mut_ptr().cast(),
                size_of::<Common>() as u32,
                sk as *const _,
            )
        } != 0
        {
            return None;
        }
        let inode = inode(sk)?;
        let (positions, ends) = self.advance(way, inode, length)?;
        let call = Call::unix(
            way,
            inode,
            &common,
            &self.ports,
            &ends,
            positions,
            (length, started),
        );
        call.send(&buffer(call.task()))
    }

    /// Counts the bytes of a call: where its first one is, and the other direction's next one. A caller that shares a socket
    /// between threads makes one call after the other, or its bytes are mixed anyway: the hook comes before the call returns, so
    /// a plain addition is enough.
    #[inline(always)]
    fn advance(
        &self,
        (way, lane): (u8, u32),
        inode: u64,
        length: u32,
    ) -> Option<((u32, u32), Ends)> {
        let sk = self.sk;
        // SAFETY: a value of the map, which stays memory of the map.
        let known = STREAMS.get_ptr_mut(sk).map(|old| unsafe { *old });
        if known.is_none_or(|known| known.inode != inode) {
            if let Some(old) = known {
                // Its close was not seen.
                closed(&old);
            }
            let connection = if self.ports.local_watched {
                self.client()
            } else {
                inode
            };
            let (request, reply) = unix_start(connection);
            let (sent, received) = if self.ports.local_watched {
                (reply, request)
            } else {
                (request, reply)
            };
            let new = Streams {
                inode,
                connection,
                sent,
                received,
            };
            let _ = STREAMS.insert(sk, new, 0);
        }
        let Some(streams) = STREAMS.get_ptr_mut(sk) else {
            count(lane, counter::MISSED, 1);
            return None;
        };
        // SAFETY: as above.
        unsafe {
            let (sent, received) = ((*streams).sent, (*streams).received);
            let ends = Ends((*streams).connection);
            if way == direction::SEND {
                (*streams).sent = sent.wrapping_add(length);
                Some(((sent, received), ends))
            } else {
                (*streams).received = received.wrapping_add(length);
                Some(((received, sent), ends))
            }
        }
    }

    /// Inode number of the peer, a client's end; 0 where that is gone.
    #[inline(always)]
    fn client(&self) -> u64 {
        if let Some(inode) = inode(self.peer) {
            return inode;
        }
        let known = STREAMS.get_ptr_mut(self.peer);
        // SAFETY: a value of the map, which stays memory of the map.
        known.map_or(0, |streams| unsafe { (*streams).inode })
    }
}

/// Inode number of a socket that somebody holds.
#[inline(always)]
fn inode(sk: u64) -> Option<u64> {
    let socket: u64 = read(sk, offset(config::SK_SOCKET))?;
    if socket == 0 {
        return None;
    }
    read(socket, offset(config::SOCKET_INODE))
}

/// Number of the watched name that a socket is bound to; 0 where there is none.
#[inline(always)]
fn number(lane: u32, lengths: &[u64; 2], sk: u64) -> u32 {
    let Some(address) = read::<u64>(sk, offset(config::UNIX_ADDR)) else {
        return 0;
    };
    if address == 0 {
        return 0;
    }
    let Some(length) = read::<u32>(address, offset(config::UNIX_LEN)) else {
        return 0;
    };
    // Without the family.
    let length = length.wrapping_sub(2);
    if length > MAX_SOCKET_NAME as u32 {
        return 0;
    }
    // As in `capture`: a mask right before its use is what the verifier believes.
    let word = core::hint::black_box(length >> 6) & 1;
    if lengths[word as usize] >> (length & 63) & 1 == 0 {
        return 0;
    }
    let Some(name) = NAMES.get_ptr_mut(lane) else {
        return 0;
    };
    // SAFETY: the slot is this program's own on this CPU, and has room for 128 bytes; the helper checks the address.
    unsafe {
        for word in 0..NAME_WORDS {
            name.cast::<u64>().add(word).write_volatile(0);
        }
        (*name).length = length.into();
        let n = core::hint::black_box(length) & 127;
        let to = (&raw mut (*name).bytes).cast();
        let from = (address as usize).wrapping_add(offset(config::UNIX_NAME) + 2);
        if generated::bpf_probe_read_kernel(to, n, from as *const _) != 0 {
            return 0;
        }
        let name = &*name;
        SERVERS.get(name).copied().unwrap_or(0)
    }
}

/// The socket at `sk` is closed. Forgets it, and says so if it was watched.
#[inline(always)]
pub(crate) fn release(sk: u64) {
    // SAFETY: a value of the map, which stays memory of the map.
    if let Some(streams) = STREAMS.get_ptr_mut(sk).map(|streams| unsafe { *streams }) {
        let _ = STREAMS.remove(sk);
        closed(&streams);
    }
}

/// A call has found the end of the stream of the socket at `sk`. If the peer is closed, so is the connection, since all that was
/// to be read was read. Else the peer has only ended its direction.
#[inline(always)]
pub(crate) fn ended(sk: u64) -> Option<()> {
    let peer: u64 = read(sk, offset(config::UNIX_PEER))?;
    let state: u8 = read(peer, offset(config::SKC_STATE))?;
    if state == CLOSE {
        release(sk);
        release(peer);
    }
    Some(())
}

/// Says that a socket is closed. Which errors its calls had is not told.
#[inline(always)]
fn closed(streams: &Streams) {
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    capture::bare(lane::RELEASE_UNIX, false, |header| {
        capture::head(header, kind::CLOSED, time);
        header.family = UNIX;
        (header.local_port, header.remote_port) = (0, 0);
        header.sk = streams.inode;
        header.local = place(streams.connection);
        header.remote = place(streams.connection);
        (header.position, header.opposite) = (streams.sent, streams.received);
        (header.netns, header.pid, header.tid, header.cgroup) = (0, 0, 0, 0);
        header.comm = [0; 16];
    });
}
