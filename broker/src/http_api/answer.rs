//! The answers: what the broker says of itself, and files of a directory.
//!
//! Invariant: a file that is sent lies in the directory, wherever links and dots lead.

use std::fs::{self, File};
use std::path::Path;

use serde_json::{Value, json};
use veilmq_config::{BrokerConfig, ClientCertificate, ListenerConfig, ListenerProtocol};

/// What is sent back.
pub(super) struct Answer {
    pub(super) status: &'static str,
    /// Header lines of its own, each with its end.
    pub(super) headers: String,
    pub(super) body: Body,
}

/// What follows the head.
pub(super) enum Body {
    Text(Vec<u8>),
    /// A file, and how much of it.
    File(File, u64),
}

impl Body {
    /// Returns its length in bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File(_, bytes) => *bytes,
        }
    }
}

/// The types of files by the ends of their names.
const TYPES: &[(&str, &str)] = &[
    ("css", "text/css; charset=utf-8"),
    ("gif", "image/gif"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain; charset=utf-8"),
    ("webp", "image/webp"),
    ("woff2", "font/woff2"),
];

impl Answer {
    /// The request is no request.
    pub(super) fn malformed() -> Self {
        Self::text("400 Bad Request", "Bad request.\n")
    }

    /// Only GET is served.
    pub(super) fn wrong_method() -> Self {
        Self {
            headers: "Allow: GET\r\n".to_owned(),
            ..Self::text("405 Method Not Allowed", "Invalid HTTP Method\n")
        }
    }

    /// It is not for this user, or not without one.
    pub(super) fn not_authorized() -> Self {
        let headers = "WWW-Authenticate: Basic realm=\"VeilMQ\", charset=\"UTF-8\"\r\n".to_owned();
        Self { headers, ..Self::text("401 Unauthorized", "Not authorised\n") }
    }

    /// There is nothing of this name.
    pub(super) fn not_found() -> Self {
        Self::text("404 Not Found", "Not found.\n")
    }

    /// The password cannot be checked now.
    pub(super) fn busy() -> Self {
        Self::text("503 Service Unavailable", "Busy.\n")
    }

    /// Something that changes all the time.
    pub(super) fn json(value: &Value) -> Self {
        let headers = "Content-Type: application/json\r\nCache-Control: no-store\r\n".to_owned();
        Self { headers, ..Self::text("200 OK", &format!("{value}\n")) }
    }

    /// A line of text.
    pub(super) fn line(text: &str) -> Self {
        Self { headers: "Content-Type: text/plain\r\n".to_owned(), ..Self::text("200 OK", text) }
    }

    /// A file of this directory; `/` at the end of its name stands for the page there.
    pub(super) fn file(directory: Option<&Path>, name: &str) -> Self {
        directory.and_then(|directory| open(directory, name)).unwrap_or_else(Self::not_found)
    }

    fn text(status: &'static str, text: &str) -> Self {
        Self { status, headers: String::new(), body: Body::Text(text.as_bytes().to_vec()) }
    }
}

fn open(directory: &Path, name: &str) -> Option<Answer> {
    let page = if name.ends_with('/') { "index.html" } else { "" };
    let named = directory.join(format!("{}{page}", name.trim_start_matches('/')));
    let path = fs::canonicalize(named).ok()?;
    // What is not a plain file may have no end, and opening it may wait for ever.
    if !path.starts_with(fs::canonicalize(directory).ok()?) || !path.is_file() {
        return None;
    }
    let file = File::open(&path).ok()?;
    let bytes = file.metadata().ok()?.len();
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    let known = TYPES.iter().find(|(known, _)| end.eq_ignore_ascii_case(known));
    let content_type = known.map_or("application/octet-stream", |(_, content_type)| content_type);
    let headers = format!("Content-Type: {content_type}\r\n");
    Some(Answer { status: "200 OK", headers, body: Body::File(file, bytes) })
}

/// Lists listeners as Mosquitto does: one for all interfaces is one, whatever the versions of IP.
pub(super) fn list(config: &BrokerConfig) -> Value {
    let mut listed: Vec<(&ListenerConfig, Value)> = Vec::new();
    for listener in &config.listeners {
        let entry = entry(config, listener);
        let is_any = |listener: &ListenerConfig| {
            listener.address.tcp().is_some_and(|address| address.ip().is_unspecified())
        };
        let is_same = |(before, known): &(&ListenerConfig, Value)| {
            *known == entry && is_any(before) && is_any(listener)
        };
        if !listed.last().is_some_and(is_same) {
            listed.push((listener, entry));
        }
    }
    json!({ "listeners": listed.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>() })
}

fn entry(config: &BrokerConfig, listener: &ListenerConfig) -> Value {
    let protocol = match listener.protocol {
        ListenerProtocol::Mqtt => "mqtt",
        ListenerProtocol::WebSocket => "websockets",
        ListenerProtocol::HttpApi => "httpapi",
    };
    let asks = |tls: &veilmq_config::ListenerTlsConfig| tls.client_certificate == ClientCertificate::Required;
    let mut entry = json!({
        "protocol": protocol,
        "tls": listener.tls.is_some(),
        "mtls": listener.tls.as_ref().is_some_and(asks),
        "allow_anonymous": listener.access.as_ref().map_or(config.access.anonymous, |own| own.anonymous),
    });
    match (listener.address.tcp(), listener.address.unix()) {
        (Some(address), _) => entry["port"] = address.port().into(),
        (None, path) => entry["path"] = path.map(|path| path.display().to_string()).into(),
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(answer: &Answer) -> &str {
        answer.status.split_once(' ').unwrap().0
    }

    #[test]
    fn files_are_sent_that_lie_in_the_directory_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().join("site");
        fs::create_dir_all(site.join("sub")).unwrap();
        fs::write(site.join("index.html"), "<p>").unwrap();
        fs::write(site.join("sub/a b.JSON"), "{}").unwrap();
        fs::write(folder.path().join("secret"), "s").unwrap();
        fs::write(folder.path().join("site-secret"), "s").unwrap();
        std::os::unix::fs::symlink("../secret", site.join("link")).unwrap();
        std::os::unix::fs::symlink("index.html", site.join("inside")).unwrap();

        for (name, status, headers) in [
            ("/", "200", "Content-Type: text/html; charset=utf-8\r\n"),
            ("/index.html", "200", "Content-Type: text/html; charset=utf-8\r\n"),
            ("//sub/a b.JSON", "200", "Content-Type: application/json\r\n"),
            ("/sub/../inside", "200", "Content-Type: text/html; charset=utf-8\r\n"),
            ("/sub/", "404", ""),
            ("/sub", "404", ""),
            ("/absent", "404", ""),
            ("/link", "404", ""),
            ("../secret", "404", ""),
            ("/../secret", "404", ""),
            ("/../site-secret", "404", ""),
            ("/sub/../../secret", "404", ""),
        ] {
            let answer = Answer::file(Some(&site), name);
            assert_eq!((sent(&answer), &*answer.headers), (status, headers), "{name}");
        }
        assert_eq!(sent(&Answer::file(None, "/index.html")), "404");
        assert!(matches!(Answer::file(Some(&site), "/").body, Body::File(_, 3)));
    }

    #[test]
    fn listeners_are_listed_with_what_they_ask_for() {
        let listeners = json!([
            {"address": "0.0.0.0:1883"}, {"address": "[::]:1883"},
            {"address": "127.0.0.1:1884", "protocol": "websocket", "access": {"anonymous": true}},
            {"address": "unix:/run/m.sock", "tls": {"client_certificate": "required"}},
            {"address": "127.0.0.1:1885", "protocol": "http_api"},
        ]);
        let listeners = serde_json::from_value(listeners).unwrap();

        let listed = list(&BrokerConfig { listeners, ..BrokerConfig::default() });

        let entry = |protocol, tls, anonymous| json!({"protocol": protocol, "tls": tls, "mtls": tls, "allow_anonymous": anonymous});
        let with = |mut entry: Value, key: &str, value: Value| {
            entry[key] = value;
            entry
        };
        assert_eq!(
            listed["listeners"],
            json!([
                with(entry("mqtt", false, false), "port", 1883.into()),
                with(entry("websockets", false, true), "port", 1884.into()),
                with(entry("mqtt", true, false), "path", "/run/m.sock".into()),
                with(entry("httpapi", false, false), "port", 1885.into()),
            ])
        );
    }
}
