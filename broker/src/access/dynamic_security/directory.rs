//! Clients, groups and roles, and who has which.
//!
//! Invariant: a client is in a group exactly if the group has it, and every role and group that something names is there. What a
//! client may do changes together with its seat, so that its connections notice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use veilmq_core::{RoleDefaults, Template};
use veilmq_protocol::TopicFilter;

use super::json::Object;
use crate::access::password::PasswordHash;

/// Numbers that say whether a connection was made before its user's rights changed.
static SEATS: AtomicU64 = AtomicU64::new(1);

/// All clients, groups and roles. A copy is cheap.
#[derive(Clone, Default)]
pub(in crate::access) struct Directory {
    pub(super) clients: BTreeMap<Arc<str>, Arc<Client>>,
    pub(super) groups: BTreeMap<Arc<str>, Arc<Group>>,
    pub(super) roles: BTreeMap<Arc<str>, Arc<Role>>,
    /// The group of clients without a user name.
    pub(super) anonymous_group: Option<Arc<str>>,
    pub(super) anonymous_seat: u64,
    pub(super) defaults: RoleDefaults,
    /// How many changes there have been.
    pub(super) change_index: i64,
    /// What the file has beside that.
    pub(super) other: Object,
}

/// A client, which is a user name with a password.
#[derive(Clone, Default)]
pub(super) struct Client {
    /// Another Client Identifier than this is refused.
    pub(super) client_id: Option<Arc<str>>,
    pub(super) texts: Texts,
    pub(super) is_disabled: bool,
    /// Without one it cannot connect.
    pub(super) password: Option<Arc<PasswordHash>>,
    pub(super) roles: Vec<Ranked>,
    pub(super) groups: Vec<Ranked>,
    pub(super) seat: u64,
    pub(super) other: Object,
}

/// Clients with the same roles.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Group {
    pub(super) texts: Texts,
    pub(super) roles: Vec<Ranked>,
    /// Its clients, each with the priority that the group has for it.
    pub(super) clients: BTreeMap<Arc<str>, i32>,
    pub(super) other: Object,
}

/// What may be done.
#[derive(Clone, PartialEq)]
pub(super) struct Role {
    pub(super) texts: Texts,
    /// Whether filters with wildcards may be subscribed to at all.
    pub(super) allows_wildcards: bool,
    /// For each kind of rule those there are, the most important first.
    pub(super) acls: [Vec<Acl>; AclType::ALL.len()],
    pub(super) other: Object,
}

/// Words about something, for people.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Texts {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
}

/// Something that one has, with its priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ranked {
    pub(super) name: Arc<str>,
    pub(super) priority: i32,
}

/// Whether something may be done with some topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    pub(super) topic: Arc<str>,
    pub(super) priority: i32,
    pub(super) allow: bool,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AclType {
    PublishClientSend,
    PublishClientReceive,
    SubscribeLiteral,
    SubscribePattern,
    UnsubscribeLiteral,
    UnsubscribePattern,
}

impl AclType {
    /// All of them, in the order of their discriminants.
    pub(super) const ALL: [Self; 6] = [
        Self::PublishClientSend,
        Self::PublishClientReceive,
        Self::SubscribeLiteral,
        Self::SubscribePattern,
        Self::UnsubscribeLiteral,
        Self::UnsubscribePattern,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PublishClientSend => "publishClientSend",
            Self::PublishClientReceive => "publishClientReceive",
            Self::SubscribeLiteral => "subscribeLiteral",
            Self::SubscribePattern => "subscribePattern",
            Self::UnsubscribeLiteral => "unsubscribeLiteral",
            Self::UnsubscribePattern => "unsubscribePattern",
        }
    }

    pub(super) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// Tells whether a topic can stand in a rule of this kind. A literal one is a Topic Filter as a client would write it.
    pub(super) fn takes(self, topic: &str) -> bool {
        match self {
            Self::SubscribeLiteral | Self::UnsubscribeLiteral => TopicFilter::new(topic).is_ok(),
            Self::PublishClientSend
            | Self::PublishClientReceive
            | Self::SubscribePattern
            | Self::UnsubscribePattern => Template::with_groups(topic).is_ok(),
        }
    }
}

impl Default for Role {
    fn default() -> Self {
        Self {
            texts: Texts::default(),
            allows_wildcards: true,
            acls: Default::default(),
            other: Object::default(),
        }
    }
}

impl Role {
    pub(super) fn acls(&self, kind: AclType) -> &[Acl] {
        self.acls.get(kind as usize).map(Vec::as_slice).unwrap_or_default()
    }

    /// Adds a rule behind those of the same priority; false if there is one for this topic.
    pub(super) fn add_acl(&mut self, kind: AclType, acl: Acl) -> bool {
        let Some(acls) = self.acls.get_mut(kind as usize) else { return false };
        if acls.iter().any(|known| known.topic == acl.topic) {
            return false;
        }
        let at = acls.partition_point(|known| known.priority >= acl.priority);
        acls.insert(at, acl);
        true
    }

    /// Removes a rule; false if there is none for this topic.
    pub(super) fn remove_acl(&mut self, kind: AclType, topic: &str) -> bool {
        let Some(acls) = self.acls.get_mut(kind as usize) else { return false };
        let before = acls.len();
        acls.retain(|acl| *acl.topic != *topic);
        acls.len() < before
    }
}

/// Adds to a list of what one has, the most important first and then by name; false if it is there already.
pub(super) fn rank(list: &mut Vec<Ranked>, ranked: Ranked) -> bool {
    if list.iter().any(|known| known.name == ranked.name) {
        return false;
    }
    let goes_before = |known: &Ranked| (-known.priority, &known.name) < (-ranked.priority, &ranked.name);
    let at = list.partition_point(goes_before);
    list.insert(at, ranked);
    true
}

