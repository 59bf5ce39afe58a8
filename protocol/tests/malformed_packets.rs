//! Every malformed form is refused with the Reason Code the standard asks for, naming the field at fault.
//!
//! [A04] to [A11]: each row is one packet; its Remaining Length is put in by the test.
#![allow(clippy::unwrap_used, reason = "test code")]

use veilmq_protocol::{
    DecodeError, PACKET_BYTES_MAX, Packet,
    ProtocolVersion::{self, V5, V31, V311},
    PublishProperties, next_frame,
};

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;
const UNSUPPORTED_VERSION: u8 = 0x84;
const CLIENT_ID_NOT_VALID: u8 = 0x85;
const ALIAS_INVALID: u8 = 0x94;
const TOO_LARGE: u8 = 0x95;

/// First byte, body, Reason Code, field at fault.
type Row = (u8, &'static [u8], u8, &'static str);

fn decode(version: ProtocolVersion, header: u8, body: &[u8]) -> Result<(), DecodeError> {
    let mut bytes = vec![header];
    match body.len() {
        len @ 0..128 => bytes.push(len as u8),
        len => bytes.extend([(len % 128) as u8 | 0x80, (len / 128) as u8]),
    }
    bytes.extend_from_slice(body);
    let (frame, _) = next_frame(&bytes, PACKET_BYTES_MAX)?.unwrap();
    Packet::decode(frame, version).map(drop)
}

#[track_caller]
fn assert_refused(version: ProtocolVersion, rows: &[Row]) {
    for &(header, body, reason, field) in rows {
        let Err(error) = decode(version, header, body) else {
            panic!("{version:?}: {header:#04x} {:?} was accepted", body.escape_ascii().to_string());
        };
        let seen = (error.reason().value(), error.field());
        assert_eq!(seen, (reason, field), "{version:?}: {header:#04x} {}: {error}", body.escape_ascii());
    }
}

#[test]
fn fixed_headers_are_refused_at_the_first_byte_that_shows_the_fault() {
    let table: [(&[u8], u8, &str); 27] = [
        (b"\x00", MALFORMED, "packet type"),
        (b"\x0f", MALFORMED, "packet type"),
        (b"\x11", MALFORMED, "fixed header flags"), // [MQTT-2.1.3-1], [MQTT311-2.2.2-1], [MQTT311-2.2.2-2]
        (b"\x18", MALFORMED, "fixed header flags"),
        (b"\x21", MALFORMED, "fixed header flags"),
        (b"\x36", MALFORMED, "fixed header flags"), // [MQTT-3.3.1-4], [MQTT311-3.3.1-4]
        (b"\x3e", MALFORMED, "fixed header flags"),
        (b"\x38", MALFORMED, "fixed header flags"), // [MQTT-3.3.1-2], [MQTT311-3.3.1-2]
        (b"\x42", MALFORMED, "fixed header flags"),
        (b"\x52", MALFORMED, "fixed header flags"),
        (b"\x60", MALFORMED, "fixed header flags"), // [MQTT-3.6.1-1], [MQTT311-3.6.1-1]
        (b"\x63", MALFORMED, "fixed header flags"),
        (b"\x72", MALFORMED, "fixed header flags"),
        (b"\x80", MALFORMED, "fixed header flags"), // [MQTT-3.8.1-1], [MQTT311-3.8.1-1]
        (b"\x86", MALFORMED, "fixed header flags"),
        (b"\x92", MALFORMED, "fixed header flags"),
        (b"\xa0", MALFORMED, "fixed header flags"), // [MQTT-3.10.1-1], [MQTT311-3.10.1-1]
        (b"\xa1", MALFORMED, "fixed header flags"),
        (b"\xb1", MALFORMED, "fixed header flags"),
        (b"\xc1", MALFORMED, "fixed header flags"),
        (b"\xd1", MALFORMED, "fixed header flags"),
        (b"\xe1", MALFORMED, "fixed header flags"), // [MQTT-3.14.1-1], [MQTT311-3.14.1-1]
        (b"\xf1", MALFORMED, "fixed header flags"), // [MQTT-3.15.1-1]
        // [A04], [MQTT-1.5.5-1] five bytes, or not the shortest form
        (b"\x30\xff\xff\xff\xff", MALFORMED, "Remaining Length"),
        (b"\x30\x80\x00", MALFORMED, "Remaining Length"),
        (b"\x30\xff\xff\x00", MALFORMED, "Remaining Length"),
        // [A02] nothing of the body is there yet
        (b"\x10\xff\xff\xff\x7f", TOO_LARGE, "Remaining Length"),
    ];
    for (bytes, reason, field) in table {
        let error = next_frame(bytes, 65_536).unwrap_err();
        assert_eq!((error.reason().value(), error.field()), (reason, field), "{}", bytes.escape_ascii());
    }
}

