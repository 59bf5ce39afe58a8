//! Retained messages: the newest message of each topic, kept for subscribers that come later.
//!
//! Shared by all shards, read-mostly, and no part of any session ([MQTT311-3.1.2-7]). A byte budget bounds it; a message beyond
//! the budget is refused, never half kept. Invariant: `expiries` holds the topics whose messages expire, and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use veilmq_protocol::{TopicFilter, TopicName};

use crate::message::Message;
use crate::source::Source;
use crate::standing::{Owner, Standing, Standings};
use crate::sys;
use crate::time::Moment;

/// The retained messages of all topics.
#[derive(Debug)]
pub(crate) struct RetainedIndex {
    inner: RwLock<Inner>,
    bytes_max: AtomicUsize,
}

/// A level separator sorts as itself, so a filter's literal prefix names one contiguous range.
type Topics = BTreeMap<Arc<str>, Arc<Message>>;

#[derive(Debug, Default)]
struct Inner {
    topics: Topics,
    bytes: usize,
    /// When which topics' messages expire, soonest first.
    expiries: BTreeSet<(Moment, Arc<str>)>,
    /// What whoever vouches for clients has said of those whose messages these are.
    standings: Standings,
    /// What the broker says of itself, which no budget refuses and no count of clients' messages shows.
    own: Topics,
}

/// How much of the retained messages is asked for at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portion {
    /// The topics that are looked at.
    pub(crate) topics: usize,
    /// The messages that match.
    pub(crate) messages: usize,
    /// The bytes of these, which the last one may exceed.
    pub(crate) bytes: usize,
}

impl Portion {
    /// All that there are.
    pub(crate) const ALL: Self = Self { topics: usize::MAX, messages: usize::MAX, bytes: usize::MAX };
}

/// Some of the retained messages that a filter matches.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) messages: Vec<Arc<Message>>,
    /// The last topic that was looked at, if there may be more behind it.
    pub(crate) next: Option<Arc<str>>,
}

/// What [`RetainedIndex::store`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// The message is now the topic's retained message.
    Kept,
    /// There was one, and now there is none.
    Cleared,
    /// There was nothing to clear.
    Nothing,
    /// The byte budget does not allow it.
    OverBudget,
}

