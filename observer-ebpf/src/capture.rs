//! One call becomes records. What fits one record goes from user memory straight into the ring; larger
//! buffers do so piece by piece; scattered ones are gathered in a scratch first.
//!
//! Their headers are made in the scratch too, not on the stack: the verifier allows a chain of calls 512 bytes.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::{bpf_ktime_get_ns, generated};
use observer_ebpf::{
    HEADER, Header, MAX_PAYLOAD, MAX_RECORDS, MAX_SEGMENTS, VERSION, config, counter, direction,
    flag, kind, lane, reason,
};

use crate::buffer::{Buffer, Iovec, Place};
use crate::datagram::Peer;
use crate::globals::{EVENTS, count, count_two, scratch, setting};
use crate::socket::{Common, Ports, identify, left_out, net, positions, state};
use crate::task::Task;
use crate::unix::Ends;

/// The scratch: the header under construction, and progress through a call that takes several rounds. In a
/// map, where the verifier takes every number as unknown: one round of a loop stands for all.
#[repr(C)]
pub(crate) struct Scratch {
    /// Segments: the array, the next to read, and how many there are.
    array: u64,
    index: u64,
    count: u64,
    kernel: u64,
    /// User memory to read next, and how much of the current segment there is.
    address: u64,
    rest: u64,
    /// Stream bytes not sent yet, and how many of them may still be captured.
    left: u64,
    budget: u64,
    /// Payload bytes gathered, less than `MAX_PAYLOAD` between rounds.
    fill: u64,
    /// Why it ended early.
    reason: u64,
    header: Header,
    /// Twice what is used: the verifier does not relate the fill and the length of the next piece.
    payload: [u8; 2 * LARGE],
}

/// One call that moved payload. Everything that may still leave it out is settled before.
pub(crate) struct Call<'a> {
    direction: u8,
    lane: u32,
    /// The other end, of a datagram.
    peer: Option<&'a Peer>,
    /// Both ends, of a unix socket.
    ends: Option<&'a Ends>,
    sk: u64,
    common: &'a Common,
    ports: &'a Ports,
    task: Task,
    length: u32,
    position: u32,
    opposite: u32,
    /// When it returned, and when it began.
    time: u64,
    started: u64,
}

impl<'a> Call<'a> {
    /// `None` where the socket is to be left out. `started` is 0 where that is not known.
    #[inline(always)]
    pub(crate) fn new(
        direction: u8,
        sk: u64,
        common: &'a Common,
        ports: &'a Ports,
        length: u32,
        started: u64,
    ) -> Option<Self> {
        if left_out(common, ports) {
            return None;
        }
        let (write, copied) = positions(sk, common)?;
        let (next, opposite) = if direction == direction::SEND {
            (write, copied)
        } else {
            (copied, write)
        };
        let positions = (next.wrapping_sub(length), opposite);
        let way = (direction, direction.into());
        Some(Self::at(positions, way, sk, common, ports, length, started))
    }

    /// A call that moved a datagram.
    #[inline(always)]
    pub(crate) fn datagram(
        way: (u8, u32),
        sk: u64,
        common: &'a Common,
        ports: &'a Ports,
        peer: &'a Peer,
        length: u32,
        started: u64,
    ) -> Self {
        Self {
            peer: Some(peer),
            ..Self::at((0, length), way, sk, common, ports, length, started)
        }
    }

    /// A call that moved `length` bytes of a unix socket, whose positions these are.
    #[inline(always)]
    pub(crate) fn unix(
        way: (u8, u32),
        inode: u64,
        common: &'a Common,
        ports: &'a Ports,
        ends: &'a Ends,
        positions: (u32, u32),
        (length, started): (u32, u64),
    ) -> Self {
        Self {
            ends: Some(ends),
            ..Self::at(positions, way, inode, common, ports, length, started)
        }
    }

    #[inline(always)]
    fn at(
        (position, opposite): (u32, u32),
        (direction, lane): (u8, u32),
        sk: u64,
        common: &'a Common,
        ports: &'a Ports,
        length: u32,
        started: u64,
    ) -> Self {
        // SAFETY: the helper has no preconditions.
        let time = unsafe { bpf_ktime_get_ns() };
        counted(direction, lane, length);
        Self {
            direction,
            lane,
            peer: None,
            ends: None,
            sk,
            common,
            ports,
            task: Task::current(),
            length,
            position,
            opposite,
            time,
            started: if started == 0 { time } else { started },
        }
    }

