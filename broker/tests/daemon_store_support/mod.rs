//! Fills stores for `veilmq store`.
#![allow(clippy::unwrap_used, dead_code, reason = "test code, of which each test program uses a part")]

use std::path::Path;
use std::sync::Arc;

use veilmq_config::StorageConfig;
use veilmq_core::{
    Expiry, Message, MessageId, MessageParts, Moment, Record, Reference, SessionId, SessionRecord, Stage,
    Store, SubscriptionRecord, WillRecord,
};
use veilmq_protocol::{PacketId, QoS, RetainHandling, SubscribeOptions};

use crate::daemon_command::veilmq;

/// Exports to standard output.
pub(crate) fn export(data: &Path) -> Vec<u8> {
    let output = veilmq(data, &["store", "export"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn open(data: &Path) -> Box<dyn Store> {
    veilmq::store::open(data, &StorageConfig::default(), 2).unwrap().0
}

fn session(number: u64, client_id: &str, will: Option<WillRecord>) -> Record {
    Record::Session(SessionRecord {
        session: SessionId(number),
        client_id: client_id.into(),
        authenticated: false,
        user: None,
        expiry_seconds: u32::MAX,
        disconnected_at: Some(Moment::from_milliseconds(1_700_000_000_000)),
        will,
        last_identifier: 0,
    })
}

fn subscribed(session: u64, filter: &str) -> Record {
    let options = SubscribeOptions {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let subscription = SubscriptionRecord { options, subscription_id: Some(7) };
    Record::Subscribed { session: SessionId(session), filter: filter.into(), subscription }
}

fn message(id: u64, topic: &str, payload: &[u8], expiry: Option<Expiry>) -> Arc<Message> {
    let parts = MessageParts {
        id: Some(MessageId(id)),
        publisher: None,
        source: None,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic,
        // Payload Format Indicator: UTF-8.
        application_properties: &[0x01, 0x01],
        payload,
        expiry,
    };
    Message::new(&parts, 0)
}

fn reference(session: u64, stage: Stage) -> Reference {
    Reference {
        session: SessionId(session),
        qos: QoS::AtLeastOnce,
        retain: false,
        subscription_ids: vec![7],
        share: None,
        stage,
    }
}

/// Stores one of everything. Session 9 is gone, and had a message as a member of a group that `alpha` belongs to.
pub(crate) fn fill(data: &Path) {
    let will = WillRecord {
        topic: "wills/beta".into(),
        payload: b"gone".to_vec(),
        application_properties: vec![],
        message_expiry_seconds: Some(60),
        qos: QoS::AtLeastOnce,
        retain: true,
        delay_seconds: 4_000_000_000,
    };
    let packet_id = |number| PacketId::new(number).unwrap();
    let share = "$share/group/s/#";
    let of_group = Reference { share: Some(share.into()), ..reference(9, Stage::Queued) };
    let far = Expiry { at: Moment::from_milliseconds(9_000_000_000_000), interval_seconds: u32::MAX };
    let records = [
        session(1, "alpha", None),
        session(2, "bêta", Some(will)),
        subscribed(1, "a/#"),
        subscribed(1, share),
        subscribed(2, "b/+"),
        Record::Published {
            message: message(10, "a/1", b"queued for alpha", None),
            references: vec![reference(1, Stage::Queued)],
        },
        Record::Published {
            message: message(11, "s/1", b"for a member", Some(far)),
            references: vec![of_group],
        },
        Record::Published {
            message: message(12, "b/1", &[0; 10_000], None),
            references: vec![
                Reference { qos: QoS::ExactlyOnce, ..reference(2, Stage::Released(packet_id(3))) },
                Reference { subscription_ids: vec![], ..reference(1, Stage::Published(packet_id(1))) },
            ],
        },
        Record::Received { session: SessionId(1), packet_id: packet_id(5) },
        Record::Retained { message: message(13, "r/1", b"kept", None) },
    ];
    open(data).commit(&records).unwrap();
}

/// Stores and removes a lot, so that little of what is on disk is needed.
pub(crate) fn churn(data: &Path) {
    fill(data);
    let mut store = open(data);
    for round in 1..=40 {
        let ids = round * 100..round * 100 + 60;
        let published = ids.clone().map(|id| Record::Published {
            message: message(id, "a/churn", &[id as u8; 3_000], None),
            references: vec![reference(1, Stage::Queued)],
        });
        store.commit(&published.collect::<Vec<_>>()).unwrap();
        let kept = ids.start;
        let settled = ids.filter(|id| *id != kept).flat_map(|id| {
            let message = MessageId(id);
            [Record::Settled { session: SessionId(1), message }, Record::Forgotten { message }]
        });
        store.commit(&settled.collect::<Vec<_>>()).unwrap();
    }
}
