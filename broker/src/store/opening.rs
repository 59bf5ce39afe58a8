//! Opening a log: one pass over all rows, which checks them, builds the index and counts what is missing.
//!
//! The rows are read once, in order, and every part of the index takes its own entries from them on a thread of its own.
//! What is intact is kept, whatever is damaged around it. A batch that is not there, or not with all of its rows, is noticed because batches
//! are numbered, every row says how many its batch has, and where the log began.

use std::time::{Duration, Instant};

use veilmq_core::Part;

use super::apart::{Rows, share_out};
use super::entry::{Entries, Malformed};
use super::index::{Index, IndexPart};
use super::log::{Log, RowSource, UnknownRowVersion};
use super::rows::{Assembler, Contents, Row, RowFault, RowKey};

/// The time between two messages about how far a pass is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// The rows between two looks at the clock.
const PROGRESS_ROWS: u64 = 1_024;

/// What a pass over the stored rows found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// The rows that were read, usable or not.
    pub rows: u64,
    /// The rows that were not what had been written, or were missing from their batch; what was in them is lost.
    pub damaged_rows: u64,
    /// The values that referred to a session or message that is not there; they were skipped.
    pub orphans: u64,
    /// The batches that were durable once and of which nothing is there; 0 unless the medium lost or damaged them.
    pub lost_batches: u64,
}

/// Reads all rows of a source, with so many threads to take entries in; the log may have `spare_bytes` above twice those of its
/// live entries.
///
/// # Errors
/// What the source answered, or that it has rows of an unknown version.
pub(crate) fn open_log<S: RowSource>(
    source: &S,
    spare_bytes: u64,
    threads: u16,
) -> Result<(Log, ReplayReport), S::Error> {
    let extent = Extent::find(source)?;
    let mut index = Index::new(threads);
    let mut pass = Pass {
        report: ReplayReport::default(),
        assembler: Assembler::default(),
        batches: Batches { at: extent.oldest.sequence.saturating_sub(1), ..Batches::default() },
        log: Log {
            index: Index::new(1),
            bytes: 0,
            oldest: extent.oldest,
            newest: extent.newest,
            junk: Vec::new(),
            orphans: Vec::new(),
            damaged_until: 0,
            spare_bytes,
            room_bytes: u64::MAX,
        },
        extent,
    };
    let mut progress = Progress::new("reading storage");
    let readers = index
        .parts()
        .map(|(part, entries)| move |rows: Rows<S::Bytes>| take_in(&extent, part, entries, rows));
    let mut each = |key: &[u8], row: &[u8]| {
        progress.row();
        Ok(pass.row(key, row)?)
    };
    let malformed = share_out(source, &[], &mut each, readers)?;
    Ok(pass.finish(index, malformed.first()))
}

/// Rows that are intact and do not hold entries: how many, and the batch of the last.
#[derive(Default)]
struct NoEntries {
    rows: u64,
    until: u64,
}

/// Takes the entries in that belong to a part of the index.
fn take_in<B: AsRef<[u8]>>(extent: &Extent, own: Part, part: &mut IndexPart, rows: Rows<B>) -> NoEntries {
    let mut malformed = NoEntries::default();
    let (mut assembler, mut stray) = (Assembler::default(), 0);
    rows.for_each(|key, bytes| {
        if !RowKey::parse(key).is_some_and(|key| extent.contains(key)) {
            return;
        }
        let Ok(row) = Row::open(key, bytes) else { return assembler.give_up(&mut stray) };
        if let Some(contents) = assembler.push(&row, &mut stray)
            && apply(own, part, &contents).is_err()
        {
            malformed.rows += 1;
            malformed.until = row.key.sequence;
        }
    });
    malformed
}

/// Takes the entries of a row in that belong to a part of the index.
fn apply(own: Part, part: &mut IndexPart, contents: &Contents<'_>) -> Result<(), Malformed> {
    for entry in Entries::new(contents.entries) {
        let entry = entry?;
        if own.has(entry.effect.number()) {
            part.apply(entry.effect, contents.place, entry.bytes.len());
        }
    }
    Ok(())
}

