//! What a service is asked: one request for each login, and one for each renewal.
//!
//! Invariant: the bytes that a password was written into are erased when they are dropped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Serialize, Serializer};
use veilmq_config::HttpFormat;
use veilmq_core::{CertificateField, CertificateFields, Credentials};
use zeroize::Zeroizing;

/// What JSON makes of one byte, at most (`\u0000`).
const JSON_BYTES_PER_BYTE: usize = 6;
/// All that is in a question but for what clients and their certificates say.
const FRAME_BYTES: usize = 1024;

/// What a service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::access) enum Event {
    /// Whether a client may come in.
    Connect,
    /// Whether one that was let in may stay. There is no password.
    Renew,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Renew => "renew",
        }
    }
}

/// A question in the order in which it is written.
#[derive(Serialize)]
struct Question<'a> {
    event: &'static str,
    username: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_base64: Option<&'a str>,
    clientid: &'a str,
    peerhost: &'a str,
    listener: &'a str,
    #[serde(flatten)]
    certificate: Certificate<'a>,
}

/// What the certificate says that the client has shown, if it has.
struct Certificate<'a>(Option<&'a CertificateFields>);

impl<'a> Certificate<'a> {
    fn members(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        self.0.into_iter().flat_map(CertificateFields::iter).map(|(field, text)| (name_of(field), text))
    }
}

impl Serialize for Certificate<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.members())
    }
}

fn name_of(field: CertificateField) -> &'static str {
    match field {
        CertificateField::CommonName => "cert_common_name",
        CertificateField::Subject => "cert_subject",
        CertificateField::Dns => "cert_dns",
        CertificateField::Uri => "cert_uri",
        CertificateField::Email => "cert_email",
        CertificateField::Serial => "cert_serial",
        CertificateField::Fingerprint => "cert_fingerprint_sha256",
    }
}

/// Returns the type of a question's body.
pub(super) fn content_type(format: HttpFormat) -> &'static str {
    match format {
        HttpFormat::Json => "application/json",
        HttpFormat::Form => "application/x-www-form-urlencoded",
    }
}

/// Writes the body of a question about a client that is at `peerhost` and came by `listener`.
pub(super) fn body(
    format: HttpFormat,
    event: Event,
    credentials: &Credentials,
    peerhost: &str,
    listener: &str,
) -> Bytes {
    let has_password = event == Event::Connect;
    let text = std::str::from_utf8(&credentials.password).ok().filter(|_| has_password);
    let is_binary = has_password && text.is_none();
    let encoded = is_binary.then(|| Zeroizing::new(STANDARD.encode(&*credentials.password)));
    let question = Question {
        event: event.name(),
        username: &credentials.user,
        password: text,
        password_base64: encoded.as_deref().map(String::as_str),
        clientid: &credentials.client_id,
        peerhost,
        listener,
        certificate: Certificate(credentials.certificate.as_deref()),
    };
    // Written where there is room for all of it, so that no copy is left behind.
    let certified: usize = question.certificate.members().map(|(_, text)| text.len()).sum();
    let said =
        credentials.user.len() + credentials.client_id.len() + 2 * credentials.password.len() + certified;
    let room = JSON_BYTES_PER_BYTE * (said + peerhost.len() + listener.len()) + FRAME_BYTES;
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    match format {
        HttpFormat::Json => question.write_json(&mut body),
        HttpFormat::Form => question.write_form(&credentials.password, &mut body),
    }
    Bytes::from_owner(body)
}

impl Question<'_> {
    fn write_json(&self, body: &mut Vec<u8>) {
        // Texts can be written, and a vector takes them.
        let _ = serde_json::to_writer(body, self);
    }

    fn write_form(&self, password: &[u8], body: &mut Vec<u8>) {
        let has_password = self.password.is_some() || self.password_base64.is_some();
        let fields = [
            ("event", Some(self.event.as_bytes())),
            ("username", Some(self.username.as_bytes())),
            ("password", Some(password).filter(|_| has_password)),
            ("clientid", Some(self.clientid.as_bytes())),
            ("peerhost", Some(self.peerhost.as_bytes())),
            ("listener", Some(self.listener.as_bytes())),
        ];
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (name, value) in
            fields.chain(self.certificate.members().map(|(name, text)| (name, text.as_bytes())))
        {
            if !body.is_empty() {
                body.push(b'&');
            }
            body.extend_from_slice(name.as_bytes());
            body.push(b'=');
            value.iter().for_each(|byte| write_encoded(*byte, body));
        }
    }
}

