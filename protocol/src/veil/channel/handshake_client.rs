//! The client's side of the SIGMA handshake (VEIL-1 sections 4.1 to 4.5), also where it re-authenticates (section 4.8).
//!
//! Each state is named after what it waits for and is consumed by it, so no message can be handled
//! twice. It does no MQTT: the caller carries Authentication Data in CONNECT and AUTH.

use super::{
    Established, Predecessor,
    error::HandshakeError,
    flight::{Ephemeral, Expectation, Sender, check, prove},
    handshake_server::Protection,
    identity::Identity,
    schedule::{EarlySecret, Transcript},
    server_finish::{Carrier, Conclusion, locate},
    trust::TrustAnchors,
};
use crate::veil::{
    hello::{ChannelForm, ClientFinish, ClientHello, HelloFlags, Opening, ServerFinish, ServerHello},
    registry::{Kid, Scheme, Schemes, Suite},
    vmc::Certificate,
};
use alloc::vec::Vec;

/// What a client offers.
#[derive(Clone, Copy, Debug)]
pub struct ClientHelloConfig<'a> {
    /// The schemes it accepts.
    pub schemes: Schemes,
    /// The suites it accepts, in order of preference; at most 255.
    pub suites: &'a [Suite],
    /// The trust anchor it holds, as a hint to the broker.
    pub anchor: Kid,
    /// Its time in unix milliseconds, or `None` on a device without a clock.
    pub now_unix_ms: Option<u64>,
    /// What it can do after CONNACK: records, or a property with each PUBLISH and then Scheme 4 only. Scheme 1 goes with either.
    pub form: ChannelForm,
    /// A JOIN_REQ that the broker is to pass on (VEIL-1 section 9.1).
    pub join_request: Option<&'a [u8]>,
}

/// What was offered, to hold the broker's choice against.
pub(super) struct Offer {
    schemes: Schemes,
    suites: Vec<u8>,
    form: ChannelForm,
}

impl Offer {
    /// Checks the broker's choice, and tells the form that follows from it.
    pub(super) fn check(&self, hello: &ServerHello) -> Result<ChannelForm, HandshakeError> {
        if !self.suites.contains(&hello.suite.value()) {
            return Err(HandshakeError::SuiteNotOffered(hello.suite));
        }
        let form = match (hello.scheme, self.form) {
            (Scheme::One, _) => ChannelForm::Plain,
            (_, ChannelForm::Records) => ChannelForm::Records,
            (Scheme::Four, ChannelForm::Property) => ChannelForm::Property,
            _ => return Err(HandshakeError::SchemeNotOffered(hello.scheme)),
        };
        if !self.schemes.contains(hello.scheme) || hello.flags != form.flags() {
            return Err(HandshakeError::SchemeNotOffered(hello.scheme));
        }
        Ok(form)
    }
}

/// A ClientHello is made; the CONNECT or AUTH that carries it is still to be sent.
pub struct ClientStart {
    pub(super) ephemeral: Ephemeral,
    pub(super) offer: Offer,
}

impl ClientStart {
    /// Makes a ClientHello for the Authentication Data of CONNECT.
    ///
    /// `entropy` fills a slice with random bytes: first the nonce, then the ephemeral key.
    ///
    /// # Errors
    /// [`HandshakeError::Encode`] above 255 suites.
    pub fn new(
        config: &ClientHelloConfig<'_>,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        Self::opening(Opening::Sigma, config, entropy)
    }

    /// Makes a ClientHello of any mode.
    pub(super) fn opening(
        opening: Opening<'_>,
        config: &ClientHelloConfig<'_>,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let mut nonce = [0; 16];
        entropy(&mut nonce);
        let ephemeral = Ephemeral::generate(entropy);
        let suites: Vec<u8> = config.suites.iter().map(|suite| suite.value()).collect();
        let clock = if config.now_unix_ms.is_some() { HelloFlags::NONE } else { HelloFlags::CLOCKLESS };
        let hello = ClientHello {
            flags: config.form.flags().union(clock),
            schemes: config.schemes,
            suites: &suites,
            nonce,
            time_unix_ms: config.now_unix_ms.unwrap_or(0),
            anchor: config.anchor,
            share: ephemeral.share(),
            hybrid_share: None,
            join_request: config.join_request,
            opening,
        };
        let bytes = hello.encode().map_err(HandshakeError::Encode)?;
        let offer = Offer { schemes: config.schemes, suites, form: config.form };
        Ok((Self { ephemeral, offer }, bytes))
    }

    /// Makes a ClientHello for the Authentication Data of AUTH 0x19, which offers what the channel has.
    ///
    /// `anchor`, `now_unix_ms` and `entropy` are as in [`new`](Self::new).
    ///
    /// # Errors
    /// [`HandshakeError::Encode`], which does not happen with a single suite.
    pub fn again(
        predecessor: &Predecessor,
        anchor: Kid,
        now_unix_ms: Option<u64>,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let schemes = Schemes::of(&[predecessor.scheme]);
        let form = ChannelForm::Records;
        let config = ClientHelloConfig {
            schemes,
            suites: &[predecessor.suite],
            anchor,
            now_unix_ms,
            form,
            join_request: None,
        };
        Self::new(&config, entropy)
    }

