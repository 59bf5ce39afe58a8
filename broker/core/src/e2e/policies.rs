//! The table of policies, and which of them a topic falls under.
//!
//! A topic falls under the policy whose filter matches it with the most literal levels, then the longest, then the last in byte
//! order: the rule by which a topic belongs to a scope (VEIL-1 section 8.1). Topics of key distribution fall under none.

use std::cmp::Reverse;
use std::sync::Arc;

use veilmq_protocol::veil::distribution::DistributionTopic;
use veilmq_protocol::{TopicFilter, TopicName};

use super::counters::Registry;
use super::policy::{ActivePolicy, Policy, PolicyError};
use super::{Enforcement, PolicySample};

/// The policies in force.
#[derive(Debug, Default)]
pub struct Policies {
    /// The most specific first.
    active: Vec<ActivePolicy>,
    /// How topics of key distribution are held to their rules.
    pub(crate) distribution: DistributionRule,
}

/// How topics of key distribution are held to their rules (VEIL-1 section 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DistributionRule {
    /// Everything passes; what verifies counts.
    #[default]
    Observe,
    /// What does not verify is refused, whoever brings it; what an authority has certified that is not trusted here passes.
    Verify,
    /// That is refused too, and so is what another client writes, or wants to read, than the topic names.
    Enforce,
}

impl Policies {
    /// Makes a table of policies, in any order.
    ///
    /// # Errors
    /// [`PolicyError`], naming the policy.
    pub fn new(policies: Vec<Policy>) -> Result<Self, PolicyError> {
        let mut active: Vec<ActivePolicy> = Vec::with_capacity(policies.len());
        for policy in policies {
            let twice = |what| PolicyError::Twice { policy: Arc::clone(&policy.name), what };
            if active.iter().any(|other| other.policy.name == policy.name) {
                return Err(twice("name"));
            }
            if active.iter().any(|other| other.policy.topics == policy.topics) {
                return Err(twice("filter"));
            }
            active.push(ActivePolicy::new(policy)?);
        }
        active.sort_by(|a, b| rank(&a.policy.topics).cmp(&rank(&b.policy.topics)));
        Ok(Self { active, distribution: DistributionRule::Observe })
    }

    /// Holds topics of key distribution to this rule.
    #[must_use]
    pub fn with_distribution(self, distribution: DistributionRule) -> Self {
        Self { distribution, ..self }
    }

    /// Tells whether no message has to be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.distribution == DistributionRule::Observe
    }

    /// Returns the policies that let only members subscribe to some topic that a filter matches.
    pub(crate) fn closed(&self, filter: TopicFilter<'_>) -> impl Iterator<Item = &ActivePolicy> {
        let closed = self
            .active
            .iter()
            .filter(|active| active.policy.members_only && active.policy.enforcement == Enforcement::Require);
        closed.filter(move |active| overlap(&active.policy.topics, filter.as_str()))
    }

    /// Returns the policies that are applied to some topic that a filter matches, and let everybody subscribe.
    pub(crate) fn open(&self, filter: TopicFilter<'_>) -> impl Iterator<Item = &ActivePolicy> {
        let open = self.active.iter().filter(|active| match active.policy.enforcement {
            Enforcement::Off => false,
            Enforcement::Prefer => true,
            Enforcement::Require => !active.policy.members_only,
        });
        open.filter(move |active| overlap(&active.policy.topics, filter.as_str()))
    }

    /// Returns the policy to apply to a topic.
    pub(crate) fn of(&self, topic: TopicName<'_>) -> Option<&ActivePolicy> {
        if self.active.is_empty() || topic.as_str().starts_with(DistributionTopic::PREFIX) {
            return None;
        }
        let found = self.active.iter().find(|policy| policy.matches(topic));
        found.filter(|active| active.policy.enforcement != Enforcement::Off)
    }

    /// Lets each policy count where an earlier one of its name did.
    pub(crate) fn count_in(&mut self, registry: &Registry) {
        for active in &mut self.active {
            active.counters = registry.of(&active.policy.name);
        }
    }
}

