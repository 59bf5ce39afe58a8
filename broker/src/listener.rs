//! Listening sockets: one per shard. For TCP they share an address, so that the kernel spreads connections over the shards; of a Unix
//! socket all shards have the same one. Both are the ordered, lossless stream of bytes that MQTT asks for ([MQTT-4.2-1],
//! [MQTT311-7.1.1-1]).
//!
//! Invariant: an address that another process listens on is refused, although our own sockets share theirs.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio::sync::watch;
use veilmq_config::{FileMode, ListenAddress, ListenerConfig, ListenerProtocol, ProxyProtocolConfig};
use veilmq_core::{ConnectionId, EntranceId, Input, Promise};

use crate::files::FileError;
use crate::shard::ConnectionLimit;
use crate::tls::TlsAcceptor;

/// How many connections may wait in the kernel for each shard.
pub(crate) const BACKLOG: i32 = 1_024;

/// How long a client may be silent before the kernel asks whether it is still there, how often it asks then, and how often in all. A
/// client without a Keep Alive that is gone without a word is found out in this way, after some eight minutes.
const TCP_IDLE: Duration = Duration::from_secs(300);
const TCP_INTERVAL: Duration = Duration::from_secs(60);
const TCP_PROBES: u32 = 3;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// It is not ours, or not free.
    #[error("cannot listen on {address}: {source}")]
    Address {
        /// The address.
        address: ListenAddress,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The network interface is not there.
    #[error("cannot listen on {address} by the network interface {interface}: {source}")]
    Interface {
        /// The address.
        address: ListenAddress,
        /// The interface.
        interface: String,
        /// What the operating system answered.
        source: io::Error,
    },
}

impl ListenError {
    /// Tells whether the address is one of IPv6 and this machine has none.
    pub fn is_absent_ipv6(&self) -> bool {
        let Self::Address { address, source } = self else { return false };
        let is_absent = source.kind() == io::ErrorKind::AddrNotAvailable
            || source.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32);
        address.tcp().is_some_and(|address| address.is_ipv6()) && is_absent
    }

    /// Returns the network interface at fault.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Interface { interface, .. } => Some(interface),
            Self::Address { .. } => None,
        }
    }
}

/// An address that is listened on.
pub struct Bound {
    /// The address, with the port that was chosen for port 0.
    pub address: ListenAddress,
    /// One socket for each shard.
    pub sockets: Vec<ListeningSocket>,
}

/// A listening socket.
#[derive(Debug)]
pub enum ListeningSocket {
    /// One of TCP.
    Tcp(TcpListener),
    /// A Unix socket, with what log lines call its clients.
    Unix(UnixListener, Arc<str>),
}

/// A listening socket of one shard, or of the HTTP API.
pub struct Listener {
    /// The socket.
    pub socket: ListeningSocket,
    /// What carries MQTT on its connections. It may change; without anybody who could change it the listener is gone.
    pub carrier: watch::Receiver<Arc<Carrier>>,
}

/// What carries MQTT on the connections of a listener.
#[derive(Clone)]
pub struct Carrier {
    /// The topmost protocol.
    pub protocol: ListenerProtocol,
    /// The origins of web pages that may connect by WebSocket, unless all may.
    pub origins: Option<Arc<[String]>>,
    /// The largest WebSocket message, in bytes.
    pub message_bytes_max: usize,
    /// TLS below that, if any.
    pub tls: Option<Arc<TlsAcceptor>>,
    /// Below all else a PROXY header, if any, from which networks, and what it has to say.
    pub proxies: Option<Arc<ProxyProtocolConfig>>,
    /// The number of the listener.
    pub entrance: EntranceId,
    /// What acknowledgements promise there.
    pub promise: Promise,
    /// How many there may be, if the listener has a limit of its own.
    pub limit: Option<ConnectionLimit>,
    /// The port, for log lines; 0 without one.
    pub port: u16,
    /// The files that the HTTP API serves, if any.
    pub http_directory: Option<Arc<Path>>,
}

