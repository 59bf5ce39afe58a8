//! One policy: what an operator asks for on the topics of a filter, and the form in which it is applied.
//!
//! Invariant: the scope of an active policy covers its filter, so every message that it looks at has that one scope.

use std::sync::Arc;

use veilmq_protocol::TopicName;
use veilmq_protocol::veil::distribution::{scope_hash, scope_tag};
use veilmq_protocol::veil::vmc::scope_covers;
use veilmq_protocol::veil::{Kid, Suite};

use super::{Member, PolicyCounters, Refusal, ScopeHash};
use crate::access::Pattern;

/// What is asked of the messages on some topics (VEIL-1 section 13.1).
#[derive(Clone, Debug)]
pub struct Policy {
    /// What metrics call it.
    pub name: Arc<str>,
    /// The Topic Filter of its topics; of several policies the one with the most specific filter counts.
    pub topics: Arc<str>,
    /// Whether it is applied.
    pub enforcement: Enforcement,
    /// The formats that are allowed, at least one.
    pub formats: Vec<MessageFormat>,
    /// The scope that messages are sealed for; None for `topics` itself.
    pub scope: Option<Arc<str>>,
    /// The suites that are allowed, at least one.
    pub suites: Vec<Suite>,
    /// Whether an envelope needs a source signature.
    pub require_signed: bool,
    /// Whether a source signature is verified, where there is one.
    pub verify_signature: bool,
    /// Whether an epoch has to be in use: that of a verified KEYHEAD, or while none is known, no earlier one than the sender's last.
    pub epoch_monotonic: bool,
    /// How long after the next epoch began one is still taken, in milliseconds.
    pub transition_milliseconds: u64,
    /// How long ago an epoch may have begun, in milliseconds; it needs a verified KEYHEAD then.
    pub epoch_milliseconds_max: Option<u64>,
    /// Whether the sender in an envelope has to be the client itself, by its VEIL-1 identity.
    pub sender_binding: bool,
    /// The clients that may pass on what `bridged_senders` have sealed: user names, and Client Identifiers of identities.
    pub bridges: Vec<Arc<str>>,
    /// Whose envelopes `bridges` may pass on.
    pub bridged_senders: Vec<Kid>,
    /// How far the time in an envelope may be from the broker's, in milliseconds; None looks at none.
    pub skew_milliseconds_max: Option<u64>,
    /// The largest payload, in bytes.
    pub payload_bytes_max: usize,
    /// What has to protect the connection of a publisher.
    pub channel: RequiredChannel,
    /// Whether only clients with a wrap in a verified KEYHEAD, and issuers, may subscribe.
    pub members_only: bool,
}

impl Policy {
    /// Makes a policy that requires envelopes of its own scope, with the defaults of everything else.
    pub fn requiring(name: &str, topics: &str) -> Self {
        Self {
            name: name.into(),
            topics: topics.into(),
            enforcement: Enforcement::Require,
            formats: vec![MessageFormat::Ve1],
            scope: None,
            suites: Suite::ALL.to_vec(),
            require_signed: false,
            verify_signature: false,
            epoch_monotonic: true,
            transition_milliseconds: 600_000,
            epoch_milliseconds_max: None,
            sender_binding: true,
            bridges: Vec::new(),
            bridged_senders: Vec::new(),
            skew_milliseconds_max: None,
            payload_bytes_max: usize::MAX,
            channel: RequiredChannel::Any,
            members_only: false,
        }
    }
}

/// Whether a policy is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Nothing is looked at.
    Off,
    /// What breaks a rule is counted and let through.
    Prefer,
    /// What breaks a rule is refused.
    Require,
}

/// A form in which messages are protected end to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageFormat {
    /// The envelope of VEIL-1 section 10.
    Ve1,
    /// The article's (section 11), recognised by its length and by not being text.
    Article,
}

impl MessageFormat {
    /// The values of the label `format`, in the order of their discriminants; the last is for neither.
    pub(crate) const LABELS: [&'static str; 3] = ["ve1", "article", "none"];
    pub(crate) const NONE: usize = 2;
}

/// What has to protect a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequiredChannel {
    /// Nothing.
    Any,
    /// TLS.
    Tls,
    /// A VEIL-1 channel that protects each PUBLISH: all but Scheme 1.
    Veil,
}