impl crate::Shared {
    /// Visits what every policy has counted.
    pub fn visit_policies(&self, visit: &mut dyn FnMut(PolicySample<'_>)) {
        self.policy_counters.visit(visit);
    }
}

/// Tells whether some topic is matched by both filters ([MQTT-4.7.2-1]).
pub(super) fn overlap(left: &str, right: &str) -> bool {
    if left.starts_with('$') != right.starts_with('$') {
        return false;
    }
    let (mut left, mut right) = (left.split('/'), right.split('/'));
    loop {
        match (left.next(), right.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(left), Some(right)) => {
                if left != "+" && right != "+" && left != right {
                    return false;
                }
            }
        }
    }
}

fn rank(filter: &str) -> (Reverse<usize>, Reverse<usize>, Reverse<&str>) {
    let literal_levels = filter.split('/').filter(|level| !matches!(*level, "+" | "#")).count();
    (Reverse(literal_levels), Reverse(filter.len()), Reverse(filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(filters: &[&str]) -> Policies {
        Policies::new(filters.iter().map(|filter| Policy::requiring(filter, filter)).collect()).unwrap()
    }

    fn owner<'a>(policies: &'a Policies, topic: &str) -> Option<&'a str> {
        policies.of(TopicName::new(topic).unwrap()).map(|active| &*active.policy.topics)
    }

    #[test]
    fn a_topic_falls_under_the_policy_with_the_most_specific_filter() {
        let policies =
            table(&["#", "+/b", "a/#", "a/+", "a/b/#", "a/+/c", "a/b/c", "a/+/+", "a/+/+/+", "$x/#"]);

        for (topic, expected) in [
            ("a/b/c", Some("a/b/c")),
            ("a/b/d", Some("a/b/#")),
            ("a/x/c", Some("a/+/c")),
            ("a/x/y", Some("a/+/+")),
            ("a/x/y/z", Some("a/+/+/+")),
            ("a", Some("a/#")),
            ("a/x", Some("a/+")),
            ("x/b", Some("+/b")),
            ("z", Some("#")),
            ("$x/y", Some("$x/#")),
            ("$SYS/y", None),
            ("_veil/1/pre/0123456789abcdef", None),
        ] {
            assert_eq!(owner(&policies, topic), expected, "{topic}");
        }
    }

    #[test]
    fn filters_overlap_where_some_topic_matches_both() {
        // [MQTT-4.7.2-1]
        for (left, right, expected) in [
            ("a/#", "a", true),
            ("a/#", "#", true),
            ("a/b", "a/+", true),
            ("a/+/c", "a/b/#", true),
            ("+/b", "a/#", true),
            ("a/b", "a/c", false),
            ("a/b/c", "a/+", false),
            ("a", "a/+", false),
            ("$x/#", "#", false),
            ("$x/#", "$x/y", true),
        ] {
            assert_eq!(overlap(left, right), expected, "{left} {right}");
            assert_eq!(overlap(right, left), expected, "{right} {left}");
        }
    }

    #[test]
    fn a_policy_that_is_off_exempts_its_topics() {
        let off = Policy { enforcement: Enforcement::Off, ..Policy::requiring("off", "a/open/#") };
        let policies = Policies::new(vec![Policy::requiring("on", "a/#"), off]).unwrap();

        assert_eq!(owner(&policies, "a/b"), Some("a/#"));
        assert_eq!(owner(&policies, "a/open/b"), None);
    }

    #[test]
    fn policies_that_contradict_themselves_or_each_other_are_refused() {
        let with_scope =
            |scope: &str| Policy { scope: Some(scope.into()), ..Policy::requiring("p", "a/b/#") };
        let filter = |text: &str| PolicyError::NotAFilter { policy: "p".into(), text: text.into() };
        let scope = |scope: &str| PolicyError::Scope {
            policy: "p".into(),
            scope: scope.into(),
            topics: "a/b/#".into(),
        };
        let twice = |what| PolicyError::Twice { policy: "p".into(), what };
        for (policies, expected) in [
            (vec![Policy::requiring("p", "a/#/b")], Some(filter("a/#/b"))),
            (vec![Policy::requiring("p", "$share/g/a")], Some(filter("$share/g/a"))),
            (vec![with_scope("a/+b")], Some(filter("a/+b"))),
            (vec![with_scope("a/b/c")], Some(scope("a/b/c"))),
            (vec![with_scope("a/#")], None),
            (vec![Policy::requiring("p", "a"), Policy::requiring("p", "b")], Some(twice("name"))),
            (vec![Policy::requiring("q", "a"), Policy::requiring("p", "a")], Some(twice("filter"))),
        ] {
            assert_eq!(Policies::new(policies).err(), expected);
        }
    }
}
