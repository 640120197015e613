//! Whose socket: the port filter, addresses, positions.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};
use observer_ebpf::{Header, config};

use crate::globals::{PROTOS, offset, ports, protos, setting, watched};

/// `AF_INET` and `AF_INET6`.
pub(crate) const INET: u16 = 2;
pub(crate) const INET6: u16 = 10;
/// `IPPROTO_TCP`. Multipath TCP has a number of its own.
const TCP: u16 = 6;
/// `IPPROTO_UDP`.
const UDP: u16 = 17;

/// Bytes of `sock_common` that are read in one piece; userspace checks that its fields end before. A call of
/// the helper costs 33 ns on the reference machine, for 8 bytes as for 128; but the stack is short.
const COMMON: usize = 96;

/// The same for the positions in `tcp_sock`.
const SEQUENCES: usize = 120;

/// The first part of a `sock_common`.
pub(crate) type Common = MaybeUninit<[u64; COMMON / 8]>;

/// What the port filter learned. Ports are in host byte order.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) local: u16,
    pub(crate) remote: u16,
    pub(crate) family: u16,
    /// Whether each is watched.
    pub(crate) local_watched: bool,
    pub(crate) remote_watched: bool,
}

/// Reads a `T` from the kernel at `base + offset`.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: usize) -> Option<T> {
    // SAFETY: the helper checks the address; `T` is a plain number or array of them at each use.
    unsafe { bpf_probe_read_kernel((base as usize).wrapping_add(offset) as *const T) }.ok()
}

/// The filter that almost every call of the machine ends at: one read, two bits.
#[inline(always)]
pub(crate) fn filter(sk: u64, common: &mut Common) -> Option<Ports> {
    let (local, remote, family) = endpoints(sk, common)?;
    judge(local, remote, family).filter(|_| is_tcp(sk, common))
}

/// The same for a socket whose local port has been forgotten: at `TCP_CLOSE` `skc_num` is 0 already. Its protocol
/// is for the caller to check.
#[inline(always)]
pub(crate) fn filter_state(sk: u64, common: &mut Common) -> Option<Ports> {
    let (mut local, remote, family) = endpoints(sk, common)?;
    if local == 0 {
        local = u16::from_be(read(sk, offset(config::INET_SPORT))?);
    }
    judge(local, remote, family)
}

/// Local port, remote port, family.
#[inline(always)]
pub(crate) fn endpoints(sk: u64, common: &mut Common) -> Option<(u16, u16, u16)> {
    // SAFETY: the helper writes `COMMON` bytes, which `common` has.
    let failed = unsafe {
        generated::bpf_probe_read_kernel(common.as_mut_ptr().cast(), COMMON as u32, sk as *const _)
    };
    if failed != 0 {
        return None;
    }
    // dport (network order), num, family in a row, as userspace checks.
    let ports: u32 = field(common, config::SKC_DPORT);
    let family: u16 = field(common, config::SKC_FAMILY);
    if family != INET && family != INET6 {
        return None;
    }
    Some(((ports >> 16) as u16, u16::from_be(ports as u16), family))
}

/// Whether either port is watched.
#[inline(always)]
pub(crate) fn judge(local: u16, remote: u16, family: u16) -> Option<Ports> {
    let words = ports()?;
    let (local_watched, remote_watched) = (watched(words, local), watched(words, remote));
    if !(local_watched | remote_watched) {
        return None;
    }
    Some(Ports {
        local,
        remote,
        family,
        local_watched,
        remote_watched,
    })
}

