#![no_main]
//! See `valetd::fuzzing::request_path`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| valetd::fuzzing::request_path(data));
