//! What somebody who vouches for a user says besides: what the client may do, and for how long that holds.
//!
//! Invariant: what is to be asked for again is asked for before it is over, so a client whose voucher is renewed notices nothing.

use super::rules::Rules;
use crate::time::Moment;

/// How long after a renewal that was not possible the next one is tried, in milliseconds.
const RETRY_MILLISECONDS: u64 = 10_000;

/// On what terms somebody vouches for a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What the client may do, instead of what [`super::Access::rules`] says; None leaves it at that.
    pub rules: Option<Rules>,
    /// When it is to be asked for again with [`crate::Effect::Renew`]; None if it never is.
    pub renew_at: Option<Moment>,
    /// When it is over, and the connection with it, unless it was renewed before; None if it never is.
    pub until: Option<Moment>,
}

/// Who vouches for a user, and on what terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Voucher {
    /// The number among [`super::Access::authorities`].
    pub(crate) authority: u64,
    pub(crate) terms: Terms,
}

impl Terms {
    /// Makes the terms of somebody who says no more than when it is over.
    pub fn until(moment: Moment) -> Self {
        Self { until: Some(moment), ..Self::default() }
    }

    /// Returns when somebody has to look at it again.
    pub(crate) fn due_at(&self) -> Option<Moment> {
        self.renew_at.into_iter().chain(self.until).min()
    }

    /// Returns when somebody has to look at it again after it could not be renewed.
    pub(crate) fn retry_at(&self, now: Moment) -> Option<Moment> {
        [now + RETRY_MILLISECONDS].into_iter().chain(self.until).min()
    }

    /// Tells whether it can be asked for again.
    pub(crate) fn is_renewable(&self, now: Moment) -> bool {
        self.renew_at.is_some() && self.until.is_none_or(|until| until > now)
    }
}
