//! Rows: the pieces in which batches are stored, and the envelope around each.
//!
//! A batch is packed into rows of a few kilobytes: the engine charges for each row, whatever its size, and keeps large ones in files that
//! it never syncs. An entry that does not fit into the rest of a row begins the next one, so that a damaged row takes only its own entries
//! along; only what is larger than a row goes over several. Every row carries a format version, a checksum over its key and contents, how
//! many rows its batch has, and where the log began when it was written, so that nothing can be missing unnoticed.
//! Reading trusts nothing: any bytes give rows or damage, never a panic.

use super::entry::{Malformed, entry_bytes};

/// The most bytes of a row, key and value together; sixteen of them still fit into one page of the engine.
pub(crate) const ROW_BYTES_MAX: usize = 7_000;
/// The first byte of each key, in case that other tables are needed one day.
const TABLE: u8 = 1;
/// Table, sequence number, chunk.
const KEY_BYTES: usize = 1 + 8 + 4;
/// Version, checksum, number of rows, kind, first row of the log.
const ENVELOPE_BYTES: usize = 1 + 4 + 4 + 1 + 8 + 4;
/// The most bytes of entries in a row.
pub(crate) const CONTENTS_BYTES_MAX: usize = ROW_BYTES_MAX - KEY_BYTES - ENVELOPE_BYTES;

/// The format of a row's contents, the first byte of every row. Directories of format 1 had rows of the formats 1 and 2.
pub(crate) const ROW_VERSION: u8 = 3;

/// Where a row is in the log: the number of its batch, from 1, and its position in the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowKey {
    pub(crate) sequence: u64,
    pub(crate) chunk: u32,
}

impl RowKey {
    /// The first row of a batch.
    pub(crate) fn first_of(sequence: u64) -> Self {
        Self { sequence, chunk: 0 }
    }

    /// Returns the bytes of the key, which sort like rows.
    pub(crate) fn bytes(self) -> [u8; KEY_BYTES] {
        let mut bytes = [TABLE; KEY_BYTES];
        bytes[1..9].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[9..].copy_from_slice(&self.chunk.to_be_bytes());
        bytes
    }

    /// Reads a key; None if no row of ours has it.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (sequence, chunk) = bytes.strip_prefix(&[TABLE])?.split_first_chunk()?;
        let (sequence, chunk) = (u64::from_be_bytes(*sequence), u32::from_be_bytes(chunk.try_into().ok()?));
        Some(Self { sequence, chunk })
    }
}

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// Whole entries.
    Entries = 0,
    /// The first piece of an entry that is larger than a row.
    First = 1,
    /// A further piece of it.
    Continuation = 2,
}

/// Packs entries into the rows of one batch.
pub(crate) struct Packer {
    sequence: u64,
    /// Each with room for its envelope in front.
    rows: Vec<(Kind, Vec<u8>)>,
    bytes: u64,
}

impl Packer {
    /// Begins a batch.
    pub(crate) fn new(sequence: u64) -> Self {
        Self { sequence, rows: Vec::new(), bytes: 0 }
    }

    /// Returns the number of the batch.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the bytes of all rows so far, with their keys.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds an entry; returns its row, the first one if it takes several.
    pub(crate) fn push(&mut self, entry: &[u8]) -> RowKey {
        if entry.len() <= CONTENTS_BYTES_MAX {
            match self.rows.last_mut() {
                Some((Kind::Entries, row)) if row.len() + entry.len() <= ROW_BYTES_MAX - KEY_BYTES => {
                    row.extend_from_slice(entry);
                    self.bytes += entry.len() as u64;
                }
                _ => self.begin(Kind::Entries, entry),
            }
            return self.last();
        }
        let (first, rest) = entry.split_at(CONTENTS_BYTES_MAX);
        self.begin(Kind::First, first);
        let place = self.last();
        rest.chunks(CONTENTS_BYTES_MAX).for_each(|piece| self.begin(Kind::Continuation, piece));
        place
    }