#[test]
fn an_incomplete_fixed_header_asks_for_more() {
    for bytes in [&b""[..], b"\x30", b"\x30\x80", b"\x30\xff\xff\xff"] {
        assert_eq!(next_frame(bytes, PACKET_BYTES_MAX), Ok(None), "{}", bytes.escape_ascii());
    }
    assert!(next_frame(b"\x30\xff\xff\xff\x7f", PACKET_BYTES_MAX).unwrap().is_none());
}

#[test]
fn connect_is_refused_in_any_version() {
    let rows: &[Row] = &[
        (0x10, b"", MALFORMED, "protocol name"),
        (0x10, b"\x00", MALFORMED, "protocol name"),
        (0x10, b"\x00\x04MQT", MALFORMED, "protocol name"),
        (0x10, b"\x00\x04MQTT", MALFORMED, "protocol level"),
        (0x10, b"\x00\x04MQTX\x05\x02\0\0\0\0\0", UNSUPPORTED_VERSION, "protocol name"), // [MQTT-3.1.2-1], [MQTT311-3.1.2-1]
        (0x10, b"\x00\x00\x05\x02\0\0\0\0\0", UNSUPPORTED_VERSION, "protocol name"),
        (0x10, b"\x00\x04mqtt\x05\x02\0\0\0\0\0", UNSUPPORTED_VERSION, "protocol name"),
        (0x10, b"\x00\x04MQTT\x06\x02\0\0\0\0\0", UNSUPPORTED_VERSION, "protocol level"), // [MQTT-3.1.2-2], [MQTT311-3.1.2-2]
        (0x10, b"\x00\x04MQTT\x03\x02\0\0\0\0", UNSUPPORTED_VERSION, "protocol level"),
        (0x10, b"\x00\x04MQTT\x83\x02\0\0\0\0", UNSUPPORTED_VERSION, "protocol level"),
        (0x10, b"\x00\x04MQTT\x85\x02\0\0\0\0\0", UNSUPPORTED_VERSION, "protocol level"),
        (0x10, b"\x00\x06MQIsdp\x04\x02\0\0\0\0", UNSUPPORTED_VERSION, "protocol level"),
        (0x10, b"\x00\x04MQTT\x04", MALFORMED, "Connect Flags"),
        (0x10, b"\x00\x04MQTT\x04\x03\0\0\0\0", MALFORMED, "Connect Flags"), // [MQTT-3.1.2-3], [MQTT311-3.1.2-3]
        (0x10, b"\x00\x04MQTT\x04\x0a\0\0\0\0", MALFORMED, "Will QoS"), // [MQTT-3.1.2-11], [MQTT311-3.1.2-13]
        (0x10, b"\x00\x04MQTT\x04\x1e\0\0\0\0\0\x01w\0\0", MALFORMED, "Will QoS"), // [MQTT-3.1.2-12], [MQTT311-3.1.2-14]
        (0x10, b"\x00\x04MQTT\x04\x22\0\0\0\0", MALFORMED, "Will Retain"), // [MQTT-3.1.2-13], [MQTT311-3.1.2-15]
        (0x10, b"\x00\x04MQTT\x04\x42\0\0\0\0\0\x01p", MALFORMED, "Password Flag"), // [MQTT311-3.1.2-22]
        (0x10, b"\x00\x06MQIsdp\x03\x42\0\0\0\x01c\0\x01p", MALFORMED, "Password Flag"),
        (0x10, b"\x00\x04MQTT\x04\x02\0", MALFORMED, "Keep Alive"),
        (0x10, b"\x00\x04MQTT\x04\x02\0\0", MALFORMED, "Client Identifier"), // [MQTT-3.1.3-3], [MQTT311-3.1.3-3]
        (0x10, b"\x00\x04MQTT\x04\x02\0\0\0\x02c", MALFORMED, "Client Identifier"),
        (0x10, b"\x00\x04MQTT\x04\x02\0\0\0\x01\xff", MALFORMED, "Client Identifier"), // [MQTT-3.1.3-4], [MQTT311-3.1.3-4]
        (0x10, b"\x00\x04MQTT\x04\x02\0\0\0\x03\xed\xa0\x80", MALFORMED, "Client Identifier"), // [MQTT-1.5.4-1], [MQTT311-1.5.3-1]
        (0x10, b"\x00\x04MQTT\x04\x02\0\0\0\x02\xc0\x80", MALFORMED, "Client Identifier"),
        (0x10, b"\x00\x04MQTT\x04\x02\0\0\0\x02a\0", MALFORMED, "Client Identifier"), // [MQTT-1.5.4-2], [MQTT311-1.5.3-2]
        // What no flag announces: [MQTT-3.1.2-16], [MQTT-3.1.2-18], [MQTT311-3.1.2-11], [MQTT311-3.1.2-18], [MQTT311-3.1.2-20]
        (0x10, b"\x00\x04MQTT\x04\x02\0\0\0\x01cx", MALFORMED, "CONNECT"),
        (0x10, b"\x00\x06MQIsdp\x03\x02\0\0\0\0", CLIENT_ID_NOT_VALID, "Client Identifier"),
        (0x10, b"\x00\x04MQTT\x04\x06\0\0\0\0\0\0\0\0", MALFORMED, "Will Topic"),
        (0x10, b"\x00\x04MQTT\x04\x06\0\0\0\0\0\x01#\0\0", MALFORMED, "Will Topic"),
        (0x10, b"\x00\x04MQTT\x04\x06\0\0\0\0\0\x01\xff\0\0", MALFORMED, "Will Topic"), // [MQTT-3.1.3-11], [MQTT311-3.1.3-10]
        (0x10, b"\x00\x04MQTT\x04\x06\0\0\0\0\0\x02a\0\0\0", MALFORMED, "Will Topic"),
        (0x10, b"\x00\x04MQTT\x04\x06\0\0\0\0\0\x01w", MALFORMED, "Will Payload"), // [MQTT-3.1.2-9], [MQTT311-3.1.2-9]
        (0x10, b"\x00\x04MQTT\x04\x82\0\0\0\0", MALFORMED, "User Name"), // [MQTT-3.1.2-17], [MQTT311-3.1.2-19]
        (0x10, b"\x00\x04MQTT\x04\x82\0\0\0\0\0\x01\xfe", MALFORMED, "User Name"), // [MQTT-3.1.3-12], [MQTT311-3.1.3-11]
        (0x10, b"\x00\x04MQTT\x04\xc2\0\0\0\0\0\x01u", MALFORMED, "Password"), // [MQTT-3.1.2-19], [MQTT311-3.1.2-21]
        (0x10, b"\x00\x04MQTT\x04\xc2\0\0\0\0\0\x01u\0\x05p", MALFORMED, "Password"),
        (0x10, b"\x00\x04MQTT\x05\x02\0\0", MALFORMED, "Property Length"),
        (0x10, b"\x00\x04MQTT\x05\x02\0\0\x05\0\0", MALFORMED, "Property Length"),
        (0x10, b"\x00\x04MQTT\x05\x02\0\0\x80\x00\0\0", MALFORMED, "Property Length"),
        (0x10, b"\x00\x04MQTT\x05\x02\0\0\xff\xff\xff\xff\x7f", MALFORMED, "Property Length"),
    ];
    for version in [V5, V311, V31] {
        assert_refused(version, rows);
    }
}

