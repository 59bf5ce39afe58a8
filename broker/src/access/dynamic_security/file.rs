//! `dynamic-security.json`, as Mosquitto 2.0 and 2.1 write it.
//!
//! What is not understood of an entry is an error that names its place; members with names we do not know are kept. Invariant: a
//! file that was written holds all of one directory, and one of Mosquitto 2.0 that holds no newer hash is read by it again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use veilmq_core::RoleDefaults;

use super::directory::{Acl, AclType, Client, Directory, Group, Ranked, Role, Texts, new_seat, rank};
use super::json::{self, Object, WrongType};
use crate::access::password::{PasswordHash, PasswordHashError};
use crate::access::password_file::read_bytes;
use crate::files::{self, FileError};

/// The priority of a role or group that names none; it is then not written either.
pub(super) const NO_PRIORITY: i32 = -1;

/// Why a file of dynamic security cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DynamicSecurityError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not JSON.
    #[error("{}:{line}: it is not JSON: {what}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// An entry is malformed.
    #[error("{}: {place}: {what}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        place: String,
        /// What is wrong with it; without what it says.
        what: String,
    },
    /// It does not exist, and the password to make it with is too short.
    #[error("{} does not exist, and {variable} in the environment has less than {bytes_min} bytes", path.display())]
    ShortPassword {
        /// The file that is to be made.
        path: PathBuf,
        /// Where the password is.
        variable: &'static str,
        /// How long it has to be, in bytes.
        bytes_min: usize,
    },
    /// The password to make the file with is empty.
    #[error("{}: the first line, a password, is empty", path.display())]
    NoPassword {
        /// The file with the password.
        path: PathBuf,
    },
    /// The password to make the file with cannot be hashed.
    #[error("the first password cannot be used: {0}")]
    Hash(#[from] PasswordHashError),
    /// The system gave no randomness.
    #[error("no randomness for the first passwords: {0}")]
    Randomness(getrandom::Error),
}

impl DynamicSecurityError {
    /// Returns the file at fault.
    pub(in crate::access) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.path()),
            Self::Syntax { path, .. }
            | Self::Entry { path, .. }
            | Self::ShortPassword { path, .. }
            | Self::NoPassword { path } => Some(path),
            Self::Hash(_) | Self::Randomness(_) => None,
        }
    }
}

/// An entry that is malformed.
struct Fault {
    place: String,
    what: String,
}

impl Fault {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

impl Directory {
    /// Reads a file.
    ///
    /// # Errors
    /// [`DynamicSecurityError`], naming the place.
    pub(in crate::access) fn read(path: &Path) -> Result<Self, DynamicSecurityError> {
        let bytes = read_bytes(path)?;
        files::warn_if_exposed(path);
        let whole: Value = serde_json::from_slice(&bytes).map_err(|error| DynamicSecurityError::Syntax {
            path: path.into(),
            line: error.line(),
            what: error.to_string(),
        })?;
        parse_whole(path, &whole)
    }

