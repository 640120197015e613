#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| observer::protocol::fuzz::memcached_binary(data));
