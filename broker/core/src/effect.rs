//! What the world can tell a shard ([`Input`]) and what a shard can ask of the world ([`Effect`]). Both are closed.

use std::sync::Arc;

use veilmq_protocol::TopicName;

use crate::access::{CertificateFields, Command, ControlTopic, Credentials, Verdict};
use crate::connection::Arrival;
use crate::durability::Promise;
use crate::entrance::EntranceId;
use crate::id::{ConnectionId, MessageId, SessionId, ShardIndex, Ticket};
use crate::matches::Matches;
use crate::message::Message;
use crate::outbox::Outbox;
use crate::record::{Record, StoreError};
use crate::share::Allotment;

/// What one of the broker's own bridges connects for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeErrand {
    /// The Packet Identifier behind which those of its messages go on: the bridge passes them on to the other broker, where it
    /// has used all before them.
    pub last_identifier: u16,
    /// Whether what is published at QoS 0 waits for it too once it has left, as long as it is away.
    pub keeps_qos0: bool,
    /// Whether it takes no messages: they go on waiting while it is connected.
    pub only_subscribes: bool,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A Network Connection was accepted on this shard.
    Accepted {
        /// The identity the caller gave it.
        connection: ConnectionId,
        /// Who it is, for log lines only.
        peer: &'a str,
        /// The listener that it came by.
        entrance: EntranceId,
        /// What acknowledgements on it promise.
        promise: Promise,
        /// Whether TLS carries it.
        is_encrypted: bool,
    },
    /// A proxy, which is what connected, has told where the client is. It comes before CONNECT.
    Located {
        /// The connection.
        connection: ConnectionId,
        /// Who it is from now on.
        peer: &'a str,
    },
    /// What carries MQTT on this connection has proved who the client is, as TLS does with a client's certificate. It comes before
    /// CONNECT; the user name and the password in that do not matter any more.
    Vouched {
        /// The connection.
        connection: ConnectionId,
        /// The user name.
        user: &'a str,
    },
    /// The client has shown a certificate to what carries MQTT, which has verified it. This comes before CONNECT.
    Certified {
        /// The connection.
        connection: ConnectionId,
        /// What the certificate says.
        certificate: Arc<CertificateFields>,
    },
    /// On this connection comes one of the broker's own bridges to other brokers. It needs no account, and no rule holds for it. This
    /// comes before CONNECT.
    Bridged {
        /// The connection.
        connection: ConnectionId,
        /// What it comes for.
        errand: BridgeErrand,
        /// Whether TLS carries its connection to the other broker. What it brings has come, and what it takes goes, over that.
        is_encrypted: bool,
    },
    /// What became of [`Effect::Verify`] or [`Effect::Renew`].
    Verified {
        /// The connection.
        connection: ConnectionId,
        /// Whether the client is who it says.
        verdict: Verdict,
    },
    /// The answer to [`Effect::Command`].
    Answered {
        /// Whose command it was.
        session: SessionId,
        /// Where it was published.
        topic: ControlTopic,
        /// What is answered.
        payload: &'a [u8],
    },
    /// [`crate::Shared::set_access`] has changed who may connect or what clients may do, [`crate::Shared::set_settings`] what
    /// is offered and how much is allowed, or [`crate::Shared::revoke`] whom the broker trusts.
    AccessChanged,
    /// Bytes arrived. The buffer may be written to (records are decrypted in place).
    Received {
        /// The connection.
        connection: ConnectionId,
        /// What was read.
        bytes: &'a mut [u8],
    },
    /// The peer closed the connection, or it failed. No more bytes can be sent.
    Closed {
        /// The connection.
        connection: ConnectionId,
    },
    /// The driver has given the connection up: the peer took no bytes for so long. No more bytes can be sent.
    TookNothing {
        /// The connection.
        connection: ConnectionId,
        /// For how long, in seconds.
        seconds: u64,
    },
    /// The peer broke a rule of what carries MQTT, so that no more can be taken from it. What waits for it can still be sent.
    Violated {
        /// The connection.
        connection: ConnectionId,
        /// What the peer did, for the log.
        rule: &'static str,
    },
    /// A connection whose session lives here comes over from the shard that accepted it.
    Arrived(Box<Arrival>),
    /// Bytes left the outbox, so messages that waited for space may follow.
    Drained {
        /// The connection.
        connection: ConnectionId,
    },
    /// Another shard has something for this one.
    Parcel(Parcel),
    /// Every batch up to and including this ticket is durable.
    Committed(Ticket),
    /// The batch with this ticket could not be stored; nothing that waits for it may be acknowledged.
    CommitFailed(Ticket),
    /// What became of [`Effect::Fetch`].
    Fetched {
        /// Who asked.
        reader: Reader,
        /// What was asked for.
        asked: Vec<MessageId>,
        /// What [`crate::Store::fetch`] answered.
        messages: Result<Vec<Arc<Message>>, StoreError>,
    },
    /// The broker says something of itself, for subscribers of this topic and, if it is retained, until it says otherwise for those
    /// to come. It is kept in memory only and counts for no limit of retained messages.
    Announced {
        /// A topic below `$SYS`.
        topic: TopicName<'a>,
        /// What it says.
        payload: &'a [u8],
        /// Whether it is retained.
        retain: bool,
    },
    /// The client has sent so much more than it may that it is not to be waited for: it is told 0x96 (Message rate too high).
    TooFast {
        /// The connection.
        connection: ConnectionId,
    },
    /// An operator wants a client gone: its connection is ended, with 0x98 (Administrative action) in MQTT 5. Nothing happens if
    /// this shard has no such session.
    Dismissed {
        /// The Client Identifier.
        client_id: &'a str,
        /// Whether the session ends too.
        ends_session: bool,
    },
    /// A deadline that [`crate::Shard::next_deadline`] named may have passed.
    Tick,
    /// The broker is going away: every client is told so and its connection closed.
    Shutdown,
}

