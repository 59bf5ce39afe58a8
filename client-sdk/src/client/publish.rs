//! Publishing: a message is described, then sent and awaited.

use std::fmt;

use bytes::Bytes;
use tokio::sync::oneshot;
use veilmq_protocol::{QoS, ReasonCode, TopicName};

use super::{Client, driver::PublishCommand, error::PublishError, sealing::Form};
use crate::message::{Properties, Publication};

/// A message to be published; nothing happens before [`send`](Self::send).
#[must_use = "a message is published by `send().await`"]
pub struct PublishBuilder<'a> {
    client: &'a Client,
    publication: Publication,
    form: Form,
}

impl fmt::Debug for PublishBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishBuilder").field("publication", &self.publication).finish_non_exhaustive()
    }
}

impl<'a> PublishBuilder<'a> {
    pub(super) fn new(client: &'a Client, topic: &str, payload: Bytes, form: Form) -> Self {
        let publication = Publication {
            topic: topic.to_owned(),
            payload,
            qos: QoS::AtMostOnce,
            retain: false,
            properties: Properties::default(),
        };
        Self { client, publication, form }
    }

    /// Sets the delivery assurance; QoS 0 unless set.
    pub const fn qos(mut self, qos: QoS) -> Self {
        self.publication.qos = qos;
        self
    }

    /// Has the broker keep the message for later subscribers.
    pub const fn retain(mut self, retain: bool) -> Self {
        self.publication.retain = retain;
        self
    }

    /// Describes the payload, for instance as a MIME type.
    pub fn content_type(mut self, content_type: &str) -> Self {
        self.publication.properties.content_type = Some(content_type.to_owned());
        self
    }

    /// Says where to answer.
    pub fn response_topic(mut self, topic: &str) -> Self {
        self.publication.properties.response_topic = Some(topic.to_owned());
        self
    }

    /// Says what an answer is to be matched with.
    pub fn correlation_data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.publication.properties.correlation_data = Some(data.into());
        self
    }

    /// Has the broker discard the message after so many seconds.
    pub const fn message_expiry_seconds(mut self, seconds: u32) -> Self {
        self.publication.properties.message_expiry_seconds = Some(seconds);
        self
    }

    /// Attaches a pair; repeatable.
    pub fn user_property(mut self, name: &str, value: &str) -> Self {
        self.publication.properties.user.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces every property at once.
    pub fn properties(mut self, properties: Properties) -> Self {
        self.publication.properties = properties;
        self
    }

    /// Publishes, and waits: with QoS 0 until the message was handed to the operating system, with QoS 1 for
    /// PUBACK, with QoS 2 for PUBCOMP. While there is no connection, QoS 1 and 2 wait for the next one.
    ///
    /// Where the key of the scope or pair has not come yet, it is waited for, for ten seconds; then this and all that follows there fails with
    /// [`SealError::NoKey`](crate::e2e::SealError::NoKey), at once, until the key comes or there is another connection. Other scopes and pairs
    /// wait for none of it, up to 256 messages for which there is no key.
    ///
    /// Gives the broker's Reason Code, which may say that nobody has subscribed.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn send(self) -> Result<ReasonCode, PublishError> {
        self.submit().await?.settled().await
    }

    /// Publishes without waiting for the outcome, so that many messages are on their way at a time; they leave
    /// in the order of these calls. Waits only while the client's queue is full.
    ///
    /// # Errors
    /// [`PublishError::Topic`] and [`PublishError::Closed`]; everything else is told by
    /// [`PendingPublish::settled`].
    pub async fn submit(self) -> Result<PendingPublish, PublishError> {
        let Self { client, publication, form } = self;
        if let Err(error) = TopicName::new(&publication.topic) {
            return Err(PublishError::Topic { topic: publication.topic, error });
        }
        let (reply, answer) = oneshot::channel();
        let command = PublishCommand { publication, form, reply };
        let closed = || PublishError::Closed(client.close_reason());
        client.publishes.send(command).await.map_err(|_| closed())?;
        Ok(PendingPublish { client: client.clone(), answer })
    }
}

/// A message on its way; dropping this does not call it back.
#[derive(Debug)]
pub struct PendingPublish {
    client: Client,
    answer: oneshot::Receiver<Result<ReasonCode, PublishError>>,
}

impl PendingPublish {
    /// Waits for the outcome, as [`PublishBuilder::send`] does.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn settled(self) -> Result<ReasonCode, PublishError> {
        let Self { client, answer } = self;
        answer.await.map_err(|_| PublishError::Closed(client.close_reason()))?
    }
}
