//! The online join: a member asks an issuer that is there for keys, and both prove who they are (VEIL-1 section 9.1, the paper's steps
//! 5 to 15).
//!
//! Pure: messages come and go as bytes, whatever carries them; time and randomness are arguments. Each state is consumed by what it
//! waits for. Who may have keys is the caller's decision. Invariant: nothing in a response is believed before the issuer's signature,
//! its MAC under the fresh key, and its certificate for the scope hold; ephemeral keys are used once.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{AeadInOut, Nonce},
};
use subtle::ConstantTimeEq;
use thiserror::Error;
use veilmq_protocol::veil::{
    Certificate, Kid, Roles,
    channel::{Identity, Secret32, TrustAnchors, derive, extract, hash, hmac, sign, verify},
    distribution::{DistributionError, JoinFinish, JoinRequest, JoinRequestFields, JoinResponse, KeyHead},
    layout::{LayoutError, Reader, put_v16},
    vmc::scope_covers,
};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::{Entropy, keyring::GroupKey, scope::Scope, wrapping::commitment};

const RESPONSE_LABEL: &str = "join rsp";
const SIGNATURE_LEN: usize = 64;
const MAC_LEN: usize = 32;
const TAG_LEN: usize = 16;
const ZERO: [u8; 32] = [0; 32];
/// The keys in one response.
const KEYS_MAX: usize = 255;

