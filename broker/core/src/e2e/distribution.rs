//! Who may write what on the topics of key distribution (VEIL-1 section 9): each object is verified by itself, and its writer is the
//! one that its topic names.
//!
//! Holds no key and needs none: certificates, signatures and links are public. Invariant: what does not pass is stored nowhere, so
//! the retained objects of a broker that enforces this are those of their issuers.

use veilmq_protocol::veil::channel::TrustAnchors;
use veilmq_protocol::veil::distribution::{
    Crl, DistributionError, DistributionTopic, JoinFinish, JoinRequest, JoinResponse, KeyHead, KeyHeadFlags,
    Pair, Prekey, Wrap, bundle, scope_hash,
};
use veilmq_protocol::veil::{CertificateError, Kid, Roles};
use veilmq_protocol::{ReasonCode, TopicName};

use super::heads::{Break, ScopeHash};
use super::policies::overlap;
use super::{Inspected, Member, is_of_pairs};
use crate::retained::{Portion, RetainedIndex};

const REVOCATIONS: &str = "_veil/1/crl/";

/// Why an object of key distribution is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub(crate) enum DistributionRefusal {
    /// It is written by another client than the one that its topic names.
    Writer,
    /// No object of key distribution has this topic.
    Topic,
    /// It does not have the layout of what its topic is for.
    Malformed,
    /// It is retained and should not be, or the other way around.
    Retain,
    /// Its topic names another scope, issuer or member than the object.
    Mismatch,
    /// Its certificate is not trusted, or does not allow it.
    Certificate,
    /// Its signature does not verify.
    Signature,
    /// A newer one is known.
    Rollback,
    /// It leaves epochs out.
    Gap,
    /// It does not continue the epoch before.
    Link,
    /// Too many issuers are known.
    Full,
    /// Who asks to join may not subscribe to the scope.
    Scope,
    /// No authority that is trusted has certified who made it.
    Authority,
    /// Its topics are for another client to read.
    Reader,
}

impl DistributionRefusal {
    /// The values of the label `reason`, in the order of their discriminants.
    pub(crate) const NAMES: [&'static str; 14] = [
        "writer",
        "topic",
        "malformed",
        "retain",
        "mismatch",
        "certificate",
        "signature",
        "rollback",
        "gap",
        "link",
        "full",
        "scope",
        "authority",
        "reader",
    ];

    /// Returns the Reason Code of PUBACK or PUBREC.
    pub(crate) fn reason_code(self) -> ReasonCode {
        match self {
            Self::Writer
            | Self::Topic
            | Self::Certificate
            | Self::Signature
            | Self::Scope
            | Self::Authority
            | Self::Reader => ReasonCode::NotAuthorized,
            Self::Malformed | Self::Retain | Self::Mismatch | Self::Rollback | Self::Gap | Self::Link => {
                ReasonCode::PayloadFormatInvalid
            }
            Self::Full => ReasonCode::QuotaExceeded,
        }
    }

    /// Returns the sentence for the client's log.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Writer => "only the client that this topic names may write to it",
            Self::Topic => "no object of key distribution has this topic",
            Self::Malformed => "the payload is not what this topic of key distribution is for",
            Self::Retain => "whether it is retained does not fit this topic of key distribution",
            Self::Mismatch => "the object is for another topic of key distribution",
            Self::Certificate => "the certificate in it is not trusted, or does not allow it",
            Self::Signature => "its signature does not verify",
            Self::Rollback => "a newer one is known here",
            Self::Gap => "the head leaves epochs out",
            Self::Link => "the head does not continue the epoch before",
            Self::Full => "the broker knows too many issuers",
            Self::Scope => "not authorised to subscribe to the scope",
            Self::Authority => "the authority that has certified it is not trusted here",
            Self::Reader => "only the client that this topic names may read it",
        }
    }
}

impl From<Break> for DistributionRefusal {
    fn from(broken: Break) -> Self {
        match broken {
            Break::Rollback => Self::Rollback,
            Break::Gap => Self::Gap,
            Break::Link => Self::Link,
            Break::Full => Self::Full,
        }
    }
}

