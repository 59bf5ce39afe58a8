//! The route table: which sessions want a topic.
//!
//! One trie of Topic Filters for all shards, changed under a lock and read through each shard's [`MatchCache`]: a hit costs
//! one lookup and one atomic load. Overlapping subscriptions of a session are merged here, so that each session is a target once
//! ([MQTT-3.3.4-2], [MQTT-3.3.4-3]). Walking is iterative, so no topic is too deep for the stack.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use veilmq_protocol::{QoS, TopicFilter, TopicName};

use crate::id::{IdMap, SessionId, ShardIndex};

/// A session's interest, as one filter states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscriber {
    pub(crate) session: SessionId,
    pub(crate) shard: ShardIndex,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_id: Option<u32>,
    /// The session outlives its connection, so QoS 1 and 2 deliveries to it are stored.
    pub(crate) durable: bool,
}

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

/// The targets of one topic, grouped by the shard where they live.
#[derive(Debug, Default)]
pub struct Matches {
    groups: Vec<(ShardIndex, Vec<Target>)>,
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

    /// Returns about how many bytes the targets occupy.
    fn size_bytes(&self) -> usize {
        self.targets().map(|target| size_of::<Target>() + 4 * target.subscription_ids.len()).sum()
    }

    /// Tells whether nobody wants the topic.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Tells whether `publisher` would be treated differently from others because of No Local.
    fn concerns_no_local(&self, publisher: SessionId) -> bool {
        self.targets().any(|target| target.session == publisher && target.any_no_local)
    }

    fn merge(subscribers: &[Subscriber]) -> Self {
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
        Self { groups }
    }
}

/// The trie of all subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    generation: AtomicU64,
    root: RwLock<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    /// Subscriptions whose filter ends at this level.
    here: Vec<Subscriber>,
    /// Subscriptions whose filter ends in "#" below this level.
    beneath: Vec<Subscriber>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_empty() && self.beneath.is_empty()
    }
}

impl Routes {
    /// Adds a subscription, or replaces the one of the same session and filter; true if it is new.
    pub(crate) fn subscribe(&self, filter: TopicFilter<'_>, subscriber: Subscriber) -> bool {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        let (levels, multi) = split(filter);
        let mut node = &mut *root;
        for level in levels {
            node = node.children.entry(Box::from(level)).or_default();
        }
        let list = if multi { &mut node.beneath } else { &mut node.here };
        let new = match list.iter_mut().find(|held| held.session == subscriber.session) {
            Some(held) => {
                *held = subscriber;
                false
            }
            None => {
                list.push(subscriber);
                true
            }
        };
        drop(root);
        self.generation.fetch_add(1, Ordering::Release);
        new
    }

    /// Removes a subscription; true if it was there.
    pub(crate) fn unsubscribe(&self, filter: TopicFilter<'_>, session: SessionId) -> bool {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        let (levels, multi) = split(filter);
        let removed = remove(&mut root, &levels, multi, session);
        drop(root);
        if removed {
            self.generation.fetch_add(1, Ordering::Release);
        }
        removed
    }

