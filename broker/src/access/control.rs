//! Carries out commands on a thread of its own, so that no shard's turn takes as long as a hash or a file.
//!
//! Invariant: what waits is bounded, and every shard goes by the change that an answer speaks of before the answer goes out, but for that of
//! the client itself, where the answer goes first: a client may have changed what it may do itself.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use veilmq_core::{Command, ControlTopic, SessionId, ShardIndex};

use super::AccessKeeper;

const THREAD_NAME: &str = "control";
/// Commands that may wait; each is bounded in bytes by the core.
const WAITING_MAX: usize = 64;
/// What is answered when no more can wait.
const BUSY: &[u8] = br#"{"responses":[{"command":"Unknown command","error":"Busy"}]}"#;

/// The answer to a command.
pub(crate) struct Answer {
    /// Whose command it was.
    pub(crate) session: SessionId,
    /// Where it was published.
    pub(crate) topic: ControlTopic,
    /// What is answered.
    pub(crate) payload: Vec<u8>,
    /// It speaks of other rules that are in force.
    pub(crate) changes_access: bool,
}

/// Who is told what came of commands.
pub(crate) trait Audience: Send + Sync {
    /// Takes an answer for a client of a shard. One that speaks of other rules waits until every other shard goes by them.
    fn answer(&self, shard: ShardIndex, answer: Answer);
}

/// Carries out commands. The thread lives as long as somebody holds this.
pub struct Control {
    queue: SyncSender<(ShardIndex, Box<Command>)>,
    audience: Arc<dyn Audience>,
}

impl Control {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system gave none.
    pub(crate) fn start(keeper: Arc<AccessKeeper>, audience: Arc<dyn Audience>) -> std::io::Result<Self> {
        let (queue, commands) = sync_channel(WAITING_MAX);
        let told = Arc::clone(&audience);
        thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || carry_out_for_ever(&commands, &keeper, &*told))?;
        Ok(Self { queue, audience })
    }

    /// Has a command of a client of this shard carried out; the answer comes later.
    pub(crate) fn submit(&self, shard: ShardIndex, command: Box<Command>) {
        let (session, topic) = (command.session, command.topic);
        if self.queue.try_send((shard, command)).is_err() {
            let payload = BUSY.to_vec();
            self.audience.answer(shard, Answer { session, topic, payload, changes_access: false });
        }
    }
}

fn carry_out_for_ever(
    commands: &Receiver<(ShardIndex, Box<Command>)>,
    keeper: &AccessKeeper,
    audience: &dyn Audience,
) {
    for (shard, command) in commands {
        let (payload, changes_access) = match command.topic {
            ControlTopic::DynamicSecurity => keeper.administer(&command),
            ControlTopic::Broker => (keeper.describe_broker(&command), false),
        };
        let answer = Answer { session: command.session, topic: command.topic, payload, changes_access };
        audience.answer(shard, answer);
    }
}
