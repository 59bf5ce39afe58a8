//! The storage trait on sled, and everything that is particular to sled: the only file that names it.
//!
//! A commit is one atomic batch on one tree, `flush`, and `sync_data` on sled's log file, since sled's own flush does not
//! reach the disk. Opening survives what sled leaves behind when it is killed: unfinished snapshots are removed, damaged
//! ones set aside, and what cannot be read at all is quarantined. Panics of sled end in errors.
//! Invariant: after a failed commit nothing is written until everything was read again; after a failed sync nothing is ever.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use veilmq_core::{Message, MessageId, Record, Recovery, Store, StoreError};

use super::as_found::AsFound;
use super::batch::Batch;
use super::directory::{DataDirectory, DirectoryError, Watermark, sync_directory};
use super::log::{Log, RowSource, Undo, UnknownRowVersion};
use super::opening::{ReplayReport, open_log};
use super::rows::ROW_VERSION;
use super::tell_damage;
use crate::files;

/// The time between attempts to open sled again after an error.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);
/// The bytes of a row for each access that makes room for others: sled has at most 16,384 times as much beside its cache.
const LET_GO_BYTES: usize = 1024;
/// What sled's file has at most for each two bytes of rows, before it grows: it writes into segments of which all is dead, and empties
/// those of which more than half is.
const FILE_BYTES_PER_TWO: u64 = 5;
/// What it has besides: segments that are being written or emptied.
const FILE_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// The time that a sled that has just been dropped gets to let go of its log file.
const RELEASE_SECONDS_MAX: Duration = Duration::from_secs(5);

/// What opening a store found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Where the earlier contents are, if they could not be read; the store is empty then.
    pub quarantined: Option<PathBuf>,
    /// Where damaged files are that the store was opened without, since its log alone is enough, and the store as it was found, if
    /// less could be read of it than had been stored.
    pub set_aside: Option<PathBuf>,
    /// The number of values in files of their own; these are not synced, and 0 unless the row limit is wrong.
    pub blob_files: usize,
    /// What reading all rows found.
    pub replay: ReplayReport,
}

impl OpenReport {
    /// Tells whether anything was found that is not as it was written.
    pub fn is_damaged(&self) -> bool {
        self.damage().iter().any(|(_, value)| *value > 0)
    }

    /// Returns what was found damaged: kinds and numbers.
    pub fn damage(&self) -> [(&'static str, u64); 5] {
        [
            ("quarantined", u64::from(self.quarantined.is_some())),
            ("set_aside", u64::from(self.set_aside.is_some())),
            ("damaged_rows", self.replay.damaged_rows),
            ("orphans", self.replay.orphans),
            ("lost_batches", self.replay.lost_batches),
        ]
    }
}

/// What a store may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SledLimits {
    /// Memory for the cache of sled, in bytes.
    pub cache_bytes: u64,
    /// How many bytes of dead entries the log may have above the size of the live ones before it is compacted.
    pub spare_bytes: u64,
    /// The threads that take in what is read when it is opened, at least one.
    pub threads: u16,
}

impl SledLimits {
    /// The spare bytes of a broker: so few that no disk is too small for them, so many that most messages die before anything
    /// is written for the second time.
    pub const SPARE_BYTES: u64 = 32 * 1024 * 1024;
}

/// Durable storage in a data directory that no other process uses.
pub struct SledStore {
    engine: Engine,
    /// Sled's log file. Stays open when sled is opened anew: only a handle that was open at the time learns of every write error.
    file: File,
    /// The bytes of that file after the last commit.
    file_bytes: u64,
    watermark: Watermark,
    log: Log,
    /// What takes the last commit back, unless that is known to have succeeded.
    refused: Option<Undo<sled::IVec>>,
    limits: SledLimits,
    /// Last, because the lock must outlive the engine.
    directory: DataDirectory,
}

/// The state of sled.
enum Engine {
    Open(sled::Db),
    /// Closed after an error, to be opened again at the first commit after the given time.
    Closed(Instant, String),
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
}

