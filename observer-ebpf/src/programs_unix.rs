//! The programs that see unix sockets.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::{fentry, fexit, kprobe, kretprobe, raw_tracepoint};
use aya_ebpf::programs::{
    FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext,
};
use observer_ebpf::{config, counter, direction, lane};

use crate::buffer::Buffer;
use crate::globals::{Asked, STARTS, count, offset};
use crate::programs::{NOT_STREAM, take_start};
use crate::programs_kprobe::{enter, leave};
use crate::socket::read;
use crate::unix::{Socket, UNIX, ended, release};
use crate::{iter, syscall};

/// Errors of a call on a socket whose peer is gone.
const GONE: [i32; 2] = [-104, -32];

/// `sock_send_length(sk, ret, flags)`, handed on by the program that is attached there.
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub(crate) fn send_unix(ctx: RawTracePointContext) -> i32 {
    let _ = length(&ctx, (direction::SEND, lane::SEND));
    0
}

/// `sock_recv_length(sk, ret, flags)`, handed on by the program that is attached there.
#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub(crate) fn receive_unix(ctx: RawTracePointContext) -> i32 {
    let _ = length(&ctx, (direction::RECEIVE, lane::RECEIVE));
    0
}

#[inline(always)]
fn length(ctx: &RawTracePointContext, way: (u8, u32)) -> Option<()> {
    let (sk, length): (u64, i32) = (ctx.arg(0), ctx.arg(1));
    if length < 0 && length != GONE[0] && length != GONE[1] {
        return None;
    }
    if read(sk, offset(config::SKC_FAMILY)) != Some(UNIX) {
        return None;
    }
    let flags: i32 = if way.0 == direction::RECEIVE {
        ctx.arg(2)
    } else {
        0
    };
    if flags & NOT_STREAM != 0 {
        return None;
    }
    if length <= 0 {
        // There is no tracepoint where a unix socket is closed.
        return ended(sk);
    }
    let length = length as u32;
    // `MSG_TRUNC` means nothing to a unix stream.
    Socket::judge(way.1, sk)?.send(way, length, 0, |task| syscall::buffer(task, length))
}

/// A `struct socket`'s `struct sock`.
#[inline(always)]
fn sock(socket: u64) -> Option<u64> {
    read(socket, offset(config::SOCKET_SK))
}

/// The time, if the call is one of a watched socket.
#[inline(always)]
fn begun(lane: u32, socket: u64) -> Option<u64> {
    Socket::judge(lane, sock(socket)?)?;
    // SAFETY: the helper has no preconditions.
    Some(unsafe { bpf_ktime_get_ns() })
}

/// `unix_stream_sendmsg(sock, msg, len)`, entry: remembers the time.
#[fentry(function = "unix_stream_sendmsg")]
pub(crate) fn send_unix_entry(ctx: FEntryContext) -> i32 {
    if let Some(time) = begun(lane::ENTRY_UNIX, ctx.arg(0))
        && STARTS.insert(bpf_get_current_pid_tgid(), time, 0).is_err()
    {
        count(lane::ENTRY_UNIX, counter::STARTS_LOST, 1);
    }
    0
}

/// The same, exit.
#[fexit(function = "unix_stream_sendmsg")]
pub(crate) fn send_unix_exit(ctx: FExitContext) -> i32 {
    let _ = sent(ctx.arg(0), ctx.arg(1), ctx.arg(3), take_start);
    0
}

#[inline(always)]
fn sent(socket: u64, msg: u64, length: i32, started: impl FnOnce() -> u64) -> Option<()> {
    let way = (direction::SEND, lane::SEND_UNIX);
    let socket = Socket::judge(way.1, sock(socket)?)?;
    let started = started();
    if length <= 0 {
        return None;
    }
    let length = length as u32;
    socket.send(way, length, started, |_| {
        iter::buffer(msg, length, iter::ALL, true)
    })
}

/// `unix_stream_recvmsg(sock, msg, size, flags)`, exit.
#[fexit(function = "unix_stream_recvmsg")]
pub(crate) fn receive_unix_exit(ctx: FExitContext) -> i32 {
    let flags: i32 = ctx.arg(3);
    if flags & NOT_STREAM == 0 {
        let _ = taken(ctx.arg(0), ctx.arg(1), ctx.arg(4));
    }
    0
}

#[inline(always)]
fn taken(socket: u64, msg: u64, length: i32) -> Option<()> {
    if length <= 0 {
        return None;
    }
    let way = (direction::RECEIVE, lane::RECEIVE_UNIX);
    let length = length as u32;
    Socket::judge(way.1, sock(socket)?)?.send(way, length, 0, |_| {
        iter::buffer(msg, length, iter::ALL, false)
    })
}