/// Names why a join came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A message is malformed, or its sender may not send it.
    #[error(transparent)]
    Object(#[from] DistributionError),
    /// The contents of an authentic flight are malformed.
    #[error("the flight of a JOIN_RSP: {0}")]
    Flight(#[from] LayoutError),
    /// The request is meant for another issuer.
    #[error("the request is meant for {0}")]
    OtherIssuer(Kid),
    /// The response answers another request.
    #[error("the response answers another request")]
    OtherRequest,
    /// The clocks of both sides are too far apart, or the request is old.
    #[error("the clocks are {away_ms} ms apart")]
    ClockSkew {
        /// How far, in milliseconds.
        away_ms: u64,
    },
    /// A key share is of small order.
    #[error("a key share of small order")]
    SmallOrderShare,
    /// The flight does not authenticate: another issuer, or it was changed.
    #[error("the response does not authenticate")]
    Sealed,
    /// The issuer's signature or MAC is wrong.
    #[error("the issuer has not proved who it is")]
    Proof,
    /// The issuer says no, with this number.
    #[error("the issuer refuses, reason {0}")]
    Refused(u8),
    /// A key is not the one that the head commits to.
    #[error("the key of epoch {0} is not the one that the head commits to")]
    Commitment(u32),
    /// The confirmation of the member is wrong.
    #[error("the confirmation is wrong")]
    Confirmation,
}

/// What both sides derive from their ephemeral keys and `J1`.
struct JoinKeys {
    /// What `MS` follows from.
    handshake: Secret32,
    issuer: Secret32,
    member: Secret32,
}

impl JoinKeys {
    fn agree(own: &StaticSecret, theirs: &[u8; 32], j1: &[u8; 32]) -> Result<Self, JoinError> {
        let shared = own.diffie_hellman(&PublicKey::from(*theirs));
        if !shared.was_contributory() {
            return Err(JoinError::SmallOrderShare);
        }
        let early = extract(&ZERO, &ZERO);
        let handshake = extract(derived(&early).as_bytes(), shared.as_bytes());
        let issuer = handshake.derive("e2e s", j1);
        let member = handshake.derive("e2e c", j1);
        Ok(Self { handshake, issuer, member })
    }

    fn cipher(&self) -> (ChaCha20Poly1305, Nonce<ChaCha20Poly1305>) {
        let mut iv = [0; 12];
        derive(self.issuer.as_bytes(), "iv", &[], &mut iv);
        (ChaCha20Poly1305::new(self.issuer.derive("key", &[]).as_bytes().into()), iv.into())
    }

    /// The MAC of the issuer over its proof.
    fn issuer_mac(&self, j1: &[u8; 32], certificate: &[u8], signature: &[u8]) -> [u8; MAC_LEN] {
        let finished = self.issuer.derive("finished", &[]);
        hmac(finished.as_bytes(), &[&hash(&[j1, certificate, signature])])
    }

    /// The confirmation of the member.
    fn member_mac(&self, j2: &[u8; 32]) -> [u8; MAC_LEN] {
        hmac(self.member.derive("finished", &[]).as_bytes(), &[j2])
    }

    /// `K_PSi`, the key of this member and issuer alone.
    fn pairwise(&self, j2: &[u8; 32]) -> GroupKey {
        let master = extract(derived(&self.handshake).as_bytes(), &ZERO);
        GroupKey::new(master.derive("pairwise", j2).as_bytes())
    }
}

fn derived(secret: &Secret32) -> Secret32 {
    secret.derive("derived", &hash(&[]))
}

/// `J1 = H("veil1 join" || JOIN_REQ || JOIN_RSP before flight)`.
fn j1_of(request: &JoinRequest, response_head: &[u8]) -> [u8; 32] {
    hash(&[b"veil1 join", request.as_bytes(), response_head])
}

fn ephemeral(entropy: Entropy<'_>) -> StaticSecret {
    let mut secret = Zeroizing::new([0; 32]);
    entropy(secret.as_mut_slice());
    StaticSecret::from(*secret)
}

/// Group keys with their epochs.
pub type EpochKeys = Vec<(u32, GroupKey)>;

/// A member has asked; a JOIN_RSP is due.
pub struct AwaitJoinResponse {
    ephemeral: StaticSecret,
    scope: Scope,
    request: JoinRequest,
}

/// What a member has from a join.
pub struct Joined {
    /// Who answered; its certificate is verified.
    pub issuer: Certificate,
    /// The head of the scope's newest epoch; `None` where there is only the pairwise key.
    pub head: Option<KeyHead>,
    /// The keys of the scope by epoch, the newest first; those of the head's epoch are the ones that it commits to.
    pub keys: EpochKeys,
    /// The key of this member and issuer alone (Schemes 1 and 2).
    pub pairwise: GroupKey,
    /// The JOIN_FIN to be sent.
    pub finish: Vec<u8>,
}

impl AwaitJoinResponse {
    /// Asks `issuer` for the keys of `scope`; returns the JOIN_REQ. `now_unix_ms` is `None` only on a device without a clock.
    ///
    /// # Errors
    /// [`JoinError::Object`], which does not happen with a scope and an identity.
    pub fn begin(
        issuer: Kid,
        scope: &Scope,
        identity: &Identity,
        now_unix_ms: Option<u64>,
        entropy: Entropy<'_>,
    ) -> Result<(Self, Vec<u8>), JoinError> {
        let mut nonce = [0; 16];
        entropy(&mut nonce);
        let ephemeral = ephemeral(entropy);
        let fields = JoinRequestFields {
            nonce,
            created_ms: now_unix_ms.unwrap_or(0),
            x25519: PublicKey::from(&ephemeral).to_bytes(),
            issuer,
            scope: scope.as_str().to_owned(),
            certificate: identity.certificate().clone(),
        };
        let request = fields.sign(identity.keys())?;
        let bytes = request.as_bytes().to_vec();
        Ok((Self { ephemeral, scope: scope.clone(), request }, bytes))
    }

    /// The nonce, which the response repeats.
    pub fn nonce(&self) -> &[u8; 16] {
        &self.request.nonce
    }

    /// Verifies the issuer and takes the keys. A response to another request is [`JoinError::OtherRequest`].
    ///
    /// # Errors
    /// [`JoinError`]; the join is over then.
    pub fn handle(
        self,
        response: &[u8],
        trust: &TrustAnchors,
        now_unix_seconds: Option<u64>,
    ) -> Result<Joined, JoinError> {
        let (response, head) = JoinResponse::parse(response)?;
        if response.request_nonce != self.request.nonce {
            return Err(JoinError::OtherRequest);
        }
        let j1 = j1_of(&self.request, head);
        let keys = JoinKeys::agree(&self.ephemeral, &response.x25519, &j1)?;
        let at = response.flight.len().checked_sub(TAG_LEN).ok_or(JoinError::Sealed)?;
        let (ciphertext, tag) = response.flight.split_at(at);
        let tag: [u8; TAG_LEN] = tag.try_into().map_err(|_| JoinError::Sealed)?;
        let mut flight = Zeroizing::new(ciphertext.to_vec());
        let (cipher, nonce) = keys.cipher();
        cipher
            .decrypt_inout_detached(&nonce, &j1, flight.as_mut_slice().into(), &tag.into())
            .map_err(|_| JoinError::Sealed)?;
        let mut reader = Reader::new(&flight);
        let issuer = self.believe(&mut reader, &keys, &j1, trust, now_unix_seconds)?;
        let (head, group_keys) = read_keys(&mut reader)?;
        if let Some(head) = &head {
            self.check_head(head, &group_keys)?;
        }
        let j2 = hash(&[&j1, &flight]);
        let finish = JoinFinish { mac: keys.member_mac(&j2) }.encode();
        Ok(Joined { issuer, head, keys: group_keys, pairwise: keys.pairwise(&j2), finish })
    }

    /// Reads the issuer's proof, and holds it against the request.
    fn believe(
        &self,
        reader: &mut Reader<'_>,
        keys: &JoinKeys,
        j1: &[u8; 32],
        trust: &TrustAnchors,
        now_unix_seconds: Option<u64>,
    ) -> Result<Certificate, JoinError> {
        let bytes = reader.v16("certificate")?;
        let signature: [u8; SIGNATURE_LEN] = reader.array("signature")?;
        let mac: [u8; MAC_LEN] = reader.array("mac")?;
        if !bool::from(keys.issuer_mac(j1, bytes, &signature).ct_eq(&mac)) {
            return Err(JoinError::Proof);
        }
        let certificate = Certificate::parse(bytes).map_err(DistributionError::from)?;
        if certificate.kid() != self.request.issuer {
            return Err(JoinError::OtherIssuer(self.request.issuer));
        }
        let roles = Roles::PUBLISHER.union(Roles::KEY_AUTHORITY);
        trust.verify(&certificate, roles, None, now_unix_seconds).map_err(DistributionError::from)?;
        let scopes = &certificate.publish_scopes;
        if !scopes.is_empty() && !scopes.iter().any(|outer| scope_covers(outer, &self.request.scope)) {
            return Err(DistributionError::Scope.into());
        }
        verify(RESPONSE_LABEL, &hash(&[j1, bytes]), &certificate.ed25519, &signature)
            .map_err(|_| JoinError::Proof)?;
        Ok(certificate)
    }

    fn check_head(&self, head: &KeyHead, keys: &[(u32, GroupKey)]) -> Result<(), JoinError> {
        if head.scope != self.request.scope || head.issuer != self.request.issuer {
            return Err(DistributionError::Value("head").into());
        }
        let newest = keys.iter().find(|(epoch, _)| *epoch == head.epoch);
        let commits = |key: &GroupKey| {
            let committed = commitment(key, &self.scope, head.epoch, head.issuer);
            bool::from(committed.ct_eq(&head.commitment))
        };
        match newest {
            Some((_, key)) if commits(key) => Ok(()),
            Some(_) | None => Err(JoinError::Commitment(head.epoch)),
        }
    }
}

/// What follows the proof in a flight: `v16 KEYHEAD || u8 k || k * (u32 epoch || GK)`, or for a refusal no head, no key and a reason.
fn read_keys(reader: &mut Reader<'_>) -> Result<(Option<KeyHead>, EpochKeys), JoinError> {
    let head = reader.v16("head")?;
    let count = reader.u8("number of keys")?;
    let mut keys = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let epoch = reader.u32("epoch")?;
        keys.push((epoch, GroupKey::new(&reader.array("key")?)));
    }
    match reader.remaining() {
        0 => {}
        1 if head.is_empty() && count == 0 => return Err(JoinError::Refused(reader.u8("reason")?)),
        left => return Err(LayoutError::Trailing(left).into()),
    }
    let head = if head.is_empty() { None } else { Some(KeyHead::parse(head)?.0) };
    Ok((head, keys))
}

