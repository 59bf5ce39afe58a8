//! Wrapping group keys for one member and unwrapping them (VEIL-1 section 9.2): HPKE of RFC 9180 in base mode.
//!
//! Invariant: what [`unwrap`] returns is committed to by the head, the keys of earlier epochs through the chain of links.

use std::convert::Infallible;

use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable,
    aead::{Aead, AesGcm256, ChaCha20Poly1305},
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    rand_core::{TryCryptoRng, TryRng},
    single_shot_open, single_shot_seal_with_rng,
};
use subtle::ConstantTimeEq;
use thiserror::Error;
use veilmq_protocol::veil::{
    Kid,
    channel::{Secret32, hash},
    distribution::{KeyHead, KeyHeadFields, Wrap, WrapKind, WrapSuite},
    layout::{LayoutError, Reader},
};
use zeroize::Zeroizing;

use super::{Entropy, keyring::GroupKey, scope::Scope};

type PrivateKey = <X25519HkdfSha256 as hpke::Kem>::PrivateKey;
type PublicKey = <X25519HkdfSha256 as hpke::Kem>::PublicKey;
type EncappedKey = <X25519HkdfSha256 as hpke::Kem>::EncappedKey;

/// Names why a wrap gave no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnwrapError {
    /// It was made for another member, for a key this member no longer has, for another head, or was changed.
    #[error("the wrap cannot be opened")]
    Sealed,
    /// What it holds is not laid out as keys.
    #[error("the wrap holds no keys: {0}")]
    Layout(#[from] LayoutError),
    /// A key in it is not the one the head commits to.
    #[error("the key in the wrap is not the one the head commits to")]
    Commitment,
}

/// The key a wrap is made for.
pub(super) struct Recipient {
    pub(super) kid: Kid,
    pub(super) kind: WrapKind,
    pub(super) prekey_id: u32,
    pub(super) public: [u8; 32],
}

/// Group keys of consecutive epochs, the newest first.
pub(super) struct Row<'a> {
    pub(super) keys: Vec<RowKey<'a>>,
    /// What the oldest of them has as its `previous`.
    pub(super) previous: [u8; 32],
}

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct RowKey<'a> {
    pub(super) epoch: u32,
    pub(super) key: &'a GroupKey,
    pub(super) activate_ms: u64,
}

/// A key that came in a row, and when its epoch becomes active in unix milliseconds.
pub(super) struct Unwrapped {
    pub(super) epoch: u32,
    pub(super) key: GroupKey,
    pub(super) activate_ms: u64,
}

impl Row<'_> {
    /// `u8 k || k * (u32 epoch || GK)`, and for `k > 1` the `previous` of the oldest and `(k - 1) * u64 activate_ms` of
    /// all but the newest, whose time is in the head.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(1 + 44 * self.keys.len() + 32));
        out.push(u8::try_from(self.keys.len()).unwrap_or(u8::MAX));
        for RowKey { epoch, key, .. } in &self.keys {
            out.extend_from_slice(&epoch.to_be_bytes());
            out.extend_from_slice(key.as_bytes());
        }
        if self.keys.len() > 1 {
            out.extend_from_slice(&self.previous);
            for RowKey { activate_ms, .. } in self.keys.iter().skip(1) {
                out.extend_from_slice(&activate_ms.to_be_bytes());
            }
        }
        out
    }
}

/// `kc = Derive(GK, "commit", H(scope) || u32 epoch || issuer kid, 32)`.
pub(super) fn commitment(key: &GroupKey, scope: &Scope, epoch: u32, issuer: Kid) -> [u8; 32] {
    let context = [scope.hash().as_slice(), &epoch.to_be_bytes(), issuer.as_bytes()].concat();
    *key.derive("commit", &context).as_bytes()
}

/// Makes one member's wrap; `None` if the member's key is none of X25519.
pub(super) fn wrap(head: &KeyHead, to: &Recipient, row: &Row<'_>, entropy: Entropy<'_>) -> Option<Wrap> {
    let info = info(head, to.kid, to.prekey_id);
    let (encapsulated, ciphertext) = match head.wrap_suite {
        WrapSuite::Aes256Gcm => seal::<AesGcm256>(&to.public, &info, &row.encode(), entropy),
        WrapSuite::ChaCha20Poly1305 => seal::<ChaCha20Poly1305>(&to.public, &info, &row.encode(), entropy),
    }?;
    Some(Wrap { kid: to.kid, kind: to.kind, prekey_id: to.prekey_id, encapsulated, ciphertext })
}

