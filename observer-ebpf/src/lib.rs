//! Records that the kernel programs send to userspace.
#![no_std]
