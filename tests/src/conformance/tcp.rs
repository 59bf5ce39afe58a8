//! Network connections over plain TCP.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::network::{Dial, Link};
use super::run::Received;

/// Plain TCP.
#[derive(Debug, Clone, Copy)]
pub struct Tcp;

impl Dial for Tcp {
    type Link = TcpStream;

    fn listener(&self, address: SocketAddr) -> String {
        format!("[[listeners]]\naddress = \"{address}\"\n")
    }

    fn open(&self, address: SocketAddr) -> Result<TcpStream> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Link for TcpStream {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes)
    }

    fn end(&mut self) -> Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn receive(&mut self, patience: Duration) -> Received {
        let mut buffer = [0; 16 * 1024];
        // A timeout of zero would mean none at all.
        let timeout = patience.max(Duration::from_millis(1));
        let read = self.set_read_timeout(Some(timeout)).and_then(|()| self.read(&mut buffer));
        match read {
            Ok(0) => Received::Closed,
            Ok(len) => Received::Bytes(buffer[..len].to_vec()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Received::Nothing
            }
            // The broker has closed a connection with bytes that it did not read.
            Err(_) => Received::Closed,
        }
    }
}
