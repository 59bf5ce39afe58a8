//! Hands received messages to the subscriptions they match, without ever holding more than was agreed.
//!
//! QoS 1 and 2 messages always find room: the receive maximum bounds them, since they are acknowledged only when
//! taken. Other deliveries share what is left; when that is full the driver stops reading. Invariant: the last
//! copy of a delivery to be dropped acknowledges it if the application was given one, and otherwise comes back to the driver.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use veilmq_protocol::{SubscribeOptions, TopicFilter, TopicName};

use crate::{message::Received, session::Receipt};

/// A full subscription may hold up answers for this long before QoS 0 messages for it are left out.
pub(super) const STALL: Duration = Duration::from_secs(1);

/// What the application has done with messages, on its way to the driver.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) taken: Vec<Receipt>,
    pub(super) unread: Vec<Unread>,
}

/// A message that subscriptions had and no application has seen.
pub(super) struct Unread {
    /// The Topic Name it came on.
    pub(super) topic: String,
    pub(super) received: Received,
    pub(super) receipt: Receipt,
    /// It came when its subscriptions were dropped already.
    pub(super) late: bool,
}

/// Messages the application has taken or left, on their way to the driver.
#[derive(Default)]
pub(super) struct Taken {
    settled: Mutex<Settled>,
    changed: Notify,
}

