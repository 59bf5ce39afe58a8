//! One connection of a bridge, from the CONNECT to the other broker to the end.
//!
//! A link lives as long as both its connections do; the next one begins with nothing but the settings, because everything that
//! lasts is in the sessions on both sides. Whoever drives it opens the connection to the other broker, then the one to this broker
//! when [`Link::wants_local`], passes on what each side sends, and writes [`Link::output`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::BytesMut;
use veilmq_protocol::{Disconnect, Frame, Packet, PacketId, QoS, ReasonCode, next_frame};

use crate::blame::{Caution, Progress, Suspect};
use crate::echo::Echoes;
use crate::error::Fault;
use crate::flow::Flow;
use crate::inbox::{Inbox, Taken};
use crate::keep_alive::{Due, KeepAlive};
use crate::opening::Own;
use crate::settings::Settings;

/// How much may wait to be written to one side before no more is taken from the other, in bytes.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// How long a broker may take to answer CONNECT, in milliseconds.
const CONNECT_MILLISECONDS: u64 = 20_000;

/// One of the two brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This one.
    Local,
    /// The other one.
    Remote,
}

impl Side {
    /// The other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Local => Self::Remote,
            Self::Remote => Self::Local,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "this broker",
            Self::Remote => "the other broker",
        })
    }
}

/// Something that the operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Messages cross from now on.
    Up,
    /// A broker refused a subscription; messages of that mapping do not cross.
    SubscriptionRefused {
        /// Which one.
        side: Side,
        /// The Topic Filter.
        filter: String,
        /// Its answer.
        reason: ReasonCode,
    },
    /// A broker refused a message for good; it is gone.
    MessageRefused {
        /// Which one.
        side: Side,
        /// Its answer.
        reason: ReasonCode,
    },
    /// A message at which the other broker had ended connection after connection was not sent again; it is gone.
    MessageSetAside(Suspect),
    /// A message that had crossed this bridge before was stopped.
    LoopStopped,
}

/// How far a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The other broker has been sent CONNECT.
    AwaitRemoteConnAck,
    /// The other broker has accepted, and the driver is to connect to this one, which has been sent CONNECT.
    AwaitLocalConnAck,
    /// Messages cross.
    Relaying,
    /// A link to this broker alone subscribes, for what is published while the other broker is away.
    Parking,
    /// It has: the link can be dropped.
    Parked,
}

/// What a link holds for one side.
#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) inbox: Inbox,
    pub(crate) output: BytesMut,
    /// Messages that come from this side.
    pub(crate) flow: Flow,
    /// Packets of the bridge itself that this side has not answered.
    pub(crate) own: HashMap<PacketId, Own>,
    /// What this side calls itself, if it is a broker that says so.
    pub(crate) broker: Option<String>,
    pub(crate) keep_alive: KeepAlive,
}

impl Half {
    fn new(keep_alive_seconds: u16, now: u64) -> Self {
        Self {
            inbox: Inbox::default(),
            output: BytesMut::new(),
            flow: Flow::new(0, false),
            own: HashMap::new(),
            broker: None,
            keep_alive: KeepAlive::new(keep_alive_seconds, now),
        }
    }

    /// Says whether this side is owed nothing, and nothing of it is under way.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.flow.is_settled() && self.own.is_empty() && self.inbox.is_empty() && self.output.is_empty()
    }
}

/// One connection of a bridge.
#[derive(Debug)]
pub struct Link {
    pub(crate) settings: Arc<Settings>,
    pub(crate) stage: Stage,
    pub(crate) local: Half,
    pub(crate) remote: Half,
    pub(crate) events: VecDeque<Event>,
    pub(crate) echoes: Option<Echoes>,
    /// What the other broker calls its topics in short.
    pub(crate) aliases: HashMap<NonZeroU16, String>,
    /// The other broker kept the session.
    pub(crate) remote_session_present: bool,
    /// What the other broker takes.
    pub(crate) remote_receive_maximum: u16,
    /// The largest packet that this broker takes, in bytes.
    pub(crate) local_packet_bytes_max: u32,
    pub(crate) remote_packet_bytes_max: Option<u32>,
    pub(crate) remote_maximum_qos: QoS,
    pub(crate) remote_keeps_retained: bool,
    /// The Packet Identifier that the other broker was given last, by a message or by the bridge itself.
    pub(crate) last_identifier: u16,
    /// QoS 2 messages that cross at QoS 1.
    pub(crate) lowered: HashSet<PacketId>,
    pub(crate) progress: Progress,
    /// Present on a link that is careful.
    pub(crate) caution: Option<Caution>,
    /// When a message or an acknowledgement last crossed, or the bridge came up.
    pub(crate) crossed_at: u64,
    /// This broker has been told that the bridge leaves for want of messages.
    pub(crate) is_leaving: bool,
    pub(crate) began_at: u64,
    pub(crate) now: u64,
}

