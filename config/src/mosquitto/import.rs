//! `mosquitto.conf` as a file of our own, with comments on what is no longer what it was.

use std::fmt::Write;
use std::path::Path;

use super::{Strictness, read, read_main};
use crate::error::ConfigError;

/// Converts a `mosquitto.conf` and the files it includes into a configuration file of the broker. What changes nothing or is
/// skipped is named in comments at the top.
///
/// # Errors
/// The first fault, with file, line and option; with [`Strictness::Lenient`] only what makes the whole unusable.
pub fn import_mosquitto(path: &Path, strictness: Strictness) -> Result<String, ConfigError> {
    let mut config = read(path, &read_main(path)?, &[], strictness)?;
    let mut text = format!("# Converted from {}.\n", path.display());
    for note in &config.mosquitto.notes {
        // A comment ends with its line, whatever was in the other file.
        let line: String = note.text.chars().filter(|char| !char.is_control()).collect();
        let _ = writeln!(text, "# {}: {}: {line}", note.origin, note.option);
    }
    if !config.veil.enabled {
        config.veil.enabled = true;
        text.push_str("# data_dir: it keeps the broker's identity, also without persistence.\n");
    }
    text.push_str("# docs/mosquitto.md says what differs from Mosquitto.\n\n");
    text.push_str(&config.to_toml());
    Ok(text)
}
