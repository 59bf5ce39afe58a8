//! What shards and the password threads consult, made of a directory.

use std::collections::HashMap;
use std::sync::Arc;

use veilmq_core::{Holder, Role, RoleRule, Roles, Template};

use super::directory::{AclType, Directory, Ranked, Role as Entry};
use crate::access::users::Credential;

type Compiled = HashMap<Arc<str>, Arc<Role>>;

impl Directory {
    /// Returns what clients may do.
    pub(in crate::access) fn roles(&self) -> Roles {
        let compiled: Compiled =
            self.roles.iter().map(|(name, role)| (Arc::clone(name), Arc::new(compile(role)))).collect();
        let held = |list: &[Ranked]| -> Vec<Arc<Role>> {
            list.iter().filter_map(|ranked| compiled.get(&ranked.name).cloned()).collect()
        };
        let of_group = |name: &str| self.groups.get(name).map(|group| held(&group.roles)).unwrap_or_default();
        // Who is disabled may do nothing, however it was let in.
        let enabled = self.clients.iter().filter(|(_, client)| !client.is_disabled);
        let users = enabled.map(|(name, client)| {
            let mut roles = held(&client.roles);
            roles.extend(client.groups.iter().flat_map(|group| of_group(&group.name)));
            (Arc::clone(name), Holder { roles: roles.into(), seat: client.seat })
        });
        let anonymous = self.anonymous_group.as_ref().map(|group| of_group(group)).unwrap_or_default();
        Roles {
            users: users.collect(),
            anonymous: Holder { roles: anonymous.into(), seat: self.anonymous_seat },
            defaults: self.defaults,
        }
    }

    /// Returns what the clients that may connect show for who they are.
    pub(in crate::access) fn credentials(&self) -> impl Iterator<Item = Credential> + '_ {
        self.clients.iter().filter(|(_, client)| !client.is_disabled).filter_map(|(name, client)| {
            Some(Credential {
                name: Arc::clone(name),
                hash: Arc::clone(client.password.as_ref()?),
                client_id: client.client_id.clone(),
            })
        })
    }
}

fn compile(role: &Entry) -> Role {
    let rules = |kind| {
        let rule = |acl: &super::directory::Acl| {
            // It was checked when it came in.
            Some(RoleRule::new(Template::with_groups(&acl.topic).ok()?, acl.allow))
        };
        role.acls(kind).iter().filter_map(rule).collect()
    };
    let literal = |kind| role.acls(kind).iter().map(|acl| (Box::from(&*acl.topic), acl.allow)).collect();
    Role {
        publish: rules(AclType::PublishClientSend),
        receive: rules(AclType::PublishClientReceive),
        subscribe_literal: literal(AclType::SubscribeLiteral),
        subscribe: rules(AclType::SubscribePattern),
        unsubscribe_literal: literal(AclType::UnsubscribeLiteral),
        unsubscribe: rules(AclType::UnsubscribePattern),
        denies_wildcards: !role.allows_wildcards,
    }
}
