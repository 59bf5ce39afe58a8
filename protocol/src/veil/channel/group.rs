//! Broker group keys: FAN-G and FAN-GE on both sides (VEIL-1 sections 6.3 and 6.4).
//!
//! A group key is known to every member, so alone it shows that a message is from the group, not
//! from the broker; the outer tag under the member's own key does. Invariant: a group sequence
//! number is used once per key, and accepted once.

use super::{
    fanout::{FanDelivery, OuterTag, locate_header},
    kdf::{Secret32, hash, hmac_state},
    operations::Operations,
    suite_keys::{Purpose, SuiteKeys},
};
use crate::veil::{
    layout::{LayoutError, Reader},
    record::{ControlOp, GroupStamp, RecordType, SharedBody},
    registry::Suite,
};
use alloc::{collections::BTreeMap, vec::Vec};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Length of the group MAC, in every suite.
pub const GROUP_TAG_LEN: usize = 32;
/// Length of gid, epoch and sequence number before a FAN-GE ciphertext.
const CLEAR_LEN: usize = 16;
/// How many group keys a receiver holds.
const GROUP_KEYS_MAX: usize = 1024;

/// GK_B of one epoch, expanded.
struct GroupKey {
    gid: u32,
    epoch: u32,
    outer_tag: bool,
    mac: Hmac<Sha256>,
    sealing: SuiteKeys,
}

impl GroupKey {
    fn new(gid: u32, epoch: u32, suite: Suite, outer_tag: bool, secret: &Secret32) -> Self {
        let mut context = [0; 8];
        context[..4].copy_from_slice(&gid.to_be_bytes());
        context[4..].copy_from_slice(&epoch.to_be_bytes());
        let mac = hmac_state(secret.derive("g mac", &context).as_bytes());
        Self { gid, epoch, outer_tag, mac, sealing: SuiteKeys::new(suite, secret, &Purpose::group(&context)) }
    }

