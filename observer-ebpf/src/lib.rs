//! What the kernel programs and userspace agree on: records, counters and configuration.
//!
//! Both sides compile this library, the kernel side for a BPF target. Userspace never casts a record to
//! [`Header`]: it reads fields at `offset_of!(Header, …)` after checking lengths.
#![no_std]

/// Version of everything in this file; first byte of each record.
pub const VERSION: u8 = 3;

/// Payload bytes that one record can hold at most.
pub const MAX_PAYLOAD: u32 = 4096;

/// Records that one call can be captured in at most: 64 × 4 KiB bounds the loops of the programs.
pub const MAX_RECORDS: u32 = 64;

/// Segments of a vectored call that are read at most, the kernel's own `UIO_MAXIOV`.
pub const MAX_SEGMENTS: u32 = 1024;

/// Head of each record; the captured bytes follow it.
///
/// Numbers are in the byte order of the machine, addresses in network order (IPv4 in the first four bytes). A unix socket has
/// the number of its server's name in place of the server's port, 0 in place of the client's, and in place of both addresses, as
/// a 64-bit number, the inode number of the client's end: it tells the connection.
/// 120 bytes: the ring needs a multiple of 8, and no byte of it may be left unwritten.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// [`VERSION`].
    pub version: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// One of [`direction`]; 0 for state records.
    pub direction: u8,
    /// One of [`reason`]: why `captured` is less than `length`; for [`kind::CLOSED`] the socket's error number, 0 for none.
    pub reason: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// The socket's state, `TCP_…` of the kernel; 0 for [`kind::DATAGRAM`] and unix sockets.
    pub state: u8,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub family: u16,
    /// `CLOCK_MONOTONIC`, nanoseconds, when the call returned.
    pub time: u64,
    /// The same clock, when the call began; `time` where that is not known.
    pub started: u64,
    /// Address of the kernel's `struct sock`; of a unix socket its inode number, which is not given to another one so soon.
    pub sk: u64,
    /// Inode of the network namespace.
    pub netns: u32,
    /// Sequence number of the first byte; for [`kind::ESTABLISHED`] of the first byte to send, for [`kind::CLOSED`] of
    /// the one behind the last that was sent; for [`kind::DATAGRAM`] its offset. Bytes of a unix socket are counted
    /// from [`unix_start`] on.
    pub position: u32,
    /// The other direction's; for [`kind::ESTABLISHED`] of the first byte to receive, for [`kind::CLOSED`] of the one behind
    /// the last that was taken; for [`kind::DATAGRAM`] the length of the whole.
    pub opposite: u32,
    /// Bytes of the stream that the record stands for; for [`kind::CLOSED`] those that can still be taken.
    pub length: u32,
    /// Bytes that follow this header, at most [`MAX_PAYLOAD`]; the record itself may be longer.
    pub captured: u32,
    /// Process id (`tgid`), if [`flag::TASK`].
    pub pid: u32,
    /// Thread id (`pid`), if [`flag::TASK`].
    pub tid: u32,
    /// Port of this end, host byte order.
    pub local_port: u16,
    /// Port of the other end, host byte order.
    pub remote_port: u16,
    /// Address of this end.
    pub local: [u8; 16],
    /// Address of the other end.
    pub remote: [u8; 16],
    /// Id of the cgroup, if [`flag::TASK`].
    pub cgroup: u64,
    /// Name of the thread, if [`flag::TASK`].
    pub comm: [u8; 16],
}

/// Bytes of [`Header`].
pub const HEADER: usize = 120;
const _: () = assert!(size_of::<Header>() == HEADER);
// Without implicit padding: the sum of the fields is the size.
const _: () = assert!(6 + 2 + 3 * 8 + 7 * 4 + 2 * 2 + 2 * 16 + 8 + 16 == HEADER);

/// Values of [`Header::kind`].
pub mod kind {
    /// Payload moved.
    pub const DATA: u8 = 1;
    /// `connect` was called.
    pub const CONNECTING: u8 = 2;
    /// The handshake is complete.
    pub const ESTABLISHED: u8 = 3;
    /// The connection is gone.
    pub const CLOSED: u8 = 4;
    /// A piece of a datagram: [`super::Header::position`] is its offset, [`super::Header::opposite`] the length of the
    /// whole. A remote port of 0: who the other end is could not be known.
    pub const DATAGRAM: u8 = 5;
}

/// Values of [`Header::direction`].
pub mod direction {
    /// Out of the observed process.
    pub const SEND: u8 = 0;
    /// Into the observed process.
    pub const RECEIVE: u8 = 1;
}

