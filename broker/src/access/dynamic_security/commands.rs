//! The commands of `$CONTROL/dynamic-security/v1`: what arrives in JSON, and the answers with Mosquitto's words.
//!
//! Invariant: a command that is answered with an error has changed nothing, and all answers to one message are bounded in bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::directory::{Directory, Ranked, rank};
use super::file::NO_PRIORITY;
use super::json::{self, Object, WrongType};
use super::{clients, groups, roles};
use crate::access::password::{PasswordHash, Scheme};

/// What a command is answered with that is no command.
pub(in crate::access) const NO_COMMAND: &str = "Unknown command";
/// What Mosquitto 2.0 checks too.
pub(super) const SCHEME: Scheme = Scheme::Pbkdf2 { iterations: None };
pub(super) const INTERNAL_ERROR: &str = "Internal error";
/// What the data of all answers to one message may have; what asks for more is answered with an error.
const DATA_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Who can say where a client is connected from.
pub(super) type Peers<'a> = &'a dyn Fn(&Arc<str>) -> Vec<Box<str>>;

/// What a command that went well comes to.
pub(in crate::access) enum Done {
    /// Something has changed.
    Changed,
    /// This was asked for.
    Data(Value),
}

/// What becomes of a command; an error is told in Mosquitto's words.
pub(in crate::access) type Outcome = Result<Done, &'static str>;

/// A command, and what it says.
pub(super) struct Command<'a> {
    pub(super) members: &'a Object,
    pub(super) peers: Peers<'a>,
    /// Where it stands in its message.
    number: usize,
    hashes: &'a Hashes,
}

/// The hashes of the passwords in one message, by the numbers of their commands. Each takes its time and is made once, however often
/// the message has to be carried out.
#[derive(Default)]
pub(in crate::access) struct Hashes(RefCell<BTreeMap<usize, Arc<PasswordHash>>>);

/// The answers to what arrived in one message.
pub(in crate::access) struct Answers {
    answers: Vec<Answer>,
}

struct Answer {
    command: String,
    correlation: Option<String>,
    outcome: Outcome,
}

/// Carries commands out. To do so once more with the same `hashes`, because the directory has become another, takes no hash.
pub(in crate::access) fn carry_out(
    directory: &mut Directory,
    payload: &[u8],
    hashes: &Hashes,
    peers: Peers<'_>,
) -> Answers {
    answer_each(payload, |number, name, members| {
        let outcome = perform(directory, name, &Command { members, peers, number, hashes });
        if let Ok(Done::Changed) = outcome {
            directory.change_index += 1;
        }
        outcome
    })
}

/// Takes a message apart into its commands, each a number, a name and what it says.
pub(in crate::access) fn answer_each(
    payload: &[u8],
    mut perform: impl FnMut(usize, &str, &Object) -> Outcome,
) -> Answers {
    let refused = |error| Answers { answers: vec![Answer::refusal(error)] };
    let Ok(whole) = serde_json::from_slice::<Value>(payload) else {
        return refused("Payload not valid JSON");
    };
    let commands = whole.as_object().and_then(|whole| json::list(whole, "commands").ok().flatten());
    let Some(commands) = commands else { return refused("Invalid/missing commands") };
    let mut bytes = 0;
    let mut bounded = |number: usize, name: &str, members: &Object| {
        if bytes > DATA_BYTES_MAX {
            return Err(INTERNAL_ERROR);
        }
        let outcome = perform(number, name, members)?;
        if let Done::Data(data) = &outcome {
            bytes = length_of(data).saturating_add(bytes);
        }
        if bytes > DATA_BYTES_MAX { Err(INTERNAL_ERROR) } else { Ok(outcome) }
    };
    let answer = |(number, command)| one(command, &mut |name, members| bounded(number, name, members));
    Answers { answers: commands.iter().enumerate().map(answer).collect() }
}

/// Returns how long a value is when it is written.
fn length_of(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    match serde_json::to_writer(&mut counter, value) {
        Ok(()) => counter.0,
        Err(_) => usize::MAX,
    }
}

