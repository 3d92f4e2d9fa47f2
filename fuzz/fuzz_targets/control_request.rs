#![no_main]
//! See `valetd::fuzzing::control_request`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| valetd::fuzzing::control_request(data));
