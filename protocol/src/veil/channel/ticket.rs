//! Tickets of RESUME: what the broker gives away under its ticket keys, and what a client keeps (VEIL-1 section 4.7).
//!
//! Ticket keys live in memory only, so a restart of the broker means SIGMA again. Invariants: a ticket opens only under a key
//! that this broker has made, before it expires; [`TicketKeys::spend`] says yes to a ticket once.

use super::{error::HandshakeError, kdf::Secret32, trust::TrustAnchors};
use crate::veil::{
    layout::{LayoutError, Reader, put_v16},
    registry::{Scheme, Suite},
    vmc::{Certificate, CertificateError, Roles},
};
use alloc::{
    collections::{BTreeSet, VecDeque},
    vec::Vec,
};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{AeadInOut, Nonce},
};
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Length of key id and nonce before the ciphertext.
const CLEAR_LEN: usize = 4 + NONCE_LEN;
/// After this time new tickets are made under a new key.
const ROTATE_MS: u64 = 24 * 3_600 * 1_000;

/// `psk = Derive(res, "ticket", nonce, 32)`.
fn psk(resumption: &Secret32, nonce: &[u8; NONCE_LEN]) -> Secret32 {
    resumption.derive("ticket", nonce)
}

/// What a client keeps of a channel to resume it: a ticket, its secret, and who gave it.
pub struct Resumption {
    pub(super) ticket: Vec<u8>,
    pub(super) psk: Secret32,
    pub(super) scheme: Scheme,
    pub(super) suite: Suite,
    pub(super) broker: Certificate,
}

impl Resumption {
    /// Takes a ticket that came over a channel; `None` when it is too short to be one.
    pub(super) fn new(
        ticket: &[u8],
        resumption: &Secret32,
        scheme: Scheme,
        suite: Suite,
        broker: &Certificate,
    ) -> Option<Self> {
        let nonce: &[u8; NONCE_LEN] = ticket.get(4..CLEAR_LEN)?.try_into().ok()?;
        let psk = psk(resumption, nonce);
        Some(Self { ticket: ticket.into(), psk, scheme, suite, broker: broker.clone() })
    }

    /// The scheme and the suite that the resumed channel will have.
    #[must_use]
    pub const fn protection(&self) -> (Scheme, Suite) {
        (self.scheme, self.suite)
    }

    /// Checks that the broker of the earlier channel would still be believed; `expected_broker` is the name its certificate
    /// must carry, if the caller knows it.
    ///
    /// # Errors
    /// The first [`CertificateError`], as in [`TrustAnchors::verify`].
    pub fn check_broker(
        &self,
        trust: &TrustAnchors,
        expected_broker: Option<&str>,
        now_unix_seconds: Option<u64>,
    ) -> Result<(), CertificateError> {
        trust.verify(&self.broker, Roles::BROKER, expected_broker, now_unix_seconds)
    }
}

/// What a ticket says to the broker that made it.
pub struct TicketContents {
    /// The pre-shared key of the channel that it resumes into.
    pub(super) psk: Secret32,
    /// The scheme of the channel it was given on.
    pub(super) scheme: Scheme,
    /// The suite of that channel.
    pub(super) suite: Suite,
    /// The certificate that the client had shown.
    pub(super) client: Certificate,
    id: TicketId,
}

/// Names a ticket among all that one broker has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketId {
    key: u32,
    nonce: [u8; NONCE_LEN],
}

impl TicketContents {
    /// Names the ticket for [`TicketKeys::spend`].
    #[must_use]
    pub const fn id(&self) -> TicketId {
        self.id
    }

    /// Checks the client's certificate as at this moment: expiry, revocation, issuer, role and name. Its signature was
    /// verified before the ticket was made.
    pub(super) fn check_client(
        &self,
        trust: &TrustAnchors,
        client_id: &str,
        now_unix_seconds: u64,
    ) -> Result<(), HandshakeError> {
        Ok(trust.recheck(&self.client, Roles::CLIENT, Some(client_id), Some(now_unix_seconds))?)
    }
}

/// What goes into a ticket.
pub(super) struct TicketFields<'a> {
    pub(super) resumption: &'a Secret32,
    pub(super) scheme: Scheme,
    pub(super) suite: Suite,
    pub(super) client: &'a Certificate,
}

/// A ticket key and the tickets under it that were used.
struct TicketKey {
    id: u32,
    cipher: ChaCha20Poly1305,
    made_at_ms: u64,
    spent: BTreeSet<[u8; NONCE_LEN]>,
}

/// The ticket keys of a broker, newest first; each is forgotten when the last ticket under it has expired.
pub struct TicketKeys {
    keys: VecDeque<TicketKey>,
    lifetime_ms: u64,
    spent_max: usize,
}

impl TicketKeys {
    /// Makes tickets that are good for `lifetime_ms`, and remembers up to `spent_max` of those that were used; there is no key
    /// until the first ticket is made.
    #[must_use]
    pub const fn new(lifetime_ms: u64, spent_max: usize) -> Self {
        Self { keys: VecDeque::new(), lifetime_ms, spent_max }
    }

