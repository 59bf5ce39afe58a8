//! COMPACT and RESUME of VEIL-1 sections 4.6 and 4.7, both sides in memory.
#![cfg(feature = "channel")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod veil_common;

use serde_json::Value;
use veil_common::{
    NOT_AFTER, NOW, ca_keys, fields,
    handshake::{Failure, NOW_MS, connack, encode, entropy, every_flipped_bit_fails, read_connect},
    hex, identity, keys, publisher, text, trust,
};
use veilmq_protocol::{
    Connect, ConnectProperties, Packet, ProtocolVersion, ReasonCode,
    veil::{
        CertificateError, Kid, Roles, Scheme, Schemes, Suite,
        channel::{
            AwaitResumeAnswer, ClientExpectation, ClientHelloConfig, CompactStart, Established,
            HandshakeError, Identity, ResumeStart, Resumption, ServerPolicy, ServerStart, TicketKeys,
            TrustAnchors,
        },
        hello::{ChannelForm, ClientHello, Opening, ServerFinishParams},
        registry::AUTHENTICATION_METHOD,
    },
};

const SKEW_MS: u64 = 120_000;
const TICKET_MS: u64 = 3_600_000;

/// The vectors that `data/one_trip.py` makes.
fn vectors() -> Value {
    serde_json::from_str(include_str!("data/veil1-one-trip-vectors.json")).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Connect,
    ConnAck,
}

type Touch<'a> = dyn FnMut(Message, &mut Vec<u8>) + 'a;

/// Everything that can be different about the two handshakes.
struct Setup {
    scheme: Scheme,
    suite: Suite,
    policy: ServerPolicy,
    client: Identity,
    client_trust: TrustAnchors,
    broker_trust: TrustAnchors,
    dialled: &'static str,
    client_id: &'static str,
    /// The broker's clock.
    now_unix_ms: u64,
}

impl Setup {
    fn new() -> Self {
        Self {
            scheme: Scheme::Four,
            suite: Suite::Aes256Gcm,
            policy: ServerPolicy { schemes: Schemes::ALL, ..ServerPolicy::default() },
            client: publisher(),
            client_trust: trust(),
            broker_trust: trust(),
            dialled: "broker-a",
            client_id: "press-07",
            now_unix_ms: NOW_MS,
        }
    }

