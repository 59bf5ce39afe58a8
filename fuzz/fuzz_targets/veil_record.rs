//! Runs [`veilmq_fuzz::veil_record`] on whatever the fuzzer makes up.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| veilmq_fuzz::veil_record(data));
