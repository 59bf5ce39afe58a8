//! The session without I/O: what it sends for what happens, byte for byte and under a virtual clock.
#![allow(clippy::unwrap_used, reason = "test code")]

mod sdk_support;

use std::num::{NonZeroU16, NonZeroU32};

use sdk_support::{
    Rig, acknowledgement, closed, connack, id, incoming, options, outcome, publication, publish_bytes,
    resumed, suback, subscribe_options, unsuback,
};
use veilmq_client::{
    QoS, ReasonCode, Will,
    session::{CloseReason, DeliveryError, Event, SessionOptions, SubmitError},
};
use veilmq_protocol::{
    Acknowledgement, ConnAck, ConnAckProperties, Packet, PacketType, UnsubAck, UserProperties,
};

#[test]
fn connect_asks_for_what_the_options_say() {
    let mut rig = Rig::new(SessionOptions {
        keep_alive_seconds: 30,
        receive_maximum: NonZeroU16::new(5).unwrap(),
        packet_bytes_max: NonZeroU32::new(1_024).unwrap(),
        topic_alias_maximum: 0,
        username: Some("u".to_owned()),
        password: Some(b"pw".to_vec().into()),
        user_properties: vec![("k".to_owned(), "v".to_owned())],
        ..options()
    });
    let will = Will::new("w", "bye").qos(QoS::AtLeastOnce).retain(true).delay_seconds(9);

    rig.session.connect(Some(&will), rig.now(), &mut |_| panic!("no randomness without a channel")).unwrap();

    let mut expected = b"\x10\x37\x00\x04MQTT\x05\xee\x00\x1e".to_vec();
    expected
        .extend_from_slice(b"\x14\x11\x00\x00\x01\x2c\x21\x00\x05\x27\x00\x00\x04\x00\x26\x00\x01k\x00\x01v");
    expected.extend_from_slice(b"\x00\x01c\x05\x18\x00\x00\x00\x09\x00\x01w\x00\x03bye\x00\x01u\x00\x02pw");
    assert_eq!(rig.sent(), expected);
}

#[test]
fn later_connections_resume_the_session_even_if_the_first_started_clean() {
    let mut rig = Rig::connected(options());

    rig.connect();

    // The flags of CONNECT: neither Clean Start nor anything else.
    assert_eq!(rig.sent()[9], 0);
}

#[test]
fn the_identifier_the_server_chose_is_used_again() {
    let mut rig = Rig::new(SessionOptions::new(""));
    rig.reconnect(&connack(ConnAckProperties {
        assigned_client_id: Some("auto-7"),
        ..ConnAckProperties::default()
    }));

    rig.connect();

    assert_eq!(rig.session.client_id(), "auto-7");
    assert!(rig.sent().ends_with(b"\x00\x06auto-7"));
}

#[test]
fn a_connection_that_does_not_open_says_why() {
    let refused = ConnAck {
        reason: ReasonCode::BadUserNameOrPassword,
        properties: ConnAckProperties { reason_string: Some("no"), ..ConnAckProperties::default() },
        ..ConnAck::default()
    };
    let not_authorized =
        CloseReason::Refused { reason: ReasonCode::BadUserNameOrPassword, text: Some("no".to_owned()) };
    let rows = [
        (Packet::ConnAck(refused), not_authorized),
        // [MQTT-3.2.2-4]
        (Packet::ConnAck(resumed()), CloseReason::SessionNotDiscarded),
        (Packet::PingResp, CloseReason::Unexpected(PacketType::PingResp)),
    ];
    for (packet, reason) in rows {
        let mut rig = Rig::new(options());
        rig.connect();
        rig.sent();

        rig.receive(&packet);

        assert_eq!(closed(rig.poll()), reason);
        // [MQTT-3.14.0-1] is for servers, but a client too says nothing before CONNACK.
        assert!(rig.sent().is_empty(), "{reason}");
    }
}

#[test]
fn connack_is_awaited_for_the_answer_time() {
    let mut rig = Rig::new(options());
    rig.connect();

    assert_eq!(rig.session.next_timeout(), Some(rig.now_ms + 10_000));
    rig.pass(9_999);
    assert!(rig.poll().is_none());
    rig.pass(1);

    assert_eq!(closed(rig.poll()), CloseReason::Timeout("CONNACK"));
}

