//! Memory that starting took and nothing needs any more.

#![allow(unsafe_code, reason = "the allocator has no safe wrapper here")]

/// Gives what is free back to the kernel. The kernel's type information, parsed, is some 30 MB for a moment, and what an
/// allocator keeps of it depends on chance: 36 or 53 MiB resident were seen.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number and touches only memory that is not in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
