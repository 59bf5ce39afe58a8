//! Which message it is at which the other broker ends connection after connection.
//!
//! A link that is told to be careful sends one message at a time, and each only when PINGRESP has shown that everything before it was
//! taken. So a message that is alone when the connection ends is to blame for it, or the other broker is. Invariant: no message is
//! condemned that was not the only one unanswered, [`TRIES`] times in a row, on connections on which the other broker takes
//! messages: it has acknowledged the bridge's notification there, or its reason is about the message.

use veilmq_protocol::{PacketId, ReasonCode};

use crate::link::Link;

/// How many connections in a row end with messages unanswered and none answered before the next one is careful.
const FRUITLESS_MAX: u32 = 2;
/// At how many careful connections in a row a message is unanswered, and alone, before it is set aside.
pub const TRIES: u32 = 3;

/// A message of this broker on its way to the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Its Packet Identifier, which it keeps from connection to connection.
    pub packet_id: PacketId,
    /// Its topic on this broker.
    pub topic: String,
    /// Its payload, in bytes.
    pub payload_bytes: usize,
}

/// What connections of one bridge have shown so far. It lasts as long as the bridge does.
#[derive(Debug, Default)]
pub struct Blame {
    fruitless: u32,
    /// How many messages may be the one; some if links are to be careful.
    in_question: u64,
    suspect: Option<(Suspect, u32)>,
    condemned: Option<Suspect>,
}

impl Blame {
    /// What the next link is to heed; `None` if it need not be careful.
    #[must_use]
    pub fn caution(&self) -> Option<Caution> {
        (self.in_question > 0).then(|| Caution { condemned: self.condemned.clone(), ..Caution::default() })
    }

    /// The message at which the other broker has ended a careful link last.
    #[must_use]
    pub fn suspect(&self) -> Option<&Suspect> {
        self.suspect.as_ref().map(|(suspect, _)| suspect)
    }

    /// Says whether a careful link has shown that nothing is wrong with what was in question.
    #[must_use]
    pub fn is_settled_by(&self, link: &Link) -> bool {
        self.in_question > 0 && link.progress.settled() >= self.in_question
    }

    /// Takes note of a link that has ended otherwise than by the other broker's doing.
    pub fn ended(&mut self, link: &Link) {
        let progress = &link.progress;
        if progress.set_aside > 0 {
            (self.condemned, self.suspect) = (None, None);
        }
        if progress.answered > 0 {
            self.fruitless = 0;
        }
        self.in_question = self.in_question.saturating_sub(progress.settled());
        if self.in_question == 0 {
            self.suspect = None;
        }
    }

    /// Takes note of a link that the other broker has ended, for this reason if it gave one.
    pub fn ended_by_remote(&mut self, link: &Link, reason: Option<ReasonCode>) {
        self.ended(link);
        let blames = reason.is_none_or(|reason| !is_about_the_broker(reason));
        let unanswered = link.local.flow.unanswered();
        if !blames || unanswered == 0 {
            return;
        }
        match link.caution.as_ref() {
            None if link.progress.answered == 0 => {
                self.fruitless += 1;
                if self.fruitless >= FRUITLESS_MAX {
                    self.in_question = unanswered as u64;
                }
            }
            None => {}
            Some(caution) => self.accuse(caution, reason),
        }
    }

    fn accuse(&mut self, caution: &Caution, reason: Option<ReasonCode>) {
        let Some(on_trial) = &caution.on_trial else { return };
        // The one that was in question last may be the one that was answered.
        self.in_question = self.in_question.max(1);
        let before = self.suspect.take().filter(|(suspect, _)| suspect == on_trial);
        let tries = before.map_or(0, |(_, tries)| tries) + 1;
        let is_proven = caution.is_notified || reason.is_some_and(is_about_the_message);
        if tries >= TRIES && is_proven {
            self.condemned = Some(on_trial.clone());
        }
        self.suspect = Some((on_trial.clone(), tries));
    }
}

/// What a careful link goes by.
#[derive(Clone, Debug, Default)]
pub struct Caution {
    /// What is not sent any more.
    pub(crate) condemned: Option<Suspect>,
    /// The only message that the other broker has not answered.
    pub(crate) on_trial: Option<Suspect>,
    /// PINGRESP has answered for everything that was sent before.
    pub(crate) is_clear: bool,
    /// The other broker has taken the notification on this connection: it does take messages.
    pub(crate) is_notified: bool,
}

impl Caution {
    /// Says whether a message may be sent now.
    pub(crate) fn allows(&self) -> bool {
        self.is_clear && self.on_trial.is_none()
    }
}

/// What a link has got done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Messages that the other broker has answered.
    pub(crate) answered: u64,
    /// Messages that were not sent because they are condemned.
    pub(crate) set_aside: u64,
    /// Messages that came from the other broker.
    pub(crate) came_in: u64,
}

impl Progress {
    fn settled(self) -> u64 {
        self.answered + self.set_aside
    }
}

/// Reasons that have nothing to do with what was sent last.
fn is_about_the_broker(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::Success
            | ReasonCode::DisconnectWithWill
            | ReasonCode::ServerBusy
            | ReasonCode::ServerShuttingDown
            | ReasonCode::KeepAliveTimeout
            | ReasonCode::SessionTakenOver
            | ReasonCode::MessageRateTooHigh
            | ReasonCode::AdministrativeAction
            | ReasonCode::UseAnotherServer
            | ReasonCode::ServerMoved
            | ReasonCode::ConnectionRateExceeded
            | ReasonCode::MaximumConnectTime
    )
}

/// Reasons that a broker has for one message alone.
fn is_about_the_message(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::TopicNameInvalid
            | ReasonCode::PacketTooLarge
            | ReasonCode::PayloadFormatInvalid
            | ReasonCode::RetainNotSupported
            | ReasonCode::QosNotSupported
    )
}
