//! The online join as part of the distribution: who is asked, who is let in, and what becomes of it (VEIL-1 sections 9.1, 9.4).

use veilmq_protocol::veil::{
    Kid,
    distribution::{DistributionTopic, JoinRequest, KeyHead, Pair},
    hello::JoinStatus,
};

use super::{
    Distribution, KeyEvent, Outgoing,
    issuer::Admitted,
    join::{Answer, Asking, Confirmed, JoinError, JoinedKeys, WAIT_MS, why_refused},
    membership::{Holder, Taken},
    pairs::install_pair,
};
use crate::e2e::{E2e, Entropy, pairs::End, scope::Scope, wrapping::Unwrapped};

/// The issuer does not let the member in (VEIL-1 section 9.4).
pub(super) const NOT_ADMITTED: u8 = 1;
/// The issuer has no scope of this name.
pub(super) const NO_SUCH_SCOPE: u8 = 2;
/// There is no epoch yet.
pub(super) const NO_KEY_YET: u8 = 3;

impl Distribution {
    /// Asks an issuer for the keys of a scope this program is a member of, unless it is being asked. A member does so by itself
    /// when a head leaves it out.
    pub fn ask(&mut self, scope: &Scope, issuer: Kid, now_unix_ms: u64, entropy: Entropy<'_>) {
        let is_asked = self.asking.iter().any(|asking| asking.scope == *scope && asking.issuer == issuer);
        if is_asked || issuer == self.identity.kid() {
            return;
        }
        match Asking::begin(&self.identity, scope.clone(), issuer, now_unix_ms, entropy) {
            Ok(asking) => {
                let own = DistributionTopic::JoinResponse { member: self.identity.kid() }.to_string();
                self.queued.push(Outgoing {
                    topic: DistributionTopic::Join { issuer }.to_string(),
                    payload: asking.request().to_vec(),
                    retain: false,
                    answer: Some((own, asking.nonce().to_vec())),
                });
                self.asking.push(asking);
            }
            Err(error) => {
                self.events.push(KeyEvent::Refused { topic: scope.as_str().to_owned(), error });
            }
        }
    }

    /// Makes a request that goes with CONNECT, for the keys of a scope this program is a member of; none while it has some of
    /// this issuer. [`handle_connack`](Self::handle_connack) takes the answer.
    pub fn ask_with_connect(
        &mut self,
        scope: &Scope,
        issuer: Kid,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Option<Vec<u8>> {
        // One that went with an earlier CONNECT is answered no more.
        self.asking.retain(|asking| asking.deadline_ms.is_some());
        if !self.lacks_keys(scope, issuer) || issuer == self.identity.kid() {
            return None;
        }
        match Asking::begin(&self.identity, scope.clone(), issuer, now_unix_ms, entropy) {
            Ok(mut asking) => {
                let request = asking.request().to_vec();
                asking.deadline_ms = None;
                self.asking.push(asking);
                Some(request)
            }
            Err(error) => {
                self.events.push(KeyEvent::Refused { topic: scope.as_str().to_owned(), error });
                None
            }
        }
    }

    /// Whether this program is a member of a scope, or of a pair, and has no key of this issuer.
    fn lacks_keys(&self, scope: &Scope, issuer: Kid) -> bool {
        if Pair::parse(scope.as_str()).is_some() {
            return self.pairs.lacks_key(issuer);
        }
        let membership = self.memberships.iter().find(|membership| membership.scope == *scope);
        membership.is_some_and(|membership| !membership.marks.get(&issuer).is_some_and(|mark| mark.opened))
    }

    /// Takes what CONNACK says of the request that went with CONNECT. Returns whether messages that could not be opened may be
    /// tried again.
    pub fn handle_connack(
        &mut self,
        e2e: &mut E2e,
        status: JoinStatus,
        response: &[u8],
        now_unix_ms: u64,
    ) -> bool {
        if status == JoinStatus::Done {
            // What the broker took for the answer may be somebody else's; that of the issuer comes on its topic as well.
            let is_known = self.asking.iter().any(|asking| asking.is_answered_by(response));
            for asking in self.asking.iter_mut().filter(|asking| asking.deadline_ms.is_none()) {
                asking.deadline_ms = Some(now_unix_ms.saturating_add(WAIT_MS));
                if !is_known {
                    let error = JoinError::NotAuthentic;
                    self.events.push(KeyEvent::JoinFailed { issuer: asking.issuer, error });
                }
            }
            return self.handle_join_response(e2e, response, now_unix_ms);
        }
        for unanswered in self.asking.extract_if(.., |asking| asking.deadline_ms.is_none()) {
            let (scope, issuer) = (unanswered.scope.as_str().to_owned(), unanswered.issuer);
            self.events.push(match status {
                JoinStatus::None => KeyEvent::JoinNotPassedOn { scope, issuer },
                JoinStatus::Pending | JoinStatus::Done => KeyEvent::JoinPending { scope, issuer },
            });
        }
        false
    }

    /// Gives up the requests that nobody has answered in time; the keys still come with a head.
    pub(super) fn give_up_asking(&mut self, now_unix_ms: u64) {
        for late in self
            .asking
            .extract_if(.., |asking| asking.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_unix_ms))
        {
            let (scope, issuer) = (late.scope.as_str().to_owned(), late.issuer);
            self.events.push(KeyEvent::JoinPending { scope, issuer });
        }
    }

