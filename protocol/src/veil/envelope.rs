//! The VE1 message envelope (VEIL-1 section 10): its header, and where ciphertext, tag and signature lie.
//!
//! Parses and writes the clear part only. It holds no key, so it can neither open an envelope nor tell whether
//! one is genuine. Invariant: an [`Envelope`] has a whole header, at least an empty ciphertext with its tag,
//! and a signature exactly if the header says so; `header || body || signature` is the parsed payload.

use alloc::vec::Vec;

use thiserror::Error;

use super::{
    layout::Reader,
    registry::{Kid, Suite},
};

/// First two bytes of every VEIL-1 object that travels as an MQTT payload.
pub const MAGIC: [u8; 2] = *b"VE";
/// Third byte of a message envelope: version 1, type message.
pub const MESSAGE: u8 = 0x10;
/// Third byte of an envelope with a part of a message.
pub const CHUNK: u8 = 0x11;
/// Length of the fixed part of the header, up to and including `seq`.
pub const HEADER_BYTES: usize = 33;
/// Length of an Ed25519 signature after the tag.
pub const SIGNATURE_BYTES: usize = 64;
/// Set in a session number that was chosen for a Will (VEIL-1 section 8.2).
pub const WILL_SESSION_BIT: u64 = 1 << 15;

/// Names why a payload is not a message envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// The payload does not start with the magic and a type of version 1, so it is something else.
    #[error("the payload is not a VEIL-1 envelope")]
    NotEncrypted,
    /// The payload claims to be an envelope but breaks its layout; the field at fault is named.
    #[error("malformed envelope: {0}")]
    Malformed(&'static str),
}

/// The flag byte of an envelope header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnvelopeFlags(u8);

impl EnvelopeFlags {
    /// b0: an Ed25519 signature follows the tag.
    pub const SIGNED: Self = Self(0x01);
    /// b1: the header carries a timestamp.
    pub const TIMESTAMP: Self = Self(0x02);
    /// b2: PUBLISH properties are part of the associated data.
    pub const BOUND: Self = Self(0x04);
    /// b3: the topic is the first field of the plaintext.
    pub const INNER_TOPIC: Self = Self(0x08);
    /// b4: the plaintext is padded.
    pub const PADDED: Self = Self(0x10);
    /// b5: a retained message published again under a newer epoch.
    pub const REFRESH: Self = Self(0x20);
    /// b7: sealed for one receiver.
    pub const PAIRWISE: Self = Self(0x80);
    const RESERVED: u8 = 0x40;

    /// Returns the flag byte.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns whether every flag of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns these flags with those of `other` set if `condition` holds.
    #[must_use]
    pub const fn with(self, other: Self, condition: bool) -> Self {
        if condition { Self(self.0 | other.0) } else { self }
    }
}

/// The clear header of a message envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvelopeHeader {
    /// Algorithms the ciphertext and tag were made with.
    pub suite: Suite,
    /// Flags other than [`EnvelopeFlags::TIMESTAMP`], which follows `timestamp_ms`.
    pub flags: EnvelopeFlags,
    /// First 4 bytes of `H("veil1 scope" || scope)`: a hint, the scope itself is associated data.
    pub scope_tag: [u8; 4],
    /// Epoch of the group key.
    pub epoch: u32,
    /// Key identifier of the sender.
    pub sender: Kid,
    /// Sender session; see [`WILL_SESSION_BIT`].
    pub session: u64,
    /// Sequence number within the stream.
    pub seq: u32,
    /// Unix milliseconds at which the sender sealed the message, if it said so.
    pub timestamp_ms: Option<u64>,
    /// Which part of a message this is, if it is one.
    pub chunk: Option<Chunk>,
}

/// Which part of a message an envelope holds (VEIL-1 section 12.5); `index` is less than `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The same for all parts of a message, and another for every message of a sender session.
    pub message: u64,
    /// The number of this part, from 0.
    pub index: u32,
    /// How many parts there are.
    pub count: u32,
    /// The length of the whole message in bytes.
    pub total_bytes: u64,
}

impl Chunk {
    fn read(fields: &mut Reader<'_>) -> Result<Self, EnvelopeError> {
        let chunk = Self {
            message: u64::from_be_bytes(field(fields)?),
            index: u32::from_be_bytes(field(fields)?),
            count: u32::from_be_bytes(field(fields)?),
            total_bytes: u64::from_be_bytes(field(fields)?),
        };
        if chunk.index < chunk.count { Ok(chunk) } else { Err(EnvelopeError::Malformed("chunk")) }
    }
}

