//! The first 16 bytes of every payload: who published it, which number it has, when it was due.
//!
//! Big-endian: publisher (2), sequence (6), nanoseconds from the start of the run to the due time (8).

/// Bytes of a stamp, hence the smallest payload a run accepts.
pub(crate) const STAMP_BYTES: usize = 16;

/// Numbers below this fit the six bytes of a sequence.
pub(crate) const SEQUENCE_LIMIT: u64 = 1 << 48;

/// What a subscriber needs to account for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) publisher: u16,
    /// Counts from 0 for each publisher; below [`SEQUENCE_LIMIT`].
    pub(crate) sequence: u64,
    pub(crate) due_nanos: u64,
}

impl Stamp {
    /// The bytes to put in front of a payload.
    pub(crate) fn encode(self) -> [u8; STAMP_BYTES] {
        let numbered = (u64::from(self.publisher) << 48) | (self.sequence & (SEQUENCE_LIMIT - 1));
        let mut bytes = [0; STAMP_BYTES];
        bytes[..8].copy_from_slice(&numbered.to_be_bytes());
        bytes[8..].copy_from_slice(&self.due_nanos.to_be_bytes());
        bytes
    }

    /// Reads the stamp of a payload; `None` if the payload is too short to carry one.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (numbered, rest) = payload.split_first_chunk()?;
        let (due, _) = rest.split_first_chunk()?;
        let numbered = u64::from_be_bytes(*numbered);
        Some(Self {
            publisher: (numbered >> 48) as u16,
            sequence: numbered & (SEQUENCE_LIMIT - 1),
            due_nanos: u64::from_be_bytes(*due),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_sixteen_big_endian_bytes() {
        let stamp = Stamp { publisher: 0x0102, sequence: 0x0304_0506_0708, due_nanos: 0x1112_1314_1516_1718 };

        let bytes = stamp.encode();

        assert_eq!(bytes, *b"\x01\x02\x03\x04\x05\x06\x07\x08\x11\x12\x13\x14\x15\x16\x17\x18");
        assert_eq!(Stamp::decode(&bytes), Some(stamp));
        assert_eq!(Stamp::decode(&[&bytes[..], b"padding"].concat()), Some(stamp));
    }

    #[test]
    fn a_payload_shorter_than_a_stamp_has_none() {
        for bytes in 0..STAMP_BYTES {
            assert_eq!(Stamp::decode(&vec![0xFF; bytes]), None, "{bytes} bytes");
        }
    }
}
