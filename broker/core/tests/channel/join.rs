//! Joins that come with CONNECT: WAIT, the issuer's answer in CONNACK, and going on without it (VEIL-1 section 9.1).

use veilmq_core::{Access, Actions, Rule, RuleEffect, RuleStage, Rules, Subject, Template};
use veilmq_protocol::veil::channel::{AwaitCompactAnswer, CompactStart};
use veilmq_protocol::veil::distribution::{JoinRequestFields, JoinResponse};
use veilmq_protocol::veil::hello::JoinStatus;
use veilmq_protocol::{Publish, TopicName};

use super::one_trip::{self, with_hello};
use super::*;

const NONCE: [u8; 16] = [0x5A; 16];
const MEMBER: u8 = 11;
const ISSUER: u8 = 10;
const WAIT: [u8; 2] = [0x0A, 1];
const WAIT_ACK: [u8; 2] = [0x0B, 1];

fn auth(data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet = Auth {
        reason: ReasonCode::ContinueAuthentication,
        method: Some(AUTHENTICATION_METHOD),
        data: Some(data),
        ..Auth::default()
    };
    Packet::Auth(packet).encode(ProtocolVersion::V5, &mut bytes).unwrap();
    bytes
}

/// A request for the keys of `f/#`.
fn request(signer: &Identity, issuer: &Identity) -> Vec<u8> {
    let fields = JoinRequestFields {
        nonce: NONCE,
        created_ms: 1_800_000_000_000,
        x25519: [9; 32],
        issuer: issuer.kid(),
        scope: "f/#".to_owned(),
        certificate: signer.certificate().clone(),
    };
    fields.sign(signer.keys()).unwrap().as_bytes().to_vec()
}

fn response(nonce: [u8; 16], flight: &[u8]) -> Vec<u8> {
    let response =
        JoinResponse { request_nonce: nonce, nonce: [7; 16], created_ms: 0, x25519: [8; 32], flight };
    response.encode().unwrap()
}

/// A broker, and an issuer that listens if it `is_there`.
fn stage(settings: Settings, is_there: bool) -> (Realm, Client) {
    let mut realm = realm(Settings { reason_strings: false, ..settings });
    let mut issuer = realm.join("press-07", ISSUER, Schemes::of(&[Scheme::Four]), Suite::Aes256Gcm);
    if is_there {
        let topic = format!("_veil/1/jn/{}", realm.identity(ISSUER, "press-07").kid());
        realm.subscribe(&mut issuer, &topic);
        realm.received(&mut issuer);
    }
    (realm, issuer)
}

/// Publishes a response for the member.
fn respond_as(realm: &mut Realm, client: &mut Client, payload: &[u8]) {
    let topic = format!("_veil/1/jr/{}", realm.identity(MEMBER, "lake-1").kid());
    let topic = Some(TopicName::new(&topic).unwrap());
    let message = Publish { topic, payload, ..publish("t", "", QoS::AtMostOnce, 0) };
    realm.send(client, &[Packet::Publish(message)]);
}

/// A member that has sent CONNECT with a request, and the issuer it asks.
struct Asking {
    realm: Realm,
    issuer: Client,
    connection: Conn,
    awaiting: AwaitCompactAnswer,
}

/// Connects `lake-1` by COMPACT with a request that `signer` made.
fn ask((mut realm, issuer): (Realm, Client), signer: u8) -> Asking {
    let member = realm.identity(MEMBER, "lake-1");
    let request = request(&realm.identity(signer, "lake-1"), &realm.identity(ISSUER, "press-07"));
    let config = ClientHelloConfig {
        schemes: Schemes::ALL,
        suites: &Suite::ALL,
        anchor: realm.broker.kid(),
        now_unix_ms: Some(realm.world.now().milliseconds()),
        form: ChannelForm::Records,
        join_request: Some(&request),
    };
    let (start, hello) =
        CompactStart::new(&config, &member, "broker", &mut |bytes| bytes.fill(0x21)).unwrap();
    let mut connect = with_hello(connect_v5("lake-1", true, 0), &hello);
    let awaiting = start.sign_connect(&member, &mut connect).unwrap();
    let connection = realm.send_connect(&connect);
    Asking { realm, issuer, connection, awaiting }
}

