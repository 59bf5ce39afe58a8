//! The end-to-end part of a client: what leaves is sealed and what arrives is opened, by topic.
//!
//! Invariant: the only way from a plaintext on a scope to a [`Publication`] is through a seal.

use std::collections::HashMap;

use bytes::Bytes;
use tracing::{error, warn};
use veilmq_protocol::{
    QoS, TopicFilter, TopicName,
    veil::{
        Kid,
        channel::hash,
        distribution::{DistributionTopic, Pair},
        hello::JoinStatus,
        layout::Reader,
    },
};
use zeroize::Zeroizing;

use super::{
    clock::{entropy, unix_ms},
    error::{ConnectError, KeyRequestError, PublishError},
    keys::{KeyAnswer, KeyRequest, KeyWork, Keys, Parked},
    parts::Parts,
    retained::{Refresh, Retained},
    saving::Saving,
};
use crate::{
    e2e::{
        Arrival, E2e, NamingError, OpenError, Saved, Scope, SealError, StateError, distribution::Distribution,
    },
    message::{Message, Publication, Received, Sealed, Will, encode_pairs},
    sealed_file::{SealedFile, SealedFileError},
    session::Receipt,
};

/// How often blind names are looked at, to which the application may have added an epoch, in milliseconds.
const LOOK_AT_NAMES_EVERY_MS: u64 = 5_000;

/// Who may call for plaintext on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Sealed where the topic is in a scope.
    AsScoped,
    /// Plaintext, which a scope does not allow.
    Plain,
}

/// Whose key seals a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SealedUnder {
    Scope(String),
    /// That of a publisher and this subscriber.
    Pair(Kid),
}

/// What becomes of a message that arrived.
pub(super) enum Incoming {
    /// The application sees it.
    Deliver(Received),
    /// It was seen before, or is nothing for the application.
    Repeat,
    /// It is part of a message that is not whole.
    Part,
    /// It can perhaps be opened soon.
    Park(Message),
}

pub(super) struct Sealing {
    e2e: E2e,
    keys: Option<Keys>,
    saving: Saving,
    /// Messages that were opened and have not reached the application.
    untaken: HashMap<Receipt, Arrival>,
    parts: Parts,
    /// When a message is given up of which parts are missing, in unix milliseconds.
    parts_due: Option<u64>,
    retained: Retained,
    /// The epochs of blind names that were in use when that was last asked.
    naming_epochs: Vec<Vec<u32>>,
}

impl Sealing {
    pub(super) fn new(
        mut e2e: E2e,
        keys: Option<Keys>,
        file: Option<SealedFile>,
        retained: Retained,
    ) -> Self {
        let now = unix_ms();
        e2e.advance(now);
        let naming_epochs = e2e.naming_epochs(now);
        Self {
            e2e,
            keys,
            saving: Saving::new(file),
            untaken: HashMap::new(),
            parts: Parts::default(),
            parts_due: None,
            retained,
            naming_epochs,
        }
    }

    /// Says in the file that this run has begun: if it ends without another word, it was a crash. What cannot be saved then is no state to
    /// begin with.
    ///
    /// # Errors
    /// [`SealedFileError`].
    pub(super) fn begin(&mut self) -> Result<(), SealedFileError> {
        self.try_save(Saved::InPassing)
    }

    /// Erases keys whose time is over, in the file too.
    pub(super) fn advance(&mut self) {
        let now = unix_ms();
        self.e2e.advance(now);
        if self.e2e.take_erased() {
            self.saving.want();
        }
        if self.parts_due.is_some_and(|due| due <= now) {
            self.parts_due = self.e2e.forget_late_parts(now);
        }
        let Self { e2e, keys, saving, untaken, retained, .. } = self;
        let distribution = keys.as_ref().map(|keys| &keys.distribution);
        saving.save_beside(|| content(distribution, e2e, retained, Saved::InPassing, untaken));
    }

    pub(super) fn keys_mut(&mut self) -> Option<&mut Keys> {
        self.keys.as_mut()
    }

    /// When this wants to be called again though nothing arrives, in unix milliseconds.
    pub(super) fn next_wake(&self) -> Option<u64> {
        let keys = self.keys.as_ref().map(Keys::next_due);
        [self.e2e.erasure_due(), self.saving.due(), self.parts_due, keys]
            .into_iter()
            .flatten()
            .min()
            .filter(|due| *due != u64::MAX)
    }

