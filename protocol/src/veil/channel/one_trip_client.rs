//! The client's side of COMPACT and RESUME, which take one round trip and no AUTH packet (VEIL-1 sections 4.6 and 4.7).
//!
//! The proof in CONNECT covers the whole packet, so it is filled in once the packet is encoded. Each state is consumed by what
//! it waits for.

use super::{
    Established,
    error::HandshakeError,
    flight::{Expectation, Sender, verify_flight},
    handshake_client::{AwaitServerHello, ClientHelloConfig, ClientStart},
    handshake_server::Protection,
    identity::Identity,
    kdf::hash,
    schedule::{EarlySecret, Transcript},
    server_finish::{Carrier, Conclusion, locate, locate_end},
    signature::sign,
    ticket::Resumption,
    trust::TrustAnchors,
};
use crate::veil::{
    hello::{BINDER_LEN, Opening, SIGNATURE_LEN, ServerAnswer},
    layout::LayoutError,
};
use alloc::{string::String, vec::Vec};

/// The label of the client's signature in COMPACT.
pub(super) const COMPACT_LABEL: &str = "compact client";

/// A ClientHello of COMPACT is made; the CONNECT that carries it is still to be signed.
pub struct CompactStart {
    start: ClientStart,
    broker: String,
}

impl CompactStart {
    /// Makes a ClientHello for the broker whose certificate has this name; `entropy` is as in [`ClientStart::new`].
    ///
    /// # Errors
    /// [`HandshakeError::ClockNeeded`] without a time, [`HandshakeError::Encode`] for a name or list that is too long.
    pub fn new(
        config: &ClientHelloConfig<'_>,
        identity: &Identity,
        broker: &str,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        if config.now_unix_ms.is_none() {
            return Err(HandshakeError::ClockNeeded);
        }
        if u8::try_from(broker.len()).is_err() {
            return Err(HandshakeError::Encode(LayoutError::TooLong("broker name")));
        }
        let certificate = identity.certificate().as_bytes();
        let opening = Opening::Compact { certificate, signature: [0; SIGNATURE_LEN] };
        let (start, hello) = ClientStart::opening(opening, config, entropy)?;
        Ok((Self { start, broker: broker.into() }, hello))
    }

    /// Signs the CONNECT, every byte from its fixed header on; it is not to be changed afterwards.
    ///
    /// # Errors
    /// [`HandshakeError`] when the packet is no CONNECT with this ClientHello.
    pub fn sign_connect(
        self,
        identity: &Identity,
        connect_packet: &mut [u8],
    ) -> Result<AwaitCompactAnswer, HandshakeError> {
        let at = locate_end(Carrier::Connect, connect_packet, SIGNATURE_LEN)?;
        let t0 = Transcript::start_without(connect_packet, at.clone(), Some(&self.broker));
        let signed = hash(&[t0.as_bytes(), identity.certificate().as_bytes()]);
        let signature = sign(identity.keys(), COMPACT_LABEL, &signed);
        connect_packet[at].copy_from_slice(&signature);
        Ok(AwaitCompactAnswer { start: self.start, broker: self.broker, transcript: t0, signature })
    }
}

/// CONNECT is sent; CONNACK with everything the broker has to say is due.
pub struct AwaitCompactAnswer {
    start: ClientStart,
    broker: String,
    transcript: Transcript,
    signature: [u8; SIGNATURE_LEN],
}

impl AwaitCompactAnswer {
    /// Verifies the broker and the whole CONNACK. The broker believes this client with its first record.
    ///
    /// # Errors
    /// [`HandshakeError`]; [`HandshakeError::Refused`] when the CONNACK carries an error code, of which nothing else may be
    /// believed.
    pub fn handle(
        self,
        connack_packet: &[u8],
        trust: &TrustAnchors,
        now_unix_seconds: Option<u64>,
    ) -> Result<Established, HandshakeError> {
        let at = locate(Carrier::ConnAck, connack_packet)?;
        let answer = ServerAnswer::parse_compact(connack_packet.get(at.clone()).unwrap_or_default())?;
        let proof = answer.proof.ok_or(HandshakeError::FinishMissing)?;
        let ClientStart { ephemeral, offer } = self.start;
        let form = offer.check(&answer.hello)?;
        let t1 = self.transcript.proven(&self.signature, answer.head);
        let secret = EarlySecret::new(None).agreed(&ephemeral.agree(&answer.hello.share)?);
        let expected = Expectation { trust, subject: Some(&self.broker), kid: None, now_unix_seconds };
        let broker = verify_flight(Sender::Broker, &proof, &secret.server_flight(t1), t1, &expected)?;
        let t3 = t1.signed(proof.certificate, &proof.signature);
        let conclusion = Conclusion {
            protection: Protection { scheme: answer.hello.scheme, suite: answer.hello.suite, form },
            broker,
            transcript: t3,
            secrets: secret.finish(t3),
        };
        conclusion.establish(connack_packet, at, &answer.finish)
    }
}