    fn begin(&mut self, kind: Kind, contents: &[u8]) {
        let mut row = vec![0; ENVELOPE_BYTES];
        row.extend_from_slice(contents);
        self.bytes += (KEY_BYTES + row.len()) as u64;
        self.rows.push((kind, row));
    }

    fn last(&self) -> RowKey {
        RowKey { sequence: self.sequence, chunk: count(self.rows.len()).saturating_sub(1) }
    }

    /// Puts the envelopes around the rows of the finished batch; `oldest` is the first row of the log from now on.
    pub(crate) fn seal(self, oldest: RowKey) -> Vec<(RowKey, Vec<u8>)> {
        let total = count(self.rows.len());
        let sealed = (0..).zip(self.rows).map(|(chunk, (kind, mut row))| {
            let key = RowKey { sequence: self.sequence, chunk };
            row[5..9].copy_from_slice(&total.to_le_bytes());
            row[9] = kind as u8;
            row[10..18].copy_from_slice(&oldest.sequence.to_le_bytes());
            row[18..22].copy_from_slice(&oldest.chunk.to_le_bytes());
            row[0] = ROW_VERSION;
            let checksum = checksum(&key.bytes(), ROW_VERSION, &row[5..]);
            row[1..5].copy_from_slice(&checksum.to_le_bytes());
            (key, row)
        });
        sealed.collect()
    }
}

/// Rows fill memory long before they cannot be counted.
fn count(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

/// The key is part of the checksum, so that a row cannot pass for another.
fn checksum(key: &[u8], version: u8, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[version]);
    hasher.update(rest);
    hasher.finalize()
}

/// A row, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    /// Where it is.
    pub(crate) key: RowKey,
    /// The rows of its batch.
    pub(crate) total: u32,
    /// The first row of the log when its batch was written.
    pub(crate) oldest: RowKey,
    kind: Kind,
    contents: &'a [u8],
}

/// Why a row cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowFault {
    /// Its bytes are not what was written.
    Damaged,
    /// It is intact and of a format that this broker does not know.
    UnknownVersion(u8),
}

impl<'a> Row<'a> {
    /// Takes the envelope off.
    ///
    /// # Errors
    /// [`RowFault`].
    pub(crate) fn open(key: &[u8], row: &'a [u8]) -> Result<Self, RowFault> {
        let (version, rest) = row.split_first().ok_or(RowFault::Damaged)?;
        let (expected, rest) = rest.split_first_chunk().ok_or(RowFault::Damaged)?;
        // The checksum comes first: a flipped version byte is damage, not a newer format.
        if u32::from_le_bytes(*expected) != checksum(key, *version, rest) {
            return Err(RowFault::Damaged);
        }
        if *version != ROW_VERSION {
            return Err(RowFault::UnknownVersion(*version));
        }
        Self::parse(key, rest).ok_or(RowFault::Damaged)
    }

    fn parse(key: &[u8], rest: &'a [u8]) -> Option<Self> {
        let key = RowKey::parse(key)?;
        let (total, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        let kind = [Kind::Entries, Kind::First, Kind::Continuation]
            .into_iter()
            .find(|known| *known as u8 == *kind)?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (chunk, contents) = rest.split_first_chunk()?;
        let oldest = RowKey { sequence: u64::from_le_bytes(*sequence), chunk: u32::from_le_bytes(*chunk) };
        Some(Self { key, total: u32::from_le_bytes(*total), oldest, kind, contents })
    }
}

/// Puts entries together again that are larger than a row, from rows that arrive in the order of their keys.
#[derive(Default)]
pub(crate) struct Assembler {
    /// The entry under way.
    partial: Option<Partial>,
    bytes: Vec<u8>,
}

struct Partial {
    first: RowKey,
    /// The rows so far.
    rows: u32,
    /// The bytes of the whole entry.
    total: usize,
}

/// What the rows passed in so far complete.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents<'a> {
    /// The row in which all of its entries begin.
    pub(crate) place: RowKey,
    /// One or more entries.
    pub(crate) entries: &'a [u8],
}