/// From where to where a log goes, as its last intact row says.
#[derive(Clone, Copy)]
struct Extent {
    oldest: RowKey,
    /// 0 if there is no intact row.
    newest: u64,
}

impl Extent {
    fn find<S: RowSource>(source: &S) -> Result<Self, S::Error> {
        for row in source.rows(&[]).rev() {
            let (key, row) = row?;
            match Row::open(key.as_ref(), row.as_ref()) {
                Ok(row) => return Ok(Self { oldest: row.oldest.min(row.key), newest: row.key.sequence }),
                Err(RowFault::UnknownVersion(version)) => return Err(UnknownRowVersion(version).into()),
                Err(RowFault::Damaged) => {}
            }
        }
        Ok(Self { oldest: RowKey::first_of(1), newest: 0 })
    }

    fn contains(&self, key: RowKey) -> bool {
        self.oldest <= key && key.sequence <= self.newest
    }
}

struct Pass {
    report: ReplayReport,
    extent: Extent,
    assembler: Assembler,
    batches: Batches,
    log: Log,
}

impl Pass {
    fn row(&mut self, key: &[u8], bytes: &[u8]) -> Result<(), UnknownRowVersion> {
        self.report.rows += 1;
        let row = match Row::open(key, bytes) {
            Err(RowFault::UnknownVersion(version)) => return Err(UnknownRowVersion(version)),
            Err(RowFault::Damaged) => None,
            Ok(row) => Some(row),
        };
        let damaged_before = self.report.damaged_rows;
        // A row outside the log is one that should have been removed, or whose key is damaged.
        let Some(place) = RowKey::parse(key).filter(|key| self.extent.contains(*key)) else {
            self.report.damaged_rows += 1;
            self.log.junk.push(key.to_vec());
            return Ok(());
        };
        self.log.bytes += (key.len() + bytes.len()) as u64;
        self.batches.present(place, row.map(|row| row.total), &self.extent);
        match &row {
            None => {
                self.assembler.give_up(&mut self.report.damaged_rows);
                self.report.damaged_rows += 1;
            }
            // The entries are for others.
            Some(row) => drop(self.assembler.push(row, &mut self.report.damaged_rows)),
        }
        if self.report.damaged_rows > damaged_before {
            self.log.damaged_until = place.sequence;
        }
        Ok(())
    }

    fn finish(mut self, index: Index, malformed: Option<&NoEntries>) -> (Log, ReplayReport) {
        self.log.index = index;
        // Every reader has met the same.
        if let Some(NoEntries { rows, until }) = malformed {
            self.report.damaged_rows += rows;
            self.log.damaged_until = self.log.damaged_until.max(*until);
        }
        let mut stray = 0;
        self.assembler.give_up(&mut stray);
        if stray > 0 {
            self.log.damaged_until = self.extent.newest;
        }
        let Batches { missing_rows, lost_batches, damaged_until, .. } = self.batches.finish(&self.extent);
        self.report.damaged_rows += stray + missing_rows;
        self.report.lost_batches = lost_batches;
        self.log.damaged_until = self.log.damaged_until.max(damaged_until);
        self.log.orphans = self.log.index.take_orphans();
        self.report.orphans = self.log.orphans.len() as u64;
        (self.log, self.report)
    }
}

/// Which batches and rows are there, damaged or not.
#[derive(Default)]
struct Batches {
    /// The batch whose rows come now.
    at: u64,
    /// The rows of it that came.
    present: u32,
    /// The rows it should have; None until one of them says so.
    total: Option<u32>,
    missing_rows: u64,
    lost_batches: u64,
    /// The last batch of which something is missing.
    damaged_until: u64,
}

impl Batches {
    fn present(&mut self, key: RowKey, total: Option<u32>, extent: &Extent) {
        if key.sequence != self.at {
            self.close(extent);
            self.lose(key.sequence.saturating_sub(1));
            (self.at, self.present, self.total) = (key.sequence, 0, None);
        }
        self.present += 1;
        self.total = self.total.or(total);
    }