impl EnvelopeHeader {
    /// Appends the header to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = self.flags.with(EnvelopeFlags::TIMESTAMP, self.timestamp_ms.is_some());
        out.extend_from_slice(&MAGIC);
        let kind = if self.chunk.is_some() { CHUNK } else { MESSAGE };
        out.extend_from_slice(&[kind, self.suite as u8, flags.bits()]);
        out.extend_from_slice(&self.scope_tag);
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(self.sender.as_bytes());
        out.extend_from_slice(&self.session.to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        if let Some(timestamp_ms) = self.timestamp_ms {
            out.extend_from_slice(&timestamp_ms.to_be_bytes());
        }
        if let Some(Chunk { message, index, count, total_bytes }) = self.chunk {
            out.extend_from_slice(&message.to_be_bytes());
            out.extend_from_slice(&index.to_be_bytes());
            out.extend_from_slice(&count.to_be_bytes());
            out.extend_from_slice(&total_bytes.to_be_bytes());
        }
    }

    /// Returns whether the envelope was sealed as a Will.
    pub const fn is_will(&self) -> bool {
        self.session & WILL_SESSION_BIT != 0
    }
}

/// A message envelope split into its parts, none of them verified.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The parsed header.
    pub header: EnvelopeHeader,
    /// The header as it arrived: what the associated data must contain.
    pub header_bytes: &'a [u8],
    /// Ciphertext followed by the tag; suite 1 puts its IV in front.
    pub body: &'a [u8],
    /// Ed25519 signature by the sender over associated data and body.
    pub signature: Option<&'a [u8; SIGNATURE_BYTES]>,
}

impl<'a> Envelope<'a> {
    /// Splits an MQTT payload.
    ///
    /// # Errors
    /// [`EnvelopeError::NotEncrypted`] if the first three bytes are not those of a version 1 object, and
    /// [`EnvelopeError::Malformed`] for any other VEIL-1 object, reserved bits, unknown suites and short payloads.
    pub fn parse(payload: &'a [u8]) -> Result<Self, EnvelopeError> {
        let kind = match payload {
            [a, b, kind, ..] if [*a, *b] == MAGIC && kind >> 4 == MESSAGE >> 4 => *kind,
            _ => return Err(EnvelopeError::NotEncrypted),
        };
        if !matches!(kind, MESSAGE | CHUNK) {
            return Err(EnvelopeError::Malformed("type"));
        }
        let mut fields = Reader::new(payload);
        let [_, _, _, suite, flags] = field(&mut fields)?;
        let suite = Suite::try_from(suite).map_err(|_| EnvelopeError::Malformed("suite"))?;
        if flags & EnvelopeFlags::RESERVED != 0 {
            return Err(EnvelopeError::Malformed("reserved flag"));
        }
        let flags = EnvelopeFlags(flags);
        let header = EnvelopeHeader {
            suite,
            flags,
            scope_tag: field(&mut fields)?,
            epoch: u32::from_be_bytes(field(&mut fields)?),
            sender: Kid::from_bytes(field(&mut fields)?),
            session: u64::from_be_bytes(field(&mut fields)?),
            seq: u32::from_be_bytes(field(&mut fields)?),
            timestamp_ms: match flags.contains(EnvelopeFlags::TIMESTAMP) {
                true => Some(u64::from_be_bytes(field(&mut fields)?)),
                false => None,
            },
            chunk: if kind == CHUNK { Some(Chunk::read(&mut fields)?) } else { None },
        };
        let (header_bytes, rest) = payload.split_at(fields.offset());
        let (body, signature) = match flags.contains(EnvelopeFlags::SIGNED) {
            true => match rest.split_last_chunk() {
                Some((body, signature)) => (body, Some(signature)),
                None => return Err(EnvelopeError::Malformed("signature")),
            },
            false => (rest, None),
        };
        if !body_length_is_possible(suite, body.len()) {
            return Err(EnvelopeError::Malformed("length"));
        }
        Ok(Self { header, header_bytes, body, signature })
    }
}

/// Suite 1 always carries an IV and at least one whole block; the AEAD suites may carry an empty ciphertext.
fn body_length_is_possible(suite: Suite, length: usize) -> bool {
    match suite {
        Suite::Aes256CbcHmacSha256 => length >= 16 + 16 + suite.tag_len() && length.is_multiple_of(16),
        Suite::Aes256Gcm | Suite::ChaCha20Poly1305 => length >= suite.tag_len(),
    }
}