/// A CONNECT of MQTT 5.0 with these properties, an empty Client Identifier and nothing else.
fn connect_with(properties: &[u8]) -> Vec<u8> {
    [b"\x00\x04MQTT\x05\x02\0\0", &[properties.len() as u8][..], properties, b"\0\0"].concat()
}

#[test]
fn properties_are_refused_in_connect() {
    let table: [(&[u8], u8, &str); 25] = [
        (b"\x00", MALFORMED, "unknown property"),
        (b"\x7f", MALFORMED, "unknown property"),
        // The identifier is itself a Variable Byte Integer, but never a long one.
        (b"\x91\x00\0\0\0\0", MALFORMED, "unknown property"),
        (b"\x11\0\0\0", MALFORMED, "Session Expiry Interval"),
        (b"\x21\0", MALFORMED, "Receive Maximum"),
        (b"\x15\0\x05m", MALFORMED, "Authentication Method"),
        (b"\x26\0\x01a", MALFORMED, "User Property"),
        (b"\x26\0\x01\0\0\x01b", MALFORMED, "User Property"),
        (b"\x26\0\x01a\0\x01\xff", MALFORMED, "User Property"), // [MQTT-1.5.7-1]
        (b"\x01\x01", MALFORMED, "Payload Format Indicator"),
        (b"\x12\0\x01c", MALFORMED, "Assigned Client Identifier"),
        (b"\x18\0\0\0\0", MALFORMED, "Will Delay Interval"),
        (b"\x1f\0\x01r", MALFORMED, "Reason String"),
        // [A07]
        (b"\x11\0\0\0\0\x11\0\0\0\0", PROTOCOL_ERROR, "Session Expiry Interval"),
        (b"\x21\0\x01\x21\0\x01", PROTOCOL_ERROR, "Receive Maximum"),
        (b"\x17\x01\x17\x01", PROTOCOL_ERROR, "Request Problem Information"),
        (b"\x22\0\x01\x22\0\x01", PROTOCOL_ERROR, "Topic Alias Maximum"),
        (b"\x15\0\x01m\x15\0\x01m", PROTOCOL_ERROR, "Authentication Method"),
        (b"\x21\0\0", PROTOCOL_ERROR, "Receive Maximum"),
        (b"\x27\0\0\0\0", PROTOCOL_ERROR, "Maximum Packet Size"),
        (b"\x19\x02", PROTOCOL_ERROR, "Request Response Information"),
        (b"\x17\x02", PROTOCOL_ERROR, "Request Problem Information"),
        (b"\x16\0\x01d", PROTOCOL_ERROR, "Authentication Method"),
        (b"\x0b\x01", MALFORMED, "Subscription Identifier"),
        (b"\x23\0\x01", MALFORMED, "Topic Alias"),
    ];
    for (properties, reason, field) in table {
        let error = decode(V5, 0x10, &connect_with(properties)).unwrap_err();
        assert_eq!((error.reason().value(), error.field()), (reason, field), "{}", properties.escape_ascii());
    }
    // The frame around the rows is valid.
    assert_eq!(decode(V5, 0x10, &connect_with(b"")), Ok(()));
}

