//! CONNACK (section 3.2).

use core::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
};

use crate::{
    DecodeError, EncodeError, PacketType, ProtocolVersion, QoS, ReasonCode, UserProperties,
    property::{Property, PropertyReader, not_allowed},
    reader::Reader,
    sink::{Body, Properties, Sink},
};

/// Connect acknowledgment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Says that the server held state of this session; never with a failure, and not in MQTT 3.1.
    pub session_present: bool,
    /// The outcome; written to MQTT 3 as [`ReasonCode::connack_v3`].
    pub reason: ReasonCode,
    /// The properties; ignored when writing MQTT 3.
    pub properties: ConnAckProperties<'a>,
}

/// What a server grants and limits (MQTT 5.0 section 3.2.2.3); absent properties have the standard's default.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnAckProperties<'a> {
    /// The session expiry in force, in seconds, if it is not the one asked for.
    pub session_expiry_seconds: Option<u32>,
    /// How many QoS 1 and 2 messages the server takes unacknowledged; absent means 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The highest QoS served; absent means 2, which is never written.
    pub maximum_qos: Option<QoS>,
    /// Says whether retained messages are served; absent means yes.
    pub retain_available: Option<bool>,
    /// The largest packet the server takes, in bytes; absent means no limit.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The Client Identifier given to a client that sent none.
    pub assigned_client_id: Option<&'a str>,
    /// The highest Topic Alias the server takes; absent means 0.
    pub topic_alias_maximum: Option<u16>,
    /// Explains the outcome to a human.
    pub reason_string: Option<&'a str>,
    /// Says whether wildcard subscriptions are served; absent means yes.
    pub wildcard_subscription_available: Option<bool>,
    /// Says whether Subscription Identifiers are served; absent means yes.
    pub subscription_ids_available: Option<bool>,
    /// Says whether Shared Subscriptions are served; absent means yes.
    pub shared_subscription_available: Option<bool>,
    /// Overrides the client's Keep Alive, in seconds.
    pub server_keep_alive_seconds: Option<u16>,
    /// A basis for response topics.
    pub response_information: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// The method of enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// The method's last message.
    pub authentication_data: Option<&'a [u8]>,
    /// Pairs the server attached.
    pub user: UserProperties<'a>,
}

/// [MQTT-3.2.2-8]
const REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::UnsupportedProtocolVersion,
    ReasonCode::ClientIdentifierNotValid,
    ReasonCode::BadUserNameOrPassword,
    ReasonCode::NotAuthorized,
    ReasonCode::ServerUnavailable,
    ReasonCode::ServerBusy,
    ReasonCode::Banned,
    ReasonCode::BadAuthenticationMethod,
    ReasonCode::TopicNameInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::QuotaExceeded,
    ReasonCode::PayloadFormatInvalid,
    ReasonCode::RetainNotSupported,
    ReasonCode::QosNotSupported,
    ReasonCode::UseAnotherServer,
    ReasonCode::ServerMoved,
    ReasonCode::ConnectionRateExceeded,
];

impl<'a> ConnAck<'a> {
    pub(crate) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut body = Reader::new(body);
        let session_present = read_flags(&mut body, version)?;
        let (reason, properties) = if version.has_properties() {
            let reason = body.reason_code(REASONS)?;
            (reason, ConnAckProperties::decode(&mut body)?)
        } else {
            let code = body.u8("return code")?;
            let reason = ReasonCode::from_connack_v3(code).ok_or(DecodeError::NotAllowed("return code"))?;
            (reason, ConnAckProperties::default())
        };
        body.finish(PacketType::ConnAck.name())?;
        // [MQTT-3.2.2-6]
        if session_present && reason != ReasonCode::Success {
            return Err(DecodeError::NotAllowed("Session Present"));
        }
        Ok(Self { session_present, reason, properties })
    }
}

fn read_flags(body: &mut Reader<'_>, version: ProtocolVersion) -> Result<bool, DecodeError> {
    match (body.u8("Connect Acknowledge Flags")?, version) {
        // MQTT 3.1 does not use this byte.
        (_, ProtocolVersion::V31) | (0, _) => Ok(false),
        (1, _) => Ok(true),
        // [MQTT-3.2.2-1]
        _ => Err(DecodeError::Reserved("Connect Acknowledge Flags")),
    }
}

impl Body for ConnAck<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        // [MQTT-3.2.2-6]
        let session_present =
            self.session_present && self.reason == ReasonCode::Success && version != ProtocolVersion::V31;
        out.u8(u8::from(session_present));
        if version.has_properties() {
            out.u8(self.reason.value());
            out.properties(&self.properties)
        } else {
            out.u8(self.reason.connack_v3());
            Ok(())
        }
    }
}

