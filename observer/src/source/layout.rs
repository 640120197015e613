//! The configuration of the kernel programs: offsets of this kernel, and the limits that were asked for.

use observer_ebpf::config as slot;

use super::btf::{Btf, BtfError, Field};

/// Value of a slot that no byte can have: a type that this kernel does not know.
const NEVER: u32 = 256;

/// Bytes of `sock_common`, and of `msghdr` from its `iov_iter` on, that the programs read in one piece.
const COMMON: u32 = 96;
const ITER: u32 = 56;
/// The same for the two positions in `tcp_sock`.
const SEQUENCES: u32 = 120;

/// The configuration, as the programs take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config(pub(crate) [u32; slot::COUNT]);

impl Config {
    /// What both backends need.
    pub(crate) fn common(btf: &Btf) -> Result<Self, BtfError> {
        let mut config = Self([0; slot::COUNT]);
        let dport = btf.field("sock_common", "skc_dport")?;
        let num = btf.field("sock_common", "skc_num")?;
        // Both ports are read as one word.
        if dport.size != 2
            || num
                != (Field {
                    offset: dport.offset + 2,
                    size: 2,
                })
        {
            return Err(unexpected(
                "sock_common",
                "skc_num",
                "not right behind skc_dport",
            ));
        }
        config.0[slot::SKC_DPORT] = within("sock_common", "skc_num", dport, COMMON - 2)?;
        for (at, name, size) in [
            (slot::SKC_FAMILY, "skc_family", 2),
            (slot::SKC_STATE, "skc_state", 1),
            (slot::SKC_PROT, "skc_prot", 8),
            (slot::SKC_DADDR, "skc_daddr", 4),
            (slot::SKC_RCV_SADDR, "skc_rcv_saddr", 4),
            (slot::SKC_V6_DADDR, "skc_v6_daddr", 16),
            (slot::SKC_V6_RCV_SADDR, "skc_v6_rcv_saddr", 16),
            (slot::SKC_NET, "skc_net", 8),
        ] {
            config.0[at] = sized(btf, "sock_common", name, size, COMMON)?;
        }
        for (at, structure, path, size) in [
            (slot::NET_INUM, "net", "ns.inum", 4),
            (slot::SK_PROTOCOL, "sock", "sk_protocol", 2),
            (slot::SK_ERR, "sock", "sk_err", 4),
            (slot::SK_FLAGS, "sock_common", "skc_flags", 8),
            (slot::SK_QUEUED, "sock", "sk_receive_queue.qlen", 4),
            (slot::INET_SPORT, "inet_sock", "inet_sport", 2),
            (slot::RCV_NXT, "tcp_sock", "rcv_nxt", 4),
            (slot::SND_SML, "tcp_sock", "snd_sml", 4),
            (slot::WRITE_SEQ, "tcp_sock", "write_seq", 4),
            (slot::COPIED_SEQ, "tcp_sock", "copied_seq", 4),
            (slot::TASK_TGID, "task_struct", "tgid", 4),
            (slot::TASK_PID, "task_struct", "pid", 4),
            (slot::TASK_COMM, "task_struct", "comm", 16),
            (slot::TASK_CGROUPS, "task_struct", "cgroups", 8),
            (slot::CSS_CGROUP, "css_set", "dfl_cgrp", 8),
            (slot::CGROUP_KN, "cgroup", "kn", 8),
            (slot::KN_ID, "kernfs_node", "id", 8),
            (slot::TASK_NSPROXY, "task_struct", "nsproxy", 8),
            (slot::NSPROXY_NET, "nsproxy", "net_ns", 8),
        ] {
            config.0[at] = sized(btf, structure, path, size, u32::MAX)?;
        }
        config.0[slot::SOCK_DONE] = small(btf.enumerator("sock_flags", "SOCK_DONE")?);
        let (write, copied) = (config.0[slot::WRITE_SEQ], config.0[slot::COPIED_SEQ]);
        let base = write.min(copied);
        config.0[slot::SEQUENCES] = base;
        config.0[slot::WRITE_SEQ] = write - base;
        config.0[slot::COPIED_SEQ] = copied - base;
        config.0[slot::SEQUENCES_APART] = (write.abs_diff(copied) + 4 > SEQUENCES).into();
        Ok(config)
    }

    /// What the limits of a run come to.
    pub(crate) fn limits(&mut self, max_bytes: u32, ring_bytes: u32, skip_local_server: bool) {
        self.0[slot::MAX_BYTES] =
            max_bytes.min(observer_ebpf::MAX_PAYLOAD * observer_ebpf::MAX_RECORDS);
        self.0[slot::WAKE_AT] = ring_bytes / 4;
        self.0[slot::SKIP_LOCAL_SERVER] = skip_local_server.into();
    }