/// Why a policy makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Its filter or its scope is not one.
    #[error("policy {policy}: {text:?} is not a Topic Filter of topics that clients share")]
    NotAFilter {
        /// The policy.
        policy: Arc<str>,
        /// What it has in place of a filter.
        text: Arc<str>,
    },
    /// Its scope does not cover its topics.
    #[error("policy {policy}: the scope {scope:?} does not cover all topics of {topics:?}")]
    Scope {
        /// The policy.
        policy: Arc<str>,
        /// Its scope.
        scope: Arc<str>,
        /// Its filter.
        topics: Arc<str>,
    },
    /// Another policy has the same name or the same filter.
    #[error("policy {policy}: another one has the same {what}")]
    Twice {
        /// The policy.
        policy: Arc<str>,
        /// What they have in common.
        what: &'static str,
    },
}

/// A policy in force.
#[derive(Debug)]
pub(crate) struct ActivePolicy {
    pub(crate) policy: Policy,
    pattern: Pattern,
    pub(crate) scope: Arc<str>,
    pub(crate) scope_tag: [u8; 4],
    pub(crate) scope_hash: ScopeHash,
    pub(crate) counters: Arc<PolicyCounters>,
}

/// Who publishes, as far as policies ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party<'a> {
    /// Its VEIL-1 identity.
    pub(crate) member: Option<&'a Member>,
    /// The name by which rules know it, if it proved to be somebody.
    pub(crate) name: Option<&'a str>,
    /// TLS carries its connection; of a bridge of this broker, that to the other one.
    pub(crate) is_encrypted: bool,
    /// A VEIL-1 channel protects each PUBLISH, in records or by a property.
    pub(crate) is_protected: bool,
}

impl ActivePolicy {
    pub(super) fn new(policy: Policy) -> Result<Self, PolicyError> {
        let name = || Arc::clone(&policy.name);
        let not_a_filter =
            |text: &Arc<str>| PolicyError::NotAFilter { policy: name(), text: Arc::clone(text) };
        let pattern = Pattern::literal(&policy.topics).map_err(|_| not_a_filter(&policy.topics))?;
        let scope = Arc::clone(policy.scope.as_ref().unwrap_or(&policy.topics));
        Pattern::literal(&scope).map_err(|_| not_a_filter(&scope))?;
        if !scope_covers(&scope, &policy.topics) {
            let topics = Arc::clone(&policy.topics);
            return Err(PolicyError::Scope { policy: name(), scope, topics });
        }
        let (scope_tag, scope_hash) = (scope_tag(&scope), scope_hash(&scope));
        Ok(Self { policy, pattern, scope, scope_tag, scope_hash, counters: Arc::default() })
    }

    pub(super) fn matches(&self, topic: TopicName<'_>) -> bool {
        self.pattern.matches(topic)
    }

    /// Checks what carries the message and who sends it.
    pub(crate) fn check_party(&self, party: &Party<'_>, sender: Option<Kid>) -> Result<(), Refusal> {
        let is_protected = match self.policy.channel {
            RequiredChannel::Any => true,
            RequiredChannel::Tls => party.is_encrypted,
            RequiredChannel::Veil => party.is_protected,
        };
        if !is_protected {
            return Err(Refusal::Channel);
        }
        match sender {
            Some(sender) if self.policy.sender_binding && !self.speaks_for(party, sender) => {
                Err(Refusal::Sender)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Tells whether a client may publish what `sender` has sealed.
    fn speaks_for(&self, party: &Party<'_>, sender: Kid) -> bool {
        party.member.is_some_and(|member| member.kid == sender)
            || self.is_bridge(party) && self.policy.bridged_senders.contains(&sender)
    }

    fn is_bridge(&self, party: &Party<'_>) -> bool {
        party.name.is_some_and(|name| self.policy.bridges.iter().any(|bridge| **bridge == *name))
    }

    /// Checks who clears a retained message: a publisher of the scope, as far as the broker knows who that is.
    pub(crate) fn check_clear(&self, party: &Party<'_>) -> Result<(), Refusal> {
        self.check_party(party, None)?;
        let is_publisher = party.member.is_some_and(|member| member.may_publish(&self.scope));
        match is_publisher || self.is_bridge(party) || !self.policy.sender_binding {
            true => Ok(()),
            false => Err(Refusal::Clear),
        }
    }
}
