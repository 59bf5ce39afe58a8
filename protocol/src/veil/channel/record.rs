//! What the two directions of the record layer share: their keys and record numbers
//! (VEIL-1 sections 4.8, 5.2).
//!
//! Invariant: a record number is used once per phase.

use super::{
    kdf::Secret32,
    suite_keys::{Purpose, SuiteKeys},
};
use crate::veil::{
    record::{HEADER_LEN, Phase, RecordHeader, RecordType},
    registry::Suite,
};

/// After this many records under one key the sender moves to the next (VEIL-1 section 4.8).
pub const REKEY_RECORDS: u64 = 1 << 24;

/// Which end of the channel a party is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that sent CONNECT.
    Client,
    /// The one that answered it.
    Broker,
}

/// `ap_x`, the keys expanded from it, and how far they have been used.
pub(super) struct DirectionKeys {
    suite: Suite,
    secret: Secret32,
    pub(super) keys: SuiteKeys,
    pub(super) phase: Phase,
    sequence: u64,
}

impl DirectionKeys {
    pub(super) fn new(suite: Suite, secret: Secret32) -> Self {
        let keys = SuiteKeys::new(suite, &secret, &Purpose::RECORDS);
        Self { suite, secret, keys, phase: Phase::default(), sequence: 0 }
    }

    /// `ap_x' = Derive(ap_x, "upd", "", 32)`; record numbers restart, the phase flips.
    pub(super) fn update(&mut self) {
        self.secret = self.secret.derive("upd", &[]);
        let next = SuiteKeys::new(self.suite, &self.secret, &Purpose::RECORDS);
        next.tally.go_on_from(&self.keys.tally);
        self.keys = next;
        self.phase = self.phase.next();
        self.sequence = 0;
    }

    /// Takes the place of `previous`: record 0 of the phase after its own.
    pub(super) const fn succeed(&mut self, previous: &Self) {
        self.phase = previous.phase.next();
    }

    pub(super) const fn header(&self, record_type: RecordType, len: u32) -> [u8; HEADER_LEN] {
        RecordHeader { record_type, phase: self.phase, len }.to_bytes()
    }

    /// How many records were made or taken under the current keys.
    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) const fn next_sequence(&mut self) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        sequence
    }
}
