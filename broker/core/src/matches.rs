//! Who wants a topic: the targets, and the groups that share its messages.
//!
//! Overlapping subscriptions of a session are merged here, so that each session is a target once ([MQTT-3.3.4-2],
//! [MQTT-3.3.4-3]); groups stay apart, and a session may be a target and a member of several. Each shard remembers recent
//! matches, so that a topic seen before costs one lookup and one atomic load.

use std::collections::HashMap;
use std::sync::Arc;

use veilmq_protocol::{QoS, TopicName};

use crate::id::{IdHasher, IdMap, SessionId, ShardIndex};
use crate::routes::{Routes, Subscriber};
use crate::share::Share;

/// A session that wants a topic, all its matching subscriptions merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The session.
    pub session: SessionId,
    /// The highest QoS granted by a matching subscription.
    pub qos: QoS,
    /// Whether a matching subscription asked for Retain As Published.
    pub retain_as_published: bool,
    /// The Subscription Identifiers of the matching subscriptions.
    pub subscription_ids: Vec<u32>,
    /// Whether deliveries of QoS 1 and 2 are stored.
    pub durable: bool,
    /// Whether a matching subscription asked for No Local.
    any_no_local: bool,
}

/// The targets of one topic, grouped by the shard where they live, and the groups that share its messages.
#[derive(Debug, Default)]
pub struct Matches {
    groups: Vec<(ShardIndex, Vec<Target>)>,
    shares: Vec<Share>,
    /// A target asked for No Local.
    any_no_local: bool,
}

impl Matches {
    /// Returns the targets on one shard.
    pub(crate) fn on(&self, shard: ShardIndex) -> &[Target] {
        self.groups.iter().find(|(index, _)| *index == shard).map_or(&[], |(_, targets)| targets)
    }

    /// Returns the shards that have targets.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardIndex> + '_ {
        self.groups.iter().map(|(index, _)| *index)
    }

    /// Returns every target.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.groups.iter().flat_map(|(_, targets)| targets)
    }

    /// Returns how many sessions get a copy, whichever these are of each group.
    pub(crate) fn copies(&self) -> usize {
        self.groups.iter().map(|(_, targets)| targets.len()).sum::<usize>() + self.shares.len()
    }

    /// Returns the groups of Shared Subscriptions that each get one copy.
    pub(crate) fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// Tells whether the session is a target, whatever groups it is a member of.
    pub(crate) fn has_target(&self, shard: ShardIndex, session: SessionId) -> bool {
        self.on(shard).binary_search_by_key(&session, |target| target.session).is_ok()
    }

    /// Returns about how many bytes the targets and groups occupy.
    fn size_bytes(&self) -> usize {
        let targets = self.targets().map(|target| size_of::<Target>() + 4 * target.subscription_ids.len());
        targets.sum::<usize>() + self.shares.iter().map(Share::size_bytes).sum::<usize>()
    }

    /// Tells whether nobody wants the topic.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.shares.is_empty()
    }

    /// Tells whether nobody has subscribed to the topic; a publisher that its No Local leaves out has.
    pub(crate) fn finds_nobody(&self) -> bool {
        self.is_empty() && !self.any_no_local
    }

    /// Takes note that the publisher was left out.
    pub(crate) fn without_publisher(self) -> Self {
        Self { any_no_local: true, ..self }
    }

    /// Tells whether `publisher` would be treated differently from others because of No Local.
    fn concerns_no_local(&self, publisher: SessionId) -> bool {
        self.any_no_local && self.targets().any(|target| target.session == publisher && target.any_no_local)
    }

    /// Merges what each session asked for.
    pub(crate) fn merge(subscribers: &[Subscriber], shares: Vec<Share>) -> Self {
        let mut by_session: IdMap<SessionId, (ShardIndex, Target)> = IdMap::default();
        for subscriber in subscribers {
            let (_, target) = by_session.entry(subscriber.session).or_insert_with(|| {
                (
                    subscriber.shard,
                    Target {
                        session: subscriber.session,
                        qos: QoS::AtMostOnce,
                        retain_as_published: false,
                        subscription_ids: Vec::new(),
                        durable: subscriber.durable,
                        any_no_local: false,
                    },
                )
            });
            target.qos = target.qos.max(subscriber.qos);
            target.retain_as_published |= subscriber.retain_as_published;
            target.any_no_local |= subscriber.no_local;
            // [MQTT-3.3.4-4]
            target.subscription_ids.extend(subscriber.subscription_id);
        }
        let mut merged: Vec<(ShardIndex, Target)> = by_session.into_values().collect();
        // A fixed order makes a turn reproducible, whatever the hash seed.
        merged.sort_unstable_by_key(|(shard, target)| (*shard, target.session));
        let mut groups: Vec<(ShardIndex, Vec<Target>)> = Vec::new();
        for (shard, target) in merged {
            match groups.last_mut() {
                Some((last, targets)) if *last == shard => targets.push(target),
                _ => groups.push((shard, vec![target])),
            }
        }
        let any_no_local = subscribers.iter().any(|subscriber| subscriber.no_local);
        Self { groups, shares, any_no_local }
    }
}

/// One shard's memory of recent matches, valid as long as no subscription changes.
#[derive(Debug)]
pub(crate) struct MatchCache {
    generation: u64,
    topics: HashMap<Arc<str>, Arc<Matches>>,
    bytes: usize,
    /// The last topic of each slot.
    recent: Box<[Option<Recent>]>,
}

/// A topic that is found without the hash that no publisher can foresee: that takes longer than all else here. Who makes topics
/// meet in a slot gains nothing, for they are then looked up as others are.
#[derive(Clone, Debug)]
struct Recent {
    topic: Arc<str>,
    matches: Arc<Matches>,
}

