//! Import: an export becomes the store of a data directory that has none.
//!
//! Every line is checked on its own and against those before it. Invariant: the directory has all of it or nothing.

use core::fmt;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use veilmq_core::{Message, MessageId, Record, Reference, SessionId};
use veilmq_protocol::PacketId;

use super::UpkeepError;
use super::decode::{self, Fault, Line};
use super::progress::Progress;
use super::rebuild::Rebuild;
use super::tally::Tally;
use crate::files;
use crate::store::{DataDirectory, DirectoryError};

/// The longest line: the largest payload in base64, with a topic and properties as large as a packet can have.
const LINE_BYTES_MAX: usize = 1 << 30;
/// The bytes that are read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// A line of an export that cannot be taken.
#[derive(Debug)]
pub(crate) struct LineError {
    line: u64,
    fault: Fault,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, fault: Fault { field, what } } = self;
        match field {
            Some(field) => write!(f, "line {line}, field `{field}`: {what}"),
            None => write!(f, "line {line}: {what}"),
        }
    }
}

/// Reads an export from a file, or from standard input (`-`), into a data directory without a store; returns what it has.
///
/// # Errors
/// There is a store already, a line is wrong, or the new store could not be made; the directory has no store then.
pub(crate) fn import(data_dir: &Path, input: &Path) -> Result<Tally, UpkeepError> {
    let failed = |action| move |error| UpkeepError::File { action, path: input.to_owned(), error };
    let reader = open_input(input)?;
    let directory = lock_without_store(data_dir)?;
    let mut progress = Progress::start("imported");
    let mut lines =
        Lines { reader: BufReader::with_capacity(BUFFER_BYTES, reader), line: Vec::new(), number: 0 };
    let mut importing = Importing::into(Rebuild::begin(&directory)?);
    loop {
        let is_there = lines.advance().map_err(failed("read"))?;
        match importing.take(is_there.then_some(&lines.line), lines.number, &mut progress) {
            Ok(true) => {}
            Ok(false) => break,
            Err(Refusal::Fault(fault)) => {
                let error = LineError { line: lines.number, fault };
                return Err(UpkeepError::Line { input: input.to_owned(), error });
            }
            Err(Refusal::Store(error)) => return Err(error),
        }
    }
    let tally = *importing.rebuild.tally();
    importing.rebuild.adopt(&mut progress)?;
    Ok(tally)
}

/// Opens a file, or standard input (`-`).
///
/// # Errors
/// It cannot be read.
pub(super) fn open_input(input: &Path) -> Result<Box<dyn Read>, UpkeepError> {
    if input.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    let failed = |error| UpkeepError::File { action: "read", path: input.to_owned(), error };
    Ok(Box::new(File::open(input).map_err(failed)?))
}

/// Takes a data directory into use that has no store; it is made if it is not there.
///
/// # Errors
/// It has a store, another broker uses it, or the file system refused.
pub(super) fn lock_without_store(data_dir: &Path) -> Result<DataDirectory, UpkeepError> {
    files::create_private_folder(data_dir)?;
    let directory = DataDirectory::lock(data_dir)?;
    if directory.store().exists() {
        return Err(DirectoryError::NotEmpty(data_dir.to_owned()).into());
    }
    Ok(directory)
}

/// The lines of an export, one in memory at a time.
struct Lines<R> {
    reader: BufReader<R>,
    /// The present line without its end; only [`LINE_BYTES_MAX`] bytes of it if it is longer, which no valid line is.
    line: Vec<u8>,
    /// The number of the present line, from 1; at the end, of the one that would follow.
    number: u64,
}

impl<R: Read> Lines<R> {
    /// Goes to the next line; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.number += 1;
        let mut reader = (&mut self.reader).take(LINE_BYTES_MAX as u64);
        let read = reader.read_until(b'\n', &mut self.line)?;
        if self.line.ends_with(b"\n") {
            self.line.pop();
        }
        Ok(read > 0)
    }
}

/// Why a line was not taken.
enum Refusal {
    Fault(Fault),
    Store(UpkeepError),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<UpkeepError> for Refusal {
    fn from(error: UpkeepError) -> Self {
        Self::Store(error)
    }
}

/// An import under way: what has been taken, as far as later lines are checked against it.
struct Importing<'d> {
    rebuild: Rebuild<'d>,
    /// The place of the last line's kind in the order of kinds.
    place: u8,
    sessions: HashSet<SessionId>,
    last_session: Option<SessionId>,
    /// The session whose subscriptions come now, and their filters.
    subscribing: (Option<SessionId>, HashSet<Arc<str>>),
    last_message: Option<MessageId>,
    /// The message whose deliveries come now.
    open: Option<(Arc<Message>, Vec<Reference>)>,
    last_received: Option<(SessionId, PacketId)>,
    /// Digests of the topics with a retained message.
    retained: HashSet<[u8; 16]>,
    ended: bool,
}