fn one(command: &Value, perform: &mut dyn FnMut(&str, &Object) -> Outcome) -> Answer {
    let Some(members) = command.as_object() else { return Answer::refusal("Command not an object") };
    let Ok(name) = json::needed(members, "command") else { return Answer::refusal("Missing command") };
    let Ok(correlation) = json::text(members, "correlationData") else {
        let outcome = Err("Invalid correlationData data type.");
        return Answer { command: name.to_owned(), correlation: None, outcome };
    };
    let outcome = perform(name, members);
    Answer { command: name.to_owned(), correlation: correlation.map(str::to_owned), outcome }
}

fn perform(directory: &mut Directory, name: &str, command: &Command<'_>) -> Outcome {
    match name {
        "createClient" => clients::create(directory, command),
        "deleteClient" => clients::delete(directory, command),
        "enableClient" => clients::set_disabled(directory, command, false),
        "disableClient" => clients::set_disabled(directory, command, true),
        "setClientId" => clients::set_client_id(directory, command),
        "setClientPassword" => clients::set_password(directory, command),
        "modifyClient" => clients::modify(directory, command),
        "getClient" => clients::get(directory, command),
        "listClients" => clients::list(directory, command),
        "addClientRole" => clients::add_role(directory, command),
        "removeClientRole" => clients::remove_role(directory, command),
        "createGroup" => groups::create(directory, command),
        "deleteGroup" => groups::delete(directory, command),
        "modifyGroup" => groups::modify(directory, command),
        "getGroup" => groups::get(directory, command),
        "listGroups" => groups::list(directory, command),
        "addGroupRole" => groups::add_role(directory, command),
        "removeGroupRole" => groups::remove_role(directory, command),
        "addGroupClient" => groups::add_client(directory, command),
        "removeGroupClient" => groups::remove_client(directory, command),
        "setAnonymousGroup" => groups::set_anonymous(directory, command),
        "getAnonymousGroup" => Ok(groups::get_anonymous(directory)),
        "createRole" => roles::create(directory, command),
        "deleteRole" => roles::delete(directory, command),
        "modifyRole" => roles::modify(directory, command),
        "getRole" => roles::get(directory, command),
        "listRoles" => roles::list(directory, command),
        "addRoleACL" => roles::add_acl(directory, command),
        "removeRoleACL" => roles::remove_acl(directory, command),
        "setDefaultACLAccess" => roles::set_defaults(directory, command),
        "getDefaultACLAccess" => Ok(roles::get_defaults(directory)),
        "getDetails" => Ok(details(directory)),
        _ => Err(NO_COMMAND),
    }
}

fn details(directory: &Directory) -> Done {
    Done::Data(json!({
        "clientCount": directory.clients.len(),
        "groupCount": directory.groups.len(),
        "roleCount": directory.roles.len(),
        "changeIndex": directory.change_index,
    }))
}

impl Command<'_> {
    /// Returns the hash of its password.
    pub(super) fn hash(&self, password: &str) -> Result<Arc<PasswordHash>, &'static str> {
        let mut known = self.hashes.0.borrow_mut();
        if let Some(hash) = known.get(&self.number) {
            return Ok(Arc::clone(hash));
        }
        let hash = PasswordHash::make(SCHEME, password.as_bytes()).map_err(|_| INTERNAL_ERROR)?;
        Ok(Arc::clone(known.entry(self.number).or_insert(Arc::new(hash))))
    }

    /// Returns a text that has to be there.
    pub(super) fn needed(&self, name: &str, error: &'static str) -> Result<&str, &'static str> {
        let text = json::needed(self.members, name).map_err(|WrongType| error)?;
        check_characters(name, text).map(|()| text)
    }

    /// Returns a text that may be there.
    pub(super) fn text(&self, name: &str, error: &'static str) -> Result<Option<&str>, &'static str> {
        let text = json::text(self.members, name).map_err(|WrongType| error)?;
        text.map_or(Ok(()), |text| check_characters(name, text)).map(|()| text)
    }

    /// Returns a text if there is one; anything else stands for none.
    pub(super) fn text_if_any(&self, name: &str) -> Option<&str> {
        json::needed(self.members, name).ok()
    }

    /// Returns the roles that are listed; None if there is no list.
    pub(super) fn roles(&self, directory: &Directory) -> Result<Option<Vec<Ranked>>, RolesError> {
        let Some(elements) = json::list(self.members, "roles").map_err(|WrongType| RolesError::Malformed)?
        else {
            return Ok(None);
        };
        let mut roles = Vec::new();
        for element in elements {
            let entry = element.as_object().ok_or(RolesError::Malformed)?;
            let name = json::needed(entry, "rolename").map_err(|WrongType| RolesError::Malformed)?;
            let (name, _) = directory.roles.get_key_value(name).ok_or(RolesError::NotFound)?;
            let priority = json::priority(entry, NO_PRIORITY);
            // The first of two with one name counts.
            rank(&mut roles, Ranked { name: Arc::clone(name), priority });
        }
        Ok(Some(roles))
    }

    /// Lists names, or what each stands for with `verbose`, from `offset` on and at most `count`.
    pub(super) fn list<T>(
        &self,
        what: &str,
        all: &BTreeMap<Arc<str>, T>,
        describe: impl Fn(&Arc<str>, &T) -> Value,
    ) -> Done {
        let number = |name: &str| json::integer(self.members, name);
        let offset = usize::try_from(number("offset").unwrap_or(0)).unwrap_or(0);
        // Mosquitto takes 0 for 1.
        let count = number("count").and_then(|count| usize::try_from(count).ok());
        let count = count.map_or(usize::MAX, |count| count.max(1));
        let is_verbose = json::boolean(self.members, "verbose", false).unwrap_or(false);
        let entries = all.iter().skip(offset).take(count).map(|(name, entry)| match is_verbose {
            true => describe(name, entry),
            false => Value::from(&**name),
        });
        let entries: Value = entries.collect();
        Done::Data(json!({ "totalCount": all.len(), what: entries }))
    }
}

/// What is wrong with a list of roles.
#[derive(Clone, Copy)]
pub(super) enum RolesError {
    NotFound,
    Malformed,
}

impl RolesError {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Role not found",
            Self::Malformed => "'roles' not an array or missing/invalid rolename",
        }
    }
}

