//! MQTT client libraries that are not ours, in every protocol version they have, against the real broker.
//!
//! Each scenario is written once and runs for each library and version; `tests/src/puppet.rs` drives the libraries.
//! None of them knows an extension of ours ([MQTT311-7.0.0-2]).

use veilmq_tests::broker::Broker;
use veilmq_tests::puppet::{Client, Connect, Library, Message, Version};

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

fn a_payload_of_one_mebibyte_arrives_unchanged(side: &Side) {
    let mut subscriber = side.connected("subscriber");
    subscriber.subscribe("big", 2);
    let mut publisher = side.connected("publisher");
    let payload: Vec<u8> = (0..1 << 20).map(|index: u32| (index ^ (index >> 8)) as u8).collect();

    for qos in 0..=2 {
        publisher.publish(Message::new("big", &payload, qos));

        let received = subscriber.receive();
        assert!(received.payload == payload, "the payload changed: {received:?}");
        assert_eq!(received.qos, qos);
    }
}

/// Makes a module for one library and version, with a test for each scenario.
macro_rules! scenarios {
    ($($module:ident = $library:ident $version:ident;)*) => {
        $(scenarios!(@module $module $library $version {
            each_message_arrives_at_the_lower_qos_of_publisher_and_subscription
            a_retained_message_reaches_later_subscribers_until_it_is_cleared
            a_will_is_published_when_the_connection_breaks
            a_will_is_discarded_on_normal_disconnect
            a_persistent_session_keeps_its_subscriptions_and_what_arrives_meanwhile
            wildcards_match_whole_levels_and_leave_dollar_topics_out
            an_unsubscribed_filter_delivers_nothing_more
            a_second_connection_with_the_client_identifier_takes_the_session_over
            a_payload_of_one_mebibyte_arrives_unchanged
        });)*
    };
    (@module $module:ident $library:ident $version:ident { $($scenario:ident)* }) => {
        mod $module {
            use super::{Library, Side, Version};

            $(#[test]
            fn $scenario() {
                if let Some(side) = Side::new(Library::$library, Version::$version) {
                    super::$scenario(&side);
                }
            })*
        }
    };
}

scenarios! {
    paho_with_mqtt_3_1_1 = Paho V311;
    paho_with_mqtt_5 = Paho V5;
    mqttjs_with_mqtt_3_1_1 = MqttJs V311;
    mqttjs_with_mqtt_5 = MqttJs V5;
    rumqttc_with_mqtt_3_1_1 = Rumqttc V311;
    rumqttc_with_mqtt_5 = Rumqttc V5;
}
