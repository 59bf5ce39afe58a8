//! Rows: the keys under which values are stored, and the envelope around each piece of a value.
//!
//! A value larger than one row is cut into chunks, because the engine keeps large rows in files that it never syncs.
//! Every row carries a format version, a checksum over its key and contents, and the sequence number of its batch.
//! Reading trusts nothing: any bytes give rows or damage, never a panic.

use core::borrow::Borrow;
use core::fmt;

use sha2::{Digest, Sha256};
use veilmq_core::{MessageId, SessionId};
use veilmq_protocol::PacketId;

/// The most bytes of a row, key and value together; sixteen of them still fit into one page of the engine.
pub(crate) const ROW_BYTES_MAX: usize = 7_000;
/// Version, checksum, sequence number, number of chunks.
const ENVELOPE_BYTES: usize = 1 + 4 + 8 + 2;
/// The contents of one row.
const CHUNK_BYTES_MAX: usize = ROW_BYTES_MAX - KEY_BYTES_MAX - CHUNK_INDEX_BYTES - ENVELOPE_BYTES;
/// The longest key without chunk index: a table, a session and a name.
const KEY_BYTES_MAX: usize = 1 + 8 + NAME_BYTES;
/// The chunk index at the end of a row's key.
const CHUNK_INDEX_BYTES: usize = 2;
/// A name is 160 bits of its SHA-256: keys stay short whatever a client subscribes to, and nobody finds two names alike.
const NAME_BYTES: usize = 20;

/// The formats of a row's contents; the number is the first byte of every row. A row says the oldest format that has such
/// contents, so that an older broker can read all that it would understand and refuses the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum RowFormat {
    /// Everything that is not newer.
    First = 1,
    /// References that say which Shared Subscription they belong to.
    Shared = 2,
}

impl RowFormat {
    /// The newest format that this broker knows.
    pub(crate) const NEWEST: Self = Self::Shared;

    fn of_number(number: u8) -> Option<Self> {
        [Self::First, Self::Shared].into_iter().find(|format| *format as u8 == number)
    }

    /// Returns what a row says of itself.
    pub(crate) fn of(row: &[u8]) -> Option<Self> {
        row.first().copied().and_then(Self::of_number)
    }
}

/// The tables, which share one tree; the number is the first byte of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Table {
    /// The sequence number of the last batch.
    Sequence = 0,
    /// Session heads, by session.
    Session = 1,
    /// Subscriptions, by session and Topic Filter.
    Subscription = 2,
    /// References, by session and message; before the bodies, so that one pass finds all references of a body.
    Reference = 3,
    /// Message bodies, by message.
    Body = 4,
    /// Received QoS 2 Packet Identifiers, by session and identifier.
    Received = 5,
    /// Retained messages, by Topic Name.
    Retained = 6,
}

/// The tables whose keys begin with a session.
pub(crate) const SESSION_TABLES: [Table; 4] =
    [Table::Session, Table::Subscription, Table::Reference, Table::Received];

/// The key of a value; the keys of its rows are this and a chunk index.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    len: usize,
}

impl Key {
    fn of(table: Table, parts: &[&[u8]]) -> Self {
        let mut key = Self { bytes: [0; KEY_BYTES_MAX], len: 0 };
        for part in core::iter::once(&[table as u8][..]).chain(parts.iter().copied()) {
            key.bytes[key.len..key.len + part.len()].copy_from_slice(part);
            key.len += part.len();
        }
        key
    }

    /// The key of the last batch's sequence number.
    pub(crate) fn sequence() -> Self {
        Self::of(Table::Sequence, &[])
    }

    /// The key of a session head.
    pub(crate) fn session(session: SessionId) -> Self {
        Self::of(Table::Session, &[&session.0.to_be_bytes()])
    }

    /// The key of a subscription.
    pub(crate) fn subscription(session: SessionId, filter: &str) -> Self {
        Self::of(Table::Subscription, &[&session.0.to_be_bytes(), &name(filter)])
    }

    /// The key of a message body.
    pub(crate) fn body(message: MessageId) -> Self {
        Self::of(Table::Body, &[&message.0.to_be_bytes()])
    }

    /// The key of a session's reference to a message.
    pub(crate) fn reference(session: SessionId, message: MessageId) -> Self {
        Self::of(Table::Reference, &[&session.0.to_be_bytes(), &message.0.to_be_bytes()])
    }

    /// The key of a received Packet Identifier.
    pub(crate) fn received(session: SessionId, packet_id: PacketId) -> Self {
        Self::of(Table::Received, &[&session.0.to_be_bytes(), &packet_id.value().to_be_bytes()])
    }

