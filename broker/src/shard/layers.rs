//! What lies between the bytes of a socket and MQTT, from below: a PROXY header, TLS, WebSocket.
//!
//! Each layer is plain data without a socket; here they are stacked.

use std::io::{self, IoSlice};
use std::sync::Arc;

use veilmq_config::{ListenerProtocol, ProxyProtocolConfig};
use veilmq_core::{CertificateFields, Moment, Outbox};

use super::socket::SLICES_MAX;
use crate::listener::Carrier;
use crate::proxy::{Proxied, ProxyHeader};
use crate::tls::Tls;
use crate::transport::End;
use crate::websocket::{CloseCode, WebSocket};

/// The layers of one connection, at least one.
pub(super) struct Layers {
    /// The header of a proxy, until it has arrived.
    proxy: Option<(ProxyHeader, Arc<ProxyProtocolConfig>)>,
    /// What the header said, until it is asked for.
    proxied: Option<Box<Proxied>>,
    /// By when the peer has to say anything, if it has a time of its own for that.
    speaks_by: Option<Moment>,
    /// The User Name that the proxy has vouched for, until it is asked for.
    user: Option<Box<str>>,
    /// The rule that the header broke.
    violated: Option<&'static str>,
    tls: Option<Tls>,
    websocket: Option<Box<WebSocket>>,
}

/// There are enough TLS handshakes under way.
pub(super) struct TooManyHandshakes;

impl Layers {
    /// Makes the layers that a listener asks for, if it asks for any.
    pub(super) fn of(carrier: &Carrier) -> Result<Option<Box<Self>>, TooManyHandshakes> {
        let tls = match &carrier.tls {
            None => None,
            Some(acceptor) => Some(acceptor.begin().ok_or(TooManyHandshakes)?),
        };
        let websocket = match carrier.protocol {
            // The HTTP API's connections come to no shard.
            ListenerProtocol::Mqtt | ListenerProtocol::HttpApi => None,
            ListenerProtocol::WebSocket => {
                let message_bytes_max = carrier.message_bytes_max;
                Some(Box::new(WebSocket::new(message_bytes_max, carrier.origins.clone())))
            }
        };
        let proxy = carrier.proxies.as_ref().map(|config| (ProxyHeader::default(), Arc::clone(config)));
        let is_needed = proxy.is_some() || tls.is_some() || websocket.is_some();
        Ok(is_needed.then(|| {
            Box::new(Self {
                proxy,
                proxied: None,
                speaks_by: None,
                user: None,
                violated: None,
                tls,
                websocket,
            })
        }))
    }

    /// Takes in what was read, and returns the bytes for MQTT: some of it, or what was decrypted into `plaintext`, which was empty.
    pub(super) fn receive<'a>(&mut self, bytes: &'a mut [u8], plaintext: &'a mut Vec<u8>) -> &'a mut [u8] {
        self.speaks_by = None;
        let bytes = self.take_header(bytes);
        let bytes = match &mut self.tls {
            None => bytes,
            Some(tls) => {
                tls.receive(bytes, plaintext);
                plaintext
            }
        };
        match &mut self.websocket {
            None => bytes,
            Some(websocket) => {
                let packets = websocket.receive(bytes);
                &mut bytes[packets]
            }
        }
    }

    /// Takes the header of a proxy in, and returns what follows it.
    fn take_header<'a>(&mut self, bytes: &'a mut [u8]) -> &'a mut [u8] {
        let Some((header, config)) = &mut self.proxy else { return bytes };
        match header.receive(bytes) {
            Ok(Some(mut proxied)) => {
                let (user, consumed) = (proxied.user(config), proxied.consumed);
                (self.proxied, self.proxy) = (Some(Box::new(proxied)), None);
                match user {
                    Ok(user) => {
                        self.user = user;
                        bytes.get_mut(consumed..).unwrap_or_default()
                    }
                    Err(rule) => {
                        self.violated = Some(rule);
                        &mut []
                    }
                }
            }
            Ok(None) => &mut [],
            Err(rule) => {
                self.violated = Some(rule);
                &mut []
            }
        }
    }

    /// Returns, once, what the proxy says of the client.
    pub(super) fn take_proxied(&mut self) -> Option<Box<Proxied>> {
        self.proxied.take()
    }

    /// Gives the peer so long to say anything.
    pub(super) fn speak_by(&mut self, deadline: Moment) {
        self.speaks_by = Some(deadline);
    }

    /// Returns by when the peer has to say anything, if it has a time of its own for that and has not.
    pub(super) fn speaks_by(&self) -> Option<Moment> {
        self.speaks_by
    }

    /// Returns, once, the User Name that a layer has proved.
    pub(super) fn take_user(&mut self) -> Option<Box<str>> {
        self.user.take().or_else(|| self.tls.as_mut()?.take_user())
    }

    /// Returns, once, what the certificate says that the client has shown.
    pub(super) fn take_certificate(&mut self) -> Option<Arc<CertificateFields>> {
        self.tls.as_mut()?.take_fields()
    }

    /// Tells whether the client may still be connected, as far as it has proved who it is.
    pub(super) fn is_still_trusted(&self) -> bool {
        self.tls.as_ref().is_none_or(Tls::is_still_trusted)
    }

    /// Tells why no more is taken, if so. What came before the end of one layer still counts in the layers above.
    pub(super) fn end(&self) -> Option<End> {
        let of_websocket = self.websocket.as_ref().and_then(|websocket| websocket.end());
        of_websocket.or_else(|| self.tls.as_ref()?.end()).or(self.violated.map(End::Violated))
    }

    /// Says farewell behind the outbox, in each layer.
    pub(super) fn close(&mut self, code: CloseCode) {
        if let Some(websocket) = &mut self.websocket {
            websocket.close(code);
        }
        if let Some(tls) = &mut self.tls {
            tls.close();
        }
    }

    /// Tells whether there is something to write.
    pub(super) fn has_unsent(&self, outbox: &Outbox) -> bool {
        let has_content = match &self.websocket {
            None => !outbox.is_empty(),
            Some(websocket) => websocket.has_unsent(outbox),
        };
        match &self.tls {
            None => has_content,
            Some(tls) => tls.has_unsent(has_content),
        }
    }

    /// Makes one write with `write`, and returns how many bytes it took.
    pub(super) fn write_once(
        &mut self,
        outbox: &mut Outbox,
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let Self { tls, websocket, .. } = self;
        match tls {
            None => content(outbox, websocket, write),
            Some(tls) => {
                if tls.unsent().is_empty() {
                    content(outbox, websocket, |slices| {
                        Ok(tls.seal(slices).ok_or(io::ErrorKind::BrokenPipe)?)
                    })?;
                }
                let bytes = write(&[IoSlice::new(tls.unsent())])?;
                tls.advance(bytes);
                Ok(bytes)
            }
        }
    }
}

/// Shows `take` what waits, inside the frames of a WebSocket if there is one, and takes note of how many bytes it took.
fn content(
    outbox: &mut Outbox,
    websocket: &mut Option<Box<WebSocket>>,
    take: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut slices: Vec<IoSlice<'_>> = Vec::new();
    match websocket {
        None => {
            outbox.slices(&mut slices, SLICES_MAX, usize::MAX);
            let bytes = take(&slices)?;
            outbox.advance(bytes);
            Ok(bytes)
        }
        Some(websocket) => {
            websocket.slices(outbox, &mut slices, SLICES_MAX);
            let bytes = take(&slices)?;
            outbox.advance(websocket.advance(bytes));
            Ok(bytes)
        }
    }
}
