//! `veil sub`: prints what arrives; what is refused goes to standard error and never looks like a message.

use std::io::{self, BufWriter, Write as _};

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use veilmq_client::{
    Client, Message, QoS, Received, Sealed, Subscription,
    e2e::{Authentication, OpenError, Provenance},
};

use crate::{
    connection::{Connection, qos},
    failure::{Deadline, Failure, complain, disconnect},
    format::{hex, unix_ms, utc},
    orders::Orders,
    pairs::{PairFrom, Pairs},
    progress::Progress,
};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    from: PairFrom,
    /// Topic filter to subscribe to (repeatable)
    #[arg(short = 't', long = "topic", required = true)]
    topics: Vec<String>,
    /// QoS of the subscription
    #[arg(short = 'q', long, value_parser = qos, default_value = "0")]
    qos: QoS,
    /// Print the topic before each message
    #[arg(short = 'v', long, conflicts_with = "json")]
    verbose: bool,
    /// Print each message as a line of JSON
    #[arg(long)]
    json: bool,
    /// End after so many messages
    #[arg(short = 'C', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds, connecting included, with status 27 unless as many messages came as -C asks for
    #[arg(short = 'W', value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Do not print a line end after each message
    #[arg(short = 'N', conflicts_with = "json")]
    no_newline: bool,
    /// Do not print retained messages
    #[arg(short = 'R')]
    no_retained: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let given = arguments.connection.given()?;
    let deadline = Deadline::after(arguments.timeout);
    let pairs = arguments.from.load()?;
    let builder = arguments.connection.builder(&given, &pairs)?;
    let own = arguments.connection.identity()?.map(|own| own.kid());
    let filters = arguments.topics.iter().map(|filter| pairs.filter(filter, own));
    let filters: Vec<String> = filters.collect::<Result<_, _>>()?;
    Orders::check_is_free(&arguments.connection.keys).await?;
    let client = deadline.limit(builder.connect()).await?;
    if let Some(orders) = Orders::listen_if_possible(&arguments.connection.keys).await? {
        orders.serve_beside(client.clone());
    }
    let mut printer =
        Printer { arguments: &arguments, pairs: &pairs, progress: progress_of(&arguments), printed: 0 };
    let outcome = deadline.limit(printer.receive(&client, &filters)).await;
    drop(printer);
    disconnect(&client, outcome).await
}

async fn subscribe(client: &Client, filters: &[String], qos: QoS) -> Result<Subscription, Failure> {
    let (first, others) = filters.split_first().ok_or_else(|| Failure::new("give a topic with -t"))?;
    let first = client.subscribe(first).qos(qos);
    Ok(others.iter().fold(first, |builder, filter| builder.and(filter)).await?)
}

fn progress_of(arguments: &Arguments) -> Progress {
    Progress::new("received", arguments.count, arguments.connection.quiet || !quiet_terminal())
}

/// Progress would mix with messages on the same terminal.
fn quiet_terminal() -> bool {
    !io::IsTerminal::is_terminal(&io::stdout())
}

struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::new(format!("signals: {error}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

struct Printer<'a> {
    arguments: &'a Arguments,
    pairs: &'a Pairs,
    progress: Progress,
    printed: u64,
}

impl Printer<'_> {
    /// Prints what comes until there is enough of it, or a signal says so.
    async fn receive(&mut self, client: &Client, filters: &[String]) -> Result<(), Failure> {
        let mut messages = subscribe(client, filters, self.arguments.qos).await?;
        let declined = client.decline_unclaimed().await?;
        if declined > 0 {
            complain(&format!("{declined} messages dropped: they are for topics of an earlier run"));
        }
        let mut stop = Stop::new()?;
        while self.arguments.count.is_none_or(|count| self.printed < count) {
            tokio::select! {
                received = messages.next_unacknowledged() => match received {
                    // What was not printed comes again.
                    Some((received, _unacknowledged)) => self.print(received)?,
                    None => return Err(client.closed().await.into()),
                },
                () = stop.asked() => break,
            }
        }
        Ok(())
    }

    fn print(&mut self, received: Received) -> Result<(), Failure> {
        match received {
            Received::Message(message) if message.retain && self.arguments.no_retained => Ok(()),
            Received::Message(mut message) => {
                message.topic = self.pairs.shown(&message.topic).to_owned();
                let mut out = BufWriter::new(io::stdout().lock());
                let written = if self.arguments.json {
                    writeln!(out, "{}", json_line(&message))
                } else {
                    self.write_plain(&mut out, &message)
                };
                written
                    .and_then(|()| out.flush())
                    .map_err(|error| Failure::new(format!("standard output: {error}")))?;
                self.printed += 1;
                self.progress.step();
                Ok(())
            }
            Received::Refused { topic, error } => {
                let hint = match error {
                    OpenError::UnknownSender(_) => "; give its certificate with --sender",
                    OpenError::EpochDropped { .. } => {
                        "; --backlog takes what has waited under an earlier key"
                    }
                    _ => "",
                };
                let topic = self.pairs.shown(&topic);
                complain(&format!("{topic}: message refused: {error} ({}){hint}", error.name()));
                Ok(())
            }
            Received::Missed { count } => {
                complain(&format!("{count} QoS 0 messages missed: this program was too slow"));
                Ok(())
            }
        }
    }

    fn write_plain(&self, out: &mut impl io::Write, message: &Message) -> io::Result<()> {
        if self.arguments.verbose {
            write!(out, "{} ", message.topic)?;
        }
        out.write_all(&message.payload)?;
        if self.arguments.no_newline { Ok(()) } else { out.write_all(b"\n") }
    }
}

fn json_line(message: &Message) -> Value {
    let now = unix_ms();
    let mut line = Map::new();
    let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
    put("tst", json!(format!("{}.{:03}Z", utc(now / 1_000).trim_end_matches('Z'), now % 1_000)));
    put("topic", json!(message.topic));
    put("qos", json!(message.qos.value()));
    put("retain", json!(u8::from(message.retain)));
    put("payloadlen", json!(message.payload.len()));
    match std::str::from_utf8(&message.payload) {
        Ok(text) => put("payload", json!(text)),
        Err(_) => put("payload_hex", json!(hex(&message.payload))),
    };
    let properties = &message.properties;
    if let Some(content_type) = &properties.content_type {
        put("content_type", json!(content_type));
    }
    if let Some(topic) = &properties.response_topic {
        put("response_topic", json!(topic));
    }
    if let Some(data) = &properties.correlation_data {
        put("correlation_data_hex", json!(hex(data)));
    }
    if let Some(seconds) = properties.message_expiry_seconds {
        put("message_expiry_seconds", json!(seconds));
    }
    if !properties.user.is_empty() {
        put("user_properties", json!(properties.user));
    }
    if let Some(sealed) = &message.sealed {
        put("sealed", sealed_json(sealed));
    }
    Value::Object(line)
}

fn sealed_json(sealed: &Sealed) -> Value {
    let authentication = match sealed.authentication {
        Authentication::None => "none",
        Authentication::Group => "group",
        Authentication::Signed => "signed",
    };
    match &sealed.provenance {
        Provenance::Envelope(origin) => json!({
            "format": "ve1",
            "authentication": authentication,
            "sender": origin.sender.to_string(),
            "epoch": origin.epoch,
            "session": origin.session,
            "seq": origin.seq,
            "gap": origin.gap,
            "will": origin.will,
            "refresh": origin.refresh,
            "age_ms": origin.age_ms,
        }),
        Provenance::Article => json!({ "format": "article", "authentication": authentication }),
        Provenance::Tombstone => json!({ "format": "tombstone", "authentication": authentication }),
    }
}
