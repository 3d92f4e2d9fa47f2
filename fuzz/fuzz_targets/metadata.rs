#![no_main]
//! See `valetd::fuzzing::metadata`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| valetd::fuzzing::metadata(data));