/// `unix_stream_splice_read(sock, ppos, pipe, size, flags)`, exit: bytes that pass by without being seen.
#[fexit(function = "unix_stream_splice_read")]
pub(crate) fn splice_unix_exit(ctx: FExitContext) -> i32 {
    let _ = unseen(ctx.arg(0), ctx.arg(5), SPLICE);
    0
}

/// `unix_stream_sendpage(sock, page, offset, size, flags)`, exit: the same.
#[fexit(function = "unix_stream_sendpage")]
pub(crate) fn page_unix_exit(ctx: FExitContext) -> i32 {
    let _ = unseen(ctx.arg(0), ctx.arg(5), PAGE);
    0
}

const SPLICE: (u8, u32) = (direction::RECEIVE, lane::SPLICE_UNIX);
const PAGE: (u8, u32) = (direction::SEND, lane::PAGE_UNIX);

#[inline(always)]
fn unseen(socket: u64, length: i64, way: (u8, u32)) -> Option<()> {
    if length <= 0 {
        return None;
    }
    let socket = Socket::judge(way.1, sock(socket)?)?;
    socket.send(way, length as u32, 0, |_| Buffer::UNREADABLE)
}

/// `unix_release(sock)`, entry.
#[fentry(function = "unix_release")]
pub(crate) fn release_unix_entry(ctx: FEntryContext) -> i32 {
    if let Some(sk) = sock(ctx.arg(0)) {
        release(sk);
    }
    0
}

/// The same.
#[kprobe]
pub(crate) fn release_unix_call(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0).and_then(sock) {
        release(sk);
    }
    0
}

/// A call on a watched socket: `sk` of what is kept is the `struct socket`.
#[inline(always)]
fn asked(lane: u32, ctx: &ProbeContext) -> Option<Asked> {
    let socket = ctx.arg(0)?;
    Some(Asked {
        sk: socket,
        msg: ctx.arg(1)?,
        room: iter::ALL,
        started: begun(lane, socket)?,
    })
}

/// `unix_stream_sendmsg(sock, msg, len)`, entry.
#[kprobe]
pub(crate) fn send_unix_call(ctx: ProbeContext) -> u32 {
    enter(lane::SEND_UNIX, asked(lane::SEND_UNIX, &ctx));
    0
}

/// The same, return.
#[kretprobe]
pub(crate) fn send_unix_return(ctx: RetProbeContext) -> u32 {
    if let Some(call) = leave(lane::SEND_UNIX) {
        let _ = sent(call.sk, call.msg, ctx.ret(), || call.started);
    }
    0
}

/// `unix_stream_recvmsg(sock, msg, size, flags)`, entry.
#[kprobe]
pub(crate) fn receive_unix_call(ctx: ProbeContext) -> u32 {
    let flags: Option<i32> = ctx.arg(3);
    let wanted = flags.filter(|flags| flags & NOT_STREAM == 0);
    let call = wanted.and_then(|_| asked(lane::RECEIVE_UNIX, &ctx));
    enter(lane::RECEIVE_UNIX, call);
    0
}

/// The same, return.
#[kretprobe]
pub(crate) fn receive_unix_return(ctx: RetProbeContext) -> u32 {
    if let Some(call) = leave(lane::RECEIVE_UNIX) {
        let _ = taken(call.sk, call.msg, ctx.ret());
    }
    0
}

/// `unix_stream_splice_read(sock, …)`, entry.
#[kprobe]
pub(crate) fn splice_unix_call(ctx: ProbeContext) -> u32 {
    enter(SPLICE.1, asked(SPLICE.1, &ctx));
    0
}

/// The same, return.
#[kretprobe]
pub(crate) fn splice_unix_return(ctx: RetProbeContext) -> u32 {
    if let Some(call) = leave(SPLICE.1) {
        let _ = unseen(call.sk, ctx.ret(), SPLICE);
    }
    0
}

/// `unix_stream_sendpage(sock, …)`, entry.
#[kprobe]
pub(crate) fn page_unix_call(ctx: ProbeContext) -> u32 {
    enter(PAGE.1, asked(PAGE.1, &ctx));
    0
}

/// The same, return.
#[kretprobe]
pub(crate) fn page_unix_return(ctx: RetProbeContext) -> u32 {
    if let Some(call) = leave(PAGE.1) {
        let _ = unseen(call.sk, ctx.ret(), PAGE);
    }
    0
}
