//! One call becomes records: a plain buffer straight into the ring, a vectored one through a scratch.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user, generated};
use observer_ebpf::{
    HEADER, Header, MAX_PAYLOAD, MAX_RECORDS, MAX_SEGMENTS, VERSION, config, counter, direction,
    flag, kind, reason,
};

use crate::globals::{EVENTS, count, count_two, scratch, setting};
use crate::socket::{Common, Ports, identify, net, positions};
use crate::task::Task;

/// Where the bytes of a call are. Not an enum with fields: type information for one, which any function
/// that the compiler leaves out of line would carry, is refused by the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) place: Place,
    /// Address of the bytes, or of the first segment that holds some.
    pub(crate) address: u64,
    /// How many segments there may be.
    pub(crate) count: u64,
    /// Bytes of the first segment to leave out.
    pub(crate) skip: u64,
}

/// Kinds of [`Buffer`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In one piece of user memory.
    Plain,
    /// In several, which an array of `struct iovec` in user memory names.
    Segments,
    /// The same, with the array in kernel memory.
    KernelSegments,
    /// Nowhere that can be read.
    Unreadable,
}

impl Buffer {
    pub(crate) const UNREADABLE: Self = Self {
        place: Place::Unreadable,
        address: 0,
        count: 0,
        skip: 0,
    };

    #[inline(always)]
    pub(crate) fn plain(address: u64) -> Self {
        Self {
            place: Place::Plain,
            address,
            count: 0,
            skip: 0,
        }
    }
}

/// A `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Iovec {
    pub(crate) base: u64,
    pub(crate) len: u64,
}

impl Iovec {
    /// Element `index` of an array.
    #[inline(always)]
    pub(crate) fn read(array: u64, index: u64, kernel: bool) -> Option<Self> {
        let address = array.wrapping_add(index.wrapping_mul(16)) as *const Self;
        // SAFETY: the helpers check the address; an `Iovec` is two plain numbers.
        unsafe {
            if kernel {
                bpf_probe_read_kernel(address).ok()
            } else {
                bpf_probe_read_user(address).ok()
            }
        }
    }
}

/// The header of a call that moved `length` bytes: whose, where in the stream, by whom.
#[inline(always)]
pub(crate) fn begin(
    direction: u8,
    sk: u64,
    common: &Common,
    ports: &Ports,
    length: u32,
    task: Task,
) -> Option<Header> {
    let mut header = head(kind::DATA);
    identify(sk, common, ports, &mut header)?;
    task.describe(net(common), &mut header)?;
    let (write, copied) = positions(sk, common)?;
    let (next, opposite) = if direction == direction::SEND {
        (write, copied)
    } else {
        (copied, write)
    };
    header.direction = direction;
    header.position = next.wrapping_sub(length);
    header.opposite = opposite;
    header.length = length;
    let slot = if direction == direction::SEND {
        counter::SENDS
    } else {
        counter::RECEIVES
    };
    count_two(direction.into(), slot, 1, u64::from(length));
    Some(header)
}

/// Sends the records of the call that `header` describes.
#[inline(always)]
pub(crate) fn finish(direction: u8, header: &mut Header, buffer: &Buffer) -> Option<()> {
    match buffer.place {
        Place::Plain => plain(header, buffer.address),
        Place::Segments | Place::KernelSegments => vectored(header, direction, buffer)?,
        Place::Unreadable => {
            header.reason = reason::UNREADABLE;
            count(
                direction.into(),
                counter::UNREADABLE_BYTES,
                u64::from(header.length),
            );
            bare(header, direction.into());
        }
    }
    Some(())
}

