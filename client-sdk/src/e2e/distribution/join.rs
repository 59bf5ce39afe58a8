//! The online join (VEIL-1 section 9.1): a member that is left out of a head asks its issuer, and gets the keys in one exchange
//! whose secrets both sides forget.
//!
//! Owns the exchange on both sides, not who may join. Invariants: a request is answered once; an answer counts only from the
//! issuer that was asked, signed over both ephemeral keys; nobody waits for it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
};

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use subtle::ConstantTimeEq;
use thiserror::Error;
use veilmq_protocol::veil::{
    Certificate, CertificateError, Kid, Roles,
    channel::{Identity, Secret32, TrustAnchors, extract, hash, hmac, sign, verify},
    distribution::{
        DistributionError, JoinFinish, JoinRequest, JoinRequestFields, JoinResponse, KeyHead, Pair,
    },
    layout::{LayoutError, Reader, put_v16},
};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::joining::{NO_KEY_YET, NO_SUCH_SCOPE, NOT_ADMITTED};
use crate::e2e::{
    Entropy,
    keyring::GroupKey,
    scope::Scope,
    wrapping::{UnwrapError, Unwrapped, new_key_pair, read_row},
};

/// How long a member waits for an answer (VEIL-1 section 9.1).
pub(super) const WAIT_MS: u64 = 3_000;
/// How far the clock of a member may be from that of the issuer.
const SKEW_MS: u64 = 120_000;
/// Requests remembered, so that none is answered twice; beyond it none is answered.
const SEEN_MAX: usize = 16_384;
/// How many of these may be of one member, so that it keeps nobody else from joining.
const SEEN_OF_MEMBER_MAX: usize = 1_024;
/// Answers whose confirmation is awaited; beyond it the oldest is given up.
const UNCONFIRMED_MAX: usize = 4_096;
const LABEL: &str = "join rsp";
/// What stands in place of a reason for a refusal where the exchange itself makes the key, that of a pair.
const PAIR: u8 = 0;

/// Names why a join failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A message of it is malformed, or of someone who may not say this.
    #[error(transparent)]
    Object(#[from] DistributionError),
    /// What is inside the answer is malformed.
    #[error("the answer is malformed: {0}")]
    Layout(#[from] LayoutError),
    /// The certificate of the other side does not count.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The answer cannot be opened, or is not by the issuer that was asked.
    #[error("the answer is not authentic")]
    NotAuthentic,
    /// The issuer gives no keys, for this reason (VEIL-1 section 9.1).
    #[error("JoinRefused: {}", why_refused(*.0))]
    Refused(u8),
    /// The keys are not those that the head commits to.
    #[error(transparent)]
    Keys(#[from] UnwrapError),
    /// The request is for someone else, too old or too new, or was answered before.
    #[error(
        "the request is for another issuer, was answered before, or is of another time: the clocks may differ by 2 minutes"
    )]
    NotFresh,
}

/// What a reason of a refusal stands for (VEIL-1 section 9.1).
pub(super) fn why_refused(reason: u8) -> Cow<'static, str> {
    match reason {
        NOT_ADMITTED => "not admitted: the issuer lets in by name alone, the certificate has no publish or subscribe scope that \
                         covers this one, its holder was taken out, or there are as many members as there may be"
            .into(),
        NO_SUCH_SCOPE => "whoever was asked issues no keys for this scope".into(),
        NO_KEY_YET => "there is no key yet".into(),
        unknown => format!("reason {unknown}").into(),
    }
}

/// What both sides know once there are two ephemeral keys.
struct Schedule {
    key: Secret32,
    iv: Secret32,
    issuer_finished: Secret32,
    member_finished: Secret32,
    main: Secret32,
    transcript: [u8; 32],
}

impl Schedule {
    /// `None` for a public key that makes no secret.
    fn agree(own: &Secret32, theirs: [u8; 32], request: &[u8], response_head: &[u8]) -> Option<Self> {
        let shared = StaticSecret::from(*own.as_bytes()).diffie_hellman(&PublicKey::from(theirs));
        if !shared.was_contributory() {
            return None;
        }
        let nothing = hash(&[]);
        let early = extract(&[0; 32], &[0; 32]).derive("derived", &nothing);
        let secret = extract(early.as_bytes(), shared.as_bytes());
        let transcript = hash(&[b"veil1 join", request, response_head]);
        let (issuer, member) = (secret.derive("e2e s", &transcript), secret.derive("e2e c", &transcript));
        Some(Self {
            key: issuer.derive("key", &[]),
            iv: first_of(&issuer),
            issuer_finished: issuer.derive("finished", &[]),
            member_finished: member.derive("finished", &[]),
            main: extract(secret.derive("derived", &nothing).as_bytes(), &[0; 32]),
            transcript,
        })
    }

