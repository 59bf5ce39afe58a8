//! Commands about roles, their rules, and what holds where no rule says anything.

use std::sync::Arc;

use serde_json::{Value, json};
use veilmq_core::RoleDefaults;

use super::clients::{modify_texts, objects, texts};
use super::commands::{Command, Done, Outcome};
use super::directory::{Acl, AclType, Directory, Role};
use super::json;

const NO_ROLENAME: &str = "Invalid/missing rolename";
const NOT_FOUND: &str = "Role not found";
const WILDCARDS: &str = "allowwildcardsubs";

pub(super) fn create(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = command.needed("rolename", NO_ROLENAME)?;
    if name.is_empty() {
        return Err("Empty rolename");
    }
    let texts = texts(command)?;
    let allows_wildcards =
        json::boolean(command.members, WILDCARDS, true).map_err(|_| "Invalid allowwildcardsubs")?;
    if directory.roles.contains_key(name) {
        return Err("Role already exists");
    }
    let mut role = Role { texts, allows_wildcards, ..Role::default() };
    if let Some(acls) = acls(command)? {
        role.acls = acls.acls;
    }
    directory.roles.insert(name.into(), Arc::new(role));
    Ok(Done::Changed)
}

pub(super) fn delete(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = existing(directory, command)?;
    directory.unseat_role(name);
    let clients: Vec<Arc<str>> = directory
        .clients
        .iter()
        .filter(|(_, client)| client.roles.iter().any(|ranked| *ranked.name == *name))
        .map(|(client, _)| Arc::clone(client))
        .collect();
    for client in &clients {
        if let Some(client) = directory.client_mut(client) {
            client.roles.retain(|ranked| *ranked.name != *name);
        }
    }
    for group in directory.groups.values_mut() {
        if group.roles.iter().any(|ranked| *ranked.name == *name) {
            Arc::make_mut(group).roles.retain(|ranked| *ranked.name != *name);
        }
    }
    directory.roles.remove(name);
    Ok(Done::Changed)
}

pub(super) fn modify(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = command.needed("rolename", NO_ROLENAME)?;
    let acls = acls(command)?;
    let role = directory.role_mut(name).ok_or("Role does not exist")?;
    modify_texts(&mut role.texts, command);
    let allows_wildcards = json::member(command.members, WILDCARDS).and_then(Value::as_bool);
    let mut is_another = acls.is_some();
    if let Some(acls) = acls {
        role.acls = acls.acls;
    }
    if let Some(allows_wildcards) = allows_wildcards {
        is_another |= role.allows_wildcards != allows_wildcards;
        role.allows_wildcards = allows_wildcards;
    }
    if is_another {
        directory.unseat_role(name);
    }
    Ok(Done::Changed)
}

pub(super) fn get(directory: &Directory, command: &Command<'_>) -> Outcome {
    let name = existing(directory, command)?;
    let role = directory.roles.get(name).ok_or(NOT_FOUND)?;
    Ok(Done::Data(json!({ "role": role.to_json(name) })))
}

pub(super) fn list(directory: &Directory, command: &Command<'_>) -> Outcome {
    Ok(command.list("roles", &directory.roles, |name, role| role.to_json(name)))
}

pub(super) fn add_acl(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let (name, kind, topic) = role_and_topic(directory, command)?;
    let acl = Acl {
        topic: topic.into(),
        priority: json::priority(command.members, 0),
        allow: json::boolean(command.members, "allow", false).unwrap_or(false),
    };
    if !directory.role_mut(name).ok_or(NOT_FOUND)?.add_acl(kind, acl) {
        return Err("ACL with this topic already exists");
    }
    directory.unseat_role(name);
    Ok(Done::Changed)
}

pub(super) fn remove_acl(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let (name, kind, topic) = role_and_topic(directory, command)?;
    if !directory.role_mut(name).ok_or(NOT_FOUND)?.remove_acl(kind, topic) {
        return Err("ACL not found");
    }
    directory.unseat_role(name);
    Ok(Done::Changed)
}

pub(super) fn set_defaults(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let entries = objects(command, "acls").ok_or("Missing/invalid actions array")?;
    for entry in entries {
        let (Ok(kind), Some(allow)) =
            (json::needed(entry, "acltype"), json::member(entry, "allow").and_then(Value::as_bool))
        else {
            continue;
        };
        let found = DEFAULTS.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind));
        if let Some((_, default)) = found {
            *default(&mut directory.defaults) = allow;
        }
    }
    Ok(Done::Changed)
}

pub(super) fn get_defaults(directory: &Directory) -> Done {
    let mut defaults = directory.defaults;
    let entry = |(name, default): &Default| json!({ "acltype": name, "allow": *default(&mut defaults) });
    let acls: Vec<_> = DEFAULTS.iter().map(entry).collect();
    Done::Data(json!({ "acls": acls }))
}

/// A default by its name.
type Default = (&'static str, fn(&mut RoleDefaults) -> &mut bool);

const DEFAULTS: [Default; 4] = [
    ("publishClientSend", |defaults| &mut defaults.publish),
    ("publishClientReceive", |defaults| &mut defaults.receive),
    ("subscribe", |defaults| &mut defaults.subscribe),
    ("unsubscribe", |defaults| &mut defaults.unsubscribe),
];

fn existing<'a>(directory: &Directory, command: &'a Command<'_>) -> Result<&'a str, &'static str> {
    let name = command.needed("rolename", NO_ROLENAME)?;
    if directory.roles.contains_key(name) { Ok(name) } else { Err(NOT_FOUND) }
}

fn role_and_topic<'a>(
    directory: &Directory,
    command: &'a Command<'_>,
) -> Result<(&'a str, AclType, &'a str), &'static str> {
    let name = existing(directory, command)?;
    let kind = command.needed("acltype", "Invalid/missing acltype")?;
    let kind = AclType::find(kind).ok_or("Unknown acltype")?;
    let topic = command.needed("topic", "Invalid/missing topic")?;
    if !kind.takes(topic) {
        return Err("Invalid ACL topic");
    }
    Ok((name, kind, topic))
}

/// Reads the rules of a role; None if there is no list. What is no rule in it is passed over as by Mosquitto, but a topic that
/// could never be asked for is an error: a rule that denies must not be lost.
fn acls(command: &Command<'_>) -> Result<Option<Role>, &'static str> {
    let Some(entries) = objects(command, "acls") else { return Ok(None) };
    let mut role = Role::default();
    for entry in entries {
        let kind = json::needed(entry, "acltype").ok().and_then(AclType::find);
        let (Some(kind), Ok(topic)) = (kind, json::needed(entry, "topic")) else { continue };
        if !kind.takes(topic) {
            return Err("Invalid ACL topic");
        }
        let allow = json::boolean(entry, "allow", false).unwrap_or(false);
        // The first of two for one topic counts.
        role.add_acl(kind, Acl { topic: topic.into(), priority: json::priority(entry, 0), allow });
    }
    Ok(Some(role))
}