/// [A08]
#[test]
fn properties_are_refused_in_a_will() {
    let table: [(&[u8], u8, &str); 9] = [
        (b"\x23\0\x01", MALFORMED, "Topic Alias"),
        (b"\x0b\x01", MALFORMED, "Subscription Identifier"),
        (b"\x11\0\0\0\0", MALFORMED, "Session Expiry Interval"),
        (b"\x18\0\0", MALFORMED, "Will Delay Interval"),
        (b"\x18\0\0\0\0\x18\0\0\0\0", PROTOCOL_ERROR, "Will Delay Interval"),
        (b"\x01\x02", PROTOCOL_ERROR, "Payload Format Indicator"),
        (b"\x08\0\x01#", PROTOCOL_ERROR, "Response Topic"),
        (b"\x03\0\x01\xff", MALFORMED, "Content Type"),
        (b"\x02\0\0\0\0\x02\0\0\0\0", PROTOCOL_ERROR, "Message Expiry Interval"),
    ];
    for (properties, reason, field) in table {
        let head = b"\x00\x04MQTT\x05\x06\0\0\0\0\0";
        let body = [head, &[properties.len() as u8][..], properties, b"\0\x01w\0\0"].concat();
        let error = decode(V5, 0x10, &body).unwrap_err();
        assert_eq!((error.reason().value(), error.field()), (reason, field), "{}", properties.escape_ascii());
    }
}

