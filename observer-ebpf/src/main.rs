//! Kernel programs: what an application sends and receives on watched TCP and UDP ports and unix sockets, and the life of
//! connections, as records in a ring.
//!
//! - [`globals`]: configuration, maps, counters.
//! - [`socket`]: port filter, whose socket it is, its position.
//! - [`task`]: whose call it is.
//! - [`buffer`]: where the bytes of a call are.
//! - [`capture`]: one call becomes records.
//! - [`datagram`]: UDP: who the other end is.
//! - [`unix`]: unix sockets: whose they are, their positions.
//! - [`syscall`]: the buffer of a call, from the registers of its system call (`tracepoint` backend).
//! - [`iter`]: the same from the kernel's own iterator (`fentry` and `kprobe` backends).
//! - [`programs`], [`programs_udp`], [`programs_unix`]: what is attached; [`programs_kprobe`]: the same for the `kprobe` backend.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(unsafe_code, reason = "kernel programs")]

#[cfg(target_arch = "bpf")]
mod buffer;
#[cfg(target_arch = "bpf")]
mod capture;
#[cfg(target_arch = "bpf")]
mod datagram;
#[cfg(target_arch = "bpf")]
mod globals;
#[cfg(target_arch = "bpf")]
mod iter;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod programs_kprobe;
#[cfg(target_arch = "bpf")]
mod programs_udp;
#[cfg(target_arch = "bpf")]
mod programs_unix;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod syscall;
#[cfg(target_arch = "bpf")]
mod task;
#[cfg(target_arch = "bpf")]
mod unix;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses programs that could get here.
    loop {}
}

/// The kernel lends its tracing helpers only to programs under the GPL.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The programs are only built for a BPF target; elsewhere this keeps `cargo build --workspace` going.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
