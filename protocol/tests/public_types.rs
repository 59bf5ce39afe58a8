//! What the small types promise: codes, names, limits, and that `Debug` tells no secrets.
#![allow(clippy::unwrap_used, reason = "test code")]

use core::num::NonZeroU32;

use veilmq_protocol::{
    Acknowledgement, Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, DecodeError, Disconnect,
    EncodeError, Packet, PacketId, PacketType,
    ProtocolVersion::{self, V5, V31, V311},
    Publish, PublishProperties, QoS, ReasonCode, Subscribe, SubscribeFiltersBuf, SubscribeOptions,
    SubscriptionIdsBuf, TopicFilter, TopicName, Unsubscribe, UnsubscribeFiltersBuf, UserProperties,
    UserPropertiesBuf, Will, next_frame,
};

fn encode(packet: Packet<'_>, version: ProtocolVersion) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    let result = packet.encode(version, &mut bytes);
    assert_eq!(result.is_ok(), !bytes.is_empty(), "a packet is written whole or not at all");
    assert_eq!(packet.encoded_len(version), result.map(|()| bytes.len()));
    result.map(|()| bytes)
}

fn publish(topic: Option<&str>) -> Publish<'_> {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: topic.map(|topic| TopicName::new(topic).unwrap()),
        packet_id: None,
        properties: PublishProperties::default(),
        payload: b"",
    }
}

fn connect(version: ProtocolVersion) -> Connect<'static> {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_seconds: 0,
        client_id: "c",
        username: None,
        password: None,
        will: None,
        properties: ConnectProperties::default(),
    }
}

#[test]
fn reason_codes_are_those_of_table_2_6() {
    let values: Vec<u8> = ReasonCode::ALL.iter().map(|code| code.value()).collect();
    let table =
        [&[0x00, 0x01, 0x02, 0x04, 0x10, 0x11, 0x18, 0x19][..], &(0x80..=0xA2).collect::<Vec<u8>>()].concat();
    assert_eq!(values, table);
    for value in 0..=u8::MAX {
        let code = ReasonCode::try_from(value);
        assert_eq!(code.is_ok(), table.contains(&value));
        assert!(
            code.is_err()
                || code.is_ok_and(|code| code.value() == value && code.is_error() == (value >= 0x80))
        );
    }
    assert_eq!(ReasonCode::SessionTakenOver.to_string(), "Session taken over");
    assert_eq!(ReasonCode::default(), ReasonCode::Success);
}

#[test]
fn connack_return_codes_of_mqtt_3_and_reason_codes_translate() {
    for code in 0..=5 {
        assert_eq!(ReasonCode::from_connack_v3(code).map(ReasonCode::connack_v3), Some(code));
    }
    assert_eq!(ReasonCode::from_connack_v3(6), None);
    assert_eq!(ReasonCode::ServerBusy.connack_v3(), 3);
    assert_eq!(ReasonCode::Banned.connack_v3(), 5);
    assert!(ReasonCode::ALL.iter().all(|code| (code.connack_v3() == 0) != code.is_error()));
}

#[test]
fn qos_and_packet_identifiers_have_their_ranges() {
    assert_eq!(
        [0, 1, 2].map(QoS::try_from),
        [Ok(QoS::AtMostOnce), Ok(QoS::AtLeastOnce), Ok(QoS::ExactlyOnce)]
    );
    assert_eq!(QoS::try_from(3), Err(DecodeError::Reserved("QoS")));
    assert_eq!(PacketId::new(0), None);
    assert_eq!(PacketId::new(65_535).map(PacketId::value), Some(65_535));
    assert_eq!(PacketType::PubRec.to_string(), "PUBREC");
}

#[test]
fn the_version_of_a_connect_is_known_before_the_rest_is() {
    let (frame, _) = next_frame(b"\x10\x08\x00\x04MQTT\x04\x01", 64).unwrap().unwrap();

    assert_eq!(Connect::version_of(&frame), Ok((V311, false)));
    assert_eq!(Packet::decode(frame, V5), Err(DecodeError::Reserved("Connect Flags")));
}

