//! Network Connections: the phases from accept to established. Each phase is a struct that is consumed by the next packet.

mod aliases;
mod channel;
mod established;
mod joining;
mod one_trip;
mod opening;
mod wire;

use std::num::NonZeroU16;
use std::sync::Arc;

use veilmq_protocol::veil::Certificate;
use veilmq_protocol::veil::channel::ServerAccepted;
use veilmq_protocol::veil::registry::AUTHENTICATION_METHOD;
use veilmq_protocol::{Auth, BRIDGE_PROPERTY, Connect, ProtocolVersion, ReasonCode};

pub(crate) use self::channel::{Channel, Told, finish_params};
pub(crate) use self::established::Established;
pub(crate) use self::joining::{JoinOutcome, Joining};
pub(crate) use self::one_trip::Proving;
pub(crate) use self::opening::{Next, Opening};
pub(crate) use self::wire::{Fan, SendError, Wire};
use crate::access::{Asker, CertificateFields, Names, User};
use crate::durability::Promise;
use crate::e2e::Member;
use crate::effect::BridgeErrand;
use crate::entrance::{Entrance, EntranceId};
use crate::handshakes::HalfOpen;
use crate::id::ConnectionId;
use crate::record::WillRecord;
use crate::session::NEVER_EXPIRES;
use crate::time::{Environment, Moment};

/// How long a connection may outlive the certificate it was made under (VEIL-1 section 4.8).
const EXPIRED_SECONDS_MAX: u64 = 300;

/// A connection in one of its phases.
pub(crate) enum Connection {
    /// No CONNACK has been sent.
    Opening(Box<Opening>),
    /// CONNACK has been sent, and the client is to show that it is there.
    Proving(Box<Proving>),
    /// CONNACK has been sent, and the connection has its session.
    Established(Box<Established>),
}

/// What a client asked for with CONNECT, owned.
#[derive(Debug)]
pub(crate) struct ConnectRequest {
    /// The listener that it came by.
    pub(crate) entrance: EntranceId,
    /// What that one offered then.
    pub(crate) offer: Arc<Entrance>,
    pub(crate) version: ProtocolVersion,
    /// The client is a bridge of another broker.
    pub(crate) is_bridge: bool,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) client_id: Arc<str>,
    /// The broker chose the identifier and has to tell it.
    pub(crate) client_id_assigned: bool,
    pub(crate) will: Option<Box<WillRecord>>,
    pub(crate) session_expiry_seconds: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) packet_bytes_max: usize,
    /// The client takes Reason Strings in acknowledgements.
    pub(crate) problem_information: bool,
    /// The client asks for Response Information.
    pub(crate) response_information: bool,
    /// The client is a bridge that asks who this broker is.
    pub(crate) asks_who: bool,
    pub(crate) topic_alias_maximum: u16,
    /// The client asks for a mode of the paper, and gets it.
    pub(crate) is_paper: bool,
}

impl ConnectRequest {
    /// Takes over what the core needs of a CONNECT but for its Will Message; `client_id` is the one in force.
    pub(crate) fn new(
        connect: &Connect<'_>,
        client_id: Arc<str>,
        (entrance, offer): (EntranceId, Arc<Entrance>),
    ) -> Self {
        let session_expiry_seconds = match connect.version {
            ProtocolVersion::V5 => connect.properties.session_expiry_seconds.unwrap_or(0),
            // Section 3.1.2.11.2: Clean Session 0 is a session that never expires, 1 one that ends with the connection.
            ProtocolVersion::V31 | ProtocolVersion::V311 if connect.clean_start => 0,
            ProtocolVersion::V31 | ProtocolVersion::V311 => NEVER_EXPIRES,
        };
        Self {
            entrance,
            offer,
            version: connect.version,
            is_bridge: connect.bridge,
            clean_start: connect.clean_start,
            keep_alive_seconds: connect.keep_alive_seconds,
            client_id_assigned: connect.client_id.is_empty(),
            client_id,
            will: None,
            session_expiry_seconds,
            receive_maximum: connect.properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get),
            packet_bytes_max: packet_bytes_max(connect),
            problem_information: connect.properties.request_problem_information,
            response_information: connect.properties.request_response_information,
            asks_who: connect.properties.user.iter().any(|(name, _)| name == BRIDGE_PROPERTY),
            topic_alias_maximum: connect.properties.topic_alias_maximum,
            is_paper: false,
        }
    }
}

