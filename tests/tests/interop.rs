//! MQTT client libraries that are not ours, in every protocol version they have, against the real broker.
//!
//! Each scenario is written once and runs for each library and version; `tests/src/puppet.rs` drives the libraries.
//! None of them knows an extension of ours ([MQTT311-7.0.0-2]).

use std::time::Duration;

use veilmq_tests::broker::Broker;
use veilmq_tests::message::{Message, Properties};
use veilmq_tests::puppet::{Client, Connect, Library, Version};

/// The largest packet that the broker takes by default.
const PACKET_BYTES_MAX: usize = 16 << 20;
/// A PUBLISH of these tests is this much larger than its payload at most.
const HEAD_BYTES_MAX: usize = 16;

/// One library in one version, against one broker.
struct Side {
    broker: Broker,
    library: Library,
    version: Version,
}

impl Side {
    /// None where the library is not installed, before a broker is started.
    fn new(library: Library, version: Version) -> Option<Self> {
        Client::new(library, version, 0)?;
        Some(Self { broker: Broker::start(), library, version })
    }

    fn client(&self) -> Client {
        Client::new(self.library, self.version, self.broker.port()).expect("the library is installed")
    }

    fn connected(&self, id: &str) -> Client {
        let mut client = self.client();
        assert!(!client.connect(Connect::clean(id)), "a clean session is never present");
        client
    }
}

fn each_message_arrives_at_the_lower_qos_of_publisher_and_subscription(side: &Side) {
    let mut subscriber = side.connected("subscriber");
    let mut publisher = side.connected("publisher");
    for granted in 0..=2 {
        assert_eq!(subscriber.subscribe(&format!("qos/{granted}"), granted), granted);
    }

    for granted in 0..=2 {
        for sent in 0..=2 {
            let topic = format!("qos/{granted}");
            let payload = format!("sent at {sent}");
            publisher.publish(Message::new(&topic, payload.as_bytes(), sent));

            assert_eq!(subscriber.receive(), Message::new(&topic, payload.as_bytes(), sent.min(granted)));
        }
    }
}

fn a_retained_message_reaches_later_subscribers_until_it_is_cleared(side: &Side) {
    let mut publisher = side.connected("publisher");
    let mut early = side.connected("early");
    early.subscribe("state/#", 1);

    publisher.publish(Message::new("state/door", b"open", 1).retained());
    publisher.publish(Message::new("state/door", b"closed", 1).retained());

    assert_eq!(early.receive(), Message::new("state/door", b"open", 1), "to a live subscription RETAIN is 0");
    assert_eq!(early.receive(), Message::new("state/door", b"closed", 1));
    let mut late = side.connected("late");
    late.subscribe("state/+", 1);
    assert_eq!(late.receive(), Message::new("state/door", b"closed", 1).retained());

    publisher.publish(Message::new("state/door", b"", 1).retained());
    assert_eq!(late.receive(), Message::new("state/door", b"", 1));
    let mut last = side.connected("last");
    last.subscribe("state/#", 1);
    publisher.publish(Message::new("state/end", b"marker", 1));
    assert_eq!(
        last.receive(),
        Message::new("state/end", b"marker", 1),
        "the cleared message does not come first"
    );
}

fn a_will_is_published_when_the_connection_breaks(side: &Side) {
    let mut witness = side.connected("witness");
    witness.subscribe("will/#", 1);
    let mut mortal = side.client();
    let will = Message::new("will/mortal", b"gone", 1).retained();
    mortal.connect(Connect { will: Some(will.clone()), ..Connect::clean("mortal") });

    drop(mortal);

    assert_eq!(witness.receive(), Message::new("will/mortal", b"gone", 1));
    let mut late = side.connected("late");
    late.subscribe("will/mortal", 1);
    assert_eq!(late.receive(), will, "the Will was to be retained");
}

fn a_will_is_discarded_on_normal_disconnect(side: &Side) {
    let mut witness = side.connected("witness");
    witness.subscribe("will/#", 1);
    let mut leaving = side.client();
    leaving.connect(Connect {
        will: Some(Message::new("will/leaving", b"gone", 1)),
        ..Connect::clean("leaving")
    });

    leaving.disconnect();

    let mut marker = side.connected("marker");
    marker.publish(Message::new("will/end", b"marker", 1));
    assert_eq!(witness.receive(), Message::new("will/end", b"marker", 1));
}

