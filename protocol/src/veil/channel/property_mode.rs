//! Property mode: a tag over each PUBLISH, for libraries that cannot put packets into records (VEIL-1 section 5.3).
//!
//! Invariant: a number is used once and taken once, and numbers increase in each direction for as long as the connection lasts.

use super::{
    kdf::{Secret32, hmac_state},
    operations::{Operations, Tally},
    record::Side,
};
use crate::{
    DecodeError, Frame, ProtocolVersion, Publish, ReasonCode,
    veil::property_mode::{PropertyLayoutError, PropertyValue, ProtectedPublish, TAG_LEN, read, write},
};
use alloc::vec::Vec;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Why a PUBLISH is refused in property mode; every one of them ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// The property is not as it has to be, or the packet is malformed.
    #[error(transparent)]
    Layout(PropertyLayoutError),
    /// A Topic Alias, which nothing would authenticate.
    #[error("a Topic Alias in property mode")]
    TopicAlias,
    /// The tag is wrong.
    #[error("the tag of v1m is wrong")]
    Tag,
    /// The number is not above the last one: a message comes again, or late.
    #[error("v1m has number {got} after {last}")]
    Sequence {
        /// The number of this message.
        got: u64,
        /// The number of the message before it.
        last: u64,
    },
}

impl PropertyError {
    /// The Reason Code for DISCONNECT (VEIL-1 section 16).
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::Layout(PropertyLayoutError::Packet(error)) => error.reason(),
            Self::TopicAlias => ReasonCode::TopicAliasInvalid,
            Self::Layout(_) | Self::Tag | Self::Sequence { .. } => ReasonCode::NotAuthorized,
        }
    }
}

impl From<PropertyLayoutError> for PropertyError {
    fn from(error: PropertyLayoutError) -> Self {
        Self::Layout(error)
    }
}

impl From<DecodeError> for PropertyError {
    fn from(error: DecodeError) -> Self {
        Self::Layout(error.into())
    }
}

/// `HMAC(Derive(ap_x, "prop mac", "", 32), ...)` of one direction.
struct PropertyKey {
    state: Hmac<Sha256>,
    direction: u8,
    tally: Tally,
}

impl PropertyKey {
    /// `sender` is the side whose messages it is for, and `secret` that side's `ap_x`.
    fn new(sender: Side, secret: &Secret32) -> Self {
        let direction = match sender {
            Side::Client => b'c',
            Side::Broker => b's',
        };
        let state = hmac_state(secret.derive("prop mac", &[]).as_bytes());
        Self { state, direction, tally: Tally::default() }
    }

    fn tag(&self, sequence: u64, publish: &ProtectedPublish<'_>) -> [u8; TAG_LEN] {
        self.tally.mac();
        let [before, after] = publish.properties;
        // Both lengths fit: they come from a packet.
        let topic_len = (publish.topic.len() as u16).to_be_bytes();
        let properties_len = ((before.len() + after.len()) as u32).to_be_bytes();
        let mut state = self.state.clone();
        for part in [
            b"veil1 prop".as_slice(),
            &[self.direction],
            &sequence.to_be_bytes(),
            &[publish.flags],
            &topic_len,
            publish.topic,
            &properties_len,
            before,
            after,
            publish.payload,
        ] {
            state.update(part);
        }
        let whole = state.finalize().into_bytes();
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&whole[..TAG_LEN]);
        tag
    }
}

/// Protects what this side publishes.
pub struct PropertySealer {
    key: PropertyKey,
    next: u64,
}

impl PropertySealer {
    /// Starts at number 0, with the application secret `ap_x` of this side.
    pub(super) fn new(side: Side, secret: &Secret32) -> Self {
        Self { key: PropertyKey::new(side, secret), next: 0 }
    }

