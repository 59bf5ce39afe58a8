//! What the program asks of the scopes that it issues keys for: who is a member, and that the key changes (VEIL-1 section 12.4).

use veilmq_protocol::veil::{Certificate, Kid, Roles};

use super::{
    Distribution, IssuedState, KeyEvent, RosterError, Rotation,
    issuer::{Admitted, Issuer},
};
use crate::e2e::{Entropy, scope::Scope};

impl Distribution {
    /// Lets a member into a scope this program issues keys for, by name. Returns whether it is new.
    ///
    /// # Errors
    /// [`RosterError`].
    pub fn admit(
        &mut self,
        scope: &Scope,
        certificate: Certificate,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<bool, RosterError> {
        let needed = Roles::SUBSCRIBER | Roles::PUBLISHER;
        self.anchors.verify(&certificate, needed, None, Some(now_unix_ms / 1000))?;
        let member = certificate.kid();
        match self.issuer_of(scope)?.admit(certificate, entropy) {
            Admitted::New => {
                self.changed = true;
                self.events.push(KeyEvent::Admitted { scope: scope.as_str().to_owned(), member });
                Ok(true)
            }
            Admitted::Known => Ok(false),
            Admitted::Full => Err(RosterError::Full),
            Admitted::Exhausted => Err(RosterError::EpochsExhausted),
        }
    }

    /// Takes a member out of a scope this program issues keys for; the epoch changes, and the member stays out until it is
    /// admitted by name. Returns whether it was one: nobody else has keys of this issuer.
    ///
    /// # Errors
    /// [`RosterError::NotIssued`]; and [`RosterError::EpochsExhausted`] when the member is out and no epoch can follow the one that it
    /// knows: that ends here, and nothing is sealed in the scope any more.
    pub fn remove(
        &mut self,
        scope: &Scope,
        member: Kid,
        rotation: Rotation,
        entropy: Entropy<'_>,
    ) -> Result<bool, RosterError> {
        let issuer = self.issuer_of(scope)?;
        let is_closed = issuer.barred.bar(member);
        let removed = issuer.take_out(member, rotation, entropy);
        let is_over = issuer.is_over();
        self.changed = true;
        if removed {
            self.events.push(KeyEvent::Removed { scope: scope.as_str().to_owned(), member });
        }
        if is_closed {
            self.events.push(KeyEvent::Closed { scope: scope.as_str().to_owned() });
        }
        if removed && is_over { Err(RosterError::EpochsExhausted) } else { Ok(removed) }
    }

    /// Whether someone was taken out of a scope by [`remove`](Self::remove), and not let in again since; of everybody who is no member, once
    /// 65,536 were ([`KeyEvent::Closed`]).
    pub fn is_removed(&self, scope: &Scope, member: Kid) -> bool {
        let issuer = self.issuers.iter().find(|issuer| issuer.scope == *scope);
        issuer.is_some_and(|issuer| issuer.bars(member))
    }

    /// Changes the epoch of a scope this program issues keys for.
    ///
    /// # Errors
    /// [`RosterError::NotIssued`] and [`RosterError::EpochsExhausted`].
    pub fn rotate(
        &mut self,
        scope: &Scope,
        rotation: Rotation,
        entropy: Entropy<'_>,
    ) -> Result<(), RosterError> {
        self.issuer_of(scope)?.rotate(rotation, entropy)?;
        self.changed = true;
        Ok(())
    }

    /// The certificates of the members of a scope this program issues keys for.
    ///
    /// # Errors
    /// [`RosterError::NotIssued`].
    pub fn members(&self, scope: &Scope) -> Result<Vec<Certificate>, RosterError> {
        let issuer = self.issuers.iter().find(|issuer| issuer.scope == *scope);
        let members = issuer.ok_or(RosterError::NotIssued)?.members.values();
        Ok(members.map(|member| member.certificate.clone()).collect())
    }

    /// The epochs of a scope this program issues keys for, ascending.
    pub fn issued(&self, scope: &Scope, now_unix_ms: u64) -> Vec<(u32, IssuedState)> {
        let Some(issuer) = self.issuers.iter().find(|issuer| issuer.scope == *scope) else {
            return Vec::new();
        };
        let numbers = issuer.epochs.keys();
        numbers.filter_map(|number| Some((*number, issuer.state(*number, now_unix_ms)?))).collect()
    }

    /// Whether the newest epoch of a scope this program issues keys for is one that [`outgoing`](Self::outgoing) has told others of.
    pub fn is_announced(&self, scope: &Scope) -> bool {
        let issuer = self.issuers.iter().find(|issuer| issuer.scope == *scope);
        issuer.is_some_and(Issuer::is_announced)
    }

    fn issuer_of(&mut self, scope: &Scope) -> Result<&mut Issuer, RosterError> {
        self.issuers.iter_mut().find(|issuer| issuer.scope == *scope).ok_or(RosterError::NotIssued)
    }
}
