//! What one client may do: the rules that concern it, and a few answers that were given lately.
//!
//! Invariant: the answers kept are a fixed number, of topics of bounded length, so publishers cannot make it grow.

use veilmq_protocol::{TopicFilter, TopicName};

use super::roles::RolesOfClient;
use super::rules::{Actions, Applicable};
use super::template::Pattern;
use crate::id::IdHasher;

/// How many answers are kept.
const ANSWERS: usize = 32;
/// The longest topic whose answer is kept, in bytes.
const TOPIC_BYTES_MAX: usize = 256;

/// What a client wants to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Publish,
    Subscribe,
    Receive,
}

impl Action {
    /// The values of the label `action`, in the order of their discriminants.
    pub(crate) const NAMES: [&'static str; 3] = ["publish", "subscribe", "receive"];
}

/// What one client may do.
#[derive(Debug)]
pub(crate) struct Permissions {
    source: Source,
    /// Empty until the first question; then one place for each slot.
    answers: Vec<Option<Answer>>,
}

#[derive(Debug)]
enum Source {
    Stages { stages: Box<[Applicable]>, strict: bool },
    Roles(RolesOfClient),
}

#[derive(Clone, Debug)]
struct Answer {
    topic: Box<str>,
    actions: Actions,
}

impl Permissions {
    pub(super) fn by_stages(stages: Box<[Applicable]>, strict: bool) -> Self {
        Self { source: Source::Stages { stages, strict }, answers: Vec::new() }
    }

    pub(super) fn by_roles(roles: RolesOfClient) -> Self {
        Self { source: Source::Roles(roles), answers: Vec::new() }
    }

    /// Tells whether the client may publish to a topic.
    pub(crate) fn allow_publish(&mut self, topic: TopicName<'_>) -> bool {
        self.actions(topic).publish
    }

    /// Tells whether the client may receive what was published to a topic.
    pub(crate) fn allow_receive(&mut self, topic: TopicName<'_>) -> bool {
        self.actions(topic).receive
    }

    /// Tells whether a SUBSCRIBE for this filter is granted; of a Shared Subscription the one behind the group matters.
    pub(crate) fn allow_subscribe(&self, filter: TopicFilter<'_>) -> bool {
        match &self.source {
            Source::Stages { strict: false, .. } => true,
            Source::Stages { stages, strict: true } => {
                let covers = |(actions, pattern): &(Actions, Pattern)| {
                    actions.receive && pattern.covers(filter.inner())
                };
                decide(stages, covers)
            }
            Source::Roles(roles) => roles.allow_subscribe(filter),
        }
    }

    /// Tells whether an UNSUBSCRIBE for this filter is granted.
    pub(crate) fn allow_unsubscribe(&self, filter: TopicFilter<'_>) -> bool {
        match &self.source {
            Source::Stages { .. } => true,
            Source::Roles(roles) => roles.allow_unsubscribe(filter),
        }
    }

    /// Tells whether a subscription may go on that was granted under other rules. What stages allow to be subscribed to they
    /// allow to be received, which is asked for each message.
    pub(crate) fn keep_subscription(&self, filter: TopicFilter<'_>) -> bool {
        match &self.source {
            Source::Stages { .. } => true,
            Source::Roles(roles) => roles.allow_subscribe(filter),
        }
    }

