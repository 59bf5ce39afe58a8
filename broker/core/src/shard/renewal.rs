//! Vouchers that are asked for again while their client is connected, so that what was taken back elsewhere is taken back here.
//!
//! Whoever drives the core asks. Invariant: a connection waits for no answer; until there is one, what was said last holds, as long
//! as it said it would.

use super::Shard;
use super::verdict::permissions_of;
use crate::access::{Credentials, Proof, Verdict, Voucher};
use crate::effect::Effect;
use crate::farewell::{BrokerReason, CloseReason};
use crate::id::ConnectionId;
use crate::time::{Environment, Moment};

impl Shard {
    /// Asks for what vouches for a client once more; false if it is simply over.
    pub(super) fn renew(&mut self, connection: ConnectionId, now: Moment, effects: &mut Vec<Effect>) -> bool {
        let Some(established) = self.established(connection) else { return false };
        let (session, peer) = (established.session, established.peer.clone());
        let Some(state) = self.sessions.get(&session) else { return false };
        let Some(entrance) = state.entrance else { return false };
        let Some(user) = &state.user else { return false };
        let Some(terms) = user.terms().filter(|terms| terms.is_renewable(now)) else { return false };
        let credentials = Credentials {
            entrance,
            peer,
            client_id: state.client_id.clone(),
            user: user.name.clone(),
            password: Default::default(),
            certificate: state.certificate().cloned(),
        };
        let until = terms.until;
        effects.push(Effect::Renew { connection, credentials: Box::new(credentials) });
        self.look_again_at(connection, until);
        true
    }

    /// Goes on with a client that was asked for once more.
    pub(super) fn renewed(
        &mut self,
        connection: ConnectionId,
        verdict: Verdict,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.established(connection).map(|established| established.session) else {
            return;
        };
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let Some(user) = &mut state.user else { return };
        let due_at = match verdict {
            Verdict::Vouched { user: _, authority, terms } => {
                let due_at = terms.due_at();
                user.proof = Proof::Vouched(Box::new(Voucher { authority, terms }));
                state.permissions = permissions_of(state, &self.access);
                self.end_lost_subscriptions(session);
                self.tell_standing(session);
                due_at
            }
            Verdict::Busy => user.terms().and_then(|terms| terms.retry_at(environment.now)),
            Verdict::Right(_) | Verdict::Wrong | Verdict::Banned => {
                // Its Will Message is not published either.
                user.proof = Proof::Withdrawn;
                self.tell_standing(session);
                let reason = CloseReason::Broker(BrokerReason::Revoked);
                return self.close(connection, &reason, environment, effects);
            }
        };
        self.look_again_at(connection, due_at);
    }

    fn look_again_at(&mut self, connection: ConnectionId, at: Option<Moment>) {
        if let Some(established) = self.established(connection) {
            established.proof_over_at = at;
            self.arm_established(connection);
        }
    }
}
