//! What the broker says over the channel, and of it in CONNACK: limits, group keys, notices, goodbye (VEIL-1 sections 4.4 and 5.4).

use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use veilmq_client::session::{DeliveryError, SubmitError};
use veilmq_protocol::Disconnect;

use super::{
    driver::{Peer, builder},
    sdk_support::publication,
    *,
};

/// Connects to a broker that says this.
fn told(params: ServerFinishParams, suite: Suite, scheme: Scheme) -> (Rig, Server) {
    let mut rig = Rig::new(options(suite, scheme));
    let broker = identity(20, Roles::BROKER, "broker-a");
    let server = handshake_with(&mut rig, &broker, params, |_| {}).unwrap();
    (rig, server)
}

fn grant(outer_tag: bool) -> Vec<u8> {
    let sealer = GroupSealer::new(1, 1, Suite::Aes256Gcm, outer_tag, Secret32::new(&[5; 32]));
    let mut content = Vec::new();
    sealer.grant(60_000, b"factory/t").encode_content(&mut content).unwrap();
    content
}

#[test]
fn no_record_exceeds_the_limit_that_connack_states() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Two, Scheme::Four] {
            let params = ServerFinishParams { record_bytes_max: Some(600), ..ServerFinishParams::default() };
            let (mut rig, mut server) = told(params, suite, scheme);
            assert!(matches!(rig.poll(), Some(Event::Connected { .. })));

            for len in 1..=40 {
                rig.session.publish(publication(&"x".repeat(len), QoS::AtMostOnce)).unwrap();
            }
            let mut sent = rig.sent();
            let mut count = 0;
            while !sent.is_empty() {
                let record = server.opener.next(&mut sent, 600).unwrap().unwrap();
                sent.drain(..record.consumed);
                count += 1;
            }
            assert!(count > 1, "several records were needed");

            let large = publication(&"x".repeat(600), QoS::AtMostOnce);
            let refused = rig.session.publish(large);
            assert!(matches!(refused, Err(SubmitError::Delivery(DeliveryError::TooLarge { .. }))));
        }
    }
}

#[test]
fn group_keys_that_come_with_connack_open_messages() {
    let params = ServerFinishParams { group_grants: vec![grant(true)], ..ServerFinishParams::default() };
    let (mut rig, mut server) = told(params, Suite::Aes256Gcm, Scheme::Four);
    assert!(matches!(rig.poll(), Some(Event::Connected { .. })));
    let mut sealer = GroupSealer::new(1, 1, Suite::Aes256Gcm, true, Secret32::new(&[5; 32]));
    let body = SharedBody { stamp: None, topic: b"factory/t", properties: b"", payload: b"21.5" };
    let mut bytes = Vec::new();
    let (fan, tag) = sealer.authenticate(body, UNIX_MS, &mut bytes).unwrap();
    let mut record = Vec::new();
    let outer = server.sealer.fan_group(&mut record, &[0, 0, 0], &fan).unwrap().unwrap();
    record.extend_from_slice(&bytes);
    record.extend_from_slice(b"21.5");
    record.extend_from_slice(&tag);
    record.extend_from_slice(outer.as_ref());

    rig.session.receive(&record);

    assert!(matches!(rig.poll(), Some(Event::Message { message, .. }) if &message.payload[..] == b"21.5"));
}

#[test]
fn a_group_key_in_connack_that_alone_authenticates_is_not_put_up_with() {
    let params = ServerFinishParams { group_grants: vec![grant(false)], ..ServerFinishParams::default() };

    let (mut rig, _) = told(params, Suite::Aes256Gcm, Scheme::Four);

    assert!(matches!(rig.poll(), Some(Event::Closed(CloseReason::WeakGroup))));
}

#[tokio::test]
async fn a_client_shows_notices_and_comes_back_when_the_broker_says() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = builder(listener.local_addr().unwrap().port()).resume(false).connect();
    let (client, (mut peer, mut server)) = tokio::join!(connecting, Peer::accept(&listener));
    let client = client.unwrap();
    let mut notices = client.watch_notice();

    let mut record = Vec::new();
    server.sealer.control(&mut record, &ControlOp::Notice("epoch too old on factory/#")).unwrap();
    peer.send(&record).await;
    notices.changed().await.unwrap();
    assert_eq!(notices.borrow().as_deref(), Some("epoch too old on factory/#"));

    let mut record = Vec::new();
    let reason = ReasonCode::ServerShuttingDown.value();
    server.sealer.control(&mut record, &ControlOp::Goodbye { reason, retry_after_ms: 1_500 }).unwrap();
    let farewell = seal(&mut server, &[Packet::Disconnect(Disconnect::new(ReasonCode::ServerShuttingDown))]);
    record.extend_from_slice(&farewell);
    let before = Instant::now();
    peer.send(&record).await;
    Peer::accept(&listener).await;

    let pause = before.elapsed();
    assert!(pause >= Duration::from_millis(1_500), "{pause:?}");
}
