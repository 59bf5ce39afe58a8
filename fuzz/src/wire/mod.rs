//! The wire formats: whatever the bytes, decoding does not panic, and what decodes encodes.

mod veil;

pub use veil::{veil_certificate, veil_distribution, veil_envelope, veil_hello, veil_record};

use veilmq_protocol::{
    Frame, Packet, ProtocolVersion, PublishProperties, TopicFilter, TopicName, frame_len, next_frame,
};

/// The largest packet the targets accept.
const PACKET_BYTES_MAX: usize = 4096;

/// A stream is framed the same whether it arrives at once or byte by byte.
pub fn framing(mut stream: &[u8]) {
    loop {
        let whole = next_frame(stream, PACKET_BYTES_MAX);
        for len in 0..stream.len() {
            match next_frame(&stream[..len], PACKET_BYTES_MAX) {
                Ok(None) => {}
                early => assert_eq!(early, whole, "after {len} bytes"),
            }
        }
        let Ok(Some((frame, used))) = whole else { return };
        assert_eq!(frame.total_len(), used);
        assert_eq!(frame_len(stream), Ok(Some(used)));
        assert!(used <= PACKET_BYTES_MAX && used <= stream.len());
        stream = &stream[used..];
    }
}

/// Whatever decodes can be encoded, and decodes to itself again.
pub fn packet(mut stream: &[u8]) {
    if let Ok(properties) = PublishProperties::decode_application(stream) {
        let mut encoded = Vec::new();
        properties.encode_application(&mut encoded).expect("decoded properties can be encoded");
        assert_eq!(PublishProperties::decode_application(&encoded), Ok(properties));
    }
    while let Ok(Some((frame, used))) = next_frame(stream, PACKET_BYTES_MAX) {
        for version in [ProtocolVersion::V5, ProtocolVersion::V311, ProtocolVersion::V31] {
            round_trip(frame, version);
        }
        stream = &stream[used..];
    }
}

fn round_trip(frame: Frame<'_>, version: ProtocolVersion) {
    let decoded = match Packet::decode(frame, version) {
        Ok(decoded) => decoded,
        Err(error) => return assert!(error.reason().is_error() && !error.field().is_empty()),
    };
    assert_eq!(decoded.packet_type(), frame.packet_type());
    assert!(!format!("{decoded:?}").is_empty());
    let mut encoded = Vec::new();
    decoded.encode(version, &mut encoded).expect("a decoded packet can be encoded");
    assert_eq!(decoded.encoded_len(version), Ok(encoded.len()));
    assert!(encoded.len() <= frame.total_len(), "what is encoded again is not longer");
    let (again, used) =
        next_frame(&encoded, PACKET_BYTES_MAX).expect("a valid frame").expect("a whole frame");
    assert_eq!(used, encoded.len());
    assert_eq!(Packet::decode(again, version), Ok(decoded));
}

/// Matching agrees with a second implementation; a name matches itself as a filter.
pub fn topic(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let (filter, name) = text.split_once('\n').unwrap_or((text, text));
    let (filter, name) = (TopicFilter::new(filter), TopicName::new(name));
    if let Ok(name) = name
        && let Ok(itself) = TopicFilter::new(name.as_str())
        && itself.shared().is_none()
    {
        assert!(itself.matches(name) && !itself.has_wildcards());
    }
    let (Ok(filter), Ok(name)) = (filter, name) else { return };
    let inner = filter.shared().map_or(filter, |shared| shared.filter);
    let filter_levels: Vec<&str> = inner.as_str().split('/').collect();
    let name_levels: Vec<&str> = name.as_str().split('/').collect();
    let hidden = name.as_str().starts_with('$') && ["+", "#"].contains(&filter_levels[0]);
    assert_eq!(filter.matches(name), !hidden && levels_match(&filter_levels, &name_levels));
}

fn levels_match(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        (["#"], _) | ([], []) => true,
        ([first, filter @ ..], [level, name @ ..]) => {
            (*first == "+" || first == level) && levels_match(filter, name)
        }
        ([_, ..], []) | ([], [_, ..]) => false,
    }
}
