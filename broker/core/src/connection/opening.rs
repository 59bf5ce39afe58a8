//! From accept to the last packet before CONNACK: CONNECT, and AUTH where a method was asked for, or the verdict on a password.
//!
//! Nothing here knows sessions: an opening ends as an [`Arrival`] that goes to the shard of its session. Invariant: an opening
//! holds at most one packet of bounded size.

use std::sync::Arc;

use veilmq_protocol::veil::channel::{AwaitClientFinish, HandshakeError, ServerAccepted, ServerStart};
use veilmq_protocol::veil::hello::{self, ChannelForm, ClientHello};
use veilmq_protocol::veil::registry::AUTHENTICATION_METHOD;
use veilmq_protocol::{
    Auth, Connect, DecodeError, Frame, Packet, PacketType, ProtocolVersion, ReasonCode, TopicName, Will,
};
use zeroize::Zeroizing;

use super::one_trip::{Offer, compact, resume};
use super::{
    Arrival, ConnectRequest, Joining, SendError, auth_packet, certificate_over_at, packet_bytes_max,
};
use crate::access::{AccessTables, CertificateFields, Credentials, Proof, User, Verdict, Voucher};
use crate::durability::Promise;
use crate::e2e::Member;
use crate::effect::BridgeErrand;
use crate::entrance::{Entrance, EntranceId};
use crate::farewell::{BrokerReason, CloseReason, Departure, PeerError};
use crate::handshakes::HalfOpen;
use crate::id::ConnectionId;
use crate::outbox::Outbox;
use crate::record::WillRecord;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::sys::is_reserved;
use crate::time::{Environment, Moment};

/// A connection before CONNACK.
pub(crate) struct Opening {
    pub(crate) connection: ConnectionId,
    pub(crate) entrance: EntranceId,
    /// What the listener offered when it was accepted.
    pub(crate) offer: Arc<Entrance>,
    pub(crate) peer: Box<str>,
    pub(crate) promise: Promise,
    /// TLS carries the connection.
    pub(crate) is_encrypted: bool,
    pub(crate) accepted_at: Moment,
    /// The bytes of a packet that has not arrived in full.
    pub(crate) partial: Vec<u8>,
    /// What waits to be written to the client.
    pub(crate) outbox: Outbox,
    /// The version that the client speaks, once it has said so.
    pub(crate) version: Option<ProtocolVersion>,
    /// The Client Identifier in force, once it is known.
    pub(crate) client_id: Option<Arc<str>>,
    /// The user that the client says it is and has a password for, right or wrong.
    pub(crate) claimed: Option<Arc<str>>,
    /// The client's Maximum Packet Size, once it has said so.
    pub(crate) packet_bytes_max: usize,
    /// The user that what carries MQTT has proved the client to be.
    pub(crate) vouched: Option<Arc<str>>,
    /// What the certificate says that the client has shown to TLS.
    pub(crate) certificate: Option<Arc<CertificateFields>>,
    /// Of a bridge of this broker: what it comes for.
    pub(crate) bridge: Option<BridgeErrand>,
    pub(super) phase: Phase,
}

pub(super) enum Phase {
    AwaitConnect,
    /// A packet was refused, or the connection moved on.
    Over,
    AwaitClientFinish(Box<HalfOpenHandshake>),
    AwaitVerdict(Box<Unverified>),
    AwaitJoin(Box<Joining>),
}

/// A client whose password is being checked.
pub(super) struct Unverified {
    request: ConnectRequest,
    user: Arc<str>,
    /// CONNECT has no user name; a password alone is to say who the client is.
    is_unnamed: bool,
}

/// A handshake that waits for the client's proof of who it is.
pub(super) struct HalfOpenHandshake {
    request: ConnectRequest,
    handshake: AwaitClientFinish,
    /// The JOIN_REQ that came with CONNECT.
    join_request: Option<Vec<u8>>,
    /// Counts it, for as long as it is half open.
    counted: HalfOpen,
}

