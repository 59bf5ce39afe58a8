//! Compaction: what is still live in the oldest rows goes into the batch that is being written, and the rows go.
//!
//! It happens in commits, a little at a time and in the same atomic write, so there is no second thread, no second file and no
//! pause. While storage is full, commits without records are made for it, since there may be no others. Since the oldest rows go first, a removal in them has nothing left to remove and is dropped.
//! Damaged rows were reported when the store was opened; they go like others.

use super::batch::Batch;
use super::entry::{Effect, Entries, Entry};
use super::log::{Log, RowSource, UnknownRowVersion, Writing};
use super::replay::read;
use super::rows::{Assembler, Contents, RowKey};

/// How many bytes compaction may take from the log for each byte that a commit adds. Below 2, it would not keep up with a log of which half
/// is live.
const BYTES_PER_BYTE: u64 = 4;
/// The bytes that compaction may take in the smallest commit. The engine frees nothing before a commit is on disk, and writes about as
/// much as it is told to take out: on a disk that is nearly full, large steps would use up what is left.
const BYTES_MIN: u64 = 64 * 1024;
/// What a small row counts: to remove one takes the engine as long as to remove a large one.
const ROW_BYTES_MIN: u64 = 512;

/// What compaction takes out of a log.
pub(super) struct Taken<B> {
    /// The rows that go, with their keys.
    pub(super) rows: Vec<(B, B)>,
    /// Their bytes, keys included.
    pub(super) bytes: u64,
    /// The first row that stays, which may be of the batch that is being written.
    pub(super) oldest: RowKey,
}

/// Moves live entries from the oldest rows into the batch that is being written, if the log is larger than it should be.
///
/// # Errors
/// What the source answered.
pub(super) fn compact<S: RowSource>(
    log: &Log,
    source: &S,
    batch: &Batch<'_>,
    writing: &mut Writing,
) -> Result<Taken<S::Bytes>, S::Error> {
    let mut taken = Taken { rows: Vec::new(), bytes: 0, oldest: log.oldest };
    if log.newest == 0 {
        taken.oldest = RowKey::first_of(writing.sequence());
        return Ok(taken);
    }
    if !is_due(log, &taken, writing) {
        return Ok(taken);
    }
    let mut budget = BYTES_MIN.max(BYTES_PER_BYTE * writing.bytes());
    let mut assembler = Assembler::default();
    let mut last = None;
    for row in source.rows(&log.oldest.bytes()) {
        let whole = row?;
        let (row_key, row) = (whole.0.as_ref(), whole.1.as_ref());
        // What is outside the log goes as junk. A damaged engine may give a row twice.
        let is_next = |key: &RowKey| key.sequence <= log.newest && last.is_none_or(|last| *key > last);
        let Some(key) = RowKey::parse(row_key).filter(is_next) else { continue };
        last = Some(key);
        taken.oldest = key;
        if !assembler.is_incomplete() && (budget == 0 || !is_due(log, &taken, writing)) {
            return Ok(taken);
        }
        move_live(log, batch, row_key, row, &mut assembler, writing)?;
        let bytes = (row_key.len() + row.len()) as u64;
        budget = budget.saturating_sub(bytes.max(ROW_BYTES_MIN));
        taken.bytes += bytes;
        taken.rows.push(whole);
    }
    taken.oldest = RowKey::first_of(writing.sequence());
    Ok(taken)
}

fn is_due<B>(log: &Log, taken: &Taken<B>, writing: &Writing) -> bool {
    let bytes = log.bytes_after(writing.bytes(), taken.bytes);
    taken.oldest.sequence <= log.damaged_until || bytes > log.bytes_max()
}

/// Takes one row; what is live in it, or in the rows before that it completes, is written again.
fn move_live(
    log: &Log,
    batch: &Batch<'_>,
    row_key: &[u8],
    row: &[u8],
    assembler: &mut Assembler,
    writing: &mut Writing,
) -> Result<(), UnknownRowVersion> {
    if let Some(Contents { place, entries }) = read(row_key, row, assembler)? {
        for entry in Entries::new(entries).map_while(Result::ok) {
            if is_live(log, batch, place, &entry) {
                writing.append(entry.effect, entry.bytes);
            }
        }
    }
    Ok(())
}

