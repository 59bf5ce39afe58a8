//! The asynchronous client: cheap handles to a task that owns the session and its connection.

mod backoff;
mod builder;
mod clock;
mod driver;
mod error;
mod key_log;
mod keys;
mod parts;
mod publish;
mod retained;
mod routes;
mod saving;
mod sealing;
mod subscribe;
mod transport;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use veilmq_protocol::{
    ReasonCode, TopicFilter,
    veil::{Certificate, Kid, channel::Identity, distribution::Pair},
};

pub use self::{
    backoff::Backoff,
    builder::Builder,
    error::{ConnectError, KeyRequestError, PublishError, ReauthenticateError, RequestError, SubscribeError},
    publish::{PendingPublish, PublishBuilder},
    subscribe::{SubscribeBuilder, Subscription, Unacknowledged},
    transport::{Tls, TlsError},
};
use self::{
    driver::{Command, PublishCommand},
    keys::{KeyAnswer, KeyRequest},
    sealing::Form,
};
use crate::{
    e2e::{Scope, distribution::Rotation},
    session::{Channel, CloseReason},
};

/// What the connection is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The first connection is being made.
    Connecting,
    /// There is a connection.
    Connected {
        /// Says that the broker resumed the session.
        session_present: bool,
        /// The VEIL-1 channel, if there is one.
        channel: Option<Channel>,
    },
    /// There is none; another attempt follows.
    Disconnected(CloseReason),
    /// There is none and will be none.
    Closed(CloseReason),
}

/// When others hear that a key changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// It is on its way to the broker.
    Now,
    /// As soon as there is a connection, and the broker has said on it what it retains.
    WhenConnected,
}

/// What has become of a request to an issuer of keys. It is on disk, if there is a file for the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// Something is other than before: who was to be removed was a member, for instance.
    pub changed: bool,
    /// When others hear of it.
    pub announcement: Announcement,
}

/// A handle to a connection that is kept alive; clones share it.
///
/// The connection ends with [`Client::disconnect`], or when the last handle and [`Subscription`] are dropped.
///
/// ```no_run
/// use veilmq_client::{Client, QoS, identity};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder("localhost", 1883)
///     .identity(identity::load("press-07")?)
///     .trust(identity::load_anchors(["ca.vmc"])?)
///     .join_scope("factory/#")?
///     .connect()
///     .await?;
/// // On the scope `factory/#` this leaves sealed, in a record only the broker could have read.
/// client.publish("factory/line-3/t", b"21.5").qos(QoS::AtLeastOnce).send().await?;
/// client.disconnect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    publishes: mpsc::Sender<PublishCommand>,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    notice: watch::Receiver<Option<String>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

impl Client {
    /// Begins to describe a connection to the broker at `host` and `port`.
    pub fn builder(host: &str, port: u16) -> Builder {
        Builder::new(host, port)
    }

