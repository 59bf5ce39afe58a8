//! The session that opens with COMPACT, comes back with a ticket, or finds that the ticket is of no use.

use veilmq_client::session::Handshake;
use veilmq_protocol::veil::{
    channel::{ClientExpectation, ServerAccepted, TicketKeys},
    hello::{ClientHello, Opening},
};

use super::*;

const SKEW_MS: u64 = 120_000;

fn compact_options() -> SessionOptions {
    let mut options = options(Suite::Aes256Gcm, Scheme::Four);
    if let Some(channel) = &mut options.channel {
        channel.handshake = Handshake::Compact;
    }
    options
}

fn policy() -> ServerPolicy {
    ServerPolicy { schemes: Schemes::ALL, ..ServerPolicy::default() }
}

fn broker() -> Identity {
    identity(20, Roles::BROKER, "broker-a")
}

fn random(bytes: &mut [u8]) {
    bytes.fill(99);
}

/// What a broker with these ticket keys accepts on the strength of CONNECT alone.
fn accept(connect_bytes: &[u8], tickets: &mut TicketKeys) -> Option<ServerAccepted> {
    let Packet::Connect(connect) = decode(connect_bytes) else { panic!("CONNECT") };
    let hello = connect.properties.authentication_data.unwrap();
    let trust = trust();
    let expected = ClientExpectation { trust: &trust, client_id: connect.client_id, now_unix_ms: UNIX_MS };
    match ClientHello::parse(hello).unwrap().opening {
        Opening::Sigma => panic!("SIGMA"),
        Opening::Compact { .. } => {
            let client =
                ServerStart.compact(connect_bytes, hello, &broker(), &policy(), &expected, SKEW_MS).unwrap();
            Some(client.answer(&broker(), UNIX_MS, &mut random).unwrap())
        }
        Opening::Resume { ticket, .. } => {
            let contents = tickets.open(ticket, UNIX_MS)?;
            let client = ServerStart.resume(connect_bytes, hello, contents, &policy(), &expected).unwrap()?;
            Some(client.answer(UNIX_MS, &mut random).unwrap())
        }
    }
}

/// Sends CONNACK with a ticket.
fn let_in(rig: &mut Rig, accepted: ServerAccepted, tickets: &mut TicketKeys) -> Server {
    let ticket = Some(accepted.ticket(tickets, UNIX_MS, &mut random).unwrap());
    let (data, sealing) =
        accepted.server_finish(ServerFinishParams { ticket, ..Default::default() }).unwrap();
    let mut connack = encode(&Packet::ConnAck(connack(ConnAckProperties {
        authentication_method: Some(AUTHENTICATION_METHOD),
        authentication_data: Some(&data),
        ..ConnAckProperties::default()
    })));
    let (sealer, opener, predecessor) = sealing.seal_connack(&mut connack).unwrap().into_parts();
    rig.session.receive(&connack);
    Server { sealer, opener, predecessor }
}

/// A session that has a ticket of a connection that is gone.
fn with_ticket(options: SessionOptions, tickets: &mut TicketKeys) -> Rig {
    let mut rig = Rig::new(options);
    rig.connect();
    let accepted = accept(&rig.sent(), tickets).unwrap();
    let_in(&mut rig, accepted, tickets);
    assert!(matches!(rig.poll(), Some(Event::Connected { .. })));
    rig.session.connection_lost();
    rig
}

fn ping() -> Vec<Vec<u8>> {
    vec![vec![0xC0, 0]]
}

fn refuse(rig: &mut Rig, reason: ReasonCode) -> CloseReason {
    rig.receive(&Packet::ConnAck(ConnAck { reason, ..ConnAck::default() }));
    closed(rig.poll())
}

#[test]
fn compact_is_one_packet_each_way_and_then_a_record_that_shows_who_is_there() {
    let mut rig = Rig::new(compact_options());
    rig.connect();
    let accepted = accept(&rig.sent(), &mut TicketKeys::new(1_000, 1)).unwrap();

    let mut server = let_in(&mut rig, accepted, &mut TicketKeys::new(1_000, 1));

    let Some(Event::Connected { channel: Some(channel), .. }) = rig.poll() else { panic!("not connected") };
    assert_eq!((channel.broker.as_str(), channel.broker_kid), ("broker-a", broker().kid()));
    let sent = rig.sent();
    assert_eq!(open(&mut server, sent), ping());
    let answer = seal(&mut server, &[Packet::PingResp]);
    rig.session.receive(&answer);
    assert!(rig.poll().is_none());
}

#[test]
fn the_next_connection_resumes_the_channel() {
    let mut tickets = TicketKeys::new(3_600_000, 16);
    let mut rig = with_ticket(compact_options(), &mut tickets);

    rig.connect();
    let connect = rig.sent();
    let Packet::Connect(packet) = decode(&connect) else { panic!("CONNECT") };
    let hello = ClientHello::parse(packet.properties.authentication_data.unwrap()).unwrap();
    assert!(matches!(hello.opening, Opening::Resume { .. }));
    let accepted = accept(&connect, &mut tickets).unwrap();
    let mut server = let_in(&mut rig, accepted, &mut tickets);

    assert!(matches!(rig.poll(), Some(Event::Connected { .. })));
    let sent = rig.sent();
    assert_eq!(open(&mut server, sent), ping());
}

