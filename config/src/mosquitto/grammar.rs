//! The lines of a `mosquitto.conf`: what is an option, what is a comment, and in which order files are read.
//!
//! A line is a name, a space and a value; `#` as the very first character makes a comment. Nothing here knows what an option
//! means. Invariant: every line that comes out says in which file and line it stands.

use std::path::{Path, PathBuf};

use crate::error::{ConfigError, Fault, Origin};

/// One line that sets something.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) origin: Origin,
    pub(super) name: String,
    /// What follows the name, without the white space around it; empty if nothing does.
    pub(super) value: String,
}

/// Takes the lines of the text of one file that set something.
pub(super) fn lines(path: &Path, text: &str) -> Vec<Line> {
    let significant = text.lines().enumerate().filter(|(_, line)| is_significant(line));
    let parsed = significant.map(|(index, line)| {
        let line = line.trim_matches([' ', '\r']);
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let origin = Origin::File { path: path.to_owned(), line: Some(index + 1) };
        Line { origin, name: name.to_owned(), value: value.trim_start_matches(' ').to_owned() }
    });
    parsed.collect()
}

/// Tells whether a text is in the format of Mosquitto rather than TOML, by its first line that says something. A text that says
/// nothing sets nothing in either format; it is taken for Mosquitto's, whose files may be empty.
pub(super) fn is_mosquitto(text: &str) -> bool {
    let mut significant =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let Some(first) = significant.next() else { return true };
    let is_key = |key: &str| !key.trim_end().contains(' ');
    let is_setting = first.split_once('=').is_some_and(|(key, _)| is_key(key));
    !first.starts_with('[') && !is_setting
}

/// Lists the files of an included directory in the order they are read: alphabetical, a capital before its small letter.
///
/// # Errors
/// If the directory cannot be read.
pub(super) fn included(directory: &str, origin: &Origin) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable =
        |reason| ConfigError::new(origin.clone(), Fault::Include { path: directory.into(), reason });
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        names.extend(
            name.to_str().filter(|name| name.ends_with(".conf") && *name != ".conf").map(str::to_owned),
        );
    }
    names.sort_by_cached_key(|name| (name.to_lowercase(), name.clone()));
    Ok(names.iter().map(|name| Path::new(directory).join(name)).collect())
}

fn is_significant(line: &str) -> bool {
    !line.starts_with('#') && !line.trim_matches([' ', '\t', '\r']).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_says_something_tells_the_format() {
        for (text, expected) in [
            ("", true),
            ("# only a comment\n\n", true),
            ("listener 1883\n", true),
            ("# a = b\npassword_file /a=b\n", true),
            ("user\n", true),
            ("data_dir = \"/d\"\n", false),
            ("data_dir=\"/d\"\n", false),
            ("\n# x\n[limits]\n", false),
            ("[[listeners]]\naddress = \"127.0.0.1:1\"\n", false),
        ] {
            assert_eq!(is_mosquitto(text), expected, "{text:?}");
        }
    }

    #[test]
    fn lines_are_split_at_the_first_space_and_know_their_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mosquitto.conf");

        let lines = lines(&path, "# a\n\n  listener   1883  ::1 \r\n \t\nuser\nlog_dest\tstderr\n");

        let seen: Vec<_> =
            lines.iter().map(|line| (line.origin.to_string(), &*line.name, &*line.value)).collect();
        let at = |line| format!("{}:{line}", path.display());
        assert_eq!(
            seen,
            [(at(3), "listener", "1883  ::1"), (at(5), "user", ""), (at(6), "log_dest\tstderr", "")]
        );
    }

    #[test]
    fn included_files_come_in_alphabetical_order_capitals_first() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.conf", "A.conf", "01.conf", "a.conf", "B.conf", "00.conf", "c.txt", ".conf"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }

        let files = included(directory.path().to_str().unwrap(), &Origin::Default).unwrap();

        let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["00.conf", "01.conf", "A.conf", "a.conf", "B.conf", "b.conf"]);
    }
}
