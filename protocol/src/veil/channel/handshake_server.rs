//! The broker's side of the SIGMA handshake (VEIL-1 sections 4.1 to 4.5), its end in every mode, and where a client re-authenticates (section 4.8).
//!
//! Each state is named after what it waits for and is consumed by it. The broker keeps no session
//! state before the client has proved who it is; deadlines are the caller's.

use super::{
    Established, Predecessor,
    error::HandshakeError,
    flight::{Ephemeral, Expectation, Sender, check, prove},
    identity::Identity,
    record::Side,
    schedule::{ApplicationSecrets, EarlySecret, FlightKeys, HandshakeSecret, Transcript},
    server_finish::{Carrier, finish_tag, locate_end},
    ticket::{TicketFields, TicketKeys},
    trust::TrustAnchors,
};
use crate::veil::{
    hello::{
        ChannelForm, ClientFinish, ClientHello, FINISH_TAG_LEN, HelloFlags, Opening, ServerFinish,
        ServerFinishParams, ServerHello,
    },
    layout::put_v16,
    registry::{Kid, Scheme, Schemes, Suite},
    vmc::Certificate,
};
use alloc::vec::Vec;

/// What a broker accepts.
#[derive(Clone, Debug)]
pub struct ServerPolicy {
    /// The suites it accepts; among these the client's preference decides.
    pub suites: Vec<Suite>,
    /// The schemes it accepts; among these the highest number decides.
    pub schemes: Schemes,
    /// Whether Scheme 4 is there for clients without records too, as a property of each PUBLISH (VEIL-1 section 5.3).
    pub property_mode: bool,
}

impl Default for ServerPolicy {
    /// Every suite; Schemes 2 and 4, which need no broker group key; no property mode, which belongs inside TLS.
    fn default() -> Self {
        Self {
            suites: Suite::ALL.into(),
            schemes: Schemes::of(&[Scheme::Two, Scheme::Four]),
            property_mode: false,
        }
    }
}

/// What a channel gives packets after CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// The scheme.
    pub scheme: Scheme,
    /// The suite.
    pub suite: Suite,
    /// How packets are protected.
    pub form: ChannelForm,
}

impl ServerPolicy {
    /// The same policy for one scheme and suite; `None` when they are not in it.
    pub(super) fn only(&self, scheme: Scheme, suite: Suite) -> Option<Self> {
        let allowed = self.schemes.contains(scheme) && self.suites.contains(&suite);
        allowed.then(|| Self {
            suites: [suite].into(),
            schemes: Schemes::of(&[scheme]),
            property_mode: self.property_mode,
        })
    }

    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Result<Protection, HandshakeError> {
        // Records protect more, so who can do both gets them.
        let form = if hello.flags.contains(HelloFlags::FRAMED) {
            ChannelForm::Records
        } else if self.property_mode && hello.flags.contains(HelloFlags::PROPERTY) {
            ChannelForm::Property
        } else {
            ChannelForm::Plain
        };
        let possible = match form {
            ChannelForm::Plain => Schemes::of(&[Scheme::One]),
            ChannelForm::Property => Schemes::of(&[Scheme::One, Scheme::Four]),
            ChannelForm::Records => Schemes::ALL,
        };
        let scheme = self.schemes.intersection(hello.schemes).intersection(possible).highest();
        let suite = hello
            .suites
            .iter()
            .filter_map(|&value| Suite::try_from(value).ok())
            .find(|suite| self.suites.contains(suite));
        let scheme = scheme.ok_or(HandshakeError::NoCommonScheme)?;
        Ok(Protection {
            scheme,
            suite: suite.ok_or(HandshakeError::NoCommonSuite)?,
            form: if scheme == Scheme::One { ChannelForm::Plain } else { form },
        })
    }
}

/// Nothing is known of the client yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerStart;

