//! What a client is told about pairs: a publisher and one subscriber, with a key that only the two of them have (VEIL-1 sections 7
//! and 9.1).

use veilmq_protocol::veil::{Certificate, Kid};

use super::{Asked, Builder, known_senders};
use crate::e2e::{EnvelopeOptions, distribution::IssuePolicy};

impl Builder {
    /// Gives each subscriber that asks a key of its own, and seals under it what is published on
    /// [`Pair::topic`](veilmq_protocol::veil::distribution::Pair::topic)`(subscriber, topic)`. `policy` says whom, and how long a
    /// key lasts. Needs what [`issue_scope`](Self::issue_scope) needs.
    pub fn issue_pairs(self, policy: IssuePolicy) -> Self {
        self.issue_pairs_with(policy, known_senders())
    }

    /// Does the same with other options.
    pub fn issue_pairs_with(mut self, policy: IssuePolicy, options: EnvelopeOptions) -> Self {
        self.issued_pairs = Some((options, policy));
        self
    }

    /// Gets messages of its own from a publisher, on [`Pair::filter`](veilmq_protocol::veil::distribution::Pair::filter): the two
    /// agree on a key when both are there, and on another one in time. Repeatable. Messages are accepted from this publisher only
    /// while it has a certificate for the topic.
    pub fn join_pair(self, publisher: Kid) -> Self {
        self.join_pair_with(publisher, known_senders())
    }

    /// Does the same with other options, which hold for all pairs.
    pub fn join_pair_with(mut self, publisher: Kid, options: EnvelopeOptions) -> Self {
        self.pairs.push((publisher, options));
        self
    }

    /// Lets a subscriber have a key of its own by name; repeatable. Whom [`Client::remove_pair`](crate::Client::remove_pair) has taken out stays
    /// out, as long as the state is kept: [`Client::admit_to_pairs`](crate::Client::admit_to_pairs) lets it in again.
    pub fn admit_to_pairs(mut self, subscriber: Certificate) -> Self {
        self.pair_members.push(subscriber);
        self
    }

    /// Asks a publisher for the key of a pair with CONNECT, as in the paper; see [`ask_with_connect`](Self::ask_with_connect).
    /// The pair has to be [joined](Self::join_pair).
    pub fn ask_pair_with_connect(mut self, publisher: Kid) -> Self {
        self.asks = Some(Asked::Pair(publisher));
        self
    }
}
