//! Commands about clients.

use std::sync::Arc;

use serde_json::{Value, json};

use super::commands::{Command, Done, INTERNAL_ERROR, Outcome, RolesError};
use super::directory::{Client, Directory, Ranked, Texts, new_seat, rank};
use super::file::{NO_PRIORITY, ranked_to_json};
use super::json::{self, Object, WrongType};

pub(super) const NO_USERNAME: &str = "Invalid/missing username";
pub(super) const NOT_FOUND: &str = "Client not found";
const NO_ROLENAME: &str = "Invalid/missing rolename";
const ROLE_NOT_FOUND: &str = "Role not found";

pub(super) fn create(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = command.needed("username", NO_USERNAME)?;
    if name.is_empty() {
        return Err("Empty username");
    }
    let password = command.text("password", "Invalid/missing password")?;
    let client_id = command.text("clientid", "Invalid/missing client id")?;
    let texts = texts(command)?;
    if directory.clients.contains_key(name) {
        return Err("Client already exists");
    }
    let roles = command.roles(directory).map_err(RolesError::words)?.unwrap_or_default();
    let groups = groups_to_join(directory, command)?;
    let client = Client {
        client_id: client_id.filter(|text| !text.is_empty()).map(Arc::from),
        texts,
        password: password.filter(|text| !text.is_empty()).map(|text| command.hash(text)).transpose()?,
        roles,
        seat: new_seat(),
        ..Client::default()
    };
    directory.clients.insert(name.into(), Arc::new(client));
    for Ranked { name: group, priority } in groups {
        directory.join(name, &group, priority);
    }
    Ok(Done::Changed)
}

pub(super) fn delete(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = existing(directory, command)?;
    leave_all(directory, name);
    directory.clients.remove(name);
    Ok(Done::Changed)
}

pub(super) fn set_disabled(directory: &mut Directory, command: &Command<'_>, is_disabled: bool) -> Outcome {
    let name = existing(directory, command)?;
    let Some(client) = directory.client_mut(name) else { return Err(NOT_FOUND) };
    client.is_disabled = is_disabled;
    if is_disabled {
        client.seat = new_seat();
    }
    Ok(Done::Changed)
}

pub(super) fn set_client_id(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = command.needed("username", NO_USERNAME)?;
    let client_id = command.text("clientid", "Invalid/missing client ID")?;
    let client = directory.client_mut(name).ok_or(NOT_FOUND)?;
    client.client_id = client_id.filter(|text| !text.is_empty()).map(Arc::from);
    client.seat = new_seat();
    Ok(Done::Changed)
}

pub(super) fn set_password(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = command.needed("username", NO_USERNAME)?;
    let password = command.needed("password", "Invalid/missing password")?;
    if password.is_empty() {
        return Err("Empty password is not allowed");
    }
    let client = directory.client_mut(name).ok_or(NOT_FOUND)?;
    client.password = Some(command.hash(password)?);
    client.seat = new_seat();
    Ok(Done::Changed)
}

pub(super) fn modify(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let name = existing(directory, command)?;
    let roles = command.roles(directory).map_err(RolesError::words)?;
    let groups = groups_to_have(directory, command)?;
    let password = command.text_if_any("password").filter(|text| !text.is_empty());
    let password = password.map(|text| command.hash(text)).transpose()?;
    if let Some(groups) = groups {
        leave_all(directory, name);
        for Ranked { name: group, priority } in groups {
            directory.join(name, &group, priority);
        }
    }
    let client = directory.client_mut(name).ok_or(NOT_FOUND)?;
    if let Some(password) = password {
        client.password = Some(password);
    }
    if let Some(client_id) = command.text_if_any("clientid") {
        client.client_id = Some(client_id).filter(|text| !text.is_empty()).map(Arc::from);
    }
    modify_texts(&mut client.texts, command);
    if let Some(roles) = roles {
        client.roles = roles;
    }
    client.seat = new_seat();
    Ok(Done::Changed)
}

pub(super) fn get(directory: &Directory, command: &Command<'_>) -> Outcome {
    let name = existing(directory, command)?;
    let (name, client) = directory.clients.get_key_value(name).ok_or(NOT_FOUND)?;
    Ok(Done::Data(json!({ "client": describe(name, client, command) })))
}

pub(super) fn list(directory: &Directory, command: &Command<'_>) -> Outcome {
    let describe = |name: &Arc<str>, client: &Arc<Client>| describe(name, client, command);
    Ok(command.list("clients", &directory.clients, describe))
}

