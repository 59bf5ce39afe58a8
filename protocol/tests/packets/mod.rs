//! Generators of valid packets of every type in every version.
//!
//! A generated packet borrows leaked memory: tests are short-lived, and every packet type borrows.

use core::num::{NonZeroU16, NonZeroU32};

use proptest::{collection::vec, option, prelude::*, sample::select};
use veilmq_protocol::{
    Acknowledgement, Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, Packet,
    PacketId,
    ProtocolVersion::{self, V5, V31, V311},
    Publish, PublishProperties, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFilters,
    SubscribeFiltersBuf, SubscribeOptions, SubscriptionIds, SubscriptionIdsBuf, TopicFilter, TopicName,
    UnsubAck, Unsubscribe, UnsubscribeFilters, UnsubscribeFiltersBuf, UserProperties, UserPropertiesBuf,
    Will,
};

/// Any packet `version` can express.
pub(crate) fn any_packet(version: ProtocolVersion) -> BoxedStrategy<Packet<'static>> {
    let common = prop_oneof![
        connect(version).prop_map(Packet::Connect),
        connack(version).prop_map(Packet::ConnAck),
        publish(version).prop_map(Packet::Publish),
        acknowledgement(version, RECEIPT_REASONS).prop_map(Packet::PubAck),
        acknowledgement(version, RECEIPT_REASONS).prop_map(Packet::PubRec),
        acknowledgement(version, RELEASE_REASONS).prop_map(Packet::PubRel),
        acknowledgement(version, RELEASE_REASONS).prop_map(Packet::PubComp),
        subscribe(version).prop_map(Packet::Subscribe),
        suback(version).prop_map(Packet::SubAck),
        unsubscribe(version).prop_map(Packet::Unsubscribe),
        unsuback(version).prop_map(Packet::UnsubAck),
        select(&[Packet::PingReq, Packet::PingResp][..]),
        disconnect(version).prop_map(Packet::Disconnect),
    ];
    match version {
        V5 => prop_oneof![13 => common, 1 => auth().prop_map(Packet::Auth)].boxed(),
        V31 | V311 => common.boxed(),
    }
}

const RECEIPT_REASONS: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const RELEASE_REASONS: &[u8] = &[0x00, 0x92];
const CONNACK_REASONS: &[u8] = &[
    0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A,
    0x9B, 0x9C, 0x9D, 0x9F,
];
const SUBACK_REASONS: &[u8] = &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
const UNSUBACK_REASONS: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
const DISCONNECT_REASONS: &[u8] = &[
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
    0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];

/// Text without U+0000; often empty, sometimes several bytes per character.
fn text() -> impl Strategy<Value = &'static str> {
    "[a-zA-Z0-9/+# é漢\u{feff}\u{10ffff}]{0,12}".prop_map(|text| &*text.leak())
}

/// Text of at least one character.
fn some_text() -> impl Strategy<Value = &'static str> {
    "[a-z0-9é]{1,12}".prop_map(|text| &*text.leak())
}

fn binary() -> impl Strategy<Value = &'static [u8]> {
    vec(any::<u8>(), 0..20).prop_map(|bytes| &*bytes.leak())
}

fn topic_name() -> impl Strategy<Value = TopicName<'static>> {
    "[a-z/$ é]{1,10}".prop_map(|name| TopicName::new(name.leak()).unwrap())
}

fn topic_filter() -> impl Strategy<Value = TopicFilter<'static>> {
    "(\\$share/[a-z]{1,3}/)?(\\+|[a-z$]{1,3})(/(\\+|[a-z]{0,3})){0,3}(/#)?"
        .prop_map(|filter| TopicFilter::new(filter.leak()).unwrap())
}

fn user() -> impl Strategy<Value = UserProperties<'static>> {
    vec((text(), text()), 0..4).prop_map(|pairs| {
        let mut user = UserPropertiesBuf::new();
        for (name, value) in pairs {
            user.push(name, value).unwrap();
        }
        Box::leak(Box::new(user)).as_user_properties()
    })
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn qos() -> impl Strategy<Value = QoS> {
    select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..])
}

fn non_zero_u16() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|value| NonZeroU16::new(value).unwrap())
}

fn non_zero_u32(max: u32) -> impl Strategy<Value = NonZeroU32> {
    (1..=max).prop_map(|value| NonZeroU32::new(value).unwrap())
}

/// Subscription Identifiers of every length on the wire.
fn subscription_id() -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![non_zero_u32(0x7F), non_zero_u32(0x3FFF), non_zero_u32(0x1F_FFFF), non_zero_u32(0xFFF_FFFF)]
}

fn reason(values: &'static [u8]) -> impl Strategy<Value = ReasonCode> {
    select(values).prop_map(|value| ReasonCode::try_from(value).unwrap())
}

/// `strategy` in MQTT 5.0, the default in the versions that lack it.
fn in_v5<T: Default + Clone + core::fmt::Debug + 'static>(
    version: ProtocolVersion,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    match version {
        V5 => strategy.boxed(),
        V31 | V311 => Just(T::default()).boxed(),
    }
}

