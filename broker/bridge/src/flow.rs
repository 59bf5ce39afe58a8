//! The Packet Identifiers of messages on their way from one side, the source, to the other, the sink.
//!
//! An identifier is the same on both sides. Invariant: one is `open` from PUBLISH or PUBREL to the sink's last acknowledgement.

use std::collections::HashSet;

use veilmq_protocol::PacketId;

/// One direction.
#[derive(Debug)]
pub(crate) struct Flow {
    open: HashSet<PacketId>,
    /// Those whose PUBLISH the sink has not answered.
    unanswered: HashSet<PacketId>,
    /// The sink's Receive Maximum.
    quota: usize,
    /// QoS 2 messages of the source that do not cross and wait for its PUBREL.
    declined: HashSet<PacketId>,
    /// The sink has kept its session.
    stale: Option<Stale>,
}

/// A sink that has kept its session may hold identifiers that the source has forgotten, because it was set up anew at some time:
/// it would take a new message for a repeat of the one that it was given then. So each identifier is released before a message
/// that is no repeat uses it for the first time on a connection.
#[derive(Debug, Default)]
struct Stale {
    used: HashSet<PacketId>,
    /// Released by the bridge itself; the source knows nothing of it.
    releasing: HashSet<PacketId>,
}

impl Flow {
    pub(crate) fn new(quota: u16, sink_session_present: bool) -> Self {
        Self {
            open: HashSet::new(),
            unanswered: HashSet::new(),
            quota: quota.into(),
            declined: HashSet::new(),
            stale: sink_session_present.then(Stale::default),
        }
    }

    /// Says whether one more message may be given to the sink; a repeat is none more.
    pub(crate) fn has_room(&self, id: PacketId) -> bool {
        self.open.len() < self.quota || self.open.contains(&id)
    }

    /// Says whether every exchange has ended.
    pub(crate) fn is_settled(&self) -> bool {
        self.open.is_empty() && self.declined.is_empty()
    }

    /// Says whether an identifier is in use.
    pub(crate) fn is_open(&self, id: PacketId) -> bool {
        self.open.contains(&id)
    }

    /// The sink is given a message.
    pub(crate) fn begin(&mut self, id: PacketId) {
        self.open.insert(id);
        self.unanswered.insert(id);
    }

    /// The sink is given the release of a message.
    pub(crate) fn begin_release(&mut self, id: PacketId) {
        self.open.insert(id);
    }

    /// The sink has answered a message; `false` if it had before.
    pub(crate) fn answer(&mut self, id: PacketId) -> bool {
        self.unanswered.remove(&id)
    }

    /// How many messages the sink has not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// The sink has acknowledged to the end; `false` if it was given nothing.
    pub(crate) fn end(&mut self, id: PacketId) -> bool {
        self.open.remove(&id)
    }

    /// A QoS 2 message of the source does not cross.
    pub(crate) fn decline(&mut self, id: PacketId) {
        self.declined.insert(id);
    }

    /// The source releases a message; `true` if it is one that did not cross.
    pub(crate) fn was_declined(&mut self, id: PacketId) -> bool {
        self.declined.remove(&id)
    }

    /// Says whether to release an identifier at the sink before a QoS 2 message uses it.
    pub(crate) fn must_release_first(&mut self, id: PacketId, dup: bool) -> bool {
        let Some(stale) = &mut self.stale else { return false };
        let is_first = stale.used.insert(id) && !dup;
        if is_first {
            stale.releasing.insert(id);
        }
        is_first
    }

    /// Says whether a PUBCOMP of the sink answers a release of [`Self::must_release_first`].
    pub(crate) fn was_released_first(&mut self, id: PacketId) -> bool {
        self.stale.as_mut().is_some_and(|stale| stale.releasing.remove(&id))
    }
}