/// A ClientHello of RESUME is made; the CONNECT that carries it is still to be bound to the ticket.
pub struct ResumeStart {
    start: ClientStart,
    resumption: Resumption,
}

impl ResumeStart {
    /// Makes a ClientHello with a ticket, which is used up by it; `entropy` is as in [`ClientStart::new`].
    ///
    /// The offer is what the client accepts if the broker does not take the ticket.
    ///
    /// # Errors
    /// [`HandshakeError::Encode`] above 255 suites.
    pub fn new(
        config: &ClientHelloConfig<'_>,
        resumption: Resumption,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let opening = Opening::Resume { ticket: &resumption.ticket, binder: [0; BINDER_LEN] };
        let (start, hello) = ClientStart::opening(opening, config, entropy)?;
        Ok((Self { start, resumption }, hello))
    }

    /// Binds the CONNECT, every byte from its fixed header on, to the ticket; it is not to be changed afterwards.
    ///
    /// # Errors
    /// [`HandshakeError`] when the packet is no CONNECT with this ClientHello.
    pub fn bind_connect(self, connect_packet: &mut [u8]) -> Result<AwaitResumeAnswer, HandshakeError> {
        let at = locate_end(Carrier::Connect, connect_packet, BINDER_LEN)?;
        let t0 = Transcript::start_without(connect_packet, at.clone(), None);
        let early = EarlySecret::new(Some(&self.resumption.psk));
        let binder = early.binder(t0);
        connect_packet[at].copy_from_slice(&binder);
        let whole = Transcript::start(connect_packet);
        let Self { start, resumption } = self;
        Ok(AwaitResumeAnswer { start, resumption, early, transcript: t0, binder, whole })
    }
}

/// CONNECT is sent; CONNACK is due, or AUTH 0x18 if the broker does not take the ticket.
pub struct AwaitResumeAnswer {
    start: ClientStart,
    resumption: Resumption,
    early: EarlySecret,
    transcript: Transcript,
    binder: [u8; BINDER_LEN],
    /// What SIGMA begins with.
    whole: Transcript,
}

impl AwaitResumeAnswer {
    /// Goes on with SIGMA: the broker has answered with AUTH 0x18.
    #[must_use]
    pub fn without_ticket(self) -> AwaitServerHello {
        self.start.sent_as(self.whole)
    }

    /// Verifies the whole CONNACK, and with it that the broker knows the secret of the ticket. The broker believes this client
    /// with its first record.
    ///
    /// # Errors
    /// [`HandshakeError`]; [`HandshakeError::Refused`] when the CONNACK carries an error code, of which nothing else may be
    /// believed.
    pub fn handle(self, connack_packet: &[u8]) -> Result<Established, HandshakeError> {
        let at = locate(Carrier::ConnAck, connack_packet)?;
        let answer = ServerAnswer::parse_resume(connack_packet.get(at.clone()).unwrap_or_default())?;
        let ClientStart { ephemeral, offer } = self.start;
        let form = offer.check(&answer.hello)?;
        let Resumption { scheme, suite, broker, .. } = self.resumption;
        if answer.hello.scheme != scheme {
            return Err(HandshakeError::SchemeNotOffered(answer.hello.scheme));
        }
        if answer.hello.suite != suite {
            return Err(HandshakeError::SuiteNotOffered(answer.hello.suite));
        }
        let secret = self.early.agreed(&ephemeral.agree(&answer.hello.share)?);
        let t3 = self.transcript.proven(&self.binder, answer.head);
        let secrets = secret.finish(t3);
        let protection = Protection { scheme, suite, form };
        Conclusion { protection, broker, transcript: t3, secrets }.establish(
            connack_packet,
            at,
            &answer.finish,
        )
    }
}
