//! Random runs of a group: whoever comes, goes or ends, each message is completed, and by one member.
//!
//! One member has a session that never ends, so there always is somebody to have a message.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use proptest::prelude::{Just, Strategy, any, prop};
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};
use veilmq_core::Settings;
use veilmq_protocol::{Connect, Disconnect, Packet, ProtocolVersion, QoS, next_frame};
use veilmq_simulator::{Conn, World, connect_v5};

use crate::{GROUP, publisher};

/// The last of them is the one whose session never ends.
const NAMES: [&str; 4] = ["a", "b", "c", "keeper"];
const KEEPER: usize = NAMES.len() - 1;

#[derive(Clone, Debug)]
enum Action {
    /// A member connects and subscribes; its Clean Start, Session Expiry Interval and Receive Maximum.
    Connect(usize, bool, u32, u16),
    Cut(usize),
    /// DISCONNECT ends the session at once.
    End(usize),
    Publish(usize),
    /// A member answers so many of the packets that it owes an answer.
    Answer(usize, usize),
    Pass(u64),
    /// Batches wait until they are committed one by one.
    Hold,
    Commit(usize),
    /// So many batches that wait are refused.
    Fail(usize),
    /// The broker dies, and starts with so many shards.
    Crash(u16),
}

fn actions(may_crash: bool, may_fail: bool) -> impl Strategy<Value = Vec<Action>> {
    let who = || 0..NAMES.len();
    // What only a session without expiry interval has dies with the broker.
    let expiry = prop_oneof![Just(if may_crash { 60_u32 } else { 0 }), Just(60)];
    let steady = prop_oneof![
        6 => (who(), any::<bool>(), expiry, 1_u16..4)
            .prop_map(|(who, clean, expiry, quota)| Action::Connect(who, clean, expiry, quota)),
        3 => who().prop_map(Action::Cut),
        2 => (0..KEEPER).prop_map(Action::End),
        8 => (1_usize..4).prop_map(Action::Publish),
        8 => (who(), 1_usize..5).prop_map(|(who, count)| Action::Answer(who, count)),
        1 => (1_u64..70).prop_map(Action::Pass),
    ];
    let unsteady = prop_oneof![
        1 => Just(Action::Hold),
        2 => (1_usize..5).prop_map(Action::Commit),
        u32::from(may_fail) => (1_usize..3).prop_map(Action::Fail),
        1 => (1_u16..5).prop_map(Action::Crash),
    ];
    let weight = if may_crash { 4 } else { 0 };
    prop::collection::vec(prop_oneof![28 => steady, weight => unsteady], 1..60)
}

/// The answer that a client owes to a Packet Identifier.
#[derive(Clone, Copy)]
enum Owed {
    /// PUBACK.
    Taken(u16),
    /// PUBREC.
    Received(u16),
    /// PUBCOMP.
    Complete(u16),
}

struct Run {
    world: World,
    qos: QoS,
    publisher: Conn,
    members: [Option<Conn>; NAMES.len()],
    owed: [Vec<Owed>; NAMES.len()],
    /// What each open packet identifier of a member carries.
    carried: BTreeMap<(usize, u16), u64>,
    published: u64,
    acknowledged: BTreeSet<u64>,
    /// How often each message was completed by a member.
    completed: BTreeMap<u64, usize>,
    /// A commit failed since the store was last read.
    store_is_behind: bool,
}

impl Run {
    /// Lets everything happen, and comes to an end.
    fn of(shards: u16, qos: QoS, actions: &[Action]) -> Self {
        // Two runs of three let queues spill.
        let memory_bytes = [0, 600, 1 << 20][actions.len() % 3];
        let mut run = Self::new(shards, qos, memory_bytes);
        for action in actions {
            run.act(action);
        }
        run.conclude();
        run
    }