    fn config<'a>(&self, suites: &'a [Suite]) -> ClientHelloConfig<'a> {
        ClientHelloConfig {
            schemes: Schemes::of(&[self.scheme]),
            suites,
            anchor: ca_keys().kid(),
            now_unix_ms: Some(NOW_MS),
            form: ChannelForm::Records,
            join_request: None,
        }
    }

    fn connect(&self, hello: &[u8]) -> Vec<u8> {
        encode(&Packet::Connect(Connect {
            version: ProtocolVersion::V5,
            bridge: false,
            clean_start: true,
            keep_alive_seconds: 30,
            client_id: self.client_id,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties {
                authentication_method: Some(AUTHENTICATION_METHOD),
                authentication_data: Some(hello),
                ..ConnectProperties::default()
            },
        }))
    }

    fn expected<'a>(&'a self, client_id: &'a str) -> ClientExpectation<'a> {
        ClientExpectation { trust: &self.broker_trust, client_id, now_unix_ms: self.now_unix_ms }
    }

    /// Runs COMPACT; `touch` sees both messages on their way. The broker gives a ticket.
    fn compact(
        &self,
        tickets: &mut TicketKeys,
        touch: &mut Touch<'_>,
    ) -> Result<(Established, Established), Failure> {
        let suites = [self.suite];
        let (start, hello) = CompactStart::new(
            &self.config(&suites),
            &self.client,
            self.dialled,
            &mut entropy(&["nc", "eph c"]),
        )
        .unwrap();
        let mut connect = self.connect(&hello);
        let awaiting = start.sign_connect(&self.client, &mut connect).unwrap();
        touch(Message::Connect, &mut connect);
        let (hello, client_id) = read_connect(&connect).ok_or(Failure::NotAConnect)?;
        let broker = veil_common::broker();
        let client = ServerStart
            .compact(&connect, &hello, &broker, &self.policy, &self.expected(&client_id), SKEW_MS)
            .map_err(Failure::Broker)?;
        let accepted =
            client.answer(&broker, NOW_MS + 10, &mut entropy(&["nb", "eph b"])).map_err(Failure::Broker)?;
        assert!(!accepted.is_proven);
        let mut random = entropy(&["ticket nonce", "ticket id", "ticket key"]);
        let ticket = accepted.ticket(tickets, NOW_MS, &mut random).unwrap();
        let params = ServerFinishParams {
            ticket: Some(ticket),
            time_unix_ms: Some(NOW_MS),
            ..ServerFinishParams::default()
        };
        let (data, sealing) = accepted.server_finish(params).unwrap();
        let mut connack = connack(&data);
        let server = sealing.seal_connack(&mut connack).map_err(Failure::Broker)?;
        touch(Message::ConnAck, &mut connack);
        let client = awaiting.handle(&connack, &self.client_trust, Some(NOW)).map_err(Failure::Client)?;
        Ok((client, server))
    }

    fn offer(&self, resumption: Resumption) -> (AwaitResumeAnswer, Vec<u8>) {
        let suites = [self.suite];
        let (start, hello) =
            ResumeStart::new(&self.config(&suites), resumption, &mut entropy(&["nc 2", "eph c 2"])).unwrap();
        let mut connect = self.connect(&hello);
        (start.bind_connect(&mut connect).unwrap(), connect)
    }

    /// What the broker makes of a CONNECT with a ticket: CONNACK and its half of the channel, or nothing, and then SIGMA.
    fn answer(
        &self,
        tickets: &mut TicketKeys,
        connect: &[u8],
    ) -> Result<Option<(Vec<u8>, Established)>, Failure> {
        let (hello, client_id) = read_connect(connect).ok_or(Failure::NotAConnect)?;
        let Ok(ClientHello { opening: Opening::Resume { ticket, .. }, .. }) = ClientHello::parse(&hello)
        else {
            return Err(Failure::NotAConnect);
        };
        let Some(contents) = tickets.open(ticket, self.now_unix_ms) else { return Ok(None) };
        let resuming = ServerStart
            .resume(connect, &hello, contents, &self.policy, &self.expected(&client_id))
            .map_err(Failure::Broker)?;
        let Some(resuming) = resuming.filter(|resuming| tickets.spend(resuming.ticket())) else {
            return Ok(None);
        };
        let accepted =
            resuming.answer(NOW_MS + 10, &mut entropy(&["nb 2", "eph b 2"])).map_err(Failure::Broker)?;
        assert!(!accepted.is_proven);
        let params = ServerFinishParams { time_unix_ms: Some(NOW_MS), ..ServerFinishParams::default() };
        let (data, sealing) = accepted.server_finish(params).unwrap();
        let mut connack = connack(&data);
        let server = sealing.seal_connack(&mut connack).map_err(Failure::Broker)?;
        Ok(Some((connack, server)))
    }

    /// Runs RESUME after a COMPACT; `touch` sees both messages on their way.
    fn resume(&self, touch: &mut Touch<'_>) -> Result<(Established, Established), Failure> {
        let mut tickets = TicketKeys::new(TICKET_MS, 16);
        let (awaiting, mut connect) = self.offer(ticket(&mut tickets));
        touch(Message::Connect, &mut connect);
        let (mut connack, server) = self.answer(&mut tickets, &connect)?.ok_or(Failure::NotAConnect)?;
        touch(Message::ConnAck, &mut connack);
        Ok((awaiting.handle(&connack).map_err(Failure::Client)?, server))
    }
}

/// What a client keeps of a first connection.
fn ticket(tickets: &mut TicketKeys) -> Resumption {
    let (mut client, _) = Setup::new().compact(tickets, &mut |_, _| {}).unwrap();
    client.take_resumption().unwrap()
}

fn same_channel(client: &Established, broker: &Established) {
    assert!(client.exporter == broker.exporter);
    assert_eq!((client.scheme, client.suite), (broker.scheme, broker.suite));
    assert_eq!(client.peer, *veil_common::broker().certificate());
    assert_eq!(broker.peer, *publisher().certificate());
}

#[test]
fn compact_and_resume_are_those_of_the_second_implementation_byte_for_byte() {
    let vectors = vectors();
    let is = |bytes: &[u8], pointer: &str| assert_eq!(hex(bytes), text(&vectors, pointer), "{pointer}");
    let setup = Setup::new();
    let mut tickets = TicketKeys::new(TICKET_MS, 16);
    let mut seen = Vec::new();

    let (mut client, broker) =
        setup.compact(&mut tickets, &mut |message, bytes| seen.push((message, bytes.clone()))).unwrap();

    is(&seen[0].1, "/compact/CONNECT");
    is(&seen[1].1, "/compact/CONNACK");
    is(client.exporter.as_bytes(), "/compact/exporter");
    is(broker.params.ticket.as_deref().unwrap(), "/compact/ticket");

    let (awaiting, connect) = setup.offer(client.take_resumption().unwrap());
    let (connack, broker) = setup.answer(&mut tickets, &connect).unwrap().unwrap();
    let client = awaiting.handle(&connack).unwrap();

    is(&connect, "/resume/CONNECT");
    is(&connack, "/resume/CONNACK");
    is(client.exporter.as_bytes(), "/resume/exporter");
    same_channel(&client, &broker);
}

