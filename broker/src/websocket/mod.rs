//! WebSocket under MQTT (RFC 6455; MQTT 5.0 section 6): what one connection has to remember between reads and writes.
//!
//! Bytes in, bytes out, no socket. Frames are taken apart in the buffer they were read into and made around the outbox as it lies:
//! a message is never put together, so a connection holds no more than a partial header and a control frame, however large the
//! frames are. Before the handshake is done it holds at most [`HEAD_BYTES_MAX`] bytes.
//! Invariant: MQTT sees the bytes of binary frames, all of them, in order, and nothing else.

mod inbound;
mod outbound;
mod request;

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

pub(crate) use tungstenite::protocol::frame::coding::CloseCode;
use veilmq_core::Outbox;

use inbound::{Inbound, Piece};
use outbound::Outbound;
pub(crate) use request::HEAD_BYTES_MAX;

use crate::transport::End;

/// One WebSocket, or the request for one.
pub(crate) struct WebSocket {
    /// The request as far as it has arrived; None once it was answered.
    request: Option<Box<Opening>>,
    inbound: Inbound,
    outbound: Outbound,
    end: Option<End>,
}

/// A request that has not been answered.
struct Opening {
    /// Its head as far as it has arrived.
    head: Vec<u8>,
    /// The origins that may ask, unless all may.
    origins: Option<Arc<[String]>>,
}

/// What an idle WebSocket costs beside its connection.
const WEBSOCKET_BYTES_MAX: usize = 256;
const _: () = assert!(size_of::<WebSocket>() <= WEBSOCKET_BYTES_MAX);

impl WebSocket {
    /// Expects a request, from one of these origins unless all may ask. A message of more than `message_bytes_max` bytes is refused later.
    pub(crate) fn new(message_bytes_max: usize, origins: Option<Arc<[String]>>) -> Self {
        Self {
            request: Some(Box::new(Opening { head: Vec::new(), origins })),
            inbound: Inbound::new(message_bytes_max),
            outbound: Outbound::default(),
            end: None,
        }
    }

    /// Takes in what was read, and returns where in `bytes` the bytes for MQTT now lie.
    ///
    /// [MQTT-6.0.0-2], [MQTT311-6.0.0-2] Payloads follow each other as if there were no frames.
    pub(crate) fn receive(&mut self, bytes: &mut [u8]) -> Range<usize> {
        let mut position = self.take_request(bytes);
        let mut packets = 0..0;
        while self.end.is_none()
            && let Some(rest) = bytes.get_mut(position..)
            && !rest.is_empty()
        {
            match self.inbound.next(rest) {
                Ok((consumed, piece)) => {
                    if let Some(payload) = self.heed(piece) {
                        append(bytes, &mut packets, position + payload.start..position + payload.end);
                    }
                    position += consumed;
                }
                Err(violation) => {
                    self.outbound.close(Some(violation.code()));
                    self.end = Some(End::Violated(violation.rule()));
                }
            }
        }
        packets
    }

    /// Answers the request once it is there, and returns how many of the bytes belong to it.
    fn take_request(&mut self, bytes: &[u8]) -> usize {
        let Some(opening) = &mut self.request else { return 0 };
        if self.end.is_some() {
            return 0;
        }
        let before = opening.head.len();
        opening.head.extend_from_slice(&bytes[..bytes.len().min(HEAD_BYTES_MAX - before)]);
        match request::answer(&opening.head, opening.origins.as_deref()) {
            None => bytes.len(),
            Some(Ok(accepted)) => {
                self.outbound.open(accepted.response);
                self.request = None;
                accepted.head_bytes - before
            }
            Some(Err(refusal)) => {
                self.outbound.refuse(refusal.response());
                self.end = Some(End::Violated(refusal.rule()));
                bytes.len()
            }
        }
    }

    /// Answers a control frame, or returns where the payload of a binary frame is.
    fn heed(&mut self, piece: Piece) -> Option<Range<usize>> {
        match piece {
            Piece::Nothing => {}
            Piece::Payload(range) => return Some(range),
            Piece::Ping => self.outbound.pong(self.inbound.control()),
            Piece::Close(code) => {
                self.outbound.close(code);
                self.end = Some(End::Closed);
            }
        }
        None
    }

    /// Tells why no more is taken from it, if so.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// Sends a Close frame behind what waits, unless one was sent or the handshake is not done.
    pub(crate) fn close(&mut self, code: CloseCode) {
        self.outbound.close(Some(code));
    }

    /// Tells whether there is something to write.
    pub(crate) fn has_unsent(&self, outbox: &Outbox) -> bool {
        self.outbound.has_unsent(outbox)
    }

    /// Begins the next frame if the last one is complete, then appends slices from the front of what waits.
    pub(crate) fn slices<'a>(
        &'a mut self,
        outbox: &'a Outbox,
        into: &mut Vec<IoSlice<'a>>,
        slices_max: usize,
    ) {
        self.outbound.slices(outbox, into, slices_max);
    }

    /// Takes note that `bytes` bytes of the slices were written, and returns how many of them were the outbox's.
    pub(crate) fn advance(&mut self, bytes: usize) -> usize {
        self.outbound.advance(bytes)
    }
}

/// Puts a piece of `bytes` behind the pieces that `all` holds, which end before it.
fn append(bytes: &mut [u8], all: &mut Range<usize>, piece: Range<usize>) {
    if all.start == all.end {
        *all = piece;
    } else if all.end == piece.start {
        all.end = piece.end;
    } else {
        let length = piece.len();
        bytes.copy_within(piece, all.end);
        all.end += length;
    }
}

#[cfg(test)]
mod tests;