impl Asking {
    fn bytes(&mut self) -> Vec<u8> {
        self.realm.world.bytes(self.connection)
    }

    fn says(&mut self, data: &[u8]) {
        self.realm.world.send_bytes(self.connection, &auth(data));
    }

    /// The issuer publishes a response for the member.
    fn respond(mut self, payload: &[u8]) -> Self {
        respond_as(&mut self.realm, &mut self.issuer, payload);
        self
    }

    /// What the CONNACK that has come says of the join; the client then shows that it is there.
    fn outcome(mut self) -> (JoinStatus, Vec<u8>) {
        let connack = self.bytes();
        let Self { mut realm, connection, awaiting, .. } = self;
        let established = awaiting.handle(&connack, &realm.anchors, Some(1_800_000_000)).unwrap();
        let outcome = established.params.join.clone().unwrap();
        let (mut lake, _) = one_trip::client(connection, established);
        realm.send(&mut lake, &[Packet::PingReq]);
        assert_eq!(realm.received(&mut lake), ["PINGRESP"]);
        outcome
    }
}

fn shards(shards: u16) -> Settings {
    Settings { shards, ..Settings::default() }
}

#[test]
fn an_issuer_that_is_there_answers_in_connack() {
    for count in [1, 3] {
        let mut asking = ask(stage(shards(count), true), MEMBER);
        assert_eq!(asking.bytes(), auth(&WAIT));
        let asked = asking.realm.received(&mut asking.issuer);
        let topic = format!("_veil/1/jn/{}", asking.realm.identity(ISSUER, "press-07").kid());
        assert!(asked.len() == 1 && asked[0].contains(&topic), "{asked:?}");

        asking.says(&WAIT_ACK);
        assert!(asking.bytes().is_empty(), "it waits");
        let payload = response(NONCE, b"for the member alone");
        let asking = asking.respond(&payload);

        assert_eq!(asking.realm.world.sample("veilmq_join_total", "answered"), 1);
        assert_eq!(asking.realm.world.shared.take_join_milliseconds(), [0]);
        assert_eq!(asking.outcome(), (JoinStatus::Done, payload));
    }
}

#[test]
fn connack_does_not_overtake_the_answer_to_wait() {
    let payload = response(NONCE, b"early");
    let mut asking = ask(stage(shards(1), true), MEMBER).respond(&payload);
    assert_eq!(asking.bytes(), auth(&WAIT), "and nothing else");

    asking.says(&WAIT_ACK);

    assert_eq!(asking.outcome(), (JoinStatus::Done, payload));
}

#[test]
fn a_connection_does_not_depend_on_an_issuer() {
    let mut asking = ask(stage(shards(1), true), MEMBER).respond(&response([1; 16], b"another request"));
    asking.bytes();
    asking.says(&WAIT_ACK);
    asking.realm.world.pass(2_999);
    assert!(asking.bytes().is_empty());
    asking.realm.world.pass(1);
    assert_eq!(asking.realm.world.sample("veilmq_join_total", "pending"), 1);
    assert_eq!(asking.realm.world.shared.take_join_milliseconds(), [3_000]);
    assert_eq!(asking.outcome(), (JoinStatus::Pending, Vec::new()));

    let absent = ask(stage(shards(1), false), MEMBER);
    assert_eq!(absent.outcome(), (JoinStatus::Pending, Vec::new()), "nobody listens, so nobody waits");
}

#[test]
fn an_answer_that_connack_has_no_room_for_is_left_to_come_as_a_message() {
    let mut asking = ask(stage(shards(1), true), MEMBER).respond(&response(NONCE, &[0; 20_000]));
    asking.bytes();
    asking.says(&WAIT_ACK);

    assert_eq!(asking.outcome(), (JoinStatus::Pending, Vec::new()));
}

#[test]
fn only_the_issuer_that_was_asked_answers() {
    let mut asking = ask(stage(shards(1), true), MEMBER);
    asking.bytes();
    asking.says(&WAIT_ACK);
    let mut other = asking.realm.join("mill", 20, Schemes::of(&[Scheme::Four]), Suite::Aes256Gcm);

    respond_as(&mut asking.realm, &mut other, &response(NONCE, b"of somebody else"));
    assert!(asking.bytes().is_empty());

    let payload = response(NONCE, b"of the issuer");
    assert_eq!(asking.respond(&payload).outcome(), (JoinStatus::Done, payload));
}

