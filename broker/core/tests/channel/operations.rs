//! What the broker tells clients over their channel: another ticket, notices, a goodbye, and group keys with CONNACK (VEIL-1
//! sections 4.4 and 5.4).

use veilmq_core::{Access, FanOutForm, Policies, Policy};
use veilmq_protocol::veil::record::ControlOp;
use veilmq_protocol::{PacketType, Publish};

use super::distribution;
use super::groups::{fan_out, grouping};
use super::property_mode::property_realm;
use super::*;

/// An operation, in words.
fn described(op: &ControlOp<'_>) -> String {
    match op {
        ControlOp::Ticket(_) => "ticket".to_owned(),
        ControlOp::Notice(text) => format!("notice: {text}"),
        ControlOp::Goodbye { reason, retry_after_ms } => {
            assert!((1_000..=2_000).contains(retry_after_ms), "{retry_after_ms} ms");
            format!("goodbye {reason:#04x}")
        }
        _ => "another operation".to_owned(),
    }
}

impl Realm {
    /// Does what [`Realm::received`] does; `take` sees each operation.
    pub(super) fn operated(
        &mut self,
        client: &mut Client,
        mut take: impl FnMut(&ControlOp<'_>),
    ) -> Vec<String> {
        let mut bytes = self.world.bytes(client.connection);
        let mut rest = bytes.as_mut_slice();
        let mut all = Vec::new();
        while !rest.is_empty() {
            let record = client.opener.next(rest, 1 << 20).unwrap().unwrap();
            match &record.content {
                Content::Packets(range) => {
                    all.extend(describe_all(&rest[range.clone()], ProtocolVersion::V5));
                }
                Content::Control(range) => {
                    let op = ControlOp::parse(&rest[range.clone()]).unwrap();
                    take(&op);
                    all.push(described(&op));
                }
                Content::Fan(delivery) => {
                    let publish = delivery.publish(rest).unwrap();
                    let (topic, payload) = (publish.topic.unwrap(), String::from_utf8_lossy(publish.payload));
                    all.push(format!("FAN {} {payload:?} qos{}", topic.as_str(), publish.qos.value()));
                }
                Content::KeyUpdated => all.push("KeyUpdate".to_owned()),
            }
            rest = &mut rest[record.consumed..];
        }
        all
    }
}

#[test]
fn a_client_that_stays_gets_another_ticket_before_the_last_is_too_old() {
    let one_trip = OneTrip { ticket_milliseconds: 10_000, ..OneTrip::default() };
    let mut realm = realm_with(Settings::default(), ServerPolicy::default(), one_trip);
    let mut press = realm.join_for("press-07", 10, 600);
    realm.world.pass(4_999);
    assert_eq!(realm.operated(&mut press, |_| {}), [""; 0]);

    realm.world.pass(1);
    let mut resumption = None;
    let predecessor = &press.predecessor;
    let mut bytes = realm.world.bytes(press.connection);
    let record = press.opener.next(&mut bytes, 1 << 20).unwrap().unwrap();
    let Content::Control(range) = record.content else { panic!("{:?}", record.content) };
    if let ControlOp::Ticket(ticket) = ControlOp::parse(&bytes[range]).unwrap() {
        resumption = predecessor.resumption(ticket);
    }
    realm.world.pass(5_000);
    assert_eq!(realm.operated(&mut press, |_| {}), ["ticket"], "and again");
    realm.world.pass(4_000);

    // The ticket of CONNACK is over by now.
    let (connect, awaiting) = realm.resume(connect_v5("press-07", false, 600), resumption.unwrap());
    let connection = realm.send_connect(&connect);
    let connack = realm.world.bytes(connection);
    let established = awaiting.handle(&connack).unwrap();
    let (mut again, _) = one_trip::client(connection, established);
    realm.send(&mut again, &[Packet::PingReq]);
    assert_eq!(realm.received(&mut again), ["PINGRESP"]);
}

#[test]
fn who_publishes_what_is_refused_is_told_why() {
    let mut realm = realm(Settings::default());
    let mut press = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);

    for (qos, number) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1)] {
        realm.send(&mut press, &[Packet::Publish(publish("$SYS/x", "x", qos, number))]);
    }

    let notice = "notice: $SYS and $CONTROL belong to the broker: $SYS/x";
    assert_eq!(realm.operated(&mut press, |_| {}), [notice, notice, "PUBACK id1 0x87"]);
}