    /// What the `fentry` and `kprobe` backends need.
    pub(crate) fn iterator(&mut self, btf: &Btf) -> Result<(), BtfError> {
        self.0[slot::MSG_NAME] = sized(btf, "msghdr", "msg_name", 8, u32::MAX)?;
        let iterator = btf.field("msghdr", "msg_iter")?;
        self.0[slot::MSG_ITER] = iterator.offset;
        let flags = sized(btf, "msghdr", "msg_flags", 4, iterator.offset + ITER)?;
        self.0[slot::MSG_FLAGS] = flags
            .checked_sub(iterator.offset)
            .ok_or_else(|| unexpected("msghdr", "msg_flags", "in front of msg_iter"))?;
        // Before 5.14 the type was `unsigned int type`, with the direction in its lowest bit.
        let (kind, mask) = match btf.field("iov_iter", "iter_type") {
            Ok(field) => (field, 0xff),
            Err(BtfError::Missing(_)) => (btf.field("iov_iter", "type")?, 0xfe),
            Err(error) => return Err(error),
        };
        self.0[slot::ITER_TYPE] = within("iov_iter", "iter_type", kind, ITER)?;
        self.0[slot::ITER_TYPE_MASK] = mask;
        self.0[slot::ITER_IOVEC] = small(btf.enumerator("iter_type", "ITER_IOVEC")?);
        self.0[slot::ITER_COUNT] = sized(btf, "iov_iter", "count", 8, ITER)?;
        self.0[slot::ITER_OFFSET] = sized(btf, "iov_iter", "iov_offset", 8, ITER)?;
        // Since 6.4 `__iov`.
        let array = match btf.field("iov_iter", "__iov") {
            Err(BtfError::Missing(_)) => btf.field("iov_iter", "iov")?,
            other => other?,
        };
        self.0[slot::ITER_IOV] = within("iov_iter", "iov", array, ITER)?;
        // Since 6.0 there is a kind for one plain buffer.
        match btf.enumerator("iter_type", "ITER_UBUF") {
            Ok(value) => {
                self.0[slot::ITER_UBUF] = small(value);
                self.0[slot::ITER_UBUF_BASE] = sized(btf, "iov_iter", "ubuf", 8, ITER)?;
            }
            Err(BtfError::Missing(_)) => self.0[slot::ITER_UBUF] = NEVER,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What unix sockets need.
    pub(crate) fn unix(&mut self, btf: &Btf) -> Result<(), BtfError> {
        for (at, structure, path, size) in [
            (slot::SK_TYPE, "sock", "sk_type", 2),
            (slot::SK_SOCKET, "sock", "sk_socket", 8),
            (slot::SOCKET_SK, "socket", "sk", 8),
            (slot::SOCKET_INODE, "socket_alloc", "vfs_inode.i_ino", 8),
            (slot::UNIX_ADDR, "unix_sock", "addr", 8),
            (slot::UNIX_PEER, "unix_sock", "peer", 8),
            (slot::UNIX_LEN, "unix_address", "len", 4),
        ] {
            self.0[at] = sized(btf, structure, path, size, u32::MAX)?;
        }
        self.0[slot::UNIX_NAME] = btf.field("unix_address", "name")?.offset;
        match btf.field("socket_alloc", "socket")?.offset {
            0 => Ok(()),
            _ => Err(unexpected("socket_alloc", "socket", "not at its start")),
        }
    }

    /// What the `tracepoint` backend needs: registers, and numbers of system calls.
    pub(crate) fn registers(&mut self, btf: &Btf) -> Result<(), BtfError> {
        self.0[slot::TASK_FLAGS] = sized(btf, "task_struct", "flags", 4, u32::MAX)?;
        self.architecture(btf)?;
        for (at, number) in [
            (slot::NR_READ, libc::SYS_read),
            (slot::NR_WRITE, libc::SYS_write),
            (slot::NR_RECVFROM, libc::SYS_recvfrom),
            (slot::NR_SENDTO, libc::SYS_sendto),
            (slot::NR_READV, libc::SYS_readv),
            (slot::NR_WRITEV, libc::SYS_writev),
            (slot::NR_PREADV2, libc::SYS_preadv2),
            (slot::NR_PWRITEV2, libc::SYS_pwritev2),
            (slot::NR_RECVMSG, libc::SYS_recvmsg),
            (slot::NR_SENDMSG, libc::SYS_sendmsg),
        ] {
            self.0[at] = u32::try_from(number).unwrap_or(u32::MAX);
        }
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    fn architecture(&mut self, btf: &Btf) -> Result<(), BtfError> {
        for (at, name) in [
            (slot::REGS_NUMBER, "orig_ax"),
            (slot::REGS_ARG1, "si"),
            (slot::REGS_ARG2, "dx"),
            (slot::REGS_ARG3, "r10"),
            (slot::REGS_ARG4, "r8"),
            (slot::REGS_RESULT, "ax"),
        ] {
            self.0[at] = sized(btf, "pt_regs", name, 8, u32::MAX)?;
        }
        self.0[slot::HAS_RESULT] = 1;
        // TS_COMPAT in arch/x86/include/asm/thread_info.h.
        self.0[slot::TASK_COMPAT] = sized(btf, "task_struct", "thread_info.status", 4, u32::MAX)?;
        self.0[slot::COMPAT_MASK] = 0x2;
        Ok(())
    }

    #[cfg(target_arch = "aarch64")]
    fn architecture(&mut self, btf: &Btf) -> Result<(), BtfError> {
        let regs = btf.field("pt_regs", "regs")?.offset;
        self.0[slot::REGS_ARG1] = regs + 8;
        self.0[slot::REGS_ARG2] = regs + 16;
        self.0[slot::REGS_ARG3] = regs + 24;
        self.0[slot::REGS_ARG4] = regs + 32;
        // The number is kept as 32 bits; register 8, which the call left alone, is a whole one.
        self.0[slot::REGS_NUMBER] = regs + 8 * 8;
        self.0[slot::REGS_RESULT] = regs;
        // Register 0 holds the first argument, not a mark, while the call runs.
        self.0[slot::HAS_RESULT] = 0;
        // TIF_32BIT in arch/arm64/include/asm/thread_info.h.
        self.0[slot::TASK_COMPAT] = btf.field("task_struct", "thread_info.flags")?.offset;
        self.0[slot::COMPAT_MASK] = 1 << 22;
        Ok(())
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn architecture(&mut self, _: &Btf) -> Result<(), BtfError> {
        Err(BtfError::Missing(
            "register layout that the tracepoint backend knows".into(),
        ))
    }
}

/// Offset of a field that must have `size` bytes and end within the first `limit`.
fn sized(btf: &Btf, structure: &str, path: &str, size: u32, limit: u32) -> Result<u32, BtfError> {
    let field = btf.field(structure, path)?;
    if field.size != size {
        return Err(unexpected(
            structure,
            path,
            &format!("{} bytes long instead of {size}", field.size),
        ));
    }
    within(structure, path, field, limit)
}

fn within(structure: &str, path: &str, field: Field, limit: u32) -> Result<u32, BtfError> {
    if field.offset.saturating_add(field.size) > limit {
        return Err(unexpected(
            structure,
            path,
            &format!("beyond the first {limit} bytes"),
        ));
    }
    Ok(field.offset)
}

fn unexpected(structure: &str, path: &str, why: &str) -> BtfError {
    BtfError::Unexpected {
        field: format!("{structure}.{path}"),
        why: why.to_owned(),
    }
}

/// An enumerator as one byte's worth; a value that does not fit matches nothing.
fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(NEVER).min(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_a_layout() {
        let btf = Btf::from_kernel().expect("tests run on a kernel with BTF");
        let mut config = Config::common(&btf).unwrap();
        config.iterator(&btf).unwrap();
        config.registers(&btf).unwrap();
        config.unix(&btf).unwrap();
        config.limits(u32::MAX, 8 << 20, true);
        assert_eq!(config.0[slot::MAX_BYTES], 256 << 10);
        assert_eq!(config.0[slot::WAKE_AT], 2 << 20);
        assert_ne!(config.0[slot::WRITE_SEQ], config.0[slot::COPIED_SEQ]);
    }

    /// A kernel that lacks a field, or calls it otherwise, is refused by the name of the field.
    #[test]
    fn a_missing_field_is_named() {
        let data =
            std::fs::read(super::super::btf::KERNEL).expect("tests run on a kernel with BTF");
        for (structure, path) in [
            ("sock_common", "skc_dport"),
            ("sock_common", "skc_num"),
            ("sock_common", "skc_v6_rcv_saddr"),
            ("net", "ns.inum"),
            ("sock", "sk_protocol"),
            ("inet_sock", "inet_sport"),
            ("tcp_sock", "write_seq"),
            ("tcp_sock", "copied_seq"),
            ("task_struct", "cgroups"),
            ("css_set", "dfl_cgrp"),
            ("nsproxy", "net_ns"),
            ("msghdr", "msg_iter"),
            ("iov_iter", "iov_offset"),
        ] {
            let last = path.rsplit('.').next().expect("a name");
            let known = format!("\0{last}\0").into_bytes();
            let mut data = data.clone();
            let is_known = |(_, bytes): &(usize, &[u8])| *bytes == known;
            let windows = data.windows(known.len()).enumerate();
            let places: Vec<usize> = windows.filter(is_known).map(|(at, _)| at).collect();
            for at in places {
                data[at + 1] = b'~';
            }
            let btf = Btf::parse(data).expect("only a name has changed");
            let error = Config::common(&btf)
                .and_then(|mut config| config.iterator(&btf))
                .expect_err("the field is needed");
            let missing = matches!(&error, BtfError::Missing(what) if what.ends_with(path));
            assert!(missing, "{structure}.{path}: {error}");
            assert!(
                error.to_string().starts_with("this kernel has no "),
                "{error}"
            );
        }
    }
}