impl Carrier {
    /// Says that a connection was accepted there.
    pub(crate) fn accepted<'a>(&self, connection: ConnectionId, peer: &'a str) -> Input<'a> {
        let (entrance, promise, is_encrypted) = (self.entrance, self.promise, self.tls.is_some());
        Input::Accepted { connection, peer, entrance, promise, is_encrypted }
    }

    /// Tells whether a peer with this address of TCP may connect.
    pub fn takes(&self, peer: IpAddr) -> bool {
        self.proxies
            .as_ref()
            .is_none_or(|proxies| proxies.trusted.iter().any(|network| network.contains(peer)))
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.protocol, self.tls.is_some()) {
            (ListenerProtocol::Mqtt, false) => "MQTT",
            (ListenerProtocol::Mqtt, true) => "MQTT over TLS",
            (ListenerProtocol::WebSocket, false) => "MQTT over WebSocket",
            (ListenerProtocol::WebSocket, true) => "MQTT over secure WebSocket",
            (ListenerProtocol::HttpApi, false) => "the HTTP API",
            (ListenerProtocol::HttpApi, true) => "the HTTP API over TLS",
        })?;
        f.write_str(if self.proxies.is_some() { " behind a proxy" } else { "" })
    }
}

/// The file of a Unix socket, removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it before.
        let _ = fs::remove_file(&self.0);
    }
}

impl SocketFile {
    /// Keeps the file of this address, if it is that of a Unix socket.
    pub fn of(address: &ListenAddress) -> Option<Self> {
        Some(Self(address.unix()?.into()))
    }
}

/// Makes `count` listening sockets for the address of a listener. Port 0 is resolved by the first.
///
/// # Errors
/// Names the address or the network interface, and what the operating system answered.
pub fn bind(listener: &ListenerConfig, sharing: Sharing, count: usize) -> Result<Bound, ListenError> {
    check_interface(listener)?;
    let named = |source| ListenError::Address { address: listener.address.clone(), source };
    let mode = listener.mode.unwrap_or_default();
    match &listener.address {
        ListenAddress::Tcp(address) => {
            bind_tcp(*address, listener.interface.as_deref(), sharing, count).map_err(named)
        }
        ListenAddress::Unix(path) => bind_unix(path, mode, count).map_err(named),
    }
}

/// Looks whether the network interface of a listener is there, if it has one.
///
/// # Errors
/// Names it, and what the operating system answered.
pub fn check_interface(listener: &ListenerConfig) -> Result<(), ListenError> {
    let (Some(interface), Some(address)) = (&listener.interface, listener.address.tcp()) else {
        return Ok(());
    };
    let socket = || Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
    let bound = socket().and_then(|socket| socket.bind_device(Some(interface.as_bytes())));
    let (address, interface) = (listener.address.clone(), interface.clone());
    bound.map_err(|source| ListenError::Interface { address, interface, source })
}

/// Looks whether the folder of a listener's page is there, if it has one.
///
/// # Errors
/// Names the folder.
pub fn check_http_directory(listener: &ListenerConfig) -> Result<(), FileError> {
    let Some(folder) = &listener.http_directory else { return Ok(()) };
    fs::read_dir(folder).map(drop).map_err(|source| FileError::new("read folder", folder, source))
}

/// Gives a Unix socket its permissions.
///
/// # Errors
/// What the operating system answered.
pub fn set_mode(path: &Path, mode: FileMode) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode.0))
}

fn bind_tcp(
    address: SocketAddr,
    interface: Option<&str>,
    sharing: Sharing,
    count: usize,
) -> io::Result<Bound> {
    let first = bind_one(address, interface, sharing)?;
    let address = first.local_addr()?;
    let mut sockets = vec![ListeningSocket::Tcp(first)];
    for _ in 1..count {
        sockets.push(ListeningSocket::Tcp(bind_one(address, interface, Sharing::AtOnce)?));
    }
    Ok(Bound { address: address.into(), sockets })
}

/// When a socket begins to share its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// After it was bound, so that binding fails if anybody else listens there.
    Afterwards,
    /// Before it is bound, so that it joins a socket that we have there.
    AtOnce,
}