#[test]
fn qos_0_is_written_at_once_and_refused_without_a_connection() {
    let mut rig = Rig::connected(options());

    rig.session.publish(publication("hi", QoS::AtMostOnce)).unwrap();
    assert_eq!(rig.sent(), b"\x30\x06\x00\x01t\x00hi");

    rig.session.connection_lost();
    assert_eq!(rig.session.publish(publication("hi", QoS::AtMostOnce)), Err(SubmitError::NotConnected));
}

#[test]
fn qos_1_is_settled_by_puback() {
    let mut rig = Rig::connected(options());

    let token = rig.publish("hi", QoS::AtLeastOnce);
    assert_eq!(rig.sent(), publish_bytes(0x32, 1, "hi"));
    rig.receive(&Packet::PubAck(Acknowledgement::new(id(1), ReasonCode::NoMatchingSubscribers)));

    assert_eq!(outcome(rig.poll()), (token, Ok(ReasonCode::NoMatchingSubscribers)));
    assert!(!rig.session.awaits_answers());
}

#[test]
fn qos_2_is_settled_by_pubcomp_after_pubrel() {
    let mut rig = Rig::connected(options());

    let token = rig.publish("hi", QoS::ExactlyOnce);
    assert_eq!(rig.sent(), publish_bytes(0x34, 1, "hi"));
    rig.receive(&Packet::PubRec(acknowledgement(1)));
    assert!(rig.poll().is_none());
    assert_eq!(rig.sent(), b"\x62\x02\x00\x01");
    rig.receive(&Packet::PubComp(acknowledgement(1)));

    assert_eq!(outcome(rig.poll()), (token, Ok(ReasonCode::Success)));
}

#[test]
fn a_refused_message_is_settled_by_the_refusal() {
    for (qos, is_rec) in [(QoS::AtLeastOnce, false), (QoS::ExactlyOnce, true)] {
        let mut rig = Rig::connected(options());
        let token = rig.publish("hi", qos);
        rig.sent();
        let refusal = Acknowledgement {
            reason_string: Some("the payload is not sealed\u{1b}[2J"),
            ..Acknowledgement::new(id(1), ReasonCode::PayloadFormatInvalid)
        };

        rig.receive(&if is_rec { Packet::PubRec(refusal) } else { Packet::PubAck(refusal) });

        let (settled, refused) = outcome(rig.poll());
        assert_eq!(settled, token);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "the broker refused the message: Payload format invalid (the payload is not sealed[2J)",
            "with its words, but for those that move a terminal's cursor"
        );
        // [MQTT-4.3.3-4] No PUBREL follows a refusal.
        assert!(rig.sent().is_empty());
    }
}

/// [MQTT-4.4.0-1], [MQTT-4.6.0-1], [MQTT-3.3.1-1]
#[test]
fn unacknowledged_messages_are_sent_again_in_order_with_dup_when_the_session_is_present() {
    let mut rig = Rig::connected(options());
    rig.publish("a", QoS::AtLeastOnce);
    rig.publish("b", QoS::ExactlyOnce);
    rig.publish("c", QoS::ExactlyOnce);
    rig.publish("d", QoS::AtLeastOnce);
    rig.sent();
    rig.receive(&Packet::PubRec(acknowledgement(2)));
    rig.receive(&Packet::PubAck(acknowledgement(4)));
    assert!(outcome(rig.poll()).1.is_ok());
    rig.sent();

    let sent = rig.reconnect(&resumed());

    let expected = [b"\x62\x02\x00\x02".to_vec(), publish_bytes(0x3A, 1, "a"), publish_bytes(0x3C, 3, "c")];
    assert_eq!(sent, expected.concat());
}

#[test]
fn when_the_server_lost_the_session_qos_1_is_published_anew_and_qos_2_is_not_repeated() {
    // [MQTT-3.2.2-5]
    let mut rig = Rig::connected(options());
    rig.publish("a", QoS::AtLeastOnce);
    let unsure = rig.publish("b", QoS::ExactlyOnce);
    let received = rig.publish("c", QoS::ExactlyOnce);
    rig.sent();
    rig.receive(&Packet::PubRec(acknowledgement(3)));
    assert!(rig.poll().is_none());

    rig.connect();
    rig.sent();
    rig.receive(&Packet::ConnAck(ConnAck::default()));

    assert!(matches!(rig.poll(), Some(Event::Connected { session_present: false, .. })));
    assert_eq!(outcome(rig.poll()), (unsure, Err(DeliveryError::SessionLost)));
    assert_eq!(outcome(rig.poll()), (received, Ok(ReasonCode::Success)));
    assert_eq!(rig.sent(), publish_bytes(0x32, 4, "a"));
}

