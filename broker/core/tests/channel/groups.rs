//! Broker group keys through a whole broker: FAN-G and FAN-GE, grants, and new keys when members leave (VEIL-1 sections 6.3, 6.4).

use veilmq_core::FanOutForm;
use veilmq_protocol::veil::channel::Operations;
use veilmq_protocol::veil::record::ControlOp;
use veilmq_protocol::{Unsubscribe, UnsubscribeFiltersBuf};

use super::*;

pub(super) fn fan_out(form: FanOutForm) -> FanOut {
    FanOut { form, ..FanOut::default() }
}

pub(super) fn grouping(fan_out: FanOut) -> Realm {
    grouping_on(1, fan_out)
}

fn grouping_on(shards: u16, fan_out: FanOut) -> Realm {
    let policy = ServerPolicy { schemes: Schemes::ALL, ..ServerPolicy::default() };
    realm_fanning(Settings { shards, ..Settings::default() }, policy, OneTrip::default(), fan_out)
}

impl Realm {
    /// Joins and subscribes to everything below `f`.
    fn member(&mut self, client_id: &str, seed: u8, scheme: Scheme, suite: Suite) -> Client {
        let mut member = self.join(client_id, seed, Schemes::of(&[scheme]), suite);
        self.subscribe(&mut member, "f/#");
        self.received(&mut member);
        member
    }

    /// What a client received: keys with their epoch, messages with the type of their record.
    pub(super) fn opened(&mut self, client: &mut Client) -> Vec<String> {
        let mut bytes = self.world.bytes(client.connection);
        let mut rest = bytes.as_mut_slice();
        let mut all = Vec::new();
        while !rest.is_empty() {
            let record_type = rest[0] & 0x7F;
            let record = client.opener.next(rest, 1 << 20).unwrap().unwrap();
            match &record.content {
                Content::Packets(range) => {
                    all.extend(describe_all(&rest[range.clone()], ProtocolVersion::V5));
                }
                Content::Fan(delivery) => {
                    let publish = delivery.publish(rest).unwrap();
                    let payload = String::from_utf8_lossy(publish.payload).into_owned();
                    all.push(format!("{record_type} {} {payload}", publish.topic.unwrap().as_str()));
                }
                Content::Control(range) => all.push(match ControlOp::parse(&rest[range.clone()]).unwrap() {
                    ControlOp::GroupGrant { epoch, scope, .. } => {
                        format!("key {epoch} of {}", String::from_utf8_lossy(scope))
                    }
                    ControlOp::GroupRevoke { epoch, .. } => format!("no key {epoch}"),
                    _ => "another operation".to_owned(),
                }),
                Content::KeyUpdated => all.push("KeyUpdate".to_owned()),
            }
            rest = &mut rest[record.consumed..];
        }
        all
    }

    pub(super) fn say(&mut self, from: Conn, topic: &str, payload: &str) {
        self.world.publish(from, topic, payload, QoS::AtMostOnce, 0);
    }

    fn unsubscribe(&mut self, client: &mut Client, filter: &str) {
        let mut filters = UnsubscribeFiltersBuf::default();
        filters.push(TopicFilter::new(filter).unwrap());
        self.send(
            client,
            &[Packet::Unsubscribe(Unsubscribe {
                packet_id: id(10),
                user: UserProperties::default(),
                filters: filters.as_filters(),
            })],
        );
    }

    fn rekeys(&self) -> u64 {
        self.world.sample("veilmq_channel_group_rekeys_total", "")
    }
}

/// The type of a record that carries a message under a group key.
fn record_type(scheme: Scheme) -> u8 {
    if scheme == Scheme::Three { 5 } else { 4 }
}

