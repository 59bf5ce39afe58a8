//! What the broker asks of messages that are sealed end to end: the section `e2e`.
//!
//! It names topics, public identifiers and limits. Invariant: no key can be given here, and none is needed.

use serde::{Deserialize, Serialize};

use crate::Suite;

/// What the broker asks of messages that are sealed end to end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct E2eConfig {
    /// How topics of key distribution are held to their rules; `None` is as much as the policies need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution: Option<E2eDistribution>,
    /// The policies; a topic falls under the one with the most specific filter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<E2ePolicyConfig>,
}

impl E2eConfig {
    /// How topics of key distribution are held to their rules. Messages that have to be sealed are worth as much as their keys.
    #[must_use]
    pub fn distribution(&self) -> E2eDistribution {
        let is_any_required = self.policies.iter().any(|policy| policy.mode == E2eMode::Require);
        let are_members_asked_for = self.policies.iter().any(E2ePolicyConfig::asks_for_members);
        self.distribution.unwrap_or(match (are_members_asked_for, is_any_required) {
            (true, _) => E2eDistribution::Enforce,
            (false, true) => E2eDistribution::Verify,
            (false, false) => E2eDistribution::Observe,
        })
    }
}

/// What is asked of the messages on some topics (VEIL-1 section 13.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct E2ePolicyConfig {
    /// What metrics call it.
    pub name: String,
    /// The Topic Filter of its topics.
    pub topics: String,
    /// Whether it is applied.
    #[serde(default)]
    pub mode: E2eMode,
    /// The formats that are allowed.
    #[serde(default = "only_envelopes")]
    pub formats: Vec<E2eFormat>,
    /// The scope that messages are sealed for, if it is not `topics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The suites that are allowed.
    #[serde(default = "every_suite")]
    pub suites: Vec<Suite>,
    /// Whether an envelope needs a source signature.
    #[serde(default)]
    pub require_signed: bool,
    /// Whether a source signature is verified.
    #[serde(default)]
    pub verify_signature: bool,
    /// Whether the epoch of an envelope has to be in use.
    #[serde(default = "yes")]
    pub epoch_monotonic: bool,
    /// How long after the next epoch began one is still taken, in seconds.
    #[serde(default = "ten_minutes")]
    pub transition_seconds: u32,
    /// How long ago an epoch may have begun, in seconds; `None` for any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_seconds_max: Option<u32>,
    /// Whether the sender in an envelope has to be the client itself.
    #[serde(default = "yes")]
    pub sender_binding: bool,
    /// The clients that may pass on what others have sealed.
    #[serde(default)]
    pub bridges: Vec<String>,
    /// Whose envelopes those may pass on: key identifiers of 16 hexadecimal digits.
    #[serde(default)]
    pub bridged_senders: Vec<String>,
    /// How far the time in an envelope may be from the broker's, in seconds; `None` looks at none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew_seconds_max: Option<u32>,
    /// The largest payload, in bytes, if there is a bound of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes_max: Option<u32>,
    /// What has to protect the connection of a publisher.
    #[serde(default)]
    pub require_channel: E2eChannel,
    /// Whether only members of the scope may subscribe.
    #[serde(default)]
    pub members_only: bool,
}

impl E2ePolicyConfig {
    /// Tells whether a SUBSCRIBE is refused to who has no wrap. No signature covers wraps, so their writers have to be known then.
    pub(crate) fn asks_for_members(&self) -> bool {
        self.members_only && self.mode == E2eMode::Require
    }
}

/// What becomes of what does not verify on topics of key distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum E2eDistribution {
    /// It is let through; what verifies counts for policies.
    Observe,
    /// It is refused, whoever brings it; what an authority has certified that the broker does not trust is let through.
    Verify,
    /// That is refused too, and so is what is written by another client than its topic names, or is for another to read.
    Enforce,
}

/// Whether a policy is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum E2eMode {
    /// Nothing is looked at.
    Off,
    /// What breaks a rule is counted and let through.
    Prefer,
    /// What breaks a rule is refused.
    #[default]
    Require,
}

/// A form in which messages are protected end to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum E2eFormat {
    /// The envelope of VEIL-1 section 10.
    Ve1,
    /// The article's (section 11).
    Article,
}

/// What has to protect the connection of a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum E2eChannel {
    /// Nothing.
    #[default]
    Any,
    /// TLS.
    Tls,
    /// A VEIL-1 channel that protects each PUBLISH: all but Scheme 1.
    Veil,
}

fn only_envelopes() -> Vec<E2eFormat> {
    vec![E2eFormat::Ve1]
}

fn every_suite() -> Vec<Suite> {
    vec![Suite::Aes256CbcHmacSha256, Suite::Aes256Gcm, Suite::ChaCha20Poly1305]
}

fn ten_minutes() -> u32 {
    600
}

fn yes() -> bool {
    true
}
