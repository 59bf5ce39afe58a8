//! Well-formed packets out of a script's numbers, so that a fuzzer gets past the decoder.

use std::num::{NonZeroU16, NonZeroU32};

use veilmq_protocol::{
    Acknowledgement, Auth, Connect, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion,
    Publish, PublishProperties, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeFiltersBuf,
    SubscribeOptions, TopicFilter, TopicName, Unsubscribe, UnsubscribeFiltersBuf, UserProperties,
    UserPropertiesBuf, Will,
};

use super::script::{Kind, Script};

const TOPICS: [&str; 10] = ["a", "a/b", "a/c", "b", "a/b/c", "$x/a", "$SYS/a", "/", "a/b/c/d/e/f", "c"];
const FILTERS: [&str; 16] = [
    "a",
    "a/b",
    "a/+",
    "#",
    "+/b",
    "a/#",
    "$share/g/a/#",
    "$share/g/a",
    "$share/h/a/+",
    "$x/#",
    "$SYS/#",
    "/",
    "+",
    "b",
    "a/b/c/d/e/f",
    "$share/g/b",
];
const CLIENT_IDS: [&str; 6] = ["", "a", "b", "c", "d", "longer than the limit"];
const VERSIONS: [(u8, ProtocolVersion); 3] =
    [(3, ProtocolVersion::V31), (4, ProtocolVersion::V311), (5, ProtocolVersion::V5)];
const SECONDS: [u32; 6] = [0, 1, 2, 60, 3_600, u32::MAX];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const RECEIVE_MAXIMA: [u16; 4] = [0, 1, 2, 5];
const PACKET_BYTES_MAXIMA: [u32; 4] = [0, 64, 20, 3];
const PAYLOAD_BYTES: [usize; 6] = [3, 0, 1, 40, 300, 5_000];
const PAYLOAD: [u8; 5_000] = [b'x'; 5_000];
const REASONS: [ReasonCode; 8] = [
    ReasonCode::Success,
    ReasonCode::DisconnectWithWill,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::UnspecifiedError,
    ReasonCode::PacketIdentifierNotFound,
    ReasonCode::QuotaExceeded,
    ReasonCode::ContinueAuthentication,
    ReasonCode::ReAuthenticate,
];

/// Makes a CONNECT: version (3, 4 or 5), Client Identifier, flags (1 clean, 2 Will, 4 Will RETAIN, 8 no problem information),
/// expiry, limits (receive maximum, then maximum packet size), keep alive, Will QoS, Will delay.
pub(crate) fn connect(script: &mut Script<'_>, send: impl FnOnce(&Packet<'_>, ProtocolVersion)) {
    let number = script.number();
    let version =
        VERSIONS.iter().find(|(level, _)| *level == number).map_or(ProtocolVersion::V5, |(_, v)| *v);
    let client_id = script.one_of(&CLIENT_IDS);
    let flags = script.number();
    let expiry = script.one_of(&SECONDS);
    let limits = script.number();
    let keep_alive = script.one_of(&SECONDS);
    let has_will = flags & 2 != 0;
    let will = has_will.then(|| Will {
        qos: script.one_of(&QOS),
        retain: flags & 4 != 0,
        topic: topic(script),
        payload: b"gone",
        delay_seconds: script.one_of(&SECONDS),
        properties: PublishProperties::default(),
    });
    let connect = Connect {
        version,
        bridge: false,
        clean_start: flags & 1 != 0,
        keep_alive_seconds: u16::try_from(keep_alive).unwrap_or(u16::MAX),
        client_id,
        username: None,
        password: None,
        will,
        properties: ConnectProperties {
            session_expiry_seconds: Some(expiry),
            receive_maximum: NonZeroU16::new(RECEIVE_MAXIMA[usize::from(limits & 3)]),
            packet_bytes_max: NonZeroU32::new(PACKET_BYTES_MAXIMA[usize::from(limits >> 2 & 3)]),
            topic_alias_maximum: u16::from(limits & 3),
            request_problem_information: flags & 8 == 0,
            request_response_information: flags & 8 != 0,
            ..ConnectProperties::default()
        },
    };
    send(&Packet::Connect(connect), version);
}

