//! A client that waits before CONNACK for the keys it has asked for with CONNECT (VEIL-1 sections 4.9 and 9.1).
//!
//! Knows when it may go on, not whom it waits for. Invariant: CONNACK never overtakes the client's answer to WAIT, and comes in time
//! whether the issuer answers or not.

use std::sync::Arc;

use veilmq_protocol::veil::hello::{JoinStatus, Wait};
use veilmq_protocol::veil::registry::AUTHENTICATION_METHOD;
use veilmq_protocol::{Auth, ReasonCode};

use super::Arrival;
use super::opening::{Next, Opening, Phase};
use crate::farewell::{CloseReason, PeerError};
use crate::joins::JoinUnderWay;
use crate::time::Moment;

/// The longest answer of an issuer that goes into CONNACK; a longer one reaches the client as any message.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// What became of a join that a client asked for with CONNECT.
#[derive(Clone)]
pub(crate) enum JoinOutcome {
    /// The broker has not passed the request on.
    Refused,
    /// The issuer has not answered in time, or is not there.
    Pending,
    /// The issuer has answered.
    Done(Arc<[u8]>),
}

impl JoinOutcome {
    /// Returns it as CONNACK says it.
    pub(crate) fn param(&self) -> (JoinStatus, Vec<u8>) {
        match self {
            Self::Refused => (JoinStatus::None, Vec::new()),
            Self::Pending => (JoinStatus::Pending, Vec::new()),
            Self::Done(response) => (JoinStatus::Done, response.to_vec()),
        }
    }

    /// What can be said in a CONNACK to a client that takes packets of this size.
    fn fitting(self, packet_bytes_max: usize) -> Self {
        match self {
            Self::Done(response) if response.len() > RESPONSE_BYTES_MAX.min(packet_bytes_max / 2) => {
                Self::Pending
            }
            outcome => outcome,
        }
    }
}

/// A client that is who it says and waits.
pub(crate) struct Joining {
    pub(crate) arrival: Box<Arrival>,
    began_at: Moment,
    /// When it goes on without an answer.
    pub(crate) over_at: Moment,
    /// Lets the answer find it.
    _under_way: JoinUnderWay,
    is_acknowledged: bool,
    outcome: Option<JoinOutcome>,
}

impl Joining {
    /// Begins to wait, from now until `over_at`.
    pub(crate) fn new(arrival: Box<Arrival>, now: Moment, over_at: Moment, under_way: JoinUnderWay) -> Self {
        Self { arrival, began_at: now, over_at, _under_way: under_way, is_acknowledged: false, outcome: None }
    }

    /// Goes on once there is an outcome and WAIT was answered.
    fn done(self: Box<Self>) -> Result<Box<Arrival>, Box<Self>> {
        if !self.is_acknowledged || self.outcome.is_none() {
            return Err(self);
        }
        let Self { mut arrival, began_at, outcome, .. } = *self;
        arrival.join = outcome;
        arrival.join_began_at = Some(began_at);
        Ok(arrival)
    }
}

impl Opening {
    /// Waits for an issuer.
    pub(crate) fn wait_for_issuer(&mut self, joining: Joining) {
        self.phase = Phase::AwaitJoin(Box::new(joining));
    }

    /// Returns when the client goes on without an answer; None if it waits for none.
    pub(crate) fn join_over_at(&self) -> Option<Moment> {
        match &self.phase {
            Phase::AwaitJoin(joining) => Some(joining.over_at),
            Phase::AwaitConnect | Phase::Over | Phase::AwaitClientFinish(_) | Phase::AwaitVerdict(_) => None,
        }
    }

    /// Takes in what became of a join, the first time; the client goes on if it has answered WAIT.
    pub(crate) fn conclude_join(&mut self, outcome: JoinOutcome) -> Option<Box<Arrival>> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::AwaitJoin(mut joining) => {
                joining.outcome.get_or_insert_with(|| outcome.fitting(self.packet_bytes_max));
                joining.done().map_err(|joining| self.phase = Phase::AwaitJoin(joining)).ok()
            }
            other => {
                self.phase = other;
                None
            }
        }
    }

    /// Takes the client's answer to WAIT in.
    pub(super) fn acknowledge_wait(
        &mut self,
        mut joining: Box<Joining>,
        auth: &Auth<'_>,
    ) -> Result<Next, CloseReason> {
        // [MQTT-4.12.0-3]
        let is_answer = auth.reason == ReasonCode::ContinueAuthentication
            && auth.method == Some(AUTHENTICATION_METHOD)
            && Wait::Acknowledged.is(auth.data.unwrap_or_default());
        if !is_answer || joining.is_acknowledged {
            return Err(PeerError::Protocol("AUTH answers no WAIT").into());
        }
        joining.is_acknowledged = true;
        Ok(match joining.done() {
            Ok(arrival) => Next::Arrive(arrival),
            Err(joining) => {
                self.phase = Phase::AwaitJoin(joining);
                Next::Acknowledged
            }
        })
    }
}
