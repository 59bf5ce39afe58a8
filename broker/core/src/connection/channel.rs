//! The receiving half of a VEIL-1 channel: what opens the client's records, and its re-authentication (VEIL-1 section 4.8).
//!
//! Nothing here sends: callers write the packets this file makes. Invariant: at most one re-authentication is under way, from the
//! client's AUTH 0x19 to its first record under the new keys, and an exchange that waits for the client has a deadline.

use std::sync::Arc;

use veilmq_protocol::veil::channel::{
    AwaitClientFinish, HandshakeError, Predecessor, RecordOpener, RecordSealer, ServerAccepted, ServerStart,
};
use veilmq_protocol::veil::hello::{JoinStatus, ServerFinishParams};
use veilmq_protocol::veil::record::RECORD_OVERHEAD_MAX;
use veilmq_protocol::{Auth, Packet, ProtocolVersion, ReasonCode};

use super::{auth_packet, certificate_over_at};
use crate::e2e::Member;
use crate::farewell::{BrokerReason, CloseReason, PeerError};
use crate::handshakes::HalfOpen;
use crate::shared::Shared;
use crate::time::{Environment, Moment};

/// The receiving half of a channel.
pub(crate) struct Channel {
    pub(crate) opener: RecordOpener,
    /// What chains the next handshake to the last.
    predecessor: Predecessor,
    /// When the client is to be given another ticket.
    ticket_at: Option<Moment>,
    exchange: Option<Box<Exchange>>,
}

/// A re-authentication that waits for the client's proof of who it is.
struct Exchange {
    handshake: AwaitClientFinish,
    over_at: Moment,
    /// Counts it, for as long as it is half open.
    _counted: HalfOpen,
}

/// A re-authentication that succeeded.
pub(crate) struct Reauthenticated {
    /// The AUTH with Reason Code 0x00, the last packet under the previous keys.
    pub(crate) auth: Vec<u8>,
    /// Seals what follows it.
    pub(crate) sealer: RecordSealer,
    /// Whose certificate was shown now.
    pub(crate) identity: Arc<Member>,
    /// When the connection has to end under the certificate that was shown now.
    pub(crate) certificate_over_at: Moment,
}

impl Channel {
    /// A channel that was made now, with a ticket if the broker gives any.
    pub(crate) fn new(
        opener: RecordOpener,
        predecessor: Predecessor,
        shared: &Shared,
        environment: &Environment<'_>,
    ) -> Self {
        Self { opener, predecessor, ticket_at: next_ticket_at(shared, environment), exchange: None }
    }

    /// Returns when the client is to be given another ticket; None if it gets none.
    pub(crate) fn ticket_at(&self) -> Option<Moment> {
        self.ticket_at
    }

    /// Makes another ticket, before the last one is too old to come back with (VEIL-1 section 4.7).
    pub(crate) fn renew_ticket(
        &mut self,
        shared: &Shared,
        environment: &mut Environment<'_>,
    ) -> Result<Vec<u8>, HandshakeError> {
        self.ticket_at = next_ticket_at(shared, environment);
        self.predecessor.ticket(&mut shared.tickets(), environment.unix_ms, environment.entropy)
    }

    /// Returns when the client's proof must have arrived; None while none is due.
    pub(crate) fn exchange_over_at(&self) -> Option<Moment> {
        self.exchange.as_ref().map(|exchange| exchange.over_at)
    }

    /// Begins a re-authentication with an AUTH 0x19, of which `packet_bytes` is all; returns the ServerHello to answer with.
    pub(crate) fn begin(
        &mut self,
        auth: &Auth<'_>,
        packet_bytes: &[u8],
        peer: &str,
        shared: &Shared,
        environment: &mut Environment<'_>,
    ) -> Result<Vec<u8>, CloseReason> {
        if self.exchange.is_some() || self.opener.is_switching() {
            return Err(PeerError::Protocol("AUTH begins while a re-authentication is under way").into());
        }
        let Some(veil) = shared.veil() else { return Err(PeerError::AuthenticationMethod.into()) };
        let Some(counted) = shared.begin_handshake(peer, environment.now) else {
            return Err(CloseReason::Broker(BrokerReason::HalfOpen));
        };
        let (reply, handshake) = ServerStart.handle_again(
            &self.predecessor,
            packet_bytes,
            auth.data.unwrap_or_default(),
            &veil.identity,
            environment.unix_ms,
            environment.entropy,
        )?;
        let seconds = u64::from(shared.settings().connect_seconds_max);
        let over_at = environment.now.plus_seconds(seconds);
        self.exchange = Some(Box::new(Exchange { handshake, over_at, _counted: counted }));
        Ok(reply)
    }