impl From<DistributionError> for DistributionRefusal {
    fn from(error: DistributionError) -> Self {
        match error {
            DistributionError::Layout(_) | DistributionError::Type { .. } | DistributionError::Value(_) => {
                Self::Malformed
            }
            DistributionError::Certificate(CertificateError::UnknownIssuer(_)) => Self::Authority,
            DistributionError::Certificate(_) | DistributionError::Scope => Self::Certificate,
            DistributionError::Signature => Self::Signature,
        }
    }
}

/// What follows from an object that passed.
#[derive(Debug)]
pub(crate) enum Passed {
    /// Nothing.
    Plain,
    /// Its writer has to be allowed to subscribe to this scope.
    Join(Box<str>),
    /// It is genuine, and has to go on from the one before; then it is to be remembered.
    Head(Box<(KeyHead, Vec<Wrap>)>),
    /// It is genuine, and what the broker trusts may change with it.
    Revocations(Box<Crl>),
}

/// What an object is verified against.
pub(crate) struct Ledger<'a> {
    pub(crate) retained: &'a RetainedIndex,
    pub(crate) trust: &'a TrustAnchors,
    pub(crate) unix_ms: u64,
}

/// Tells whether a topic is one of key distribution.
pub(crate) fn is_distribution(topic: TopicName<'_>) -> bool {
    topic.as_str().starts_with(DistributionTopic::PREFIX) && !is_of_pairs(topic)
}

/// Who may write an object.
#[derive(Clone, Copy)]
pub(crate) enum Writer<'a> {
    /// Whoever does, the identity of the one that writes, if it has one: the object is looked at alone, and whoever takes it away.
    Anybody(Option<&'a Member>),
    /// The client that its topic names; the identity of the one that writes, if it has one.
    Client(Option<&'a Member>),
}

impl Writer<'_> {
    /// Who may say what no signature covers, such as an empty payload: it is the writer that has to be known.
    fn of_unsigned(self) -> Self {
        match self {
            Self::Anybody(member) | Self::Client(member) => Self::Client(member),
        }
    }

    fn is(self, kid: Kid) -> Result<(), DistributionRefusal> {
        match self {
            Self::Anybody(_) => Ok(()),
            Self::Client(Some(member)) if member.kid == kid => Ok(()),
            Self::Client(_) => Err(DistributionRefusal::Writer),
        }
    }

    /// Any client with an identity.
    fn is_known(self) -> Result<(), DistributionRefusal> {
        match self {
            Self::Anybody(_) | Self::Client(Some(_)) => Ok(()),
            Self::Client(None) => Err(DistributionRefusal::Writer),
        }
    }
}

/// The topics that are for one client to read, whose key identifier the last `+` stands for (VEIL-1 sections 7 and 9).
const PRIVATE: [&str; 5] =
    ["_veil/1/kp/+/+/w/+", "_veil/1/jn/+", "_veil/1/jr/+", "_veil/1/ctl/+", "_veil/1/p2p/+/#"];
/// Those that are for members and issuers, whoever they are.
const SHARED: [&str; 2] = ["_veil/1/kp/+/+", "_veil/1/pre/+"];

/// Tells whether a client may subscribe to a filter, as far as that matches topics of key distribution.
pub(crate) fn may_read(filter: &str, reader: Option<&Member>) -> bool {
    let own = reader.map(|member| member.kid.to_string());
    let is_others = |pattern: &str| {
        let names = pattern.split('/').enumerate().filter(|(_, level)| *level == "+").last();
        let named = names.and_then(|(level, _)| filter.split('/').nth(level));
        overlap(pattern, filter) && (own.is_none() || named != own.as_deref())
    };
    let is_for_members = || SHARED.iter().any(|pattern| overlap(pattern, filter));
    !PRIVATE.iter().any(|pattern| is_others(pattern)) && (own.is_some() || !is_for_members())
}

