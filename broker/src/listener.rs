//! Listening sockets: one per shard on the same address, so that the kernel spreads connections over the shards. TCP is the
//! ordered, lossless stream of bytes that MQTT asks for ([MQTT-4.2-1], [MQTT311-7.1.1-1]).
//!
//! Invariant: an address that another process listens on is refused, although our own sockets share theirs.

use std::io;
use std::net::{SocketAddr, TcpListener};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use veilmq_config::{ListenerConfig, ListenerProtocol};

/// How many connections may wait in the kernel for each shard.
const BACKLOG: i32 = 1_024;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

impl ListenError {
    /// Tells whether the address is one of IPv6 and this machine has none.
    pub fn is_absent_ipv6(&self) -> bool {
        let is_absent = self.source.kind() == io::ErrorKind::AddrNotAvailable
            || self.source.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32);
        self.address.is_ipv6() && is_absent
    }
}

/// An address that is listened on.
#[derive(Debug)]
pub struct Bound {
    /// The address, with the port that was chosen for port 0.
    pub address: SocketAddr,
    /// What carries MQTT there.
    pub protocol: ListenerProtocol,
    /// One socket for each shard.
    pub sockets: Vec<TcpListener>,
}

/// A listening socket of one shard.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// What carries MQTT on its connections.
    pub protocol: ListenerProtocol,
}

impl Bound {
    /// Takes the listening socket of one more shard.
    pub fn take(&mut self) -> Option<Listener> {
        Some(Listener { socket: self.sockets.pop()?, protocol: self.protocol })
    }
}

/// Binds `count` listening sockets to one address. Port 0 is resolved by the first.
///
/// # Errors
/// Names the address, and what the operating system answered.
pub fn bind(listener: ListenerConfig, count: usize) -> Result<Bound, ListenError> {
    let ListenerConfig { address, protocol } = listener;
    let named = |source| ListenError { address, source };
    let first = bind_one(address, Sharing::Afterwards).map_err(named)?;
    let address = first.local_addr().map_err(named)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind_one(address, Sharing::AtOnce).map_err(named)?);
    }
    Ok(Bound { address, protocol, sockets })
}

/// When a socket begins to share its address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// After it was bound, so that binding fails if anybody else listens there.
    Afterwards,
    /// Before it is bound, so that it joins our first socket.
    AtOnce,
}

fn bind_one(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the old connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::AtOnce)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(address: SocketAddr) -> ListenerConfig {
        ListenerConfig { address, protocol: ListenerProtocol::Mqtt }
    }

    fn on_any_port() -> ListenerConfig {
        on("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn every_shard_gets_a_socket_on_the_same_port() {
        let bound = bind(on_any_port(), 3).unwrap();

        assert_ne!(bound.address.port(), 0);
        let addresses: Vec<_> = bound.sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses, [bound.address; 3]);
    }

    #[test]
    fn an_address_in_use_is_refused_by_name() {
        let taken = bind(on_any_port(), 2).unwrap();
        let address = taken.address;

        let error = bind(on(address), 2).unwrap_err();

        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
        assert!(!error.is_absent_ipv6());
    }

    #[test]
    fn connections_reach_the_sockets_of_all_shards() {
        let bound = bind(on_any_port(), 2).unwrap();

        let clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(bound.address).unwrap()).collect();

        let accepted: Vec<usize> =
            bound.sockets.iter().map(|socket| std::iter::from_fn(|| socket.accept().ok()).count()).collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }
}
