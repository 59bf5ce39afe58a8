//! Who was taken out, and is let in again by name alone.
//!
//! Bounded. Invariant: nobody who was barred is forgotten: a list that is full bars everybody, and stays so. Being a member, or named
//! since, counts more than being barred; that is up to the caller.

use std::collections::BTreeSet;

use veilmq_protocol::veil::Kid;

/// Those of one scope, or of all pairs, that are told apart: as many as a roster can have.
pub(super) const BARRED_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Barred(BTreeSet<Kid>);

impl Barred {
    /// Bars somebody, or everybody if there are too many. Returns whether it is the latter from now on.
    pub(super) fn bar(&mut self, kid: Kid) -> bool {
        // To forget the oldest for the newest would let those in by their certificates who were taken out for a reason.
        !self.is_full() && self.0.insert(kid) && self.is_full()
    }

    /// Takes note that somebody was let in by name, and returns whether that changes anything. A full list stands for more than are in it.
    pub(super) fn lift(&mut self, kid: Kid) -> bool {
        !self.is_full() && self.0.remove(&kid)
    }

    /// Whether somebody who is not in is let in by name alone.
    pub(super) fn bars(&self, kid: Kid) -> bool {
        self.is_full() || self.0.contains(&kid)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Kid> {
        self.0.iter().copied()
    }

    fn is_full(&self) -> bool {
        self.0.len() >= BARRED_MAX
    }
}
