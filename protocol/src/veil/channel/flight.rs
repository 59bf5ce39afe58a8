//! The authentication each side sends under encryption: certificate, signature, MAC
//! (VEIL-1 section 4.5).
//!
//! Invariant: a certificate leaves this file as verified only when the issuer, the signature over
//! the transcript and the MAC under the fresh key all hold.

use super::{
    error::HandshakeError,
    identity::Identity,
    kdf::{Secret32, hash},
    schedule::{FlightKeys, Transcript},
    signature::{sign, verify},
    trust::TrustAnchors,
};
use crate::veil::{
    hello::Flight,
    registry::Kid,
    vmc::{Certificate, Roles},
};
use alloc::vec::Vec;
use x25519_dalek::{PublicKey, StaticSecret};

/// Who sends the flight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Broker,
    Client,
}

impl Sender {
    const fn label(self) -> &'static str {
        match self {
            Self::Broker => "broker auth",
            Self::Client => "client auth",
        }
    }

    const fn roles(self) -> Roles {
        match self {
            Self::Broker => Roles::BROKER,
            Self::Client => Roles::CLIENT,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker flight",
            Self::Client => "client flight",
        }
    }
}

/// What the receiver of a flight holds against it.
pub(super) struct Expectation<'a> {
    pub(super) trust: &'a TrustAnchors,
    pub(super) subject: Option<&'a str>,
    /// Who it has to be, in a re-authentication.
    pub(super) kid: Option<Kid>,
    pub(super) now_unix_seconds: Option<u64>,
}

/// Builds the plaintext of a flight.
pub(super) fn prove(
    sender: Sender,
    identity: &Identity,
    keys: &FlightKeys,
    transcript: Transcript,
) -> Result<Vec<u8>, HandshakeError> {
    let certificate = identity.certificate().as_bytes();
    let transcript = transcript.as_bytes();
    let signature = sign(identity.keys(), sender.label(), &hash(&[transcript, certificate]));
    let mac = keys.mac(&[&hash(&[transcript, certificate, &signature])]);
    Flight { certificate, signature, mac }.encode().map_err(HandshakeError::Encode)
}

/// Opens a flight and verifies it; gives its plaintext for the transcript, and the certificate.
pub(super) fn check(
    sender: Sender,
    sealed: &[u8],
    keys: &FlightKeys,
    transcript: Transcript,
    expected: &Expectation<'_>,
) -> Result<(Vec<u8>, Certificate), HandshakeError> {
    let plaintext = keys.open(&transcript, sealed).map_err(|_| HandshakeError::Sealed(sender.name()))?;
    let flight = Flight::parse(&plaintext).map_err(|error| HandshakeError::Contents(sender.name(), error))?;
    let certificate = verify_flight(sender, &flight, keys, transcript, expected)?;
    Ok((plaintext, certificate))
}

/// Verifies what a flight says.
pub(super) fn verify_flight(
    sender: Sender,
    flight: &Flight<'_>,
    keys: &FlightKeys,
    transcript: Transcript,
    expected: &Expectation<'_>,
) -> Result<Certificate, HandshakeError> {
    let transcript = transcript.as_bytes();
    let mac_input = hash(&[transcript, flight.certificate, &flight.signature]);
    if !keys.mac_matches(&[&mac_input], &flight.mac) {
        return Err(HandshakeError::Mac);
    }
    let certificate = Certificate::parse(flight.certificate)?;
    let Expectation { trust, subject, kid, now_unix_seconds } = *expected;
    trust.verify(&certificate, sender.roles(), subject, now_unix_seconds)?;
    let signed = hash(&[transcript, flight.certificate]);
    verify(sender.label(), &signed, &certificate.ed25519, &flight.signature)
        .map_err(|_| HandshakeError::Signature)?;
    let got = certificate.kid();
    match kid {
        Some(expected) if expected != got => Err(HandshakeError::OtherIdentity { got, expected }),
        _ => Ok(certificate),
    }
}

/// An ephemeral X25519 key, used for one agreement and zeroized.
pub(super) struct Ephemeral(StaticSecret);

impl Ephemeral {
    pub(super) fn generate(entropy: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        entropy(secret.as_mut_slice());
        Self(StaticSecret::from(*secret))
    }

    pub(super) fn share(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }

    /// `Z = X25519(e, E')`; the all-zero value is refused (RFC 7748 section 6.1).
    pub(super) fn agree(self, peer_share: &[u8; 32]) -> Result<Secret32, HandshakeError> {
        let shared = self.0.diffie_hellman(&PublicKey::from(*peer_share));
        if shared.was_contributory() {
            Ok(Secret32::new(shared.as_bytes()))
        } else {
            Err(HandshakeError::SmallOrderShare)
        }
    }
}
