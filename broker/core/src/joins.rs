//! Joins under way: which connection waits for which issuer's answer (VEIL-1 section 9.1).
//!
//! Shared by all shards, because issuer and member may live on different ones. There are no more of them than handshakes under way.
//! Invariant: an answer finds the connection that has asked this issuer with its nonce, or none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use veilmq_protocol::veil::Kid;

use crate::id::{ConnectionId, ShardIndex};

/// Who asks, and the nonce of the request.
type Key = (Kid, [u8; 16]);

/// Who is asked, and who waits where.
struct Waiting {
    issuer: Kid,
    place: (ShardIndex, ConnectionId),
}

/// All joins under way.
#[derive(Default)]
pub(crate) struct Joins {
    waiting: Mutex<HashMap<Key, Waiting>>,
    count: AtomicUsize,
}

/// Keeps a join known until it is dropped.
pub(crate) struct JoinUnderWay {
    joins: Arc<Joins>,
    key: Key,
}

impl Joins {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that a connection waits for what `issuer` answers to `member`; None if another waits for the same.
    pub(crate) fn begin(
        self: &Arc<Self>,
        (member, nonce): Key,
        issuer: Kid,
        place: (ShardIndex, ConnectionId),
    ) -> Option<JoinUnderWay> {
        let mut waiting = self.lock();
        if waiting.contains_key(&(member, nonce)) {
            return None;
        }
        waiting.insert((member, nonce), Waiting { issuer, place });
        self.count.fetch_add(1, Ordering::Release);
        Some(JoinUnderWay { joins: Arc::clone(self), key: (member, nonce) })
    }

    /// Returns who is asked by a request, and where the answer is waited for.
    pub(crate) fn find(&self, member: Kid, nonce: [u8; 16]) -> Option<(Kid, (ShardIndex, ConnectionId))> {
        self.lock().get(&(member, nonce)).map(|waiting| (waiting.issuer, waiting.place))
    }

    /// Tells whether any is under way; most of the time none is.
    pub(crate) fn is_any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }
}

impl Drop for JoinUnderWay {
    fn drop(&mut self) {
        self.joins.lock().remove(&self.key);
        self.joins.count.fetch_sub(1, Ordering::Release);
    }
}