    /// Describes a message; on an end-to-end scope it will be sealed.
    pub fn publish(&self, topic: &str, payload: impl AsRef<[u8]>) -> PublishBuilder<'_> {
        PublishBuilder::new(self, topic, Bytes::copy_from_slice(payload.as_ref()), Form::AsScoped)
    }

    /// Describes a message that leaves as it is; on an end-to-end scope that is an error.
    pub fn publish_plain(&self, topic: &str, payload: impl AsRef<[u8]>) -> PublishBuilder<'_> {
        PublishBuilder::new(self, topic, Bytes::copy_from_slice(payload.as_ref()), Form::Plain)
    }

    /// Describes a subscription.
    pub fn subscribe(&self, filter: &str) -> SubscribeBuilder<'_> {
        SubscribeBuilder::new(self, filter)
    }

    /// Unsubscribes; every [`Subscription`] of this client to exactly this filter ends.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn unsubscribe(&self, filter: &str) -> Result<(), RequestError> {
        if let Err(error) = TopicFilter::new(filter) {
            return Err(RequestError::Filter { filter: filter.to_owned(), error });
        }
        let (reply, answer) = oneshot::channel();
        let command = Command::Unsubscribe { filter: filter.to_owned(), reply };
        let closed = || RequestError::Closed(self.close_reason());
        self.commands.send(command).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?.map(drop)
    }

    /// Says that this application has subscribed to all that it wants of a session that was resumed.
    ///
    /// What such a session brings for subscriptions of an earlier run of the program waits, unacknowledged, until the application has
    /// subscribed to it, or has [unsubscribed](Self::unsubscribe) from it; so does what was left in a [`Subscription`] that was dropped. Once as many messages wait as the
    /// [receive maximum](Builder::receive_maximum) allows, the broker sends no others of QoS 1 and 2. This call acknowledges
    /// and drops both, and whatever comes later for subscriptions of an earlier run. Returns how many had waited.
    ///
    /// # Errors
    /// [`RequestError::Closed`].
    pub async fn decline_unclaimed(&self) -> Result<usize, RequestError> {
        let (reply, answer) = oneshot::channel();
        let closed = || RequestError::Closed(self.close_reason());
        self.commands.send(Command::DeclineUnclaimed { reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }

    /// Proves once more who this client is, on the connection there is, and changes its keys (VEIL-1 section 4.8). A client
    /// does so by itself every [`reauthenticate_every`](Builder::reauthenticate_every).
    ///
    /// # Errors
    /// [`ReauthenticateError`]; after [`ReauthenticateError::Failed`] the connection is gone.
    pub async fn reauthenticate(&self) -> Result<(), ReauthenticateError> {
        self.prove(None).await
    }

    /// Does the same with another certificate of the same key, which later connections use too.
    ///
    /// # Errors
    /// As [`Self::reauthenticate`].
    pub async fn renew(&self, identity: Arc<Identity>) -> Result<(), ReauthenticateError> {
        self.prove(Some(identity)).await
    }

    async fn prove(&self, renewed: Option<Arc<Identity>>) -> Result<(), ReauthenticateError> {
        let (reply, answer) = oneshot::channel();
        let closed = || ReauthenticateError::Closed(self.close_reason());
        self.commands.send(Command::Reauthenticate { renewed, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Lets a member into a scope this client issues keys for. Returns whether it is new there.
    ///
    /// # Errors
    /// [`KeyRequestError`].
    pub async fn admit(&self, scope: &str, member: Certificate) -> Result<bool, KeyRequestError> {
        Ok(self.change_keys(scope, KeyRequest::Admit(Box::new(member))).await?.changed)
    }

    /// Takes a member out of a scope this client issues keys for: within seconds of the announcement it can read nothing new (VEIL-1
    /// section 12.4). It stays out until it is [admitted](Self::admit), also after a restart if there is a state file.
    ///
    /// # Errors
    /// [`KeyRequestError`]; with [`RosterError::EpochsExhausted`](crate::e2e::distribution::RosterError::EpochsExhausted) it is out as well.
    pub async fn remove_member(
        &self,
        scope: &str,
        member: Kid,
        rotation: Rotation,
    ) -> Result<KeyChange, KeyRequestError> {
        self.change_keys(scope, KeyRequest::Remove(member, rotation)).await
    }

    /// Changes the key of a scope this client issues keys for.
    ///
    /// # Errors
    /// [`KeyRequestError`].
    pub async fn rotate(&self, scope: &str, rotation: Rotation) -> Result<Announcement, KeyRequestError> {
        Ok(self.change_keys(scope, KeyRequest::Rotate(rotation)).await?.announcement)
    }

    /// Lets a subscriber have a key of its own by name, also one that was [taken away](Self::remove_pair). Returns whether this client
    /// gives such keys.
    ///
    /// # Errors
    /// [`KeyRequestError`].
    pub async fn admit_to_pairs(&self, subscriber: Certificate) -> Result<bool, KeyRequestError> {
        Ok(self.change_keys(&pairs(), KeyRequest::AdmitToPairs(Box::new(subscriber))).await?.changed)
    }

    /// Takes away the pair with `peer`, whichever end this client is, and erases its keys: nothing is sealed for it or accepted from it any
    /// more. What this client has had retained for a subscriber is cleared, and the subscriber stays out until it is
    /// [admitted](Self::admit_to_pairs), also after a restart if there is a state file. Returns whether there was a pair.
    ///
    /// # Errors
    /// [`KeyRequestError`].
    pub async fn remove_pair(&self, peer: Kid) -> Result<bool, KeyRequestError> {
        Ok(self.change_keys(&pairs(), KeyRequest::RemovePair(peer)).await?.changed)
    }

    /// The certificates of the members of a scope this client issues keys for.
    ///
    /// # Errors
    /// [`KeyRequestError`].
    pub async fn members(&self, scope: &str) -> Result<Vec<Certificate>, KeyRequestError> {
        match self.request_keys(scope, KeyRequest::Members).await? {
            KeyAnswer::Members(members) => Ok(members),
            KeyAnswer::Done(_) => Ok(Vec::new()),
        }
    }

    async fn change_keys(&self, scope: &str, request: KeyRequest) -> Result<KeyChange, KeyRequestError> {
        match self.request_keys(scope, request).await? {
            KeyAnswer::Done(change) => Ok(change),
            KeyAnswer::Members(_) => {
                Ok(KeyChange { changed: false, announcement: Announcement::WhenConnected })
            }
        }
    }

    async fn request_keys(&self, scope: &str, request: KeyRequest) -> Result<KeyAnswer, KeyRequestError> {
        let scope = Scope::new(scope)?;
        let (reply, answer) = oneshot::channel();
        let closed = || KeyRequestError::Closed(self.close_reason());
        self.commands.send(Command::Keys { scope, request, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Disconnects and waits until DISCONNECT is sent; the broker discards the Will.
    ///
    /// # Errors
    /// [`RequestError::Closed`] when the client was closed for another reason before.
    pub async fn disconnect(&self) -> Result<(), RequestError> {
        self.end(ReasonCode::Success).await
    }

    /// Disconnects and has the broker publish the Will.
    ///
    /// # Errors
    /// As [`Self::disconnect`].
    pub async fn disconnect_with_will(&self) -> Result<(), RequestError> {
        self.end(ReasonCode::DisconnectWithWill).await
    }

    async fn end(&self, reason: ReasonCode) -> Result<(), RequestError> {
        // If nobody takes the command, the reason is known below.
        let _ = self.commands.send(Command::Disconnect { reason }).await;
        match self.closed().await {
            CloseReason::Requested => Ok(()),
            reason => Err(RequestError::Closed(reason)),
        }
    }

    /// What the connection is doing now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows what the connection is doing.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Follows what the broker has to say to people, such as why it refused a message; the last of it, `None` at first.
    pub fn watch_notice(&self) -> watch::Receiver<Option<String>> {
        self.notice.clone()
    }

    /// Waits until the client is closed for good and says why.
    pub async fn closed(&self) -> CloseReason {
        let mut status = self.status.clone();
        // An error means that the task is gone; what it said last holds.
        let _ = status.wait_for(|status| matches!(status, Status::Closed(_))).await;
        self.close_reason()
    }

    fn close_reason(&self) -> CloseReason {
        match &*self.status.borrow() {
            Status::Closed(reason) | Status::Disconnected(reason) => reason.clone(),
            Status::Connecting | Status::Connected { .. } => {
                CloseReason::Lost("the task of the client was stopped".to_owned())
            }
        }
    }
}

/// The topics of all pairs.
fn pairs() -> String {
    format!("{}#", Pair::TOPICS)
}
