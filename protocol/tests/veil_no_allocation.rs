//! Once a channel is warm, sealing and opening records allocates nothing.
#![cfg(feature = "channel")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod veil_common;

use allocation_counter::measure;
use veil_common::records::{MAX, pair};
use veilmq_protocol::veil::{
    Scheme, Suite,
    channel::{Side, gbody_digest},
};

#[test]
fn records_of_packets_allocate_nothing() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Two, Scheme::Four] {
            let (mut sealer, mut opener) = pair(suite, scheme, Side::Broker);
            let mut wire = Vec::with_capacity(4096);

            let counted = measure(|| {
                for _ in 0..10 {
                    wire.clear();
                    let open = sealer.begin(&mut wire);
                    wire.extend_from_slice(&[7; 1000]);
                    sealer.finish(&mut wire, open);
                    opener.next(&mut wire, MAX).unwrap().unwrap();
                }
            });

            assert_eq!(counted.count_total, 0, "{suite:?} {scheme:?}");
        }
    }
}

#[test]
fn fan_out_records_allocate_nothing_after_the_first() {
    let body = b"\x00\x00\x03a/b\x00\x00\x00\x00payload";
    let header = b"\x02\x00\x15\x00\x00";
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = pair(suite, Scheme::Four, Side::Client);
        let mut wire = Vec::with_capacity(4096);
        let mut round = || {
            wire.clear();
            let tag = sealer.fan_d(&mut wire, header, &gbody_digest(&[body]), body.len()).unwrap();
            wire.extend_from_slice(body);
            wire.extend_from_slice(tag.as_ref());
            opener.next(&mut wire, MAX).unwrap().unwrap();
        };
        assert!(measure(&mut round).count_total > 0, "the first record makes the scratch buffer");

        let counted = measure(|| (0..10).for_each(|_| round()));

        assert_eq!(counted.count_total, 0, "{suite:?}");
    }
}