    /// The key of a retained message.
    pub(crate) fn retained(topic: &str) -> Self {
        Self::of(Table::Retained, &[&name(topic)])
    }

    /// Returns the table, if the key begins with one.
    pub(crate) fn table(&self) -> Option<Table> {
        use Table::{Body, Received, Reference, Retained, Sequence, Session, Subscription};
        let number = *self.as_bytes().first()?;
        [Sequence, Session, Subscription, Reference, Body, Received, Retained]
            .into_iter()
            .find(|table| *table as u8 == number)
    }

    /// What all keys of a session in a table begin with.
    pub(crate) fn session_prefix(table: Table, session: SessionId) -> Self {
        Self::of(table, &[&session.0.to_be_bytes()])
    }

    /// Returns the key of the row with this chunk.
    pub(crate) fn row(&self, chunk: u16) -> Vec<u8> {
        let mut row = Vec::with_capacity(self.len + CHUNK_INDEX_BYTES);
        row.extend_from_slice(self.as_bytes());
        row.extend_from_slice(&chunk.to_be_bytes());
        row
    }

    /// Reads the key of a row: the value's key and the chunk index; None if no row of ours has such a key.
    pub(crate) fn parse_row(row: &[u8]) -> Option<(Self, u16)> {
        let (key, chunk) = row.split_last_chunk::<CHUNK_INDEX_BYTES>()?;
        let (_, parts) = key.split_first()?;
        if parts.len() >= KEY_BYTES_MAX {
            return None;
        }
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes[..key.len()].copy_from_slice(key);
        Some((Self { bytes, len: key.len() }, u16::from_be_bytes(*chunk)))
    }

    /// Returns the key without chunk index.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Reads the number that follows the table byte, if the key has one there.
    pub(crate) fn number(&self) -> Option<u64> {
        self.as_bytes().get(1..).and_then(<[u8]>::first_chunk).map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// Reads what follows table and session, if it has exactly `N` bytes.
    pub(crate) fn second<const N: usize>(&self) -> Option<[u8; N]> {
        self.as_bytes().get(9..).and_then(|bytes| bytes.try_into().ok())
    }
}

/// Shortens a name to a fixed number of bytes.
fn name(name: &str) -> [u8; NAME_BYTES] {
    let digest = Sha256::digest(name.as_bytes());
    core::array::from_fn(|index| digest[index])
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A value was too large to be stored: above 65,535 chunks, some 450 MB.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value of {0} bytes is larger than storage can keep")]
pub(crate) struct TooLarge(usize);

/// Cuts a value into rows and passes each to `put`; returns the number of rows.
///
/// # Errors
/// [`TooLarge`]; nothing was put then.
pub(crate) fn write_rows(
    key: &Key,
    format: RowFormat,
    sequence: u64,
    value: &[u8],
    mut put: impl FnMut(Vec<u8>, Vec<u8>),
) -> Result<u16, TooLarge> {
    // An empty value still is one row.
    let chunks =
        u16::try_from(value.len().div_ceil(CHUNK_BYTES_MAX).max(1)).map_err(|_| TooLarge(value.len()))?;
    for chunk in 0..chunks {
        let start = usize::from(chunk) * CHUNK_BYTES_MAX;
        let end = value.len().min(start + CHUNK_BYTES_MAX);
        let row_key = key.row(chunk);
        let row = seal(&row_key, format, sequence, chunks, &value[start..end]);
        put(row_key, row);
    }
    Ok(chunks)
}

/// Puts the envelope around the contents of one row.
fn seal(row_key: &[u8], format: RowFormat, sequence: u64, chunks: u16, contents: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(ENVELOPE_BYTES + contents.len());
    row.push(format as u8);
    row.extend_from_slice(&[0; 4]);
    row.extend_from_slice(&sequence.to_le_bytes());
    row.extend_from_slice(&chunks.to_le_bytes());
    row.extend_from_slice(contents);
    let checksum = checksum(row_key, format as u8, &row[5..]);
    row[1..5].copy_from_slice(&checksum.to_le_bytes());
    row
}

/// The key is part of the checksum, so that a row cannot pass for another.
fn checksum(row_key: &[u8], version: u8, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(row_key);
    hasher.update(&[version]);
    hasher.update(rest);
    hasher.finalize()
}

/// The contents of one row, checked.
struct Row<'a> {
    sequence: u64,
    chunks: u16,
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

/// Takes the envelope off.
fn open<'a>(row_key: &[u8], row: &'a [u8]) -> Result<Row<'a>, RowFault> {
    let (version, rest) = row.split_first().ok_or(RowFault::Damaged)?;
    let (expected, rest) = rest.split_first_chunk().ok_or(RowFault::Damaged)?;
    // The checksum comes first: a flipped version byte is damage, not a newer format.
    if u32::from_le_bytes(*expected) != checksum(row_key, *version, rest) {
        return Err(RowFault::Damaged);
    }
    if RowFormat::of_number(*version).is_none() {
        return Err(RowFault::UnknownVersion(*version));
    }
    let (sequence, rest) = rest.split_first_chunk().ok_or(RowFault::Damaged)?;
    let (chunks, contents) = rest.split_first_chunk().ok_or(RowFault::Damaged)?;
    Ok(Row { sequence: u64::from_le_bytes(*sequence), chunks: u16::from_le_bytes(*chunks), contents })
}

