//! Packets in words: a short form to compare what a client received with.

use veilmq_protocol::{Acknowledgement, Packet, ProtocolVersion, ReasonCode, next_frame};

/// Returns each packet in a short form, such as `PUBLISH t "x" qos1 id1`.
///
/// # Panics
/// If the bytes are not whole packets.
pub fn describe_all(mut bytes: &[u8], version: ProtocolVersion) -> Vec<String> {
    let mut all = Vec::new();
    while let Some((frame, consumed)) = next_frame(bytes, usize::MAX).unwrap() {
        all.push(describe(&Packet::decode(frame, version).unwrap()));
        bytes = &bytes[consumed..];
    }
    assert!(bytes.is_empty(), "half a packet: {bytes:02x?}");
    all
}

fn describe(packet: &Packet<'_>) -> String {
    let ack = |name: &str, ack: &Acknowledgement<'_>| {
        let reason = if ack.reason == ReasonCode::Success {
            String::new()
        } else {
            format!(" 0x{:02x}", ack.reason.value())
        };
        format!("{name} id{}{reason}", ack.packet_id.value())
    };
    match packet {
        Packet::ConnAck(connack) => format!(
            "CONNACK 0x{:02x}{}",
            connack.reason.value(),
            if connack.session_present { " present" } else { "" }
        ),
        Packet::Publish(publish) => {
            let mut text = format!(
                "PUBLISH {} {:?} qos{}",
                publish.topic.map_or("", |topic| topic.as_str()),
                String::from_utf8_lossy(publish.payload),
                publish.qos.value()
            );
            if let Some(packet_id) = publish.packet_id {
                text += &format!(" id{}", packet_id.value());
            }
            if publish.dup {
                text += " dup";
            }
            if publish.retain {
                text += " retain";
            }
            if let Some(alias) = publish.properties.topic_alias {
                text += &format!(" alias{alias}");
            }
            if let Some(seconds) = publish.properties.message_expiry_seconds {
                text += &format!(" expires{seconds}");
            }
            text
        }
        Packet::PubAck(packet) => ack("PUBACK", packet),
        Packet::PubRec(packet) => ack("PUBREC", packet),
        Packet::PubRel(packet) => ack("PUBREL", packet),
        Packet::PubComp(packet) => ack("PUBCOMP", packet),
        Packet::SubAck(suback) => format!("SUBACK {:02x?}", suback.reasons),
        Packet::UnsubAck(unsuback) => format!("UNSUBACK {:02x?}", unsuback.reasons),
        Packet::PingResp => "PINGRESP".to_owned(),
        Packet::Disconnect(disconnect) => format!("DISCONNECT 0x{:02x}", disconnect.reason.value()),
        other => format!("{:?}", other.packet_type()),
    }
}
