//! Runs [`veilmq_fuzz::veil_distribution`] on whatever the fuzzer makes up.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| veilmq_fuzz::veil_distribution(data));