    fn actions(&mut self, topic: TopicName<'_>) -> Actions {
        let slot = IdHasher::slot_of(topic.as_str().as_bytes(), ANSWERS);
        if let Some(Some(answer)) = self.answers.get(slot)
            && *answer.topic == *topic.as_str()
        {
            return answer.actions;
        }
        let actions = self.source.actions(topic);
        if topic.as_str().len() <= TOPIC_BYTES_MAX {
            self.answers.resize(ANSWERS, None);
            if let Some(place) = self.answers.get_mut(slot) {
                *place = Some(Answer { topic: topic.as_str().into(), actions });
            }
        }
        actions
    }
}

impl Source {
    fn actions(&self, topic: TopicName<'_>) -> Actions {
        match self {
            Self::Stages { stages, .. } => Actions {
                publish: decide(stages, |(actions, pattern)| actions.publish && pattern.matches(topic)),
                receive: decide(stages, |(actions, pattern)| actions.receive && pattern.matches(topic)),
            },
            Self::Roles(roles) => {
                Actions { publish: roles.allow_publish(topic), receive: roles.allow_receive(topic) }
            }
        }
    }
}

/// Asks stage by stage; what no stage allows is denied.
fn decide(stages: &[Applicable], concerns: impl Fn(&(Actions, Pattern)) -> bool) -> bool {
    for stage in stages {
        if stage.denies_all || stage.deny.iter().any(&concerns) {
            return false;
        }
        if stage.allow.iter().any(&concerns) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::template::Names;
    use super::super::{Rule, RuleEffect, Rules, Stage, Subject, Template};
    use super::*;

    fn rule(subject: Subject, effect: RuleEffect, actions: Actions, filter: &str) -> Rule {
        Rule { subject, effect, actions, filter: Template::new(filter).unwrap() }
    }

    fn names<'a>(user: Option<&'a str>, client_id: &'a str) -> Names<'a> {
        Names { user, client_id, certificate: None }
    }

    fn topic(name: &str) -> TopicName<'_> {
        TopicName::new(name).unwrap()
    }

    const PUBLISH: Actions = Actions { publish: true, receive: false };
    const RECEIVE: Actions = Actions { publish: false, receive: true };

    #[test]
    fn what_denies_goes_before_what_allows_and_what_nothing_allows_is_denied() {
        let ann = || Subject::User("ann".into());
        let stage = Stage {
            rules: vec![
                rule(ann(), RuleEffect::Allow, Actions::ALL, "a/#"),
                rule(ann(), RuleEffect::Deny, PUBLISH, "a/secret"),
                rule(Subject::Everyone, RuleEffect::Allow, RECEIVE, "news"),
                rule(Subject::Anonymous, RuleEffect::Allow, Actions::ALL, "open"),
            ],
            denies_wildcard_names: false,
        };
        let rules = Rules::new(vec![stage], false);
        for (user, name, publish, receive) in [
            (Some("ann"), "a/b", true, true),
            (Some("ann"), "a/secret", false, true),
            (Some("ann"), "news", false, true),
            (Some("ann"), "open", false, false),
            (Some("bob"), "a/b", false, false),
            (None, "open", true, true),
            (None, "news", false, true),
            (None, "a/b", false, false),
        ] {
            let mut permissions = rules.permissions(names(user, "c"));
            // The second answer comes from what was kept.
            for _ in 0..2 {
                assert_eq!(permissions.allow_publish(topic(name)), publish, "{user:?} {name}");
                assert_eq!(permissions.allow_receive(topic(name)), receive, "{user:?} {name}");
            }
        }
    }

    #[test]
    fn the_first_stage_with_a_rule_decides() {
        let stage = |effect| Stage {
            rules: vec![rule(Subject::Everyone, effect, Actions::ALL, "t")],
            denies_wildcard_names: true,
        };
        let rules = Rules::new(vec![stage(RuleEffect::Allow), stage(RuleEffect::Deny)], false);

        assert!(rules.permissions(names(None, "c")).allow_publish(topic("t")));
        for (user, client_id) in [(Some("a+"), "c"), (None, "#")] {
            // [B01]
            assert!(!rules.permissions(names(user, client_id)).allow_publish(topic("t")));
        }
    }

    #[test]
    fn a_strict_subscription_is_granted_where_the_whole_filter_is_allowed() {
        let stage = || Stage {
            rules: vec![
                rule(Subject::Everyone, RuleEffect::Allow, RECEIVE, "a/#"),
                rule(Subject::Everyone, RuleEffect::Allow, PUBLISH, "b/#"),
                rule(Subject::Everyone, RuleEffect::Deny, RECEIVE, "a/secret/#"),
            ],
            denies_wildcard_names: false,
        };
        for (filter, granted) in
            [("a/+", true), ("a/#", true), ("#", false), ("b/c", false), ("a/secret/x", false)]
        {
            let filter = TopicFilter::new(filter).unwrap();

            let strict = Rules::new(vec![stage()], true).permissions(names(None, "c"));
            let compatible = Rules::new(vec![stage()], false).permissions(names(None, "c"));

            assert_eq!(strict.allow_subscribe(filter), granted, "{filter:?}");
            assert!(compatible.allow_subscribe(filter));
        }
    }

    #[test]
    fn answers_are_kept_for_a_bounded_number_of_topics() {
        let rules = Rules::new(
            vec![Stage {
                rules: vec![rule(Subject::Everyone, RuleEffect::Allow, PUBLISH, "t/+")],
                denies_wildcard_names: false,
            }],
            false,
        );
        let mut permissions = rules.permissions(names(None, "c"));
        for number in 0..10_000 {
            let name = format!("t/{number}");

            assert!(permissions.allow_publish(topic(&name)));
        }
        assert!(permissions.allow_publish(topic(&format!("t/{}", "x".repeat(60_000)))));

        assert_eq!(permissions.answers.len(), ANSWERS);
        let longest = permissions.answers.iter().flatten().map(|answer| answer.topic.len()).max();
        assert!(longest.unwrap() <= TOPIC_BYTES_MAX);
    }
}
