//! What sessions leave behind when they end: copies of groups, which other members get instead ([MQTT-4.8.2-5]).
//!
//! They are passed on in order, one after the other, because their messages may have to be read back first. Each keeps its
//! stored reference until its successor is in the same batch, so that a crash in between loses none.

use std::collections::VecDeque;
use std::sync::Arc;

use veilmq_protocol::TopicFilter;

use super::Shard;
use super::spill::{READ_BYTES_MAX, answers};
use super::timer::Timer;
use crate::effect::Reader;
use crate::id::{MessageId, SessionId};
use crate::message::Message;
use crate::queue::Answers;
use crate::record::StoreError;
use crate::stats::DropReason;
use crate::time::Moment;
use crate::waiting::Waiting;

/// The time after which messages are asked for again that could not be read.
const RETRY_MILLISECONDS: u64 = 1_000;

/// The copies that ended sessions have left, oldest first.
#[derive(Debug, Default)]
pub(super) struct Estate {
    waiting: VecDeque<(SessionId, Waiting)>,
    /// Messages are being read back, or will be asked for again in a moment.
    is_reading: bool,
}

impl Shard {
    /// Leaves the copies of a session that has ended to other members of their groups.
    pub(super) fn bequeath(&mut self, session: SessionId, copies: Vec<Waiting>, now: Moment) {
        if copies.is_empty() {
            return;
        }
        self.estate.waiting.extend(copies.into_iter().map(|waiting| (session, waiting)));
        self.settle_estate(&Answers::default(), now);
    }

    /// Takes over what was recovered without a session; it is passed on with the first turn.
    pub(crate) fn adopt_estate(&mut self, ownerless: Vec<(SessionId, Waiting)>, now: Moment) {
        if !ownerless.is_empty() {
            self.estate.waiting.extend(ownerless);
            self.timers.insert((now, Timer::Estate));
        }
    }

    /// Passes on what was recovered, or tries to read it once more.
    pub(super) fn estate_deadline(&mut self, now: Moment) {
        self.estate.is_reading = false;
        self.settle_estate(&Answers::default(), now);
    }

    /// Passes on copies whose messages were read back.
    pub(super) fn fetched_for_heirs(
        &mut self,
        asked: &[MessageId],
        messages: Result<Vec<Arc<Message>>, StoreError>,
        now: Moment,
    ) {
        match messages {
            Ok(messages) => {
                self.estate.is_reading = false;
                self.settle_estate(&answers(asked, messages), now);
            }
            Err(error) => {
                tracing::error!(%error, "stored messages of ended sessions cannot be read now");
                self.timers.insert((now + RETRY_MILLISECONDS, Timer::Estate));
            }
        }
    }

    /// Passes on what can be, and asks for the messages of what follows.
    fn settle_estate(&mut self, answers: &Answers, now: Moment) {
        let mut ready = Vec::new();
        while let Some((session, mut waiting)) = self.estate.waiting.pop_front() {
            if let Waiting::Stub(stub) = &waiting {
                match answers.get(&stub.id()) {
                    Some(Some(message)) => waiting.fill(Arc::clone(message)),
                    Some(None) => {
                        self.drop_delivery(session, waiting, DropReason::Unreadable);
                        continue;
                    }
                    None if waiting.is_expired(now) => {
                        self.drop_delivery(session, waiting, DropReason::Expired);
                        continue;
                    }
                    None if self.has_heirs(&waiting) => {
                        self.estate.waiting.push_front((session, waiting));
                        break;
                    }
                    None => {}
                }
            }
            self.settle(session, &waiting);
            if let Waiting::Whole(delivery) = waiting {
                ready.push(delivery);
            }
        }
        self.ask_for_heirs();
        self.pass_on(&ready, now);
    }

    fn has_heirs(&self, waiting: &Waiting) -> bool {
        let filter = waiting.share().and_then(|filter| TopicFilter::new(filter).ok());
        filter.and_then(|filter| self.shared.routes.share(filter)).is_some()
    }

    fn ask_for_heirs(&mut self) {
        if self.estate.is_reading || self.estate.waiting.is_empty() {
            return;
        }
        let mut bytes = 0;
        let mut messages: Vec<MessageId> = Vec::new();
        for (_, waiting) in &self.estate.waiting {
            bytes += waiting.size_bytes();
            if bytes > READ_BYTES_MAX && !messages.is_empty() {
                break;
            }
            if let Waiting::Stub(stub) = waiting {
                messages.push(stub.id());
            }
        }
        self.estate.is_reading = true;
        self.fetches.push((Reader::Heirs, messages));
    }
}