#[test]
fn members_get_the_key_right_before_the_first_message_in_every_suite_scheme_and_form() {
    for shards in [1, 3] {
        for suite in Suite::ALL {
            for (scheme, form) in [
                (Scheme::Three, FanOutForm::Digest),
                (Scheme::Three, FanOutForm::Group),
                (Scheme::Four, FanOutForm::Group),
                (Scheme::Four, FanOutForm::GroupOuter),
            ] {
                let mut realm = grouping_on(shards, fan_out(form));
                let mut members =
                    [realm.member("lake-1", 11, scheme, suite), realm.member("lake-2", 12, scheme, suite)];
                let (plain, _) = realm.world.join("plain", true, 0);
                realm.world.subscribe(plain, "f/#", QoS::AtMostOnce);
                realm.world.bytes(plain);
                let (press, _) = realm.world.join("press-07", true, 0);

                realm.say(press, "f/t", "short");
                realm.say(press, "f/t", LONG);

                let kind = record_type(scheme);
                for member in &mut members {
                    assert_eq!(
                        realm.opened(member),
                        [
                            "key 1 of f/t".to_owned(),
                            format!("{kind} f/t short"),
                            format!("{kind} f/t {LONG}")
                        ],
                        "{suite:?} {scheme:?} {form:?}"
                    );
                }
                assert_eq!(
                    realm.world.received(plain),
                    ["PUBLISH f/t \"short\" qos0".to_owned(), format!("PUBLISH f/t {LONG:?} qos0")]
                );
            }
        }
    }
}

#[test]
fn operations_on_channels_are_counted_where_they_are_made() {
    for suite in Suite::ALL {
        for (scheme, form, expected) in [
            (Scheme::Two, FanOutForm::Digest, [2, 2, 0, 0]),
            (Scheme::Three, FanOutForm::Group, [1, 1, 0, 0]),
            (Scheme::Three, FanOutForm::Digest, [1, 1, 2, 1]),
            (Scheme::Four, FanOutForm::Group, [0, 1, 0, 0]),
            (Scheme::Four, FanOutForm::GroupOuter, [0, 1, 2, 0]),
            (Scheme::Four, FanOutForm::Digest, [0, 0, 2, 1]),
        ] {
            let mut realm = grouping(fan_out(form));
            let _members =
                [realm.member("lake-1", 11, scheme, suite), realm.member("lake-2", 12, scheme, suite)];
            let (press, _) = realm.world.join("press-07", true, 0);
            // The first message brings keys.
            realm.say(press, "f/t", LONG);
            let counted = |realm: &Realm| {
                Operations::NAMES.map(|name| realm.world.sample("veilmq_channel_operations_total", name))
            };
            let before = counted(&realm);

            realm.say(press, "f/t", LONG);

            let after = counted(&realm);
            let made: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
            assert_eq!(made, expected, "{suite:?} {scheme:?} {form:?}");
        }
    }
}

#[test]
fn large_messages_are_shared_and_arrive_whole() {
    let large = "x".repeat(50_000);
    for (scheme, form) in [(Scheme::Three, FanOutForm::Digest), (Scheme::Four, FanOutForm::GroupOuter)] {
        let mut realm = grouping(fan_out(form));
        let mut members = [
            realm.member("lake-1", 11, scheme, Suite::Aes256Gcm),
            realm.member("lake-2", 12, scheme, Suite::ChaCha20Poly1305),
        ];
        let (press, _) = realm.world.join("press-07", true, 0);

        realm.say(press, "f/t", &large);

        for member in &mut members {
            let kind = record_type(scheme);
            assert_eq!(realm.opened(member), ["key 1 of f/t".to_owned(), format!("{kind} f/t {large}")]);
        }
    }
}

#[test]
fn when_a_member_leaves_the_next_message_is_under_a_new_key() {
    type Leave = fn(&mut Realm, &mut Client);
    let leaves: [(&str, Leave); 2] = [
        ("unsubscribed", |realm, client| {
            realm.unsubscribe(client, "f/#");
            assert_eq!(realm.opened(client), ["no key 1", "UNSUBACK [00]"]);
        }),
        ("disconnected", |realm, client| realm.world.cut(client.connection)),
    ];
    for (name, leave) in leaves {
        let mut realm = grouping(fan_out(FanOutForm::Digest));
        let mut stays = realm.member("lake-1", 11, Scheme::Three, Suite::Aes256Gcm);
        let mut leaves = realm.member("lake-2", 12, Scheme::Three, Suite::Aes256Gcm);
        let (press, _) = realm.world.join("press-07", true, 0);
        realm.say(press, "f/t", "one");
        realm.opened(&mut leaves);
        assert_eq!(realm.opened(&mut stays), ["key 1 of f/t", "5 f/t one"]);

        realm.world.pass(1_000);
        leave(&mut realm, &mut leaves);
        realm.say(press, "f/t", "two");
        realm.say(press, "f/t", "three");

        assert_eq!(realm.opened(&mut stays), ["key 2 of f/t", "5 f/t two", "5 f/t three"], "{name}");
        assert_eq!(realm.rekeys(), 1, "{name}");
        assert!(realm.world.bytes(leaves.connection).is_empty(), "{name}");
    }
}

