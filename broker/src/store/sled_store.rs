//! The storage trait on sled, and everything that is particular to sled: the only file that names it.
//!
//! A commit is one atomic batch on one tree, `flush`, and `sync_data` on sled's log file, since sled's own flush does not
//! reach the disk. Opening survives what sled leaves behind when it is killed: unfinished snapshots are removed, damaged
//! ones set aside, and what cannot be read at all is quarantined. Panics of sled end in errors.
//! Invariant: after a failed commit nothing is written until the log was read again; after a failed sync nothing is ever.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use veilmq_core::{Message, MessageId, Record, Store, StoreError};

use super::batch::Batch;
use super::directory::{DataDirectory, DirectoryError, Watermark, sync_directory};
use super::replay::{Outcome, Replay, ReplayReport, UnknownRowVersion};
use super::rows::{Assembled, Assembler, Key, RowFormat, SESSION_TABLES, TooLarge, write_rows};
use super::values::decode_message;

/// The time between attempts to open sled again after an error.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);
/// The time that a sled that has just been dropped gets to let go of its log file.
const RELEASE_SECONDS_MAX: Duration = Duration::from_secs(5);

/// What opening a store found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Where the earlier contents are, if they could not be read; the store is empty then.
    pub quarantined: Option<PathBuf>,
    /// Where damaged files are that the store was opened without, since its log alone is enough.
    pub set_aside: Option<PathBuf>,
    /// The number of values in files of their own; these are not synced, and 0 unless the row limit is wrong.
    pub blob_files: usize,
    /// What reading all rows found.
    pub replay: ReplayReport,
}

/// Durable storage in a data directory that no other process uses.
pub struct SledStore {
    engine: Engine,
    /// Stays open when sled is opened anew: only a handle that was open at the time learns of every write error.
    log: File,
    watermark: Watermark,
    sequence: u64,
    contents: Outcome,
    /// Whether a batch failed, so that some of its rows may be stored although nobody was told so.
    uncertain: bool,
    cache_bytes: u64,
    /// Last, because the lock must outlive the engine.
    directory: DataDirectory,
}

/// The state of sled.
enum Engine {
    Open(sled::Db),
    /// Closed after an error, to be opened again at the first commit after the given time.
    Closed(Instant),
    /// A sync failed: what the log holds on disk is unknown, so nothing after it can be called durable.
    Unsafe,
}

/// Why sled did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
enum EngineError {
    #[error("cannot be read: {0}")]
    Corrupt(String),
    #[error("{0}")]
    Io(io::Error),
    #[error("cannot be synced: {0}; the broker must be restarted")]
    Sync(io::Error),
    #[error("has a row of format {}, which this broker does not know", .0.0)]
    UnknownRow(UnknownRowVersion),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl From<sled::Error> for EngineError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) =>
            {
                Self::Corrupt(error.to_string())
            }
            sled::Error::Io(error) => Self::Io(error),
            // The format gate has passed, so options that do not fit are damage to the file that holds them.
            sled::Error::Unsupported(_)
            | sled::Error::Corruption { .. }
            | sled::Error::ReportableBug(_)
            | sled::Error::CollectionNotFound(_) => Self::Corrupt(error.to_string()),
        }
    }
}

/// Runs sled code, whose panics count as corruption.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
        Err(EngineError::Corrupt(text.to_owned()))
    })
}

impl SledStore {
    /// Opens the store of a data directory, creating it if need be.
    ///
    /// Contents that cannot be read are set aside under a dated name, and the store is empty then; the report says so.
    ///
    /// # Errors
    /// Another broker uses the directory, it has an unknown format, or the file system refused.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<(Self, OpenReport), DirectoryError> {
        let directory = DataDirectory::lock(directory)?;
        let mut report = OpenReport { quarantined: directory.check_format()?, ..OpenReport::default() };
        let (db, mut contents) = open_or_quarantine(&directory, cache_bytes, &mut report)?;
        let (watermark, durable) = Watermark::open(&directory)?;
        contents.report.lost_batches += durable.saturating_sub(contents.sequence_max);
        report.replay = contents.report;
        report.blob_files = count_blobs(&directory);