#[test]
fn packets_that_cannot_be_expressed_are_not_written() {
    let long = "x".repeat(65_536);
    let empty_subscribe = SubscribeFiltersBuf::new();
    let empty_unsubscribe = UnsubscribeFiltersBuf::new();
    let mut filters = SubscribeFiltersBuf::new();
    filters.push(TopicFilter::new("a").unwrap(), SubscribeOptions::default()).unwrap();
    let id = PacketId::new(1).unwrap();
    let user = UserProperties::default();
    let subscribe = Subscribe { packet_id: id, subscription_id: None, user, filters: filters.as_filters() };

    let table = [
        (
            Packet::Connect(Connect { client_id: &long, ..connect(V311) }),
            V311,
            EncodeError::TooLong("Client Identifier"),
        ),
        (
            Packet::Connect(Connect { client_id: "a\0", ..connect(V311) }),
            V311,
            EncodeError::HoldsNul("Client Identifier"),
        ),
        (
            Packet::Connect(Connect { password: Some(b"p"), ..connect(V311) }),
            V311,
            EncodeError::Missing("User Name"),
        ),
        (
            Packet::Connect(Connect { username: Some("u"), password: Some(long.as_bytes()), ..connect(V5) }),
            V5,
            EncodeError::TooLong("Password"),
        ),
        (Packet::Publish(publish(None)), V5, EncodeError::Missing("Topic Name")),
        (
            Packet::Publish(Publish { qos: QoS::AtLeastOnce, ..publish(Some("a")) }),
            V311,
            EncodeError::Missing("Packet Identifier"),
        ),
        (
            Packet::PubAck(Acknowledgement {
                reason_string: Some(&long),
                ..Acknowledgement::new(id, ReasonCode::Success)
            }),
            V5,
            EncodeError::TooLong("Reason String"),
        ),
        (
            Packet::Subscribe(Subscribe { filters: empty_subscribe.as_filters(), ..subscribe }),
            V5,
            EncodeError::Missing("Topic Filter"),
        ),
        (
            Packet::Subscribe(Subscribe { subscription_id: NonZeroU32::new(268_435_456), ..subscribe }),
            V5,
            EncodeError::OutOfRange("Subscription Identifier"),
        ),
        (
            Packet::Unsubscribe(Unsubscribe { packet_id: id, user, filters: empty_unsubscribe.as_filters() }),
            V311,
            EncodeError::Missing("Topic Filter"),
        ),
        (Packet::Auth(Auth::default()), V311, EncodeError::NotInVersion("AUTH")),
        (
            Packet::Auth(Auth { reason: ReasonCode::ContinueAuthentication, ..Auth::default() }),
            V5,
            EncodeError::Missing("Authentication Method"),
        ),
        (
            Packet::Disconnect(Disconnect { server_reference: Some("a\0"), ..Disconnect::default() }),
            V5,
            EncodeError::HoldsNul("Server Reference"),
        ),
    ];
    for (packet, version, error) in table {
        assert_eq!(encode(packet, version), Err(error));
    }
}

#[test]
fn a_packet_above_the_largest_remaining_length_is_not_written() {
    let payload = vec![0; 268_435_455];
    let too_large = Packet::Publish(Publish { payload: &payload, ..publish(Some("a")) });
    let largest = Packet::Publish(Publish { payload: &payload[3..], ..publish(Some("a")) });

    assert_eq!(encode(too_large, V311), Err(EncodeError::PacketTooLarge("packet")));
    assert_eq!(largest.encoded_len(V311), Ok(268_435_460));
}