/// Values of [`Header::reason`].
pub mod reason {
    /// All of `length` was captured.
    pub const NONE: u8 = 0;
    /// Beyond the capture limit of one call.
    pub const LIMIT: u8 = 1;
    /// A call whose buffer cannot be read at the hook.
    pub const UNREADABLE: u8 = 2;
    /// The buffer was not mapped when the hook read it.
    pub const FAULT: u8 = 3;
}

/// Values of [`Header::state`] that mean something to userspace.
pub mod state {
    /// `TCP_SYN_SENT`: [`super::Header::opposite`] is not known yet.
    pub const SYN_SENT: u8 = 2;
    /// `TCP_SYN_RECV`: the other end has not confirmed the connection yet.
    pub const SYN_RECV: u8 = 3;
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// A further piece of the same call as the record before it.
    pub const CONTINUED: u8 = 1;
    /// The task fields are filled.
    pub const TASK: u8 = 2;
    /// The socket accepted the connection ([`super::kind::ESTABLISHED`] only).
    pub const SERVER: u8 = 4;
    /// All bits that have a meaning.
    pub const ALL: u8 = CONTINUED | TASK | SERVER;
}

/// Slots of the per-CPU counters.
pub mod counter {
    /// Calls that moved payload on a watched port, sends.
    pub const SENDS: usize = 0;
    /// Their bytes.
    pub const SEND_BYTES: usize = 1;
    /// Calls that moved payload on a watched port, receives.
    pub const RECEIVES: usize = 2;
    /// Their bytes.
    pub const RECEIVE_BYTES: usize = 3;
    /// Records that found the ring full.
    pub const RING_FULL: usize = 4;
    /// Stream bytes that those records stood for.
    pub const RING_FULL_BYTES: usize = 5;
    /// Stream bytes sent without payload because the call's buffer cannot be read at the hook.
    pub const UNREADABLE_BYTES: usize = 6;
    /// Stream bytes sent without payload because the buffer was not mapped.
    pub const FAULT_BYTES: usize = 7;
    /// Start times that could not be kept: the call's end is taken for its start.
    pub const STARTS_LOST: usize = 8;
    /// Calls whose end was not seen, or that there was no room to follow (`kprobe`).
    pub const MISSED: usize = 9;
    /// Changes of state of connections of watched ports.
    pub const STATES: usize = 10;
    /// Those of them that found the ring full.
    pub const STATES_LOST: usize = 11;
    /// How many there are.
    pub const COUNT: usize = 12;
}

/// Sets of counters: one for each program that can run at the same time as another on a CPU.
pub mod lane {
    /// The program that sees sends; the same number as [`super::direction::SEND`].
    pub const SEND: u32 = 0;
    /// The program that sees receives; the same number as [`super::direction::RECEIVE`].
    pub const RECEIVE: u32 = 1;
    /// The program that sees changes of state.
    pub const STATE: u32 = 2;
    /// The program at the entry of a send.
    pub const ENTRY: u32 = 3;
    /// The program that sees datagrams sent over IPv4 (`fentry`, `kprobe`; with tracepoints one program sees all sends).
    pub const SEND_UDP_4: u32 = 4;
    /// Over IPv6.
    pub const SEND_UDP_6: u32 = 5;
    /// The program that sees datagrams received over IPv4 (`fentry`, `kprobe`).
    pub const RECEIVE_UDP_4: u32 = 6;
    /// Over IPv6.
    pub const RECEIVE_UDP_6: u32 = 7;
    /// The program at the entry of a send over IPv4 (`fentry`).
    pub const ENTRY_UDP_4: u32 = 8;
    /// Over IPv6.
    pub const ENTRY_UDP_6: u32 = 9;
    /// The program that sees sends over unix sockets (`fentry`, `kprobe`; as above).
    pub const SEND_UNIX: u32 = 10;
    /// The program that sees receives over unix sockets (`fentry`, `kprobe`).
    pub const RECEIVE_UNIX: u32 = 11;
    /// The program at the entry of a send over unix sockets (`fentry`).
    pub const ENTRY_UNIX: u32 = 12;
    /// The program that sees unix sockets close (`fentry`, `kprobe`), and whatever else finds that one is closed.
    pub const RELEASE_UNIX: u32 = 13;
    /// The program that sees `splice` take bytes from a unix socket (`fentry`, `kprobe`).
    pub const SPLICE_UNIX: u32 = 14;
    /// The program that sees `sendfile` to a unix socket before 6.5 (`fentry`, `kprobe`).
    pub const PAGE_UNIX: u32 = 15;
    /// How many there are.
    pub const COUNT: u32 = 16;
}

