//! Visitors: who shows a user name and a password and speaks something else than MQTT, as HTTP.
//!
//! Invariant: a visitor reads what a client of the same user, by the same listener, would be sent.

use veilmq_protocol::TopicName;

use super::{AccessTables, Asker, Names, Terms};
use crate::entrance::EntranceId;

/// How a visitor is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// As it is: nothing has to be proved.
    Open,
    /// Once its password was found to be right.
    Check,
    /// Not at all.
    Closed,
}

/// Somebody who was let in.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// The listener it came by.
    pub entrance: EntranceId,
    /// Its user name, if it gave one.
    pub user: Option<&'a str>,
    /// What rules know it by in the place of a Client Identifier.
    pub client_id: &'a str,
    /// What whoever vouches for it says besides.
    pub terms: Option<&'a Terms>,
}

impl AccessTables {
    /// Tells how somebody with this user name is let in by a listener.
    pub fn admission(&self, entrance: EntranceId, user: Option<&str>) -> Admission {
        let access = self.of(entrance);
        match user {
            Some(_) if access.checks_users() => Admission::Check,
            Some(_) | None if access.anonymous => Admission::Open,
            Some(_) | None => Admission::Closed,
        }
    }

    /// Tells whether a visitor may read what has this name.
    pub fn may_read(&self, visitor: Visitor<'_>, name: TopicName<'_>) -> bool {
        let Visitor { entrance, user, client_id, terms } = visitor;
        let rules = terms.and_then(|terms| terms.rules.as_ref());
        let permissions = self
            .of(entrance)
            .permissions(Asker { names: Names { user, client_id, certificate: None }, rules });
        permissions.is_none_or(|mut permissions| permissions.allow_receive(name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::super::{Access, Actions, Rule, RuleEffect, Rules, Stage, Subject, Template};
    use super::*;

    const FIRST: EntranceId = EntranceId(0);
    const SECOND: EntranceId = EntranceId(1);

    #[test]
    fn each_listener_has_its_own_way_in() {
        let users = Some(HashMap::from([(Arc::from("ann"), 1)]));
        let open = Access { users: users.clone(), ..Access::open_to(true) };
        let tables = AccessTables::from(vec![open, Access { users, ..Access::open_to(false) }]);

        for (entrance, user, expected) in [
            (FIRST, None, Admission::Open),
            (FIRST, Some("ann"), Admission::Check),
            (SECOND, None, Admission::Closed),
            (SECOND, Some("bob"), Admission::Check),
            (EntranceId(2), None, Admission::Closed),
        ] {
            assert_eq!(tables.admission(entrance, user), expected, "{entrance:?} {user:?}");
        }
        let named = AccessTables::from(Access::open_to(true));
        assert_eq!(named.admission(FIRST, Some("ann")), Admission::Open);
        assert_eq!(
            AccessTables::from(Access::open_to(false)).admission(FIRST, Some("ann")),
            Admission::Closed
        );
    }

    #[test]
    fn a_visitor_reads_what_rules_let_a_client_receive() {
        let rule = |subject, filter: &str| Rule {
            subject,
            effect: RuleEffect::Allow,
            actions: Actions { publish: false, receive: true },
            filter: Template::new(filter).unwrap(),
        };
        let rules = vec![rule(Subject::Everyone, "/version"), rule(Subject::User("ann".into()), "/users/#")];
        let stage = Stage { rules, denies_wildcard_names: false };
        let rules = Some(Rules::new(vec![stage], false));
        let tables = AccessTables::from(Access { rules, ..Access::open_to(true) });

        for (user, name, expected) in [
            (None, "/version", true),
            (None, "/users/all", false),
            (Some("ann"), "/users/all", true),
            (Some("bob"), "/users/all", false),
        ] {
            let visitor = Visitor { entrance: FIRST, user, client_id: "visitor", terms: None };
            assert_eq!(tables.may_read(visitor, TopicName::new(name).unwrap()), expected, "{user:?} {name}");
        }
        let visitor = Visitor { entrance: FIRST, user: None, client_id: "visitor", terms: None };
        let free = AccessTables::from(Access::open_to(true));
        assert!(free.may_read(visitor, TopicName::new("/anything").unwrap()));
    }
}
