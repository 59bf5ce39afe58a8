//! TLS under MQTT and WebSocket (RFC 8446, RFC 5246): what one connection has to remember between reads and writes.
//!
//! Bytes in, bytes out, no socket: it is plain data, and moves with its connection. Records are opened as they were read and sealed
//! as they are written, so an idle connection holds keys and no buffer: what is kept of a read is a record that has not arrived in
//! full, what is kept of a write is what the socket did not take. Renegotiation is refused, and nothing is taken early (0-RTT).
//! Invariant: MQTT sees the bytes that the peer sent inside authentic records, all of them, in order, and nothing else.

mod acceptor;
mod authorities;
mod certificate;
mod client_certificates;
mod keeper;
pub(crate) mod plain;
mod stats;

use std::io::IoSlice;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, Error, HandshakeKind};
use tracing::debug;
use veilmq_core::CertificateFields;

use acceptor::Verifier;
pub use acceptor::{TlsAcceptor, TlsError};
pub(crate) use acceptor::{certified_key, read_certificates, read_key};
pub(crate) use authorities::read_trust;
pub use keeper::{Reading, TlsKeeper};

use crate::transport::End;
use stats::Handshake;

/// The most bytes that are kept of what has arrived and cannot be used yet: a handshake message of 64 KiB and a record.
const HELD_BYTES_MAX: usize = 96 * 1024;
/// The most bytes that are sealed at one time.
const SEALED_BYTES_MAX: usize = 64 * 1024;
/// The most bytes in one record (RFC 8446 section 5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What a record has beside its content, and room for a key update before it.
const RECORD_OVERHEAD_BYTES: usize = 128;
/// Room for the records of a handshake.
const FLIGHT_BYTES: usize = 4 * 1024;

/// What is said of a client whose certificate is no longer good for its listener.
pub(crate) const DISTRUSTED: &str = "the client certificate is no longer accepted";

/// TLS on one connection.
pub(crate) struct Tls {
    session: UnbufferedServerConnection,
    acceptor: Arc<TlsAcceptor>,
    /// What verifies the peer's certificate in the handshake.
    verifier: Option<Verifier>,
    /// The front of a record, or of a handshake message, that has not arrived in full.
    held: Vec<u8>,
    /// Records that the socket did not take yet.
    unsent: Vec<u8>,
    written: usize,
    /// Counts the handshake for as long as it is under way.
    handshake: Option<Handshake>,
    /// The User Name that the peer's certificate proves, until it is asked for.
    user: Option<Box<str>>,
    /// What that certificate says, until it is asked for.
    fields: Option<Arc<CertificateFields>>,
    farewell: Farewell,
    end: Option<End>,
}

/// What an idle TLS connection costs beside what rustls keeps behind pointers.
const TLS_BYTES_MAX: usize = 2_048;
const _: () = assert!(size_of::<Tls>() <= TLS_BYTES_MAX);

/// How far the connection is from its close_notify.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Farewell {
    NotDue,
    /// It follows all else.
    Due,
    Said,
}

impl Tls {
    fn new(
        session: UnbufferedServerConnection,
        acceptor: Arc<TlsAcceptor>,
        verifier: Option<Verifier>,
        handshake: Handshake,
    ) -> Self {
        Self {
            session,
            acceptor,
            verifier,
            held: Vec::new(),
            unsent: Vec::new(),
            written: 0,
            handshake: Some(handshake),
            user: None,
            fields: None,
            farewell: Farewell::NotDue,
            end: None,
        }
    }

    /// Takes in what was read and appends what the peer has sent in it to `plaintext`.
    pub(crate) fn receive(&mut self, bytes: &mut [u8], plaintext: &mut Vec<u8>) {
        if self.end.is_some() {
            return;
        }
        let opened = if self.held.is_empty() {
            let opened = self.open(bytes, plaintext);
            self.held = bytes.get(opened.consumed..).unwrap_or_default().to_vec();
            opened.result
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(bytes);
            let opened = self.open(&mut held, plaintext);
            held.drain(..opened.consumed.min(held.len()));
            held.shrink_to_fit();
            self.held = held;
            opened.result
        };
        match opened {
            Ok(()) if self.held.len() > HELD_BYTES_MAX => {
                self.violated("a TLS handshake message that is too long");
            }
            Ok(()) => {}
            Err(error) => self.refuse(&error),
        }
        if !self.session.is_handshaking()
            && !matches!(self.end, Some(End::Violated(_)))
            && let Some(handshake) = self.handshake.take()
        {
            let kind = self.session.handshake_kind();
            let (version, suite) = (self.session.protocol_version(), self.session.negotiated_cipher_suite());
            debug!(?version, ?suite, ?kind, "TLS is established");
            handshake.succeeded(kind == Some(HandshakeKind::Resumed));
            // The files may have changed while the handshake was under way.
            if self.is_still_trusted() {
                self.find_owner();
            } else {
                self.violated(DISTRUSTED);
            }
        }
    }

