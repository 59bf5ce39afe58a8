//! MQTT 5 client with VEIL-1 channels and end-to-end encryption.
//!
//! [`Client`] is what an application uses: a handle to a task that keeps one connection to the broker alive.
//! Below it, [`session`] is the protocol without any I/O and [`e2e`] seals and opens messages; [`identity`]
//! keeps certificates and keys on disk.
//!
//! Invariant: on a topic of an end-to-end scope nothing leaves in plaintext, and nothing that arrives there
//! reaches the application unless it is authentic (or marked as not authenticated, in the article's format).
//! A message of QoS 1 or 2 is acknowledged once the application has it; what a resumed session brings waits until the application
//! has subscribed to it again, or [says](Client::decline_unclaimed) that it will not.
//!
//! ```no_run
//! use veilmq_client::{Client, QoS, Received};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("localhost", 1883).client_id("press-07").connect().await?;
//! let mut messages = client.subscribe("factory/#").qos(QoS::AtLeastOnce).await?;
//! client.publish("factory/line-3/t", b"21.5").qos(QoS::AtLeastOnce).send().await?;
//!
//! while let Some(received) = messages.next().await {
//!     match received {
//!         Received::Message(message) => println!("{}: {} bytes", message.topic, message.payload.len()),
//!         Received::Refused { topic, error } => eprintln!("{topic}: refused: {error}"),
//!         Received::Missed { count } => eprintln!("{count} messages left out"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct FrontPage;

pub mod e2e;
pub mod identity;
pub mod session;

pub mod sealed_file;

mod client;
mod message;

pub use client::{
    Announcement, Backoff, Builder, Client, ConnectError, KeyChange, KeyRequestError, PendingPublish,
    PublishBuilder, PublishError, ReauthenticateError, RequestError, Status, SubscribeBuilder,
    SubscribeError, Subscription, Tls, TlsError, Unacknowledged,
};
pub use message::{Message, Properties, Publication, Received, Sealed, Will};
pub use rustls;
pub use veilmq_protocol::veil::channel::{Identity, TrustAnchors};
pub use veilmq_protocol::veil::{Certificate, Kid, Scheme, Schemes, Suite};
pub use veilmq_protocol::{QoS, ReasonCode, RetainHandling, TopicError, TopicFilter, TopicName};
