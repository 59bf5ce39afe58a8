//! SUBSCRIBE and UNSUBSCRIBE on their way, and the subscriptions to make again when the server lost them.
//!
//! Invariant: a request is waiting to be sent, waiting for its answer, or given up; a lost connection moves it back, or ends it. The
//! identifier of one that is given up stays in use until it is answered or the connection ends, so that no other is taken for it.

use std::collections::{BTreeMap, VecDeque};

use veilmq_protocol::{
    EncodeError, Packet, PacketId, PacketType, ProtocolVersion, ReasonCode, Subscribe, SubscribeFiltersBuf,
    SubscribeOptions, TopicFilter, Unsubscribe, UnsubscribeFiltersBuf, UserProperties,
};

use super::{
    event::{CloseReason, Event, Token},
    outbound::PacketIds,
    output::Output,
};

enum Request {
    Subscribe { token: Option<Token>, filters: Vec<String>, options: SubscribeOptions },
    Unsubscribe { token: Option<Token>, filter: String },
}

/// How long the answer to a request may take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The request is in the output.
    NotDue,
    /// Until this moment, in monotonic milliseconds.
    Due(u64),
    /// It took too long.
    GivenUp,
}

struct Sent {
    request: Request,
    answer: Answer,
}

#[derive(Default)]
pub(super) struct Requests {
    waiting: VecDeque<Request>,
    sent: BTreeMap<PacketId, Sent>,
    subscriptions: BTreeMap<String, SubscribeOptions>,
}

impl Requests {
    pub(super) fn subscribe(&mut self, token: Token, filters: &[String], options: SubscribeOptions) {
        let filters = filters.to_vec();
        self.waiting.push_back(Request::Subscribe { token: Some(token), filters, options });
    }

    /// `token` is `None` when nobody waits for the answer.
    pub(super) fn unsubscribe(&mut self, token: Option<Token>, filter: &str) {
        self.waiting.push_back(Request::Unsubscribe { token, filter: filter.to_owned() });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.values().all(|sent| sent.answer == Answer::GivenUp)
    }

    /// The output is on its way, and the answers to what is in it are due.
    pub(super) fn left(&mut self, due_ms: u64) {
        for sent in self.sent.values_mut().filter(|sent| sent.answer == Answer::NotDue) {
            sent.answer = Answer::Due(due_ms);
        }
    }

    /// Nothing was read for a while, so the answers that are missing are due later.
    pub(super) fn postpone(&mut self, due_ms: u64) {
        for sent in self.sent.values_mut().filter(|sent| matches!(sent.answer, Answer::Due(_))) {
            sent.answer = Answer::Due(due_ms);
        }
    }

    /// When [`give_up`](Self::give_up) has something to do, in monotonic milliseconds.
    pub(super) fn due(&self) -> Option<u64> {
        let due = self.sent.values().filter_map(|sent| match sent.answer {
            Answer::Due(due_ms) => Some(due_ms),
            Answer::NotDue | Answer::GivenUp => None,
        });
        due.min()
    }

    /// Gives up what should have been answered by now: that is told in `events`.
    pub(super) fn give_up(&mut self, now_ms: u64, after_ms: u64, events: &mut VecDeque<Event>) {
        let is_late = |sent: &&mut Sent| matches!(sent.answer, Answer::Due(due_ms) if due_ms <= now_ms);
        for sent in self.sent.values_mut().filter(is_late) {
            sent.answer = Answer::GivenUp;
            events.push_back(Event::Unanswered { token: sent.request.token(), after_ms });
        }
    }

    pub(super) fn connected(&mut self, session_present: bool) {
        if session_present {
            return;
        }
        let again = self.subscriptions.iter().map(|(filter, options)| Request::Subscribe {
            token: None,
            filters: vec![filter.clone()],
            options: *options,
        });
        self.waiting = again.chain(std::mem::take(&mut self.waiting)).collect();
    }

    /// Requests without an answer are made again on the next connection, but for those that are given up.
    pub(super) fn connection_lost(&mut self, ids: &mut PacketIds) {
        let sent = std::mem::take(&mut self.sent);
        let again = sent.into_iter().filter_map(|(id, sent)| {
            ids.release(id);
            (sent.answer != Answer::GivenUp).then_some(sent.request)
        });
        self.waiting = again.chain(std::mem::take(&mut self.waiting)).collect();
    }

