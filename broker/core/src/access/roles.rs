//! What clients may do by their roles: the first rule that concerns a question decides, and a default where there is none.
//!
//! Roles come in the order in which they are asked, and in each role the rules of one kind of question. Invariant: nobody may use
//! `$CONTROL` by default, a rule has to say so; and a user that has no entry may do nothing.

use std::collections::HashMap;
use std::sync::Arc;

use veilmq_protocol::{TopicFilter, TopicName};

use super::template::{Names, Pattern, Template};

/// The first level of the topics that commands are sent to.
const CONTROL: &str = "$CONTROL";

/// What clients may do by their roles.
#[derive(Debug, Default)]
pub struct Roles {
    /// The users, each with its roles.
    pub users: HashMap<Arc<str>, Holder>,
    /// Clients without a user name.
    pub anonymous: Holder,
    /// What holds where no rule of a role concerns the question.
    pub defaults: RoleDefaults,
}

/// Who holds roles.
#[derive(Clone, Debug, Default)]
pub struct Holder {
    /// The roles, in the order in which they are asked.
    pub roles: Arc<[Arc<Role>]>,
    /// Changes when the holder's connections are to end, because what it may do has changed.
    pub seat: u64,
}

/// What holds where no rule of a role concerns the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleDefaults {
    /// To publish.
    pub publish: bool,
    /// To receive what a subscription brings.
    pub receive: bool,
    /// To subscribe.
    pub subscribe: bool,
    /// To unsubscribe.
    pub unsubscribe: bool,
}

/// The rules of one role, each kind in the order in which they are asked.
#[derive(Debug, Default)]
pub struct Role {
    /// For the topics of messages that the client publishes.
    pub publish: Vec<RoleRule>,
    /// For the topics of messages that it is sent.
    pub receive: Vec<RoleRule>,
    /// For filters that it subscribes to, as they are written; asked before those below.
    pub subscribe_literal: HashMap<Box<str>, bool>,
    /// For filters that it subscribes to: those of which everything matches.
    pub subscribe: Vec<RoleRule>,
    /// For filters that it unsubscribes from, as they are written; asked before those below.
    pub unsubscribe_literal: HashMap<Box<str>, bool>,
    /// For filters that it unsubscribes from: those of which everything matches.
    pub unsubscribe: Vec<RoleRule>,
    /// Whether a filter with wildcards is refused before any rule is asked.
    pub denies_wildcards: bool,
}

/// Whether something is allowed for some topics.
#[derive(Debug)]
pub struct RoleRule {
    topics: Topics,
    allow: bool,
}

#[derive(Debug)]
enum Topics {
    /// The same for every client.
    Fixed(Pattern),
    /// With the names of the client in them.
    OfClient(Template),
}

impl RoleRule {
    /// Makes the rule that `allow` holds for the topics of a filter.
    pub fn new(topics: Template, allow: bool) -> Self {
        let topics = match topics.fixed() {
            Some(pattern) => Topics::Fixed(pattern),
            None => Topics::OfClient(topics),
        };
        Self { topics, allow }
    }

    fn concerns(&self, client: &RolesOfClient, is_concerned: impl Fn(&Pattern) -> bool) -> bool {
        match &self.topics {
            Topics::Fixed(pattern) => is_concerned(pattern),
            Topics::OfClient(template) => {
                // What a certificate says is not asked for by roles.
                let names =
                    Names { user: client.user.as_deref(), client_id: &client.client_id, certificate: None };
                let pattern = template.resolve(names);
                pattern.is_some_and(|pattern| is_concerned(&pattern))
            }
        }
    }
}

impl Roles {
    /// Returns who a client is here: a user, or anybody without a name; None for a user that has no entry.
    pub(super) fn holder(&self, user: Option<&str>) -> Option<&Holder> {
        match user {
            Some(name) => self.users.get(name),
            None => Some(&self.anonymous),
        }
    }

    pub(super) fn of_client(&self, user: Option<&str>, client_id: &str) -> RolesOfClient {
        let holder = self.holder(user);
        RolesOfClient {
            roles: holder.map(|holder| Arc::clone(&holder.roles)).unwrap_or_default(),
            defaults: if holder.is_some() { self.defaults } else { RoleDefaults::default() },
            user: user.map(Box::from),
            client_id: client_id.into(),
        }
    }
}

/// The roles of one client.
#[derive(Debug)]
pub(super) struct RolesOfClient {
    roles: Arc<[Arc<Role>]>,
    defaults: RoleDefaults,
    user: Option<Box<str>>,
    client_id: Box<str>,
}

impl RolesOfClient {
    pub(super) fn allow_publish(&self, topic: TopicName<'_>) -> bool {
        self.decide_topic(topic, |role| &role.publish, self.defaults.publish)
    }

    pub(super) fn allow_receive(&self, topic: TopicName<'_>) -> bool {
        self.decide_topic(topic, |role| &role.receive, self.defaults.receive)
    }

    pub(super) fn allow_subscribe(&self, filter: TopicFilter<'_>) -> bool {
        for role in self.roles.iter() {
            if role.denies_wildcards && filter.inner().has_wildcards() {
                return false;
            }
            if let Some(allow) = self.decide_filter(filter, &role.subscribe_literal, &role.subscribe) {
                return allow;
            }
        }
        self.defaults.subscribe && !is_control(filter.inner().as_str())
    }

    pub(super) fn allow_unsubscribe(&self, filter: TopicFilter<'_>) -> bool {
        let decide =
            |role: &Arc<Role>| self.decide_filter(filter, &role.unsubscribe_literal, &role.unsubscribe);
        let by_role = self.roles.iter().find_map(decide);
        by_role.unwrap_or(self.defaults.unsubscribe && !is_control(filter.inner().as_str()))
    }