fn a_persistent_session_keeps_its_subscriptions_and_what_arrives_meanwhile(side: &Side) {
    let mut sleeper = side.client();
    assert!(!sleeper.connect(Connect::persistent("sleeper")), "the first connection makes the session");
    sleeper.subscribe("mail/+", 2);
    sleeper.disconnect();
    let mut publisher = side.connected("publisher");

    let letter = |number: u8| {
        let qos = 1 + number % 2;
        Message::new(&format!("mail/{qos}"), format!("letter {number}").as_bytes(), qos)
    };

    for number in 0..20 {
        publisher.publish(letter(number));
    }

    let mut sleeper = side.client();
    assert!(sleeper.connect(Connect::persistent("sleeper")), "the session is present");
    let received: Vec<Message> = (0..20).map(|_| sleeper.receive()).collect();
    // Libraries hand a QoS 2 message over at PUBLISH or at PUBREL, so order counts within one QoS.
    for parity in 0..2 {
        let expected: Vec<Message> = (0..20).filter(|number| number % 2 == parity).map(letter).collect();
        let got = received.iter().filter(|message| message.qos == 1 + parity);
        assert!(got.eq(&expected), "{received:?} should contain {expected:?} in this order");
    }
    sleeper.disconnect();
    assert!(!side.client().connect(Connect::clean("sleeper")), "a clean start discards the session");
}

fn wildcards_match_whole_levels_and_leave_dollar_topics_out(side: &Side) {
    let mut publisher = side.connected("publisher");
    let cases = [
        ("house/+/temperature", "house/kitchen/temperature", "house/kitchen/shelf/temperature"),
        ("house/#", "house", "houses/kitchen"),
        ("+/+", "/finance", "finance"),
        ("#", "a/b/c", "$secret/a"),
        ("+/$b", "a/$b", "$b/$b"),
    ];

    for (number, (filter, inside, outside)) in cases.into_iter().enumerate() {
        let mut subscriber = side.connected(&format!("subscriber{number}"));
        subscriber.subscribe(filter, 1);

        publisher.publish(Message::new(outside, b"outside", 1));
        publisher.publish(Message::new(inside, b"inside", 1));

        assert_eq!(subscriber.receive(), Message::new(inside, b"inside", 1), "{filter}");
        subscriber.disconnect();
    }
}

fn an_unsubscribed_filter_delivers_nothing_more(side: &Side) {
    let mut client = side.connected("client");
    client.subscribe("news", 1);
    client.subscribe("end", 1);
    client.publish(Message::new("news", b"first", 1));
    assert_eq!(client.receive(), Message::new("news", b"first", 1));

    client.unsubscribe("news");

    client.publish(Message::new("news", b"second", 1));
    client.publish(Message::new("end", b"marker", 1));
    assert_eq!(client.receive(), Message::new("end", b"marker", 1));
}

fn a_second_connection_with_the_client_identifier_takes_the_session_over(side: &Side) {
    let mut first = side.client();
    first.connect(Connect::persistent("twin"));
    first.subscribe("twin/#", 1);

    let mut second = side.client();
    assert!(second.connect(Connect::persistent("twin")), "the session is taken over, not lost");

    let reason = first.closed();
    if side.version == Version::V5 {
        assert_eq!(reason, Some(0x8e), "session taken over");
    }
    side.connected("publisher").publish(Message::new("twin/a", b"for the second", 1));
    assert_eq!(second.receive(), Message::new("twin/a", b"for the second", 1));
}

/// A payload of which every part looks different.
fn payload(bytes: usize) -> Vec<u8> {
    let seed: Vec<u8> = (0..1 << 20).map(|index: u32| (index ^ (index >> 8)) as u8).collect();
    seed.into_iter().cycle().take(bytes).collect()
}

fn payloads_of_about_the_maximum_packet_size_arrive_unchanged_at_every_qos(side: &Side) {
    let mut subscriber = side.connected("subscriber");
    subscriber.subscribe("big", 2);
    let mut publisher = side.connected("publisher");

    let payload = payload(PACKET_BYTES_MAX - HEAD_BYTES_MAX);
    for qos in 0..=2 {
        publisher.publish(Message::new("big", &payload, qos));

        let received = subscriber.receive();
        assert!(received.payload == payload, "the payload changed: {received:?}");
        assert_eq!(received.qos, qos);
    }
}

fn a_packet_above_the_maximum_is_refused_and_the_broker_lives_on(side: &Side) {
    let mut witness = side.connected("witness");
    witness.subscribe("big", 1);
    let mut publisher = side.connected("publisher");

    publisher.publish_in_vain(Message::new("big", &payload(PACKET_BYTES_MAX + 1), 1));

    let reason = publisher.closed();
    // paho shows no Reason Code of a DISCONNECT without properties.
    if side.version == Version::V5 && side.library != Library::Paho {
        assert_eq!(reason, Some(0x95), "packet too large");
    }
    side.connected("another").publish(Message::new("big", b"fits", 1));
    assert_eq!(witness.receive(), Message::new("big", b"fits", 1));
}

