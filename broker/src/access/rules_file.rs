//! Our own ACL files: roles, groups and users in TOML. Mosquitto's are read in `acl_file`.
//!
//! What denies goes before what allows, wherever either stands, and what nothing allows is denied. Invariant: a key, role or
//! filter that is not understood is an error, never passed over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use veilmq_config::AclSubscribe;
use veilmq_core::{Actions, Rule, RuleEffect, RuleStage, Rules, Subject, Template};

use super::acl_file;
use super::password_file::read_bytes;
use crate::files::FileError;

/// Why an ACL file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesFileError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not UTF-8.
    #[error("{}: it is not UTF-8", .0.display())]
    NotText(PathBuf),
    /// A line is malformed.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

impl RulesFileError {
    /// Returns the file.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(error) => error.path(),
            Self::NotText(path) | Self::Line { path, .. } => path,
        }
    }
}

/// Reads the rules of one file, ours or Mosquitto's; None if neither is named.
///
/// # Errors
/// [`RulesFileError`].
pub(super) fn read(
    file: Option<&PathBuf>,
    mosquitto_file: Option<&PathBuf>,
    subscribe: AclSubscribe,
) -> Result<Option<Rules>, RulesFileError> {
    let (path, parse): (_, fn(&Path, &str) -> _) = match (file, mosquitto_file) {
        (Some(path), _) => (path, parse),
        (None, Some(path)) => (path, acl_file::parse),
        (None, None) => return Ok(None),
    };
    let bytes = read_bytes(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| RulesFileError::NotText(path.clone()))?;
    let stages: Vec<RuleStage> = parse(path, text)?;
    Ok(Some(Rules::new(stages, subscribe == AclSubscribe::Strict)))
}

/// A file of rules.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    everyone: Holder,
    #[serde(default)]
    anonymous: Holder,
    #[serde(default)]
    roles: BTreeMap<String, Topics>,
    #[serde(default)]
    groups: BTreeMap<String, Group>,
    #[serde(default)]
    users: BTreeMap<String, Holder>,
}

/// What a role allows and denies.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Topics {
    publish: Vec<Spanned<String>>,
    subscribe: Vec<Spanned<String>>,
    deny_publish: Vec<Spanned<String>>,
    deny_subscribe: Vec<Spanned<String>>,
}

/// Those whom something is allowed or denied directly or by roles.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Holder {
    roles: Vec<Spanned<String>>,
    publish: Vec<Spanned<String>>,
    subscribe: Vec<Spanned<String>>,
    deny_publish: Vec<Spanned<String>>,
    deny_subscribe: Vec<Spanned<String>>,
}

/// Users with the same roles.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    users: Vec<String>,
    roles: Vec<Spanned<String>>,
}

/// Where something stands in the file, for errors.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn fault(&self, at: usize, what: impl Into<String>) -> RulesFileError {
        let before = self.text.get(..at).unwrap_or(self.text);
        RulesFileError::Line {
            path: self.path.into(),
            line: before.matches('\n').count() + 1,
            what: what.into(),
        }
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<RuleStage>, RulesFileError> {
    let place = Place { path, text };
    let document: Document = toml::from_str(text)
        .map_err(|error| place.fault(error.span().map_or(0, |span| span.start), error.message()))?;
    let mut roles = BTreeMap::new();
    for (name, topics) in document.roles {
        roles.insert(name, topics.rules(&place)?);
    }
    let mut stage = RuleStage::default();
    let mut add = |subject: &Subject,
                   names: &[Spanned<String>],
                   own: Vec<(Actions, RuleEffect, Template)>| {
        let mut rules = own;
        for name in names {
            let unknown = || place.fault(name.span().start, format!("there is no role {:?}", name.get_ref()));
            rules.extend(roles.get(name.get_ref()).ok_or_else(unknown)?.iter().cloned());
        }
        let rule = |(actions, effect, filter)| Rule { subject: subject.clone(), effect, actions, filter };
        stage.rules.extend(rules.into_iter().map(rule));
        Ok::<_, RulesFileError>(())
    };
    let user = |name: &str| Subject::User(Arc::from(name));
    let named = document.users.into_iter().map(|(name, holder)| (user(&name), holder));
    let all = [(Subject::Everyone, document.everyone), (Subject::Anonymous, document.anonymous)];
    for (subject, holder) in all.into_iter().chain(named) {
        let (names, topics) = holder.into_parts();
        add(&subject, &names, topics.rules(&place)?)?;
    }
    for group in document.groups.values() {
        for name in &group.users {
            add(&user(name), &group.roles, Vec::new())?;
        }
    }
    Ok(vec![stage])
}