/// Makes a packet of a connected client.
pub(crate) fn packet(
    kind: Kind,
    version: ProtocolVersion,
    script: &mut Script<'_>,
    send: impl FnOnce(&Packet<'_>),
) {
    match kind {
        Kind::Publish => publish(script, send),
        Kind::Subscribe => subscribe(script, send),
        Kind::Unsubscribe => unsubscribe(script, send),
        Kind::Acknowledgement => acknowledgement(script, send),
        Kind::Disconnect => {
            let reason = script.one_of(&REASONS);
            let session_expiry_seconds = match (version, script.number()) {
                (ProtocolVersion::V5, number @ 1..) => Some(SECONDS[usize::from(number) % SECONDS.len()]),
                (ProtocolVersion::V5 | ProtocolVersion::V311 | ProtocolVersion::V31, _) => None,
            };
            send(&Packet::Disconnect(Disconnect { session_expiry_seconds, ..Disconnect::new(reason) }));
        }
        Kind::PingReq => send(&Packet::PingReq),
        Kind::Auth => send(&Packet::Auth(Auth {
            reason: script.one_of(&REASONS),
            method: Some("m"),
            data: Some(b"data"),
            ..Auth::default()
        })),
    }
}

/// Flags (QoS, 4 RETAIN, 8 DUP), topic, identifier, payload, properties (1 expiry, 2 response, 4 user, 8 alias without topic).
fn publish(script: &mut Script<'_>, send: impl FnOnce(&Packet<'_>)) {
    let flags = script.number();
    let qos = QOS[usize::from(flags & 3) % QOS.len()];
    let topic = topic(script);
    let number = script.number();
    let payload_bytes = script.one_of(&PAYLOAD_BYTES);
    let properties = script.number();
    let mut user = UserPropertiesBuf::new();
    if properties & 4 != 0 {
        user.push("name", "value").expect("short strings");
        user.push("name", "another").expect("short strings");
    }
    let by_alias = properties & 8 != 0;
    send(&Packet::Publish(Publish {
        dup: flags & 8 != 0,
        qos,
        retain: flags & 4 != 0,
        topic: (!by_alias || flags & 8 == 0).then_some(topic),
        packet_id: if qos == QoS::AtMostOnce { None } else { PacketId::new(u16::from(number) + 1) },
        properties: PublishProperties {
            message_expiry_seconds: (properties & 1 != 0)
                .then_some(SECONDS[usize::from(number) % SECONDS.len()]),
            response_topic: (properties & 2 != 0).then_some(topic),
            correlation_data: (properties & 2 != 0).then_some(b"correlation"),
            topic_alias: by_alias.then(|| NonZeroU16::MIN.saturating_add(u16::from(number & 3))),
            user: user.as_user_properties(),
            ..PublishProperties::default()
        },
        payload: &PAYLOAD[..payload_bytes],
    }));
}

/// Identifier, options (QoS, 4 No Local, 8 Retain As Published), more (Retain Handling, 4 identifier, 8 two filters), filter.
fn subscribe(script: &mut Script<'_>, send: impl FnOnce(&Packet<'_>)) {
    let packet_id = packet_id(script);
    let flags = script.number();
    let more = script.number();
    let options = SubscribeOptions {
        qos: QOS[usize::from(flags & 3) % QOS.len()],
        no_local: flags & 4 != 0,
        retain_as_published: flags & 8 != 0,
        retain_handling: [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend]
            [usize::from(more & 3) % 3],
    };
    let mut filters = SubscribeFiltersBuf::new();
    for _ in 0..1 + (more >> 3) {
        let filter = filter(script);
        // [MQTT-3.8.3-4] The codec does not write it; a damaged packet may have it.
        let no_local = options.no_local && filter.shared().is_none();
        filters.push(filter, SubscribeOptions { no_local, ..options }).expect("short filters");
    }
    send(&Packet::Subscribe(Subscribe {
        packet_id,
        subscription_id: if more & 4 == 0 { None } else { NonZeroU32::new(u32::from(more) << 8) },
        user: UserProperties::default(),
        filters: filters.as_filters(),
    }));
}

/// Identifier, filter.
fn unsubscribe(script: &mut Script<'_>, send: impl FnOnce(&Packet<'_>)) {
    let packet_id = packet_id(script);
    let mut filters = UnsubscribeFiltersBuf::new();
    filters.push(filter(script));
    filters.push(filter(script));
    send(&Packet::Unsubscribe(Unsubscribe {
        packet_id,
        user: UserProperties::default(),
        filters: filters.as_filters(),
    }));
}

/// Which, identifier, reason.
fn acknowledgement(script: &mut Script<'_>, send: impl FnOnce(&Packet<'_>)) {
    let make = script.one_of(&[Packet::PubAck, Packet::PubRec, Packet::PubRel, Packet::PubComp]);
    let packet_id = packet_id(script);
    send(&make(Acknowledgement::new(packet_id, script.one_of(&REASONS))));
}

fn packet_id(script: &mut Script<'_>) -> PacketId {
    PacketId::new(u16::from(script.number()) + 1).expect("above 0")
}

fn topic(script: &mut Script<'_>) -> TopicName<'static> {
    TopicName::new(script.one_of(&TOPICS)).expect("a Topic Name")
}

fn filter(script: &mut Script<'_>) -> TopicFilter<'static> {
    TopicFilter::new(script.one_of(&FILTERS)).expect("a Topic Filter")
}
