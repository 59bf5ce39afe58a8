//! Work on several threads that ends before the caller goes on: jobs at once, and one stream of rows for several readers.
//!
//! Invariant: a stream is read once, in its order, and holds a bounded number of rows in memory, however slow a reader is.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::log::RowSource;

/// The rows that are passed on together.
const BLOCK_ROWS: usize = 32;
/// The blocks that may wait for a reader.
const BLOCKS_MAX: usize = 4;

/// Rows that are passed on together: keys and contents.
type Block<B> = Arc<Vec<(B, B)>>;

/// Does all jobs at once and returns what each made, in order. Panics if a job does.
pub(crate) fn at_once<T: Send>(jobs: impl IntoIterator<Item = impl FnOnce() -> T + Send>) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = jobs.into_iter().map(|job| scope.spawn(job)).collect();
        threads.into_iter().map(joined).collect()
    })
}

/// Passes the rows of a source from a key on to readers, each on a thread of its own, and to `each` on this one; returns what the
/// readers made of them, in order. Panics if a reader does.
///
/// # Errors
/// What the source or `each` answered; readers then find their rows over.
pub(super) fn share_out<S, T, R>(
    source: &S,
    from: &[u8],
    each: &mut impl FnMut(&[u8], &[u8]) -> Result<(), S::Error>,
    readers: impl IntoIterator<Item = R>,
) -> Result<Vec<T>, S::Error>
where
    S: RowSource,
    T: Send,
    R: FnOnce(Rows<S::Bytes>) -> T + Send,
{
    thread::scope(|scope| {
        let (mut senders, mut threads) = (Vec::new(), Vec::new());
        for reader in readers {
            let (sender, blocks) = sync_channel(BLOCKS_MAX);
            senders.push(sender);
            threads.push(scope.spawn(move || reader(Rows(blocks))));
        }
        let result = pass_on(source, from, each, &senders);
        drop(senders);
        let made = threads.into_iter().map(joined).collect();
        result.map(|()| made)
    })
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn pass_on<S: RowSource>(
    source: &S,
    from: &[u8],
    each: &mut impl FnMut(&[u8], &[u8]) -> Result<(), S::Error>,
    senders: &[SyncSender<Block<S::Bytes>>],
) -> Result<(), S::Error> {
    let mut block = Vec::with_capacity(BLOCK_ROWS);
    for row in source.rows(from) {
        let (key, row) = row?;
        each(key.as_ref(), row.as_ref())?;
        block.push((key, row));
        if block.len() == BLOCK_ROWS {
            send(std::mem::take(&mut block), senders);
        }
    }
    send(block, senders);
    Ok(())
}

fn send<B>(rows: Vec<(B, B)>, senders: &[SyncSender<Block<B>>]) {
    let block = Arc::new(rows);
    for sender in senders {
        // A reader that has ended early wants no more.
        let _ = sender.send(Arc::clone(&block));
    }
}

/// The rows that a reader is passed.
pub(super) struct Rows<B>(Receiver<Block<B>>);

impl<B: AsRef<[u8]>> Rows<B> {
    /// Visits all rows, in the order of their keys.
    pub(super) fn for_each(self, mut visit: impl FnMut(&[u8], &[u8])) {
        for block in self.0 {
            block.iter().for_each(|(key, row)| visit(key.as_ref(), row.as_ref()));
        }
    }
}
