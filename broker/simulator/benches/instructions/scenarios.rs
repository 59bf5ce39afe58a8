//! The rows of the table: which clients do what.
//!
//! Payloads have 100 bytes; clients speak MQTT 3.1.1 where nothing else is said. Sixteen packets come with one read, about as
//! many as a busy connection has when its turn comes.

use veilmq_protocol::veil::registry::Suite;
use veilmq_protocol::{
    Acknowledgement, Connect, ConnectProperties, Packet, Publish, PublishProperties, QoS, ReasonCode,
    TopicName, UserPropertiesBuf,
};
use veilmq_simulator::{connect_v5, connect_v311, id, publish};

use crate::Load;
use crate::load::Client;
use crate::sealed::Realm;

/// A row of the table.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// By how many the instructions are divided.
    pub(crate) messages: u64,
    pub(crate) prepare: fn() -> Load,
}

const MESSAGES: u16 = 3_200;
const PER_READ: u16 = 16;
/// Messages that a subscriber has not acknowledged yet.
const IN_FLIGHT: u16 = 100;
const SUBSCRIBERS: u16 = 100;
/// Of a Shared Subscription, or subscribers of retained messages.
const MEMBERS: u16 = 10;
const FILTERS: u32 = 10_000;
const TOPIC: &str = "plant/line/7/pressure";

pub(crate) const SCENARIOS: &[Scenario] = &[
    // One publisher, one subscriber, QoS 0.
    Scenario { name: "qos_0", messages: MESSAGES as u64, prepare: || unassured(PER_READ) },
    // The same, each PUBLISH in a read and a turn of its own.
    Scenario { name: "qos_0_single", messages: MESSAGES as u64, prepare: || unassured(1) },
    // The same in MQTT 5, with properties, and a Topic Alias towards the subscriber.
    Scenario { name: "qos_0_properties", messages: MESSAGES as u64, prepare: properties },
    // QoS 1: PUBLISH, PUBACK both ways, with 100 messages in flight.
    Scenario { name: "qos_1", messages: MESSAGES as u64, prepare: || at_least_once(true) },
    // The same to a session that is stored.
    Scenario { name: "qos_1_stored", messages: MESSAGES as u64, prepare: || at_least_once(false) },
    // QoS 2: all four packets both ways.
    Scenario { name: "qos_2", messages: MESSAGES as u64, prepare: exactly_once },
    // One publisher, 100 subscribers, QoS 0.
    Scenario { name: "fan_out", messages: MESSAGES as u64, prepare: || fan_out(QoS::AtMostOnce) },
    // The same at QoS 1.
    Scenario { name: "fan_out_qos_1", messages: MESSAGES as u64, prepare: || fan_out(QoS::AtLeastOnce) },
    // One publisher on TCP, 100 subscribers on the VEIL-1 channel, QoS 0, payloads of 256 bytes: a FAN-D record for each.
    Scenario {
        name: "fan_out_cbc_hmac",
        messages: MESSAGES as u64,
        prepare: || sealed_fan_out(Suite::Aes256CbcHmacSha256),
    },
    Scenario { name: "fan_out_gcm", messages: MESSAGES as u64, prepare: || sealed_fan_out(Suite::Aes256Gcm) },
    Scenario {
        name: "fan_out_chacha",
        messages: MESSAGES as u64,
        prepare: || sealed_fan_out(Suite::ChaCha20Poly1305),
    },
    // 100 publishers in turn, one subscriber, QoS 0.
    Scenario { name: "fan_in", messages: MESSAGES as u64, prepare: fan_in },
    // One publisher, one subscriber whose session is on another shard, QoS 0.
    Scenario { name: "other_shard", messages: MESSAGES as u64, prepare: other_shard },
    // One publisher, ten clients that share a subscription, QoS 1.
    Scenario { name: "shared_qos_1", messages: MESSAGES as u64, prepare: shared },
    // Ten subscriptions with a wildcard, to 320 retained messages each.
    Scenario { name: "retained", messages: MESSAGES as u64, prepare: retained },
    // 10,000 filters with wildcards, 100 topics again and again.
    Scenario { name: "wildcards_known", messages: MESSAGES as u64, prepare: || wildcards(100) },
    // The same, each topic for the first time.
    Scenario { name: "wildcards_new", messages: MESSAGES as u64, prepare: || wildcards(u32::from(MESSAGES)) },
    // PINGREQ on one of 1,000 connections, in a turn of its own.
    Scenario { name: "ping", messages: 1_000, prepare: ping },
];

