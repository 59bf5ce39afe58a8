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
use crate::time::Moment;
use crate::waiting::Delivery;

impl Shard {
    /// Returns what takes commands under a topic where the client of a session came in.
    #[inline(never)]
    pub(super) fn control_topic(&self, session: SessionId, topic: TopicName<'_>) -> Option<ControlTopic> {
        let entrance = self.sessions.get(&session)?.entrance?;
        self.access.of(entrance).controls.find(topic)
    }

    /// Takes a command, if its client may give it. It is taken once: neither retained nor stored.
    pub(super) fn command(
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
        let Ok(topic) = TopicName::new(control.response()) else { return };
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
