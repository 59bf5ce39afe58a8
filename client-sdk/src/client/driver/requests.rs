//! What the application asks of the driver, and what the broker answers to it.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;
use veilmq_protocol::{ReasonCode, SubscribeOptions};

use super::{
    Command, Driver, PublishCommand, PublishError, PublishReply, RequestError, SubscribeError, Waiter,
    entropy, tell,
};
use crate::{
    client::routes::{Delivery, Taken, Wanted},
    message::Publication,
    session::{SubmitError, Submitted, Token, with_text},
};

/// Publications taken in a row before the socket gets its turn.
const PUBLISH_BATCH: usize = 64;

/// What the application side of the driver has for it.
pub(super) enum Input {
    Publish(PublishCommand),
    Command(Command),
    Taken,
    /// Every handle is gone.
    Abandoned,
}

/// Why a request has come to nothing without an answer.
#[derive(Debug, Error)]
pub(super) enum Undone {
    #[error("the packet of {bytes} bytes exceeds the broker's limit of {bytes_max}")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("the broker did not answer within {0:?}")]
    Unanswered(Duration),
}

impl Undone {
    fn of_subscribe(&self, mut filters: Vec<String>) -> SubscribeError {
        match *self {
            Self::TooLarge { bytes, bytes_max } => SubscribeError::TooLarge { bytes, bytes_max },
            Self::Unanswered(after) => {
                // One that is blind has several names.
                filters.dedup();
                SubscribeError::NoAnswer { filters, after }
            }
        }
    }

    fn of_unsubscribe(&self, filter: String) -> RequestError {
        match *self {
            Self::TooLarge { bytes, bytes_max } => RequestError::TooLarge { bytes, bytes_max },
            Self::Unanswered(after) => RequestError::NoAnswer { filter, after },
        }
    }
}

impl Driver {
    pub(super) fn answered(&mut self, token: Token, reasons: &[ReasonCode], text: Option<String>) {
        let refused = reasons.iter().position(|reason| reason.is_error());
        let reason = reasons.get(refused.unwrap_or_default()).copied().unwrap_or_default();
        let words = refused.map(|_| with_text(reason, text.as_deref()));
        match self.waiters.remove(&token) {
            Some(Waiter::Subscribe { mut filters, receiver, reply }) => {
                let outcome = match refused {
                    // The receiver is dropped like a subscription, so what was granted is given up at the next delivery.
                    Some(index) => {
                        Err(SubscribeError::Refused { filter: filters.swap_remove(index), reason, text })
                    }
                    None => Ok(receiver),
                };
                let _ = reply.send(outcome);
            }
            Some(Waiter::Unsubscribe { filter, reply }) => {
                let outcome = match refused {
                    Some(_) => Err(RequestError::Refused { reason, text }),
                    None => Ok(reason),
                };
                if outcome.is_ok() {
                    self.dismiss(&filter);
                    let mut wire = self.routes.wire_of(&filter);
                    self.routes.remove(&filter);
                    if wire.is_empty() {
                        // A filter of an earlier run.
                        wire.push(filter);
                    }
                    self.give_up(wire);
                }
                let _ = reply.send(outcome);
            }
            Some(Waiter::Keys { topic }) => self.key_subscribed(&topic, words),
            Some(Waiter::Names { filter }) if words.is_some() => {
                warn!(
                    filter,
                    reason = words,
                    "the broker does not let this client subscribe to the names of the next epoch"
                );
            }
            Some(Waiter::Retained { wire }) => {
                if let Some(words) = words {
                    self.cannot_read(&wire, &words);
                }
            }
            Some(Waiter::Abandoned { filter }) => self.left(&filter),
            Some(Waiter::Names { .. } | Waiter::Publish { .. }) | None => {}
        }
    }

