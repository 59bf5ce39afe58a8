//! The options of what MQTT is carried by.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use veilmq_protocol::ProtocolVersion;

use super::{ArgumentError, Protocol};
use crate::link::{TlsTransport, Transport, VeilTransport};

/// How clients reach the broker.
#[derive(Debug, Args)]
pub(super) struct TransportArguments {
    /// What MQTT is carried by.
    #[arg(long, value_enum, default_value = "tcp")]
    transport: TransportKind,
    /// PEM file of the certificates that TLS trusts.
    #[arg(long, value_name = "FILE", required_if_eq("transport", "tls"))]
    ca: Option<PathBuf>,
    /// Name that the broker's TLS certificate must have.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    tls_name: String,
    /// Let TLS connections resume the sessions of earlier ones.
    #[arg(long)]
    tls_resume: bool,
    /// Authority that the broker trusts and that certifies the clients of VEIL-1 channels: NAME.vmc and NAME.key, as `veil ca
    /// init` makes them.
    #[arg(long, value_name = "NAME", required_if_eq("transport", "veil"))]
    veil_authority: Option<PathBuf>,
    /// Certificate of the broker for VEIL-1 channels, or of the authority that certified it.
    #[arg(long, value_name = "FILE", required_if_eq("transport", "veil"))]
    veil_broker: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TransportKind {
    Tcp,
    Tls,
    Veil,
}

impl TransportArguments {
    /// What was asked for, its files read.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(super) fn transport(&self) -> Result<Transport, ArgumentError> {
        match (self.transport, &self.ca, &self.veil_authority, &self.veil_broker) {
            (TransportKind::Tls, Some(ca), ..) => {
                Ok(Transport::Tls(Arc::new(TlsTransport::load(ca, &self.tls_name, self.tls_resume)?)))
            }
            (TransportKind::Veil, _, Some(authority), Some(broker)) => {
                Ok(Transport::Veil(Arc::new(VeilTransport::load(authority, broker)?)))
            }
            // Without its files, which clap asks for, only TCP is left.
            _ => Ok(Transport::Tcp),
        }
    }

    /// VEIL-1 needs the AUTH packet, which MQTT 3 lacks.
    pub(super) fn version(&self, asked: Option<Protocol>) -> ProtocolVersion {
        match (self.transport, asked) {
            (TransportKind::Veil, _) => ProtocolVersion::V5,
            (_, asked) => asked.unwrap_or(Protocol::V311).version(),
        }
    }
}