#[test]
fn members_that_leave_together_cost_one_new_key() {
    let mut realm = grouping(fan_out(FanOutForm::Digest));
    let mut stays = realm.member("lake-1", 11, Scheme::Three, Suite::Aes256Gcm);
    let left = [2, 3, 4]
        .map(|number| realm.member(&format!("lake-{number}"), 10 + number, Scheme::Three, Suite::Aes256Gcm));
    let (press, _) = realm.world.join("press-07", true, 0);
    realm.say(press, "f/t", "one");
    realm.opened(&mut stays);

    for member in &left {
        realm.world.cut(member.connection);
        realm.say(press, "f/t", "soon");
    }
    assert_eq!(realm.opened(&mut stays), ["5 f/t soon", "5 f/t soon", "5 f/t soon"]);
    realm.world.pass(1_000);
    realm.say(press, "f/t", "later");

    assert_eq!(realm.opened(&mut stays), ["key 2 of f/t", "5 f/t later"]);
    assert_eq!(realm.rekeys(), 1);
}

#[test]
fn another_filter_that_matches_brings_a_member_back_under_the_new_key() {
    let mut realm = grouping(FanOut { rekey_milliseconds_min: 0, ..FanOut::default() });
    let mut member = realm.member("lake-1", 11, Scheme::Three, Suite::Aes256Gcm);
    let mut other = realm.member("lake-2", 12, Scheme::Three, Suite::Aes256Gcm);
    realm.subscribe(&mut member, "+/t");
    let (press, _) = realm.world.join("press-07", true, 0);
    realm.say(press, "f/t", "one");
    realm.opened(&mut member);
    realm.opened(&mut other);

    realm.unsubscribe(&mut member, "f/#");
    realm.say(press, "f/t", "two");

    assert_eq!(realm.opened(&mut member), ["no key 1", "UNSUBACK [00]", "key 2 of f/t", "5 f/t two"]);
    assert_eq!(realm.opened(&mut other), ["key 2 of f/t", "5 f/t two"]);
}

#[test]
fn keys_grow_old_and_with_join_secrecy_a_new_member_brings_a_new_one() {
    let settings = FanOut { key_milliseconds: 60_000, join_secrecy: true, ..FanOut::default() };
    let mut realm = grouping(settings);
    let mut first = realm.member("lake-1", 11, Scheme::Three, Suite::Aes256Gcm);
    let (press, _) = realm.world.join("press-07", true, 0);
    realm.say(press, "f/t", "one");
    realm.world.pass(59_999);
    realm.say(press, "f/t", "two");
    assert_eq!(realm.opened(&mut first), ["key 1 of f/t", "5 f/t one", "5 f/t two"]);

    realm.world.pass(1);
    realm.say(press, "f/t", "three");
    assert_eq!(realm.opened(&mut first), ["key 2 of f/t", "5 f/t three"]);

    let mut second = realm.member("lake-2", 12, Scheme::Three, Suite::Aes256Gcm);
    realm.say(press, "f/t", "four");
    assert_eq!(realm.opened(&mut second), ["key 3 of f/t", "5 f/t four"]);
    assert_eq!(realm.opened(&mut first), ["5 f/t four"], "it had its copy before");
    realm.say(press, "f/t", "five");
    assert_eq!(realm.opened(&mut first), ["key 3 of f/t", "5 f/t five"]);
    assert_eq!(realm.opened(&mut second), ["5 f/t five"]);
}

#[test]
fn topics_of_one_scope_share_a_key_and_the_narrowest_scope_counts() {
    let scopes = ["f/#", "f/line/#"].map(std::sync::Arc::from).into();
    let mut realm = grouping(FanOut { scopes, ..FanOut::default() });
    let mut member = realm.member("lake-1", 11, Scheme::Three, Suite::Aes256Gcm);
    let (press, _) = realm.world.join("press-07", true, 0);

    for topic in ["f/a", "f/b", "f/line/a", "f/line/b"] {
        realm.say(press, topic, "x");
    }

    assert_eq!(
        realm.opened(&mut member),
        ["key 1 of f/#", "5 f/a x", "5 f/b x", "key 1 of f/line/#", "5 f/line/a x", "5 f/line/b x"]
    );
    realm.unsubscribe(&mut member, "f/#");
    assert_eq!(realm.opened(&mut member), ["no key 1", "no key 1", "UNSUBACK [00]"]);
}

