//! Checks a TOML file against the table of options, key by key, so that every error has a line.
//!
//! Nothing is merged here: the text goes to the layering only after it passed.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Fault, Origin};
use crate::options::{OPTIONS, OptionSpec};
use crate::relations::Known;
use crate::unknown::unknown_key;
use crate::value::Given;

/// Checks every key and value of a configuration file and notes where each option is set.
///
/// # Errors
/// The first fault in alphabetical order of the keys, with its line.
pub(crate) fn check(path: &Path, text: &str, known: &mut Known) -> Result<(), ConfigError> {
    let file = File { path, text };
    let table = DeTable::parse(text).map_err(|error| {
        let origin = file.origin(error.span().map(|span| span.start));
        ConfigError::new(origin, Fault::Syntax { message: error.message().to_owned() })
    })?;
    file.check_table("", &[], table.get_ref(), known)
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    /// Checks a table; `place` says in which tables of lists it is.
    fn check_table(
        &self,
        prefix: &str,
        place: &[usize],
        table: &DeTable<'_>,
        known: &mut Known,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let origin = self.origin(Some(name.span().start));
            // A quoted name may contain what separates names elsewhere; no option has such a name.
            if name.get_ref().contains(['.', '[']) {
                return Err(unknown_key(origin, &format!("{prefix}{:?}", name.get_ref())));
            }
            self.check_key(&key, place, origin, value.get_ref(), known)?;
        }
        Ok(())
    }

    fn check_key(
        &self,
        key: &str,
        place: &[usize],
        origin: Origin,
        value: &DeValue<'_>,
        known: &mut Known,
    ) -> Result<(), ConfigError> {
        if let Some(spec) = OptionSpec::find(key) {
            return check_option(spec, place, origin, &Given::from_toml(value), known);
        }
        let section = format!("{key}.");
        let list = format!("{key}[].");
        if OPTIONS.iter().any(|spec| spec.key.starts_with(&section)) {
            let DeValue::Table(table) = value else {
                return Err(wrong_value(key, origin, &Given::from_toml(value), "a table"));
            };
            return self.check_table(&section, place, table, known);
        }
        if OPTIONS.iter().any(|spec| spec.key.starts_with(&list)) {
            return self.check_tables((key, &list), place, origin, value, known);
        }
        Err(unknown_key(origin, key))
    }

    fn check_tables(
        &self,
        (key, prefix): (&str, &str),
        place: &[usize],
        origin: Origin,
        value: &DeValue<'_>,
        known: &mut Known,
    ) -> Result<(), ConfigError> {
        let DeValue::Array(elements) = value else {
            return Err(wrong_value(key, origin, &Given::from_toml(value), "a list of tables"));
        };
        for (index, element) in elements.iter().enumerate() {
            let origin = self.origin(Some(element.span().start));
            let DeValue::Table(table) = element.get_ref() else {
                return Err(wrong_value(key, origin, &Given::from_toml(value), "a list of tables"));
            };
            self.check_table(prefix, &[place, &[index]].concat(), table, known)?;
            let needed = OPTIONS.iter().filter(|spec| spec.is_needed());
            let members = needed.filter_map(|spec| Some((spec, spec.key.strip_prefix(prefix)?)));
            for (spec, member) in members.filter(|(_, member)| !member.contains('.')) {
                if !table.iter().any(|(name, _)| name.get_ref() == member) {
                    let how = "each table of the list needs it";
                    return Err(ConfigError::new(origin, Fault::Missing { key: spec.key, how }));
                }
            }
        }
        Ok(())
    }

    fn origin(&self, offset: Option<usize>) -> Origin {
        let line = offset.map(|offset| {
            let before = self.text.as_bytes().iter().take(offset);
            1 + before.filter(|byte| **byte == b'\n').count()
        });
        Origin::File { path: self.path.to_owned(), line }
    }
}

/// Checks one value and notes who set the option, in these tables of the lists that its key goes through.
pub(crate) fn check_option(
    spec: &'static OptionSpec,
    place: &[usize],
    origin: Origin,
    given: &Given,
    known: &mut Known,
) -> Result<(), ConfigError> {
    if !spec.kind.allows(given) {
        return Err(wrong_value(spec.key, origin, given, &spec.kind.to_string()));
    }
    known.set_option(spec, place, origin, given);
    Ok(())
}

fn wrong_value(key: &str, origin: Origin, given: &Given, allowed: &str) -> ConfigError {
    let (key, value, allowed) = (key.to_owned(), given.to_string(), allowed.to_owned());
    ConfigError::new(origin, Fault::WrongValue { key, value, allowed })
}
