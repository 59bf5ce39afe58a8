//! Tokens as passwords in the real broker: those that another implementation made, one that ends, keys that come and go.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use veilmq_tests::broker::Broker;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::wire::{RawPacket, Wire, packet, push_string};

const DISCONNECT: u8 = 0xE0;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../broker/src/access/jwt/vectors.json")).unwrap()
}

/// A broker that takes tokens of the keys of the vectors.
struct Side {
    broker: Broker,
    vectors: Value,
}

impl Side {
    fn start(rest: &str) -> Self {
        let broker = Broker::configured(|address| {
            format!("shards.count = 2\n[[listeners]]\naddress = \"{address}\"\n{rest}\n[access.jwt]\n")
        });
        let path = broker.directory().join("veilmq.toml");
        let config = fs::read_to_string(&path).unwrap()
            + &format!("jwks_file = \"{}\"\n", broker.directory().join("jwks.json").display())
            + "issuer = \"https://issuer.example\"\naudience = \"broker\"\nleeway_seconds = 0\n";
        fs::write(path, config).unwrap();
        let mut side = Self { broker, vectors: vectors() };
        side.write_keys(&side.vectors["jwks"]);
        side.broker.restart();
        side
    }

    fn write_keys(&self, keys: &Value) {
        fs::write(self.broker.directory().join("jwks.json"), keys.to_string()).unwrap();
    }

    fn connect(&self, user: &str, password: &str) -> (Wire, RawPacket) {
        connect_to(self.broker.address(), user, password)
    }

    fn code(&self, user: &str, password: &str) -> u8 {
        self.connect(user, password).1.body[1]
    }

    fn lasting(&self, name: &str) -> &str {
        self.vectors["tokens"]["lasting"][name].as_str().unwrap()
    }

    fn join(&self, name: &str) -> Wire {
        let (wire, connack) = self.connect("ann", self.lasting(name));
        assert_eq!(connack.body[1], 0, "{name}: {}", self.broker.log());
        wire
    }

    /// Makes a token that ends so many seconds from now.
    fn token(&self, seconds: u64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims =
            json!({"sub": "ann", "exp": now + seconds, "iss": "https://issuer.example", "aud": "broker"});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&json!({"alg": "HS256"})), encode(&claims));
        let secret = self.vectors["secret"].as_str().unwrap().as_bytes();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// Connects with MQTT 5 and returns the connection and its CONNACK.
fn connect_to(address: SocketAddr, user: &str, password: &str) -> (Wire, RawPacket) {
    let mut body = Vec::new();
    push_string(&mut body, "MQTT");
    body.extend([5, 0b1100_0010, 0, 0, 0]);
    for text in ["", user, password] {
        push_string(&mut body, text);
    }
    let mut wire = Wire::open(address);
    wire.send(&packet(0x10, &body)).unwrap();
    let connack = wire.packet().unwrap();
    (wire, connack)
}

#[test]
fn tokens_of_every_algorithm_prove_their_users_and_no_other_does() {
    // [B14]
    let side = Side::start("");
    for name in ["HS256", "RS256", "ES256", "EdDSA"] {
        assert_eq!(side.code("ann", side.lasting(name)), 0, "{name}");
        assert_eq!(side.code("bob", side.lasting(name)), 0x86, "{name}");
    }

    let tokens = &side.vectors["tokens"];
    for (name, token) in [
        ("public key as secret", &tokens["lasting, of the public key as secret"]),
        ("none", &tokens["lasting, of no algorithm"]),
        ("expired", &tokens["good"]["ES256"]),
        ("password", &tokens["bad"]["no token"]),
    ] {
        assert_eq!(side.code("ann", token.as_str().unwrap()), 0x86, "{name}");
    }
    let log = side.broker.log();
    assert!(!log.contains("eyJ"), "a token is in the log: {log}");
}

