//! Opening records (VEIL-1 sections 5.2, 5.4, 6.3 and 4.8), in the caller's buffer.
//!
//! Invariant: the first record that is refused ends the opener, whose keys are gone then.

use super::{
    error::RecordError,
    fanout::{FanDelivery, OuterTag, open_digest},
    group::GroupKeys,
    kdf::Secret32,
    operations::Operations,
    record::{DirectionKeys, Side},
};
use crate::veil::{
    layout::LayoutError,
    record::{ControlOp, HEADER_LEN, Phase, RecordHeader, RecordType},
    registry::{Scheme, Suite},
};
use alloc::vec::Vec;
use core::ops::Range;

/// What an opened record contains; ranges are into the buffer it was opened in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// One or more whole MQTT packets.
    Packets(Range<usize>),
    /// One message of a fan-out.
    Fan(FanDelivery),
    /// The peer has switched to its next keys, and so has this opener.
    KeyUpdated,
    /// Any other operation, for [`ControlOp::parse`], which succeeds on it. The keys of a
    /// GroupGrant are installed and those of a GroupRevoke removed already.
    Control(Range<usize>),
}

/// A record that authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedRecord {
    /// How many bytes of the buffer it took.
    pub consumed: usize,
    /// What is in it.
    pub content: Content,
}

/// Opens records in one direction.
pub struct RecordOpener {
    keys: Option<OpenerKeys>,
    side: Side,
    scheme: Scheme,
}

struct OpenerKeys {
    direction: DirectionKeys,
    /// The keys of a re-authentication, until the peer's first record under them.
    next: Option<DirectionKeys>,
    groups: GroupKeys,
    scratch: Vec<u8>,
}

impl RecordOpener {
    /// Starts at record 0 of the first phase, with the application secret `ap_x` of the peer; `side`
    /// is the one that receives.
    #[must_use]
    pub fn new(side: Side, suite: Suite, scheme: Scheme, secret: Secret32) -> Self {
        let direction = DirectionKeys::new(suite, secret);
        let keys = OpenerKeys { direction, next: None, groups: GroupKeys::default(), scratch: Vec::new() };
        Self { keys: Some(keys), side, scheme }
    }

    /// Opens the record at the start of `buffer` in place, or gives `None` when it has not all
    /// arrived. `record_bytes_max` bounds its length field: the packet limit and
    /// [`RECORD_OVERHEAD_MAX`](crate::veil::record::RECORD_OVERHEAD_MAX). A length out of range is
    /// refused as soon as the header is there.
    ///
    /// # Errors
    /// [`RecordError`]; from then on every call gives [`RecordError::Closed`].
    pub fn next(
        &mut self,
        buffer: &mut [u8],
        record_bytes_max: usize,
    ) -> Result<Option<OpenedRecord>, RecordError> {
        let keys = self.keys.as_mut().ok_or(RecordError::Closed)?;
        let opened = match check_header(buffer, keys, self.side, self.scheme, record_bytes_max) {
            Ok(None) => return Ok(None),
            Ok(Some((header, record))) => keys
                .open(header, record, self.side)
                .map(|content| Some(OpenedRecord { consumed: record.len(), content })),
            Err(error) => Err(error),
        };
        if opened.is_err() {
            self.keys = None;
        }
        opened
    }

    /// Goes on under the keys of a re-authentication with the peer's first record of the next phase, which is its record 0;
    /// until then records of the present phase open, KeyUpdate excepted (VEIL-1 section 4.8).
    ///
    /// # Errors
    /// [`RecordError::KeyUpdateBarred`] while an earlier switch is due, [`RecordError::Contents`] when it brings too many
    /// group keys, [`RecordError::Closed`]; the opener is over then.
    pub fn switch_to(&mut self, next: Self) -> Result<(), RecordError> {
        let switched = match (&mut self.keys, next.keys) {
            (Some(keys), Some(next)) => keys.switch_to(next),
            _ => Err(RecordError::Closed),
        };
        if switched.is_err() {
            self.keys = None;
        }
        switched
    }

    /// Says whether the peer is yet to send its first record under the keys of a re-authentication.
    #[must_use]
    pub fn is_switching(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.next.is_some())
    }

    /// The operations that were made since they were last taken.
    #[must_use]
    pub fn take_operations(&mut self) -> Operations {
        let Some(keys) = &self.keys else { return Operations::default() };
        let mut made = keys.direction.keys.tally.take();
        made += keys.groups.take_operations();
        made
    }

    /// Takes a GroupGrant that came in ServerFinish (VEIL-1 section 4.4).
    pub(super) fn install_group(&mut self, grant: &ControlOp<'_>) -> Result<(), LayoutError> {
        match &mut self.keys {
            Some(keys) => keys.groups.apply(grant),
            None => Ok(()),
        }
    }
}

