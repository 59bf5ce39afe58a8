//! Frames to the client, made around the outbox: only their headers are written here (RFC 6455 section 5).
//!
//! Invariant: once a frame has begun, nothing but its payload is written until it is complete.

use std::io::IoSlice;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use veilmq_core::Outbox;

/// The largest payload of a frame. What waits for a client makes one frame, so frames end where packets end unless more waits.
const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// What is on its way to the client beside the outbox.
#[derive(Default)]
pub(super) struct Outbound {
    /// What comes before the payload of the current frame: an HTTP answer, control frames, the header.
    head: Vec<u8>,
    head_written: usize,
    /// Bytes of the current frame that are still in the outbox.
    payload_left: usize,
    /// A Pong that waits for the current frame to be complete.
    pong: Vec<u8>,
    closing: Closing,
}

/// How far the WebSocket is from its Close frame.
#[derive(Clone, Copy, Default)]
enum Closing {
    /// There is no WebSocket yet, so there is nothing to close.
    #[default]
    Unopened,
    Open,
    /// A Close frame follows all else.
    Due(Option<CloseCode>),
    Sent,
}

impl Outbound {
    /// Sends the answer that opens the WebSocket.
    pub(super) fn open(&mut self, response: Vec<u8>) {
        self.head = response;
        self.closing = Closing::Open;
    }

    /// Sends an answer that opens none.
    pub(super) fn refuse(&mut self, response: Vec<u8>) {
        self.head = response;
    }

    /// Sends a Pong. A client that reads none of them is owed the last one only (RFC 6455 section 5.5.3).
    pub(super) fn pong(&mut self, payload: &[u8]) {
        self.pong.clear();
        put_header(&mut self.pong, OpCode::Control(Control::Pong), payload.len());
        self.pong.extend_from_slice(payload);
    }

    /// Sends a Close frame behind all else, if none is on its way.
    pub(super) fn close(&mut self, code: Option<CloseCode>) {
        if matches!(self.closing, Closing::Open) {
            self.closing = Closing::Due(code);
        }
    }

    /// Tells whether something can be written. The rest of a frame whose bytes are gone cannot, and nothing after it.
    pub(super) fn has_unsent(&self, outbox: &Outbox) -> bool {
        let is_complete = self.payload_left == 0;
        let has_control = !self.pong.is_empty() || matches!(self.closing, Closing::Due(_));
        !self.head.is_empty() || !outbox.is_empty() || is_complete && has_control
    }

    pub(super) fn slices<'a>(
        &'a mut self,
        outbox: &'a Outbox,
        into: &mut Vec<IoSlice<'a>>,
        slices_max: usize,
    ) {
        self.begin(outbox);
        if let Some(head) = self.head.get(self.head_written..).filter(|head| !head.is_empty()) {
            into.push(IoSlice::new(head));
        }
        outbox.slices(into, slices_max, self.payload_left);
    }

    pub(super) fn advance(&mut self, bytes: usize) -> usize {
        let of_head = bytes.min(self.head.len() - self.head_written);
        self.head_written += of_head;
        if self.head_written == self.head.len() {
            self.head.clear();
            self.head_written = 0;
        }
        let of_payload = (bytes - of_head).min(self.payload_left);
        self.payload_left -= of_payload;
        of_payload
    }

    /// Begins what comes next, if what was begun is complete.
    fn begin(&mut self, outbox: &Outbox) {
        if self.payload_left > 0 {
            return;
        }
        // The head stays bounded although Pongs may be asked for faster than it leaves.
        if self.head.is_empty() {
            self.head.append(&mut self.pong);
        }
        if !outbox.is_empty() {
            // [MQTT-6.0.0-1], [MQTT311-6.0.0-1]
            self.payload_left = outbox.len_bytes().min(FRAME_BYTES_MAX);
            put_header(&mut self.head, OpCode::Data(Data::Binary), self.payload_left);
        } else if let Closing::Due(code) = self.closing {
            self.closing = Closing::Sent;
            let status = code.map(|code| u16::from(code).to_be_bytes());
            let payload = status.as_ref().map_or(&[][..], |status| status);
            put_header(&mut self.head, OpCode::Control(Control::Close), payload.len());
            self.head.extend_from_slice(payload);
        }
    }
}

fn put_header(into: &mut Vec<u8>, opcode: OpCode, length: usize) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header
        .format(length as u64, into)
        .unwrap_or_else(|error| unreachable!("a buffer takes a header: {error}"));
}