fn properties() -> Properties {
    let user = [("name", "first"), ("name", "second"), ("other", "third")];
    Properties {
        is_utf8: true,
        response_topic: Some("answers/here".to_owned()),
        correlation_data: Some(vec![0, 1, 0xff]),
        content_type: Some("text/plain".to_owned()),
        user: user.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..Properties::default()
    }
}

fn properties_arrive_as_they_were_sent(side: &Side) {
    let mut subscriber = side.connected("subscriber");
    subscriber.subscribe("properties", 2);
    let mut publisher = side.connected("publisher");

    for qos in 0..=2 {
        let message = Message::new("properties", b"text", qos).with(properties());
        publisher.publish(message.clone());

        assert_eq!(subscriber.receive(), message);
    }
}

fn a_will_keeps_its_properties(side: &Side) {
    let mut witness = side.connected("witness");
    witness.subscribe("will/#", 1);
    let mut mortal = side.client();
    let will = Message::new("will/mortal", b"gone", 1).with(properties());
    mortal.connect(Connect { will: Some(will.clone()), ..Connect::clean("mortal") });

    drop(mortal);

    assert_eq!(witness.receive(), will);
}

fn the_message_expiry_interval_counts_down_and_ends_a_message(side: &Side) {
    let mut sleeper = side.client();
    sleeper.connect(Connect::persistent("sleeper"));
    sleeper.subscribe("expiring/#", 1);
    sleeper.disconnect();
    let mut publisher = side.connected("publisher");
    for (topic, seconds) in [("expiring/short", 1), ("expiring/long", 1_000)] {
        let expiring = Properties { expiry_seconds: Some(seconds), ..Properties::default() };
        publisher.publish(Message::new(topic, b"x", 1).with(expiring));
    }
    // The broker's clock is the real one here.
    std::thread::sleep(Duration::from_millis(1_200));

    let mut sleeper = side.client();
    assert!(sleeper.connect(Connect::persistent("sleeper")));

    let received = sleeper.receive();
    assert_eq!(received.topic, "expiring/long", "the other has expired");
    let left = received.properties.expiry_seconds.expect("the interval is passed on");
    assert!((900..1_000).contains(&left), "{left} s of 1000 are left");
}

fn overlapping_subscriptions_deliver_once_with_each_of_their_identifiers(side: &Side) {
    let mut subscriber = side.connected("subscriber");
    subscriber.subscribe_as(7, "numbered/+", 1);
    subscriber.subscribe_as(300_000, "numbered/#", 2);

    side.connected("publisher").publish(Message::new("numbered/a", b"x", 2));
    side.connected("another").publish(Message::new("numbered/a/b", b"y", 2));

    let ids = |ids: &[u32]| Properties { subscription_ids: ids.to_vec(), ..Properties::default() };
    assert_eq!(subscriber.receive(), Message::new("numbered/a", b"x", 2).with(ids(&[7, 300_000])));
    assert_eq!(subscriber.receive(), Message::new("numbered/a/b", b"y", 2).with(ids(&[300_000])));
}

fn a_topic_alias_of_the_client_stands_for_its_topic(side: &Side) {
    let mut subscriber = side.connected("subscriber");
    subscriber.subscribe("aliased/#", 1);
    let mut publisher = side.connected("publisher");
    let alias = Properties { topic_alias: Some(3), ..Properties::default() };

    publisher.publish(Message::new("aliased/a", b"first", 1).with(alias.clone()));
    publisher.publish(Message::new("", b"second", 1).with(alias));

    assert_eq!(subscriber.receive(), Message::new("aliased/a", b"first", 1));
    assert_eq!(subscriber.receive(), Message::new("aliased/a", b"second", 1));
}

fn the_broker_gives_topics_aliases_if_the_client_takes_them(side: &Side) {
    let mut subscriber = side.client();
    subscriber.connect(Connect { topic_alias_maximum: 2, ..Connect::clean("subscriber") });
    subscriber.subscribe("aliased/#", 1);
    let mut publisher = side.connected("publisher");

    let topics = ["aliased/a", "aliased/b", "aliased/c", "aliased/b", "aliased/a", "aliased/c"];
    for topic in topics {
        publisher.publish(Message::new(topic, b"x", 1));
    }

    let received = topics.map(|_| subscriber.receive());
    assert_eq!(received.each_ref().map(|message| message.topic.as_str()), topics);
    let aliases: Vec<u16> = received.iter().filter_map(|message| message.properties.topic_alias).collect();
    assert!(aliases.len() >= 4 && aliases.iter().all(|alias| (1..=2).contains(alias)), "{aliases:?}");
}

