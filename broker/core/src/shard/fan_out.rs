//! Messages under broker group keys: who gets which key, and what a member that leaves is told (VEIL-1 section 6.4).

use std::sync::Arc;

use veilmq_protocol::veil::Scheme;
use veilmq_protocol::veil::channel::Protection;
use veilmq_protocol::veil::hello::ChannelForm;
use veilmq_protocol::veil::record::ControlOp;
use veilmq_protocol::{PublishHead, TopicFilter};

use super::Shard;
use crate::connection::{Arrival, Established, SendError};
use crate::groups::Groups;
use crate::id::ConnectionId;
use crate::message::Message;
use crate::time::{Environment, Moment};

impl Shard {
    /// Tells whether connections of a scheme get messages under group keys.
    pub(super) fn uses_groups(&self, scheme: Scheme) -> bool {
        self.shared.veil().is_some_and(|veil| veil.fan_out.uses_groups(scheme))
    }

    /// Makes group keys possible before the first connection that needs them.
    pub(super) fn prepare_groups(&mut self, arrival: &Arrival, environment: &mut Environment<'_>) {
        if arrival.channel.as_ref().is_some_and(|accepted| self.uses_groups(accepted.protection.scheme)) {
            self.outgoing.groups.seed(environment.entropy);
        }
    }

    /// Makes a connection that comes back to its subscriptions a member of the groups that are there for them, and returns the
    /// keys for CONNACK (VEIL-1 section 4.4). Where rules decide about each message, keys wait for the message.
    pub(super) fn grant_ahead(&mut self, arrival: &Arrival) -> Vec<Vec<u8>> {
        let Some(accepted) = &arrival.channel else { return Vec::new() };
        let Protection { scheme, suite, form } = accepted.protection;
        if form != ChannelForm::Records || !self.uses_groups(scheme) || self.access.has_rules() {
            return Vec::new();
        }
        let Some(session) = self.by_client_id.get(&arrival.request.client_id) else { return Vec::new() };
        let Some(state) = self.sessions.get(session) else { return Vec::new() };
        let filters: Vec<TopicFilter<'_>> =
            state.subscriptions.keys().filter_map(|filter| TopicFilter::new(filter).ok()).collect();
        self.outgoing.groups.admit_ahead(arrival.connection, (scheme, suite), &filters)
    }

    /// Takes a connection out of the groups that a filter brought it into. What it is still sent of them comes with a new key.
    pub(super) fn leave_groups(&mut self, connection: ConnectionId, filter: TopicFilter<'_>) {
        if self.established(connection).is_none_or(|established| established.wire.group().is_none()) {
            return;
        }
        let revoked = self.outgoing.groups.leave(connection, filter);
        let Some(established) = self.established(connection) else { return };
        for (gid, epoch) in revoked {
            if let Err(error) = established.wire.control(&ControlOp::GroupRevoke { gid, epoch }) {
                tracing::debug!(connection = connection.0, %error, "group key not revoked");
            }
        }
        if established.becomes_dirty() {
            self.outgoing.dirty.push(connection);
        }
    }
}

/// Sends a PUBLISH under the key of its group, or for this connection alone if it is in too many; returns its length in bytes.
pub(super) fn publish_in_group(
    established: &mut Established,
    groups: &mut Groups,
    head: &PublishHead<'_>,
    message: &Arc<Message>,
    now: Moment,
) -> Result<usize, SendError> {
    let bytes = established.wire.publish_bytes(head)?;
    let admission =
        established.wire.group().and_then(|kind| groups.admit(established.connection, kind, message, now));
    match admission {
        None => established.wire.publish(head, message),
        Some(admission) => {
            established.wire.publish_in_group(head, message, &admission?)?;
            Ok(bytes)
        }
    }
}