/// What follows a packet of the opening.
pub(crate) enum Next {
    /// A reply is in the outbox; wait for the next packet.
    Continue,
    /// The client is who it says if these credentials are right; wait for the verdict.
    Verify(Box<Credentials>),
    /// Nothing is to be sent; wait for more.
    Acknowledged,
    /// The client is who it says, and asks for keys with this JOIN_REQ.
    Join(Box<Arrival>, Vec<u8>),
    /// The client is who it says; its session takes over.
    Arrive(Box<Arrival>),
}

impl Opening {
    pub(crate) fn new(
        connection: ConnectionId,
        peer: &str,
        (entrance, offer): (EntranceId, Arc<Entrance>),
        accepted_at: Moment,
    ) -> Self {
        Self {
            connection,
            entrance,
            offer,
            peer: Box::from(peer),
            promise: Promise::default(),
            is_encrypted: false,
            accepted_at,
            partial: Vec::new(),
            outbox: Outbox::default(),
            version: None,
            client_id: None,
            claimed: None,
            packet_bytes_max: usize::MAX,
            vouched: None,
            certificate: None,
            bridge: None,
            phase: Phase::AwaitConnect,
        }
    }

    /// Returns when it has to have its CONNACK.
    pub(crate) fn connect_deadline(&self) -> Moment {
        self.offer.connect_deadline(self.accepted_at)
    }

    /// Finds out the version to refuse in, from a packet that will not be read to its end.
    pub(crate) fn listen_for_version(&mut self, bytes: &[u8]) {
        self.version = self.version.or_else(|| Connect::version_of_start(bytes));
    }

    /// Tells whether nothing is known of the client yet.
    pub(crate) fn is_silent(&self) -> bool {
        self.version.is_none()
    }

    /// Tells whether a handshake is under way.
    pub(crate) fn is_half_open(&self) -> bool {
        matches!(self.phase, Phase::AwaitClientFinish(_) | Phase::AwaitJoin(_))
    }

    /// Tells whether a password is being checked. No packet is looked at meanwhile.
    pub(crate) fn awaits_verdict(&self) -> bool {
        matches!(self.phase, Phase::AwaitVerdict(_))
    }