#[test]
fn publish_is_refused() {
    assert_refused(
        V5,
        &[
            // [A06]
            (0x30, b"", MALFORMED, "Topic Name"),
            (0x30, b"\0", MALFORMED, "Topic Name"),
            (0x30, b"\0\x05a", MALFORMED, "Topic Name"),
            (0x32, b"\0\x01a", MALFORMED, "Packet Identifier"),
            (0x32, b"\0\x01a\0", MALFORMED, "Packet Identifier"),
            (0x32, b"\0\x01a\0\0\0", PROTOCOL_ERROR, "Packet Identifier"), // [MQTT-2.2.1-3], [MQTT-2.2.1-4]
            (0x30, b"\0\x01a", MALFORMED, "Property Length"),              // [MQTT-2.2.2-1]
            (0x30, b"\0\x01a\x05", MALFORMED, "Property Length"),
            (0x30, b"\0\0\0", PROTOCOL_ERROR, "Topic Name"),
            (0x30, b"\0\x01+\0", MALFORMED, "Topic Name"), // [MQTT-3.3.2-2], [MQTT-4.7.0-1]
            (0x30, b"\0\x03a/#\0", MALFORMED, "Topic Name"),
            // [A11]
            (0x30, b"\0\x02a\0\0", MALFORMED, "Topic Name"),
            (0x30, b"\0\x02\xc3\x28\0", MALFORMED, "Topic Name"), // [MQTT-3.3.2-1]
            (0x30, b"\0\x03\xed\xbf\xbf\0", MALFORMED, "Topic Name"),
            (0x30, b"\0\x01a\x03\x23\0\0", ALIAS_INVALID, "Topic Alias"), // [MQTT-3.3.2-8]
            (0x30, b"\0\x01a\x02\x0b\0", PROTOCOL_ERROR, "Subscription Identifier"),
            (0x30, b"\0\x01a\x03\x0b\x80\0", MALFORMED, "Subscription Identifier"),
            (0x30, b"\0\x01a\x06\x0b\xff\xff\xff\xff\x7f", MALFORMED, "Subscription Identifier"),
            (0x30, b"\0\x01a\x02\x01\x02", PROTOCOL_ERROR, "Payload Format Indicator"),
            (0x30, b"\0\x01a\x04\x01\x01\x01\x01", PROTOCOL_ERROR, "Payload Format Indicator"),
            (0x30, b"\0\x01a\x06\x23\0\x01\x23\0\x01", PROTOCOL_ERROR, "Topic Alias"),
            (0x30, b"\0\x01a\x04\x08\0\x01+", PROTOCOL_ERROR, "Response Topic"), // [MQTT-3.3.2-14]
            (0x30, b"\0\x01a\x03\x08\0\0", PROTOCOL_ERROR, "Response Topic"),
            (0x30, b"\0\x01a\x04\x08\0\x01\0", MALFORMED, "Response Topic"),
            (0x30, b"\0\x01a\x04\x08\0\x01\xff", MALFORMED, "Response Topic"), // [MQTT-3.3.2-13]
            (0x30, b"\0\x01a\x04\x03\0\x01\xff", MALFORMED, "Content Type"),   // [MQTT-3.3.2-19]
            (0x30, b"\0\x01a\x08\x08\0\x01r\x08\0\x01r", PROTOCOL_ERROR, "Response Topic"),
            (0x30, b"\0\x01a\x06\x09\0\0\x09\0\0", PROTOCOL_ERROR, "Correlation Data"),
            (0x30, b"\0\x01a\x06\x03\0\0\x03\0\0", PROTOCOL_ERROR, "Content Type"),
            (0x30, b"\0\x01a\x04\x09\0\x05x", MALFORMED, "Correlation Data"),
            (0x30, b"\0\x01a\x05\x11\0\0\0\0", MALFORMED, "Session Expiry Interval"),
            (0x30, b"\0\x01a\x05\x18\0\0\0\0", MALFORMED, "Will Delay Interval"),
        ],
    );
    for version in [V311, V31] {
        assert_refused(
            version,
            &[
                (0x30, b"\0\0", MALFORMED, "Topic Name"),
                (0x30, b"\0\x01#", MALFORMED, "Topic Name"), // [MQTT311-3.3.2-2], [MQTT311-4.7.1-1]
                (0x30, b"\0\x01\xff", MALFORMED, "Topic Name"), // [MQTT311-3.3.2-1]
                (0x34, b"\0\x01a\0\0", PROTOCOL_ERROR, "Packet Identifier"), // [MQTT311-2.3.1-1]
                (0x34, b"\0\x01a\x01", MALFORMED, "Packet Identifier"),
            ],
        );
    }
}

#[test]
fn acknowledgements_are_refused() {
    for header in [0x40, 0x50, 0x62, 0x70] {
        let name = ["PUBACK", "PUBREC", "PUBREL", "PUBCOMP"][usize::from(header >> 4) - 4];
        assert_refused(
            V5,
            &[
                (header, b"", MALFORMED, "Packet Identifier"),
                (header, b"\0", MALFORMED, "Packet Identifier"),
                (header, b"\0\0", PROTOCOL_ERROR, "Packet Identifier"),
                // [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1]
                // not a Reason Code at all, and Reason Codes of other packets
                (header, b"\0\x01\x03", PROTOCOL_ERROR, "Reason Code"),
                (header, b"\0\x01\x8e", PROTOCOL_ERROR, "Reason Code"),
                (header, b"\0\x01\x00\x01", MALFORMED, "Property Length"),
                (header, b"\0\x01\x00\x00\x00", MALFORMED, name),
                (header, b"\0\x01\x00\x08\x1f\0\x01r\x1f\0\x01r", PROTOCOL_ERROR, "Reason String"),
                (header, b"\0\x01\x00\x05\x11\0\0\0\0", MALFORMED, "Session Expiry Interval"),
            ],
        );
        assert_refused(
            V311,
            &[(header, b"\0\x01\0", MALFORMED, name), (header, b"\x01", MALFORMED, "Packet Identifier")],
        );
    }
    assert_refused(
        V5,
        &[
            (0x40, b"\0\x01\x92", PROTOCOL_ERROR, "Reason Code"),
            (0x50, b"\0\x01\x92", PROTOCOL_ERROR, "Reason Code"),
            (0x62, b"\0\x01\x10", PROTOCOL_ERROR, "Reason Code"),
            (0x70, b"\0\x01\x97", PROTOCOL_ERROR, "Reason Code"),
        ],
    );
    // MQTT 3.1 alone lets a repeated PUBREL carry DUP.
    assert_refused(V5, &[(0x6a, b"\0\x01", MALFORMED, "fixed header flags")]);
    assert_refused(V311, &[(0x6a, b"\0\x01", MALFORMED, "fixed header flags")]);
    assert_eq!(decode(V31, 0x6a, b"\0\x01"), Ok(()));
}