/// Returns the largest packet that the client takes.
fn packet_bytes_max(connect: &Connect<'_>) -> usize {
    let maximum = connect.properties.packet_bytes_max;
    maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum.get()).unwrap_or(usize::MAX))
}

/// Returns when a connection under this certificate has to end.
fn certificate_over_at(certificate: &Certificate, environment: &Environment<'_>) -> Moment {
    let left_seconds = certificate.not_after.saturating_sub(environment.unix_ms / 1_000);
    environment.now.plus_seconds(left_seconds.saturating_add(EXPIRED_SECONDS_MAX))
}

/// Makes the AUTH that carries a message of the handshake.
pub(crate) fn auth_packet(reason: ReasonCode, data: &[u8]) -> Auth<'_> {
    Auth { reason, method: Some(AUTHENTICATION_METHOD), data: Some(data), ..Auth::default() }
}

/// An authenticated connection on its way to the shard of its session.
pub struct Arrival {
    pub(crate) connection: ConnectionId,
    pub(crate) peer: Box<str>,
    pub(crate) promise: Promise,
    /// TLS carries the connection.
    pub(crate) is_encrypted: bool,
    /// Each PUBLISH that follows CONNACK is protected by a VEIL-1 channel, in records or by a property.
    pub(crate) is_protected: bool,
    pub(crate) request: ConnectRequest,
    /// The VEIL-1 handshake, complete but for the ServerFinish.
    pub(crate) channel: Option<ServerAccepted>,
    /// What became of the join that the client asked for with CONNECT; None if it asked for none.
    pub(crate) join: Option<JoinOutcome>,
    /// Since when the client has waited for that.
    pub(crate) join_began_at: Option<Moment>,
    /// Counts the handshake until the client has shown that it is there.
    pub(crate) counted: Option<HalfOpen>,
    /// The user that the client is; None without a user name, and with an identity.
    pub(crate) user: Option<User>,
    /// Of a bridge of this broker: what it comes for.
    pub(crate) bridge: Option<BridgeErrand>,
    /// The VEIL-1 identity of the client.
    pub(crate) identity: Option<Arc<Member>>,
    /// What the certificate says that the client has shown to TLS.
    pub(crate) certificate: Option<Arc<CertificateFields>>,
    /// When the connection has to end, for the client's certificate or token does, or what vouches for it is to be renewed.
    pub(crate) proof_over_at: Option<Moment>,
    /// Bytes that followed the last packet of the opening.
    pub(crate) unread: Vec<u8>,
    pub(crate) accepted_at: Moment,
}

impl Arrival {
    /// Returns the connection that is to move.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// Returns when it has to have its CONNACK.
    pub(crate) fn connect_deadline(&self) -> Moment {
        self.request.offer.connect_deadline(self.accepted_at)
    }

    /// Tells whether somebody else than the client says who it is.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.identity.is_some() || self.user.as_ref().is_some_and(User::is_proven)
    }

    /// Returns the name by which rules know the client; that of a certificate is its Client Identifier.
    pub(crate) fn user_name(&self) -> Option<&str> {
        match (&self.user, &self.identity) {
            (_, Some(_)) => Some(&self.request.client_id),
            (user, None) => user.as_ref().map(|user| &*user.name),
        }
    }

    /// Returns the client as rules know it.
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker {
            names: Names {
                user: self.user_name(),
                client_id: &self.request.client_id,
                certificate: self.certificate.as_deref(),
            },
            rules: self.user.as_ref().and_then(User::rules),
        }
    }
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrival")
            .field("connection", &self.connection)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
