//! What the broker enforces of end-to-end encryption without being able to read anything (VEIL-1 section 13).
//!
//! Policies say, for each Topic Filter, what a message has to look like and who may have sealed it. Everything here works on
//! headers, lengths and public keys: there is no code that opens or makes an envelope, and none is linked. Nothing here acts;
//! the shard decides what a refusal means on the wire. Invariant: where no policy is in force, a message costs nothing more than
//! finding that out.

mod counters;
mod distribution;
mod form;
mod heads;
mod judge;
mod member;
mod pairs;
mod policies;
mod policy;
mod refusal;
mod revocations;
mod streams;

pub use self::counters::PolicySample;
pub(crate) use self::counters::Registry;
pub(crate) use self::counters::{Outcome, PolicyCounters};
pub(crate) use self::distribution::{
    DistributionRefusal, Ledger, Passed, Writer, is_distribution, is_revocation, may_read,
};
pub(crate) use self::heads::{EpochState, Heads, Membership, ScopeHash};
pub(crate) use self::judge::{Context, Inspected, Ruling};
pub(crate) use self::member::Member;
pub(crate) use self::pairs::{check_pair, is_of_pairs};
pub use self::policies::{DistributionRule, Policies};
pub(crate) use self::policy::{ActivePolicy, Party};
pub use self::policy::{Enforcement, MessageFormat, Policy, PolicyError, RequiredChannel};
pub(crate) use self::refusal::Refusal;
pub use self::revocations::RevocationError;
pub(crate) use self::streams::{Mark, Seen, Streams};