impl Link {
    /// Begins a link whose connection to the other broker has just opened. Its own packets have the Packet Identifiers behind
    /// `last_identifier`, which is that of the link before it, or 0. Times are milliseconds of any clock that only goes forward.
    ///
    /// # Errors
    /// The settings make no CONNECT.
    pub fn open(settings: Arc<Settings>, last_identifier: u16, now: u64) -> Result<Self, Fault> {
        let mut link = Self::new(settings, Stage::AwaitRemoteConnAck, now);
        link.last_identifier = last_identifier;
        link.connect_to_remote()?;
        Ok(link)
    }

    /// Begins a link to this broker alone, which subscribes and is then [parked](Self::is_parked): from then on what is published
    /// here waits in the session.
    ///
    /// # Errors
    /// The settings make no CONNECT.
    pub fn park(settings: Arc<Settings>, now: u64) -> Result<Self, Fault> {
        let mut link = Self::new(settings, Stage::Parking, now);
        link.connect_to_local()?;
        Ok(link)
    }

    fn new(settings: Arc<Settings>, stage: Stage, now: u64) -> Self {
        let echoes = settings.is_echoed().then(|| Echoes::new(settings.hash_key));
        Self {
            stage,
            local: Half::new(0, now),
            remote: Half::new(settings.remote.keep_alive_seconds, now),
            events: VecDeque::new(),
            echoes,
            aliases: HashMap::new(),
            remote_session_present: false,
            remote_receive_maximum: u16::MAX,
            local_packet_bytes_max: u32::MAX,
            remote_packet_bytes_max: settings.remote.sent_packet_bytes_max,
            remote_maximum_qos: QoS::ExactlyOnce,
            remote_keeps_retained: true,
            last_identifier: 0,
            lowered: HashSet::new(),
            progress: Progress::default(),
            caution: None,
            crossed_at: now,
            is_leaving: false,
            began_at: now,
            now,
            settings,
        }
    }

    /// Has the link be careful with what it sends to the other broker.
    pub fn beware(&mut self, caution: Caution) {
        self.caution = Some(caution);
    }

    /// Says whether the connection was of use: the other broker has answered messages, or has sent some and owes no answer.
    #[must_use]
    pub fn made_progress(&self) -> bool {
        let is_owed = self.local.flow.unanswered() > 0;
        self.progress.answered > 0 || (self.progress.came_in > 0 && !is_owed)
    }

    /// Says whether messages cross and the other broker has answered every UNSUBSCRIBE.
    #[must_use]
    pub fn has_unsubscribed(&self) -> bool {
        self.stage == Stage::Relaying && !self.remote.own.values().any(|own| *own == Own::Unsubscribe)
    }

    /// Says whether the connection to this broker is to be opened now, if it is not open yet.
    #[must_use]
    pub fn wants_local(&self) -> bool {
        self.stage != Stage::AwaitRemoteConnAck
    }