    /// Makes a ticket.
    pub(super) fn issue(
        &mut self,
        fields: &TicketFields<'_>,
        now_unix_ms: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Vec<u8>, LayoutError> {
        let expires = now_unix_ms.saturating_add(self.lifetime_ms);
        let mut plaintext = Zeroizing::new(Vec::with_capacity(64 + fields.client.as_bytes().len()));
        plaintext.push(VERSION);
        plaintext.extend_from_slice(fields.resumption.as_bytes());
        plaintext.extend_from_slice(&[fields.scheme.value(), fields.suite.value()]);
        plaintext.extend_from_slice(&now_unix_ms.to_be_bytes());
        plaintext.extend_from_slice(&expires.to_be_bytes());
        put_v16(&mut plaintext, fields.client.as_bytes(), "certificate")?;
        let mut nonce = [0; NONCE_LEN];
        entropy(&mut nonce);
        let key = self.current(now_unix_ms, entropy);
        let id = key.id.to_be_bytes();
        let tag = key
            .cipher
            .encrypt_inout_detached(
                &Nonce::<ChaCha20Poly1305>::from(nonce),
                &id,
                plaintext.as_mut_slice().into(),
            )
            .expect("a ticket is far below the AEAD's limit");
        let mut ticket = Vec::with_capacity(CLEAR_LEN + plaintext.len() + TAG_LEN);
        ticket.extend_from_slice(&id);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&plaintext);
        ticket.extend_from_slice(&tag);
        Ok(ticket)
    }

    /// The key that tickets are made under, a new one every 24 hours.
    fn current(&mut self, now_unix_ms: u64, entropy: &mut dyn FnMut(&mut [u8])) -> &TicketKey {
        self.keys.retain(|key| now_unix_ms.saturating_sub(key.made_at_ms) < ROTATE_MS + self.lifetime_ms);
        let is_young = |key: &TicketKey| now_unix_ms.saturating_sub(key.made_at_ms) < ROTATE_MS;
        if !self.keys.front().is_some_and(is_young) {
            let mut id = [0; 4];
            entropy(&mut id);
            let mut secret = Zeroizing::new([0; 32]);
            entropy(secret.as_mut_slice());
            let cipher = ChaCha20Poly1305::new((&*secret).into());
            let id = u32::from_be_bytes(id);
            self.keys.push_front(TicketKey { id, cipher, made_at_ms: now_unix_ms, spent: BTreeSet::new() });
        }
        &self.keys[0]
    }

    /// Opens a ticket; `None` when its key is gone, it is not authentic, or it has expired.
    #[must_use]
    pub fn open(&self, ticket: &[u8], now_unix_ms: u64) -> Option<TicketContents> {
        let (clear, sealed) = ticket.split_first_chunk::<CLEAR_LEN>()?;
        let (id, nonce) = clear.split_first_chunk::<4>()?;
        let nonce: [u8; NONCE_LEN] = nonce.try_into().ok()?;
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
        let key_id = u32::from_be_bytes(*id);
        let key = self.keys.iter().find(|key| key.id == key_id)?;
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        key.cipher
            .decrypt_inout_detached(
                &Nonce::<ChaCha20Poly1305>::from(nonce),
                id,
                plaintext.as_mut_slice().into(),
                &(*tag).into(),
            )
            .ok()?;
        let id = TicketId { key: key_id, nonce };
        read_contents(&plaintext, id, now_unix_ms).ok().flatten()
    }

    /// Takes note that a ticket is used; false when it was used before, or there is no room to remember that it is.
    #[must_use]
    pub fn spend(&mut self, id: TicketId) -> bool {
        let spent: usize = self.keys.iter().map(|key| key.spent.len()).sum();
        let Some(key) = self.keys.iter_mut().find(|key| key.id == id.key) else { return false };
        spent < self.spent_max && key.spent.insert(id.nonce)
    }
}

fn read_contents(
    plaintext: &[u8],
    id: TicketId,
    now_unix_ms: u64,
) -> Result<Option<TicketContents>, HandshakeError> {
    let layout = |error| HandshakeError::Contents("ticket", error);
    let mut reader = Reader::new(plaintext);
    let version = reader.u8("version").map_err(layout)?;
    let resumption = Secret32::new(
        reader
            .take(32, "resumption")
            .map_err(layout)?
            .try_into()
            .map_err(|_| layout(LayoutError::Truncated("resumption")))?,
    );
    let scheme = reader.u8("scheme").map_err(layout)?;
    let suite = reader.u8("suite").map_err(layout)?;
    let (_issued, expires) = (reader.u64("issued").map_err(layout)?, reader.u64("expires").map_err(layout)?);
    let client = Certificate::parse(reader.v16("certificate").map_err(layout)?)?;
    reader.finish().map_err(layout)?;
    let (Ok(scheme), Ok(suite)) = (Scheme::try_from(scheme), Suite::try_from(suite)) else {
        return Ok(None);
    };
    if version != VERSION || now_unix_ms > expires {
        return Ok(None);
    }
    Ok(Some(TicketContents { psk: psk(&resumption, &id.nonce), scheme, suite, client, id }))
}