    /// Sends what waits, but nothing that is larger than the server takes: that is told in `events`.
    pub(super) fn pump(
        &mut self,
        ids: &mut PacketIds,
        bytes_max: usize,
        output: &mut Output,
        events: &mut VecDeque<Event>,
    ) -> Result<(), EncodeError> {
        while let Some(request) = self.waiting.pop_front() {
            let Some(packet_id) = ids.take() else {
                self.waiting.push_front(request);
                return Ok(());
            };
            let bytes = request.send(packet_id, bytes_max, output)?;
            if bytes > bytes_max {
                ids.release(packet_id);
                events.push_back(Event::RequestTooLarge { token: request.token(), bytes, bytes_max });
                continue;
            }
            self.sent.insert(packet_id, Sent { request, answer: Answer::NotDue });
        }
        Ok(())
    }

    pub(super) fn answered(
        &mut self,
        answer: PacketType,
        id: PacketId,
        (reasons, text): (impl Iterator<Item = ReasonCode>, Option<&str>),
        ids: &mut PacketIds,
    ) -> Result<Option<Event>, CloseReason> {
        let unexpected = CloseReason::Unexpected(answer);
        let Some(Sent { request, answer: due }) = self.sent.remove(&id) else { return Err(unexpected) };
        let is_given_up = due == Answer::GivenUp;
        ids.release(id);
        let reasons: Vec<ReasonCode> = reasons.collect();
        let granted = |index: usize| reasons.get(index).is_some_and(|reason| !reason.is_error());
        let token = match (request, answer) {
            // [MQTT-3.8.4-6] One Reason Code for each filter.
            (Request::Subscribe { token, filters, options }, PacketType::SubAck)
                if filters.len() == reasons.len() =>
            {
                // Who has been told that there is no answer does not count on the subscription.
                let made = filters.into_iter().enumerate();
                let made = made.filter(|(index, _)| granted(*index) && !is_given_up);
                self.subscriptions.extend(made.map(|(_, filter)| (filter, options)));
                token
            }
            (Request::Unsubscribe { token, filter }, PacketType::UnsubAck) if reasons.len() == 1 => {
                if granted(0) {
                    self.subscriptions.remove(&filter);
                }
                token
            }
            _ => return Err(unexpected),
        };
        let token = token.filter(|_| !is_given_up);
        Ok(token.map(|token| Event::Answered { token, reasons, text: text.map(str::to_owned) }))
    }
}

/// Sends a packet unless it is larger than the server takes, and returns its size.
fn send_within(bytes_max: usize, packet: &Packet<'_>, output: &mut Output) -> Result<usize, EncodeError> {
    let bytes = packet.encoded_len(ProtocolVersion::V5)?;
    // [MQTT-3.2.2-15]
    if bytes <= bytes_max {
        output.packet(packet)?;
    }
    Ok(bytes)
}

impl Request {
    const fn token(&self) -> Option<Token> {
        match self {
            Self::Subscribe { token, .. } | Self::Unsubscribe { token, .. } => *token,
        }
    }

    fn send(&self, packet_id: PacketId, bytes_max: usize, output: &mut Output) -> Result<usize, EncodeError> {
        let topic_filter =
            |filter| TopicFilter::new(filter).map_err(|_| EncodeError::OutOfRange("Topic Filter"));
        match self {
            Self::Subscribe { filters, options, .. } => {
                let mut encoded = SubscribeFiltersBuf::new();
                for filter in filters {
                    encoded.push(topic_filter(filter)?, *options)?;
                }
                let packet = Packet::Subscribe(Subscribe {
                    packet_id,
                    subscription_id: None,
                    user: UserProperties::default(),
                    filters: encoded.as_filters(),
                });
                send_within(bytes_max, &packet, output)
            }
            Self::Unsubscribe { filter, .. } => {
                let mut filters = UnsubscribeFiltersBuf::new();
                filters.push(topic_filter(filter)?);
                let packet = Packet::Unsubscribe(Unsubscribe {
                    packet_id,
                    user: UserProperties::default(),
                    filters: filters.as_filters(),
                });
                send_within(bytes_max, &packet, output)
            }
        }
    }
}