    /// The thread that made it.
    #[inline(always)]
    pub(crate) fn task(&self) -> Task {
        self.task
    }

    /// Writes all of its header: `captured` bytes of it follow.
    #[inline(always)]
    fn describe(&self, header: &mut Header, captured: u32, reason: u8) {
        let kind = if self.peer.is_some() {
            kind::DATAGRAM
        } else {
            kind::DATA
        };
        head(header, kind, self.time);
        header.direction = self.direction;
        header.reason = reason;
        header.flags = flag::TASK;
        header.started = self.started;
        header.position = self.position;
        header.opposite = self.opposite;
        header.length = self.length;
        header.captured = captured;
        if let Some(ends) = self.ends {
            ends.identify(self.sk, self.ports, header);
        } else {
            identify(self.sk, self.common, self.ports, header);
        }
        if self.ends.is_none() && self.peer.is_none() {
            header.state = state(self.common);
        }
        if let Some(peer) = self.peer {
            header.remote = peer.bytes();
        }
        self.task.describe(net(self.common), header);
    }

    /// Sends its records.
    #[inline(always)]
    pub(crate) fn send(&self, buffer: &Buffer) -> Option<()> {
        match buffer.place {
            Place::Plain => plain(self, buffer.address),
            Place::Segments | Place::KernelSegments => vectored(self, buffer),
            Place::Unreadable => {
                let lane = self.lane;
                count(lane, counter::UNREADABLE_BYTES, u64::from(self.length));
                // Not by `bare`: a function out of line would not know which kind of call this is.
                let record = reserve::<0>();
                if record.is_null() {
                    lost(lane, self.length);
                    return Some(());
                }
                // SAFETY: the record has room for a header.
                unsafe {
                    self.describe(&mut *record, 0, reason::UNREADABLE);
                    generated::bpf_ringbuf_submit(record.cast(), wakeup());
                }
                Some(())
            }
        }
    }
}

/// Counts a call.
#[inline(always)]
fn counted(direction: u8, lane: u32, length: u32) {
    let slot = if direction == direction::SEND {
        counter::SENDS
    } else {
        counter::RECEIVES
    };
    count_two(lane, slot, 1, u64::from(length));
}

/// The part of a header that every record has.
#[inline(always)]
pub(crate) fn head(header: &mut Header, kind: u8, time: u64) {
    header.version = VERSION;
    header.kind = kind;
    header.direction = 0;
    header.reason = reason::NONE;
    header.flags = 0;
    header.state = 0;
    header.time = time;
    header.started = time;
    header.captured = 0;
    header.length = 0;
}

/// Whether to wake the reader: not for each record, which costs more than the record, but when a quarter
/// of the ring waits. Until then it comes by itself every few milliseconds.
#[inline(always)]
fn wakeup() -> u64 {
    if EVENTS.query(BPF_RB_AVAIL_DATA.into()) > u64::from(setting(config::WAKE_AT)) {
        BPF_RB_FORCE_WAKEUP.into()
    } else {
        BPF_RB_NO_WAKEUP.into()
    }
}

/// Counts a record that found no room.
#[inline(always)]
fn lost(lane: u32, length: u32) {
    count_two(lane, counter::RING_FULL, 1, u64::from(length));
}

/// Sends a change of state, whose header `write` writes. `urgent`: the reader is woken for it.
#[inline(always)]
pub(crate) fn bare(lane: u32, urgent: bool, write: impl FnOnce(&mut Header)) {
    count(lane, counter::STATES, 1);
    match EVENTS.reserve::<Header>(0) {
        Some(mut entry) => {
            // SAFETY: any bytes are a header, and `write` replaces them.
            write(unsafe { &mut *entry.as_mut_ptr() });
            let at_once = urgent.then_some(BPF_RB_FORCE_WAKEUP.into());
            entry.submit(at_once.unwrap_or_else(wakeup));
        }
        None => {
            lost(lane, 0);
            count(lane, counter::STATES_LOST, 1);
        }
    }
}

