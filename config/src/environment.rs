//! The environment layer: `VEILMQ__SECTION__KEY`, and `VEILMQ__SECTION__KEY_FILE` for values kept in files.
//!
//! The environment is an argument everywhere; only [`process_environment`] reads the real one.

use std::path::{Path, PathBuf};

use crate::document::check_option;
use crate::error::{ConfigError, Fault, Origin};
use crate::load::read_text;
use crate::options::{OPTIONS, OptionSpec, SCHEMES_OF_LISTENERS};
use crate::relations::Known;
use crate::unknown::unknown_variable;
use crate::value::{Given, Shape};

const PREFIX: &str = "VEILMQ__";
const FILE_SUFFIX: &str = "_FILE";

/// Reads the environment of this process; bytes that are not UTF-8 become U+FFFD and fail where they are used.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// The options that the environment sets, each checked.
///
/// # Errors
/// A variable with our prefix that names no option, a value that is not allowed, an unreadable `_FILE`.
pub(crate) fn options(
    environment: &[(String, String)],
    known: &mut Known,
) -> Result<Vec<(&'static OptionSpec, Given)>, ConfigError> {
    let mut options: Vec<(&'static OptionSpec, Given, Origin)> = Vec::new();
    for (variable, value) in environment.iter().filter(|(variable, _)| variable.starts_with(PREFIX)) {
        let (spec, given, origin) = option(variable, value, known)?;
        if let Some((_, _, other)) = options.iter().find(|(other, _, _)| other.key == spec.key) {
            let other = other.clone();
            return Err(ConfigError::new(origin, Fault::SetTwice { key: spec.key, other }));
        }
        options.push((spec, given, origin));
    }
    Ok(options.into_iter().map(|(spec, given, _)| (spec, given)).collect())
}

fn option(
    variable: &str,
    value: &str,
    known: &mut Known,
) -> Result<(&'static OptionSpec, Given, Origin), ConfigError> {
    let (spec, text, origin) = if let Some(spec) = find(variable) {
        (spec, value.to_owned(), Origin::Environment { variable: variable.to_owned() })
    } else if let Some(spec) = variable.strip_suffix(FILE_SUFFIX).and_then(find) {
        let origin = Origin::EnvironmentFile { variable: variable.to_owned(), path: PathBuf::from(value) };
        (spec, read_text(Path::new(value), &origin)?.trim_end().to_owned(), origin)
    } else {
        let key = variable.trim_start_matches(PREFIX).replace("__", ".").to_lowercase();
        return Err(unknown_variable(variable, key));
    };
    let given = given(spec, &text);
    check(spec, &given, origin.clone(), known)?;
    Ok((spec, given, origin))
}

fn find(variable: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|spec| spec.has_variable() && spec.variable() == variable)
}

fn given(spec: &OptionSpec, text: &str) -> Given {
    let as_text = || Given::Text(text.to_owned());
    match spec.shape_in_environment() {
        Shape::Integer => text.parse().map_or_else(|_| as_text(), Given::Integer),
        Shape::Boolean => text.parse().map_or_else(|_| as_text(), Given::Boolean),
        Shape::Text => as_text(),
        Shape::List if text.trim().is_empty() => Given::List(Vec::new()),
        Shape::List => {
            Given::List(text.split(',').map(|element| Given::Text(element.trim().to_owned())).collect())
        }
    }
}

/// A list option is checked as a whole, a list of tables element by element.
fn check(
    spec: &'static OptionSpec,
    given: &Given,
    origin: Origin,
    known: &mut Known,
) -> Result<(), ConfigError> {
    match given {
        Given::List(elements) if spec.is_in_list_of_tables() => {
            // The list takes the place of another one.
            if let Some((list, _)) = spec.key.split_once('.') {
                known.forget(list);
            }
            elements.iter().enumerate().try_for_each(|(index, element)| {
                let address =
                    SCHEMES_OF_LISTENERS.iter().find_map(|(scheme, ..)| element.strip_prefix(scheme));
                let address = address.as_ref().unwrap_or(element);
                check_option(spec, &[index], origin.clone(), address, known).map_err(|mut error| {
                    if let Fault::WrongValue { allowed, .. } = &mut *error.fault {
                        let schemes: Vec<_> =
                            SCHEMES_OF_LISTENERS.iter().map(|(scheme, ..)| *scheme).collect();
                        *allowed = format!("{allowed}; before it may stand {}", schemes.join(", "));
                    }
                    error
                })
            })
        }
        Given::Integer(_) | Given::Boolean(_) | Given::Text(_) | Given::List(_) | Given::Other(_) => {
            check_option(spec, &[], origin, given, known)
        }
    }
}