/// Slots of the configuration, an array of `u32` that userspace writes before loading.
///
/// Offsets are bytes inside the named kernel structure. One flat array of numbers needs neither padding nor
/// casts, and the verifier sees each slot as a constant.
pub mod config {
    /// Name of the read-only global.
    pub const NAME: &str = "CONFIG";

    macro_rules! slots {
        ($($(#[$doc:meta])* $name:ident,)*) => {
            #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "only numbers the slots")]
            enum Slot { $($name,)* COUNT }
            $($(#[$doc])* pub const $name: usize = Slot::$name as usize;)*
            /// How many there are.
            pub const COUNT: usize = Slot::COUNT as usize;
        };
    }

    slots! {
        /// `sock_common.skc_dport`; `skc_num` is right behind, which userspace checks.
        SKC_DPORT,
        /// `sock_common.skc_family`.
        SKC_FAMILY,
        /// `sock_common.skc_state`, one byte.
        SKC_STATE,
        /// `sock_common.skc_prot`, a pointer.
        SKC_PROT,
        /// `sock_common.skc_daddr`.
        SKC_DADDR,
        /// `sock_common.skc_rcv_saddr`.
        SKC_RCV_SADDR,
        /// `sock_common.skc_v6_daddr`.
        SKC_V6_DADDR,
        /// `sock_common.skc_v6_rcv_saddr`.
        SKC_V6_RCV_SADDR,
        /// `sock_common.skc_net`, a pointer.
        SKC_NET,
        /// `net.ns.inum`.
        NET_INUM,
        /// `sock.sk_protocol`, 16 bits.
        SK_PROTOCOL,
        /// `sock.sk_err`.
        SK_ERR,
        /// `sock_common.skc_flags`.
        SK_FLAGS,
        /// Number of the bit `SOCK_DONE` there: the other end's FIN has arrived.
        SOCK_DONE,
        /// `sock.sk_receive_queue.qlen`.
        SK_QUEUED,
        /// `inet_sock.inet_sport`, network order.
        INET_SPORT,
        /// `tcp_sock.rcv_nxt`.
        RCV_NXT,
        /// `tcp_sock.snd_sml`.
        SND_SML,
        /// `tcp_sock`: where to read the two positions.
        SEQUENCES,
        /// 1 where they lie too far apart to be read in one piece.
        SEQUENCES_APART,
        /// `tcp_sock.write_seq`, from there.
        WRITE_SEQ,
        /// `tcp_sock.copied_seq`, from there.
        COPIED_SEQ,
        /// Payload bytes captured of one call at most.
        MAX_BYTES,
        /// 1: leave out the server's end of a connection whose both ends are on this host.
        SKIP_LOCAL_SERVER,
        /// Unread bytes in the ring at which the reader is woken.
        WAKE_AT,
        /// `task_struct.flags`.
        TASK_FLAGS,
        /// `task_struct.tgid`.
        TASK_TGID,
        /// `task_struct.pid`.
        TASK_PID,
        /// `task_struct.comm`.
        TASK_COMM,
        /// `task_struct.cgroups`, a pointer to `css_set`.
        TASK_CGROUPS,
        /// `css_set.dfl_cgrp`, a pointer to `cgroup`.
        CSS_CGROUP,
        /// `cgroup.kn`, a pointer to `kernfs_node`.
        CGROUP_KN,
        /// `kernfs_node.id`.
        KN_ID,
        /// `task_struct.nsproxy`, a pointer.
        TASK_NSPROXY,
        /// `nsproxy.net_ns`, a pointer to `net`.
        NSPROXY_NET,
        /// Word of `task_struct` that tells a 32-bit system call.
        TASK_COMPAT,
        /// Bits of that word; 0 where the architecture has none.
        COMPAT_MASK,
        /// `pt_regs`: number of the system call.
        REGS_NUMBER,
        /// `pt_regs`: its second argument.
        REGS_ARG1,
        /// `pt_regs`: its third argument.
        REGS_ARG2,
        /// `pt_regs`: its fourth argument.
        REGS_ARG3,
        /// `pt_regs`: its fifth argument.
        REGS_ARG4,
        /// `pt_regs`: its result, which is `-ENOSYS` while the call runs.
        REGS_RESULT,
        /// 1 where `REGS_RESULT` says so: then a call made outside of the system call is told apart.
        HAS_RESULT,
        /// Number of the system call `read`.
        NR_READ,
        /// `write`.
        NR_WRITE,
        /// `recvfrom`.
        NR_RECVFROM,
        /// `sendto`.
        NR_SENDTO,
        /// `readv`.
        NR_READV,
        /// `writev`.
        NR_WRITEV,
        /// `preadv2`.
        NR_PREADV2,
        /// `pwritev2`.
        NR_PWRITEV2,
        /// `recvmsg`.
        NR_RECVMSG,
        /// `sendmsg`.
        NR_SENDMSG,
        /// `msghdr.msg_name` of the kernel's own `msghdr`.
        MSG_NAME,
        /// `msghdr.msg_iter` of the kernel's own `msghdr`.
        MSG_ITER,
        /// `msghdr.msg_flags`, from `msg_iter`.
        MSG_FLAGS,
        /// `iov_iter.iter_type`, one byte.
        ITER_TYPE,
        /// Bits of that byte that are the type.
        ITER_TYPE_MASK,
        /// Value of `ITER_UBUF`; 256 where the kernel has none.
        ITER_UBUF,
        /// Value of `ITER_IOVEC`.
        ITER_IOVEC,
        /// `iov_iter.iov_offset`.
        ITER_OFFSET,
        /// `iov_iter.count`.
        ITER_COUNT,
        /// `iov_iter.ubuf`.
        ITER_UBUF_BASE,
        /// `iov_iter.__iov`, before 6.4 `iov`.
        ITER_IOV,
        /// Which parameter of `tcp_recvmsg` and its siblings is the flags: 3, before 5.19 4.
        RECEIVE_FLAGS,
        /// `sock.sk_type`, 16 bits.
        SK_TYPE,
        /// `sock.sk_socket`, a pointer.
        SK_SOCKET,
        /// `socket.sk`, a pointer.
        SOCKET_SK,
        /// `socket_alloc.vfs_inode.i_ino`; `socket` comes first in it, which userspace checks.
        SOCKET_INODE,
        /// `unix_sock.addr`, a pointer.
        UNIX_ADDR,
        /// `unix_sock.peer`, a pointer.
        UNIX_PEER,
        /// `unix_address.len`.
        UNIX_LEN,
        /// `unix_address.name`, a `struct sockaddr_un`.
        UNIX_NAME,
    }
}

/// Names of the programs and maps in the object.
pub mod name {
    /// Ring of records.
    pub const EVENTS: &str = "EVENTS";
    /// Bit map of ports.
    pub const PORTS: &str = "PORTS";
    /// Per-CPU counters.
    pub const COUNTERS: &str = "COUNTERS";
    /// Raw tracepoint `sock_send_length`.
    pub const SEND_LENGTH: &str = "send_length";
    /// Raw tracepoint `sock_recv_length`.
    pub const RECEIVE_LENGTH: &str = "receive_length";
    /// Raw tracepoint `inet_sock_set_state`.
    pub const SET_STATE: &str = "set_state";
    /// fentry of `tcp_sendmsg_locked`.
    pub const SEND_ENTRY: &str = "send_entry";
    /// fexit of `tcp_sendmsg_locked`.
    pub const SEND_EXIT: &str = "send_exit";
    /// fexit of `tcp_recvmsg` where it has four parameters (seen in 6.18).
    pub const RECEIVE_EXIT_4: &str = "receive_exit_4";
    /// The same where it has five (5.19 and later).
    pub const RECEIVE_EXIT_5: &str = "receive_exit_5";
    /// The same where it has six (before 5.19).
    pub const RECEIVE_EXIT_6: &str = "receive_exit_6";
    /// Array of the programs that [`SEND_LENGTH`] and [`RECEIVE_LENGTH`] hand datagrams to, by
    /// [`super::direction`].
    pub const DATAGRAMS: &str = "DATAGRAMS";
    /// What [`SEND_LENGTH`] hands datagrams to.
    pub const SEND_DATAGRAM: &str = "send_datagram";
    /// What [`RECEIVE_LENGTH`] hands datagrams to.
    pub const RECEIVE_DATAGRAM: &str = "receive_datagram";
    /// cgroup program at `recvmsg` over IPv4: notes who sent a datagram.
    pub const SENDER_4: &str = "sender_4";
    /// The same over IPv6.
    pub const SENDER_6: &str = "sender_6";
    /// fentry of `udp_sendmsg` and of `udpv6_sendmsg`.
    pub const SEND_UDP_ENTRY: [&str; 2] = ["send_udp_entry_4", "send_udp_entry_6"];
    /// fexit of `udp_sendmsg` and of `udpv6_sendmsg`.
    pub const SEND_UDP_EXIT: [&str; 2] = ["send_udp_exit_4", "send_udp_exit_6"];
    /// fexit of `udp_recvmsg` and of `udpv6_recvmsg`, where they have four, five and six parameters.
    pub const RECEIVE_UDP_EXIT: [[&str; 2]; 3] = [
        ["receive_udp_exit_4_4", "receive_udp_exit_6_4"],
        ["receive_udp_exit_4_5", "receive_udp_exit_6_5"],
        ["receive_udp_exit_4_6", "receive_udp_exit_6_6"],
    ];
    /// Calls under way, of [`PROBES`].
    pub const CALLS: &str = "CALLS";
    /// The kprobe and the kretprobe of each function. The IPv6 ones may not be there.
    pub const PROBES: [[&str; 3]; 6] = [
        ["tcp_sendmsg_locked", "send_call", "send_return"],
        ["tcp_recvmsg", "receive_call", "receive_return"],
        ["udp_sendmsg", "send_udp_call_4", "send_udp_return_4"],
        ["udp_recvmsg", "receive_udp_call_4", "receive_udp_return_4"],
        ["udpv6_sendmsg", "send_udp_call_6", "send_udp_return_6"],
        [
            "udpv6_recvmsg",
            "receive_udp_call_6",
            "receive_udp_return_6",
        ],
    ];
    /// Numbers of watched unix sockets, by [`super::SocketName`].
    pub const SERVERS: &str = "SERVERS";
    /// Which lengths their names have.
    pub const LENGTHS: &str = "LENGTHS";
    /// Array of the programs that [`SEND_LENGTH`] and [`RECEIVE_LENGTH`] hand to what is neither TCP nor UDP, by
    /// [`super::direction`].
    pub const OTHERS: &str = "OTHERS";
    /// Those programs, by [`super::direction`].
    pub const UNIX_LENGTH: [&str; 2] = ["send_unix", "receive_unix"];
    /// A function for unix sockets, how many parameters it has, its fexit program, its kprobe and its kretprobe. The last two
    /// functions may not be there.
    pub const UNIX: [(&str, usize, &str, &str, &str); 4] = [
        (
            "unix_stream_recvmsg",
            4,
            "receive_unix_exit",
            "receive_unix_call",
            "receive_unix_return",
        ),
        (
            "unix_stream_sendmsg",
            3,
            "send_unix_exit",
            "send_unix_call",
            "send_unix_return",
        ),
        (
            "unix_stream_splice_read",
            5,
            "splice_unix_exit",
            "splice_unix_call",
            "splice_unix_return",
        ),
        (
            "unix_stream_sendpage",
            5,
            "page_unix_exit",
            "page_unix_call",
            "page_unix_return",
        ),
    ];
    /// fentry of `unix_stream_sendmsg`.
    pub const SEND_UNIX_ENTRY: &str = "send_unix_entry";
    /// What closes a unix socket, its fentry program and its kprobe.
    pub const UNIX_RELEASE: (&str, &str, &str) =
        ("unix_release", "release_unix_entry", "release_unix_call");
    /// A raw tracepoint program that does nothing: the floor of every measurement.
    pub const EMPTY: &str = "empty";
}

/// 64-bit words of the port map.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Most bytes of a unix socket's name: a path of 108 bytes and the NUL behind it.
pub const MAX_SOCKET_NAME: usize = 109;

/// Most names of unix sockets that are watched.
pub const MAX_SOCKETS: u32 = 1024;

/// Name of a unix socket: what follows the family in the `struct sockaddr_un` that its server bound. A path with the NUL behind it,
/// or an abstract name with the NUL before it; the rest is 0.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SocketName {
    /// Bytes of the name, at most [`MAX_SOCKET_NAME`].
    pub length: u64,
    /// The name.
    pub bytes: [u8; 128],
}

/// Words of [`SocketName`].
pub const NAME_WORDS: usize = size_of::<SocketName>() / 8;
const _: () = assert!(size_of::<SocketName>() == 8 + 128);

/// Positions of the first byte to the server and of the first one to the client on a unix socket, whose client's end has this inode
/// number. As with TCP, two ends that see the same ones are of one connection.
#[must_use]
pub const fn unix_start(connection: u64) -> (u32, u32) {
    // The multipliers are of xxHash: close numbers come out far apart.
    let request = connection.wrapping_mul(0x9e37_79b1_85eb_ca87) >> 32;
    let reply = connection.wrapping_mul(0xc2b2_ae3d_27d4_eb4f) >> 32;
    (request as u32, reply as u32)
}
