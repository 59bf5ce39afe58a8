//! Mosquitto's words: the lines that operators' rules and scripts look for, in a broker that runs from a `mosquitto.conf`.
//!
//! One table says what becomes of which event. What is not in it is said in our own words, behind `Error: ` or `Warning: ` where Mosquitto
//! would say so. Ends of connections are worded as in 2.0; what 2.0 has no address for, or no words, as in 2.1.

use std::fmt::{self, Debug, Write};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::proxy::{ABSENT, MALFORMED, NO_CERTIFICATE, NO_TLS, TOO_LONG};

/// The version that scripts look for which wait until the broker runs.
const MOSQUITTO: &str = "mosquitto version 2.1.2";

/// The message of an event, and the words that it has.
type Words = (&'static str, fn(&Fields) -> String);

/// The events that have words of Mosquitto's.
const LINES: &[Words] = &[
    ("VeilMQ starts", |_| process("starting")),
    ("ready", |_| process("running")),
    ("VeilMQ has ended", |_| process("terminating")),
    ("reloading", |_| "Reloading config.".to_owned()),
    ("accepted", |fields| format!("New connection from {} on port {}.", fields.peer(), fields.text("port"))),
    ("encrypted up to the proxy", |fields| {
        let (peer, tls, cipher) = (fields.peer(), fields.text("tls"), fields.text("cipher"));
        format!("Connection from {peer} negotiated {tls} cipher {cipher}")
    }),
    ("connected", connected),
    ("disconnected", |fields| ended(fields, fields.text("client"))),
    ("connection refused", |fields| ended(fields, fields.optional("client").unwrap_or("<unknown>"))),
    ("connection ended before its first record", |fields| ended(fields, fields.text("client"))),
];

/// What Mosquitto 2.1 says of an end, by its Reason Code.
const REASONS: &[(&str, &str)] = &[
    ("129", "malformed packet"),
    ("130", "protocol error"),
    ("131", "implementation specific error"),
    ("132", "protocol error"),
    ("133", "client identifier not valid"),
    ("134", "not authorised"),
    ("135", "not authorised"),
    ("136", "server unavailable"),
    ("137", "server busy"),
    ("138", "client banned"),
    ("140", "bad authentication method"),
    ("147", "receive maximum exceeded"),
    ("148", "topic alias invalid"),
    ("149", "oversize packet"),
    ("151", "quota exceeded"),
    ("152", "administrative action"),
    ("154", "used disallowed feature (QoS too high, retain not supported, or bad AUTH method)"),
    ("155", "used disallowed feature (QoS too high, retain not supported, or bad AUTH method)"),
    ("159", "connection rate exceeded"),
];

/// Writes lines as Mosquitto does.
pub(super) struct MosquittoLines {
    /// None writes no time, and otherwise without a format it is written as seconds.
    pub(super) timestamps: Option<Option<String>>,
}

impl<S, N> FormatEvent<S, N> for MosquittoLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match &self.timestamps {
            None => {}
            Some(None) => write!(writer, "{}: ", Timestamp::now().as_second())?,
            Some(Some(format)) => write!(writer, "{}: ", Timestamp::now().strftime(format))?,
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, "{}", line(&fields, *event.metadata().level()))
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    values: Vec<(&'static str, String)>,
}

impl Fields {
    fn optional(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }

    fn text(&self, name: &str) -> &str {
        self.optional(name).unwrap_or_default()
    }

    /// Where a client is, as Mosquitto has it: without brackets, and with port 0 where there is none.
    fn peer(&self) -> String {
        let peer = self.text("peer");
        match (peer.strip_prefix('[').and_then(|peer| peer.split_once(']')), peer.strip_prefix("unix:")) {
            (Some((ip, port)), _) => format!("{ip}{port}"),
            (None, Some(path)) if !path.ends_with(')') => format!("{path}:0"),
            (None, _) => peer.to_owned(),
        }
    }

    fn digit(&self, name: &str) -> u8 {
        u8::from(self.optional(name) == Some("true"))
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.values.push((name, value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Writes what is said of an event. What clients have chosen may neither begin another line nor steer a terminal.
fn line(fields: &Fields, level: Level) -> String {
    let said = words(fields, level);
    if !said.contains(steers) {
        return said;
    }
    said.chars().fold(String::with_capacity(said.len() + 16), |mut escaped, char| {
        match steers(char) {
            true => escaped.extend(char.escape_unicode()),
            false => escaped.push(char),
        }
        escaped
    })
}

/// Tells whether a character is a control character, or changes the direction of the text behind it.
fn steers(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn words(fields: &Fields, level: Level) -> String {
    let known = LINES.iter().find(|(message, _)| *message == fields.message);
    if let Some((_, words)) = known {
        return words(fields);
    }
    let mut line = match level {
        Level::ERROR => "Error: ",
        Level::WARN => "Warning: ",
        Level::INFO | Level::DEBUG | Level::TRACE => "",
    }
    .to_owned();
    line.push_str(&fields.message);
    for (name, value) in &fields.values {
        // Writing to a String does not fail.
        let _ = write!(line, " {name}={value}");
    }
    line
}

fn process(does: &str) -> String {
    format!("VeilMQ {} as {MOSQUITTO} {does}", env!("CARGO_PKG_VERSION"))
}

fn connected(fields: &Fields) -> String {
    let version = match fields.text("version") {
        "3" => "1",
        "4" => "2",
        version => version,
    };
    let user = fields.optional("user").map(|user| format!(", u'{user}'")).unwrap_or_default();
    format!(
        "New client connected from {} as {} (p{version}, c{}, k{}{user}).",
        fields.peer(),
        fields.text("client"),
        fields.digit("clean_start"),
        fields.text("keep_alive_seconds")
    )
}

fn ended(fields: &Fields, client: &str) -> String {
    match fields.text("cause") {
        "disconnected" => return format!("Client {client} disconnected."),
        "closed" => return format!("Client {client} closed its connection."),
        "keep_alive" | "connect_timeout" => {
            return format!("Client {client} has exceeded timeout, disconnecting.");
        }
        "taken_over" => return format!("Client {client} already connected, closing old connection."),
        _ => {}
    }
    if let Some(line) = rejected(fields) {
        return line;
    }
    let code = fields.optional("code");
    let known = REASONS.iter().find(|(number, _)| Some(*number) == code);
    let reason = match (known, code, fields.text("cause")) {
        (Some((_, words)), _, _) => *words,
        // Nobody is told who has not said CONNECT.
        (None, None, "protocol_error") => "protocol error",
        (None, _, _) => fields.text("reason"),
    };
    // What Mosquitto calls an error of the protocol may be anything, a certificate among it.
    let is_vague = matches!(reason, "malformed packet" | "protocol error" | "implementation specific error");
    let detail = fields.optional("reason").filter(|_| is_vague);
    let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("Client {client} [{}] disconnected: {reason}.{detail}", fields.peer())
}

/// What is said of a connection whose proxy did not say what it has to.
fn rejected(fields: &Fields) -> Option<String> {
    let lacks = match fields.text("reason") {
        ABSENT | MALFORMED | TOO_LONG => {
            return Some("Connection rejected, corrupt PROXY header.".to_owned());
        }
        NO_TLS => "client did not connect using TLS",
        NO_CERTIFICATE => "client did not provide a certificate",
        _ => return None,
    };
    Some(format!("Connection from {} rejected, {lacks}.", fields.peer()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &str, values: &[(&'static str, &str)], level: Level) -> String {
        let values = values.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        line(&Fields { message: message.to_owned(), values }, level)
    }

    #[test]
    fn a_name_neither_begins_a_line_nor_steers_a_terminal() {
        let said = said(
            "disconnected",
            &[("client", "a\n1: New client\u{1b}[2J \u{202e}\u{9b}ü"), ("cause", "closed")],
            Level::INFO,
        );

        assert_eq!(said, r"Client a\u{a}1: New client\u{1b}[2J \u{202e}\u{9b}ü closed its connection.");
    }

    #[test]
    fn each_event_has_the_words_that_rules_look_for() {
        const PEER: (&str, &str) = ("peer", "192.0.2.1:1000");
        const CLIENT: (&str, &str) = ("client", "a b");
        let end = |cause, code| {
            let fields = [PEER, CLIENT, ("cause", cause), ("code", code), ("reason", "the disk is full")];
            said("disconnected", &fields, Level::INFO)
        };
        let connected = |more: &[(&'static str, &str)]| {
            said("connected", &[&[PEER, CLIENT][..], more].concat(), Level::INFO)
        };
        let refused = |peer, reason| {
            let fields = [("peer", peer), ("cause", "protocol_error"), ("reason", reason)];
            said("connection refused", &fields, Level::INFO)
        };

        for (line, expected) in [
            (
                said("accepted", &[PEER, ("port", "1883")], Level::INFO),
                "New connection from 192.0.2.1:1000 on port 1883.",
            ),
            (
                connected(&[
                    ("version", "4"),
                    ("clean_start", "true"),
                    ("keep_alive_seconds", "60"),
                    ("user", "bob"),
                ]),
                "New client connected from 192.0.2.1:1000 as a b (p2, c1, k60, u'bob').",
            ),
            (
                connected(&[("version", "5"), ("clean_start", "false"), ("keep_alive_seconds", "0")]),
                "New client connected from 192.0.2.1:1000 as a b (p5, c0, k0).",
            ),
            (end("disconnected", ""), "Client a b disconnected."),
            (end("closed", ""), "Client a b closed its connection."),
            (end("keep_alive", "141"), "Client a b has exceeded timeout, disconnecting."),
            (end("taken_over", "142"), "Client a b already connected, closing old connection."),
            (
                end("protocol_error", "130"),
                "Client a b [192.0.2.1:1000] disconnected: protocol error. (the disk is full)",
            ),
            (end("storage_failed", "0"), "Client a b [192.0.2.1:1000] disconnected: the disk is full."),
            (
                said("connection refused", &[PEER, ("cause", "protocol_error")], Level::INFO),
                "Client <unknown> [192.0.2.1:1000] disconnected: protocol error.",
            ),
            (
                said("connection refused", &[PEER, ("cause", "refused"), ("code", "134")], Level::INFO),
                "Client <unknown> [192.0.2.1:1000] disconnected: not authorised.",
            ),
            (
                said("encrypted up to the proxy", &[PEER, ("tls", "TLSv1.3"), ("cipher", "X")], Level::INFO),
                "Connection from 192.0.2.1:1000 negotiated TLSv1.3 cipher X",
            ),
            (refused("192.0.2.1:1000", MALFORMED), "Connection rejected, corrupt PROXY header."),
            (
                refused("[2001:db8::7]:1000", NO_TLS),
                "Connection from 2001:db8::7:1000 rejected, client did not connect using TLS.",
            ),
            (
                refused("unix:/a", NO_CERTIFICATE),
                "Connection from /a:0 rejected, client did not provide a certificate.",
            ),
            (said("reloading", &[], Level::INFO), "Reloading config."),
            (said("odd", &[("file", "x")], Level::WARN), "Warning: odd file=x"),
            (said("worse", &[], Level::ERROR), "Error: worse"),
        ] {
            assert_eq!(line, expected);
        }
        assert!(said("ready", &[], Level::INFO).ends_with("mosquitto version 2.1.2 running"));
    }
}