fn payload() -> String {
    "x".repeat(100)
}

fn join(load: &mut Load, name: &str) -> Client {
    load.connect(&connect_v311(name, true))
}

fn acknowledgement(packet_id: u16) -> Acknowledgement<'static> {
    Acknowledgement::new(id(packet_id), ReasonCode::Success)
}

/// Lets a client send as many packets as there are messages, `per_read` at a time.
fn send_all<'a>(load: &mut Load, client: Client, per_read: u16, packet: impl Fn(u16) -> Packet<'a>) {
    let numbers: Vec<u16> = (1..=MESSAGES).collect();
    for chunk in numbers.chunks(usize::from(per_read)) {
        let packets: Vec<Packet<'_>> = chunk.iter().map(|number| packet(*number)).collect();
        load.send(client, &packets);
    }
}

fn unassured(per_read: u16) -> Load {
    let mut load = Load::new(u64::from(MESSAGES));
    let (publisher, subscriber) = (join(&mut load, "publisher"), join(&mut load, "subscriber"));
    load.subscribe(subscriber, TOPIC, QoS::AtMostOnce);

    let payload = payload();
    send_all(&mut load, publisher, per_read, |_| {
        Packet::Publish(publish(TOPIC, &payload, QoS::AtMostOnce, 0))
    });
    load
}

fn properties() -> Load {
    let mut load = Load::new(u64::from(MESSAGES));
    let properties = ConnectProperties { topic_alias_maximum: 10, ..ConnectProperties::default() };
    let publisher = load.connect(&connect_v5("publisher", true, 0));
    let subscriber = load.connect(&Connect { properties, ..connect_v5("subscriber", true, 0) });
    load.subscribe(subscriber, TOPIC, QoS::AtMostOnce);

    let payload = payload();
    let mut user = UserPropertiesBuf::new();
    user.push("unit", "hPa").unwrap();
    let properties = PublishProperties {
        message_expiry_seconds: Some(60),
        content_type: Some("text/plain"),
        response_topic: Some(TopicName::new("plant/answers").unwrap()),
        user: user.as_user_properties(),
        ..PublishProperties::default()
    };
    send_all(&mut load, publisher, PER_READ, |_| {
        Packet::Publish(Publish { properties, ..publish(TOPIC, &payload, QoS::AtMostOnce, 0) })
    });
    load
}

fn at_least_once(clean_session: bool) -> Load {
    let mut load = Load::new(u64::from(MESSAGES));
    let publisher = join(&mut load, "publisher");
    let subscriber = load.connect(&connect_v311("subscriber", clean_session));
    load.subscribe(subscriber, TOPIC, QoS::AtLeastOnce);

    let payload = payload();
    let publish = |number| Packet::Publish(publish(TOPIC, &payload, QoS::AtLeastOnce, number));
    pipeline(&mut load, publisher, subscriber, publish, &[|number| Packet::PubAck(acknowledgement(number))]);
    load
}

