//! SUBSCRIBE and UNSUBSCRIBE on their way, and the subscriptions to make again when the server lost them.
//!
//! Invariant: a request is either waiting to be sent or waiting for its answer; a lost connection moves it back.

use std::collections::{BTreeMap, VecDeque};

use veilmq_protocol::{
    EncodeError, Packet, PacketId, PacketType, ReasonCode, Subscribe, SubscribeFiltersBuf, SubscribeOptions,
    TopicFilter, Unsubscribe, UnsubscribeFiltersBuf, UserProperties,
};

use super::{
    event::{CloseReason, Event, Token},
    outbound::PacketIds,
    output::Output,
};

enum Request {
    Subscribe { token: Option<Token>, filter: String, options: SubscribeOptions },
    Unsubscribe { token: Option<Token>, filter: String },
}

#[derive(Default)]
pub(super) struct Requests {
    waiting: VecDeque<Request>,
    sent: BTreeMap<PacketId, Request>,
    subscriptions: BTreeMap<String, SubscribeOptions>,
}

impl Requests {
    pub(super) fn subscribe(&mut self, token: Token, filter: &str, options: SubscribeOptions) {
        let filter = filter.to_owned();
        self.waiting.push_back(Request::Subscribe { token: Some(token), filter, options });
    }

    /// `token` is `None` when nobody waits for the answer.
    pub(super) fn unsubscribe(&mut self, token: Option<Token>, filter: &str) {
        self.waiting.push_back(Request::Unsubscribe { token, filter: filter.to_owned() });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    pub(super) fn connected(&mut self, session_present: bool) {
        if session_present {
            return;
        }
        let again = self.subscriptions.iter().map(|(filter, options)| Request::Subscribe {
            token: None,
            filter: filter.clone(),
            options: *options,
        });
        self.waiting = again.chain(std::mem::take(&mut self.waiting)).collect();
    }

    /// Requests without an answer are made again on the next connection.
    pub(super) fn connection_lost(&mut self, ids: &mut PacketIds) {
        let sent = std::mem::take(&mut self.sent);
        let again = sent.into_iter().map(|(id, request)| {
            ids.release(id);
            request
        });
        self.waiting = again.chain(std::mem::take(&mut self.waiting)).collect();
    }

    pub(super) fn pump(&mut self, ids: &mut PacketIds, output: &mut Output) -> Result<(), EncodeError> {
        while let Some(request) = self.waiting.pop_front() {
            let Some(packet_id) = ids.take() else {
                self.waiting.push_front(request);
                return Ok(());
            };
            request.send(packet_id, output)?;
            self.sent.insert(packet_id, request);
        }
        Ok(())
    }

    pub(super) fn answered(
        &mut self,
        answer: PacketType,
        id: PacketId,
        mut reasons: impl Iterator<Item = ReasonCode>,
        ids: &mut PacketIds,
    ) -> Result<Option<Event>, CloseReason> {
        let (Some(request), Some(reason)) = (self.sent.remove(&id), reasons.next()) else {
            return Err(CloseReason::Unexpected(answer));
        };
        ids.release(id);
        let token = match (request, answer) {
            (Request::Subscribe { token, filter, options }, PacketType::SubAck) => {
                if !reason.is_error() {
                    self.subscriptions.insert(filter, options);
                }
                token
            }
            (Request::Unsubscribe { token, filter }, PacketType::UnsubAck) => {
                if !reason.is_error() {
                    self.subscriptions.remove(&filter);
                }
                token
            }
            _ => return Err(CloseReason::Unexpected(answer)),
        };
        Ok(token.map(|token| Event::Answered { token, reason }))
    }
}

impl Request {
    fn send(&self, packet_id: PacketId, output: &mut Output) -> Result<(), EncodeError> {
        let topic_filter =
            |filter| TopicFilter::new(filter).map_err(|_| EncodeError::OutOfRange("Topic Filter"));
        match self {
            Self::Subscribe { filter, options, .. } => {
                let mut filters = SubscribeFiltersBuf::new();
                filters.push(topic_filter(filter)?, *options)?;
                output.packet(&Packet::Subscribe(Subscribe {
                    packet_id,
                    subscription_id: None,
                    user: UserProperties::default(),
                    filters: filters.as_filters(),
                }))
            }
            Self::Unsubscribe { filter, .. } => {
                let mut filters = UnsubscribeFiltersBuf::new();
                filters.push(topic_filter(filter)?);
                output.packet(&Packet::Unsubscribe(Unsubscribe {
                    packet_id,
                    user: UserProperties::default(),
                    filters: filters.as_filters(),
                }))
            }
        }
    }
}
