//! The opening handshake: the head of an HTTP request in, an answer out (RFC 6455 section 4.2).
//!
//! Parsing and the accept key are tungstenite's. A request that is no good gets an HTTP answer that says what is missing.

use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response};
use tungstenite::http::header::{
    HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
};

/// The most bytes of a request's head, as many web servers have it.
pub(crate) const HEAD_BYTES_MAX: usize = 8_192;

/// The subprotocols, the one to prefer first: `mqttv3.1` is what clients of MQTT 3.1 offer.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// A request that was granted.
pub(super) struct Accepted {
    /// The length of the request's head.
    pub(super) head_bytes: usize,
    pub(super) response: Vec<u8>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed,
    LineEnd,
    HeadTooLarge,
    Method,
    HttpVersion,
    NotWebSocket,
    Host,
    Version,
    Key,
    Origin,
    Subprotocol,
}

/// Answers the request if its head is there in full.
pub(super) fn answer(head: &[u8], origins: Option<&[String]>) -> Option<Result<Accepted, Refusal>> {
    match Request::try_parse(head) {
        Ok(None) if head.len() < HEAD_BYTES_MAX => None,
        Ok(None) => Some(Err(Refusal::HeadTooLarge)),
        Ok(Some((head_bytes, _))) if has_bare_line_feed(&head[..head_bytes]) => Some(Err(Refusal::LineEnd)),
        Ok(Some((head_bytes, request))) => {
            Some(accept(&request, origins).map(|response| Accepted { head_bytes, response }))
        }
        Err(error) => Some(Err(Refusal::of(&error))),
    }
}

/// Tells whether a line ends otherwise than all HTTP clients end it: what is in front may take such lines apart in another way.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let is_bare = |(at, byte): (usize, &u8)| *byte == b'\n' && (at == 0 || head.get(at - 1) != Some(&b'\r'));
    head.iter().enumerate().any(is_bare)
}

fn accept(request: &Request, origins: Option<&[String]>) -> Result<Vec<u8>, Refusal> {
    let response = create_response(request).map_err(|error| Refusal::of(&error))?;
    // RFC 6455 sections 4.2.1 and 11.3.1, RFC 9112 section 3.2: each is there, and once.
    if count(request, &HOST) != 1 {
        return Err(Refusal::Host);
    }
    if count(request, &SEC_WEBSOCKET_KEY) != 1 {
        return Err(Refusal::Key);
    }
    // RFC 6455 section 4.2.2: a server that serves some origins only answers 403 to the others.
    if !origins.is_none_or(|origins| is_from(request, origins)) {
        return Err(Refusal::Origin);
    }
    // [MQTT-6.0.0-3], [MQTT311-6.0.0-3] The client offers it.
    let chosen = subprotocol(request).ok_or(Refusal::Subprotocol)?;
    let key = response.headers().get(SEC_WEBSOCKET_ACCEPT).and_then(|key| key.to_str().ok());
    let key = key.ok_or(Refusal::Key)?;
    // [MQTT-6.0.0-4], [MQTT311-6.0.0-4] Order and letters have no meaning, so they are Mosquitto's: whoever compares bytes finds the
    // same.
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: {chosen}\r\n\r\n"
    )
    .into_bytes())
}

fn count(request: &Request, name: &HeaderName) -> usize {
    request.headers().get_all(name).iter().count()
}

fn is_from(request: &Request, origins: &[String]) -> bool {
    let named = request.headers().get(ORIGIN);
    named.is_some_and(|named| origins.iter().any(|origin| named.as_bytes() == origin.as_bytes()))
}

fn subprotocol(request: &Request) -> Option<&'static str> {
    let is_offered = |wanted: &&str| {
        let lists = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        lists
            .filter_map(|list| list.to_str().ok())
            .any(|list| list.split(',').any(|name| name.trim() == *wanted))
    };
    SUBPROTOCOLS.into_iter().find(is_offered)
}

impl Refusal {
    fn of(error: &Error) -> Self {
        match error {
            Error::Protocol(ProtocolError::WrongHttpMethod) => Self::Method,
            Error::Protocol(ProtocolError::WrongHttpVersion) => Self::HttpVersion,
            Error::Protocol(
                ProtocolError::MissingConnectionUpgradeHeader | ProtocolError::MissingUpgradeWebSocketHeader,
            ) => Self::NotWebSocket,
            Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => Self::Version,
            Error::Protocol(
                ProtocolError::MissingSecWebSocketKey | ProtocolError::InvalidSecWebSocketKey,
            ) => Self::Key,
            Error::Capacity(_) => Self::HeadTooLarge,
            _ => Self::Malformed,
        }
    }

    /// Returns what the client did wrong, for the log and as the body of the answer.
    pub(super) fn rule(self) -> &'static str {
        match self {
            Self::Malformed => "not an HTTP request",
            Self::LineEnd => "a line of the HTTP request does not end with CR LF",
            Self::HeadTooLarge => "the head of the HTTP request is too large",
            Self::Method => "the method of the HTTP request is not GET",
            Self::HttpVersion => "the version of HTTP is not 1.1",
            Self::NotWebSocket => "the HTTP request asks for no WebSocket",
            Self::Host => "the HTTP request does not have one Host",
            Self::Version => "the version of WebSocket is not 13",
            Self::Key => "the HTTP request does not have one valid Sec-WebSocket-Key",
            Self::Origin => "the page is of an origin that may not connect",
            Self::Subprotocol => "the HTTP request does not offer the WebSocket subprotocol mqtt",
        }
    }

    /// Returns the answer, after which the connection is closed.
    pub(super) fn response(self) -> Vec<u8> {
        let (status, header) = match self {
            Self::Malformed | Self::LineEnd | Self::Host | Self::Key | Self::Subprotocol => {
                ("400 Bad Request", "")
            }
            Self::Origin => ("403 Forbidden", ""),
            Self::Method => ("405 Method Not Allowed", "Allow: GET\r\n"),
            Self::HttpVersion => ("505 HTTP Version Not Supported", ""),
            // RFC 9110 section 15.5.22: it names the protocol to ask for.
            Self::NotWebSocket => ("426 Upgrade Required", "Upgrade: websocket\r\n"),
            // RFC 6455 section 4.4: it names the version to ask for.
            Self::Version => ("426 Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
            Self::HeadTooLarge => ("431 Request Header Fields Too Large", ""),
        };
        let connection = if header.contains("Upgrade") { "Upgrade, close" } else { "close" };
        let rule = self.rule();
        let length = rule.len() + 1;
        format!(
            "HTTP/1.1 {status}\r\n{header}Connection: {connection}\r\nContent-Type: text/plain\r\n\
             Content-Length: {length}\r\n\r\n{rule}\n"
        )
        .into_bytes()
    }
}
