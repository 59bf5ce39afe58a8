//! The send side of the Session State: Packet Identifiers, send quota, resend order.
//!
//! Pure bookkeeping over encoded packets. Invariant: an identifier is in `used` exactly while something of this
//! session waits for an answer that names it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use veilmq_protocol::{Acknowledgement, EncodeError, Packet, PacketId, PacketType, QoS, ReasonCode};

use super::{
    event::{CloseReason, DeliveryError, Event, Token},
    output::Output,
};
use crate::message::Publication;

/// Packet Identifiers in use by this client, for publications and requests alike ([MQTT-2.2.1-3]).
#[derive(Default)]
pub(super) struct PacketIds {
    used: BTreeSet<PacketId>,
    last: u16,
}

impl PacketIds {
    /// Takes the next free identifier; `None` when all 65,535 are in use.
    pub(super) fn take(&mut self) -> Option<PacketId> {
        for _ in 0..=u16::MAX {
            self.last = self.last.wrapping_add(1);
            match PacketId::new(self.last) {
                Some(id) if self.used.insert(id) => return Some(id),
                _ => {}
            }
        }
        None
    }

    pub(super) fn release(&mut self, id: PacketId) {
        self.used.remove(&id);
    }
}

/// What the server granted in CONNACK, as far as publishing goes.
#[derive(Clone, Copy)]
pub(super) struct Grants {
    pub(super) receive_maximum: u16,
    pub(super) packet_bytes_max: usize,
    pub(super) maximum_qos: QoS,
    pub(super) retain_available: bool,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            receive_maximum: u16::MAX,
            packet_bytes_max: usize::MAX,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaiting {
    /// PUBACK.
    Acknowledgement,
    /// PUBREC.
    Receipt,
    /// PUBCOMP.
    Completion,
}

struct InFlight {
    id: PacketId,
    token: Token,
    awaiting: Awaiting,
    /// It counts against the server's Receive Maximum.
    counted: bool,
    /// The PUBLISH as first sent; empty once PUBREC arrived.
    packet: Vec<u8>,
    publication: Option<Publication>,
}

#[derive(Default)]
pub(super) struct Outbound {
    queued: VecDeque<(Token, Publication)>,
    /// In the order of first sending, which is the order of resending ([MQTT-4.6.0-1]).
    in_flight: BTreeMap<u64, InFlight>,
    order_of: HashMap<PacketId, u64>,
    next_order: u64,
    /// What is still to be resent on this connection.
    resend: VecDeque<u64>,
    grants: Grants,
    /// How many publications count against the server's Receive Maximum.
    unanswered: usize,
}

const DUP: u8 = 0b1000;

impl Outbound {
    /// The largest packet that the server takes, in bytes.
    pub(super) const fn packet_bytes_max(&self) -> usize {
        self.grants.packet_bytes_max
    }

    pub(super) fn queue(&mut self, token: Token, publication: Publication) {
        self.queued.push_back((token, publication));
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queued.is_empty() && self.in_flight.is_empty()
    }

    /// Begins a connection: everything unacknowledged is to be sent again if the server kept the session.
    pub(super) fn connected(
        &mut self,
        grants: Grants,
        session_present: bool,
        ids: &mut PacketIds,
        events: &mut VecDeque<Event>,
    ) {
        self.grants = grants;
        self.unanswered = 0;
        if session_present {
            self.begin_resending();
        } else {
            // [MQTT-3.2.2-5]
            self.forget_server_state(ids, events);
        }
    }

    /// Has everything unfinished sent again ([MQTT-4.4.0-1]): PUBREL first, since it makes room for PUBLISH.
    fn begin_resending(&mut self) {
        let mut publishes = VecDeque::new();
        self.resend.clear();
        for (order, entry) in &mut self.in_flight {
            // [MQTT-3.3.4-7] It was published on another connection, and its PUBCOMP is missing all the same.
            entry.counted = entry.awaiting == Awaiting::Completion;
            if entry.counted {
                self.unanswered += 1;
                self.resend.push_back(*order);
            } else {
                publishes.push_back(*order);
            }
        }
        self.resend.append(&mut publishes);
    }

