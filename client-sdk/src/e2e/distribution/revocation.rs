//! Revocation lists, as far as a program with keys goes by them: whom it believes, whom it gives keys to, and whose keys it uses
//! (VEIL-1 section 3.2).
//!
//! Invariant: the number of a list never goes back, and what an authority has revoked stays so while the program runs.

use std::collections::BTreeMap;

use veilmq_protocol::veil::{
    Certificate, Kid,
    channel::TrustAnchors,
    distribution::{Crl, DistributionError, RevocationReason},
};

use super::{Distribution, KeyEvent, Rotation};
use crate::e2e::{E2e, Entropy};

/// What one list says, of certificates and of authorities below the one that signed it.
struct Said<'a> {
    authority: Kid,
    list: &'a Crl,
    authorities: BTreeMap<Kid, RevocationReason>,
}

impl<'a> Said<'a> {
    fn of(authority: Kid, list: &'a Crl, anchors: &TrustAnchors) -> Self {
        let mut said = Self { authority, list, authorities: BTreeMap::new() };
        let named = |anchor: &Certificate| Some((anchor.kid(), said.entry(anchor.issuer(), anchor.serial)?));
        let authorities = anchors.iter().filter_map(named).collect();
        said.authorities = authorities;
        said
    }

    fn entry(&self, issuer: Kid, serial: u64) -> Option<RevocationReason> {
        let revoked = &self.list.revoked;
        let index = revoked.binary_search_by_key(&serial, |entry| entry.serial).ok()?;
        revoked.get(index).filter(|_| issuer == self.authority).map(|entry| entry.reason)
    }

    /// Why a certificate with this issuer and serial number counts no more; what was certified by an authority that does not
    /// count does not either.
    fn reason_for(&self, issuer: Kid, serial: u64) -> Option<RevocationReason> {
        self.entry(issuer, serial).or_else(|| self.authorities.get(&issuer).copied())
    }

    fn reason(&self, certificate: &Certificate) -> Option<RevocationReason> {
        self.reason_for(certificate.issuer(), certificate.serial)
    }

    fn rotation(&self, certificate: &Certificate) -> Option<Rotation> {
        self.reason(certificate).map(|reason| match reason {
            RevocationReason::KeyCompromise => Rotation::Compromise,
            RevocationReason::Unspecified
            | RevocationReason::Superseded
            | RevocationReason::CessationOfOperation
            | RevocationReason::PrivilegeWithdrawn => Rotation::Removal,
        })
    }
}

impl Distribution {
    /// Returns every certificate that is known to be revoked, by issuer and serial number, if a list has come since this was asked
    /// last; otherwise nothing. Whoever makes channels goes by them as well.
    pub fn take_revoked(&mut self) -> Vec<(Kid, u64)> {
        if !std::mem::take(&mut self.has_new_lists) {
            return Vec::new();
        }
        let of = |(authority, list): (&Kid, &Crl)| {
            let authority = *authority;
            list.revoked.iter().map(move |entry| (authority, entry.serial)).collect::<Vec<_>>()
        };
        self.lists.iter().flat_map(of).collect()
    }

    pub(super) fn handle_list(
        &mut self,
        e2e: &mut E2e,
        authority: Kid,
        payload: &[u8],
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<bool, DistributionError> {
        let list = Crl::parse(payload)?;
        list.verify(&self.anchors)?;
        if list.issuer.kid() != authority {
            return Err(DistributionError::Value("authority"));
        }
        if list.next_update < now_unix_ms / 1000 {
            self.told_lists.insert(authority, list.number);
            self.events.push(KeyEvent::StaleRevocation { authority });
        }
        if self.lists.get(&authority).is_some_and(|known| known.number >= list.number) {
            return Ok(false);
        }
        self.events.push(KeyEvent::Revocations { authority, number: list.number });
        self.apply(e2e, authority, &list, Some(now_unix_ms), entropy);
        self.lists.insert(authority, list);
        self.changed = true;
        Ok(false)
    }

    /// Makes a verified list count: for certificates shown later, for senders that are known, for members, and for key authorities,
    /// whose keys end now. `now_unix_ms` is `None` where that has been done before.
    pub(super) fn apply(
        &mut self,
        e2e: &mut E2e,
        authority: Kid,
        list: &Crl,
        now_unix_ms: Option<u64>,
        entropy: Entropy<'_>,
    ) {
        for entry in &list.revoked {
            self.anchors.revoke(authority, entry.serial);
        }
        self.has_new_lists = true;
        let said = Said::of(authority, list, &self.anchors);
        let is_revoked = |certificate: &Certificate| said.reason(certificate).is_some();
        let mut peers = self.pairs.revise(is_revoked);
        peers.extend(
            self.pairs.publishers().filter(|kid| e2e.directory().certificate(*kid).is_some_and(is_revoked)),
        );
        peers.into_iter().for_each(|peer| e2e.forget_pair(peer));
        e2e.directory_mut().heed(|certificate| said.reason(certificate));
        for membership in self.memberships.iter() {
            if let (Some(now_unix_ms), Some(rings)) = (now_unix_ms, e2e.rings_mut(&membership.scope)) {
                rings.heed(|issuer, serial| said.reason_for(issuer, serial), now_unix_ms);
            }
        }
        for issuer in self.issuers.iter_mut() {
            for member in issuer.revise(|certificate| said.rotation(certificate), &mut *entropy) {
                self.events.push(KeyEvent::Removed { scope: issuer.scope.as_str().to_owned(), member });
            }
        }
    }
}
