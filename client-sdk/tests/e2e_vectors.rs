//! The module reproduces the reference values of VEIL-1 sections 8.2, 10 and 11 byte for byte.

mod e2e_support;

use e2e_support::{
    EPOCH, JSON, NOW, SCOPE, TOPIC, hex, keyring, member, member_with, plain, press, seed, to_hex, topic,
    unsigned, vectors,
};
use veilmq_client::e2e::{
    ArticleKey, ArticleKeys, Authentication, EnvelopeOptions, EpochTiming, GroupKey, Keyring, MasterSecret,
};
use veilmq_protocol::veil::{Certificate, Suite};

const SIGNED_AT: u64 = 1_790_000_200_000;

fn cases() -> Vec<(&'static str, EnvelopeOptions)> {
    let suites = [
        ("cbc-hmac", "cbc-hmac+sig", Suite::Aes256CbcHmacSha256),
        ("aes-256-gcm", "aes-256-gcm+sig", Suite::Aes256Gcm),
        ("chacha20-poly1305", "chacha20-poly1305+sig", Suite::ChaCha20Poly1305),
    ];
    suites
        .into_iter()
        .flat_map(|(plain, signed, suite)| {
            let options = EnvelopeOptions { suite, ..EnvelopeOptions::default() };
            let with_signature = EnvelopeOptions { sign: true, timestamp: true, ..options.clone() };
            [(plain, options), (signed, with_signature)]
        })
        .collect()
}

/// The reference session ends in 0x3eef and its CBC initialisation vector is a0..af.
fn reference_entropy(bytes: &mut [u8]) {
    match bytes.len() {
        2 => bytes.copy_from_slice(&[0x3e, 0xef]),
        _ => bytes.iter_mut().zip(0xa0..).for_each(|(byte, value)| *byte = value),
    }
}

#[test]
fn sealing_gives_the_reference_envelopes_byte_for_byte() {
    let vectors = vectors();
    for (name, options) in cases() {
        let mut press = member(press(), options);
        for _ in 0..9 {
            press.seal(topic(TOPIC), b"earlier", &plain(), NOW, &mut reference_entropy).unwrap();
        }

        let envelope = press.seal(topic(TOPIC), JSON, &plain(), SIGNED_AT, &mut reference_entropy).unwrap();

        let expected = &vectors["envelope"]["cases"][name];
        assert_eq!(to_hex(&envelope), expected["hex"].as_str().unwrap(), "{name}");
        assert_eq!((envelope.len() - JSON.len()) as u64, expected["overhead"].as_u64().unwrap(), "{name}");
    }
}

#[test]
fn the_reference_envelopes_open_with_their_sender_and_position() {
    let vectors = vectors();
    let certificate = Certificate::parse(&hex(&vectors["certs"]["pub"])).unwrap();
    for (name, options) in cases() {
        let mut reader =
            member(unsigned(1), EnvelopeOptions { require_signature: options.sign, ..options.clone() });
        reader.directory_mut().pin(certificate.clone());
        let payload = hex(&vectors["envelope"]["cases"][name]["hex"]);

        let opened = reader.open(topic(TOPIC), &payload, false, &plain(), SIGNED_AT + 5).unwrap();

        let origin = *opened.origin().unwrap();
        assert_eq!(opened.plaintext, JSON, "{name}");
        assert_eq!(origin.sender.to_string(), vectors["envelope"]["sender_kid"].as_str().unwrap());
        assert_eq!(origin.session, vectors["envelope"]["session"].as_u64().unwrap());
        assert_eq!((origin.epoch, origin.seq, origin.gap, origin.will), (EPOCH, 9, 0, false));
        assert_eq!(origin.age_ms, options.timestamp.then_some(5));
        let expected = if options.sign { Authentication::Signed } else { Authentication::Group };
        assert_eq!(opened.authentication(), expected);
    }
}

#[test]
fn master_secret_gives_the_reference_group_key() {
    let master: Vec<u8> = (0..32).collect();
    let group_key: [u8; 32] = hex(&vectors()["envelope"]["gk_from_master"]).try_into().unwrap();
    assert_ne!(group_key, seed("gk epoch 7"));
    let mut explicit = Keyring::explicit(EpochTiming::default());
    explicit.insert(EPOCH, GroupKey::new(&group_key), 0).unwrap();
    let derived = Keyring::master(MasterSecret::new(&master), EPOCH, EpochTiming::default());
    let mut sender = member_with(unsigned(1), SCOPE, derived, EnvelopeOptions::default());
    let mut reader = member_with(unsigned(2), SCOPE, explicit, EnvelopeOptions::default());

    let payload = sender.seal(topic(TOPIC), JSON, &plain(), NOW, &mut reference_entropy).unwrap();

    assert_eq!(reader.open(topic(TOPIC), &payload, false, &plain(), NOW).unwrap().plaintext, JSON);
    let mut other = member_with(unsigned(3), SCOPE, keyring(), EnvelopeOptions::default());
    assert!(other.open(topic(TOPIC), &payload, false, &plain(), NOW).is_err());
}

#[test]
fn article_format_is_the_reference_wire_byte_for_byte() {
    let vectors = vectors();
    let article: serde_json::Value = serde_json::from_str(include_str!("data/article-v1.json")).unwrap();
    let keys = ArticleKeys::new(ArticleKey::master(&hex(&vectors["article"]["master"])));
    let iv = hex(&article["iv"]).try_into().unwrap();

    let wire = keys.encrypt(topic(TOPIC), article["json"].as_str().unwrap().as_bytes(), iv).unwrap();

    assert_eq!(to_hex(&wire), vectors["article"]["wire"].as_str().unwrap());
    assert_eq!(to_hex(&wire), article["wire"].as_str().unwrap());
    assert_eq!(keys.decrypt(topic(TOPIC), &wire, NOW).unwrap(), JSON);
}
