//! Runs [`veilmq_fuzz::client_session`] on whatever the fuzzer makes up.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| veilmq_fuzz::client_session(data));
