//! All memberships of one program, and when the first of them has something to say.
//!
//! Time is an argument. Invariant: who may change a membership goes through [`Memberships::iter_mut`], after which all of them are
//! gone through again; while nothing has changed, nothing is due and the clock was not set back, none is.

use super::{membership::Membership, watched::Watched};

pub(super) type Memberships = Watched<Membership, Agenda>;

/// What is to be done, and when.
pub(super) struct Agenda {
    /// When it was made, in unix milliseconds.
    made_ms: u64,
    /// When an issuer has to be asked for a wrap, in unix milliseconds.
    overdue_ms: u64,
    /// When a head is old, in unix milliseconds.
    stale_ms: u64,
}

impl Memberships {
    /// Whether [`Membership::take_overdue`] may have something to say.
    pub(super) fn has_overdue(&self, now_unix_ms: u64) -> bool {
        let has = |agenda: &Agenda| agenda.overdue_ms <= now_unix_ms || now_unix_ms < agenda.made_ms;
        !self.is_empty() && self.found().is_none_or(has)
    }

    /// When [`Membership::take_overdue`] has something to say at the earliest, in unix milliseconds.
    pub(super) fn overdue_due(&self) -> u64 {
        self.found().map_or_else(|| self.first(Membership::overdue_due), |agenda| agenda.overdue_ms)
    }

    /// When [`Membership::take_stale`] has something to say at the earliest, in unix milliseconds.
    pub(super) fn stale_due(&self) -> u64 {
        self.found().map_or_else(|| self.first(Membership::stale_due), |agenda| agenda.stale_ms)
    }

    /// Those that are overdue have been asked: makes the agenda.
    pub(super) fn asked(&mut self, now_unix_ms: u64) {
        let (overdue_ms, stale_ms) = (self.overdue_due(), self.stale_due());
        self.note(Agenda { made_ms: now_unix_ms, overdue_ms, stale_ms });
    }

    fn first(&self, due: fn(&Membership) -> u64) -> u64 {
        self.iter().map(due).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2e::Scope;

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn memberships_are_gone_through_when_one_may_have_changed_and_else_not() {
        let mut memberships = Memberships::default();
        assert!(!memberships.has_overdue(NOW), "there is none");
        for index in 0..2_000 {
            memberships.push(Membership::new(Scope::new(&format!("line-{index}/#")).unwrap()));
        }

        assert!(memberships.has_overdue(NOW));
        memberships.asked(NOW);
        assert!(!memberships.has_overdue(NOW) && !memberships.has_overdue(u64::MAX - 1));
        assert!(memberships.has_overdue(NOW - 1), "the clock was set back");
        memberships.iter_mut().next().unwrap();
        assert!(memberships.has_overdue(NOW));
    }
}