        let prepare = || {
            sync_directory(&directory.store())?;
            File::options().write(true).open(directory.store().join("db"))
        };
        let log = prepare().map_err(|error| directory.failed(error))?;
        directory.sync()?;
        let store = Self {
            engine: Engine::Open(db),
            log,
            watermark,
            sequence: contents.sequence_max.max(durable),
            contents,
            uncertain: false,
            cache_bytes,
            directory,
        };
        Ok((store, report))
    }

    /// Returns the open database, opening it again after an error.
    fn database(&mut self) -> Result<sled::Db, StoreError> {
        match &self.engine {
            Engine::Open(db) => return Ok(db.clone()),
            Engine::Unsafe => {
                return Err(StoreError("an earlier sync failed; the broker must be restarted".into()));
            }
            Engine::Closed(retry_at) if Instant::now() < *retry_at => {
                return Err(StoreError("closed after an error; it will be opened again in a moment".into()));
            }
            Engine::Closed(_) => self.engine = Engine::Closed(Instant::now() + REOPEN_INTERVAL),
        }
        let (db, contents) = open_and_read(&self.directory, self.cache_bytes)
            .map_err(|error| StoreError(error.to_string()))?;
        self.sequence = self.sequence.max(contents.sequence_max);
        self.contents = contents;
        self.engine = Engine::Open(db.clone());
        tracing::info!("storage is open again");
        Ok(db)
    }

    fn write(&mut self, db: &sled::Db, records: &[Record]) -> Result<(), EngineError> {
        let batch = Batch::collect(records, !self.uncertain);
        if batch.is_empty() {
            return Ok(());
        }
        let sequence = self.sequence + 1;
        let (rows, row_counts) = self.rows_of(db, &batch, sequence)?;
        db.apply_batch(rows)?;
        db.flush()?;
        self.log.sync_data().map_err(EngineError::Sync)?;

        self.sequence = sequence;
        self.contents.useless.clear();
        for (key, rows) in row_counts {
            match rows {
                0 | 1 => self.contents.row_counts.remove(&key),
                _ => self.contents.row_counts.insert(key, rows),
            };
        }
        if let Err(error) = self.watermark.set(sequence) {
            tracing::warn!(%error, "the watermark could not be written; a lost tail might go unnoticed");
        }
        Ok(())
    }

    /// Makes rows of a batch; also returns how many rows the values have whose number of rows is or was not 1.
    fn rows_of(
        &self,
        db: &sled::Db,
        batch: &Batch<'_>,
        sequence: u64,
    ) -> Result<(sled::Batch, Vec<(Key, u16)>), EngineError> {
        let mut rows = sled::Batch::default();
        let mut row_counts = Vec::new();
        for row_key in &self.contents.useless {
            rows.remove(row_key.as_slice());
        }
        for session in batch.ended() {
            for prefix in SESSION_TABLES.map(|table| Key::session_prefix(table, *session)) {
                for row in db.scan_prefix(prefix.as_bytes()) {
                    let (row_key, row) = row?;
                    // References of groups are settled one by one.
                    if RowFormat::of(&row) == Some(RowFormat::Shared) {
                        continue;
                    }
                    row_counts.extend(
                        Key::parse_row(&row_key).filter(|(_, chunk)| *chunk == 1).map(|(key, _)| (key, 0)),
                    );
                    rows.remove(row_key);
                }
            }
        }
        let mut bytes = Vec::new();
        for (key, value) in batch.changes() {
            let before = self.contents.row_counts.get(key).copied().unwrap_or(1);
            let mut after = 0;
            if let Some(value) = value {
                bytes.clear();
                value.encode(&mut bytes);
                after = write_rows(key, value.format(), sequence, &bytes, |row_key, row| {
                    rows.insert(row_key, row);
                })?;
            }
            for chunk in after..before {
                rows.remove(key.row(chunk));
            }
            if before > 1 || after > 1 {
                row_counts.push((*key, after));
            }
        }
        write_rows(&Key::sequence(), RowFormat::First, sequence, &[], |row_key, row| {
            rows.insert(row_key, row);
        })?;
        Ok((rows, row_counts))
    }

    /// Lets go of sled after an error.
    fn close(&mut self, error: &EngineError) {
        let next = match error {
            EngineError::Sync(_) => Engine::Unsafe,
            EngineError::TooLarge(_) => return,
            EngineError::Corrupt(_) | EngineError::Io(_) | EngineError::UnknownRow(_) => {
                Engine::Closed(Instant::now())
            }
        };
        self.uncertain = true;
        drop_guarded(core::mem::replace(&mut self.engine, next));
    }
}

impl Store for SledStore {
    fn commit(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let db = self.database()?;
        let written = guarded(|| self.write(&db, records));
        drop_guarded(db);
        match written {
            Ok(()) => {
                self.uncertain = false;
                metrics::gauge!("veilmq_storage_bytes")
                    .set(self.log.metadata().map_or(0.0, |data| data.len() as f64));
                Ok(())
            }
            Err(error) => {
                self.close(&error);
                Err(StoreError(error.to_string()))
            }
        }
    }

    fn replay(&mut self, visit: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        let db = self.database()?;
        guarded(|| read(&db, visit)).map(drop).map_err(|error| StoreError(error.to_string()))
    }

    fn fetch(&mut self, messages: &[MessageId]) -> Result<Vec<Arc<Message>>, StoreError> {
        let db = self.database()?;
        let read = |message: &MessageId| read_body(&db, *message).transpose();
        let fetched = guarded(|| messages.iter().filter_map(read).collect());
        fetched.map_err(|error| StoreError(error.to_string()))
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        drop_guarded(core::mem::replace(&mut self.engine, Engine::Unsafe));
    }
}

