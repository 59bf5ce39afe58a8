//! The properties of MQTT 5.0 (section 2.2.2): identifiers, names, value types, and the walk over a block of them.

use crate::{DecodeError, UserProperties, reader::Reader};

macro_rules! properties {
    ($($name:ident = $id:literal, $kind:ident, $words:literal;)*) => {
        /// One property of table 2-4.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Property {
            $($name = $id,)*
        }

        impl Property {
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Tells whether a server passes it on unchanged with a message.
            pub(crate) const fn is_application(self) -> bool {
                matches!(
                    self,
                    Self::PayloadFormatIndicator
                        | Self::ContentType
                        | Self::ResponseTopic
                        | Self::CorrelationData
                        | Self::User
                )
            }

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }

            const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }

            const fn from_id(id: u8) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

/// The shape of a property's value.
#[derive(Clone, Copy)]
enum Kind {
    Byte,
    TwoBytes,
    FourBytes,
    VariableByteInteger,
    /// A UTF-8 Encoded String or Binary Data: alike but for what the bytes may be.
    Prefixed,
    StringPair,
}

properties! {
    PayloadFormatIndicator = 0x01, Byte, "Payload Format Indicator";
    MessageExpiryInterval = 0x02, FourBytes, "Message Expiry Interval";
    ContentType = 0x03, Prefixed, "Content Type";
    ResponseTopic = 0x08, Prefixed, "Response Topic";
    CorrelationData = 0x09, Prefixed, "Correlation Data";
    SubscriptionIdentifier = 0x0B, VariableByteInteger, "Subscription Identifier";
    SessionExpiryInterval = 0x11, FourBytes, "Session Expiry Interval";
    AssignedClientIdentifier = 0x12, Prefixed, "Assigned Client Identifier";
    ServerKeepAlive = 0x13, TwoBytes, "Server Keep Alive";
    AuthenticationMethod = 0x15, Prefixed, "Authentication Method";
    AuthenticationData = 0x16, Prefixed, "Authentication Data";
    RequestProblemInformation = 0x17, Byte, "Request Problem Information";
    WillDelayInterval = 0x18, FourBytes, "Will Delay Interval";
    RequestResponseInformation = 0x19, Byte, "Request Response Information";
    ResponseInformation = 0x1A, Prefixed, "Response Information";
    ServerReference = 0x1C, Prefixed, "Server Reference";
    ReasonString = 0x1F, Prefixed, "Reason String";
    ReceiveMaximum = 0x21, TwoBytes, "Receive Maximum";
    TopicAliasMaximum = 0x22, TwoBytes, "Topic Alias Maximum";
    TopicAlias = 0x23, TwoBytes, "Topic Alias";
    MaximumQos = 0x24, Byte, "Maximum QoS";
    RetainAvailable = 0x25, Byte, "Retain Available";
    User = 0x26, StringPair, "User Property";
    MaximumPacketSize = 0x27, FourBytes, "Maximum Packet Size";
    WildcardSubscriptionAvailable = 0x28, Byte, "Wildcard Subscription Available";
    SubscriptionIdentifierAvailable = 0x29, Byte, "Subscription Identifier Available";
    SharedSubscriptionAvailable = 0x2A, Byte, "Shared Subscription Available";
}

impl Property {
    pub(crate) const fn id(self) -> u8 {
        self as u8
    }

    /// Reads an identifier. Every one is below 0x80, so its Variable Byte Integer is one byte.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = reader.u8("property identifier")?;
        Self::from_id(id).ok_or(DecodeError::PropertyNotAllowed("unknown property"))
    }

    /// Passes over the value that follows the identifier.
    pub(crate) fn skip(self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let field = self.name();
        match self.kind() {
            Kind::Byte => reader.take(1, field).map(drop),
            Kind::TwoBytes => reader.take(2, field).map(drop),
            Kind::FourBytes => reader.take(4, field).map(drop),
            Kind::VariableByteInteger => reader.variable_byte_integer(field).map(drop),
            Kind::Prefixed => reader.binary(field).map(drop),
            Kind::StringPair => reader.binary(field).and_then(|_| reader.binary(field)).map(drop),
        }
    }
}

/// Walks a block of properties, keeping the User Properties to itself and refusing repeats of the others.
pub(crate) struct PropertyReader<'a> {
    reader: Reader<'a>,
    block: &'a [u8],
    seen: u64,
    user_count: u32,
    user_bytes: u32,
}

impl<'a> PropertyReader<'a> {
    /// Opens the block behind the Property Length that comes next.
    pub(crate) fn open(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let len = body.variable_byte_integer("Property Length")?;
        body.take(len as usize, "Property Length").map(Self::over)
    }

    /// Walks a block that comes without its length.
    pub(crate) const fn over(block: &'a [u8]) -> Self {
        Self { reader: Reader::new(block), block, seen: 0, user_count: 0, user_bytes: 0 }
    }

    /// The next property that is not a User Property; its value is to be read with the other methods.
    ///
    /// A Subscription Identifier may come again: whether that is right depends on the packet.
    pub(crate) fn next(&mut self) -> Result<Option<Property>, DecodeError> {
        while !self.reader.is_empty() {
            let before = self.reader.rest().len();
            match Property::read(&mut self.reader)? {
                Property::User => {
                    // [MQTT-1.5.7-1]
                    self.reader.string("User Property")?;
                    self.reader.string("User Property")?;
                    self.user_count += 1;
                    self.user_bytes += (before - self.reader.rest().len()) as u32;
                }
                Property::SubscriptionIdentifier => return Ok(Some(Property::SubscriptionIdentifier)),
                property => {
                    let bit = 1 << property.id();
                    if self.seen & bit != 0 {
                        return Err(DecodeError::PropertyRepeated(property.name()));
                    }
                    self.seen |= bit;
                    return Ok(Some(property));
                }
            }
        }
        Ok(None)
    }

    /// Where values are read from.
    pub(crate) const fn value(&mut self) -> &mut Reader<'a> {
        &mut self.reader
    }

    /// The whole block.
    pub(crate) const fn block(&self) -> &'a [u8] {
        self.block
    }

    /// The User Properties passed so far.
    pub(crate) const fn user(&self) -> UserProperties<'a> {
        UserProperties::in_block(self.block, self.user_count, self.user_bytes)
    }
}

/// Refuses a property that is not for this packet.
pub(crate) const fn not_allowed<T>(property: Property) -> Result<T, DecodeError> {
    Err(DecodeError::PropertyNotAllowed(property.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identifier_fits_the_set_of_seen_properties_and_reads_back() {
        for &property in Property::ALL {
            assert!(property.id() < 64);
            assert_eq!(Property::from_id(property.id()), Some(property));
        }
        assert_eq!(Property::ALL.len(), 27);
    }
}
