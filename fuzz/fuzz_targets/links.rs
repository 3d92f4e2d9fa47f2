#![no_main]
//! See `valetd::fuzzing::links`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| valetd::fuzzing::links(data));