#[test]
fn subscribe_is_refused() {
    assert_refused(
        V5,
        &[
            (0x82, b"", MALFORMED, "Packet Identifier"),
            (0x82, b"\0\0\0\0\x01a\0", PROTOCOL_ERROR, "Packet Identifier"),
            (0x82, b"\0\x01", MALFORMED, "Property Length"),
            (0x82, b"\0\x01\0", PROTOCOL_ERROR, "Topic Filter"), // [MQTT-3.8.3-2]
            (0x82, b"\0\x01\0\0\x01a", MALFORMED, "Subscription Options"),
            (0x82, b"\0\x01\0\0\x05a\0", MALFORMED, "Topic Filter"),
            (0x82, b"\0\x01\0\0", MALFORMED, "Topic Filter"),
            (0x82, b"\0\x01\0\0\0\0", MALFORMED, "Topic Filter"), // [MQTT-4.7.3-1]
            (0x82, b"\0\x01\0\0\x02a#\0", MALFORMED, "Topic Filter"), // [MQTT-4.7.1-1]
            (0x82, b"\0\x01\0\0\x02+b\0", MALFORMED, "Topic Filter"), // [MQTT-4.7.1-2]
            (0x82, b"\0\x01\0\0\x08$share/g\0", MALFORMED, "Topic Filter"), // [MQTT-4.8.2-2]
            (0x82, b"\0\x01\0\0\x0a$share/+/a\0", MALFORMED, "Topic Filter"),
            (0x82, b"\0\x01\0\0\x02a\0\0", MALFORMED, "Topic Filter"), // [MQTT-4.7.3-2]
            (0x82, b"\0\x01\0\0\x01\x80\0", MALFORMED, "Topic Filter"), // [MQTT-3.8.3-1]
            (0x82, b"\0\x01\0\0\x01a\x40", MALFORMED, "Subscription Options"), // [MQTT-3.8.3-5]
            (0x82, b"\0\x01\0\0\x01a\x80", MALFORMED, "Subscription Options"),
            (0x82, b"\0\x01\0\0\x01a\x03", PROTOCOL_ERROR, "Maximum QoS"),
            (0x82, b"\0\x01\0\0\x01a\x30", PROTOCOL_ERROR, "Retain Handling"),
            (0x82, b"\0\x01\0\0\x0a$share/g/a\x04", PROTOCOL_ERROR, "No Local"), // [MQTT-3.8.3-4]
            (0x82, b"\0\x01\0\0\x01a\0\0\x01b\x40", MALFORMED, "Subscription Options"),
            (0x82, b"\0\x01\x02\x0b\0\0\x01a\0", PROTOCOL_ERROR, "Subscription Identifier"),
            (0x82, b"\0\x01\x04\x0b\x01\x0b\x02\0\x01a\0", PROTOCOL_ERROR, "Subscription Identifier"),
            (0x82, b"\0\x01\x03\x23\0\x01\0\x01a\0", MALFORMED, "Topic Alias"),
            (0x8a, b"\0\x01\0\0\x01a\0", MALFORMED, "fixed header flags"),
        ],
    );
    for version in [V311, V31] {
        assert_refused(
            version,
            &[
                (0x82, b"\0\x01", PROTOCOL_ERROR, "Topic Filter"), // [MQTT311-3.8.3-3]
                (0x82, b"\0\x01\0\x01\x80\0", MALFORMED, "Topic Filter"), // [MQTT311-3.8.3-1]
                (0x82, b"\0\x01\0\x01a\x03", MALFORMED, "Requested QoS"), // [MQTT311-3.8.3-4]
                (0x82, b"\0\x01\0\x01a\x04", MALFORMED, "Subscription Options"),
                (0x82, b"\0\x01\0\x01a\x10", MALFORMED, "Subscription Options"),
            ],
        );
    }
    assert_eq!(decode(V31, 0x8a, b"\0\x01\0\x01a\0"), Ok(()));
}

