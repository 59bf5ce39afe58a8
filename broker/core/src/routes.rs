//! The route table: which sessions want a topic.
//!
//! One trie of Topic Filters for all shards, changed under a lock and read through each shard's
//! [`MatchCache`](crate::matches::MatchCache). Shared Subscriptions stand beside the others, each group with its members.
//! Walking is iterative, so no topic is too deep for the stack.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use veilmq_protocol::{QoS, TopicFilter, TopicName};

use crate::id::{IdMap, SessionId, ShardIndex};
use crate::matches::Matches;
use crate::share::{Availability, Group, Member, Share};

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

/// The trie of all subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    generation: AtomicU64,
    root: RwLock<Node>,
}

/// A level. A filter can have hundreds that nobody else has, so one costs little.
#[derive(Debug, Default)]
struct Node {
    children: Children,
    /// Subscriptions whose filter ends at this level.
    here: Option<Box<Subscribers>>,
    /// Subscriptions whose filter ends in "#" below this level.
    beneath: Option<Box<Subscribers>>,
}

/// What a level costs beside its name.
const NODE_BYTES_MAX: usize = 32;
const _: () = assert!(size_of::<Node>() <= NODE_BYTES_MAX);

/// The levels below one.
#[derive(Debug, Default)]
struct Children(Option<Branches>);

#[derive(Debug)]
enum Branches {
    /// As nearly everywhere; a table would take ten times the memory.
    One(Box<(Box<str>, Node)>),
    #[expect(clippy::box_collection, reason = "few levels have it, all pay for its size")]
    Many(Box<HashMap<Box<str>, Node>>),
}

impl Children {
    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn are_many(&self) -> bool {
        matches!(&self.0, Some(Branches::Many(nodes)) if nodes.len() > 1)
    }

    fn get(&self, level: &str) -> Option<&Node> {
        match self.0.as_ref()? {
            Branches::One(only) => (*only.0 == *level).then_some(&only.1),
            Branches::Many(nodes) => nodes.get(level),
        }
    }

    fn get_mut(&mut self, level: &str) -> Option<&mut Node> {
        match self.0.as_mut()? {
            Branches::One(only) => (*only.0 == *level).then_some(&mut only.1),
            Branches::Many(nodes) => nodes.get_mut(level),
        }
    }

    fn get_or_insert(&mut self, level: &str) -> &mut Node {
        if let Some(only) =
            self.0.take_if(|branches| matches!(branches, Branches::One(only) if *only.0 != *level))
        {
            self.0 = Some(only.into_many());
        }
        let branches =
            self.0.get_or_insert_with(|| Branches::One(Box::new((Box::from(level), Node::default()))));
        match branches {
            Branches::One(only) => &mut only.1,
            Branches::Many(nodes) => nodes.entry(Box::from(level)).or_default(),
        }
    }

    fn remove(&mut self, level: &str) -> Option<Node> {
        let removed = match self.0.as_mut()? {
            Branches::One(only) if *only.0 == *level => Some(std::mem::take(&mut only.1)),
            Branches::One(_) => return None,
            Branches::Many(nodes) => {
                let removed = nodes.remove(level);
                // What is left of a crowd must not keep its room.
                if nodes.len() < nodes.capacity() / 8 {
                    nodes.shrink_to(2 * nodes.len());
                }
                removed
            }
        };
        self.0.take_if(|branches| match branches {
            Branches::One(_) => true,
            Branches::Many(nodes) => nodes.is_empty(),
        });
        removed
    }

    fn into_nodes(self) -> Vec<Node> {
        match self.0 {
            None => Vec::new(),
            Some(Branches::One(only)) => vec![only.1],
            Some(Branches::Many(nodes)) => nodes.into_values().collect(),
        }
    }
}

impl Branches {
    fn into_many(self) -> Self {
        match self {
            Self::One(only) => Self::Many(Box::new(HashMap::from([*only]))),
            Self::Many(_) => self,
        }
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && !self.is_end()
    }

