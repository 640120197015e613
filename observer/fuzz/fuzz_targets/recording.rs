#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| observer::source::recording::fuzz::recording(data));
