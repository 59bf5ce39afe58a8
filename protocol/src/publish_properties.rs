//! The properties of PUBLISH, which a Will Message shares (MQTT 5.0 sections 3.3.2.3 and 3.1.3.2).
//!
//! *Application properties* are those a server passes on unchanged: Payload Format Indicator, Content Type,
//! Response Topic, Correlation Data and the User Properties, written in that order without a length.

use alloc::vec::Vec;
use core::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
};

use bytes::BufMut;

use crate::{
    DecodeError, EncodeError, TopicName, UserProperties,
    frame::REMAINING_LENGTH_MAX,
    property::{Property, PropertyReader, not_allowed},
    reader::{Reader, topic_fault},
    sink::{Count, Properties, Sink, Writer},
};

/// The properties of a PUBLISH or, without Topic Alias and Subscription Identifiers, of a Will Message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// Says whether the payload is UTF-8 text; absent means unspecified bytes.
    pub payload_is_utf8: Option<bool>,
    /// Lifetime of the message in seconds; absent means it does not expire.
    pub message_expiry_seconds: Option<u32>,
    /// Stands for the Topic Name on this Network Connection.
    pub topic_alias: Option<NonZeroU16>,
    /// Where the receiver may answer.
    pub response_topic: Option<TopicName<'a>>,
    /// Tells the requester which request an answer is for.
    pub correlation_data: Option<&'a [u8]>,
    /// Describes the payload, for instance as a MIME type.
    pub content_type: Option<&'a str>,
    /// The identifiers of the matching subscriptions; only ever from server to client.
    pub subscription_ids: SubscriptionIds<'a>,
    /// Pairs the application attached.
    pub user: UserProperties<'a>,
    /// What all of these were read from.
    pub sent: AsSent<'a>,
}

/// The block that properties were read from, which knows their order; it is no part of what they say.
#[derive(Clone, Copy, Default)]
pub struct AsSent<'a>(&'a [u8]);

impl<'a> AsSent<'a> {
    pub(crate) const fn of(block: &'a [u8]) -> Self {
        Self(block)
    }
}

impl PartialEq for AsSent<'_> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for AsSent<'_> {}

impl fmt::Debug for AsSent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<'a> PublishProperties<'a> {
    /// Writes the application properties, without a length.
    ///
    /// The output is what [`Self::decode_application`] reads and [`crate::PublishHead`] copies. `out` must have
    /// room for [`Self::application_len`] bytes.
    ///
    /// # Errors
    /// A string or Correlation Data longer than 65,535 bytes, or a string with U+0000; nothing is written then.
    pub fn encode_application<B: BufMut>(&self, out: &mut B) -> Result<(), EncodeError> {
        if !self.has_application() {
            return Ok(());
        }
        if out.remaining_mut() < self.application_len()? {
            return Err(EncodeError::NoRoom("application properties"));
        }
        self.write_application(&mut Writer(out))
    }

    /// Writes the application properties in the order in which their publisher has written them, without a length. Those that were
    /// not read from one packet are written as by [`Self::encode_application`].
    ///
    /// # Errors
    /// As [`Self::encode_application`].
    pub fn encode_application_as_sent(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if !self.has_application() {
            return Ok(());
        }
        let (start, mut user_properties) = (out.len(), 0);
        let mut reader = Reader::new(self.sent.0);
        while !reader.rest().is_empty() {
            let front = reader.rest();
            // They have been read before, so they can be read again.
            let Ok(property) = Property::read(&mut reader) else { break };
            if property.skip(&mut reader).is_err() {
                break;
            }
            if property.is_application() {
                user_properties += usize::from(property == Property::User);
                out.extend_from_slice(front.get(..front.len() - reader.rest().len()).unwrap_or_default());
            }
        }
        // Nothing was read from one block, or a pair of it is not the application's.
        if out.len() == start || user_properties != self.user.len() {
            out.truncate(start);
            return self.encode_application(out);
        }
        Ok(())
    }

    /// Most messages have no application property.
    const fn has_application(&self) -> bool {
        self.payload_is_utf8.is_some()
            || self.content_type.is_some()
            || self.response_topic.is_some()
            || self.correlation_data.is_some()
            || !self.user.is_empty()
    }

