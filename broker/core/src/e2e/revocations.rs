//! Revocation lists, as far as the broker itself goes by them: whose certificate opens a channel no more (VEIL-1 section 3.2).
//!
//! A list is signed by an authority that is trusted, and numbered, so it counts whoever brings it: a client, the retained messages, a
//! file. Invariant: what an authority has revoked stays so while the broker runs, and an older list never takes the place of a newer.

use std::sync::PoisonError;

use veilmq_protocol::TopicFilter;
use veilmq_protocol::veil::Kid;
use veilmq_protocol::veil::distribution::{Crl, DistributionError, DistributionTopic};

use crate::retained::Portion;
use crate::shared::Shared;

/// Why a revocation list does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// No authority that is trusted has signed it.
    #[error(transparent)]
    Object(#[from] DistributionError),
    /// It is not the newest list of its authority.
    #[error("revocation list {number} of {authority} is older than the list that is known, {known}")]
    Rollback {
        /// Whose list it is.
        authority: Kid,
        /// Its number.
        number: u64,
        /// The number that is known.
        known: u64,
    },
}

impl Shared {
    /// Goes by a revocation list from now on. True if that changes anything: every shard must then be told with
    /// [`crate::Input::AccessChanged`], so that it ends the connections of whom the list names.
    ///
    /// # Errors
    /// [`RevocationError`]; nothing has changed then.
    pub fn revoke(&self, list: &Crl) -> Result<bool, RevocationError> {
        let mut lists = self.revocations.lock().unwrap_or_else(PoisonError::into_inner);
        let mut trust = self.trust().write().unwrap_or_else(PoisonError::into_inner);
        list.verify(&trust)?;
        let authority = list.issuer.kid();
        match lists.get(&authority) {
            Some(known) if goes_before(known, list) => {
                let (number, known) = (list.number, known.number);
                return Err(RevocationError::Rollback { authority, number, known });
            }
            Some(known) if known.number == list.number => return Ok(false),
            Some(_) | None => {}
        }
        for revoked in &list.revoked {
            trust.revoke(authority, revoked.serial);
        }
        lists.insert(authority, list.clone());
        Ok(true)
    }

    /// Tells whether another list of the same authority goes before this one.
    pub(crate) fn knows_newer(&self, list: &Crl) -> bool {
        let lists = self.revocations.lock().unwrap_or_else(PoisonError::into_inner);
        lists.get(&list.issuer.kid()).is_some_and(|known| goes_before(known, list))
    }

    /// Goes by the revocation lists that are retained, as far as authorities that are trusted now have signed them; tells as
    /// [`Shared::revoke`] does whether that changes anything.
    pub fn revoke_retained(&self) -> bool {
        let filter = format!("{}crl/+", DistributionTopic::PREFIX);
        let Ok(filter) = TopicFilter::new(&filter) else { return false };
        let retained = self.retained.part(filter, None, Portion::ALL).messages.into_iter();
        let lists = retained.filter_map(|message| Crl::parse(message.payload().as_wire_bytes()).ok());
        // What is retained may be older than a file, or of an authority that is trusted no more.
        lists.fold(false, |changes, list| self.revoke(&list).unwrap_or(false) | changes)
    }

    /// Returns the list of each authority that the broker goes by.
    pub fn revocations(&self) -> Vec<Crl> {
        self.revocations.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Tells whether a list stays although another has come: the other is older, or has its number and says something else.
fn goes_before(known: &Crl, other: &Crl) -> bool {
    known.number > other.number || known.number == other.number && known.as_bytes() != other.as_bytes()
}
