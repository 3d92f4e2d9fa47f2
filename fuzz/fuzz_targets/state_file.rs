#![no_main]
//! See `valetd::fuzzing::state_file`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| valetd::fuzzing::state_file(data));
