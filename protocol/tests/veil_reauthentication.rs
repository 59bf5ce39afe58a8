//! Re-authentication on an established channel (VEIL-1 section 4.8), both sides in memory.
#![cfg(feature = "channel")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod veil_common;

use veil_common::{
    NOW, ca_keys, fields,
    handshake::{self, Failure, NOW_MS, Setup, encode, entropy},
    identity, keys,
    records::{MAX, packets, seal},
};
use veilmq_protocol::{
    Auth, Packet, ReasonCode,
    veil::{
        Roles, Scheme, Suite,
        channel::{
            ClientStart, Established, HandshakeError, Identity, Predecessor, RecordError, RecordOpener,
            RecordSealer, ServerStart,
        },
        record::RecordHeader,
        registry::AUTHENTICATION_METHOD,
    },
};

/// The messages of the exchange, in order; the first and the last are whole packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Begin,
    ServerHello,
    ClientFinish,
    Done,
}

fn auth(reason: ReasonCode, data: &[u8]) -> Vec<u8> {
    let auth = Auth { reason, method: Some(AUTHENTICATION_METHOD), data: Some(data), ..Auth::default() };
    encode(&Packet::Auth(auth))
}

/// One end of a channel.
struct End {
    sealer: RecordSealer,
    opener: RecordOpener,
    predecessor: Predecessor,
}

impl From<Established> for End {
    fn from(established: Established) -> Self {
        let (sealer, opener, predecessor) = established.into_parts();
        Self { sealer, opener, predecessor }
    }
}

impl End {
    fn switch_to(&mut self, next: Self) {
        self.sealer.switch_to(next.sealer);
        self.opener.switch_to(next.opener).unwrap();
        self.predecessor = next.predecessor;
    }
}

/// A channel, and what its two ends know of each other.
struct Channel {
    setup: Setup,
    client: End,
    broker: End,
}

fn channel(suite: Suite, scheme: Scheme) -> Channel {
    let setup = Setup::new(suite, scheme);
    let (client, broker) = setup.run(|_, _| {}).unwrap();
    Channel { setup, client: client.into(), broker: broker.into() }
}

impl Channel {
    /// Runs the exchange; `touch` sees every message on its way. Nobody has switched yet.
    fn run(
        &self,
        mut touch: impl FnMut(Message, &mut Vec<u8>),
    ) -> Result<(Established, Established), Failure> {
        let Setup { client, broker, client_trust, broker_trust, .. } = &self.setup;
        let mut random = entropy(&["nc 2", "eph c 2"]);
        let (start, hello) =
            ClientStart::again(&self.client.predecessor, ca_keys().kid(), Some(NOW_MS), &mut random)
                .map_err(Failure::Client)?;
        let mut begin = auth(ReasonCode::ReAuthenticate, &hello);
        let awaiting = start.sent_auth(&self.client.predecessor, &begin);
        touch(Message::Begin, &mut begin);
        let hello_at = begin.len().checked_sub(hello.len()).ok_or(Failure::NotAConnect)?;
        let (mut server_hello, server) = ServerStart
            .handle_again(
                &self.broker.predecessor,
                &begin,
                &begin[hello_at..],
                broker,
                NOW_MS + 10,
                &mut entropy(&["nb 2", "eph b 2"]),
            )
            .map_err(Failure::Broker)?;
        touch(Message::ServerHello, &mut server_hello);
        let (mut finish, awaiting) = awaiting
            .handle(&server_hello, client, client_trust, Some("broker-a"), Some(NOW))
            .map_err(Failure::Client)?;
        touch(Message::ClientFinish, &mut finish);
        let accepted = server.handle(&finish, broker_trust, "press-07", NOW).map_err(Failure::Broker)?;
        let (data, server) = accepted.server_finish(self.setup.params.clone()).map_err(Failure::Broker)?;
        let mut done = auth(ReasonCode::Success, &data);
        let broker = server.seal_auth(&mut done).map_err(Failure::Broker)?;
        touch(Message::Done, &mut done);
        Ok((awaiting.handle_auth(&done).map_err(Failure::Client)?, broker))
    }

    /// Runs the exchange and lets both sides switch, without a record in between.
    fn renew(&mut self) {
        let (client, broker) = self.run(|_, _| {}).unwrap();
        self.broker.switch_to(broker.into());
        self.client.switch_to(client.into());
    }

    /// Sends one record each way.
    fn talk(&mut self) {
        let record = seal(&mut self.client.sealer, b"\xc0\x00");
        assert_eq!(packets(&mut self.broker.opener, &record), Ok(b"\xc0\x00".to_vec()));
        let record = seal(&mut self.broker.sealer, b"\xd0\x00");
        assert_eq!(packets(&mut self.client.opener, &record), Ok(b"\xd0\x00".to_vec()));
    }
}