impl Assembler {
    /// Tells whether more rows are needed for an entry.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.partial.is_some()
    }

    /// Takes the next intact row. The rows that turn out to belong to no whole entry, this one or earlier ones, are added to `stray`.
    pub(crate) fn push<'a>(&'a mut self, row: &Row<'a>, stray: &mut u64) -> Option<Contents<'a>> {
        let Row { key, kind, contents, .. } = *row;
        if kind == Kind::Continuation {
            return self.go_on(key, contents, stray);
        }
        self.give_up(stray);
        if kind == Kind::Entries {
            return Some(Contents { place: key, entries: contents });
        }
        match entry_bytes(contents) {
            Ok(total) if total > contents.len() => {
                self.partial = Some(Partial { first: key, rows: 1, total });
                self.bytes.clear();
                self.bytes.extend_from_slice(contents);
            }
            Ok(_) | Err(Malformed) => *stray += 1,
        }
        None
    }

    fn go_on(&mut self, key: RowKey, contents: &[u8], stray: &mut u64) -> Option<Contents<'_>> {
        let follows = |partial: &&mut Partial| {
            partial.first.sequence == key.sequence
                && partial.first.chunk.checked_add(partial.rows) == Some(key.chunk)
                && self.bytes.len() + contents.len() <= partial.total
        };
        let Some(partial) = self.partial.as_mut().filter(follows) else {
            self.give_up(stray);
            *stray += 1;
            return None;
        };
        partial.rows += 1;
        self.bytes.extend_from_slice(contents);
        if self.bytes.len() < partial.total {
            return None;
        }
        let place = partial.first;
        self.partial = None;
        Some(Contents { place, entries: &self.bytes })
    }

    /// Says that the next row is not intact, or that there is none; the rows of an entry under way are added to `stray`.
    pub(crate) fn give_up(&mut self, stray: &mut u64) {
        *stray += self.partial.take().map_or(0, |partial| u64::from(partial.rows));
    }
}

#[cfg(test)]
mod tests {
    use veilmq_core::MessageId;

    use super::super::entry::{Effect, Key, encode};
    use super::*;

    fn entry(message: u64, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let key = Key::Body(MessageId(message));
        encode(Effect::Put { key, shared: false }, value, &mut bytes);
        bytes
    }

    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    const OLDEST: RowKey = RowKey { sequence: 5, chunk: 2 };

    fn packed(entries: &[Vec<u8>]) -> (Vec<RowKey>, Rows) {
        let mut packer = Packer::new(7);
        let places = entries.iter().map(|entry| packer.push(entry)).collect();
        let bytes = packer.bytes();
        let rows: Rows =
            packer.seal(OLDEST).into_iter().map(|(key, row)| (key.bytes().to_vec(), row)).collect();
        assert_eq!(bytes, rows.iter().map(|(key, row)| (key.len() + row.len()) as u64).sum::<u64>());
        (places, rows)
    }

    /// Returns the contents with their places, and how many rows were of no use.
    fn read(rows: &Rows) -> (Vec<(RowKey, Vec<u8>)>, u64) {
        let (mut all, mut stray) = (Vec::new(), 0);
        let mut assembler = Assembler::default();
        for (key, row) in rows {
            match Row::open(key, row) {
                Ok(row) => {
                    assert_eq!(row.oldest, OLDEST);
                    if let Some(Contents { place, entries }) = assembler.push(&row, &mut stray) {
                        all.push((place, entries.to_vec()));
                    }
                }
                Err(RowFault::Damaged) => {
                    assembler.give_up(&mut stray);
                    stray += 1;
                }
                Err(fault) => panic!("{fault:?}"),
            }
        }
        assembler.give_up(&mut stray);
        (all, stray)
    }

