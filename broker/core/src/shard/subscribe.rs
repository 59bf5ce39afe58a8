//! SUBSCRIBE and UNSUBSCRIBE, and the retained messages that a subscription brings.

use std::num::NonZeroU32;
use std::sync::Arc;

use veilmq_protocol::{
    ProtocolVersion, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeOptions, TopicFilter, Unsubscribe,
};

use super::Shard;
use super::gate::Answer;
use crate::capabilities::Unavailable;
use crate::farewell::{BrokerReason, CloseReason, PeerError};
use crate::id::{ConnectionId, SessionId, ShardIndex};
use crate::record::{Record, SubscriptionRecord};
use crate::routes::Subscriber;
use crate::session::Session;
use crate::shared::Shared;
use crate::storage::StorageState;
use crate::time::Moment;

impl Shard {
    /// Handles SUBSCRIBE: one SUBACK with a Reason Code for each filter, then retained messages ([MQTT-3.8.4-5]).
    pub(super) fn subscribe_received(
        &mut self,
        connection: ConnectionId,
        subscribe: &Subscribe<'_>,
        now: Moment,
    ) -> Result<(), CloseReason> {
        let Some(established) = self.established(connection) else { return Ok(()) };
        let (version, is_bridge) = (established.wire.version(), established.is_bridge);
        let entrance = Arc::clone(&established.offer);
        if version == ProtocolVersion::V5 {
            entrance.capabilities.check_subscribe(subscribe).map_err(PeerError::from)?;
        }
        for (filter, _) in subscribe.filters.iter() {
            self.settings.check_name("Topic Filter", filter.as_str())?;
        }
        if self.settings.mosquitto_habits {
            for (filter, _) in subscribe.filters.iter() {
                self.settings.check_filter_levels(filter)?;
            }
        }
        let mounted = entrance.mounted_filters(subscribe.filters.iter().map(|(filter, _)| filter))?;
        let Some(state) = self.session_on(connection) else { return Ok(()) };
        let (session, durable) = (state.id, state.durable);
        // MQTT 3.1 has no word for a refusal, and a subscription that is not stored may not be acknowledged.
        if version == ProtocolVersion::V31 && durable && self.shared.room() != StorageState::Ready {
            return Err(CloseReason::Broker(BrokerReason::StorageFull));
        }
        let records_before = self.records.len();
        let filters_max = self.settings.subscriptions_per_session_max;
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut granted = Vec::with_capacity(subscribe.filters.len().min(filters_max));
        for (index, (filter, options)) in subscribe.filters.iter().enumerate() {
            let filter = mounted_or(&mounted, index, filter);
            let mut options = entrance.capabilities.grant(options);
            // What MQTT 3 cannot say and a bridge means: nothing it brought goes back, and what is retained stays so.
            options.no_local |= is_bridge;
            options.retain_as_published |= is_bridge;
            let subscription = SubscriptionRecord {
                options,
                subscription_id: subscribe.subscription_id.map(NonZeroU32::get),
            };
            // No session can hold more, so what is beyond is not looked at: one packet has room for millions.
            let added = match index < filters_max {
                true => match entrance.capabilities.check_filter(filter) {
                    Ok(()) => self.add_subscription(session, filter, subscription, durable, now),
                    Err(unavailable) => Err(Unavailable::reason(unavailable)),
                },
                false => Err(ReasonCode::QuotaExceeded),
            };
            let reason = match added {
                Ok(new) => {
                    granted.push((filter, subscription, new));
                    granted_code(options)
                }
                // MQTT 3.1 section 3.8: its SUBACK has no word for a refusal, so a filter is acknowledged all the same.
                Err(_) if version == ProtocolVersion::V31 => ReasonCode::Success,
                Err(reason) => reason,
            };
            // [MQTT-3.9.3-1]
            reasons.push(reason.value());
        }
        let ticket = self.ticket_to_await(connection, self.records.len() > records_before);
        // [MQTT-3.8.4-1], [MQTT-3.8.4-2]
        self.answer(connection, Answer::SubAck(subscribe.packet_id, reasons), ticket);
        for (filter, subscription, new) in granted {
            self.notify_stranger(session, filter);
            // What was retained under another configuration is not brought up where retained messages are not available.
            let available = entrance.capabilities.retain;
            if !available || !wants_retained(filter, subscription.options, new) {
                continue;
            }
            // SUBACK goes first, so that a client knows the subscription when its retained messages come.
            match ticket {
                Some(_) => self.deliver_retained_when_stored(session, filter, subscription),
                None => self.deliver_retained(session, filter, &subscription, now),
            }
        }
        Ok(())
    }