    /// Opens every whole record at the front of `bytes`.
    fn open(&mut self, bytes: &mut [u8], plaintext: &mut Vec<u8>) -> Opened {
        let mut consumed = 0;
        loop {
            let Some(rest) = bytes.get_mut(consumed..) else { return Opened { consumed, result: Ok(()) } };
            let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(rest);
            let is_done = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        plaintext.extend_from_slice(record.payload);
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.unsent);
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.end = Some(End::Closed);
                    true
                }
                Ok(_) => true,
                Err(error) => return Opened { consumed: consumed + discard, result: Err(error) },
            };
            consumed += discard;
            if is_done {
                return Opened { consumed, result: Ok(()) };
            }
        }
    }

    /// Ends the connection for what its peer did; the alert that rustls has for it is still sent.
    fn refuse(&mut self, error: &Error) {
        debug!(%error, "TLS");
        self.held = Vec::new();
        while self.session.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                self.session.process_tls_records(&mut []).state
        {
            encode(&mut data, &mut self.unsent);
        }
        self.farewell = Farewell::Said;
        self.violated(rule(error));
    }

    fn violated(&mut self, rule: &'static str) {
        self.held = Vec::new();
        self.end = Some(End::Violated(rule));
    }

    /// Finds out whose the peer's certificate is, if it has shown one.
    fn find_owner(&mut self) {
        let Some(certificate) = self.session.peer_certificates().and_then(<[_]>::first) else { return };
        self.fields = Some(Arc::new(certificate::fields(certificate)));
        match self.acceptor.user_name_of(certificate) {
            Ok(user) => self.user = user,
            Err(rule) => self.violated(rule),
        }
    }

    /// Returns, once, the User Name that the peer's certificate proves.
    pub(crate) fn take_user(&mut self) -> Option<Box<str>> {
        self.user.take()
    }

    /// Returns, once, what the certificate says that the peer has shown.
    pub(crate) fn take_fields(&mut self) -> Option<Arc<CertificateFields>> {
        self.fields.take()
    }

    /// Tells why no more is taken from it, if so.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// Tells whether the certificate that the peer has shown, if any, is still good for this listener.
    pub(crate) fn is_still_trusted(&self) -> bool {
        self.session
            .peer_certificates()
            .is_none_or(|chain| self.acceptor.trusts(chain, self.verifier.as_ref()))
    }

    /// Says farewell behind all else.
    pub(crate) fn close(&mut self) {
        if self.farewell == Farewell::NotDue {
            self.farewell = Farewell::Due;
        }
    }

    /// Tells whether something can be written, of what waits inside (`has_content`) or of its own.
    pub(crate) fn has_unsent(&self, has_content: bool) -> bool {
        let can_seal = self.can_seal() && (has_content || self.farewell == Farewell::Due);
        !self.unsent.is_empty() || can_seal
    }

    fn can_seal(&self) -> bool {
        self.handshake.is_none() && self.farewell != Farewell::Said
    }

    /// Returns the records that wait for the socket.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.unsent.get(self.written..).unwrap_or_default()
    }

    /// Takes note that `bytes` bytes of them were written. The last one frees their buffer.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= self.unsent.len() {
            self.unsent = Vec::new();
            self.written = 0;
        }
    }

    /// Seals the front of what waits, and returns how many bytes of it that was; without anything left, the farewell if it is due.
    /// None if nothing more can be sealed on this connection.
    pub(crate) fn seal(&mut self, slices: &[IoSlice<'_>]) -> Option<usize> {
        if !self.can_seal() {
            return None;
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let length = total.min(SEALED_BYTES_MAX);
        if length == 0 {
            return self.say_farewell();
        }
        let gathered: Vec<u8>;
        let content = match slices {
            [slice] => slice.get(..length)?,
            slices => {
                gathered = gather(slices, length);
                gathered.as_slice()
            }
        };
        self.unsent.reserve_exact(length + content.len().div_ceil(RECORD_BYTES_MAX) * RECORD_OVERHEAD_BYTES);
        self.encrypt(content)?;
        Some(length)
    }

    fn encrypt(&mut self, content: &[u8]) -> Option<()> {
        let unsent = &mut self.unsent;
        with_traffic(&mut self.session, &mut self.held, unsent, |traffic, unsent| {
            for record in content.chunks(RECORD_BYTES_MAX) {
                append(unsent, record.len() + RECORD_OVERHEAD_BYTES, |buffer| {
                    traffic.encrypt(record, buffer).map_err(|error| size_needed(&error))
                })?;
            }
            Some(())
        })
    }

    fn say_farewell(&mut self) -> Option<usize> {
        if self.farewell == Farewell::Due {
            self.farewell = Farewell::Said;
            with_traffic(&mut self.session, &mut self.held, &mut self.unsent, |traffic, unsent| {
                append(unsent, RECORD_OVERHEAD_BYTES, |buffer| {
                    traffic.queue_close_notify(buffer).map_err(|error| size_needed(&error))
                })
            })?;
        }
        Some(0)
    }
}

/// What came of opening records.
struct Opened {
    /// How many bytes from the front are done with.
    consumed: usize,
    result: Result<(), Error>,
}

type Traffic<'a> = rustls::unbuffered::WriteTraffic<'a, rustls::server::ServerConnectionData>;

/// Has `write` seal content, after whatever the session has to send of its own. rustls wants to see the bytes that are held again.
fn with_traffic<T>(
    session: &mut UnbufferedServerConnection,
    held: &mut Vec<u8>,
    unsent: &mut Vec<u8>,
    write: impl FnOnce(&mut Traffic<'_>, &mut Vec<u8>) -> Option<T>,
) -> Option<T> {
    loop {
        let UnbufferedStatus { discard, state } = session.process_tls_records(held);
        match state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let written = write(&mut traffic, unsent);
                held.drain(..discard.min(held.len()));
                return written;
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, unsent),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            Ok(_) | Err(_) => return None,
        }
        held.drain(..discard.min(held.len()));
    }
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, unsent: &mut Vec<u8>) {
    append(unsent, FLIGHT_BYTES, |buffer| {
        data.encode(buffer).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => Some(size.required_size),
            EncodeError::AlreadyEncoded => None,
        })
    });
    unsent.shrink_to_fit();
}