/// Something the shard asks for. The order within a turn matters: commits come before the parcels that depend on them.
#[derive(Debug)]
pub enum Effect {
    /// The outbox of this connection ([`crate::Shard::write`]) has bytes to write.
    Flush(ConnectionId),
    /// Write what is left, then close the connection; the shard has forgotten it.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// The farewell and what was still unsent before it.
        outbox: Outbox,
    },
    /// Check these credentials, then say [`Input::Verified`]. Until then no more bytes of the connection should be read.
    Verify {
        /// The connection.
        connection: ConnectionId,
        /// What the client shows.
        credentials: Box<Credentials>,
    },
    /// Ask once more whoever vouches for this client, without its password, then say [`Input::Verified`] on this shard. The
    /// connection goes on meanwhile.
    Renew {
        /// The connection.
        connection: ConnectionId,
        /// Who the client is; the password is empty.
        credentials: Box<Credentials>,
    },
    /// Carry out a command, then say [`Input::Answered`] on this shard.
    Command(Box<Command>),
    /// The session of this connection lives on another shard: move the socket there and pass the arrival in.
    Hand {
        /// Where the session lives.
        shard: ShardIndex,
        /// What goes into [`Input::Arrived`] over there.
        arrival: Box<Arrival>,
    },
    /// Make these records durable, then say [`Input::Committed`].
    Commit {
        /// The batch's number; increasing on each shard.
        ticket: Ticket,
        /// The batch; atomic.
        records: Vec<Record>,
        /// Something waits for it. If nothing does, it may wait for batches to come: a crash then repeats deliveries, which
        /// QoS 1 allows.
        awaited: bool,
    },
    /// Read these messages back from the store, with [`crate::Store::fetch`], and say [`Input::Fetched`]. All of them are
    /// durable.
    Fetch {
        /// Who asks.
        reader: Reader,
        /// The messages, in the order in which they are needed.
        messages: Vec<MessageId>,
    },
    /// Pass a parcel to another shard.
    Post {
        /// The receiving shard.
        shard: ShardIndex,
        /// What goes into [`Input::Parcel`] over there.
        parcel: Parcel,
    },
}

/// Whom messages are read back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A session whose client is being sent what waits.
    Session(SessionId),
    /// The members of groups that are to get the messages of sessions that have ended.
    Heirs,
}

/// What shards tell each other.
#[derive(Debug)]
pub enum Parcel {
    /// A message for sessions that live on the receiving shard.
    Deliver {
        /// The message.
        message: Arc<Message>,
        /// All matches of its topic; the receiver takes its own group.
        matches: Arc<Matches>,
    },
    /// A group's copy of a message for a session that lives on the receiving shard.
    Allot(Allotment),
    /// What an issuer has answered to a client that has not got CONNACK yet (VEIL-1 section 9.1).
    Joined {
        /// A connection of the receiving shard.
        connection: ConnectionId,
        /// The JOIN_RSP.
        response: Arc<[u8]>,
    },
    /// What [`Input::AccessChanged`] says, of a change that a client has brought.
    AccessChanged,
}

impl Parcel {
    /// Returns the bytes that the parcel keeps alive, for mailbox credits.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Deliver { message, .. } => message.size_bytes(),
            Self::Allot(allotment) => allotment.message.size_bytes(),
            Self::Joined { response, .. } => response.len(),
            Self::AccessChanged => 0,
        }
    }

    /// Returns how many sessions do not get the message if the parcel never reaches the shard that it is for.
    pub fn deliveries(&self, to: ShardIndex) -> u64 {
        match self {
            Self::Deliver { matches, .. } => matches.on(to).len() as u64,
            Self::Allot(_) => 1,
            Self::Joined { .. } | Self::AccessChanged => 0,
        }
    }

    /// Tells whether the parcel may be dropped when a mailbox is full; only QoS 0 may.
    pub fn is_droppable(&self) -> bool {
        let message = match self {
            Self::Deliver { message, .. } => message,
            Self::Allot(allotment) => &allotment.message,
            Self::Joined { .. } | Self::AccessChanged => return false,
        };
        message.qos() == veilmq_protocol::QoS::AtMostOnce
    }
}