/// [MQTT-3.3.4-7]
#[test]
fn no_more_is_sent_than_the_receive_maximum_of_the_server_allows() {
    let mut rig = Rig::new(options());
    rig.reconnect(&connack(ConnAckProperties {
        receive_maximum: NonZeroU16::new(2),
        ..ConnAckProperties::default()
    }));

    for payload in ["a", "b", "c"] {
        rig.publish(payload, QoS::AtLeastOnce);
    }
    assert_eq!(rig.sent(), [publish_bytes(0x32, 1, "a"), publish_bytes(0x32, 2, "b")].concat());
    rig.receive(&Packet::PubAck(acknowledgement(2)));
    assert!(outcome(rig.poll()).1.is_ok());

    assert_eq!(rig.sent(), publish_bytes(0x32, 3, "c"));
}

#[test]
fn a_publication_that_is_to_be_completed_counts_on_the_next_connection_too() {
    // [MQTT-3.3.4-7]
    let mut rig = Rig::connected(options());
    rig.publish("a", QoS::ExactlyOnce);
    rig.sent();
    rig.receive(&Packet::PubRec(acknowledgement(1)));
    assert!(rig.poll().is_none());
    let connack = ConnAck {
        session_present: true,
        ..connack(ConnAckProperties { receive_maximum: NonZeroU16::new(1), ..ConnAckProperties::default() })
    };
    assert_eq!(rig.reconnect(&connack), b"\x62\x02\0\x01");

    rig.publish("b", QoS::AtLeastOnce);
    assert_eq!(rig.sent(), b"");
    rig.receive(&Packet::PubComp(acknowledgement(1)));
    rig.poll();

    assert_eq!(rig.sent(), publish_bytes(0x32, 2, "b"));
}

#[test]
fn what_the_server_does_not_serve_is_refused_without_sending() {
    // [MQTT-3.2.2-11], [MQTT-3.2.2-14], [MQTT-3.2.2-15]
    let mut rig = Rig::new(options());
    rig.reconnect(&connack(ConnAckProperties {
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        packet_bytes_max: NonZeroU32::new(20),
        ..ConnAckProperties::default()
    }));
    let retained = |qos| veilmq_client::Publication { retain: true, ..publication("x", qos) };
    let rows = [
        (publication("x", QoS::ExactlyOnce), DeliveryError::QosNotSupported { maximum: QoS::AtLeastOnce }),
        (retained(QoS::AtLeastOnce), DeliveryError::RetainNotSupported),
        (
            publication("too long a message", QoS::AtLeastOnce),
            DeliveryError::TooLarge { bytes: 26, bytes_max: 20 },
        ),
    ];
    for (publication, error) in rows {
        rig.session.publish(publication).unwrap();
        assert_eq!(outcome(rig.poll()).1, Err(error));
    }
    assert_eq!(
        rig.session.publish(retained(QoS::AtMostOnce)),
        Err(SubmitError::Delivery(DeliveryError::RetainNotSupported))
    );
    assert!(rig.sent().is_empty());
}

#[test]
fn publications_wait_for_the_connection_up_to_the_limit() {
    let mut rig = Rig::new(SessionOptions { queued_max: 2, ..options() });

    rig.publish("a", QoS::AtLeastOnce);
    assert!(rig.session.accepts_publication());
    rig.publish("b", QoS::AtLeastOnce);
    assert!(!rig.session.accepts_publication());

    let sent = rig.reconnect(&ConnAck::default());
    assert_eq!(sent, [publish_bytes(0x32, 1, "a"), publish_bytes(0x32, 2, "b")].concat());
    assert!(rig.session.accepts_publication());
}