impl<'a> ConnAckProperties<'a> {
    fn decode(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        let mut block = PropertyReader::open(body)?;
        while let Some(property) = block.next()? {
            properties.read(property, block.value())?;
        }
        properties.user = block.user();
        Ok(properties)
    }

    fn read(&mut self, property: Property, value: &mut Reader<'a>) -> Result<(), DecodeError> {
        let field = property.name();
        match property {
            Property::SessionExpiryInterval => self.session_expiry_seconds = Some(value.u32(field)?),
            Property::ReceiveMaximum => self.receive_maximum = Some(value.non_zero_u16(field)?),
            Property::MaximumQos => {
                let below_two = value.flag(field)?;
                self.maximum_qos = Some(if below_two { QoS::AtLeastOnce } else { QoS::AtMostOnce });
            }
            Property::RetainAvailable => self.retain_available = Some(value.flag(field)?),
            Property::MaximumPacketSize => self.packet_bytes_max = Some(value.non_zero_u32(field)?),
            Property::AssignedClientIdentifier => self.assigned_client_id = Some(value.string(field)?),
            Property::TopicAliasMaximum => self.topic_alias_maximum = Some(value.u16(field)?),
            Property::ReasonString => self.reason_string = Some(value.string(field)?),
            Property::WildcardSubscriptionAvailable => {
                self.wildcard_subscription_available = Some(value.flag(field)?);
            }
            Property::SubscriptionIdentifierAvailable => {
                self.subscription_ids_available = Some(value.flag(field)?);
            }
            Property::SharedSubscriptionAvailable => {
                self.shared_subscription_available = Some(value.flag(field)?);
            }
            Property::ServerKeepAlive => self.server_keep_alive_seconds = Some(value.u16(field)?),
            Property::ResponseInformation => self.response_information = Some(value.string(field)?),
            Property::ServerReference => self.server_reference = Some(value.string(field)?),
            Property::AuthenticationMethod => self.authentication_method = Some(value.string(field)?),
            Property::AuthenticationData => self.authentication_data = Some(value.binary(field)?),
            other => return not_allowed(other),
        }
        Ok(())
    }
}

impl Properties for ConnAckProperties<'_> {
    fn write<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        // MQTT 5.0 section 3.2.2.3.4: the value 2 is expressed by absence.
        let maximum_qos = self.maximum_qos.filter(|&qos| qos != QoS::ExactlyOnce);
        // The order has no meaning, so it is Mosquitto's: whoever compares bytes finds the same.
        out.u16_property(Property::ServerKeepAlive, self.server_keep_alive_seconds);
        out.u16_property(Property::TopicAliasMaximum, self.topic_alias_maximum);
        out.u32_property(Property::SessionExpiryInterval, self.session_expiry_seconds);
        out.string_property(Property::AssignedClientIdentifier, self.assigned_client_id)?;
        out.flag_property(Property::RetainAvailable, self.retain_available);
        out.u32_property(Property::MaximumPacketSize, self.packet_bytes_max.map(NonZeroU32::get));
        out.u16_property(Property::ReceiveMaximum, self.receive_maximum.map(NonZeroU16::get));
        out.u8_property(Property::MaximumQos, maximum_qos.map(QoS::value));
        out.string_property(Property::ReasonString, self.reason_string)?;
        out.flag_property(Property::WildcardSubscriptionAvailable, self.wildcard_subscription_available);
        out.flag_property(Property::SubscriptionIdentifierAvailable, self.subscription_ids_available);
        out.flag_property(Property::SharedSubscriptionAvailable, self.shared_subscription_available);
        out.string_property(Property::ResponseInformation, self.response_information)?;
        out.string_property(Property::ServerReference, self.server_reference)?;
        out.string_property(Property::AuthenticationMethod, self.authentication_method)?;
        out.binary_property(Property::AuthenticationData, self.authentication_data)?;
        self.user.write(out)
    }
}

impl fmt::Debug for ConnAckProperties<'_> {
    /// Shows only the length of the Authentication Data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnAckProperties")
            .field("session_expiry_seconds", &self.session_expiry_seconds)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_qos", &self.maximum_qos)
            .field("retain_available", &self.retain_available)
            .field("packet_bytes_max", &self.packet_bytes_max)
            .field("assigned_client_id", &self.assigned_client_id)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("reason_string", &self.reason_string)
            .field("wildcard_subscription_available", &self.wildcard_subscription_available)
            .field("subscription_ids_available", &self.subscription_ids_available)
            .field("shared_subscription_available", &self.shared_subscription_available)
            .field("server_keep_alive_seconds", &self.server_keep_alive_seconds)
            .field("response_information", &self.response_information)
            .field("server_reference", &self.server_reference)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data_len", &self.authentication_data.map(<[u8]>::len))
            .field("user", &self.user)
            .finish()
    }
}