    /// Says whether this broker now collects what is published for the bridge.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.stage == Stage::Parked
    }

    /// The Packet Identifier behind which those of messages from this broker, and those of the next link, go on.
    #[must_use]
    pub fn last_identifier(&self) -> u16 {
        self.last_identifier
    }

    /// Says whether to read from a side: not while the other one takes nothing.
    #[must_use]
    pub fn reads(&self, side: Side) -> bool {
        let is_open = side == Side::Remote || self.wants_local();
        is_open
            && self.half(side).inbox.wants_more()
            && self.half(side.other()).output.len() < OUTPUT_BYTES_MAX
    }

    /// Takes what a side has sent.
    ///
    /// # Errors
    /// Why the link has to end.
    pub fn receive(&mut self, side: Side, bytes: &[u8], now: u64) -> Result<(), Fault> {
        self.half_mut(side).inbox.push(bytes);
        self.proceed(now)
    }

    /// Goes on with what had to wait, after [output](Self::output) was written.
    ///
    /// # Errors
    /// Why the link has to end.
    pub fn proceed(&mut self, now: u64) -> Result<(), Fault> {
        self.now = now;
        while self.take_one(Side::Remote)? | self.take_one(Side::Local)? {}
        Ok(())
    }

    /// What is to be written to a side; the driver takes from its front what it has written.
    pub fn output(&mut self, side: Side) -> &mut BytesMut {
        &mut self.half_mut(side).output
    }

    /// What is to be written to this broker, and to the other one.
    pub fn outputs(&mut self) -> (&mut BytesMut, &mut BytesMut) {
        (&mut self.local.output, &mut self.remote.output)
    }

    /// What happened that the operator may want to know.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        match self.stage {
            Stage::AwaitRemoteConnAck | Stage::AwaitLocalConnAck | Stage::Parking => {
                Some(self.began_at + CONNECT_MILLISECONDS)
            }
            Stage::Relaying => {
                let alive = [self.remote.keep_alive.deadline(), self.local.keep_alive.deadline()];
                alive.into_iter().chain([self.idle_at()]).flatten().min()
            }
            Stage::Parked => None,
        }
    }

    /// Does what is due: PINGREQ, or the end of a link whose other side is silent.
    ///
    /// # Errors
    /// A broker has not answered in time.
    pub fn tick(&mut self, now: u64) -> Result<(), Fault> {
        self.now = now;
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        match self.stage {
            Stage::AwaitRemoteConnAck => Err(Fault::Silent { side: Side::Remote, packet: "CONNECT" }),
            Stage::AwaitLocalConnAck | Stage::Parking => {
                Err(Fault::Silent { side: Side::Local, packet: "CONNECT" })
            }
            Stage::Relaying if self.idle_at().is_some_and(|at| at <= now) => self.leave(),
            Stage::Relaying => {
                self.keep_alive(Side::Remote)?;
                self.keep_alive(Side::Local)
            }
            Stage::Parked => Ok(()),
        }
    }

    /// [MQTT-3.1.2-20]
    fn keep_alive(&mut self, side: Side) -> Result<(), Fault> {
        let now = self.now;
        match self.half_mut(side).keep_alive.due(now) {
            Due::Nothing => Ok(()),
            Due::Ping => self.write(side, &Packet::PingReq),
            Due::End => Err(Fault::Silent { side, packet: "PINGREQ" }),
        }
    }

    /// Ends the link on purpose: both brokers are told, and the Will is not sent.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn close(&mut self) -> Result<(), Fault> {
        let farewell = Packet::Disconnect(Disconnect::new(ReasonCode::Success));
        match self.stage {
            Stage::AwaitRemoteConnAck => {}
            Stage::Relaying if self.is_leaving => self.write(Side::Remote, &farewell)?,
            Stage::AwaitLocalConnAck | Stage::Relaying => {
                self.write(Side::Remote, &farewell)?;
                self.write(Side::Local, &farewell)?;
            }
            Stage::Parking | Stage::Parked => self.write(Side::Local, &farewell)?,
        }
        Ok(())
    }

    /// Takes one packet of a side, if there is one and it can be taken now.
    fn take_one(&mut self, side: Side) -> Result<bool, Fault> {
        let must_wait = side == Side::Remote && self.stage == Stage::AwaitLocalConnAck;
        if must_wait || self.half(side.other()).output.len() >= OUTPUT_BYTES_MAX {
            return Ok(false);
        }
        let bytes_max = self.settings.packet_bytes_max(side);
        let malformed = |error| Fault::Malformed { side, error };
        // The other broker sends it again as often as it is asked to: only an answer ends that.
        let passes_over = side == Side::Remote && self.stage == Stage::Relaying;
        let bytes = match self.half_mut(side).inbox.take(bytes_max, passes_over).map_err(malformed)? {
            Some(Taken::Packet(bytes)) => bytes,
            Some(Taken::Oversized(publish)) => {
                self.refuse(side, ReasonCode::PacketTooLarge, publish.qos, publish.packet_id)?;
                return Ok(true);
            }
            None => return Ok(false),
        };
        if self.take(side, &bytes)? {
            return Ok(true);
        }
        self.half_mut(side).inbox.hold(bytes);
        match self.half_mut(side).inbox.take_answer(bytes_max, passes_over).map_err(malformed)? {
            Some(answer) => self.take(side, &answer),
            None => Ok(false),
        }
    }

    /// Takes a packet; `false` if it has to wait.
    fn take(&mut self, side: Side, bytes: &[u8]) -> Result<bool, Fault> {
        let malformed = |error| Fault::Malformed { side, error };
        let frame: Frame<'_> = match next_frame(bytes, bytes.len()).map_err(malformed)? {
            Some((frame, _)) => frame,
            None => return Ok(false),
        };
        let packet = Packet::decode(frame, self.settings.version(side)).map_err(malformed)?;
        match self.stage {
            Stage::AwaitRemoteConnAck | Stage::AwaitLocalConnAck => self.accepted(side, &packet),
            Stage::Parking | Stage::Parked => self.parking(&packet),
            Stage::Relaying => self.relay(side, packet),
        }
    }

    /// Writes a packet for a side.
    pub(crate) fn write(&mut self, side: Side, packet: &Packet<'_>) -> Result<(), Fault> {
        let (version, now) = (self.settings.version(side), self.now);
        let half = self.half_mut(side);
        half.keep_alive.sent(now);
        packet.encode(version, &mut half.output).map_err(|error| Fault::Unwritable { side, error })
    }

    pub(crate) fn half(&self, side: Side) -> &Half {
        match side {
            Side::Local => &self.local,
            Side::Remote => &self.remote,
        }
    }

    pub(crate) fn half_mut(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Local => &mut self.local,
            Side::Remote => &mut self.remote,
        }
    }
}
