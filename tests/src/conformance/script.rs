//! Reads scripts: a file holds scenarios, a scenario holds steps.
//!
//! Refuses whatever would make a scenario prove less than it seems to: unknown words, tags without their version, waiting
//! without end. Invariant: every error names the file and the line.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use veilmq_protocol::{PacketType, ProtocolVersion};

use super::line::{Direction, Line};
use super::settings::Change;
use super::value::{bytes, words};

/// The most time that a scenario may let pass.
const WAIT_MAX: Duration = Duration::from_secs(4);

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.
    V31,
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

impl Version {
    const ALL: [Self; 3] = [Self::V5, Self::V311, Self::V31];

    /// The version as scripts write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == name)
    }

    pub(super) const fn protocol(self) -> ProtocolVersion {
        match self {
            Self::V31 => ProtocolVersion::V31,
            Self::V311 => ProtocolVersion::V311,
            Self::V5 => ProtocolVersion::V5,
        }
    }
}

/// Says why a script cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct ScriptError {
    /// The name of the file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// A sentence about the broker and the packets that prove it.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The name of the file.
    pub file: String,
    /// The line of its title, from 1.
    pub line: usize,
    /// The statements it proves, such as `MQTT-3.1.4-3`.
    pub tags: Vec<String>,
    /// The sentence.
    pub sentence: String,
    /// The versions it runs in, at least one.
    pub versions: Vec<Version>,
    /// How the broker differs from its defaults.
    pub changes: Vec<Change>,
    pub(super) steps: Vec<Step>,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.file, self.line)?;
        self.tags.iter().try_for_each(|tag| write!(f, " [{tag}]"))?;
        write!(f, " {}", self.sentence)
    }
}

/// A line of a scenario.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// From 1.
    pub(super) line: usize,
    /// The line as it was written.
    pub(super) text: String,
    /// The only version in which it counts, if there is one.
    pub(super) version: Option<Version>,
    pub(super) action: Action,
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    Wait(Duration),
    Crash,
    At { connection: String, event: Event },
}

/// What happens on one connection.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Send(Line),
    SendBytes(Vec<u8>),
    Receive(Line),
    /// With the neighbours of the same kind, in any order.
    ReceiveSome(Line),
    ReceiveNothing,
    Open,
    Cut,
    IsClosed,
    IsAlive,
}

/// Reads every `*.mqtt` file of a directory, in the order of their names.
///
/// # Errors
/// The first error of a script.
///
/// # Panics
/// If the directory or a file cannot be read.
pub fn load(directory: &Path) -> Result<Vec<Scenario>, ScriptError> {
    let entries = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "mqtt"));
    paths.sort();
    let mut scenarios = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        scenarios.extend(parse(&name, &text)?);
    }
    Ok(scenarios)
}

/// Reads the scenarios of a script.
///
/// # Errors
/// The first line that is wrong.
pub fn parse(file: &str, text: &str) -> Result<Vec<Scenario>, ScriptError> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (index, text) in text.lines().map(str::trim).enumerate() {
        let line = index + 1;
        let error = |what: String| ScriptError { file: file.to_owned(), line, what };
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if text.starts_with('[') {
            let (tags, sentence) = title(text).map_err(error)?;
            finish(scenarios.last())?;
            scenarios.push(Scenario {
                file: file.to_owned(),
                line,
                tags,
                sentence,
                versions: vec![Version::V5],
                changes: Vec::new(),
                steps: Vec::new(),
            });
            continue;
        }
        let scenario = scenarios
            .last_mut()
            .ok_or_else(|| error("a scenario begins with a tag such as [MQTT-3.1.4-3]".into()))?;
        scenario.add(line, text).map_err(error)?;
    }
    finish(scenarios.last())?;
    Ok(scenarios)
}