#[test]
fn keys_may_be_in_pem_and_a_token_alone_says_who_a_client_is() {
    let side = Side::start("");
    let folder = side.broker.directory();
    fs::write(folder.join("key.pem"), side.vectors["pems"]["EdDSA"].as_str().unwrap()).unwrap();
    let path = folder.join("veilmq.toml");
    let text = fs::read_to_string(&path).unwrap();
    let key_files = format!("key_files = [\"{}\"]\n", folder.join("key.pem").display());
    fs::write(path, text.replace("jwks_file", &format!("{key_files}#jwks_file"))).unwrap();
    assert!(side.broker.reload(), "{}", side.broker.log());
    assert_eq!([side.code("ann", side.lasting("ES256")), side.code("ann", side.lasting("EdDSA"))], [0x86, 0]);

    // MQTT 5 allows a password without a user name (section 3.1.2.9).
    let mut body = Vec::new();
    push_string(&mut body, "MQTT");
    body.extend([5, 0b0100_0010, 0, 0, 0]);
    push_string(&mut body, "unnamed");
    push_string(&mut body, side.lasting("EdDSA"));
    let mut wire = Wire::open(side.broker.address());
    wire.send(&packet(0x10, &body)).unwrap();
    assert_eq!(wire.packet().unwrap().body[1], 0, "{}", side.broker.log());
    assert!(side.broker.log().contains("client=\"unnamed\" version=5 user=\"ann\""));
    assert_eq!(side.code("", side.lasting("EdDSA")), 0, "an empty user name is none");
    assert_eq!(side.code("", side.lasting("ES256")), 0x86);
}

#[test]
fn a_connection_ends_when_its_token_does() {
    let side = Side::start("");
    let mut lasting = side.join("ES256");

    let (mut wire, connack) = side.connect("ann", &side.token(2));
    assert_eq!(connack.body[1], 0);
    wire.set_patience(Duration::from_secs(20)).unwrap();
    let farewell = wire.packet().unwrap();

    assert_eq!((farewell.first, farewell.body[0]), (DISCONNECT, 0x87));
    assert_eq!(side.code("ann", &side.token(0)), 0x86);
    lasting.send(&packet(0xC0, &[])).unwrap();
    assert_eq!(lasting.packet().unwrap().first, 0xD0, "another token is another matter");
}

#[test]
fn keys_that_are_taken_away_end_connections_and_a_broken_file_changes_nothing() {
    // [B07]
    let side = Side::start("");
    let (mut gone, mut stays) = (side.join("ES256"), side.join("EdDSA"));
    fs::write(side.broker.directory().join("jwks.json"), "[").unwrap();
    assert!(!side.broker.reload());
    assert_eq!(side.code("ann", side.lasting("ES256")), 0);

    // Nobody asks for this reload.
    let mut keys = side.vectors["jwks"].clone();
    keys["keys"].as_array_mut().unwrap().retain(|key| key["kid"] != "ES256");
    side.write_keys(&keys);
    gone.set_patience(Duration::from_secs(30)).unwrap();

    assert_eq!(gone.packet().unwrap().first, DISCONNECT);
    assert_eq!(side.code("ann", side.lasting("ES256")), 0x86);
    assert_eq!(side.code("ann", side.lasting("EdDSA")), 0);
    stays.send(&packet(0xC0, &[])).unwrap();
    assert_eq!(stays.packet().unwrap().first, 0xD0);
}

#[test]
fn a_listener_of_its_own_takes_tokens_if_it_says_so() {
    let ports = [ReservedPort::new(), ReservedPort::new()];
    let addresses = ports.each_ref().map(|port| SocketAddr::from(([127, 0, 0, 1], port.number())));
    // The first is open to everybody; of the others one takes tokens and one passwords alone.
    let side = Side::start(&format!(
        "access.anonymous = true\n[[listeners]]\naddress = \"{}\"\naccess.jwt = true\n\
         [[listeners]]\naddress = \"{}\"\naccess.anonymous = false\n",
        addresses[0], addresses[1]
    ));
    let code = |address, password| connect_to(address, "ann", password).1.body[1];

    assert_eq!(code(side.broker.address(), "x"), 0, "a name is taken at its word there");
    for (address, expected) in [(addresses[0], 0), (addresses[1], 0x86)] {
        assert_eq!((code(address, side.lasting("ES256")), code(address, "x")), (expected, 0x86));
    }
}