    /// Binds the handshake to the CONNECT packet, every byte from its fixed header on.
    #[must_use]
    pub fn sent_connect(self, connect_packet: &[u8]) -> AwaitServerHello {
        self.sent(Transcript::start(connect_packet), None)
    }

    /// Binds the handshake to the channel and to the AUTH packet, every byte from its fixed header on.
    #[must_use]
    pub fn sent_auth(self, predecessor: &Predecessor, auth_packet: &[u8]) -> AwaitServerHello {
        let transcript = Transcript::restart(&predecessor.exporter, auth_packet);
        self.sent(transcript, Some(predecessor.peer))
    }

    /// Awaits the ServerHello to a CONNECT whose transcript is known.
    pub(super) fn sent_as(self, transcript: Transcript) -> AwaitServerHello {
        self.sent(transcript, None)
    }

    fn sent(self, transcript: Transcript, broker: Option<Kid>) -> AwaitServerHello {
        AwaitServerHello { ephemeral: self.ephemeral, offer: self.offer, transcript, broker }
    }
}

/// CONNECT, or AUTH 0x19, is sent; AUTH 0x18 with a ServerHello is due.
pub struct AwaitServerHello {
    ephemeral: Ephemeral,
    offer: Offer,
    transcript: Transcript,
    /// Who the broker has to be, in a re-authentication.
    broker: Option<Kid>,
}

impl AwaitServerHello {
    /// Verifies the broker and answers with the ClientFinish for the Authentication Data of AUTH.
    ///
    /// `expected_broker` is the name the broker's certificate must carry, if the caller knows it;
    /// `now_unix_seconds` is `None` only on a device without a clock.
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is over then.
    pub fn handle(
        self,
        server_hello: &[u8],
        identity: &Identity,
        trust: &TrustAnchors,
        expected_broker: Option<&str>,
        now_unix_seconds: Option<u64>,
    ) -> Result<(Vec<u8>, AwaitServerFinish), HandshakeError> {
        let (hello, head, flight) = ServerHello::parse(server_hello)?;
        let form = self.offer.check(&hello)?;
        let t1 = self.transcript.then(head);
        let secret = EarlySecret::new(None).agreed(&self.ephemeral.agree(&hello.share)?);
        let expected = Expectation { trust, subject: expected_broker, kid: self.broker, now_unix_seconds };
        let (broker_flight, broker) =
            check(Sender::Broker, flight, &secret.server_flight(t1), t1, &expected)?;
        let t2 = t1.then(&broker_flight);
        let keys = secret.client_flight(t1);
        let client_flight = prove(Sender::Client, identity, &keys, t2)?;
        let t3 = t2.then(&client_flight);
        let flight = keys.seal(&t2, client_flight);
        let finish = ClientFinish { flight: &flight }.encode().map_err(HandshakeError::Encode)?;
        let next = AwaitServerFinish(Conclusion {
            protection: Protection { scheme: hello.scheme, suite: hello.suite, form },
            broker,
            transcript: t3,
            secrets: secret.finish(t3),
        });
        Ok((finish, next))
    }
}

/// ClientFinish is sent; CONNACK with a ServerFinish is due, or AUTH in a re-authentication.
pub struct AwaitServerFinish(Conclusion);

impl AwaitServerFinish {
    /// The certificate of the broker, which is verified.
    #[must_use]
    pub const fn broker(&self) -> &Certificate {
        &self.0.broker
    }

    /// Verifies the tag over the whole CONNACK and opens the broker's parameters.
    ///
    /// # Errors
    /// [`HandshakeError`]; [`HandshakeError::Refused`] when the CONNACK carries an error code, of
    /// which nothing else may be believed.
    pub fn handle(self, connack_packet: &[u8]) -> Result<Established, HandshakeError> {
        self.finish(Carrier::ConnAck, connack_packet)
    }

    /// Verifies the tag over the whole AUTH that ends a re-authentication, and opens the broker's parameters.
    ///
    /// # Errors
    /// [`HandshakeError`]; [`HandshakeError::NotCarrier`] when its Reason Code is not 0x00.
    pub fn handle_auth(self, auth_packet: &[u8]) -> Result<Established, HandshakeError> {
        self.finish(Carrier::Auth, auth_packet)
    }

    fn finish(self, carrier: Carrier, packet: &[u8]) -> Result<Established, HandshakeError> {
        let at = locate(carrier, packet)?;
        let finish = ServerFinish::parse(packet.get(at.clone()).unwrap_or_default())?;
        self.0.establish(packet, at, &finish)
    }
}
