//! The payload of SUBSCRIBE: Topic Filters with their Subscription Options (section 3.8.3).
//!
//! Invariant: the bytes have been validated, so walking them cannot fail.

use alloc::vec::Vec;
use core::fmt;

use crate::{
    DecodeError, EncodeError, ProtocolVersion, QoS, TopicFilter,
    reader::Reader,
    sink::{Sink, Writer},
};

/// When a SUBSCRIBE brings the retained messages of its filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// Always ([MQTT-3.3.1-9]).
    #[default]
    Send = 0,
    /// If the subscription is new ([MQTT-3.3.1-10]).
    SendIfNew = 1,
    /// Never ([MQTT-3.3.1-11]).
    DoNotSend = 2,
}

/// The Subscription Options of one Topic Filter; MQTT 3 knows the QoS only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscribeOptions {
    /// The highest QoS wanted.
    pub qos: QoS,
    /// Keeps the subscriber's own messages from coming back.
    pub no_local: bool,
    /// Leaves the RETAIN flag as it was published.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RETAIN_HANDLING_SHIFT: u8 = 4;
const RESERVED_V5: u8 = 0xC0;
const RESERVED_V3: u8 = 0xFC;

impl SubscribeOptions {
    fn decode(bits: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        const FIELD: &str = "Subscription Options";
        let reserved = if version.has_properties() { RESERVED_V5 } else { RESERVED_V3 };
        // [MQTT-3.8.3-5], [MQTT311-3.8.3-4]
        if bits & reserved != 0 {
            return Err(DecodeError::Reserved(FIELD));
        }
        // MQTT 5.0 section 3.8.3.1: QoS 3 and Retain Handling 3 are Protocol Errors.
        let Some(qos) = QoS::from_bits(bits & 0b11) else {
            return Err(match version {
                ProtocolVersion::V5 => DecodeError::NotAllowed("Maximum QoS"),
                ProtocolVersion::V31 | ProtocolVersion::V311 => DecodeError::Reserved("Requested QoS"),
            });
        };
        let retain_handling = match bits >> RETAIN_HANDLING_SHIFT & 0b11 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::NotAllowed("Retain Handling")),
        };
        let (no_local, retain_as_published) = (bits & NO_LOCAL != 0, bits & RETAIN_AS_PUBLISHED != 0);
        Ok(Self { qos, no_local, retain_as_published, retain_handling })
    }

    const fn bits(self) -> u8 {
        self.qos.value()
            | if self.no_local { NO_LOCAL } else { 0 }
            | if self.retain_as_published { RETAIN_AS_PUBLISHED } else { 0 }
            | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT
    }
}

/// The Topic Filters of a SUBSCRIBE with their options, in order; an iterator.
#[derive(Clone, Copy)]
pub struct SubscribeFilters<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> SubscribeFilters<'a> {
    /// Reads everything that is left of a packet.
    pub(crate) fn decode(body: &mut Reader<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let bytes = body.rest();
        let mut count = 0;
        while !body.is_empty() {
            let filter = body.topic_filter()?;
            let options = SubscribeOptions::decode(body.u8("Subscription Options")?, version)?;
            // [MQTT-3.8.3-4]
            if options.no_local && filter.shared().is_some() {
                return Err(DecodeError::NotAllowed("No Local"));
            }
            count += 1;
        }
        // [MQTT-3.8.3-2]
        if count == 0 { Err(DecodeError::Missing("Topic Filter")) } else { Ok(Self { bytes, count }) }
    }

    /// Says whether there are none, which no valid SUBSCRIBE has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The same filters from the start, for `for` loops over a borrowed packet.
    #[must_use]
    pub const fn iter(&self) -> Self {
        *self
    }

    pub(crate) fn write<S: Sink>(self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        if self.is_empty() {
            return Err(EncodeError::Missing("Topic Filter"));
        }
        if version.has_properties() {
            out.put(self.bytes);
            return Ok(());
        }
        for (filter, options) in self {
            out.string(filter.as_str(), "Topic Filter")?;
            out.u8(options.qos.value());
        }
        Ok(())
    }
}

impl<'a> Iterator for SubscribeFilters<'a> {
    type Item = (TopicFilter<'a>, SubscribeOptions);

    fn next(&mut self) -> Option<Self::Item> {
        if self.count == 0 {
            return None;
        }
        let mut reader = Reader::new(self.bytes);
        let filter = reader.topic_filter().ok()?;
        let bits = reader.u8("Subscription Options").ok()?;
        // The options of MQTT 3 are a subset of those of MQTT 5.0.
        let options = SubscribeOptions::decode(bits, ProtocolVersion::V5).ok()?;
        self.bytes = reader.rest();
        self.count -= 1;
        Some((filter, options))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for SubscribeFilters<'_> {}

impl PartialEq for SubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for SubscribeFilters<'_> {}

impl fmt::Debug for SubscribeFilters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

/// Owned Topic Filters with their options, built one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeFiltersBuf {
    bytes: Vec<u8>,
    count: usize,
}

impl SubscribeFiltersBuf {
    /// Makes an empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), count: 0 }
    }

    /// Appends a filter.
    ///
    /// # Errors
    /// [`EncodeError::NotInVersion`] for No Local on a Shared Subscription, which no version has ([MQTT-3.8.3-4]).
    pub fn push(&mut self, filter: TopicFilter<'_>, options: SubscribeOptions) -> Result<(), EncodeError> {
        if options.no_local && filter.shared().is_some() {
            return Err(EncodeError::NotInVersion("No Local on a Shared Subscription"));
        }
        let mut out = Writer(&mut self.bytes);
        out.string(filter.as_str(), "Topic Filter")?;
        out.u8(options.bits());
        self.count += 1;
        Ok(())
    }

    /// The filters, for use in a packet.
    #[must_use]
    pub fn as_filters(&self) -> SubscribeFilters<'_> {
        SubscribeFilters { bytes: &self.bytes, count: self.count }
    }
}
