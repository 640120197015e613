//! The programs that see datagrams.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::{cgroup_sock_addr, fentry, fexit, raw_tracepoint};
use aya_ebpf::programs::{FEntryContext, FExitContext, RawTracePointContext, SockAddrContext};
use observer_ebpf::{counter, direction, lane};

use crate::datagram::{Peer, Socket, sender, take_sender};
use crate::globals::{STARTS, count};
use crate::programs::{NOT_STREAM, room, take_start};
use crate::socket::{INET, INET6};
use crate::task::Task;
use crate::{iter, syscall};

/// `sock_send_length(sk, ret, flags)`, handed on by the program that is attached there.
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub(crate) fn send_datagram(ctx: RawTracePointContext) -> i32 {
    let _ = send_length(&ctx);
    0
}

#[inline(always)]
fn send_length(ctx: &RawTracePointContext) -> Option<()> {
    let length: i32 = ctx.arg(1);
    let socket = Socket::read(ctx.arg(0))?;
    if length <= 0 {
        return None;
    }
    let task = Task::current();
    let buffer = syscall::buffer(task, length as u32);
    // A call that is not understood (sendmmsg, io_uring) may name another receiver than the connection's.
    let peer = socket.peer(syscall::name(task), false);
    let ports = socket.judge(&peer)?;
    let way = (direction::SEND, lane::SEND);
    socket.send(way, &ports, &peer, length as u32, 0, &buffer)
}

/// `sock_recv_length(sk, ret, flags)`, handed on by the program that is attached there.
#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub(crate) fn receive_datagram(ctx: RawTracePointContext) -> i32 {
    let _ = receive_length(&ctx);
    0
}

#[inline(always)]
fn receive_length(ctx: &RawTracePointContext) -> Option<()> {
    let (length, flags): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let socket = Socket::read(ctx.arg(0))?;
    // Also where it is not asked for: it must not be taken for the next datagram's.
    let noted = take_sender();
    if length <= 0 || flags & NOT_STREAM != 0 {
        return None;
    }
    let peer = match noted {
        Some(peer) => peer,
        None => socket.peer(0, false),
    };
    let ports = socket.judge(&peer)?;
    // With MSG_TRUNC the length may be more than the buffer holds, which the registers tell.
    let buffer = syscall::buffer(Task::current(), length as u32);
    let way = (direction::RECEIVE, lane::RECEIVE);
    socket.send(way, &ports, &peer, length as u32, 0, &buffer)
}

/// `recvmsg` over IPv4 that asks who the sender is. Never refuses.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn sender_4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the verifier checks each access to the context and to its socket.
    unsafe {
        let from = ctx.sock_addr;
        let address = core::ptr::read_volatile(&raw const (*from).user_ip4);
        let port = core::ptr::read_volatile(&raw const (*from).user_port);
        let _ = sender(
            local(&ctx),
            Peer {
                words: [address, 0, 0, 0],
                port: u16::from_be(port as u16).into(),
            },
        );
    }
    1
}

/// The same over IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn sender_6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the verifier checks each access to the context and to its socket.
    unsafe {
        let from = ctx.sock_addr;
        let word = |index: usize| {
            core::ptr::read_volatile((&raw const (*from).user_ip6).cast::<u32>().add(index))
        };
        let port = core::ptr::read_volatile(&raw const (*from).user_port);
        let _ = sender(
            local(&ctx),
            Peer {
                words: [word(0), word(1), word(2), word(3)],
                port: u16::from_be(port as u16).into(),
            },
        );
    }
    1
}

/// Local port of the socket that receives.
#[inline(always)]
fn local(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the verifier checks each access to the context and to its socket.
    unsafe {
        let from: *mut aya_ebpf::bindings::bpf_sock_addr = ctx.as_ptr().cast();
        let sk = (*from).__bindgen_anon_1.sk;
        if sk.is_null() {
            return 0;
        }
        core::ptr::read_volatile(&raw const (*sk).src_port) as u16
    }
}

/// `udp_sendmsg(sk, msg, len)`, entry: remembers the time.
#[fentry(function = "udp_sendmsg")]
pub(crate) fn send_udp_entry_4(ctx: FEntryContext) -> i32 {
    let _ = entered(&ctx, INET, lane::ENTRY_UDP_4);
    0
}

/// `udpv6_sendmsg(sk, msg, len)`, entry.
#[fentry(function = "udpv6_sendmsg")]
pub(crate) fn send_udp_entry_6(ctx: FEntryContext) -> i32 {
    let _ = entered(&ctx, INET6, lane::ENTRY_UDP_6);
    0
}

