//! Sealers and openers under known secrets, and what every refused record has in common.

use super::{bytes, seed, vectors};
use veilmq_protocol::veil::{
    Scheme, Suite,
    channel::{Content, RecordError, RecordOpener, RecordSealer, Secret32, Side},
};

pub(crate) const MAX: usize = 1 << 20;

pub(crate) fn secret(name: &str) -> Secret32 {
    Secret32::new(&seed(name))
}

pub(crate) fn vector_secret(pointer: &str) -> Secret32 {
    Secret32::new(&bytes(&vectors(), pointer).try_into().unwrap())
}

/// A sealer and the opener of the other side under the same secret.
pub(crate) fn pair(suite: Suite, scheme: Scheme, receiver: Side) -> (RecordSealer, RecordOpener) {
    let sealer = RecordSealer::new(suite, scheme, secret("ap"));
    (sealer, RecordOpener::new(receiver, suite, scheme, secret("ap")))
}

pub(crate) fn seal(sealer: &mut RecordSealer, packets: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let open = sealer.begin(&mut out);
    out.extend_from_slice(packets);
    sealer.finish(&mut out, open);
    out
}

pub(crate) fn packets(opener: &mut RecordOpener, record: &[u8]) -> Result<Vec<u8>, RecordError> {
    let mut buffer = record.to_vec();
    let opened = opener.next(&mut buffer, MAX)?.expect("the record is whole");
    assert_eq!(opened.consumed, record.len());
    match opened.content {
        Content::Packets(range) => Ok(buffer[range].to_vec()),
        other => panic!("not packets: {other:?}"),
    }
}

pub(crate) fn suite_of(number: &str) -> Suite {
    Suite::try_from(number.parse::<u8>().unwrap()).unwrap()
}

pub(crate) fn refuses_every_flip(good: &[u8], opener: impl Fn() -> RecordOpener) {
    const RECORD_MAX: usize = 2048;
    let mut unharmed = good.to_vec();
    assert!(opener().next(&mut unharmed, RECORD_MAX).unwrap().is_some());
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut opener = opener();

        // A larger length waits for bytes that a real stream would go on to deliver.
        bad.resize(RECORD_MAX + 5, 0);
        let outcome = opener.next(&mut bad, RECORD_MAX);

        assert!(outcome.is_err(), "bit {bit}: {outcome:?}");
        assert_eq!(opener.next(&mut good.to_vec(), RECORD_MAX), Err(RecordError::Closed), "bit {bit}");
    }
}
