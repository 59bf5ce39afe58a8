//! What was acknowledged, what is there, and the difference.
//!
//! Clients enter facts as they learn them; after a crash the same facts say what the broker owes. The state that a correct
//! client keeps over its own reconnections (which QoS 2 identifiers it has received, whether it has a session) follows from
//! them too, so that a client can be put back to any moment of its life.
//! Invariant: a fault is entered when, and only when, the broker broke a promise that some client had seen.

use std::collections::{BTreeMap, BTreeSet};

use super::traffic::Stream;

const FAULTS_MAX: usize = 100;

/// Something that a client has learned from one packet of the broker.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each sentence names the fields: indices, numbers and Packet Identifiers")]
pub enum Fact {
    /// CONNACK for a session that outlives its connections.
    Connected { client: usize },
    /// SUBACK for all that the client subscribes to.
    Subscribed { client: usize },
    /// PUBACK or PUBREC: from now on the broker owns the message.
    Acknowledged { stream: Stream, number: u32 },
    /// A message was handed to the application of a subscriber.
    Arrived { client: usize, stream: Stream, number: u32 },
    /// PUBLISH at QoS 2: the identifier is taken until PUBREL.
    Held { client: usize, packet_id: u16 },
    /// PUBREL.
    Released { client: usize, packet_id: u16 },
    /// A register has this version or, if it was already on its way, a later one.
    Settled { register: usize, version: usize },
    /// CONNACK for a connection with this Will, which only a crash can end.
    WillArmed { holder: usize, number: u32 },
    /// The Will was published.
    WillArrived { holder: usize, number: u32 },
}

/// A client with a session that outlives its connections.
#[derive(Clone, Debug)]
struct Client {
    name: String,
    /// Who shares its messages with it: each message reaches one client of the group. None if it gets none.
    group: Option<usize>,
    /// Whether it was granted QoS 2.
    is_exact: bool,
    is_connected: bool,
    is_subscribed: bool,
    held: BTreeSet<u16>,
    highest: BTreeMap<Stream, u32>,
}

/// A set of numbers from 1 that has few gaps.
#[derive(Clone, Debug, Default)]
struct Numbers {
    through: u32,
    beyond: BTreeSet<u32>,
}

impl Numbers {
    fn contains(&self, number: u32) -> bool {
        number <= self.through || self.beyond.contains(&number)
    }

    /// False if it was there already.
    fn insert(&mut self, number: u32) -> bool {
        if self.contains(number) {
            return false;
        }
        self.beyond.insert(number);
        while self.beyond.remove(&(self.through + 1)) {
            self.through += 1;
        }
        true
    }

    fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let all = (other.through + 1..=self.through).chain(self.beyond.iter().copied());
        all.filter(|number| !other.contains(*number))
    }
}

/// Something that one client alone changes and that has one value at a time, such as a retained message.
#[derive(Clone, Debug)]
struct Register {
    name: String,
    /// Every value it was asked to have, in order; the first is none.
    values: Vec<Option<String>>,
    acknowledged: usize,
}

/// What clients know and what the broker owes them.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    clients: Vec<Client>,
    /// What has arrived at each group.
    groups: Vec<BTreeMap<Stream, Numbers>>,
    acknowledged: BTreeMap<Stream, Numbers>,
    registers: Vec<Register>,
    wills_armed: BTreeSet<(usize, u32)>,
    wills_arrived: BTreeSet<(usize, u32)>,
    faults: Vec<String>,
}

impl Ledger {
    /// Adds a client that receives nothing that is counted.
    pub fn add_client(&mut self, name: &str) -> usize {
        self.clients.push(Client {
            name: name.to_owned(),
            group: None,
            is_exact: false,
            is_connected: false,
            is_subscribed: false,
            held: BTreeSet::new(),
            highest: BTreeMap::new(),
        });
        self.clients.len() - 1
    }

    /// Adds a subscriber to a new group, or to that of `other`.
    pub fn add_subscriber(&mut self, name: &str, is_exact: bool, other: Option<usize>) -> usize {
        let group = other.and_then(|other| self.clients[other].group).unwrap_or_else(|| {
            self.groups.push(BTreeMap::new());
            self.groups.len() - 1
        });
        let client = self.add_client(name);
        self.clients[client].group = Some(group);
        self.clients[client].is_exact = is_exact;
        client
    }

    /// Adds a register without a value.
    pub fn add_register(&mut self, name: String) -> usize {
        self.registers.push(Register { name, values: vec![None], acknowledged: 0 });
        self.registers.len() - 1
    }