/// Tells whether an entry is live, and stays so with the batch that is being written.
fn is_live(log: &Log, batch: &Batch<'_>, place: RowKey, entry: &Entry<'_>) -> bool {
    let Effect::Put { key, shared } = entry.effect else { return false };
    log.index.sequence_of(key) == Some(place.sequence) && !batch.supersedes(key, shared)
}

#[cfg(test)]
mod tests {
    use veilmq_core::{MessageId, Record, SessionId};

    use super::super::medium::{Medium, message, published, session, settled};
    use super::super::rows::RowKey;

    const SPARE: u64 = 1024 * 1024;

    #[test]
    fn the_log_stays_below_its_limit_however_much_goes_through_it() {
        let mut medium = Medium::default();
        let (mut log, _) = medium.open(SPARE);
        medium.commit(&mut log, &[session(1), published(1, &[1; 400_000], [1])]);
        let mut largest = 0;
        for id in 2..20_000 {
            let mut records = vec![published(id, &[7; 200], [1])];
            records.extend(settled(1, id - 1).into_iter().filter(|_| id > 2));
            medium.commit(&mut log, &records);
            largest = largest.max(log.bytes);
        }

        let limit = 2 * log.index.live_bytes() + SPARE;
        assert!(largest > limit * 9 / 10 && largest < limit * 13 / 10, "{largest} of {limit}");
        assert_eq!(log.bytes, medium.bytes());
        let (reopened, report) = medium.open(SPARE);
        assert_eq!((report.damaged_rows, report.lost_batches, report.orphans), (0, 0, 0));
        assert_eq!(reopened.index.live_bytes(), log.index.live_bytes());
        assert_eq!(reopened.bytes, log.bytes);
        let contents =
            ["19999 for 1", "1 for 1", "body 1: 400000 bytes", "body 19999: 200 bytes", "session 1"];
        let mut contents = contents.map(String::from);
        contents.sort();
        assert_eq!(medium.contents(&reopened), contents);
    }

    #[test]
    fn a_commit_takes_little_of_a_log_that_shrank_at_once() {
        let mut medium = Medium::default();
        let (mut log, _) = medium.open(0);
        let many: Vec<Record> = (1..=1_000).map(|id| published(id, &[1; 2_000], [])).collect();
        medium.commit(&mut log, &many);
        let before = log.bytes;
        let forgotten: Vec<Record> =
            (1..=1_000).map(|id| Record::Forgotten { message: MessageId(id) }).collect();
        medium.commit(&mut log, &forgotten);

        let mut commits = 0;
        while log.bytes > 2_000 {
            let bytes = log.bytes;
            medium.commit(&mut log, &[session(1)]);
            commits += 1;
            assert!(bytes - log.bytes <= super::BYTES_MIN + super::super::rows::ROW_BYTES_MAX as u64);
        }

        assert_eq!(commits, (before - 1_000) / super::BYTES_MIN);
        assert_eq!(medium.contents(&medium.open(0).0), ["session 1"]);
    }

    #[test]
    fn where_there_is_little_room_commits_without_records_take_out_what_is_dead() {
        // Each case: the messages of 2,000 bytes that stay of 1,000, the room, and the most bytes that the log then has.
        for (name, live, room, most) in [
            ("nothing is live", 0, 0, 64 * 1024),
            ("a tenth is live", 100, 0, 330_000),
            ("much is live", 800, 0, 2_200_000),
            ("there is room for a half", 0, 1_000_000, 1_000_000),
        ] {
            let mut medium = Medium::default();
            let (mut log, _) = medium.open(32 * SPARE);
            for id in 1..=1_000 {
                medium.commit(&mut log, &[published(id, &[1; 2_000], [])]);
            }
            let forgotten: Vec<Record> =
                (live + 1..=1_000).map(|id| Record::Forgotten { message: MessageId(id) }).collect();
            medium.commit(&mut log, &forgotten);
            let before = medium.contents(&log);
            medium.commit(&mut log, &[]);
            assert!(log.bytes > 2_000_000, "{name}: the usual slack");

            let mut commits = 0;
            while log.confine(room) {
                let bytes = log.bytes;
                medium.commit(&mut log, &[]);
                commits += 1;
                assert!(commits < 100, "{name}: it does not end");
                let step = super::BYTES_MIN + super::super::rows::ROW_BYTES_MAX as u64;
                assert!(bytes.saturating_sub(log.bytes) <= step, "{name}: a large step at once");
            }

            assert!(log.bytes <= most + 1_000, "{name}: {} bytes", log.bytes);
            assert_eq!(log.bytes, medium.bytes(), "{name}");
            assert_eq!(medium.contents(&medium.open(SPARE).0), before, "{name}");
        }
    }