    /// Counts what is missing of the batch whose rows are over.
    fn close(&mut self, extent: &Extent) {
        let before = if self.at == extent.oldest.sequence { extent.oldest.chunk } else { 0 };
        let expected = self.total.unwrap_or(0).saturating_sub(before);
        let missing = expected.saturating_sub(self.present);
        if missing > 0 {
            self.missing_rows += u64::from(missing);
            self.damaged_until = self.at;
        }
    }

    /// Counts the batches after the current one, up to and including `until`.
    fn lose(&mut self, until: u64) {
        if until > self.at {
            self.lost_batches += until - self.at;
            self.damaged_until = until;
        }
    }

    fn finish(mut self, extent: &Extent) -> Self {
        self.close(extent);
        self.lose(extent.newest);
        self
    }
}

/// Says now and then how far a pass over many rows is.
pub(super) struct Progress {
    what: &'static str,
    rows: u64,
    told: Instant,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, rows: 0, told: Instant::now() }
    }

    /// Counts a row.
    pub(super) fn row(&mut self) {
        self.rows += 1;
        if self.rows.is_multiple_of(PROGRESS_ROWS) && self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            tracing::info!(rows = self.rows, "{}", self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Batch;
    use super::super::medium::{Medium, published, session, settled};
    use super::super::rows::ROW_VERSION;
    use super::*;

    const SPARE: u64 = u64::MAX / 4;

    /// Five batches: a session, small messages, a large one of three rows beside a small one, small ones, the end of one.
    fn filled() -> Medium {
        let mut medium = Medium::default();
        let (mut log, _) = medium.open(SPARE);
        medium.commit(&mut log, &[session(1)]);
        medium.commit(&mut log, &[published(1, b"x", [1]), published(2, b"yy", [1])]);
        medium.commit(&mut log, &[published(3, &[3; 15_000], [1]), published(4, b"yyyy", [1])]);
        medium.commit(&mut log, &[published(5, b"yyyyy", [1])]);
        medium.commit(&mut log, &settled(1, 1));
        medium
    }

    fn bodies(medium: &Medium, log: &Log) -> Vec<u64> {
        let number = |text: &String| text.strip_prefix("body ")?.split_once(':')?.0.parse().ok();
        medium.contents(log).iter().filter_map(number).collect()
    }

    fn key(sequence: u64, chunk: u32) -> Vec<u8> {
        RowKey { sequence, chunk }.bytes().to_vec()
    }

    /// Damaged rows, lost batches.
    fn damage(report: &ReplayReport) -> (u64, u64) {
        (report.damaged_rows, report.lost_batches)
    }

    #[test]
    fn what_is_missing_is_counted_and_the_rest_is_kept() {
        // Each case: the rows that are gone, damaged rows and lost batches, and the messages that are left.
        type Case<'a> = (&'a str, &'a [(u64, u32)], (u64, u64), &'a [u64]);
        let cases: [Case<'_>; 8] = [
            ("nothing", &[], (0, 0), &[2, 3, 4, 5]),
            ("a batch in the middle", &[(4, 0)], (0, 1), &[2, 3, 4]),
            ("two batches", &[(2, 0), (4, 0)], (0, 2), &[3, 4]),
            ("a row of references", &[(3, 0)], (1, 0), &[2, 3, 4, 5]),
            ("a middle piece of a large message", &[(3, 2)], (3, 0), &[2, 4, 5]),
            ("the last row of a batch", &[(3, 4)], (1, 0), &[2, 3, 5]),
            ("all rows of a batch", &[(3, 0), (3, 1), (3, 2), (3, 3), (3, 4)], (0, 1), &[2, 5]),
            ("the removal of a message", &[(5, 0)], (0, 0), &[1, 2, 3, 4, 5]),
        ];
        for (name, gone, expected, left) in cases {
            let mut medium = filled();
            assert_eq!(medium.0.len(), 9);
            for (sequence, chunk) in gone {
                medium.0.remove(&key(*sequence, *chunk)).unwrap();
            }

            let (log, report) = medium.open(SPARE);

            assert_eq!((damage(&report), bodies(&medium, &log).as_slice()), (expected, left), "{name}");
        }
    }

    #[test]
    fn whatever_bit_is_flipped_is_noticed() {
        let original = filled();
        let whole = original.contents(&original.open(SPARE).0);
        for (key, row) in &original.0 {
            for bit in (0..(key.len() + row.len()) * 8).step_by(if row.len() > 100 { 997 } else { 1 }) {
                let mut medium = original.clone();
                let (mut key, mut row) = (key.clone(), medium.0.remove(key).unwrap());
                match (bit / 8).checked_sub(key.len()) {
                    None => key[bit / 8] ^= 1 << (bit % 8),
                    Some(byte) => row[byte] ^= 1 << (bit % 8),
                }
                medium.0.insert(key.clone(), row);

                let (mut log, report) = medium.open(SPARE);

                assert!(report.damaged_rows > 0, "bit {bit} of {key:x?}");
                assert!(medium.contents(&log) != whole, "bit {bit} of {key:x?}");
                medium.commit(&mut log, &[session(9)]);
            }
        }
    }

    #[test]
    fn damage_is_gone_after_it_was_reported_and_rewritten() {
        for damaged in 0..9 {
            let mut medium = filled();
            let row_key = medium.0.keys().nth(damaged).unwrap().clone();
            medium.0.get_mut(&row_key).unwrap()[20] ^= 1;
            let (mut log, first) = medium.open(SPARE);
            let left = bodies(&medium, &log);

            medium.commit(&mut log, &[session(9)]);
            let (log, second) = medium.open(SPARE);

            assert!(first.damaged_rows > 0 && !medium.0.contains_key(&row_key) || damaged == 8);
            assert_eq!(damage(&second), (0, 0), "row {damaged}: {first:?}");
            assert_eq!(bodies(&medium, &log), left, "row {damaged}");
        }
    }

    #[test]
    fn a_row_from_before_the_log_does_not_come_back() {
        let mut medium = Medium::default();
        let (mut log, _) = medium.open(0);
        medium.commit(&mut log, &[published(1, &[1; 5_000], [])]);
        let (old_key, old_row) =
            medium.0.first_key_value().map(|(key, row)| (key.clone(), row.clone())).unwrap();
        for id in 2..9 {
            medium.commit(&mut log, &[session(1), published(id, &[1; 5_000], [])]);
            medium.commit(&mut log, &settled(1, id - 1));
        }
        assert!(log.oldest.sequence > 2);
        medium.0.insert(old_key.clone(), old_row);

        let (mut log, report) = medium.open(0);

        assert_eq!((damage(&report), bodies(&medium, &log)), ((1, 0), vec![8]));
        medium.commit(&mut log, &[session(2)]);
        assert!(!medium.0.contains_key(&old_key));
    }

    #[test]
    fn an_intact_row_of_another_version_is_refused() {
        let newest = filled().0.last_key_value().map(|(key, row)| (key.clone(), row.clone())).unwrap();
        for (sequence, version) in [(3, 1), (5, 2), (6, ROW_VERSION + 1)] {
            let mut medium = filled();
            let (row_key, mut row) = (key(sequence, 0), newest.1.clone());
            row[0] = version;
            let sum = crc32fast::hash(&[&row_key[..], &row[..1], &row[5..]].concat());
            row[1..5].copy_from_slice(&sum.to_le_bytes());
            medium.0.insert(row_key, row);

            assert_eq!(open_log(&medium, SPARE, 2).err(), Some(UnknownRowVersion(version)));
        }
    }

    #[test]
    fn a_failed_commit_that_was_stored_all_the_same_can_be_taken_back() {
        let mut medium = filled();
        let (mut log, _) = medium.open(0);
        let mut moved = 0;
        for id in 6..40 {
            let before = medium.clone();
            let records = [session(1), published(id, &vec![1; 1_000 * id as usize], [1])];
            let commit = log.prepare(&medium, &Batch::collect(&records)).unwrap().unwrap();
            moved += commit.taken().count();

            medium.write(&commit);
            medium.undo(commit.undo());

            assert!(medium.0 == before.0, "message {id}");
            medium.commit(&mut log, &records);
            medium.commit(&mut log, &settled(1, id));
        }
        assert!(moved > 100, "compaction had a part in {moved} rows");
    }
}