/// A header with the time in it, and nothing else.
#[inline(always)]
pub(crate) fn head(kind: u8) -> Header {
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    Header {
        version: VERSION,
        kind,
        direction: 0,
        reason: reason::NONE,
        flags: 0,
        padding: 0,
        family: 0,
        time,
        started: time,
        sk: 0,
        netns: 0,
        position: 0,
        opposite: 0,
        length: 0,
        captured: 0,
        pid: 0,
        tid: 0,
        local_port: 0,
        remote_port: 0,
        local: [0; 16],
        remote: [0; 16],
        cgroup: 0,
        comm: [0; 16],
    }
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

/// Sends a record without payload.
#[inline(always)]
pub(crate) fn bare(header: &Header, lane: u32) {
    match EVENTS.reserve::<Header>(0) {
        Some(mut entry) => {
            entry.write(*header);
            entry.submit(wakeup());
        }
        None => lost(lane, header.length),
    }
}

/// A record with room for `N` bytes of payload.
#[repr(C)]
struct Record<const N: usize> {
    header: Header,
    payload: [u8; N],
}

/// Reserves room for `N` bytes and reads `n` ≤ `N` bytes of user memory into it.
#[inline(always)]
fn send<const N: usize>(header: &Header, address: u64, n: u64) {
    let Some(mut entry) = EVENTS.reserve::<Record<N>>(0) else {
        return lost(header.direction.into(), header.length);
    };
    let record: *mut Record<N> = entry.as_mut_ptr();
    // SAFETY: `record` points to a reserved `Record<N>`, and the caller checked `n`; the helper checks `address`.
    unsafe {
        (&raw mut (*record).header).write(*header);
        let payload = (&raw mut (*record).payload).cast::<c_void>();
        if generated::bpf_probe_read_user(payload, n as u32, address as *const _) != 0 {
            (*record).header.captured = 0;
            (*record).header.reason = reason::FAULT;
            count(
                header.direction.into(),
                counter::FAULT_BYTES,
                u64::from(header.length),
            );
        }
    }
    entry.submit(wakeup());
}

/// Payload room of the smaller size classes, so that with the header records take 256 and 1,024 bytes.
const SMALL: usize = 256 - HEADER;
const MEDIUM: usize = 1024 - HEADER;
const LARGE: usize = MAX_PAYLOAD as usize;

/// Captures one piece of user memory. `header` holds the whole call's position and length.
#[inline(always)]
fn plain(header: &mut Header, mut address: u64) {
    let mut left = header.length;
    let mut budget = setting(config::MAX_BYTES);
    if budget > left {
        budget = left;
    }
    for _ in 0..MAX_RECORDS {
        if budget <= MAX_PAYLOAD {
            break;
        }
        header.length = MAX_PAYLOAD;
        header.captured = MAX_PAYLOAD;
        send::<LARGE>(header, address, MAX_PAYLOAD.into());
        header.flags |= flag::CONTINUED;
        header.position = header.position.wrapping_add(MAX_PAYLOAD);
        address = address.wrapping_add(MAX_PAYLOAD.into());
        left -= MAX_PAYLOAD;
        budget -= MAX_PAYLOAD;
    }
    header.length = left;
    header.captured = budget;
    if budget < left {
        header.reason = reason::LIMIT;
    }
    // The verifier must see each bound on the very value that is passed on. Without the box the compiler
    // derives that value anew, in a way that the verifier takes for possibly negative.
    let n = core::hint::black_box(u64::from(budget));
    if n <= SMALL as u64 {
        send::<SMALL>(header, address, n);
    } else if n <= MEDIUM as u64 {
        send::<MEDIUM>(header, address, n);
    } else if n <= LARGE as u64 {
        send::<LARGE>(header, address, n);
    }
}

/// Progress through a vectored call. Lies in a map, where the verifier takes every number as unknown: one
/// round of the loop stands for all.
#[repr(C)]
struct Walk {
    /// Next segment to read, and how many there are.
    array: u64,
    index: u64,
    count: u64,
    kernel: u64,
    /// Rest of the current segment.
    address: u64,
    rest: u64,
    /// Stream bytes not sent yet, and how many of them may still be captured.
    left: u64,
    budget: u64,
    /// Payload bytes in the record under construction, less than `MAX_PAYLOAD` between rounds.
    fill: u64,
    /// Why it ended early.
    reason: u64,
    header: Header,
    /// Twice what is used: the verifier does not relate the fill and the length of the next piece.
    payload: [u8; 2 * LARGE],
}

const WALK: usize = size_of::<Walk>();
const _: () = assert!(WALK == crate::globals::SCRATCH);

/// Captures a vectored call: small segments share records.
#[inline(always)]
fn vectored(header: &mut Header, direction: u8, buffer: &Buffer) -> Option<()> {
    let kernel = buffer.place == Place::KernelSegments;
    // Without the first segment nothing is readable, which the loop finds out once more.
    let first = Iovec::read(buffer.address, 0, kernel).unwrap_or(Iovec { base: 0, len: 0 });
    if first.len >= buffer.skip && first.len - buffer.skip >= u64::from(header.length) {
        // The usual case: all of it in one segment.
        plain(header, first.base.wrapping_add(buffer.skip));
        return Some(());
    }
    let walk: *mut Walk = scratch(direction)?.cast();
    let limit = u64::from(setting(config::MAX_BYTES));
    let left = u64::from(header.length);
    // SAFETY: the scratch is a `Walk` that only this program uses on this CPU.
    unsafe {
        (&raw mut (*walk).header).write(*header);
        (*walk).array = buffer.address;
        (*walk).index = 0;
        (*walk).count = buffer.count;
        (*walk).kernel = kernel.into();
        (*walk).rest = 0;
        (*walk).left = left;
        (*walk).budget = if limit < left { limit } else { left };
        (*walk).fill = 0;
        (*walk).reason = reason::LIMIT.into();
        if first.len > buffer.skip {
            (*walk).index = 1;
            (*walk).address = first.base.wrapping_add(buffer.skip);
            (*walk).rest = first.len - buffer.skip;
        }
        let step = if direction == direction::SEND {
            step::<{ direction::SEND }>
        } else {
            step::<{ direction::RECEIVE }>
        };
        generated::bpf_loop(
            MAX_SEGMENTS + MAX_RECORDS,
            step as *mut c_void,
            core::ptr::null_mut(),
            0,
        );
        let (left, fill) = ((*walk).left, (*walk).fill);
        flush(direction.into(), walk, left, fill, (*walk).reason as u8);
    }
    Some(())
}

/// One round: reads a segment, or a piece of it, into the record. Returns 1 to end.
extern "C" fn step<const DIRECTION: u8>(_: u64, _: *mut c_void) -> i64 {
    let Some(scratch) = scratch(DIRECTION) else {
        return 1;
    };
    let walk: *mut Walk = scratch.cast();
    // SAFETY: as in `vectored`; the bounds of the copy are checked below.
    unsafe {
        if (*walk).rest == 0 {
            let index = (*walk).index;
            if index >= (*walk).count {
                (*walk).reason = reason::UNREADABLE.into();
                return 1;
            }
            let Some(segment) = Iovec::read((*walk).array, index, (*walk).kernel != 0) else {
                (*walk).reason = reason::FAULT.into();
                return 1;
            };
            (*walk).index = index + 1;
            (*walk).address = segment.base;
            (*walk).rest = segment.len;
            if segment.len == 0 {
                return 0;
            }
        }
        let fill = (*walk).fill;
        if fill >= u64::from(MAX_PAYLOAD) {
            return 1;
        }
        let mut n = u64::from(MAX_PAYLOAD) - fill;
        let (rest, budget) = ((*walk).rest, (*walk).budget);
        if rest < n {
            n = rest;
        }
        if budget < n {
            n = budget;
        }
        if n > u64::from(MAX_PAYLOAD) {
            return 1;
        }
        let to = (&raw mut (*walk).payload).cast::<u8>().add(fill as usize);
        if generated::bpf_probe_read_user(to.cast(), n as u32, (*walk).address as *const _) != 0 {
            (*walk).reason = reason::FAULT.into();
            return 1;
        }
        (*walk).address = (*walk).address.wrapping_add(n);
        (*walk).rest = rest.wrapping_sub(n);
        (*walk).budget = budget.wrapping_sub(n);
        (*walk).fill = fill + n;
        if budget == n {
            return 1;
        }
        if fill + n == u64::from(MAX_PAYLOAD) {
            flush(
                DIRECTION.into(),
                walk,
                u64::from(MAX_PAYLOAD),
                u64::from(MAX_PAYLOAD),
                reason::NONE,
            );
            (*walk).fill = 0;
        }
    }
    0
}

/// Sends the record under construction: `length` stream bytes, of which `fill` are here.
///
/// # Safety
/// `walk` is this CPU's scratch.
#[inline(always)]
unsafe fn flush(lane: u32, walk: *mut Walk, length: u64, fill: u64, why: u8) {
    if fill > u64::from(MAX_PAYLOAD) {
        return;
    }
    // SAFETY: by contract; header and payload are adjacent, and `fill` was checked.
    unsafe {
        let header = &raw mut (*walk).header;
        (*header).length = length as u32;
        (*header).captured = fill as u32;
        (*header).reason = if fill < length { why } else { reason::NONE };
        if fill < length {
            if why == reason::FAULT {
                count(lane, counter::FAULT_BYTES, length - fill);
            } else if why == reason::UNREADABLE {
                count(lane, counter::UNREADABLE_BYTES, length - fill);
            }
        }
        let size = HEADER as u64 + fill;
        let sent = generated::bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            header.cast(),
            size,
            wakeup(),
        );
        if sent != 0 {
            lost(lane, length as u32);
        }
        (*header).position = (*header).position.wrapping_add(length as u32);
        (*header).flags |= flag::CONTINUED;
        (*walk).left = (*walk).left.wrapping_sub(length);
    }
}
