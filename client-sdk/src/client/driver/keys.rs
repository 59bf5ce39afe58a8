//! The driver's part in the distribution of keys: it subscribes, publishes and hands over what `Keys` decides.

use tokio::time::Instant;
use tracing::{debug, warn};
use veilmq_protocol::{QoS, ReasonCode, RetainHandling, SubscribeOptions, veil::hello::JoinStatus};

use super::{ConnectError, Driver, KeyRequestError, PublishCommand, Waiter, until};
use crate::{
    client::{
        clock::unix_ms,
        keys::{KeyAnswer, KeyRequest},
        sealing::Form,
    },
    e2e::Scope,
    message::{Message, Properties, Publication},
    session::{DeliveryError, Receipt, Submitted},
};

impl Driver {
    /// A connection is there.
    pub(super) fn start_keys(&mut self) {
        self.unsealed.connected();
        if let Some(keys) = self.sealing.keys_mut() {
            keys.connected(unix_ms());
        }
        self.work_on_keys();
    }

    /// The connection is gone.
    pub(super) fn stop_keys(&mut self) {
        self.sealing.disconnected();
        self.reading.clear();
        if let Some(keys) = self.sealing.keys_mut() {
            keys.disconnected();
        }
    }

    /// Does all that has its time and needs no connection: erases keys, saves what was received, gives up what has waited.
    pub(super) fn advance_keys(&mut self) {
        self.sealing.advance();
        self.work_on_keys();
    }

    /// When [`advance_keys`](Self::advance_keys) has something to do though nothing arrives.
    pub(super) fn next_wake_of_keys(&self) -> Option<Instant> {
        let keys = self.sealing.next_wake().map(|due| Instant::now() + until(due));
        [keys, self.unsealed.due(Instant::now())].into_iter().flatten().min()
    }

    /// Does what is due; tells the application that the client is usable once it is.
    pub(super) fn work_on_keys(&mut self) {
        let work = self.sealing.key_work();
        if let Some(error) = work.unsaved {
            self.give_up_unsaved(error);
        }
        for (filter, qos) in work.filters {
            let options = SubscribeOptions {
                qos,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Send,
            };
            let token = self.session.subscribe(std::slice::from_ref(&filter), options);
            self.waiters.insert(token, Waiter::Keys { topic: filter });
        }
        for filter in work.gone {
            self.session.abandon(&filter);
        }
        for outgoing in work.publications {
            let publication = Publication {
                topic: outgoing.topic.clone(),
                payload: outgoing.payload.into(),
                qos: QoS::AtLeastOnce,
                retain: outgoing.retain,
                properties: answer_properties(outgoing.answer),
            };
            match self.session.publish(publication) {
                Ok(Submitted::Queued(token)) => {
                    self.waiters.insert(token, Waiter::Keys { topic: outgoing.topic });
                }
                Ok(Submitted::Written) => {}
                Err(error) => warn!(topic = outgoing.topic, ?error, "keys cannot be published"),
            }
        }
        let overdue = self.sealing.keys_mut().map(|keys| keys.overdue(unix_ms())).unwrap_or_default();
        self.waited.extend(overdue.into_iter().map(|parked| (parked, false)));
        self.publish_unsealed();
        if self.opening && self.sealing.keys_mut().is_none_or(|keys| keys.is_ready()) {
            self.opening = false;
            if let Some(first) = self.first.take() {
                let _ = first.send(Ok(()));
            }
        }
    }

    /// A program that is not told it is connected before its state is saved is told that it cannot be.
    fn give_up_unsaved(&mut self, error: String) {
        if let Some(first) = self.first.take() {
            let _ = first.send(Err(ConnectError::State(error)));
            self.endpoint.reconnect = false;
            self.session.disconnect(ReasonCode::Success);
        }
    }

    /// Keeps a publication back that cannot be sealed yet, or that others of its scope or pair wait before; gives back what need not wait.
    pub(super) fn publish_later(&mut self, command: PublishCommand) -> Option<PublishCommand> {
        let key = match command.form {
            Form::AsScoped => self.sealing.sealed_under(&command.publication.topic),
            Form::Plain => None,
        };
        let Some(key) = key else { return Some(command) };
        let topic = command.publication.topic.clone();
        let is_missing = self.sealing.awaits_key(&topic);
        self.unsealed.keep((key, &topic), is_missing, command, Instant::now())
    }

    /// Publishes what has waited for its key, or fails what has waited long enough.
    fn publish_unsealed(&mut self) {
        let sealing = &self.sealing;
        for command in self.unsealed.take_due(|topic| sealing.awaits_key(topic), Instant::now()) {
            self.publish_now(command);
        }
    }

    /// Keeps a message until there is a key for it, which may take asking for keys in another way.
    pub(super) fn park(&mut self, message: Message, receipt: Option<Receipt>) {
        let overdue = self.sealing.park(message, receipt);
        self.waited.extend(overdue.map(|parked| (parked, false)));
        self.work_on_keys();
    }

    /// Takes a message if it is about keys; then what waits for one is tried again.
    pub(super) fn take_key_message(&mut self, message: &Message) -> bool {
        let Some(has_keys) = self.sealing.key_message(message) else { return false };
        self.keys_changed(has_keys);
        true
    }

    /// Takes what CONNACK says of the keys that were asked for with CONNECT.
    pub(super) fn join_answered(&mut self, status: JoinStatus, response: &[u8]) {
        let has_keys = self.sealing.join_answered(status, response);
        self.keys_changed(has_keys);
    }

    /// Holds the channel to the lists that have come.
    pub(super) fn heed_revocations(&mut self) {
        let revoked = self.sealing.take_revoked();
        if !revoked.is_empty() {
            self.session.revoke(&revoked);
        }
    }

    fn keys_changed(&mut self, has_keys: bool) {
        self.heed_revocations();
        if has_keys && let Some(keys) = self.sealing.keys_mut() {
            let parked = keys.take_parked();
            self.waited.extend(parked.into_iter().map(|parked| (parked, true)));
        }
        self.work_on_keys();
    }

    pub(super) fn key_subscribed(&mut self, filter: &str, refused: Option<String>) {
        if let Some(reason) = refused {
            warn!(filter, reason, "the broker does not let this client hear of keys");
        }
        if let Some(keys) = self.sealing.keys_mut() {
            keys.subscribed();
        }
        self.work_on_keys();
    }

    pub(super) fn key_published(&mut self, topic: &str, failed: Option<DeliveryError>) {
        match failed {
            Some(error) => warn!(topic, %error, "the broker does not take what this client says of keys"),
            None => debug!(topic, "keys published"),
        }
        if let Some(keys) = self.sealing.keys_mut() {
            keys.published();
        }
        self.work_on_keys();
    }

    pub(super) fn request_keys(
        &mut self,
        scope: &Scope,
        request: KeyRequest,
    ) -> Result<KeyAnswer, KeyRequestError> {
        let (answer, cleared) = self.sealing.request_keys(scope, request)?;
        self.ready.extend(cleared.into_iter().map(|publication| (publication, None)));
        self.work_on_keys();
        match self.sealing.keys_mut() {
            Some(keys) => keys.settled(scope, answer),
            None => Ok(answer),
        }
    }
}

fn answer_properties(answer: Option<(String, Vec<u8>)>) -> Properties {
    let (response_topic, correlation_data) = answer.unzip();
    Properties { response_topic, correlation_data, ..Properties::default() }
}