impl From<UnknownRowVersion> for EngineError {
    fn from(version: UnknownRowVersion) -> Self {
        Self::UnknownRow(version)
    }
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

/// The rows of a database, read so that no more of them stays in memory than the cache may have.
struct Tree<'a>(&'a sled::Db);

impl RowSource for Tree<'_> {
    type Bytes = sled::IVec;
    type Error = EngineError;

    fn rows(
        &self,
        from: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(sled::IVec, sled::IVec), EngineError>> {
        let rows = self.0.range(from.to_vec()..).map(|row| row.map_err(EngineError::from));
        rows.inspect(|row| {
            if let Ok((key, row)) = row {
                let_go(self.0, key, row.len());
            }
        })
    }
}

/// Sled notes accesses to pages in 256 queues, and frees nothing before 64 are in one: until then everything stays in memory,
/// whatever its cache may have. A large row is accessed some more times, which fills the queue of its page.
fn let_go(db: &sled::Db, key: &[u8], row_bytes: usize) {
    for _ in 0..row_bytes / LET_GO_BYTES {
        // What matters is that it was accessed.
        let _ = db.get(key);
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
    pub fn open(directory: &Path, limits: SledLimits) -> Result<(Self, OpenReport), DirectoryError> {
        let directory = DataDirectory::lock(directory)?;
        let mut report = OpenReport { quarantined: directory.check_format()?, ..OpenReport::default() };
        let found = AsFound::copy(&directory);
        let (db, log) = open_or_quarantine(&directory, limits, &mut report)?;
        let (watermark, durable) = Watermark::open(&directory)?;
        report.replay.lost_batches += durable.saturating_sub(log.newest());
        if let Some(found) = found {
            found.settle(&directory, &mut report)?;
        }
        report.blob_files = count_blobs(&directory);

        let prepare = || {
            sync_directory(&directory.store())?;
            File::options().write(true).open(directory.store().join("db"))
        };
        let file = prepare().map_err(|error| directory.failed(error))?;
        directory.sync()?;
        let engine = Engine::Open(db);
        let mut store =
            Self { engine, file, file_bytes: 0, watermark, log, refused: None, limits, directory };
        store.measure();
        Ok((store, report))
    }

    /// Returns the open database, opening it again after an error.
    fn database(&mut self) -> Result<sled::Db, StoreError> {
        match &mut self.engine {
            Engine::Open(db) => return Ok(db.clone()),
            Engine::Unsafe => {
                return Err(StoreError("an earlier sync failed; the broker must be restarted".into()));
            }
            Engine::Closed(retry_at, error) if Instant::now() < *retry_at => {
                return Err(StoreError(error.clone()));
            }
            Engine::Closed(retry_at, _) => *retry_at = Instant::now() + REOPEN_INTERVAL,
        }
        let (db, log, report) =
            open_and_read(&self.directory.store(), self.limits).map_err(|error| self.stay_closed(&error))?;
        let (log, mut report) = match guarded(|| self.take_back(&db, log, report)) {
            Ok(result) => result,
            Err(error) => {
                drop_guarded(db);
                return Err(self.stay_closed(&error));
            }
        };
        report.lost_batches += self.log.newest().saturating_sub(log.newest());
        tell_damage(&report);
        self.log = log;
        self.refused = None;
        self.engine = Engine::Open(db.clone());
        tracing::info!("storage is open again");
        Ok(db)
    }

    /// Takes note of why sled could not be opened again.
    fn stay_closed(&mut self, error: &EngineError) -> StoreError {
        self.engine = match error {
            EngineError::Sync(_) => Engine::Unsafe,
            EngineError::Corrupt(_) | EngineError::Io(_) | EngineError::UnknownRow(_) => {
                Engine::Closed(Instant::now() + REOPEN_INTERVAL, error.to_string())
            }
        };
        StoreError(error.to_string())
    }

    /// Takes the commit back that failed, if the log has it; returns the log as it then is.
    fn take_back(
        &self,
        db: &sled::Db,
        log: Log,
        report: ReplayReport,
    ) -> Result<(Log, ReplayReport), EngineError> {
        let Some(undo) = self.refused.as_ref().filter(|undo| log.newest() >= undo.sequence) else {
            return Ok((log, report));
        };
        let mut rows = sled::Batch::default();
        for key in &undo.written {
            rows.remove(&key.bytes());
        }
        for (key, row) in &undo.taken {
            rows.insert(key, row);
        }
        self.make_durable(db, rows)?;
        open_log(&Tree(db), self.limits.spare_bytes, self.limits.threads)
    }

    fn write(&mut self, db: &sled::Db, records: &[Record]) -> Result<(), EngineError> {
        let Some(commit) = self.log.prepare(&Tree(db), &Batch::collect(records))? else { return Ok(()) };
        let mut rows = sled::Batch::default();
        for key in &commit.junk {
            rows.remove(key.as_slice());
        }
        for key in commit.taken() {
            rows.remove(key);
        }
        for (key, row) in &commit.rows {
            rows.insert(&key.bytes(), row.as_slice());
        }
        self.refused = Some(commit.undo());
        self.make_durable(db, rows)?;
        self.refused = None;
        let written: Vec<_> = commit.rows.iter().map(|(key, row)| (key.bytes(), row.len())).collect();
        self.log.applied(commit);
        if let Err(error) = self.watermark.set(self.log.newest()) {
            tracing::warn!(%error, "the watermark could not be written; a lost tail might go unnoticed");
        }
        // Last, since what is stored and taken note of stays so if the engine finds fault with itself here.
        for (key, row_bytes) in written {
            let_go(db, &key, row_bytes);
        }
        Ok(())
    }

    fn make_durable(&self, db: &sled::Db, rows: sled::Batch) -> Result<(), EngineError> {
        db.apply_batch(rows)?;
        db.flush()?;
        self.file.sync_data().map_err(EngineError::Sync)
    }

    /// Takes note of the size of sled's file.
    fn measure(&mut self) {
        if let Ok(data) = self.file.metadata() {
            self.file_bytes = data.len();
            metrics::gauge!("veilmq_storage_bytes").set(self.file_bytes as f64);
        }
    }

    /// Runs something on the open database, and lets go of it after an error.
    fn with_database<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &sled::Db) -> Result<T, EngineError>,
    ) -> Result<T, StoreError> {
        let db = self.database()?;
        let result = guarded(|| work(self, &db));
        drop_guarded(db);
        result.map_err(|error| {
            self.close(&error);
            StoreError(error.to_string())
        })
    }

    /// Lets go of sled after an error. Whether a failed batch is stored is found out by reading the log again.
    fn close(&mut self, error: &EngineError) {
        let next = match error {
            EngineError::Sync(_) => Engine::Unsafe,
            EngineError::Corrupt(_) | EngineError::Io(_) | EngineError::UnknownRow(_) => {
                Engine::Closed(Instant::now(), error.to_string())
            }
        };
        drop_guarded(core::mem::replace(&mut self.engine, next));
    }
}