    fn seal(&self, flight: &[u8]) -> Option<Vec<u8>> {
        let cipher = ChaCha20Poly1305::new(self.key.as_bytes().into());
        cipher.encrypt(self.nonce()?.into(), Payload { msg: flight, aad: &self.transcript }).ok()
    }

    fn open(&self, flight: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let cipher = ChaCha20Poly1305::new(self.key.as_bytes().into());
        let opened = cipher.decrypt(self.nonce()?.into(), Payload { msg: flight, aad: &self.transcript });
        opened.ok().map(Zeroizing::new)
    }

    fn nonce(&self) -> Option<&[u8; 12]> {
        self.iv.as_bytes().first_chunk()
    }

    /// What the issuer signs: `H(J1 || cert_p)`.
    fn signed(&self, certificate: &Certificate) -> [u8; 32] {
        hash(&[&self.transcript, certificate.as_bytes()])
    }

    fn issuer_mac(&self, certificate: &Certificate, signature: &[u8]) -> [u8; 32] {
        let covered = hash(&[&self.transcript, certificate.as_bytes(), signature]);
        hmac(self.issuer_finished.as_bytes(), &[&covered])
    }

    fn finish(&self, flight: &[u8]) -> JoinFinish {
        JoinFinish { mac: hmac(self.member_finished.as_bytes(), &[&self.covered(flight)]) }
    }

    /// `K_PSi = Derive(MS, "pairwise", J2, 32)`.
    fn pair_key(&self, flight: &[u8]) -> GroupKey {
        GroupKey::new(self.main.derive("pairwise", &self.covered(flight)).as_bytes())
    }

    /// `J2 = H(J1 || flight plaintext)`.
    fn covered(&self, flight: &[u8]) -> [u8; 32] {
        hash(&[&self.transcript, flight])
    }
}

/// `Derive(secret, "iv", "", 12)`, in the first 12 bytes.
fn first_of(secret: &Secret32) -> Secret32 {
    let mut iv = Zeroizing::new([0; 32]);
    veilmq_protocol::veil::channel::derive(secret.as_bytes(), "iv", &[], &mut iv[..12]);
    Secret32::new(&iv)
}

/// A request under way.
pub(super) struct Asking {
    pub(super) scope: Scope,
    pub(super) issuer: Kid,
    /// When nobody waits any longer; None if CONNACK says what became of it.
    pub(super) deadline_ms: Option<u64>,
    request: JoinRequest,
    secret: Secret32,
}

/// What an answer brought.
pub(super) struct Joined {
    pub(super) keys: JoinedKeys,
    pub(super) finish: JoinFinish,
}

pub(super) enum JoinedKeys {
    /// The keys of a group, which the head commits to.
    Group { head: Box<KeyHead>, keys: Vec<Unwrapped> },
    /// The key of a pair.
    Pair { key: PairKey, publisher: Box<Certificate> },
}

/// The key that one exchange has made, for the epoch that the publisher gave it.
pub(super) struct PairKey {
    pub(super) key: GroupKey,
    pub(super) term: Term,
}

/// The epoch of a pair, and its life in unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) epoch: u32,
    pub(super) activate_ms: u64,
    pub(super) retire_ms: u64,
}

/// An answer that the issuer has signed, and nobody has read.
pub(super) struct Authentic {
    schedule: Schedule,
    flight: Zeroizing<Vec<u8>>,
    /// Where head and keys are in the flight.
    contents_at: usize,
    certificate: Certificate,
    created_ms: u64,
}