#[test]
fn both_sides_agree_in_every_suite_and_scheme() {
    for suite in Suite::ALL {
        for scheme in [Scheme::One, Scheme::Two, Scheme::Three, Scheme::Four] {
            let setup = Setup { suite, scheme, ..Setup::new() };
            let mut tickets = TicketKeys::new(TICKET_MS, 16);

            let (mut client, broker) = setup.compact(&mut tickets, &mut |_, _| {}).unwrap();
            same_channel(&client, &broker);
            assert_eq!((client.scheme, client.suite), (scheme, suite));

            let (awaiting, connect) = setup.offer(client.take_resumption().unwrap());
            let (connack, broker) = setup.answer(&mut tickets, &connect).unwrap().unwrap();
            let client = awaiting.handle(&connack).unwrap();
            same_channel(&client, &broker);
            assert_eq!((client.scheme, client.suite), (scheme, suite));
        }
    }
}

#[test]
fn every_flipped_bit_of_compact_makes_it_fail() {
    let setup = Setup::new();
    for message in [Message::Connect, Message::ConnAck] {
        every_flipped_bit_fails(message, |touch| setup.compact(&mut TicketKeys::new(TICKET_MS, 16), touch));
    }
}

#[test]
fn a_flipped_bit_in_any_byte_of_resume_makes_it_fail_or_fall_back() {
    let setup = Setup::new();
    for message in [Message::Connect, Message::ConnAck] {
        let mut len = 0;
        setup.resume(&mut |seen, bytes| len = if seen == message { bytes.len() } else { len }).unwrap();
        // One bit of each byte: every run makes a channel first whose ticket it uses.
        for at in 0..len {
            let outcome = setup.resume(&mut |seen, bytes| {
                if seen == message {
                    bytes[at] ^= 1 << (at % 8);
                }
            });
            assert!(outcome.is_err(), "{message:?} byte {at}");
        }
    }
}

#[test]
fn a_connect_of_compact_is_for_one_broker_one_client_and_one_time() {
    type Row = (&'static str, fn(&mut Setup), HandshakeError);
    let expired = |setup: &mut Setup| {
        let mut fields = fields(&keys("pub ed", "pub x"), Roles::PUBLISHER, 1, "press-07");
        fields.not_after = NOW - 1;
        setup.client = identity("pub ed", "pub x", &fields);
    };
    let issuer = ca_keys().kid();
    let rows: [Row; 8] = [
        ("another broker", |setup| setup.dialled = "broker-b", HandshakeError::Signature),
        ("another client id", |setup| setup.client_id = "press-08", CertificateError::WrongSubject.into()),
        ("expired", expired, CertificateError::Expired.into()),
        (
            "revoked",
            |setup| setup.broker_trust.revoke(ca_keys().kid(), 1),
            CertificateError::Revoked { issuer, serial: 1 }.into(),
        ),
        (
            "unknown issuer",
            |setup| setup.broker_trust = TrustAnchors::new(),
            CertificateError::UnknownIssuer(issuer).into(),
        ),
        (
            "too old",
            |setup| setup.now_unix_ms = NOW_MS + SKEW_MS + 1,
            HandshakeError::ClockSkew { away_ms: SKEW_MS + 1 },
        ),
        (
            "from the future",
            |setup| setup.now_unix_ms = NOW_MS - SKEW_MS - 1,
            HandshakeError::ClockSkew { away_ms: SKEW_MS + 1 },
        ),
        (
            "a suite that is not served",
            |setup| setup.policy.suites = vec![Suite::ChaCha20Poly1305],
            HandshakeError::NoCommonSuite,
        ),
    ];
    for (name, change, error) in rows {
        let mut setup = Setup::new();
        change(&mut setup);

        let refused = setup.compact(&mut TicketKeys::new(TICKET_MS, 16), &mut |_, _| {}).err();

        let reason = match error {
            HandshakeError::NoCommonSuite => ReasonCode::BadAuthenticationMethod,
            _ => ReasonCode::NotAuthorized,
        };
        assert_eq!(error.reason(), reason, "{name}");
        assert_eq!(refused, Some(Failure::Broker(error)), "{name}");
    }
}

#[test]
fn a_client_refuses_a_broker_that_is_not_the_one_it_signed_for() {
    let mut setup = Setup::new();
    setup.client_trust = TrustAnchors::new();

    let refused = setup.compact(&mut TicketKeys::new(TICKET_MS, 16), &mut |_, _| {}).err();

    let unknown = CertificateError::UnknownIssuer(ca_keys().kid());
    assert_eq!(refused, Some(Failure::Client(unknown.into())));
}

#[test]
fn compact_needs_a_clock() {
    let setup = Setup::new();
    let config = ClientHelloConfig { now_unix_ms: None, ..setup.config(&[Suite::Aes256Gcm]) };

    let start = CompactStart::new(&config, &setup.client, "broker-a", &mut |bytes| bytes.fill(1));

    assert_eq!(start.err(), Some(HandshakeError::ClockNeeded));
}

#[test]
fn a_fingerprint_is_the_same_for_a_copy_and_another_for_another_nonce_or_client() {
    let fingerprint = |nonce: &str, client: &Identity, id: &'static str| {
        let setup = Setup { client_id: id, ..Setup::new() };
        let names = [nonce, "eph c"];
        let (start, hello) =
            CompactStart::new(&setup.config(&[Suite::Aes256Gcm]), client, "broker-a", &mut entropy(&names))
                .unwrap();
        let mut connect = setup.connect(&hello);
        start.sign_connect(client, &mut connect).unwrap();
        let (hello, client_id) = read_connect(&connect).unwrap();
        let broker = veil_common::broker();
        ServerStart
            .compact(&connect, &hello, &broker, &setup.policy, &setup.expected(&client_id), SKEW_MS)
            .unwrap()
            .fingerprint()
    };
    let first = fingerprint("nc", &publisher(), "press-07");

    assert_eq!(fingerprint("nc", &publisher(), "press-07"), first);
    assert_ne!(fingerprint("nc 2", &publisher(), "press-07"), first);
    assert_ne!(fingerprint("nc", &veil_common::subscriber(), "lake-1"), first);
}