/// How many topics a shard finds at once.
const RECENT_TOPICS: usize = 512;

/// What a shard remembers, in bytes; beyond it the cache starts afresh. Publishers choose the topics, so they count too.
const CACHED_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Default for MatchCache {
    fn default() -> Self {
        Self {
            generation: 0,
            topics: HashMap::new(),
            bytes: 0,
            recent: vec![None; RECENT_TOPICS].into_boxed_slice(),
        }
    }
}

impl MatchCache {
    /// Returns who gets a message that `publisher` published to `topic`.
    pub(crate) fn matches(
        &mut self,
        routes: &Routes,
        topic: TopicName<'_>,
        publisher: Option<SessionId>,
    ) -> Arc<Matches> {
        if self.is_outdated(routes) {
            self.clear();
            self.generation = routes.generation();
        }
        let matches = self.all_matches(routes, topic);
        // [MQTT-3.8.3-3] A client's own messages do not come back to it. Rare, so not cached.
        if let Some(publisher) = publisher
            && matches.concerns_no_local(publisher)
        {
            return Arc::new(routes.find(topic, Some(publisher)).without_publisher());
        }
        matches
    }

    fn all_matches(&mut self, routes: &Routes, topic: TopicName<'_>) -> Arc<Matches> {
        let slot = IdHasher::slot_of(topic.as_str().as_bytes(), RECENT_TOPICS);
        if let Some(Some(recent)) = self.recent.get(slot)
            && *recent.topic == *topic.as_str()
        {
            return Arc::clone(&recent.matches);
        }
        if let Some((topic, matches)) = self.topics.get_key_value(topic.as_str()) {
            let recent = Recent { topic: Arc::clone(topic), matches: Arc::clone(matches) };
            return self.keep_at_hand(slot, recent);
        }
        let matches = Arc::new(routes.find(topic, None));
        match self.remember(topic, &matches) {
            Some(topic) => self.keep_at_hand(slot, Recent { topic, matches }),
            None => matches,
        }
    }

    fn keep_at_hand(&mut self, slot: usize, recent: Recent) -> Arc<Matches> {
        let matches = Arc::clone(&recent.matches);
        if let Some(place) = self.recent.get_mut(slot) {
            *place = Some(recent);
        }
        matches
    }

    /// Tells whether a subscription has changed since [`MatchCache::matches`].
    pub(crate) fn is_outdated(&self, routes: &Routes) -> bool {
        routes.generation() != self.generation
    }

    /// Returns the topic as it is remembered; None if it is too large for that.
    fn remember(&mut self, topic: TopicName<'_>, matches: &Arc<Matches>) -> Option<Arc<str>> {
        let entry_bytes = size_of::<(Arc<str>, Matches)>() + topic.as_str().len() + matches.size_bytes();
        if self.bytes + entry_bytes > CACHED_BYTES_MAX {
            self.clear();
        }
        if entry_bytes > CACHED_BYTES_MAX {
            return None;
        }
        self.bytes += entry_bytes;
        let topic: Arc<str> = Arc::from(topic.as_str());
        self.topics.insert(Arc::clone(&topic), Arc::clone(matches));
        Some(topic)
    }

    fn clear(&mut self) {
        if !self.topics.is_empty() {
            self.recent.fill(None);
        }
        self.topics.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use veilmq_protocol::TopicFilter;

    use super::*;
    use crate::routes::tests::subscriber;

    #[test]
    fn a_cached_match_is_forgotten_when_a_subscription_changes() {
        let routes = Routes::default();
        let mut cache = MatchCache::default();
        let topic = TopicName::new("t").unwrap();
        assert!(cache.matches(&routes, topic, None).is_empty());

        assert!(routes.subscribe(TopicFilter::new("t").unwrap(), subscriber(1, 0, QoS::AtMostOnce)));
        assert!(!cache.matches(&routes, topic, None).is_empty());

        assert!(routes.unsubscribe(TopicFilter::new("t").unwrap(), SessionId(1)));
        assert!(cache.matches(&routes, topic, None).is_empty());
        assert!(!routes.unsubscribe(TopicFilter::new("t").unwrap(), SessionId(1)));
    }

    #[test]
    fn what_is_cached_is_bounded_however_long_the_topics_are() {
        let routes = Routes::default();
        let mut cache = MatchCache::default();
        for number in 0..300 {
            let topic = format!("{number}{}", "x".repeat(60_000));
            cache.matches(&routes, TopicName::new(&topic).unwrap(), None);

            let held: usize = cache.topics.keys().map(|topic| topic.len()).sum();
            assert!(held <= CACHED_BYTES_MAX, "{held} bytes after {number}");
        }
        assert!(cache.topics.len() > 1);
    }

    #[test]
    fn no_local_leaves_out_the_publisher_only_where_no_other_subscription_of_it_matches() {
        let routes = Routes::default();
        let mut cache = MatchCache::default();
        let topic = TopicName::new("a/b").unwrap();
        let own = Subscriber { no_local: true, ..subscriber(1, 0, QoS::AtMostOnce) };
        routes.subscribe(TopicFilter::new("a/#").unwrap(), own);

        assert!(cache.matches(&routes, topic, Some(SessionId(1))).is_empty());
        assert!(!cache.matches(&routes, topic, Some(SessionId(2))).is_empty());

        routes.subscribe(TopicFilter::new("a/b").unwrap(), subscriber(1, 0, QoS::AtMostOnce));
        assert!(!cache.matches(&routes, topic, Some(SessionId(1))).is_empty());
    }
}