/// Whether the socket speaks TCP. `sk_protocol` says so, but lies out of reach of the piece already read;
/// sockets share few `struct proto`, static in the kernel, so those once seen to be TCP's are remembered.
#[inline(always)]
pub(crate) fn is_tcp(sk: u64, common: &Common) -> bool {
    let proto: u64 = field(common, config::SKC_PROT);
    let Some(known) = protos() else { return false };
    // SAFETY: words of a map; a racing write stores another such address, or the same one.
    unsafe {
        for slot in 0..PROTOS {
            if known.add(slot).read_volatile() == proto {
                return true;
            }
        }
        if read(sk, offset(config::SK_PROTOCOL)) != Some(TCP) {
            return false;
        }
        for slot in 0..PROTOS {
            if known.add(slot).read_volatile() == 0 {
                known.add(slot).write_volatile(proto);
                break;
            }
        }
    }
    true
}

/// Whether the socket speaks UDP.
#[inline(always)]
pub(crate) fn is_udp(sk: u64) -> bool {
    read(sk, offset(config::SK_PROTOCOL)) == Some(UDP)
}

/// The two addresses, local first, in network order.
#[inline(always)]
pub(crate) fn addresses(common: &Common, family: u16) -> ([u32; 4], [u32; 4]) {
    if family == INET {
        let local: u32 = field(common, config::SKC_RCV_SADDR);
        let remote: u32 = field(common, config::SKC_DADDR);
        ([local, 0, 0, 0], [remote, 0, 0, 0])
    } else {
        (
            field(common, config::SKC_V6_RCV_SADDR),
            field(common, config::SKC_V6_DADDR),
        )
    }
}

/// Whether the socket is to be left out: the server's end of a connection whose client is on this host too.
#[inline(always)]
pub(crate) fn left_out(common: &Common, ports: &Ports) -> bool {
    if setting(config::SKIP_LOCAL_SERVER) != 1 || !ports.local_watched || ports.remote_watched {
        return false;
    }
    let (local, remote) = addresses(common, ports.family);
    local == remote || (loopback(ports.family, &local) && loopback(ports.family, &remote))
}

/// The same for a datagram. A socket that is bound to no address has none: a loopback address of the other end tells, too.
#[inline(always)]
pub(crate) fn left_out_from(common: &Common, ports: &Ports, peer: &[u32; 4]) -> bool {
    if setting(config::SKIP_LOCAL_SERVER) != 1 || !ports.local_watched || ports.remote_watched {
        return false;
    }
    addresses(common, ports.family).0 == *peer || loopback(ports.family, peer)
}

/// Fills the socket's part of `header`: addresses and ports.
#[inline(always)]
pub(crate) fn identify(sk: u64, common: &Common, ports: &Ports, header: &mut Header) {
    header.family = ports.family;
    header.local_port = ports.local;
    header.remote_port = ports.remote;
    header.sk = sk;
    let (local, remote) = addresses(common, ports.family);
    header.local = bytes(local);
    header.remote = bytes(remote);
}

/// Address of the socket's `struct net`.
#[inline(always)]
pub(crate) fn net(common: &Common) -> u64 {
    field(common, config::SKC_NET)
}

/// Inode of a network namespace; 0 if it cannot be read.
#[inline(always)]
pub(crate) fn inode(net: u64) -> u32 {
    read(net, offset(config::NET_INUM)).unwrap_or(0)
}

/// A field of the piece of `sock_common` that was read.
#[inline(always)]
fn field<T>(common: &Common, slot: usize) -> T {
    // SAFETY: userspace checks that each of these fields ends within `COMMON`, and the verifier, which knows
    // the configured offsets, checks it again. Volatile keeps the access at exactly this size.
    unsafe { core::ptr::read_volatile(common.as_ptr().cast::<u8>().add(offset(slot)).cast::<T>()) }
}

/// The words as they lie in memory.
#[inline(always)]
pub(crate) fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are 16 bytes without padding.
    unsafe { core::mem::transmute(words) }
}

/// 127/8, `::1`, or 127/8 mapped into IPv6. Words are in network order.
#[inline(always)]
fn loopback(family: u16, words: &[u32; 4]) -> bool {
    let four = |word: u32| u32::from_be(word) >> 24 == 127;
    if family == INET {
        return four(words[0]);
    }
    words[0] == 0
        && words[1] == 0
        && ((words[2] == 0 && u32::from_be(words[3]) == 1)
            || (u32::from_be(words[2]) == 0xffff && four(words[3])))
}

