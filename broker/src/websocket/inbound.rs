//! Frames from the client, taken apart where they lie (RFC 6455 section 5).
//!
//! Invariant: of a frame that has not arrived in full, only a partial header and the payload of a control frame are kept.

use std::io::Cursor;
use std::ops::Range;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// The longest header: two bytes, a length of eight, a mask of four.
const HEADER_BYTES_MAX: usize = 14;
/// The longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// What has arrived of the current frame and message.
pub(super) struct Inbound {
    /// The first `header_bytes` bytes of a header.
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: u8,
    /// A data frame of the current message was not the last one.
    is_fragmented: bool,
    frame: Option<Frame>,
    /// The payload of the last control frame.
    control: Vec<u8>,
    message_bytes: u64,
    message_bytes_max: u64,
}

/// A frame whose payload is arriving.
struct Frame {
    opcode: OpCode,
    left: u64,
    /// The mask, turned so that its first byte belongs to the next byte of the payload.
    mask: [u8; 4],
}

/// What the next bytes were.
pub(super) enum Piece {
    /// A header, or part of something.
    Nothing,
    /// Payload of a binary frame, unmasked where it lies.
    Payload(Range<usize>),
    /// A Ping; its payload is [`Inbound::control`].
    Ping,
    /// A Close, with the status that answers it.
    Close(Option<CloseCode>),
}

/// A rule that the client broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    Text,
    Unmasked,
    Reserved,
    Opcode,
    Length,
    Control,
    Fragments,
    MessageTooLarge,
    Close,
    CloseReason,
}

impl Violation {
    pub(super) fn rule(self) -> &'static str {
        match self {
            Self::Text => "a text frame on a WebSocket that carries MQTT",
            Self::Unmasked => "a WebSocket frame that is not masked",
            Self::Reserved => "a reserved bit in a WebSocket frame",
            Self::Opcode => "a WebSocket frame of a type that does not exist",
            Self::Length => "a WebSocket frame whose length is not in its shortest form",
            Self::Control => "a WebSocket control frame that is fragmented or too long",
            Self::Fragments => "a WebSocket frame out of its place in a fragmented message",
            Self::MessageTooLarge => "a WebSocket message of more than limits.packet_bytes_max",
            Self::Close => "a WebSocket Close frame with a status that may not be sent",
            Self::CloseReason => "a WebSocket Close frame whose reason is not UTF-8",
        }
    }

    pub(super) fn code(self) -> CloseCode {
        match self {
            Self::Text => CloseCode::Unsupported,
            Self::MessageTooLarge => CloseCode::Size,
            Self::CloseReason => CloseCode::Invalid,
            Self::Unmasked
            | Self::Reserved
            | Self::Opcode
            | Self::Length
            | Self::Control
            | Self::Fragments
            | Self::Close => CloseCode::Protocol,
        }
    }
}

impl Inbound {
    pub(super) fn new(message_bytes_max: usize) -> Self {
        Self {
            header: [0; HEADER_BYTES_MAX],
            header_bytes: 0,
            is_fragmented: false,
            frame: None,
            control: Vec::new(),
            message_bytes: 0,
            message_bytes_max: message_bytes_max as u64,
        }
    }

    /// Returns the payload of the last control frame.
    pub(super) fn control(&self) -> &[u8] {
        &self.control
    }

    /// Takes the next piece from the front of `bytes`, which are not empty, and returns how many bytes it had.
    pub(super) fn next(&mut self, bytes: &mut [u8]) -> Result<(usize, Piece), Violation> {
        let Some(frame) = &mut self.frame else { return self.take_header(bytes) };
        let length = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
        let payload = &mut bytes[..length];
        frame.mask = unmask(payload, frame.mask);
        frame.left -= length as u64;
        let (opcode, is_complete) = (frame.opcode, frame.left == 0);
        if is_complete {
            self.frame = None;
        }
        let OpCode::Control(control) = opcode else { return Ok((length, Piece::Payload(0..length))) };
        self.control.extend_from_slice(payload);
        let piece = if is_complete { self.complete_control(control)? } else { Piece::Nothing };
        Ok((length, piece))
    }

