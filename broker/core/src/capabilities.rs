//! What the broker offers of MQTT's optional parts, and what becomes of a client that asks for more.
//!
//! CONNACK announces what is missing (section 3.2.2.3), so a client of MQTT 5 that asks for it all the same breaks the protocol. A
//! client of MQTT 3.1.1 or 3.1 cannot know: where it can be told no it is, elsewhere its connection is closed.

use veilmq_protocol::{
    ConnAckProperties, Publish, QoS, ReasonCode, Subscribe, SubscribeOptions, TopicFilter, Will,
};

/// The optional parts of MQTT that the broker offers.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The highest QoS that a client may publish with, and that a subscription is granted.
    pub maximum_qos: QoS,
    /// Whether messages may be retained.
    pub retain: bool,
    /// Whether a Topic Filter may hold wildcards.
    pub wildcard_subscriptions: bool,
    /// Whether a SUBSCRIBE may carry a Subscription Identifier.
    pub subscription_ids: bool,
    /// Whether subscriptions may be shared.
    pub shared_subscriptions: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            maximum_qos: QoS::ExactlyOnce,
            retain: true,
            wildcard_subscriptions: true,
            subscription_ids: true,
            shared_subscriptions: true,
        }
    }
}

/// What a client asked for although the broker does not offer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("QoS {asked} is above the Maximum QoS of {maximum}")]
    Qos { asked: u8, maximum: u8 },
    #[error("retained messages are not available")]
    Retain,
    #[error("wildcard subscriptions are not available")]
    WildcardSubscriptions,
    #[error("Subscription Identifiers are not available")]
    SubscriptionIds,
    #[error("Shared Subscriptions are not available")]
    SharedSubscriptions,
}

impl Unavailable {
    pub(crate) fn reason(self) -> ReasonCode {
        match self {
            Self::Qos { .. } => ReasonCode::QosNotSupported,
            Self::Retain => ReasonCode::RetainNotSupported,
            Self::WildcardSubscriptions => ReasonCode::WildcardSubscriptionsNotSupported,
            Self::SubscriptionIds => ReasonCode::SubscriptionIdentifiersNotSupported,
            Self::SharedSubscriptions => ReasonCode::SharedSubscriptionsNotSupported,
        }
    }
}

impl Capabilities {
    /// Writes down what is missing; what is there needs no word ([MQTT-3.2.2-9]).
    pub(crate) fn announce(&self, properties: &mut ConnAckProperties<'_>) {
        let missing = |available: bool| (!available).then_some(false);
        properties.maximum_qos = Some(self.maximum_qos);
        properties.retain_available = missing(self.retain);
        properties.wildcard_subscription_available = missing(self.wildcard_subscriptions);
        properties.subscription_ids_available = missing(self.subscription_ids);
        properties.shared_subscription_available = missing(self.shared_subscriptions);
    }

    /// Checks a Will Message ([MQTT-3.2.2-12], [MQTT-3.2.2-13]).
    pub(crate) fn check_will(&self, will: &Will<'_>) -> Result<(), Unavailable> {
        self.check_message(will.qos, will.retain)
    }

    /// Checks a PUBLISH ([MQTT-3.2.2-11], [MQTT-3.2.2-14]).
    pub(crate) fn check_publish(&self, publish: &Publish<'_>) -> Result<(), Unavailable> {
        self.check_message(publish.qos, publish.retain)
    }

    fn check_message(&self, qos: QoS, retain: bool) -> Result<(), Unavailable> {
        if qos > self.maximum_qos {
            return Err(Unavailable::Qos { asked: qos.value(), maximum: self.maximum_qos.value() });
        }
        if retain && !self.retain { Err(Unavailable::Retain) } else { Ok(()) }
    }

    /// Checks a SUBSCRIBE of MQTT 5 as a whole (sections 3.2.2.3.11 to 3.2.2.3.13).
    pub(crate) fn check_subscribe(&self, subscribe: &Subscribe<'_>) -> Result<(), Unavailable> {
        if subscribe.subscription_id.is_some() && !self.subscription_ids {
            return Err(Unavailable::SubscriptionIds);
        }
        let refused = subscribe.filters.iter().find_map(|(filter, _)| self.check_filter(filter).err());
        refused.map_or(Ok(()), Err)
    }

    /// Checks a Topic Filter, shared or not ([MQTT311-3.8.3-2]).
    pub(crate) fn check_filter(&self, filter: TopicFilter<'_>) -> Result<(), Unavailable> {
        if filter.has_wildcards() && !self.wildcard_subscriptions {
            return Err(Unavailable::WildcardSubscriptions);
        }
        if filter.shared().is_some() && !self.shared_subscriptions {
            return Err(Unavailable::SharedSubscriptions);
        }
        Ok(())
    }

    /// Lowers the QoS of a subscription to the highest on offer ([MQTT-3.2.2-10]).
    pub(crate) fn grant(&self, options: SubscribeOptions) -> SubscribeOptions {
        SubscribeOptions { qos: options.qos.min(self.maximum_qos), ..options }
    }
}