    /// Tells whether filters end here.
    fn is_end(&self) -> bool {
        self.here.is_some() || self.beneath.is_some()
    }

    fn ending(&mut self, multi: bool) -> &mut Option<Box<Subscribers>> {
        if multi { &mut self.beneath } else { &mut self.here }
    }

    /// Drops it and all below it one by one, not each inside its parent, which may be too deep for the stack.
    fn dismantle(self) {
        let mut nodes = vec![self];
        while let Some(mut node) = nodes.pop() {
            nodes.extend(std::mem::take(&mut node.children).into_nodes());
        }
    }
}

/// Who subscribed to one filter.
#[derive(Debug, Default)]
struct Subscribers {
    sessions: IdMap<SessionId, Subscriber>,
    /// The groups by the filter as subscribed, in a fixed order; most filters have none.
    groups: BTreeMap<Box<str>, Group>,
}

impl Subscribers {
    fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.groups.is_empty()
    }

    fn remove(&mut self, session: SessionId) -> bool {
        let removed = self.sessions.remove(&session).is_some();
        // What is left of a crowd must not be slow to walk.
        if self.sessions.len() < self.sessions.capacity() / 8 {
            self.sessions.shrink_to(2 * self.sessions.len());
        }
        removed
    }

    fn join(&mut self, filter: &str, member: Member) -> bool {
        match self.groups.get_mut(filter) {
            Some(group) => group.join(member),
            None => self.groups.entry(Box::from(filter)).or_insert_with(|| Group::new(filter)).join(member),
        }
    }

    fn leave(&mut self, filter: &str, session: SessionId) -> bool {
        let Some(group) = self.groups.get_mut(filter) else { return false };
        let left = group.leave(session);
        if group.is_empty() {
            self.groups.remove(filter);
        }
        left
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        std::mem::take(self.root.get_mut().unwrap_or_else(PoisonError::into_inner)).dismantle();
    }
}

impl Routes {
    /// Adds a subscription, or replaces the one of the same session and filter; true if it is new.
    pub(crate) fn subscribe(&self, filter: TopicFilter<'_>, subscriber: Subscriber) -> bool {
        self.add(filter, |subscribers| subscribers.sessions.insert(subscriber.session, subscriber).is_none())
    }

    /// Adds a member to the group of a Shared Subscription, or replaces the session's part in it; true if it is new.
    pub(crate) fn join(
        &self,
        filter: TopicFilter<'_>,
        subscriber: Subscriber,
        availability: Arc<Availability>,
    ) -> bool {
        let member = Member { subscriber, availability };
        self.add(filter, |subscribers| subscribers.join(filter.as_str(), member))
    }

    fn add(&self, filter: TopicFilter<'_>, add: impl FnOnce(&mut Subscribers) -> bool) -> bool {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        let (levels, multi) = split(filter);
        let mut node = &mut *root;
        for level in levels {
            node = node.children.get_or_insert(level);
        }
        let new = add(node.ending(multi).get_or_insert_default());
        drop(root);
        self.generation.fetch_add(1, Ordering::Release);
        new
    }

    /// Removes a subscription, shared or not; true if it was there.
    pub(crate) fn unsubscribe(&self, filter: TopicFilter<'_>, session: SessionId) -> bool {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        let (levels, multi) = split(filter);
        let removed = remove(&mut root, &levels, multi, |subscribers| match filter.shared() {
            Some(_) => subscribers.leave(filter.as_str(), session),
            None => subscribers.remove(session),
        });
        drop(root);
        if removed {
            self.generation.fetch_add(1, Ordering::Release);
        }
        removed
    }

    /// Returns the group of a Shared Subscription as it is now; None if it has no members.
    pub(crate) fn share(&self, filter: TopicFilter<'_>) -> Option<Share> {
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        let (levels, multi) = split(filter);
        let mut node = &*root;
        for level in levels {
            node = node.children.get(level)?;
        }
        let subscribers = if multi { &node.beneath } else { &node.here };
        Some(subscribers.as_ref()?.groups.get(filter.as_str())?.share())
    }

