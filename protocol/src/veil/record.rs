//! Channel records as bytes: the header, the shared body of a fan-out, the per-subscriber header,
//! and CTRL operations (VEIL-1 sections 5.2, 5.4, 6.1 and 6.2).
//!
//! Owns the layouts; tags and encryption are in [`channel`](super::channel).

use super::{
    layout::{LayoutError, Reader, put_v16, put_v32},
    registry::{Suite, UnknownValue},
};
use alloc::vec::Vec;

/// Length of the record header: type and length.
pub const HEADER_LEN: usize = 5;
/// What a record may need beyond the largest packet it carries (VEIL-1 section 17).
pub const RECORD_OVERHEAD_MAX: usize = 256;

const PHASE_BIT: u8 = 0x80;

/// The type of a record: the low seven bits of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordType {
    /// I: whole packets in clear, authenticated.
    Integrity = 0x01,
    /// EI: whole packets, encrypted and authenticated.
    Encrypted = 0x02,
    /// FAN-D: a shared body authenticated through its digest.
    FanDigest = 0x03,
    /// FAN-G: a shared body under a group MAC.
    FanGroup = 0x04,
    /// FAN-GE: a shared body encrypted under a group key.
    FanGroupEncrypted = 0x05,
    /// CTRL: an operation on the channel, always encrypted.
    Control = 0x06,
}

impl TryFrom<u8> for RecordType {
    type Error = UnknownValue;

    fn try_from(value: u8) -> Result<Self, UnknownValue> {
        match value {
            0x01 => Ok(Self::Integrity),
            0x02 => Ok(Self::Encrypted),
            0x03 => Ok(Self::FanDigest),
            0x04 => Ok(Self::FanGroup),
            0x05 => Ok(Self::FanGroupEncrypted),
            0x06 => Ok(Self::Control),
            value => Err(UnknownValue { registry: "record type", value }),
        }
    }
}

/// Which of two generations of keys a record is under; flips at every key update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase(bool);

impl Phase {
    /// The phase after a key update.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(!self.0)
    }
}

/// The five bytes before a record's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record is.
    pub record_type: RecordType,
    /// The generation of its keys.
    pub phase: Phase,
    /// How many bytes follow the header, tag included.
    pub len: u32,
}

impl RecordHeader {
    /// Reads the header, or `None` when `buffer` does not hold it all yet.
    ///
    /// # Errors
    /// [`UnknownValue`] for an unknown type.
    pub fn read(buffer: &[u8]) -> Result<Option<Self>, UnknownValue> {
        let Some(&[first, a, b, c, d]) = buffer.first_chunk() else {
            return Ok(None);
        };
        Ok(Some(Self {
            record_type: RecordType::try_from(first & !PHASE_BIT)?,
            phase: Phase(first & PHASE_BIT != 0),
            len: u32::from_be_bytes([a, b, c, d]),
        }))
    }

    /// The header as it travels.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = self.len.to_be_bytes();
        let phase = if self.phase.0 { PHASE_BIT } else { 0 };
        [self.record_type as u8 | phase, a, b, c, d]
    }
}

const FORM_SHORT: u8 = 0;
const FORM_GROUP: u8 = 1;

/// What the group form of a shared body says before the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStamp {
    /// The group.
    pub gid: u32,
    /// The epoch of its key.
    pub epoch: u32,
    /// Increases within `(gid, epoch)`.
    pub sequence: u64,
    /// The broker's time in unix milliseconds.
    pub broker_unix_ms: u64,
}