    /// Returns the ledger that the same clients would have if these were all the facts.
    #[must_use]
    pub fn with_facts<'a>(&self, facts: impl Iterator<Item = &'a Fact>) -> Self {
        let mut ledger = Self::default();
        for Client { name, group, is_exact, .. } in &self.clients {
            let client = ledger.add_client(name);
            ledger.clients[client].group = *group;
            ledger.clients[client].is_exact = *is_exact;
        }
        ledger.groups.resize(self.groups.len(), BTreeMap::new());
        ledger.registers.clone_from(&self.registers);
        for register in &mut ledger.registers {
            register.acknowledged = 0;
        }
        for fact in facts {
            ledger.note(*fact);
        }
        ledger
    }

    /// Enters a fact.
    pub fn note(&mut self, fact: Fact) {
        match fact {
            Fact::Connected { client } => self.clients[client].is_connected = true,
            Fact::Subscribed { client } => self.clients[client].is_subscribed = true,
            Fact::Acknowledged { stream, number } => {
                self.acknowledged.entry(stream).or_default().insert(number);
            }
            Fact::Arrived { client, stream, number } => self.arrived(client, stream, number),
            Fact::Held { client, packet_id } => {
                self.clients[client].held.insert(packet_id);
            }
            Fact::Released { client, packet_id } => {
                self.clients[client].held.remove(&packet_id);
            }
            Fact::Settled { register, version } => {
                let acknowledged = &mut self.registers[register].acknowledged;
                *acknowledged = version.max(*acknowledged);
            }
            Fact::WillArmed { holder, number } => {
                self.wills_armed.insert((holder, number));
            }
            Fact::WillArrived { holder, number } => {
                self.wills_arrived.insert((holder, number));
            }
        }
    }

    fn arrived(&mut self, client: usize, stream: Stream, number: u32) {
        let group = self.clients[client].group;
        let shares = self.clients.iter().filter(|other| other.group == group).count() > 1;
        let Client { name, group: Some(group), is_exact, highest, .. } = &mut self.clients[client] else {
            return self
                .fault(format!("number {number} of {stream} arrived at a client without subscription"));
        };
        let is_new = self.groups[*group].entry(stream).or_default().insert(number);
        let highest = highest.entry(stream).or_default();
        // A QoS 1 message that its publisher sends again is a new one, which may go to another member than the first.
        let is_ordered = stream.qos == 2 || !shares;
        let fault = if is_new && number < *highest && is_ordered {
            // [MQTT-4.6.0-5]
            Some(format!("{name}: number {number} of {stream} arrived after number {highest}"))
        } else if !is_new && stream.qos == 2 && *is_exact {
            // [MQTT-4.3.3-10]
            Some(format!("{name}: number {number} of {stream} arrived twice"))
        } else {
            None
        };
        *highest = number.max(*highest);
        if let Some(fault) = fault {
            self.fault(fault);
        }
    }

    /// Takes the Session Present flag of a CONNACK.
    pub fn resumed(&mut self, client: usize, session_present: bool) {
        let Client { name, is_connected, is_subscribed, held, .. } = &mut self.clients[client];
        if !session_present {
            *is_subscribed = false;
            held.clear();
            if *is_connected {
                let fault = format!("the session of {name} is lost");
                self.fault(fault);
            }
        }
    }

    /// Whether the session of a client has the subscriptions that it asked for.
    #[must_use]
    pub fn is_subscribed(&self, client: usize) -> bool {
        self.clients[client].is_subscribed
    }

    /// Whether a QoS 2 exchange with this identifier has been begun and not ended.
    #[must_use]
    pub fn is_held(&self, client: usize, packet_id: u16) -> bool {
        self.clients[client].held.contains(&packet_id)
    }

    /// The Client Identifier of a client.
    #[must_use]
    pub fn name(&self, client: usize) -> &str {
        &self.clients[client].name
    }

    /// Says that a register is about to be asked to have a value; returns the version.
    pub fn attempt(&mut self, register: usize, value: Option<String>) -> usize {
        let values = &mut self.registers[register].values;
        values.push(value);
        values.len() - 1
    }

    /// The number of registers.
    #[must_use]
    pub fn registers(&self) -> usize {
        self.registers.len()
    }

    /// The name of a register: a Topic Name or Topic Filter.
    #[must_use]
    pub fn register_name(&self, register: usize) -> &str {
        &self.registers[register].name
    }

    /// Whether a register may have this value: that of the last acknowledged version, or of one after it.
    #[must_use]
    pub fn may_be(&self, register: usize, value: Option<&str>) -> bool {
        let Register { values, acknowledged, .. } = &self.registers[register];
        values[*acknowledged..].iter().any(|allowed| allowed.as_deref() == value)
    }

    /// Takes the value that a register was found to have.
    pub fn found(&mut self, register: usize, value: Option<&str>) {
        if !self.may_be(register, value) {
            let Register { name, values, acknowledged } = &self.registers[register];
            let fault = format!("{name} is {value:?}, and {:?} was acknowledged", values[*acknowledged]);
            self.fault(fault);
        }
    }

    /// Whether a Will must still be published.
    #[must_use]
    pub fn is_will_due(&self, holder: usize) -> bool {
        self.wills_armed.iter().any(|will| will.0 == holder && !self.wills_arrived.contains(will))
    }

    /// The Wills that must still be published, as holders and numbers.
    #[must_use]
    pub fn wills_due(&self) -> Vec<(usize, u32)> {
        self.wills_armed.difference(&self.wills_arrived).copied().collect()
    }

    /// What was acknowledged and has not arrived, and what was begun and not ended.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let none = Numbers::default();
        for (stream, acknowledged) in &self.acknowledged {
            for (group, arrived) in self.groups.iter().enumerate() {
                let lost: Vec<u32> =
                    acknowledged.without(arrived.get(stream).unwrap_or(&none)).take(10).collect();
                if !lost.is_empty() {
                    let of_group = self.clients.iter().filter(|client| client.group == Some(group));
                    let names: Vec<&str> = of_group.map(|client| client.name.as_str()).collect();
                    missing.push(format!(
                        "{}: acknowledged and lost: {lost:?} and maybe more of {stream}",
                        names.join(" and ")
                    ));
                }
            }
        }
        missing.extend(
            self.wills_due()
                .iter()
                .map(|(holder, number)| format!("Will {number} of holder {holder} is lost")),
        );
        missing.extend(self.clients.iter().filter(|client| !client.held.is_empty()).map(|client| {
            format!("{}: PUBREL never came for the identifiers {:?}", client.name, client.held)
        }));
        missing
    }

    /// How many messages were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
            .values()
            .map(|numbers| u64::from(numbers.through) + numbers.beyond.len() as u64)
            .sum()
    }

    /// Enters a broken promise; what comes after the first hundred is left out.
    pub fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }

    /// Every promise that was broken so far.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Stream = Stream { publisher: 0, topic: 0, qos: 2 };

    /// A ledger with the exact subscriber 0 and the register 0.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.add_subscriber("subscriber", true, None);
        ledger.add_register("state".to_owned());
        ledger
    }

    fn arrived(number: u32) -> Fact {
        Fact::Arrived { client: 0, stream: STREAM, number }
    }

    #[test]
    fn what_was_acknowledged_is_missing_until_it_arrives() {
        let mut ledger = ledger();
        ledger.note(Fact::Acknowledged { stream: STREAM, number: 1 });
        assert_eq!(ledger.missing().len(), 1);

        ledger.note(arrived(1));

        assert_eq!(ledger.missing(), [""; 0]);
        assert_eq!(ledger.faults(), [""; 0]);
    }

    #[test]
    fn a_second_arrival_at_qos_2_and_a_late_first_one_are_faults() {
        let mut ledger = ledger();
        for number in [1, 3, 3, 2] {
            ledger.note(arrived(number));
        }

        assert_eq!(ledger.faults().len(), 2, "{:?}", ledger.faults());
        assert!(ledger.faults()[0].contains("number 3") && ledger.faults()[0].contains("twice"));
        assert!(ledger.faults()[1].contains("number 2") && ledger.faults()[1].contains("after number 3"));
    }

    #[test]
    fn a_register_has_the_acknowledged_value_or_a_later_one() {
        let mut ledger = ledger();
        for value in ["old", "acknowledged", "later"] {
            ledger.attempt(0, Some(value.to_owned()));
        }
        ledger.note(Fact::Settled { register: 0, version: 2 });

        let allowed =
            [None, Some("old"), Some("acknowledged"), Some("later")].map(|value| ledger.may_be(0, value));

        assert_eq!(allowed, [false, false, true, true]);
    }

    #[test]
    fn a_session_that_was_acknowledged_and_is_absent_is_a_fault() {
        let mut ledger = ledger();
        ledger.resumed(0, false);
        assert_eq!(ledger.faults(), [""; 0]);
        ledger.note(Fact::Connected { client: 0 });

        ledger.resumed(0, false);

        assert_eq!(ledger.faults(), ["the session of subscriber is lost"]);
    }
}
