//! What must hold for any bytes offered as part of VEIL-1: layouts only, no keys.

use veilmq_protocol::{
    Packet, ProtocolVersion, next_frame,
    veil::{
        Certificate,
        distribution::{
            Crl, DistributionError, DistributionTopic, JoinFinish, JoinRequest, JoinResponse, KeyHead,
            Prekey, Wrap, bundle, put_bundle,
        },
        envelope::Envelope,
        fanout::join,
        hello::{
            ClientFinish, ClientHello, Flight, ServerAnswer, ServerFinish, ServerFinishParams, ServerHello,
        },
        layout::put_v16,
        record::{ControlOp, HEADER_LEN, RecordHeader, SharedBody, SubscriberHeader},
    },
};

/// A certificate that parses says the same when it is built again.
pub fn veil_certificate(data: &[u8]) {
    let Ok(certificate) = Certificate::parse(data) else { return };
    assert_eq!(certificate.as_bytes(), data);
    let (signed, signature) = certificate.signed_parts();
    assert_eq!((signed.len(), signature.len()), (data.len() - 64, 64));
    let mut again = certificate.to_be_signed(certificate.issuer()).expect("parsed fields can be built");
    again.extend_from_slice(signature);
    let again = Certificate::parse(&again).expect("what was built parses");
    assert_eq!(*again, *certificate);
}

/// A handshake message that parses is built again byte for byte.
pub fn veil_hello(data: &[u8]) {
    if let Ok(hello) = ClientHello::parse(data) {
        assert_eq!(hello.encode().as_deref(), Ok(data));
    }
    if let Ok((hello, head, flight)) = ServerHello::parse(data) {
        assert_eq!((hello.encode_head().as_slice(), head.len()), (head, ServerHello::HEAD_LEN));
        let mut again = hello.encode_head();
        put_v16(&mut again, flight, "flight").expect("it came behind this prefix");
        assert_eq!(again, data);
    }
    if let Ok(finish) = ClientFinish::parse(data) {
        assert_eq!(finish.encode().as_deref(), Ok(data));
    }
    if let Ok(finish) = ServerFinish::parse(data) {
        assert_eq!(finish.encode().as_deref(), Ok(data));
    }
    if let Ok(flight) = Flight::parse(data) {
        assert_eq!(flight.encode().as_deref(), Ok(data));
    }
    for answer in [ServerAnswer::parse_compact(data), ServerAnswer::parse_resume(data)].into_iter().flatten()
    {
        let mut again = answer.hello.encode_head();
        if let Some(proof) = answer.proof {
            again.extend(proof.encode().expect("it came in this message"));
        }
        put_v16(&mut again, answer.finish.params, "params").expect("they came in this message");
        again.extend_from_slice(&answer.finish.tag);
        assert_eq!(again, data);
    }
    if let Ok(params) = ServerFinishParams::parse(data) {
        let again = params.encode().expect("parsed parameters can be built");
        assert_eq!(ServerFinishParams::parse(&again), Ok(params));
    }
}

/// The parts of a record that parse are built again byte for byte, and a message of a fan-out is a
/// packet that decodes to itself.
pub fn veil_record(data: &[u8]) {
    if let Ok(Some(header)) = RecordHeader::read(data) {
        assert_eq!(header.to_bytes(), data[..HEADER_LEN]);
    }
    if let Ok(op) = ControlOp::parse(data) {
        let mut again = Vec::new();
        op.encode(&mut again).expect("a parsed operation can be built");
        assert_eq!(again, data);
    }
    if let Ok(header) = SubscriberHeader::parse(data) {
        let mut again = Vec::new();
        header.encode(&mut again).expect("a parsed header can be built");
        assert_eq!(again, data);
    }
    if let Ok(body) = SharedBody::parse(data) {
        let mut again = Vec::new();
        body.encode_head(&mut again).expect("a parsed body can be built");
        again.extend_from_slice(body.payload);
        assert_eq!(again, data);
    }
    for split in 0..data.len().min(16) {
        let (header, body) = data.split_at(split);
        joined_is_a_packet(header, body);
    }
}

fn joined_is_a_packet(header: &[u8], body: &[u8]) {
    let Ok(publish) = join(header, body) else { return };
    let packet = Packet::Publish(publish);
    let mut encoded = Vec::new();
    packet.encode(ProtocolVersion::V5, &mut encoded).expect("a joined PUBLISH can be encoded");
    let (frame, _) = next_frame(&encoded, encoded.len()).expect("a valid frame").expect("a whole frame");
    let Ok(Packet::Publish(again)) = Packet::decode(frame, ProtocolVersion::V5) else {
        panic!("a joined PUBLISH decodes");
    };
    // MQTT does not write DUP with QoS 0.
    assert_eq!(
        (again.topic, again.properties, again.payload),
        (publish.topic, publish.properties, publish.payload)
    );
}

/// An envelope that parses is its header, body and signature, and nothing else.
pub fn veil_envelope(data: &[u8]) {
    let Ok(envelope) = Envelope::parse(data) else { return };
    let mut again = Vec::new();
    envelope.header.encode(&mut again);
    assert_eq!(again, envelope.header_bytes);
    again.extend_from_slice(envelope.body);
    again.extend_from_slice(envelope.signature.map_or(&[][..], |signature| signature));
    assert_eq!(again, data);
}

/// What travels to distribute keys: an object that parses keeps its bytes, and says the same when it is built again.
pub fn veil_distribution(data: &[u8]) {
    if let Ok((head, rest)) = KeyHead::parse(data) {
        assert_eq!([head.as_bytes(), rest].concat(), data);
        let again = rebuilt(head.to_be_signed(), head.signed_parts());
        assert_eq!(KeyHead::parse(&again).map(|(again, _)| (*again).clone()), Ok((*head).clone()));
    }
    if let Ok(prekey) = Prekey::parse(data) {
        assert_eq!(prekey.as_bytes(), data);
        assert_eq!(rebuilt(prekey.to_be_signed(), prekey.signed_parts()), data);
    }
    if let Ok(list) = Crl::parse(data) {
        assert_eq!(list.as_bytes(), data);
        let again = rebuilt(list.to_be_signed(), list.signed_parts());
        assert_eq!(Crl::parse(&again).map(|again| (*again).clone()), Ok((*list).clone()));
    }
    if let Ok(request) = JoinRequest::parse(data) {
        assert_eq!(rebuilt(request.to_be_signed(), request.signed_parts()), data);
    }
    if let Ok((response, head)) = JoinResponse::parse(data) {
        assert_eq!(response.head(), head);
        assert_eq!(response.encode().as_deref(), Ok(data));
    }
    if let Ok(finish) = JoinFinish::parse(data) {
        assert_eq!(finish.encode(), data);
    }
    if let Ok(wrap) = Wrap::parse(data) {
        let mut again = Vec::new();
        wrap.encode(&mut again);
        assert_eq!(again, data);
    }
    if let Ok(wraps) = bundle(data) {
        let mut again = Vec::new();
        put_bundle(&mut again, &wraps);
        assert_eq!(again, data);
    }
    if let Ok(text) = core::str::from_utf8(data)
        && let Some(topic) = DistributionTopic::parse(text)
    {
        assert_eq!(topic.to_string(), text);
    }
}

/// Builds the signed bytes of what parsed and puts the signature behind them.
fn rebuilt(built: Result<Vec<u8>, DistributionError>, (_, signature): (&[u8], &[u8])) -> Vec<u8> {
    let mut again = built.expect("parsed fields can be built");
    again.extend_from_slice(signature);
    again
}