    /// Finds the sessions that want a topic ([MQTT-3.3.2-3]); those whose No Local subscriptions exclude `publisher` are left out.
    pub(crate) fn find(&self, topic: TopicName<'_>, publisher: Option<SessionId>) -> Matches {
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        let levels: Vec<&str> = topic.levels().collect();
        let mut found: Vec<Subscriber> = Vec::new();
        let mut shares: Vec<Share> = Vec::new();
        let mut collect = |subscribers: &Option<Box<Subscribers>>| {
            let Some(subscribers) = subscribers else { return };
            found.extend(
                subscribers
                    .sessions
                    .values()
                    .filter(|subscriber| !(subscriber.no_local && publisher == Some(subscriber.session))),
            );
            shares.extend(subscribers.groups.values().map(Group::share));
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
            if let Some(child) = node.children.get(level) {
                pending.push((child, depth + 1));
            }
            if wildcards && let Some(child) = node.children.get("+") {
                pending.push((child, depth + 1));
            }
        }
        Matches::merge(&found, shares)
    }

    /// Returns a number that grows with every change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// Splits what a filter matches into its literal and single-level parts, and whether "#" follows.
fn split(filter: TopicFilter<'_>) -> (Vec<&str>, bool) {
    let mut levels: Vec<&str> = filter.inner().levels().collect();
    let multi = levels.last() == Some(&"#");
    if multi {
        levels.pop();
    }
    (levels, multi)
}

/// Removes a subscription, and the branch that nobody wants any more, without recursion however deep it is.
fn remove(
    root: &mut Node,
    levels: &[&str],
    multi: bool,
    remove_here: impl FnOnce(&mut Subscribers) -> bool,
) -> bool {
    let mut node = &mut *root;
    for level in levels {
        let Some(child) = node.children.get_mut(level) else { return false };
        node = child;
    }
    let ending = node.ending(multi);
    let removed = ending.as_deref_mut().is_some_and(remove_here);
    ending.take_if(|subscribers| subscribers.is_empty());
    if node.is_empty() {
        prune(root, levels);
    }
    removed
}

/// Removes the branch to an empty node, from where nothing else is on it.
fn prune(root: &mut Node, levels: &[&str]) {
    let mut node = &*root;
    let mut stays = 0;
    for (depth, level) in levels.iter().enumerate() {
        if node.children.are_many() || node.is_end() {
            stays = depth;
        }
        let Some(child) = node.children.get(level) else { return };
        node = child;
    }
    let (kept, gone) = levels.split_at(stays);
    let Some(gone) = gone.first() else { return };
    let mut node = root;
    for level in kept {
        let Some(child) = node.children.get_mut(level) else { return };
        node = child;
    }
    node.children.remove(gone).into_iter().for_each(Node::dismantle);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::matches::Target;

    pub(crate) fn subscriber(session: u64, shard: u16, qos: QoS) -> Subscriber {
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
    fn what_matches_names_each_group_once_and_its_members_apart_from_the_targets() {
        let routes = Routes::default();
        let filters = ["$share/g/t", "$share/h/t", "$share/g/#", "$share/g/u"];
        for (filter, session) in filters.into_iter().flat_map(|filter| [(filter, 1), (filter, 2)]) {
            let filter = TopicFilter::new(filter).unwrap();
            assert!(routes.join(filter, subscriber(session, 0, QoS::AtMostOnce), Arc::default()));
            assert!(!routes.join(filter, subscriber(session, 0, QoS::AtLeastOnce), Arc::default()));
        }

        let matches = routes.find(TopicName::new("t").unwrap(), None);

        let mut found: Vec<&str> = matches.shares().iter().map(|share| &**share.filter()).collect();
        found.sort_unstable();
        assert_eq!(found, ["$share/g/#", "$share/g/t", "$share/h/t"]);
        assert!(matches.targets().next().is_none() && !matches.is_empty());
        assert!(sessions(&routes, "$share/g/t").is_empty());
    }

    #[test]
    fn a_group_is_gone_with_its_last_member() {
        let routes = Routes::default();
        let filter = TopicFilter::new("$share/g/a/#").unwrap();
        for session in [1, 2] {
            routes.join(filter, subscriber(session, 0, QoS::AtMostOnce), Arc::default());
        }

        assert!(!routes.unsubscribe(TopicFilter::new("a/#").unwrap(), SessionId(1)));
        assert!(routes.unsubscribe(filter, SessionId(1)));
        assert!(!routes.unsubscribe(filter, SessionId(1)));
        assert!(routes.share(filter).is_some());
        assert!(routes.unsubscribe(filter, SessionId(2)));

        assert!(routes.share(filter).is_none());
        assert!(routes.root.read().unwrap().is_empty());
    }

    #[test]
    fn no_filter_is_too_deep_for_the_stack() {
        // [D01]
        let deep = "/".repeat(65_534) + "+";
        let fork = "/".repeat(30_000) + "x/#";
        let routes = Routes::default();
        let (deep, fork) = (TopicFilter::new(&deep).unwrap(), TopicFilter::new(&fork).unwrap());
        let topic = "/".repeat(65_534);
        for filter in [deep, fork] {
            assert!(routes.subscribe(filter, subscriber(1, 0, QoS::AtMostOnce)));
        }
        assert_eq!(sessions(&routes, &topic), [1]);
        assert!(routes.unsubscribe(deep, SessionId(1)) && !routes.unsubscribe(deep, SessionId(1)));
        assert_eq!(sessions(&routes, &topic), [0; 0]);
        assert_eq!(sessions(&routes, &("/".repeat(30_000) + "x/y")), [1], "the other branch stays");
        assert!(routes.subscribe(deep, subscriber(1, 0, QoS::AtMostOnce)));
        drop(routes);
    }

    #[test]
    fn levels_that_nobody_wants_any_more_give_their_room_back() {
        // [C11]
        let routes = Routes::default();
        let filters: Vec<String> = (0..5_000).map(|number| format!("{number}/x")).collect();
        for filter in &filters {
            let filter = TopicFilter::new(filter).unwrap();
            assert!(routes.subscribe(filter, subscriber(1, 0, QoS::AtMostOnce)));
        }

        let (first, others) = filters.split_first().unwrap();
        for filter in others {
            assert!(routes.unsubscribe(TopicFilter::new(filter).unwrap(), SessionId(1)));
        }

        let root = routes.root.read().unwrap();
        let Some(Branches::Many(nodes)) = &root.children.0 else { panic!("{:?}", root.children) };
        assert!(nodes.len() == 1 && nodes.capacity() < 100, "{}", nodes.capacity());
        drop(root);
        assert!(routes.unsubscribe(TopicFilter::new(first).unwrap(), SessionId(1)));
        assert!(routes.root.read().unwrap().is_empty());
    }

    #[test]
    fn a_crowd_on_one_filter_comes_and_goes_without_being_searched() {
        // Were each step a search through the others, this would take a billion of them.
        const CROWD: u64 = 30_000;
        let routes = Routes::default();
        let filters = ["t", "$share/g/t"].map(|filter| TopicFilter::new(filter).unwrap());
        for session in 0..CROWD {
            assert!(routes.subscribe(filters[0], subscriber(session, 0, QoS::AtMostOnce)));
            assert!(routes.join(filters[1], subscriber(session, 0, QoS::AtMostOnce), Arc::default()));
        }
        for session in 1..CROWD {
            assert!(filters.iter().all(|filter| routes.unsubscribe(*filter, SessionId(session))));
        }

        assert_eq!(sessions(&routes, "t"), [0]);
        let root = routes.root.read().unwrap();
        let here = root.children.get("t").and_then(|node| node.here.as_ref()).unwrap();
        assert!(here.sessions.capacity() < 100, "the room of the crowd is given back");
    }
}