    /// Asks the issuers whose heads have come without a wrap that opens.
    pub(super) fn ask_for_wraps(&mut self, now_unix_ms: u64, entropy: Entropy<'_>) {
        if !self.memberships.has_overdue(now_unix_ms) {
            return;
        }
        let overdue: Vec<(Scope, Kid)> = self
            .memberships
            .iter_mut()
            .flat_map(|membership| {
                let scope = membership.scope.clone();
                membership.take_overdue(now_unix_ms).into_iter().map(move |issuer| (scope.clone(), issuer))
            })
            .collect();
        for (scope, issuer) in overdue {
            self.ask(&scope, issuer, now_unix_ms, &mut *entropy);
        }
        self.memberships.asked(now_unix_ms);
    }

    /// Takes what came on the topic of this issuer: a request or a confirmation.
    pub(super) fn handle_join(
        &mut self,
        e2e: &mut E2e,
        payload: &[u8],
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) {
        if !self.is_issuer() {
            return;
        }
        if let Ok(Confirmed { scope, member, pair }) = self.asked.confirm(payload) {
            if let Some(key) = pair {
                if !self.pairs.is_granted(member) {
                    // It was taken away meanwhile.
                    return;
                }
                self.changed = true;
                install_pair(e2e, End::Publisher, member, key);
            }
            self.events.push(KeyEvent::Joined { scope, member });
            return;
        }
        let own = self.identity.kid();
        let answered = match self.asked.take(payload, own, &self.anchors, now_unix_ms) {
            Ok(request) => self.answer_join(&request, now_unix_ms, entropy),
            Err(error) => Err(error),
        };
        if let Err(error) = answered {
            self.events.push(KeyEvent::RequestRefused { error });
        }
    }