impl RetainedIndex {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { inner: RwLock::default(), bytes_max: AtomicUsize::new(bytes_max) }
    }

    /// Sets how many bytes may be retained. What is there stays, even if it is more.
    pub(crate) fn bound(&self, bytes_max: usize) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Stores a message as its topic's retained one; an empty payload clears it and is not kept
    /// ([MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7]). Where there is no room, messages that have expired are removed, and their
    /// topics appended to `expired`, until there is.
    pub(crate) fn store(&self, message: &Arc<Message>, now: Moment, expired: &mut Vec<Arc<str>>) -> Stored {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if message.payload().is_empty() {
            return if inner.remove(message.topic()) { Stored::Cleared } else { Stored::Nothing };
        }
        while inner.bytes_with(message) > self.bytes_max.load(Ordering::Relaxed) {
            let Some(topic) = inner.remove_expired(now) else { return Stored::OverBudget };
            expired.push(topic);
        }
        inner.replace(message);
        Stored::Kept
    }

    /// Takes back a message that was stored, whatever the budget is now: one that was acknowledged is not lost to a lower limit.
    pub(crate) fn restore(&self, message: &Arc<Message>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.replace(message);
    }

    /// Takes note of what was said of a client by whoever vouches for it, if it has retained anything.
    pub(crate) fn say(&self, owner: &Owner, standing: Standing) {
        // Few have, and readers are not held up for the others.
        let is_known = self.inner.read().unwrap_or_else(PoisonError::into_inner).standings.contains(owner);
        if is_known {
            self.inner.write().unwrap_or_else(PoisonError::into_inner).standings.say(owner, standing);
        }
    }

    /// Returns what is known of whose a retained message is, if somebody vouches for it.
    pub(crate) fn standing(&self, source: &Source) -> Standing {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).standings.of(source)
    }

    /// Returns the message that a topic retains now.
    pub(crate) fn current(&self, topic: &str) -> Option<Arc<Message>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.topics.get(topic).map(Arc::clone)
    }

    /// Keeps a message of the broker itself on a `$SYS` topic.
    pub(crate) fn store_own(&self, message: &Arc<Message>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.own.insert(Arc::from(message.topic()), Arc::clone(message));
    }

    /// Removes a topic's retained message; true if there was one.
    pub(crate) fn clear(&self, topic: &str) -> bool {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).remove(topic)
    }

    /// Returns when the next message expires.
    pub(crate) fn next_expiry(&self) -> Option<Moment> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.expiries.first().map(|(at, _)| *at)
    }

    /// Removes messages that have expired, at most `count_max`, and returns their topics.
    pub(crate) fn take_expired(&self, now: Moment, count_max: usize) -> Vec<Arc<str>> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| inner.remove_expired(now)).take(count_max).collect()
    }

    /// Returns a portion of the retained messages that a filter matches, from the topics behind `after`, in order, those too that
    /// have expired and are still to be removed.
    pub(crate) fn part(&self, filter: TopicFilter<'_>, after: Option<&str>, portion: Portion) -> Part {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        // [MQTT-4.7.2-1] A wildcard at the first level does not reach the broker's own topics.
        let reaches_own = filter.levels().next() == Some(sys::FIRST_LEVEL);
        if !filter.has_wildcards() {
            let own = inner.own.get(filter.as_str()).filter(|_| reaches_own);
            let message = own.or_else(|| inner.topics.get(filter.as_str()));
            return Part { messages: message.map(Arc::clone).into_iter().collect(), next: None };
        }
        let prefix = literal_prefix(filter.as_str());
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let mut messages = Vec::new();
        let (mut last, mut looked_at, mut bytes) = (None, 0, 0);
        for (topic, message) in inner.behind(from, reaches_own) {
            if !topic.starts_with(prefix) {
                break;
            }
            if looked_at == portion.topics || messages.len() == portion.messages || bytes >= portion.bytes {
                return Part { messages, next: last.map(Arc::clone) };
            }
            looked_at += 1;
            if TopicName::new(topic).is_ok_and(|topic| filter.matches(topic)) {
                bytes += message.size_bytes();
                messages.push(Arc::clone(message));
            }
            last = Some(topic);
        }
        Part { messages, next: None }
    }

    /// Visits up to `look_at` topics behind `after`, in order; returns the last one if there may be more behind it.
    pub(crate) fn walk(
        &self,
        after: Option<&str>,
        look_at: usize,
        mut visit: impl FnMut(&Arc<str>, &Message),
    ) -> Option<Arc<str>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for (topic, message) in inner.topics.range::<str, _>((behind, Bound::Unbounded)).take(look_at) {
            visit(topic, message);
            last = Some(topic);
        }
        let is_end = last.is_none() || last == inner.topics.last_key_value().map(|(topic, _)| topic);
        last.filter(|_| !is_end).cloned()
    }

    /// Returns how many messages of clients are retained, and their bytes.
    pub(crate) fn totals(&self) -> (usize, usize) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        (inner.topics.len(), inner.bytes)
    }
}

