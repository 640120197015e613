//! UDP: who is at the other end of a datagram. A connected socket knows; else the call names the receiver, and the
//! kernel tells who the sender was. Where neither does, the record says that it is not known: it is never guessed.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, bpf_probe_read_user};
use observer_ebpf::direction;

use crate::buffer::{Buffer, Place};
use crate::capture::Call;
use crate::globals::{CLIENTS, PEERS, SENDERS, ports, watched};
use crate::socket::{
    Common, INET, INET6, Ports, addresses, bytes, endpoints, is_udp, judge, left_out_from,
};

/// An address in network order, IPv4 in the first word, and a port in host order. Words only: a map's value may have no
/// padding.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) words: [u32; 4],
    pub(crate) port: u32,
}

impl Peer {
    const UNKNOWN: Self = Self {
        words: [0; 4],
        port: 0,
    };

    #[inline(always)]
    pub(crate) fn bytes(&self) -> [u8; 16] {
        bytes(self.words)
    }

    /// Reads a `struct sockaddr` for a socket of `family`. An IPv6 socket may be given an IPv4 address.
    #[inline(always)]
    fn read(address: u64, kernel: bool, family: u16) -> Self {
        let Some(head) = read::<[u32; 2]>(address, kernel) else {
            return Self::UNKNOWN;
        };
        let named = head[0] as u16;
        let port = u16::from_be((head[0] >> 16) as u16).into();
        if named == INET6 && family == INET6 {
            // Behind port and flow label.
            match read::<[u32; 4]>(address.wrapping_add(8), kernel) {
                Some(words) => Self { words, port },
                None => Self::UNKNOWN,
            }
        } else if named == INET && family == INET6 {
            let words = [0, 0, u32::to_be(0xffff), head[1]];
            Self { words, port }
        } else if named == INET || named == 0 {
            // The kernel takes `AF_UNSPEC` for `AF_INET`.
            let words = [head[1], 0, 0, 0];
            Self { words, port }
        } else {
            Self::UNKNOWN
        }
    }
}

#[inline(always)]
fn read<T>(address: u64, kernel: bool) -> Option<T> {
    // SAFETY: the helpers check the address; `T` is an array of plain numbers at each use.
    unsafe {
        if kernel {
            bpf_probe_read_kernel(address as *const T).ok()
        } else {
            bpf_probe_read_user(address as *const T).ok()
        }
    }
}

/// Notes who sent the datagram that this thread is just receiving, if it is of a watched port.
#[inline(always)]
pub(crate) fn sender(local: u16, peer: Peer) -> Option<()> {
    let words = ports()?;
    if watched(words, local) || watched(words, peer.port as u16) {
        let _ = SENDERS.insert(bpf_get_current_pid_tgid(), peer, 0);
    }
    Some(())
}

/// Who sent the datagram that this thread has just received. Forgets it.
#[inline(always)]
pub(crate) fn take_sender() -> Option<Peer> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread writes it.
    let peer = unsafe { SENDERS.get(thread) }.copied()?;
    let _ = SENDERS.remove(thread);
    Some(peer)
}

/// A socket's part of a datagram.
pub(crate) struct Socket {
    pub(crate) sk: u64,
    pub(crate) common: Common,
    pub(crate) local: u16,
    pub(crate) remote: u16,
    pub(crate) family: u16,
}

impl Socket {
    /// `None` where it does not speak UDP.
    #[inline(always)]
    pub(crate) fn read(sk: u64) -> Option<Self> {
        let mut common = Common::uninit();
        let (local, remote, family) = endpoints(sk, &mut common)?;
        is_udp(sk).then_some(Self {
            sk,
            common,
            local,
            remote,
            family,
        })
    }

    /// The other end: the one that a send names (`struct sockaddr` at `name`, if not 0), else that of the connection.
    #[inline(always)]
    pub(crate) fn peer(&self, name: u64, kernel: bool) -> Peer {
        if name != 0 {
            return Peer::read(name, kernel, self.family);
        }
        if self.remote == 0 {
            return Peer::UNKNOWN;
        }
        Peer {
            words: addresses(&self.common, self.family).1,
            port: self.remote.into(),
        }
    }

    /// Whether a datagram to or from `peer` is watched. Where it is not known: whether it is this socket that is.
    #[inline(always)]
    pub(crate) fn judge(&self, peer: &Peer) -> Option<Ports> {
        let port = peer.port as u16;
        if port == 0 {
            // SAFETY: the value is a copied number; another thread's write to it is of the same socket's port.
            if unsafe { CLIENTS.get(self.sk) }.copied() == Some(self.local) {
                return Some(Ports {
                    local: self.local,
                    remote: 0,
                    family: self.family,
                    local_watched: false,
                    remote_watched: false,
                });
            }
        }
        judge(self.local, port, self.family)
    }

    /// Sends the records of a datagram.
    #[inline(always)]
    pub(crate) fn send(
        &self,
        way: (u8, u32),
        ports: &Ports,
        peer: &Peer,
        length: u32,
        started: u64,
        buffer: &Buffer,
    ) -> Option<()> {
        let slot = PEERS.get_ptr_mut(way.1)?;
        // SAFETY: the slot is this program's own on this CPU, as no program runs twice at a time there.
        let peer = unsafe {
            slot.write_volatile(*peer);
            &*slot
        };
        if way.0 == direction::SEND && self.remote == 0 && ports.remote_watched {
            let _ = CLIENTS.insert(self.sk, self.local, 0);
        }
        if left_out_from(&self.common, ports, &peer.words) {
            return None;
        }
        let call = Call::datagram(way, self.sk, &self.common, ports, peer, length, started);
        if peer.port == 0 {
            return call.send(&Buffer {
                place: Place::Unreadable,
                ..*buffer
            });
        }
        call.send(buffer)
    }
}
