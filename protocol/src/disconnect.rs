//! DISCONNECT (section 3.14).

use crate::{
    DecodeError, EncodeError, PacketType, ProtocolVersion, ReasonCode, UserProperties,
    property::{Property, PropertyReader, not_allowed},
    reader::Reader,
    sink::{Body, Properties, Sink},
};

/// Disconnect notification. MQTT 3 has it from the client only, and empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why the connection ends; [`ReasonCode::Success`] is a normal disconnection.
    pub reason: ReasonCode,
    /// A new session expiry in seconds, from the client.
    pub session_expiry_seconds: Option<u32>,
    /// Explains the reason to a human.
    pub reason_string: Option<&'a str>,
    /// Pairs the sender attached.
    pub user: UserProperties<'a>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
}

/// [MQTT-3.14.2-1] and table 2-6
const REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::DisconnectWithWill,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::ServerBusy,
    ReasonCode::ServerShuttingDown,
    ReasonCode::BadAuthenticationMethod,
    ReasonCode::KeepAliveTimeout,
    ReasonCode::SessionTakenOver,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::TopicNameInvalid,
    ReasonCode::ReceiveMaximumExceeded,
    ReasonCode::TopicAliasInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::MessageRateTooHigh,
    ReasonCode::QuotaExceeded,
    ReasonCode::AdministrativeAction,
    ReasonCode::PayloadFormatInvalid,
    ReasonCode::RetainNotSupported,
    ReasonCode::QosNotSupported,
    ReasonCode::UseAnotherServer,
    ReasonCode::ServerMoved,
    ReasonCode::SharedSubscriptionsNotSupported,
    ReasonCode::ConnectionRateExceeded,
    ReasonCode::MaximumConnectTime,
    ReasonCode::SubscriptionIdentifiersNotSupported,
    ReasonCode::WildcardSubscriptionsNotSupported,
];

impl<'a> Disconnect<'a> {
    /// Makes a DISCONNECT without properties.
    #[must_use]
    pub fn new(reason: ReasonCode) -> Self {
        Self { reason, ..Self::default() }
    }

    pub(crate) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut body = Reader::new(body);
        let mut packet = Self::default();
        // Reason Code and Property Length may be left out from the end (MQTT 5.0 sections 3.14.2.1, 3.14.2.2.1).
        if version.has_properties() && !body.is_empty() {
            packet.reason = body.reason_code(REASONS)?;
            if !body.is_empty() {
                packet.read_properties(&mut body)?;
            }
        }
        body.finish(PacketType::Disconnect.name())?;
        Ok(packet)
    }

    fn read_properties(&mut self, body: &mut Reader<'a>) -> Result<(), DecodeError> {
        let mut block = PropertyReader::open(body)?;
        while let Some(property) = block.next()? {
            let (field, value) = (property.name(), block.value());
            match property {
                Property::SessionExpiryInterval => self.session_expiry_seconds = Some(value.u32(field)?),
                Property::ReasonString => self.reason_string = Some(value.string(field)?),
                Property::ServerReference => self.server_reference = Some(value.string(field)?),
                other => return not_allowed(other),
            }
        }
        self.user = block.user();
        Ok(())
    }

    const fn has_properties(&self) -> bool {
        self.session_expiry_seconds.is_some()
            || self.reason_string.is_some()
            || self.server_reference.is_some()
            || !self.user.is_empty()
    }
}

impl Body for Disconnect<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        let has_properties = self.has_properties();
        if !version.has_properties() || (self.reason == ReasonCode::Success && !has_properties) {
            return Ok(());
        }
        out.u8(self.reason.value());
        if has_properties {
            out.properties(self)?;
        }
        Ok(())
    }
}

impl Properties for Disconnect<'_> {
    fn write<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        out.u32_property(Property::SessionExpiryInterval, self.session_expiry_seconds);
        out.string_property(Property::ReasonString, self.reason_string)?;
        out.string_property(Property::ServerReference, self.server_reference)?;
        self.user.write(out)
    }
}