#[test]
fn both_sides_go_on_under_new_keys_in_every_suite_and_scheme() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Two, Scheme::Three, Scheme::Four] {
            let mut channel = channel(suite, scheme);
            for _ in 0..5 {
                channel.talk();
                channel.renew();
                channel.talk();
            }
        }
    }
}

#[test]
fn the_exchange_keeps_scheme_and_suite_and_ends_in_another_exporter_and_other_keys() {
    let setup = Setup::new(Suite::Aes256Gcm, Scheme::Four);
    let (before, broker) = setup.run(|_, _| {}).unwrap();
    let exporter = before.exporter.as_bytes().to_vec();
    let channel = Channel { setup, client: before.into(), broker: broker.into() };

    let (mut client, mut broker) = channel.run(|_, _| {}).unwrap();

    assert!(client.exporter == broker.exporter);
    assert_ne!(client.exporter.as_bytes()[..], exporter);
    assert_eq!((client.scheme, client.suite), (Scheme::Four, Suite::Aes256Gcm));
    assert_eq!((broker.scheme, broker.suite), (Scheme::Four, Suite::Aes256Gcm));
    assert_eq!(broker.peer, *channel.setup.client.certificate());
    assert_eq!(client.params, channel.setup.params);
    let Channel { client: mut old_client, broker: mut old_broker, .. } = channel;
    let record = |sealer: &mut RecordSealer| seal(sealer, b"\xc0\x00");
    assert_ne!(record(&mut client.sealer), record(&mut old_client.sealer));
    assert_ne!(record(&mut broker.sealer), record(&mut old_broker.sealer));
}

/// Flips every bit of one message in turn.
fn every_flipped_bit_fails(message: Message) {
    let channel = channel(Suite::Aes256Gcm, Scheme::Four);
    handshake::every_flipped_bit_fails(message, |touch| channel.run(touch));
}

#[test]
fn every_flipped_bit_of_the_first_auth_makes_the_exchange_fail() {
    every_flipped_bit_fails(Message::Begin);
}

#[test]
fn every_flipped_bit_of_server_hello_makes_the_exchange_fail() {
    every_flipped_bit_fails(Message::ServerHello);
}

#[test]
fn every_flipped_bit_of_client_finish_makes_the_exchange_fail() {
    every_flipped_bit_fails(Message::ClientFinish);
}

#[test]
fn every_flipped_bit_of_the_last_auth_makes_the_exchange_fail() {
    every_flipped_bit_fails(Message::Done);
}

#[test]
fn an_exchange_is_for_the_channel_it_was_begun_on() {
    let mut channel = channel(Suite::Aes256Gcm, Scheme::Four);
    let (elsewhere, _) = {
        let mut other = Setup::new(Suite::Aes256Gcm, Scheme::Four);
        other.suites.push(Suite::ChaCha20Poly1305);
        other.run(|_, _| {}).unwrap()
    };
    channel.client = elsewhere.into();

    let refused = channel.run(|_, _| {}).err();

    assert_eq!(refused, Some(Failure::Client(HandshakeError::Sealed("broker flight"))));
}

#[test]
fn another_party_with_a_good_certificate_is_refused_by_either_side() {
    let certified = |ed: &str, x: &str, roles, subject: &str| -> Identity {
        identity(ed, x, &fields(&keys(ed, x), roles, 9, subject))
    };
    let mut channel = channel(Suite::Aes256Gcm, Scheme::Four);
    let client = certified("other ed", "other x", Roles::PUBLISHER, "press-07");
    let (got, expected) = (client.kid(), channel.setup.client.kid());
    channel.setup.client = client;
    let error = HandshakeError::OtherIdentity { got, expected };
    assert_eq!(error.reason(), ReasonCode::NotAuthorized);
    assert_eq!(channel.run(|_, _| {}).err(), Some(Failure::Broker(error)));

    let mut channel = self::channel(Suite::Aes256Gcm, Scheme::Four);
    let broker = certified("other ed", "other x", Roles::BROKER, "broker-a");
    let (got, expected) = (broker.kid(), channel.setup.broker.kid());
    channel.setup.broker = broker;
    let error = HandshakeError::OtherIdentity { got, expected };
    assert_eq!(channel.run(|_, _| {}).err(), Some(Failure::Client(error)));
}

#[test]
fn a_renewed_certificate_for_the_same_key_is_accepted() {
    let mut channel = channel(Suite::Aes256Gcm, Scheme::Four);
    let renewed = fields(&keys("pub ed", "pub x"), Roles::PUBLISHER, 77, "press-07");
    channel.setup.client = identity("pub ed", "pub x", &renewed);

    let (_, broker) = channel.run(|_, _| {}).unwrap();

    assert_eq!(broker.peer.serial, 77);
}