    fn answer_join(
        &mut self,
        request: &JoinRequest,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<(), JoinError> {
        if let Some(pair) = Pair::parse(&request.scope) {
            let answer = self.pairs.grant(pair, self.identity.kid(), &request.certificate, now_unix_ms);
            self.changed = true;
            if let Answer::Refused(reason) = answer {
                self.tell_refused(request, reason);
            }
            return self.send_answer(request, &answer, now_unix_ms, entropy);
        }
        let member = request.certificate.kid();
        let issuer = self.issuers.iter_mut().find(|issuer| issuer.scope.as_str() == request.scope);
        let mut current = None;
        let mut is_full = false;
        let refused = match issuer {
            None => NO_SUCH_SCOPE,
            Some(issuer) if !issuer.lets_in(&request.certificate) => NOT_ADMITTED,
            Some(issuer) => {
                let scope = request.scope.clone();
                let admitted = issuer.admit(request.certificate.clone(), &mut *entropy);
                if admitted == Admitted::New {
                    self.changed = true;
                    self.events.push(KeyEvent::Admitted { scope: scope.clone(), member });
                }
                // Who is not in the roster has no keys: it could not be taken out.
                is_full = admitted == Admitted::Full;
                if is_full {
                    self.events.push(KeyEvent::Full { scope, member });
                }
                if matches!(admitted, Admitted::Full | Admitted::Exhausted) {
                    NOT_ADMITTED
                } else {
                    current = issuer.current(&self.identity, now_unix_ms)?;
                    NO_KEY_YET
                }
            }
        };
        let answer = match &current {
            Some((head, row)) => Answer::Keys(head, row),
            None => Answer::Refused(refused),
        };
        if current.is_none() && !is_full {
            self.tell_refused(request, refused);
        }
        self.send_answer(request, &answer, now_unix_ms, entropy)
    }

    fn tell_refused(&mut self, request: &JoinRequest, reason: u8) {
        self.events.push(KeyEvent::JoinRefused {
            scope: request.scope.clone(),
            member: request.certificate.kid(),
            subject: request.certificate.subject.clone(),
            reason: why_refused(reason),
        });
    }

    fn send_answer(
        &mut self,
        request: &JoinRequest,
        answer: &Answer<'_>,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<(), JoinError> {
        let member = request.certificate.kid();
        let payload = self.asked.answer(request, answer, &self.identity, now_unix_ms, entropy)?;
        let topic = DistributionTopic::JoinResponse { member }.to_string();
        let nonce = request.nonce.to_vec();
        self.queued.push(Outgoing {
            topic: topic.clone(),
            payload,
            retain: false,
            answer: Some((topic, nonce)),
        });
        Ok(())
    }

    /// Takes the answer of an issuer. Returns whether messages that could not be opened may be tried again.
    pub(super) fn handle_join_response(&mut self, e2e: &mut E2e, payload: &[u8], now_unix_ms: u64) -> bool {
        let Some(index) = self.asking.iter().position(|asking| asking.is_answered_by(payload)) else {
            return false;
        };
        let Some(asking) = self.asking.get(index) else { return false };
        let (issuer, scope) = (asking.issuer, asking.scope.clone());
        let joined = asking
            .authenticate(payload, &self.anchors, now_unix_ms)
            .and_then(|answer| self.asking.swap_remove(index).finish(answer));
        let joined = match joined {
            Ok(joined) => joined,
            Err(error) => {
                self.events.push(KeyEvent::JoinFailed { issuer, error });
                return false;
            }
        };
        self.queued.push(Outgoing {
            topic: DistributionTopic::Join { issuer }.to_string(),
            payload: joined.finish.encode(),
            retain: false,
            answer: None,
        });
        self.changed = true;
        match joined.keys {
            JoinedKeys::Group { head, keys } => self.take_group(e2e, &scope, (&head, keys), now_unix_ms),
            JoinedKeys::Pair { key, publisher } => {
                let epoch = key.term.epoch;
                self.pairs.taken(issuer, key.term);
                install_pair(e2e, End::Subscriber, issuer, key);
                let _ = e2e.directory_mut().introduce(*publisher, &self.anchors, now_unix_ms);
                let scope = scope.as_str().to_owned();
                self.events.push(KeyEvent::Installed { scope, issuer, epoch });
                true
            }
        }
    }

    fn take_group(
        &mut self,
        e2e: &mut E2e,
        scope: &Scope,
        (head, keys): (&KeyHead, Vec<Unwrapped>),
        now_unix_ms: u64,
    ) -> bool {
        let membership = self.memberships.iter_mut().find(|membership| membership.scope == *scope);
        let (Some(membership), Some(rings)) = (membership, e2e.rings_mut(scope)) else {
            return false;
        };
        let (identity, prekeys, anchors) = (&*self.identity, &self.prekeys, &self.anchors);
        let holder = Holder { identity, prekeys, anchors, now_unix_ms };
        let taken = membership.take_answer(head, keys, holder, rings);
        let (scope, issuer) = (scope.as_str().to_owned(), head.issuer);
        match taken {
            Ok(Taken::Installed { epoch, issuer: certificate, .. }) => {
                self.events.push(KeyEvent::Installed { scope, issuer, epoch });
                // As with a head: an authority that may not publish need not be known.
                let _ = e2e.directory_mut().introduce(*certificate, &self.anchors, now_unix_ms);
                true
            }
            Ok(Taken::Known | Taken::Waiting) => false,
            Err(error) => {
                self.events.push(KeyEvent::HeadRefused { scope, issuer, error });
                false
            }
        }
    }
}
