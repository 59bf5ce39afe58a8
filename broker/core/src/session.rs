//! Session State: what the broker remembers of a client between its connections.
//!
//! Pure data with its own bookkeeping; the shard decides what to do with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use veilmq_protocol::{PacketId, TopicFilter, TopicName};

use crate::access::{AccessTables, Action, Asker, BRIDGES, CertificateFields, Names, Permissions, User};
use crate::e2e::Member;
use crate::entrance::EntranceId;
use crate::id::{ConnectionId, IdSet, SessionId};
use crate::message::Message;
use crate::outbound::Outbound;
use crate::record::{Record, SessionRecord, SubscriptionRecord, WillRecord};
use crate::share::{Availability, Preference};
use crate::source::Source;
use crate::stats::Stats;
use crate::time::Moment;

/// The interval that never ends ([MQTT-3.1.2-23], section 3.1.2.11.2).
pub(crate) const NEVER_EXPIRES: u32 = u32::MAX;

/// The state of one session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) client_id: Arc<str>,
    pub(crate) connection: Option<ConnectionId>,
    /// The listener that its client came by last, if that was since the start of the broker.
    pub(crate) entrance: Option<EntranceId>,
    /// Its client proved who it is: as `user`, or with a VEIL-1 identity that vouches for the Client Identifier if there is none.
    pub(crate) authenticated: bool,
    /// The user that its client is, or only says it is; None with an identity, and for clients without a user name.
    pub(crate) user: Option<User>,
    /// The VEIL-1 identity of its client, since that connected last.
    pub(crate) identity: Option<Arc<Member>>,
    /// What its client may do; None if that is everything.
    pub(crate) permissions: Option<Box<Permissions>>,
    /// What is published at QoS 0 waits for it too while it has no connection.
    pub(crate) keeps_qos0: bool,
    /// Something that came for it found no room while it had no connection, or one that takes nothing.
    pub(crate) lacked_room: bool,
    /// The session outlives its connection, so its state is stored. It stays so once it has been.
    pub(crate) durable: bool,
    pub(crate) expiry_seconds: u32,
    pub(crate) disconnected_at: Option<Moment>,
    pub(crate) subscriptions: BTreeMap<Arc<str>, SubscriptionRecord>,
    pub(crate) will: Option<Box<WillRecord>>,
    pub(crate) outbound: Outbound,
    /// QoS 2 Packet Identifiers of the client that await PUBREL ([MQTT-4.3.3-10]).
    pub(crate) received: Received,
    /// There once its client has shown a certificate, or retained a message.
    origin: Option<Box<Origin>>,
    /// What other shards see of it; there once the session has been a member of a group.
    pub(crate) availability: Option<Arc<Availability>>,
    /// The timer that is armed for the end of the session or its Will.
    pub(crate) timer_at: Option<Moment>,
    /// The timer that is armed for the next message that waits to expire.
    pub(crate) queue_timer_at: Option<Moment>,
}

/// Where the messages of a client come from, beyond its names.
#[derive(Debug, Default)]
struct Origin {
    /// What the certificate says that the client has shown to TLS, since it connected last.
    certificate: Option<Arc<CertificateFields>>,
    /// What its retained messages say of whose they are.
    source: Option<Arc<Source>>,
}

impl Session {
    pub(crate) fn new(id: SessionId, client_id: Arc<str>) -> Self {
        Self {
            id,
            client_id,
            connection: None,
            entrance: None,
            authenticated: false,
            user: None,
            identity: None,
            permissions: None,
            keeps_qos0: false,
            lacked_room: false,
            durable: false,
            expiry_seconds: 0,
            disconnected_at: None,
            subscriptions: BTreeMap::new(),
            will: None,
            outbound: Outbound::default(),
            received: Received::default(),
            origin: None,
            availability: None,
            timer_at: None,
            queue_timer_at: None,
        }
    }

    /// Returns the durable form of the session's head.
    pub(crate) fn head(&self) -> Record {
        Record::Session(SessionRecord {
            session: self.id,
            client_id: Arc::clone(&self.client_id),
            authenticated: self.authenticated,
            user: self.user.as_ref().map(|user| Arc::clone(&user.name)),
            expiry_seconds: self.expiry_seconds,
            disconnected_at: self.disconnected_at,
            will: self.will.as_deref().cloned(),
            last_identifier: self.outbound.last_identifier,
        })
    }

    /// Returns the name by which rules know its client; that of a certificate is its Client Identifier.
    pub(crate) fn user_name(&self) -> Option<&str> {
        match &self.user {
            Some(user) => Some(&user.name),
            None if self.authenticated => Some(&self.client_id),
            None => None,
        }
    }

    /// Returns the name of its user for the log; a bridge has none.
    pub(crate) fn told_user(&self) -> Option<&str> {
        self.user.as_ref().map(|user| &*user.name).filter(|name| *name != BRIDGES)
    }

    /// Returns what the certificate says that its client has shown to TLS, since that connected last.
    pub(crate) fn certificate(&self) -> Option<&Arc<CertificateFields>> {
        self.origin.as_ref()?.certificate.as_ref()
    }

    /// Takes note of what the certificate of its client says, or that it has shown none.
    pub(crate) fn show_certificate(&mut self, certificate: Option<Arc<CertificateFields>>) {
        if certificate.is_some() || self.origin.is_some() {
            self.origin.get_or_insert_default().certificate = certificate;
        }
    }

