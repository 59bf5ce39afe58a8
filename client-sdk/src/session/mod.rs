//! The client's side of MQTT 5.0 and of the VEIL-1 channel as a state machine without I/O.
//!
//! A [`Session`] outlives its Network Connections. The driver tells it what happened ([`Session::connect`],
//! [`Session::receive`], [`Session::connection_lost`], [`Session::handle_timeout`]), sends what
//! [`Session::output`] holds, and asks [`Session::poll`] what to do. Time and randomness are arguments.
//!
//! Invariants: with a VEIL-1 channel no packet is sent or believed outside its records once CONNACK is
//! verified; a QoS 1 or 2 message is acknowledged only after the application took it.
//!
//! ```
//! use veilmq_client::session::{Event, Now, Session, SessionOptions};
//!
//! let now = Now { monotonic_ms: 0, unix_ms: 1_790_000_000_000 };
//! let mut session = Session::new(SessionOptions::new("press-07"));
//! session.connect(None, now, &mut |bytes| bytes.fill(42))?;
//! assert_eq!(session.output()[0], 0x10); // CONNECT
//!
//! session.receive(&[0x20, 0x03, 0x00, 0x00, 0x00]); // CONNACK, success
//! assert!(matches!(session.poll(now), Some(Event::Connected { session_present: false, .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod core;
mod event;
mod inbound;
mod input;
mod opening;
mod options;
mod outbound;
mod output;
mod reauthentication;
mod requests;

use std::sync::Arc;

use veilmq_protocol::{
    EncodeError, ReasonCode, SubscribeOptions,
    veil::{Kid, channel::Identity},
};

pub(crate) use self::event::with_text;
use self::{
    core::{Core, Phase, Timers},
    input::Input,
    reauthentication::Reauthentication,
};
pub use self::{
    event::{Channel, CloseReason, DeliveryError, Event, Token},
    inbound::Receipt,
    options::{ChannelOptions, Handshake, SessionOptions},
    reauthentication::ReauthenticationError,
};
use crate::message::{Publication, Will};

/// A reading of the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since any fixed moment; never goes back.
    pub monotonic_ms: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// QoS 0: it is in the output.
    Written,
    /// QoS 1 or 2: [`Event::Published`] will tell.
    Queued(Token),
}

/// Why a publication was not even tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// QoS 0 is not kept for a later connection.
    #[error("not connected")]
    NotConnected,
    /// The server or the protocol does not allow it.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// The Session State and the connection it is on, if any.
pub struct Session {
    input: Input,
    core: Core,
}

impl Session {
    /// A session without a connection.
    pub fn new(options: SessionOptions) -> Self {
        Self { input: Input::default(), core: Core::new(options) }
    }

    /// Has the next CONNECT carry a JOIN_REQ, which the broker is to pass on (VEIL-1 section 9.1); [`Event::Join`] tells what became
    /// of it. Without a channel it is left out.
    pub fn ask_with_connect(&mut self, join_request: Vec<u8>) {
        self.core.join_request = Some(join_request);
    }

    /// Begins a Network Connection: puts CONNECT into the output.
    ///
    /// # Errors
    /// [`EncodeError`] when the options make no valid CONNECT.
    pub fn connect(
        &mut self,
        will: Option<&Will>,
        now: Now,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), EncodeError> {
        self.connection_lost();
        self.input.reset();
        let core = &mut self.core;
        core.output.reset();
        core.clean_start = core.options.clean_start && !core.established;
        let resumption = core.resumption.take();
        let join_request = core.join_request.take();
        core.is_asking = join_request.is_some() && core.options.channel.is_some();
        let (packet, opening) = opening::connect(
            &core.options,
            core.clean_start,
            will,
            (resumption, join_request),
            now,
            entropy,
        )?;
        core.output.encoded(&packet);
        core.phase = Phase::Opening(opening);
        core.timers =
            Timers { connack: Some(now.monotonic_ms + core.options.answer_ms), ..Timers::default() };
        Ok(())
    }

    /// Takes bytes from the connection; [`Self::poll`] says what is in them.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    /// The transport is gone. Everything unacknowledged waits for the next connection.
    pub fn connection_lost(&mut self) {
        self.core.end();
    }

    /// Works on what has arrived until there is something to tell; `None` asks for more bytes.
    pub fn poll(&mut self, now: Now) -> Option<Event> {
        loop {
            if let Some(event) = self.core.events.pop_front() {
                return Some(event);
            }
            if matches!(self.core.phase, Phase::Down) {
                return None;
            }
            let handled = match self.input.next(self.core.packet_bytes_max()) {
                Ok(None) => return None,
                Ok(Some(incoming)) => self.core.handle(incoming, now),
                Err(reason) => Err(reason),
            };
            let opener = self.core.opener.take();
            let opens = opener.map_or(Ok(()), |opener| self.input.open_with(opener));
            if let Err(reason) = handled.and(opens.map_err(CloseReason::from)) {
                self.core.close(reason);
            }
        }
    }

    /// Bytes to send now; tell [`Self::sent`] how many were.
    pub fn output(&mut self) -> &[u8] {
        self.core.output.ready()
    }

    /// Says how many bytes wait to be sent, without closing the record they are in.
    pub fn output_len(&self) -> usize {
        self.core.output.len()
    }

    /// Removes sent bytes from the output and restarts the keep alive.
    pub fn sent(&mut self, len: usize, now: Now) {
        self.core.output.consume(len);
        if len > 0 {
            self.core.requests.left(now.monotonic_ms + self.core.options.answer_ms);
        }
        let timers = &mut self.core.timers;
        if let (Some(ping), true) = (&mut timers.ping, len > 0) {
            *ping = now.monotonic_ms + timers.keep_alive_ms;
        }
    }

