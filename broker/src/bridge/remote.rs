//! The connection to the other broker: TCP, or TLS over it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use veilmq_config::{BridgeConfig, RemoteAddress};

use super::tls;

/// How long an address may take to answer, and the TLS handshake.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// What a connection to the other broker can do.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Connects to one of the addresses of a bridge.
///
/// # Errors
/// What the operating system or the other side answered, or that it took too long.
pub(super) async fn connect(config: &BridgeConfig, address: &RemoteAddress) -> io::Result<Box<dyn Duplex>> {
    match timeout(CONNECT_MAX, connect_patiently(config, address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Tells whether anybody takes connections at an address.
pub(super) async fn answers(config: &BridgeConfig, address: &RemoteAddress) -> bool {
    matches!(timeout(CONNECT_MAX, connect_tcp(config, address)).await, Ok(Ok(_)))
}

async fn connect_patiently(config: &BridgeConfig, address: &RemoteAddress) -> io::Result<Box<dyn Duplex>> {
    let stream = connect_tcp(config, address).await?;
    let Some(tls) = &config.tls else { return Ok(Box::new(stream)) };
    let client = tls::client_config(tls).map_err(io::Error::other)?;
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(client).connect(name, stream).await?))
}

async fn connect_tcp(config: &BridgeConfig, address: &RemoteAddress) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for found in lookup_host((address.host.as_str(), address.port)).await? {
        match connect_to(config, found).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn connect_to(config: &BridgeConfig, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(own) = config.bind_address {
        socket.bind(SocketAddr::new(own, 0))?;
    }
    // Without it a small packet may wait for the acknowledgement of the one before.
    socket.set_nodelay(true)?;
    if let Some(asking) = config.tcp_keep_alive {
        let seconds = |seconds: u16| Duration::from_secs(seconds.into());
        let keep_alive = TcpKeepalive::new()
            .with_time(seconds(asking.idle_seconds))
            .with_interval(seconds(asking.interval_seconds))
            .with_retries(asking.count.into());
        SockRef::from(&socket).set_tcp_keepalive(&keep_alive)?;
    }
    if let Some(milliseconds) = config.tcp_user_timeout_milliseconds {
        let timeout = Duration::from_millis(milliseconds.into());
        SockRef::from(&socket).set_tcp_user_timeout(Some(timeout))?;
    }
    socket.connect(address).await
}