fn field<const N: usize>(fields: &mut Reader<'_>) -> Result<[u8; N], EnvelopeError> {
    fields.array("header").map_err(|_| EnvelopeError::Malformed("header"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const HEADER: EnvelopeHeader = EnvelopeHeader {
        suite: Suite::Aes256Gcm,
        flags: EnvelopeFlags::BOUND,
        scope_tag: [1, 2, 3, 4],
        epoch: 7,
        sender: Kid::from_bytes(*b"senderid"),
        session: 0x0102_0304_0506_8708,
        seq: 9,
        timestamp_ms: None,
        chunk: None,
    };

    fn payload(header: &EnvelopeHeader, rest: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        header.encode(&mut payload);
        payload.resize(payload.len() + rest, 0xEE);
        payload
    }

    #[test]
    fn header_is_laid_out_as_the_table_says() {
        let with_time = EnvelopeHeader { timestamp_ms: Some(0x1122_3344_5566_7788), ..HEADER };

        assert_eq!(
            payload(&with_time, 0),
            b"VE\x10\x02\x06\x01\x02\x03\x04\0\0\0\x07senderid\x01\x02\x03\x04\x05\x06\x87\x08\0\0\0\x09\x11\x22\x33\x44\x55\x66\x77\x88"
        );
        assert_eq!(payload(&HEADER, 0).len(), HEADER_BYTES);
    }

    #[test]
    fn a_part_says_which_it_is_and_has_a_number_below_their_count() {
        let part = |index| Chunk { message: 0x0102_0304_0506_0708, index, count: 3, total_bytes: 150_000 };
        let of = |index| payload(&EnvelopeHeader { chunk: Some(part(index)), ..HEADER }, 16);

        assert_eq!(of(2)[2], CHUNK);
        assert_eq!(
            of(2)[HEADER_BYTES..HEADER_BYTES + 24],
            *b"\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x02\0\0\0\x03\0\0\0\0\0\x02\x49\xf0"
        );
        assert_eq!(Envelope::parse(&of(2)).unwrap().header.chunk, Some(part(2)));
        assert_eq!(Envelope::parse(&of(3)).map(|_| ()), Err(EnvelopeError::Malformed("chunk")));
    }

    #[test]
    fn an_envelope_is_split_into_header_body_and_signature() {
        let signed = EnvelopeHeader { flags: EnvelopeFlags::SIGNED, ..HEADER };
        let payload = payload(&signed, 20 + SIGNATURE_BYTES);

        let envelope = Envelope::parse(&payload).unwrap();

        assert_eq!(envelope.header, signed);
        assert!(envelope.header.is_will());
        assert_eq!(envelope.header_bytes, &payload[..HEADER_BYTES]);
        assert_eq!(envelope.body.len(), 20);
        assert_eq!(envelope.signature, Some(&[0xEE; SIGNATURE_BYTES]));
    }

    #[test]
    fn an_empty_ciphertext_with_its_tag_is_an_envelope_and_anything_shorter_is_not() {
        let rows = [(Suite::Aes256CbcHmacSha256, 64), (Suite::Aes256Gcm, 16), (Suite::ChaCha20Poly1305, 16)];
        for (suite, shortest) in rows {
            let payload = payload(&EnvelopeHeader { suite, ..HEADER }, shortest);
            assert!(Envelope::parse(&payload).is_ok(), "{suite:?}");
            for length in 3..payload.len() {
                let refused = Envelope::parse(&payload[..length]).map(|_| ());
                assert!(matches!(refused, Err(EnvelopeError::Malformed(_))), "{suite:?} {length}");
            }
        }
    }

    #[test]
    fn other_payloads_are_told_apart_from_broken_envelopes() {
        let good = payload(&HEADER, 16);
        let with = |offset: usize, value: u8| {
            let mut payload = good.clone();
            payload[offset] = value;
            payload
        };
        let rows = [
            (vec![], EnvelopeError::NotEncrypted),
            (b"VE".to_vec(), EnvelopeError::NotEncrypted),
            (b"{}".to_vec(), EnvelopeError::NotEncrypted),
            (with(0, b'v'), EnvelopeError::NotEncrypted),
            (with(2, 0x20), EnvelopeError::NotEncrypted),
            (with(2, 0x11), EnvelopeError::Malformed("header")),
            (with(2, 0x12), EnvelopeError::Malformed("type")),
            (with(3, 0), EnvelopeError::Malformed("suite")),
            (with(3, 4), EnvelopeError::Malformed("suite")),
            (with(4, 0x40), EnvelopeError::Malformed("reserved flag")),
            (with(4, 0x01), EnvelopeError::Malformed("signature")),
        ];
        for (payload, expected) in rows {
            assert_eq!(Envelope::parse(&payload).map(|_| ()), Err(expected), "{payload:02x?}");
        }
    }
}
