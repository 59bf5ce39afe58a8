//! What an envelope is bound to besides its ciphertext: where it belongs, and what it was published with (VEIL-1 section 10).
//!
//! Nothing here opens or makes an envelope. With feature `channel` the source signature is verified, for which the sender's public key is
//! enough.

use alloc::vec::Vec;

use super::layout::{LayoutError, put_v16};
#[cfg(feature = "channel")]
use super::{
    channel::{SignatureError, hash, verify},
    envelope::{Envelope, EnvelopeFlags},
};
use crate::PublishProperties;

/// A field does not fit its two-byte length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a field does not fit its two-byte length")]
pub struct TooLong;

impl From<LayoutError> for TooLong {
    fn from(_: LayoutError) -> Self {
        Self
    }
}

/// Writes `"veil1 msg" || header || v16 scope || v16 topic || v16 bound`, replacing what was in `out`.
///
/// # Errors
/// [`TooLong`].
pub fn associated_data(
    out: &mut Vec<u8>,
    header: &[u8],
    scope: &str,
    topic: &str,
    bound: Option<&PublishProperties<'_>>,
) -> Result<(), TooLong> {
    out.clear();
    out.extend_from_slice(b"veil1 msg");
    out.extend_from_slice(header);
    put_v16(out, scope.as_bytes(), "scope")?;
    put_v16(out, topic.as_bytes(), "topic")?;
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
            put_v16(out, value, "bound")?;
        }
    }
    Ok(())
}

/// Verifies the source signature of an envelope, `Sign(sender, "source", H(AAD || body))`, that was published to `topic` with
/// these properties.
///
/// # Errors
/// [`SignatureError`] if it has none, or none of this key.
#[cfg(feature = "channel")]
pub fn verify_source(
    envelope: &Envelope<'_>,
    scope: &str,
    topic: &str,
    properties: &PublishProperties<'_>,
    ed25519: &[u8; 32],
) -> Result<(), SignatureError> {
    let signature = envelope.signature.ok_or(SignatureError)?;
    let flags = envelope.header.flags;
    // What hides its topic is bound to the empty one.
    let topic = if flags.contains(EnvelopeFlags::INNER_TOPIC) { "" } else { topic };
    let bound = flags.contains(EnvelopeFlags::BOUND).then_some(properties);
    let mut associated = Vec::with_capacity(256);
    associated_data(&mut associated, envelope.header_bytes, scope, topic, bound)
        .map_err(|_| SignatureError)?;
    verify("source", &hash(&[&associated, envelope.body]), ed25519, signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    use crate::TopicName;

    fn bound(properties: &PublishProperties<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        associated_data(&mut out, b"header", "a/#", "a/b", Some(properties)).unwrap();
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

        let refused = associated_data(&mut Vec::new(), b"", "a", "a", Some(&properties));

        assert_eq!(refused, Err(TooLong));
    }
}