#[test]
fn builders_refuse_what_a_packet_cannot_hold_and_keep_what_they_had() {
    let long = "x".repeat(65_536);
    let mut user = UserPropertiesBuf::new();
    user.push("a", "b").unwrap();
    assert_eq!(user.push("a", &long), Err(EncodeError::TooLong("User Property")));
    assert_eq!(user.push("a\0", "b"), Err(EncodeError::HoldsNul("User Property")));
    assert_eq!(user.as_user_properties().collect::<Vec<_>>(), [("a", "b")]);
    assert_eq!(user.as_user_properties().encoded_len(), 7);

    let mut ids = SubscriptionIdsBuf::new();
    let too_large = NonZeroU32::new(268_435_456).unwrap();
    assert_eq!(ids.push(too_large), Err(EncodeError::OutOfRange("Subscription Identifier")));
    assert!(ids.as_subscription_ids().is_empty());

    let mut filters = SubscribeFiltersBuf::new();
    let no_local = SubscribeOptions { no_local: true, ..SubscribeOptions::default() };
    // [MQTT-3.8.3-4]
    let error = filters.push(TopicFilter::new("$share/g/a").unwrap(), no_local).unwrap_err();
    assert_eq!(error, EncodeError::NotInVersion("No Local on a Shared Subscription"));
    assert!(filters.as_filters().is_empty());
}

#[test]
fn what_mqtt_3_lacks_is_left_out() {
    let refused = ConnAck { session_present: true, reason: ReasonCode::NotAuthorized, ..ConnAck::default() };
    // [MQTT-3.2.2-6]
    assert_eq!(encode(Packet::ConnAck(refused), V311).unwrap(), b"\x20\x02\x00\x05");
    let present = ConnAck { session_present: true, ..ConnAck::default() };
    assert_eq!(encode(Packet::ConnAck(present), V31).unwrap(), b"\x20\x02\x00\x00");
    let properties = PublishProperties { content_type: Some("t"), ..PublishProperties::default() };
    let with_properties = Publish { dup: true, properties, ..publish(Some("a")) };
    // [MQTT-3.3.1-2] No DUP with QoS 0.
    assert_eq!(encode(Packet::Publish(with_properties), V311).unwrap(), b"\x30\x03\x00\x01a");
    let disconnect = Disconnect { reason: ReasonCode::ServerShuttingDown, ..Disconnect::default() };
    assert_eq!(encode(Packet::Disconnect(disconnect), V311).unwrap(), b"\xe0\x00");
    // Maximum QoS 2 is expressed by absence (MQTT 5.0 section 3.2.2.3.4).
    let properties =
        ConnAckProperties { maximum_qos: Some(QoS::ExactlyOnce), ..ConnAckProperties::default() };
    assert_eq!(
        encode(Packet::ConnAck(ConnAck { properties, ..ConnAck::default() }), V5).unwrap(),
        b"\x20\x03\0\0\0"
    );
}

#[test]
fn debug_tells_neither_payloads_nor_credentials() {
    let will = Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: TopicName::new("w").unwrap(),
        payload: b"hidden",
        delay_seconds: 0,
        properties: PublishProperties::default(),
    };
    let properties = ConnectProperties {
        authentication_method: Some("m"),
        authentication_data: Some(b"hidden"),
        ..ConnectProperties::default()
    };
    let connect = Connect { password: Some(b"hidden"), will: Some(will), properties, ..connect(V5) };
    let connack_properties =
        ConnAckProperties { authentication_data: Some(b"hidden"), ..ConnAckProperties::default() };
    let hidden = format!("{:?}", b"hidden");
    for packet in [
        Packet::Connect(connect),
        Packet::ConnAck(ConnAck { properties: connack_properties, ..ConnAck::default() }),
        Packet::Publish(Publish { payload: b"hidden", ..publish(Some("a")) }),
        Packet::Auth(Auth { data: Some(b"hidden"), ..Auth::default() }),
    ] {
        let text = format!("{packet:?}");
        assert!(!text.contains("hidden") && !text.contains(&hidden), "{text}");
        assert!(text.contains("len: "), "{text}");
    }
}
