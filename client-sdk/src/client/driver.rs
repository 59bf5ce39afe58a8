//! The task behind a client: one connection after the other, with the session, the seals and the subscriptions.
//!
//! Invariant: every queue is bounded. While a subscription is full, nothing is read; while the session's queue
//! is full, no publication is taken; what waits to be sent is limited too.

mod keys;
mod receipts;
mod requests;
mod retained;
mod unclaimed;
mod unsealed;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};
use veilmq_protocol::{ReasonCode, SubscribeOptions, veil::channel::Identity};

use self::{
    requests::{Input, Undone, next_input},
    unclaimed::Unclaimed,
    unsealed::Unsealed,
};
use super::{
    Status,
    backoff::Backoff,
    clock::{Clock, entropy, random_u32},
    error::{ConnectError, KeyRequestError, PublishError, ReauthenticateError, RequestError, SubscribeError},
    keys::{KeyAnswer, KeyRequest, Parked},
    routes::{Blocked, Delivery, Routes, STALL, Taken, Unread},
    sealing::{Form, Incoming, Sealing},
    transport::{Moved, Tls, Transport},
};
use crate::{
    e2e::{Saved, Scope},
    message::{Message, Publication, Will},
    session::{Channel, CloseReason, Event, Receipt, Session, Token},
};

/// A publication is taken only while less than this waits to be sent, in bytes.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 64 << 10;
/// What an interval means that the clock cannot express: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);
/// How long the last bytes of a connection may take.
const GOODBYE: Duration = Duration::from_secs(1);

type ReauthenticateReply = oneshot::Sender<Result<(), ReauthenticateError>>;
pub(super) type PublishReply = oneshot::Sender<Result<ReasonCode, PublishError>>;

pub(super) struct PublishCommand {
    pub(super) publication: Publication,
    pub(super) form: Form,
    pub(super) reply: PublishReply,
}

pub(super) enum Command {
    Subscribe {
        filters: Vec<String>,
        options: SubscribeOptions,
        queue: usize,
        reply: oneshot::Sender<Result<mpsc::Receiver<Delivery>, SubscribeError>>,
    },
    Unsubscribe {
        filter: String,
        reply: oneshot::Sender<Result<ReasonCode, RequestError>>,
    },
    Reauthenticate {
        renewed: Option<Arc<Identity>>,
        reply: ReauthenticateReply,
    },
    Keys {
        scope: Scope,
        request: KeyRequest,
        reply: oneshot::Sender<Result<KeyAnswer, KeyRequestError>>,
    },
    DeclineUnclaimed {
        reply: oneshot::Sender<usize>,
    },
    Disconnect {
        reason: ReasonCode,
    },
}

/// Who waits for an answer of the server.
enum Waiter {
    Publish {
        topic: String,
        /// Nobody waits for what the client publishes by itself.
        reply: Option<PublishReply>,
    },
    Subscribe {
        filters: Vec<String>,
        receiver: mpsc::Receiver<Delivery>,
        reply: oneshot::Sender<Result<mpsc::Receiver<Delivery>, SubscribeError>>,
    },
    Unsubscribe {
        filter: String,
        reply: oneshot::Sender<Result<ReasonCode, RequestError>>,
    },
    /// The distribution of keys: a subscription to `topic`, or a publication.
    Keys {
        topic: String,
    },
    /// Blind names that have come into use.
    Names {
        filter: String,
    },
    /// A filter whose subscriptions the application has dropped.
    Abandoned {
        filter: String,
    },
    /// What an earlier run of the program has had retained.
    Retained {
        wire: String,
    },
}

/// Where to connect, and how insistently.
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Tls>,
    pub(super) connect_timeout: Duration,
    pub(super) reconnect: bool,
    pub(super) backoff: Backoff,
    pub(super) will: Option<Will>,
    /// How long a channel goes without a re-authentication.
    pub(super) reauthenticate_every: Duration,
}

