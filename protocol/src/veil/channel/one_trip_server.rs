//! The broker's side of COMPACT and RESUME (VEIL-1 sections 4.6 and 4.7).
//!
//! The client has proved with CONNECT who wrote it, not that it is there now: until its first record opens, a copy of an earlier
//! CONNECT looks the same. Whoever uses this remembers what was used ([`CompactClient::fingerprint`], [`ResumingClient::ticket`])
//! and gives nothing up before that record.

use super::{
    error::HandshakeError,
    flight::{Sender, prove},
    handshake_server::{Protection, ServerAccepted, ServerEphemeral, ServerPolicy, ServerStart},
    identity::Identity,
    kdf::hash,
    one_trip_client::COMPACT_LABEL,
    schedule::{EarlySecret, Transcript},
    server_finish::{Carrier, locate_end},
    signature::verify,
    ticket::{TicketContents, TicketId},
    trust::TrustAnchors,
};
use crate::veil::{
    hello::{BINDER_LEN, ClientHello, Flight, Opening, SIGNATURE_LEN},
    vmc::{Certificate, Roles},
};
use alloc::vec::Vec;
use subtle::ConstantTimeEq;

/// Who a client that opens with one packet has to be.
#[derive(Clone, Copy)]
pub struct ClientExpectation<'a> {
    /// The authorities that vouch for clients.
    pub trust: &'a TrustAnchors,
    /// The Client Identifier, which its certificate must carry.
    pub client_id: &'a str,
    /// The broker's time in unix milliseconds.
    pub now_unix_ms: u64,
}

impl ServerStart {
    /// Verifies a ClientHello of COMPACT that came in `connect_packet`. `clock_skew_ms` is how far the client's clock may be
    /// from the broker's.
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is over then.
    pub fn compact(
        self,
        connect_packet: &[u8],
        client_hello: &[u8],
        identity: &Identity,
        policy: &ServerPolicy,
        expected: &ClientExpectation<'_>,
        clock_skew_ms: u64,
    ) -> Result<CompactClient, HandshakeError> {
        let hello = ClientHello::parse(client_hello)?;
        let Opening::Compact { certificate, signature } = hello.opening else {
            return Err(HandshakeError::ModeHere);
        };
        let chosen = policy.choose(&hello)?;
        let away_ms = hello.time_unix_ms.abs_diff(expected.now_unix_ms);
        if away_ms > clock_skew_ms {
            return Err(HandshakeError::ClockSkew { away_ms });
        }
        let at = locate_end(Carrier::Connect, connect_packet, SIGNATURE_LEN)?;
        let t0 = Transcript::start_without(connect_packet, at, Some(&identity.certificate().subject));
        let client = Certificate::parse(certificate)?;
        let now_unix_seconds = Some(expected.now_unix_ms / 1_000);
        expected.trust.verify(&client, Roles::CLIENT, Some(expected.client_id), now_unix_seconds)?;
        let signed = hash(&[t0.as_bytes(), certificate]);
        verify(COMPACT_LABEL, &signed, &client.ed25519, &signature).map_err(|_| HandshakeError::Signature)?;
        Ok(CompactClient {
            client,
            chosen,
            share: hello.share,
            nonce: hello.nonce,
            time_unix_ms: hello.time_unix_ms,
            transcript: t0,
            signature,
        })
    }