    /// Ends a re-authentication with the client's proof. From here on its records open under the previous keys and, from its
    /// first one under them, the new.
    pub(crate) fn finish(
        &mut self,
        auth: &Auth<'_>,
        client_id: &str,
        packet_bytes_max: usize,
        shared: &Shared,
        environment: &mut Environment<'_>,
    ) -> Result<Reauthenticated, CloseReason> {
        let Some(exchange) = self.exchange.take() else {
            return Err(PeerError::Protocol("AUTH continues what was not begun").into());
        };
        let finish = auth.data.unwrap_or_default();
        let accepted = shared.with_trust(|trust| {
            exchange.handshake.handle(finish, trust, client_id, environment.unix_ms / 1_000)
        })?;
        self.switch(accepted, packet_bytes_max, shared, environment)
    }

    fn switch(
        &mut self,
        accepted: ServerAccepted,
        packet_bytes_max: usize,
        shared: &Shared,
        environment: &mut Environment<'_>,
    ) -> Result<Reauthenticated, CloseReason> {
        let certificate_over_at = certificate_over_at(&accepted.client, environment);
        let identity = Member::of(&accepted.client);
        let params = finish_params(&accepted, Told::default(), packet_bytes_max, shared, environment)?;
        self.ticket_at = next_ticket_at(shared, environment);
        let (finish, sealing) = accepted.server_finish(params)?;
        let mut auth = Vec::new();
        Packet::Auth(auth_packet(ReasonCode::Success, &finish))
            .encode(ProtocolVersion::V5, &mut auth)
            .map_err(|_| PeerError::HANDSHAKE_UNFIT)?;
        let (sealer, opener, predecessor) = sealing.seal_auth(&mut auth)?.into_parts();
        self.opener.switch_to(opener)?;
        self.predecessor = predecessor;
        Ok(Reauthenticated { auth, sealer, identity, certificate_over_at })
    }
}

/// What the broker tells with a ServerFinish beside what it always tells.
#[derive(Default)]
pub(crate) struct Told {
    /// Group keys, each as in a GroupGrant.
    pub(crate) group_grants: Vec<Vec<u8>>,
    /// What became of the join that came with CONNECT.
    pub(crate) join: Option<(JoinStatus, Vec<u8>)>,
}

/// Returns when a ticket that is given now has half its time behind it.
fn next_ticket_at(shared: &Shared, environment: &Environment<'_>) -> Option<Moment> {
    let lifetime = shared.veil().map_or(0, |veil| veil.one_trip.ticket_milliseconds);
    (lifetime > 0).then(|| environment.now + lifetime / 2)
}

/// Returns what the broker tells with its ServerFinish: the largest record it takes, the time, a ticket to come back with,
/// and what is `told`.
pub(crate) fn finish_params(
    accepted: &ServerAccepted,
    told: Told,
    packet_bytes_max: usize,
    shared: &Shared,
    environment: &mut Environment<'_>,
) -> Result<ServerFinishParams, CloseReason> {
    let now_unix_ms = environment.unix_ms;
    let gives_tickets = shared.veil().is_some_and(|veil| veil.one_trip.ticket_milliseconds > 0);
    let ticket = gives_tickets
        .then(|| accepted.ticket(&mut shared.tickets(), now_unix_ms, environment.entropy))
        .transpose()?;
    let record_bytes_max = packet_bytes_max.saturating_add(RECORD_OVERHEAD_MAX);
    Ok(ServerFinishParams {
        ticket,
        record_bytes_max: u32::try_from(record_bytes_max).ok(),
        time_unix_ms: Some(now_unix_ms),
        group_grants: told.group_grants,
        join: told.join,
        ..ServerFinishParams::default()
    })
}