fn exactly_once() -> Load {
    let mut load = Load::new(u64::from(MESSAGES));
    let (publisher, subscriber) = (join(&mut load, "publisher"), join(&mut load, "subscriber"));
    load.subscribe(subscriber, TOPIC, QoS::ExactlyOnce);

    let payload = payload();
    let publish = |number| Packet::Publish(publish(TOPIC, &payload, QoS::ExactlyOnce, number));
    let answers: [fn(u16) -> Packet<'static>; 2] =
        [|number| Packet::PubRec(acknowledgement(number)), |number| Packet::PubComp(acknowledgement(number))];
    pipeline(&mut load, publisher, subscriber, publish, &answers);
    load
}

/// Lets a subscriber answer what came a full window ago, a read for each kind of answer. The broker gives out identifiers in
/// turn, so those of publisher and subscriber are the same.
fn pipeline<'a>(
    load: &mut Load,
    publisher: Client,
    subscriber: Client,
    publish: impl Fn(u16) -> Packet<'a>,
    answers: &[fn(u16) -> Packet<'static>],
) {
    let numbers: Vec<u16> = (1..=MESSAGES).collect();
    let chunks: Vec<&[u16]> = numbers.chunks(usize::from(PER_READ)).collect();
    let behind = usize::from(IN_FLIGHT / PER_READ);
    for turn in 0..chunks.len() + behind {
        if let Some(chunk) = chunks.get(turn) {
            let packets: Vec<Packet<'_>> = chunk.iter().map(|number| publish(*number)).collect();
            load.send(publisher, &packets);
            if answers.len() > 1 {
                let releases: Vec<_> =
                    chunk.iter().map(|number| Packet::PubRel(acknowledgement(*number))).collect();
                load.send(publisher, &releases);
            }
        }
        if let Some(chunk) = turn.checked_sub(behind).and_then(|turn| chunks.get(turn)) {
            for answer in answers {
                let packets: Vec<Packet<'_>> = chunk.iter().map(|number| answer(*number)).collect();
                load.send(subscriber, &packets);
            }
        }
    }
}

fn fan_out(qos: QoS) -> Load {
    let mut load = Load::new(u64::from(MESSAGES));
    let publisher = join(&mut load, "publisher");
    let subscribers: Vec<Client> =
        (0..SUBSCRIBERS).map(|number| join(&mut load, &format!("subscriber-{number}"))).collect();
    for subscriber in &subscribers {
        load.subscribe(*subscriber, TOPIC, qos);
    }

    let payload = payload();
    for number in 1..=MESSAGES / SUBSCRIBERS {
        load.send(publisher, &[Packet::Publish(publish(TOPIC, &payload, qos, number * qos as u16))]);
        for subscriber in subscribers.iter().filter(|_| qos != QoS::AtMostOnce) {
            load.send(*subscriber, &[Packet::PubAck(acknowledgement(number))]);
        }
    }
    load
}

fn sealed_fan_out(suite: Suite) -> Load {
    let mut realm = Realm::new(u64::from(MESSAGES));
    for number in 0..SUBSCRIBERS {
        let mut subscriber = realm.join(&format!("subscriber-{number}"), suite);
        realm.subscribe(&mut subscriber, TOPIC, QoS::AtMostOnce);
    }
    let mut load = realm.load;
    let publisher = join(&mut load, "publisher");
    let payload = "x".repeat(256);
    for _ in 0..MESSAGES / SUBSCRIBERS {
        load.send(publisher, &[Packet::Publish(publish(TOPIC, &payload, QoS::AtMostOnce, 0))]);
    }
    load
}

fn fan_in() -> Load {
    let mut load = Load::new(u64::from(MESSAGES));
    let subscriber = join(&mut load, "subscriber");
    load.subscribe(subscriber, "plant/#", QoS::AtMostOnce);
    let publishers: Vec<Client> =
        (0..SUBSCRIBERS).map(|number| join(&mut load, &format!("publisher-{number}"))).collect();

    let payload = payload();
    for _ in 0..MESSAGES / SUBSCRIBERS {
        for publisher in &publishers {
            load.send(*publisher, &[Packet::Publish(publish(TOPIC, &payload, QoS::AtMostOnce, 0))]);
        }
    }
    load
}

fn other_shard() -> Load {
    let mut load = Load::with_shards(2, u64::from(MESSAGES));
    let publisher = join(&mut load, "publisher");
    let mut subscribers = (0..).map(|number| format!("subscriber-{number}"));
    let subscriber = loop {
        let subscriber = join(&mut load, &subscribers.next().unwrap());
        if load.shard_of(subscriber) != load.shard_of(publisher) {
            break subscriber;
        }
    };
    load.subscribe(subscriber, TOPIC, QoS::AtMostOnce);

    let payload = payload();
    send_all(&mut load, publisher, PER_READ, |_| {
        Packet::Publish(publish(TOPIC, &payload, QoS::AtMostOnce, 0))
    });
    load
}

/// Every member acknowledges what it got of the messages before.
fn shared() -> Load {
    let mut load = Load::new(u64::from(MESSAGES));
    let publisher = join(&mut load, "publisher");
    let members: Vec<Client> =
        (0..MEMBERS).map(|number| join(&mut load, &format!("member-{number}"))).collect();
    for member in &members {
        load.subscribe(*member, "$share/group/plant/#", QoS::AtLeastOnce);
    }

    let payload = payload();
    let per_turn = IN_FLIGHT;
    for turn in 0..MESSAGES / per_turn {
        let numbers: Vec<u16> = (turn * per_turn + 1..=(turn + 1) * per_turn).collect();
        for chunk in numbers.chunks(usize::from(PER_READ)) {
            let packets: Vec<Packet<'_>> = chunk
                .iter()
                .map(|number| Packet::Publish(publish(TOPIC, &payload, QoS::AtLeastOnce, *number)))
                .collect();
            load.send(publisher, &packets);
        }
        // Members take turns, so that each has got as many as the others.
        let per_member = per_turn / MEMBERS;
        for member in &members {
            let packets: Vec<Packet<'_>> = (turn * per_member + 1..=(turn + 1) * per_member)
                .map(|number| Packet::PubAck(acknowledgement(number)))
                .collect();
            load.send(*member, &packets);
        }
    }
    load
}

fn retained() -> Load {
    let mut load = Load::new(u64::from(MESSAGES));
    let publisher = join(&mut load, "publisher");
    let payload = payload();
    for number in 0..MESSAGES / MEMBERS {
        let topic = format!("plant/line/{number}/pressure");
        let retained = Publish { retain: true, ..publish(&topic, &payload, QoS::AtMostOnce, 0) };
        load.send_now(publisher, &[Packet::Publish(retained)]);
    }
    for number in 0..MEMBERS {
        let subscriber = join(&mut load, &format!("subscriber-{number}"));
        load.subscribe_later(subscriber, "plant/line/+/pressure", QoS::AtMostOnce);
    }
    load
}

fn wildcards(topics: u32) -> Load {
    let mut load = Load::new(u64::from(MESSAGES));
    let publisher = join(&mut load, "publisher");
    let subscribers: Vec<Client> =
        (0..SUBSCRIBERS).map(|number| join(&mut load, &format!("subscriber-{number}"))).collect();
    for number in 0..FILTERS {
        let subscriber = subscribers[number as usize % subscribers.len()];
        load.subscribe(subscriber, &format!("site/{number}/+/pressure"), QoS::AtMostOnce);
    }

    let payload = payload();
    let topics: Vec<String> = (0..topics).map(|number| format!("site/{number}/line/pressure")).collect();
    let mut rounds = topics.iter().cycle();
    for _ in 0..MESSAGES / PER_READ {
        let packets: Vec<Packet<'_>> = (0..PER_READ)
            .map(|_| Packet::Publish(publish(rounds.next().unwrap(), &payload, QoS::AtMostOnce, 0)))
            .collect();
        load.send(publisher, &packets);
    }
    load
}

fn ping() -> Load {
    let mut load = Load::new(0);
    let clients: Vec<Client> =
        (0..1_000).map(|number| join(&mut load, &format!("client-{number}"))).collect();
    for client in clients {
        load.send(client, &[Packet::PingReq]);
    }
    load
}
