#![no_main]
//! See `valetd::fuzzing::config`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| valetd::fuzzing::config(data));
