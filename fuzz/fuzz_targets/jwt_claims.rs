#![no_main]
//! See `valetd::fuzzing::jwt_claims`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| valetd::fuzzing::jwt_claims(data));
