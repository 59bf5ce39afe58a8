//! What the distribution of keys says: messages to be published, and what people may want to know of.
//!
//! Invariant: nothing secret is in a [`KeyEvent`].

use std::borrow::Cow;

use veilmq_protocol::veil::{Kid, distribution::DistributionError};

use super::{HeadError, JoinError};

/// A message to be published at QoS 1.
#[derive(Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The Topic Name.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether the broker is to keep it.
    pub retain: bool,
    /// Response Topic and Correlation Data, for what belongs to a request.
    pub answer: Option<(String, Vec<u8>)>,
}

/// Something people may want to know of; no part of it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyEvent {
    /// There is a key for an epoch.
    Installed {
        /// The scope.
        scope: String,
        /// Its issuer.
        issuer: Kid,
        /// The epoch.
        epoch: u32,
    },
    /// The newest head of an issuer was not issued again in time: it may be absent, or the broker may hide what it says.
    StaleHead {
        /// The scope.
        scope: String,
        /// Its issuer.
        issuer: Kid,
    },
    /// Somebody has cleared the newest head of this issuer, which puts it back: at once, or within a minute if that was done lately.
    HeadCleared {
        /// The scope.
        scope: String,
    },
    /// The broker does not retain the newest head of this issuer, or retains another: it may have lost what it had, or somebody has
    /// published there. The issuer puts its own back, at once, or within a minute if that was done lately.
    HeadLost {
        /// The scope.
        scope: String,
    },
    /// A head or wrap was refused.
    HeadRefused {
        /// The scope.
        scope: String,
        /// Its issuer.
        issuer: Kid,
        /// Why.
        error: HeadError,
    },
    /// A prekey or revocation list was refused.
    Refused {
        /// The topic it came on.
        topic: String,
        /// Why.
        error: DistributionError,
    },
    /// A member was let in, or has shown another prekey.
    Admitted {
        /// The scope.
        scope: String,
        /// The member.
        member: Kid,
    },
    /// Someone who may be a member was refused: the scope has as many as it may have.
    Full {
        /// The scope.
        scope: String,
        /// Who asked.
        member: Kid,
    },
    /// A member was taken out, and the epoch changes.
    Removed {
        /// The scope.
        scope: String,
        /// The member.
        member: Kid,
    },
    /// So many were taken out by name (65,536) that they are told apart no longer: from now on nobody is let in but by name.
    Closed {
        /// The scope; that of the topics of all pairs if it was a pair.
        scope: String,
    },
    /// The broker has a newer head of this issuer than its own state: it was restored from an older copy and issues anew.
    Overtaken {
        /// The scope.
        scope: String,
        /// The epoch in that head.
        epoch: u32,
    },
    /// The newest epoch of this issuer has the last number there is, and another one is due: its key goes on until its time is over, and
    /// then nothing is sealed. The scope needs an issuer with another identity.
    EpochsExhausted {
        /// The scope.
        scope: String,
    },
    /// An issuer has not answered in time; its keys may still come with a head.
    JoinPending {
        /// The scope.
        scope: String,
        /// Who was asked.
        issuer: Kid,
    },
    /// The broker has not passed a request on that went with CONNECT.
    JoinNotPassedOn {
        /// The scope.
        scope: String,
        /// Who was to be asked.
        issuer: Kid,
    },
    /// A member has confirmed that it has its keys.
    Joined {
        /// The scope.
        scope: String,
        /// The member.
        member: Kid,
    },
    /// Someone who has asked this issuer for keys gets none.
    JoinRefused {
        /// The scope, or the name of the pair.
        scope: String,
        /// Who asked.
        member: Kid,
        /// The name in its certificate.
        subject: String,
        /// Why, in words.
        reason: Cow<'static, str>,
    },
    /// What this issuer was sent is no request for keys that it may answer.
    RequestRefused {
        /// Why.
        error: JoinError,
    },
    /// Keys were asked for in vain.
    JoinFailed {
        /// Who was asked.
        issuer: Kid,
        /// Why.
        error: JoinError,
    },
    /// A revocation list was taken.
    Revocations {
        /// The authority.
        authority: Kid,
        /// The number of the list.
        number: u64,
    },
    /// A revocation list is past its time.
    StaleRevocation {
        /// The authority.
        authority: Kid,
    },
}