    /// Appends the PUBLISH in `packet` with its property, 40 bytes longer and up to two more for lengths. Properties of that name
    /// which it has already are left out. A Topic Alias is not to be used.
    ///
    /// # Errors
    /// [`PropertyError::Layout`] for what is no PUBLISH; nothing is appended then.
    pub fn seal(&mut self, packet: &[u8], out: &mut Vec<u8>) -> Result<(), PropertyError> {
        let sequence = self.next;
        let key = &self.key;
        write(packet, |publish| PropertyValue { sequence, tag: key.tag(sequence, publish) }, out)?;
        self.next += 1;
        Ok(())
    }

    /// The operations that were made since they were last taken.
    #[must_use]
    pub fn take_operations(&mut self) -> Operations {
        self.key.tally.take()
    }
}

/// Checks what the other side publishes.
pub struct PropertyOpener {
    key: PropertyKey,
    last: Option<u64>,
}

impl PropertyOpener {
    /// Takes any number first, with the application secret `ap_x` of the other side; `side` is this one.
    pub(super) fn new(side: Side, secret: &Secret32) -> Self {
        let sender = match side {
            Side::Client => Side::Broker,
            Side::Broker => Side::Client,
        };
        Self { key: PropertyKey::new(sender, secret), last: None }
    }

