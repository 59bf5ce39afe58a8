//! What people are told of the distribution of keys.
//!
//! A broker, and whoever may publish where keys are distributed, can cause refusals without end. Invariant: of those no more than
//! [`TOLD_MAX`] are told in [`SPAN_MS`]; the others are counted, and their number is told.

use tracing::{error, info, warn};

use crate::e2e::distribution::{HeadError, KeyEvent};

/// Refusals that are told one by one in each span.
const TOLD_MAX: u32 = 10;
const SPAN_MS: u64 = 60_000;

#[derive(Default)]
pub(super) struct KeyLog {
    /// When the span began, in unix milliseconds.
    since_ms: u64,
    told: u32,
    left_out: u64,
}

impl KeyLog {
    /// Tells of what has happened, and of how many refusals nothing was said.
    pub(super) fn tell(&mut self, events: &[KeyEvent], now_unix_ms: u64) {
        if let Some(left_out) = self.begin_span(now_unix_ms) {
            warn!(left_out, "more of what came on the topics of key distribution was refused");
        }
        for event in events {
            if !is_refusal(event) || self.may_tell() {
                tell(event);
            }
        }
    }

    /// When there is a number to be told, in unix milliseconds.
    pub(super) const fn due(&self) -> u64 {
        if self.left_out == 0 { u64::MAX } else { self.since_ms.saturating_add(SPAN_MS) }
    }

    /// Begins another span if it is time; returns how many refusals were left out of the last one, if any were.
    fn begin_span(&mut self, now_unix_ms: u64) -> Option<u64> {
        if now_unix_ms.abs_diff(self.since_ms) < SPAN_MS {
            return None;
        }
        let left_out = self.left_out;
        *self = Self { since_ms: now_unix_ms, ..Self::default() };
        (left_out > 0).then_some(left_out)
    }

    /// Counts a refusal.
    const fn may_tell(&mut self) -> bool {
        if self.told < TOLD_MAX {
            self.told += 1;
            return true;
        }
        self.left_out += 1;
        false
    }
}

/// Whether others can make it happen as often as they like.
const fn is_refusal(event: &KeyEvent) -> bool {
    matches!(
        event,
        KeyEvent::HeadRefused { .. }
            | KeyEvent::HeadCleared { .. }
            | KeyEvent::HeadLost { .. }
            | KeyEvent::Refused { .. }
            | KeyEvent::JoinFailed { .. }
            | KeyEvent::JoinRefused { .. }
            | KeyEvent::RequestRefused { .. }
            | KeyEvent::Full { .. }
    )
}

fn tell(event: &KeyEvent) {
    match event {
        KeyEvent::Installed { scope, issuer, epoch } => info!(scope, %issuer, epoch, "new key"),
        KeyEvent::Admitted { scope, member } => info!(scope, %member, "member, or its new prekey"),
        KeyEvent::Full { scope, member } => {
            warn!(scope, %member, "refused: the scope has as many members as it may have");
        }
        KeyEvent::Removed { scope, member } => info!(scope, %member, "member removed; the epoch changes"),
        KeyEvent::Revocations { authority, number } => info!(%authority, number, "revocation list"),
        KeyEvent::JoinPending { scope, issuer } => {
            info!(scope, %issuer, "JoinPending: the issuer does not answer; its keys may still come");
        }
        KeyEvent::JoinNotPassedOn { scope, issuer } => {
            warn!(scope, %issuer, "the broker does not ask for these keys");
        }
        KeyEvent::Joined { scope, member } => info!(scope, %member, "the member has its keys"),
        KeyEvent::JoinFailed { issuer, error } => warn!(%issuer, %error, "no keys by asking"),
        KeyEvent::JoinRefused { scope, member, subject, reason } => {
            warn!(scope, %member, ?subject, %reason, "JoinRefused: who asks for keys gets none");
        }
        KeyEvent::RequestRefused { error } => warn!(%error, "a request for keys is not answered"),
        KeyEvent::StaleHead { scope, issuer } => {
            warn!(scope, %issuer, "StaleHead: the issuer has not confirmed its key in time");
        }
        KeyEvent::HeadCleared { scope } => {
            warn!(scope, "HeadCleared: somebody has cleared what new members need; it is issued again");
        }
        KeyEvent::HeadLost { scope } => {
            warn!(scope, "HeadLost: the broker does not retain what new members need; it is issued again");
        }
        KeyEvent::StaleRevocation { authority } => {
            warn!(%authority, "StaleRevocation: the revocation list is past its time");
        }
        KeyEvent::HeadRefused { scope, issuer, error: error @ HeadError::NotAMember { .. } } => {
            info!(scope, %issuer, %error, "no key");
        }
        KeyEvent::HeadRefused { scope, issuer, error } => warn!(scope, %issuer, %error, "key refused"),
        KeyEvent::Refused { topic, error } => warn!(topic, %error, "refused"),
        KeyEvent::Closed { scope } => {
            warn!(
                scope,
                "as many were taken out as are told apart; from now on nobody is let in but by name"
            );
        }
        KeyEvent::EpochsExhausted { scope } => {
            error!(
                scope,
                "every epoch number is used and the key cannot be replaced; the scope needs an issuer with another identity"
            );
        }
        KeyEvent::Overtaken { scope, epoch } => {
            warn!(
                scope,
                epoch, "the state of the issuer is older than what it has published; a new epoch begins"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use veilmq_protocol::veil::{Kid, distribution::DistributionError};

    use super::*;

    const START: u64 = 1_790_000_000_000;

    fn refusals(count: usize) -> Vec<KeyEvent> {
        let refused = || KeyEvent::Refused {
            topic: "_veil/1/pre/x".to_owned(),
            error: DistributionError::Value("member"),
        };
        std::iter::repeat_with(refused).take(count).collect()
    }

    #[test]
    fn refusals_are_told_ten_times_a_minute_and_counted_beyond() {
        let mut log = KeyLog::default();
        log.tell(&refusals(10), START);
        assert_eq!((log.told, log.left_out, log.due()), (10, 0, u64::MAX));

        log.tell(&refusals(100_000), START + 1);
        assert_eq!((log.told, log.left_out, log.due()), (10, 100_000, START + SPAN_MS));

        assert_eq!(log.begin_span(START + SPAN_MS - 1), None);
        assert_eq!(log.begin_span(START + SPAN_MS), Some(100_000));
        assert_eq!((log.told, log.left_out, log.due()), (0, 0, u64::MAX));
        assert!(log.may_tell());
    }

    #[test]
    fn what_the_client_does_itself_is_always_told() {
        let mut log = KeyLog::default();
        let installed =
            KeyEvent::Installed { scope: "f/#".to_owned(), issuer: Kid::from_bytes([1; 8]), epoch: 1 };

        log.tell(&vec![installed; 100], START);

        assert_eq!((log.told, log.left_out), (0, 0));
    }
}
