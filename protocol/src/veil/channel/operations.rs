//! How many cryptographic operations were made, counted where they are made.
//!
//! Counts go up by plain loads and stores: keys are used by one thread at a time. Invariant: what was taken is not counted again.

use core::{
    ops::AddAssign,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Cryptographic operations on messages and records, in the terms of the paper's Table 2 (VEIL-1 section 7).
///
/// An AEAD that encrypts counts as an encryption and a MAC, as AES-CBC with HMAC does; verifying counts as making.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Encryptions and decryptions: `T_E`.
    pub encryptions: u64,
    /// MACs over a whole message or record: `T_H`.
    pub macs: u64,
    /// Tags over the digest of a message instead of the message: `t_h`.
    pub digest_tags: u64,
    /// Digests of whole messages: `T_hash`.
    pub digests: u64,
}

impl Operations {
    /// Encrypting or decrypting one body and authenticating it.
    pub const SEALED: Self = Self { encryptions: 1, macs: 1, digest_tags: 0, digests: 0 };

    /// What the operations are called, in the order of the fields.
    pub const NAMES: [&str; 4] = ["encryption", "mac", "digest_tag", "digest"];

    /// How many there are of each of [`NAMES`](Self::NAMES).
    #[must_use]
    pub const fn counts(&self) -> [u64; 4] {
        [self.encryptions, self.macs, self.digest_tags, self.digests]
    }
}

impl AddAssign for Operations {
    fn add_assign(&mut self, other: Self) {
        self.encryptions += other.encryptions;
        self.macs += other.macs;
        self.digest_tags += other.digest_tags;
        self.digests += other.digests;
    }
}

/// The operations of one set of keys since they were last taken.
#[derive(Default)]
pub(super) struct Tally {
    encryptions: AtomicUsize,
    macs: AtomicUsize,
    digest_tags: AtomicUsize,
    digests: AtomicUsize,
}

impl Tally {
    pub(super) fn sealed(&self) {
        bump(&self.encryptions, 1);
        bump(&self.macs, 1);
    }

    pub(super) fn mac(&self) {
        bump(&self.macs, 1);
    }

    pub(super) fn digest_tag(&self) {
        bump(&self.digest_tags, 1);
    }

    pub(super) fn digest(&self) {
        bump(&self.digests, 1);
    }

    /// Returns what was counted, and begins again at zero.
    pub(super) fn take(&self) -> Operations {
        let taken = |count: &AtomicUsize| {
            let value = count.load(Relaxed);
            count.store(0, Relaxed);
            value as u64
        };
        Operations {
            encryptions: taken(&self.encryptions),
            macs: taken(&self.macs),
            digest_tags: taken(&self.digest_tags),
            digests: taken(&self.digests),
        }
    }

    /// Goes on from what keys counted that these take the place of.
    pub(super) fn go_on_from(&self, previous: &Self) {
        for (own, other) in [
            (&self.encryptions, &previous.encryptions),
            (&self.macs, &previous.macs),
            (&self.digest_tags, &previous.digest_tags),
            (&self.digests, &previous.digests),
        ] {
            bump(own, other.load(Relaxed));
        }
    }
}

fn bump(count: &AtomicUsize, by: usize) {
    count.store(count.load(Relaxed).wrapping_add(by), Relaxed);
}
