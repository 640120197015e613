//! The programs. Each attached one is a thin shell around a function that gives up with `None`.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::{fentry, fexit, raw_tracepoint};
use aya_ebpf::programs::{FEntryContext, FExitContext, RawTracePointContext};
use aya_log_ebpf::warn;
use observer_ebpf::{config, counter, direction, flag, kind, lane};

use crate::buffer::Buffer;
use crate::capture::{self, Call};
use crate::globals::{DATAGRAMS, OTHERS, STARTS, count, may_wake, offset};
use crate::socket::{
    Common, endpoints, filter, filter_state, first, identify, inode, is_tcp, judge, left_out, net,
    positions, read, unread,
};
use crate::task::Task;
use crate::{iter, syscall};

/// `recv` flags: out-of-band data and error reports are not the stream, a peek consumes nothing.
pub(crate) const NOT_STREAM: i32 = 0x1 | 0x2 | 0x2000;
/// `MSG_TRUNC`: consumed without being copied (TCP), or more than was copied (UDP).
pub(crate) const TRUNC: i32 = 0x20;

const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const CLOSE: i32 = 7;
const LISTEN: i32 = 10;

/// The floor of every measurement.
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub(crate) fn empty(_: RawTracePointContext) -> i32 {
    0
}

/// `sock_send_length(sk, ret, flags)`.
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub(crate) fn send_length(ctx: RawTracePointContext) -> i32 {
    let _ = sock_length(&ctx, direction::SEND);
    0
}

/// `sock_recv_length(sk, ret, flags)`.
#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub(crate) fn receive_length(ctx: RawTracePointContext) -> i32 {
    let _ = sock_length(&ctx, direction::RECEIVE);
    0
}

#[inline(always)]
fn sock_length(ctx: &RawTracePointContext, way: u8) -> Option<()> {
    let sk: u64 = ctx.arg(0);
    let mut common = Common::uninit();
    let Some((local, remote, family)) = endpoints(sk, &mut common) else {
        // SAFETY: the array holds programs of this kind.
        unsafe { OTHERS.tail_call(ctx, way.into()) };
        return None;
    };
    let ports = match judge(local, remote, family) {
        Some(ports) if is_tcp(sk, &common) => ports,
        // A UDP socket that is not connected has no remote port, a TCP socket that moves payload has one.
        None if remote != 0 => return None,
        _ => {
            // SAFETY: the array holds programs of this kind.
            unsafe { DATAGRAMS.tail_call(ctx, way.into()) };
            return None;
        }
    };
    let length: i32 = ctx.arg(1);
    if length <= 0 {
        return None;
    }
    let flags: i32 = if way == direction::RECEIVE {
        ctx.arg(2)
    } else {
        0
    };
    if flags & NOT_STREAM != 0 {
        return None;
    }
    let length = length as u32;
    let call = Call::new(way, sk, &common, &ports, length, 0)?;
    let buffer = if flags & TRUNC != 0 {
        Buffer::UNREADABLE
    } else {
        syscall::buffer(call.task(), length)
    };
    call.send(&buffer)
}

/// `tcp_sendmsg_locked(sk, msg, size)`, entry: remembers the time.
#[fentry(function = "tcp_sendmsg_locked")]
pub(crate) fn send_entry(ctx: FEntryContext) -> i32 {
    let sk: u64 = ctx.arg(0);
    let mut common = Common::uninit();
    if filter(sk, &mut common).is_some() {
        // SAFETY: the helper has no preconditions.
        let time = unsafe { bpf_ktime_get_ns() };
        if STARTS.insert(bpf_get_current_pid_tgid(), time, 0).is_err() {
            count(lane::ENTRY, counter::STARTS_LOST, 1);
        }
    }
    0
}

/// The same, exit: the socket is locked, so the position is exact, and only accepted bytes are seen.
#[fexit(function = "tcp_sendmsg_locked")]
pub(crate) fn send_exit(ctx: FExitContext) -> i32 {
    let _ = sent(ctx.arg(0), ctx.arg(1), ctx.arg(3), take_start);
    0
}

/// When the send of this thread that now ends began; 0 where that is not known. Forgets it.
#[inline(always)]
pub(crate) fn take_start() -> u64 {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: the entry belongs to this thread, which is here and not in the entry program.
    let started = unsafe { STARTS.get(thread) }.copied().unwrap_or(0);
    let _ = STARTS.remove(thread);
    started
}

/// `tcp_sendmsg_locked` of a socket has returned `length`.
#[inline(always)]
pub(crate) fn sent(sk: u64, msg: u64, length: i32, started: impl FnOnce() -> u64) -> Option<()> {
    let mut common = Common::uninit();
    let ports = filter(sk, &mut common)?;
    let started = started();
    if length <= 0 {
        return None;
    }
    let length = length as u32;
    let call = Call::new(direction::SEND, sk, &common, &ports, length, started)?;
    call.send(&iter::buffer(msg, length, iter::ALL, true))
}

