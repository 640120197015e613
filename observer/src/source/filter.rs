//! The system calls that are left once everything is attached and open.
//!
//! A list of what is allowed: what a list of refusals forgets, or what a later kernel adds (io_uring would pass by all the
//! rest), stays open. Whatever is not in it fails with ENOSYS, as on a kernel that does not have it. So a later C library or
//! runtime goes on: it must run on older kernels too, tries new calls first, and falls back on ENOSYS to those
//! that are here. They are all that the C libraries, the standard library and tokio use on Linux 5.8 of what this program
//! asks of them: threads, memory, time, sockets, waiting, and reading files.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{self, Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// The user and group that own nothing.
pub(super) const NOBODY: u32 = 65534;

/// Commands of bpf(2) that read and write maps which are open already, `linux/bpf.h`.
const MAP_COMMANDS: [u64; 4] = [1, 2, 3, 4];
/// Operations of prctl(2): names of threads and memory, and what [`super::confine`] gives up.
const PROCESS_OPTIONS: [i32; 5] = [
    PR_SET_NAME,
    PR_GET_NAME,
    PR_SET_VMA,
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
];
/// Types characters into a terminal, `asm-generic/ioctls.h`.
const TERMINAL_INPUT: [u64; 2] = [TIOCSTI as _, TIOCLINUX as _];
/// What name look-ups and exporters connect with.
const SOCKETS: [i32; 4] = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];
/// Namespaces of their own.
const NAMESPACES: i32 = CLONE_NEWUSER
    | CLONE_NEWNS
    | CLONE_NEWPID
    | CLONE_NEWNET
    | CLONE_NEWIPC
    | CLONE_NEWUTS
    | CLONE_NEWCGROUP;
/// What makes of an opening more than reading.
const WRITING: i32 = O_ACCMODE | O_CREAT | O_TRUNC | (O_TMPFILE & !O_DIRECTORY);

/// Allowed with any arguments.
const CALLS: &[c_long] = &[
    // Memory.
    SYS_brk,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_membarrier,
    // Threads and signals.
    SYS_exit,
    SYS_exit_group,
    SYS_futex,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_rseq,
    SYS_gettid,
    SYS_getpid,
    SYS_getppid,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_getcpu,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigtimedwait,
    SYS_rt_sigsuspend,
    SYS_sigaltstack,
    SYS_restart_syscall,
    // Time.
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    // Waiting.
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_ppoll,
    SYS_pselect6,
    SYS_eventfd2,
    SYS_pipe2,
    // What is open.
    SYS_read,
    SYS_readv,
    SYS_pread64,
    SYS_preadv,
    SYS_write,
    SYS_writev,
    SYS_pwrite64,
    SYS_lseek,
    SYS_fsync,
    SYS_fdatasync,
    SYS_close,
    SYS_dup,
    SYS_dup3,
    SYS_fcntl,
    SYS_fstat,
    // Looking at files and folders.
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_faccessat,
    SYS_readlinkat,
    SYS_getdents64,
    SYS_getcwd,
    // Sockets. New listeners are not among it.
    SYS_socketpair,
    SYS_bind,
    SYS_connect,
    SYS_accept,
    SYS_accept4,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_sendto,
    SYS_sendmsg,
    SYS_sendmmsg,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_recvmmsg,
    SYS_shutdown,
    // What this process and host are.
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getgroups,
    SYS_getrusage,
    SYS_uname,
    SYS_sysinfo,
    SYS_getrandom,
    // A thread that begins gives up what it holds: less is always allowed.
    SYS_capget,
    SYS_capset,
];

/// The older names of some of them, which newer architectures do without.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    SYS_epoll_wait,
    SYS_poll,
    SYS_select,
    SYS_pipe,
    SYS_dup2,
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_getdents,
    SYS_time,
    SYS_getrlimit,
    SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// The filter for this architecture.
pub(super) fn program() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for &call in CALLS.iter().chain(OLDER) {
        rules.insert(call, Vec::new());
    }
    rules.extend([
        (SYS_openat, vec![all([flags(2, WRITING, 0)?])?]),
        // Memory that was written is not run.
        (
            SYS_mmap,
            vec![
                all([flags(2, PROT_WRITE, 0)?])?,
                all([flags(2, PROT_EXEC, 0)?])?,
            ],
        ),
        (SYS_mprotect, vec![all([flags(2, PROT_EXEC, 0)?])?]),
        // Threads: no processes. The flags of clone3 are in memory, where no filter can look: it is not there.
        (
            SYS_clone,
            vec![all([flags(0, CLONE_THREAD | NAMESPACES, CLONE_THREAD)?])?],
        ),
        (SYS_socket, any(0, SOCKETS.map(widened))?),
        (SYS_prctl, any(0, PROCESS_OPTIONS.map(widened))?),
        (SYS_bpf, any(0, MAP_COMMANDS)?),
        (
            SYS_ioctl,
            vec![all([
                is(1, Dword, Ne, TERMINAL_INPUT[0])?,
                is(1, Dword, Ne, TERMINAL_INPUT[1])?,
            ])?],
        ),
        // Only of itself, and only to look.
        (
            SYS_prlimit64,
            vec![all([is(0, Dword, Eq, 0)?, is(2, Qword, Eq, 0)?])?],
        ),
        // abort() and the like.
        (SYS_tgkill, any(0, [u64::from(std::process::id())])?),
        // The one change of identity that is left, for threads that begin.
        (SYS_setgroups, any(0, [0])?),
        (SYS_setresgid, vec![nobody()?]),
        (SYS_setresuid, vec![nobody()?]),
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(SYS_open, vec![all([flags(1, WRITING, 0)?])?]);
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(ENOSYS.unsigned_abs()),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

/// The three numbers are nobody's.
fn nobody() -> Result<SeccompRule, BackendError> {
    let number = u64::from(NOBODY);
    all([
        is(0, Dword, Eq, number)?,
        is(1, Dword, Eq, number)?,
        is(2, Dword, Eq, number)?,
    ])
}

fn all<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

/// One rule for each of `values`.
fn any<const N: usize>(argument: u8, values: [u64; N]) -> Result<Vec<SeccompRule>, BackendError> {
    values
        .iter()
        .map(|&value| all([is(argument, Dword, Eq, value)?]))
        .collect()
}

/// Those bits of an argument that are in `mask` are `value`.
fn flags(argument: u8, mask: i32, value: i32) -> Result<SeccompCondition, BackendError> {
    is(argument, Dword, MaskedEq(widened(mask)), widened(value))
}

fn is(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, length, operator, value)
}

fn widened(number: i32) -> u64 {
    u64::from(number.cast_unsigned())
}
