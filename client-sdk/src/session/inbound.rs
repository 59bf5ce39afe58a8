//! The receive side of the Session State: receive maximum, exactly-once, acknowledgements in order, aliases.
//!
//! Invariant: a QoS 2 identifier is in `received` from its first PUBLISH to its PUBREL, so no repeat of it is
//! delivered; acknowledgements leave in the order the messages arrived ([MQTT-4.6.0-2], [MQTT-4.6.0-3]),
//! whatever the application makes of them ([MQTT-4.5.0-2]); an identifier names one message that is not finished, the last.

use std::collections::{HashMap, HashSet, VecDeque};

use veilmq_protocol::{Acknowledgement, EncodeError, Packet, PacketId, PacketType, Publish, QoS, ReasonCode};

use super::{event::CloseReason, output::Output};

/// Names a received QoS 1 or 2 message until the application has taken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt(u64);

#[cfg(test)]
impl Receipt {
    pub(crate) const fn numbered(number: u64) -> Self {
        Self(number)
    }
}

struct Unacknowledged {
    receipt: Receipt,
    /// None once the server has used it for another message: there is nothing to answer, but this one counts until it is taken.
    id: Option<PacketId>,
    qos: QoS,
    taken: bool,
    /// Arrived, or arrived again, on the present connection.
    current: bool,
}

#[derive(Default)]
pub(super) struct Inbound {
    unacknowledged: VecDeque<Unacknowledged>,
    received: HashSet<PacketId>,
    /// QoS 2 identifiers whose PUBLISH counts against the receive maximum of this connection.
    counted: HashSet<PacketId>,
    in_use: usize,
    next_receipt: u64,
    aliases: HashMap<u16, String>,
}

/// What to do with a PUBLISH.
pub(super) enum Arrival {
    Deliver(Option<Receipt>),
    /// The application has it, or will take it, already.
    Repeat,
}

impl Inbound {
    pub(super) fn connected(&mut self, session_present: bool) {
        self.in_use = 0;
        self.counted.clear();
        self.aliases.clear();
        if !session_present {
            self.unacknowledged.clear();
            self.received.clear();
        }
    }

    /// What is not acknowledged will come again; what is taken meanwhile is acknowledged then.
    pub(super) fn connection_lost(&mut self) {
        self.unacknowledged.retain(|entry| entry.id.is_some());
        for entry in &mut self.unacknowledged {
            entry.current = false;
        }
    }

    /// The Topic Name of a PUBLISH, after alias resolution.
    pub(super) fn topic(&mut self, publish: &Publish<'_>, alias_maximum: u16) -> Result<String, CloseReason> {
        let Some(alias) = publish.properties.topic_alias else {
            let topic = publish.topic.ok_or(CloseReason::TopicAliasInvalid)?;
            return Ok(topic.as_str().to_owned());
        };
        // [MQTT-3.3.2-9], [MQTT-3.3.2-10]
        if alias.get() > alias_maximum {
            return Err(CloseReason::TopicAliasInvalid);
        }
        match publish.topic {
            Some(topic) => {
                self.aliases.insert(alias.get(), topic.as_str().to_owned());
                Ok(topic.as_str().to_owned())
            }
            None => self.aliases.get(&alias.get()).cloned().ok_or(CloseReason::TopicAliasInvalid),
        }
    }

    pub(super) fn arrived(
        &mut self,
        publish: &Publish<'_>,
        receive_maximum: u16,
        output: &mut Output,
    ) -> Result<Arrival, CloseReason> {
        let Some(id) = publish.packet_id else { return Ok(Arrival::Deliver(None)) };
        match publish.qos {
            QoS::AtMostOnce => Ok(Arrival::Deliver(None)),
            QoS::AtLeastOnce => {
                self.count(receive_maximum)?;
                if publish.dup && self.arrived_again(id, QoS::AtLeastOnce, output)? {
                    return Ok(Arrival::Repeat);
                }
                self.supersede(id);
                Ok(Arrival::Deliver(Some(self.enter(id, QoS::AtLeastOnce))))
            }
            QoS::ExactlyOnce => {
                if !self.received.contains(&id) {
                    self.supersede(id);
                }
                if self.counted.insert(id) {
                    self.count(receive_maximum)?;
                }
                if self.received.insert(id) {
                    return Ok(Arrival::Deliver(Some(self.enter(id, QoS::ExactlyOnce))));
                }
                // [MQTT-4.3.3-10]
                if !self.arrived_again(id, QoS::ExactlyOnce, output)? {
                    output.packet(&Packet::PubRec(Acknowledgement::new(id, ReasonCode::Success)))?;
                }
                Ok(Arrival::Repeat)
            }
        }
    }

