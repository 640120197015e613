//! Kernel programs.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "kernel programs")]

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