    /// `gtag = HMAC(Derive(GK_B, "g mac", gid || epoch, 32), "veil1 group" || G-body)`.
    fn tag(&self, body: &[&[u8]]) -> [u8; GROUP_TAG_LEN] {
        self.sealing.tally.mac();
        let mut mac = self.mac.clone();
        mac.update(b"veil1 group");
        for part in body {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// What an outer tag binds of a FAN-GE message.
    fn digest(&self, shared: &[u8]) -> [u8; 32] {
        self.sealing.tally.digest();
        hash(&[shared])
    }
}

/// One message as a whole group receives it, for [`RecordSealer::fan_group`](super::RecordSealer::fan_group).
#[derive(Clone, Copy, Debug)]
pub struct GroupFan {
    pub(super) record_type: RecordType,
    pub(super) bound: [u8; 32],
    pub(super) len: usize,
    pub(super) outer_tag: bool,
}

/// The broker's end of one group in one epoch.
pub struct GroupSealer {
    key: GroupKey,
    suite: Suite,
    secret: Secret32,
    sequence: u64,
}

impl GroupSealer {
    /// Starts an epoch of a group with a fresh random key. With `outer_tag` every member also gets a
    /// tag under its own key; without it any member can forge "from the broker" to another.
    #[must_use]
    pub fn new(gid: u32, epoch: u32, suite: Suite, outer_tag: bool, secret: Secret32) -> Self {
        Self { key: GroupKey::new(gid, epoch, suite, outer_tag, &secret), suite, secret, sequence: 0 }
    }

    /// The operation that lets a member in; send it on the member's own channel.
    #[must_use]
    pub fn grant<'a>(&'a self, valid_ms: u32, scope: &'a [u8]) -> ControlOp<'a> {
        ControlOp::GroupGrant {
            gid: self.key.gid,
            epoch: self.key.epoch,
            key: self.secret.as_bytes(),
            valid_ms,
            suite: self.suite,
            outer_tag: self.key.outer_tag,
            scope,
        }
    }

    /// The operations that were made since they were last taken.
    #[must_use]
    pub fn take_operations(&mut self) -> Operations {
        self.key.sealing.tally.take()
    }

    fn stamp(&mut self, broker_unix_ms: u64) -> GroupStamp {
        let sequence = self.sequence;
        self.sequence += 1;
        GroupStamp { gid: self.key.gid, epoch: self.key.epoch, sequence, broker_unix_ms }
    }

    /// Makes a FAN-G message: appends what stands before the payload to `head` and gives the group
    /// MAC to be sent after it. The stamp of `body` is replaced by the next of this group.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for a topic above 65,535 bytes.
    pub fn authenticate(
        &mut self,
        body: SharedBody<'_>,
        broker_unix_ms: u64,
        head: &mut Vec<u8>,
    ) -> Result<(GroupFan, [u8; GROUP_TAG_LEN]), LayoutError> {
        let start = head.len();
        SharedBody { stamp: Some(self.stamp(broker_unix_ms)), ..body }.encode_head(head)?;
        let head = head.get(start..).unwrap_or_default();
        let tag = self.key.tag(&[head, body.payload]);
        let fan = GroupFan {
            record_type: RecordType::FanGroup,
            bound: tag,
            len: head.len() + body.payload.len() + GROUP_TAG_LEN,
            outer_tag: self.key.outer_tag,
        };
        Ok((fan, tag))
    }

    /// Makes a FAN-GE message: appends everything the group shares to `out`, encrypted. The stamp of
    /// `body` is replaced by the next of this group.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for a topic above 65,535 bytes.
    pub fn encrypt(
        &mut self,
        body: SharedBody<'_>,
        broker_unix_ms: u64,
        out: &mut Vec<u8>,
    ) -> Result<GroupFan, LayoutError> {
        let start = out.len();
        let stamp = self.stamp(broker_unix_ms);
        out.extend_from_slice(&stamp.gid.to_be_bytes());
        out.extend_from_slice(&stamp.epoch.to_be_bytes());
        out.extend_from_slice(&stamp.sequence.to_be_bytes());
        out.resize(out.len() + self.key.sealing.iv_len(), 0);
        SharedBody { stamp: Some(stamp), ..body }.encode_head(out)?;
        out.extend_from_slice(body.payload);
        self.key.sealing.seal(stamp.sequence, out, start, CLEAR_LEN);
        let (shared, outer_tag) = (out.get(start..).unwrap_or_default(), self.key.outer_tag);
        Ok(GroupFan {
            record_type: RecordType::FanGroupEncrypted,
            bound: if outer_tag { self.key.digest(shared) } else { [0; 32] },
            len: shared.len(),
            outer_tag,
        })
    }
}

/// Which of the last 1,024 sequence numbers were taken.
#[derive(Default)]
struct Window {
    /// One above the highest number taken.
    next: u64,
    taken: [u64; Self::WORDS],
}

impl Window {
    const WORDS: usize = 16;
    const LEN: u64 = 64 * Self::WORDS as u64;

    /// Takes a number; `false` when it was taken before or is too old to tell.
    fn take(&mut self, sequence: u64) -> bool {
        if sequence == u64::MAX {
            return false;
        }
        if sequence >= self.next {
            let skipped = (sequence - self.next).min(Self::LEN);
            for offset in 0..skipped {
                self.clear(self.next + offset);
            }
            if skipped == Self::LEN {
                self.taken = [0; Self::WORDS];
            }
            self.next = sequence + 1;
            self.clear(sequence);
        } else if self.next - sequence > Self::LEN {
            return false;
        }
        let (word, bit) = Self::position(sequence);
        let fresh = self.taken[word] & bit == 0;
        self.taken[word] |= bit;
        fresh
    }

    fn clear(&mut self, sequence: u64) {
        let (word, bit) = Self::position(sequence);
        self.taken[word] &= !bit;
    }

    const fn position(sequence: u64) -> (usize, u64) {
        let slot = sequence % Self::LEN;
        ((slot / 64) as usize, 1 << (slot % 64))
    }
}

struct Membership {
    key: GroupKey,
    window: Window,
}

/// A member's end: the keys it was granted, at most two epochs of each group.
#[derive(Default)]
pub(super) struct GroupKeys {
    memberships: BTreeMap<(u32, u32), Membership>,
}

impl GroupKeys {
    /// Follows a GroupGrant or GroupRevoke; other operations mean nothing here.
    pub(super) fn apply(&mut self, op: &ControlOp<'_>) -> Result<(), LayoutError> {
        match *op {
            ControlOp::GroupGrant { gid, epoch, key, suite, outer_tag, .. } => {
                let key = GroupKey::new(gid, epoch, suite, outer_tag, &Secret32::new(key));
                self.grant(key)
            }
            ControlOp::GroupRevoke { gid, epoch } => {
                self.memberships.remove(&(gid, epoch));
                Ok(())
            }
            ControlOp::KeyUpdate
            | ControlOp::Ticket(_)
            | ControlOp::Notice(_)
            | ControlOp::Goodbye { .. } => Ok(()),
        }
    }

    /// The operations under group keys since they were last taken.
    pub(super) fn take_operations(&self) -> Operations {
        let mut made = Operations::default();
        for membership in self.memberships.values() {
            made += membership.key.sealing.tally.take();
        }
        made
    }

    /// Adds the keys that came with a re-authentication to those it has.
    pub(super) fn adopt(&mut self, granted: Self) -> Result<(), LayoutError> {
        granted.memberships.into_values().try_for_each(|membership| self.grant(membership.key))
    }

    fn grant(&mut self, key: GroupKey) -> Result<(), LayoutError> {
        let (gid, epoch) = (key.gid, key.epoch);
        let previous = self.memberships.range((gid, 0)..(gid, epoch)).next_back().map(|(id, _)| *id);
        self.memberships.retain(|id, _| id.0 != gid || id.1 >= epoch || Some(*id) == previous);
        if self.memberships.len() >= GROUP_KEYS_MAX {
            return Err(LayoutError::Value("group grant"));
        }
        // A repeated grant must not make the window forget.
        self.memberships.entry((gid, epoch)).or_insert(Membership { key, window: Window::default() });
        Ok(())
    }

    /// Opens FAN-G in place.
    pub(super) fn open_authenticated(
        &mut self,
        record: &[u8],
        mut outer: OuterTag<'_>,
    ) -> Option<FanDelivery> {
        let header = locate_header(record)?;
        let shared = record.get(header.end..)?;
        let stamp = SharedBody::parse(shared).ok()?.stamp?;
        let member = self.memberships.get_mut(&(stamp.gid, stamp.epoch))?;
        let outer_len = if member.key.outer_tag { outer.keys.tag_len() } else { 0 };
        let (shared, outer_tag) = shared.split_at_checked(shared.len().checked_sub(outer_len)?)?;
        let (body, tag) = shared.split_at_checked(shared.len().checked_sub(GROUP_TAG_LEN)?)?;
        let expected = member.key.tag(&[body]);
        let matches = bool::from(expected.ct_eq(tag))
            && (!member.key.outer_tag || outer.matches(record.get(..header.end)?, &expected, outer_tag));
        let body = header.end..header.end + body.len();
        (matches && member.window.take(stamp.sequence)).then_some(FanDelivery { header, body })
    }

    /// Verifies and decrypts FAN-GE in place.
    pub(super) fn open_encrypted(
        &mut self,
        record: &mut [u8],
        mut outer: OuterTag<'_>,
    ) -> Option<FanDelivery> {
        let header = locate_header(record)?;
        let mut clear = Reader::new(record.get(header.end..)?);
        let id = (clear.u32("gid").ok()?, clear.u32("epoch").ok()?);
        let sequence = clear.u64("sequence").ok()?;
        let member = self.memberships.get_mut(&id)?;
        let outer_len = if member.key.outer_tag { outer.keys.tag_len() } else { 0 };
        let shared_end = record.len().checked_sub(outer_len)?;
        let (record, outer_tag) = record.split_at_mut_checked(shared_end)?;
        let (own, shared) = record.split_at_mut_checked(header.end)?;
        if member.key.outer_tag && !outer.matches(own, &member.key.digest(shared), outer_tag) {
            return None;
        }
        let plain = member.key.sealing.open(sequence, shared, CLEAR_LEN)?;
        let stamp = SharedBody::parse(shared.get(plain.clone())?).ok()?.stamp?;
        let body = header.end + plain.start..header.end + plain.end;
        let same = (stamp.gid, stamp.epoch) == id && stamp.sequence == sequence;
        (same && member.window.take(sequence)).then_some(FanDelivery { header, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_takes_each_number_once_and_forgets_what_is_too_old() {
        let mut window = Window::default();

        assert!(window.take(5));
        assert!(window.take(3), "late but new");
        assert!(!window.take(5) && !window.take(3), "taken");
        assert!(window.take(1028));
        assert!(!window.take(4), "1,024 behind the highest");
        assert!(!window.take(5), "still known");
        assert!(window.take(6));
        assert!(window.take(1_000_000));
        assert!(window.take(1_000_000 - 1023));
        assert!(!window.take(1_000_000 - 1024));
        assert!(window.take(u64::MAX - 1));
        assert!(!window.take(u64::MAX - 1));
        assert!(!window.take(u64::MAX), "the last number is never used");
    }
}