/// Checks what the five bytes of the header say; `None` while the record has not all arrived.
fn check_header<'b>(
    buffer: &'b mut [u8],
    keys: &OpenerKeys,
    side: Side,
    scheme: Scheme,
    record_bytes_max: usize,
) -> Result<Option<(RecordHeader, &'b mut [u8])>, RecordError> {
    let Some(header) = RecordHeader::read(buffer)? else {
        return Ok(None);
    };
    if !is_allowed(header.record_type, side, scheme) {
        return Err(RecordError::TypeNotAllowed);
    }
    let direction = keys.direction_of(header.phase).ok_or(RecordError::Phase)?;
    let out_of_range = RecordError::Length(header.len);
    let len = usize::try_from(header.len).map_err(|_| out_of_range)?;
    if len <= direction.keys.tag_len() || len > record_bytes_max {
        return Err(out_of_range);
    }
    Ok(buffer.get_mut(..HEADER_LEN + len).map(|record| (header, record)))
}

impl OpenerKeys {
    /// The keys of a phase: the present ones, or those that are due.
    fn direction_of(&self, phase: Phase) -> Option<&DirectionKeys> {
        [Some(&self.direction), self.next.as_ref()].into_iter().flatten().find(|keys| keys.phase == phase)
    }

    fn switch_to(&mut self, next: Self) -> Result<(), RecordError> {
        if self.next.is_some() {
            return Err(RecordError::KeyUpdateBarred);
        }
        let mut direction = next.direction;
        direction.succeed(&self.direction);
        self.next = Some(direction);
        Ok(self.groups.adopt(next.groups)?)
    }

    fn open(
        &mut self,
        RecordHeader { record_type, phase, .. }: RecordHeader,
        record: &mut [u8],
        side: Side,
    ) -> Result<Content, RecordError> {
        if let Some(next) = self.next.take_if(|next| next.phase == phase) {
            next.keys.tally.go_on_from(&self.direction.keys.tally);
            self.direction = next;
        }
        let sequence = self.direction.next_sequence();
        match record_type {
            RecordType::Integrity => self.open_integrity(sequence, record),
            RecordType::Encrypted => match self.decrypt(sequence, record)? {
                plain if plain.is_empty() => Err(LayoutError::Truncated("packets").into()),
                plain => Ok(Content::Packets(plain)),
            },
            RecordType::Control => self.open_control(sequence, record, side),
            RecordType::FanDigest | RecordType::FanGroup | RecordType::FanGroupEncrypted => {
                self.open_fan(sequence, record_type, record)
            }
        }
    }

    fn open_fan(
        &mut self,
        sequence: u64,
        record_type: RecordType,
        record: &mut [u8],
    ) -> Result<Content, RecordError> {
        let outer = OuterTag { keys: &self.direction.keys, sequence, scratch: &mut self.scratch };
        let delivery = match record_type {
            RecordType::FanGroup => self.groups.open_authenticated(record, outer),
            RecordType::FanGroupEncrypted => self.groups.open_encrypted(record, outer),
            _ => open_digest(record, outer),
        };
        delivery.map(Content::Fan).ok_or(RecordError::Authentication)
    }

    fn open_integrity(&self, sequence: u64, record: &[u8]) -> Result<Content, RecordError> {
        let keys = &self.direction.keys;
        let body_end = record.len() - keys.tag_len();
        let (authenticated, tag) = record.split_at(body_end);
        if keys.tag_matches(sequence, authenticated, tag) {
            Ok(Content::Packets(HEADER_LEN..body_end))
        } else {
            Err(RecordError::Authentication)
        }
    }

    fn decrypt(&self, sequence: u64, record: &mut [u8]) -> Result<Range<usize>, RecordError> {
        self.direction.keys.open(sequence, record, HEADER_LEN).ok_or(RecordError::Authentication)
    }

    fn open_control(&mut self, sequence: u64, record: &mut [u8], side: Side) -> Result<Content, RecordError> {
        let plain = self.decrypt(sequence, record)?;
        let op = ControlOp::parse(record.get(plain.clone()).unwrap_or_default())?;
        if matches!(op, ControlOp::KeyUpdate) {
            if self.next.is_some() {
                return Err(RecordError::KeyUpdateBarred);
            }
            self.direction.update();
            return Ok(Content::KeyUpdated);
        }
        if side == Side::Broker {
            return Err(LayoutError::Value("operation").into());
        }
        self.groups.apply(&op)?;
        Ok(Content::Control(plain))
    }
}

/// Which records may arrive (VEIL-1 section 5.2): only the broker fans out.
const fn is_allowed(record_type: RecordType, receiver: Side, scheme: Scheme) -> bool {
    match (record_type, scheme) {
        (_, Scheme::One) => false,
        (RecordType::Control, _)
        | (RecordType::Integrity, Scheme::Four)
        | (RecordType::Encrypted, Scheme::Two | Scheme::Three) => true,
        (RecordType::FanDigest | RecordType::FanGroup, Scheme::Four)
        | (RecordType::FanGroupEncrypted, Scheme::Three) => matches!(receiver, Side::Client),
        _ => false,
    }
}
