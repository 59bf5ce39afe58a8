//! The end-to-end part of a client: what leaves is sealed and what arrives is opened, by topic.
//!
//! Invariant: the only way from a plaintext on a scope to a [`Publication`] is through a seal.

use bytes::Bytes;
use veilmq_protocol::{
    QoS, TopicName,
    veil::{Kid, channel::hash},
};

use super::{
    clock::{entropy, unix_ms},
    error::{ConnectError, PublishError},
};
use crate::{
    e2e::{E2e, OpenError},
    message::{Message, Publication, Received, Sealed, Will, encode_pairs},
};

/// Who may call for plaintext on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Sealed where the topic is in a scope.
    AsScoped,
    /// Plaintext, which a scope does not allow.
    Plain,
}

pub(super) struct Sealing {
    e2e: E2e,
    /// When the next key is to be erased, in unix milliseconds.
    next_due: Option<u64>,
}

impl Sealing {
    pub(super) fn new(mut e2e: E2e) -> Self {
        let next_due = e2e.advance(unix_ms());
        Self { e2e, next_due }
    }

    /// Erases keys whose time is over.
    pub(super) fn advance(&mut self) {
        let now = unix_ms();
        if self.next_due.is_some_and(|due| due <= now) {
            self.next_due = self.e2e.advance(now);
        }
    }

    /// Turns what the application publishes into what goes to the broker.
    pub(super) fn outgoing(
        &mut self,
        mut publication: Publication,
        form: Form,
    ) -> Result<Publication, PublishError> {
        self.advance();
        let topic = publication.topic.clone();
        let name =
            TopicName::new(&topic).map_err(|error| PublishError::Topic { topic: topic.clone(), error })?;
        let Some(scope) = self.e2e.scope_of(name) else { return Ok(publication) };
        if form == Form::Plain {
            return Err(PublishError::ScopeIsSealed { scope: scope.as_str().to_owned(), topic });
        }
        let invalid = |error| PublishError::Delivery { topic: topic.clone(), error };
        let user = encode_pairs(&publication.properties.user).map_err(|error| invalid(error.into()))?;
        let properties = publication.properties.borrow(&user).map_err(|error| invalid(error.into()))?;
        let sealed = self
            .e2e
            .seal(name, &publication.payload, &properties, unix_ms(), &mut entropy)
            .map_err(|error| PublishError::Seal { topic: topic.clone(), error })?;
        publication.payload = Bytes::from(sealed);
        Ok(publication)
    }

    /// The Will for one CONNECT, sealed under the epoch of now.
    pub(super) fn will(&mut self, will: &Will) -> Result<Will, ConnectError> {
        let message = &will.publication;
        let name = TopicName::new(&message.topic)?;
        if !self.e2e.publishes_sealed(name) {
            return Ok(will.clone());
        }
        let user = encode_pairs(&message.properties.user)?;
        let properties = message.properties.borrow(&user)?;
        let sealed = self.e2e.seal_will(name, &message.payload, &properties, unix_ms(), &mut entropy)?;
        let publication = Publication { payload: Bytes::from(sealed), ..message.clone() };
        Ok(Will { publication, ..*will })
    }

    /// Turns what the broker sent into what the application sees; `None` for a repeat it has seen.
    pub(super) fn incoming(&mut self, mut message: Message) -> Option<Received> {
        self.advance();
        let Ok(name) = TopicName::new(&message.topic) else { return None };
        if !self.e2e.publishes_sealed(name) {
            return Some(Received::Message(message));
        }
        // User Properties are never bound, so they need not be encoded again.
        let none = veilmq_protocol::UserPropertiesBuf::new();
        let opened = match message.properties.borrow(&none) {
            Ok(properties) => self.e2e.open(name, &message.payload, message.retain, &properties, unix_ms()),
            Err(_) => Err(OpenError::Malformed("properties")),
        };
        match opened {
            Ok(opened) => {
                message.sealed =
                    Some(Sealed { provenance: opened.provenance, authentication: opened.authentication() });
                message.payload = Bytes::from(opened.plaintext);
                Some(Received::Message(message))
            }
            // VEIL-1 section 12.2: a QoS 1 repeat is the same envelope, and is dropped silently.
            Err(OpenError::Replay) if message.dup && message.qos != QoS::AtMostOnce => None,
            Err(error) => Some(Received::Refused { topic: message.topic, error }),
        }
    }
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