#[test]
fn unsubscribe_is_refused() {
    assert_refused(
        V5,
        &[
            (0xa2, b"\0\0\0\0\x01a", PROTOCOL_ERROR, "Packet Identifier"),
            (0xa2, b"\0\x01\0", PROTOCOL_ERROR, "Topic Filter"), // [MQTT-3.10.3-2]
            (0xa2, b"\0\x01\0\0\0", MALFORMED, "Topic Filter"),
            (0xa2, b"\0\x01\0\0\x02#a", MALFORMED, "Topic Filter"),
            (0xa2, b"\0\x01\0\0\x01\x80", MALFORMED, "Topic Filter"), // [MQTT-3.10.3-1]
            (0xa2, b"\0\x01\0\0\x02a", MALFORMED, "Topic Filter"),
            (0xa2, b"\0\x01\x02\x0b\x01\0\x01a", MALFORMED, "Subscription Identifier"),
            (0xaa, b"\0\x01\0\0\x01a", MALFORMED, "fixed header flags"),
        ],
    );
    assert_refused(
        V311,
        &[
            (0xa2, b"\0\x01", PROTOCOL_ERROR, "Topic Filter"), // [MQTT311-3.10.3-2]
            (0xa2, b"\0\x01\0\x01\x80", MALFORMED, "Topic Filter"), // [MQTT311-3.10.3-1]
            (0xaa, b"\0\x01\0\x01a", MALFORMED, "fixed header flags"),
        ],
    );
    assert_eq!(decode(V31, 0xaa, b"\0\x01\0\x01a"), Ok(()));
}

#[test]
fn packets_from_servers_are_refused() {
    assert_refused(
        V5,
        &[
            (0x20, b"", MALFORMED, "Connect Acknowledge Flags"),
            (0x20, b"\x02\0\0", MALFORMED, "Connect Acknowledge Flags"), // [MQTT-3.2.2-1]
            (0x20, b"\0", MALFORMED, "Reason Code"),
            (0x20, b"\0\x01\0", PROTOCOL_ERROR, "Reason Code"),
            (0x20, b"\0\x8e\0", PROTOCOL_ERROR, "Reason Code"), // [MQTT-3.2.2-8]
            (0x20, b"\x01\x87\0", PROTOCOL_ERROR, "Session Present"), // [MQTT-3.2.2-6]
            (0x20, b"\0\0", MALFORMED, "Property Length"),
            (0x20, b"\0\0\0\0", MALFORMED, "CONNACK"),
            (0x20, b"\0\0\x02\x24\x02", PROTOCOL_ERROR, "Maximum QoS"),
            (0x20, b"\0\0\x02\x25\x02", PROTOCOL_ERROR, "Retain Available"),
            (0x20, b"\0\0\x02\x28\x02", PROTOCOL_ERROR, "Wildcard Subscription Available"),
            (0x20, b"\0\0\x02\x29\x02", PROTOCOL_ERROR, "Subscription Identifier Available"),
            (0x20, b"\0\0\x02\x2a\x02", PROTOCOL_ERROR, "Shared Subscription Available"),
            (0x20, b"\0\0\x03\x21\0\0", PROTOCOL_ERROR, "Receive Maximum"),
            (0x20, b"\0\0\x05\x27\0\0\0\0", PROTOCOL_ERROR, "Maximum Packet Size"),
            (0x20, b"\0\0\x06\x13\0\x01\x13\0\x01", PROTOCOL_ERROR, "Server Keep Alive"),
            (0x20, b"\0\0\x02\x17\x01", MALFORMED, "Request Problem Information"),
            (0x90, b"\0\x01\0", PROTOCOL_ERROR, "Reason Code"),
            (0x90, b"\0\x01\0\x03", PROTOCOL_ERROR, "Reason Code"), // [MQTT-3.9.3-2]
            (0x90, b"\0\x01\0\x11", PROTOCOL_ERROR, "Reason Code"),
            (0x90, b"\0\0\0\0", PROTOCOL_ERROR, "Packet Identifier"),
            (0xb0, b"\0\x01\0", PROTOCOL_ERROR, "Reason Code"),
            (0xb0, b"\0\x01\0\x01", PROTOCOL_ERROR, "Reason Code"),
            (0xb0, b"\0\x01\0\x97", PROTOCOL_ERROR, "Reason Code"), // [MQTT-3.11.3-2]
            (0xd0, b"\0", MALFORMED, "PINGRESP"),
        ],
    );
    assert_refused(
        V311,
        &[
            (0x20, b"\0\x06", PROTOCOL_ERROR, "return code"),
            (0x20, b"\0\0\0", MALFORMED, "CONNACK"),
            (0x20, b"\x01\x05", PROTOCOL_ERROR, "Session Present"), // [MQTT311-3.2.2-4]
            (0x20, b"\x03\x00", MALFORMED, "Connect Acknowledge Flags"),
            (0x90, b"\0\x01\x83", PROTOCOL_ERROR, "Reason Code"), // [MQTT311-3.9.3-2]
            (0x90, b"\0\x01", PROTOCOL_ERROR, "Reason Code"),
            (0xb0, b"\0\x01\0", MALFORMED, "UNSUBACK"),
        ],
    );
}