#[test]
fn a_ticket_is_used_once() {
    let setup = Setup::new();
    let mut tickets = TicketKeys::new(TICKET_MS, 16);
    let (_, connect) = setup.offer(ticket(&mut tickets));

    assert!(setup.answer(&mut tickets, &connect).unwrap().is_some());
    assert!(setup.answer(&mut tickets, &connect).unwrap().is_none());
}

#[test]
fn a_ticket_is_not_taken_where_its_use_could_not_be_remembered() {
    let mut tickets = TicketKeys::new(TICKET_MS, 0);
    let (_, connect) = Setup::new().offer(ticket(&mut tickets));

    assert!(Setup::new().answer(&mut tickets, &connect).unwrap().is_none());
}

#[test]
fn what_makes_a_ticket_unusable_leads_to_sigma() {
    type Row = (&'static str, fn(&mut Setup));
    let rows: [Row; 7] = [
        ("expired", |setup| setup.now_unix_ms = NOW_MS + TICKET_MS + 1),
        ("revoked", |setup| setup.broker_trust.revoke(ca_keys().kid(), 1)),
        ("authority removed", |setup| setup.broker_trust = TrustAnchors::new()),
        ("certificate expired", |setup| setup.now_unix_ms = (NOT_AFTER + 1) * 1_000),
        ("another client", |setup| setup.client_id = "press-08"),
        ("scheme not served", |setup| setup.policy.schemes = Schemes::of(&[Scheme::Two])),
        ("suite not served", |setup| setup.policy.suites = vec![Suite::ChaCha20Poly1305]),
    ];
    for (name, change) in rows {
        let mut setup = Setup::new();
        change(&mut setup);
        let lifetime = if name == "certificate expired" { u64::MAX / 2 } else { TICKET_MS };
        let mut tickets = TicketKeys::new(lifetime, 16);
        let (_, connect) = setup.offer(ticket(&mut tickets));

        assert!(setup.answer(&mut tickets, &connect).unwrap().is_none(), "{name}");
    }
}

#[test]
fn tickets_of_a_broker_that_was_restarted_lead_to_sigma_which_succeeds_with_the_same_connect() {
    let setup = Setup { policy: ServerPolicy::default(), ..Setup::new() };
    let (awaiting, connect) = setup.offer(ticket(&mut TicketKeys::new(TICKET_MS, 16)));
    assert!(setup.answer(&mut TicketKeys::new(TICKET_MS, 16), &connect).unwrap().is_none());

    let (hello, client_id) = read_connect(&connect).unwrap();
    let mut random = entropy(&["nb", "eph b"]);
    let (server_hello, server) = ServerStart
        .handle(&connect, &hello, &veil_common::broker(), &setup.policy, NOW_MS, &mut random)
        .unwrap();
    let (finish, client) = awaiting
        .without_ticket()
        .handle(&server_hello, &setup.client, &setup.client_trust, Some("broker-a"), Some(NOW))
        .unwrap();
    let accepted = server.handle(&finish, &setup.broker_trust, &client_id, NOW).unwrap();
    assert!(accepted.is_proven);
    let (data, sealing) = accepted.server_finish(ServerFinishParams::default()).unwrap();
    let mut connack = connack(&data);
    let server = sealing.seal_connack(&mut connack).unwrap();

    same_channel(&client.handle(&connack).unwrap(), &server);
}

#[test]
fn who_has_the_ticket_without_its_secret_is_refused() {
    let setup = Setup::new();
    let mut tickets = TicketKeys::new(TICKET_MS, 16);
    let (_, mut connect) = setup.offer(ticket(&mut tickets));
    let (hello, _) = read_connect(&connect).unwrap();
    let at = connect.windows(hello.len()).position(|window| window == hello).unwrap() + hello.len() - 1;
    connect[at] ^= 1;

    let refused = setup.answer(&mut tickets, &connect).err();

    assert_eq!(refused, Some(Failure::Broker(HandshakeError::Binder)));
    assert_eq!(HandshakeError::Binder.reason(), ReasonCode::NotAuthorized);
}

#[test]
fn a_client_does_not_return_to_a_broker_it_would_not_believe_any_more() {
    let mut tickets = TicketKeys::new(TICKET_MS, 16);
    let resumption = ticket(&mut tickets);
    let anchors = trust();
    assert_eq!(resumption.protection(), (Scheme::Four, Suite::Aes256Gcm));

    assert_eq!(resumption.check_broker(&anchors, Some("broker-a"), Some(NOW)), Ok(()));
    assert_eq!(
        resumption.check_broker(&anchors, Some("broker-b"), Some(NOW)),
        Err(CertificateError::WrongSubject)
    );
    let mut revoked = trust();
    revoked.revoke(ca_keys().kid(), 3);
    let issuer: Kid = ca_keys().kid();
    assert_eq!(
        resumption.check_broker(&revoked, None, Some(NOW)),
        Err(CertificateError::Revoked { issuer, serial: 3 })
    );
}

#[test]
fn ticket_keys_change_daily_and_the_tickets_of_yesterday_still_open() {
    let day = 24 * 3_600_000;
    let mut tickets = TicketKeys::new(day, 16);
    let (mut client, _) = Setup::new().compact(&mut tickets, &mut |_, _| {}).unwrap();
    let first = client.take_resumption().unwrap();
    let mut later = Vec::new();
    let setup = Setup::new();
    let (_, connect) = setup.offer(first);
    let (hello, _) = read_connect(&connect).unwrap();
    let ClientHello { opening: Opening::Resume { ticket: old, .. }, .. } =
        ClientHello::parse(&hello).unwrap()
    else {
        panic!("RESUME");
    };
    for days in 1..4 {
        let accepted = {
            let suites = [Suite::Aes256Gcm];
            let broker = veil_common::broker();
            let (start, hello) = CompactStart::new(
                &setup.config(&suites),
                &setup.client,
                "broker-a",
                &mut entropy(&["nc", "eph c"]),
            )
            .unwrap();
            let mut connect = setup.connect(&hello);
            start.sign_connect(&setup.client, &mut connect).unwrap();
            let (hello, id) = read_connect(&connect).unwrap();
            ServerStart
                .compact(&connect, &hello, &broker, &setup.policy, &setup.expected(&id), SKEW_MS)
                .unwrap()
                .answer(&broker, NOW_MS, &mut entropy(&["nb", "eph b"]))
                .unwrap()
        };
        let mut byte = u8::try_from(days).unwrap();
        let mut random = |bytes: &mut [u8]| {
            byte = byte.wrapping_add(17);
            bytes.fill(byte);
        };
        later.push(accepted.ticket(&mut tickets, NOW_MS + days * day, &mut random).unwrap());
    }

    assert_ne!(later[0][..4], later[1][..4], "another key");
    assert!(tickets.open(&later[1], NOW_MS + 3 * day).is_some(), "made yesterday");
    assert!(tickets.open(&later[0], NOW_MS + 3 * day).is_none(), "made before, and expired");
    assert!(tickets.open(old, NOW_MS).is_none(), "its key is gone, whatever the time");
}