    fn new(shards: u16, qos: QoS, session_queue_memory_bytes: usize) -> Self {
        let settings = Settings { shards, session_queue_memory_bytes, ..Settings::default() };
        let mut world = World::with(settings);
        let publisher = publisher(&mut world);
        let mut run = Self {
            world,
            qos,
            publisher,
            members: [None; NAMES.len()],
            owed: std::array::from_fn(|_| Vec::new()),
            carried: BTreeMap::new(),
            published: 0,
            acknowledged: BTreeSet::new(),
            completed: BTreeMap::new(),
            store_is_behind: false,
        };
        run.connect(KEEPER, false, 0, 2);
        run
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Connect(who, clean_start, expiry, quota) => self.connect(who, clean_start, expiry, quota),
            Action::Cut(who) => self.leave(who, World::cut),
            Action::End(who) => self.leave(who, |world, connection| {
                let disconnect = Disconnect { session_expiry_seconds: Some(0), ..Disconnect::default() };
                world.send(connection, &Packet::Disconnect(disconnect));
            }),
            Action::Publish(count) => {
                for _ in 0..count {
                    self.published += 1;
                    let payload = self.published.to_string();
                    self.world.publish(self.publisher, "t", &payload, self.qos, self.published as u16);
                }
            }
            Action::Answer(who, count) => self.answer(who, count),
            Action::Pass(seconds) => self.world.pass(seconds * 1_000),
            Action::Hold => self.world.commits_at_once = false,
            Action::Commit(count) => {
                for _ in 0..count {
                    self.world.commit_one();
                }
            }
            Action::Fail(count) => {
                for _ in 0..count {
                    self.store_is_behind |= self.world.fail_one();
                }
            }
            Action::Crash(shards) => self.crash(shards),
        }
        self.read();
    }

    fn connect(&mut self, who: usize, clean_start: bool, expiry: u32, quota: u16) {
        let (clean_start, expiry) = if who == KEEPER { (false, u32::MAX) } else { (clean_start, expiry) };
        let mut connect = connect_v5(NAMES[who], clean_start, expiry);
        connect.properties.receive_maximum = NonZeroU16::new(quota);
        let connection = self.world.connect(&Connect { ..connect });
        self.world.subscribe(connection, GROUP, self.qos);
        self.owed[who].clear();
        self.members[who] = Some(connection);
    }

    fn leave(&mut self, who: usize, leave: impl Fn(&mut World, Conn)) {
        if let Some(connection) = self.members[who].take() {
            self.owed[who].clear();
            leave(&mut self.world, connection);
        }
    }

    fn crash(&mut self, shards: u16) {
        let world = std::mem::replace(&mut self.world, World::new(1));
        self.world = world.crash(shards).0;
        self.members = [None; NAMES.len()];
        self.owed.iter_mut().for_each(Vec::clear);
        self.publisher = publisher(&mut self.world);
        self.world.commits_at_once = true;
        self.store_is_behind = false;
    }

    fn answer(&mut self, who: usize, count: usize) {
        for _ in 0..count {
            let Some(connection) = self.members[who] else { return };
            if self.owed[who].is_empty() {
                return;
            }
            match self.owed[who].remove(0) {
                Owed::Received(packet_id) => self.world.ack(connection, Packet::PubRec, packet_id),
                Owed::Taken(packet_id) => {
                    self.complete(who, packet_id);
                    self.world.ack(connection, Packet::PubAck, packet_id);
                }
                Owed::Complete(packet_id) => {
                    self.complete(who, packet_id);
                    self.world.ack(connection, Packet::PubComp, packet_id);
                }
            }
            self.read();
        }
    }

    fn complete(&mut self, who: usize, packet_id: u16) {
        if let Some(number) = self.carried.remove(&(who, packet_id)) {
            *self.completed.entry(number).or_default() += 1;
        }
    }

    /// Lets everyone see what has arrived.
    fn read(&mut self) {
        for packet in self.packets(self.publisher) {
            if let Seen::Answered(number) = packet {
                self.acknowledged.insert(number);
                if self.qos == QoS::ExactlyOnce {
                    self.world.ack(self.publisher, Packet::PubRel, number as u16);
                }
            }
        }
        if self.world.is_closed(self.publisher) {
            self.publisher = publisher(&mut self.world);
        }
        for who in 0..NAMES.len() {
            let Some(connection) = self.members[who] else { continue };
            let packets = self.packets(connection);
            if self.world.is_closed(connection) {
                self.members[who] = None;
                self.owed[who].clear();
                continue;
            }
            for packet in packets {
                match packet {
                    Seen::Delivered(packet_id, number) => {
                        self.carried.insert((who, packet_id), number);
                        self.owed[who].push(match self.qos {
                            QoS::ExactlyOnce => Owed::Received(packet_id),
                            QoS::AtMostOnce | QoS::AtLeastOnce => Owed::Taken(packet_id),
                        });
                    }
                    Seen::Released(packet_id) => self.owed[who].push(Owed::Complete(packet_id)),
                    Seen::Answered(_) => {}
                }
            }
        }
    }

    fn packets(&mut self, connection: Conn) -> Vec<Seen> {
        let bytes = self.world.bytes(connection);
        let (mut rest, mut seen) = (&bytes[..], Vec::new());
        while let Some((frame, consumed)) = next_frame(rest, usize::MAX).unwrap() {
            rest = &rest[consumed..];
            match Packet::decode(frame, ProtocolVersion::V5).unwrap() {
                Packet::Publish(publish) => {
                    let number = std::str::from_utf8(publish.payload).unwrap().parse().unwrap();
                    seen.push(Seen::Delivered(publish.packet_id.unwrap().value(), number));
                }
                Packet::PubAck(ack) | Packet::PubRec(ack) => {
                    seen.push(Seen::Answered(ack.packet_id.value().into()));
                }
                Packet::PubRel(release) => seen.push(Seen::Released(release.packet_id.value())),
                _ => {}
            }
        }
        seen
    }

    /// Ends all sessions but the keeper's, which completes everything that is left.
    fn conclude(&mut self) {
        self.world.commits_at_once = true;
        self.world.commit();
        self.read();
        if self.store_is_behind {
            self.crash(2);
        }
        self.connect(KEEPER, false, 0, 5);
        for (who, name) in NAMES.iter().enumerate().take(KEEPER) {
            self.members[who] = None;
            let connection = self.world.connect(&connect_v5(name, true, 0));
            self.world.cut(connection);
            self.read();
        }
        self.read();
        self.answer(KEEPER, usize::MAX);
    }
}