/// States in which our own FIN is queued, which takes a sequence number: `FIN_WAIT1`, `FIN_WAIT2`, `TIME_WAIT`,
/// `LAST_ACK`, `CLOSING`.
const FIN_SENT: u32 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11;
/// The state in which no FIN was seen: `ESTABLISHED`. In all others it is looked up.
const NO_FIN: u32 = 1 << 1;

/// Next byte of the stream to send and next byte to receive. A FIN is no byte of the stream.
#[inline(always)]
pub(crate) fn positions(sk: u64, common: &Common) -> Option<(u32, u32)> {
    let (mut write, mut copied) = sequences(sk)?;
    let state = 1u32 << (state(common) & 31);
    if state & FIN_SENT != 0 {
        write = write.wrapping_sub(1);
    }
    if state & NO_FIN == 0 && fin_received(sk)? {
        // The call that takes the last byte may take the FIN with it.
        let next: u32 = read(sk, offset(config::RCV_NXT))?;
        if next == copied {
            copied = copied.wrapping_sub(1);
        }
    }
    Some((write, copied))
}

/// The socket's state.
#[inline(always)]
pub(crate) fn state(common: &Common) -> u8 {
    field(common, config::SKC_STATE)
}

/// Whether the other end's FIN has arrived. The state does not tell: a socket that is closed may still be read.
#[inline(always)]
fn fin_received(sk: u64) -> Option<bool> {
    let flags: u64 = read(sk, offset(config::SK_FLAGS))?;
    Some(flags >> (setting(config::SOCK_DONE) & 63) & 1 == 1)
}

/// The first byte that a client that is just connected sends, whose next one is `write`: data may have been queued with the
/// SYN. `snd_sml` is the SYN's own position until something is sent behind it; and the next one where there was no SYN
/// (`TCP_REPAIR`).
#[inline(always)]
pub(crate) fn first(sk: u64, write: u32) -> Option<u32> {
    let syn: u32 = read(sk, offset(config::SND_SML))?;
    Some(if syn == write {
        write
    } else {
        syn.wrapping_add(1)
    })
}

/// How many bytes have arrived behind `copied` that can still be taken.
#[inline(always)]
pub(crate) fn unread(sk: u64, copied: u32) -> Option<u32> {
    let queued: u32 = read(sk, offset(config::SK_QUEUED))?;
    if queued == 0 {
        return Some(0);
    }
    let next: u32 = read(sk, offset(config::RCV_NXT))?;
    Some(
        next.wrapping_sub(copied)
            .wrapping_sub(fin_received(sk)?.into()),
    )
}

/// `write_seq` and `copied_seq`.
#[inline(always)]
fn sequences(sk: u64) -> Option<(u32, u32)> {
    if setting(config::SEQUENCES_APART) == 1 {
        let base = offset(config::SEQUENCES);
        return Some((
            read(sk, base + offset(config::WRITE_SEQ))?,
            read(sk, base + offset(config::COPIED_SEQ))?,
        ));
    }
    let mut piece = MaybeUninit::<[u64; SEQUENCES / 8]>::uninit();
    let address = (sk as usize).wrapping_add(offset(config::SEQUENCES));
    // SAFETY: the helper writes as many bytes as `piece` has; userspace checks that both positions end within,
    // and the verifier does so again.
    unsafe {
        if generated::bpf_probe_read_kernel(
            piece.as_mut_ptr().cast(),
            SEQUENCES as u32,
            address as *const _,
        ) != 0
        {
            return None;
        }
        let piece: *const u8 = piece.as_ptr().cast();
        let at = |slot| core::ptr::read_volatile(piece.add(offset(slot)).cast::<u32>());
        Some((at(config::WRITE_SEQ), at(config::COPIED_SEQ)))
    }
}
