//! The exact bytes of one or more packets of every type in every version, checked by hand against the standard.
//!
//! Each row must decode to the packet and the packet must encode to the row.
#![allow(clippy::unwrap_used, reason = "test code")]

use core::num::{NonZeroU16, NonZeroU32};

use veilmq_protocol::{
    Acknowledgement, Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, Packet,
    PacketId,
    ProtocolVersion::{self, V5, V31, V311},
    Publish, PublishProperties, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFiltersBuf,
    SubscribeOptions, SubscriptionIdsBuf, TopicFilter, TopicName, UnsubAck, Unsubscribe,
    UnsubscribeFiltersBuf, UserProperties, UserPropertiesBuf, Will, next_frame,
};

#[track_caller]
fn assert_golden(version: ProtocolVersion, packet: Packet<'_>, bytes: &[u8]) {
    let (frame, used) = next_frame(bytes, bytes.len()).unwrap().expect("a whole packet");
    assert_eq!(used, bytes.len());
    assert_eq!(frame.total_len(), bytes.len());
    assert_eq!(frame.packet_type(), packet.packet_type());
    assert_eq!(Packet::decode(frame, version).unwrap(), packet);

    let mut encoded = Vec::new();
    packet.encode(version, &mut encoded).unwrap();
    assert_eq!(encoded, bytes);
    assert_eq!(packet.encoded_len(version), Ok(bytes.len()));
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn topic(name: &str) -> TopicName<'_> {
    TopicName::new(name).unwrap()
}

fn filter(filter: &str) -> TopicFilter<'_> {
    TopicFilter::new(filter).unwrap()
}

fn user_ab() -> UserPropertiesBuf {
    let mut user = UserPropertiesBuf::new();
    user.push("a", "b").unwrap();
    user
}

fn bare_connect(version: ProtocolVersion, client_id: &str) -> Connect<'_> {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_seconds: 60,
        client_id,
        username: None,
        password: None,
        will: None,
        properties: ConnectProperties::default(),
    }
}