    /// The server has lost the session. QoS 1 is published anew; a QoS 2 message whose PUBREC arrived is the
    /// server's; any other QoS 2 message cannot be delivered exactly once any more.
    fn forget_server_state(&mut self, ids: &mut PacketIds, events: &mut VecDeque<Event>) {
        self.resend.clear();
        self.order_of.clear();
        let mut again = VecDeque::new();
        for (_, entry) in std::mem::take(&mut self.in_flight) {
            ids.release(entry.id);
            let outcome = match (entry.awaiting, entry.publication) {
                (Awaiting::Acknowledgement, Some(publication)) => {
                    again.push_back((entry.token, publication));
                    continue;
                }
                (Awaiting::Completion, _) => Ok(ReasonCode::Success),
                (Awaiting::Acknowledgement | Awaiting::Receipt, _) => Err(DeliveryError::SessionLost),
            };
            events.push_back(Event::Published { token: entry.token, outcome });
        }
        again.append(&mut self.queued);
        self.queued = again;
    }

    /// Sends what the quota allows: first again, in order, then what is queued.
    pub(super) fn pump(
        &mut self,
        ids: &mut PacketIds,
        output: &mut Output,
        events: &mut VecDeque<Event>,
    ) -> Result<(), EncodeError> {
        let maximum = usize::from(self.grants.receive_maximum);
        while let Some(order) = self.resend.front() {
            match self.in_flight.get_mut(order) {
                None => {}
                Some(entry) if entry.awaiting == Awaiting::Completion => send_pubrel(entry.id, output)?,
                Some(_) if self.unanswered >= maximum => return Ok(()),
                Some(entry) => {
                    entry.counted = true;
                    self.unanswered += 1;
                    // [MQTT-3.3.1-1]
                    if let Some(header) = entry.packet.first_mut() {
                        *header |= DUP;
                    }
                    output.encoded(&entry.packet);
                }
            }
            self.resend.pop_front();
        }
        while self.unanswered < maximum && !self.queued.is_empty() {
            let Some(id) = ids.take() else { return Ok(()) };
            let Some((token, publication)) = self.queued.pop_front() else { return Ok(()) };
            match self.encode(&publication, Some(id)) {
                Ok(packet) => {
                    self.unanswered += 1;
                    output.encoded(&packet);
                    self.track(token, id, publication, packet);
                }
                Err(error) => {
                    ids.release(id);
                    events.push_back(Event::Published { token, outcome: Err(error) });
                }
            }
        }
        Ok(())
    }

    /// Encodes a publication if the server takes it.
    pub(super) fn encode(
        &self,
        publication: &Publication,
        id: Option<PacketId>,
    ) -> Result<Vec<u8>, DeliveryError> {
        // [MQTT-3.2.2-11]
        if publication.qos > self.grants.maximum_qos {
            return Err(DeliveryError::QosNotSupported { maximum: self.grants.maximum_qos });
        }
        // [MQTT-3.2.2-14]
        if publication.retain && !self.grants.retain_available {
            return Err(DeliveryError::RetainNotSupported);
        }
        let mut packet = Vec::with_capacity(publication.payload.len() + publication.topic.len() + 64);
        publication.encode(id, &mut packet)?;
        // [MQTT-3.2.2-15]
        if packet.len() > self.grants.packet_bytes_max {
            let (bytes, bytes_max) = (packet.len(), self.grants.packet_bytes_max);
            return Err(DeliveryError::TooLarge { bytes, bytes_max });
        }
        Ok(packet)
    }

    fn track(&mut self, token: Token, id: PacketId, publication: Publication, packet: Vec<u8>) {
        let (awaiting, publication) = match publication.qos {
            QoS::AtMostOnce | QoS::AtLeastOnce => (Awaiting::Acknowledgement, Some(publication)),
            QoS::ExactlyOnce => (Awaiting::Receipt, None),
        };
        self.order_of.insert(id, self.next_order);
        let entry = InFlight { id, token, awaiting, counted: true, packet, publication };
        self.in_flight.insert(self.next_order, entry);
        self.next_order += 1;
    }