/// Writes a byte of a form as the URL standard of the WHATWG does (section 5.2).
fn write_encoded(byte: u8, body: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    match byte {
        b' ' => body.push(b'+'),
        b'*' | b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => body.push(byte),
        _ => body.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use veilmq_core::EntranceId;

    use super::*;

    fn text(format: HttpFormat, event: Event, password: &[u8]) -> String {
        text_with(format, event, password, None)
    }

    fn text_with(
        format: HttpFormat,
        event: Event,
        password: &[u8],
        certificate: Option<CertificateFields>,
    ) -> String {
        let credentials = Credentials {
            entrance: EntranceId::default(),
            peer: "192.0.2.7:50123".into(),
            client_id: "c \"1\"".into(),
            user: "ann&b=ü".into(),
            password: password.to_vec().into(),
            certificate: certificate.map(Arc::new),
        };
        let body = body(format, event, &credentials, "192.0.2.7", "0.0.0.0:1883");
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[test]
    fn questions_are_these_bytes() {
        for (format, event, password, expected) in [
            (
                HttpFormat::Json,
                Event::Connect,
                &b"se\\cret"[..],
                r#"{"event":"connect","username":"ann&b=ü","password":"se\\cret","clientid":"c \"1\"","peerhost":"192.0.2.7","listener":"0.0.0.0:1883"}"#,
            ),
            (
                HttpFormat::Json,
                Event::Connect,
                &[0xFF, 0],
                r#"{"event":"connect","username":"ann&b=ü","password_base64":"/wA=","clientid":"c \"1\"","peerhost":"192.0.2.7","listener":"0.0.0.0:1883"}"#,
            ),
            (
                HttpFormat::Json,
                Event::Renew,
                b"",
                r#"{"event":"renew","username":"ann&b=ü","clientid":"c \"1\"","peerhost":"192.0.2.7","listener":"0.0.0.0:1883"}"#,
            ),
            (
                HttpFormat::Form,
                Event::Connect,
                b"a b+\xFF",
                "event=connect&username=ann%26b%3D%C3%BC&password=a+b%2B%FF&clientid=c+%221%22&peerhost=192.0.2.7&listener=0.0.0.0%3A1883",
            ),
            (
                HttpFormat::Form,
                Event::Renew,
                b"",
                "event=renew&username=ann%26b%3D%C3%BC&clientid=c+%221%22&peerhost=192.0.2.7&listener=0.0.0.0%3A1883",
            ),
        ] {
            assert_eq!(text(format, event, password), expected);
        }
    }

    #[test]
    fn a_question_says_what_the_certificate_says() {
        let said = CertificateField::ALL.map(|field| (field, format!("\"{}\" & co", field.name()).into()));
        let json = concat!(
            r#","cert_common_name":"\"cn\" & co","cert_subject":"\"subject\" & co","cert_dns":"\"dns\" & co""#,
            r#","cert_uri":"\"uri\" & co","cert_email":"\"email\" & co","cert_serial":"\"serial\" & co""#,
            r#","cert_fingerprint_sha256":"\"fingerprint\" & co"}"#
        );
        let form = "&cert_subject=CN%3Dm7&cert_serial=01";
        let subject = [(CertificateField::Subject, "CN=m7".into()), (CertificateField::Serial, "01".into())];
        for (format, certificate, expected) in [
            (HttpFormat::Json, CertificateFields::new(said), json),
            (HttpFormat::Form, CertificateFields::new(subject), form),
        ] {
            let without = text(format, Event::Connect, b"p");
            let with = text_with(format, Event::Connect, b"p", Some(certificate));

            let same = without.strip_suffix('}').unwrap_or(&without);
            assert_eq!(with.strip_prefix(same), Some(expected));
        }
    }
}
