//! Listening sockets: one per shard on the same address, so that the kernel spreads connections over the shards. TCP is the
//! ordered, lossless stream of bytes that MQTT asks for ([MQTT-4.2-1], [MQTT311-7.1.1-1]).
//!
//! Invariant: an address that another process listens on is refused, although our own sockets share theirs.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use veilmq_config::ListenerProtocol;

use crate::tls::TlsAcceptor;

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
pub struct Bound {
    /// The address, with the port that was chosen for port 0.
    pub address: SocketAddr,
    /// What carries MQTT there.
    pub carrier: Carrier,
    /// One socket for each shard.
    pub sockets: Vec<TcpListener>,
}

/// A listening socket of one shard.
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// What carries MQTT on its connections.
    pub carrier: Carrier,
}

/// What carries MQTT on the connections of a listener.
#[derive(Clone)]
pub struct Carrier {
    /// The topmost protocol.
    pub protocol: ListenerProtocol,
    /// TLS below that, if any.
    pub tls: Option<Arc<TlsAcceptor>>,
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.protocol, self.tls.is_some()) {
            (ListenerProtocol::Mqtt, false) => "MQTT",
            (ListenerProtocol::Mqtt, true) => "MQTT over TLS",
            (ListenerProtocol::WebSocket, false) => "MQTT over WebSocket",
            (ListenerProtocol::WebSocket, true) => "MQTT over secure WebSocket",
        })
    }
}

impl Bound {
    /// Takes the listening socket of one more shard.
    pub fn take(&mut self) -> Option<Listener> {
        Some(Listener { socket: self.sockets.pop()?, carrier: self.carrier.clone() })
    }
}

/// Binds `count` listening sockets to one address. Port 0 is resolved by the first.
///
/// # Errors
/// Names the address, and what the operating system answered.
pub fn bind(address: SocketAddr, carrier: Carrier, count: usize) -> Result<Bound, ListenError> {
    let named = |source| ListenError { address, source };
    let first = bind_one(address, Sharing::Afterwards).map_err(named)?;
    let address = first.local_addr().map_err(named)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind_one(address, Sharing::AtOnce).map_err(named)?);
    }
    Ok(Bound { address, carrier, sockets })
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

    fn bind_plain(address: SocketAddr, count: usize) -> Result<Bound, ListenError> {
        bind(address, Carrier { protocol: ListenerProtocol::Mqtt, tls: None }, count)
    }

    fn bind_to_any_port(count: usize) -> Bound {
        bind_plain("127.0.0.1:0".parse().unwrap(), count).unwrap()
    }

    #[test]
    fn every_shard_gets_a_socket_on_the_same_port() {
        let bound = bind_to_any_port(3);

        assert_ne!(bound.address.port(), 0);
        let addresses: Vec<_> = bound.sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses, [bound.address; 3]);
    }

    #[test]
    fn an_address_in_use_is_refused_by_name() {
        let taken = bind_to_any_port(2);
        let address = taken.address;

        let error = bind_plain(address, 2).err().unwrap();

        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
        assert!(!error.is_absent_ipv6());
    }

    #[test]
    fn connections_reach_the_sockets_of_all_shards() {
        let bound = bind_to_any_port(2);

        let clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(bound.address).unwrap()).collect();

        let accepted: Vec<usize> =
            bound.sockets.iter().map(|socket| std::iter::from_fn(|| socket.accept().ok()).count()).collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }
}