/// `tcp_recvmsg(sk, msg, len, flags)`, exit. Only one of the three is loaded, by what this kernel's has.
#[fexit(function = "tcp_recvmsg")]
pub(crate) fn receive_exit_4(ctx: FExitContext) -> i32 {
    let _ = received(&ctx, ctx.arg(3), ctx.arg(4));
    0
}

/// `tcp_recvmsg(sk, msg, len, flags, addr_len)`, exit.
#[fexit(function = "tcp_recvmsg")]
pub(crate) fn receive_exit_5(ctx: FExitContext) -> i32 {
    let _ = received(&ctx, ctx.arg(3), ctx.arg(5));
    0
}

/// `tcp_recvmsg(sk, msg, len, nonblock, flags, addr_len)`, exit.
#[fexit(function = "tcp_recvmsg")]
pub(crate) fn receive_exit_6(ctx: FExitContext) -> i32 {
    let _ = received(&ctx, ctx.arg(4), ctx.arg(6));
    0
}

#[inline(always)]
fn received(ctx: &FExitContext, flags: i32, length: i32) -> Option<()> {
    taken(ctx.arg(0), ctx.arg(1), room(ctx.arg(2), flags)?, length)
}

/// How a receive with these flags is to be read, as [`iter::buffer`] takes it; `None` where not at all.
#[inline(always)]
pub(crate) fn room(asked: u64, flags: i32) -> Option<u64> {
    if flags & NOT_STREAM != 0 {
        None
    } else if flags & TRUNC != 0 {
        Some(asked)
    } else {
        Some(iter::ALL)
    }
}

/// `tcp_recvmsg` of a socket has returned `length`.
#[inline(always)]
pub(crate) fn taken(sk: u64, msg: u64, room: u64, length: i32) -> Option<()> {
    let mut common = Common::uninit();
    let ports = filter(sk, &mut common)?;
    if length <= 0 {
        return None;
    }
    let length = length as u32;
    let call = Call::new(direction::RECEIVE, sk, &common, &ports, length, 0)?;
    call.send(&iter::buffer(msg, length, room, false))
}

/// `inet_sock_set_state(sk, oldstate, newstate)`.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub(crate) fn set_state(ctx: RawTracePointContext) -> i32 {
    let _ = state(&ctx);
    0
}

#[inline(always)]
fn state(ctx: &RawTracePointContext) -> Option<()> {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let kind = match new {
        SYN_SENT => kind::CONNECTING,
        ESTABLISHED if old == SYN_SENT || old == SYN_RECV => kind::ESTABLISHED,
        CLOSE if old != LISTEN && old != CLOSE => kind::CLOSED,
        _ => return None,
    };
    let sk: u64 = ctx.arg(0);
    let mut common = Common::uninit();
    let ports = filter_state(sk, &mut common)?;
    if !is_tcp(sk, &common) {
        if kind == kind::ESTABLISHED {
            warn!(
                ctx,
                "a connection of port {} to port {} is not plain TCP: it is not observed",
                ports.local,
                ports.remote
            );
        }
        return None;
    }
    if left_out(&common, &ports) {
        return None;
    }
    let (mut position, mut opposite, mut length, mut error) = (0, 0, 0, 0);
    if kind == kind::ESTABLISHED {
        (position, opposite) = positions(sk, &common)?;
        if old == SYN_SENT {
            position = first(sk, position)?;
        }
    } else if kind == kind::CLOSED {
        (position, opposite) = positions(sk, &common)?;
        length = unread(sk, opposite)?;
        // Set before the state is, and read by the application after it.
        let number: u32 = read(sk, offset(config::SK_ERR)).unwrap_or(0);
        error = if number > 255 { 255 } else { number as u8 };
    }
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    // Whoever connects may end within milliseconds, and is looked up by its number.
    let urgent = kind == kind::CONNECTING && may_wake(time);
    capture::bare(lane::STATE, urgent, |header| {
        capture::head(header, kind, time);
        identify(sk, &common, &ports, header);
        (header.position, header.opposite) = (position, opposite);
        (header.length, header.reason) = (length, error);
        if kind == kind::ESTABLISHED && old == SYN_RECV {
            header.flags = flag::SERVER;
        }
        if kind == kind::CONNECTING {
            // `connect` runs on behalf of its caller; the other transitions may run in softirq.
            header.flags = flag::TASK;
            Task::current().describe(net(&common), header);
        } else {
            header.netns = inode(net(&common));
            (header.pid, header.tid, header.cgroup, header.comm) = (0, 0, 0, [0; 16]);
        }
    });
    Some(())
}