impl Endpoint {
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

pub(super) struct Driver {
    endpoint: Endpoint,
    session: Session,
    sealing: Sealing,
    routes: Routes,
    taken: Arc<Taken>,
    publishes: mpsc::Receiver<PublishCommand>,
    commands: mpsc::Receiver<Command>,
    waiters: HashMap<Token, Waiter>,
    /// Names that are subscribed to for what is retained there, until it has come.
    reading: BTreeSet<String>,
    blocked: Vec<Blocked>,
    /// Messages that waited for a key and are to be tried again, or for the last time.
    waited: VecDeque<(Parked, bool)>,
    unclaimed: Unclaimed,
    /// Messages that were unclaimed, to be opened before those that come.
    claimed: VecDeque<(Message, Receipt)>,
    /// Messages that were left in a dropped subscription, for another one.
    reclaimed: VecDeque<Unread>,
    /// Publications that wait for a key.
    unsealed: Unsealed<PublishCommand>,
    /// Publications that are sealed and that the session has no room for.
    ready: VecDeque<(Publication, Option<PublishReply>)>,
    /// The first connection is there, and the keys are not.
    opening: bool,
    /// QoS 0 publications whose last byte is this far in the output of the connection.
    flushing: Vec<(u64, PublishReply)>,
    sent_total: u64,
    /// When the channel is to be re-authenticated.
    reauthenticate_at: Option<Instant>,
    /// Who waits for the re-authentication under way.
    reauthenticating: Option<ReauthenticateReply>,
    status: watch::Sender<Status>,
    notice: watch::Sender<Option<String>>,
    /// What the broker said of when to come back.
    retry_after: Duration,
    /// Who waits for the first connection.
    first: Option<oneshot::Sender<Result<(), ConnectError>>>,
    clock: Clock,
    attempt: u32,
    /// Since when there is a connection.
    connected_at: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        endpoint: Endpoint,
        session: Session,
        sealing: Sealing,
        channels: (mpsc::Receiver<PublishCommand>, mpsc::Receiver<Command>),
        (status, notice): (watch::Sender<Status>, watch::Sender<Option<String>>),
        first: oneshot::Sender<Result<(), ConnectError>>,
    ) -> Self {
        let routes = Routes::new(session.receive_maximum());
        Self {
            endpoint,
            taken: routes.taken(),
            routes,
            session,
            sealing,
            publishes: channels.0,
            commands: channels.1,
            waiters: HashMap::new(),
            reading: BTreeSet::new(),
            blocked: Vec::new(),
            waited: VecDeque::new(),
            unclaimed: Unclaimed::default(),
            claimed: VecDeque::new(),
            reclaimed: VecDeque::new(),
            unsealed: Unsealed::default(),
            ready: VecDeque::new(),
            opening: false,
            flushing: Vec::new(),
            sent_total: 0,
            reauthenticate_at: None,
            reauthenticating: None,
            status,
            notice,
            retry_after: Duration::ZERO,
            first: Some(first),
            clock: Clock::start(),
            attempt: 0,
            connected_at: None,
        }
    }

    /// Connects, and connects again, until there is a reason not to.
    pub(super) async fn run(mut self) {
        let ended = self.connect_while_wanted().await;
        debug!(reason = %ended, "client closed");
        self.acknowledge_taken();
        let mut sealing = self.sealing;
        // Who waits for the end may open the state again: it is let go of there too.
        let saving = spawn_blocking(move || sealing.save(Saved::AtShutdown));
        if let Err(error) = saving.await {
            debug!(%error, "the state is not saved at the end");
        }
        self.status.send_replace(Status::Closed(ended));
    }