/// Tells whether a topic is one of revocation lists, which count without a policy.
pub(crate) fn is_revocation(topic: TopicName<'_>) -> bool {
    topic.as_str().starts_with(REVOCATIONS)
}

impl Ledger<'_> {
    /// Verifies what a client publishes on a topic of key distribution.
    pub(crate) fn verify(
        &self,
        message: &Inspected<'_>,
        writer: Writer<'_>,
    ) -> Result<Passed, DistributionRefusal> {
        let topic = DistributionTopic::parse(message.topic.as_str()).ok_or(DistributionRefusal::Topic)?;
        let is_clear = message.retain && message.payload.is_empty();
        let writer = if is_clear { writer.of_unsigned() } else { writer };
        match topic {
            DistributionTopic::Prekey { member } => {
                writer.is(member)?;
                is_retained(message, true)?;
                if is_clear { Ok(Passed::Plain) } else { self.prekey(message, member) }
            }
            DistributionTopic::KeyHead { scope, issuer } => {
                writer.is(issuer)?;
                is_retained(message, true)?;
                if is_clear { Ok(Passed::Plain) } else { self.head(message, scope, issuer, writer) }
            }
            DistributionTopic::Wrap { issuer, member, .. } => {
                writer.is(issuer)?;
                is_retained(message, true)?;
                if is_clear { Ok(Passed::Plain) } else { wrap(message.payload, member) }
            }
            DistributionTopic::Join { issuer } => {
                writer.is_known()?;
                is_retained(message, false)?;
                self.join(message.payload, issuer, writer)
            }
            DistributionTopic::JoinResponse { .. } => {
                writer.is_known()?;
                is_retained(message, false)?;
                JoinResponse::parse(message.payload)?;
                Ok(Passed::Plain)
            }
            DistributionTopic::Revocations { authority } => {
                is_retained(message, true)?;
                self.revocations(message, authority)
            }
        }
    }

    /// A prekey takes the place of no later one: members number them by time, also those that have lost their state.
    fn prekey(&self, message: &Inspected<'_>, member: Kid) -> Result<Passed, DistributionRefusal> {
        let prekey = self.verified_prekey(message.payload, member)?;
        let retained = self.retained.current(message.topic.as_str());
        let retained =
            retained.and_then(|other| self.verified_prekey(other.payload().as_wire_bytes(), member).ok());
        match retained {
            Some(other) if other.id > prekey.id => Err(DistributionRefusal::Rollback),
            Some(_) | None => Ok(Passed::Plain),
        }
    }

    fn verified_prekey(&self, payload: &[u8], member: Kid) -> Result<Prekey, DistributionRefusal> {
        let prekey = Prekey::parse(payload)?;
        if prekey.certificate.kid() != member {
            return Err(DistributionRefusal::Mismatch);
        }
        prekey.verify(self.trust, self.unix_ms)?;
        Ok(prekey)
    }

    fn head(
        &self,
        message: &Inspected<'_>,
        scope: ScopeHash,
        issuer: Kid,
        writer: Writer<'_>,
    ) -> Result<Passed, DistributionRefusal> {
        let (head, bundle) = self.verified_head(message.payload, scope, issuer)?;
        if self.has_other_wraps(message, &head) {
            writer.of_unsigned().is(issuer)?;
        }
        Ok(Passed::Head(Box::new((head, bundle))))
    }

    /// Tells whether this head is retained with other wraps behind it, which its signature does not cover.
    fn has_other_wraps(&self, message: &Inspected<'_>, head: &KeyHead) -> bool {
        let Some(retained) = self.retained.current(message.topic.as_str()) else { return false };
        let retained = retained.payload().as_wire_bytes();
        retained != message.payload
            && KeyHead::parse(retained).is_ok_and(|(other, _)| other.digest() == head.digest())
    }

    /// Reads a head and verifies it by itself; how it stands to earlier ones is another question.
    fn verified_head(
        &self,
        payload: &[u8],
        scope: ScopeHash,
        issuer: Kid,
    ) -> Result<(KeyHead, Vec<Wrap>), DistributionRefusal> {
        let (head, rest) = KeyHead::parse(payload)?;
        let wraps = match head.flags.contains(KeyHeadFlags::BUNDLE) {
            true => bundle(rest)?,
            false if rest.is_empty() => Vec::new(),
            false => return Err(DistributionRefusal::Malformed),
        };
        if head.issuer != issuer || scope_hash(&head.scope) != scope {
            return Err(DistributionRefusal::Mismatch);
        }
        head.verify(self.trust, Some(self.unix_ms / 1_000))?;
        Ok((head, wraps))
    }

    fn join(&self, payload: &[u8], issuer: Kid, writer: Writer<'_>) -> Result<Passed, DistributionRefusal> {
        if JoinFinish::parse(payload).is_ok() {
            return Ok(Passed::Plain);
        }
        let request = JoinRequest::parse(payload)?;
        if request.issuer != issuer {
            return Err(DistributionRefusal::Mismatch);
        }
        writer.is(request.certificate.kid())?;
        request.verify(self.trust, Some(self.unix_ms / 1_000))?;
        match Pair::parse(&request.scope) {
            Some(pair) if pair == (Pair { publisher: issuer, subscriber: request.certificate.kid() }) => {
                Ok(Passed::Join(pair.filter().into()))
            }
            Some(_) => Err(DistributionRefusal::Mismatch),
            None => Ok(Passed::Join(request.scope.as_str().into())),
        }
    }

    /// A list speaks for itself, whoever brings it; nobody can take one back.
    fn revocations(&self, message: &Inspected<'_>, authority: Kid) -> Result<Passed, DistributionRefusal> {
        let list = Crl::parse(message.payload)?;
        if list.issuer.kid() != authority {
            return Err(DistributionRefusal::Mismatch);
        }
        list.verify(self.trust)?;
        Ok(Passed::Revocations(Box::new(list)))
    }

    /// Reads the heads that are retained for a scope, those that verify.
    pub(crate) fn retained_heads(&self, scope: ScopeHash) -> Vec<(KeyHead, Vec<Wrap>)> {
        let filter = format!("{}kp/{}/+", DistributionTopic::PREFIX, Kid::from_bytes(scope));
        let Ok(filter) = veilmq_protocol::TopicFilter::new(&filter) else { return Vec::new() };
        let messages = self.retained.part(filter, None, Portion::ALL).messages.into_iter();
        let verified = messages.filter_map(|message| match DistributionTopic::parse(message.topic())? {
            DistributionTopic::KeyHead { scope, issuer } => {
                self.verified_head(message.payload().as_wire_bytes(), scope, issuer).ok()
            }
            DistributionTopic::Prekey { .. }
            | DistributionTopic::Wrap { .. }
            | DistributionTopic::Join { .. }
            | DistributionTopic::JoinResponse { .. }
            | DistributionTopic::Revocations { .. } => None,
        });
        verified.collect()
    }

    /// Returns the public key of a client that is not the one that publishes, if it has a prekey here.
    pub(crate) fn key_of(&self, sender: Kid) -> Option<[u8; 32]> {
        let topic = DistributionTopic::Prekey { member: sender }.to_string();
        let message = self.retained.current(&topic)?;
        let prekey = Prekey::parse(message.payload().as_wire_bytes()).ok()?;
        let certificate = &prekey.certificate;
        let verified = self.trust.verify(certificate, Roles::CLIENT, None, Some(self.unix_ms / 1_000));
        (certificate.kid() == sender && verified.is_ok()).then_some(certificate.ed25519)
    }
}

fn is_retained(message: &Inspected<'_>, expected: bool) -> Result<(), DistributionRefusal> {
    if message.retain == expected { Ok(()) } else { Err(DistributionRefusal::Retain) }
}

fn wrap(payload: &[u8], member: Kid) -> Result<Passed, DistributionRefusal> {
    match Wrap::parse(payload)?.kid == member {
        true => Ok(Passed::Plain),
        false => Err(DistributionRefusal::Mismatch),
    }
}
