//! The properties of CONNECT (MQTT 5.0 section 3.1.2.11).

use core::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
};

use crate::{
    DecodeError, EncodeError, UserProperties,
    property::{Property, PropertyReader, not_allowed},
    reader::Reader,
    sink::{Properties, Sink},
};

/// What a client asks for and offers in CONNECT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// How long the session outlives the connection, in seconds; absent means 0, `u32::MAX` means for ever.
    pub session_expiry_seconds: Option<u32>,
    /// How many QoS 1 and 2 messages the client takes unacknowledged; absent means 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The largest packet the client takes, in bytes; absent means no limit.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The highest Topic Alias the client takes; 0 (the default) means none.
    pub topic_alias_maximum: u16,
    /// Asks for Response Information in CONNACK; off by default.
    pub request_response_information: bool,
    /// Allows Reason String and User Properties on every packet; on by default.
    pub request_problem_information: bool,
    /// Names the method of enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// The method's first message; only with a method.
    pub authentication_data: Option<&'a [u8]>,
    /// Pairs the client attached.
    pub user: UserProperties<'a>,
}

impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        Self {
            session_expiry_seconds: None,
            receive_maximum: None,
            packet_bytes_max: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
            user: UserProperties::default(),
        }
    }
}

impl<'a> ConnectProperties<'a> {
    pub(crate) fn decode(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        let mut block = PropertyReader::open(body)?;
        while let Some(property) = block.next()? {
            properties.read(property, block.value())?;
        }
        properties.user = block.user();
        // MQTT 5.0 section 3.1.2.11.10
        if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
            return Err(DecodeError::Missing(Property::AuthenticationMethod.name()));
        }
        Ok(properties)
    }

    fn read(&mut self, property: Property, value: &mut Reader<'a>) -> Result<(), DecodeError> {
        let field = property.name();
        match property {
            Property::SessionExpiryInterval => self.session_expiry_seconds = Some(value.u32(field)?),
            Property::ReceiveMaximum => self.receive_maximum = Some(value.non_zero_u16(field)?),
            Property::MaximumPacketSize => self.packet_bytes_max = Some(value.non_zero_u32(field)?),
            Property::TopicAliasMaximum => self.topic_alias_maximum = value.u16(field)?,
            Property::RequestResponseInformation => self.request_response_information = value.flag(field)?,
            Property::RequestProblemInformation => self.request_problem_information = value.flag(field)?,
            Property::AuthenticationMethod => self.authentication_method = Some(value.string(field)?),
            Property::AuthenticationData => self.authentication_data = Some(value.binary(field)?),
            other => return not_allowed(other),
        }
        Ok(())
    }
}

impl Properties for ConnectProperties<'_> {
    fn write<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        let Self { topic_alias_maximum, request_response_information, request_problem_information, .. } =
            *self;
        // The order has no meaning, so it is that of Mosquitto's bridges: whoever compares bytes finds the same.
        out.u16_property(
            Property::TopicAliasMaximum,
            (topic_alias_maximum > 0).then_some(topic_alias_maximum),
        );
        out.u32_property(Property::SessionExpiryInterval, self.session_expiry_seconds);
        out.u16_property(Property::ReceiveMaximum, self.receive_maximum.map(NonZeroU16::get));
        out.u32_property(Property::MaximumPacketSize, self.packet_bytes_max.map(NonZeroU32::get));
        out.flag_property(
            Property::RequestResponseInformation,
            request_response_information.then_some(request_response_information),
        );
        out.flag_property(
            Property::RequestProblemInformation,
            (!request_problem_information).then_some(request_problem_information),
        );
        out.string_property(Property::AuthenticationMethod, self.authentication_method)?;
        out.binary_property(Property::AuthenticationData, self.authentication_data)?;
        self.user.write(out)
    }
}

impl fmt::Debug for ConnectProperties<'_> {
    /// Shows only the length of the Authentication Data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectProperties")
            .field("session_expiry_seconds", &self.session_expiry_seconds)
            .field("receive_maximum", &self.receive_maximum)
            .field("packet_bytes_max", &self.packet_bytes_max)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("request_response_information", &self.request_response_information)
            .field("request_problem_information", &self.request_problem_information)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data_len", &self.authentication_data.map(<[u8]>::len))
            .field("user", &self.user)
            .finish()
    }
}