/// G-body: what every subscriber of a message sees identically (VEIL-1 section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedBody<'a> {
    /// Present in the group form, absent in the short form of FAN-D.
    pub stamp: Option<GroupStamp>,
    /// The Topic Name.
    pub topic: &'a [u8],
    /// PUBLISH properties forwarded unchanged: 0x01, 0x03, 0x08, 0x09, 0x26, 0x02.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> SharedBody<'a> {
    /// Parses a shared body; topic and properties are not looked into.
    ///
    /// # Errors
    /// [`LayoutError`] for an unknown form or a field cut short.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LayoutError> {
        let mut reader = Reader::new(bytes);
        let stamp = match reader.u8("form")? {
            FORM_SHORT => None,
            FORM_GROUP => Some(GroupStamp {
                gid: reader.u32("gid")?,
                epoch: reader.u32("group epoch")?,
                sequence: reader.u64("group sequence")?,
                broker_unix_ms: reader.u64("broker time")?,
            }),
            _ => return Err(LayoutError::Value("form")),
        };
        Ok(Self {
            stamp,
            topic: reader.v16("topic")?,
            properties: reader.v32("properties")?,
            payload: reader.rest(),
        })
    }

    /// Appends everything before the payload, so that the payload can be shared by reference.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for a topic above 65,535 bytes.
    pub fn encode_head(&self, out: &mut Vec<u8>) -> Result<(), LayoutError> {
        match self.stamp {
            None => out.push(FORM_SHORT),
            Some(stamp) => {
                out.push(FORM_GROUP);
                out.extend_from_slice(&stamp.gid.to_be_bytes());
                out.extend_from_slice(&stamp.epoch.to_be_bytes());
                out.extend_from_slice(&stamp.sequence.to_be_bytes());
                out.extend_from_slice(&stamp.broker_unix_ms.to_be_bytes());
            }
        }
        put_v16(out, self.topic, "topic")?;
        put_v32(out, self.properties, "properties")
    }
}

/// `header_i`: what differs per subscriber (VEIL-1 section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriberHeader<'a> {
    /// The low nibble of the PUBLISH header: DUP, QoS, RETAIN.
    pub flags: u8,
    /// The Packet Identifier; present exactly when the QoS is not 0.
    pub packet_id: Option<u16>,
    /// Subscription Identifiers (0x0B) and the remaining Message Expiry Interval (0x02).
    pub properties: &'a [u8],
}

impl<'a> SubscriberHeader<'a> {
    /// Parses a per-subscriber header; properties are not looked into.
    ///
    /// # Errors
    /// [`LayoutError`] when the flags are no PUBLISH flags, or a field is cut short or left over.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LayoutError> {
        let mut reader = Reader::new(bytes);
        let flags = reader.u8("flags")?;
        let packet_id = match (flags & 0xF0, flags >> 1 & 3) {
            (0, 0) => None,
            (0, 1 | 2) => Some(reader.u16("packet id")?),
            _ => return Err(LayoutError::Value("flags")),
        };
        let properties = reader.v16("properties")?;
        reader.finish()?;
        Ok(Self { flags, packet_id, properties })
    }

    /// Appends the header.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for properties above 65,535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), LayoutError> {
        out.push(self.flags);
        if let Some(id) = self.packet_id {
            out.extend_from_slice(&id.to_be_bytes());
        }
        put_v16(out, self.properties, "properties")
    }
}