impl Store for SledStore {
    fn commit(&mut self, records: &[Record]) -> Result<(), StoreError> {
        self.with_database(|store, db| store.write(db, records))?;
        self.measure();
        Ok(())
    }

    fn replay(&mut self, visit: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        self.with_database(|store, db| store.log.replay(&Tree(db), visit))
    }

    fn recover(&mut self, recovery: &mut Recovery) -> Result<(), StoreError> {
        self.with_database(|store, db| store.log.recover(&Tree(db), recovery.parts()))
    }

    fn fetch(&mut self, messages: &[MessageId]) -> Result<Vec<Arc<Message>>, StoreError> {
        self.with_database(|store, db| store.log.fetch(&Tree(db), messages))
    }

    fn reusable_bytes(&self) -> u64 {
        self.file_bytes
            .saturating_sub(FILE_BYTES_MIN + self.log.bytes().saturating_mul(FILE_BYTES_PER_TWO) / 2)
    }

    fn confine(&mut self, growth_bytes: i64) -> bool {
        let file_bytes_max = self.file_bytes.saturating_add_signed(growth_bytes);
        self.log.confine(file_bytes_max.saturating_sub(FILE_BYTES_MIN) / 8 * 3)
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
    limits: SledLimits,
    report: &mut OpenReport,
) -> Result<(sled::Db, Log), DirectoryError> {
    remove_unfinished_snapshots(&directory.store()).map_err(|error| directory.failed(error))?;
    let mut result = open_and_read(&directory.store(), limits);
    if let Err(EngineError::Corrupt(error)) = &result {
        tracing::error!(%error, "storage cannot be read; trying with its log alone");
        report.set_aside = set_derived_files_aside(directory)?;
        if report.set_aside.is_some() {
            result = open_and_read(&directory.store(), limits);
        }
    }
    if let Err(EngineError::Corrupt(_)) = &result {
        report.quarantined = directory.quarantine()?;
        result = open_and_read(&directory.store(), limits);
    }
    let (db, log, replay) = result.map_err(|error| refusal(directory, error))?;
    report.replay = replay;
    Ok((db, log))
}

/// Reads the engine's files in `store`, which need not be those of the directory, and gives each record to `visit`; changes
/// nothing that is stored. Returns what was found and the number of the last batch, or in words why it cannot be read.
///
/// # Errors
/// Rows of an unknown version, or what the file system answered.
pub(crate) fn read_only(
    directory: &DataDirectory,
    store: &Path,
    limits: SledLimits,
    visit: &mut dyn FnMut(Record),
) -> Result<Result<(ReplayReport, u64), String>, DirectoryError> {
    let read = open_sled(store, limits).and_then(|db| {
        let read = guarded(|| {
            let (log, report) = open_log(&Tree(&db), limits.spare_bytes, limits.threads)?;
            log.replay(&Tree(&db), visit)?;
            Ok((report, log.newest()))
        });
        drop_guarded(db);
        read
    });
    match read {
        Ok(found) => Ok(Ok(found)),
        Err(EngineError::Corrupt(error)) => Ok(Err(error)),
        Err(error) => Err(refusal(directory, error)),
    }
}

/// Opens sled and checks every row.
fn open_and_read(store: &Path, limits: SledLimits) -> Result<(sled::Db, Log, ReplayReport), EngineError> {
    let db = open_sled(store, limits)?;
    match guarded(|| open_log(&Tree(&db), limits.spare_bytes, limits.threads)) {
        Ok((log, report)) => Ok((db, log, report)),
        Err(error) => {
            drop_guarded(db);
            Err(error)
        }
    }
}

/// Opens sled.
fn open_sled(store: &Path, limits: SledLimits) -> Result<sled::Db, EngineError> {
    files::close_folder(store).map_err(EngineError::Io)?;
    let started = Instant::now();
    loop {
        // The background flusher stays off: the writer flushes, and nothing else may.
        let config = sled::Config::new().path(store);
        let config = config.cache_capacity(limits.cache_bytes).flush_every_ms(None);
        match guarded(|| Ok(config.open()?)) {
            // The lock of the directory is ours, so only a sled of our own that is still going away can hold sled's.
            Err(EngineError::Io(error)) if is_held(&error) && started.elapsed() < RELEASE_SECONDS_MAX => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Tells whether sled found its log file locked; it has no error of its own for that.
fn is_held(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// Names the directory in an error that is not a matter of damage.
fn refusal(directory: &DataDirectory, error: EngineError) -> DirectoryError {
    match error {
        EngineError::UnknownRow(UnknownRowVersion(version)) => {
            directory.unknown_format(version.into(), ROW_VERSION.into())
        }
        EngineError::Io(error) | EngineError::Sync(error) => directory.failed(error),
        error @ EngineError::Corrupt(_) => directory.failed(io::Error::other(error.to_string())),
    }
}

/// Removes snapshots that a crash left half written: sled would take them for whole ones, and needs none of them.
pub(crate) fn remove_unfinished_snapshots(store: &Path) -> io::Result<()> {
    for path in files_of_store(store)? {
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
    for path in files_of_store(&directory.store()).map_err(failed)? {
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

fn files_of_store(store: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(store) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Counts values that sled keeps outside its log.
fn count_blobs(directory: &DataDirectory) -> usize {
    fs::read_dir(directory.store().join("blobs")).map_or(0, Iterator::count)
}
