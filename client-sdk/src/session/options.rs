//! What a session is configured with.

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
};

use veilmq_protocol::{
    Connect, ConnectProperties, EncodeError, Packet, ProtocolVersion, TopicName,
    veil::{
        Kid, Scheme, Schemes, Suite,
        channel::{Identity, TrustAnchors},
        registry::AUTHENTICATION_METHOD,
    },
};
use zeroize::Zeroizing;

use crate::message::{Will, encode_pairs};

/// How the client introduces itself and what it accepts.
pub struct SessionOptions {
    /// The Client Identifier; empty asks the server to choose one.
    pub client_id: String,
    /// Discards an earlier session at the first connection; later ones always resume.
    pub clean_start: bool,
    /// How long the session outlives a connection, in seconds; `u32::MAX` means for ever.
    pub session_expiry_seconds: u32,
    /// The longest silence of the client in seconds; 0 turns the check off.
    pub keep_alive_seconds: u16,
    /// How many QoS 1 and 2 messages may be on their way to the client at a time.
    pub receive_maximum: NonZeroU16,
    /// The largest packet accepted, in bytes.
    pub packet_bytes_max: NonZeroU32,
    /// How many Topic Aliases the server may use; 0 refuses them.
    pub topic_alias_maximum: u16,
    /// The user name.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Zeroizing<Vec<u8>>>,
    /// User Properties of CONNECT.
    pub user_properties: Vec<(String, String)>,
    /// How long CONNACK, PINGRESP, SUBACK and UNSUBACK may take each, in milliseconds.
    pub answer_ms: u64,
    /// How many publications may wait for the connection or for the server's receive maximum.
    pub queued_max: usize,
    /// Asks for a VEIL-1 channel.
    pub channel: Option<ChannelOptions>,
}

impl SessionOptions {
    /// Defaults: clean start, expiry 300 s, keep alive 60 s, receive maximum 64, packets to 16 MiB, 16 aliases.
    pub fn new(client_id: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            clean_start: true,
            session_expiry_seconds: 300,
            keep_alive_seconds: 60,
            receive_maximum: NonZeroU16::MIN.saturating_add(63),
            packet_bytes_max: NonZeroU32::MIN.saturating_add((16 << 20) - 1),
            topic_alias_maximum: 16,
            username: None,
            password: None,
            user_properties: Vec::new(),
            answer_ms: 10_000,
            queued_max: 256,
            channel: None,
        }
    }

    /// The CONNECT packet; `hello` is the Authentication Data of a VEIL-1 channel.
    pub(super) fn connect_packet(
        &self,
        clean_start: bool,
        will: Option<&Will>,
        hello: Option<&[u8]>,
    ) -> Result<Vec<u8>, EncodeError> {
        let user = encode_pairs(&self.user_properties)?;
        let will_user = will.map(|will| encode_pairs(&will.publication.properties.user)).transpose()?;
        let packet = Packet::Connect(Connect {
            version: ProtocolVersion::V5,
            bridge: false,
            clean_start,
            keep_alive_seconds: self.keep_alive_seconds,
            client_id: &self.client_id,
            username: self.username.as_deref(),
            password: self.password.as_ref().map(|password| password.as_slice()),
            will: match (will, &will_user) {
                (Some(will), Some(user)) => Some(connect_will(will, user)?),
                _ => None,
            },
            properties: ConnectProperties {
                session_expiry_seconds: (self.session_expiry_seconds > 0)
                    .then_some(self.session_expiry_seconds),
                receive_maximum: Some(self.receive_maximum),
                packet_bytes_max: Some(self.packet_bytes_max),
                topic_alias_maximum: self.topic_alias_maximum,
                authentication_method: hello.map(|_| AUTHENTICATION_METHOD),
                authentication_data: hello,
                user: user.as_user_properties(),
                ..ConnectProperties::default()
            },
        });
        let mut bytes = Vec::new();
        packet.encode(ProtocolVersion::V5, &mut bytes)?;
        Ok(bytes)
    }
}

fn connect_will<'a>(
    will: &'a Will,
    user: &'a veilmq_protocol::UserPropertiesBuf,
) -> Result<veilmq_protocol::Will<'a>, EncodeError> {
    let message = &will.publication;
    Ok(veilmq_protocol::Will {
        qos: message.qos,
        retain: message.retain,
        topic: TopicName::new(&message.topic).map_err(|_| EncodeError::OutOfRange("Will Topic"))?,
        payload: &message.payload,
        delay_seconds: will.delay_seconds,
        properties: message.properties.borrow(user)?,
    })
}

/// The mode of a handshake without a ticket (VEIL-1 section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handshake {
    /// Two round trips; hides who the client is, and needs no clock.
    #[default]
    Sigma,
    /// One round trip and no AUTH packet: needs a clock and the name of the broker, and shows the certificate to the network.
    Compact,
}

/// Who the client is on a VEIL-1 channel, and whom it believes.
#[derive(Clone)]
pub struct ChannelOptions {
    /// The client's certificate and keys; its subject must be the Client Identifier.
    pub identity: Arc<Identity>,
    /// The authorities that vouch for brokers, or the pinned certificate of the broker.
    pub trust: Arc<TrustAnchors>,
    /// The name the broker's certificate must carry, if it is known.
    pub broker: Option<String>,
    /// Accepted suites in order of preference.
    pub suites: Vec<Suite>,
    /// Accepted schemes: 4 protects the integrity of every packet, 2 encrypts them as well.
    pub schemes: Schemes,
    /// How the first packet proves who the client is.
    pub handshake: Handshake,
    /// Whether to come back with the ticket of the last connection, which saves a round trip and both signatures.
    pub resume: bool,
    /// Whether to take messages that only a group key authenticates, which any other member can forge (VEIL-1 section 6.3).
    pub weak_groups: bool,
    /// Age at which the sending keys are renewed, in milliseconds.
    pub rekey_ms: u64,
}

impl ChannelOptions {
    /// Defaults: any broker `trust` vouches for, every suite, Schemes 4 and 2, new keys every hour.
    pub fn new(identity: Arc<Identity>, trust: Arc<TrustAnchors>) -> Self {
        Self {
            identity,
            trust,
            broker: None,
            suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305, Suite::Aes256CbcHmacSha256],
            schemes: Schemes::of(&[Scheme::Two, Scheme::Four]),
            handshake: Handshake::Sigma,
            resume: true,
            weak_groups: false,
            rekey_ms: 3_600_000,
        }
    }

    /// A hint for a broker that has several certificates.
    pub(super) fn anchor(&self) -> Kid {
        let first = self.trust.iter().next();
        first.map_or(Kid::from_bytes([0; Kid::LEN]), veilmq_protocol::veil::Certificate::kid)
    }
}
