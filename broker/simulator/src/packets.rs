//! Packets as tests write them: the usual values, and what a test cares about as arguments.

use veilmq_protocol::{
    Connect, ConnectProperties, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, RetainHandling,
    SubscribeOptions, TopicName,
};

/// Returns a Packet Identifier.
///
/// # Panics
/// On 0, which is none.
pub fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

/// Returns an MQTT 5 CONNECT without keep alive, user name or Will.
pub fn connect_v5(client_id: &str, clean_start: bool, session_expiry_seconds: u32) -> Connect<'_> {
    Connect {
        version: ProtocolVersion::V5,
        clean_start,
        keep_alive_seconds: 0,
        client_id,
        username: None,
        password: None,
        will: None,
        bridge: false,
        properties: ConnectProperties {
            session_expiry_seconds: (session_expiry_seconds > 0).then_some(session_expiry_seconds),
            ..ConnectProperties::default()
        },
    }
}

/// Returns the same for MQTT 3.1.1.
pub fn connect_v311(client_id: &str, clean_session: bool) -> Connect<'_> {
    Connect { version: ProtocolVersion::V311, ..connect_v5(client_id, clean_session, 0) }
}

/// Returns Subscription Options that ask for nothing but a QoS.
pub fn options(qos: QoS) -> SubscribeOptions {
    SubscribeOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

/// Returns a PUBLISH without properties; `packet_id` is 0 at QoS 0.
///
/// # Panics
/// If `topic` is no Topic Name.
pub fn publish<'a>(topic: &'a str, payload: &'a str, qos: QoS, packet_id: u16) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::new(topic).unwrap()),
        packet_id: PacketId::new(packet_id),
        properties: PublishProperties::default(),
        payload: payload.as_bytes(),
    }
}
