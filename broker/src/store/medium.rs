//! A log on rows in memory, and records to fill it with, for the tests of this folder.

use std::collections::BTreeMap;
use std::sync::Arc;

use veilmq_core::{Message, MessageId, MessageParts, Record, Reference, SessionId, SessionRecord, Stage};
use veilmq_protocol::QoS;

use super::batch::Batch;
use super::log::{Commit, Log, RowSource, Undo, UnknownRowVersion};
use super::opening::{ReplayReport, open_log};

/// The rows of a log.
#[derive(Clone, Default)]
pub(super) struct Medium(pub(super) BTreeMap<Vec<u8>, Vec<u8>>);

impl RowSource for Medium {
    type Bytes = Vec<u8>;
    type Error = UnknownRowVersion;

    fn rows(
        &self,
        from: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Vec<u8>, Vec<u8>), UnknownRowVersion>> {
        self.0.range(from.to_vec()..).map(|(key, row)| Ok((key.clone(), row.clone())))
    }
}

impl Medium {
    pub(super) fn open(&self, spare_bytes: u64) -> (Log, ReplayReport) {
        open_log(self, spare_bytes, 3).unwrap()
    }

    /// Writes the rows of a commit without telling the log.
    pub(super) fn write(&mut self, commit: &Commit<Vec<u8>>) {
        commit.junk.iter().chain(commit.taken()).for_each(|key| drop(self.0.remove(key)));
        self.0.extend(commit.rows.iter().map(|(key, row)| (key.bytes().to_vec(), row.clone())));
    }

    /// Takes a commit back.
    pub(super) fn undo(&mut self, undo: Undo<Vec<u8>>) {
        undo.written.iter().for_each(|key| drop(self.0.remove(key.bytes().as_slice())));
        self.0.extend(undo.taken);
    }

    pub(super) fn commit(&mut self, log: &mut Log, records: &[Record]) {
        if let Some(commit) = log.prepare(self, &Batch::collect(records)).unwrap() {
            self.write(&commit);
            log.applied(commit);
        }
    }

    /// The bytes of all rows, keys included.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(key, row)| (key.len() + row.len()) as u64).sum()
    }

    /// What a replay gives, in words, sorted; a reference is named with its body.
    pub(super) fn contents(&self, log: &Log) -> Vec<String> {
        let mut contents = Vec::new();
        log.replay(self, &mut |record| match record {
            Record::Published { message, references } => {
                let id = message.id().unwrap();
                contents.push(format!("body {id}: {} bytes", message.payload().len()));
                contents.extend(references.iter().map(|reference| format!("{id} for {}", reference.session)));
            }
            Record::Advanced { reference, message } => {
                contents.push(format!("{message} for {}", reference.session));
            }
            Record::Session(head) => contents.push(format!("session {}", head.session)),
            other => contents.push(format!("{other:?}")),
        })
        .unwrap();
        contents.sort();
        contents
    }
}

pub(super) fn session(number: u64) -> Record {
    Record::Session(SessionRecord {
        session: SessionId(number),
        client_id: "client".into(),
        authenticated: false,
        user: None,
        expiry_seconds: 60,
        disconnected_at: None,
        will: None,
        last_identifier: 0,
    })
}

pub(super) fn message(id: Option<u64>, topic: &str, payload: &[u8]) -> Arc<Message> {
    let parts = MessageParts {
        id: id.map(MessageId),
        publisher: None,
        source: None,
        qos: QoS::AtLeastOnce,
        retain: id.is_none(),
        topic,
        application_properties: &[],
        payload,
        expiry: None,
    };
    Message::new(&parts, 0)
}

pub(super) fn published(id: u64, payload: &[u8], sessions: impl IntoIterator<Item = u64>) -> Record {
    let reference = |session| Reference {
        session: SessionId(session),
        qos: QoS::AtLeastOnce,
        retain: false,
        subscription_ids: vec![],
        share: None,
        stage: Stage::Queued,
    };
    let references = sessions.into_iter().map(reference).collect();
    Record::Published { message: message(Some(id), "sensors/a", payload), references }
}

/// The message is settled for a session, which was the last one.
pub(super) fn settled(session: u64, id: u64) -> [Record; 2] {
    let message = MessageId(id);
    [Record::Settled { session: SessionId(session), message }, Record::Forgotten { message }]
}
