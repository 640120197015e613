//! The programs of the `kprobe` backend: what `fentry` sees, on kernels without trampolines. A return tells only the result, so
//! the entry keeps the rest.
//!
//! The kernel runs one such program at a time on a CPU, with preemption off.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use observer_ebpf::{config, counter, lane};

use crate::datagram::Socket;
use crate::globals::{Asked, CALLS, count, setting};
use crate::iter;
use crate::programs::{room, sent, taken};
use crate::programs_udp::{sending, sent_by, taken_by};
use crate::socket::{Common, INET, INET6, endpoints, is_tcp, judge};

/// The key of this thread's call.
#[inline(always)]
fn key(lane: u32) -> u64 {
    u64::from(lane) << 32 | u64::from(bpf_get_current_pid_tgid() as u32)
}

/// A call begins; `None` where it is not watched. What is kept still is of a call whose return was not seen, which happens when
/// more calls wait than the kernel can follow: this one's return must not be taken for its.
#[inline(always)]
pub(crate) fn enter(lane: u32, call: Option<Asked>) {
    let key = key(lane);
    // SAFETY: only this thread writes it, which is here.
    let stale = unsafe { CALLS.get(key) }.is_some();
    let kept = match call {
        Some(call) => CALLS.insert(key, call, 0).is_ok(),
        None if stale => CALLS.remove(key).is_ok(),
        None => return,
    };
    if stale || !kept {
        count(lane, counter::MISSED, 1);
    }
}

/// A call ends: what its entry kept.
#[inline(always)]
pub(crate) fn leave(lane: u32) -> Option<Asked> {
    let key = key(lane);
    // SAFETY: only this thread writes it, which is here.
    let call = unsafe { CALLS.get(key) }.copied()?;
    let _ = CALLS.remove(key);
    Some(call)
}

/// The flags of a receive.
#[inline(always)]
fn flags(ctx: &ProbeContext) -> Option<i32> {
    let (third, fourth) = (ctx.arg(3)?, ctx.arg(4)?);
    Some(if setting(config::RECEIVE_FLAGS) == 4 {
        fourth
    } else {
        third
    })
}

/// `tcp_sendmsg_locked(sk, msg, size)`, entry.
#[kprobe]
pub(crate) fn send_call(ctx: ProbeContext) -> u32 {
    enter(lane::SEND, stream(&ctx, iter::ALL));
    0
}

/// The same, return: the socket is still locked.
#[kretprobe]
pub(crate) fn send_return(ctx: RetProbeContext) -> u32 {
    if let Some(call) = leave(lane::SEND) {
        let _ = sent(call.sk, call.msg, ctx.ret(), || call.started);
    }
    0
}

/// `tcp_recvmsg(sk, msg, len, flags, …)`, entry.
#[kprobe]
pub(crate) fn receive_call(ctx: ProbeContext) -> u32 {
    let room = flags(&ctx).and_then(|flags| room(ctx.arg(2)?, flags));
    enter(lane::RECEIVE, room.and_then(|room| stream(&ctx, room)));
    0
}

/// The same, return.
#[kretprobe]
pub(crate) fn receive_return(ctx: RetProbeContext) -> u32 {
    if let Some(call) = leave(lane::RECEIVE) {
        let _ = taken(call.sk, call.msg, call.room, ctx.ret());
    }
    0
}

/// A call on a watched connection, or one that opens it (TCP Fast Open): of such a send only the return tells where to.
#[inline(always)]
fn stream(ctx: &ProbeContext, room: u64) -> Option<Asked> {
    let sk = ctx.arg(0)?;
    let mut common = Common::uninit();
    let (local, remote, family) = endpoints(sk, &mut common)?;
    if remote != 0 {
        judge(local, remote, family)?;
        if !is_tcp(sk, &common) {
            return None;
        }
    }
    Some(Asked {
        sk,
        msg: ctx.arg(1)?,
        room,
        // SAFETY: the helper has no preconditions.
        started: unsafe { bpf_ktime_get_ns() },
    })
}

/// A call that sends a watched datagram.
#[inline(always)]
fn send(ctx: &ProbeContext, family: u16) -> Option<Asked> {
    let (sk, msg) = (ctx.arg(0)?, ctx.arg(1)?);
    Some(Asked {
        sk,
        msg,
        room: iter::ALL,
        started: sending(sk, msg, family)?,
    })
}

/// A call that may receive a watched datagram: of a socket that is not connected only the return tells.
#[inline(always)]
fn receive(ctx: &ProbeContext, family: u16) -> Option<Asked> {
    let room = room(ctx.arg(2)?, flags(ctx)?)?;
    let socket = Socket::read(ctx.arg(0)?)?;
    if socket.family != family {
        return None;
    }
    if socket.remote != 0 {
        judge(socket.local, socket.remote, family)?;
    }
    Some(Asked {
        sk: socket.sk,
        msg: ctx.arg(1)?,
        room,
        started: 0,
    })
}

/// Entry and return of the functions for datagrams.
macro_rules! datagrams {
    ($($function:literal $family:ident $lane:ident $begin:ident $call:ident $finish:ident $return:ident;)*) => { $(
        #[doc = concat!("`", $function, "(sk, msg, len, …)`, entry.")]
        #[kprobe]
        pub(crate) fn $call(ctx: ProbeContext) -> u32 {
            enter(lane::$lane, $begin(&ctx, $family));
            0
        }

        /// The same, return.
        #[kretprobe]
        pub(crate) fn $return(ctx: RetProbeContext) -> u32 {
            if let Some(call) = leave(lane::$lane) {
                let _ = $finish(($family, lane::$lane), &call, ctx.ret());
            }
            0
        }
    )* };
}

datagrams! {
    "udp_sendmsg" INET SEND_UDP_4 send send_udp_call_4 finish_send send_udp_return_4;
    "udpv6_sendmsg" INET6 SEND_UDP_6 send send_udp_call_6 finish_send send_udp_return_6;
    "udp_recvmsg" INET RECEIVE_UDP_4 receive receive_udp_call_4 finish_receive receive_udp_return_4;
    "udpv6_recvmsg" INET6 RECEIVE_UDP_6 receive receive_udp_call_6 finish_receive receive_udp_return_6;
}

#[inline(always)]
fn finish_send(way: (u16, u32), call: &Asked, length: i32) -> Option<()> {
    sent_by(way, call.sk, call.msg, length, || call.started)
}

#[inline(always)]
fn finish_receive(way: (u16, u32), call: &Asked, length: i32) -> Option<()> {
    taken_by(way, call.sk, call.msg, call.room, length)
}
