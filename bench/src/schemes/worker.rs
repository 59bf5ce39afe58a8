//! The processes that play the parts of publisher and subscribers: started, told what to do, and always reaped.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::part::Part;
use crate::Failure;
use crate::broker::Process;

/// A process of this program that plays a part.
pub(super) struct Worker {
    process: Process,
    input: ChildStdin,
    answers: Option<Lines<BufReader<ChildStdout>>>,
}

impl Worker {
    /// Starts a process and tells it its part.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(part: &Part) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .arg("part")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start another process: {error}"))?;
        let input = child.stdin.take().ok_or("the process has no standard input")?;
        let output = child.stdout.take().ok_or("the process has no standard output")?;
        let answers = Some(BufReader::new(output).lines());
        let mut worker = Self { process: Process(child), input, answers };
        worker.say(part)?;
        Ok(worker)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Tells it something.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn say(&mut self, what: &impl Serialize) -> Result<(), Failure> {
        writeln!(self.input, "{}", serde_json::to_string(what)?)?;
        Ok(self.input.flush()?)
    }

    /// Waits for what it says next.
    ///
    /// # Errors
    /// It ends first, having said why on standard error, or takes longer than `limit`.
    pub(super) async fn answer<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<T, Failure> {
        let mut answers = self.answers.take().ok_or("a process that was late is not waited for again")?;
        let asked = tokio::task::spawn_blocking(move || (answers.next(), answers));
        let late = format!("a part was not played within {limit:?}");
        let (line, answers) = timeout(limit, asked).await.map_err(|_| late)??;
        self.answers = Some(answers);
        Ok(serde_json::from_str(&line.ok_or("a process ended before its part was played")??)?)
    }
}