    /// Carries out what the application asks about keys, and returns what clears messages that are retained for a peer that was taken away.
    pub(super) fn request_keys(
        &mut self,
        scope: &Scope,
        request: KeyRequest,
    ) -> Result<(KeyAnswer, Vec<Publication>), KeyRequestError> {
        let keys = self.keys.as_mut().ok_or(KeyRequestError::NotAnIssuer)?;
        let removed = match &request {
            KeyRequest::RemovePair(peer) => Some(*peer),
            KeyRequest::Admit(_)
            | KeyRequest::Remove(..)
            | KeyRequest::Rotate(_)
            | KeyRequest::Members
            | KeyRequest::AdmitToPairs(_) => None,
        };
        let answer = keys.request(&mut self.e2e, scope, request, unix_ms())?;
        let cleared = removed.map(|peer| self.retained.clear(&Pair::topic(peer, "")));
        Ok((answer, cleared.unwrap_or_default()))
    }

    /// Does what is due for the keys and returns what is to be sent.
    pub(super) fn key_work(&mut self) -> KeyWork {
        let Self { e2e, keys, saving, retained, untaken, .. } = self;
        let Some(keys) = keys else { return KeyWork::default() };
        let work = keys.work(e2e, unix_ms(), |distribution, e2e| {
            let saved = saving.save(|| content(Some(distribution), e2e, retained, Saved::InPassing, untaken));
            saved.map_err(|error| error.to_string())
        });
        if !work.publications.is_empty() {
            retained.look_again();
        }
        work
    }

    /// When something retained may have to be sealed anew, in unix milliseconds.
    pub(super) fn refresh_due(&self) -> Option<u64> {
        self.retained.next_due().filter(|due| *due != u64::MAX)
    }

    /// What is to be done about what this client has had retained under an earlier epoch.
    pub(super) fn refresh(&mut self) -> Refresh {
        let refresh = self.retained.refresh(&mut self.e2e, unix_ms());
        self.refreshed(&refresh);
        refresh
    }

    /// Takes a retained message, if it is one that is being read back.
    pub(super) fn read_back(&mut self, message: &Message) -> Option<Refresh> {
        let refresh = self.retained.read_back(&mut self.e2e, message, unix_ms())?;
        self.refreshed(&refresh);
        Some(refresh)
    }

    pub(super) fn cannot_read(&mut self, wire: &str) {
        self.retained.cannot_read(wire);
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.retained.disconnected();
    }

    fn refreshed(&mut self, refresh: &Refresh) {
        self.save_session();
        if !refresh.publications.is_empty() {
            self.saving.want();
        }
    }

    /// Takes a message on a topic of key distribution; `None` if it is none. Returns whether parked messages may be tried again.
    pub(super) fn key_message(&mut self, message: &Message) -> Option<bool> {
        let keys = self.keys.as_mut()?;
        let (topic, payload, now) = (&message.topic, &message.payload, unix_ms());
        let about = DistributionTopic::parse(topic)?;
        self.retained.look_again();
        let may_open = keys.distribution.handle(&mut self.e2e, topic, payload, now, &mut entropy);
        keys.heard(&about, message.retain, now);
        Some(may_open)
    }

    /// Every certificate that is known to be revoked, if a list has come since this was asked last.
    pub(super) fn take_revoked(&mut self) -> Vec<(Kid, u64)> {
        self.keys.as_mut().map(|keys| keys.distribution.take_revoked()).unwrap_or_default()
    }

    /// The JOIN_REQ for the next CONNECT, if there is something to ask for.
    pub(super) fn join_request(&mut self) -> Option<Vec<u8>> {
        self.keys.as_mut()?.join_request(unix_ms())
    }

    /// Takes what CONNACK says of it. Returns whether parked messages may be tried again.
    pub(super) fn join_answered(&mut self, status: JoinStatus, response: &[u8]) -> bool {
        let Some(keys) = &mut self.keys else { return false };
        self.retained.look_again();
        keys.distribution.handle_connack(&mut self.e2e, status, response, unix_ms())
    }

    /// Keeps a message until there is a key for it; gives back one that must not wait any longer.
    pub(super) fn park(&mut self, message: Message, receipt: Option<Receipt>) -> Option<Parked> {
        self.keys.as_mut()?.park(message, receipt, unix_ms())
    }

    /// Saves what was received, if there is a file for it.
    pub(super) fn save(&mut self, saved: Saved) {
        if let Err(error) = self.try_save(saved) {
            error!(%error, "cannot save which messages were received");
        }
    }