/// A request that an issuer has verified, and is to decide on.
pub struct Asked {
    request: JoinRequest,
}

/// What an issuer answers.
pub enum Answer<'a> {
    /// The keys of the scope by epoch, the newest first, and the head that commits to the newest. Both empty for a pairwise key alone.
    Keys {
        /// The signed head, as it is published.
        head: &'a [u8],
        /// The keys.
        keys: &'a [(u32, &'a GroupKey)],
    },
    /// No, and why as a number.
    Refusal(u8),
}

/// An issuer has answered; the member's JOIN_FIN is due.
pub struct AwaitJoinFinish {
    expected: [u8; MAC_LEN],
    member: Kid,
    /// The key of this member and issuer alone (Schemes 1 and 2), good once the member has confirmed.
    pub pairwise: GroupKey,
}

impl Asked {
    /// Verifies who asks, that it asks `own`, and that it does so now. `skew_ms` is how far the clocks may be apart; without a time on
    /// either side it is not looked at. Whoever calls this remembers nonces for twice as long.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn read(
        request: &[u8],
        own: Kid,
        trust: &TrustAnchors,
        now_unix_ms: Option<u64>,
        skew_ms: u64,
    ) -> Result<Self, JoinError> {
        let request = JoinRequest::parse(request)?;
        if request.issuer != own {
            return Err(JoinError::OtherIssuer(request.issuer));
        }
        request.verify(trust, now_unix_ms.map(|now| now / 1_000))?;
        if let (Some(now), true) = (now_unix_ms, request.created_ms != 0) {
            let away_ms = now.abs_diff(request.created_ms);
            if away_ms > skew_ms {
                return Err(JoinError::ClockSkew { away_ms });
            }
        }
        Ok(Self { request })
    }

    /// Who asks; the certificate is verified.
    pub fn member(&self) -> &Certificate {
        &self.request.certificate
    }

    /// What it asks for the keys of.
    pub fn scope(&self) -> &str {
        &self.request.scope
    }

    /// The nonce, which no two requests share.
    pub fn nonce(&self) -> &[u8; 16] {
        &self.request.nonce
    }

    /// Makes the JOIN_RSP.
    ///
    /// # Errors
    /// [`JoinError`], for a share of small order or an answer that is too long.
    pub fn answer(
        self,
        answer: &Answer<'_>,
        identity: &Identity,
        now_unix_ms: Option<u64>,
        entropy: Entropy<'_>,
    ) -> Result<(Vec<u8>, AwaitJoinFinish), JoinError> {
        let mut nonce = [0; 16];
        entropy(&mut nonce);
        let ephemeral = ephemeral(entropy);
        let x25519 = PublicKey::from(&ephemeral).to_bytes();
        let request_nonce = self.request.nonce;
        let created_ms = now_unix_ms.unwrap_or(0);
        let mut response = JoinResponse { request_nonce, nonce, created_ms, x25519, flight: &[] };
        let j1 = j1_of(&self.request, &response.head());
        let keys = JoinKeys::agree(&ephemeral, &self.request.x25519, &j1)?;
        let mut flight = prove(identity, &keys, &j1)?;
        append_answer(answer, &mut flight)?;
        let j2 = hash(&[&j1, &flight]);
        let next = AwaitJoinFinish {
            expected: keys.member_mac(&j2),
            member: self.request.certificate.kid(),
            pairwise: keys.pairwise(&j2),
        };
        let (cipher, iv) = keys.cipher();
        let tag = cipher
            .encrypt_inout_detached(&iv, &j1, flight.as_mut_slice().into())
            .map_err(|_| LayoutError::TooLong("flight"))?;
        flight.extend_from_slice(&tag);
        response.flight = &flight;
        Ok((response.encode()?, next))
    }
}

