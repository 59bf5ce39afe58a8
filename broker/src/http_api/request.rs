//! Requests of HTTP/1.1 without a body (RFC 9112): the head as text in, what matters of it out.
//!
//! Refuses whatever is not to the letter. A connection has one request, so no body is ever taken for another.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// What ends a head.
pub(super) const END: &[u8] = b"\r\n\r\n";

/// The head of a request.
pub(super) struct Request {
    pub(super) is_get: bool,
    /// What is asked for, without its query; None if it is no text.
    pub(super) path: Option<String>,
    pub(super) credentials: Option<Basic>,
}

/// A user name and a password (RFC 7617).
pub(super) struct Basic {
    pub(super) user: String,
    pub(super) password: Zeroizing<Vec<u8>>,
}

/// The head is not one of HTTP/1.1 or 1.0.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Request {
    /// Reads a head, without its end.
    ///
    /// # Errors
    /// [`Malformed`]
    pub(super) fn parse(head: &[u8]) -> Result<Self, Malformed> {
        let head = str::from_utf8(head).map_err(|_| Malformed)?;
        let mut lines = head.split("\r\n");
        let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let &[method, target, version @ ("HTTP/1.0" | "HTTP/1.1")] = line.as_slice() else {
            return Err(Malformed);
        };
        if !is_token(method) || target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Malformed);
        }
        let mut request = Self { is_get: method == "GET", path: path(target), credentials: None };
        let mut hosts = 0;
        for line in lines {
            let (name, value) = line.split_once(':').filter(|(name, _)| is_token(name)).ok_or(Malformed)?;
            let value = value.trim_matches([' ', '\t']);
            if value.contains(char::is_control) {
                return Err(Malformed);
            }
            hosts += usize::from(name.eq_ignore_ascii_case("host"));
            if name.eq_ignore_ascii_case("authorization") {
                request.credentials = Basic::parse(value);
            }
        }
        // RFC 9112 section 3.2.
        if hosts > 1 || hosts == 0 && version == "HTTP/1.1" { Err(Malformed) } else { Ok(request) }
    }
}

impl Basic {
    fn parse(value: &str) -> Option<Self> {
        let (scheme, encoded) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (user, password) = decoded.split_at_checked(colon)?;
        let user = str::from_utf8(user).ok()?.to_owned();
        Some(Self { user, password: Zeroizing::new(password.get(1..)?.to_vec()) })
    }
}

/// Tells whether a text is a token (RFC 9110 section 5.6.2).
fn is_token(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// Returns the path in a target, which may name scheme and host too (RFC 9112 section 3.2.2).
fn path(target: &str) -> Option<String> {
    let absolute = ["http://", "https://"].iter().find_map(|scheme| target.strip_prefix(scheme));
    let path = match absolute {
        Some(rest) => rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or("/"),
        None => target,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut bytes = path.bytes();
    let mut decoded = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next()?)? * 16 + digit(bytes.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok().filter(|path| !path.contains(char::is_control))
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Request, Malformed> {
        Request::parse(head.as_bytes())
    }

    #[test]
    fn what_is_asked_for_is_read_without_its_query_and_decoded() {
        for (target, expected) in [
            ("/", Some("/")),
            ("/api/v1/version?a=b", Some("/api/v1/version")),
            ("/a%20b%2Fc", Some("/a b/c")),
            ("../../etc/passwd", Some("../../etc/passwd")),
            ("http://host:1/a", Some("/a")),
            ("https://host", Some("/")),
            ("/%zz", None),
            ("/%4", None),
            ("/%ff", None),
            ("/%00", None),
        ] {
            let request = parse(&format!("GET {target} HTTP/1.1\r\nHost: a")).unwrap();
            assert_eq!(request.path.as_deref(), expected, "{target}");
            assert!(request.is_get);
        }
    }

    #[test]
    fn what_is_not_to_the_letter_is_malformed() {
        for head in [
            "",
            "GET /",
            "GET / HTTP/2",
            "GET  / HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.1",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b",
            "GET / HTTP/1.1\r\nHost : a",
            "GET / HTTP/1.1\r\nHost: a\r\n folded",
            "GET / HTTP/1.1\r\nHost: a\r\nno colon",
            "GET / HTTP/1.1\r\nHost: a\nX: b",
            "G\u{e9}T / HTTP/1.1\r\nHost: a",
            "GET /\u{e9} HTTP/1.1\r\nHost: a",
        ] {
            assert!(parse(head).is_err(), "{head:?}");
        }
        assert!(Request::parse(b"GET / HTTP/1.1\r\nHost: \xff").is_err());
    }

    #[test]
    fn a_user_name_ends_at_the_first_colon() {
        for (value, expected) in [
            ("Basic YW5uOnNlOmNyZXQ=", Some(("ann", "se:cret"))),
            ("basic Og==", Some(("", ""))),
            ("Basic YW5u", None),
            ("Basic !", None),
            ("Bearer YW5uOnNlOmNyZXQ=", None),
            ("Basic", None),
        ] {
            let request = parse(&format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {value}")).unwrap();
            let shown = request.credentials.as_ref();
            let shown = shown.map(|basic| (&*basic.user, str::from_utf8(&basic.password).unwrap()));
            assert_eq!(shown, expected, "{value}");
        }
    }
}