    async fn connect_while_wanted(&mut self) -> CloseReason {
        loop {
            let ended = match self.connect().await {
                Some(Ok(stream)) => self.serve(stream).await,
                Some(Err(error)) => self.give_up_first(error),
                None => CloseReason::Requested,
            };
            self.session.connection_lost();
            self.stop_keys();
            self.flushing.clear();
            self.opening = false;
            self.reauthenticate_at = None;
            if let Some(reply) = self.reauthenticating.take() {
                let _ = reply.send(Err(ReauthenticateError::Failed(ended.clone())));
            }
            let failed_first = self.first.take().map(|first| {
                let address = self.endpoint.address();
                first.send(Err(ConnectError::Failed { address, reason: ended.clone() }))
            });
            if failed_first.is_some() || ended.is_final() || !self.endpoint.reconnect {
                return ended;
            }
            warn!(address = %self.endpoint.address(), reason = %ended, "no connection; connecting again");
            self.status.send_replace(Status::Disconnected(ended));
            let connected_at = self.connected_at.take();
            if connected_at.is_some_and(|at| at.elapsed() >= self.endpoint.backoff.max) {
                self.attempt = 0;
            }
            let retry_after = std::mem::take(&mut self.retry_after);
            let pause = self.endpoint.backoff.pause(self.attempt, random_u32()).max(retry_after);
            self.attempt = self.attempt.saturating_add(1);
            if self.meanwhile(tokio::time::sleep(pause)).await.is_none() {
                return CloseReason::Requested;
            }
        }
    }

    fn give_up_first(&mut self, error: ConnectError) -> CloseReason {
        let reason = match &error {
            ConnectError::Failed { reason, .. } => reason.clone(),
            other => CloseReason::Unreachable(other.to_string()),
        };
        if let Some(first) = self.first.take() {
            // Nobody waits any more: the caller of connect has gone.
            let _ = first.send(Err(error));
            self.endpoint.reconnect = false;
        }
        reason
    }

    /// Opens the transport and puts CONNECT into the output; `None` when the application has gone meanwhile.
    async fn connect(&mut self) -> Option<Result<Transport, ConnectError>> {
        let address = self.endpoint.address();
        let (host, port) = (self.endpoint.host.clone(), self.endpoint.port);
        let opening = Transport::open(host, port, self.endpoint.tls.clone());
        let opening = timeout(self.endpoint.connect_timeout, opening);
        let (kind, error) = match self.meanwhile(opening).await? {
            Ok(Ok(stream)) => return Some(self.begin(stream)),
            Ok(Err(error)) => (error.kind(), error.to_string()),
            Err(_) => (io::ErrorKind::TimedOut, "no answer in time".to_owned()),
        };
        Some(Err(ConnectError::Unreachable { address, kind, error }))
    }

    fn begin(&mut self, stream: Transport) -> Result<Transport, ConnectError> {
        let will = self.endpoint.will.as_ref().map(|will| self.sealing.will(will)).transpose()?.flatten();
        self.heed_revocations();
        if let Some(request) = self.sealing.join_request() {
            self.session.ask_with_connect(request);
        }
        self.session.connect(will.as_ref(), self.clock.now(), &mut entropy)?;
        self.sent_total = 0;
        Ok(stream)
    }