    #[test]
    fn a_thousand_references_are_small() {
        let mut medium = Medium::default();
        let (mut log, _) = medium.open(SPARE);
        let sessions: Vec<Record> = (10_000..11_000).map(session).collect();
        medium.commit(&mut log, &sessions);
        let before = log.bytes;

        medium.commit(&mut log, &[published(1_000_000, b"", 10_000..11_000)]);
        let stored = log.bytes - before;
        let settled: Vec<Record> = (10_000..11_000)
            .map(|session| Record::Settled { session: SessionId(session), message: MessageId(1_000_000) })
            .collect();
        medium.commit(&mut log, &settled);

        assert!(stored < 9_000, "{stored} bytes");
        assert!(log.bytes - before - stored < 7_000, "{} bytes", log.bytes - before - stored);
    }

    #[test]
    fn rows_that_were_not_there_when_the_log_was_opened_do_no_harm() {
        let mut medium = Medium::default();
        let (mut log, _) = medium.open(SPARE);
        medium.commit(&mut log, &[session(1)]);
        medium.commit(&mut log, &[published(1, &[1; 6_000], [])]);
        medium.commit(&mut log, &[Record::Forgotten { message: MessageId(1) }]);
        let missing = RowKey::first_of(2).bytes().to_vec();
        let row = medium.0.remove(&missing).unwrap();
        let (mut log, report) = medium.open(0);
        assert_eq!(report.lost_batches, 1);
        medium.0.insert(missing, row);

        for id in 2..5 {
            medium.commit(&mut log, &[session(id)]);
        }

        let (reopened, report) = medium.open(0);
        assert_eq!((report.damaged_rows, report.lost_batches), (0, 0));
        assert_eq!(medium.contents(&reopened), ["session 1", "session 2", "session 3", "session 4"]);
    }

    #[test]
    fn bodies_are_found_wherever_they_were_moved_to() {
        let mut medium = Medium::default();
        let (mut log, _) = medium.open(0);
        let sizes = [0_usize, 1, 900, 6_900, 7_000, 50_000];
        let bodies: Vec<Record> =
            (1..).zip(sizes).map(|(id, size)| published(id, &vec![id as u8; size], [])).collect();
        medium.commit(&mut log, &bodies);
        medium.commit(&mut log, &[Record::Forgotten { message: MessageId(3) }]);
        for round in 0..30 {
            let asked = [6, 3, 2, 1, 99, 5, 4, 6].map(MessageId);

            let fetched = log.fetch(&medium, &asked).unwrap();

            let found: Vec<(u64, usize)> =
                fetched.iter().map(|body| (body.id().unwrap().0, body.payload().len())).collect();
            assert_eq!(found, [(6, 50_000), (2, 1), (1, 0), (5, 7_000), (4, 6_900), (6, 50_000)]);
            let bytes = |id: u8| move |byte: &u8| *byte == id;
            assert!(fetched.iter().all(|body| {
                body.payload().as_wire_bytes().iter().all(bytes(body.id().unwrap().0 as u8))
            }));
            let filler = Record::Retained { message: message(None, "t", &[round; 20_000]) };
            medium.commit(&mut log, &[filler]);
        }
        assert!(log.index.row_of(MessageId(6)).unwrap().sequence > 3, "it was moved");

        let row = log.index.row_of(MessageId(6)).unwrap();
        medium.0.get_mut(row.bytes().as_slice()).unwrap()[30] ^= 1;
        assert_eq!(log.fetch(&medium, &[MessageId(6)]).unwrap().len(), 0, "it is damaged");
        assert_eq!(log.fetch(&medium, &[MessageId(5)]).unwrap().len(), 1);
    }
}