impl Holder {
    fn into_parts(self) -> (Vec<Spanned<String>>, Topics) {
        let Self { roles, publish, subscribe, deny_publish, deny_subscribe } = self;
        (roles, Topics { publish, subscribe, deny_publish, deny_subscribe })
    }
}

impl Topics {
    fn rules(self, place: &Place<'_>) -> Result<Vec<(Actions, RuleEffect, Template)>, RulesFileError> {
        let publish = Actions { publish: true, receive: false };
        let receive = Actions { publish: false, receive: true };
        let mut rules = Vec::new();
        for (filters, actions, effect) in [
            (self.publish, publish, RuleEffect::Allow),
            (self.subscribe, receive, RuleEffect::Allow),
            (self.deny_publish, publish, RuleEffect::Deny),
            (self.deny_subscribe, receive, RuleEffect::Deny),
        ] {
            for filter in filters {
                let fault = |error| {
                    place
                        .fault(filter.span().start, format!("{:?} cannot be used: {error}", filter.get_ref()))
                };
                rules.push((actions, effect, Template::new(filter.get_ref()).map_err(fault)?));
            }
        }
        Ok(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Vec<RuleStage>, String> {
        parse(Path::new("acl.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn roles_come_to_users_directly_and_through_groups() {
        let text = r#"
            [everyone]
            subscribe = ["news/#"]
            [anonymous]
            deny_subscribe = ["news/secret"]
            [roles.meter]
            publish = ["meters/%u/#"]
            [groups.plant]
            users = ["ann", "bob"]
            roles = ["meter"]
            [users.ann]
            deny_publish = ["meters/ann/raw"]
        "#;

        let stages = parse_text(text).unwrap();

        let publish = Actions { publish: true, receive: false };
        let receive = Actions { publish: false, receive: true };
        let rule = |subject, effect, actions, filter: &str| Rule {
            subject,
            effect,
            actions,
            filter: Template::new(filter).unwrap(),
        };
        let user = |name: &str| Subject::User(name.into());
        assert_eq!(
            stages[0].rules,
            [
                rule(Subject::Everyone, RuleEffect::Allow, receive, "news/#"),
                rule(Subject::Anonymous, RuleEffect::Deny, receive, "news/secret"),
                rule(user("ann"), RuleEffect::Deny, publish, "meters/ann/raw"),
                rule(user("ann"), RuleEffect::Allow, publish, "meters/%u/#"),
                rule(user("bob"), RuleEffect::Allow, publish, "meters/%u/#"),
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_names_file_and_line() {
        // [B09]
        for (text, line, what) in [
            ("[everyone]\npublsh = [\"a\"]", 2, "publsh"),
            ("[users.ann]\nroles = [\n\"admin\"]", 3, "there is no role \"admin\""),
            ("[everyone]\npublish = [\"a\",\n \"b/#/c\"]", 3, "\"b/#/c\" cannot be used"),
            ("[everyone]\n\nsubscribe = \"a\"", 3, "invalid type"),
            ("[groups.x]\nusers = []", 1, "roles"),
            ("everyone = ", 1, ""),
        ] {
            let error = parse_text(text).err().unwrap_or_else(|| panic!("{text} was taken"));

            assert!(error.starts_with(&format!("acl.toml:{line}: ")), "{text}: {error}");
            assert!(error.contains(what), "{text}: {error}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
    }
}