    /// Consumes the phase with the verdict on a password; None if there is none to be checked.
    pub(crate) fn decide(
        &mut self,
        verdict: Verdict,
        access: &AccessTables,
        environment: &Environment<'_>,
    ) -> Option<Result<Box<Arrival>, CloseReason>> {
        if !self.awaits_verdict() {
            return None;
        }
        let Phase::AwaitVerdict(unverified) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return None;
        };
        let Unverified { request, user, is_unnamed } = *unverified;
        Some(match verdict {
            Verdict::Right(_) if is_unnamed => Err(access.of(self.entrance).bad_credentials().into()),
            Verdict::Right(stamp) => {
                let user = User::new(user, Proof::Password(stamp));
                Ok(self.arrival(request, Some(user), None, environment))
            }
            // Without a name nobody is anybody.
            Verdict::Vouched { user, .. } if user.is_empty() && is_unnamed => {
                Err(access.of(self.entrance).bad_credentials().into())
            }
            Verdict::Vouched { user, authority, terms } => {
                let proof_over_at = terms.due_at();
                let proof = Proof::Vouched(Box::new(Voucher { authority, terms }));
                let user = User::new(user, proof);
                let arrival = self.arrival(request, Some(user), None, environment);
                Ok(Box::new(Arrival { proof_over_at, ..*arrival }))
            }
            // [MQTT-3.1.4-2]
            Verdict::Wrong => Err(access.of(self.entrance).bad_credentials().into()),
            Verdict::Banned => Err(PeerError::Banned.into()),
            Verdict::Busy => Err(CloseReason::Broker(BrokerReason::Busy)),
        })
    }

    /// Sends a packet before CONNACK, or a CONNACK that refuses.
    pub(crate) fn send(&mut self, packet: &Packet<'_>, version: ProtocolVersion) -> Result<(), SendError> {
        // [MQTT-3.1.2-24]
        if packet.encoded_len(version)? > self.packet_bytes_max {
            return Err(SendError::TooLarge);
        }
        Ok(self.outbox.append(|tail| packet.encode(version, tail))?)
    }

    /// Consumes the phase with the next packet; `packet_bytes` is all of it, from the fixed header on.
    ///
    /// On an error the opening stays as a husk that knows how to refuse: whom, in which version.
    pub(crate) fn handle(
        &mut self,
        frame: Frame<'_>,
        packet_bytes: &[u8],
        shared: &Shared,
        environment: &mut Environment<'_>,
    ) -> Result<Next, CloseReason> {
        // The version decides the form of a refusal, so it is read even from a CONNECT that is malformed further on.
        if self.version.is_none() && frame.packet_type() == PacketType::Connect {
            self.version = version_to_answer(&frame);
        }
        // [MQTT-3.1.4-1]
        let packet = Packet::decode(frame, self.version.unwrap_or(ProtocolVersion::V5))?;
        shared.settings().check_user_properties(packet.user_property_count())?;
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        match (phase, packet) {
            (Phase::AwaitConnect, Packet::Connect(connect)) => {
                self.connect(&connect, packet_bytes, shared, environment)
            }
            // [MQTT-3.1.0-1] The first packet is CONNECT.
            (Phase::AwaitConnect, other) => Err(PeerError::NotConnect { got: other.packet_type() }.into()),
            (Phase::AwaitClientFinish(waiting), Packet::Auth(auth)) => {
                self.client_finish(*waiting, &auth, shared, environment)
            }
            (Phase::AwaitJoin(joining), Packet::Auth(auth)) => self.acknowledge_wait(joining, &auth),
            (Phase::AwaitClientFinish(_) | Phase::AwaitJoin(_), Packet::Disconnect(_)) => {
                Err(CloseReason::Departure(Departure::Disconnected))
            }
            // [MQTT-3.1.2-30] Only AUTH or DISCONNECT may follow a CONNECT with a method.
            (
                Phase::AwaitClientFinish(_) | Phase::AwaitVerdict(_) | Phase::AwaitJoin(_) | Phase::Over,
                other,
            ) => Err(PeerError::Unexpected { got: other.packet_type() }.into()),
        }
    }

    fn connect(
        &mut self,
        connect: &Connect<'_>,
        packet_bytes: &[u8],
        shared: &Shared,
        environment: &mut Environment<'_>,
    ) -> Result<Next, CloseReason> {
        let settings = shared.settings();
        self.packet_bytes_max = packet_bytes_max(connect);
        if shared.is_draining() {
            return Err(CloseReason::Broker(BrokerReason::Shutdown));
        }
        let entrance = Arc::clone(&self.offer);
        entrance.check_version(connect.version)?;
        settings.check_name("Client Identifier", connect.client_id)?;
        settings.check_name("User Name", connect.username.unwrap_or_default())?;
        let will = connect
            .will
            .as_ref()
            .map(|will| will_record(will, connect.client_id, &entrance, &settings))
            .transpose()?;
        let client_id = self.client_id(connect, &entrance, &settings, environment)?;
        self.client_id = Some(Arc::clone(&client_id));
        check_keep_alive(connect, &settings)?;
        let mut request = ConnectRequest::new(connect, client_id, (self.entrance, Arc::clone(&entrance)));
        request.will = will;
        match connect.properties.authentication_method {
            // [MQTT-4.12.0-6], [MQTT311-7.0.0-2] Without a method there is no AUTH, and none in CONNACK.
            None => self.identify(request, connect, shared, environment),
            Some(AUTHENTICATION_METHOD) if entrance.mount_point.is_none() => {
                self.authenticate(request, connect, packet_bytes, shared, environment)
            }
            // [MQTT-4.12.0-1]
            Some(_) => Err(PeerError::AuthenticationMethod.into()),
        }
    }

    /// Returns the Client Identifier in force: the client's own, one that no other session has ([MQTT-3.1.3-6]), or the user name where
    /// that takes its place.
    fn client_id(
        &self,
        connect: &Connect<'_>,
        entrance: &Entrance,
        settings: &Settings,
        environment: &mut Environment<'_>,
    ) -> Result<Arc<str>, CloseReason> {
        let own = own_client_id(connect, entrance, environment)?;
        let client_id = match entrance.user_name_is_client_id {
            false => own,
            true => match self.vouched.as_deref().or(connect.username) {
                Some(name) => Arc::from(name),
                None => return Err(PeerError::NotAuthorized("a user name is needed here").into()),
            },
        };
        // [MQTT-3.1.3-5] The configuration allows 23 bytes at least.
        if client_id.len() > settings.client_id_bytes_max {
            return Err(PeerError::ClientId("longer than this broker allows").into());
        }
        match &settings.client_id_prefix {
            Some(prefix) if !client_id.starts_with(&**prefix) => {
                Err(PeerError::NotAuthorized("the Client Identifier begins with other letters").into())
            }
            Some(_) | None => Ok(client_id),
        }
    }

    /// Finds out who a client is that asked for no authentication method: the user that what carries MQTT has proved it to be,
    /// one whose password is to be checked, or nobody in particular.
    fn identify(
        &mut self,
        request: ConnectRequest,
        connect: &Connect<'_>,
        shared: &Shared,
        environment: &Environment<'_>,
    ) -> Result<Next, CloseReason> {
        if let Some(name) = self.vouched.take() {
            let user = User::new(name, Proof::Transport);
            return Ok(Next::Arrive(self.arrival(request, Some(user), None, environment)));
        }
        if self.offer.proven_users_only {
            return Err(PeerError::Unproven.into());
        }
        let access = shared.access();
        let access = access.of(self.entrance);
        let is_unnamed =
            connect.username.is_none() && connect.password.is_some() && access.authorities_name_users;
        match connect.username {
            name if is_unnamed || name.is_some() && access.checks_users() => {
                let credentials = Credentials {
                    entrance: self.entrance,
                    peer: self.peer.clone(),
                    client_id: Arc::clone(&request.client_id),
                    user: Arc::from(name.unwrap_or_default()),
                    password: Zeroizing::new(connect.password.unwrap_or_default().to_vec()),
                    certificate: self.certificate.clone(),
                };
                let user = Arc::clone(&credentials.user);
                self.claimed = Some(Arc::clone(&user)).filter(|_| !is_unnamed);
                self.phase = Phase::AwaitVerdict(Box::new(Unverified { request, user, is_unnamed }));
                Ok(Next::Verify(Box::new(credentials)))
            }
            name if access.anonymous => {
                let user = name.map(|name| User::new(Arc::from(name), Proof::None));
                Ok(Next::Arrive(self.arrival(request, user, None, environment)))
            }
            Some(_) => Err(access.bad_credentials().into()),
            None => Err(PeerError::NotAuthorized("anonymous clients are not allowed").into()),
        }
    }

    fn arrival(
        &self,
        request: ConnectRequest,
        user: Option<User>,
        channel: Option<ServerAccepted>,
        environment: &Environment<'_>,
    ) -> Box<Arrival> {
        let over_at = |accepted: &ServerAccepted| certificate_over_at(&accepted.client, environment);
        Box::new(Arrival {
            connection: self.connection,
            peer: self.peer.clone(),
            user,
            promise: self.promise,
            is_encrypted: self.is_encrypted,
            is_protected: channel
                .as_ref()
                .is_some_and(|accepted| accepted.protection.form != ChannelForm::Plain),
            identity: channel.as_ref().map(|accepted| Member::of(&accepted.client)),
            certificate: self.certificate.clone(),
            proof_over_at: channel.as_ref().map(over_at),
            bridge: self.bridge,
            request,
            channel,
            join: None,
            join_began_at: None,
            counted: None,
            unread: Vec::new(),
            accepted_at: self.accepted_at,
        })
    }

    fn authenticate(
        &mut self,
        mut request: ConnectRequest,
        connect: &Connect<'_>,
        packet_bytes: &[u8],
        shared: &Shared,
        environment: &mut Environment<'_>,
    ) -> Result<Next, CloseReason> {
        let Some(veil) = shared.veil() else { return Err(PeerError::AuthenticationMethod.into()) };
        let Some(counted) = shared.begin_handshake(&self.peer, environment.now) else {
            return Err(CloseReason::Broker(BrokerReason::HalfOpen));
        };
        let hello = connect.properties.authentication_data.unwrap_or_default();
        let offered = ClientHello::parse(hello).map_err(HandshakeError::from)?;
        request.is_paper = veil.paper_mode(&offered).is_some();
        let policy = veil.policy_for(&offered, self.is_encrypted);
        let offer =
            Offer { connect_packet: packet_bytes, hello, client_id: &request.client_id, policy: &policy };
        let join_request = offered.join_request.filter(|_| veil.join_milliseconds > 0).map(<[u8]>::to_vec);
        let accepted = match offered.opening {
            hello::Opening::Sigma => None,
            hello::Opening::Compact { .. } => Some(compact(offer, veil, shared, environment)?),
            hello::Opening::Resume { ticket, .. } => resume(ticket, offer, shared, environment)?,
        };
        if let Some(accepted) = accepted {
            let mut arrival = self.arrival(request, None, Some(accepted), environment);
            arrival.counted = Some(counted);
            return Ok(Next::of(arrival, join_request));
        }
        let (reply, handshake) = ServerStart.handle(
            packet_bytes,
            hello,
            &veil.identity,
            &policy,
            environment.unix_ms,
            environment.entropy,
        )?;
        // [MQTT-4.12.0-2], [MQTT-4.12.0-5]; without Reason String and User Properties: [MQTT-3.15.2-2], [MQTT-3.15.2-3]
        let auth = Packet::Auth(auth_packet(ReasonCode::ContinueAuthentication, &reply));
        self.send(&auth, request.version).map_err(|_| PeerError::HANDSHAKE_UNFIT)?;
        let waiting = HalfOpenHandshake { request, handshake, join_request, counted };
        self.phase = Phase::AwaitClientFinish(Box::new(waiting));
        Ok(Next::Continue)
    }

    fn client_finish(
        &self,
        waiting: HalfOpenHandshake,
        auth: &Auth<'_>,
        shared: &Shared,
        environment: &mut Environment<'_>,
    ) -> Result<Next, CloseReason> {
        // [MQTT-4.12.0-3]
        if auth.reason != ReasonCode::ContinueAuthentication || auth.method != Some(AUTHENTICATION_METHOD) {
            return Err(PeerError::Protocol("AUTH must continue the method of CONNECT").into());
        }
        let HalfOpenHandshake { request, handshake, join_request, counted } = waiting;
        // [MQTT-4.12.0-4] A handshake that fails is refused with CONNACK.
        let finish = auth.data.unwrap_or_default();
        let accepted = shared.with_trust(|trust| {
            handshake.handle(finish, trust, &request.client_id, environment.unix_ms / 1_000)
        })?;
        let mut arrival = self.arrival(request, None, Some(accepted), environment);
        arrival.counted = Some(counted);
        Ok(Next::of(arrival, join_request))
    }
}

