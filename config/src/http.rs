//! Users that a service answers for over HTTP: the section `access.http`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

const HTTP: &str = "http://";
const HTTPS: &str = "https://";
const URL_BYTES_MAX: usize = 2_048;

/// Who is asked about users, how, and for how long an answer holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpAccessConfig {
    /// Who is asked about each login; `None` asks nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<HttpUrl>,
    /// Who is asked about users while they are connected; `None` lets an answer hold as long as the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_url: Option<HttpUrl>,
    /// The form of a question.
    pub format: HttpFormat,
    /// The file with what a question is authorised with; `None` is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The authorities that may have certified the service; `None` is those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// How long an answer may take, connecting included, in milliseconds.
    pub timeout_milliseconds: u32,
    /// Questions that are asked at one time.
    pub connections_max: u16,
    /// Answers that are kept; 0 keeps none.
    pub cache_entries_max: u32,
    /// How long the answer is kept that a user may come in, in seconds.
    pub cache_seconds: u32,
    /// How long any other answer is kept, in seconds.
    pub cache_denied_seconds: u32,
    /// How often it is asked about users while they are connected, in seconds.
    pub renew_seconds: u32,
    /// How long after that a user may stay while nobody answers, in seconds.
    pub stale_seconds: u32,
    /// What becomes of a login while nobody answers.
    pub on_failure: HttpFailure,
}

/// The form of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpFormat {
    /// A JSON object.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

/// What becomes of a login while nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpFailure {
    /// It is refused, for now.
    Deny,
    /// Password files, dynamic security and tokens decide.
    Next,
    /// Whoever comes is let in.
    Allow,
}

impl Default for HttpAccessConfig {
    fn default() -> Self {
        Self {
            url: None,
            renew_url: None,
            format: HttpFormat::Json,
            token_file: None,
            ca: None,
            timeout_milliseconds: 3_000,
            connections_max: 8,
            cache_entries_max: 10_000,
            cache_seconds: 30,
            cache_denied_seconds: 5,
            renew_seconds: 300,
            stale_seconds: 300,
            on_failure: HttpFailure::Deny,
        }
    }
}

/// Where a service is asked over HTTP/1.1.
///
/// Invariant: its parts can be written into a request as they are, and none of them is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// Whether TLS is below HTTP.
    pub is_tls: bool,
    /// The host name or IP address, the latter without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Host and port as they were written.
    pub authority: String,
    /// Path and query.
    pub target: String,
}

/// The text is not a URL of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a URL that begins with {HTTP} or {HTTPS}, without user name and fragment")]
pub struct NoHttpUrl;

impl FromStr for HttpUrl {
    type Err = NoHttpUrl;

    fn from_str(text: &str) -> Result<Self, NoHttpUrl> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !br#"#"<>\^`{|}"#.contains(&byte);
        if text.len() > URL_BYTES_MAX || !text.bytes().all(is_plain) {
            return Err(NoHttpUrl);
        }
        let (is_tls, rest) = match (text.strip_prefix(HTTP), text.strip_prefix(HTTPS)) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(NoHttpUrl),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = host_and_port(authority, if is_tls { 443 } else { 80 }).ok_or(NoHttpUrl)?;
        let target = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("/{target}"),
        };
        Ok(Self { is_tls, host, port, authority: authority.to_owned(), target })
    }
}

fn host_and_port(authority: &str, usual: u16) -> Option<(String, u16)> {
    if authority.contains('@') {
        return None;
    }
    let (host, rest) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() {
        return None;
    }
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None if rest.is_empty() => usual,
        None => return None,
    };
    Some((host.to_owned(), port))
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { HTTPS } else { HTTP };
        write!(f, "{scheme}{}{}", self.authority, self.target)
    }
}

impl Serialize for HttpUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HttpUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_port_and_target() {
        for (text, is_tls, host, port, authority, target) in [
            ("http://a", false, "a", 80, "a", "/"),
            ("https://a.example/auth", true, "a.example", 443, "a.example", "/auth"),
            ("http://127.0.0.1:8080?x=1", false, "127.0.0.1", 8080, "127.0.0.1:8080", "/?x=1"),
            ("https://[::1]:8443/a/b?c=%20", true, "::1", 8443, "[::1]:8443", "/a/b?c=%20"),
            ("http://[::1]/", false, "::1", 80, "[::1]", "/"),
        ] {
            let expected = HttpUrl {
                is_tls,
                host: host.to_owned(),
                port,
                authority: authority.to_owned(),
                target: target.to_owned(),
            };

            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_url_of_http_or_has_secrets_in_it_is_refused() {
        for text in [
            "",
            "a.example/auth",
            "ftp://a",
            "HTTP://a",
            "http://",
            "http:///auth",
            "http://user:secret@a/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:x/",
            "http://[::1/",
            "http://[a]/",
            "http://[::1]x/",
            "http://a/#x",
            "http://a/ b",
            "http://a/\r\nx",
            "http://ä/",
        ] {
            assert_eq!(text.parse::<HttpUrl>(), Err(NoHttpUrl), "{text}");
        }
    }
}