impl<'d> Importing<'d> {
    fn into(rebuild: Rebuild<'d>) -> Self {
        Self {
            rebuild,
            place: 0,
            sessions: HashSet::new(),
            last_session: None,
            subscribing: (None, HashSet::new()),
            last_message: None,
            open: None,
            last_received: None,
            retained: HashSet::new(),
            ended: false,
        }
    }

    /// Takes the next line, None at the end of the input. False when everything is there.
    fn take(
        &mut self,
        line: Option<&Vec<u8>>,
        number: u64,
        progress: &mut Progress,
    ) -> Result<bool, Refusal> {
        match line {
            None if self.ended => return Ok(false),
            None => {
                return Err(Fault::of_line("the export ends here, without its last line: it was cut").into());
            }
            Some(_) if self.ended => return Err(Fault::of_line("nothing may follow the end").into()),
            Some(line) if number == 1 => decode::header(line)?,
            Some(line) => self.accept(decode::line(line)?)?,
        }
        progress.report(self.rebuild.tally());
        Ok(true)
    }

    fn accept(&mut self, line: Line) -> Result<(), Refusal> {
        self.keep_order(&line)?;
        match line {
            Line::Session(head) => {
                ascends(&mut self.last_session, head.session, "session")?;
                self.sessions.insert(head.session);
                self.rebuild.push(Record::Session(head))?;
            }
            Line::Subscription { session, filter, subscription } => {
                self.check_filter(session, &filter)?;
                self.rebuild.push(Record::Subscribed { session, filter, subscription })?;
            }
            Line::Message(message) => {
                if let Some(id) = message.id() {
                    ascends(&mut self.last_message, id, "message")?;
                }
                self.close_message()?;
                self.open = Some((message, Vec::new()));
            }
            Line::Delivery { message, reference } => self.add_delivery(message, reference)?,
            Line::Received { session, packet_id } => {
                self.check_known(session)?;
                ascends(&mut self.last_received, (session, packet_id), "packet_id")?;
                self.rebuild.push(Record::Received { session, packet_id })?;
            }
            Line::Retained(message) => {
                let digest = Sha256::digest(message.topic());
                if !self.retained.insert(core::array::from_fn(|index| digest[index])) {
                    return Err(Fault::of("topic", "it has a retained message already").into());
                }
                self.rebuild.push(Record::Retained { message })?;
            }
            Line::End(expected) => {
                let found = *self.rebuild.tally();
                if found != expected {
                    let what = format!("lines are missing: there are {found} instead of {expected}");
                    return Err(Fault::of_line(what).into());
                }
                self.ended = true;
            }
        }
        Ok(())
    }

    /// Checks that kinds come in their order, and completes the last message when no delivery can follow.
    fn keep_order(&mut self, line: &Line) -> Result<(), Refusal> {
        let place = match line {
            Line::Session(_) => 0,
            Line::Subscription { .. } => 1,
            Line::Message(_) | Line::Delivery { .. } => 2,
            Line::Received { .. } => 3,
            Line::Retained(_) => 4,
            Line::End(_) => 5,
        };
        if place < self.place {
            return Err(Fault::of("kind", "it comes too late: later kinds came before").into());
        }
        if place > 2 {
            self.close_message()?;
        }
        self.place = place;
        Ok(())
    }

    fn check_known(&self, session: SessionId) -> Result<(), Fault> {
        if self.sessions.contains(&session) {
            return Ok(());
        }
        Err(Fault::of("session", format!("there is no session {session} before this line")))
    }

    fn check_filter(&mut self, session: SessionId, filter: &Arc<str>) -> Result<(), Fault> {
        self.check_known(session)?;
        let (subscriber, filters) = &mut self.subscribing;
        if *subscriber != Some(session) {
            ascends(subscriber, session, "session")?;
            filters.clear();
        }
        if filters.insert(Arc::clone(filter)) {
            return Ok(());
        }
        Err(Fault::of("filter", format!("session {session} has this subscription already")))
    }

    fn add_delivery(&mut self, message: MessageId, reference: Reference) -> Result<(), Fault> {
        // What a session had as a member of a group is for another member when the session is gone.
        if reference.share.is_none() {
            self.check_known(reference.session)?;
        }
        let open = self.open.as_mut().filter(|(body, _)| body.id() == Some(message));
        let Some((_, references)) = open else {
            return Err(Fault::of("message", "it is not the message that came last"));
        };
        let mut last = references.last().map(|reference| reference.session);
        ascends(&mut last, reference.session, "session")?;
        references.push(reference);
        Ok(())
    }

    fn close_message(&mut self) -> Result<(), UpkeepError> {
        match self.open.take() {
            Some((message, references)) => self.rebuild.push(Record::Published { message, references }),
            None => Ok(()),
        }
    }
}

/// Checks that a key is larger than the one before it, which it replaces; so none comes twice.
fn ascends<T: Ord + Copy>(last: &mut Option<T>, next: T, field: &'static str) -> Result<(), Fault> {
    if last.is_some_and(|last| last >= next) {
        return Err(Fault::of(field, "it is a duplicate, or out of order"));
    }
    *last = Some(next);
    Ok(())
}
