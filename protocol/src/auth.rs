//! AUTH, the packet of enhanced authentication (MQTT 5.0 section 3.15).

use core::fmt;

use crate::{
    DecodeError, EncodeError, PacketType, ProtocolVersion, ReasonCode, UserProperties,
    property::{Property, PropertyReader, not_allowed},
    reader::Reader,
    sink::{Body, Properties, Sink},
};

/// Authentication exchange.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// The method; absent only in the empty packet that means success.
    pub method: Option<&'a str>,
    /// The method's message.
    pub data: Option<&'a [u8]>,
    /// Explains the reason to a human.
    pub reason_string: Option<&'a str>,
    /// Pairs the sender attached.
    pub user: UserProperties<'a>,
}

/// [MQTT-3.15.2-1]
const REASONS: &[ReasonCode] =
    &[ReasonCode::Success, ReasonCode::ContinueAuthentication, ReasonCode::ReAuthenticate];

impl<'a> Auth<'a> {
    pub(crate) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        if !version.has_properties() {
            return Err(DecodeError::Reserved("packet type"));
        }
        let mut packet = Self::default();
        if body.is_empty() {
            return Ok(packet);
        }
        let mut body = Reader::new(body);
        packet.reason = body.reason_code(REASONS)?;
        packet.read_properties(&mut body)?;
        body.finish(PacketType::Auth.name())?;
        Ok(packet)
    }

    fn read_properties(&mut self, body: &mut Reader<'a>) -> Result<(), DecodeError> {
        let mut block = PropertyReader::open(body)?;
        while let Some(property) = block.next()? {
            let (field, value) = (property.name(), block.value());
            match property {
                Property::AuthenticationMethod => self.method = Some(value.string(field)?),
                Property::AuthenticationData => self.data = Some(value.binary(field)?),
                Property::ReasonString => self.reason_string = Some(value.string(field)?),
                other => return not_allowed(other),
            }
        }
        self.user = block.user();
        // MQTT 5.0 section 3.15.2.2.2
        if self.method.is_none() {
            Err(DecodeError::Missing(Property::AuthenticationMethod.name()))
        } else {
            Ok(())
        }
    }
}

impl Body for Auth<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        if !version.has_properties() {
            return Err(EncodeError::NotInVersion(PacketType::Auth.name()));
        }
        if *self == Self::default() {
            return Ok(());
        }
        out.u8(self.reason.value());
        out.properties(self)
    }
}

impl Properties for Auth<'_> {
    fn write<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        if self.method.is_none() {
            return Err(EncodeError::Missing(Property::AuthenticationMethod.name()));
        }
        out.string_property(Property::AuthenticationMethod, self.method)?;
        out.binary_property(Property::AuthenticationData, self.data)?;
        out.string_property(Property::ReasonString, self.reason_string)?;
        self.user.write(out)
    }
}

impl fmt::Debug for Auth<'_> {
    /// Shows only the length of the Authentication Data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("reason", &self.reason)
            .field("method", &self.method)
            .field("data_len", &self.data.map(<[u8]>::len))
            .field("reason_string", &self.reason_string)
            .field("user", &self.user)
            .finish()
    }
}