/// Opens a wrap with the private half of the key it was made for.
///
/// # Errors
/// [`UnwrapError`].
pub(super) fn unwrap(
    head: &KeyHead,
    wrap: &Wrap,
    secret: &Secret32,
    scope: &Scope,
) -> Result<Vec<Unwrapped>, UnwrapError> {
    let info = info(head, wrap.kid, wrap.prekey_id);
    let opened = match head.wrap_suite {
        WrapSuite::Aes256Gcm => open::<AesGcm256>(secret, wrap, &info),
        WrapSuite::ChaCha20Poly1305 => open::<ChaCha20Poly1305>(secret, wrap, &info),
    };
    read_row(head, &opened.ok_or(UnwrapError::Sealed)?, scope)
}

/// Reads a row of keys and holds it to the commitment in the head.
///
/// # Errors
/// [`UnwrapError`].
pub(super) fn read_row(
    head: &KeyHeadFields,
    bytes: &[u8],
    scope: &Scope,
) -> Result<Vec<Unwrapped>, UnwrapError> {
    let mut reader = Reader::new(bytes);
    let count = reader.u8("key count")?;
    let mut keys = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let epoch = reader.u32("epoch")?;
        let key = GroupKey::new(&Zeroizing::new(reader.array("group key")?));
        keys.push(Unwrapped { epoch, key, activate_ms: head.activate_ms });
    }
    let mut link = match count {
        0 => return Err(LayoutError::Value("key count").into()),
        1 => head.previous,
        2.. => reader.array("previous")?,
    };
    for older in keys.iter_mut().skip(1) {
        older.activate_ms = reader.u64("activation")?;
    }
    reader.finish()?;
    let consecutive = keys.is_sorted_by(|newer, older| older.epoch.checked_add(1) == Some(newer.epoch));
    if !consecutive || keys.first().is_none_or(|newest| newest.epoch != head.epoch) {
        return Err(UnwrapError::Commitment);
    }
    let committed = |of: &Unwrapped| commitment(&of.key, scope, of.epoch, head.issuer);
    for older in keys.iter().skip(1).rev() {
        link = hash(&[b"veil1 epoch", &committed(older), &link]);
    }
    let newest = keys.first().map(committed);
    let is_newest = newest.is_some_and(|newest| bool::from(newest.ct_eq(&head.commitment)));
    if is_newest && link == head.previous { Ok(keys) } else { Err(UnwrapError::Commitment) }
}

/// Makes an X25519 key pair: the private half and the public one.
pub(super) fn new_key_pair(entropy: Entropy<'_>) -> (Secret32, [u8; 32]) {
    let (secret, public) = X25519HkdfSha256::gen_keypair_with_rng(&mut Randomness(entropy));
    (Secret32::new(&Zeroizing::new(secret.to_bytes().into())), public.to_bytes().into())
}

/// `"veil1 wrap" || H(KEYHEAD) || kid || u32 prekey id`.
fn info(head: &KeyHead, member: Kid, prekey_id: u32) -> Vec<u8> {
    [b"veil1 wrap".as_slice(), &head.digest(), member.as_bytes(), &prekey_id.to_be_bytes()].concat()
}

fn seal<A: Aead>(
    public: &[u8; 32],
    info: &[u8],
    plaintext: &[u8],
    entropy: Entropy<'_>,
) -> Option<([u8; 32], Vec<u8>)> {
    let public = PublicKey::from_bytes(public).ok()?;
    let (encapped, ciphertext) = single_shot_seal_with_rng::<A, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        info,
        plaintext,
        &[],
        &mut Randomness(entropy),
    )
    .ok()?;
    Some((encapped.to_bytes().into(), ciphertext))
}

fn open<A: Aead>(secret: &Secret32, wrap: &Wrap, info: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let secret = PrivateKey::from_bytes(secret.as_bytes()).ok()?;
    let encapped = EncappedKey::from_bytes(&wrap.encapsulated).ok()?;
    single_shot_open::<A, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &secret,
        &encapped,
        info,
        &wrap.ciphertext,
        &[],
    )
    .ok()
    .map(Zeroizing::new)
}

/// Lends the caller's source of randomness to HPKE.
struct Randomness<'a>(Entropy<'a>);