    /// The number of bytes [`Self::encode_application`] writes.
    ///
    /// # Errors
    /// As [`Self::encode_application`].
    pub fn application_len(&self) -> Result<usize, EncodeError> {
        let mut counted = Count(0);
        self.write_application(&mut counted)?;
        Ok(counted.0)
    }

    /// Reads what [`Self::encode_application`] wrote.
    ///
    /// # Errors
    /// Any fault of the bytes, and any property that is not an application property.
    pub fn decode_application(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        let mut block = PropertyReader::over(bytes);
        while let Some(property) = block.next()? {
            if !properties.read_application(property, block.value())? {
                return not_allowed(property);
            }
        }
        properties.user = block.user();
        Ok(properties)
    }

    /// Reads the properties of a PUBLISH.
    pub(crate) fn decode(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        // Most messages have none.
        if let Some(rest) = body.rest().strip_prefix(&[0]) {
            *body = Reader::new(rest);
            return Ok(properties);
        }
        let mut block = PropertyReader::open(body)?;
        let mut subscription_count = 0;
        while let Some(property) = block.next()? {
            match property {
                Property::TopicAlias => properties.topic_alias = Some(read_topic_alias(block.value())?),
                Property::SubscriptionIdentifier => {
                    read_subscription_id(block.value())?;
                    subscription_count += 1;
                }
                other if properties.read_message(other, block.value())? => {}
                other => return not_allowed(other),
            }
        }
        properties.user = block.user();
        properties.sent = AsSent::of(block.block());
        properties.subscription_ids = SubscriptionIds { block: block.block(), count: subscription_count };
        Ok(properties)
    }

    /// Joins what a fan-out says once with what it says per subscriber (VEIL-1 sections 6.1 and 6.2).
    ///
    /// `shared` holds application properties and the publisher's expiry; `subscriber` holds Subscription Identifiers
    /// and what is left of the expiry, which prevails.
    pub(crate) fn decode_split(shared: &'a [u8], subscriber: &'a [u8]) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        let mut block = PropertyReader::over(shared);
        while let Some(property) = block.next()? {
            if !properties.read_message(property, block.value())? {
                return not_allowed(property);
            }
        }
        properties.user = block.user();
        let mut block = PropertyReader::over(subscriber);
        let mut subscription_count = 0;
        while let Some(property) = block.next()? {
            match property {
                Property::SubscriptionIdentifier => {
                    read_subscription_id(block.value())?;
                    subscription_count += 1;
                }
                Property::MessageExpiryInterval => {
                    properties.message_expiry_seconds = Some(block.value().u32(property.name())?);
                }
                other => return not_allowed(other),
            }
        }
        if !block.user().is_empty() {
            return not_allowed(Property::User);
        }
        properties.subscription_ids = SubscriptionIds { block: subscriber, count: subscription_count };
        Ok(properties)
    }

    /// Reads one property that PUBLISH and Will share; `false` if `property` is none of them.
    pub(crate) fn read_message(
        &mut self,
        property: Property,
        value: &mut Reader<'a>,
    ) -> Result<bool, DecodeError> {
        if property == Property::MessageExpiryInterval {
            self.message_expiry_seconds = Some(value.u32(property.name())?);
            return Ok(true);
        }
        self.read_application(property, value)
    }

    fn read_application(&mut self, property: Property, value: &mut Reader<'a>) -> Result<bool, DecodeError> {
        let field = property.name();
        match property {
            Property::PayloadFormatIndicator => self.payload_is_utf8 = Some(value.flag(field)?),
            // [MQTT-3.3.2-19]
            Property::ContentType => self.content_type = Some(value.string(field)?),
            Property::ResponseTopic => self.response_topic = Some(read_response_topic(value)?),
            Property::CorrelationData => self.correlation_data = Some(value.binary(field)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Writes what PUBLISH and Will share.
    pub(crate) fn write_message<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        out.u32_property(Property::MessageExpiryInterval, self.message_expiry_seconds);
        self.write_application(out)
    }

    fn write_application<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        out.flag_property(Property::PayloadFormatIndicator, self.payload_is_utf8);
        out.string_property(Property::ContentType, self.content_type)?;
        out.string_property(Property::ResponseTopic, self.response_topic.map(TopicName::as_str))?;
        out.binary_property(Property::CorrelationData, self.correlation_data)?;
        self.user.write(out)
    }
}

