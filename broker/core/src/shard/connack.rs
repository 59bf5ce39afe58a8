//! What CONNACK says: the capabilities in force for this client, and the ServerFinish of a VEIL-1 channel.

use std::num::{NonZeroU16, NonZeroU32};

use veilmq_protocol::veil::channel::{AwaitPacket, ServerAccepted};
use veilmq_protocol::veil::hello::ChannelForm;
use veilmq_protocol::veil::registry::{AUTHENTICATION_METHOD, Scheme};
use veilmq_protocol::{
    BROKER_PROPERTY, ConnAck, ConnAckProperties, Packet, ProtocolVersion, ReasonCode, UserProperties,
    UserPropertiesBuf,
};

use super::Shard;
use crate::connection::{Channel, ConnectRequest, Fan, Told, Wire, finish_params};
use crate::farewell::{CloseReason, PeerError};
use crate::time::Environment;

impl Shard {
    /// Writes CONNACK, with the ServerFinish of a channel in it, and returns the channel's receiving half, if it has records.
    pub(super) fn write_connack(
        &self,
        request: &ConnectRequest,
        channel: Option<ServerAccepted>,
        present: bool,
        told: Told,
        mut wire: Wire,
        environment: &mut Environment<'_>,
    ) -> Result<(Wire, Option<Box<Channel>>), CloseReason> {
        let protection = channel.as_ref().map(|accepted| accepted.protection);
        let form = protection.map_or(ChannelForm::Plain, |protection| protection.form);
        let finish =
            channel.map(|accepted| self.server_finish(accepted, request, told, environment)).transpose()?;
        let response_information = self.response_information(request);
        let introduction = self.introduction(request);
        let properties = match request.version {
            ProtocolVersion::V5 => ConnAckProperties {
                response_information: response_information.as_deref(),
                user: introduction.as_user_properties(),
                authentication_method: finish.as_ref().map(|_| AUTHENTICATION_METHOD),
                authentication_data: finish.as_ref().map(|(bytes, _)| bytes.as_slice()),
                ..self.capabilities(request, form)
            },
            ProtocolVersion::V31 | ProtocolVersion::V311 => ConnAckProperties::default(),
        };
        let connack = ConnAck { session_present: present, reason: ReasonCode::Success, properties };
        let mut bytes = Vec::new();
        Packet::ConnAck(fitting(connack, request))
            .encode(request.version, &mut bytes)
            .map_err(|error| PeerError::ConnAck(error.into()))?;
        let Some((_, sealing)) = finish else {
            wire.send_opening(&bytes).map_err(PeerError::ConnAck)?;
            return Ok((wire, None));
        };
        let channel = sealing.seal_connack(&mut bytes)?;
        wire.send_opening(&bytes).map_err(PeerError::ConnAck)?;
        match form {
            ChannelForm::Plain => return Ok((wire, None)),
            ChannelForm::Property => {
                let kid = channel.peer.kid();
                if let Some(channel) = channel.into_property_mode() {
                    wire.protect(channel, kid);
                }
                return Ok((wire, None));
            }
            ChannelForm::Records => {}
        }
        let (sealer, opener, predecessor) = channel.into_parts();
        let group = protection.and_then(|protection| self.group_of(protection, request.is_paper));
        let fan = match (group, protection.map(|protection| protection.scheme)) {
            (Some(kind), _) => Fan::Group(kind),
            (None, Some(Scheme::Four)) => Fan::Digest,
            (None, Some(Scheme::One | Scheme::Two | Scheme::Three) | None) => Fan::Alone,
        };
        wire.secure(sealer, fan, environment.now);
        Ok((wire, Some(Box::new(Channel::new(opener, predecessor, &self.shared, environment)))))
    }

    fn server_finish(
        &self,
        accepted: ServerAccepted,
        request: &ConnectRequest,
        told: Told,
        environment: &mut Environment<'_>,
    ) -> Result<(Vec<u8>, AwaitPacket), CloseReason> {
        let params =
            finish_params(&accepted, told, request.offer.packet_bytes_max, &self.shared, environment)?;
        Ok(accepted.server_finish(params)?)
    }

    /// Returns the Response Information for a client that asks for it ([MQTT-3.1.2-28]).
    fn response_information(&self, request: &ConnectRequest) -> Option<String> {
        let template = self.settings.response_information.as_deref();
        let template = template.filter(|_| request.response_information)?;
        Some(template.replace("%c", &request.client_id))
    }

    /// Returns who this broker is, for a bridge that asks.
    fn introduction(&self, request: &ConnectRequest) -> UserPropertiesBuf {
        let mut user = UserPropertiesBuf::new();
        if let Some(id) = self.settings.broker_id.as_deref().filter(|_| request.asks_who) {
            // It is as short as it is printable.
            let _ = user.push(BROKER_PROPERTY, id);
        }
        user
    }

    fn capabilities<'a>(&self, request: &'a ConnectRequest, form: ChannelForm) -> ConnAckProperties<'a> {
        let entrance = &request.offer;
        // Nothing would authenticate what an alias stands for (VEIL-1 section 5.3).
        let aliases = if form == ChannelForm::Property { 0 } else { entrance.topic_alias_maximum };
        let expiry_seconds = self.session_expiry_seconds(request);
        let keep_alive = self.keep_alive_seconds(request);
        let mut properties = ConnAckProperties {
            session_expiry_seconds: (expiry_seconds != request.session_expiry_seconds)
                .then_some(expiry_seconds),
            receive_maximum: NonZeroU16::new(entrance.receive_maximum)
                .filter(|maximum| *maximum != NonZeroU16::MAX),
            packet_bytes_max: u32::try_from(entrance.packet_bytes_max).ok().and_then(NonZeroU32::new),
            // [MQTT-3.1.3-7]
            assigned_client_id: request.client_id_assigned.then_some(&*request.client_id),
            topic_alias_maximum: (aliases > 0).then_some(aliases),
            server_keep_alive_seconds: (keep_alive != request.keep_alive_seconds).then_some(keep_alive),
            ..ConnAckProperties::default()
        };
        entrance.capabilities.announce(&mut properties);
        properties
    }

    /// Returns the session expiry interval in force: the client's, within the broker's limit.
    pub(super) fn session_expiry_seconds(&self, request: &ConnectRequest) -> u32 {
        request.session_expiry_seconds.min(self.settings.session_expiry_seconds_max)
    }

    /// Returns the keep alive in force: the client's, within the broker's limit ([MQTT-3.2.2-21]).
    pub(super) fn keep_alive_seconds(&self, request: &ConnectRequest) -> u16 {
        match self.settings.keep_alive_seconds_max {
            // Only MQTT 5 can be told of another keep alive.
            maximum if maximum > 0 && request.version == ProtocolVersion::V5 => {
                match request.keep_alive_seconds {
                    0 => maximum,
                    asked => asked.min(maximum),
                }
            }
            // [MQTT-3.2.2-22]
            _ => request.keep_alive_seconds,
        }
    }
}

/// Leaves the Response Information out if CONNACK would exceed the client's Maximum Packet Size with it.
fn fitting<'a>(connack: ConnAck<'a>, request: &ConnectRequest) -> ConnAck<'a> {
    let bytes = Packet::ConnAck(connack).encoded_len(request.version);
    if bytes.is_ok_and(|bytes| bytes <= request.packet_bytes_max) {
        return connack;
    }
    // [MQTT-3.2.2-20]
    let user = UserProperties::default();
    let properties = ConnAckProperties { response_information: None, user, ..connack.properties };
    ConnAck { properties, ..connack }
}