#[test]
fn a_request_of_somebody_else_or_for_what_the_client_may_not_read_is_not_passed_on() {
    let mut foreign = ask(stage(shards(1), true), 12);
    assert_eq!(foreign.realm.received(&mut foreign.issuer), [""; 0]);
    assert_eq!(foreign.outcome(), (JoinStatus::None, Vec::new()));

    let (mut realm, issuer) = stage(shards(1), true);
    let rule = |effect, filter: &str| Rule {
        subject: Subject::Everyone,
        effect,
        actions: Actions { publish: true, receive: true },
        filter: Template::new(filter).unwrap(),
    };
    let stage = RuleStage {
        rules: vec![rule(RuleEffect::Deny, "f/#"), rule(RuleEffect::Allow, "#")],
        denies_wildcard_names: false,
    };
    let rules = Some(Rules::new(vec![stage], true));
    realm.world.set_access(Access { rules, ..Access::open_to(true) });
    let mut denied = ask((realm, issuer), MEMBER);
    assert_eq!(denied.realm.received(&mut denied.issuer), [""; 0]);
    assert_eq!(denied.realm.world.sample("veilmq_join_total", "refused"), 1);
    assert_eq!(denied.outcome(), (JoinStatus::None, Vec::new()));
}

#[test]
fn who_answers_wait_with_something_else_is_refused_and_who_does_not_is_let_go() {
    for wrong in [&[0x0B][..], &[0x0B, 2], &[0x0A, 1], &[]] {
        let mut asking = ask(stage(shards(1), true), MEMBER);
        asking.bytes();
        asking.says(wrong);
        assert_eq!(asking.bytes(), [0x20, 3, 0, 0x82, 0], "{wrong:02x?}");
        assert_eq!(asking.realm.world.sample("veilmq_channel_handshakes_total", "failure"), 1);
    }
    let mut silent = ask(stage(shards(1), true), MEMBER);
    silent.bytes();
    silent.realm.world.pass(9_999);
    assert!(!silent.realm.world.is_closed(silent.connection));
    silent.realm.world.pass(1);
    assert!(silent.realm.world.is_closed(silent.connection));
}

#[test]
fn who_waits_for_an_issuer_counts_as_half_open_and_takes_nobodys_session() {
    let (mut realm, issuer) = stage(Settings { half_open_max: 1, ..shards(1) }, true);
    let connect = connect_v5("lake-1", false, 600);
    let mut earlier = realm.join_with(connect, MEMBER, Schemes::of(&[Scheme::Four]), Suite::Aes256Gcm);
    let mut asking = ask((realm, issuer), MEMBER);
    assert_eq!(asking.bytes(), auth(&WAIT));

    // Another address would be let in; this one has begun three in this second, and may begin one more.
    let another = |realm: &mut Realm, name: &str| {
        let (connection, _) = realm.begin(name, Schemes::ALL, Suite::Aes256Gcm);
        realm.world.bytes(connection)[0]
    };
    let answers: Vec<u8> = (0..5).map(|at| another(&mut asking.realm, &format!("x{at}"))).collect();
    assert_eq!(answers.last(), Some(&0x20), "too many are half open: {answers:02x?}");

    asking.says(&WAIT_ACK);
    let payload = response(NONCE, b"keys");
    let mut asking = asking.respond(&payload);
    asking.realm.send(&mut earlier, &[Packet::PingReq]);
    assert_eq!(asking.realm.received(&mut earlier), ["PINGRESP"], "it has its session still");
    let earlier = earlier.connection;
    let connack = asking.bytes();
    let established = asking.awaiting.handle(&connack, &asking.realm.anchors, Some(1_800_000_000)).unwrap();
    let (mut lake, _) = one_trip::client(asking.connection, established);
    asking.realm.send(&mut lake, &[Packet::PingReq]);
    assert!(asking.realm.world.is_closed(earlier));
}
