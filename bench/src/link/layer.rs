//! What lies between MQTT and the socket: nothing, TLS, or the records of a VEIL-1 channel.

use std::fmt;
use std::sync::Arc;

use veilmq_protocol::veil::channel::{Established, Operations};

use super::LinkError;
use super::buffers::{Inbox, Outbox, Window};
use super::tls::{TlsLayer, TlsTransport};
use super::veil::{VeilLayer, VeilTransport};

/// How a broker is reached.
#[derive(Clone)]
pub(crate) enum Transport {
    Tcp,
    Tls(Arc<TlsTransport>),
    Veil(Arc<VeilTransport>),
}

impl Transport {
    /// Its name on the command line and in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
            Self::Veil(_) => "veil",
        }
    }

    /// The same for one client of many, which keeps what it may resume to itself.
    pub(crate) fn for_one_client(&self) -> Self {
        match self {
            Self::Tcp | Self::Veil(_) => self.clone(),
            Self::Tls(transport) => Self::Tls(Arc::new(transport.for_one_client())),
        }
    }

    /// The words of a command line that ask for it.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = vec![format!("--transport={}", self.name())];
        words.extend(match self {
            Self::Tcp => vec![],
            Self::Tls(transport) => transport.words(),
            Self::Veil(transport) => transport.words(),
        });
        words
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

pub(super) enum Layer {
    None,
    Tls(Box<TlsLayer>),
    Veil(Box<VeilLayer>),
}

impl Layer {
    /// The layer that a connection begins with. A VEIL-1 channel begins with CONNACK.
    pub(super) fn new(transport: &Transport) -> Result<Self, LinkError> {
        match transport {
            Transport::Tcp | Transport::Veil(_) => Ok(Self::None),
            Transport::Tls(transport) => Ok(Self::Tls(Box::new(transport.layer()?))),
        }
    }

    /// The records of a channel; `peer_bytes_max` and `own_bytes_max` are the largest packets of either side.
    pub(super) fn of_channel(established: Established, peer_bytes_max: usize, own_bytes_max: usize) -> Self {
        Self::Veil(Box::new(VeilLayer::new(established, peer_bytes_max, own_bytes_max)))
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.is_handshaking())
    }

    pub(super) fn is_resumed(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.is_resumed())
    }

    /// The operations on records of a channel since they were last taken; none without one.
    pub(super) fn take_operations(&mut self) -> Operations {
        match self {
            Self::None | Self::Tls(_) => Operations::default(),
            Self::Veil(channel) => channel.take_operations(),
        }
    }

    /// Says that nothing more is sent, where that is said; [`Layer::seal`] brings it out.
    pub(super) fn close(&mut self) {
        match self {
            Self::None | Self::Veil(_) => {}
            Self::Tls(tls) => tls.close(),
        }
    }

    /// Moves what is queued into what is sealed. Without a layer both stay as they are.
    pub(super) fn seal(&mut self, outbox: &mut Outbox, sealed: &mut Outbox) -> Result<(), LinkError> {
        match self {
            Self::None => Ok(()),
            Self::Tls(tls) => tls.seal(outbox, sealed),
            Self::Veil(channel) => channel.seal(outbox, sealed),
        }
    }

    /// Moves what can be opened into the inbox.
    pub(super) fn open(&mut self, received: &mut Window, inbox: &mut Inbox) -> Result<(), LinkError> {
        match self {
            Self::None => Ok(()),
            Self::Tls(tls) => tls.open(received, inbox),
            Self::Veil(channel) => channel.open(received, inbox),
        }
    }
}