    /// A request was not sent, or not answered.
    pub(super) fn undone(&mut self, token: Option<Token>, why: &Undone) {
        let words = why.to_string();
        match token.and_then(|token| self.waiters.remove(&token)) {
            Some(Waiter::Subscribe { filters, reply, .. }) => {
                let _ = reply.send(Err(why.of_subscribe(filters)));
            }
            Some(Waiter::Unsubscribe { filter, reply }) => {
                let _ = reply.send(Err(why.of_unsubscribe(filter)));
            }
            Some(Waiter::Keys { topic }) => self.key_subscribed(&topic, Some(words)),
            Some(Waiter::Retained { wire }) => self.cannot_read(&wire, &words),
            Some(Waiter::Abandoned { filter }) => {
                warn!(filter, reason = words, "the broker goes on sending what nobody reads");
                self.left(&filter);
            }
            Some(Waiter::Names { .. } | Waiter::Publish { .. }) | None => {
                warn!(reason = words, "a subscription is not changed or made again");
            }
        }
    }

    pub(super) fn handle_input(&mut self, input: Input) {
        match input {
            Input::Publish(command) => {
                self.publish(command);
                for _ in 1..PUBLISH_BATCH {
                    let Some(command) =
                        self.accepts_publication().then(|| self.publishes.try_recv().ok()).flatten()
                    else {
                        return;
                    };
                    self.publish(command);
                }
            }
            Input::Command(Command::Subscribe { filters, options, queue, reply }) => {
                match self.wanted(filters, options) {
                    Ok(wanted) => self.subscribe(wanted, options, queue, reply),
                    Err(error) => {
                        let _ = reply.send(Err(error));
                    }
                }
            }
            Input::Command(Command::Unsubscribe { filter, reply }) => {
                let mut wire = self.routes.wire_of(&filter);
                let last = wire.pop().unwrap_or_else(|| filter.clone());
                for other in wire {
                    self.session.abandon(&other);
                }
                let token = self.session.unsubscribe(&last);
                self.waiters.insert(token, Waiter::Unsubscribe { filter, reply });
            }
            Input::Command(Command::Reauthenticate { renewed, reply }) => {
                match self.session.reauthenticate(renewed, self.clock.now(), &mut entropy) {
                    Ok(()) => self.reauthenticating = Some(reply),
                    Err(error) => {
                        let _ = reply.send(Err(error.into()));
                    }
                }
            }
            Input::Command(Command::Keys { scope, request, reply }) => {
                let _ = reply.send(self.request_keys(&scope, request));
            }
            Input::Command(Command::DeclineUnclaimed { reply }) => {
                let _ = reply.send(self.decline_unclaimed());
            }
            Input::Command(Command::Disconnect { reason }) => self.disconnect(reason),
            Input::Taken => self.acknowledge_taken(),
            Input::Abandoned => self.disconnect(ReasonCode::Success),
        }
    }

    /// What the broker is to be given for each filter.
    fn wanted(&self, filters: Vec<String>, options: SubscribeOptions) -> Result<Vec<Wanted>, SubscribeError> {
        let wanted = filters.into_iter().map(|filter| match self.sealing.wire_filters(&filter) {
            Ok(wire) => Ok(Wanted { filter, options, wire }),
            Err(error) => Err(SubscribeError::Naming { filter, error }),
        });
        wanted.collect()
    }

    fn subscribe(
        &mut self,
        wanted: Vec<Wanted>,
        options: SubscribeOptions,
        queue: usize,
        reply: oneshot::Sender<Result<mpsc::Receiver<Delivery>, SubscribeError>>,
    ) {
        let named = wanted.iter().flat_map(|wanted| wanted.wire.iter().map(|wire| (&wanted.filter, wire)));
        let (filters, wire): (Vec<String>, Vec<String>) =
            named.map(|(filter, wire)| (filter.clone(), wire.clone())).unzip();
        let receiver = self.routes.add(wanted, queue);
        // What the application has dropped before is for the new one.
        self.acknowledge_taken();
        self.claim();
        let token = self.session.subscribe(&wire, options);
        self.waiters.insert(token, Waiter::Subscribe { filters, receiver, reply });
    }

