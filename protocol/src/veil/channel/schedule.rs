//! Transcript hashes and the key schedule of the handshake (VEIL-1 section 4.5).
//!
//! Invariant: the raw Diffie-Hellman value never leaves this file, and no key serves two purposes.

use super::kdf::{Secret32, extract, hash, hmac};
use crate::veil::hello::{BINDER_LEN, SIGNATURE_LEN};
use alloc::vec::Vec;
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{AeadInOut, Nonce},
};
use core::ops::Range;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const ZERO: [u8; 32] = [0; 32];
/// Length of the tag of the handshake AEAD, which is ChaCha20-Poly1305 in every suite.
pub(super) const FLIGHT_TAG_LEN: usize = 16;

/// A transcript hash: `T0`, `T1`, `T2` or `T3`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Transcript([u8; 32]);

impl Transcript {
    /// `T0 = H("veil1 transcript" || CONNECT packet)`.
    pub(super) fn start(connect_packet: &[u8]) -> Self {
        Self(hash(&[b"veil1 transcript", connect_packet]))
    }

    /// `T0 = H("veil1 reauth" || exporter || AUTH packet)`, with the exporter of the handshake before (section 4.8).
    pub(super) fn restart(exporter: &Secret32, auth_packet: &[u8]) -> Self {
        Self(hash(&[b"veil1 reauth", exporter.as_bytes(), auth_packet]))
    }

    /// `T0` of a CONNECT that ends its Authentication Data with a proof over itself: these bytes count as zero. COMPACT also
    /// names the broker it is meant for (sections 4.6, 4.7).
    pub(super) fn start_without(connect_packet: &[u8], proof: Range<usize>, broker: Option<&str>) -> Self {
        let before = connect_packet.get(..proof.start).unwrap_or_default();
        let after = connect_packet.get(proof.end..).unwrap_or_default();
        let zero = [0; SIGNATURE_LEN];
        let zero = zero.get(..proof.len()).unwrap_or_default();
        let label = b"veil1 transcript";
        match broker {
            None => Self(hash(&[label, before, zero, after])),
            Some(name) => {
                let len = [u8::try_from(name.len()).unwrap_or(u8::MAX)];
                Self(hash(&[label, before, zero, after, &len, name.as_bytes()]))
            }
        }
    }

    /// `T1 = H(T0 || proof of the client || head of the ServerHello)`, where CONNECT brings the client's proof.
    pub(super) fn proven(self, proof: &[u8], server_hello_head: &[u8]) -> Self {
        Self(hash(&[&self.0, proof, server_hello_head]))
    }

    /// `T3 = H(T1 || cert_b || sig_b)` of COMPACT.
    pub(super) fn signed(self, certificate: &[u8], signature: &[u8]) -> Self {
        Self(hash(&[&self.0, certificate, signature]))
    }