/// Copies a header word by word: from a plain copy the compiler makes one of each field on the stack.
///
/// # Safety
/// `to` has room for it.
#[inline(always)]
unsafe fn copy(header: &Header, to: *mut Header) {
    let from = core::ptr::from_ref(header).cast::<u64>();
    for word in 0..HEADER / 8 {
        // SAFETY: by contract; a `Header` is whole aligned words.
        unsafe {
            to.cast::<u64>()
                .add(word)
                .write_volatile(from.add(word).read_volatile())
        };
    }
}

/// A record with room for `N` bytes of payload.
#[repr(C)]
struct Record<const N: usize> {
    header: Header,
    payload: [u8; N],
}

/// Payload room of the size classes. With header and the ring's own 8 bytes records take 256, 1,152 and
/// 4,224 bytes.
const SMALL: usize = 128;
const MEDIUM: usize = 1024;
const LARGE: usize = MAX_PAYLOAD as usize;

/// Sends a record of the large class with `n` < `LARGE` bytes of user memory, or `LARGE` if `full`.
#[inline(always)]
fn send_large(lane: u32, header: &Header, address: u64, n: u64, full: bool) {
    let record = reserve::<LARGE>();
    if record.is_null() {
        return lost(lane, header.length);
    }
    // As in `plain`.
    let n = if full {
        LARGE as u64
    } else {
        core::hint::black_box(n) & (LARGE as u64 - 1)
    };
    // SAFETY: the record has room for a header and `LARGE` bytes; the helper checks the address.
    unsafe {
        copy(header, record);
        if generated::bpf_probe_read_user(record.add(1).cast(), n as u32, address as *const _) != 0
        {
            (*record).captured = 0;
            (*record).reason = reason::FAULT;
            count(lane, counter::FAULT_BYTES, header.length.into());
        }
        generated::bpf_ringbuf_submit(record.cast(), wakeup());
    }
}

/// Captures one piece of user memory.
#[inline(always)]
fn plain(call: &Call<'_>, address: u64) -> Option<()> {
    let limit = setting(config::MAX_BYTES);
    let length = call.length;
    let budget = if limit < length { limit } else { length };
    let n = u64::from(budget);
    // The header is written where it is read: no copy, and no stack.
    let (record, mask) = if n < SMALL as u64 {
        (reserve::<SMALL>(), SMALL as u64 - 1)
    } else if n < MEDIUM as u64 {
        (reserve::<MEDIUM>(), MEDIUM as u64 - 1)
    } else if n < LARGE as u64 {
        (reserve::<LARGE>(), LARGE as u64 - 1)
    } else {
        return large(call, address, budget);
    };
    let lane = call.lane;
    if record.is_null() {
        lost(lane, length);
        return Some(());
    }
    // The verifier of 6.1 forgets a comparison when the number is loaded from the stack once more; a mask
    // right before its use it believes. Without the box the compiler sees that the mask changes nothing.
    let n = core::hint::black_box(n) & mask;
    // SAFETY: the record has room for a header and `mask` bytes; the helper checks the address.
    unsafe {
        let why = if budget < length {
            reason::LIMIT
        } else {
            reason::NONE
        };
        call.describe(&mut *record, budget, why);
        let payload = record.add(1).cast();
        if generated::bpf_probe_read_user(payload, n as u32, address as *const _) != 0 {
            (*record).captured = 0;
            (*record).reason = reason::FAULT;
            count(lane, counter::FAULT_BYTES, length.into());
        }
        generated::bpf_ringbuf_submit(record.cast(), wakeup());
    }
    Some(())
}

/// Reserves a `Record<N>`; null when the ring is full.
#[inline(always)]
fn reserve<const N: usize>() -> *mut Header {
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: `EVENTS` is a ring.
    unsafe { generated::bpf_ringbuf_reserve(ring, size_of::<Record<N>>() as u64, 0) }.cast()
}