    /// When [`Self::handle_timeout`] is due, in monotonic milliseconds.
    pub fn next_timeout(&self) -> Option<u64> {
        let timers = &self.core.timers;
        let Timers { connack, ping, rekey, .. } = *timers;
        let answers = self.core.requests.due().filter(|_| !timers.reading_paused);
        [connack, ping, timers.pingresp(), timers.auth(), rekey, answers].into_iter().flatten().min()
    }

    /// Does what is due: PINGREQ, new channel keys, or giving up on a request or a silent server.
    pub fn handle_timeout(&mut self, now: Now) {
        if let Err(reason) = self.core.handle_timeout(now.monotonic_ms) {
            self.core.close(reason);
        }
    }

    /// Says whether the driver reads from the connection; while it does not, silence of the server proves nothing.
    pub fn set_reading(&mut self, reading: bool, now: Now) {
        let timers = &mut self.core.timers;
        if reading && timers.reading_paused {
            let deadline = now.monotonic_ms + self.core.options.answer_ms;
            timers.pingresp = timers.pingresp.map(|_| deadline);
            timers.auth = timers.auth.map(|_| deadline);
            self.core.requests.postpone(deadline);
        }
        timers.reading_paused = !reading;
    }

    /// Publishes, or queues what must wait for the connection or the server's receive maximum.
    ///
    /// # Errors
    /// [`SubmitError`] for QoS 0 without a connection, and for what the server does not take.
    pub fn publish(&mut self, publication: Publication) -> Result<Submitted, SubmitError> {
        self.core.publish(publication)
    }

    /// Says whether another publication may be queued.
    pub fn accepts_publication(&self) -> bool {
        self.core.outbound.queued() < self.core.options.queued_max
    }

    /// Subscribes to one or more Topic Filters now, or as soon as there is a connection; [`Event::Answered`] or [`Event::Unanswered`]
    /// will tell.
    pub fn subscribe(&mut self, filters: &[String], options: SubscribeOptions) -> Token {
        let token = self.core.token();
        self.core.requests.subscribe(token, filters, options);
        self.core.pump();
        token
    }

    /// Unsubscribes now, or as soon as there is a connection.
    pub fn unsubscribe(&mut self, filter: &str) -> Token {
        let token = self.core.token();
        self.core.requests.unsubscribe(Some(token), filter);
        self.core.pump();
        token
    }

    /// Unsubscribes without an event: the application has lost interest.
    pub fn abandon(&mut self, filter: &str) {
        self.core.requests.unsubscribe(None, filter);
        self.core.pump();
    }

    /// The application took a message: PUBACK or PUBREC follows when all that arrived before are taken too.
    pub fn acknowledge(&mut self, receipt: Receipt) {
        let core = &mut self.core;
        if let Err(error) = core.inbound.acknowledge(receipt, &mut core.output) {
            core.close(error.into());
        }
    }

    /// How many messages of this connection wait for their PUBACK or PUBREC.
    pub fn unacknowledged(&self) -> usize {
        self.core.inbound.unacknowledged().count()
    }

    /// The one of them that all others wait for.
    pub fn oldest_unacknowledged(&self) -> Option<Receipt> {
        self.core.inbound.unacknowledged().next()
    }

    /// A message of an earlier connection has reached nobody and is not kept: when the server sends it again, it is new.
    pub fn forget(&mut self, receipt: Receipt) {
        self.core.inbound.forget(receipt);
    }

    /// Begins to prove once more who this client is, on the connection there is; [`Event::Reauthenticated`] tells of success
    /// and [`Event::Closed`] of failure. `renewed` is another certificate of the same key, used from now on.
    ///
    /// # Errors
    /// [`ReauthenticationError`] when it does not begin; the connection is as it was.
    pub fn reauthenticate(
        &mut self,
        renewed: Option<Arc<Identity>>,
        now: Now,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), ReauthenticationError> {
        if let Some(identity) = renewed {
            self.core.renew(identity)?;
        }
        self.core.reauthenticate(now, entropy)
    }

    /// Believes no broker from now on whose certificate is among these, named by issuer and serial number, or rests on one of
    /// them; a channel to such a broker ends.
    pub fn revoke(&mut self, revoked: &[(Kid, u64)]) {
        if let Err(reason) = self.core.revoke(revoked) {
            self.core.close(reason);
        }
    }

    /// Ends the connection with DISCONNECT; [`ReasonCode::DisconnectWithWill`] has the Will published.
    pub fn disconnect(&mut self, reason: ReasonCode) {
        if matches!(self.core.phase, Phase::Open) {
            self.core.say_goodbye(reason);
        }
        self.core.end();
        self.core.events.push_back(Event::Closed(CloseReason::Requested));
    }

    /// Says whether CONNACK has arrived and the connection lasts.
    pub const fn is_connected(&self) -> bool {
        matches!(self.core.phase, Phase::Open)
    }

    /// Says whether the server owes an answer to a publication, a request or a proof of identity.
    pub fn awaits_answers(&self) -> bool {
        let core = &self.core;
        let proving = core.reauthentication.as_ref().is_some_and(Reauthentication::is_under_way);
        proving || !(core.outbound.is_idle() && core.requests.is_idle())
    }

    /// The Client Identifier, as chosen by the server if the options left it empty.
    pub fn client_id(&self) -> &str {
        &self.core.options.client_id
    }

    /// The receive maximum this side announces.
    pub const fn receive_maximum(&self) -> u16 {
        self.core.options.receive_maximum.get()
    }
}
