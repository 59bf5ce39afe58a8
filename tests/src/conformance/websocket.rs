//! Network connections over WebSocket, in frames with which no packet lines up.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::network::{Dial, Link};
use super::run::Received;
use crate::websocket::WebSocket;

/// No packet but the shortest fits into one frame.
const FRAME_BYTES: usize = 7;

/// MQTT over WebSocket.
#[derive(Debug, Clone, Copy)]
pub struct OverWebSocket;

impl Dial for OverWebSocket {
    type Link = WebSocket;

    fn listener(&self, address: SocketAddr) -> String {
        format!("[[listeners]]\naddress = \"{address}\"\nprotocol = \"websocket\"\n")
    }

    fn open(&self, address: SocketAddr) -> Result<WebSocket> {
        Ok(WebSocket::open(address)?.in_frames_of(FRAME_BYTES))
    }
}

impl Link for WebSocket {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes)
    }

    fn end(&mut self) -> Result<()> {
        self.end_sending()
    }

    fn receive(&mut self, patience: Duration) -> Received {
        let mut buffer = [0; 16 * 1024];
        // A timeout of zero would mean none at all.
        let timeout = patience.max(Duration::from_millis(1));
        match self.set_read_timeout(timeout).and_then(|()| self.read(&mut buffer)) {
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