    /// Adds a subscription or replaces the same one ([MQTT-3.8.4-3]); tells whether it is new.
    fn add_subscription(
        &mut self,
        session: SessionId,
        filter: TopicFilter<'_>,
        subscription: SubscriptionRecord,
        durable: bool,
        now: Moment,
    ) -> Result<bool, ReasonCode> {
        self.settings.check_filter_levels(filter).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        if !self.may_subscribe(session, filter) || !self.is_member_where_asked(session, filter) {
            return Err(ReasonCode::NotAuthorized);
        }
        // A subscription that is there already stays in force. Granted anew it could bring retained messages, which are stored.
        if durable && self.shared.room() != StorageState::Ready {
            return Err(ReasonCode::QuotaExceeded);
        }
        let subscriptions_max = self.settings.subscriptions_per_session_max;
        let Some(state) = self.sessions.get_mut(&session) else { return Err(ReasonCode::UnspecifiedError) };
        if state.subscriptions.len() >= subscriptions_max
            && !state.subscriptions.contains_key(filter.as_str())
        {
            return Err(ReasonCode::QuotaExceeded);
        }
        let name: Arc<str> = Arc::from(filter.as_str());
        let new = state.subscriptions.insert(Arc::clone(&name), subscription).is_none();
        self.gauges.subscriptions += usize::from(new);
        self.gauges.shared_subscriptions += usize::from(new && filter.shared().is_some());
        // [MQTT-3.8.4-4] The new one takes the place of the old at once, so no message falls between them.
        Self::route(&self.shared, self.index, state, filter, &subscription);
        if durable {
            self.records.push(Record::Subscribed { session, filter: name, subscription });
        }
        self.show_availability(session, now);
        Ok(new)
    }

    /// Enters a subscription of a session of the shard `home` into the route table.
    pub(crate) fn route(
        shared: &Shared,
        home: ShardIndex,
        session: &mut Session,
        filter: TopicFilter<'_>,
        subscription: &SubscriptionRecord,
    ) {
        let SubscribeOptions { qos, no_local, retain_as_published, .. } = subscription.options;
        let subscriber = Subscriber {
            session: session.id,
            shard: home,
            qos,
            no_local,
            retain_as_published,
            subscription_id: subscription.subscription_id,
            durable: session.durable,
        };
        if filter.shared().is_some() {
            let availability = session.availability.get_or_insert_default();
            shared.routes.join(filter, subscriber, Arc::clone(availability));
        } else {
            shared.routes.subscribe(filter, subscriber);
        }
    }

    /// Handles UNSUBSCRIBE: one UNSUBACK with a Reason Code for each filter ([MQTT-3.10.4-6]).
    pub(super) fn unsubscribe_received(
        &mut self,
        connection: ConnectionId,
        unsubscribe: &Unsubscribe<'_>,
    ) -> Result<(), CloseReason> {
        for filter in unsubscribe.filters.iter() {
            self.settings.check_name("Topic Filter", filter.as_str())?;
        }
        let records_before = self.records.len();
        let Some(established) = self.established(connection) else { return Ok(()) };
        let version = established.wire.version();
        let mounted = established.offer.mounted_filters(unsubscribe.filters.iter())?;
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        for (index, filter) in unsubscribe.filters.iter().enumerate() {
            let filter = mounted_or(&mounted, index, filter);
            let Some(state) = self.session_on(connection) else { return Ok(()) };
            let (session, durable) = (state.id, state.durable);
            if version == ProtocolVersion::V5 && !self.may_unsubscribe(session, filter) {
                reasons.push(ReasonCode::NotAuthorized.value());
                continue;
            }
            let Some(state) = self.session_on(connection) else { return Ok(()) };
            // [MQTT-3.10.4-1]
            let reason = match state.subscriptions.remove_entry(filter.as_str()) {
                None => ReasonCode::NoSubscriptionExisted,
                Some((name, _)) => {
                    // [MQTT-3.10.4-2], [MQTT-3.10.4-3] What is on its way to the client stays on it.
                    self.forget_subscription(session, Some(connection), filter);
                    if durable {
                        self.records.push(Record::Unsubscribed { session, filter: name });
                    }
                    ReasonCode::Success
                }
            };
            // [MQTT-3.11.3-1]
            reasons.push(reason.value());
        }
        let ticket = self.ticket_to_await(connection, self.records.len() > records_before);
        // [MQTT-3.10.4-4], [MQTT-3.10.4-5]
        self.answer(connection, Answer::UnsubAck(unsubscribe.packet_id, reasons), ticket);
        Ok(())
    }

    /// Takes a subscription out of the routes that was taken from its session.
    pub(super) fn forget_subscription(
        &mut self,
        session: SessionId,
        connection: Option<ConnectionId>,
        filter: TopicFilter<'_>,
    ) {
        self.gauges.subscriptions -= 1;
        self.gauges.shared_subscriptions -= usize::from(filter.shared().is_some());
        self.shared.routes.unsubscribe(filter, session);
        self.walks.forget(session, filter);
        if let Some(connection) = connection {
            self.leave_groups(connection, filter);
        }
    }
}

/// Returns a filter as it is behind the mount point of the client's listener, if that has one.
fn mounted_or<'a>(mounted: &'a [String], index: usize, filter: TopicFilter<'a>) -> TopicFilter<'a> {
    mounted.get(index).and_then(|mounted| TopicFilter::new(mounted).ok()).unwrap_or(filter)
}

/// The QoS granted ([MQTT-3.8.4-7]).
fn granted_code(options: SubscribeOptions) -> ReasonCode {
    match options.qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQos1,
        QoS::ExactlyOnce => ReasonCode::GrantedQos2,
    }
}

/// Tells whether a subscription brings retained messages ([MQTT-3.3.1-9] to [MQTT-3.3.1-11]). A shared one never does
/// (section 4.8.2).
fn wants_retained(filter: TopicFilter<'_>, options: SubscribeOptions, new: bool) -> bool {
    if filter.shared().is_some() {
        return false;
    }
    match options.retain_handling {
        RetainHandling::Send => true,
        RetainHandling::SendIfNew => new,
        RetainHandling::DoNotSend => false,
    }
}