/// Takes a number that no connection has seen yet.
pub(super) fn new_seat() -> u64 {
    SEATS.fetch_add(1, Ordering::Relaxed)
}

impl Directory {
    pub(super) fn client_mut(&mut self, name: &str) -> Option<&mut Client> {
        self.clients.get_mut(name).map(Arc::make_mut)
    }

    pub(super) fn group_mut(&mut self, name: &str) -> Option<&mut Group> {
        self.groups.get_mut(name).map(Arc::make_mut)
    }

    pub(super) fn role_mut(&mut self, name: &str) -> Option<&mut Role> {
        self.roles.get_mut(name).map(Arc::make_mut)
    }

    /// Puts a client into a group, both of which exist; false if it is in it.
    pub(super) fn join(&mut self, client: &str, group: &str, priority: i32) -> bool {
        let Some((name, _)) = self.clients.get_key_value(client) else { return false };
        let name = Arc::clone(name);
        let Some((group_name, _)) = self.groups.get_key_value(group) else { return false };
        let ranked = Ranked { name: Arc::clone(group_name), priority };
        let Some(state) = self.client_mut(client) else { return false };
        if !rank(&mut state.groups, ranked) {
            return false;
        }
        if let Some(state) = self.group_mut(group) {
            state.clients.insert(name, priority);
        }
        true
    }

    /// Takes a client out of a group.
    pub(super) fn leave(&mut self, client: &str, group: &str) {
        if let Some(state) = self.client_mut(client) {
            state.groups.retain(|ranked| *ranked.name != *group);
        }
        if let Some(state) = self.group_mut(group) {
            state.clients.remove(client);
        }
    }

    /// Has the connections of a user end.
    pub(super) fn unseat(&mut self, client: &str) {
        if let Some(state) = self.client_mut(client) {
            state.seat = new_seat();
        }
    }

    pub(super) fn unseat_anonymous(&mut self) {
        self.anonymous_seat = new_seat();
    }

    pub(super) fn unseat_group(&mut self, group: &str) {
        if self.anonymous_group.as_deref() == Some(group) {
            self.unseat_anonymous();
        }
        let members: Vec<Arc<str>> =
            self.groups.get(group).map(|state| state.clients.keys().cloned().collect()).unwrap_or_default();
        for member in members {
            self.unseat(&member);
        }
    }

    /// Has the connections end of everybody who has a role.
    pub(super) fn unseat_role(&mut self, role: &str) {
        let has = |roles: &[Ranked]| roles.iter().any(|ranked| *ranked.name == *role);
        let clients: Vec<Arc<str>> = self
            .clients
            .iter()
            .filter(|(_, client)| has(&client.roles))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        let groups: Vec<Arc<str>> = self
            .groups
            .iter()
            .filter(|(_, group)| has(&group.roles))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for client in clients {
            self.unseat(&client);
        }
        for group in groups {
            self.unseat_group(&group);
        }
    }

    /// Keeps the seats of those whose rights are what they were in `earlier`: a file was read again.
    pub(in crate::access) fn keep_seats(&mut self, earlier: &Self) {
        let is_same = |list: &[Ranked]| {
            list.iter().all(|ranked| self.roles.get(&ranked.name) == earlier.roles.get(&ranked.name))
        };
        let group_is_same = |name: &str| {
            let roles = |directory: &Self| directory.groups.get(name).map(|group| group.roles.clone());
            let now = roles(self);
            now == roles(earlier) && is_same(&now.unwrap_or_default())
        };
        let keeps = |name: &Arc<str>, client: &Client| {
            let before = earlier.clients.get(name)?;
            let is_same = before.client_id == client.client_id
                && before.is_disabled == client.is_disabled
                && before.roles == client.roles
                && before.groups == client.groups
                && is_same(&client.roles)
                && client.groups.iter().all(|ranked| group_is_same(&ranked.name));
            is_same.then_some((Arc::clone(name), before.seat))
        };
        let kept: Vec<(Arc<str>, u64)> =
            self.clients.iter().filter_map(|(name, client)| keeps(name, client)).collect();
        let anonymous_is_same = self.anonymous_group == earlier.anonymous_group
            && self.anonymous_group.as_ref().is_none_or(|group| group_is_same(group));
        for (name, seat) in kept {
            if let Some(client) = self.client_mut(&name) {
                client.seat = seat;
            }
        }
        if anonymous_is_same {
            self.anonymous_seat = earlier.anonymous_seat;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_has_is_ordered_by_priority_and_then_by_name() {
        let mut list = Vec::new();
        for (name, priority) in [("b", -1), ("a", -1), ("z", 5), ("y", -7), ("m", 5)] {
            assert!(rank(&mut list, Ranked { name: name.into(), priority }));
        }

        assert!(!rank(&mut list, Ranked { name: "a".into(), priority: 9 }));

        let names: Vec<&str> = list.iter().map(|ranked| &*ranked.name).collect();
        assert_eq!(names, ["m", "z", "a", "b", "y"]);
    }

    #[test]
    fn rules_of_the_same_priority_keep_the_order_in_which_they_came() {
        let mut role = Role::default();
        for (topic, priority) in [("b", 0), ("a", 0), ("first", 3), ("last", -1), ("c", 0)] {
            let acl = Acl { topic: topic.into(), priority, allow: true };
            assert!(role.add_acl(AclType::PublishClientSend, acl));
        }

        let topics: Vec<&str> = role.acls(AclType::PublishClientSend).iter().map(|acl| &*acl.topic).collect();
        assert_eq!(topics, ["first", "b", "a", "c", "last"]);
        assert!(role.acls(AclType::SubscribeLiteral).is_empty());
    }
}