    #[test]
    fn entries_share_rows_and_only_large_ones_take_several() {
        let small = entry(1, &[1; 100]);
        let sizes = [6_000, 900, 6_965 - 4, 6_966 - 4, 10, 50_000, 20];
        let mut entries: Vec<Vec<u8>> =
            (1..).zip(sizes).map(|(id, size)| entry(id, &vec![id as u8; size])).collect();
        assert_eq!(entries[2].len(), CONTENTS_BYTES_MAX);
        entries.insert(0, small);

        let (places, rows) = packed(&entries);

        let chunks: Vec<u32> = places.iter().map(|place| place.chunk).collect();
        assert_eq!(chunks, [0, 0, 1, 2, 3, 5, 6, 14]);
        assert!(rows.iter().all(|(key, row)| key.len() + row.len() <= ROW_BYTES_MAX));
        let (contents, stray) = read(&rows);
        assert_eq!(
            contents.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>(),
            entries.concat()
        );
        let expected: Vec<RowKey> = [0, 1, 2, 3, 5, 6, 14].map(|chunk| RowKey { sequence: 7, chunk }).into();
        assert_eq!(contents.into_iter().map(|(place, _)| place).collect::<Vec<_>>(), expected);
        assert_eq!(stray, 0);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (_, intact) = packed(&[entry(1, b"a body")]);
        for bit in 0..(intact[0].0.len() + intact[0].1.len()) * 8 {
            let mut flipped = intact.clone();
            let (key, row) = &mut flipped[0];
            match (bit / 8).checked_sub(key.len()) {
                None => key[bit / 8] ^= 1 << (bit % 8),
                Some(byte) => row[byte] ^= 1 << (bit % 8),
            }

            assert_eq!(read(&flipped), (vec![], 1), "bit {bit}");
        }
    }

    #[test]
    fn an_entry_without_all_of_its_rows_is_left_out_and_the_next_one_is_not() {
        let (_, rows) = packed(&[entry(1, &[5; 3 * CONTENTS_BYTES_MAX]), entry(2, b"next")]);
        assert_eq!(rows.len(), 5);
        for missing in 0..4 {
            let mut rows = rows.clone();
            rows.remove(missing);

            let (contents, stray) = read(&rows);

            let next = (RowKey { sequence: 7, chunk: 4 }, entry(2, b"next"));
            assert_eq!((contents, stray), (vec![next], 3), "without row {missing}");
        }
    }

    #[test]
    fn an_intact_row_of_another_version_is_not_called_damage() {
        let (_, rows) = packed(&[entry(1, b"from the future")]);
        let (key, mut row) = rows.into_iter().next().unwrap();
        row[0] = ROW_VERSION + 1;
        let sum = checksum(&key, ROW_VERSION + 1, &row[5..]);
        row[1..5].copy_from_slice(&sum.to_le_bytes());

        assert_eq!(Row::open(&key, &row).unwrap_err(), RowFault::UnknownVersion(ROW_VERSION + 1));
    }

    #[test]
    fn keys_of_any_length_are_parsed_without_panic_and_sort_like_rows() {
        for bytes in 0..2 * KEY_BYTES {
            assert_eq!(RowKey::parse(&vec![TABLE; bytes]).is_some(), bytes == KEY_BYTES, "{bytes} bytes");
        }
        assert_eq!(RowKey::parse(&[0; KEY_BYTES]), None);
        let keys = [(1, 0), (1, 255), (1, 256), (255, 0), (256, 0)];
        let keys = keys.map(|(sequence, chunk)| RowKey { sequence, chunk });
        assert!(keys.map(RowKey::bytes).is_sorted() && keys.is_sorted());
        assert_eq!(keys.map(|key| RowKey::parse(&key.bytes())), keys.map(Some));
    }
}