/// [MQTT-3.1.2-20]
#[test]
fn a_quiet_client_sends_pingreq_and_gives_up_without_pingresp() {
    let mut rig = Rig::connected(SessionOptions { keep_alive_seconds: 20, ..options() });

    rig.pass(19_999);
    assert!(rig.sent().is_empty());
    rig.pass(1);
    assert_eq!(rig.sent(), b"\xc0\x00");
    rig.receive(&Packet::PingResp);
    assert!(rig.poll().is_none());
    rig.pass(20_000);
    assert_eq!(rig.sent(), b"\xc0\x00");
    rig.pass(10_000);

    assert_eq!(closed(rig.poll()), CloseReason::Timeout("PINGRESP"));
}

#[test]
fn sending_postpones_pingreq_and_the_servers_keep_alive_comes_first() {
    // [MQTT-3.1.2-21], [MQTT-3.2.2-21]
    let mut rig = Rig::new(SessionOptions { keep_alive_seconds: 60, ..options() });
    rig.reconnect(&connack(ConnAckProperties {
        server_keep_alive_seconds: Some(5),
        ..ConnAckProperties::default()
    }));

    rig.pass(4_000);
    rig.session.publish(publication("hi", QoS::AtMostOnce)).unwrap();
    rig.sent();
    rig.pass(4_999);
    assert!(rig.sent().is_empty());
    rig.pass(1);

    assert_eq!(rig.sent(), b"\xc0\x00");
}

#[test]
fn silence_proves_nothing_while_the_driver_does_not_read() {
    let mut rig = Rig::connected(SessionOptions { keep_alive_seconds: 20, ..options() });
    rig.pass(20_000);
    rig.sent();

    rig.session.set_reading(false, rig.now());
    rig.pass(15_000);
    assert!(rig.poll().is_none());
    rig.session.set_reading(true, rig.now());
    rig.pass(9_999);
    assert!(rig.poll().is_none());
    rig.pass(1);

    assert_eq!(closed(rig.poll()), CloseReason::Timeout("PINGRESP"));
}

#[test]
fn a_subscription_is_asked_for_answered_and_made_again_when_the_server_lost_it() {
    let mut rig = Rig::connected(options());
    let filters = ["a/#".to_owned(), "b".to_owned()];
    let token = rig.session.subscribe(&filters, subscribe_options(QoS::AtLeastOnce));
    assert_eq!(rig.sent(), b"\x82\x0d\x00\x01\x00\x00\x03a/#\x01\x00\x01b\x01");

    rig.receive(&suback(1, &[0x01, 0x87]));
    let Some(Event::Answered { token: answered, reasons, .. }) = rig.poll() else { panic!("not answered") };
    assert_eq!(
        (answered, reasons.as_slice()),
        (token, &[ReasonCode::GrantedQos1, ReasonCode::NotAuthorized][..])
    );

    assert!(rig.reconnect(&resumed()).is_empty());
    let again = rig.reconnect(&ConnAck::default());
    assert_eq!(again, b"\x82\x09\x00\x02\x00\x00\x03a/#\x01", "what was granted, and nothing else");
    rig.receive(&suback(2, &[0x01]));
    assert!(rig.poll().is_none(), "nobody waits for this answer");
}

#[test]
fn an_unsubscribed_filter_is_not_made_again() {
    let mut rig = Rig::connected(options());
    rig.session.subscribe(&["a".to_owned()], subscribe_options(QoS::AtMostOnce));
    rig.receive(&suback(1, &[0]));
    rig.poll();
    rig.sent();

    rig.session.unsubscribe("a");
    assert_eq!(rig.sent(), b"\xa2\x06\x00\x02\x00\x00\x01a");
    rig.receive(&Packet::UnsubAck(UnsubAck {
        packet_id: id(2),
        reason_string: None,
        user: UserProperties::default(),
        reasons: &[0],
    }));
    assert!(matches!(rig.poll(), Some(Event::Answered { .. })));

    assert!(rig.reconnect(&ConnAck::default()).is_empty());
}

#[test]
fn a_request_without_an_answer_is_made_again_on_the_next_connection() {
    let mut rig = Rig::connected(options());
    let token = rig.session.subscribe(&["a".to_owned()], subscribe_options(QoS::AtMostOnce));
    rig.sent();

    assert_eq!(rig.reconnect(&resumed()), b"\x82\x07\x00\x02\x00\x00\x01a\x00");
    rig.receive(&suback(2, &[0]));

    assert!(matches!(rig.poll(), Some(Event::Answered { token: answered, .. }) if answered == token));
}