/// Drops something of sled's, whose destructors write and may panic.
fn drop_guarded<T>(engine: T) {
    if let Err(error) = guarded(|| {
        drop(engine);
        Ok(())
    }) {
        tracing::warn!(%error, "storage did not close cleanly");
    }
}

/// Opens sled and reads everything in it; first as it is, then from its log alone, then in a new directory.
fn open_or_quarantine(
    directory: &DataDirectory,
    cache_bytes: u64,
    report: &mut OpenReport,
) -> Result<(sled::Db, Outcome), DirectoryError> {
    remove_unfinished_snapshots(directory).map_err(|error| directory.failed(error))?;
    let error = match open_and_read(directory, cache_bytes) {
        Err(EngineError::Corrupt(error)) => error,
        result => return result.map_err(|error| refusal(directory, error)),
    };
    tracing::error!(%error, "storage cannot be read; trying with its log alone");
    report.set_aside = set_derived_files_aside(directory)?;
    if report.set_aside.is_some() {
        match open_and_read(directory, cache_bytes) {
            Err(EngineError::Corrupt(_)) => {}
            result => return result.map_err(|error| refusal(directory, error)),
        }
    }
    report.quarantined = directory.quarantine()?;
    open_and_read(directory, cache_bytes).map_err(|error| refusal(directory, error))
}

/// Opens sled and checks every row.
fn open_and_read(directory: &DataDirectory, cache_bytes: u64) -> Result<(sled::Db, Outcome), EngineError> {
    let started = Instant::now();
    let db = loop {
        // The background flusher stays off: the writer flushes, and nothing else may.
        let config =
            sled::Config::new().path(directory.store()).cache_capacity(cache_bytes).flush_every_ms(None);
        match guarded(|| Ok(config.open()?)) {
            // The lock of the directory is ours, so only a sled of our own that is still going away can hold sled's.
            Err(EngineError::Io(error)) if is_held(&error) && started.elapsed() < RELEASE_SECONDS_MAX => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => break result?,
        }
    };
    match guarded(|| read(&db, &mut |_| {})) {
        Ok(outcome) => Ok((db, outcome)),
        Err(error) => {
            drop_guarded(db);
            Err(error)
        }
    }
}

/// Tells whether sled found its log file locked; it has no error of its own for that.
fn is_held(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// Reads all rows.
fn read(db: &sled::Db, visit: &mut dyn FnMut(Record)) -> Result<Outcome, EngineError> {
    let mut replay = Replay::new(visit);
    for row in db.iter() {
        let (row_key, row) = row?;
        replay.row(&row_key, &row);
    }
    replay.finish().map_err(EngineError::UnknownRow)
}

/// Reads one message body; None if it is not there or damaged.
fn read_body(db: &sled::Db, message: MessageId) -> Result<Option<Arc<Message>>, EngineError> {
    let mut assembler = Assembler::default();
    for row in db.scan_prefix(Key::body(message).as_bytes()) {
        let (row_key, row) = row?;
        if let Assembled::Value { bytes, .. } = assembler.push(&row_key, &row, &mut |_| {}) {
            return Ok(decode_message(Some(message), 0, bytes));
        }
    }
    Ok(None)
}

/// Names the directory in an error that is not a matter of damage.
fn refusal(directory: &DataDirectory, error: EngineError) -> DirectoryError {
    match error {
        EngineError::UnknownRow(UnknownRowVersion(version)) => {
            directory.unknown_format(version.into(), RowFormat::NEWEST as u32)
        }
        EngineError::Io(error) | EngineError::Sync(error) => directory.failed(error),
        error @ (EngineError::Corrupt(_) | EngineError::TooLarge(_)) => {
            directory.failed(io::Error::other(error.to_string()))
        }
    }
}

/// Removes snapshots that a crash left half written: sled would take them for whole ones, and needs none of them.
fn remove_unfinished_snapshots(directory: &DataDirectory) -> io::Result<()> {
    for path in files_of_store(directory)? {
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Moves everything away that sled can rebuild: the snapshots of its page table, which follow from the log, and its
/// options, which are those that we pass. None if there was nothing.
fn set_derived_files_aside(directory: &DataDirectory) -> Result<Option<PathBuf>, DirectoryError> {
    let failed = |error| directory.failed(error);
    let is_derived = |name: &str| name == "conf" || name.starts_with("snap.");
    let mut place = None;
    for path in files_of_store(directory).map_err(failed)? {
        let Some(name) = path.file_name().filter(|name| name.to_str().is_some_and(is_derived)) else {
            continue;
        };
        let place = match &place {
            Some(place) => place,
            None => place.insert(directory.quarantine_place()?),
        };
        fs::rename(&path, place.join(name)).map_err(failed)?;
    }
    Ok(place)
}

fn files_of_store(directory: &DataDirectory) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory.store()) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Counts values that sled keeps outside its log.
fn count_blobs(directory: &DataDirectory) -> usize {
    fs::read_dir(directory.store().join("blobs")).map_or(0, Iterator::count)
}