#[test]
fn who_subscribes_to_a_scope_without_a_key_for_it_is_told() {
    let mut realm = realm(Settings::default());
    let policies = Policies::new(vec![Policy::requiring("f", "f/#")]).unwrap();
    realm.world.set_access(Access { policies, ..Access::open_to(true) });
    let join = |realm: &mut Realm, name: &str, seed| realm.join(name, seed, Schemes::ALL, Suite::Aes256Gcm);
    let mut reader = join(&mut realm, "reader", 11);
    realm.subscribe(&mut reader, "f/#");
    let told = realm.operated(&mut reader, |_| {});
    assert_eq!(told, ["SUBACK [01]"], "no head is known");
    let mut issuer = join(&mut realm, "issuer", distribution::ISSUER);
    let (topic, head) = distribution::head_of(&realm);
    let head = Publish { payload: &head, retain: true, ..publish(&topic, "", QoS::AtMostOnce, 0) };
    realm.send(&mut issuer, &[Packet::Publish(head)]);
    let stranger = join(&mut realm, "stranger", 12);
    let mut clients = [reader, issuer, stranger];

    for (client, filter, notice) in [
        (0, "f/t", None),
        (1, "f/t", None),
        (2, "g/#", None),
        (2, "+/t", Some("notice: no key of this scope is for this client: f/#")),
        (2, "$share/g/f/#", Some("notice: no key of this scope is for this client: f/#")),
    ] {
        let client = &mut clients[client];
        realm.subscribe(client, filter);
        let told = realm.operated(client, |_| {});
        let notices: Vec<&str> =
            told.iter().map(String::as_str).filter(|op| op.starts_with("notice")).collect();
        assert_eq!(notices, notice.as_slice(), "{filter}: {told:?}");
    }
}

#[test]
fn notices_do_not_pile_up_for_a_client_that_does_not_read() {
    let settings = Settings { outbox_bytes_max: 1_024, ..Settings::default() };
    let mut realm = realm(settings);
    let mut press = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);

    // All of them arrive before anything can be written.
    let many = vec![Packet::Publish(publish("$SYS/x", "x", QoS::AtMostOnce, 0)); 1_000];
    realm.send(&mut press, &many);

    let bytes = realm.world.bytes(press.connection).len();
    assert!((1_024..2_048).contains(&bytes), "{bytes} bytes");
}

#[test]
fn in_property_mode_a_notice_goes_to_who_has_subscribed_to_it() {
    for subscribes in [true, false] {
        let mut realm = property_realm(true);
        let mut stock = realm.stock("press-07", 10);
        let topic = format!("_veil/1/ctl/{}", realm.identity(10, "press-07").kid());
        if subscribes {
            realm.world.subscribe(stock.connection, &topic, QoS::AtMostOnce);
            realm.world.bytes(stock.connection);
        }

        let mut plain = Vec::new();
        Packet::Publish(publish("$SYS/x", "x", QoS::AtMostOnce, 0))
            .encode(ProtocolVersion::V5, &mut plain)
            .unwrap();
        let mut packet = Vec::new();
        stock.channel.publishes.seal(&plain, &mut packet).unwrap();
        realm.world.send_bytes(stock.connection, &packet);

        let bytes = realm.world.bytes(stock.connection);
        let Some((frame, _)) = next_frame(&bytes, usize::MAX).unwrap() else {
            assert!(!subscribes);
            continue;
        };
        assert_eq!(frame.packet_type(), PacketType::Publish);
        let publish = stock.channel.published.open(frame).unwrap();
        assert_eq!(publish.topic.unwrap().as_str(), topic);
        let mut record = publish.payload.to_vec();
        let opened = stock.channel.operated.next(&mut record, 1 << 16).unwrap().unwrap();
        let Content::Control(range) = opened.content else { panic!("{:?}", opened.content) };
        let op = ControlOp::parse(&record[range]).unwrap();
        assert_eq!(described(&op), "notice: $SYS and $CONTROL belong to the broker: $SYS/x");
        assert!(subscribes);
    }
}

#[test]
fn a_broker_that_goes_away_says_when_to_come_back() {
    let mut realm = realm(Settings { reason_strings: false, ..Settings::default() });
    let mut clients: Vec<Client> = (0..3)
        .map(|number| realm.join(&format!("press-{number}"), 10 + number, Schemes::ALL, Suite::Aes256Gcm))
        .collect();

    realm.world.turn(0, Input::Shutdown);

    let mut when = std::collections::BTreeSet::new();
    for client in &mut clients {
        let said = realm.operated(client, |op| {
            if let ControlOp::Goodbye { retry_after_ms, .. } = op {
                when.insert(*retry_after_ms);
            }
        });
        assert_eq!(said, ["goodbye 0x8b", "DISCONNECT 0x8b"]);
    }
    assert_eq!(when.len(), 3, "not all at once: {when:?}");
}

#[test]
fn who_comes_back_to_its_subscriptions_has_their_group_keys_with_connack() {
    for (scheme, kind) in [(Scheme::Three, 5), (Scheme::Four, 4)] {
        let mut realm = grouping(fan_out(FanOutForm::GroupOuter));
        let connect = || connect_v5("lake-1", false, 600);
        let schemes = Schemes::of(&[scheme]);
        let mut stays = realm.join("lake-2", 12, schemes, Suite::Aes256Gcm);
        let mut goes = realm.join_with(connect(), 11, schemes, Suite::Aes256Gcm);
        realm.subscribe(&mut stays, "f/#");
        realm.subscribe(&mut goes, "f/#");
        realm.world.cut(goes.connection);
        let (press, _) = realm.world.join("press-07", true, 0);
        realm.say(press, "f/t", "before");
        realm.opened(&mut stays);

        let mut back = realm.join_with(connect(), 11, schemes, Suite::Aes256Gcm);
        realm.say(press, "f/t", "after");

        assert_eq!(realm.opened(&mut back), [format!("{kind} f/t after")], "no key comes with it");
        assert_eq!(realm.opened(&mut stays), [format!("{kind} f/t after")]);
    }
}