    fn try_save(&mut self, saved: Saved) -> Result<(), SealedFileError> {
        let Self { e2e, keys, saving, untaken, retained, .. } = self;
        let distribution = keys.as_ref().map(|keys| &keys.distribution);
        saving.save(|| content(distribution, e2e, retained, saved, untaken))
    }

    /// Takes note that the application has a message now. Only then does it count as received after a restart too. Returns the receipts
    /// of its other parts.
    pub(super) fn taken(&mut self, receipt: Receipt) -> Vec<Receipt> {
        let others = self.parts.taken(receipt);
        for receipt in others.iter().chain([&receipt]) {
            self.received(*receipt);
        }
        others
    }

    /// Receipts of parts whose messages are given up.
    pub(super) fn released_parts(&mut self) -> Vec<Receipt> {
        if self.parts.is_idle() {
            return Vec::new();
        }
        let released = self.parts.released(&self.e2e.incomplete_messages());
        released.iter().for_each(|receipt| self.received(*receipt));
        released
    }

    /// Lets go of a part that keeps others from coming: a crash before its message is whole loses it. Returns whether it was a part.
    pub(super) fn release_part(&mut self, receipt: Receipt) -> bool {
        let is_part = self.parts.release(receipt);
        if is_part {
            self.received(receipt);
        }
        is_part
    }

    fn received(&mut self, receipt: Receipt) {
        if self.untaken.remove(&receipt).is_some() {
            self.saving.want();
        }
    }

    /// Saves that a sender session has begun, before anything sealed in it leaves: a run that follows a crash then begins another
    /// one, whatever its clock says.
    fn save_session(&mut self) {
        if self.e2e.take_session_begun() {
            self.save(Saved::InPassing);
        }
    }

    /// Turns what the application publishes into what goes to the broker, in this order.
    pub(super) fn outgoing(
        &mut self,
        publication: Publication,
        form: Form,
    ) -> Result<Vec<Publication>, PublishError> {
        self.advance();
        let topic = publication.topic.clone();
        let name =
            TopicName::new(&topic).map_err(|error| PublishError::Topic { topic: topic.clone(), error })?;
        let failed = |error| PublishError::Seal { topic: topic.clone(), error };
        self.check_response_topic(&publication).map_err(failed)?;
        if self.e2e.is_blind_name(name) {
            return Err(failed(SealError::BlindName));
        }
        let Some(scope) = self.e2e.scope_of(name) else { return Ok(vec![publication]) };
        if form == Form::Plain {
            return Err(PublishError::ScopeIsSealed { scope: scope.as_str().to_owned(), topic });
        }
        let deletes = publication.retain && publication.payload.is_empty();
        if deletes && !self.e2e.seals_envelopes(name) {
            return Ok(vec![publication]);
        }
        let invalid = |error| PublishError::Delivery { topic: topic.clone(), error };
        let user = encode_pairs(&publication.properties.user).map_err(|error| invalid(error.into()))?;
        let properties = publication.properties.borrow(&user).map_err(|error| invalid(error.into()))?;
        let (plaintext, now) = (&publication.payload, unix_ms());
        let wire = self.e2e.wire_topic(name, now).map_err(|error| failed(error.into()))?;
        let wire = wire.unwrap_or_else(|| topic.clone());
        let sealed = match publication.retain {
            true => vec![self.e2e.seal(name, plaintext, &properties, now, &mut entropy).map_err(failed)?],
            false => {
                let parts = self.e2e.seal_in_parts(name, plaintext, &properties, now, &mut entropy);
                parts.map_err(failed)?
            }
        };
        let legacy = self.e2e.seal_legacy(name, plaintext, now, &mut entropy).map_err(failed)?;
        self.save_session();
        let with = |payload: Vec<u8>| publication.carrying(&wire, Bytes::from(payload));
        let mut outgoing: Vec<Publication> = sealed.into_iter().map(with).collect();
        outgoing.extend(legacy.map(|(topic, payload)| Publication { topic, ..with(payload) }));
        if publication.retain {
            if deletes {
                // VEIL-1 section 12.1: the proof that it is deleted, and then the deletion.
                outgoing.push(publication.carrying(&wire, Bytes::new()));
            }
            // The first is the sealed one, whatever follows.
            if let Some(sealed) = outgoing.first() {
                self.retained.remember(publication, sealed, self.e2e.refresh_mark(name, now));
            }
            self.saving.want();
        }
        Ok(outgoing)
    }

    /// The filters to subscribe to for everything that a filter matches.
    pub(super) fn wire_filters(&self, filter: &str) -> Result<Vec<String>, NamingError> {
        match TopicFilter::new(filter) {
            Ok(parsed) => self.e2e.wire_filters(parsed, unix_ms()),
            Err(_) => Ok(vec![filter.to_owned()]),
        }
    }