fn a_small_receive_maximum_slows_delivery_down_but_loses_nothing(side: &Side) {
    let mut subscriber = side.client();
    subscriber.connect(Connect { receive_maximum: Some(1), ..Connect::clean("subscriber") });
    subscriber.subscribe("flow/#", 2);
    let mut publisher = side.connected("publisher");
    let message = |number: u8| Message::new("flow/a", &[number], 1 + number % 2);

    for number in 0..20 {
        publisher.publish(message(number));
    }

    for number in 0..20 {
        assert_eq!(subscriber.receive(), message(number));
    }
}

fn a_client_without_an_identifier_is_assigned_one(side: &Side) {
    let assigned = [side.client(), side.client()].map(|mut client| client.connect_anonymously());

    if side.version == Version::V5 {
        let [first, second] = assigned.map(|id| id.expect("CONNACK carries the identifier"));
        assert!(!first.is_empty() && first != second, "{first:?} and {second:?}");
    }
}

fn a_shared_subscription_gives_each_message_to_one_member(side: &Side) {
    let mut publisher = side.connected("publisher");
    publisher.publish(Message::new("jobs/old", b"retained", 1).retained());
    let mut members = ["first", "second"].map(|id| side.connected(id));
    for member in &mut members {
        assert_eq!(member.subscribe("$share/workers/jobs/#", 1), 1);
        member.subscribe("end", 1);
    }

    for number in 0..20 {
        publisher.publish(Message::new("jobs/new", &[number], 1));
    }
    publisher.publish(Message::new("end", b"", 1));

    // No member gets the retained message.
    let mut numbers: Vec<u8> = Vec::new();
    for member in &mut members {
        let received = std::iter::repeat_with(|| member.receive());
        let work: Vec<Message> = received.take_while(|message| message.topic != "end").collect();
        assert!(work.iter().all(|message| message.topic == "jobs/new"), "{work:?}");
        assert!(!work.is_empty(), "the work is shared");
        numbers.extend(work.iter().flat_map(|message| message.payload.iter().copied()));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<u8>>());
}

/// Makes a module for one library and version, with a test for each scenario.
macro_rules! scenarios {
    ($($module:ident = $library:ident $version:ident { $($scenario:ident)* })*) => {
        $(mod $module {
            use super::{Library, Side, Version};

            $(#[test]
            fn $scenario() {
                if let Some(side) = Side::new(Library::$library, Version::$version) {
                    super::$scenario(&side);
                }
            })*
        })*
    };
}

/// Adds to a library's own scenarios those of each version that it speaks: of both, and of MQTT 5 alone.
macro_rules! libraries {
    ($($library:ident: $v311:ident { $($in_both:ident)* } $v5:ident)*) => {
        $(libraries! { @both $library $v311 $v5 {
            each_message_arrives_at_the_lower_qos_of_publisher_and_subscription
            a_retained_message_reaches_later_subscribers_until_it_is_cleared
            a_will_is_published_when_the_connection_breaks
            a_will_is_discarded_on_normal_disconnect
            a_persistent_session_keeps_its_subscriptions_and_what_arrives_meanwhile
            wildcards_match_whole_levels_and_leave_dollar_topics_out
            an_unsubscribed_filter_delivers_nothing_more
            a_second_connection_with_the_client_identifier_takes_the_session_over
            payloads_of_about_the_maximum_packet_size_arrive_unchanged_at_every_qos
            a_shared_subscription_gives_each_message_to_one_member
            $($in_both)*
        } })*
    };
    (@both $library:ident $v311:ident $v5:ident { $($in_both:ident)* }) => {
        scenarios! {
            $v311 = $library V311 { $($in_both)* }
            $v5 = $library V5 {
                $($in_both)*
                properties_arrive_as_they_were_sent
                a_will_keeps_its_properties
                the_message_expiry_interval_counts_down_and_ends_a_message
                overlapping_subscriptions_deliver_once_with_each_of_their_identifiers
                a_topic_alias_of_the_client_stands_for_its_topic
                the_broker_gives_topics_aliases_if_the_client_takes_them
                a_small_receive_maximum_slows_delivery_down_but_loses_nothing
            }
        }
    };
}

// rumqttc and MQTT.js keep packets above the broker's maximum back; gmqtt makes a Client Identifier up.
libraries! {
    Paho:
        paho_with_mqtt_3_1_1 {
            a_client_without_an_identifier_is_assigned_one
            a_packet_above_the_maximum_is_refused_and_the_broker_lives_on
        }
        paho_with_mqtt_5
    MqttJs:
        mqttjs_with_mqtt_3_1_1 { a_client_without_an_identifier_is_assigned_one }
        mqttjs_with_mqtt_5
    Rumqttc:
        rumqttc_with_mqtt_3_1_1 { a_client_without_an_identifier_is_assigned_one }
        rumqttc_with_mqtt_5
    Gmqtt:
        gmqtt_with_mqtt_3_1_1 { a_packet_above_the_maximum_is_refused_and_the_broker_lives_on }
        gmqtt_with_mqtt_5
}