#[test]
fn pingreq_disconnect_and_auth_are_refused() {
    assert_refused(
        V5,
        &[
            (0xc0, b"\0", MALFORMED, "PINGREQ"),
            (0xe0, b"\x01", PROTOCOL_ERROR, "Reason Code"),
            (0xe0, b"\x85", PROTOCOL_ERROR, "Reason Code"), // [MQTT-3.14.2-1]
            (0xe0, b"\0\x01", MALFORMED, "Property Length"),
            (0xe0, b"\0\0\0", MALFORMED, "DISCONNECT"),
            (0xe0, b"\0\x0a\x11\0\0\0\0\x11\0\0\0\0", PROTOCOL_ERROR, "Session Expiry Interval"),
            (0xe0, b"\0\x03\x21\0\x01", MALFORMED, "Receive Maximum"),
            (0xf0, b"\x18", MALFORMED, "Property Length"),
            (0xf0, b"\x18\0", PROTOCOL_ERROR, "Authentication Method"),
            (0xf0, b"\x18\x04\x16\0\x01d", PROTOCOL_ERROR, "Authentication Method"),
            (0xf0, b"\x1a\x04\x15\0\x01m", PROTOCOL_ERROR, "Reason Code"), // [MQTT-3.15.2-1]
            (0xf0, b"\x18\x08\x15\0\x01m\x15\0\x01m", PROTOCOL_ERROR, "Authentication Method"),
            (0xf0, b"\x18\x03\x21\0\x01", MALFORMED, "Receive Maximum"),
            (0xf0, b"\x18\x04\x15\0\x01m\0", MALFORMED, "AUTH"),
        ],
    );
    for version in [V311, V31] {
        assert_refused(
            version,
            &[
                (0xc0, b"\0", MALFORMED, "PINGREQ"),
                (0xe0, b"\0", MALFORMED, "DISCONNECT"),
                (0xf0, b"", MALFORMED, "packet type"),
                (0xf0, b"\x18\x04\x15\0\x01m", MALFORMED, "packet type"),
            ],
        );
    }
}

#[test]
fn application_properties_are_refused_like_those_of_a_packet() {
    let table: [(&[u8], u8, &str); 5] = [
        (b"\x02\0\0\0\0", MALFORMED, "Message Expiry Interval"),
        (b"\x23\0\x01", MALFORMED, "Topic Alias"),
        (b"\x0b\x01", MALFORMED, "Subscription Identifier"),
        (b"\x03\0\x02t", MALFORMED, "Content Type"),
        (b"\x01\x01\x01\x01", PROTOCOL_ERROR, "Payload Format Indicator"),
    ];
    for (bytes, reason, field) in table {
        let error = PublishProperties::decode_application(bytes).unwrap_err();
        assert_eq!((error.reason().value(), error.field()), (reason, field), "{}", bytes.escape_ascii());
    }
}

#[test]
fn what_mqtt_3_1_leaves_open_is_accepted() {
    // A user name or password announced by its flag may be missing (MQTT 3.1 section 3.1).
    assert_eq!(decode(V31, 0x10, b"\x00\x06MQIsdp\x03\xc2\0\0\0\x01c"), Ok(()));
    assert_eq!(decode(V31, 0x10, b"\x00\x06MQIsdp\x03\xc2\0\0\0\x01c\0\x01u"), Ok(()));
    // The first byte of CONNACK is unused.
    assert_eq!(decode(V31, 0x20, b"\x07\0"), Ok(()));
}

#[test]
fn a_byte_order_mark_is_an_ordinary_character() {
    // [MQTT-1.5.4-3], [MQTT311-1.5.3-3]
    assert_eq!(decode(V311, 0x30, b"\0\x04\xef\xbb\xbfa"), Ok(()));
}