    /// Serves the application while `work` goes on; `None` when it wants the client to end.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            let accepts = self.accepts_publication();
            let wake = self.next_wake_of_keys();
            tokio::select! {
                done = &mut work => return Some(done),
                input = next_input(&mut self.publishes, &mut self.commands, &self.taken, accepts) => match input {
                    Input::Abandoned | Input::Command(Command::Disconnect { .. }) => return None,
                    input => self.handle_input(input),
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.advance_keys(),
            }
        }
    }

    /// Drives one connection to its end.
    async fn serve(&mut self, mut stream: Transport) -> CloseReason {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if let Some(reason) = self.advance() {
                self.say_goodbye(&mut stream).await;
                return reason;
            }
            let may_read = self.blocked.is_empty();
            let accepts = self.accepts_publication();
            let wake = self.next_wake();
            let room_to_read = may_read.then_some(buffer.as_mut_slice());
            tokio::select! {
                moved = stream.move_bytes(room_to_read, self.session.output()) => match moved {
                    Ok(Moved::Read(0)) => return CloseReason::Lost("closed by the broker".to_owned()),
                    Ok(Moved::Read(len)) => self.session.receive(buffer.get(..len).unwrap_or_default()),
                    Ok(Moved::Written(len)) => self.sent(len),
                    Err(error) => return CloseReason::Lost(error.to_string()),
                },
                input = next_input(&mut self.publishes, &mut self.commands, &self.taken, accepts) => {
                    self.handle_input(input);
                }
                () = room(&self.blocked), if !may_read => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    self.session.handle_timeout(self.clock.now());
                    self.reauthenticate_if_due();
                }
            }
        }
    }

    /// Works on everything that has arrived, unless a subscription is full; a reason ends the connection.
    fn advance(&mut self) -> Option<CloseReason> {
        self.acknowledge_taken();
        self.advance_keys();
        self.follow_names();
        self.publish_ready();
        self.unclaimed.tell();
        self.release_parts();
        loop {
            self.retry_blocked();
            if !self.blocked.is_empty() {
                self.session.set_reading(false, self.clock.now());
                return None;
            }
            self.session.set_reading(true, self.clock.now());
            if let Some((parked, may_wait)) = self.waited.pop_front() {
                self.open(parked.message, parked.receipt, may_wait);
                continue;
            }
            if let Some(Unread { topic, received, receipt, .. }) = self.reclaimed.pop_front() {
                self.blocked = self.routes.deliver(&topic, received, Some(receipt));
                continue;
            }
            if let Some((message, receipt)) = self.claimed.pop_front() {
                self.open(message, Some(receipt), true);
                continue;
            }
            match self.session.poll(self.clock.now())? {
                Event::Connected { session_present, channel } => self.connected(session_present, channel),
                Event::Message { message, receipt } => self.deliver(message, receipt),
                Event::Published { token, outcome } => match self.waiters.remove(&token) {
                    Some(Waiter::Publish { topic, reply }) => {
                        let outcome = outcome.map_err(|error| PublishError::Delivery { topic, error });
                        tell(reply, outcome);
                    }
                    Some(Waiter::Keys { topic }) => self.key_published(&topic, outcome.err()),
                    Some(
                        Waiter::Subscribe { .. }
                        | Waiter::Unsubscribe { .. }
                        | Waiter::Names { .. }
                        | Waiter::Abandoned { .. }
                        | Waiter::Retained { .. },
                    )
                    | None => {}
                },
                Event::Answered { token, reasons, text } => self.answered(token, &reasons, text),
                Event::RequestTooLarge { token, bytes, bytes_max } => {
                    self.undone(token, &Undone::TooLarge { bytes, bytes_max });
                }
                Event::Unanswered { token, after_ms } => {
                    self.undone(token, &Undone::Unanswered(Duration::from_millis(after_ms)));
                }
                Event::Join { status, response } => self.join_answered(status, &response),
                Event::Reauthenticated => self.reauthenticated(),
                Event::Notice(text) => {
                    warn!(notice = %text, "the broker says");
                    self.notice.send_replace(Some(text));
                }
                Event::Goodbye { retry_after_ms } => {
                    self.retry_after = Duration::from_millis(retry_after_ms.into());
                }
                Event::Closed(reason) => return Some(reason),
            }
        }
    }

    fn connected(&mut self, session_present: bool, channel: Option<Channel>) {
        info!(address = %self.endpoint.address(), session_present, ?channel, "connected");
        self.connected_at = Some(Instant::now());
        self.expect_unclaimed(session_present);
        self.reauthenticate_at = channel.is_some().then(|| self.next_reauthentication());
        self.status.send_replace(Status::Connected { session_present, channel });
        self.opening = true;
        self.start_keys();
    }

    fn next_reauthentication(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.endpoint.reauthenticate_every).unwrap_or(now + LONGEST)
    }

    fn reauthenticate_if_due(&mut self) {
        if self.reauthenticate_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.reauthenticate_at = None;
        // What keeps it from beginning, an exchange under way or the end of the connection, also sets the next time.
        if let Err(error) = self.session.reauthenticate(None, self.clock.now(), &mut entropy) {
            debug!(%error, "no re-authentication now");
        }
    }

    fn reauthenticated(&mut self) {
        debug!("re-authenticated");
        self.reauthenticate_at = Some(self.next_reauthentication());
        if let Some(reply) = self.reauthenticating.take() {
            let _ = reply.send(Ok(()));
        }
    }

    fn deliver(&mut self, message: Message, receipt: Option<Receipt>) {
        if message.retain {
            self.read_back(&message);
        }
        if self.take_key_message(&message) {
            self.acknowledge(receipt);
        } else if let Some(message) = self.keep_unclaimed(message, receipt) {
            self.open(message, receipt, true);
        }
    }

    /// Opens a message and hands it to the application; it may wait for a key.
    fn open(&mut self, message: Message, receipt: Option<Receipt>, may_wait: bool) {
        let topic = message.topic.clone();
        match self.sealing.incoming(message, receipt, may_wait) {
            Incoming::Deliver(received) => {
                self.blocked = self.routes.deliver(&topic, received, receipt);
                self.leave_abandoned();
            }
            Incoming::Repeat => self.acknowledge(receipt),
            Incoming::Part => {}
            Incoming::Park(message) => self.park(message, receipt),
        }
        self.release_parts();
    }

    fn retry_blocked(&mut self) {
        // The application may be waiting for an answer that is behind the messages it does not take.
        let may_drop = self.session.awaits_answers();
        let blocked = std::mem::take(&mut self.blocked);
        self.blocked =
            blocked.into_iter().filter_map(|blocked| self.routes.retry(blocked, may_drop)).collect();
    }

    fn is_connected(&self) -> bool {
        matches!(&*self.status.borrow(), Status::Connected { .. })
    }

    fn accepts_publication(&self) -> bool {
        self.ready.is_empty() && self.unsealed.has_room() && self.session_has_room()
    }

    fn session_has_room(&self) -> bool {
        self.session.accepts_publication() && self.session.output_len() < OUTPUT_BYTES_MAX
    }

    fn sent(&mut self, len: usize) {
        self.session.sent(len, self.clock.now());
        self.sent_total += len as u64;
        let done = self.flushing.partition_point(|(end, _)| *end <= self.sent_total);
        for (_, reply) in self.flushing.drain(..done) {
            let _ = reply.send(Ok(ReasonCode::Success));
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let session = self.session.next_timeout().map(|due| self.clock.instant(due));
        let stall =
            (!self.blocked.is_empty() && self.session.awaits_answers()).then(|| Instant::now() + STALL);
        let refresh = self.sealing.refresh_due().filter(|_| self.is_connected());
        let refresh = refresh.map(|due| Instant::now() + until(due));
        let names = self.sealing.names_due().map(|due| Instant::now() + until(due));
        let unclaimed = self.unclaimed.due();
        [session, stall, self.reauthenticate_at, self.next_wake_of_keys(), refresh, names, unclaimed]
            .into_iter()
            .flatten()
            .min()
    }

    /// Sends what is left, DISCONNECT at its end, and closes.
    async fn say_goodbye(&mut self, stream: &mut Transport) {
        match timeout(GOODBYE, stream.finish(self.session.output())).await {
            Ok(Ok(())) => {
                for (_, reply) in self.flushing.drain(..) {
                    let _ = reply.send(Ok(ReasonCode::Success));
                }
            }
            Ok(Err(error)) => debug!(%error, "the connection was gone before the last packet"),
            Err(_) => debug!("the broker did not take the last packet in time"),
        }
    }
}

/// How long it is until a moment in unix milliseconds.
fn until(unix_ms: u64) -> Duration {
    Duration::from_millis(unix_ms.saturating_sub(super::clock::unix_ms())).min(LONGEST)
}

/// Tells how a publication ended to whoever still wants to know.
fn tell(reply: Option<PublishReply>, outcome: Result<ReasonCode, PublishError>) {
    if let Some(reply) = reply {
        let _ = reply.send(outcome);
    }
}

async fn room(blocked: &[Blocked]) {
    if let Some(first) = blocked.first() {
        first.room().await;
    }
}