    /// Whether other names are in use than when this was last asked.
    pub(super) fn names_changed(&mut self) -> bool {
        let epochs = self.e2e.naming_epochs(unix_ms());
        let changed = epochs != self.naming_epochs;
        if changed {
            self.naming_epochs = epochs;
            self.retained.look_again();
        }
        changed
    }

    /// When other names come into use or go out of it, in unix milliseconds, or when to look whether they do.
    pub(super) fn names_due(&self) -> Option<u64> {
        if self.naming_epochs.is_empty() {
            return None;
        }
        let now = unix_ms();
        let look = now.saturating_add(LOOK_AT_NAMES_EVERY_MS);
        Some(self.e2e.next_naming(now).map_or(look, |due| due.min(look)))
    }

    /// Refuses to show a name of a blind scope where everyone can read it.
    fn check_response_topic(&self, publication: &Publication) -> Result<(), SealError> {
        let response = publication.properties.response_topic.as_deref().map(TopicName::new);
        match response {
            Some(Ok(topic)) if self.e2e.is_blind(topic) => Err(SealError::ResponseTopic),
            Some(_) | None => Ok(()),
        }
    }

    /// The Will for one CONNECT, sealed under the epoch of now; none before there is a key.
    pub(super) fn will(&mut self, will: &Will) -> Result<Option<Will>, ConnectError> {
        let message = &will.publication;
        let name = TopicName::new(&message.topic)?;
        self.check_response_topic(message)?;
        if !self.e2e.publishes_sealed(name) {
            return Ok(Some(will.clone()));
        }
        if self.awaits_key(&message.topic) {
            warn!(topic = message.topic, "there is no key to seal the will with; this connection has none");
            return Ok(None);
        }
        let user = encode_pairs(&message.properties.user)?;
        let properties = message.properties.borrow(&user)?;
        let now = unix_ms();
        let wire = self.e2e.wire_topic(name, now).map_err(SealError::from)?;
        let sealed = self.e2e.seal_will(name, &message.payload, &properties, now, &mut entropy)?;
        self.save_session();
        let publication = message.carrying(wire.as_deref().unwrap_or(&message.topic), Bytes::from(sealed));
        Ok(Some(Will { publication, ..*will }))
    }

    /// Turns what the broker sent into what the application sees; `may_wait` for a key.
    pub(super) fn incoming(
        &mut self,
        mut message: Message,
        receipt: Option<Receipt>,
        may_wait: bool,
    ) -> Incoming {
        self.advance();
        let Ok(name) = TopicName::new(&message.topic) else { return Incoming::Repeat };
        if message.payload.is_empty() && self.e2e.is_blind_name(name) {
            // Nobody can say which topic it is. What deletes it came before, in an envelope.
            return Incoming::Repeat;
        }
        if !self.e2e.opens(name, &message.payload) {
            return Incoming::Deliver(Received::Message(message));
        }
        // User Properties are never bound, so they need not be encoded again.
        let none = veilmq_protocol::UserPropertiesBuf::new();
        let opened = match message.properties.borrow(&none) {
            Ok(properties) => self.e2e.open(name, &message.payload, message.retain, &properties, unix_ms()),
            Err(_) => Err(OpenError::Malformed("properties")),
        };
        match opened {
            Ok(opened) => {
                match (receipt, opened.origin().and_then(|_| self.e2e.newest_received())) {
                    (Some(receipt), Some(arrival)) => drop(self.untaken.insert(receipt, arrival)),
                    (Some(_), None) | (None, _) => self.saving.want(),
                }
                if let Some(whole) = self.e2e.take_newest_part() {
                    self.parts.complete(whole, receipt);
                }
                message.sealed =
                    Some(Sealed { provenance: opened.provenance, authentication: opened.authentication() });
                message.payload = Bytes::from(opened.plaintext);
                if let Some(topic) = opened.topic {
                    message.topic = topic;
                }
                Incoming::Deliver(Received::Message(message))
            }
            // VEIL-1 section 12.2: a QoS 1 repeat is the same envelope, and is dropped silently.
            Err(OpenError::Replay) if message.dup && message.qos != QoS::AtMostOnce => Incoming::Repeat,
            Err(OpenError::Incomplete) => {
                self.part(receipt);
                Incoming::Part
            }
            Err(OpenError::LegacyCopy) => Incoming::Repeat,
            Err(OpenError::NoKey { .. }) if may_wait && self.gets_keys(name) => Incoming::Park(message),
            Err(OpenError::UnknownSender(sender)) if may_wait && self.gets_keys(name) => {
                if let Some(keys) = &mut self.keys {
                    keys.distribution.want_certificate(sender);
                }
                Incoming::Park(message)
            }
            Err(error) => {
                if let OpenError::SenderRevoked(sender) = error
                    && self.gets_keys(name)
                    && let Some(keys) = &mut self.keys
                {
                    // Its holder may have another certificate by now.
                    keys.distribution.want_certificate(sender);
                }
                Incoming::Deliver(Received::Refused { topic: message.topic, error })
            }
        }
    }