impl ServerStart {
    /// Answers a ClientHello with the ServerHello for the Authentication Data of AUTH 0x18.
    ///
    /// `connect_packet` is the whole packet the ClientHello came in. `entropy` fills a slice with
    /// random bytes: first the nonce, then the ephemeral key.
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is over then.
    pub fn handle(
        self,
        connect_packet: &[u8],
        client_hello: &[u8],
        identity: &Identity,
        policy: &ServerPolicy,
        now_unix_ms: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(Vec<u8>, AwaitClientFinish), HandshakeError> {
        let client = ClientHello::parse(client_hello)?;
        // A ticket that cannot be used leaves the rest of a ClientHello as good as any.
        if matches!(client.opening, Opening::Compact { .. }) {
            return Err(HandshakeError::ModeHere);
        }
        let chosen = policy.choose(&client)?;
        let start = Transcript::start(connect_packet);
        answer(start, &client, chosen, identity, now_unix_ms, entropy)
    }

    /// Answers the ClientHello of a re-authentication, which keeps the scheme and the suite of the channel.
    ///
    /// `auth_packet` is the whole packet the ClientHello came in; `entropy` is as in [`handle`](Self::handle).
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is over then.
    pub fn handle_again(
        self,
        predecessor: &Predecessor,
        auth_packet: &[u8],
        client_hello: &[u8],
        identity: &Identity,
        now_unix_ms: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(Vec<u8>, AwaitClientFinish), HandshakeError> {
        let client = ClientHello::parse(client_hello)?;
        if client.opening != Opening::Sigma {
            return Err(HandshakeError::ModeHere);
        }
        let policy = ServerPolicy {
            suites: [predecessor.suite].into(),
            schemes: Schemes::of(&[predecessor.scheme]),
            property_mode: false,
        };
        let chosen = policy.choose(&client)?;
        let start = Transcript::restart(&predecessor.exporter, auth_packet);
        let (message, next) = answer(start, &client, chosen, identity, now_unix_ms, entropy)?;
        Ok((message, AwaitClientFinish { client: Some(predecessor.peer), ..next }))
    }
}

/// Makes the ServerHello, with the broker's proof of who it is.
fn answer(
    start: Transcript,
    client: &ClientHello<'_>,
    protection: Protection,
    identity: &Identity,
    now_unix_ms: u64,
    entropy: &mut dyn FnMut(&mut [u8]),
) -> Result<(Vec<u8>, AwaitClientFinish), HandshakeError> {
    let ephemeral = ServerEphemeral::generate(entropy);
    let mut message = ephemeral.hello(protection, now_unix_ms).encode_head();
    let t1 = start.then(&message);
    let secret = EarlySecret::new(None).agreed(&ephemeral.key.agree(&client.share)?);
    let keys = secret.server_flight(t1);
    let flight = prove(Sender::Broker, identity, &keys, t1)?;
    let t2 = t1.then(&flight);
    put_v16(&mut message, &keys.seal(&t1, flight), "flight").map_err(HandshakeError::Encode)?;
    let client_keys = secret.client_flight(t1);
    let next = AwaitClientFinish { protection, transcript: t2, secret, client_keys, client: None };
    Ok((message, next))
}

/// What is fresh in every ServerHello.
pub(super) struct ServerEphemeral {
    nonce: [u8; 16],
    pub(super) key: Ephemeral,
}

impl ServerEphemeral {
    pub(super) fn generate(entropy: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut nonce = [0; 16];
        entropy(&mut nonce);
        Self { nonce, key: Ephemeral::generate(entropy) }
    }

    pub(super) fn hello(&self, protection: Protection, now_unix_ms: u64) -> ServerHello {
        let Protection { scheme, suite, form } = protection;
        ServerHello {
            flags: form.flags(),
            scheme,
            suite,
            nonce: self.nonce,
            time_unix_ms: now_unix_ms,
            share: self.key.share(),
        }
    }
}

/// ServerHello is sent; AUTH 0x18 with a ClientFinish is due.
pub struct AwaitClientFinish {
    protection: Protection,
    transcript: Transcript,
    secret: HandshakeSecret,
    client_keys: FlightKeys,
    /// Who the client has to be, in a re-authentication.
    client: Option<Kid>,
}

impl AwaitClientFinish {
    /// Verifies the client; `client_id` is the Client Identifier its certificate must carry.
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is over then.
    pub fn handle(
        self,
        client_finish: &[u8],
        trust: &TrustAnchors,
        client_id: &str,
        now_unix_seconds: u64,
    ) -> Result<ServerAccepted, HandshakeError> {
        let finish = ClientFinish::parse(client_finish)?;
        let t2 = self.transcript;
        let expected = Expectation {
            trust,
            subject: Some(client_id),
            kid: self.client,
            now_unix_seconds: Some(now_unix_seconds),
        };
        let (flight, client) = check(Sender::Client, finish.flight, &self.client_keys, t2, &expected)?;
        let t3 = t2.then(&flight);
        Ok(ServerAccepted {
            client,
            protection: self.protection,
            is_proven: true,
            transcript: t3,
            secrets: self.secret.finish(t3),
            prefix: ServerFinish::PREFIX.into(),
        })
    }
}

/// The client is who it says; CONNACK is to be built, or AUTH in a re-authentication.
pub struct ServerAccepted {
    /// The client's certificate, which is verified.
    pub client: Certificate,
    /// What was chosen.
    pub protection: Protection,
    /// The client has shown that it is there now; otherwise its first record does (section 4.6).
    pub is_proven: bool,
    transcript: Transcript,
    secrets: ApplicationSecrets,
    /// What stands in the Authentication Data before parameters and tag.
    prefix: Vec<u8>,
}

impl ServerAccepted {
    /// A client that was accepted on the strength of its CONNECT; `prefix` is the broker's half of the handshake.
    pub(super) fn one_trip(
        client: Certificate,
        protection: Protection,
        transcript: Transcript,
        secrets: ApplicationSecrets,
        prefix: Vec<u8>,
    ) -> Self {
        Self { client, protection, is_proven: false, transcript, secrets, prefix }
    }

    /// Makes a ticket for this client, for [`ServerFinishParams::ticket`].
    ///
    /// # Errors
    /// [`HandshakeError::Encode`], which does not happen with a certificate that was parsed.
    pub fn ticket(
        &self,
        keys: &mut TicketKeys,
        now_unix_ms: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Vec<u8>, HandshakeError> {
        let fields = TicketFields {
            resumption: &self.secrets.resumption,
            scheme: self.protection.scheme,
            suite: self.protection.suite,
            client: &self.client,
        };
        keys.issue(&fields, now_unix_ms, entropy).map_err(HandshakeError::Encode)
    }

    /// Makes the Authentication Data of CONNACK or AUTH, which ends with the ServerFinish, its tag still zero.
    ///
    /// The parameters are encrypted under a key that is used once, which is why this consumes.
    ///
    /// # Errors
    /// [`HandshakeError::Encode`] when the parameters do not fit.
    pub fn server_finish(
        mut self,
        params: ServerFinishParams,
    ) -> Result<(Vec<u8>, AwaitPacket), HandshakeError> {
        let keys = FlightKeys::server_finish(&self.secrets.acknowledge);
        let plaintext = params.encode().map_err(HandshakeError::Encode)?;
        let sealed = keys.seal(&self.transcript, plaintext);
        let mut bytes = core::mem::take(&mut self.prefix);
        let finish = ServerFinish { params: &sealed, tag: [0; FINISH_TAG_LEN] };
        finish.append(&mut bytes).map_err(HandshakeError::Encode)?;
        Ok((bytes, AwaitPacket { accepted: self, keys, params }))
    }
}

/// The ServerFinish is made; the packet that carries it is to be sealed.
pub struct AwaitPacket {
    accepted: ServerAccepted,
    keys: FlightKeys,
    params: ServerFinishParams,
}

impl AwaitPacket {
    /// Fills in the tag over the whole encoded CONNACK; it is not to be changed afterwards.
    ///
    /// # Errors
    /// [`HandshakeError`] when the packet is no successful CONNACK with a ServerFinish.
    pub fn seal_connack(self, connack_packet: &mut [u8]) -> Result<Established, HandshakeError> {
        self.seal(Carrier::ConnAck, connack_packet)
    }

    /// Fills in the tag over the whole encoded AUTH that ends a re-authentication.
    ///
    /// # Errors
    /// [`HandshakeError`] when the packet is no AUTH with Reason Code 0x00 and a ServerFinish.
    pub fn seal_auth(self, auth_packet: &mut [u8]) -> Result<Established, HandshakeError> {
        self.seal(Carrier::Auth, auth_packet)
    }

    fn seal(self, carrier: Carrier, packet: &mut [u8]) -> Result<Established, HandshakeError> {
        let tag_at = locate_end(carrier, packet, FINISH_TAG_LEN)?;
        let ServerAccepted { client, protection, transcript, secrets, .. } = self.accepted;
        let tag = finish_tag(&self.keys, transcript, packet, &tag_at);
        packet[tag_at].copy_from_slice(&tag);
        Ok(Established::new(Side::Broker, protection, client, secrets, self.params))
    }
}