/// An operation carried by a CTRL record (VEIL-1 section 5.4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ControlOp<'a> {
    /// The sender's next record is under the next keys.
    KeyUpdate,
    /// A broker group key for fan-out.
    GroupGrant {
        /// The group.
        gid: u32,
        /// The epoch of the key.
        epoch: u32,
        /// GK_B: a secret.
        key: &'a [u8; 32],
        /// How long it is good for, in milliseconds.
        valid_ms: u32,
        /// The suite FAN-GE is encrypted in, whatever the suite of the member's channel.
        suite: Suite,
        /// Whether every record also carries a tag under the member's own key.
        outer_tag: bool,
        /// The Topic Filter the group serves.
        scope: &'a [u8],
    },
    /// A broker group key is over.
    GroupRevoke {
        /// The group.
        gid: u32,
        /// The epoch of the key.
        epoch: u32,
    },
    /// A resumption ticket.
    Ticket(&'a [u8]),
    /// Something a person should read.
    Notice(&'a str),
    /// The broker is about to close.
    Goodbye {
        /// An MQTT Reason Code.
        reason: u8,
        /// When to come back, in milliseconds.
        retry_after_ms: u32,
    },
}

const OP_KEY_UPDATE: u8 = 1;
const OP_GROUP_GRANT: u8 = 2;
const OP_GROUP_REVOKE: u8 = 3;
const OP_TICKET: u8 = 4;
const OP_NOTICE: u8 = 5;
const OP_GOODBYE: u8 = 6;

impl<'a> ControlOp<'a> {
    /// Parses the body of a CTRL record: exactly one operation.
    ///
    /// # Errors
    /// [`LayoutError`] for an unknown operation, or contents that do not fit it exactly.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LayoutError> {
        let mut reader = Reader::new(bytes);
        let op = reader.u8("operation")?;
        let mut content = Reader::new(reader.v16("operation")?);
        reader.finish()?;
        let op = match op {
            OP_KEY_UPDATE => Self::KeyUpdate,
            OP_GROUP_GRANT => Self::read_group_grant(&mut content)?,
            OP_GROUP_REVOKE => Self::GroupRevoke { gid: content.u32("gid")?, epoch: content.u32("epoch")? },
            OP_TICKET => Self::Ticket(content.rest()),
            OP_NOTICE => {
                let text = core::str::from_utf8(content.rest());
                Self::Notice(text.map_err(|_| LayoutError::Value("notice"))?)
            }
            OP_GOODBYE => {
                Self::Goodbye { reason: content.u8("reason")?, retry_after_ms: content.u32("retry after")? }
            }
            _ => return Err(LayoutError::Value("operation")),
        };
        content.finish()?;
        Ok(op)
    }

    /// Reads the content of a GroupGrant, which also travels in ServerFinish (section 4.4).
    ///
    /// # Errors
    /// [`LayoutError`] when a field is cut short.
    pub fn read_group_grant(content: &mut Reader<'a>) -> Result<Self, LayoutError> {
        Ok(Self::GroupGrant {
            gid: content.u32("gid")?,
            epoch: content.u32("epoch")?,
            key: content
                .take(32, "group key")?
                .try_into()
                .map_err(|_| LayoutError::Truncated("group key"))?,
            valid_ms: content.u32("validity")?,
            suite: content.u8("group suite")?.try_into().map_err(|_| LayoutError::Value("group suite"))?,
            outer_tag: match content.u8("group flags")? {
                0 => false,
                1 => true,
                _ => return Err(LayoutError::Value("group flags")),
            },
            scope: content.v16("scope")?,
        })
    }

    /// Appends the body of a CTRL record.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] above 65,535 bytes; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), LayoutError> {
        let start = out.len();
        out.extend_from_slice(&[self.code(), 0, 0]);
        let written = self.encode_content(out);
        let len = u16::try_from(out.len() - start - 3).map_err(|_| LayoutError::TooLong("operation"));
        match written.and(len) {
            Ok(len) => {
                out[start + 1..start + 3].copy_from_slice(&len.to_be_bytes());
                Ok(())
            }
            Err(error) => {
                out.truncate(start);
                Err(error)
            }
        }
    }

    const fn code(&self) -> u8 {
        match self {
            Self::KeyUpdate => OP_KEY_UPDATE,
            Self::GroupGrant { .. } => OP_GROUP_GRANT,
            Self::GroupRevoke { .. } => OP_GROUP_REVOKE,
            Self::Ticket(_) => OP_TICKET,
            Self::Notice(_) => OP_NOTICE,
            Self::Goodbye { .. } => OP_GOODBYE,
        }
    }

    /// Appends the content alone, without operation and length.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for a scope above 65,535 bytes.
    pub fn encode_content(&self, out: &mut Vec<u8>) -> Result<(), LayoutError> {
        match *self {
            Self::KeyUpdate => {}
            Self::GroupGrant { gid, epoch, key, valid_ms, suite, outer_tag, scope } => {
                out.extend_from_slice(&gid.to_be_bytes());
                out.extend_from_slice(&epoch.to_be_bytes());
                out.extend_from_slice(key);
                out.extend_from_slice(&valid_ms.to_be_bytes());
                out.extend_from_slice(&[suite.value(), u8::from(outer_tag)]);
                put_v16(out, scope, "scope")?;
            }
            Self::GroupRevoke { gid, epoch } => {
                out.extend_from_slice(&gid.to_be_bytes());
                out.extend_from_slice(&epoch.to_be_bytes());
            }
            Self::Ticket(ticket) => out.extend_from_slice(ticket),
            Self::Notice(text) => out.extend_from_slice(text.as_bytes()),
            Self::Goodbye { reason, retry_after_ms } => {
                out.push(reason);
                out.extend_from_slice(&retry_after_ms.to_be_bytes());
            }
        }
        Ok(())
    }
}