fn size_needed(error: &EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Appends what `put` writes, which tells how much it wrote, or how much room it needs. None if it cannot.
fn append(
    into: &mut Vec<u8>,
    room_bytes: usize,
    mut put: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Option<usize> {
    let start = into.len();
    let mut room_bytes = room_bytes;
    loop {
        into.resize(start + room_bytes, 0);
        let buffer = into.get_mut(start..)?;
        match put(buffer) {
            Ok(bytes) => {
                into.truncate(start + bytes);
                return Some(bytes);
            }
            Err(Some(needed)) if needed > room_bytes => room_bytes = needed,
            Err(_) => {
                into.truncate(start);
                return None;
            }
        }
    }
}

fn gather(slices: &[IoSlice<'_>], length: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(length);
    for slice in slices {
        let room = length - content.len();
        content.extend_from_slice(slice.get(..room).unwrap_or(slice));
    }
    content
}

/// Returns what the peer did wrong, for the log.
fn rule(error: &Error) -> &'static str {
    match error {
        Error::InvalidMessage(_) => "not TLS, or a malformed TLS record",
        Error::PeerIncompatible(_) => "no version or cipher suite of TLS in common",
        Error::PeerMisbehaved(_) => "a TLS message that breaks the protocol",
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "a TLS message out of its place"
        }
        Error::DecryptError => "a TLS record that is not authentic",
        Error::PeerSentOversizedRecord => "a TLS record that is too long",
        Error::NoCertificatesPresented => "no client certificate, and the listener requires one",
        Error::InvalidCertificate(CertificateError::Revoked) => "the client certificate is revoked",
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the client certificate has expired"
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "no trusted authority has issued the client certificate"
        }
        Error::InvalidCertificate(_) => "the client certificate cannot be verified",
        Error::AlertReceived(AlertDescription::UnknownCA) => {
            "the client does not know the authority of our certificate"
        }
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown,
        ) => "the client does not accept our certificate",
        Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the client does not speak our versions of TLS"
        }
        Error::AlertReceived(_) => "the client has ended TLS with an alert",
        _ => "TLS failed",
    }
}

#[cfg(test)]
mod tests;