    /// Verifies a ClientHello of RESUME that came in `connect_packet`, whose ticket `contents` were read from. `None` means
    /// that the ticket cannot be used, and SIGMA is to answer: the certificate is not good any more, or the client or the
    /// policy does not go with the scheme and suite of the ticket.
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is over then.
    pub fn resume(
        self,
        connect_packet: &[u8],
        client_hello: &[u8],
        contents: TicketContents,
        policy: &ServerPolicy,
        expected: &ClientExpectation<'_>,
    ) -> Result<Option<ResumingClient>, HandshakeError> {
        let hello = ClientHello::parse(client_hello)?;
        let Opening::Resume { binder, .. } = hello.opening else {
            return Err(HandshakeError::ModeHere);
        };
        let (scheme, suite) = (contents.scheme, contents.suite);
        let chosen = policy.only(scheme, suite).and_then(|policy| policy.choose(&hello).ok());
        let now_unix_seconds = expected.now_unix_ms / 1_000;
        let Some(chosen) = chosen else { return Ok(None) };
        if contents.check_client(expected.trust, expected.client_id, now_unix_seconds).is_err() {
            return Ok(None);
        }
        let at = locate_end(Carrier::Connect, connect_packet, BINDER_LEN)?;
        let t0 = Transcript::start_without(connect_packet, at, None);
        let early = EarlySecret::new(Some(&contents.psk));
        if !bool::from(early.binder(t0).ct_eq(&binder)) {
            return Err(HandshakeError::Binder);
        }
        Ok(Some(ResumingClient { contents, chosen, early, share: hello.share, transcript: t0, binder }))
    }
}

/// A client that has signed its CONNECT, at some time.
pub struct CompactClient {
    client: Certificate,
    chosen: Protection,
    share: [u8; 32],
    nonce: [u8; 16],
    time_unix_ms: u64,
    transcript: Transcript,
    signature: [u8; SIGNATURE_LEN],
}

impl CompactClient {
    /// What no second CONNECT may have within twice the clock skew: the client with its nonce, in short.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 8] {
        let whole = hash(&[b"veil1 compact", self.client.kid().as_bytes(), &self.nonce]);
        let mut short = [0; 8];
        short.copy_from_slice(&whole[..8]);
        short
    }

    /// What was chosen.
    #[must_use]
    pub const fn protection(&self) -> Protection {
        self.chosen
    }

    /// When the client says it signed, in unix milliseconds.
    #[must_use]
    pub const fn time_unix_ms(&self) -> u64 {
        self.time_unix_ms
    }

    /// Makes the ServerHello and the broker's proof of who it is; `entropy` is as in [`ServerStart::handle`].
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is over then.
    pub fn answer(
        self,
        identity: &Identity,
        now_unix_ms: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<ServerAccepted, HandshakeError> {
        let Self { client, chosen, share, transcript, signature, .. } = self;
        let ephemeral = ServerEphemeral::generate(entropy);
        let mut prefix = ephemeral.hello(chosen, now_unix_ms).encode_head();
        let t1 = transcript.proven(&signature, &prefix);
        let secret = EarlySecret::new(None).agreed(&ephemeral.key.agree(&share)?);
        let proof = prove(Sender::Broker, identity, &secret.server_flight(t1), t1)?;
        let flight = Flight::parse(&proof).map_err(HandshakeError::Encode)?;
        let t3 = t1.signed(flight.certificate, &flight.signature);
        prefix.extend_from_slice(&proof);
        Ok(ServerAccepted::one_trip(client, chosen, t3, secret.finish(t3), prefix))
    }
}

/// A client that knows the secret of a ticket, and has bound its CONNECT to it, at some time.
pub struct ResumingClient {
    contents: TicketContents,
    chosen: Protection,
    early: EarlySecret,
    share: [u8; 32],
    transcript: Transcript,
    binder: [u8; BINDER_LEN],
}

impl ResumingClient {
    /// The ticket, which is to be spent before the answer.
    #[must_use]
    pub const fn ticket(&self) -> TicketId {
        self.contents.id()
    }

    /// Makes the ServerHello; `entropy` is as in [`ServerStart::handle`].
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is over then.
    pub fn answer(
        self,
        now_unix_ms: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<ServerAccepted, HandshakeError> {
        let (client, chosen) = (self.contents.client, self.chosen);
        let ephemeral = ServerEphemeral::generate(entropy);
        let prefix: Vec<u8> = ephemeral.hello(chosen, now_unix_ms).encode_head();
        let t3 = self.transcript.proven(&self.binder, &prefix);
        let secret = self.early.agreed(&ephemeral.key.agree(&self.share)?);
        Ok(ServerAccepted::one_trip(client, chosen, t3, secret.finish(t3), prefix))
    }
}
