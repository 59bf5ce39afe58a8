//! What a malicious broker or issuer does to the keys of a scope that press issues and lake is a member of.

use std::convert::Infallible;
use std::sync::Arc;

use hpke::aead::{AesGcm256, ChaCha20Poly1305};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeS, Serializable, single_shot_seal_with_rng};
use veilmq_client::e2e::distribution::{Distribution, HeadError, IssuePolicy, KeyEvent, Outgoing, Rotation};
use veilmq_client::e2e::{E2e, EnvelopeOptions, Limits, Member, Scope, SenderPolicy, UnwrapError};
use veilmq_protocol::veil::channel::Identity;
use veilmq_protocol::veil::distribution::{KeyHead, Wrap, WrapKind, WrapSuite, bundle, put_bundle};
use veilmq_tests::members::anchors;

use crate::world::{SCOPE, lake, press};

const START: u64 = 1_790_000_000_000;

/// Counts up from a byte that tells one world from another.
struct Entropy(u64);

impl Entropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

impl TryRng for Entropy {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Entropy {}

/// A program with keys that come and go through the broker.
struct Party {
    e2e: E2e,
    keys: Distribution,
}

impl Party {
    fn new(identity: Arc<Identity>) -> Self {
        let e2e = E2e::new(Member::Identity(Arc::clone(&identity)), Limits::default());
        Self { e2e, keys: Distribution::new(identity, anchors()) }
    }

    fn hear(&mut self, (topic, payload): &(String, Vec<u8>)) -> Vec<KeyEvent> {
        self.keys.handle(&mut self.e2e, topic, payload, START, &mut |bytes| Entropy(9).fill(bytes));
        self.keys.take_events()
    }

    fn refuses(&mut self, head: &(String, Vec<u8>)) -> HeadError {
        match self.hear(head).pop() {
            Some(KeyEvent::HeadRefused { error, .. }) => error,
            other => panic!("{other:?}"),
        }
    }
}

fn scope() -> Scope {
    Scope::new(SCOPE).unwrap()
}

fn options() -> EnvelopeOptions {
    EnvelopeOptions { senders: SenderPolicy::Known, ..EnvelopeOptions::default() }
}

fn member() -> Party {
    let mut party = Party::new(lake());
    party.keys.join(&mut party.e2e, scope(), options()).unwrap();
    party
}

/// The heads of press's first epochs, as the broker retains them, with a wrap for lake.
fn heads(epochs: usize, seed: u64) -> Vec<(String, Vec<u8>)> {
    let mut entropy = Entropy(seed);
    let mut fill = |bytes: &mut [u8]| entropy.fill(bytes);
    let mut press = Party::new(press());
    press.keys.issue(&mut press.e2e, scope(), options(), IssuePolicy::default()).unwrap();
    press.keys.admit(&scope(), lake().certificate().clone(), START, &mut fill).unwrap();
    let mut heads = Vec::new();
    for epoch in 0..epochs {
        if epoch > 0 {
            press.keys.rotate(&scope(), Rotation::Ordinary, &mut fill).unwrap();
        }
        let now = START + epoch as u64 * 100_000;
        press.keys.advance(&mut press.e2e, now, &mut fill);
        let published = press.keys.outgoing(now, &mut fill);
        press.keys.announced(&mut press.e2e);
        let mut found = published.into_iter().filter(|message| message.topic.starts_with("_veil/1/kp/"));
        let Outgoing { topic, payload, .. } = found.next().unwrap();
        heads.push((topic, payload));
    }
    heads
}

#[test]
fn a_head_that_was_rolled_back_is_refused() {
    let heads = heads(2, 1);
    let mut lake = member();
    lake.hear(&heads[1]);

    assert_eq!(lake.refuses(&heads[0]), HeadError::Rollback { epoch: 1 });
}

#[test]
fn wraps_of_another_head_and_changed_heads_give_no_key() {
    let (one, other) = (heads(1, 1), heads(1, 2));
    let (topic, payload) = &one[0];
    let (head, _) = KeyHead::parse(payload).unwrap();
    let (_, foreign) = KeyHead::parse(&other[0].1).unwrap();
    let mut lake = member();

    // The broker puts the wraps of one head behind another.
    let swapped = [head.as_bytes(), foreign].concat();
    let expected = HeadError::Unwrap { epoch: 1, error: UnwrapError::Sealed };
    assert_eq!(lake.refuses(&(topic.clone(), swapped)), expected);
    // It changes what press has signed.
    for position in [5, 12, 40, head.as_bytes().len() - 1] {
        let mut changed = payload.clone();
        changed[position] ^= 1;
        assert!(matches!(
            lake.refuses(&(topic.clone(), changed)),
            HeadError::Object(_) | HeadError::TopicMismatch
        ));
    }

    assert!(matches!(&*lake.hear(&one[0]), [KeyEvent::Installed { epoch: 1, .. }]));
}

#[test]
fn an_issuer_that_gives_one_member_another_key_is_caught() {
    let heads = heads(1, 1);
    let (topic, payload) = &heads[0];
    let (head, wraps) = KeyHead::parse(payload).unwrap();
    let genuine = bundle(wraps).unwrap();
    // Press wraps a key that is not the one its head commits to, and does everything else as it should.
    let Wrap { kid, prekey_id, .. } = genuine[0];
    let info = [b"veil1 wrap".as_slice(), &head.digest(), kid.as_bytes(), &prekey_id.to_be_bytes()].concat();
    let plaintext = [&[1][..], &head.epoch.to_be_bytes(), &[0x66; 32]].concat();
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&lake().certificate().x25519).unwrap();
    let (mode, random) = (OpModeS::Base, &mut Entropy(3));
    let (encapsulated, ciphertext) = match head.wrap_suite {
        WrapSuite::Aes256Gcm => single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &mode,
            &public,
            &info,
            &plaintext,
            &[],
            random,
        ),
        WrapSuite::ChaCha20Poly1305 => single_shot_seal_with_rng::<
            ChaCha20Poly1305,
            HkdfSha256,
            X25519HkdfSha256,
        >(&mode, &public, &info, &plaintext, &[], random),
    }
    .unwrap();
    let encapsulated = encapsulated.to_bytes().as_slice().try_into().unwrap();
    assert_eq!(genuine[0].kind, WrapKind::Static, "lake has published no prekey");
    let mut forged = head.as_bytes().to_vec();
    put_bundle(&mut forged, &[Wrap { encapsulated, ciphertext, ..genuine[0].clone() }]);
    let mut lake = member();

    let expected = HeadError::Unwrap { epoch: 1, error: UnwrapError::Commitment };
    assert_eq!(lake.refuses(&(topic.clone(), forged)), expected);

    // Two keys for one epoch, each with a head of its own, are caught by whoever sees both.
    assert!(matches!(&*lake.hear(&heads[0]), [KeyEvent::Installed { epoch: 1, .. }]));
    let others = self::heads(1, 2);
    assert_eq!(lake.refuses(&others[0]), HeadError::Equivocation { epoch: 1 });
}