#[inline(always)]
fn entered(ctx: &FEntryContext, family: u16, lane: u32) -> Option<()> {
    let started = sending(ctx.arg(0), ctx.arg(1), family)?;
    if STARTS
        .insert(bpf_get_current_pid_tgid(), started, 0)
        .is_err()
    {
        count(lane, counter::STARTS_LOST, 1);
    }
    Some(())
}

/// The time, if a datagram is watched that is about to be sent by the function of `family`.
#[inline(always)]
pub(crate) fn sending(sk: u64, msg: u64, family: u16) -> Option<u64> {
    let socket = Socket::read(sk)?;
    // An IPv6 socket's datagrams over IPv4 go through both functions.
    if socket.family != family {
        return None;
    }
    let peer = socket.peer(iter::name(msg), true);
    socket.judge(&peer)?;
    // SAFETY: the helper has no preconditions.
    Some(unsafe { bpf_ktime_get_ns() })
}

/// `udp_sendmsg(sk, msg, len)`, exit.
#[fexit(function = "udp_sendmsg")]
pub(crate) fn send_udp_exit_4(ctx: FExitContext) -> i32 {
    let _ = sent(&ctx, INET, lane::SEND_UDP_4);
    0
}

/// `udpv6_sendmsg(sk, msg, len)`, exit.
#[fexit(function = "udpv6_sendmsg")]
pub(crate) fn send_udp_exit_6(ctx: FExitContext) -> i32 {
    let _ = sent(&ctx, INET6, lane::SEND_UDP_6);
    0
}

#[inline(always)]
fn sent(ctx: &FExitContext, family: u16, lane: u32) -> Option<()> {
    let (sk, msg, length) = (ctx.arg(0), ctx.arg(1), ctx.arg(3));
    sent_by((family, lane), sk, msg, length, take_start)
}

/// The send of a datagram by the function of `family` has returned `length`.
#[inline(always)]
pub(crate) fn sent_by(
    (family, lane): (u16, u32),
    sk: u64,
    msg: u64,
    length: i32,
    started: impl FnOnce() -> u64,
) -> Option<()> {
    let socket = Socket::read(sk)?;
    if socket.family != family {
        return None;
    }
    let peer = socket.peer(iter::name(msg), true);
    let ports = socket.judge(&peer)?;
    let started = started();
    if length <= 0 {
        return None;
    }
    let length = length as u32;
    let buffer = iter::buffer(msg, length, iter::ALL, false);
    let way = (direction::SEND, lane);
    socket.send(way, &ports, &peer, length, started, &buffer)
}

/// An exit of `udp_recvmsg` or `udpv6_recvmsg`, whose flags and result are these arguments.
macro_rules! receives {
    ($($name:ident $function:literal $family:ident $lane:ident $flags:literal $result:literal;)*) => { $(
        #[doc = concat!("`", $function, "`, exit.")]
        #[fexit(function = $function)]
        pub(crate) fn $name(ctx: FExitContext) -> i32 {
            let _ = received(&ctx, $family, lane::$lane, ctx.arg($flags), ctx.arg($result));
            0
        }
    )* };
}

// (sk, msg, len, flags), (sk, msg, len, flags, addr_len), (sk, msg, len, nonblock, flags, addr_len).
receives! {
    receive_udp_exit_4_4 "udp_recvmsg" INET RECEIVE_UDP_4 3 4;
    receive_udp_exit_6_4 "udpv6_recvmsg" INET6 RECEIVE_UDP_6 3 4;
    receive_udp_exit_4_5 "udp_recvmsg" INET RECEIVE_UDP_4 3 5;
    receive_udp_exit_6_5 "udpv6_recvmsg" INET6 RECEIVE_UDP_6 3 5;
    receive_udp_exit_4_6 "udp_recvmsg" INET RECEIVE_UDP_4 4 6;
    receive_udp_exit_6_6 "udpv6_recvmsg" INET6 RECEIVE_UDP_6 4 6;
}

#[inline(always)]
fn received(ctx: &FExitContext, family: u16, lane: u32, flags: i32, length: i32) -> Option<()> {
    let room = room(ctx.arg(2), flags)?;
    taken_by((family, lane), ctx.arg(0), ctx.arg(1), room, length)
}

/// The receipt of a datagram by the function of `family` has returned `length`.
#[inline(always)]
pub(crate) fn taken_by(
    (family, lane): (u16, u32),
    sk: u64,
    msg: u64,
    room: u64,
    length: i32,
) -> Option<()> {
    if length <= 0 {
        return None;
    }
    let socket = Socket::read(sk)?;
    if socket.family != family {
        return None;
    }
    let peer = socket.peer(iter::name(msg), true);
    let ports = socket.judge(&peer)?;
    let length = length as u32;
    let buffer = iter::buffer(msg, length, room, false);
    let way = (direction::RECEIVE, lane);
    socket.send(way, &ports, &peer, length, 0, &buffer)
}