    pub(super) fn puback(
        &mut self,
        acknowledgement: &Acknowledgement<'_>,
        ids: &mut PacketIds,
    ) -> Result<Option<Event>, CloseReason> {
        match self.find(acknowledgement.packet_id).map(|entry| entry.awaiting) {
            Some(Awaiting::Acknowledgement) => Ok(self.settle(acknowledgement, ids)),
            Some(Awaiting::Receipt | Awaiting::Completion) => {
                Err(CloseReason::Unexpected(PacketType::PubAck))
            }
            // A late answer to what an earlier connection settled.
            None => Ok(None),
        }
    }

    pub(super) fn pubrec(
        &mut self,
        acknowledgement: &Acknowledgement<'_>,
        ids: &mut PacketIds,
        output: &mut Output,
    ) -> Result<Option<Event>, CloseReason> {
        let id = acknowledgement.packet_id;
        let Some(entry) = self.find(id) else {
            // MQTT 5.0 section 3.6.2.1: tells the server that there is nothing to release.
            let answer = Acknowledgement::new(id, ReasonCode::PacketIdentifierNotFound);
            output.packet(&Packet::PubRel(answer))?;
            return Ok(None);
        };
        match entry.awaiting {
            Awaiting::Acknowledgement => Err(CloseReason::Unexpected(PacketType::PubRec)),
            // [MQTT-3.3.4-9], [MQTT-4.3.3-4]: a failure settles the message.
            Awaiting::Receipt if acknowledgement.reason.is_error() => Ok(self.settle(acknowledgement, ids)),
            Awaiting::Receipt | Awaiting::Completion => {
                entry.awaiting = Awaiting::Completion;
                entry.packet = Vec::new();
                if !std::mem::replace(&mut entry.counted, true) {
                    // An answer to an earlier connection: there is nothing to send again.
                    self.unanswered += 1;
                    let answered = self.order_of.get(&id);
                    self.resend.retain(|order| Some(order) != answered);
                }
                send_pubrel(id, output)?;
                Ok(None)
            }
        }
    }

    pub(super) fn pubcomp(
        &mut self,
        acknowledgement: &Acknowledgement<'_>,
        ids: &mut PacketIds,
    ) -> Result<Option<Event>, CloseReason> {
        match self.find(acknowledgement.packet_id).map(|entry| entry.awaiting) {
            Some(Awaiting::Completion) => {
                // The receipt was PUBREC; that the server has forgotten the identifier changes nothing.
                let done = Acknowledgement::new(acknowledgement.packet_id, ReasonCode::Success);
                Ok(self.settle(&done, ids))
            }
            Some(Awaiting::Acknowledgement | Awaiting::Receipt) => {
                Err(CloseReason::Unexpected(PacketType::PubComp))
            }
            None => Ok(None),
        }
    }

    fn find(&mut self, id: PacketId) -> Option<&mut InFlight> {
        self.in_flight.get_mut(self.order_of.get(&id)?)
    }

    fn settle(&mut self, acknowledgement: &Acknowledgement<'_>, ids: &mut PacketIds) -> Option<Event> {
        let entry = self.in_flight.remove(&self.order_of.remove(&acknowledgement.packet_id)?)?;
        ids.release(entry.id);
        self.unanswered -= usize::from(entry.counted);
        let reason = acknowledgement.reason;
        let text = || acknowledgement.reason_string.map(str::to_owned);
        let outcome = match reason.is_error() {
            true => Err(DeliveryError::Rejected { reason, text: text() }),
            false => Ok(reason),
        };
        Some(Event::Published { token: entry.token, outcome })
    }
}

fn send_pubrel(id: PacketId, output: &mut Output) -> Result<(), EncodeError> {
    output.packet(&Packet::PubRel(Acknowledgement::new(id, ReasonCode::Success)))
}