    /// Returns its client as rules know it.
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker {
            names: Names {
                user: self.user_name(),
                client_id: &self.client_id,
                certificate: self.certificate().map(|certificate| &**certificate),
            },
            rules: self.user.as_ref().and_then(User::rules),
        }
    }

    /// Returns whose a message is that its client retains now; `listener` is the name of the one it came by. What its certificate says
    /// is part of that where rules go by it.
    pub(crate) fn source(&mut self, listener: Option<&Arc<str>>, needs_certificate: bool) -> &Arc<Source> {
        let user = match &self.user {
            Some(user) => Some(&user.name),
            None => self.authenticated.then_some(&self.client_id),
        };
        let origin = self.origin.get_or_insert_default();
        let certificate = origin.certificate.as_ref().filter(|_| needs_certificate);
        let is_vouched = self.user.as_ref().and_then(User::rules).is_some();
        let is_current = |known: &Arc<Source>| {
            known.user.as_ref() == user
                && known.listener.as_ref() == listener
                && known.is_vouched == is_vouched
                && known.certificate.as_ref() == certificate
        };
        let known = origin.source.take().filter(is_current);
        origin.source.insert(known.unwrap_or_else(|| {
            Arc::new(Source {
                client_id: Arc::clone(&self.client_id),
                user: user.map(Arc::clone),
                listener: listener.map(Arc::clone),
                is_vouched,
                certificate: certificate.map(Arc::clone),
            })
        }))
    }

    /// Tells whether its client may receive a message now.
    pub(crate) fn may_receive(&mut self, message: &Message, stats: &Stats) -> bool {
        permits_receiving(&mut self.permissions, message, stats)
    }

    /// Tells whether its client would still be let in.
    pub(crate) fn is_admitted(&self, access: &AccessTables) -> bool {
        access.admits(self.entrance, self.user.as_ref(), self.authenticated && self.user.is_none())
    }

    /// Returns how many of the subscriptions are shared.
    pub(crate) fn shared_subscriptions(&self) -> usize {
        self.subscriptions.keys().filter(|filter| is_shared(filter)).count()
    }

    /// Lets no shard choose the session for a message any more, as far as there is anybody else.
    pub(crate) fn withdraw(&self) {
        if let Some(availability) = &self.availability {
            availability.show(Preference::Unreachable, Preference::Unreachable);
        }
    }

    /// Returns when the session ends if nobody reconnects; None while connected ([MQTT-4.1.0-1]) or if it never does.
    pub(crate) fn ends_at(&self) -> Option<Moment> {
        let since = self.disconnected_at?;
        (self.expiry_seconds != NEVER_EXPIRES).then(|| since.plus_seconds(u64::from(self.expiry_seconds)))
    }

    /// Tells whether the session is to end now.
    pub(crate) fn is_over(&self, now: Moment) -> bool {
        self.ends_at().is_some_and(|at| at <= now)
    }

    /// Returns when the Will is due: after its delay or with the end of the session, whichever is first ([MQTT-3.1.2-8]).
    pub(crate) fn will_at(&self) -> Option<Moment> {
        let due = self.disconnected_at?.plus_seconds(u64::from(self.will.as_ref()?.delay_seconds));
        Some(self.ends_at().map_or(due, |end| due.min(end)))
    }

    /// Returns when this disconnected session next needs attention.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        match (self.will_at(), self.ends_at()) {
            (Some(will), Some(end)) => Some(will.min(end)),
            (will, end) => will.or(end),
        }
    }
}

/// QoS 2 Packet Identifiers of a client that await PUBREL. Most sessions never have any, and hold no set then.
#[derive(Debug, Default)]
pub(crate) struct Received(Option<Box<IdSet<PacketId>>>);

impl Received {
    /// Tells whether an identifier awaits PUBREL.
    pub(crate) fn contains(&self, packet_id: PacketId) -> bool {
        self.0.as_ref().is_some_and(|identifiers| identifiers.contains(&packet_id))
    }

    /// Lets an identifier await PUBREL.
    pub(crate) fn insert(&mut self, packet_id: PacketId) {
        self.0.get_or_insert_default().insert(packet_id);
    }

    /// Frees an identifier; true if it awaited PUBREL.
    pub(crate) fn remove(&mut self, packet_id: PacketId) -> bool {
        self.0.as_mut().is_some_and(|identifiers| identifiers.remove(&packet_id))
    }
}

impl FromIterator<PacketId> for Received {
    fn from_iter<T: IntoIterator<Item = PacketId>>(identifiers: T) -> Self {
        let identifiers: IdSet<PacketId> = identifiers.into_iter().collect();
        Self((!identifiers.is_empty()).then(|| Box::new(identifiers)))
    }
}

/// Tells whether a client with these permissions may receive a message now.
pub(crate) fn permits_receiving(
    permissions: &mut Option<Box<Permissions>>,
    message: &Message,
    stats: &Stats,
) -> bool {
    match permissions {
        None => true,
        Some(permissions) => ask_for_receiving(permissions, message, stats),
    }
}

/// Kept out of the way of deliveries to clients without rules.
#[inline(never)]
fn ask_for_receiving(permissions: &mut Permissions, message: &Message, stats: &Stats) -> bool {
    let is_allowed = TopicName::new(message.topic()).is_ok_and(|topic| permissions.allow_receive(topic));
    stats.acl_checked(Action::Receive, is_allowed);
    is_allowed
}

/// Tells whether a filter, as subscribed, is that of a Shared Subscription.
fn is_shared(filter: &str) -> bool {
    TopicFilter::new(filter).is_ok_and(|filter| filter.shared().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_does_nothing_takes_little_memory() {
        assert!(size_of::<Session>() <= 320, "{} bytes", size_of::<Session>());
    }
}