    /// Takes note of a part whose message is not whole. Until it is, and the application has it, the part counts as received neither here
    /// nor at the broker.
    fn part(&mut self, receipt: Option<Receipt>) {
        match (receipt, self.e2e.newest_received(), self.e2e.take_newest_part()) {
            (Some(receipt), Some(arrival), Some(message)) => {
                self.untaken.insert(receipt, arrival);
                self.parts.hold(receipt, message);
            }
            (None, _, _) | (_, None, _) | (_, _, None) => self.saving.want(),
        }
        self.parts_due = self.e2e.forget_late_parts(unix_ms());
    }

    /// Under whose key a message on `topic` is sealed, if that comes from an issuer.
    pub(super) fn sealed_under(&self, topic: &str) -> Option<SealedUnder> {
        let name = TopicName::new(topic).ok().filter(|name| self.gets_keys(*name))?;
        match Pair::subscriber_of(topic).filter(|_| self.e2e.is_for_one(name)) {
            Some(subscriber) => Some(SealedUnder::Pair(subscriber)),
            None => self.e2e.scope_of(name).map(|scope| SealedUnder::Scope(scope.as_str().to_owned())),
        }
    }

    /// Whether a message on `topic` must wait before it can be sealed: for a key, or for word of a newer one.
    pub(super) fn awaits_key(&self, topic: &str) -> bool {
        let (Some(keys), Ok(name)) = (&self.keys, TopicName::new(topic)) else { return false };
        let listens = keys.is_listening() && self.e2e.has_distributed_keys(name);
        listens || self.e2e.awaits_key(name, unix_ms())
    }

    /// Whether keys for messages on `topic` may still come.
    fn gets_keys(&self, topic: TopicName<'_>) -> bool {
        self.keys.is_some() && self.e2e.has_distributed_keys(topic)
    }
}

/// What is saved: the keys, then the replay state and the sender session, then what is retained.
fn content(
    distribution: Option<&Distribution>,
    e2e: &E2e,
    retained: &Retained,
    saved: Saved,
    untaken: &HashMap<Receipt, Arrival>,
) -> Zeroizing<Vec<u8>> {
    let keys = distribution.map(|distribution| distribution.export(e2e)).unwrap_or_default();
    let untaken: Vec<Arrival> = untaken.values().copied().collect();
    let replay = e2e.export_state_without(saved, &untaken);
    let retained = retained.encode();
    let mut content = Zeroizing::new(Vec::with_capacity(12 + keys.len() + replay.len() + retained.len()));
    for part in [keys.as_slice(), &replay, &retained] {
        content.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        content.extend_from_slice(part);
    }
    content
}

/// Takes back what was saved, and returns what is retained.
///
/// # Errors
/// [`StateError`].
pub(super) fn restore(
    saved: &[u8],
    distribution: Option<&mut Distribution>,
    e2e: &mut E2e,
    accept_replay_after_crash: bool,
) -> Result<Retained, StateError> {
    let mut reader = Reader::new(saved);
    let (keys, replay) = (reader.v32("keys")?, reader.v32("replay state")?);
    let retained = Retained::decode(reader.v32("retained messages")?)?;
    reader.finish()?;
    if let (Some(distribution), false) = (distribution, keys.is_empty()) {
        distribution.import(e2e, keys, &mut entropy)?;
    }
    e2e.import_state(replay, unix_ms(), accept_replay_after_crash)?;
    Ok(retained)
}

/// A key identifier for a program without an identity, the same each time it runs under this name.
pub(super) fn unsigned_kid(client_id: &str) -> Kid {
    if let (false, Some(kid)) =
        (client_id.is_empty(), hash(&[b"veil1 unsigned", client_id.as_bytes()]).first_chunk())
    {
        return Kid::from_bytes(*kid);
    }
    let mut kid = [0; Kid::LEN];
    entropy(&mut kid);
    Kid::from_bytes(kid)
}
