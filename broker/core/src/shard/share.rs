//! Shared Subscriptions on a shard: a copy of each message for each group, and what becomes of a copy whose session ends.

use std::collections::HashMap;
use std::sync::Arc;

use veilmq_protocol::{QoS, TopicFilter};

use super::Shard;
use crate::effect::Parcel;
use crate::id::{IdSet, SessionId};
use crate::matches::Matches;
use crate::message::Message;
use crate::record::{Record, Reference};
use crate::share::{Allotment, Member, Preference, Share};
use crate::time::Moment;
use crate::waiting::Delivery;

/// The member of a group that gets a message.
pub(super) struct Choice {
    share: Arc<str>,
    member: Arc<Member>,
    /// Its session gets the message for another reason too. References are told apart by session and message, so this copy
    /// has to be stored as another message.
    is_second: bool,
}

impl Choice {
    /// Tells whether the member's copy is stored.
    pub(super) fn stores(&self, published: QoS) -> bool {
        self.member.stores(published)
    }

    /// Tells whether the stored body of the publication has to wait for this member.
    pub(super) fn refers_to_publication(&self, published: QoS) -> bool {
        !self.is_second && self.stores(published)
    }
}

/// The groups among whose choices a session is looked for one by one; nearly always there are fewer.
const FEW: usize = 8;

/// Chooses a member of each group that wants a message of this QoS.
pub(super) fn choose(matches: &Matches, published: QoS) -> Vec<Choice> {
    let mut choices: Vec<Choice> = Vec::new();
    // One session can be in ten thousand groups of one topic, and each must not be compared with all others.
    let mut chosen = (matches.shares().len() > FEW).then(IdSet::<SessionId>::default);
    for share in matches.shares() {
        let Some(member) = share.choose(published) else { continue };
        let subscriber = &member.subscriber;
        let is_again = match &mut chosen {
            Some(chosen) => !chosen.insert(subscriber.session),
            None => choices.iter().any(|earlier| earlier.member.subscriber.session == subscriber.session),
        };
        let is_second = is_again || matches.has_target(subscriber.shard, subscriber.session);
        choices.push(Choice { share: Arc::clone(share.filter()), member: Arc::clone(member), is_second });
    }
    choices
}

impl Shard {
    /// Makes the copies of a message for the chosen members. Those that refer to the publication's body join `references`.
    pub(super) fn allot(
        &mut self,
        choices: Vec<Choice>,
        message: &Arc<Message>,
        references: &mut Vec<Reference>,
    ) -> Vec<Allotment> {
        let mut allotments = Vec::with_capacity(choices.len());
        for Choice { share, member, is_second } in choices {
            let mut allotment = Allotment { message: Arc::clone(message), share, member };
            if is_second {
                self.store_copy(&mut allotment);
            } else if message.id().is_some() {
                references.extend(allotment.reference());
            }
            allotments.push(allotment);
        }
        allotments
    }

    /// Stores a copy as a message of its own, if the chosen session's deliveries are stored.
    fn store_copy(&mut self, allotment: &mut Allotment) {
        let Some(reference) = allotment.reference() else { return };
        if self.settings.relaxed_topics.is_in_memory(allotment.message.topic()) {
            return;
        }
        allotment.message = allotment.message.with_id(self.shared.next_message(), 1);
        let message = Arc::clone(&allotment.message);
        self.records.push(Record::Published { message, references: vec![reference] });
    }

    /// Gives a group's copy to the chosen session, here or on its shard.
    pub(super) fn hand_out(&mut self, allotment: Allotment, now: Moment) {
        match allotment.member.subscriber.shard {
            home if home == self.index => self.deliver_allotment(allotment, now),
            home => self.parcels.push((home, Parcel::Allot(allotment))),
        }
    }

    /// Delivers a group's copy to a session of this shard; another member gets it if the session has ended.
    pub(super) fn deliver_allotment(&mut self, allotment: Allotment, now: Moment) {
        let session = allotment.member.subscriber.session;
        let qos = allotment.member.qos(allotment.message.qos());
        let delivery = Delivery {
            qos,
            retain: allotment.retain(),
            subscription_ids: allotment.member.subscriber.subscription_id.into_iter().collect(),
            stored: allotment.member.stores(allotment.message.qos())
                && !self.settings.relaxed_topics.is_in_memory(allotment.message.topic()),
            message: allotment.message,
            share: Some(allotment.share),
        };
        if self.sessions.contains_key(&session) {
            self.deliver_to(session, delivery, now);
        } else {
            self.bequeath(session, vec![delivery.into()], now);
        }
    }

    /// Gives the copies of a session that has ended to other members of their groups, in order ([MQTT-4.8.2-5]).
    ///
    /// Each gets a new identity: the new owner may have the message already, and identities order what a session gets.
    pub(super) fn pass_on(&mut self, deliveries: &[Delivery], now: Moment) {
        let mut shares: HashMap<&Arc<str>, Option<Share>> = HashMap::new();
        for delivery in deliveries {
            let Some(filter) = &delivery.share else { continue };
            let share = shares.entry(filter).or_insert_with(|| {
                TopicFilter::new(filter).ok().and_then(|filter| self.shared.routes.share(filter))
            });
            let Some(member) = share.as_ref().and_then(|share| share.choose(delivery.message.qos())) else {
                continue;
            };
            let mut allotment = Allotment {
                message: Arc::clone(&delivery.message),
                share: Arc::clone(filter),
                member: Arc::clone(member),
            };
            self.store_copy(&mut allotment);
            self.hand_out(allotment, now);
        }
    }

    /// Shows every shard how well a session can take messages, if it is a member of a group.
    pub(super) fn show_availability(&self, session: SessionId, now: Moment) {
        if self.gauges.shared_subscriptions == 0 {
            return;
        }
        let Some(state) = self.sessions.get(&session) else { return };
        let Some(availability) = &state.availability else { return };
        let limits = &self.settings;
        let is_full =
            state.outbound.is_full(0, limits.session_queue_messages_max, limits.session_queue_bytes_max);
        let preference = |qos| match state.connection {
            Some(connection) if state.outbound.may_send_now(qos) && self.has_space(connection) => {
                Preference::Ready
            }
            // Sessions that are found over after a crash would pass messages to one another before anybody else gets them.
            None if qos == QoS::AtMostOnce || state.is_over(now) => Preference::Unreachable,
            Some(_) | None if is_full => Preference::Full,
            Some(_) => Preference::Busy,
            None => Preference::Away,
        };
        availability.show(preference(QoS::AtMostOnce), preference(QoS::AtLeastOnce));
    }

    /// Keeps messages away from the sessions that end with their connections, when all connections are about to.
    pub(super) fn withdraw_transient_members(&self) {
        for state in self.sessions.values().filter(|state| state.expiry_seconds == 0) {
            state.withdraw();
        }
    }
}
