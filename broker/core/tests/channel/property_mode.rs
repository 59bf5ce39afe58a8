//! Property mode through a whole broker: each PUBLISH is protected in both directions, and nothing else is (VEIL-1 section 5.3).

use veilmq_protocol::veil::channel::PropertyChannel;
use veilmq_protocol::{PacketType, Publish, PublishProperties, UserPropertiesBuf};

use super::*;

/// One client in property mode.
pub(super) struct Stock {
    pub(super) connection: Conn,
    pub(super) channel: PropertyChannel,
}

pub(super) fn property_realm(is_encrypted: bool) -> Realm {
    let policy = ServerPolicy { schemes: Schemes::ALL, property_mode: true, ..ServerPolicy::default() };
    let settings = Settings { reason_strings: false, ..Settings::default() };
    let mut realm = realm_with(settings, policy, OneTrip::default());
    realm.world.is_encrypted = is_encrypted;
    realm
}

fn encoded(publish: Publish<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    Packet::Publish(publish).encode(ProtocolVersion::V5, &mut bytes).unwrap();
    bytes
}

impl Realm {
    pub(super) fn stock(&mut self, client_id: &str, seed: u8) -> Stock {
        let identity = self.identity(seed, client_id);
        let connect = connect_v5(client_id, true, 0);
        let (connection, awaiting) =
            self.begin_in(ChannelForm::Property, connect, Schemes::of(&[Scheme::Four]), Suite::Aes256Gcm);
        let established = self.conclude(&identity, connection, awaiting);
        assert_eq!((established.scheme, established.form), (Scheme::Four, ChannelForm::Property));
        Stock { connection, channel: established.into_property_mode().unwrap() }
    }

    /// Publishes with the property that belongs to it.
    fn publishes(&mut self, stock: &mut Stock, publish: Publish<'_>) -> Vec<u8> {
        let mut packet = Vec::new();
        stock.channel.publishes.seal(&encoded(publish), &mut packet).unwrap();
        self.world.send_bytes(stock.connection, &packet);
        packet
    }

    /// The packets that a client received, each PUBLISH without its property, which was right.
    fn plain_packets(&mut self, stock: &mut Stock) -> Vec<Vec<u8>> {
        let bytes = self.world.bytes(stock.connection);
        let mut rest = bytes.as_slice();
        let mut all = Vec::new();
        while let Some((frame, len)) = next_frame(rest, usize::MAX).unwrap() {
            all.push(match frame.packet_type() {
                PacketType::Publish => encoded(stock.channel.published.open(frame).unwrap()),
                _ => rest[..len].to_vec(),
            });
            rest = &rest[len..];
        }
        all
    }

    fn taken(&mut self, stock: &mut Stock) -> Vec<String> {
        describe_all(&self.plain_packets(stock).concat(), ProtocolVersion::V5)
    }
}

#[test]
fn each_publish_is_protected_in_both_directions_and_others_see_nothing_of_it() {
    let mut realm = property_realm(true);
    let (mut press, mut lake) = (realm.stock("press-07", 10), realm.stock("lake-1", 11));
    let mut sealed = realm.join("sealed", 12, Schemes::of(&[Scheme::Four]), Suite::Aes256Gcm);
    let (plain, _) = realm.world.join("plain", true, 0);
    realm.subscribe(&mut sealed, "f/#");
    realm.world.subscribe(plain, "f/#", QoS::AtLeastOnce);
    realm.world.subscribe(lake.connection, "f/#", QoS::ExactlyOnce);
    for client in [plain, lake.connection] {
        realm.world.bytes(client);
    }
    realm.received(&mut sealed);
    let mut user = UserPropertiesBuf::new();
    user.push("unit", "C").unwrap();
    let properties = PublishProperties {
        content_type: Some("text/plain"),
        user: user.as_user_properties(),
        ..PublishProperties::default()
    };

    let message = |qos, number| Publish { properties, ..publish("f/t", "21.5", qos, number) };
    for (qos, number) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
        realm.publishes(&mut press, message(qos, number));
    }

    let all = [message(QoS::AtMostOnce, 0), message(QoS::AtLeastOnce, 1), message(QoS::ExactlyOnce, 2)];
    assert_eq!(realm.plain_packets(&mut lake), all.map(encoded));
    let lower = [message(QoS::AtMostOnce, 0), message(QoS::AtLeastOnce, 1), message(QoS::AtLeastOnce, 2)];
    assert_eq!(realm.world.bytes(plain), lower.map(encoded).concat(), "without the property");
    assert_eq!(realm.received(&mut sealed).len(), 3);
    assert_eq!(realm.taken(&mut press), ["PUBACK id1", "PUBREC id2"]);
}

