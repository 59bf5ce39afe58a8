//! `veil acl compile`: rules and policies written with real names become rules and policies over the tokens of blind topics.
//!
//! The broker holds no topic key, so whoever does compiles what it enforces (VEIL-1 section 14). Owns what becomes of one filter.
//! Invariant: a filter that cannot be said in tokens is an error that names its line, never left out; nothing of the source but
//! what is compiled gets into the result, not even its comments.

mod mosquitto;
mod toml;

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand};
use veilmq_client::{
    TopicFilter,
    e2e::{Scope, overlaps},
};
use veilmq_protocol::veil::vmc::scope_covers;

use crate::{
    failure::Failure,
    topic::{Names, NamingKeys},
};

/// Topics of key distribution are never blind.
const DISTRIBUTION: &str = "_veil";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Write rules or policies for the broker with tokens in place of the levels of blind topics
    Compile(Compile),
}

#[derive(Args)]
pub(crate) struct Compile {
    /// A file of rules in Mosquitto's format, or in TOML (.toml), or a configuration with policies
    file: PathBuf,
    /// Topic filter of a blind scope; what is elsewhere stays as it is (repeatable)
    #[arg(long, value_name = "FILTER", default_value = "#")]
    scope: Vec<String>,
    #[command(flatten)]
    keys: NamingKeys,
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let Command::Compile(Compile { file, scope: scopes, keys }) = command;
    for scope in &scopes {
        Scope::new(scope).map_err(|error| Failure::new(format!("--scope {scope:?}: {error}")))?;
    }
    let names = keys.load()?;
    let shown = file.display();
    let text = fs::read_to_string(&file).map_err(|error| Failure::new(format!("{shown}: {error}")))?;
    let compiler = Compiler { names, scopes };
    let is_toml = file.extension().is_some_and(|extension| extension == "toml");
    let compiled =
        if is_toml { toml::compile(&text, &compiler) } else { mosquitto::compile(&text, &compiler) };
    let compiled =
        compiled.map_err(|Fault { line, what }| Failure::new(format!("{shown}:{line}: {what}")))?;
    let epochs: Vec<String> =
        compiler.names.epochs.iter().map(|epoch| format!("{:04x}", epoch & 0xFFFF)).collect();
    say!(
        "# Made by `veil acl compile` for names of epoch {}.\n{}",
        epochs.join(" and "),
        compiled.trim_end()
    );
    Ok(())
}

/// What cannot be compiled, and where it stands, counted from 1.
struct Fault {
    line: usize,
    what: String,
}

struct Compiler {
    names: Names,
    scopes: Vec<String>,
}

/// What a filter becomes, or a part of it.
struct Form {
    filter: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What is not blind.
    Plain,
    /// Topics of key distribution.
    Distribution,
    /// Names of this epoch.
    Blind(u32),
}

impl Compiler {
    /// Says in tokens what a filter says of blind topics, and keeps what it says of others. In a template `%u`, `%c` and
    /// fields of certificates stand for names that only the broker knows.
    fn forms(&self, filter: &str, is_template: bool) -> Result<Vec<Form>, String> {
        let parsed =
            TopicFilter::new(filter).map_err(|error| format!("{filter:?} cannot be used: {error}"))?;
        if parsed.shared().is_some() {
            return Err(format!(
                "{filter:?} names a group; a rule for the filter behind it holds for Shared Subscriptions too"
            ));
        }
        let plain = || Form { filter: filter.to_owned(), kind: Kind::Plain };
        if filter.starts_with('$') || filter.split('/').next() == Some(DISTRIBUTION) {
            return Ok(vec![plain()]);
        }
        let widest = if is_template { without_templates(filter) } else { filter.to_owned() };
        if !self.scopes.iter().any(|scope| overlaps(scope, &widest)) {
            return Ok(vec![plain()]);
        }
        if widest != filter {
            return Err(format!(
                "{filter:?} cannot be compiled: what `%u`, `%c` and fields of certificates stand for is known to the broker alone, and the tokens of it \
                 only to who has the topic key; write a rule for each name"
            ));
        }
        let mut forms = Vec::new();
        if !self.scopes.iter().any(|scope| scope_covers(scope, filter)) {
            forms.push(plain());
        } else if let Some(filter) = of_distribution(filter) {
            forms.push(Form { filter, kind: Kind::Distribution });
        }
        for epoch in &self.names.epochs {
            let wire = self.names.naming.filter_in(*epoch, parsed);
            let filter = wire.map_err(|error| format!("{filter:?} cannot be compiled: {error}"))?;
            forms.push(Form { filter, kind: Kind::Blind(*epoch) });
        }
        Ok(forms)
    }
}

/// A filter that matches whatever the template can match: a name can have any number of levels.
fn without_templates(template: &str) -> String {
    let mut levels = Vec::new();
    for level in template.split('/') {
        if ["%u", "%c", "%{"].iter().any(|name| level.contains(name)) {
            levels.push("#");
            break;
        }
        levels.push(level);
    }
    levels.join("/")
}

/// What a filter with a wildcard in front says of the topics of key distribution.
fn of_distribution(filter: &str) -> Option<String> {
    match filter.split_once('/') {
        None if filter == "#" => Some(format!("{DISTRIBUTION}/#")),
        Some(("+", rest)) => Some(format!("{DISTRIBUTION}/{rest}")),
        None | Some(_) => None,
    }
}
