//! Configuration, maps and counters.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use observer_ebpf::{MAX_SOCKETS, PORT_WORDS, SocketName, config, counter, lane};

use crate::capture::Scratch;
use crate::datagram::Peer;

/// Written by the loader, then frozen: the verifier knows each slot's value and drops dead branches.
#[unsafe(no_mangle)]
static CONFIG: [u32; config::COUNT] = [0; config::COUNT];

/// Value of a slot of the configuration.
#[inline(always)]
pub(crate) fn setting(slot: usize) -> u32 {
    // SAFETY: `slot` is one of the constants of `config`, all below `COUNT`. Volatile, because the value
    // in the object is not the one at run time.
    unsafe { core::ptr::read_volatile((&raw const CONFIG).cast::<u32>().add(slot)) }
}

/// The same as an offset.
#[inline(always)]
pub(crate) fn offset(slot: usize) -> usize {
    setting(slot) as usize
}

/// Records for userspace. Its size is set by the loader.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// One bit for each watched port; userspace may change it at any time.
#[map]
static PORTS: Array<[u64; PORT_WORDS]> = Array::with_max_entries(1, 0);

#[map]
static COUNTERS: PerCpuArray<[u64; counter::COUNT]> = PerCpuArray::with_max_entries(lane::COUNT, 0);

/// How many `struct proto` are remembered: TCP over IPv4 and IPv6, and each once more under kernel TLS or a
/// socket map.
pub(crate) const PROTOS: usize = 4;

/// Addresses of `struct proto` that belong to TCP.
#[map]
static TCP_PROTOS: Array<[u64; PROTOS]> = Array::with_max_entries(1, 0);

/// The remembered addresses.
#[inline(always)]
pub(crate) fn protos() -> Option<*mut u64> {
    TCP_PROTOS.get_ptr_mut(0).map(|protos| protos.cast())
}

/// When a thread entered `tcp_sendmsg_locked`, by `pid_tgid`.
#[map]
pub(crate) static STARTS: HashMap<u64, u64> = HashMap::with_max_entries(16_384, 0);

/// A call under way: what its return does not tell.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) sk: u64,
    pub(crate) msg: u64,
    /// As [`crate::iter::buffer`] takes it.
    pub(crate) room: u64,
    pub(crate) started: u64,
}

/// Calls under way, by thread (`tid`) and, above, lane: functions call one another, never themselves. Its size is set by the loader.
#[map]
pub(crate) static CALLS: HashMap<u64, Asked> = HashMap::with_max_entries(1, 0);

/// When the reader was last woken because somebody connects, nanoseconds.
#[map]
static WOKEN: Array<u64> = Array::with_max_entries(1, 0);

/// Whether to wake the reader at `now` because somebody connects: at most once a millisecond.
#[inline(always)]
pub(crate) fn may_wake(now: u64) -> bool {
    const PAUSE: u64 = 1_000_000;
    let Some(woken) = WOKEN.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: it points to an aligned number of the map. CPUs that write at the same time only wake once more.
    unsafe {
        let may = now.wrapping_sub(woken.read_volatile()) > PAUSE;
        if may {
            woken.write_volatile(now);
        }
        may
    }
}

/// One scratch for each lane: a send may interrupt a receive on the same CPU.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(lane::COUNT, 0);

/// This CPU's scratch of a lane. The kernel never runs one program twice at a time on a CPU, so it is the caller's own.
#[inline(always)]
pub(crate) fn scratch(lane: u32) -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(lane)
}

/// The programs that see datagrams, by direction: what sees TCP pays one branch for them.
#[map]
pub(crate) static DATAGRAMS: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// Who sent the datagram that a thread is just receiving, by `pid_tgid`.
#[map]
pub(crate) static SENDERS: LruHashMap<u64, Peer> = LruHashMap::with_max_entries(16_384, 0);

/// Where a datagram's peer passes through memory that the verifier does not follow. Else it looks at all that comes
/// after once for each way to find the peer: 190 ms a program, in place of 45.
#[map]
pub(crate) static PEERS: PerCpuArray<Peer> = PerCpuArray::with_max_entries(lane::COUNT, 0);

/// Local ports of unconnected sockets that have sent to a watched port, by address of their `struct sock`. The kernel gives
/// the address of a closed socket to the next one; the port tells them apart.
#[map]
pub(crate) static CLIENTS: LruHashMap<u64, u16> = LruHashMap::with_max_entries(16_384, 0);

/// The programs that see unix sockets, by direction: what sees TCP comes by here only with what is not its own.
#[map]
pub(crate) static OTHERS: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// Numbers of the watched unix sockets, by the name that their server bound. 0 is none.
#[map]
pub(crate) static SERVERS: HashMap<SocketName, u32> = HashMap::with_max_entries(MAX_SOCKETS, 0);

/// One bit for each length that a watched name has: most sockets' names are told apart without being read.
#[map]
pub(crate) static LENGTHS: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// Where a name is read to: too large for the stack.
#[map]
pub(crate) static NAMES: PerCpuArray<SocketName> = PerCpuArray::with_max_entries(lane::COUNT, 0);

/// How far the streams of a unix socket are: the kernel does not count their bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Streams {
    /// Whose: the kernel gives the address of a closed socket to the next one.
    pub(crate) inode: u64,
    /// Inode number of the client's end; 0 where that was gone before anything was seen.
    pub(crate) connection: u64,
    pub(crate) sent: u32,
    pub(crate) received: u32,
}

/// Watched unix sockets, by address of their `struct sock`.
#[map]
pub(crate) static STREAMS: LruHashMap<u64, Streams> = LruHashMap::with_max_entries(16_384, 0);

/// Whether a port is watched.
#[inline(always)]
pub(crate) fn watched(words: &[u64; PORT_WORDS], port: u16) -> bool {
    let word = words[usize::from(port >> 6) & (PORT_WORDS - 1)];
    word >> (port & 63) & 1 == 1
}

/// The bit map of watched ports.
#[inline(always)]
pub(crate) fn ports() -> Option<&'static [u64; PORT_WORDS]> {
    PORTS.get(0)
}

/// Adds to a counter of this CPU. Each program has a lane of its own and never runs twice at a time on a CPU,
/// so a plain addition loses nothing when one program preempts another.
#[inline(always)]
pub(crate) fn count(lane: u32, slot: usize, n: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(lane) {
        // SAFETY: `slot` is a constant of `counter`, below the number of words.
        unsafe { *counters.cast::<u64>().add(slot) += n };
    }
}

/// Adds to two counters of this CPU, `slot` and the one after it.
#[inline(always)]
pub(crate) fn count_two(lane: u32, slot: usize, first: u64, second: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(lane) {
        // SAFETY: as in `count`; `slot` + 1 is a constant of `counter` too.
        unsafe {
            *counters.cast::<u64>().add(slot) += first;
            *counters.cast::<u64>().add(slot + 1) += second;
        }
    }
}