    /// Writes a file, whole or not at all, with the mode of the one it replaces.
    ///
    /// # Errors
    /// [`FileError`].
    pub(in crate::access) fn write(&self, path: &Path) -> Result<(), FileError> {
        let mode = fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
        // A link leads to the file that is meant, and stays one.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let text = zeroize::Zeroizing::new(format!("{:#}\n", self.to_json()));
        files::write(&target, text.as_bytes(), mode)
    }
}

/// Reads what is to be, or is, the content of a file.
pub(super) fn parse_whole(path: &Path, whole: &Value) -> Result<Directory, DynamicSecurityError> {
    parse(whole).map_err(|Fault { place, what }| DynamicSecurityError::Entry {
        path: path.into(),
        place,
        what,
    })
}

fn parse(whole: &Value) -> Result<Directory, Fault> {
    let whole = object(whole, "the file")?;
    let mut directory = Directory {
        defaults: defaults(whole)?,
        change_index: json::integer(whole, "changeIndex").unwrap_or_default(),
        anonymous_seat: new_seat(),
        other: json::others(
            whole,
            &["defaultACLAccess", "clients", "groups", "roles", "anonymousGroup", "changeIndex"],
        ),
        ..Directory::default()
    };
    for (place, entry) in entries(whole, "roles", "roles")? {
        let name = name(entry, &place, "rolename")?;
        let role = parse_role(entry, &place)?;
        if directory.roles.insert(name, Arc::new(role)).is_some() {
            return Err(Fault::new(place, "there is another role with this name"));
        }
    }
    for (place, entry) in entries(whole, "clients", "clients")? {
        let name = name(entry, &place, "username")?;
        let client = parse_client(entry, &place, &directory)?;
        if directory.clients.insert(name, Arc::new(client)).is_some() {
            return Err(Fault::new(place, "there is another client with this name"));
        }
    }
    for (place, entry) in entries(whole, "groups", "groups")? {
        parse_group(entry, &place, &mut directory)?;
    }
    if let Some(name) = expect(json::text(whole, "anonymousGroup"), "anonymousGroup", "a text")?
        && !name.is_empty()
    {
        let known = directory.groups.get_key_value(name).map(|(name, _)| Arc::clone(name));
        let group = known.ok_or_else(|| Fault::new("anonymousGroup", "there is no such group"))?;
        directory.anonymous_group = Some(group);
    }
    Ok(directory)
}

fn defaults(whole: &Object) -> Result<RoleDefaults, Fault> {
    const PLACE: &str = "defaultACLAccess";
    let Some(value) = json::member(whole, PLACE) else { return Ok(RoleDefaults::default()) };
    let entry = object(value, PLACE)?;
    let read = |name| expect(json::boolean(entry, name, false), &format!("{PLACE}.{name}"), "true or false");
    Ok(RoleDefaults {
        publish: read("publishClientSend")?,
        receive: read("publishClientReceive")?,
        subscribe: read("subscribe")?,
        unsubscribe: read("unsubscribe")?,
    })
}

fn parse_client(entry: &Object, place: &str, directory: &Directory) -> Result<Client, Fault> {
    let read = |name: &str| expect(json::text(entry, name), &format!("{place}.{name}"), "a text");
    let client_id = read("clientid")?.filter(|text| !text.is_empty()).map(Arc::from);
    let password = match (read("encoded_password")?, read("password")?, read("salt")?) {
        (Some(encoded), _, _) => Some(encoded.to_owned()),
        (None, Some(password), Some(salt)) => {
            let iterations = json::integer(entry, "iterations").unwrap_or_default();
            Some(format!("$7${iterations}${salt}${password}"))
        }
        (None, _, _) => None,
    };
    let parse = |text: String| {
        PasswordHash::parse(&text).map_err(|error| Fault::new(format!("{place}.password"), error.to_string()))
    };
    Ok(Client {
        client_id,
        texts: parse_texts(entry, place)?,
        is_disabled: expect(
            json::boolean(entry, "disabled", false),
            &format!("{place}.disabled"),
            "true or false",
        )?,
        password: password.map(parse).transpose()?.map(Arc::new),
        roles: parse_roles(entry, place, directory)?,
        groups: Vec::new(),
        seat: new_seat(),
        other: json::others(
            entry,
            &[
                "username",
                "clientid",
                "textname",
                "textdescription",
                "disabled",
                "encoded_password",
                "password",
                "salt",
                "iterations",
                "roles",
                // What is in groups stands with the groups.
                "groups",
            ],
        ),
    })
}

fn parse_group(entry: &Object, place: &str, directory: &mut Directory) -> Result<(), Fault> {
    let name = name(entry, place, "groupname")?;
    let group = Group {
        texts: parse_texts(entry, place)?,
        roles: parse_roles(entry, place, directory)?,
        clients: Default::default(),
        other: json::others(entry, &["groupname", "textname", "textdescription", "roles", "clients"]),
    };
    if directory.groups.insert(Arc::clone(&name), Arc::new(group)).is_some() {
        return Err(Fault::new(place, "there is another group with this name"));
    }
    for (place, member) in entries(entry, "clients", &format!("{place}.clients"))? {
        let client = expect(json::needed(member, "username"), &format!("{place}.username"), "a text")?;
        if !directory.clients.contains_key(client) {
            return Err(Fault::new(place, "there is no such client"));
        }
        if !directory.join(client, &name, json::priority(member, NO_PRIORITY)) {
            return Err(Fault::new(place, "the client is in this group already"));
        }
    }
    Ok(())
}

fn parse_role(entry: &Object, place: &str) -> Result<Role, Fault> {
    let wildcards = format!("{place}.allowwildcardsubs");
    let mut role = Role {
        texts: parse_texts(entry, place)?,
        allows_wildcards: expect(
            json::boolean(entry, "allowwildcardsubs", true),
            &wildcards,
            "true or false",
        )?,
        acls: Default::default(),
        other: json::others(entry, &["rolename", "textname", "textdescription", "allowwildcardsubs", "acls"]),
    };
    for (place, acl) in entries(entry, "acls", &format!("{place}.acls"))? {
        let kind = json::needed(acl, "acltype").ok().and_then(AclType::find);
        let kind = kind.ok_or_else(|| Fault::new(format!("{place}.acltype"), "it is no type of rule"))?;
        let topic = expect(json::needed(acl, "topic"), &format!("{place}.topic"), "a text")?;
        if !kind.takes(topic) {
            return Err(Fault::new(format!("{place}.topic"), "it is not a Topic Filter"));
        }
        let allow = expect(json::boolean(acl, "allow", false), &format!("{place}.allow"), "true or false")?;
        let acl = Acl { topic: topic.into(), priority: json::priority(acl, 0), allow };
        if !role.add_acl(kind, acl) {
            return Err(Fault::new(place, "the role has another rule of this type for this topic"));
        }
    }
    Ok(role)
}

fn parse_texts(entry: &Object, place: &str) -> Result<Texts, Fault> {
    let read = |name: &str| {
        expect(json::text(entry, name), &format!("{place}.{name}"), "a text")
            .map(|text| text.map(str::to_owned))
    };
    Ok(Texts { name: read("textname")?, description: read("textdescription")? })
}

fn parse_roles(entry: &Object, place: &str, directory: &Directory) -> Result<Vec<Ranked>, Fault> {
    let mut roles = Vec::new();
    for (place, role) in entries(entry, "roles", &format!("{place}.roles"))? {
        let name = expect(json::needed(role, "rolename"), &format!("{place}.rolename"), "a text")?;
        let known = directory.roles.get_key_value(name).map(|(name, _)| Arc::clone(name));
        let name = known.ok_or_else(|| Fault::new(&place, "there is no such role"))?;
        if !rank(&mut roles, Ranked { name, priority: json::priority(role, NO_PRIORITY) }) {
            return Err(Fault::new(place, "the role is there already"));
        }
    }
    Ok(roles)
}

fn entries<'a>(within: &'a Object, name: &str, place: &str) -> Result<Vec<(String, &'a Object)>, Fault> {
    let elements = expect(json::list(within, name), place, "a list")?.unwrap_or_default();
    let numbered = elements.iter().enumerate().map(|(index, element)| {
        let place = format!("{place}[{index}]");
        let entry = object(element, &place)?;
        Ok((place, entry))
    });
    numbered.collect()
}

