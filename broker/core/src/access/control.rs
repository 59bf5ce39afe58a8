//! Topics that take commands instead of messages, and the commands.
//!
//! What is published there goes to whoever drives the core and to no subscriber. Invariant: a command is bounded in bytes.

use std::fmt;
use std::sync::Arc;

use veilmq_protocol::TopicName;
use zeroize::Zeroizing;

use crate::id::SessionId;

/// The most bytes of one command.
pub(crate) const COMMAND_BYTES_MAX: usize = 1024 * 1024;

/// A topic that takes commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlTopic {
    /// `$CONTROL/dynamic-security/v1`: clients, groups and roles.
    DynamicSecurity,
    /// `$CONTROL/broker/v1`: what the broker consists of.
    Broker,
}

impl ControlTopic {
    /// Returns the topic that answers are published to.
    pub(crate) fn response(self) -> &'static str {
        match self {
            Self::DynamicSecurity => "$CONTROL/dynamic-security/v1/response",
            Self::Broker => "$CONTROL/broker/v1/response",
        }
    }
}

/// The topics that take commands; publications to the others below `$CONTROL` are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlTopics {
    /// [`ControlTopic::DynamicSecurity`].
    pub dynamic_security: bool,
    /// [`ControlTopic::Broker`].
    pub broker: bool,
}

impl ControlTopics {
    /// Returns what takes commands under this topic.
    pub(crate) fn find(self, topic: TopicName<'_>) -> Option<ControlTopic> {
        match topic.as_str() {
            "$CONTROL/dynamic-security/v1" if self.dynamic_security => Some(ControlTopic::DynamicSecurity),
            "$CONTROL/broker/v1" if self.broker => Some(ControlTopic::Broker),
            _ => None,
        }
    }
}

/// A command of a client that may publish to the topic. It may hold passwords, so it is erased when this is dropped.
pub struct Command {
    /// Whose command it is; the answer goes there.
    pub session: SessionId,
    /// Where it was published.
    pub topic: ControlTopic,
    /// The Client Identifier, for the log.
    pub client_id: Arc<str>,
    /// The user name, for the log.
    pub user: Option<Arc<str>>,
    /// What was published.
    pub payload: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("session", &self.session)
            .field("topic", &self.topic)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