/// The issuer's proof of who it is.
fn prove(identity: &Identity, keys: &JoinKeys, j1: &[u8; 32]) -> Result<Zeroizing<Vec<u8>>, JoinError> {
    let certificate = identity.certificate().as_bytes();
    let signature = sign(identity.keys(), RESPONSE_LABEL, &hash(&[j1, certificate]));
    let mut flight = Zeroizing::new(Vec::with_capacity(1_024));
    put_v16(&mut flight, certificate, "certificate")?;
    flight.extend_from_slice(&signature);
    flight.extend_from_slice(&keys.issuer_mac(j1, certificate, &signature));
    Ok(flight)
}

fn append_answer(answer: &Answer<'_>, flight: &mut Vec<u8>) -> Result<(), LayoutError> {
    match answer {
        Answer::Refusal(reason) => flight.extend_from_slice(&[0, 0, 0, *reason]),
        Answer::Keys { head, keys } => {
            put_v16(flight, head, "head")?;
            let count =
                u8::try_from(keys.len().min(KEYS_MAX + 1)).map_err(|_| LayoutError::TooLong("keys"))?;
            flight.push(count);
            for (epoch, key) in *keys {
                flight.extend_from_slice(&epoch.to_be_bytes());
                flight.extend_from_slice(key.as_bytes());
            }
        }
    }
    Ok(())
}

impl AwaitJoinFinish {
    /// Takes the JOIN_FIN; returns the member, which has the keys.
    ///
    /// # Errors
    /// [`JoinError`]; the join is over then.
    pub fn handle(self, finish: &[u8]) -> Result<(Kid, GroupKey), JoinError> {
        let finish = JoinFinish::parse(finish)?;
        if bool::from(self.expected.ct_eq(&finish.mac)) {
            Ok((self.member, self.pairwise))
        } else {
            Err(JoinError::Confirmation)
        }
    }
}