/// The same for what fills a record or more. The header is made in the scratch.
#[inline(always)]
fn large(call: &Call<'_>, address: u64, budget: u32) -> Option<()> {
    let scratch: *mut Scratch = scratch(call.lane)?;
    // SAFETY: the scratch is only used by this lane's program on this CPU.
    let state = unsafe { &mut *scratch };
    call.describe(&mut state.header, 0, reason::NONE);
    state.address = address;
    state.left = call.length.into();
    state.budget = budget.into();
    let round = match call.lane {
        lane::SEND => piece::<{ lane::SEND }>,
        lane::SEND_UDP_4 => piece::<{ lane::SEND_UDP_4 }>,
        lane::SEND_UDP_6 => piece::<{ lane::SEND_UDP_6 }>,
        lane::RECEIVE_UDP_4 => piece::<{ lane::RECEIVE_UDP_4 }>,
        lane::RECEIVE_UDP_6 => piece::<{ lane::RECEIVE_UDP_6 }>,
        lane::SEND_UNIX => piece::<{ lane::SEND_UNIX }>,
        lane::RECEIVE_UNIX => piece::<{ lane::RECEIVE_UNIX }>,
        _ => piece::<{ lane::RECEIVE }>,
    };
    // SAFETY: the callback has the signature that the helper asks for.
    unsafe { generated::bpf_loop(MAX_RECORDS, round as *mut c_void, core::ptr::null_mut(), 0) };
    Some(())
}

/// One round of [`large`]: one record. Returns 1 to end.
extern "C" fn piece<const LANE: u32>(_: u64, _: *mut c_void) -> i64 {
    let Some(scratch) = scratch(LANE) else {
        return 1;
    };
    // SAFETY: the scratch is only used by this lane's program on this CPU.
    let scratch = unsafe { &mut *scratch };
    let (address, left, budget) = (scratch.address, scratch.left, scratch.budget);
    let header = &mut scratch.header;
    let last = budget <= u64::from(MAX_PAYLOAD);
    let captured = if last { budget as u32 } else { MAX_PAYLOAD };
    // The last record stands for what is not captured, too.
    let length = if last { left as u32 } else { MAX_PAYLOAD };
    header.captured = captured;
    header.length = length;
    header.reason = if captured < length {
        reason::LIMIT
    } else {
        reason::NONE
    };
    send_large(
        LANE,
        header,
        address,
        captured.into(),
        captured == MAX_PAYLOAD,
    );
    header.position = header.position.wrapping_add(length);
    header.flags |= flag::CONTINUED;
    scratch.address = address.wrapping_add(captured.into());
    scratch.left = left.wrapping_sub(length.into());
    scratch.budget = budget.wrapping_sub(captured.into());
    i64::from(last)
}

/// Captures a vectored call: small segments share records.
#[inline(always)]
fn vectored(call: &Call<'_>, buffer: &Buffer) -> Option<()> {
    let kernel = buffer.place == Place::KernelSegments;
    // Without the first segment nothing is readable, which the loop finds out once more.
    let first = Iovec::read(buffer.address, 0, kernel).unwrap_or(Iovec { base: 0, len: 0 });
    let length = u64::from(call.length);
    if first.len >= buffer.skip && first.len - buffer.skip >= length {
        // The usual case: all of it in one segment.
        return plain(call, first.base.wrapping_add(buffer.skip));
    }
    let scratch: *mut Scratch = scratch(call.lane)?;
    let limit = u64::from(setting(config::MAX_BYTES));
    // SAFETY: the scratch is only used by this lane's program on this CPU.
    let state = unsafe { &mut *scratch };
    call.describe(&mut state.header, 0, reason::NONE);
    state.array = buffer.address;
    state.index = 0;
    state.count = buffer.count;
    state.kernel = kernel.into();
    state.rest = 0;
    state.left = length;
    state.budget = if limit < length { limit } else { length };
    state.fill = 0;
    state.reason = reason::LIMIT.into();
    if first.len > buffer.skip {
        state.index = 1;
        state.address = first.base.wrapping_add(buffer.skip);
        state.rest = first.len - buffer.skip;
    }
    let round = match call.lane {
        lane::SEND => gather::<{ lane::SEND }>,
        lane::SEND_UDP_4 => gather::<{ lane::SEND_UDP_4 }>,
        lane::SEND_UDP_6 => gather::<{ lane::SEND_UDP_6 }>,
        lane::RECEIVE_UDP_4 => gather::<{ lane::RECEIVE_UDP_4 }>,
        lane::RECEIVE_UDP_6 => gather::<{ lane::RECEIVE_UDP_6 }>,
        lane::SEND_UNIX => gather::<{ lane::SEND_UNIX }>,
        lane::RECEIVE_UNIX => gather::<{ lane::RECEIVE_UNIX }>,
        _ => gather::<{ lane::RECEIVE }>,
    };
    let rounds = MAX_SEGMENTS + MAX_RECORDS;
    // SAFETY: the callback has the signature that the helper asks for.
    unsafe { generated::bpf_loop(rounds, round as *mut c_void, core::ptr::null_mut(), 0) };
    let (left, fill, why) = (state.left, state.fill, state.reason);
    flush(call.lane, state, left, fill, why as u8);
    Some(())
}

