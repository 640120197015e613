//! The buffer of a socket call, from the kernel's iterator at the exit of the call.
//!
//! By then the iterator stands behind the bytes that moved; walking back by their number finds the first.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated;
use core::ffi::c_void;
use observer_ebpf::{MAX_SEGMENTS, config};

use crate::buffer::{Buffer, Iovec, Place};
use crate::globals::{offset, setting};
use crate::socket::read;
use crate::syscall::OOB;

/// Bytes of `msghdr` that are read, from its `iov_iter` on; userspace checks that the fields end before.
const ITER: usize = 56;

/// In place of how many bytes there was room for: all have moved.
pub(crate) const ALL: u64 = u64::MAX;

/// The buffer behind `msg->msg_iter`, out of or into which `length` bytes have just moved. With `MSG_TRUNC` fewer may have: then
/// `room` is how many bytes it had room for before, else [`ALL`]. `urgent`: whether its last byte may be urgent, as in a
/// stream sent with `MSG_OOB`.
#[inline(always)]
pub(crate) fn buffer(msg: u64, length: u32, room: u64, urgent: bool) -> Buffer {
    let mut iter = MaybeUninit::<[u64; ITER / 8]>::uninit();
    let address = (msg as usize).wrapping_add(offset(config::MSG_ITER));
    // SAFETY: the helper writes `ITER` bytes, which `iter` has.
    if unsafe {
        generated::bpf_probe_read_kernel(iter.as_mut_ptr().cast(), ITER as u32, address as *const _)
    } != 0
    {
        return Buffer::UNREADABLE;
    }
    let iter: *const u8 = iter.as_ptr().cast();
    let flags: i32 = field(iter, config::MSG_FLAGS);
    if urgent && flags & OOB != 0 {
        return Buffer::UNREADABLE;
    }
    let kind: u8 = field(iter, config::ITER_TYPE);
    let kind = u32::from(kind) & setting(config::ITER_TYPE_MASK);
    let behind: u64 = field(iter, config::ITER_OFFSET);
    let length = u64::from(length);
    if room != ALL {
        let left: u64 = field(iter, config::ITER_COUNT);
        if room.wrapping_sub(left) < length {
            return Buffer::UNREADABLE;
        }
    }
    if kind == setting(config::ITER_UBUF) {
        let base: u64 = field(iter, config::ITER_UBUF_BASE);
        return Buffer::plain(base.wrapping_add(behind).wrapping_sub(length));
    }
    if kind != setting(config::ITER_IOVEC) {
        return Buffer::UNREADABLE;
    }
    let array: u64 = field(iter, config::ITER_IOV);
    let mut walk = Back {
        array,
        need: length,
        skip: 0,
    };
    if behind >= length {
        walk.skip = behind - length;
    } else {
        walk.need = length - behind;
        // SAFETY: `back` gets the context it expects.
        unsafe {
            generated::bpf_loop(MAX_SEGMENTS, back as *mut c_void, (&raw mut walk).cast(), 0)
        };
        if walk.need != 0 {
            return Buffer::UNREADABLE;
        }
    }
    Buffer {
        place: Place::KernelSegments,
        address: walk.array,
        count: MAX_SEGMENTS.into(),
        skip: walk.skip,
    }
}

/// Address of the kernel's copy of the `struct sockaddr` in `msg`; 0 where there is none.
#[inline(always)]
pub(crate) fn name(msg: u64) -> u64 {
    read(msg, offset(config::MSG_NAME)).unwrap_or(0)
}

/// Where walking back has come to.
struct Back {
    array: u64,
    need: u64,
    skip: u64,
}

/// One segment back. Returns 1 when the first byte is found, or a segment cannot be read.
extern "C" fn back(_: u64, walk: *mut Back) -> i64 {
    // SAFETY: the kernel hands on the context that it was given, the caller's `Back`.
    unsafe {
        let array = (*walk).array.wrapping_sub(16);
        let Some(segment) = Iovec::read(array, 0, true) else {
            return 1;
        };
        (*walk).array = array;
        let need = (*walk).need;
        if segment.len >= need {
            (*walk).skip = segment.len - need;
            (*walk).need = 0;
            return 1;
        }
        (*walk).need = need - segment.len;
    }
    0
}

/// A field of the iterator that was read.
#[inline(always)]
fn field<T>(iter: *const u8, slot: usize) -> T {
    // SAFETY: userspace checks that the field ends within `ITER`, the verifier does so again.
    unsafe { core::ptr::read_volatile(iter.add(offset(slot)).cast::<T>()) }
}