impl Next {
    fn of(arrival: Box<Arrival>, join_request: Option<Vec<u8>>) -> Self {
        match join_request {
            None => Self::Arrive(arrival),
            Some(request) => Self::Join(arrival, request),
        }
    }
}

/// Refuses a client that cannot be told of another Keep Alive than its own, if the broker insists on a shorter one.
fn check_keep_alive(connect: &Connect<'_>, settings: &Settings) -> Result<(), CloseReason> {
    let maximum = settings.keep_alive_seconds_max;
    let can_be_told = connect.version == ProtocolVersion::V5;
    let is_long = connect.keep_alive_seconds == 0 || connect.keep_alive_seconds > maximum;
    if settings.refuse_long_keep_alive && maximum > 0 && is_long && !can_be_told {
        return Err(PeerError::ClientId("its Keep Alive is longer than this broker allows").into());
    }
    Ok(())
}

/// Takes a Will Message over, if it could ever be published: the client should know now ([MQTT-3.1.4-2]).
fn will_record(
    will: &Will<'_>,
    client_id: &str,
    entrance: &Entrance,
    settings: &Settings,
) -> Result<Box<WillRecord>, CloseReason> {
    settings.check_name("Will Topic", will.topic.as_str())?;
    let mut record = Box::new(WillRecord::new(will));
    if let Some(mounted) = entrance.mounted_topic(will.topic)? {
        record.topic = mounted.to_string();
    }
    let topic = TopicName::new(&record.topic).map_err(|_| PeerError::MountedTopic)?;
    settings.check_levels(topic)?;
    if is_reserved(topic, (!settings.mosquitto_habits).then_some(client_id)) {
        return Err(PeerError::ReservedWill.into());
    }
    let (bytes, maximum) = (record.payload.len(), settings.payload_bytes_max);
    if bytes > maximum {
        return Err(PeerError::LargeWill { bytes, maximum }.into());
    }
    entrance.capabilities.check_will(will).map_err(PeerError::from)?;
    Ok(record)
}