impl TryRng for Randomness<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        (self.0)(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        (self.0)(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        (self.0)(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Randomness<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn seed(name: &str) -> [u8; 32] {
        hash(&[b"veil1 test seed ", name.as_bytes()])
    }

    fn scope() -> Scope {
        Scope::new("factory/line-3/#").unwrap()
    }

    /// The head and the only wrap of the vectors.
    fn vector() -> (KeyHead, Wrap) {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/data/veil1-vectors.json")).unwrap();
        let bytes = |name: &str| unhex(vectors["keyhead"][name].as_str().unwrap());
        let (head, rest) = KeyHead::parse(&bytes("head")).map(|(head, rest)| (head, rest.len())).unwrap();
        assert_eq!(rest, 0);
        let sealed = bytes("enc_and_ct");
        let wrap = Wrap {
            kid: "6a87196860500705".parse().unwrap(),
            kind: WrapKind::Prekey,
            prekey_id: 1,
            encapsulated: sealed[..32].try_into().unwrap(),
            ciphertext: sealed[32..].to_vec(),
        };
        assert!(info(&head, wrap.kid, 1) == bytes("info"), "the member of the vectors");
        (head, wrap)
    }

    #[test]
    fn the_wrap_of_the_vectors_gives_the_group_key() {
        let (head, wrap) = vector();

        let keys = unwrap(&head, &wrap, &Secret32::new(&seed("sub prekey 1")), &scope()).unwrap();

        assert_eq!((keys[0].epoch, keys[0].activate_ms, keys.len()), (7, head.activate_ms, 1));
        assert!(keys[0].key.as_bytes() == &seed("gk epoch 7"));
    }

    #[test]
    fn a_wrap_opens_for_its_head_its_member_and_its_key_only() {
        let (head, good) = vector();
        let secret = Secret32::new(&seed("sub prekey 1"));
        let refused =
            |head: &KeyHead, wrap: &Wrap, secret: &Secret32| unwrap(head, wrap, secret, &scope()).err();

        let mut wrong_kid = good.clone();
        wrong_kid.kid = Kid::from_bytes([1; 8]);
        let mut wrong_id = good.clone();
        wrong_id.prekey_id = 2;
        for wrap in [&wrong_kid, &wrong_id] {
            assert_eq!(refused(&head, wrap, &secret), Some(UnwrapError::Sealed));
        }
        let other = Secret32::new(&seed("sub x"));
        assert_eq!(refused(&head, &good, &other), Some(UnwrapError::Sealed));
        for bit in 0..good.ciphertext.len() * 8 {
            let mut damaged = good.clone();
            damaged.ciphertext[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(refused(&head, &damaged, &secret), Some(UnwrapError::Sealed), "bit {bit}");
        }
    }

    #[test]
    fn a_row_is_held_to_the_commitment_and_to_the_chain_behind_it() {
        let (head, _) = vector();
        let (scope, issuer) = (scope(), head.issuer);
        let keys: Vec<GroupKey> = [7, 6, 5].map(|n| GroupKey::new(&[n; 32])).into();
        let row = || {
            let row = (5..=7).rev().zip(&keys);
            let keys = row.map(|(epoch, key)| RowKey { epoch, key, activate_ms: u64::from(epoch) }).collect();
            Row { keys, previous: [9; 32] }
        };
        let link = |epoch, key, before: &[u8; 32]| {
            hash(&[b"veil1 epoch", &commitment(key, &scope, epoch, issuer), before])
        };
        let mut fields = KeyHeadFields::clone(&head);
        fields.commitment = commitment(&keys[0], &scope, 7, issuer);
        fields.previous = link(6, &keys[1], &link(5, &keys[2], &[9; 32]));
        let good = row().encode();

        let row = read_row(&fields, &good, &scope).unwrap();
        let read: Vec<_> = row.iter().map(|of| (of.epoch, of.activate_ms)).collect();
        assert_eq!(read, [(7, head.activate_ms), (6, 6), (5, 5)]);

        for byte in 1..good.len() - 16 {
            let mut changed = good.to_vec();
            changed[byte] ^= 1;
            assert_eq!(
                read_row(&fields, &changed, &scope).err(),
                Some(UnwrapError::Commitment),
                "byte {byte}"
            );
        }
        for len in 0..good.len() {
            assert!(read_row(&fields, &good[..len], &scope).is_err(), "{len} bytes");
        }
        assert!(read_row(&fields, &[0], &scope).is_err());
    }

    /// RFC 9180 appendix A.1.1 has AES-128-GCM; A.2.1 is the first with a suite of ours.
    #[test]
    fn the_base_mode_vector_of_rfc_9180_a_2_1_is_reproduced() {
        let ikm_e = unhex("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b");
        let public = unhex("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
        let secret = unhex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
        let encapsulated = unhex("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
        let ciphertext = unhex(
            "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
        );
        let info = unhex("4f6465206f6e2061204772656369616e2055726e");
        let aad = unhex("436f756e742d30");
        let plaintext = b"Beauty is truth, truth beauty";

        let (encapped, sealed) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &PublicKey::from_bytes(&public).unwrap(),
            &info,
            plaintext,
            &aad,
            &mut Randomness(&mut |bytes| bytes.copy_from_slice(&ikm_e)),
        )
        .unwrap();
        assert_eq!(encapped.to_bytes().as_slice(), encapsulated);
        assert_eq!(sealed, ciphertext);

        let opened = single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &PrivateKey::from_bytes(&secret).unwrap(),
            &EncappedKey::from_bytes(&encapsulated).unwrap(),
            &info,
            &ciphertext,
            &aad,
        );
        assert_eq!(opened.unwrap(), plaintext);
    }
}
