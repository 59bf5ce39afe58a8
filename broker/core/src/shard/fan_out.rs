//! Messages under broker group keys: who gets which key, and what a member that leaves is told (VEIL-1 section 6.4).

use std::sync::Arc;

use veilmq_protocol::veil::channel::Protection;
use veilmq_protocol::veil::hello::ChannelForm;
use veilmq_protocol::veil::record::ControlOp;
use veilmq_protocol::{PublishHead, TopicFilter};

use super::Shard;
use crate::connection::{Arrival, Established, SendError};
use crate::groups::{GroupKind, Groups};
use crate::id::ConnectionId;
use crate::message::Message;
use crate::time::{Environment, Moment};

impl Shard {
    /// Returns the kind of groups that a connection takes part in, if any.
    pub(super) fn group_of(&self, protection: Protection, is_paper: bool) -> Option<GroupKind> {
        self.shared.veil()?.fan_out.group(protection, is_paper)
    }

    /// Makes group keys possible before the first connection that needs them.
    pub(super) fn prepare_groups(&mut self, arrival: &Arrival, environment: &mut Environment<'_>) {
        let protection = arrival.channel.as_ref().map(|accepted| accepted.protection);
        if protection.is_some_and(|protection| self.group_of(protection, arrival.request.is_paper).is_some())
        {
            self.outgoing.groups.seed(environment.entropy);
        }
    }

    /// Makes a connection that comes back to its subscriptions a member of the groups that are there for them, and returns the
    /// keys for CONNACK (VEIL-1 section 4.4). Where rules decide about each message, keys wait for the message.
    pub(super) fn grant_ahead(&mut self, arrival: &Arrival) -> Vec<Vec<u8>> {
        let Some(accepted) = &arrival.channel else { return Vec::new() };
        let kind = self.group_of(accepted.protection, arrival.request.is_paper);
        let kind =
            kind.filter(|_| accepted.protection.form == ChannelForm::Records && !self.access.has_rules());
        let Some(kind) = kind else { return Vec::new() };
        let Some(session) = self.by_client_id.get(&arrival.request.client_id) else { return Vec::new() };
        let Some(state) = self.sessions.get(session) else { return Vec::new() };
        let filters: Vec<TopicFilter<'_>> =
            state.subscriptions.keys().filter_map(|filter| TopicFilter::new(filter).ok()).collect();
        self.outgoing.groups.admit_ahead(arrival.connection, kind, &filters)
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