/// One round of [`vectored`]: reads a segment, or a piece of it. Returns 1 to end.
extern "C" fn gather<const LANE: u32>(_: u64, _: *mut c_void) -> i64 {
    let Some(scratch) = scratch(LANE) else {
        return 1;
    };
    // SAFETY: the scratch is only used by this lane's program on this CPU.
    let scratch = unsafe { &mut *scratch };
    if scratch.rest == 0 {
        let index = scratch.index;
        if index >= scratch.count {
            scratch.reason = reason::UNREADABLE.into();
            return 1;
        }
        let Some(segment) = Iovec::read(scratch.array, index, scratch.kernel != 0) else {
            scratch.reason = reason::FAULT.into();
            return 1;
        };
        scratch.index = index + 1;
        scratch.address = segment.base;
        scratch.rest = segment.len;
        if segment.len == 0 {
            return 0;
        }
    }
    let fill = scratch.fill;
    if fill >= u64::from(MAX_PAYLOAD) {
        return 1;
    }
    let (rest, budget) = (scratch.rest, scratch.budget);
    let mut n = u64::from(MAX_PAYLOAD) - fill;
    if rest < n {
        n = rest;
    }
    if budget < n {
        n = budget;
    }
    // The verifier of 6.1 learns nothing from comparing two variables, so it needs a constant; without the
    // box the compiler sees that this holds already.
    let n = core::hint::black_box(n);
    if n > u64::from(MAX_PAYLOAD) {
        return 1;
    }
    // SAFETY: `fill` and `n` were checked: the payload has room for both. The helper checks the address.
    let failed = unsafe {
        let to = (&raw mut scratch.payload).cast::<u8>().add(fill as usize);
        generated::bpf_probe_read_user(to.cast(), n as u32, scratch.address as *const _)
    };
    if failed != 0 {
        scratch.reason = reason::FAULT.into();
        return 1;
    }
    scratch.address = scratch.address.wrapping_add(n);
    scratch.rest = rest.wrapping_sub(n);
    scratch.budget = budget.wrapping_sub(n);
    scratch.fill = fill + n;
    if budget == n {
        return 1;
    }
    if fill + n == u64::from(MAX_PAYLOAD) {
        flush(
            LANE,
            scratch,
            MAX_PAYLOAD.into(),
            MAX_PAYLOAD.into(),
            reason::NONE,
        );
        scratch.fill = 0;
    }
    0
}

/// Sends what was gathered: `length` stream bytes, of which `fill` are there.
#[inline(always)]
fn flush(lane: u32, scratch: &mut Scratch, length: u64, fill: u64, why: u8) {
    if fill > u64::from(MAX_PAYLOAD) {
        return;
    }
    let header = &mut scratch.header;
    header.length = length as u32;
    header.captured = fill as u32;
    header.reason = if fill < length { why } else { reason::NONE };
    if fill < length {
        if why == reason::FAULT {
            count(lane, counter::FAULT_BYTES, length - fill);
        } else if why == reason::UNREADABLE {
            count(lane, counter::UNREADABLE_BYTES, length - fill);
        }
    }
    // SAFETY: header and payload are adjacent, and `fill` was checked.
    let failed = unsafe {
        generated::bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            (&raw mut *header).cast(),
            HEADER as u64 + fill,
            wakeup(),
        )
    };
    if failed != 0 {
        lost(lane, length as u32);
    }
    header.position = header.position.wrapping_add(length as u32);
    header.flags |= flag::CONTINUED;
    scratch.left = scratch.left.wrapping_sub(length);
}