impl Inner {
    /// The topics behind a bound, in order: those of clients, and also the broker's own, which come before a client's of the same name.
    fn behind<'a>(
        &'a self,
        from: Bound<&str>,
        with_own: bool,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Message>)> {
        let range = (from, Bound::Unbounded);
        let own_count = if with_own { usize::MAX } else { 0 };
        let mut own = self.own.range::<str, _>(range).take(own_count).peekable();
        let mut others = self.topics.range::<str, _>(range).peekable();
        std::iter::from_fn(move || match (own.peek(), others.peek()) {
            (Some((first, _)), Some((second, _))) if first == second => {
                others.next();
                own.next()
            }
            (Some((first, _)), Some((second, _))) if first > second => others.next(),
            (Some(_), _) => own.next(),
            (None, _) => others.next(),
        })
    }

    fn replace(&mut self, message: &Arc<Message>) {
        // Before the other one leaves, so that what is known of its publisher stays if this one has the same.
        self.standings.came(message);
        self.remove(message.topic());
        self.bytes += message.size_bytes();
        let topic: Arc<str> = Arc::from(message.topic());
        if let Some(at) = message.expires_at() {
            self.expiries.insert((at, Arc::clone(&topic)));
        }
        self.topics.insert(topic, Arc::clone(message));
    }

    fn remove(&mut self, topic: &str) -> bool {
        let Some((topic, old)) = self.topics.remove_entry(topic) else { return false };
        if let Some(at) = old.expires_at() {
            self.expiries.remove(&(at, topic));
        }
        self.standings.left(&old);
        self.bytes -= old.size_bytes();
        true
    }

    /// Removes the message that expired first, if one has, and returns its topic.
    fn remove_expired(&mut self, now: Moment) -> Option<Arc<str>> {
        if self.expiries.first().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (_, topic) = self.expiries.pop_first()?;
        self.remove(&topic);
        Some(topic)
    }

    /// Returns the bytes that are retained once a message is its topic's retained one.
    fn bytes_with(&self, message: &Message) -> usize {
        let before = self.topics.get(message.topic()).map_or(0, |old| old.size_bytes());
        self.bytes - before + message.size_bytes()
    }
}

/// Returns the part of a filter that every matching topic begins with ("a/#" also matches "a").
fn literal_prefix(filter: &str) -> &str {
    let end = filter.find(['+', '#']).unwrap_or(filter.len());
    filter[..end].strip_suffix('/').unwrap_or(&filter[..end])
}

#[cfg(test)]
mod tests {
    use veilmq_protocol::QoS;

    use super::*;
    use crate::message::{Expiry, MessageParts};

    fn message(topic: &str, payload: &[u8]) -> Arc<Message> {
        let parts = MessageParts {
            id: None,
            publisher: None,
            source: None,
            qos: QoS::AtMostOnce,
            retain: true,
            topic,
            application_properties: &[],
            payload,
            expiry: None,
        };
        Message::new(&parts, 0)
    }

    fn expiring(topic: &str, at: u64) -> Arc<Message> {
        let message = message(topic, b"x");
        let at = Moment::from_milliseconds(at);
        Message::new(&MessageParts { expiry: Some(Expiry { at, interval_seconds: 1 }), ..message.parts() }, 0)
    }

    /// Stores a message when nothing has expired.
    fn store(index: &RetainedIndex, message: &Arc<Message>) -> Stored {
        index.store(message, Moment::from_milliseconds(0), &mut Vec::new())
    }

    #[test]
    fn filters_find_the_retained_messages_of_matching_topics() {
        let index = RetainedIndex::new(1 << 20);
        for topic in ["a", "a/b", "a/b/c", "a-b", "b/b", "/"] {
            assert_eq!(store(&index, &message(topic, b"x")), Stored::Kept);
        }
        let own = message("$SYS/x", b"x");
        index.store_own(&own);
        // A bridge of another broker says how it is, and what this one says itself comes first.
        for topic in ["$SYS/broker/connection/b/state", "$SYS/x", "$SYS/z"] {
            assert_eq!(store(&index, &message(topic, b"client's")), Stored::Kept);
        }
        let exact = index.part(TopicFilter::new("$SYS/x").unwrap(), None, Portion::ALL);
        assert!(Arc::ptr_eq(&exact.messages[0], &own));
        let cases: &[(&str, &[&str])] = &[
            ("a/#", &["a", "a/b", "a/b/c"]),
            ("a/+", &["a/b"]),
            ("+/b", &["a/b", "b/b"]),
            ("#", &["/", "a", "a-b", "a/b", "a/b/c", "b/b"]),
            ("a/b", &["a/b"]),
            ("$SYS/#", &["$SYS/broker/connection/b/state", "$SYS/x", "$SYS/z"]),
            ("$SYS/+", &["$SYS/x", "$SYS/z"]),
            ("$SYS/broker/connection/+/state", &["$SYS/broker/connection/b/state"]),
            ("$SYS/broker/connection/b/state", &["$SYS/broker/connection/b/state"]),
            ("+", &["a", "a-b"]),
            ("nothing", &[]),
        ];
        for (filter, topics) in cases {
            let filter = TopicFilter::new(filter).unwrap();
            // A part never says anything else than the whole.
            let some = [
                Portion { topics: 1, ..Portion::ALL },
                Portion { topics: 2, ..Portion::ALL },
                Portion { messages: 1, ..Portion::ALL },
                Portion { bytes: 1, ..Portion::ALL },
                Portion::ALL,
            ];
            for portion in some {
                let (mut names, mut after) = (Vec::new(), None::<Arc<str>>);
                loop {
                    let part = index.part(filter, after.as_deref(), portion);
                    names.extend(part.messages.iter().map(|message| message.topic().to_owned()));
                    after = part.next;
                    if after.is_none() {
                        break;
                    }
                }
                names.sort_unstable();
                assert_eq!(names, *topics, "{filter:?}, {portion:?}");
            }
        }
    }

