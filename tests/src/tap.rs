//! A TCP proxy on loopback that keeps every byte that passes, as a packet capture would.
//!
//! Invariant: what a client sent or received through it is in [`Tap::captured`] no later than the client's end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A running proxy; it listens until the test process ends.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Both ends of every connection.
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Tap {
    /// Starts a proxy on a free port that forwards to `target`.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let tap = Self {
            address: listener.local_addr().expect("a listener has an address"),
            bytes: Arc::default(),
            open: Arc::default(),
        };
        let (bytes, open) = (Arc::clone(&tap.bytes), Arc::clone(&tap.open));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A target that refuses is seen by the client as a closed connection.
                let Ok(server) = TcpStream::connect(target) else { continue };
                let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                if let (Ok(mut open), Ok(client), Ok(server)) =
                    (open.lock(), client.try_clone(), server.try_clone())
                {
                    open.extend([client, server]);
                }
                let (up, down) = (Arc::clone(&bytes), Arc::clone(&bytes));
                thread::spawn(move || forward(client, server, &up));
                thread::spawn(move || forward(server_too, client_too, &down));
            }
        });
        tap
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, as a network that fails does.
    ///
    /// # Panics
    /// If the accepting thread panicked.
    pub fn cut(&self) {
        for end in self.open.lock().expect("accepting does not panic").drain(..) {
            // It may have ended by itself.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Everything that has passed so far, both directions of all connections in the order it came.
    ///
    /// # Panics
    /// If a forwarding thread panicked.
    #[must_use]
    pub fn captured(&self) -> Vec<u8> {
        self.bytes.lock().expect("forwarding does not panic").clone()
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, bytes: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if let Ok(mut bytes) = bytes.lock() {
            bytes.extend_from_slice(&buffer[..count]);
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other direction may have closed it already.
    let _ = to.shutdown(Shutdown::Write);
}
