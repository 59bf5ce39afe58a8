//! Commands: publications to a control topic, which go to whoever drives the core and are answered to their sender alone.
//!
//! Invariant: nobody's command is passed on who may not publish to its topic, and no command reaches a subscriber.

use veilmq_protocol::{QoS, TopicName};
use zeroize::Zeroizing;

use super::Shard;
use super::publish::{Accepted, PublishRefused};
use crate::access::{COMMAND_BYTES_MAX, Command, ControlTopic};
use crate::id::SessionId;
use crate::message::{Message, MessageParts};
use crate::stats::DropReason;
use crate::sys::is_reserved;
use crate::time::Moment;
use crate::waiting::Delivery;

/// What stands before every control topic.
const CONTROL: &str = "$CONTROL/";
/// What stands before the filter of a Shared Subscription; Mosquitto takes no message for a topic that begins so.
const SHARE: &str = "$share/";
/// The answer to a command for which there is nobody here, as Mosquitto gives it.
const NOT_AVAILABLE: &[u8] = br#"{"error": "endpoint not available"}"#;

impl Shard {
    /// Tells whether a topic is the broker's own, and not one on which the client of a session says how a bridge fares.
    pub(super) fn is_reserved_for(&self, session: SessionId, topic: TopicName<'_>) -> bool {
        let client_id = || self.sessions.get(&session).map_or("", |state| &*state.client_id);
        let has_habits = self.settings.mosquitto_habits;
        is_reserved(topic, (!has_habits).then(client_id)) || (has_habits && topic.as_str().starts_with(SHARE))
    }

    /// Takes a publication to a topic of the broker's own, which nobody hears of: a command, or nothing that is allowed.
    #[inline(never)]
    pub(super) fn publish_reserved(
        &mut self,
        session: SessionId,
        topic: TopicName<'_>,
        payload: &[u8],
        now: Moment,
    ) -> Result<Accepted, PublishRefused> {
        if let Some(control) = self.control_topic(session, topic) {
            return self.command(session, control, topic, payload);
        }
        if topic.as_str().starts_with(CONTROL)
            && self.takes_commands(session)
            && self.may_publish(session, topic)
        {
            self.answer_command(session, &format!("{}/response", topic.as_str()), NOT_AVAILABLE, now);
            return Ok(Accepted { distribution: None, stored: false });
        }
        self.stats.messages_dropped(DropReason::NotAuthorized, 1);
        Err(PublishRefused::Reserved)
    }

    /// Tells whether commands are taken where the client of a session came in.
    fn takes_commands(&self, session: SessionId) -> bool {
        let entrance = self.sessions.get(&session).and_then(|state| state.entrance);
        entrance.is_some_and(|entrance| self.access.of(entrance).controls.broker)
    }

    /// Returns what takes commands under a topic where the client of a session came in.
    fn control_topic(&self, session: SessionId, topic: TopicName<'_>) -> Option<ControlTopic> {
        let entrance = self.sessions.get(&session)?.entrance?;
        self.access.of(entrance).controls.find(topic)
    }

    /// Takes a command, if its client may give it. It is taken once: neither retained nor stored.
    fn command(
        &mut self,
        session: SessionId,
        control: ControlTopic,
        topic: TopicName<'_>,
        payload: &[u8],
    ) -> Result<Accepted, PublishRefused> {
        if !self.may_publish(session, topic) {
            self.stats.messages_dropped(DropReason::NotAuthorized, 1);
            return Err(PublishRefused::NotAuthorized);
        }
        if payload.len() > COMMAND_BYTES_MAX {
            self.stats.messages_dropped(DropReason::TooLarge, 1);
            return Err(PublishRefused::PayloadTooLarge);
        }
        if let Some(state) = self.sessions.get(&session) {
            self.commands.push(Command {
                session,
                topic: control,
                client_id: state.client_id.clone(),
                user: state.user_name().map(Into::into),
                payload: Zeroizing::new(payload.to_vec()),
            });
        }
        Ok(Accepted { distribution: None, stored: false })
    }

    /// Sends the answer to a command, at QoS 0, if the session has subscribed to it and may have it.
    pub(super) fn command_answered(
        &mut self,
        session: SessionId,
        control: ControlTopic,
        payload: &[u8],
        now: Moment,
    ) {
        self.answer_command(session, control.response(), payload, now);
    }

    fn answer_command(&mut self, session: SessionId, topic: &str, payload: &[u8], now: Moment) {
        let Ok(topic) = TopicName::new(topic) else { return };
        let matches = self.matches.matches(&self.shared.routes, topic, None);
        let Some(target) = matches.on(self.index).iter().find(|target| target.session == session) else {
            return;
        };
        let parts = MessageParts {
            id: None,
            publisher: None,
            source: None,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: topic.as_str(),
            application_properties: &[],
            payload,
            expiry: None,
        };
        let delivery = Delivery {
            message: Message::new(&parts, 0),
            qos: QoS::AtMostOnce,
            retain: false,
            subscription_ids: target.subscription_ids.as_slice().into(),
            stored: false,
            share: None,
        };
        self.deliver_to(session, delivery, now);
    }
}