    #[test]
    fn an_empty_payload_clears_and_the_budget_is_given_back() {
        let one = message("t", &[0; 100]);
        let index = RetainedIndex::new(one.size_bytes());

        assert_eq!(store(&index, &one), Stored::Kept);
        assert_eq!(store(&index, &message("t", &[1; 100])), Stored::Kept);
        assert_eq!(store(&index, &message("u", b"x")), Stored::OverBudget);
        assert_eq!(store(&index, &message("t", b"")), Stored::Cleared);
        assert_eq!(store(&index, &message("t", b"")), Stored::Nothing);
        assert_eq!(index.totals(), (0, 0));
    }
    #[test]
    fn what_expires_is_known_of_the_messages_that_are_retained_now() {
        let index = RetainedIndex::new(1 << 20);
        for message in [expiring("a", 3), expiring("b", 1), expiring("c", 1), expiring("d", 2)] {
            store(&index, &message);
        }
        // One has another expiry now, one has none, and one is gone.
        store(&index, &expiring("b", 4));
        store(&index, &message("c", b"x"));
        index.clear("d");
        let expired = |at, count_max| -> Vec<String> {
            let topics = index.take_expired(Moment::from_milliseconds(at), count_max);
            topics.iter().map(|topic| (**topic).to_owned()).collect()
        };

        assert_eq!(index.next_expiry(), Some(Moment::from_milliseconds(3)));
        assert_eq!(expired(2, usize::MAX), [""; 0]);
        assert_eq!(expired(9, 1), ["a"]);
        assert_eq!(expired(9, usize::MAX), ["b"]);
        assert_eq!(index.next_expiry(), None);
        assert_eq!(index.totals(), (1, message("c", b"x").size_bytes()));
    }

    #[test]
    fn messages_that_have_expired_make_room_and_no_more_of_them_than_are_needed() {
        let one = expiring("a", 5);
        let index = RetainedIndex::new(2 * one.size_bytes());
        store(&index, &one);
        store(&index, &expiring("b", 6));
        let at = |at, message| {
            let mut expired = Vec::new();
            let stored = index.store(&message, Moment::from_milliseconds(at), &mut expired);
            (stored, expired.iter().map(|topic| (**topic).to_owned()).collect::<Vec<_>>())
        };

        assert_eq!(at(4, message("c", b"x")), (Stored::OverBudget, vec![]));
        assert_eq!(at(9, message("c", b"x")), (Stored::Kept, vec!["a".to_owned()]));
        assert_eq!(at(9, message("c", b"y")), (Stored::Kept, vec![]));
        assert_eq!(at(9, message("d", b"x")), (Stored::Kept, vec!["b".to_owned()]));
        assert_eq!(at(9, message("e", b"x")), (Stored::OverBudget, vec![]));
    }
}
