//! What the application asks of the driver, and what the broker answers to it.

use tokio::sync::mpsc;
use veilmq_protocol::ReasonCode;

use super::{
    Command, Driver, OUTPUT_BYTES_MAX, PublishCommand, PublishError, RequestError, SubscribeError, Waiter,
    entropy,
};
use crate::{
    client::routes::Taken,
    session::{SubmitError, Submitted, Token},
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

impl Driver {
    pub(super) fn answered(&mut self, token: Token, reasons: &[ReasonCode]) {
        let refused = reasons.iter().position(|reason| reason.is_error());
        let reason = reasons.get(refused.unwrap_or_default()).copied().unwrap_or_default();
        match self.waiters.remove(&token) {
            Some(Waiter::Subscribe { mut filters, receiver, reply }) => {
                let outcome = match refused {
                    // The receiver is dropped, so what was granted is given up at the next delivery.
                    Some(index) => {
                        Err(SubscribeError::Refused { filter: filters.swap_remove(index), reason })
                    }
                    None => Ok(receiver),
                };
                let _ = reply.send(outcome);
            }
            Some(Waiter::Unsubscribe { filter, reply }) => {
                let outcome = if refused.is_some() { Err(RequestError::Refused(reason)) } else { Ok(reason) };
                if outcome.is_ok() {
                    self.routes.remove(&filter);
                }
                let _ = reply.send(outcome);
            }
            Some(Waiter::Keys { topic }) => self.key_subscribed(&topic, refused.map(|_| reason)),
            Some(Waiter::Publish { .. }) | None => {}
        }
    }

    pub(super) fn handle_input(&mut self, input: Input) {
        match input {
            Input::Publish(command) => {
                self.publish(command);
                for _ in 1..PUBLISH_BATCH {
                    let accepts =
                        self.session.accepts_publication() && self.session.output_len() < OUTPUT_BYTES_MAX;
                    let Some(command) = accepts.then(|| self.publishes.try_recv().ok()).flatten() else {
                        return;
                    };
                    self.publish(command);
                }
            }
            Input::Command(Command::Subscribe { filters, options, queue, reply }) => {
                let receiver = self.routes.add(filters.clone(), queue);
                let token = self.session.subscribe(&filters, options);
                self.waiters.insert(token, Waiter::Subscribe { filters, receiver, reply });
            }
            Input::Command(Command::Unsubscribe { filter, reply }) => {
                let token = self.session.unsubscribe(&filter);
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
            Input::Command(Command::Disconnect { reason }) => self.disconnect(reason),
            Input::Taken => self.acknowledge_taken(),
            Input::Abandoned => self.disconnect(ReasonCode::Success),
        }
    }

    fn disconnect(&mut self, reason: ReasonCode) {
        self.acknowledge_taken();
        // What was submitted before leaves before.
        let unsealed = std::mem::take(&mut self.unsealed).into_iter().map(|(command, _)| command);
        for command in unsealed.collect::<Vec<_>>() {
            self.publish_now(command);
        }
        while let Ok(command) = self.publishes.try_recv() {
            self.publish_now(command);
        }
        self.blocked.clear();
        self.session.disconnect(reason);
    }

    fn publish(&mut self, command: PublishCommand) {
        let Some(command) = self.publish_later(command) else { return };
        self.publish_now(command);
    }

    pub(super) fn publish_now(&mut self, command: PublishCommand) {
        let PublishCommand { publication, form, reply } = command;
        let topic = publication.topic.clone();
        let submitted = self.sealing.outgoing(publication, form).and_then(|publication| {
            self.session.publish(publication).map_err(|error| match error {
                SubmitError::NotConnected => PublishError::NotConnected,
                SubmitError::Delivery(error) => PublishError::Delivery { topic: topic.clone(), error },
            })
        });
        match submitted {
            Ok(Submitted::Queued(token)) => {
                self.waiters.insert(token, Waiter::Publish { topic, reply });
            }
            Ok(Submitted::Written) => {
                let end = self.sent_total + self.session.output_len() as u64;
                self.flushing.push((end, reply));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }
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