#[test]
fn a_ticket_that_the_broker_does_not_take_leads_to_sigma_on_the_same_connection() {
    let mut rig = with_ticket(compact_options(), &mut TicketKeys::new(3_600_000, 16));

    let mut server = handshake(&mut rig, &broker(), |_| {}).unwrap();

    assert!(matches!(rig.poll(), Some(Event::Connected { .. })));
    rig.publish("x", QoS::AtLeastOnce);
    let sent = rig.sent();
    assert_eq!(open(&mut server, sent), [publish_bytes(0x32, 1, "x")], "SIGMA needs no further proof");
}

#[test]
fn a_refused_ticket_is_not_the_end_and_the_next_attempt_goes_without() {
    for reason in [ReasonCode::NotAuthorized, ReasonCode::BadAuthenticationMethod] {
        let mut rig = with_ticket(compact_options(), &mut TicketKeys::new(3_600_000, 16));
        rig.connect();
        rig.sent();

        let closed = refuse(&mut rig, reason);

        assert_eq!(closed, CloseReason::TicketRefused(reason));
        assert!(!closed.is_final());
        rig.connect();
        let connect = rig.sent();
        let Packet::Connect(packet) = decode(&connect) else { panic!("CONNECT") };
        let hello = ClientHello::parse(packet.properties.authentication_data.unwrap()).unwrap();
        assert!(matches!(hello.opening, Opening::Compact { .. }));
    }
}

#[test]
fn other_refusals_mean_the_same_with_a_ticket_as_without() {
    let mut rig = with_ticket(compact_options(), &mut TicketKeys::new(3_600_000, 16));
    rig.connect();
    rig.sent();

    let closed = refuse(&mut rig, ReasonCode::Banned);

    assert_eq!(closed, CloseReason::Refused { reason: ReasonCode::Banned, text: None });
}

#[test]
fn a_client_that_is_not_to_resume_does_not() {
    let mut options = compact_options();
    if let Some(channel) = &mut options.channel {
        channel.resume = false;
    }
    let mut rig = with_ticket(options, &mut TicketKeys::new(3_600_000, 16));

    rig.connect();

    let connect = rig.sent();
    let Packet::Connect(packet) = decode(&connect) else { panic!("CONNECT") };
    let hello = ClientHello::parse(packet.properties.authentication_data.unwrap()).unwrap();
    assert!(matches!(hello.opening, Opening::Compact { .. }));
}

#[test]
fn a_connack_of_compact_or_resume_that_was_touched_opens_nothing() {
    for resumes in [false, true] {
        let mut tickets = TicketKeys::new(3_600_000, 16);
        let mut rig =
            if resumes { with_ticket(compact_options(), &mut tickets) } else { Rig::new(compact_options()) };
        rig.connect();
        let accepted = accept(&rig.sent(), &mut tickets).unwrap();
        let (data, sealing) = accepted.server_finish(ServerFinishParams::default()).unwrap();
        let mut packet = encode(&Packet::ConnAck(connack(ConnAckProperties {
            authentication_method: Some(AUTHENTICATION_METHOD),
            authentication_data: Some(&data),
            ..ConnAckProperties::default()
        })));
        sealing.seal_connack(&mut packet).unwrap();
        let session_present = packet.iter().position(|byte| *byte == 0).unwrap();
        packet[session_present] ^= 1;

        rig.session.receive(&packet);

        assert_eq!(closed(rig.poll()), CloseReason::Handshake(HandshakeError::FinishTag), "{resumes}");
    }
}

#[test]
fn a_ticket_that_comes_in_a_record_is_taken_too() {
    let mut rig = Rig::new(compact_options());
    rig.connect();
    let mut tickets = TicketKeys::new(3_600_000, 16);
    let accepted = accept(&rig.sent(), &mut tickets).unwrap();
    let ticket = accepted.ticket(&mut tickets, UNIX_MS, &mut random).unwrap();
    let mut server = let_in(&mut rig, accepted, &mut TicketKeys::new(1_000, 1));
    assert!(matches!(rig.poll(), Some(Event::Connected { .. })));

    let mut record = Vec::new();
    server.sealer.control(&mut record, &ControlOp::Ticket(&ticket)).unwrap();
    rig.session.receive(&record);
    assert!(rig.poll().is_none());
    rig.session.connection_lost();
    rig.connect();

    assert!(accept(&rig.sent(), &mut tickets).is_some(), "the newer ticket is the one that opens");
}

#[test]
fn compact_without_the_name_of_the_broker_is_no_connect() {
    let mut options = compact_options();
    if let Some(channel) = &mut options.channel {
        channel.broker = None;
    }
    let mut session = veilmq_client::session::Session::new(options);

    let now = veilmq_client::session::Now { monotonic_ms: 0, unix_ms: UNIX_MS };
    let refused = session.connect(None, now, &mut random);

    assert_eq!(refused, Err(veilmq_protocol::EncodeError::Missing("broker name")));
}
