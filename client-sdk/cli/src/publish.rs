//! `veil pub`: one message, a file, or a message for each line of standard input.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead as _, Read as _},
    path::PathBuf,
    pin::Pin,
    time::Duration,
};

use clap::{ArgGroup, Args};
use tokio::sync::mpsc;
use veilmq_client::{Client, Properties, PublishError, QoS, ReasonCode};

use crate::{
    connection::{Connection, qos},
    failure::{Deadline, Failure, complain, disconnect},
    orders::Orders,
    pairs::{PairTo, Pairs},
    progress::Progress,
};

/// Lines that may wait between standard input and the client.
const LINES_AHEAD: usize = 64;

#[derive(Args)]
#[command(group(ArgGroup::new("source").required(true)))]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    to: PairTo,
    /// Topic to publish to
    #[arg(short = 't', long)]
    topic: String,
    /// The message
    #[arg(short = 'm', long, group = "source", allow_hyphen_values = true)]
    message: Option<String>,
    /// Send the contents of a file as the message
    #[arg(short = 'f', long, group = "source", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Send each line of standard input as a message
    #[arg(short = 'l', long, visible_alias = "stdin-line", group = "source")]
    lines: bool,
    /// Send the whole of standard input as the message
    #[arg(short = 's', long = "stdin-file", group = "source")]
    stdin: bool,
    /// Send an empty message
    #[arg(short = 'n', long = "null-message", group = "source")]
    null: bool,
    /// QoS of the messages
    #[arg(short = 'q', long, value_parser = qos, default_value = "0")]
    qos: QoS,
    /// Make the messages retained
    #[arg(short = 'r', long)]
    retain: bool,
    /// Most QoS 1 and 2 messages on their way at a time
    #[arg(short = 'M', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    max_inflight: u16,
    /// Publish so many times (not with -l)
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "lines")]
    repeat: u64,
    /// Seconds between repeats
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = seconds)]
    repeat_delay: f64,
    /// End after so many seconds, connecting included, with status 27 unless everything is published by then
    #[arg(short = 'W', value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
}

/// What becomes of a message.
type Outcome = Pin<Box<dyn Future<Output = Result<ReasonCode, PublishError>>>>;

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let given = arguments.connection.given()?;
    let pairs = arguments.to.load()?;
    let builder = arguments.connection.builder(&given, &pairs)?.reconnect(arguments.lines);
    if !pairs.is_any() {
        arguments.connection.check_is_sealed(&arguments.topic)?;
    }
    let topics = pairs.topics(&arguments.topic, arguments.connection.identity()?.as_deref())?;
    let payload = match arguments.lines {
        true => None,
        false => Some(arguments.payload()?),
    };
    let deadline = Deadline::after(arguments.timeout);
    Orders::check_is_free(&arguments.connection.keys).await?;
    let client = deadline.limit(builder.connect()).await?;
    if let Some(orders) = Orders::listen_if_possible(&arguments.connection.keys).await? {
        orders.serve_beside(client.clone());
    }
    let total = payload.as_ref().map(|_| arguments.repeat.saturating_mul(topics.len() as u64));
    let mut publisher = Publisher {
        client: &client,
        arguments: &arguments,
        pairs: &pairs,
        topics: &topics,
        failed: 0,
        properties: given.publish,
        pending: VecDeque::new(),
        progress: Progress::new("published", total, arguments.connection.quiet),
    };
    let outcome = deadline.limit(publisher.run(payload)).await;
    drop(publisher);
    disconnect(&client, outcome).await
}

impl Arguments {
    fn payload(&self) -> Result<Vec<u8>, Failure> {
        let failed =
            |name: &dyn std::fmt::Display, error: io::Error| Failure::new(format!("{name}: {error}"));
        match (&self.message, &self.file) {
            (Some(message), _) => Ok(message.clone().into_bytes()),
            (None, Some(path)) => fs::read(path).map_err(|error| failed(&path.display(), error)),
            (None, None) => {
                let mut payload = Vec::new();
                if self.stdin {
                    let read = io::stdin().lock().read_to_end(&mut payload);
                    read.map_err(|error| failed(&"standard input", error))?;
                }
                Ok(payload)
            }
        }
    }
}

struct Publisher<'a> {
    client: &'a Client,
    arguments: &'a Arguments,
    pairs: &'a Pairs,
    topics: &'a [String],
    /// Messages that one of several subscribers does not get.
    failed: u64,
    properties: Properties,
    /// On their way, the oldest first.
    pending: VecDeque<Outcome>,
    progress: Progress,
}

impl Publisher<'_> {
    async fn run(&mut self, payload: Option<Vec<u8>>) -> Result<(), Failure> {
        match payload {
            Some(payload) => self.repeat(&payload).await?,
            None => self.lines().await?,
        }
        self.settle(0).await?;
        match self.failed {
            0 => Ok(()),
            failed => Err(Failure::new(format!("{failed} messages were not published"))),
        }
    }

    async fn repeat(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let pause = Duration::from_secs_f64(self.arguments.repeat_delay);
        for round in 0..self.arguments.repeat {
            if round > 0 && !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            self.publish(payload).await?;
        }
        Ok(())
    }

    async fn lines(&mut self) -> Result<(), Failure> {
        let mut lines = stdin_lines();
        loop {
            // What became of a line is heard of while the next has not been typed.
            let line = tokio::select! {
                line = lines.recv() => line,
                settled = settle_oldest(&mut self.pending, &mut self.progress), if !self.pending.is_empty() => {
                    self.note(settled)?;
                    continue;
                }
            };
            let Some(line) = line else { return Ok(()) };
            let line = line.map_err(|error| Failure::new(format!("standard input: {error}")))?;
            self.publish(&line).await?;
        }
    }

    async fn publish(&mut self, payload: &[u8]) -> Result<(), Failure> {
        for topic in self.topics {
            self.settle(usize::from(self.arguments.max_inflight) - 1).await?;
            let Arguments { qos, retain, .. } = self.arguments;
            let message = self.client.publish(topic, payload).qos(*qos).retain(*retain);
            let pending = message.properties(self.properties.clone()).submit().await?;
            self.pending.push_back(Box::pin(pending.settled()));
        }
        Ok(())
    }

    /// Ends the program for what was not published, unless others are to get it too.
    fn note(&mut self, settled: Result<(), PublishError>) -> Result<(), Failure> {
        match settled.map_err(|error| self.pairs.failure(error)) {
            Err(failure) if self.topics.len() > 1 => {
                complain(&failure.to_string());
                self.failed += 1;
                Ok(())
            }
            settled => settled,
        }
    }

    /// Waits until no more than `left` messages are on their way.
    async fn settle(&mut self, left: usize) -> Result<(), Failure> {
        while self.pending.len() > left {
            let settled = settle_oldest(&mut self.pending, &mut self.progress).await;
            self.note(settled)?;
        }
        Ok(())
    }
}

/// Waits for the outcome of the oldest message on its way. If nobody waits any longer, it stays the oldest.
async fn settle_oldest(pending: &mut VecDeque<Outcome>, progress: &mut Progress) -> Result<(), PublishError> {
    if let Some(oldest) = pending.front_mut() {
        let outcome = oldest.await;
        pending.pop_front();
        outcome?;
        progress.step();
    }
    Ok(())
}

/// Reads lines on a thread of its own, since standard input blocks; the line ending is not part of a message.
fn stdin_lines() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n') {
            let line = line.map(|mut line| {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                line
            });
            let is_last = line.is_err();
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=1e9).contains(seconds));
    seconds.ok_or_else(|| "give a number of seconds".to_owned())
}