/// Splits `[TAG] [TAG] sentence`.
fn title(text: &str) -> Result<(Vec<String>, String), String> {
    let (mut tags, mut rest) = (Vec::new(), text);
    while let Some((tag, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        if tag_version(tag).is_none() {
            return Err(format!("[{tag}] is not a tag such as [MQTT-3.1.4-3] or [MQTT311-3.1.4-2]"));
        }
        tags.push(tag.to_owned());
        rest = after.trim_start();
    }
    if rest.is_empty() { Err("the sentence is missing".to_owned()) } else { Ok((tags, rest.to_owned())) }
}

/// The version whose statement a tag names.
fn tag_version(tag: &str) -> Option<Version> {
    let (standard, statement) = tag.split_once('-')?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (section, number) = statement.split_once('-')?;
    let is_statement = section.split('.').all(is_number) && is_number(number);
    match standard {
        "MQTT" if is_statement => Some(Version::V5),
        "MQTT311" if is_statement => Some(Version::V311),
        _ => None,
    }
}

/// Checks what can only be known at the end of a scenario.
fn finish(scenario: Option<&Scenario>) -> Result<(), ScriptError> {
    let Some(scenario) = scenario else { return Ok(()) };
    let error = |line, what| ScriptError { file: scenario.file.clone(), line, what };
    if scenario.steps.is_empty() {
        return Err(error(scenario.line, "the scenario has no steps".to_owned()));
    }
    for tag in &scenario.tags {
        let version = tag_version(tag).unwrap_or(Version::V5);
        if !scenario.versions.contains(&version) {
            let what = format!("[{tag}] needs {} among the versions", version.name());
            return Err(error(scenario.line, what));
        }
    }
    let waits = scenario.steps.iter().filter_map(|step| match step.action {
        Action::Wait(time) => Some(time),
        Action::Crash | Action::At { .. } => None,
    });
    if waits.sum::<Duration>() > WAIT_MAX {
        let what = format!("the scenario waits longer than {} s", WAIT_MAX.as_secs());
        return Err(error(scenario.line, what));
    }
    for step in &scenario.steps {
        let Action::At { event, .. } = &step.action else { continue };
        let (Event::Send(packet) | Event::Receive(packet) | Event::ReceiveSome(packet)) = event else {
            continue;
        };
        let versions = scenario.versions.iter().filter(|version| step.counts_in(**version));
        for version in versions {
            packet.check_version(*version).map_err(|what| error(step.line, what))?;
        }
    }
    Ok(())
}

impl Scenario {
    fn add(&mut self, line: usize, text: &str) -> Result<(), String> {
        let all = words(text);
        let is_head = self.steps.is_empty();
        match all.as_slice() {
            ["versions", names @ ..] if is_head => {
                let version =
                    |name: &&str| Version::named(name).ok_or_else(|| format!("{name} is no version"));
                self.versions = names.iter().map(version).collect::<Result<_, _>>()?;
            }
            ["with", changes @ ..] if is_head => {
                let changes = changes.iter().map(|word| Change::parse(word));
                self.changes = changes.collect::<Result<_, _>>()?;
            }
            ["versions" | "with", ..] => return Err(format!("{} comes before the first step", all[0])),
            [first, rest @ ..] => {
                let version = first
                    .strip_suffix(':')
                    .map(|name| Version::named(name).ok_or_else(|| format!("{name} is no version")));
                let version = version.transpose()?;
                if let Some(version) = version.filter(|version| !self.versions.contains(version)) {
                    return Err(format!("the scenario does not run in {}", version.name()));
                }
                let action = action(if version.is_some() { rest } else { &all })?;
                self.steps.push(Step { line, text: text.to_owned(), version, action });
            }
            [] => {}
        }
        Ok(())
    }
}

impl Step {
    pub(super) fn counts_in(&self, version: Version) -> bool {
        self.version.is_none_or(|only| only == version)
    }
}

fn action(words: &[&str]) -> Result<Action, String> {
    match words {
        ["wait", time] => Ok(Action::Wait(duration(time)?)),
        ["crash"] => Ok(Action::Crash),
        [name, sign @ (">" | "<" | "<*" | "!"), rest @ ..] => {
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !is_name {
                return Err(format!("{name} is not the name of a connection"));
            }
            Ok(Action::At { connection: (*name).to_owned(), event: event(sign, rest)? })
        }
        _ => {
            Err("a step is `NAME > PACKET`, `NAME < PACKET`, `NAME ! EVENT`, `wait TIME` or `crash`"
                .to_owned())
        }
    }
}

fn event(sign: &str, rest: &[&str]) -> Result<Event, String> {
    match (sign, rest) {
        (">", ["bytes", digits @ ..]) => Ok(Event::SendBytes(bytes(digits.iter().copied())?)),
        (">", _) => Line::parse(rest, Direction::ToBroker).map(Event::Send),
        ("<", ["nothing"]) => Ok(Event::ReceiveNothing),
        ("<", _) => Line::parse(rest, Direction::FromBroker).map(Event::Receive),
        ("<*", _) => Line::parse(rest, Direction::FromBroker).map(Event::ReceiveSome),
        (_, ["open"]) => Ok(Event::Open),
        (_, ["cut"]) => Ok(Event::Cut),
        (_, ["closed"]) => Ok(Event::IsClosed),
        (_, ["alive"]) => Ok(Event::IsAlive),
        _ => Err("`!` takes one of open, cut, closed, alive".to_owned()),
    }
}

fn duration(word: &str) -> Result<Duration, String> {
    let milliseconds = match word.strip_suffix("ms") {
        Some(number) => number.parse().ok(),
        None => {
            word.strip_suffix('s').and_then(|number| number.parse().ok()).map(|seconds: u64| seconds * 1_000)
        }
    };
    milliseconds
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{word} is not a time such as 1500ms or 2s"))
}

/// Tells whether an event may begin a connection.
pub(super) fn opens(event: &Event) -> bool {
    matches!(event, Event::Send(line) if line.packet == PacketType::Connect)
}