fn connect(version: ProtocolVersion) -> impl Strategy<Value = Connect<'static>> {
    let client_id = if version == V31 { some_text().boxed() } else { text().boxed() };
    // A password alone exists in MQTT 5.0 only.
    let credentials = (option::of(text()), option::of(binary()))
        .prop_map(move |(name, password)| (name, password.filter(|_| name.is_some() || version == V5)));
    let bridge = if version == V5 { Just(false).boxed() } else { any::<bool>().boxed() };
    let head = (bridge, any::<bool>(), any::<u16>());
    (head, client_id, credentials, option::of(will(version)), in_v5(version, connect_properties())).prop_map(
        move |(
            (bridge, clean_start, keep_alive_seconds),
            client_id,
            (username, password),
            will,
            properties,
        )| {
            Connect {
                version,
                bridge,
                clean_start,
                keep_alive_seconds,
                client_id,
                username,
                password,
                will,
                properties,
            }
        },
    )
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties<'static>> {
    let numbers = (
        option::of(any::<u32>()),
        option::of(non_zero_u16()),
        option::of(non_zero_u32(u32::MAX)),
        any::<u16>(),
    );
    let method = option::of((text(), option::of(binary())));
    (numbers, any::<bool>(), any::<bool>(), method, user()).prop_map(
        |((expiry, receive, packet, alias), response, problem, method, user)| ConnectProperties {
            session_expiry_seconds: expiry,
            receive_maximum: receive,
            packet_bytes_max: packet,
            topic_alias_maximum: alias,
            request_response_information: response,
            request_problem_information: problem,
            authentication_method: method.map(|(method, _)| method),
            authentication_data: method.and_then(|(_, data)| data),
            user,
        },
    )
}

fn will(version: ProtocolVersion) -> impl Strategy<Value = Will<'static>> {
    let properties = in_v5(version, message_properties());
    (qos(), any::<bool>(), topic_name(), binary(), in_v5(version, any::<u32>()), properties).prop_map(
        |(qos, retain, topic, payload, delay_seconds, properties)| Will {
            qos,
            retain,
            topic,
            payload,
            delay_seconds,
            properties,
        },
    )
}

/// The properties a Will Message may have.
fn message_properties() -> impl Strategy<Value = PublishProperties<'static>> {
    let strings = (option::of(topic_name()), option::of(binary()), option::of(text()));
    (option::of(any::<bool>()), option::of(any::<u32>()), strings, user()).prop_map(
        |(
            payload_is_utf8,
            message_expiry_seconds,
            (response_topic, correlation_data, content_type),
            user,
        )| {
            PublishProperties {
                payload_is_utf8,
                message_expiry_seconds,
                response_topic,
                correlation_data,
                content_type,
                user,
                ..PublishProperties::default()
            }
        },
    )
}

fn subscription_ids() -> impl Strategy<Value = SubscriptionIds<'static>> {
    vec(subscription_id(), 0..4).prop_map(|ids| {
        let mut buf = SubscriptionIdsBuf::new();
        for id in ids {
            buf.push(id).unwrap();
        }
        Box::leak(Box::new(buf)).as_subscription_ids()
    })
}

/// All the properties a PUBLISH may have.
pub(crate) fn publish_properties() -> impl Strategy<Value = PublishProperties<'static>> {
    (message_properties(), option::of(non_zero_u16()), subscription_ids()).prop_map(
        |(properties, topic_alias, subscription_ids)| PublishProperties {
            topic_alias,
            subscription_ids,
            ..properties
        },
    )
}

pub(crate) fn publish(version: ProtocolVersion) -> impl Strategy<Value = Publish<'static>> {
    let message = (any::<bool>(), qos(), any::<bool>(), option::of(topic_name()), topic_name());
    (message, packet_id(), in_v5(version, publish_properties()), binary()).prop_map(
        |((dup, qos, retain, topic, instead), packet_id, properties, payload)| Publish {
            dup: dup && qos != QoS::AtMostOnce,
            qos,
            retain,
            // Only a Topic Alias stands in for a Topic Name.
            topic: if properties.topic_alias.is_some() { topic } else { Some(instead) },
            packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
            properties,
            payload,
        },
    )
}

fn connack(version: ProtocolVersion) -> impl Strategy<Value = ConnAck<'static>> {
    let refused = match version {
        V5 => reason(CONNACK_REASONS).boxed(),
        V31 | V311 => (1_u8..=5).prop_map(|code| ReasonCode::from_connack_v3(code).unwrap()).boxed(),
    };
    let outcome = prop_oneof![
        any::<bool>()
            .prop_map(move |session_present| (session_present && version != V31, ReasonCode::Success)),
        refused.prop_map(|reason| (false, reason)),
    ];
    (outcome, in_v5(version, connack_properties()))
        .prop_map(|((session_present, reason), properties)| ConnAck { session_present, reason, properties })
}