    /// Reads a PUBLISH that is authentic and new, without its property.
    ///
    /// # Errors
    /// [`PropertyError`]; the connection is to be ended then.
    pub fn open<'a>(&mut self, frame: Frame<'a>) -> Result<Publish<'a>, PropertyError> {
        let mut publish = Publish::decode(frame, ProtocolVersion::V5)?;
        if publish.properties.topic_alias.is_some() {
            return Err(PropertyError::TopicAlias);
        }
        let (protected, PropertyValue { sequence, tag }) = read(frame)?;
        if !bool::from(self.key.tag(sequence, &protected).ct_eq(&tag)) {
            return Err(PropertyError::Tag);
        }
        if let Some(last) = self.last.filter(|last| sequence <= *last) {
            return Err(PropertyError::Sequence { got: sequence, last });
        }
        self.last = Some(sequence);
        publish.properties.user = publish.properties.user.without_last();
        Ok(publish)
    }

    /// The operations that were made since they were last taken.
    #[must_use]
    pub fn take_operations(&mut self) -> Operations {
        self.key.tally.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::next_frame;

    /// Topic `a/b`, Content Type `t`, User Property `k: v`, payload `hi`; DUP, QoS 1, RETAIN, Packet Identifier 5.
    const PUBLISH: &[u8] = b"\x3b\x15\0\x03a/b\0\x05\x0b\x03\0\x01t\x26\0\x01k\0\x01vhi";
    /// The same with its property as message 0 of a client, made by another implementation.
    const PROTECTED: &[u8] =
        b"\x3b\x3d\0\x03a/b\0\x05\x33\x03\0\x01t\x26\0\x01k\0\x01v\x26\0\x03v1m\0\x20AAAAAAAAAADG71ztfJoqcAEYnnNzsBt_hi";
    /// Topic `a/b`, no property, no payload; QoS 0.
    const EMPTY: &[u8] = b"\x30\x06\0\x03a/b\0";
    /// The same as message 1 of a client, made by another implementation.
    const EMPTY_PROTECTED: &[u8] =
        b"\x30\x2e\0\x03a/b\x28\x26\0\x03v1m\0\x20AAAAAAAAAAEOjLHCvT6VvawAAhzZJ-1k";

    fn client() -> PropertySealer {
        PropertySealer::new(Side::Client, &Secret32::new(&[7; 32]))
    }

    fn broker() -> PropertyOpener {
        PropertyOpener::new(Side::Broker, &Secret32::new(&[7; 32]))
    }

    fn open(opener: &mut PropertyOpener, packet: &[u8]) -> Result<Vec<u8>, PropertyError> {
        let (frame, len) = next_frame(packet, usize::MAX)?.ok_or(DecodeError::Truncated("packet"))?;
        assert_eq!(len, packet.len());
        let publish = opener.open(frame)?;
        let mut plain = Vec::new();
        crate::Packet::Publish(publish).encode(ProtocolVersion::V5, &mut plain).unwrap();
        Ok(plain)
    }

    #[test]
    fn messages_are_those_of_another_implementation_both_ways() {
        let (mut sealer, mut opener) = (client(), broker());
        let mut packet = Vec::new();

        sealer.seal(PUBLISH, &mut packet).unwrap();
        assert_eq!(packet, PROTECTED);
        packet.clear();
        sealer.seal(EMPTY, &mut packet).unwrap();
        assert_eq!(packet, EMPTY_PROTECTED);

        assert_eq!(open(&mut opener, PROTECTED).as_deref(), Ok(PUBLISH));
        assert_eq!(open(&mut opener, EMPTY_PROTECTED).as_deref(), Ok(EMPTY));
    }

    #[test]
    fn only_dup_and_the_packet_identifier_may_change_on_the_way() {
        for bit in 0..8 * PROTECTED.len() {
            let mut changed = PROTECTED.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(Some((frame, len))) = next_frame(&changed, usize::MAX) else { continue };
            if len != changed.len() || frame.packet_type() != crate::PacketType::Publish {
                continue;
            }
            let may_change = bit == 3 || (7..9).contains(&(bit / 8));

            assert_eq!(broker().open(frame).is_ok(), may_change, "bit {bit}");
        }
    }

    #[test]
    fn a_message_that_comes_again_or_late_or_from_the_other_side_is_refused() {
        let mut opener = broker();
        assert!(open(&mut opener, EMPTY_PROTECTED).is_ok());

        let sequence = |got| Err(PropertyError::Sequence { got, last: 1 });
        assert_eq!(open(&mut opener, EMPTY_PROTECTED), sequence(1));
        assert_eq!(open(&mut opener, PROTECTED), sequence(0));
        let mut own = PropertyOpener::new(Side::Client, &Secret32::new(&[7; 32]));
        assert_eq!(open(&mut own, PROTECTED), Err(PropertyError::Tag));
    }

    #[test]
    fn there_is_exactly_one_property_and_it_is_the_last_of_the_user() {
        let one = &EMPTY_PROTECTED[8..];
        let packet = |properties: &[&[u8]]| {
            let block = properties.concat();
            let lengths = [(6 + block.len()) as u8, block.len() as u8];
            [&[0x30, lengths[0], 0, 3], b"a/b".as_slice(), &[lengths[1]], &block].concat()
        };
        let other = b"\x26\0\x01k\0\x01v".as_slice();
        let short = b"\x26\0\x03v1m\0\x01A".as_slice();
        let refused = |properties: &[&[u8]]| match open(&mut broker(), &packet(properties)) {
            Err(PropertyError::Layout(error)) => error,
            other => panic!("{other:?}"),
        };

        assert_eq!(open(&mut broker(), &packet(&[one])).as_deref(), Ok(EMPTY));
        assert_eq!(refused(&[]), PropertyLayoutError::Missing);
        assert_eq!(refused(&[other]), PropertyLayoutError::Missing);
        assert_eq!(refused(&[one, one]), PropertyLayoutError::Repeated);
        assert_eq!(refused(&[one, other]), PropertyLayoutError::NotLast);
        assert!(matches!(refused(&[short]), PropertyLayoutError::Value(_)));
        let alias = open(&mut broker(), &packet(&[one, b"\x23\0\x01"]));
        assert_eq!(alias, Err(PropertyError::TopicAlias));
    }

    #[test]
    fn what_an_application_calls_by_the_name_is_left_out() {
        let mut packet = Vec::new();

        client().seal(b"\x30\x11\0\x03a/b\x0b\x26\0\x03v1m\0\x01A\x01\0", &mut packet).unwrap();

        let without = b"\x30\x08\0\x03a/b\x02\x01\0".as_slice();
        assert_eq!(open(&mut broker(), &packet).as_deref(), Ok(without));
    }
}
