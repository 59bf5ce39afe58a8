//! MQTT 3.1.1 against `mqttbytes`: every packet both codecs can express has one meaning and the same bytes.
//!
//! What `mqttbytes` 0.6 cannot express is kept out of its way by [`representable`]: a bridge, an empty user name or
//! password (it counts as absent) and a password that is not UTF-8. Its topic matching treats every topic that begins
//! with `$` as matching nothing, so those are left out too.
#![allow(clippy::unwrap_used, reason = "test code")]

mod packets;

use bytes::BytesMut;
use mqttbytes::v4::{self, Packet as Theirs};
use proptest::prelude::*;
use veilmq_protocol::{
    Connect, PACKET_BYTES_MAX, Packet, PacketId, ProtocolVersion::V311, ReasonCode, TopicFilter, TopicName,
    next_frame,
};

fn their_bytes(packet: &Theirs) -> BytesMut {
    let mut out = BytesMut::new();
    match packet {
        Theirs::Connect(packet) => packet.write(&mut out),
        Theirs::ConnAck(packet) => packet.write(&mut out),
        Theirs::Publish(packet) => packet.write(&mut out),
        Theirs::PubAck(packet) => packet.write(&mut out),
        Theirs::PubRec(packet) => packet.write(&mut out),
        Theirs::PubRel(packet) => packet.write(&mut out),
        Theirs::PubComp(packet) => packet.write(&mut out),
        Theirs::Subscribe(packet) => packet.write(&mut out),
        Theirs::SubAck(packet) => packet.write(&mut out),
        Theirs::Unsubscribe(packet) => packet.write(&mut out),
        Theirs::UnsubAck(packet) => packet.write(&mut out),
        Theirs::PingReq => v4::PingReq.write(&mut out),
        Theirs::PingResp => v4::PingResp.write(&mut out),
        Theirs::Disconnect => v4::Disconnect.write(&mut out),
    }
    .unwrap();
    out
}