/// Returns the Client Identifier of CONNECT, or assigns one.
fn own_client_id(
    connect: &Connect<'_>,
    entrance: &Entrance,
    environment: &mut Environment<'_>,
) -> Result<Arc<str>, CloseReason> {
    if !connect.client_id.is_empty() {
        return Ok(Arc::from(connect.client_id));
    }
    match connect.version {
        ProtocolVersion::V31 => Err(PeerError::ClientId("MQTT 3.1 needs one").into()),
        // [MQTT311-3.1.3-7], [MQTT311-3.1.3-8]
        ProtocolVersion::V311 if !connect.clean_start => {
            Err(PeerError::ClientId("an empty one needs Clean Session").into())
        }
        ProtocolVersion::V311 if !entrance.empty_client_id => {
            Err(PeerError::ClientId("an empty one is not taken here").into())
        }
        ProtocolVersion::V5 if !entrance.empty_client_id => Err(PeerError::EmptyClientId.into()),
        ProtocolVersion::V311 | ProtocolVersion::V5 => {
            let mut random = [0; 16];
            // [MQTT-3.2.2-16] So many random bits are no other session's.
            (environment.entropy)(&mut random);
            Ok(assigned(&entrance.assigned_prefix, u128::from_be_bytes(random)))
        }
    }
}

/// Writes a Client Identifier as Mosquitto does: a prefix, and the number in the groups of a UUID.
fn assigned(prefix: &str, random: u128) -> Arc<str> {
    let digits = format!("{random:032X}");
    let (groups, node) = digits.split_at(20);
    let (time, groups) = groups.split_at(8);
    let (middle, groups) = groups.split_at(4);
    let (version, variant) = groups.split_at(4);
    Arc::from(format!("{prefix}{time}-{middle}-{version}-{variant}-{node}"))
}

/// Returns the version to refuse in, even if what follows it is malformed.
fn version_to_answer(frame: &Frame<'_>) -> Option<ProtocolVersion> {
    match Connect::version_of(frame) {
        Ok((version, _)) => Some(version),
        // An unknown level is answered in the oldest form that has a return code for it ([MQTT-3.1.2-2], [MQTT311-3.1.2-2]).
        Err(DecodeError::UnsupportedVersion("protocol level")) => Some(ProtocolVersion::V311),
        // [MQTT-3.1.2-1], [MQTT311-3.1.2-1] Under another name nobody knows in which form.
        Err(_) => None,
    }
}