fn connack_properties() -> impl Strategy<Value = ConnAckProperties<'static>> {
    let maximum_qos = select(&[None, Some(QoS::AtMostOnce), Some(QoS::AtLeastOnce)][..]);
    let flag = || option::of(any::<bool>());
    let string = || option::of(text());
    let number = || option::of(any::<u16>());
    (
        (
            option::of(any::<u32>()),
            option::of(non_zero_u16()),
            option::of(non_zero_u32(u32::MAX)),
            number(),
            number(),
        ),
        (maximum_qos, flag(), flag(), flag(), flag()),
        (string(), string(), string(), string(), string()),
        (option::of(binary()), user()),
    )
        .prop_map(|(numbers, flags, strings, (authentication_data, user))| ConnAckProperties {
            session_expiry_seconds: numbers.0,
            receive_maximum: numbers.1,
            packet_bytes_max: numbers.2,
            topic_alias_maximum: numbers.3,
            server_keep_alive_seconds: numbers.4,
            maximum_qos: flags.0,
            retain_available: flags.1,
            wildcard_subscription_available: flags.2,
            subscription_ids_available: flags.3,
            shared_subscription_available: flags.4,
            assigned_client_id: strings.0,
            reason_string: strings.1,
            response_information: strings.2,
            server_reference: strings.3,
            authentication_method: strings.4,
            authentication_data,
            user,
        })
}

fn acknowledgement(
    version: ProtocolVersion,
    reasons: &'static [u8],
) -> impl Strategy<Value = Acknowledgement<'static>> {
    (packet_id(), in_v5(version, reason(reasons)), in_v5(version, option::of(text())), in_v5(version, user()))
        .prop_map(|(packet_id, reason, reason_string, user)| Acknowledgement {
            packet_id,
            reason,
            reason_string,
            user,
        })
}

fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Subscribe<'static>> {
    let id = in_v5(version, option::of(subscription_id()));
    (packet_id(), id, in_v5(version, user()), subscribe_filters(version)).prop_map(
        |(packet_id, subscription_id, user, filters)| Subscribe { packet_id, subscription_id, user, filters },
    )
}

fn subscribe_filters(version: ProtocolVersion) -> impl Strategy<Value = SubscribeFilters<'static>> {
    let handling = select(&[RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend][..]);
    let v5_options = in_v5(version, (any::<bool>(), any::<bool>(), handling));
    vec((topic_filter(), qos(), v5_options), 1..4).prop_map(|filters| {
        let mut buf = SubscribeFiltersBuf::new();
        for (filter, qos, (no_local, retain_as_published, retain_handling)) in filters {
            let no_local = no_local && filter.shared().is_none();
            buf.push(filter, SubscribeOptions { qos, no_local, retain_as_published, retain_handling })
                .unwrap();
        }
        Box::leak(Box::new(buf)).as_filters()
    })
}

fn suback(version: ProtocolVersion) -> impl Strategy<Value = SubAck<'static>> {
    let reasons = if version == V5 { SUBACK_REASONS } else { &[0x00, 0x01, 0x02, 0x80] };
    let reasons = vec(select(reasons), 1..5);
    (packet_id(), in_v5(version, option::of(text())), in_v5(version, user()), reasons).prop_map(
        |(packet_id, reason_string, user, reasons)| SubAck {
            packet_id,
            reason_string,
            user,
            reasons: reasons.leak(),
        },
    )
}

fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Unsubscribe<'static>> {
    (packet_id(), in_v5(version, user()), unsubscribe_filters())
        .prop_map(|(packet_id, user, filters)| Unsubscribe { packet_id, user, filters })
}

fn unsubscribe_filters() -> impl Strategy<Value = UnsubscribeFilters<'static>> {
    vec(topic_filter(), 1..4).prop_map(|filters| {
        let mut buf = UnsubscribeFiltersBuf::new();
        for filter in filters {
            buf.push(filter);
        }
        Box::leak(Box::new(buf)).as_filters()
    })
}

fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = UnsubAck<'static>> {
    let reasons = in_v5(version, vec(select(UNSUBACK_REASONS), 1..5));
    (packet_id(), in_v5(version, option::of(text())), in_v5(version, user()), reasons).prop_map(
        |(packet_id, reason_string, user, reasons)| UnsubAck {
            packet_id,
            reason_string,
            user,
            reasons: reasons.leak(),
        },
    )
}

fn disconnect(version: ProtocolVersion) -> impl Strategy<Value = Disconnect<'static>> {
    let strings = (option::of(text()), option::of(text()));
    let v5 = (reason(DISCONNECT_REASONS), option::of(any::<u32>()), strings, user()).prop_map(
        |(reason, session_expiry_seconds, (reason_string, server_reference), user)| Disconnect {
            reason,
            session_expiry_seconds,
            reason_string,
            user,
            server_reference,
        },
    );
    in_v5(version, v5)
}

fn auth() -> impl Strategy<Value = Auth<'static>> {
    let full = (reason(&[0x00, 0x18, 0x19]), text(), option::of(binary()), option::of(text()), user())
        .prop_map(|(reason, method, data, reason_string, user)| Auth {
            reason,
            method: Some(method),
            data,
            reason_string,
            user,
        });
    prop_oneof![4 => full, 1 => Just(Auth::default())]
}
