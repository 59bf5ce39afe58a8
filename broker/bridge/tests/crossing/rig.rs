//! Two brokers in memory and a bridge between them, whose connections can be cut after any byte.

use std::sync::Arc;

use veilmq_bridge::{Direction, Event, Fault, Link, LocalSettings, Mapping, RemoteSettings, Settings, Side};
use veilmq_core::{Record, Store};
use veilmq_protocol::{Acknowledgement, Packet, ProtocolVersion, QoS, ReasonCode, next_frame};
use veilmq_simulator::{Conn, World, connect_v5};

/// Two brokers, and the bridge between them when it is up.
pub(crate) struct Rig {
    pub(crate) here: World,
    pub(crate) there: World,
    pub(crate) settings: Settings,
    pub(crate) events: Vec<Event>,
    live: Option<Live>,
}

struct Live {
    link: Link,
    here: Option<Conn>,
    there: Conn,
    /// What is on the wire to the bridge, from this broker and from the other.
    from_here: Vec<u8>,
    from_there: Vec<u8>,
    is_leaving: bool,
}

/// A mapping without prefixes.
pub(crate) fn mapping(pattern: &str, direction: Direction, qos: QoS) -> Mapping {
    Mapping::new(pattern, direction, qos, "", "").unwrap()
}

/// A bridge of the given version and mappings.
pub(crate) fn settings(version: ProtocolVersion, mappings: Vec<Mapping>) -> Settings {
    Settings {
        remote: RemoteSettings {
            version,
            says_bridge: false,
            client_id: "bridge-there".into(),
            username: None,
            password: None,
            clean_start: false,
            session_expiry_seconds: Some(u32::MAX),
            keep_alive_seconds: 60,
            receive_maximum: 20,
            packet_bytes_max: 1_000_000,
            says_packet_bytes_max: true,
            sent_packet_bytes_max: None,
            topic_alias_maximum: 0,
            notification_topic: None,
            passes_retain: true,
            unsubscribes: false,
        },
        local: LocalSettings {
            client_id: "bridge-here".into(),
            clean_start: false,
            session_expiry_seconds: u32::MAX,
            maximum_qos: QoS::ExactlyOnce,
            keeps_retained: true,
            packet_bytes_max: 1_000_000,
            topic_levels_max: 200,
            user_properties_max: 128,
        },
        mappings,
        mark: Some("here/bridge".into()),
        dropped: veilmq_bridge::Filters::default(),
        idle_milliseconds: None,
        hash_key: [1; 16],
    }
}