fn bind_one(address: SocketAddr, interface: Option<&str>, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    // A restart must not wait for the old connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::AtOnce)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it, which spares a system call for each.
    let keep_alive =
        TcpKeepalive::new().with_time(TCP_IDLE).with_interval(TCP_INTERVAL).with_retries(TCP_PROBES);
    socket.set_tcp_keepalive(&keep_alive)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path, mode: FileMode, count: usize) -> io::Result<Bound> {
    remove_abandoned(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before listen, so nobody does with other permissions.
    set_mode(path, mode)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let first = UnixListener::from(socket);
    let address = ListenAddress::Unix(path.into());
    let name: Arc<str> = Arc::from(address.to_string());
    let mut sockets = Vec::new();
    for _ in 1..count {
        sockets.push(ListeningSocket::Unix(first.try_clone()?, Arc::clone(&name)));
    }
    sockets.push(ListeningSocket::Unix(first, name));
    Ok(Bound { address, sockets })
}

/// Removes the socket that a broker left behind which did not end in order; one that somebody listens on, and any other file, stays.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::from(Errno::EADDRINUSE)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_bind(address: &ListenAddress, count: usize) -> Result<Bound, ListenError> {
        bind(&ListenerConfig::mqtt(address.clone()), Sharing::Afterwards, count)
    }

    fn bind_to_any_port(count: usize) -> (SocketAddr, Vec<TcpListener>) {
        let bound = try_bind(&"127.0.0.1:0".parse().unwrap(), count).unwrap();
        let address = bound.address.tcp().unwrap();
        let sockets = bound.sockets.into_iter().map(|socket| match socket {
            ListeningSocket::Tcp(socket) => socket,
            ListeningSocket::Unix(..) => panic!("asked for TCP"),
        });
        (address, sockets.collect())
    }

    #[test]
    fn every_shard_gets_a_socket_on_the_same_port() {
        let (address, sockets) = bind_to_any_port(3);

        assert_ne!(address.port(), 0);
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses, [address; 3]);
    }

    #[test]
    fn an_address_in_use_is_refused_by_name() {
        let (address, _taken) = bind_to_any_port(2);

        let error = try_bind(&address.into(), 2).err().unwrap();

        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
        assert!(!error.is_absent_ipv6());
    }

    #[test]
    fn connections_reach_the_sockets_of_all_shards() {
        let (address, sockets) = bind_to_any_port(2);

        let clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();

        let accepted: Vec<usize> =
            sockets.iter().map(|socket| std::iter::from_fn(|| socket.accept().ok()).count()).collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }

    #[test]
    fn the_kernel_asks_silent_clients_whether_they_are_there() {
        // [C10] A client with a Keep Alive of 0 behind a router that has forgotten it sends nothing, for ever.
        let (address, sockets) = bind_to_any_port(1);
        let _client = std::net::TcpStream::connect(address).unwrap();
        let accepted = (0..1_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            sockets[0].accept().ok()
        });
        let (accepted, _) = accepted.expect("the connection arrives");

        let socket = socket2::SockRef::from(&accepted);

        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), TCP_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), TCP_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), TCP_PROBES);
    }

    #[test]
    fn a_unix_socket_has_its_mode_and_takes_the_place_of_an_abandoned_one_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mqtt.sock");
        let address = ListenAddress::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());

        let private = ListenerConfig { mode: Some(FileMode(0o600)), ..ListenerConfig::mqtt(address.clone()) };
        let bound = bind(&private, Sharing::Afterwards, 3).unwrap();

        assert_eq!(bound.sockets.len(), 3);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        let error = try_bind(&address, 1).err().unwrap().to_string();
        assert!(error.starts_with(&format!("cannot listen on unix:{}: ", path.display())), "{error}");
        drop((bound, SocketFile::of(&address)));
        assert!(!path.exists());
        fs::write(&path, "a file").unwrap();
        let error = try_bind(&address, 1).err().unwrap().to_string();
        assert!(error.ends_with("there is a file that is no socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }
}