    /// `T(n+1) = H(T(n) || message)`.
    pub(super) fn then(self, message: &[u8]) -> Self {
        Self(hash(&[&self.0, message]))
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// `ES`: what both sides knew before they exchanged ephemeral keys.
pub(super) struct EarlySecret(Secret32);

impl EarlySecret {
    /// `ES = HKDF-Extract(0^32, psk)`; there is a pre-shared key in RESUME only.
    pub(super) fn new(psk: Option<&Secret32>) -> Self {
        Self(extract(&ZERO, psk.map_or(&ZERO, |psk| psk.as_bytes())))
    }

    /// `HMAC(Derive(ES, "binder", "", 32), T0)`.
    pub(super) fn binder(&self, t0: Transcript) -> [u8; BINDER_LEN] {
        hmac(self.0.derive("binder", &[]).as_bytes(), &[t0.as_bytes()])
    }

    /// `HS = HKDF-Extract(Derive(ES, "derived", H(""), 32), Z)`.
    pub(super) fn agreed(&self, shared: &Secret32) -> HandshakeSecret {
        HandshakeSecret(extract(derived(&self.0).as_bytes(), shared.as_bytes()))
    }
}

/// `HS`: what both sides know once they have exchanged ephemeral keys.
pub(super) struct HandshakeSecret(Secret32);

impl HandshakeSecret {
    pub(super) fn client_flight(&self, t1: Transcript) -> FlightKeys {
        FlightKeys::new(&self.0.derive("c hs", t1.as_bytes()))
    }

    pub(super) fn server_flight(&self, t1: Transcript) -> FlightKeys {
        FlightKeys::new(&self.0.derive("s hs", t1.as_bytes()))
    }

    /// `MS` and what follows from it and `T3`.
    pub(super) fn finish(&self, t3: Transcript) -> ApplicationSecrets {
        let master = extract(derived(&self.0).as_bytes(), &ZERO);
        let secret = |label| master.derive(label, t3.as_bytes());
        ApplicationSecrets {
            client: secret("c ap"),
            server: secret("s ap"),
            acknowledge: secret("s ack"),
            exporter: secret("exporter"),
            resumption: secret("resumption"),
        }
    }
}

fn derived(secret: &Secret32) -> Secret32 {
    secret.derive("derived", &hash(&[]))
}

/// What the schedule ends in.
pub(super) struct ApplicationSecrets {
    /// `ap_c`: records of the client.
    pub(super) client: Secret32,
    /// `ap_s`: records of the broker.
    pub(super) server: Secret32,
    /// `ack`: the ServerFinish.
    pub(super) acknowledge: Secret32,
    /// For protocols above the channel.
    pub(super) exporter: Secret32,
    /// `res`: what tickets are made from.
    pub(super) resumption: Secret32,
}

/// Key, nonce and MAC key of one handshake message; each is used once.
pub(super) struct FlightKeys {
    cipher: ChaCha20Poly1305,
    iv: Zeroizing<[u8; 12]>,
    mac: Secret32,
}

/// A flight did not authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenError;

impl FlightKeys {
    fn new(secret: &Secret32) -> Self {
        Self::with_mac(secret, secret.derive("finished", &[]))
    }

    /// The keys of ServerFinish, whose MAC covers the CONNACK (section 4.4).
    pub(super) fn server_finish(acknowledge: &Secret32) -> Self {
        Self::with_mac(acknowledge, acknowledge.derive("mac", &[]))
    }

    fn with_mac(secret: &Secret32, mac: Secret32) -> Self {
        let mut iv = Zeroizing::new([0; 12]);
        super::kdf::derive(secret.as_bytes(), "iv", &[], iv.as_mut_slice());
        let key = secret.derive("key", &[]);
        Self { cipher: ChaCha20Poly1305::new(key.as_bytes().into()), iv, mac }
    }

    /// Encrypts `plaintext` in place and appends the tag.
    pub(super) fn seal(&self, aad: &Transcript, mut plaintext: Vec<u8>) -> Vec<u8> {
        let nonce = Nonce::<ChaCha20Poly1305>::from(*self.iv);
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce, aad.as_bytes(), plaintext.as_mut_slice().into())
            .expect("handshake messages are below 64 KiB");
        plaintext.extend_from_slice(&tag);
        plaintext
    }

    pub(super) fn open(&self, aad: &Transcript, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let at = sealed.len().checked_sub(FLIGHT_TAG_LEN).ok_or(OpenError)?;
        let (ciphertext, tag) = sealed.split_at(at);
        let tag: [u8; FLIGHT_TAG_LEN] = tag.try_into().map_err(|_| OpenError)?;
        let nonce = Nonce::<ChaCha20Poly1305>::from(*self.iv);
        let mut plaintext = ciphertext.to_vec();
        self.cipher
            .decrypt_inout_detached(&nonce, aad.as_bytes(), plaintext.as_mut_slice().into(), &tag.into())
            .map_err(|_| OpenError)?;
        Ok(plaintext)
    }

    pub(super) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        hmac(self.mac.as_bytes(), parts)
    }

    pub(super) fn mac_matches(&self, parts: &[&[u8]], mac: &[u8; 32]) -> bool {
        self.mac(parts).ct_eq(mac).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::veil::hello::{ClientFinish, ServerHello};
    use serde_json::Value;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../../tests/data/veil1-vectors.json")).unwrap()
    }

    fn bytes(vectors: &Value, name: &str) -> Vec<u8> {
        let text = vectors["handshake"][name].as_str().unwrap();
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }

    #[test]
    fn transcripts_and_secrets_are_those_of_the_vectors() {
        let vectors = vectors();
        let is = |value: &[u8; 32], name: &str| assert_eq!(value[..], bytes(&vectors, name), "{name}");
        let secret = EarlySecret::new(None).agreed(&Secret32::new(&bytes(&vectors, "Z").try_into().unwrap()));
        let server_hello = bytes(&vectors, "SH");
        let client_finish = bytes(&vectors, "CF");
        let (_, head, broker_flight) = ServerHello::parse(&server_hello).unwrap();
        let client_flight = ClientFinish::parse(&client_finish).unwrap().flight;

        let t1 = Transcript::start(&bytes(&vectors, "CONNECT")).then(head);
        is(t1.as_bytes(), "T1");
        let t2 = t1.then(&secret.server_flight(t1).open(&t1, broker_flight).unwrap());
        is(t2.as_bytes(), "T2");
        let t3 = t2.then(&secret.client_flight(t1).open(&t2, client_flight).unwrap());
        is(t3.as_bytes(), "T3");
        let secrets = secret.finish(t3);
        is(secrets.client.as_bytes(), "c_ap");
        is(secrets.server.as_bytes(), "s_ap");
        is(secrets.acknowledge.as_bytes(), "ack");
        is(secrets.exporter.as_bytes(), "exporter");
    }
}
