//! Whose socket: the port filter, addresses, positions.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};
use observer_ebpf::{Header, config};

use crate::globals::{offset, ports, setting, watched};

/// `AF_INET` and `AF_INET6`.
const INET: u16 = 2;
const INET6: u16 = 10;
/// `IPPROTO_TCP`. Multipath TCP has a number of its own.
const TCP: u16 = 6;

/// Bytes of `sock_common` that are read in one piece; userspace checks that its fields end before.
const COMMON: usize = 128;

/// What the port filter learned.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    /// Host byte order, both.
    pub(crate) local: u16,
    pub(crate) remote: u16,
    pub(crate) family: u16,
    /// The bit of each.
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
pub(crate) fn filter(sk: u64) -> Option<Ports> {
    // dport (network order), num, family, then state and flags: 8 bytes in a row.
    let word: [u16; 4] = read(sk, offset(config::SKC_DPORT))?;
    let family = word[2];
    if family != INET && family != INET6 {
        return None;
    }
    let (remote, local) = (u16::from_be(word[0]), word[1]);
    judge(sk, local, remote, family)
}

/// The same for a socket whose local port has been forgotten: at `TCP_CLOSE` `skc_num` is 0 already.
#[inline(always)]
pub(crate) fn filter_state(sk: u64) -> Option<Ports> {
    let word: [u16; 4] = read(sk, offset(config::SKC_DPORT))?;
    let family = word[2];
    if family != INET && family != INET6 {
        return None;
    }
    let (remote, mut local) = (u16::from_be(word[0]), word[1]);
    if local == 0 {
        local = u16::from_be(read(sk, offset(config::INET_SPORT))?);
    }
    judge(sk, local, remote, family)
}

#[inline(always)]
fn judge(sk: u64, local: u16, remote: u16, family: u16) -> Option<Ports> {
    let words = ports()?;
    let (local_watched, remote_watched) = (watched(words, local), watched(words, remote));
    if !local_watched && !remote_watched {
        return None;
    }
    let protocol: u16 = read(sk, offset(config::SK_PROTOCOL))?;
    if protocol != TCP {
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

/// Fills the socket's part of `header`: addresses, ports, namespace. `None` where the socket is to be left
/// out: the server's end of a connection whose client is on this host too.
#[inline(always)]
pub(crate) fn identify(sk: u64, ports: &Ports, header: &mut Header) -> Option<()> {
    let mut common = MaybeUninit::<[u64; COMMON / 8]>::uninit();
    // SAFETY: the helper writes `COMMON` bytes, which `common` has.
    let failed = unsafe {
        generated::bpf_probe_read_kernel(common.as_mut_ptr().cast(), COMMON as u32, sk as *const _)
    };
    if failed != 0 {
        return None;
    }
    let common: *const u8 = common.as_ptr().cast();
    header.family = ports.family;
    header.local_port = ports.local;
    header.remote_port = ports.remote;
    header.sk = sk;
    let (local, remote) = if ports.family == INET {
        let local: u32 = field(common, config::SKC_RCV_SADDR);
        let remote: u32 = field(common, config::SKC_DADDR);
        ([local, 0, 0, 0], [remote, 0, 0, 0])
    } else {
        let local: [u32; 4] = field(common, config::SKC_V6_RCV_SADDR);
        let remote: [u32; 4] = field(common, config::SKC_V6_DADDR);
        (local, remote)
    };
    if setting(config::SKIP_LOCAL_SERVER) == 1 && ports.local_watched && !ports.remote_watched {
        if local == remote || (loopback(ports.family, &local) && loopback(ports.family, &remote)) {
            return None;
        }
    }
    header.local = bytes(local);
    header.remote = bytes(remote);
    let net: u64 = field(common, config::SKC_NET);
    header.netns = read(net, offset(config::NET_INUM))?;
    Some(())
}

/// A field of the piece of `sock_common` that was read.
#[inline(always)]
fn field<T>(common: *const u8, slot: usize) -> T {
    // SAFETY: userspace checks that each of these fields ends within `COMMON`, and the verifier, which knows
    // the configured offsets, checks it again. Volatile keeps the access at exactly this size.
    unsafe { core::ptr::read_volatile(common.add(offset(slot)).cast::<T>()) }
}

/// The words as they lie in memory.
#[inline(always)]
fn bytes(words: [u32; 4]) -> [u8; 16] {
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

/// Next byte to send and next byte to receive.
#[inline(always)]
pub(crate) fn positions(sk: u64) -> Option<(u32, u32)> {
    Some((
        read(sk, offset(config::WRITE_SEQ))?,
        read(sk, offset(config::COPIED_SEQ))?,
    ))
}