#[test]
fn a_client_in_many_groups_gets_the_rest_sealed_for_itself_alone() {
    for (scheme, form, alone) in
        [(Scheme::Three, FanOutForm::Digest, "PUBLISH"), (Scheme::Four, FanOutForm::Group, "3 ")]
    {
        let mut realm = grouping(fan_out(form));
        let mut member = realm.member("lake-1", 11, scheme, Suite::Aes256Gcm);
        let (press, _) = realm.world.join("press-07", true, 0);

        for number in 0..257 {
            realm.say(press, &format!("f/{number}"), LONG);
        }

        let opened = realm.opened(&mut member);
        assert_eq!(opened.iter().filter(|text| text.starts_with("key 1 of")).count(), 256);
        assert!(opened.last().unwrap().starts_with(alone), "{}", opened.last().unwrap());
        assert!(opened.last().unwrap().contains("f/256"));
    }
}

#[test]
fn a_member_that_gets_two_copies_gets_two_messages_of_the_group() {
    for (scheme, form) in [(Scheme::Three, FanOutForm::Digest), (Scheme::Four, FanOutForm::Group)] {
        let mut realm = grouping(fan_out(form));
        let mut member = realm.member("lake-1", 11, scheme, Suite::Aes256Gcm);
        let mut other = realm.member("lake-2", 12, scheme, Suite::Aes256Gcm);
        realm.subscribe(&mut member, "$share/readers/f/#");
        realm.received(&mut member);
        let (press, _) = realm.world.join("press-07", true, 0);

        for payload in ["one", "two"] {
            realm.say(press, "f/t", payload);
        }

        let kind = record_type(scheme);
        let [one, two] = ["one", "two"].map(|payload| format!("{kind} f/t {payload}"));
        let key = "key 1 of f/t".to_owned();
        let twice = [key.clone(), one.clone(), one.clone(), two.clone(), two.clone()];
        assert_eq!(realm.opened(&mut member), twice, "{scheme:?}");
        assert_eq!(realm.opened(&mut other), [key, one, two], "{scheme:?}");
    }
}

#[test]
fn what_waited_is_sealed_under_the_key_of_the_moment_it_is_sent() {
    let mut realm = grouping(FanOut { rekey_milliseconds_min: 0, ..FanOut::default() });
    let schemes = Schemes::of(&[Scheme::Three]);
    let connect = connect_v5("lake-1", false, 600);
    let mut away = realm.join_with(connect, 11, schemes, Suite::Aes256Gcm);
    realm.subscribe(&mut away, "f/#");
    let mut stays = realm.member("lake-2", 12, Scheme::Three, Suite::Aes256Gcm);
    let (press, _) = realm.world.join("press-07", true, 0);
    realm.say(press, "f/t", "one");
    realm.world.cut(away.connection);
    realm.world.publish(press, "f/t", "waits", QoS::AtLeastOnce, 1);
    assert_eq!(realm.opened(&mut stays), ["key 1 of f/t", "5 f/t one", "key 2 of f/t", "5 f/t waits"]);

    let (bytes, awaiting) = realm.compact(11, connect, schemes, Suite::Aes256Gcm, 1);
    let connection = realm.send_connect(&bytes);
    let connack = realm.world.bytes(connection);
    let (mut back, _) =
        one_trip::client(connection, awaiting.handle(&connack, &realm.anchors, Some(1_800_000_000)).unwrap());
    realm.send(&mut back, &[Packet::PingReq]);

    assert_eq!(realm.opened(&mut back), ["key 2 of f/t", "5 f/t waits", "PINGRESP"]);
}

#[test]
fn a_client_of_scheme_1_speaks_plain_mqtt_as_the_one_it_proved_to_be() {
    let mut realm = grouping(FanOut::default());
    let schemes = Schemes::of(&[Scheme::One]);
    let client = realm.join("press-07", 10, schemes, Suite::Aes256Gcm);

    realm.world.subscribe(client.connection, "f/#", QoS::AtMostOnce);
    realm.world.bytes(client.connection);
    realm.say(client.connection, "f/t", "plain");

    assert_eq!(realm.world.received(client.connection), ["PUBLISH f/t \"plain\" qos0"]);
    let thief = realm.world.connect(&connect_v5("press-07", true, 0));
    assert_eq!(realm.world.bytes(thief), [0x20, 3, 0, 0x87, 0], "the session is of an identity");
}
