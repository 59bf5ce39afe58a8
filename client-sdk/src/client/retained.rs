//! What this client has had retained on end-to-end scopes, so that it can be sealed anew when the epoch changes
//! (VEIL-1 section 8.3).
//!
//! In memory only: what an earlier run of the program had retained stays as it is. Invariant: bounded in number and bytes; what
//! has no room is not refreshed.

use std::collections::BTreeMap;

use bytes::Bytes;
use tracing::warn;
use veilmq_protocol::TopicName;

use super::clock::entropy;
use crate::{
    e2e::{E2e, EpochMark, SealError},
    message::{Publication, encode_pairs},
};

const MESSAGES_MAX: usize = 1_024;
const BYTES_MAX: usize = 4 << 20;

/// Messages as the application gave them, by topic.
#[derive(Default)]
pub(super) struct Retained {
    messages: BTreeMap<String, Kept>,
    bytes: usize,
    /// When the next epoch becomes active, in unix milliseconds.
    due_ms: u64,
}

struct Kept {
    publication: Publication,
    /// The name that it is retained under.
    wire: String,
    mark: EpochMark,
}

impl Retained {
    /// Remembers what was published, on the wire under the name `wire`, or that it was deleted; without `mark` it is none of
    /// ours.
    pub(super) fn remember(&mut self, publication: Publication, wire: String, mark: Option<EpochMark>) {
        if let Some(before) = self.messages.remove(&publication.topic) {
            self.bytes -= before.publication.payload.len();
        }
        let Some(mark) = mark.filter(|_| !publication.payload.is_empty()) else { return };
        let bytes = self.bytes.saturating_add(publication.payload.len());
        if self.messages.len() >= MESSAGES_MAX || bytes > BYTES_MAX {
            warn!(
                topic = publication.topic,
                "too much is retained to seal all of it anew with the next epoch"
            );
            return;
        }
        self.bytes = bytes;
        self.look_again();
        self.messages.insert(publication.topic.clone(), Kept { publication, wire, mark });
    }

    /// There may be other keys.
    pub(super) const fn look_again(&mut self) {
        self.due_ms = 0;
    }

    /// When another epoch becomes active, in unix milliseconds.
    pub(super) fn next_due(&self) -> Option<u64> {
        (!self.messages.is_empty()).then_some(self.due_ms)
    }

    /// Seals what is retained under an earlier epoch.
    pub(super) fn refreshed(&mut self, e2e: &mut E2e, now_unix_ms: u64) -> Vec<Publication> {
        if self.messages.is_empty() || self.due_ms > now_unix_ms {
            return Vec::new();
        }
        self.due_ms = e2e.next_activation(now_unix_ms).unwrap_or(u64::MAX);
        let mut refreshed = Vec::new();
        for kept in self.messages.values_mut() {
            let Ok(topic) = TopicName::new(&kept.publication.topic) else { continue };
            let Some(mark) = e2e.refresh_mark(topic, now_unix_ms).filter(|mark| *mark != kept.mark) else {
                continue;
            };
            match seal(e2e, topic, &kept.publication, now_unix_ms) {
                Ok((wire, payload)) => {
                    kept.mark = mark;
                    refreshed.push(kept.publication.carrying(&wire, payload));
                    let before = std::mem::replace(&mut kept.wire, wire);
                    if before != kept.wire {
                        // VEIL-1 section 14: it is retained under the new name, and no longer under the old one.
                        refreshed.push(kept.publication.carrying(&before, Bytes::new()));
                    }
                }
                Err(error) => {
                    warn!(topic = topic.as_str(), %error, "a retained message cannot be sealed anew");
                }
            }
        }
        refreshed
    }
}

fn seal(
    e2e: &mut E2e,
    topic: TopicName<'_>,
    publication: &Publication,
    now_unix_ms: u64,
) -> Result<(String, Bytes), SealError> {
    // What was published before can be encoded.
    let user = encode_pairs(&publication.properties.user).unwrap_or_default();
    let properties = publication.properties.borrow(&user).unwrap_or_default();
    let wire = e2e.wire_topic(topic, now_unix_ms)?.unwrap_or_else(|| publication.topic.clone());
    let sealed = e2e.seal_refresh(topic, &publication.payload, &properties, now_unix_ms, &mut entropy)?;
    Ok((wire, Bytes::from(sealed)))
}
