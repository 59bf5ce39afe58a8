//! Commands about groups.

use std::sync::Arc;

use serde_json::{Value, json};

use super::clients::{self, modify_texts, objects, texts};
use super::commands::{Command, Done, INTERNAL_ERROR, Outcome, RolesError};
use super::directory::{Directory, Group, Ranked, rank};
use super::file::{NO_PRIORITY, ranked_to_json};
use super::json::{self, Object, WrongType};

const NO_GROUPNAME: &str = "Invalid/missing groupname";
const NOT_FOUND: &str = "Group not found";

pub(super) fn create(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = command.needed("groupname", NO_GROUPNAME)?;
    if name.is_empty() {
        return Err("Empty groupname");
    }
    let texts = texts(command)?;
    if directory.groups.contains_key(name) {
        return Err("Group already exists");
    }
    let roles = command.roles(directory).map_err(|error| match error {
        RolesError::NotFound => error.words(),
        // Mosquitto says no more of it.
        RolesError::Malformed => INTERNAL_ERROR,
    })?;
    let group = Group { texts, roles: roles.unwrap_or_default(), ..Group::default() };
    directory.groups.insert(name.into(), Arc::new(group));
    Ok(Done::Changed)
}

pub(super) fn delete(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = existing(directory, command)?;
    if directory.anonymous_group.as_deref() == Some(name) {
        return Err("Deleting the anonymous group is forbidden");
    }
    directory.unseat_group(name);
    leave_all(directory, name);
    directory.groups.remove(name);
    Ok(Done::Changed)
}

pub(super) fn modify(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = existing(directory, command)?;
    let roles = command.roles(directory).map_err(RolesError::words)?;
    if let Some(members) = members(directory, command)? {
        // Those who were in the group, and below those who are.
        directory.unseat_group(name);
        leave_all(directory, name);
        for Ranked { name: client, priority } in members {
            directory.join(&client, name, priority);
        }
    }
    let group = directory.group_mut(name).ok_or(NOT_FOUND)?;
    modify_texts(&mut group.texts, command);
    if let Some(roles) = roles {
        group.roles = roles;
    }
    directory.unseat_group(name);
    Ok(Done::Changed)
}

pub(super) fn get(directory: &Directory, command: &Command<'_>) -> Outcome {
    let name = existing(directory, command)?;
    let group = directory.groups.get(name).ok_or(NOT_FOUND)?;
    Ok(Done::Data(json!({ "group": describe(name, group) })))
}

pub(super) fn list(directory: &Directory, command: &Command<'_>) -> Outcome {
    Ok(command.list("groups", &directory.groups, |name, group| describe(name, group)))
}

pub(super) fn add_role(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let (name, role) = group_and_role(directory, command)?;
    let ranked = Ranked { name: role, priority: json::priority(command.members, NO_PRIORITY) };
    let group = directory.group_mut(name).ok_or(NOT_FOUND)?;
    if !rank(&mut group.roles, ranked) {
        return Err("Group is already in this role");
    }
    directory.unseat_group(name);
    Ok(Done::Changed)
}

pub(super) fn remove_role(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let (name, role) = group_and_role(directory, command)?;
    let group = directory.group_mut(name).ok_or(NOT_FOUND)?;
    group.roles.retain(|ranked| ranked.name != role);
    directory.unseat_group(name);
    Ok(Done::Changed)
}

pub(super) fn add_client(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let (client, group) = client_and_group(directory, command)?;
    if !directory.join(client, group, json::priority(command.members, NO_PRIORITY)) {
        return Err("Client is already in this group");
    }
    directory.unseat(client);
    Ok(Done::Changed)
}

pub(super) fn remove_client(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let (client, group) = client_and_group(directory, command)?;
    directory.leave(client, group);
    directory.unseat(client);
    Ok(Done::Changed)
}

pub(super) fn set_anonymous(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = existing(directory, command)?;
    let known = directory.groups.get_key_value(name).map(|(name, _)| Arc::clone(name));
    directory.anonymous_group = Some(known.ok_or(NOT_FOUND)?);
    directory.unseat_anonymous();
    Ok(Done::Changed)
}

pub(super) fn get_anonymous(directory: &Directory) -> Done {
    let name = directory.anonymous_group.as_deref().unwrap_or_default();
    Done::Data(json!({ "group": { "groupname": name } }))
}

fn existing<'a>(directory: &Directory, command: &'a Command<'_>) -> Result<&'a str, &'static str> {
    let name = command.needed("groupname", NO_GROUPNAME)?;
    if directory.groups.contains_key(name) { Ok(name) } else { Err(NOT_FOUND) }
}

fn group_and_role<'a>(
    directory: &Directory,
    command: &'a Command<'_>,
) -> Result<(&'a str, Arc<str>), &'static str> {
    let group = command.needed("groupname", NO_GROUPNAME)?;
    let role = command.needed("rolename", "Invalid/missing rolename")?;
    if !directory.groups.contains_key(group) {
        return Err(NOT_FOUND);
    }
    let (role, _) = directory.roles.get_key_value(role).ok_or("Role not found")?;
    Ok((group, Arc::clone(role)))
}

fn client_and_group<'a>(
    directory: &Directory,
    command: &'a Command<'_>,
) -> Result<(&'a str, &'a str), &'static str> {
    let client = command.needed("username", clients::NO_USERNAME)?;
    let group = command.needed("groupname", NO_GROUPNAME)?;
    if !directory.clients.contains_key(client) {
        return Err(clients::NOT_FOUND);
    }
    if !directory.groups.contains_key(group) {
        return Err(NOT_FOUND);
    }
    Ok((client, group))
}

fn leave_all(directory: &mut Directory, group: &str) {
    let members: Vec<Arc<str>> =
        directory.groups.get(group).map(|state| state.clients.keys().cloned().collect()).unwrap_or_default();
    for client in members {
        directory.leave(&client, group);
    }
}

/// Reads the clients that a group is to have from now on; None if there is no list.
fn members(directory: &Directory, command: &Command<'_>) -> Result<Option<Vec<Ranked>>, &'static str> {
    let Some(entries) = objects(command, "clients") else { return Ok(None) };
    let mut members = Vec::new();
    for entry in entries {
        let name = json::needed(entry, "username")
            .map_err(|WrongType| "'clients' contains an object with an invalid 'username'")?;
        let (name, _) = directory
            .clients
            .get_key_value(name)
            .ok_or("'clients' contains an object with a 'username' that does not exist")?;
        members.push(Ranked { name: Arc::clone(name), priority: json::priority(entry, NO_PRIORITY) });
    }
    Ok(Some(members))
}

fn describe(name: &str, group: &Group) -> Value {
    let mut entry = Object::new();
    entry.insert("groupname".into(), name.into());
    group.texts.describe(&mut entry);
    let client = |name: &Arc<str>| json!({ "username": &**name });
    entry.insert("clients".into(), group.clients.keys().map(client).collect());
    entry.insert("roles".into(), ranked_to_json(&group.roles, "rolename"));
    entry.into()
}
