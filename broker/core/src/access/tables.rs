//! The tables of all listeners: one for all of them, or one for each.
//!
//! Invariant: where each listener has its own, nobody is let in or allowed anything by the table of another.

use super::{Access, Asker, ControlTopics, Permissions, User};
use crate::e2e::Policies;
use crate::entrance::EntranceId;

/// Who may connect and what clients may do, on every listener.
#[derive(Debug)]
pub struct AccessTables {
    /// For listeners that have none of their own.
    common: Access,
    /// By the number of the listener.
    own: Vec<Access>,
    has_rules: bool,
}

impl From<Access> for AccessTables {
    /// One table for all listeners.
    fn from(common: Access) -> Self {
        Self { has_rules: common.may_restrict(), common, own: Vec::new() }
    }
}

impl From<Vec<Access>> for AccessTables {
    /// A table for each listener, in their order; whoever comes by none of them is not let in.
    fn from(own: Vec<Access>) -> Self {
        let has_rules = own.iter().any(Access::may_restrict);
        Self { has_rules, common: Access::open_to(false), own }
    }
}

impl AccessTables {
    /// Returns the table of a listener.
    pub(crate) fn of(&self, entrance: EntranceId) -> &Access {
        self.own.get(usize::from(entrance.0)).unwrap_or(&self.common)
    }

    /// Returns the policies on end-to-end encryption, which are the same on every listener.
    pub(crate) fn policies(&self) -> &Policies {
        &self.own.first().unwrap_or(&self.common).policies
    }

    pub(crate) fn policies_mut(&mut self) -> &mut Policies {
        &mut self.own.first_mut().unwrap_or(&mut self.common).policies
    }

    /// Tells whether commands are taken on any listener.
    pub(crate) fn has_controls(&self) -> bool {
        let mut all = self.own.iter().chain([&self.common]);
        all.any(|access| access.controls != ControlTopics::default())
    }

    /// Tells whether a client that these tables let in has to connect anew under others.
    pub(crate) fn unseats(&self, entrance: EntranceId, user: Option<&str>, now: &Self) -> bool {
        self.of(entrance).unseats(user, now.of(entrance))
    }

    /// Tells whether somebody who vouches for clients of a listener may say what they may do; of any, if it is not known which.
    pub(crate) fn are_brought_by_vouchers(&self, entrance: Option<EntranceId>) -> bool {
        match entrance {
            Some(entrance) => self.of(entrance).authorities_bring_rules,
            None => self.own.iter().chain([&self.common]).any(|access| access.authorities_bring_rules),
        }
    }

    /// Tells whether what the clients of a listener may do can depend on their certificates.
    pub(crate) fn needs_certificates(&self, entrance: EntranceId) -> bool {
        self.of(entrance).needs_certificates()
    }

    /// Tells whether any client may be restricted in what it does.
    pub(crate) fn has_rules(&self) -> bool {
        self.has_rules
    }

    /// Tells whether the client of a session may go on. By which listener it came is not known of a session of before the start;
    /// then one that would take it is enough, until it comes back by one.
    pub(crate) fn admits(
        &self,
        entrance: Option<EntranceId>,
        user: Option<&User>,
        has_identity: bool,
    ) -> bool {
        match entrance {
            Some(entrance) => self.of(entrance).admits(user, has_identity),
            None if self.own.is_empty() => self.common.admits(user, has_identity),
            None => self.own.iter().any(|access| access.admits(user, has_identity)),
        }
    }

    /// Returns what a client may do that came once by `entrance` and may be gone: anything that one of the answers allows; None is
    /// everything. Where listeners have tables of their own, and it is not known which it was, there are several.
    pub(crate) fn permissions_of_absent(
        &self,
        entrance: Option<EntranceId>,
        asker: Asker<'_>,
    ) -> Vec<Option<Box<Permissions>>> {
        let of = |access: &Access| access.permissions(asker);
        match entrance {
            Some(entrance) => vec![of(self.of(entrance))],
            None if self.own.is_empty() => vec![of(&self.common)],
            None => self.own.iter().map(of).collect(),
        }
    }

    /// Returns what the client of a session may do; None if that is everything. Of a session whose listener is not known it is
    /// asked once its client comes back, before anything is sent.
    pub(crate) fn permissions(
        &self,
        entrance: Option<EntranceId>,
        asker: Asker<'_>,
    ) -> Option<Box<Permissions>> {
        match entrance {
            Some(entrance) => self.of(entrance).permissions(asker),
            // What somebody, or a certificate, had said of its client is not known any more.
            None if self.own.is_empty() && !self.common.goes_by_what_is_not_stored() => {
                self.common.permissions(asker)
            }
            None => None,
        }
    }
}