pub(super) fn add_role(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let (client, role) = (command.needed("username", NO_USERNAME)?, command.needed("rolename", NO_ROLENAME)?);
    if !directory.clients.contains_key(client) {
        return Err(NOT_FOUND);
    }
    let (role, _) = directory.roles.get_key_value(role).ok_or(ROLE_NOT_FOUND)?;
    let ranked = Ranked { name: Arc::clone(role), priority: json::priority(command.members, NO_PRIORITY) };
    let client = directory.client_mut(client).ok_or(NOT_FOUND)?;
    if !rank(&mut client.roles, ranked) {
        // Mosquitto says no more of it.
        return Err(INTERNAL_ERROR);
    }
    client.seat = new_seat();
    Ok(Done::Changed)
}

pub(super) fn remove_role(directory: &mut Directory, command: &Command<'_>) -> Outcome {
    let (client, role) = (command.needed("username", NO_USERNAME)?, command.needed("rolename", NO_ROLENAME)?);
    if !directory.clients.contains_key(client) {
        return Err(NOT_FOUND);
    }
    if !directory.roles.contains_key(role) {
        return Err(ROLE_NOT_FOUND);
    }
    let client = directory.client_mut(client).ok_or(NOT_FOUND)?;
    client.roles.retain(|ranked| *ranked.name != *role);
    client.seat = new_seat();
    Ok(Done::Changed)
}

/// Reads the words about something that is being created.
pub(super) fn texts(command: &Command<'_>) -> Result<Texts, &'static str> {
    let name = command.text("textname", "Invalid/missing textname")?;
    let description = command.text("textdescription", "Invalid/missing textdescription")?;
    Ok(Texts { name: name.map(str::to_owned), description: description.map(str::to_owned) })
}

/// Puts other words in place of those about something, as far as there are any.
pub(super) fn modify_texts(texts: &mut Texts, command: &Command<'_>) {
    if let Some(name) = command.text_if_any("textname") {
        texts.name = Some(name.to_owned());
    }
    if let Some(description) = command.text_if_any("textdescription") {
        texts.description = Some(description.to_owned());
    }
}

fn existing<'a>(directory: &Directory, command: &'a Command<'_>) -> Result<&'a str, &'static str> {
    let name = command.needed("username", NO_USERNAME)?;
    if directory.clients.contains_key(name) { Ok(name) } else { Err(NOT_FOUND) }
}

fn leave_all(directory: &mut Directory, client: &str) {
    let groups = directory.clients.get(client).map(|state| state.groups.clone()).unwrap_or_default();
    for Ranked { name: group, .. } in groups {
        directory.leave(client, &group);
    }
}

/// Reads the groups of a client that is being created; what is no list, or no group in it, is passed over as by Mosquitto.
fn groups_to_join(directory: &Directory, command: &Command<'_>) -> Result<Vec<Ranked>, &'static str> {
    let mut groups = Vec::new();
    for entry in objects(command, "groups").unwrap_or_default() {
        let Ok(name) = json::needed(entry, "groupname") else { continue };
        let (name, _) = directory.groups.get_key_value(name).ok_or("Group not found")?;
        let ranked = Ranked { name: Arc::clone(name), priority: json::priority(entry, NO_PRIORITY) };
        if !rank(&mut groups, ranked) {
            return Err(INTERNAL_ERROR);
        }
    }
    Ok(groups)
}

/// Reads the groups that a client is to be in from now on; None if there is no list.
fn groups_to_have(directory: &Directory, command: &Command<'_>) -> Result<Option<Vec<Ranked>>, &'static str> {
    let Some(entries) = objects(command, "groups") else { return Ok(None) };
    let mut groups = Vec::new();
    for entry in entries {
        let name = json::needed(entry, "groupname")
            .map_err(|WrongType| "'groups' contains an object with an invalid 'groupname'")?;
        let (name, _) = directory
            .groups
            .get_key_value(name)
            .ok_or("'groups' contains an object with a 'groupname' that does not exist")?;
        rank(&mut groups, Ranked { name: Arc::clone(name), priority: json::priority(entry, NO_PRIORITY) });
    }
    Ok(Some(groups))
}

/// Returns the objects of a list; None if there is no list.
pub(super) fn objects<'a>(command: &'a Command<'_>, name: &str) -> Option<Vec<&'a Object>> {
    let elements = json::list(command.members, name).ok()??;
    Some(elements.iter().filter_map(Value::as_object).collect())
}

fn describe(name: &Arc<str>, client: &Client, command: &Command<'_>) -> Value {
    let mut entry = Object::new();
    client.describe(name, &mut entry);
    entry.insert("groups".into(), ranked_to_json(&client.groups, "groupname"));
    let connections = (command.peers)(name).into_iter().map(|address| json!({ "address": &*address }));
    entry.insert("connections".into(), connections.collect());
    entry.into()
}