impl Properties for PublishProperties<'_> {
    fn write<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        out.u16_property(Property::TopicAlias, self.topic_alias.map(NonZeroU16::get));
        for id in self.subscription_ids {
            write_subscription_id(id, out);
        }
        self.write_message(out)
    }
}

/// The Subscription Identifiers of a PUBLISH, 1 to 268,435,455 each, in order; an iterator.
#[derive(Clone, Copy, Default)]
pub struct SubscriptionIds<'a> {
    block: &'a [u8],
    count: u32,
}

impl SubscriptionIds<'_> {
    /// Says whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The same identifiers from the start, for `for` loops over a borrowed packet.
    #[must_use]
    pub const fn iter(&self) -> Self {
        *self
    }
}

impl Iterator for SubscriptionIds<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        while self.count > 0 {
            let mut reader = Reader::new(self.block);
            let property = Property::read(&mut reader).ok()?;
            if property == Property::SubscriptionIdentifier {
                let id = reader.variable_byte_integer(property.name()).ok()?;
                self.block = reader.rest();
                self.count -= 1;
                return Some(id);
            }
            property.skip(&mut reader).ok()?;
            self.block = reader.rest();
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count as usize, Some(self.count as usize))
    }
}

impl ExactSizeIterator for SubscriptionIds<'_> {}

impl PartialEq for SubscriptionIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        Iterator::eq(*self, *other)
    }
}

impl Eq for SubscriptionIds<'_> {}

impl fmt::Debug for SubscriptionIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

/// Owned Subscription Identifiers, built one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionIdsBuf {
    encoded: Vec<u8>,
    count: u32,
}

impl SubscriptionIdsBuf {
    /// Makes an empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { encoded: Vec::new(), count: 0 }
    }

    /// Appends an identifier.
    ///
    /// # Errors
    /// [`EncodeError::OutOfRange`] above 268,435,455.
    pub fn push(&mut self, id: NonZeroU32) -> Result<(), EncodeError> {
        check_subscription_id(id)?;
        write_subscription_id(id.get(), &mut Writer(&mut self.encoded));
        self.count += 1;
        Ok(())
    }

    /// The identifiers, for use in a packet.
    #[must_use]
    pub fn as_subscription_ids(&self) -> SubscriptionIds<'_> {
        SubscriptionIds { block: &self.encoded, count: self.count }
    }
}

/// Reads the value of a Subscription Identifier, which is not 0 (MQTT 5.0 section 3.8.2.1.2).
pub(crate) fn read_subscription_id(value: &mut Reader<'_>) -> Result<NonZeroU32, DecodeError> {
    let field = Property::SubscriptionIdentifier.name();
    NonZeroU32::new(value.variable_byte_integer(field)?).ok_or(DecodeError::NotAllowed(field))
}

/// Writes a Subscription Identifier that is in range.
pub(crate) fn write_subscription_id<S: Sink>(id: u32, out: &mut S) {
    out.u8(Property::SubscriptionIdentifier.id());
    out.variable_byte_integer(id as usize);
}

/// Checks that a Subscription Identifier fits a Variable Byte Integer.
pub(crate) const fn check_subscription_id(id: NonZeroU32) -> Result<(), EncodeError> {
    if id.get() as usize > REMAINING_LENGTH_MAX {
        return Err(EncodeError::OutOfRange(Property::SubscriptionIdentifier.name()));
    }
    Ok(())
}

fn read_topic_alias(value: &mut Reader<'_>) -> Result<NonZeroU16, DecodeError> {
    let field = Property::TopicAlias.name();
    // [MQTT-3.3.2-8]
    NonZeroU16::new(value.u16(field)?).ok_or(DecodeError::TopicAliasInvalid(field))
}

fn read_response_topic<'a>(value: &mut Reader<'a>) -> Result<TopicName<'a>, DecodeError> {
    let field = Property::ResponseTopic.name();
    // [MQTT-3.3.2-13]
    let text = value.utf8(field)?;
    // [MQTT-3.3.2-14]
    TopicName::new(text).map_err(|error| topic_fault(error, field, DecodeError::NotAllowed))
}
