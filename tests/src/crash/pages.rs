//! The contents of one file on the simulated disk, page by page: as they are, and as they are durable.
//!
//! Invariant: what a sync has covered is in every cut until it is overwritten or cut off, and may be there even then.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::dice::Dice;

const PAGE_BYTES: u64 = 4096;

type Page = Rc<[u8; PAGE_BYTES as usize]>;

/// The pages and the length of a file.
#[derive(Clone, Default)]
struct Contents {
    pages: BTreeMap<u64, Page>,
    length: u64,
}

/// A file.
#[derive(Default)]
pub(super) struct File {
    now: Contents,
    durable: Contents,
    /// Pages that differ between the two.
    dirty: BTreeSet<u64>,
    /// The number of the last sync that ended.
    synced: Option<usize>,
}

/// What a sync that has begun will make durable.
pub(super) struct Snapshot {
    /// The pages that were not durable; none for one that was cut off.
    dirty: Vec<(u64, Option<Page>)>,
    length: u64,
}

fn pages_of(length: u64) -> u64 {
    length.div_ceil(PAGE_BYTES)
}

impl File {
    /// A file that has always been there.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        let mut file = Self::default();
        file.write(0, bytes);
        file.durable = file.now.clone();
        file.dirty.clear();
        file
    }

    /// The bytes that a reader finds now.
    pub(super) fn length(&self) -> u64 {
        self.now.length
    }

    /// Overwrites from `start` on.
    pub(super) fn write(&mut self, start: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let mut position = start;
        while !rest.is_empty() {
            let (page, within) = (position / PAGE_BYTES, (position % PAGE_BYTES) as usize);
            let count = rest.len().min(PAGE_BYTES as usize - within);
            let mut content = self.now.page(page);
            content[within..within + count].copy_from_slice(&rest[..count]);
            self.replace(page, content);
            position += count as u64;
            rest = &rest[count..];
        }
        self.now.length = self.now.length.max(position);
    }

    fn replace(&mut self, page: u64, content: [u8; PAGE_BYTES as usize]) {
        self.now.pages.insert(page, Rc::new(content));
        self.dirty.insert(page);
    }

    /// Cuts the file, or makes it longer with zeros.
    pub(super) fn set_length(&mut self, length: u64) {
        if length < self.now.length {
            for (page, _) in self.now.pages.split_off(&pages_of(length)) {
                self.dirty.insert(page);
            }
            let within = (length % PAGE_BYTES) as usize;
            if within > 0 {
                let mut content = self.now.page(length / PAGE_BYTES);
                content[within..].fill(0);
                self.replace(length / PAGE_BYTES, content);
            }
        }
        self.now.length = length;
    }

    /// Remembers what a sync that begins now is asked for.
    pub(super) fn snapshot(&self) -> Snapshot {
        let dirty = self.dirty.iter().map(|page| (*page, self.now.pages.get(page).cloned())).collect();
        Snapshot { dirty, length: self.now.length }
    }

    /// Makes durable what the sync with this number, in the order of beginning, was asked for.
    pub(super) fn end_sync(&mut self, number: usize, snapshot: Snapshot) {
        // One that began before another and ends after it makes nothing durable that the other did not.
        if self.synced.is_some_and(|last| last > number) {
            return;
        }
        self.synced = Some(number);
        self.durable.length = snapshot.length;
        for (page, content) in snapshot.dirty {
            let is_still = match (self.now.pages.get(&page), &content) {
                (Some(now), Some(synced)) => Rc::ptr_eq(now, synced),
                (None, None) => true,
                _ => false,
            };
            if is_still {
                self.dirty.remove(&page);
            }
            match content {
                Some(content) => self.durable.pages.insert(page, content),
                None => self.durable.pages.remove(&page),
            };
        }
    }

    /// Chooses what a power cut leaves: all that is durable and about `percent` of the pages that are not.
    pub(super) fn cut(&self, percent: u64, dice: &mut Dice) -> Vec<u8> {
        let kept: BTreeSet<u64> = self.dirty.iter().copied().filter(|_| dice.chance(percent)).collect();
        let length = if self.now.length == self.durable.length || dice.chance(percent) {
            self.now.length
        } else {
            // A page beyond the end cannot be there without the end.
            let last = kept.last().map_or(0, |page| (page + 1) * PAGE_BYTES);
            self.durable.length.max(last.min(self.now.length))
        };
        let mut bytes = Vec::with_capacity((pages_of(length) * PAGE_BYTES) as usize);
        for page in 0..pages_of(length) {
            let contents = if kept.contains(&page) { &self.now } else { &self.durable };
            bytes.extend_from_slice(&contents.page(page));
        }
        bytes.truncate(length as usize);
        bytes
    }
}

impl Contents {
    fn page(&self, page: u64) -> [u8; PAGE_BYTES as usize] {
        self.pages.get(&page).map_or([0; PAGE_BYTES as usize], |page| **page)
    }
}