#[test]
fn connect_has_the_bytes_of_the_standard() {
    let connect = bare_connect(V5, "c");
    assert_golden(V5, Packet::Connect(connect), b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c");

    let connect = bare_connect(V311, "c");
    assert_golden(V311, Packet::Connect(connect), b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c");

    let connect = bare_connect(V31, "c");
    assert_golden(V31, Packet::Connect(connect), b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c");

    let bridge = Connect { bridge: true, ..bare_connect(V311, "c") };
    assert_golden(V311, Packet::Connect(bridge), b"\x10\x0d\x00\x04MQTT\x84\x02\x00\x3c\x00\x01c");

    let bridge = Connect { bridge: true, ..bare_connect(V31, "c") };
    assert_golden(V31, Packet::Connect(bridge), b"\x10\x0f\x00\x06MQIsdp\x83\x02\x00\x3c\x00\x01c");
}

#[test]
fn connect_carries_will_user_name_and_password_in_order() {
    // [MQTT-3.1.3-1], [MQTT311-3.1.3-1]
    let will = Will {
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: topic("w"),
        payload: b"bye",
        delay_seconds: 0,
        properties: PublishProperties::default(),
    };
    let connect = Connect {
        clean_start: false,
        username: Some("u"),
        password: Some(b"p"),
        will: Some(will),
        ..bare_connect(V311, "id")
    };
    assert_golden(
        V311,
        Packet::Connect(connect),
        b"\x10\x1c\x00\x04MQTT\x04\xec\x00\x3c\x00\x02id\x00\x01w\x00\x03bye\x00\x01u\x00\x01p",
    );
}

#[test]
fn connect_carries_every_property_and_will_property() {
    let user = user_ab();
    let will = Will {
        qos: QoS::ExactlyOnce,
        retain: false,
        topic: topic("w"),
        payload: b"",
        delay_seconds: 5,
        properties: PublishProperties {
            payload_is_utf8: Some(true),
            message_expiry_seconds: Some(7),
            content_type: Some("t"),
            response_topic: Some(topic("r")),
            correlation_data: Some(b"\x00"),
            user: user.as_user_properties(),
            ..PublishProperties::default()
        },
    };
    let properties = ConnectProperties {
        session_expiry_seconds: Some(u32::MAX),
        receive_maximum: NonZeroU16::new(10),
        packet_bytes_max: NonZeroU32::new(0x1_0000),
        topic_alias_maximum: 3,
        request_response_information: true,
        request_problem_information: false,
        authentication_method: Some("m"),
        authentication_data: Some(b"\xff"),
        user: user.as_user_properties(),
    };
    let connect = Connect { will: Some(will), password: Some(b"p"), properties, ..bare_connect(V5, "") };
    assert_golden(
        V5,
        Packet::Connect(connect),
        b"\x10\x58\x00\x04MQTT\x05\x56\x00\x3c\
          \x23\x22\x00\x03\x11\xff\xff\xff\xff\x21\x00\x0a\x27\x00\x01\x00\x00\x19\x01\x17\x00\
          \x15\x00\x01m\x16\x00\x01\xff\x26\x00\x01a\x00\x01b\
          \x00\x00\
          \x1f\x18\x00\x00\x00\x05\x02\x00\x00\x00\x07\x01\x01\x03\x00\x01t\x08\x00\x01r\x09\x00\x01\x00\x26\x00\x01a\x00\x01b\
          \x00\x01w\x00\x00\
          \x00\x01p",
    );
}

#[test]
fn connack_has_the_bytes_of_the_standard() {
    let connack = ConnAck { session_present: true, ..ConnAck::default() };
    assert_golden(V5, Packet::ConnAck(connack), b"\x20\x03\x01\x00\x00");
    assert_golden(V311, Packet::ConnAck(connack), b"\x20\x02\x01\x00");
    assert_golden(V31, Packet::ConnAck(ConnAck::default()), b"\x20\x02\x00\x00");

    let refused = ConnAck { reason: ReasonCode::NotAuthorized, ..ConnAck::default() };
    assert_golden(V5, Packet::ConnAck(refused), b"\x20\x03\x00\x87\x00");
    assert_golden(V311, Packet::ConnAck(refused), b"\x20\x02\x00\x05");
}

#[test]
fn connack_carries_every_property() {
    let user = user_ab();
    let properties = ConnAckProperties {
        session_expiry_seconds: Some(1),
        receive_maximum: NonZeroU16::new(2),
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        packet_bytes_max: NonZeroU32::new(3),
        assigned_client_id: Some("i"),
        topic_alias_maximum: Some(4),
        reason_string: Some("r"),
        wildcard_subscription_available: Some(true),
        subscription_ids_available: Some(false),
        shared_subscription_available: Some(true),
        server_keep_alive_seconds: Some(5),
        response_information: Some("/"),
        server_reference: Some("s"),
        authentication_method: Some("m"),
        authentication_data: Some(b"d"),
        user: user.as_user_properties(),
    };
    let connack = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
    assert_golden(
        V5,
        Packet::ConnAck(connack),
        b"\x20\x3f\x00\x00\x3c\x13\x00\x05\x22\x00\x04\x11\x00\x00\x00\x01\x12\x00\x01i\x25\x00\
          \x27\x00\x00\x00\x03\x21\x00\x02\x24\x01\x1f\x00\x01r\x28\x01\x29\x00\x2a\x01\x1a\x00\x01/\
          \x1c\x00\x01s\x15\x00\x01m\x16\x00\x01d\x26\x00\x01a\x00\x01b",
    );
}

fn bare_publish<'a>(qos: QoS, topic_name: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic(topic_name)),
        packet_id: (qos != QoS::AtMostOnce).then(|| id(10)),
        properties: PublishProperties::default(),
        payload,
    }
}

#[test]
fn publish_has_the_bytes_of_the_standard() {
    // [MQTT-2.2.2-1], [MQTT-2.2.1-2], [MQTT311-2.3.1-5]
    let publish = bare_publish(QoS::AtMostOnce, "a/b", b"hi");
    assert_golden(V5, Packet::Publish(publish), b"\x30\x08\x00\x03a/b\x00hi");
    assert_golden(V311, Packet::Publish(publish), b"\x30\x07\x00\x03a/bhi");
    assert_golden(V31, Packet::Publish(publish), b"\x30\x07\x00\x03a/bhi");

    let publish = Publish { dup: true, retain: true, ..bare_publish(QoS::AtLeastOnce, "a/b", b"") };
    assert_golden(V5, Packet::Publish(publish), b"\x3b\x08\x00\x03a/b\x00\x0a\x00");
    assert_golden(V311, Packet::Publish(publish), b"\x3b\x07\x00\x03a/b\x00\x0a");

    let publish = bare_publish(QoS::ExactlyOnce, "a/b", b"\x00");
    assert_golden(V311, Packet::Publish(publish), b"\x34\x08\x00\x03a/b\x00\x0a\x00");
}

#[test]
fn publish_carries_every_property() {
    let user = user_ab();
    let mut ids = SubscriptionIdsBuf::new();
    ids.push(NonZeroU32::new(1).unwrap()).unwrap();
    ids.push(NonZeroU32::new(268_435_455).unwrap()).unwrap();
    let properties = PublishProperties {
        payload_is_utf8: Some(true),
        message_expiry_seconds: Some(60),
        topic_alias: NonZeroU16::new(9),
        response_topic: Some(topic("r/t")),
        correlation_data: Some(b"\x01\x02"),
        content_type: Some("x"),
        subscription_ids: ids.as_subscription_ids(),
        user: user.as_user_properties(),
        sent: Default::default(),
    };
    let publish = Publish { topic: None, properties, ..bare_publish(QoS::AtMostOnce, "unused", b"!") };
    assert_golden(
        V5,
        Packet::Publish(publish),
        b"\x30\x2b\x00\x00\x27\x23\x00\x09\x0b\x01\x0b\xff\xff\xff\x7f\x02\x00\x00\x00\x3c\x01\x01\
          \x03\x00\x01x\x08\x00\x03r/t\x09\x00\x02\x01\x02\x26\x00\x01a\x00\x01b!",
    );
}

#[test]
fn acknowledgements_leave_out_what_is_default() {
    // [MQTT-2.2.1-5]
    let success = Acknowledgement::new(id(0x0102), ReasonCode::Success);
    for version in [V5, V311, V31] {
        assert_golden(version, Packet::PubAck(success), b"\x40\x02\x01\x02");
        assert_golden(version, Packet::PubRec(success), b"\x50\x02\x01\x02");
        assert_golden(version, Packet::PubRel(success), b"\x62\x02\x01\x02");
        assert_golden(version, Packet::PubComp(success), b"\x70\x02\x01\x02");
    }

    let failed = Acknowledgement::new(id(1), ReasonCode::QuotaExceeded);
    assert_golden(V5, Packet::PubAck(failed), b"\x40\x03\x00\x01\x97");
    assert_golden(V5, Packet::PubRec(failed), b"\x50\x03\x00\x01\x97");
    let unknown = Acknowledgement::new(id(1), ReasonCode::PacketIdentifierNotFound);
    assert_golden(V5, Packet::PubRel(unknown), b"\x62\x03\x00\x01\x92");
    assert_golden(V5, Packet::PubComp(unknown), b"\x70\x03\x00\x01\x92");

    let user = user_ab();
    let full = Acknowledgement {
        reason_string: Some("no"),
        user: user.as_user_properties(),
        ..Acknowledgement::new(id(1), ReasonCode::Success)
    };
    assert_golden(V5, Packet::PubAck(full), b"\x40\x10\x00\x01\x00\x0c\x1f\x00\x02no\x26\x00\x01a\x00\x01b");
}

#[test]
fn subscribe_has_the_bytes_of_the_standard() {
    let mut filters = SubscribeFiltersBuf::new();
    filters.push(filter("a/#"), SubscribeOptions::default()).unwrap();
    let options = SubscribeOptions { qos: QoS::ExactlyOnce, ..SubscribeOptions::default() };
    filters.push(filter("+"), options).unwrap();
    let subscribe = Subscribe {
        packet_id: id(10),
        subscription_id: None,
        user: UserProperties::default(),
        filters: filters.as_filters(),
    };
    assert_golden(V5, Packet::Subscribe(subscribe), b"\x82\x0d\x00\x0a\x00\x00\x03a/#\x00\x00\x01+\x02");
    assert_golden(V311, Packet::Subscribe(subscribe), b"\x82\x0c\x00\x0a\x00\x03a/#\x00\x00\x01+\x02");
    assert_golden(V31, Packet::Subscribe(subscribe), b"\x82\x0c\x00\x0a\x00\x03a/#\x00\x00\x01+\x02");
}

#[test]
fn subscribe_carries_options_and_properties() {
    let user = user_ab();
    let options = SubscribeOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let mut filters = SubscribeFiltersBuf::new();
    filters.push(filter("x"), options).unwrap();
    let shared = SubscribeOptions { no_local: false, retain_handling: RetainHandling::SendIfNew, ..options };
    filters.push(filter("$share/g/x"), shared).unwrap();
    let subscribe = Subscribe {
        packet_id: id(10),
        subscription_id: NonZeroU32::new(300),
        user: user.as_user_properties(),
        filters: filters.as_filters(),
    };
    assert_golden(
        V5,
        Packet::Subscribe(subscribe),
        b"\x82\x1e\x00\x0a\x0a\x0b\xac\x02\x26\x00\x01a\x00\x01b\x00\x01x\x2d\x00\x0a$share/g/x\x19",
    );
}

#[test]
fn suback_has_one_code_per_filter() {
    // [MQTT-3.8.4-6], [MQTT-3.9.3-1], [MQTT311-3.9.3-1]
    let suback = SubAck {
        packet_id: id(10),
        reason_string: None,
        user: UserProperties::default(),
        reasons: b"\x00\x01\x02\x80",
    };
    assert_golden(V5, Packet::SubAck(suback), b"\x90\x07\x00\x0a\x00\x00\x01\x02\x80");
    assert_golden(V311, Packet::SubAck(suback), b"\x90\x06\x00\x0a\x00\x01\x02\x80");
    let codes: Vec<_> = suback.reason_codes().map(ReasonCode::value).collect();
    assert_eq!(codes, [0, 1, 2, 0x80]);

    let refused = SubAck { reason_string: Some("no"), reasons: b"\x9e", ..suback };
    assert_golden(V5, Packet::SubAck(refused), b"\x90\x09\x00\x0a\x05\x1f\x00\x02no\x9e");

    let mut v3 = Vec::new();
    Packet::SubAck(refused).encode(V311, &mut v3).unwrap();
    assert_eq!(v3, b"\x90\x03\x00\x0a\x80");
}

#[test]
fn unsubscribe_and_unsuback_have_the_bytes_of_the_standard() {
    let mut filters = UnsubscribeFiltersBuf::new();
    filters.push(filter("a"));
    filters.push(filter("b/+"));
    let unsubscribe =
        Unsubscribe { packet_id: id(10), user: UserProperties::default(), filters: filters.as_filters() };
    assert_golden(V5, Packet::Unsubscribe(unsubscribe), b"\xa2\x0b\x00\x0a\x00\x00\x01a\x00\x03b/+");
    assert_golden(V311, Packet::Unsubscribe(unsubscribe), b"\xa2\x0a\x00\x0a\x00\x01a\x00\x03b/+");

    let unsuback = UnsubAck {
        packet_id: id(10),
        reason_string: None,
        user: UserProperties::default(),
        reasons: b"\x00\x11",
    };
    assert_golden(V5, Packet::UnsubAck(unsuback), b"\xb0\x05\x00\x0a\x00\x00\x11");
    assert_golden(V311, Packet::UnsubAck(UnsubAck { reasons: b"", ..unsuback }), b"\xb0\x02\x00\x0a");
}

#[test]
fn pings_are_two_bytes() {
    for version in [V5, V311, V31] {
        assert_golden(version, Packet::PingReq, b"\xc0\x00");
        assert_golden(version, Packet::PingResp, b"\xd0\x00");
    }
}

#[test]
fn disconnect_leaves_out_what_is_default() {
    for version in [V5, V311, V31] {
        assert_golden(version, Packet::Disconnect(Disconnect::default()), b"\xe0\x00");
    }
    let with_will = Disconnect::new(ReasonCode::DisconnectWithWill);
    assert_golden(V5, Packet::Disconnect(with_will), b"\xe0\x01\x04");

    let user = user_ab();
    let moved = Disconnect {
        reason: ReasonCode::ServerMoved,
        session_expiry_seconds: Some(0),
        reason_string: Some("r"),
        user: user.as_user_properties(),
        server_reference: Some("s"),
    };
    assert_golden(
        V5,
        Packet::Disconnect(moved),
        b"\xe0\x16\x9d\x14\x11\x00\x00\x00\x00\x1f\x00\x01r\x1c\x00\x01s\x26\x00\x01a\x00\x01b",
    );
}

#[test]
fn auth_has_the_bytes_of_the_standard() {
    assert_golden(V5, Packet::Auth(Auth::default()), b"\xf0\x00");
    let user = user_ab();
    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        method: Some("m"),
        data: Some(b"\x00\x01"),
        reason_string: Some("r"),
        user: user.as_user_properties(),
    };
    assert_golden(
        V5,
        Packet::Auth(auth),
        b"\xf0\x16\x18\x14\x15\x00\x01m\x16\x00\x02\x00\x01\x1f\x00\x01r\x26\x00\x01a\x00\x01b",
    );
}
