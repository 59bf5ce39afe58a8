//! What surrounds the cipher in an envelope: which properties are bound, and padding (VEIL-1 section 10).

use veilmq_protocol::{PublishProperties, TopicName};

use super::config::{BoundProperties, Padding};

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