impl Rig {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { here: World::new(2), there: World::new(2), settings, events: Vec::new(), live: None }
    }

    pub(crate) fn world(&mut self, side: Side) -> &mut World {
        match side {
            Side::Local => &mut self.here,
            Side::Remote => &mut self.there,
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.here.now().milliseconds()
    }

    /// Subscribes on this broker for what is published while the bridge is down.
    pub(crate) fn park(&mut self) {
        let mut link = Link::park(Arc::new(self.settings.clone()), self.now()).unwrap();
        let conn = self.here.accept(0, ProtocolVersion::V5);
        while !link.is_parked() {
            let sent = link.output(Side::Local).split();
            self.here.send_bytes(conn, &sent);
            let bytes = self.here.bytes(conn);
            assert!(!bytes.is_empty(), "nothing moves");
            link.receive(Side::Local, &bytes, self.now()).unwrap();
        }
        let farewell = link.output(Side::Local).split();
        self.here.send_bytes(conn, &farewell);
        assert!(self.here.is_closed(conn));
    }

    /// Connects the bridge, and moves nothing yet.
    pub(crate) fn begin(&mut self) {
        let there = self.there.accept(0, self.settings.remote.version);
        let link = Link::open(Arc::new(self.settings.clone()), 0, self.now()).unwrap();
        let (from_here, from_there) = (Vec::new(), Vec::new());
        self.live = Some(Live { link, here: None, there, from_here, from_there, is_leaving: false });
    }

    /// Connects the bridge and lets everything cross.
    pub(crate) fn up(&mut self) {
        self.begin();
        self.pump().unwrap();
    }

    pub(crate) fn is_up(&self) -> bool {
        self.live.is_some()
    }

    /// Moves bytes until nothing is left to move.
    pub(crate) fn pump(&mut self) -> Result<(), Fault> {
        self.pump_bytes(usize::MAX).map(drop)
    }

    /// Moves at most `bytes_max` bytes, some of them perhaps not whole packets; returns how many.
    pub(crate) fn pump_bytes(&mut self, bytes_max: usize) -> Result<usize, Fault> {
        let mut moved = 0;
        loop {
            let before = moved;
            for side in [Side::Remote, Side::Local] {
                moved += self.move_from_link(side, bytes_max - moved);
                moved += self.move_to_link(side, bytes_max - moved)?;
            }
            if moved == before {
                return Ok(moved);
            }
        }
    }

    fn move_from_link(&mut self, side: Side, bytes_max: usize) -> usize {
        let Some(live) = &mut self.live else { return 0 };
        if side == Side::Local && live.here.is_none() {
            if !live.link.wants_local() {
                return 0;
            }
            live.here = Some(self.here.accept(0, ProtocolVersion::V5));
        }
        let output = live.link.output(side);
        let bytes = output.split_to(bytes_max.min(output.len()));
        if !bytes.is_empty() {
            match side {
                Side::Local => self.here.send_bytes(live.here.unwrap(), &bytes),
                Side::Remote => self.there.send_bytes(live.there, &bytes),
            }
        }
        bytes.len()
    }

    fn move_to_link(&mut self, side: Side, bytes_max: usize) -> Result<usize, Fault> {
        let now = self.now();
        let Some(live) = &mut self.live else { return Ok(0) };
        let wire = match side {
            Side::Local => &mut live.from_here,
            Side::Remote => &mut live.from_there,
        };
        wire.extend(match (side, live.here) {
            (Side::Local, Some(here)) => self.here.bytes(here),
            (Side::Local, None) => Vec::new(),
            (Side::Remote, _) => self.there.bytes(live.there),
        });
        if !live.link.reads(side) {
            return Ok(0);
        }
        let bytes: Vec<u8> = wire.drain(..bytes_max.min(wire.len())).collect();
        let result = live.link.receive(side, &bytes, now);
        self.events.extend(std::iter::from_fn(|| live.link.next_event()));
        result.map(|()| bytes.len())
    }

    /// Has the bridge leave if nothing is under way; what it is sent until it is told a second time comes while it leaves.
    pub(crate) fn leave(&mut self) {
        let now = self.now();
        let Some(live) = &mut self.live else { return };
        if live.is_leaving {
            live.link.close().unwrap();
            self.pump().unwrap();
            return self.cut();
        }
        let is_long_ago = live.link.deadline().is_some_and(|at| at <= now + 1_000);
        live.is_leaving = is_long_ago && live.link.tick(now + 1_000) == Err(Fault::Idle);
    }

    /// Cuts both connections of the bridge.
    pub(crate) fn cut(&mut self) {
        let Some(live) = self.live.take() else { return };
        self.there.cut(live.there);
        if let Some(here) = live.here {
            self.here.cut(here);
        }
    }

    /// Kills one broker, which also ends the bridge.
    pub(crate) fn crash(&mut self, side: Side) {
        self.cut();
        let world = self.world(side);
        let dead = std::mem::replace(world, World::new(1));
        *world = dead.crash(2).0;
    }

    /// Gives one broker an empty store, as if it had been set up anew.
    pub(crate) fn reset(&mut self, side: Side) {
        self.cut();
        *self.world(side) = World::new(2);
    }

    /// How many QoS 2 messages of clients a broker has taken that were not released.
    pub(crate) fn identifiers_taken(&mut self, side: Side) -> usize {
        let mut count = 0;
        let mut see = |record| count += usize::from(matches!(record, Record::Received { .. }));
        self.world(side).store.replay(&mut see).unwrap();
        count
    }

    /// Lets a client subscribe to everything with a session that lasts, and leave.
    pub(crate) fn listen(&mut self, side: Side) {
        let world = self.world(side);
        let (conn, _) = world.join("listener", false, u32::MAX);
        world.subscribe(conn, "#", QoS::ExactlyOnce);
        world.cut(conn);
    }

    /// Publishes with a client of its own, and carries a QoS 2 exchange through.
    pub(crate) fn publish(&mut self, side: Side, topic: &str, payload: &str, qos: QoS) {
        let world = self.world(side);
        let (conn, _) = world.join("publisher", true, 0);
        world.publish(conn, topic, payload, qos, u16::from(qos != QoS::AtMostOnce));
        if qos == QoS::ExactlyOnce {
            world.ack(conn, Packet::PubRel, 1);
        }
        world.cut(conn);
    }

    /// Takes everything that waits for the listener, as `topic payload`, and acknowledges it.
    pub(crate) fn heard(&mut self, side: Side) -> Vec<String> {
        let world = self.world(side);
        let conn = world.connect(&connect_v5("listener", false, u32::MAX));
        let mut heard = Vec::new();
        loop {
            let bytes = world.bytes(conn);
            if bytes.is_empty() {
                world.cut(conn);
                return heard;
            }
            let mut rest = bytes.as_slice();
            while let Some((frame, used)) = next_frame(rest, usize::MAX).unwrap() {
                answer(world, conn, &Packet::decode(frame, ProtocolVersion::V5).unwrap(), &mut heard);
                rest = &rest[used..];
            }
        }
    }
}

fn answer(world: &mut World, conn: Conn, packet: &Packet<'_>, heard: &mut Vec<String>) {
    match packet {
        Packet::Publish(publish) => {
            let topic = publish.topic.unwrap().as_str();
            let retain = if publish.retain { " retained" } else { "" };
            heard.push(format!("{topic} {}{retain}", String::from_utf8_lossy(publish.payload)));
            let answer = |id| Acknowledgement::new(id, ReasonCode::Success);
            match (publish.qos, publish.packet_id) {
                (QoS::AtLeastOnce, Some(id)) => world.send(conn, &Packet::PubAck(answer(id))),
                (QoS::ExactlyOnce, Some(id)) => world.send(conn, &Packet::PubRec(answer(id))),
                (_, _) => {}
            }
        }
        Packet::PubRel(release) => {
            world.send(conn, &Packet::PubComp(Acknowledgement::new(release.packet_id, ReasonCode::Success)));
        }
        _ => {}
    }
}