    fn take_header(&mut self, bytes: &[u8]) -> Result<(usize, Piece), Violation> {
        let before = usize::from(self.header_bytes);
        let taken = bytes.len().min(HEADER_BYTES_MAX - before);
        self.header[before..before + taken].copy_from_slice(&bytes[..taken]);
        let mut cursor = Cursor::new(&self.header[..before + taken]);
        match FrameHeader::parse(&mut cursor) {
            Ok(None) => {
                self.header_bytes = (before + taken) as u8;
                Ok((taken, Piece::Nothing))
            }
            Ok(Some((header, length))) => {
                let header_bytes = cursor.position() as usize;
                self.header_bytes = 0;
                let piece = self.begin(&header, header_bytes, length)?;
                Ok((header_bytes - before, piece))
            }
            Err(_) => Err(Violation::Opcode),
        }
    }

    fn begin(&mut self, header: &FrameHeader, header_bytes: usize, length: u64) -> Result<Piece, Violation> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::Reserved);
        }
        let mask = header.mask.ok_or(Violation::Unmasked)?;
        if header.len(length) != header_bytes {
            return Err(Violation::Length);
        }
        let opcode = header.opcode;
        match opcode {
            OpCode::Data(data) => self.begin_data(data, header.is_final, length)?,
            OpCode::Control(_) if !header.is_final || length > CONTROL_BYTES_MAX => {
                return Err(Violation::Control);
            }
            OpCode::Control(control) => {
                self.control.clear();
                if length == 0 {
                    return self.complete_control(control);
                }
            }
        }
        if length > 0 {
            self.frame = Some(Frame { opcode, left: length, mask });
        }
        Ok(Piece::Nothing)
    }

    fn begin_data(&mut self, data: Data, is_final: bool, length: u64) -> Result<(), Violation> {
        match data {
            // [MQTT-6.0.0-1], [MQTT311-6.0.0-1]
            Data::Text => return Err(Violation::Text),
            Data::Reserved(_) => return Err(Violation::Opcode),
            Data::Binary if self.is_fragmented => return Err(Violation::Fragments),
            Data::Continue if !self.is_fragmented => return Err(Violation::Fragments),
            Data::Binary => self.message_bytes = 0,
            Data::Continue => {}
        }
        self.message_bytes = self.message_bytes.saturating_add(length);
        if self.message_bytes > self.message_bytes_max {
            return Err(Violation::MessageTooLarge);
        }
        self.is_fragmented = !is_final;
        Ok(())
    }

    fn complete_control(&self, control: Control) -> Result<Piece, Violation> {
        match control {
            Control::Ping => Ok(Piece::Ping),
            Control::Pong => Ok(Piece::Nothing),
            Control::Close => self.status().map(Piece::Close),
            Control::Reserved(_) => Err(Violation::Opcode),
        }
    }

    /// Reads the payload of a Close frame (RFC 6455 sections 5.5.1 and 7.4).
    fn status(&self) -> Result<Option<CloseCode>, Violation> {
        let (code, reason) = match self.control.as_slice() {
            [] => return Ok(None),
            [_] => return Err(Violation::Close),
            [high, low, reason @ ..] => (CloseCode::from(u16::from_be_bytes([*high, *low])), reason),
        };
        if !code.is_allowed() {
            return Err(Violation::Close);
        }
        if str::from_utf8(reason).is_err() {
            return Err(Violation::CloseReason);
        }
        Ok(Some(code))
    }
}

/// Unmasks part of a payload and returns the mask for what follows it (RFC 6455 section 5.3).
fn unmask(payload: &mut [u8], mut mask: [u8; 4]) -> [u8; 4] {
    let word = u32::from_ne_bytes(mask);
    let (words, rest) = payload.as_chunks_mut::<4>();
    for bytes in words {
        *bytes = (u32::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    mask.rotate_left(payload.len() % 4);
    mask
}
