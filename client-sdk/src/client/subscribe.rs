//! Subscribing: a filter becomes a bounded stream of messages.

use std::{fmt, pin::Pin, sync::Arc};

use tokio::sync::{mpsc, oneshot};
use veilmq_protocol::{QoS, RetainHandling, SubscribeOptions, TopicFilter};

use super::{
    Client,
    driver::Command,
    error::{RequestError, SubscribeError},
    routes::{Delivery, TakenOnDrop},
};
use crate::message::Received;

/// A subscription to be made; `.await` makes it.
#[must_use = "a subscription is made by `.await`"]
pub struct SubscribeBuilder<'a> {
    client: &'a Client,
    filters: Vec<String>,
    options: SubscribeOptions,
    queue: usize,
}

impl fmt::Debug for SubscribeBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscribeBuilder").field("filters", &self.filters).finish_non_exhaustive()
    }
}

impl<'a> SubscribeBuilder<'a> {
    pub(super) fn new(client: &'a Client, filter: &str) -> Self {
        let options = SubscribeOptions {
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        Self { client, filters: vec![filter.to_owned()], options, queue: 256 }
    }

    /// Adds another Topic Filter to the same stream; a message that several of them match comes once for each
    /// time the broker sends it.
    pub fn and(mut self, filter: &str) -> Self {
        self.filters.push(filter.to_owned());
        self
    }

    /// Sets the highest QoS wanted; QoS 0 unless set.
    pub const fn qos(mut self, qos: QoS) -> Self {
        self.options.qos = qos;
        self
    }

    /// Keeps the client's own messages from coming back.
    pub const fn no_local(mut self, no_local: bool) -> Self {
        self.options.no_local = no_local;
        self
    }

    /// Keeps the RETAIN flag as it was published.
    pub const fn retain_as_published(mut self, retain_as_published: bool) -> Self {
        self.options.retain_as_published = retain_as_published;
        self
    }

    /// Says whether retained messages are wanted now.
    pub const fn retain_handling(mut self, handling: RetainHandling) -> Self {
        self.options.retain_handling = handling;
        self
    }

    /// Sets how many deliveries may wait besides the receive maximum (default 256).
    pub const fn queue(mut self, deliveries: usize) -> Self {
        self.queue = deliveries;
        self
    }

    async fn make(self) -> Result<Subscription, SubscribeError> {
        let Self { client, filters, options, queue } = self;
        for filter in &filters {
            let shared = TopicFilter::new(filter)
                .map_err(|error| SubscribeError::Filter { filter: filter.clone(), error })?
                .shared();
            if options.no_local && shared.is_some() {
                return Err(SubscribeError::NoLocalShared { filter: filter.clone() });
            }
        }
        let (reply, answer) = oneshot::channel();
        let command = Command::Subscribe { filters: filters.clone(), options, queue, reply };
        let closed = || SubscribeError::Closed(client.close_reason());
        client.commands.send(command).await.map_err(|_| closed())?;
        let deliveries = answer.await.map_err(|_| closed())??;
        Ok(Subscription { client: client.clone(), filters, deliveries })
    }
}

impl<'a> IntoFuture for SubscribeBuilder<'a> {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.make())
    }
}

/// A message that the application has and the broker waits for; dropping this acknowledges it.
#[must_use = "dropping it acknowledges the message"]
pub struct Unacknowledged {
    _receipt: Option<Arc<TakenOnDrop>>,
}

impl fmt::Debug for Unacknowledged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unacknowledged").finish_non_exhaustive()
    }
}

/// The messages of one subscription, in the order the broker sent them.
///
/// QoS 1 and 2 messages are acknowledged when [`next`](Self::next) gives them out, so what was not taken comes
/// again after a restart with the same session. A subscription that is not read holds up the whole client once
/// it is full.
///
/// [`unsubscribe`](Self::unsubscribe) ends it, with the messages in it that were not taken. Dropping it leaves them to somebody else: to
/// another subscription that matches or is made later, or to the next run of the program with the same session. Until then they are not
/// acknowledged and take room in the receive maximum, as [`Client::decline_unclaimed`] says, which acknowledges them. The
/// broker is asked to send no more with the next message that would have been for a dropped subscription.
pub struct Subscription {
    client: Client,
    filters: Vec<String>,
    deliveries: mpsc::Receiver<Delivery>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("filters", &self.filters).finish_non_exhaustive()
    }
}

impl Subscription {
    /// Waits for the next message; `None` once the client is closed or has unsubscribed.
    ///
    /// Cancel safe: if the future is dropped, no message is lost.
    pub async fn next(&mut self) -> Option<Received> {
        Some(self.next_unacknowledged().await?.0)
    }

    /// Does the same, and leaves it to the application when the message counts as received: once [`Unacknowledged`] is dropped. A crash
    /// before that has the broker send a message of QoS 1 or 2 again.
    ///
    /// Cancel safe: if the future is dropped, no message is lost.
    pub async fn next_unacknowledged(&mut self) -> Option<(Received, Unacknowledged)> {
        let (received, receipt) = self.deliveries.recv().await?.take()?;
        Some((received, Unacknowledged { _receipt: receipt }))
    }

    /// The Topic Filters.
    pub fn filters(&self) -> &[String] {
        &self.filters
    }

    /// Unsubscribes and waits for the broker's answer; other subscriptions of this client lose these filters too. Messages that were not
    /// taken are dropped, and acknowledged.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn unsubscribe(self) -> Result<(), RequestError> {
        for filter in &self.filters {
            self.client.unsubscribe(filter).await?;
        }
        Ok(())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The driver has ended it: the application has unsubscribed, and wants none of what is left.
        if self.deliveries.is_closed() {
            while let Ok(delivery) = self.deliveries.try_recv() {
                drop(delivery.take());
            }
        }
    }
}