#[test]
fn a_plain_client_cannot_forge_the_property_of_a_message() {
    let mut realm = property_realm(true);
    let mut lake = realm.stock("lake-1", 11);
    realm.world.subscribe(lake.connection, "f/#", QoS::AtMostOnce);
    realm.taken(&mut lake);
    let (plain, _) = realm.world.join("plain", true, 0);
    let mut user = UserPropertiesBuf::new();
    user.push("v1m", "AAAAAAAAAADG71ztfJoqcAEYnnNzsBt_").unwrap();
    let properties = PublishProperties { user: user.as_user_properties(), ..PublishProperties::default() };

    let message = Publish { properties, ..publish("f/t", "x", QoS::AtMostOnce, 0) };
    realm.world.send(plain, &Packet::Publish(message));

    assert_eq!(realm.taken(&mut lake), ["PUBLISH f/t \"x\" qos0"]);
}

#[test]
fn a_publish_that_is_not_authentic_or_not_new_ends_the_connection_with_0x87() {
    type Send = fn(&mut Realm, &mut Stock);
    let rows: &[(&str, Send)] = &[
        ("no property", |realm, stock| {
            realm.world.send_bytes(stock.connection, &encoded(publish("f/t", "x", QoS::AtMostOnce, 0)));
        }),
        ("a changed payload", |realm, stock| {
            let mut packet = Vec::new();
            let plain = encoded(publish("f/t", "x", QoS::AtMostOnce, 0));
            stock.channel.publishes.seal(&plain, &mut packet).unwrap();
            *packet.last_mut().unwrap() ^= 1;
            realm.world.send_bytes(stock.connection, &packet);
        }),
        ("a replay", |realm, stock| {
            let packet = realm.publishes(stock, publish("f/t", "x", QoS::AtMostOnce, 0));
            realm.world.send_bytes(stock.connection, &packet);
        }),
        ("a replay as a repetition", |realm, stock| {
            let mut packet = realm.publishes(stock, publish("f/t", "x", QoS::AtLeastOnce, 1));
            realm.world.bytes(stock.connection);
            packet[0] |= 0b1000;
            realm.world.send_bytes(stock.connection, &packet);
        }),
        ("what the broker sent", |realm, stock| {
            realm.world.subscribe(stock.connection, "f/t", QoS::AtMostOnce);
            realm.world.bytes(stock.connection);
            realm.publishes(stock, publish("f/t", "x", QoS::AtMostOnce, 0));
            let packet = realm.world.bytes(stock.connection);
            realm.world.send_bytes(stock.connection, &packet);
        }),
    ];
    for (name, send) in rows {
        let mut realm = property_realm(true);
        let mut stock = realm.stock("press-07", 10);

        send(&mut realm, &mut stock);

        assert!(realm.world.is_closed(stock.connection), "{name}");
        assert_eq!(realm.taken(&mut stock), ["DISCONNECT 0x87"], "{name}");
        assert_eq!(realm.world.sample("veilmq_channel_record_auth_failures_total", ""), 1, "{name}");
    }
}

#[test]
fn an_alias_is_not_offered_and_not_taken() {
    let mut realm = property_realm(true);
    let mut stock = realm.stock("press-07", 10);
    let mut packet = Vec::new();
    let properties =
        PublishProperties { topic_alias: std::num::NonZeroU16::new(1), ..PublishProperties::default() };
    let message = Publish { properties, ..publish("f/t", "x", QoS::AtMostOnce, 0) };
    stock.channel.publishes.seal(&encoded(message), &mut packet).unwrap();

    realm.world.send_bytes(stock.connection, &packet);

    assert_eq!(realm.taken(&mut stock), ["DISCONNECT 0x94"]);
}

#[test]
fn outside_of_tls_it_is_not_served_unless_told_otherwise() {
    let schemes = Schemes::of(&[Scheme::Four]);
    let mut realm = property_realm(false);

    let connect = connect_v5("press-07", true, 0);
    let (connection, _) = realm.begin_in(ChannelForm::Property, connect, schemes, Suite::Aes256Gcm);

    assert_eq!(realm.world.bytes(connection), [0x20, 3, 0, 0x8C, 0]);
    let mut realm = realm_fanning_property_without_tls();
    realm.stock("press-07", 10);
}

fn realm_fanning_property_without_tls() -> Realm {
    let policy = ServerPolicy { property_mode: true, ..ServerPolicy::default() };
    realm_serving(Settings::default(), policy, OneTrip::default(), FanOut::default(), false)
}

#[test]
fn there_is_no_re_authentication_without_records() {
    let mut realm = property_realm(true);
    let mut stock = realm.stock("press-07", 10);

    let auth = Auth {
        reason: ReasonCode::ReAuthenticate,
        method: Some(AUTHENTICATION_METHOD),
        data: Some(&[1]),
        ..Auth::default()
    };
    realm.world.send(stock.connection, &Packet::Auth(auth));

    assert_eq!(realm.taken(&mut stock), ["DISCONNECT 0x82"]);
}
