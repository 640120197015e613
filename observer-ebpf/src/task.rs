//! The running thread. Only where the kernel runs on that thread's behalf.
//!
//! The pointers that the kernel vouches for are followed by plain loads, which cost an instruction where a
//! helper call costs 15 to 40 ns.

use aya_ebpf::helpers::generated;
use observer_ebpf::{Header, config};

use crate::globals::offset;
use crate::socket::inode;

/// The running thread's `task_struct`.
#[derive(Clone, Copy)]
pub(crate) struct Task(u64);

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: the helper has no preconditions.
        Self(unsafe { generated::bpf_get_current_task_btf() } as u64)
    }

    /// A field of it.
    #[inline(always)]
    pub(crate) fn field<T>(self, slot: usize) -> T {
        // SAFETY: the pointer comes from the helper.
        unsafe { load(self.0, slot) }
    }

    /// Its saved registers.
    #[inline(always)]
    pub(crate) fn registers(self) -> Registers {
        // SAFETY: the pointer comes from the helper that the other one asks for.
        Registers(unsafe { generated::bpf_task_pt_regs(self.0 as *mut _) } as u64)
    }

    /// Fills the thread's part of `header`, and the socket's namespace, which is nearly always the thread's.
    #[inline(always)]
    pub(crate) fn describe(self, net: u64, header: &mut Header) {
        header.pid = self.field(config::TASK_TGID);
        header.tid = self.field(config::TASK_PID);
        let comm: [u64; 2] = self.field(config::TASK_COMM);
        // SAFETY: both are 16 bytes without padding.
        header.comm = unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(comm) };
        // SAFETY: each pointer comes from a field of that type, and the kernel turns a load through a bad one
        // into 0.
        unsafe {
            let cgroups: u64 = self.field(config::TASK_CGROUPS);
            let cgroup: u64 = load(cgroups, config::CSS_CGROUP);
            let node: u64 = load(cgroup, config::CGROUP_KN);
            header.cgroup = load(node, config::KN_ID);
            let nsproxy: u64 = self.field(config::TASK_NSPROXY);
            let own: u64 = load(nsproxy, config::NSPROXY_NET);
            // Loaded before the comparison: after it the compiler takes the number for the pointer.
            let number: u32 = load(own, config::NET_INUM);
            header.netns = if own == net { number } else { inode(net) };
        }
    }
}

/// The registers of a thread in a system call.
#[derive(Clone, Copy)]
pub(crate) struct Registers(u64);

impl Registers {
    /// One of them.
    #[inline(always)]
    pub(crate) fn get(self, slot: usize) -> u64 {
        // SAFETY: the pointer comes from the helper.
        unsafe { load(self.0, slot) }
    }
}

/// Loads a field through a pointer whose type the verifier knows; it checks the offset against it.
///
/// # Safety
/// `base` comes from a helper that returns a typed pointer, or from a field that holds one.
#[inline(always)]
unsafe fn load<T>(base: u64, slot: usize) -> T {
    // SAFETY: by contract.
    unsafe { core::ptr::read_volatile((base as usize + offset(slot)) as *const T) }
}