impl Taken {
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn drain(&self) -> Settled {
        std::mem::take(&mut *self.settled.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, add: impl FnOnce(&mut Settled)) {
        add(&mut self.settled.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }
}

/// A receipt that goes to the driver once nobody needs it any more.
pub(super) struct TakenOnDrop {
    receipt: Receipt,
    topic: String,
    /// The application was given the message, or wants none.
    is_settled: AtomicBool,
    taken: Arc<Taken>,
}

impl Drop for TakenOnDrop {
    fn drop(&mut self) {
        if *self.is_settled.get_mut() {
            self.taken.push(|settled| settled.taken.push(self.receipt));
        }
    }
}

/// One message or event on its way to one subscription.
pub(super) struct Delivery {
    /// `None` once it is taken.
    received: Option<Received>,
    receipt: Option<Arc<TakenOnDrop>>,
    late: bool,
}

impl Delivery {
    const fn new(received: Received, receipt: Option<Arc<TakenOnDrop>>) -> Self {
        Self { received: Some(received), receipt, late: false }
    }

    /// Gives it to the application, or to nobody if it wants none; it counts as taken when the receipt is dropped.
    pub(super) fn take(mut self) -> Option<(Received, Option<Arc<TakenOnDrop>>)> {
        let receipt = self.receipt.take();
        if let Some(receipt) = &receipt {
            receipt.is_settled.store(true, Ordering::Relaxed);
        }
        Some((self.received.take()?, receipt))
    }

    /// The same for one more subscription.
    fn copy(&self, shared: bool) -> Option<Self> {
        let received = self.received.clone()?;
        let received = if shared { received.without_gap() } else { received };
        Some(Self::new(received, self.receipt.clone()))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let (Some(received), Some(receipt)) = (self.received.take(), self.receipt.take()) else { return };
        // Another copy may still reach the application.
        let Some(mut last) = Arc::into_inner(receipt) else { return };
        if !*last.is_settled.get_mut() {
            let topic = std::mem::take(&mut last.topic);
            let unread = Unread { topic, received, receipt: last.receipt, late: self.late };
            last.taken.push(|settled| settled.unread.push(unread));
        }
    }
}

/// One filter of a subscription, and what the broker was given for it.
pub(super) struct Wanted {
    /// As the application calls it.
    pub(super) filter: String,
    pub(super) options: SubscribeOptions,
    /// The same one, or those of blind names.
    pub(super) wire: Vec<String>,
}

/// Where deliveries for one subscription go.
struct Route {
    filters: Vec<Wanted>,
    sender: mpsc::Sender<Delivery>,
    missed: u64,
    /// Since when nothing has found room.
    full_since: Option<Instant>,
    /// The application has dropped it, and the broker was asked to send no more.
    leaving: bool,
}

/// A delivery that found no room.
pub(super) struct Blocked {
    sender: mpsc::Sender<Delivery>,
    delivery: Delivery,
    room: usize,
}

impl Blocked {
    /// Waits until there is room, or nobody is there any more.
    pub(super) async fn room(&self) {
        // What is reserved here is given back at once: this task is the only sender.
        let _ = self.sender.reserve_many(self.room).await;
    }
}

pub(super) struct Routes {
    routes: Vec<Route>,
    taken: Arc<Taken>,
    /// Room that only messages with a receipt may use.
    reserved: usize,
}

impl Routes {
    pub(super) fn new(receive_maximum: u16) -> Self {
        Self { routes: Vec::new(), taken: Arc::default(), reserved: usize::from(receive_maximum) }
    }

    pub(super) fn taken(&self) -> Arc<Taken> {
        Arc::clone(&self.taken)
    }

    /// Adds a subscription with room for `queue` deliveries besides the receive maximum.
    pub(super) fn add(&mut self, filters: Vec<Wanted>, queue: usize) -> mpsc::Receiver<Delivery> {
        let (sender, receiver) = mpsc::channel(self.reserved + queue.max(1));
        self.routes.push(Route { filters, sender, missed: 0, full_since: None, leaving: false });
        receiver
    }

    /// Takes `filter` from every subscription, and ends those that have no other.
    pub(super) fn remove(&mut self, filter: &str) {
        for route in &mut self.routes {
            route.filters.retain(|own| own.filter != filter);
        }
        self.routes.retain(|route| !route.filters.is_empty());
    }

    /// Returns what the broker was given for `filter`; nothing where nobody has subscribed to it.
    pub(super) fn wire_of(&self, filter: &str) -> Vec<String> {
        let mut wanted = self.staying().flat_map(|route| &route.filters);
        wanted.find(|wanted| wanted.filter == filter).map(|wanted| wanted.wire.clone()).unwrap_or_default()
    }

    /// Returns what the broker was given with exactly this filter, if it was.
    pub(super) fn options_of(&self, wire: &str) -> Option<SubscribeOptions> {
        let mut wanted = self.staying().flat_map(|route| &route.filters);
        wanted.find(|wanted| wanted.wire.iter().any(|name| name == wire)).map(|wanted| wanted.options)
    }

    /// Gives every filter what `wire` says it is now; returns what the broker is to be given, and what it is to forget.
    pub(super) fn rename(
        &mut self,
        mut wire: impl FnMut(&str) -> Option<Vec<String>>,
    ) -> (Vec<(String, SubscribeOptions)>, Vec<String>) {
        let before = self.wire();
        let mut added = Vec::new();
        let staying = self.routes.iter_mut().filter(|route| !route.leaving);
        for wanted in staying.flat_map(|route| &mut route.filters) {
            let Some(now) = wire(&wanted.filter) else { continue };
            let new = now.iter().filter(|name| !before.contains(*name));
            added.extend(new.map(|name| (name.clone(), wanted.options)));
            wanted.wire = now;
        }
        let after = self.wire();
        (added, before.into_iter().filter(|name| !after.contains(name)).collect())
    }

    fn wire(&self) -> BTreeSet<String> {
        let wanted = self.staying().flat_map(|route| &route.filters);
        wanted.flat_map(|wanted| &wanted.wire).cloned().collect()
    }

    fn staying(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().filter(|route| !route.leaving)
    }

    /// Finds subscriptions the application has dropped; gives what the broker was given and nobody is left for. They stay until the
    /// broker sends no more for them: see [`unsubscribed`](Self::unsubscribed).
    pub(super) fn abandoned(&mut self) -> Vec<String> {
        let mut closed = BTreeSet::new();
        for route in self.routes.iter_mut().filter(|route| !route.leaving && route.sender.is_closed()) {
            route.leaving = true;
            closed.extend(route.filters.iter().flat_map(|wanted| &wanted.wire).cloned());
        }
        if closed.is_empty() {
            return Vec::new();
        }
        let used = self.wire();
        self.leave(|name| used.contains(name));
        closed.into_iter().filter(|filter| !used.contains(filter)).collect()
    }

    /// The broker has answered that it sends no more for a filter, which subscriptions had that the application has dropped.
    pub(super) fn unsubscribed(&mut self, wire: &str) {
        self.leave(|name| name == wire);
    }

    /// Takes names from subscriptions that the application has dropped, and ends those that have no other.
    fn leave(&mut self, is_gone: impl Fn(&str) -> bool) {
        for route in self.routes.iter_mut().filter(|route| route.leaving) {
            for wanted in &mut route.filters {
                wanted.wire.retain(|name| !is_gone(name));
            }
            route.filters.retain(|wanted| !wanted.wire.is_empty());
        }
        self.routes.retain(|route| !route.filters.is_empty());
    }

    /// Tells whether some subscription matches a topic, if only one that is being given up.
    pub(super) fn lead_to_somebody(&self, topic: &str) -> bool {
        TopicName::new(topic).is_ok_and(|name| self.routes.iter().any(|route| route.matches(name)))
    }

    /// Tells whether some subscription that the application holds matches a topic.
    pub(super) fn lead_to_a_reader(&self, topic: &str) -> bool {
        let mut open = self.routes.iter().filter(|route| !route.sender.is_closed());
        TopicName::new(topic).is_ok_and(|name| open.any(|route| route.matches(name)))
    }

    /// Hands `received`, which came on `topic`, to every subscription that it matches; gives back what found no room.
    pub(super) fn deliver(
        &mut self,
        topic: &str,
        received: Received,
        receipt: Option<Receipt>,
    ) -> Vec<Blocked> {
        let receipt = receipt.map(|receipt| {
            let (topic, is_settled) = (topic.to_owned(), AtomicBool::new(false));
            Arc::new(TakenOnDrop { receipt, topic, is_settled, taken: self.taken() })
        });
        let mut delivery = Delivery::new(received, receipt);
        delivery.late = true;
        let (mut blocked, mut is_wanted) = (Vec::new(), false);
        let Ok(name) = TopicName::new(topic) else { return blocked };
        for route in self.routes.iter_mut().filter(|route| route.matches(name)) {
            is_wanted = true;
            delivery.late &= route.sender.is_closed();
            let copy = delivery.copy(route.shares(name));
            blocked.extend(copy.and_then(|copy| route.offer(copy, self.reserved)));
        }
        if !is_wanted {
            drop(delivery.take());
        }
        blocked
    }

    /// Tries again; with `may_drop`, messages without a receipt are counted as missed once their subscription
    /// has been full for [`STALL`].
    pub(super) fn retry(&mut self, blocked: Blocked, may_drop: bool) -> Option<Blocked> {
        let same = |route: &&mut Route| route.sender.same_channel(&blocked.sender);
        let route = self.routes.iter_mut().find(same)?;
        let blocked = route.offer(blocked.delivery, self.reserved)?;
        if may_drop && blocked.delivery.receipt.is_none() && route.is_stalled() {
            route.missed += 1;
            return None;
        }
        Some(blocked)
    }
}

impl Route {
    fn matches(&self, topic: TopicName<'_>) -> bool {
        let mut wire = self.filters.iter().flat_map(|wanted| &wanted.wire);
        wire.any(|filter| TopicFilter::new(filter).is_ok_and(|filter| filter.matches(topic)))
    }

    /// Whether messages on a topic come by Shared Subscriptions alone: what seems to be missing went to others (VEIL-1 section 12.2).
    fn shares(&self, topic: TopicName<'_>) -> bool {
        let filters = self.filters.iter().flat_map(|wanted| &wanted.wire);
        let mut matching =
            filters.filter_map(|name| TopicFilter::new(name).ok()).filter(|name| name.matches(topic));
        matching.all(|filter| filter.shared().is_some())
    }

    fn is_stalled(&self) -> bool {
        self.full_since.is_some_and(|since| since.elapsed() >= STALL)
    }

    fn offer(&mut self, delivery: Delivery, reserved: usize) -> Option<Blocked> {
        let room = if delivery.receipt.is_some() { 1 } else { reserved + 1 };
        if self.missed > 0 && self.sender.capacity() > reserved + 1 {
            let received = Received::Missed { count: std::mem::take(&mut self.missed) };
            // There is room and this is the only sender; only a subscriber that just left makes this fail.
            let _ = self.sender.try_send(Delivery::new(received, None));
        }
        if self.sender.is_closed() {
            return None;
        }
        if self.sender.capacity() < room {
            self.full_since.get_or_insert_with(Instant::now);
            return Some(Blocked { sender: self.sender.clone(), delivery, room });
        }
        self.full_since = None;
        // As above.
        let _ = self.sender.try_send(delivery);
        None
    }
}

#[cfg(test)]
mod tests {
    use veilmq_protocol::{QoS, RetainHandling, veil::Kid};

    use super::*;
    use crate::{
        e2e::{Authentication, Origin, Provenance},
        message::{Message, Properties, Sealed},
    };

    fn after_a_gap() -> Received {
        let origin = Origin {
            sender: Kid::from_bytes([1; 8]),
            signed: false,
            session: 1,
            epoch: 1,
            seq: 9,
            gap: 3,
            will: false,
            refresh: false,
            age_ms: None,
        };
        Received::Message(Message {
            topic: "f/t".to_owned(),
            payload: bytes::Bytes::from_static(b"21.5"),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            properties: Properties::default(),
            sealed: Some(Sealed {
                provenance: Provenance::Envelope(origin),
                authentication: Authentication::Group,
            }),
        })
    }

    #[test]
    fn nothing_is_missing_where_others_share_the_messages() {
        for (filters, gap) in [
            (&["f/#"][..], 3),
            (&["$share/g/f/#"], 0),
            (&["$share/g/f/#", "f/t"], 3),
            (&["$share/g/f/#", "g/#"], 0),
        ] {
            let options = SubscribeOptions {
                qos: QoS::AtMostOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Send,
            };
            let wanted = |filter: &&str| Wanted {
                filter: (*filter).to_owned(),
                options,
                wire: vec![(*filter).to_owned()],
            };
            let mut routes = Routes::new(1);
            let mut receiver = routes.add(filters.iter().map(wanted).collect(), 1);

            assert!(routes.deliver("f/t", after_a_gap(), None).is_empty());

            let Received::Message(message) = receiver.try_recv().unwrap().take().unwrap().0 else {
                panic!("{filters:?}")
            };
            let Provenance::Envelope(origin) = message.sealed.unwrap().provenance else {
                panic!("{filters:?}")
            };
            assert_eq!(origin.gap, gap, "{filters:?}");
        }
    }
}