/// The nearest packet that `mqttbytes` can express.
fn representable(packet: Packet<'static>) -> Packet<'static> {
    let Packet::Connect(connect) = packet else { return packet };
    let username = connect.username.filter(|name| !name.is_empty());
    let password = connect.password.filter(|password| username.is_some() && !password.is_empty());
    let ascii = |password: &[u8]| &*password.iter().map(|byte| byte & 0x7F).collect::<Vec<u8>>().leak();
    Packet::Connect(Connect { bridge: false, username, password: password.map(ascii), ..connect })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn both_codecs_read_the_same_meaning_and_write_the_same_bytes(
        packet in packets::any_packet(V311).prop_map(representable),
    ) {
        let mut ours = Vec::new();
        packet.encode(V311, &mut ours).unwrap();

        let theirs = v4::read(&mut BytesMut::from(ours.as_slice()), usize::MAX).unwrap();

        assert_same_meaning(&packet, &theirs);
        prop_assert_eq!(&their_bytes(&theirs), &ours);
        let (frame, _) = next_frame(&ours, PACKET_BYTES_MAX).unwrap().unwrap();
        prop_assert_eq!(Packet::decode(frame, V311), Ok(packet));
    }

    #[test]
    fn both_match_topics_alike(
        filter in "(\\+|[ab]{1,2})(/(\\+|[ab]{0,1})){0,3}(/#)?|#",
        topic in "[ab]{1,2}(/[ab]{0,1}){0,3}",
    ) {
        let ours = TopicFilter::new(&filter).unwrap().matches(TopicName::new(&topic).unwrap());

        prop_assert_eq!(ours, mqttbytes::matches(&topic, &filter), "{} {}", filter, topic);
    }
}

fn assert_same_meaning(ours: &Packet<'_>, theirs: &Theirs) {
    match (ours, theirs) {
        (Packet::Connect(ours), Theirs::Connect(theirs)) => same_connect(ours, theirs),
        (Packet::ConnAck(ours), Theirs::ConnAck(theirs)) => {
            assert_eq!(ours.session_present, theirs.session_present);
            assert_eq!(ours.reason.connack_v3(), theirs.code as u8);
        }
        (Packet::Publish(ours), Theirs::Publish(theirs)) => {
            assert_eq!(
                (ours.dup, ours.qos as u8, ours.retain),
                (theirs.dup, theirs.qos as u8, theirs.retain)
            );
            assert_eq!(ours.topic.map_or("", TopicName::as_str), theirs.topic);
            assert_eq!(ours.packet_id.map_or(0, PacketId::value), theirs.pkid);
            assert_eq!(ours.payload, theirs.payload);
        }
        (Packet::PubAck(ours), Theirs::PubAck(theirs)) => assert_eq!(ours.packet_id.value(), theirs.pkid),
        (Packet::PubRec(ours), Theirs::PubRec(theirs)) => assert_eq!(ours.packet_id.value(), theirs.pkid),
        (Packet::PubRel(ours), Theirs::PubRel(theirs)) => assert_eq!(ours.packet_id.value(), theirs.pkid),
        (Packet::PubComp(ours), Theirs::PubComp(theirs)) => assert_eq!(ours.packet_id.value(), theirs.pkid),
        (Packet::Subscribe(ours), Theirs::Subscribe(theirs)) => {
            assert_eq!(ours.packet_id.value(), theirs.pkid);
            let ours: Vec<_> =
                ours.filters.map(|(filter, options)| (filter.as_str(), options.qos as u8)).collect();
            let theirs: Vec<_> = theirs.filters.iter().map(|f| (f.path.as_str(), f.qos as u8)).collect();
            assert_eq!(ours, theirs);
        }
        (Packet::SubAck(ours), Theirs::SubAck(theirs)) => {
            assert_eq!(ours.packet_id.value(), theirs.pkid);
            let theirs = theirs.return_codes.iter().map(|code| match code {
                v4::SubscribeReasonCode::Success(qos) => *qos as u8,
                v4::SubscribeReasonCode::Failure => ReasonCode::UnspecifiedError.value(),
            });
            assert_eq!(ours.reasons, theirs.collect::<Vec<_>>());
        }
        (Packet::Unsubscribe(ours), Theirs::Unsubscribe(theirs)) => {
            assert_eq!(ours.packet_id.value(), theirs.pkid);
            assert_eq!(ours.filters.map(TopicFilter::as_str).collect::<Vec<_>>(), theirs.topics);
        }
        (Packet::UnsubAck(ours), Theirs::UnsubAck(theirs)) => assert_eq!(ours.packet_id.value(), theirs.pkid),
        (Packet::PingReq, Theirs::PingReq)
        | (Packet::PingResp, Theirs::PingResp)
        | (Packet::Disconnect(_), Theirs::Disconnect) => {}
        (ours, theirs) => panic!("{ours:?} was read as {theirs:?}"),
    }
}

fn same_connect(ours: &Connect<'_>, theirs: &v4::Connect) {
    assert_eq!(theirs.protocol, mqttbytes::Protocol::V4);
    assert_eq!(ours.clean_start, theirs.clean_session);
    assert_eq!(ours.keep_alive_seconds, theirs.keep_alive);
    assert_eq!(ours.client_id, theirs.client_id);
    let login = theirs.login.as_ref();
    assert_eq!(ours.username.unwrap_or_default(), login.map_or("", |login| &login.username));
    assert_eq!(ours.password.unwrap_or_default(), login.map_or("", |login| &login.password).as_bytes());
    assert_eq!(ours.will.is_some(), theirs.last_will.is_some());
    let (Some(ours), Some(theirs)) = (ours.will, &theirs.last_will) else { return };
    assert_eq!((ours.qos as u8, ours.retain), (theirs.qos as u8, theirs.retain));
    assert_eq!((ours.topic.as_str(), ours.payload), (theirs.topic.as_str(), &theirs.message[..]));
}
