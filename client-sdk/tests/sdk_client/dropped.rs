//! Subscriptions that the application drops: what it has not read of them is not acknowledged, and not lost.

use std::time::Duration;

use tokio::time::timeout;
use veilmq_client::{Client, Subscription};
use veilmq_protocol::ConnAck;

use crate::{Broker, LIMIT, Peer, TAKEN, message, sdk_support::resumed, takes_what_waited_once};

/// A client with two messages, at QoS 1 and at QoS 2, in a subscription that nobody has read.
async fn unread(broker: &Broker) -> (Client, Peer, Subscription) {
    let (client, mut peer) = broker.connected(broker.client()).await;
    let messages = peer.grant(&client, "t").await;
    peer.send_what_waited(false).await;
    // Its answer comes behind them, so both have come then.
    let (ended, ()) = tokio::join!(client.unsubscribe("none"), peer.end_subscription());
    assert_eq!(ended, Ok(()));
    (client, peer, messages)
}

/// The next two messages are those that nobody had read, and the broker hears of them now.
async fn takes_what_was_left(messages: &mut Subscription, peer: &mut Peer) {
    for (text, answer) in [&b"one"[..], b"two"].into_iter().zip(TAKEN) {
        assert_eq!(&message(messages).await.payload[..], text);
        assert_eq!(peer.take().await, answer);
    }
}

#[tokio::test]
async fn what_is_left_in_a_dropped_subscription_waits_for_the_next_one() {
    let broker = Broker::start().await;
    let (client, mut peer, messages) = unread(&broker).await;

    drop(messages);
    peer.says_nothing().await;

    let mut again = peer.grant(&client, "+").await;
    takes_what_was_left(&mut again, &mut peer).await;
}

#[tokio::test]
async fn what_is_left_in_a_dropped_subscription_goes_to_another_that_matches() {
    let broker = Broker::start().await;
    let (client, mut peer, messages) = unread(&broker).await;
    let mut other = peer.grant(&client, "#").await;
    peer.says_nothing().await;

    drop(messages);

    takes_what_was_left(&mut other, &mut peer).await;
}

#[tokio::test]
async fn a_message_that_one_of_two_subscriptions_has_read_does_not_come_again() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;
    let messages = peer.grant(&client, "t").await;
    let mut other = peer.grant(&client, "#").await;
    peer.send_what_waited(false).await;
    assert_eq!(&message(&mut other).await.payload[..], b"one");
    assert_eq!(&message(&mut other).await.payload[..], b"two");
    peer.says_nothing().await;

    drop(messages);

    assert_eq!([peer.take().await, peer.take().await], TAKEN);
    assert!(timeout(Duration::from_millis(30), other.next()).await.is_err());
}

#[tokio::test]
async fn a_program_that_ends_acknowledges_nothing_that_it_has_not_read() {
    let broker = Broker::start().await;
    let (client, mut peer, messages) = unread(&broker).await;

    drop(messages);
    drop(client);

    assert_eq!(peer.take().await, b"\xe0\x00", "DISCONNECT");
    assert!(peer.take_or_end().await.is_none());
}

#[tokio::test]
async fn what_was_left_comes_once_over_a_lost_connection_and_a_lost_session() {
    for (connack, comes_again) in [(resumed(), true), (ConnAck::default(), false)] {
        let broker = Broker::start().await;
        let (client, mut peer, messages) = unread(&broker).await;
        drop(messages);
        peer.says_nothing().await;

        drop(peer);
        let mut peer = broker.accept(&connack).await;
        if comes_again {
            peer.send_what_waited(true).await;
            peer.says_nothing().await;
        } else {
            assert_eq!(peer.take().await[0], 0x82, "SUBSCRIBE again");
        }
        let mut again = peer.grant(&client, "t").await;

        takes_what_waited_once(&mut again, &mut peer, comes_again).await;
    }
}

#[tokio::test]
async fn what_was_left_is_acknowledged_once_the_application_wants_none_of_it() {
    let broker = Broker::start().await;
    let (_client, mut peer, messages) = unread(&broker).await;
    let (ended, ()) = tokio::join!(messages.unsubscribe(), peer.end_subscription());
    assert_eq!(ended, Ok(()));
    assert_eq!([peer.take().await, peer.take().await], TAKEN);

    let (client, mut peer, messages) = unread(&broker).await;
    drop(messages);
    let (ended, ()) = tokio::join!(client.unsubscribe("t"), peer.end_subscription());
    assert_eq!(ended, Ok(()));
    assert_eq!([peer.take().await, peer.take().await], TAKEN);

    let (client, mut peer, messages) = unread(&broker).await;
    drop(messages);
    assert_eq!(client.decline_unclaimed().await, Ok(2));
    assert_eq!([peer.take().await, peer.take().await], TAKEN);
}

#[tokio::test]
async fn a_dropped_subscription_is_cancelled_with_the_next_message_for_it() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;
    drop(peer.grant(&client, "t").await);

    peer.send_what_waited(false).await;
    peer.end_subscription().await;

    // Nobody could have read them, and nobody will.
    assert_eq!([peer.take().await, peer.take().await], TAKEN);
}

#[tokio::test]
async fn what_comes_while_a_subscription_is_cancelled_is_for_one_that_is_made_meanwhile() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;
    drop(peer.grant(&client, "t").await);
    peer.send_what_waited(false).await;
    assert_eq!(peer.take().await[0], 0xA2, "UNSUBSCRIBE");
    peer.says_nothing().await;

    let mut again = timeout(LIMIT, peer.grant(&client, "t")).await.unwrap();

    takes_what_was_left(&mut again, &mut peer).await;
}