impl Asking {
    /// Makes a request for `issuer`.
    ///
    /// # Errors
    /// [`DistributionError`] about shape.
    pub(super) fn begin(
        identity: &Identity,
        scope: Scope,
        issuer: Kid,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<Self, DistributionError> {
        let mut nonce = [0; 16];
        entropy(&mut nonce);
        let (secret, x25519) = new_key_pair(entropy);
        let fields = JoinRequestFields {
            nonce,
            created_ms: now_unix_ms,
            x25519,
            issuer,
            scope: scope.as_str().to_owned(),
            certificate: identity.certificate().clone(),
        };
        let request = fields.sign(identity.keys())?;
        let deadline_ms = Some(now_unix_ms.saturating_add(WAIT_MS));
        Ok(Self { scope, issuer, deadline_ms, request, secret })
    }

    /// The request as it travels.
    pub(super) fn request(&self) -> &[u8] {
        self.request.as_bytes()
    }

    /// Its nonce, which the answer repeats.
    pub(super) fn nonce(&self) -> [u8; 16] {
        self.request.nonce
    }

    /// Whether what came says that it answers this request.
    pub(super) fn is_answered_by(&self, response: &[u8]) -> bool {
        response.get(3..19) == Some(&self.request.nonce)
    }

    /// Finds out whether what came is the answer of the issuer that was asked. Anybody who has seen the request can make what looks
    /// like one, so what is not leaves this waiting.
    ///
    /// # Errors
    /// [`JoinError`].
    pub(super) fn authenticate(
        &self,
        response: &[u8],
        anchors: &TrustAnchors,
        now_unix_ms: u64,
    ) -> Result<Authentic, JoinError> {
        let (response, head) = JoinResponse::parse(response)?;
        let schedule = Schedule::agree(&self.secret, response.x25519, self.request.as_bytes(), head);
        let schedule = schedule.ok_or(JoinError::NotAuthentic)?;
        let flight = schedule.open(response.flight).ok_or(JoinError::NotAuthentic)?;
        let mut fields = Reader::new(&flight);
        let certificate = Certificate::parse(fields.v16("certificate")?)?;
        let signature: [u8; 64] = fields.array("signature")?;
        let mac: [u8; 32] = fields.array("mac")?;
        let contents_at = fields.offset();

        let roles = Roles::PUBLISHER | Roles::KEY_AUTHORITY;
        anchors.verify(&certificate, roles, None, Some(now_unix_ms / 1000))?;
        let is_signed =
            verify(LABEL, &schedule.signed(&certificate), &certificate.ed25519, &signature).is_ok();
        let is_confirmed = bool::from(schedule.issuer_mac(&certificate, &signature).ct_eq(&mac));
        if certificate.kid() != self.issuer || !is_signed || !is_confirmed {
            return Err(JoinError::NotAuthentic);
        }
        let created_ms = response.created_ms;
        Ok(Authentic { schedule, flight, contents_at, certificate, created_ms })
    }

    /// Takes the answer.
    ///
    /// # Errors
    /// [`JoinError`].
    pub(super) fn finish(self, answer: Authentic) -> Result<Joined, JoinError> {
        let Authentic { schedule, flight, contents_at, certificate, created_ms } = answer;
        let mut fields = Reader::new(flight.get(contents_at..).unwrap_or_default());
        let head = fields.v16("head")?;
        let rest = fields.rest();
        let finish = schedule.finish(&flight);
        if head.is_empty() {
            let term = self.read_term(rest, created_ms)?;
            let key = PairKey { key: schedule.pair_key(&flight), term };
            return Ok(Joined { keys: JoinedKeys::Pair { key, publisher: Box::new(certificate) }, finish });
        }
        let (head, _) = KeyHead::parse(head)?;
        if head.issuer != self.issuer || head.scope != self.scope.as_str() {
            return Err(JoinError::NotAuthentic);
        }
        let keys = read_row(&head, rest, &self.scope)?;
        Ok(Joined { keys: JoinedKeys::Group { head: Box::new(head), keys }, finish })
    }

    /// Reads what is in place of a head: `u8 0 || u32 epoch || u64 retire_ms` for a pair, else why there is nothing.
    fn read_term(&self, rest: &[u8], activate_ms: u64) -> Result<Term, JoinError> {
        let mut fields = Reader::new(rest);
        let reason = fields.u8("reason")?;
        if reason != PAIR || Pair::parse(self.scope.as_str()).is_none() {
            return Err(JoinError::Refused(reason));
        }
        let term = Term { epoch: fields.u32("epoch")?, activate_ms, retire_ms: fields.u64("retirement")? };
        fields.finish()?;
        Ok(term)
    }
}

/// What an issuer has to remember of requests.
#[derive(Default)]
pub(super) struct Asked {
    /// Nonces, and until when they could be fresh.
    seen: BTreeMap<[u8; 16], (Kid, u64)>,
    unconfirmed: VecDeque<Unconfirmed>,
}

struct Unconfirmed {
    mac: [u8; 32],
    confirmed: Confirmed,
    deadline_ms: u64,
}

/// Who has shown that it has its keys.
pub(super) struct Confirmed {
    pub(super) scope: String,
    pub(super) member: Kid,
    /// The key, if it is that of a pair.
    pub(super) pair: Option<PairKey>,
}

/// What the issuer gives, or why it gives nothing.
pub(super) enum Answer<'a> {
    /// The newest head, and its keys as a wrap holds them.
    Keys(&'a KeyHead, &'a [u8]),
    /// A key that the exchange makes.
    Pair(Term),
    /// For a reason that only the two of them can read.
    Refused(u8),
}

