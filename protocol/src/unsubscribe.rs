//! UNSUBSCRIBE and UNSUBACK (sections 3.10 and 3.11).

use alloc::vec::Vec;
use core::fmt;

use crate::{
    DecodeError, EncodeError, PacketId, PacketType, ProtocolVersion, ReasonCode, TopicFilter, UserProperties,
    acknowledgement::{ReasonProperties, read_reason_properties},
    property::{PropertyReader, not_allowed},
    reader::Reader,
    sink::{Body, Sink, Writer},
    subscribe::{read_reasons, reason_codes},
};

/// Unsubscribe request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// The identifier UNSUBACK repeats.
    pub packet_id: PacketId,
    /// Pairs the client attached.
    pub user: UserProperties<'a>,
    /// What to unsubscribe from; at least one.
    pub filters: UnsubscribeFilters<'a>,
}

impl<'a> Unsubscribe<'a> {
    pub(crate) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut body = Reader::new(body);
        let packet_id = body.packet_id()?;
        let user = if version.has_properties() { read_user(&mut body)? } else { UserProperties::default() };
        let filters = UnsubscribeFilters::decode(&mut body)?;
        Ok(Self { packet_id, user, filters })
    }
}

fn read_user<'a>(body: &mut Reader<'a>) -> Result<UserProperties<'a>, DecodeError> {
    let mut block = PropertyReader::open(body)?;
    match block.next()? {
        Some(property) => not_allowed(property),
        None => Ok(block.user()),
    }
}

impl Body for Unsubscribe<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        if self.filters.is_empty() {
            return Err(EncodeError::Missing("Topic Filter"));
        }
        out.packet_id(self.packet_id);
        if version.has_properties() {
            out.properties(&self.user)?;
        }
        out.put(self.filters.bytes);
        Ok(())
    }
}

/// The Topic Filters of an UNSUBSCRIBE, in order; an iterator over validated bytes.
#[derive(Clone, Copy)]
pub struct UnsubscribeFilters<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> UnsubscribeFilters<'a> {
    fn decode(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let bytes = body.rest();
        let mut count = 0;
        while !body.is_empty() {
            body.topic_filter()?;
            count += 1;
        }
        // [MQTT-3.10.3-2]
        if count == 0 { Err(DecodeError::Missing("Topic Filter")) } else { Ok(Self { bytes, count }) }
    }

    /// Says whether there are none, which no valid UNSUBSCRIBE has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The same filters from the start, for `for` loops over a borrowed packet.
    #[must_use]
    pub const fn iter(&self) -> Self {
        *self
    }
}

impl<'a> Iterator for UnsubscribeFilters<'a> {
    type Item = TopicFilter<'a>;

    fn next(&mut self) -> Option<TopicFilter<'a>> {
        if self.count == 0 {
            return None;
        }
        let mut reader = Reader::new(self.bytes);
        let filter = reader.topic_filter().ok()?;
        self.bytes = reader.rest();
        self.count -= 1;
        Some(filter)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for UnsubscribeFilters<'_> {}

impl PartialEq for UnsubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for UnsubscribeFilters<'_> {}

impl fmt::Debug for UnsubscribeFilters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

/// Owned Topic Filters, built one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsubscribeFiltersBuf {
    bytes: Vec<u8>,
    count: usize,
}

impl UnsubscribeFiltersBuf {
    /// Makes an empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), count: 0 }
    }

    /// Appends a filter.
    pub fn push(&mut self, filter: TopicFilter<'_>) {
        let mut out = Writer(&mut self.bytes);
        // A Topic Filter is at most 65,535 bytes long.
        out.u16(filter.as_str().len() as u16);
        out.put(filter.as_str().as_bytes());
        self.count += 1;
    }

    /// The filters, for use in a packet.
    #[must_use]
    pub fn as_filters(&self) -> UnsubscribeFilters<'_> {
        UnsubscribeFilters { bytes: &self.bytes, count: self.count }
    }
}

/// Unsubscribe acknowledgment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// The identifier of the UNSUBSCRIBE ([MQTT-2.2.1-6]).
    pub packet_id: PacketId,
    /// Explains the outcome to a human.
    pub reason_string: Option<&'a str>,
    /// Pairs the server attached.
    pub user: UserProperties<'a>,
    /// One Reason Code per filter, in order; MQTT 3 has none.
    pub reasons: &'a [u8],
}

/// [MQTT-3.11.3-2]
const REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::NoSubscriptionExisted,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::PacketIdentifierInUse,
];

impl<'a> UnsubAck<'a> {
    /// The Reason Codes, in the order of the filters.
    pub fn reason_codes(&self) -> impl Iterator<Item = ReasonCode> + Clone + 'a {
        reason_codes(self.reasons)
    }

    pub(crate) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut body = Reader::new(body);
        let packet_id = body.packet_id()?;
        if !version.has_properties() {
            body.finish(PacketType::UnsubAck.name())?;
            return Ok(Self {
                packet_id,
                reason_string: None,
                user: UserProperties::default(),
                reasons: &[],
            });
        }
        let (reason_string, user) = read_reason_properties(&mut body)?;
        Ok(Self { packet_id, reason_string, user, reasons: read_reasons(body, REASONS)? })
    }
}

impl Body for UnsubAck<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        out.packet_id(self.packet_id);
        if version.has_properties() {
            out.properties(&ReasonProperties { reason_string: self.reason_string, user: self.user })?;
            out.put(self.reasons);
        }
        Ok(())
    }
}
