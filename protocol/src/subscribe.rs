//! SUBSCRIBE and SUBACK (sections 3.8 and 3.9).

use core::num::NonZeroU32;

use crate::{
    DecodeError, EncodeError, PacketId, ProtocolVersion, ReasonCode, SubscribeFilters, UserProperties,
    acknowledgement::{ReasonProperties, read_reason_properties},
    property::{Property, PropertyReader, not_allowed},
    publish_properties::{check_subscription_id, read_subscription_id, write_subscription_id},
    reader::{Reader, reason_code},
    sink::{Body, Properties, Sink},
};

/// Subscribe request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The identifier SUBACK repeats.
    pub packet_id: PacketId,
    /// Comes back with every message of these subscriptions; at most 268,435,455.
    pub subscription_id: Option<NonZeroU32>,
    /// Pairs the client attached.
    pub user: UserProperties<'a>,
    /// What to subscribe to; at least one.
    pub filters: SubscribeFilters<'a>,
}

impl<'a> Subscribe<'a> {
    pub(crate) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut body = Reader::new(body);
        let packet_id = body.packet_id()?;
        let (subscription_id, user) =
            if version.has_properties() { read_properties(&mut body)? } else { Default::default() };
        let filters = SubscribeFilters::decode(&mut body, version)?;
        Ok(Self { packet_id, subscription_id, user, filters })
    }
}

fn read_properties<'a>(
    body: &mut Reader<'a>,
) -> Result<(Option<NonZeroU32>, UserProperties<'a>), DecodeError> {
    let mut subscription_id = None;
    let mut block = PropertyReader::open(body)?;
    while let Some(property) = block.next()? {
        match property {
            Property::SubscriptionIdentifier if subscription_id.is_some() => {
                return Err(DecodeError::PropertyRepeated(property.name()));
            }
            Property::SubscriptionIdentifier => subscription_id = Some(read_subscription_id(block.value())?),
            other => return not_allowed(other),
        }
    }
    Ok((subscription_id, block.user()))
}

impl Body for Subscribe<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        out.packet_id(self.packet_id);
        if version.has_properties() {
            out.properties(self)?;
        }
        self.filters.write(version, out)
    }
}

impl Properties for Subscribe<'_> {
    fn write<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        if let Some(id) = self.subscription_id {
            check_subscription_id(id)?;
            write_subscription_id(id.get(), out);
        }
        self.user.write(out)
    }
}

/// Subscribe acknowledgment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// The identifier of the SUBSCRIBE ([MQTT-2.2.1-6]).
    pub packet_id: PacketId,
    /// Explains the outcome to a human.
    pub reason_string: Option<&'a str>,
    /// Pairs the server attached.
    pub user: UserProperties<'a>,
    /// One Reason Code per filter, in order ([MQTT-3.8.4-6]); written to MQTT 3 with every failure as 0x80.
    pub reasons: &'a [u8],
}

/// [MQTT-3.9.3-2] and MQTT 5.0 section 3.9.3
const REASONS_V5: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::GrantedQos1,
    ReasonCode::GrantedQos2,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::SharedSubscriptionsNotSupported,
    ReasonCode::SubscriptionIdentifiersNotSupported,
    ReasonCode::WildcardSubscriptionsNotSupported,
];

/// [MQTT311-3.9.3-2]
const REASONS_V3: &[ReasonCode] =
    &[ReasonCode::Success, ReasonCode::GrantedQos1, ReasonCode::GrantedQos2, ReasonCode::UnspecifiedError];

impl<'a> SubAck<'a> {
    /// The Reason Codes, in the order of the filters.
    pub fn reason_codes(&self) -> impl Iterator<Item = ReasonCode> + Clone + 'a {
        reason_codes(self.reasons)
    }

    pub(crate) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut body = Reader::new(body);
        let packet_id = body.packet_id()?;
        let ((reason_string, user), allowed) = if version.has_properties() {
            (read_reason_properties(&mut body)?, REASONS_V5)
        } else {
            (Default::default(), REASONS_V3)
        };
        Ok(Self { packet_id, reason_string, user, reasons: read_reasons(body, allowed)? })
    }
}

impl Body for SubAck<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        out.packet_id(self.packet_id);
        if version.has_properties() {
            out.properties(&ReasonProperties { reason_string: self.reason_string, user: self.user })?;
            out.put(self.reasons);
            return Ok(());
        }
        for &reason in self.reasons {
            out.u8(reason.min(ReasonCode::UnspecifiedError.value()));
        }
        Ok(())
    }
}

/// Reads the Reason Codes that make up the rest of a SUBACK or UNSUBACK: at least one.
pub(crate) fn read_reasons<'a>(body: Reader<'a>, allowed: &[ReasonCode]) -> Result<&'a [u8], DecodeError> {
    let reasons = body.rest();
    if reasons.is_empty() {
        return Err(DecodeError::Missing("Reason Code"));
    }
    for &reason in reasons {
        reason_code(reason, allowed)?;
    }
    Ok(reasons)
}

/// Walks validated Reason Codes.
pub(crate) fn reason_codes(reasons: &[u8]) -> impl Iterator<Item = ReasonCode> + Clone + '_ {
    reasons.iter().filter_map(|&reason| ReasonCode::try_from(reason).ok())
}