    fn decide_topic(
        &self,
        topic: TopicName<'_>,
        rules: impl Fn(&Role) -> &Vec<RoleRule>,
        default: bool,
    ) -> bool {
        let decides = |rule: &&RoleRule| rule.concerns(self, |pattern| pattern.matches(topic));
        let mut asked = self.roles.iter().flat_map(|role| rules(role));
        let by_role = asked.find(decides).map(|rule| rule.allow);
        by_role.unwrap_or(default && !is_control(topic.as_str()))
    }

    /// A rule for the filter behind a group holds for its Shared Subscriptions too, and so does one for the filter with its group.
    fn decide_filter(
        &self,
        filter: TopicFilter<'_>,
        literal: &HashMap<Box<str>, bool>,
        patterns: &[RoleRule],
    ) -> Option<bool> {
        let forms = [filter.as_str(), filter.inner().as_str()];
        if let Some(allow) = forms.iter().find_map(|form| literal.get(*form)) {
            return Some(*allow);
        }
        let covers = |pattern: &Pattern| pattern.covers(filter.inner()) || pattern.covers(filter);
        patterns.iter().find(|rule| rule.concerns(self, covers)).map(|rule| rule.allow)
    }
}

fn is_control(topic: &str) -> bool {
    topic.starts_with(CONTROL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(list: &[(&str, bool)]) -> Vec<RoleRule> {
        list.iter().map(|(text, allow)| RoleRule::new(Template::with_groups(text).unwrap(), *allow)).collect()
    }

    fn client(roles: Vec<Role>, defaults: RoleDefaults) -> RolesOfClient {
        let roles = roles.into_iter().map(Arc::new).collect();
        let users = HashMap::from([(Arc::from("ann"), Holder { roles, seat: 0 })]);
        Roles { users, anonymous: Holder::default(), defaults }.of_client(Some("ann"), "c")
    }

    const OPEN: RoleDefaults =
        RoleDefaults { publish: true, receive: true, subscribe: true, unsubscribe: true };

    fn topic(name: &str) -> TopicName<'_> {
        TopicName::new(name).unwrap()
    }

    fn filter(text: &str) -> TopicFilter<'_> {
        TopicFilter::new(text).unwrap()
    }

    #[test]
    fn the_first_rule_of_the_first_role_decides() {
        let first = Role { publish: rules(&[("a/secret", false), ("a/#", true)]), ..Role::default() };
        let second = Role { publish: rules(&[("a/b", false), ("u/%u/%c", true)]), ..Role::default() };
        let client = client(vec![first, second], RoleDefaults::default());
        for (name, expected) in [
            ("a/secret", false),
            ("a/b", true),
            ("u/ann/c", true),
            ("u/bob/c", false),
            ("other", false),
            ("$CONTROL/x", false),
        ] {
            assert_eq!(client.allow_publish(topic(name)), expected, "{name}");
        }
    }

    #[test]
    fn where_no_rule_decides_the_default_does_but_never_for_control() {
        let client = client(vec![Role { receive: rules(&[("x", false)]), ..Role::default() }], OPEN);

        assert!(client.allow_publish(topic("t")) && client.allow_receive(topic("t")));
        assert!(!client.allow_receive(topic("x")));
        assert!(client.allow_subscribe(filter("t/#")) && client.allow_unsubscribe(filter("t/#")));
        assert!(!client.allow_publish(topic("$CONTROL/dynamic-security/v1")));
        assert!(!client.allow_receive(topic("$CONTROL/dynamic-security/v1/response")));
        assert!(!client.allow_subscribe(filter("$CONTROL/#")));
        assert!(!client.allow_subscribe(filter("$share/g/$CONTROL/#")));
        assert!(!client.allow_unsubscribe(filter("$CONTROL/#")));
    }

    #[test]
    fn a_literal_rule_is_for_the_filter_as_it_is_written_and_goes_before_patterns() {
        let role = Role {
            subscribe_literal: HashMap::from([("a/#".into(), true), ("b/x".into(), false)]),
            subscribe: rules(&[("b/#", true), ("$share/g/#", true)]),
            unsubscribe_literal: HashMap::from([("a/#".into(), false)]),
            ..Role::default()
        };
        let client = client(vec![role], RoleDefaults { unsubscribe: true, ..RoleDefaults::default() });
        for (text, expected) in [
            ("a/#", true),
            ("$share/q/a/#", true),
            ("a/b", false),
            ("b/+", true),
            ("b/x", false),
            ("#", false),
            ("$share/g/t", true),
            ("$share/h/t", false),
        ] {
            assert_eq!(client.allow_subscribe(filter(text)), expected, "{text}");
        }
        assert!(!client.allow_unsubscribe(filter("a/#")));
        assert!(client.allow_unsubscribe(filter("a/b")));
    }

    #[test]
    fn a_role_can_refuse_wildcards_altogether() {
        let role = Role { subscribe: rules(&[("#", true)]), denies_wildcards: true, ..Role::default() };
        let client = client(vec![role], RoleDefaults::default());

        assert!(client.allow_subscribe(filter("a/b")));
        assert!(!client.allow_subscribe(filter("a/+")));
        assert!(!client.allow_subscribe(filter("$share/g/#")));
    }

    #[test]
    fn a_user_without_an_entry_may_do_nothing_and_one_without_a_name_what_the_default_says() {
        let roles = Roles { defaults: OPEN, ..Roles::default() };

        assert!(!roles.of_client(Some("eve"), "c").allow_publish(topic("t")));
        assert!(roles.of_client(None, "c").allow_publish(topic("t")));
    }
}
