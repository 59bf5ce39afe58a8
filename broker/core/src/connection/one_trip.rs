//! Handshakes that take one round trip, COMPACT and RESUME: what the broker makes of their CONNECT, and the connection until the
//! client's first record (VEIL-1 sections 4.6 and 4.7).
//!
//! A CONNECT says who wrote it, not that they are there: a copy says the same. Invariant: a [`Proving`] has no session, and so
//! costs nobody theirs.

use veilmq_protocol::veil::channel::{
    ClientExpectation, CompactClient, HandshakeError, RecordOpener, ServerAccepted, ServerPolicy, ServerStart,
};
use veilmq_protocol::veil::hello::ChannelForm;

use super::{Arrival, Channel, Wire};
use crate::farewell::{BrokerReason, CloseReason};
use crate::replays::Shown;
use crate::shared::{Shared, VeilServer};
use crate::time::{Environment, Moment};

/// A connection that has CONNACK and is to show with a record that its client is there.
pub(crate) struct Proving {
    pub(crate) arrival: Arrival,
    pub(crate) wire: Wire,
    pub(crate) channel: Box<Channel>,
    /// What CONNACK said of the session.
    pub(crate) session_present: bool,
    /// The bytes of a record that has not arrived in full.
    pub(crate) partial: Vec<u8>,
    /// When the record must have arrived.
    pub(crate) over_at: Moment,
}

impl Proving {
    pub(crate) fn opener(&mut self) -> &mut RecordOpener {
        &mut self.channel.opener
    }
}

/// Whose handshake it is, and in which packet it came.
#[derive(Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) connect_packet: &'a [u8],
    pub(super) hello: &'a [u8],
    pub(super) client_id: &'a str,
    /// What the broker accepts on this connection.
    pub(super) policy: &'a ServerPolicy,
}

/// Answers a ClientHello of COMPACT.
pub(super) fn compact(
    offer: Offer<'_>,
    veil: &VeilServer,
    shared: &Shared,
    environment: &mut Environment<'_>,
) -> Result<ServerAccepted, CloseReason> {
    if !veil.one_trip.compact {
        return Err(HandshakeError::ModeHere.into());
    }
    let now_unix_ms = environment.unix_ms;
    let client = shared.with_trust(|trust| {
        let expected = ClientExpectation { trust, client_id: offer.client_id, now_unix_ms };
        let Offer { connect_packet, hello, policy, .. } = offer;
        let skew_ms = veil.one_trip.clock_skew_milliseconds;
        ServerStart.compact(connect_packet, hello, &veil.identity, policy, &expected, skew_ms)
    })?;
    check_new(&client, veil, shared, environment.now)?;
    Ok(client.answer(&veil.identity, now_unix_ms, environment.entropy)?)
}

fn check_new(
    client: &CompactClient,
    veil: &VeilServer,
    shared: &Shared,
    now: Moment,
) -> Result<(), CloseReason> {
    // Without records nothing more is shown, and a CONNECT of before the start could have been taken then.
    let is_all = client.protection().form != ChannelForm::Records;
    if is_all && client.time_unix_ms() <= veil.one_trip.started_unix_ms {
        return Err(HandshakeError::Replayed.into());
    }
    match shared.replays().show(client.fingerprint(), now) {
        Shown::New => Ok(()),
        Shown::Again => Err(HandshakeError::Replayed.into()),
        Shown::Full => Err(CloseReason::Broker(BrokerReason::ReplaysFull)),
    }
}

/// Answers a ClientHello of RESUME; None if the ticket cannot be used, and SIGMA is to answer.
pub(super) fn resume(
    ticket: &[u8],
    offer: Offer<'_>,
    shared: &Shared,
    environment: &mut Environment<'_>,
) -> Result<Option<ServerAccepted>, CloseReason> {
    let now_unix_ms = environment.unix_ms;
    let Some(contents) = shared.tickets().open(ticket, now_unix_ms) else { return Ok(None) };
    let resuming = shared.with_trust(|trust| {
        let expected = ClientExpectation { trust, client_id: offer.client_id, now_unix_ms };
        ServerStart.resume(offer.connect_packet, offer.hello, contents, offer.policy, &expected)
    })?;
    match resuming.filter(|resuming| shared.tickets().spend(resuming.ticket())) {
        Some(resuming) => Ok(Some(resuming.answer(now_unix_ms, environment.entropy)?)),
        None => Ok(None),
    }
}
