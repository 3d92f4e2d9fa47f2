#![no_main]
//! See `valetd::fuzzing::sealed_file`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| valetd::fuzzing::sealed_file(data));