impl Asked {
    /// Takes a request that is for now, by someone who is certified, for the first time.
    ///
    /// # Errors
    /// [`JoinError`]; such a request gets no answer.
    pub(super) fn take(
        &mut self,
        payload: &[u8],
        own: Kid,
        anchors: &TrustAnchors,
        now_unix_ms: u64,
    ) -> Result<JoinRequest, JoinError> {
        let request = JoinRequest::parse(payload)?;
        self.forget(now_unix_ms);
        let is_timely = request.created_ms == 0 || request.created_ms.abs_diff(now_unix_ms) <= SKEW_MS;
        let is_new = self.seen.len() < SEEN_MAX && !self.seen.contains_key(&request.nonce);
        if request.issuer != own || !is_timely || !is_new {
            return Err(JoinError::NotFresh);
        }
        request.verify(anchors, Some(now_unix_ms / 1000))?;
        let member = request.certificate.kid();
        if self.seen.values().filter(|(other, _)| *other == member).count() >= SEEN_OF_MEMBER_MAX {
            return Err(JoinError::NotFresh);
        }
        self.seen.insert(request.nonce, (member, now_unix_ms.saturating_add(2 * SKEW_MS)));
        Ok(request)
    }

    /// Builds the answer.
    ///
    /// # Errors
    /// [`JoinError`].
    pub(super) fn answer(
        &mut self,
        request: &JoinRequest,
        answer: &Answer<'_>,
        identity: &Identity,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, JoinError> {
        let mut nonce = [0; 16];
        entropy(&mut nonce);
        let (secret, x25519) = new_key_pair(entropy);
        let mut response = JoinResponse {
            request_nonce: request.nonce,
            nonce,
            created_ms: now_unix_ms,
            x25519,
            flight: &[],
        };
        let schedule = Schedule::agree(&secret, request.x25519, request.as_bytes(), &response.head());
        let schedule = schedule.ok_or(JoinError::NotAuthentic)?;
        let certificate = identity.certificate();
        let signature = sign(identity.keys(), LABEL, &schedule.signed(certificate));
        let mut flight = Zeroizing::new(Vec::with_capacity(1_024));
        put_v16(&mut flight, certificate.as_bytes(), "certificate")?;
        flight.extend_from_slice(&signature);
        flight.extend_from_slice(&schedule.issuer_mac(certificate, &signature));
        match answer {
            Answer::Keys(head, row) => {
                put_v16(&mut flight, head.as_bytes(), "head")?;
                flight.extend_from_slice(row);
            }
            Answer::Pair(Term { epoch, retire_ms, .. }) => {
                put_v16(&mut flight, &[], "head")?;
                flight.push(PAIR);
                flight.extend_from_slice(&epoch.to_be_bytes());
                flight.extend_from_slice(&retire_ms.to_be_bytes());
            }
            Answer::Refused(reason) => {
                put_v16(&mut flight, &[], "head")?;
                flight.push(*reason);
            }
        }
        let sealed = schedule.seal(&flight).ok_or(JoinError::NotAuthentic)?;
        response.flight = &sealed;
        let pair = match answer {
            Answer::Keys(..) => None,
            Answer::Pair(term) => Some(PairKey { key: schedule.pair_key(&flight), term: *term }),
            Answer::Refused(_) => return Ok(response.encode()?),
        };
        if self.unconfirmed.len() >= UNCONFIRMED_MAX {
            self.unconfirmed.pop_front();
        }
        let (scope, member) = (request.scope.clone(), request.certificate.kid());
        self.unconfirmed.push_back(Unconfirmed {
            mac: schedule.finish(&flight).mac,
            confirmed: Confirmed { scope, member, pair },
            deadline_ms: now_unix_ms.saturating_add(SKEW_MS),
        });
        Ok(response.encode()?)
    }

    /// Takes a JOIN_FIN and returns which member of which scope has confirmed that it has its keys.
    ///
    /// # Errors
    /// [`JoinError`]; [`JoinError::NotAuthentic`] for one that nobody awaits.
    pub(super) fn confirm(&mut self, payload: &[u8]) -> Result<Confirmed, JoinError> {
        let JoinFinish { mac } = JoinFinish::parse(payload)?;
        let index = self.unconfirmed.iter().position(|awaited| bool::from(awaited.mac.ct_eq(&mac)));
        let awaited = index.and_then(|index| self.unconfirmed.remove(index));
        awaited.map(|awaited| awaited.confirmed).ok_or(JoinError::NotAuthentic)
    }

    fn forget(&mut self, now_unix_ms: u64) {
        self.seen.retain(|_, (_, until_ms)| *until_ms > now_unix_ms);
        self.unconfirmed.retain(|awaited| awaited.deadline_ms > now_unix_ms);
    }
}
