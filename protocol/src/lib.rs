//! MQTT packets, framing and the byte layouts of VEIL-1.
//!
//! Owns the bytes of MQTT 5.0, 3.1.1 and 3.1: what arrives is framed by [`next_frame`] and validated once by
//! [`Packet::decode`]; what leaves is written by [`Packet::encode`] or, for one message fanned out to many
//! subscribers, by [`PublishHead`]. It has no I/O, no clock and no session state, and it does not judge which
//! packet a peer may send when: that is the business of whoever holds the connection.
//!
//! Invariant: decoding borrows from the receive buffer and never allocates.
//!
//! ```
//! use veilmq_protocol::{Packet, ProtocolVersion, QoS, next_frame};
//!
//! let bytes = [0x30, 0x07, 0x00, 0x03, b'a', b'/', b'b', b'h', b'i'];
//! let (frame, used) = next_frame(&bytes, 1024)?.ok_or("more bytes needed")?;
//! let Packet::Publish(publish) = Packet::decode(frame, ProtocolVersion::V311)? else { return Err("not a PUBLISH".into()) };
//! assert_eq!((publish.qos, publish.payload, used), (QoS::AtMostOnce, &b"hi"[..], 9));
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
#![no_std]
extern crate alloc;

pub mod veil;

mod acknowledgement;
mod auth;
mod bridging;
mod connack;
mod connect;
mod connect_properties;
mod disconnect;
mod error;
mod frame;
mod packet;
mod property;
mod publish;
mod publish_head;
mod publish_properties;
mod reader;
mod reason;
mod sink;
mod subscribe;
mod subscribe_filters;
mod topic;
mod types;
mod unsubscribe;
mod user_properties;

pub use acknowledgement::Acknowledgement;
pub use auth::Auth;
pub use bridging::{BRIDGE_PROPERTY, BROKER_ID_BYTES_MAX, BROKER_PROPERTY};
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, Will};
pub use connect_properties::ConnectProperties;
pub use disconnect::Disconnect;
pub use error::{DecodeError, EncodeError};
pub use frame::{Frame, PACKET_BYTES_MAX, REMAINING_LENGTH_MAX, frame_len, next_frame};
pub use packet::Packet;
pub use publish::Publish;
pub use publish_head::PublishHead;
pub use publish_properties::{AsSent, PublishProperties, SubscriptionIds, SubscriptionIdsBuf};
pub use reason::ReasonCode;
pub use subscribe::{SubAck, Subscribe};
pub use subscribe_filters::{RetainHandling, SubscribeFilters, SubscribeFiltersBuf, SubscribeOptions};
pub use topic::{SharedFilter, TopicError, TopicFilter, TopicName};
pub use types::{PacketId, PacketType, ProtocolVersion, QoS};
pub use unsubscribe::{UnsubAck, Unsubscribe, UnsubscribeFilters, UnsubscribeFiltersBuf};
pub use user_properties::{UserProperties, UserPropertiesBuf};
