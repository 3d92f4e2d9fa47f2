#![no_main]
//! See `valetd::fuzzing::token_answer`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| valetd::fuzzing::token_answer(data));