impl Answer {
    fn refusal(error: &'static str) -> Self {
        Self { command: NO_COMMAND.to_owned(), correlation: None, outcome: Err(error) }
    }
}

impl Answers {
    /// Tells whether anything has changed.
    pub(in crate::access) fn have_changes(&self) -> bool {
        self.answers.iter().any(|answer| matches!(answer.outcome, Ok(Done::Changed)))
    }

    /// Takes back that changes were made: they could not be kept.
    pub(in crate::access) fn disown_changes(&mut self) {
        for answer in &mut self.answers {
            if matches!(answer.outcome, Ok(Done::Changed)) {
                answer.outcome = Err(INTERNAL_ERROR);
            }
        }
    }

    /// Lists the commands with what became of them, for the log.
    pub(in crate::access) fn summary(&self) -> impl Iterator<Item = (&str, Option<&'static str>)> {
        self.answers.iter().map(|answer| (answer.command.as_str(), answer.outcome.as_ref().err().copied()))
    }

    /// Returns what is published.
    pub(in crate::access) fn into_payload(self) -> Vec<u8> {
        let answer = |answer: Answer| {
            let mut entry = Object::new();
            entry.insert("command".into(), answer.command.into());
            match answer.outcome {
                Ok(Done::Changed) => {}
                Ok(Done::Data(data)) => {
                    entry.insert("data".into(), data);
                }
                Err(error) => {
                    entry.insert("error".into(), error.into());
                }
            }
            if let Some(correlation) = answer.correlation {
                entry.insert("correlationData".into(), correlation.into());
            }
            Value::Object(entry)
        };
        let responses: Value = self.answers.into_iter().map(answer).collect();
        json!({ "responses": responses }).to_string().into_bytes()
    }
}

/// Refuses names and topics with characters that MQTT advises against and Mosquitto takes from no client (MQTT 5.0 section 1.5.4):
/// nobody could ever come under such a name.
fn check_characters(member: &str, text: &str) -> Result<(), &'static str> {
    let error = match member {
        "username" => "Username not valid UTF-8",
        "clientid" => "Client ID not valid UTF-8",
        "groupname" => "Group name not valid UTF-8",
        "rolename" => "Role name not valid UTF-8",
        "topic" => "Topic not valid UTF-8",
        _ => return Ok(()),
    };
    let is_no_character = |letter: char| {
        matches!(u32::from(letter) & 0xFFFF, 0xFFFE | 0xFFFF) || ('\u{FDD0}'..='\u{FDEF}').contains(&letter)
    };
    if text.chars().any(|letter| letter.is_control() || is_no_character(letter)) {
        Err(error)
    } else {
        Ok(())
    }
}