    /// Finds the sessions that want a topic ([MQTT-3.3.2-3]); those whose No Local subscriptions exclude `publisher` are left out.
    fn find(&self, topic: TopicName<'_>, publisher: Option<SessionId>) -> Matches {
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        let levels: Vec<&str> = topic.levels().collect();
        let mut found: Vec<Subscriber> = Vec::new();
        let mut collect = |list: &[Subscriber]| {
            found.extend(
                list.iter()
                    .filter(|subscriber| !(subscriber.no_local && publisher == Some(subscriber.session))),
            );
        };
        let mut pending: Vec<(&Node, usize)> = vec![(&root, 0)];
        while let Some((node, depth)) = pending.pop() {
            // [MQTT-4.7.2-1] A leading wildcard does not match topics that begin with "$".
            let wildcards = depth > 0 || !topic.is_dollar();
            if wildcards {
                // "a/#" matches "a" itself too.
                collect(&node.beneath);
            }
            let Some(level) = levels.get(depth) else {
                collect(&node.here);
                continue;
            };
            if let Some(child) = node.children.get(*level) {
                pending.push((child, depth + 1));
            }
            if wildcards && let Some(child) = node.children.get("+") {
                pending.push((child, depth + 1));
            }
        }
        Matches::merge(&found)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// Splits a filter into its literal and single-level parts, and whether "#" follows.
fn split(filter: TopicFilter<'_>) -> (Vec<&str>, bool) {
    let mut levels: Vec<&str> = filter.levels().collect();
    let multi = levels.last() == Some(&"#");
    if multi {
        levels.pop();
    }
    (levels, multi)
}

/// Removes a subscription and prunes branches that became empty. The depth is bounded by `topic_levels_max`.
fn remove(node: &mut Node, levels: &[&str], multi: bool, session: SessionId) -> bool {
    let Some((level, rest)) = levels.split_first() else {
        let list = if multi { &mut node.beneath } else { &mut node.here };
        let before = list.len();
        list.retain(|held| held.session != session);
        return list.len() != before;
    };
    let Some(child) = node.children.get_mut(*level) else { return false };
    let removed = remove(child, rest, multi, session);
    if child.is_empty() {
        node.children.remove(*level);
    }
    removed
}

/// One shard's memory of recent matches, valid as long as no subscription changes.
#[derive(Debug, Default)]
pub(crate) struct MatchCache {
    generation: u64,
    topics: HashMap<Box<str>, Arc<Matches>>,
    bytes: usize,
}

/// What a shard remembers, in bytes; beyond it the cache starts afresh. Publishers choose the topics, so they count too.
const CACHED_BYTES_MAX: usize = 8 * 1024 * 1024;

impl MatchCache {
    /// Returns who gets a message that `publisher` published to `topic`.
    pub(crate) fn matches(
        &mut self,
        routes: &Routes,
        topic: TopicName<'_>,
        publisher: Option<SessionId>,
    ) -> Arc<Matches> {
        let generation = routes.generation();
        if generation != self.generation {
            self.clear();
            self.generation = generation;
        }
        let matches = match self.topics.get(topic.as_str()) {
            Some(matches) => Arc::clone(matches),
            None => {
                let matches = Arc::new(routes.find(topic, None));
                self.remember(topic, &matches);
                matches
            }
        };
        // [MQTT-3.8.3-3] A client's own messages do not come back to it. Rare, so not cached.
        if let Some(publisher) = publisher
            && matches.concerns_no_local(publisher)
        {
            return Arc::new(routes.find(topic, Some(publisher)));
        }
        matches
    }

    fn remember(&mut self, topic: TopicName<'_>, matches: &Arc<Matches>) {
        let entry_bytes = size_of::<(Box<str>, Matches)>() + topic.as_str().len() + matches.size_bytes();
        if self.bytes + entry_bytes > CACHED_BYTES_MAX {
            self.clear();
        }
        if entry_bytes <= CACHED_BYTES_MAX {
            self.bytes += entry_bytes;
            self.topics.insert(Box::from(topic.as_str()), Arc::clone(matches));
        }
    }

    fn clear(&mut self) {
        self.topics.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriber(session: u64, shard: u16, qos: QoS) -> Subscriber {
        Subscriber {
            session: SessionId(session),
            shard: ShardIndex(shard),
            qos,
            no_local: false,
            retain_as_published: false,
            subscription_id: None,
            durable: false,
        }
    }

    fn sessions(routes: &Routes, topic: &str) -> Vec<u64> {
        let mut found: Vec<u64> = routes
            .find(TopicName::new(topic).unwrap(), None)
            .targets()
            .map(|target| target.session.0)
            .collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn filters_match_the_topics_the_standard_says() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("a/b", &["a/b"], &["a", "a/b/c", "a/c", "/a/b"]),
            ("a/+", &["a/b", "a/"], &["a", "a/b/c"]),
            ("a/#", &["a", "a/", "a/b", "a/b/c"], &["b", "ab"]),
            ("#", &["a", "/", "a/b"], &["$SYS/x", "$x"]),
            ("+/b", &["a/b", "/b"], &["$SYS/b", "b"]),
            ("$SYS/#", &["$SYS", "$SYS/a"], &["a", "SYS/a"]),
            ("+", &["a"], &["/a", "a/", "$a"]),
            ("/+/c", &["/b/c", "//c"], &["b/c", "/c"]),
        ];
        for (filter, matching, others) in cases {
            let routes = Routes::default();
            routes.subscribe(TopicFilter::new(filter).unwrap(), subscriber(1, 0, QoS::AtMostOnce));

            for topic in *matching {
                assert_eq!(sessions(&routes, topic), [1], "{filter} should match {topic}");
            }
            for topic in *others {
                assert!(sessions(&routes, topic).is_empty(), "{filter} should not match {topic}");
            }
        }
    }

    #[test]
    fn overlapping_subscriptions_make_one_target_with_the_highest_qos_and_all_identifiers() {
        let routes = Routes::default();
        for (filter, qos, id) in
            [("a/#", QoS::AtMostOnce, 1), ("a/+", QoS::ExactlyOnce, 2), ("a/b", QoS::AtLeastOnce, 3)]
        {
            let subscriber = Subscriber { subscription_id: Some(id), ..subscriber(7, 0, qos) };
            routes.subscribe(TopicFilter::new(filter).unwrap(), subscriber);
        }

        let matches = routes.find(TopicName::new("a/b").unwrap(), None);

        let targets: Vec<&Target> = matches.targets().collect();
        assert_eq!(targets.len(), 1);
        assert_eq!(targets[0].qos, QoS::ExactlyOnce);
        let mut ids = targets[0].subscription_ids.clone();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3]);
    }

    #[test]
    fn one_subscription_that_wants_retain_as_published_is_enough() {
        let filters = ["a/+", "a/b", "#"];
        for wanting in filters {
            let routes = Routes::default();
            for filter in filters {
                let retain_as_published = filter == wanting;
                let subscriber = Subscriber { retain_as_published, ..subscriber(1, 0, QoS::AtMostOnce) };
                routes.subscribe(TopicFilter::new(filter).unwrap(), subscriber);
            }

            let matches = routes.find(TopicName::new("a/b").unwrap(), None);

            assert!(matches.targets().all(|target| target.retain_as_published), "{wanting}");
        }
    }

    #[test]
    fn targets_are_grouped_by_shard() {
        let routes = Routes::default();
        for (session, shard) in [(1, 1), (2, 0), (3, 1)] {
            routes.subscribe(TopicFilter::new("t").unwrap(), subscriber(session, shard, QoS::AtMostOnce));
        }

        let matches = routes.find(TopicName::new("t").unwrap(), None);

        assert_eq!(matches.shards().collect::<Vec<_>>(), [ShardIndex(0), ShardIndex(1)]);
        assert_eq!(matches.on(ShardIndex(1)).len(), 2);
        assert!(matches.on(ShardIndex(2)).is_empty());
    }

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
