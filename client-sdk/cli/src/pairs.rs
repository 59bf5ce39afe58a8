//! Pairs on the command line: what a publisher has for one subscriber alone, under a key that only the two have (VEIL-1 sections 7, 9.1).
//!
//! Topics are given and printed as they are for everybody; the levels that name the subscriber are put before them, and taken away, here.

use std::path::PathBuf;

use clap::Args;
use veilmq_client::{
    Builder, PublishError,
    e2e::{
        EnvelopeOptions, SealError, SenderPolicy,
        distribution::{Admission, IssuePolicy},
    },
    identity,
};
use veilmq_protocol::veil::{Certificate, Kid, channel::Identity, distribution::Pair, vmc::scope_covers};

use crate::failure::Failure;

/// Whom `veil pub` publishes for alone.
#[derive(Args)]
pub(crate) struct PairTo {
    /// Certificate of a subscriber to publish for alone, under a key that only the two have (repeatable). They agree on it while both are
    /// connected, the subscriber with `veil sub --from`; with --state at both ends that does for two days
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "End to end",
        requires = "identity",
        requires = "trust",
        conflicts_with_all = ["scope", "join", "issue", "blind", "will_topic"]
    )]
    to: Vec<PathBuf>,
}

/// From whom `veil sub` gets messages of its own.
#[derive(Args)]
pub(crate) struct PairFrom {
    /// Certificate of a publisher that has messages for this client alone, with `veil pub --to` (repeatable); -t says which of them
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "End to end",
        requires = "identity",
        requires = "trust",
        conflicts_with_all = ["scope", "join", "issue", "blind", "will_topic"]
    )]
    from: Vec<PathBuf>,
}

/// The other ends of the pairs that a client is in; none if it is in no pair.
pub(crate) enum Pairs {
    None,
    To(Vec<Certificate>),
    From(Vec<Certificate>),
}

impl PairTo {
    pub(crate) fn load(&self) -> Result<Pairs, Failure> {
        let to = load(&self.to)?;
        Ok(if to.is_empty() { Pairs::None } else { Pairs::To(to) })
    }
}

impl PairFrom {
    pub(crate) fn load(&self) -> Result<Pairs, Failure> {
        let from = load(&self.from)?;
        Ok(if from.is_empty() { Pairs::None } else { Pairs::From(from) })
    }
}

/// Reads certificates, each key once.
fn load(paths: &[PathBuf]) -> Result<Vec<Certificate>, Failure> {
    let mut certificates: Vec<Certificate> = Vec::with_capacity(paths.len());
    for path in paths {
        let certificate = identity::load_certificate(path)?;
        if certificates.iter().all(|other| other.kid() != certificate.kid()) {
            certificates.push(certificate);
        }
    }
    Ok(certificates)
}

impl Pairs {
    pub(crate) const fn is_any(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Makes the client an end of each pair. As in the paper, a subscriber asks its publisher while it connects.
    pub(crate) fn add_to(&self, builder: Builder, envelopes: &EnvelopeOptions, is_paper: bool) -> Builder {
        let options = EnvelopeOptions { senders: SenderPolicy::Known, ..envelopes.clone() };
        match self {
            Self::None => builder,
            Self::To(subscribers) => {
                let policy = IssuePolicy { admission: Admission::Named, ..IssuePolicy::default() };
                let builder = builder.issue_pairs_with(policy, options);
                subscribers.iter().cloned().fold(builder, Builder::admit_to_pairs)
            }
            Self::From(publishers) => {
                let join = |builder: Builder, publisher: &Certificate| {
                    builder.join_pair_with(publisher.kid(), options.clone())
                };
                let builder = publishers.iter().fold(builder, join);
                match publishers.as_slice() {
                    [publisher] if is_paper => builder.ask_pair_with_connect(publisher.kid()),
                    _ => builder,
                }
            }
        }
    }

    /// Where a message on `topic` goes: to each subscriber on a topic of its own, or to everybody.
    ///
    /// # Errors
    /// If the subscribers would not accept it.
    pub(crate) fn topics(&self, topic: &str, own: Option<&Identity>) -> Result<Vec<String>, Failure> {
        let Self::To(subscribers) = self else { return Ok(vec![topic.to_owned()]) };
        let scopes = own.map(|own| own.certificate().publish_scopes.as_slice()).unwrap_or_default();
        let may_publish =
            |topic: &String| scopes.is_empty() || scopes.iter().any(|scope| scope_covers(scope, topic));
        let topics: Vec<String> =
            subscribers.iter().map(|subscriber| Pair::topic(subscriber.kid(), topic)).collect();
        match topics.iter().find(|topic| !may_publish(topic)) {
            Some(topic) => Err(Failure::new(format!(
                "no publish scope of this client's certificate covers {topic}, so nobody would accept it: issue it with \
                 --publish-scope '{}#'",
                Pair::TOPICS
            ))),
            None => Ok(topics),
        }
    }

    /// What is subscribed to for a filter.
    ///
    /// # Errors
    /// If it is a shared subscription: what is for this client alone is shared with nobody.
    pub(crate) fn filter(&self, filter: &str, own: Option<Kid>) -> Result<String, Failure> {
        match (self, own) {
            (Self::From(_), Some(_)) if filter.starts_with("$share/") => {
                Err(Failure::new(format!("-t {filter}: --from and a shared subscription exclude each other")))
            }
            (Self::From(_), Some(own)) => Ok(Pair::topic(own, filter)),
            _ => Ok(filter.to_owned()),
        }
    }

    /// The topic as the publisher was given it.
    pub(crate) fn shown<'a>(&self, topic: &'a str) -> &'a str {
        let own = topic.strip_prefix(Pair::TOPICS).filter(|_| matches!(self, Self::From(_)));
        own.and_then(|own| own.split_once('/')).map_or(topic, |(_, topic)| topic)
    }

    /// Why a subscriber does not get a message.
    pub(crate) fn failure(&self, error: PublishError) -> Failure {
        let (Self::To(subscribers), PublishError::Seal { topic, error: SealError::NoKey }) = (self, &error)
        else {
            return error.into();
        };
        let subscriber = Pair::subscriber_of(topic);
        let subscriber = subscribers.iter().find(|certificate| Some(certificate.kid()) == subscriber);
        let subject = subscriber.map_or("the subscriber", |certificate| &certificate.subject).escape_debug();
        Failure::new(format!(
            "{subject} has no key in common with this client: the two agree on one while both are connected, {subject} with veil sub --from"
        ))
    }
}
