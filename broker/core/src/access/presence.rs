//! Who is connected as which user, and from where; kept while somebody may ask, which is where users are administered over MQTT.
//!
//! Invariant: there is an entry for each established connection that began while it was kept, and no other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::id::ConnectionId;

/// Where connections come from, by their users.
type Peers = BTreeMap<(Option<Arc<str>>, ConnectionId), Box<str>>;

/// The connections of all shards by their users.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    is_kept: AtomicBool,
    peers: Mutex<Peers>,
}

impl Presence {
    /// Keeps it from now on.
    pub(crate) fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }

    pub(crate) fn came(&self, user: Option<&str>, connection: ConnectionId, peer: &str) {
        if self.is_kept.load(Ordering::Relaxed) {
            self.lock().insert((user.map(Arc::from), connection), peer.into());
        }
    }

    pub(crate) fn left(&self, user: Option<&str>, connection: ConnectionId) {
        if self.is_kept.load(Ordering::Relaxed) {
            self.lock().remove(&(user.map(Arc::from), connection));
        }
    }

    /// Returns where the connections of a user come from, in the order in which they were accepted.
    pub(crate) fn peers_of(&self, user: &Arc<str>) -> Vec<Box<str>> {
        let all =
            (Some(Arc::clone(user)), ConnectionId(0))..=(Some(Arc::clone(user)), ConnectionId(u64::MAX));
        self.lock().range(all).map(|(_, peer)| peer.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
