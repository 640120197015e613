//! The buffer of a socket call, from the registers of the running system call.
//!
//! At `sock_send_length` and `sock_recv_length` the kernel's own iterator is out of reach, but the registers
//! still say what the application asked for. A call that was not made by that system call (io_uring, splice,
//! `sendfile`, a kernel thread) must be told apart, or foreign memory would pass for payload.

use aya_ebpf::helpers::bpf_probe_read_user;
use observer_ebpf::config;

use crate::buffer::{Buffer, Place};
use crate::globals::setting;
use crate::task::Task;

/// `PF_IO_WORKER`, `PF_USER_WORKER`, `PF_KTHREAD`: threads whose registers belong to no system call.
const NO_SYSCALL: u32 = 0x10 | 0x4000 | 0x20_0000;

const ENOSYS: i64 = 38;

/// `MSG_OOB`. The last byte of such a send is urgent: it takes a position, but whether it is one of the stream is up to the
/// receiver's `SO_OOBINLINE`. So nothing of the call is read.
pub(crate) const OOB: i32 = 0x1;

/// The buffer of the system call that `task` is in, which moved `length` bytes.
#[inline(always)]
pub(crate) fn buffer(task: Task, length: u32) -> Buffer {
    let regs = task.registers();
    let (flags, compat): (u32, u32) = (
        task.field(config::TASK_FLAGS),
        task.field(config::TASK_COMPAT),
    );
    let (number, result) = (
        regs.get(config::REGS_NUMBER) as u32,
        regs.get(config::REGS_RESULT) as i64,
    );
    let (arg1, arg2) = (regs.get(config::REGS_ARG1), regs.get(config::REGS_ARG2));
    if flags & NO_SYSCALL != 0 || compat & setting(config::COMPAT_MASK) != 0 {
        return Buffer::UNREADABLE;
    }
    // io_uring runs pending work on the way out of any system call, when the result is already there.
    if setting(config::HAS_RESULT) == 1 && result != -ENOSYS {
        return Buffer::UNREADABLE;
    }
    let is = |slot| number == setting(slot);
    if is(config::NR_READ)
        || is(config::NR_WRITE)
        || is(config::NR_RECVFROM)
        || is(config::NR_SENDTO)
    {
        if arg2 < u64::from(length) {
            return Buffer::UNREADABLE;
        }
        if is(config::NR_SENDTO) && regs.get(config::REGS_ARG3) as i32 & OOB != 0 {
            return Buffer::UNREADABLE;
        }
        return Buffer::plain(arg1);
    }
    if is(config::NR_READV)
        || is(config::NR_WRITEV)
        || is(config::NR_PREADV2)
        || is(config::NR_PWRITEV2)
    {
        return Buffer {
            place: Place::Segments,
            address: arg1,
            count: arg2,
            skip: 0,
        };
    }
    if is(config::NR_RECVMSG) || is(config::NR_SENDMSG) {
        if arg2 as i32 & OOB != 0 {
            return Buffer::UNREADABLE;
        }
        // struct user_msghdr: name, its length, iovec, their count.
        // SAFETY: the helper checks the address.
        let Ok([_, _, address, count]) = (unsafe { bpf_probe_read_user(arg1 as *const [u64; 4]) })
        else {
            return Buffer::UNREADABLE;
        };
        return Buffer {
            place: Place::Segments,
            address,
            count,
            skip: 0,
        };
    }
    Buffer::UNREADABLE
}

/// Address of the `struct sockaddr` that `task` has named in its system call; 0 where it has named none.
#[inline(always)]
pub(crate) fn name(task: Task) -> u64 {
    let regs = task.registers();
    let number = regs.get(config::REGS_NUMBER) as u32;
    if number == setting(config::NR_SENDTO) {
        return regs.get(config::REGS_ARG4);
    }
    if number == setting(config::NR_SENDMSG) {
        let address = regs.get(config::REGS_ARG1) as *const u64;
        // SAFETY: the helper checks the address.
        return unsafe { bpf_probe_read_user(address) }.unwrap_or(0);
    }
    0
}