fn name(entry: &Object, place: &str, member: &str) -> Result<Arc<str>, Fault> {
    let name = expect(json::needed(entry, member), &format!("{place}.{member}"), "a text")?;
    if name.is_empty() {
        return Err(Fault::new(format!("{place}.{member}"), "it is empty"));
    }
    Ok(name.into())
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Object, Fault> {
    value.as_object().ok_or_else(|| Fault::new(place, "it is no object"))
}

fn expect<T>(read: Result<T, WrongType>, place: &str, what: &str) -> Result<T, Fault> {
    read.map_err(|WrongType| Fault::new(place, format!("it is not {what}")))
}

impl Directory {
    fn to_json(&self) -> Value {
        let mut whole = self.other.clone();
        whole.insert("changeIndex".into(), self.change_index.into());
        whole.insert("defaultACLAccess".into(), self.defaults_to_json());
        whole.insert(
            "clients".into(),
            self.clients.iter().map(|(name, client)| client.to_json(name)).collect(),
        );
        whole.insert("groups".into(), self.groups.iter().map(|(name, group)| group.to_json(name)).collect());
        if let Some(group) = &self.anonymous_group {
            whole.insert("anonymousGroup".into(), (&**group).into());
        }
        whole.insert("roles".into(), self.roles.iter().map(|(name, role)| role.to_json(name)).collect());
        whole.into()
    }

    fn defaults_to_json(&self) -> Value {
        let RoleDefaults { publish, receive, subscribe, unsubscribe } = self.defaults;
        json!({
            "publishClientSend": publish,
            "publishClientReceive": receive,
            "subscribe": subscribe,
            "unsubscribe": unsubscribe,
        })
    }
}

impl Client {
    fn to_json(&self, name: &str) -> Value {
        let mut entry = self.other.clone();
        self.describe(name, &mut entry);
        if let Some(password) = &self.password {
            let text = zeroize::Zeroizing::new(password.to_string());
            match *text.split('$').collect::<Vec<_>>().as_slice() {
                // Mosquitto 2.0 knows no other form.
                ["", "7", iterations, salt, digest] => {
                    entry.insert("password".into(), digest.into());
                    entry.insert("salt".into(), salt.into());
                    entry.insert("iterations".into(), iterations.parse::<u32>().unwrap_or_default().into());
                }
                _ => {
                    entry.insert("encoded_password".into(), text.as_str().into());
                }
            }
        }
        entry.into()
    }

    /// Puts what anybody may know of it into an object.
    pub(super) fn describe(&self, name: &str, entry: &mut Object) {
        entry.insert("username".into(), name.into());
        if let Some(client_id) = &self.client_id {
            entry.insert("clientid".into(), (&**client_id).into());
        }
        self.texts.describe(entry);
        if self.is_disabled {
            entry.insert("disabled".into(), true.into());
        }
        entry.insert("roles".into(), ranked_to_json(&self.roles, "rolename"));
    }
}

impl Group {
    fn to_json(&self, name: &str) -> Value {
        let mut entry = self.other.clone();
        entry.insert("groupname".into(), name.into());
        self.texts.describe(&mut entry);
        entry.insert("roles".into(), ranked_to_json(&self.roles, "rolename"));
        let member = |(name, priority): (&Arc<str>, &i32)| ranked(name, *priority, "username");
        entry.insert("clients".into(), self.clients.iter().map(member).collect());
        entry.into()
    }
}

impl Role {
    /// Writes it for the file and for people alike.
    pub(super) fn to_json(&self, name: &str) -> Value {
        let mut entry = self.other.clone();
        entry.insert("rolename".into(), name.into());
        self.texts.describe(&mut entry);
        entry.insert("allowwildcardsubs".into(), self.allows_wildcards.into());
        let acl = |kind: AclType| {
            self.acls(kind).iter().map(move |acl| {
                json!({
                    "acltype": kind.name(),
                    "topic": &*acl.topic,
                    "priority": acl.priority,
                    "allow": acl.allow,
                })
            })
        };
        entry.insert("acls".into(), AclType::ALL.into_iter().flat_map(acl).collect());
        entry.into()
    }
}

impl Texts {
    pub(super) fn describe(&self, entry: &mut Object) {
        for (member, text) in [("textname", &self.name), ("textdescription", &self.description)] {
            if let Some(text) = text {
                entry.insert(member.into(), text.as_str().into());
            }
        }
    }
}

/// Writes a list of what one has.
pub(super) fn ranked_to_json(list: &[Ranked], member: &str) -> Value {
    list.iter().map(|entry| ranked(&entry.name, entry.priority, member)).collect()
}

fn ranked(name: &str, priority: i32, member: &str) -> Value {
    let mut entry = Object::new();
    entry.insert(member.into(), name.into());
    if priority != NO_PRIORITY {
        entry.insert("priority".into(), priority.into());
    }
    entry.into()
}
