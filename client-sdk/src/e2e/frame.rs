//! What surrounds the cipher in an envelope: associated data, bound properties, padding (VEIL-1 section 10).

use veilmq_protocol::{PublishProperties, TopicName};

use super::{
    config::{BoundProperties, Padding},
    scope::Scope,
};

/// A field does not fit its two-byte length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl BoundProperties {
    /// Returns whether a message with these properties is sealed with flag b2.
    pub(super) fn applies_to(self, properties: &PublishProperties<'_>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                properties.response_topic.is_some()
                    || properties.correlation_data.is_some()
                    || properties.content_type.is_some()
            }
        }
    }
}

/// Writes `"veil1 msg" || header || v16 scope || v16 topic || v16 bound`, replacing what was in `out`; `topic` is empty if
/// the plaintext holds it.
pub(super) fn associated_data(
    out: &mut Vec<u8>,
    header: &[u8],
    scope: &Scope,
    topic: &str,
    bound: Option<&PublishProperties<'_>>,
) -> Result<(), TooLong> {
    out.clear();
    out.extend_from_slice(b"veil1 msg");
    out.extend_from_slice(header);
    put_v16(out, scope.as_str().as_bytes())?;
    put_v16(out, topic.as_bytes())?;
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    if let Some(properties) = bound {
        put_bound(out, properties)?;
    }
    let length = u16::try_from(out.len() - start - 2).map_err(|_| TooLong)?;
    if let Some(field) = out.get_mut(start..start + 2) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// Writes properties 0x01, 0x03, 0x08 and 0x09 as MQTT encodes them, in this order, those that are present.
fn put_bound(out: &mut Vec<u8>, properties: &PublishProperties<'_>) -> Result<(), TooLong> {
    if let Some(is_utf8) = properties.payload_is_utf8 {
        out.extend_from_slice(&[0x01, u8::from(is_utf8)]);
    }
    let strings = [
        (0x03, properties.content_type.map(str::as_bytes)),
        (0x08, properties.response_topic.map(|topic| topic.as_str().as_bytes())),
        (0x09, properties.correlation_data),
    ];
    for (identifier, value) in strings {
        if let Some(value) = value {
            out.push(identifier);
            put_v16(out, value)?;
        }
    }
    Ok(())
}

pub(super) fn put_v16(out: &mut Vec<u8>, field: &[u8]) -> Result<(), TooLong> {
    let length = u16::try_from(field.len()).map_err(|_| TooLong)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(field);
    Ok(())
}

impl Padding {
    /// Returns the length a plaintext of `length` bytes is padded to, the 0x80 byte included.
    pub(super) fn padded_length(self, length: usize) -> usize {
        match self {
            Self::None => length,
            Self::PowersOfTwo => (length + 1).next_power_of_two().max(64),
            Self::Multiple(bucket) => (length + 1).next_multiple_of(bucket.get() as usize),
        }
    }
}

/// Removes `0x80 || 0x00*` from the end; `None` if it is not there.
pub(super) fn unpad(plaintext: &mut Vec<u8>) -> Option<()> {
    let end = plaintext.iter().rposition(|byte| *byte != 0)?;
    if plaintext.get(end) != Some(&0x80) {
        return None;
    }
    plaintext.truncate(end);
    Some(())
}

/// Takes the topic from the beginning of a plaintext, if there is a Topic Name.
pub(super) fn take_inner_topic(plaintext: &mut Vec<u8>) -> Option<String> {
    let (length, rest) = plaintext.split_first_chunk::<2>()?;
    let topic = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    let topic = std::str::from_utf8(topic).ok().filter(|topic| TopicName::new(topic).is_ok())?.to_owned();
    plaintext.drain(..2 + topic.len());
    Some(topic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn bound(properties: &PublishProperties<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let scope = Scope::new("a/#").unwrap();
        associated_data(&mut out, b"header", &scope, "a/b", Some(properties)).unwrap();
        let (fixed, bound) = out.split_at(b"veil1 msgheader\0\x03a/#\0\x03a/b".len());
        assert_eq!(fixed, b"veil1 msgheader\0\x03a/#\0\x03a/b");
        bound.to_vec()
    }

    #[test]
    fn bound_properties_are_encoded_as_in_mqtt_in_order_of_identifier() {
        let all = PublishProperties {
            payload_is_utf8: Some(true),
            content_type: Some("json"),
            response_topic: Some(TopicName::new("r/1").unwrap()),
            correlation_data: Some(&[0xFF]),
            ..PublishProperties::default()
        };

        assert_eq!(bound(&all), b"\0\x13\x01\x01\x03\0\x04json\x08\0\x03r/1\x09\0\x01\xFF");
        assert_eq!(bound(&PublishProperties::default()), b"\0\0");
    }

    #[test]
    fn bound_properties_that_exceed_their_length_field_are_refused() {
        let long = vec![0; 65_535];
        let properties = PublishProperties { correlation_data: Some(&long), ..PublishProperties::default() };

        let scope = Scope::new("a").unwrap();
        let refused = associated_data(&mut Vec::new(), b"", &scope, "a", Some(&properties));

        assert_eq!(refused, Err(TooLong));
    }

    #[test]
    fn padding_reaches_the_next_bucket_and_always_leaves_room_for_its_mark() {
        let hundred = Padding::Multiple(NonZeroU32::new(100).unwrap());
        let rows = [
            (Padding::None, 10, 10),
            (Padding::PowersOfTwo, 0, 64),
            (Padding::PowersOfTwo, 63, 64),
            (Padding::PowersOfTwo, 64, 128),
            (hundred, 99, 100),
            (hundred, 100, 200),
        ];
        for (padding, length, expected) in rows {
            assert_eq!(padding.padded_length(length), expected, "{padding:?} {length}");
        }
    }

    #[test]
    fn only_a_mark_followed_by_zeros_is_padding() {
        for (padded, expected) in [
            (&b"a\x80\0\0"[..], Some(&b"a"[..])),
            (b"\x80", Some(b"")),
            (b"a\x80\x80", Some(b"a\x80")),
            (b"", None),
            (b"\0\0", None),
            (b"a\x81\0", None),
        ] {
            let mut plaintext = padded.to_vec();
            assert_eq!(unpad(&mut plaintext).map(|()| plaintext.as_slice()), expected, "{padded:?}");
        }
    }
}
