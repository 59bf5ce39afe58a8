//! What the application asks of an issuer of keys, and what it is answered: nothing is answered as done before it is saved.

use veilmq_protocol::veil::{Certificate, Kid};

use super::{Keys, Phase};
use crate::{
    client::{Announcement, KeyChange, KeyRequestError, clock::entropy},
    e2e::{
        E2e, Scope,
        distribution::{RosterError, Rotation},
    },
};

/// What the application asks of an issuer, or of an end of a pair.
pub(in crate::client) enum KeyRequest {
    Admit(Box<Certificate>),
    Remove(Kid, Rotation),
    Rotate(Rotation),
    Members,
    AdmitToPairs(Box<Certificate>),
    RemovePair(Kid),
}

/// What it answers.
pub(in crate::client) enum KeyAnswer {
    Done(KeyChange),
    Members(Vec<Certificate>),
}

impl Keys {
    /// Carries out what the application asks.
    pub(in crate::client) fn request(
        &mut self,
        e2e: &mut E2e,
        scope: &Scope,
        request: KeyRequest,
        now_unix_ms: u64,
    ) -> Result<KeyAnswer, RosterError> {
        let keys = &mut self.distribution;
        let changed = match request {
            KeyRequest::Admit(certificate) => keys.admit(scope, *certificate, now_unix_ms, &mut entropy)?,
            KeyRequest::Remove(member, rotation) => keys.remove(scope, member, rotation, &mut entropy)?,
            KeyRequest::Rotate(rotation) => {
                keys.rotate(scope, rotation, &mut entropy)?;
                true
            }
            KeyRequest::AdmitToPairs(certificate) => keys.admit_to_pairs(*certificate, now_unix_ms)?,
            KeyRequest::RemovePair(peer) => keys.remove_pair(e2e, peer),
            KeyRequest::Members => return Ok(KeyAnswer::Members(keys.members(scope)?)),
        };
        // Whoever asks waits for it, so it is saved now.
        self.retry_ms = 0;
        Ok(KeyAnswer::Done(KeyChange { changed, announcement: Announcement::WhenConnected }))
    }

    /// The answer to a request for which everything was [done](Self::work) that could be.
    pub(in crate::client) fn settled(
        &self,
        scope: &Scope,
        answer: KeyAnswer,
    ) -> Result<KeyAnswer, KeyRequestError> {
        match (answer, &self.save_error) {
            (KeyAnswer::Done(_), Some(error)) => Err(KeyRequestError::Unsaved(error.clone())),
            (KeyAnswer::Done(change), None)
                if self.phase == Phase::Open && self.distribution.is_announced(scope) =>
            {
                Ok(KeyAnswer::Done(KeyChange { announcement: Announcement::Now, ..change }))
            }
            (answer @ (KeyAnswer::Done(_) | KeyAnswer::Members(_)), _) => Ok(answer),
        }
    }
}
