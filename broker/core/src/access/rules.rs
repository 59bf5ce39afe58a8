//! The rules that say what clients may do.
//!
//! They are those of roles (`roles`), or come in stages; the first stage that has a rule for what is asked decides, in each stage what denies before what
//! allows. Invariant: what no rule allows is denied.

use std::collections::HashMap;
use std::sync::Arc;

use super::permissions::Permissions;
use super::roles::Roles;
use super::template::{Names, Pattern, Template};

/// What clients may do. A copy is cheap.
#[derive(Clone, Debug)]
pub struct Rules(Arc<Kind>);

/// Rules are equal if one is a copy of the other.
impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Rules {}

#[derive(Debug)]
enum Kind {
    Stages {
        stages: Vec<Indexed>,
        /// SUBSCRIBE is refused unless a rule allows the whole filter.
        strict: bool,
        /// What a certificate says stands in one of them.
        need_certificates: bool,
    },
    Roles(Roles),
}

/// Rules that are asked together.
#[derive(Debug, Default)]
pub struct Stage {
    /// The rules, in any order.
    pub rules: Vec<Rule>,
    /// Whether the stage, if it has any rule, denies everything to a client with `+` or `#` in its user name or Client Identifier.
    pub denies_wildcard_names: bool,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whom it concerns.
    pub subject: Subject,
    /// What it says.
    pub effect: RuleEffect,
    /// What it says that of.
    pub actions: Actions,
    /// The topics it says that of.
    pub filter: Template,
}

/// Whom a rule concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// All clients.
    Everyone,
    /// Clients without a user name.
    Anonymous,
    /// Clients of this user.
    User(Arc<str>),
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleEffect {
    /// It is allowed.
    Allow,
    /// It is denied.
    Deny,
}

/// What can be allowed or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actions {
    /// To publish, and to have a Will Message.
    pub publish: bool,
    /// To subscribe, and to receive what the subscription brings.
    pub receive: bool,
}

impl Actions {
    /// To publish and to receive.
    pub const ALL: Self = Self { publish: true, receive: true };
}

/// The rules of a stage by whom they concern.
#[derive(Debug)]
struct Indexed {
    by_subject: HashMap<Subject, Vec<Rule>>,
    denies_wildcard_names: bool,
}

/// The rules of a stage for one client.
#[derive(Debug, Default)]
pub(super) struct Applicable {
    pub(super) deny: Vec<(Actions, Pattern)>,
    pub(super) allow: Vec<(Actions, Pattern)>,
    pub(super) denies_all: bool,
}

impl Rules {
    /// Makes rules of their stages. With `strict` SUBSCRIBE is refused where the filter is not allowed as a whole; otherwise it
    /// never is, and what the client may not receive is held back.
    pub fn new(stages: Vec<Stage>, strict: bool) -> Self {
        let needs_certificate = |rule: &Rule| rule.filter.needs_certificate();
        let need_certificates = stages.iter().flat_map(|stage| &stage.rules).any(needs_certificate);
        let index = |stage: Stage| {
            let mut by_subject: HashMap<Subject, Vec<Rule>> = HashMap::new();
            for rule in stage.rules {
                by_subject.entry(rule.subject.clone()).or_default().push(rule);
            }
            Indexed { by_subject, denies_wildcard_names: stage.denies_wildcard_names }
        };
        let stages = stages.into_iter().map(index).collect();
        Self(Arc::new(Kind::Stages { stages, strict, need_certificates }))
    }

    /// Makes the rules of clients that have roles.
    pub fn by_roles(roles: Roles) -> Self {
        Self(Arc::new(Kind::Roles(roles)))
    }

    pub(super) fn permissions(&self, names: Names<'_>) -> Permissions {
        match &*self.0 {
            Kind::Stages { stages, strict, .. } => {
                let applicable = |stage: &Indexed| stage.applicable(names);
                Permissions::by_stages(stages.iter().map(applicable).collect(), *strict)
            }
            Kind::Roles(roles) => Permissions::by_roles(roles.of_client(names.user, names.client_id)),
        }
    }

    /// Tells whether what a client may do can depend on its certificate.
    pub(super) fn need_certificates(&self) -> bool {
        match &*self.0 {
            Kind::Stages { need_certificates, .. } => *need_certificates,
            Kind::Roles(_) => false,
        }
    }

    /// Tells whether connections of a user that were made under these rules end under others, because its roles have changed.
    pub(super) fn unseats(&self, user: Option<&str>, now: &Self) -> bool {
        match (&*self.0, &*now.0) {
            (Kind::Roles(before), Kind::Roles(now)) => {
                let seat = |roles: &Roles| roles.holder(user).map(|holder| holder.seat);
                seat(before) != seat(now)
            }
            (Kind::Stages { .. }, _) | (_, Kind::Stages { .. }) => false,
        }
    }
}

impl Indexed {
    fn applicable(&self, names: Names<'_>) -> Applicable {
        let own = match names.user {
            Some(name) => Subject::User(name.into()),
            None => Subject::Anonymous,
        };
        let mut applicable = Applicable::default();
        if self.denies_wildcard_names && !self.by_subject.is_empty() {
            let has_wildcard = |name: &str| name.contains(['+', '#']);
            applicable.denies_all = has_wildcard(names.client_id) || names.user.is_some_and(has_wildcard);
        }
        let of = |subject| self.by_subject.get(subject).into_iter().flatten();
        for rule in of(&own).chain(of(&Subject::Everyone)) {
            let Some(pattern) = rule.filter.resolve(names) else { continue };
            match rule.effect {
                RuleEffect::Allow => applicable.allow.push((rule.actions, pattern)),
                RuleEffect::Deny => applicable.deny.push((rule.actions, pattern)),
            }
        }
        applicable
    }
}