/// Puts values together again from rows that arrive in the order of their keys.
#[derive(Default)]
pub(crate) struct Assembler {
    /// The value under way; None before the first row, and after a value was given out or given up.
    partial: Option<Partial>,
    bytes: Vec<u8>,
    sequence_max: u64,
}

struct Partial {
    key: Key,
    sequence: u64,
    chunks: u16,
    next: u16,
}

/// What became of the rows passed in so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Assembled<'a> {
    /// More rows are needed.
    Incomplete,
    /// A value is complete.
    Value {
        /// Its key.
        key: Key,
        /// The number of the batch that wrote it.
        sequence: u64,
        /// The number of its rows.
        chunks: u16,
        /// Its bytes.
        bytes: &'a [u8],
    },
}

/// A row that does not belong to any whole value, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The row's own key, or an earlier row's if rows after that one are missing.
    pub(crate) row_key: Vec<u8>,
    /// Why.
    pub(crate) fault: RowFault,
}

impl Assembler {
    /// Takes the next row. A value whose rows are not all there is passed to `damaged`, one call per row seen of it.
    pub(crate) fn push(
        &mut self,
        row_key: &[u8],
        row: &[u8],
        damaged: &mut impl FnMut(Damage),
    ) -> Assembled<'_> {
        match self.accept(row_key, row, damaged) {
            Ok(Some(value)) => {
                let Partial { key, sequence, chunks, next: _ } = value;
                Assembled::Value { key, sequence, chunks, bytes: &self.bytes }
            }
            Ok(None) => Assembled::Incomplete,
            Err(fault) => {
                self.give_up(damaged);
                damaged(Damage { row_key: row_key.to_vec(), fault });
                Assembled::Incomplete
            }
        }
    }

    /// Says that no more rows follow.
    pub(crate) fn finish(&mut self, damaged: &mut impl FnMut(Damage)) {
        self.give_up(damaged);
    }

    /// Returns the highest sequence number of all intact rows.
    pub(crate) fn sequence_max(&self) -> u64 {
        self.sequence_max
    }

    fn accept(
        &mut self,
        row_key: &[u8],
        row: &[u8],
        damaged: &mut impl FnMut(Damage),
    ) -> Result<Option<Partial>, RowFault> {
        let row = open(row_key, row)?;
        let (key, chunk) = Key::parse_row(row_key).ok_or(RowFault::Damaged)?;
        self.sequence_max = self.sequence_max.max(row.sequence);
        if chunk == 0 {
            self.give_up(damaged);
            self.bytes.clear();
            self.partial = Some(Partial { key, sequence: row.sequence, chunks: row.chunks, next: 0 });
        }
        let partial = self.partial.as_mut().ok_or(RowFault::Damaged)?;
        let follows = partial.key == key
            && partial.next == chunk
            && partial.sequence == row.sequence
            && partial.chunks == row.chunks;
        if !follows {
            return Err(RowFault::Damaged);
        }
        partial.next = partial.next.saturating_add(1);
        self.bytes.extend_from_slice(row.contents);
        if partial.next < partial.chunks {
            return Ok(None);
        }
        Ok(self.partial.take())
    }

    fn give_up(&mut self, damaged: &mut impl FnMut(Damage)) {
        if let Some(partial) = self.partial.take() {
            for chunk in 0..partial.next {
                damaged(Damage { row_key: partial.key.row(chunk), fault: RowFault::Damaged });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(key: &Key, value: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        write_rows(key, RowFormat::First, 7, value, |row_key, row| rows.push((row_key, row))).unwrap();
        rows
    }

    fn read(rows: &[(Vec<u8>, Vec<u8>)]) -> (Vec<(Key, Vec<u8>)>, Vec<Damage>) {
        let (mut values, mut damage) = (Vec::new(), Vec::new());
        let mut assembler = Assembler::default();
        for (row_key, row) in rows {
            if let Assembled::Value { key, bytes, .. } =
                assembler.push(row_key, row, &mut |fault| damage.push(fault))
            {
                values.push((key, bytes.to_vec()));
            }
        }
        assembler.finish(&mut |fault| damage.push(fault));
        (values, damage)
    }

    #[test]
    fn a_value_of_any_size_comes_back_from_rows_below_the_limit() {
        let key = Key::subscription(SessionId(u64::MAX), "sensors/+/state");
        for (bytes, expected_rows) in
            [(0, 1), (1, 1), (CHUNK_BYTES_MAX, 1), (CHUNK_BYTES_MAX + 1, 2), (1 << 20, 151)]
        {
            let value: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();

            let rows = rows(&key, &value);

            assert_eq!(rows.len(), expected_rows, "{bytes} bytes");
            assert!(rows.iter().all(|(row_key, row)| row_key.len() + row.len() <= ROW_BYTES_MAX));
            assert_eq!(read(&rows), (vec![(key, value)], vec![]));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = Key::body(MessageId(3));
        let intact = rows(&key, b"a body");
        for bit in 0..intact[0].1.len() * 8 {
            let mut flipped = intact.clone();
            flipped[0].1[bit / 8] ^= 1 << (bit % 8);

            let (values, damage) = read(&flipped);

            assert!(values.is_empty());
            assert_eq!(damage, [Damage { row_key: key.row(0), fault: RowFault::Damaged }], "bit {bit}");
        }
    }

    #[test]
    fn a_row_under_another_key_is_damage() {
        let mut moved = rows(&Key::body(MessageId(3)), b"a body");
        moved[0].0 = Key::body(MessageId(4)).row(0);

        assert_eq!(read(&moved).1.len(), 1);
    }

    #[test]
    fn a_value_without_all_of_its_rows_is_damage_and_the_next_one_is_not() {
        let (large, small) = (Key::body(MessageId(1)), Key::body(MessageId(2)));
        let value = vec![5; 3 * CHUNK_BYTES_MAX];
        for missing in 0..3 {
            let mut rows = rows(&large, &value);
            rows.remove(missing);
            rows.extend(self::rows(&small, b"next"));

            let (values, damage) = read(&rows);

            assert_eq!(values, [(small, b"next".to_vec())]);
            assert_eq!(damage.len(), 2, "both remaining rows are reported");
        }
    }

    #[test]
    fn an_intact_row_of_another_version_is_not_called_damage() {
        let row_key = Key::body(MessageId(3)).row(0);
        let newer = RowFormat::NEWEST as u8 + 1;
        let mut row = seal(&row_key, RowFormat::NEWEST, 1, 1, b"from the future");
        row[0] = newer;
        let sum = checksum(&row_key, newer, &row[5..]);
        row[1..5].copy_from_slice(&sum.to_le_bytes());

        let (_, damage) = read(&[(row_key.clone(), row)]);

        assert_eq!(damage, [Damage { row_key, fault: RowFault::UnknownVersion(newer) }]);
    }

    #[test]
    fn rows_of_every_known_format_are_read() {
        let key = Key::body(MessageId(3));
        for format in [RowFormat::First, RowFormat::Shared] {
            let mut rows = Vec::new();
            write_rows(&key, format, 7, b"x", |row_key, row| rows.push((row_key, row))).unwrap();

            assert_eq!(rows[0].1[0], format as u8);
            assert_eq!(read(&rows), (vec![(key, b"x".to_vec())], vec![]));
        }
    }

    #[test]
    fn names_of_any_length_have_keys_of_one_length() {
        let long = "x".repeat(65_535);

        assert_eq!(Key::retained(&long).as_bytes().len(), Key::retained("x").as_bytes().len());
        assert_ne!(Key::retained(&long), Key::retained(&long[1..]));
    }

    #[test]
    fn keys_of_any_length_are_parsed_without_panic() {
        for bytes in 0..=KEY_BYTES_MAX + CHUNK_INDEX_BYTES {
            let parsed = Key::parse_row(&vec![0xff; bytes]);

            assert_eq!(parsed.is_some(), bytes > CHUNK_INDEX_BYTES, "{bytes} bytes");
        }
        assert!(Key::parse_row(&[0; KEY_BYTES_MAX + CHUNK_INDEX_BYTES + 1]).is_none());
    }
}