/// What a client sees of a packet.
enum Seen {
    Delivered(u16, u64),
    Released(u16),
    Answered(u64),
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 150, ..Default::default() })]

    #[test]
    fn every_message_is_completed_by_exactly_one_member(actions in actions(false, false), shards in 1_u16..5) {
        let mut run = Run::of(shards, QoS::AtLeastOnce, &actions);

        for number in 1..=run.published {
            prop_assert_eq!(run.completed.get(&number), Some(&1), "message {}", number);
        }
        prop_assert_eq!(run.world.stored_bodies(), 0);
        prop_assert_eq!(run.world.sample("veilmq_queued_messages", ""), 0);
        prop_assert_eq!(run.world.sample("veilmq_shared_subscriptions", ""), 1);
    }

    #[test]
    fn no_message_of_qos_2_is_completed_twice(actions in actions(false, false), shards in 1_u16..5) {
        let mut run = Run::of(shards, QoS::ExactlyOnce, &actions);

        prop_assert!(run.completed.values().all(|count| *count == 1), "{:?}", run.completed);
        prop_assert_eq!(run.world.stored_bodies(), 0);
    }

    #[test]
    fn no_message_of_qos_2_is_completed_twice_whatever_crashes(
        actions in actions(true, false),
        shards in 1_u16..5,
    ) {
        let mut run = Run::of(shards, QoS::ExactlyOnce, &actions);

        prop_assert!(run.completed.values().all(|count| *count == 1), "{:?}", run.completed);
        prop_assert_eq!(run.world.stored_bodies(), 0);
    }

    #[test]
    fn what_was_acknowledged_is_completed_by_a_member_whatever_crashes(
        actions in actions(true, true),
        shards in 1_u16..5,
    ) {
        let mut run = Run::of(shards, QoS::AtLeastOnce, &actions);

        for number in &run.acknowledged {
            prop_assert!(run.completed.contains_key(number), "message {} is lost", number);
        }
        prop_assert_eq!(run.world.stored_bodies(), 0);
    }
}