    /// Subscribes to blind names that have come into use, and gives up those that have gone out of it.
    pub(super) fn follow_names(&mut self) {
        if !self.sealing.names_changed() {
            return;
        }
        let sealing = &self.sealing;
        let (added, gone) = self.routes.rename(|filter| match sealing.wire_filters(filter) {
            Ok(wire) => Some(wire),
            Err(error) => {
                warn!(filter, %error, "the subscription keeps to the names it has");
                None
            }
        });
        for (filter, options) in added {
            let token = self.session.subscribe(std::slice::from_ref(&filter), options);
            self.waiters.insert(token, Waiter::Names { filter });
        }
        self.claim();
        for filter in &gone {
            self.session.abandon(filter);
        }
        self.give_up(gone);
    }

    fn disconnect(&mut self, reason: ReasonCode) {
        self.acknowledge_taken();
        // What was submitted before leaves before.
        for command in self.unsealed.take_all() {
            self.publish_now(command);
        }
        while let Ok(command) = self.publishes.try_recv() {
            self.publish_now(command);
        }
        for (publication, reply) in std::mem::take(&mut self.ready) {
            self.submit(publication, reply);
        }
        self.blocked.clear();
        self.session.disconnect(reason);
    }

    fn publish(&mut self, command: PublishCommand) {
        let Some(command) = self.publish_later(command) else { return };
        self.publish_now(command);
    }

    /// Seals a publication and hands it to the session as soon as there is room.
    pub(super) fn publish_now(&mut self, command: PublishCommand) {
        let PublishCommand { publication, form, reply } = command;
        match self.sealing.outgoing(publication, form) {
            Ok(sealed) => {
                let replies = one_for_each(sealed.len(), reply);
                self.ready.extend(sealed.into_iter().zip(replies));
                self.submit_ready();
            }
            Err(error) => tell(Some(reply), Err(error)),
        }
    }

    /// Publishes what waits for room, and what is to be sealed anew.
    pub(super) fn publish_ready(&mut self) {
        if self.is_connected() {
            self.refresh_retained();
        }
        self.submit_ready();
    }

    fn submit_ready(&mut self) {
        while self.session_has_room()
            && let Some((publication, reply)) = self.ready.pop_front()
        {
            self.submit(publication, reply);
        }
    }

    fn submit(&mut self, publication: Publication, reply: Option<PublishReply>) {
        let topic = publication.topic.clone();
        match self.session.publish(publication) {
            Ok(Submitted::Queued(token)) => {
                self.waiters.insert(token, Waiter::Publish { topic, reply });
            }
            Ok(Submitted::Written) => {
                let end = self.sent_total + self.session.output_len() as u64;
                self.flushing.extend(reply.map(|reply| (end, reply)));
            }
            Err(SubmitError::NotConnected) => tell(reply, Err(PublishError::NotConnected)),
            Err(SubmitError::Delivery(error)) => tell(reply, Err(PublishError::Delivery { topic, error })),
        }
    }
}

/// Replies for the parts of a publication: all but the last are heard of only if they fail.
fn one_for_each(parts: usize, reply: PublishReply) -> Vec<Option<PublishReply>> {
    if parts <= 1 {
        return vec![Some(reply)];
    }
    let (replies, answers): (Vec<_>, Vec<_>) = (0..parts).map(|_| oneshot::channel()).unzip();
    tokio::spawn(async move {
        let mut last = None;
        for answer in answers {
            // A reply that is dropped means that the client is closed, which the caller learns in the same way.
            let Ok(outcome) = answer.await else { return };
            if !matches!(last, Some(Err(_))) {
                last = Some(outcome);
            }
        }
        tell(Some(reply), last.unwrap_or(Ok(ReasonCode::Success)));
    });
    replies.into_iter().map(Some).collect()
}

pub(super) async fn next_input(
    publishes: &mut mpsc::Receiver<PublishCommand>,
    commands: &mut mpsc::Receiver<Command>,
    taken: &Taken,
    accepts: bool,
) -> Input {
    tokio::select! {
        command = commands.recv() => command.map_or(Input::Abandoned, Input::Command),
        Some(publish) = publishes.recv(), if accepts => Input::Publish(publish),
        () = taken.changed() => Input::Taken,
    }
}