/// A session on which nothing else is due, and how long an answer may take.
fn waiting_for_answers() -> (Rig, u64) {
    let rig = Rig::connected(SessionOptions { keep_alive_seconds: 0, ..options() });
    (rig, options().answer_ms)
}

#[test]
fn a_request_that_is_not_answered_is_given_up_and_its_identifier_stays_in_use() {
    let (mut rig, answer_ms) = waiting_for_answers();
    let given_up = rig.session.subscribe(&["a".to_owned()], subscribe_options(QoS::AtMostOnce));
    rig.pass(answer_ms);
    assert!(rig.poll().is_none(), "it has not left");
    rig.sent();
    let due = rig.now_ms + answer_ms;
    assert_eq!(rig.session.next_timeout(), Some(due));

    rig.pass(answer_ms - 1);
    assert!(rig.poll().is_none() && rig.session.awaits_answers());
    rig.pass(1);
    let Some(Event::Unanswered { token, after_ms }) = rig.poll() else { panic!("no end") };
    assert_eq!((token, after_ms), (Some(given_up), answer_ms));
    assert!(rig.poll().is_none() && !rig.session.awaits_answers());
    assert_eq!(rig.session.next_timeout(), None);

    let next = rig.session.subscribe(&["b".to_owned()], subscribe_options(QoS::AtMostOnce));
    assert_eq!(rig.sent(), b"\x82\x07\x00\x02\x00\x00\x01b\x00");
    rig.receive(&suback(1, &[0]));
    assert!(rig.poll().is_none(), "what comes late is nobody's answer");
    rig.receive(&suback(2, &[1]));
    assert!(matches!(rig.poll(), Some(Event::Answered { token, .. }) if token == next));
    assert_eq!(rig.reconnect(&ConnAck::default()), b"\x82\x07\x00\x03\x00\x00\x01b\x00", "b alone");
}

#[test]
fn a_request_that_was_given_up_is_not_made_again_on_the_next_connection() {
    let (mut rig, answer_ms) = waiting_for_answers();
    rig.session.unsubscribe("a");
    rig.sent();
    rig.pass(answer_ms);
    assert!(matches!(rig.poll(), Some(Event::Unanswered { token: Some(_), .. })));

    assert!(rig.reconnect(&resumed()).is_empty());
    rig.receive(&unsuback(1, &[0]));

    assert_eq!(
        closed(rig.poll()),
        CloseReason::Unexpected(PacketType::UnsubAck),
        "it ended with its connection"
    );
}

#[test]
fn an_answer_is_not_missed_while_nothing_is_read() {
    let (mut rig, answer_ms) = waiting_for_answers();
    let token = rig.session.subscribe(&["a".to_owned()], subscribe_options(QoS::AtMostOnce));
    rig.sent();
    rig.session.set_reading(false, rig.now());
    assert_eq!(rig.session.next_timeout(), None);
    rig.pass(3 * answer_ms);
    assert!(rig.poll().is_none());

    rig.session.set_reading(true, rig.now());
    rig.pass(answer_ms - 1);
    rig.receive(&suback(1, &[0]));

    assert!(matches!(rig.poll(), Some(Event::Answered { token: answered, .. }) if answered == token));
}

#[test]
fn a_session_that_was_taken_over_is_not_fought_for() {
    let reason = CloseReason::Disconnected { reason: ReasonCode::SessionTakenOver, text: None };

    assert!(reason.is_final());
}

#[test]
fn disconnect_is_the_last_packet() {
    // [MQTT-3.14.4-1]
    for (reason, bytes) in
        [(ReasonCode::Success, &b"\xe0\x00"[..]), (ReasonCode::DisconnectWithWill, b"\xe0\x01\x04")]
    {
        let mut rig = Rig::connected(options());

        rig.session.disconnect(reason);

        assert_eq!(rig.sent(), bytes);
        assert_eq!(closed(rig.poll()), CloseReason::Requested);
        rig.receive(&incoming("late", QoS::AtMostOnce, 0, false));
        assert!(rig.poll().is_none());
    }
}