    // [MQTT-3.3.4-9]
    fn count(&mut self, receive_maximum: u16) -> Result<(), CloseReason> {
        self.in_use += 1;
        if self.in_use > usize::from(receive_maximum) {
            return Err(CloseReason::ReceiveMaximumExceeded);
        }
        Ok(())
    }

    fn enter(&mut self, id: PacketId, qos: QoS) -> Receipt {
        let receipt = Receipt(self.next_receipt);
        self.next_receipt += 1;
        self.unacknowledged.push_back(Unacknowledged {
            receipt,
            id: Some(id),
            qos,
            taken: false,
            current: true,
        });
        receipt
    }

    /// Who uses an identifier again has done with the message that had it ([MQTT-2.2.1-4]), in whatever state: it is not answered any
    /// more, and nothing that comes is taken for it.
    fn supersede(&mut self, id: PacketId) {
        self.received.remove(&id);
        let is_counted = self.counted.remove(&id);
        self.unacknowledged.retain(|entry| entry.current || entry.id != Some(id));
        match self.unacknowledged.iter_mut().find(|entry| entry.id == Some(id)) {
            // The application may still have to take it, so it goes on counting: else one identifier would bring any number of messages.
            Some(entry) => entry.id = None,
            None if is_counted => self.in_use = self.in_use.saturating_sub(1),
            None => {}
        }
    }

    /// A message of an earlier connection that the application has not been acknowledged for: it takes its
    /// place in the order of this connection.
    fn arrived_again(&mut self, id: PacketId, qos: QoS, output: &mut Output) -> Result<bool, EncodeError> {
        let same = |entry: &Unacknowledged| entry.id == Some(id) && entry.qos == qos && !entry.current;
        let Some(index) = self.unacknowledged.iter().position(same) else {
            let waiting = |entry: &Unacknowledged| entry.id == Some(id) && entry.qos == qos;
            return Ok(qos == QoS::ExactlyOnce && self.unacknowledged.iter().any(waiting));
        };
        if let Some(mut entry) = self.unacknowledged.remove(index) {
            entry.current = true;
            self.unacknowledged.push_back(entry);
        }
        self.acknowledge_taken(output)?;
        Ok(true)
    }

    /// Messages of this connection that wait for an acknowledgement, the oldest first.
    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = Receipt> {
        self.unacknowledged.iter().filter(|entry| entry.current).map(|entry| entry.receipt)
    }

    /// Forgets a message of an earlier connection that the application has not seen: when it comes again, it is new.
    pub(super) fn forget(&mut self, receipt: Receipt) {
        let same = |entry: &Unacknowledged| entry.receipt == receipt && !entry.current;
        let index = self.unacknowledged.iter().position(same);
        if let Some(Unacknowledged { id: Some(id), qos: QoS::ExactlyOnce, .. }) =
            index.and_then(|index| self.unacknowledged.remove(index))
        {
            self.received.remove(&id);
        }
    }

    /// The application has taken a message; acknowledges it as soon as all that arrived before are taken too.
    pub(super) fn acknowledge(&mut self, receipt: Receipt, output: &mut Output) -> Result<(), EncodeError> {
        if let Some(entry) = self.unacknowledged.iter_mut().find(|entry| entry.receipt == receipt) {
            entry.taken = true;
        }
        self.acknowledge_taken(output)
    }

    fn acknowledge_taken(&mut self, output: &mut Output) -> Result<(), EncodeError> {
        while let Some(index) = self.unacknowledged.iter().position(|entry| entry.current) {
            let Some(entry) = self.unacknowledged.get(index).filter(|entry| entry.taken) else {
                return Ok(());
            };
            let answer = entry.id.map(|id| Acknowledgement::new(id, ReasonCode::Success));
            match (answer, entry.qos) {
                (Some(answer), QoS::ExactlyOnce) => output.packet(&Packet::PubRec(answer))?,
                (Some(answer), QoS::AtMostOnce | QoS::AtLeastOnce) => {
                    self.in_use = self.in_use.saturating_sub(1);
                    output.packet(&Packet::PubAck(answer))?;
                }
                (None, _) => self.in_use = self.in_use.saturating_sub(1),
            }
            self.unacknowledged.remove(index);
        }
        Ok(())
    }

    pub(super) fn released(&mut self, id: PacketId, output: &mut Output) -> Result<(), CloseReason> {
        if self
            .unacknowledged
            .iter()
            .any(|entry| entry.id == Some(id) && entry.qos == QoS::ExactlyOnce && entry.current)
        {
            // PUBREL answers PUBREC, which was not sent yet.
            return Err(CloseReason::Unexpected(PacketType::PubRel));
        }
        let known = self.received.remove(&id);
        if self.counted.remove(&id) {
            self.in_use = self.in_use.saturating_sub(1);
        }
        let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        output.packet(&Packet::PubComp(Acknowledgement::new(id, reason)))?;
        Ok(())
    }
}
