//! What a row of the table of Mosquitto's options says: its name, where it may stand, which values it takes, what becomes of it.

use super::draft::Draft;

/// One option of `mosquitto.conf`.
#[derive(Debug, Clone, Copy)]
pub struct MosquittoOption {
    /// Its name; `*` at the end stands for any text.
    pub name: &'static str,
    /// What it belongs to.
    pub scope: Scope,
    /// What becomes of it.
    pub fate: Fate,
    /// Which of our options it sets, or why it sets none: a sentence for the documentation and for error messages.
    pub note: &'static str,
    pub(super) takes: Takes,
}

/// What an option belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The broker.
    Global,
    /// The broker; with `per_listener_settings true` the listener above it.
    Security,
    /// The listener above it, or the default listener if there is none above.
    Listener,
    /// The bridge (`connection`) above it.
    Bridge,
    /// The plugin above it.
    Plugin,
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does what it does in Mosquitto.
    Honoured,
    /// It is checked and changes nothing, for a stated reason.
    WithoutEffect,
    /// It is an error, for a stated reason.
    Refused,
}

/// Which values an option takes, and what they do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    /// `true` or `false`.
    Boolean(fn(&mut Draft, bool)),
    /// A whole number, both ends included; where it `raises`, a smaller one becomes the smallest.
    Integer { min: i64, max: i64, raises: bool, apply: fn(&mut Draft, i64) },
    /// A text that is not empty; the error says what is allowed.
    Text(fn(&mut Draft, &str) -> Result<(), Allowed>),
    /// No value at all is taken.
    Nothing,
}

/// What an option allows instead of the value it was given.
pub(super) type Allowed = &'static str;

impl MosquittoOption {
    pub(super) const fn boolean(
        name: &'static str,
        scope: Scope,
        note: &'static str,
        apply: fn(&mut Draft, bool),
    ) -> Self {
        Self { name, scope, fate: Fate::Honoured, note, takes: Takes::Boolean(apply) }
    }

    pub(super) const fn integer(
        name: &'static str,
        scope: Scope,
        (min, max): (i64, i64),
        note: &'static str,
        apply: fn(&mut Draft, i64),
    ) -> Self {
        let takes = Takes::Integer { min, max, raises: false, apply };
        Self { name, scope, fate: Fate::Honoured, note, takes }
    }

    /// The same number, of which one that is too small becomes the smallest.
    pub(super) const fn raised(self) -> Self {
        let takes = match self.takes {
            Takes::Integer { min, max, raises: _, apply } => Takes::Integer { min, max, raises: true, apply },
            other => other,
        };
        Self { takes, ..self }
    }

    pub(super) const fn text(
        name: &'static str,
        scope: Scope,
        note: &'static str,
        apply: fn(&mut Draft, &str) -> Result<(), Allowed>,
    ) -> Self {
        Self { name, scope, fate: Fate::Honoured, note, takes: Takes::Text(apply) }
    }

    pub(super) const fn refused(name: &'static str, scope: Scope, note: &'static str) -> Self {
        Self { name, scope, fate: Fate::Refused, note, takes: Takes::Nothing }
    }

    /// The same option, whose value is checked and forgotten.
    pub(super) const fn without_effect(self) -> Self {
        Self { fate: Fate::WithoutEffect, ..self }
    }

    /// Tells whether the option names a plugin to which those below it belong.
    pub(super) fn begins_plugin(&self) -> bool {
        matches!(self.name, "auth_plugin" | "global_plugin" | "plugin" | "plugin_load")
    }

    /// Tells whether a line with this name sets the option.
    pub(super) fn is_named(&self, name: &str) -> bool {
        // The prefix before Mosquitto 2.0, which it still takes.
        let renamed = name.strip_prefix("auth_opt_").map(|rest| format!("plugin_opt_{rest}"));
        let name = renamed.as_deref().unwrap_or(name);
        match self.name.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            // Mosquitto takes both.
            None if name == "addresses" => self.name == "address",
            None => self.name == name,
        }
    }
}

/// Checks a switch and forgets it.
pub(super) fn forget_boolean(_: &mut Draft, _: bool) {}

/// Checks a number and forgets it.
pub(super) fn forget_integer(_: &mut Draft, _: i64) {}

/// Checks that there is a text and forgets it.
pub(super) fn forget_text(_: &mut Draft, _: &str) -> Result<(), Allowed> {
    Ok(())
}
