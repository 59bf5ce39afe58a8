//! What an operator sees of sessions and retained messages, and how a client goes that an operator wants gone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use veilmq_core::{Input, SessionQuery};
use veilmq_protocol::{QoS, TopicFilter};
use veilmq_simulator::World;

fn page(after: Option<&str>, limit: usize) -> SessionQuery {
    SessionQuery { after: after.map(str::to_owned), limit, ..SessionQuery::default() }
}

#[test]
fn a_page_has_the_first_sessions_behind_the_one_before() {
    let mut world = World::new(1);
    for name in ["d", "b", "e", "a", "c"] {
        world.join(name, true, 60);
    }
    let names = |world: &World, query: &SessionQuery| {
        let sessions = world.shard(0).sessions(query);
        sessions.iter().map(|session| session.client_id.to_string()).collect::<Vec<_>>()
    };

    assert_eq!(names(&world, &page(None, 2)), ["a", "b"]);
    assert_eq!(names(&world, &page(Some("b"), 2)), ["c", "d"]);
    assert_eq!(names(&world, &page(Some("d"), 2)), ["e"]);
    assert_eq!(names(&world, &page(Some("e"), 2)), [""; 0]);
}

#[test]
fn a_session_shows_what_waits_for_it_and_whether_it_is_connected() {
    let mut world = World::new(1);
    let (sleeper, _) = world.join("sleeper", true, 60);
    world.subscribe(sleeper, "news/#", QoS::AtLeastOnce);
    world.cut(sleeper);
    let (publisher, _) = world.join("publisher", true, 0);
    world.publish(publisher, "news/1", "payload", QoS::AtLeastOnce, 1);

    let shown = world.shard(0).session("sleeper", 10).unwrap();

    assert!(shown.summary.connection.is_none() && shown.summary.durable);
    assert_eq!((shown.summary.queued_messages, shown.summary.subscriptions), (1, 1));
    assert_eq!(&*shown.subscriptions[0].0, "news/#");
    assert!(world.shard(0).session("publisher", 10).unwrap().summary.connection.is_some());
    assert!(world.shard(0).session("nobody", 10).is_none());
}

#[test]
fn a_dismissed_client_may_come_back_to_its_session_unless_that_was_to_end_too() {
    let mut world = World::new(1);
    let (guest, _) = world.join("guest", true, 60);

    world.turn(0, Input::Dismissed { client_id: "guest", ends_session: false });

    assert!(world.is_closed(guest));
    assert_eq!(world.received(guest), ["DISCONNECT 0x98"]);
    let (_, session_present) = world.join("guest", false, 60);
    assert!(session_present);

    world.turn(0, Input::Dismissed { client_id: "guest", ends_session: true });

    assert!(world.shard(0).session("guest", 1).is_none());
}

#[test]
fn retained_messages_are_visited_in_parts_in_the_order_of_their_topics() {
    let mut world = World::new(1);
    let (publisher, _) = world.join("publisher", true, 0);
    for topic in ["a/1", "b/1", "a/2", "c"] {
        world.retain(publisher, topic, "12345");
    }
    let shared = &world.shared;
    let filter = TopicFilter::new("a/#").unwrap();

    let first = shared.retained_part(Some(filter), None, 3, world.now());
    let rest = shared.retained_part(Some(filter), first.next.as_deref(), 3, world.now());

    let topics: Vec<&str> = first.messages.iter().map(|message| &*message.topic).collect();
    assert_eq!((topics, first.next.as_deref()), (vec!["a/1", "a/2"], Some("b/1")));
    assert_eq!(first.messages[0].payload_bytes, 5);
    assert!(rest.messages.is_empty() && rest.next.is_none());
}
