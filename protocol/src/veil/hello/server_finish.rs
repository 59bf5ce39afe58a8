//! ServerFinish: the broker's parameters under encryption, and the tag over the packet that brings them (VEIL-1 section 4.4).
//!
//! Checks shape only. Invariant: the tag is the last field of the Authentication Data in every mode.

use super::{HelloError, SERVER_FINISH, open};
use crate::veil::{
    layout::{LayoutError, Reader, put_v16},
    registry::VERSION,
};
use alloc::vec::Vec;
use core::fmt;

/// Length of the tag that ends a ServerFinish.
pub const FINISH_TAG_LEN: usize = 32;

/// ServerFinish: encrypted parameters and the tag over the whole CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerFinish<'a> {
    /// The encrypted [`ServerFinishParams`].
    pub params: &'a [u8],
    /// The tag, always the last bytes of the Authentication Data.
    pub tag: [u8; FINISH_TAG_LEN],
}

impl<'a> ServerFinish<'a> {
    /// Parses Authentication Data of a CONNACK.
    ///
    /// # Errors
    /// [`HelloError`]: wrong type or version, or a broken layout.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HelloError> {
        let mut reader = open(bytes, SERVER_FINISH)?;
        let finish = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(finish)
    }

    /// Reads parameters and tag, which also end the broker's answer in COMPACT and RESUME.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, LayoutError> {
        Ok(Self { params: reader.v16("params")?, tag: reader.array("tag")? })
    }

    /// What stands before parameters and tag where ServerFinish is a message of its own.
    pub(crate) const PREFIX: [u8; 2] = [SERVER_FINISH, VERSION];

    /// Appends parameters and tag.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for parameters above 65,535 bytes.
    pub(crate) fn append(&self, out: &mut Vec<u8>) -> Result<(), LayoutError> {
        put_v16(out, self.params, "params")?;
        out.extend_from_slice(&self.tag);
        Ok(())
    }

    /// Builds the Authentication Data.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for parameters above 65,535 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let mut out = Vec::with_capacity(4 + self.params.len() + FINISH_TAG_LEN);
        out.extend_from_slice(&Self::PREFIX);
        self.append(&mut out)?;
        Ok(out)
    }
}

/// How far an end-to-end join has come when CONNACK is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum JoinStatus {
    /// None was asked for.
    None = 0,
    /// The issuer has answered; the response follows.
    Done = 1,
    /// The issuer has not answered yet.
    Pending = 2,
}

/// What the broker tells the client in ServerFinish, as TLVs (VEIL-1 section 4.4).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerFinishParams {
    /// A resumption ticket (type 1).
    pub ticket: Option<Vec<u8>>,
    /// The longest record the broker accepts, as its length field says it (type 2).
    pub record_bytes_max: Option<u32>,
    /// The state of the join asked for in ClientHello, and the response if done (type 3).
    pub join: Option<(JoinStatus, Vec<u8>)>,
    /// The broker's time in unix milliseconds (type 4).
    pub time_unix_ms: Option<u64>,
    /// Bodies of GroupGrant operations (type 5, section 5.4).
    pub group_grants: Vec<Vec<u8>>,
    /// Digest of the Topic Filters that demand end-to-end encryption (type 6).
    pub policy_digest: Option<[u8; 32]>,
}

impl fmt::Debug for ServerFinishParams {
    /// Leaves out the ticket, the join response and the group keys, which are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerFinishParams")
            .field("ticket_len", &self.ticket.as_ref().map(Vec::len))
            .field("record_bytes_max", &self.record_bytes_max)
            .field("join", &self.join.as_ref().map(|(status, _)| status))
            .field("time_unix_ms", &self.time_unix_ms)
            .field("group_grants", &self.group_grants.len())
            .field("policy_digest", &self.policy_digest)
            .finish()
    }
}

const PARAM_TICKET: u8 = 1;
const PARAM_RECORD_LIMIT: u8 = 2;
const PARAM_JOIN: u8 = 3;
const PARAM_TIME: u8 = 4;
const PARAM_GROUP_GRANTS: u8 = 5;
const PARAM_POLICY_DIGEST: u8 = 6;

impl ServerFinishParams {
    /// Parses the TLVs; unknown types are ignored, a repeated type is refused.
    ///
    /// # Errors
    /// [`LayoutError`] when a TLV is cut short, repeated, or of the wrong size.
    pub fn parse(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut params = Self::default();
        let mut reader = Reader::new(bytes);
        let mut previous = 0;
        while reader.remaining() > 0 {
            let kind = reader.u8("parameter")?;
            let mut value = Reader::new(reader.v16("parameter")?);
            if kind <= previous {
                return Err(LayoutError::Order("parameter"));
            }
            previous = kind;
            params.read(kind, &mut value)?;
            value.finish()?;
        }
        Ok(params)
    }

    fn read(&mut self, kind: u8, value: &mut Reader<'_>) -> Result<(), LayoutError> {
        match kind {
            PARAM_TICKET => self.ticket = Some(value.rest().into()),
            PARAM_RECORD_LIMIT => self.record_bytes_max = Some(value.u32("record limit")?),
            PARAM_JOIN => {
                let status = match value.u8("join status")? {
                    0 => JoinStatus::None,
                    1 => JoinStatus::Done,
                    2 => JoinStatus::Pending,
                    _ => return Err(LayoutError::Value("join status")),
                };
                self.join = Some((status, value.rest().into()));
            }
            PARAM_TIME => self.time_unix_ms = Some(value.u64("broker time")?),
            PARAM_GROUP_GRANTS => {
                while value.remaining() > 0 {
                    self.group_grants.push(value.v16("group grant")?.into());
                }
            }
            PARAM_POLICY_DIGEST => self.policy_digest = Some(value.array("policy digest")?),
            _ => {
                let _ = value.rest();
            }
        }
        Ok(())
    }

    /// Builds the TLVs in ascending order.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] when a value does not fit its length prefix.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let mut out = Vec::new();
        let mut put = |kind: u8, value: &[u8]| {
            out.push(kind);
            put_v16(&mut out, value, "parameter")
        };
        if let Some(ticket) = &self.ticket {
            put(PARAM_TICKET, ticket)?;
        }
        if let Some(limit) = self.record_bytes_max {
            put(PARAM_RECORD_LIMIT, &limit.to_be_bytes())?;
        }
        if let Some((status, response)) = &self.join {
            let mut value = Vec::with_capacity(1 + response.len());
            value.push(*status as u8);
            value.extend_from_slice(response);
            put(PARAM_JOIN, &value)?;
        }
        if let Some(time) = self.time_unix_ms {
            put(PARAM_TIME, &time.to_be_bytes())?;
        }
        if !self.group_grants.is_empty() {
            let mut value = Vec::new();
            for grant in &self.group_grants {
                put_v16(&mut value, grant, "group grant")?;
            }
            put(PARAM_GROUP_GRANTS, &value)?;
        }
        if let Some(digest) = &self.policy_digest {
            put(PARAM_POLICY_DIGEST, digest)?;
        }
        Ok(out)
    }
}