#[test]
fn only_auth_with_success_ends_the_exchange_and_only_connack_the_first() {
    let channel = channel(Suite::Aes256Gcm, Scheme::Four);
    let done = |with: fn(&mut Vec<u8>)| {
        channel.run(|message, bytes| {
            if message == Message::Done {
                with(bytes);
            }
        })
    };

    type Row = (fn(&mut Vec<u8>), HandshakeError);
    let rows: [Row; 4] = [
        (|bytes| *bytes = auth(ReasonCode::ContinueAuthentication, b"x"), HandshakeError::NotCarrier),
        (|bytes| *bytes = handshake::connack(b"x"), HandshakeError::NotCarrier),
        (|bytes| bytes.push(0), HandshakeError::NotCarrier),
        (|bytes| *bytes = vec![0xF0, 0], HandshakeError::FinishMissing),
    ];
    for (with, error) in rows {
        assert_eq!(done(with).err(), Some(Failure::Client(error)));
    }
    let first = channel.setup.run(|message, bytes| {
        if message == handshake::Message::ConnAck {
            *bytes = auth(ReasonCode::Success, b"x");
        }
    });
    assert_eq!(first.err(), Some(Failure::Client(HandshakeError::NotCarrier)));
}

#[test]
fn the_previous_keys_open_until_the_first_record_under_the_new_and_not_after() {
    for suite in Suite::ALL {
        let mut channel = channel(suite, Scheme::Four);
        let record = |sealer: &mut RecordSealer, byte| seal(sealer, &[byte; 3]);
        let early = record(&mut channel.client.sealer, 1);
        let late = record(&mut channel.client.sealer, 2);
        let too_late = record(&mut channel.client.sealer, 3);
        assert_eq!(packets(&mut channel.broker.opener, &early), Ok(vec![1; 3]));
        let (new_client, new_broker) = channel.run(|_, _| {}).unwrap();
        let Channel { mut client, mut broker, .. } = channel;
        broker.opener.switch_to(new_broker.opener).unwrap();
        assert!(broker.opener.is_switching());
        assert_eq!(packets(&mut broker.opener, &late), Ok(vec![2; 3]), "{suite:?}");

        client.sealer.switch_to(new_client.sealer);
        assert_eq!(client.sealer.records(), 0, "record numbers start again");
        let first = record(&mut client.sealer, 4);
        let phase = |record: &[u8]| RecordHeader::read(record).unwrap().unwrap().phase;
        assert_eq!(phase(&first), phase(&late).next());
        assert_eq!(broker.opener.next(&mut first[..7].to_vec(), MAX), Ok(None));
        assert!(broker.opener.is_switching(), "half a record proves nothing");
        assert_eq!(packets(&mut broker.opener, &first), Ok(vec![4; 3]), "{suite:?}");
        assert!(!broker.opener.is_switching());

        assert_eq!(packets(&mut broker.opener, &too_late), Err(RecordError::Phase), "{suite:?}");
    }
}

#[test]
fn a_forged_first_record_under_the_new_keys_closes_the_channel() {
    let mut channel = channel(Suite::Aes256Gcm, Scheme::Four);
    channel.renew();
    let mut record = seal(&mut channel.client.sealer, b"\xc0\x00");
    *record.last_mut().unwrap() ^= 1;

    assert_eq!(packets(&mut channel.broker.opener, &record), Err(RecordError::Authentication));
    assert_eq!(packets(&mut channel.broker.opener, &record), Err(RecordError::Closed));
}

#[test]
fn a_key_update_is_refused_while_a_switch_is_due_and_may_follow_it() {
    let update = |sealer: &mut RecordSealer| {
        let mut record = Vec::new();
        sealer.key_update(&mut record);
        record
    };
    let mut renewed = channel(Suite::ChaCha20Poly1305, Scheme::Two);
    renewed.renew();
    let mut record = update(&mut renewed.client.sealer);
    assert!(renewed.broker.opener.next(&mut record, MAX).unwrap().is_some(), "it is the first under the new");
    renewed.talk();
    renewed.renew();
    renewed.talk();

    let mut waiting = channel(Suite::ChaCha20Poly1305, Scheme::Two);
    let (_, broker) = waiting.run(|_, _| {}).unwrap();
    waiting.broker.opener.switch_to(broker.opener).unwrap();
    let mut record = update(&mut waiting.client.sealer);
    assert_eq!(waiting.broker.opener.next(&mut record, MAX), Err(RecordError::KeyUpdateBarred));
}

#[test]
fn a_second_switch_is_refused_while_one_is_due() {
    let mut channel = channel(Suite::Aes256Gcm, Scheme::Four);
    for expected in [Ok(()), Err(RecordError::KeyUpdateBarred), Err(RecordError::Closed)] {
        let (_, broker) = channel.run(|_, _| {}).unwrap();

        assert_eq!(channel.broker.opener.switch_to(broker.opener), expected);
    }
}
