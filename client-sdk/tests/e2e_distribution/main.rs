//! Keys come to members through a broker that is not trusted, whether or not anyone is there at the time (VEIL-1 sections 8.3, 9).
#![allow(clippy::unwrap_used, reason = "test code")]

mod adversary;
mod barred;
mod joining;
mod last_epoch;
mod model;
mod pairs;
mod retention;
mod revocation;
mod sessions;
mod vectors;
mod world;

use veilmq_client::e2e::{
    Authentication, EpochTiming, OpenError, StateError,
    distribution::{Admission, IssuePolicy, IssuedState, KeyEvent, Rotation},
};
use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Roles,
        distribution::{KeyHead, KeyHeadFlags, RevocationReason},
    },
};
use world::{Broker, DAY, Party, SCOPE, SECOND, START, TOPIC, crl, crl_topic, entropy, identity, scope};

fn admit(issuer: &mut Party, member: &Party) {
    assert_eq!(issuer.keys.admit(&scope(), member.certificate(), START, &mut entropy()), Ok(true));
}

#[test]
fn a_member_that_was_admitted_reads_although_it_never_met_the_publisher() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let mut lake = Party::subscriber("lake");
    admit(&mut press, &lake);
    press.visit(&mut broker, START);
    let retained = press.seal(START);
    let following = press.seal(START + DAY);

    let events = lake.visit(&mut broker, START + DAY);

    let (issuer, scope) = (press.kid(), SCOPE.to_owned());
    assert_eq!(events, [KeyEvent::Installed { scope, issuer, epoch: 1 }]);
    assert!(lake.reads(&retained, START + DAY));
    assert!(lake.reads(&following, START + DAY));
}

#[test]
fn a_member_whose_certificate_names_the_scope_is_let_in_by_its_prekey() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let mut lake = Party::subscriber("lake");
    let mut other = Party::joining(identity("other", Roles::SUBSCRIBER, &["office/#"]));
    press.visit(&mut broker, START);
    lake.visit(&mut broker, START);
    other.visit(&mut broker, START);

    press.visit(&mut broker, START + 5 * SECOND);
    lake.visit(&mut broker, START + 6 * SECOND);
    other.visit(&mut broker, START + 6 * SECOND);

    assert_eq!(press.keys.members(&scope()).unwrap(), [lake.certificate()]);
    let message = press.seal(START + 7 * SECOND);
    assert!(lake.reads(&message, START + 7 * SECOND));
    assert_eq!(other.open(&message, START + 7 * SECOND).unwrap_err(), OpenError::NoKey { epoch: 1 });
}

#[test]
fn nobody_is_let_in_unless_named_where_the_policy_says_so() {
    let mut broker = Broker::default();
    let policy = IssuePolicy { admission: Admission::Named, ..IssuePolicy::default() };
    let mut press = Party::publisher("press", policy);
    let mut lake = Party::subscriber("lake");
    lake.visit(&mut broker, START);

    press.visit(&mut broker, START);
    assert_eq!(press.keys.members(&scope()).unwrap(), []);

    admit(&mut press, &lake);
    assert_eq!(press.keys.members(&scope()).unwrap(), [lake.certificate()]);
}

#[test]
fn a_removed_member_reads_nothing_after_the_epoch_change_and_the_others_go_on() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let (mut lake, mut hill) = (Party::subscriber("lake"), Party::subscriber("hill"));
    for member in [&lake, &hill] {
        admit(&mut press, member);
    }
    press.visit(&mut broker, START);
    lake.visit(&mut broker, START);
    hill.visit(&mut broker, START);

    assert_eq!(press.keys.remove(&scope(), hill.kid(), Rotation::Removal, &mut entropy()), Ok(true));
    let removed = START + 10 * SECOND;
    press.visit(&mut broker, removed);
    let before = press.seal(removed + 4_999);
    let after = press.seal(removed + 5_000);
    lake.visit(&mut broker, removed);
    let refusals = hill.visit(&mut broker, removed);

    assert!(matches!(&*refusals, [KeyEvent::HeadRefused { .. }]), "{refusals:?}");
    for (message, hill_reads) in [(before, true), (after, false)] {
        assert!(lake.reads(&message, removed + 5_000));
        assert_eq!(hill.reads(&message, removed + 5_000), hill_reads);
    }
    // Not even by showing its certificate again.
    broker.retained.retain(|topic, _| !topic.ends_with(&hill.kid().to_string()));
    hill.restarted(Party::joining).visit(&mut broker, removed + DAY);
    press.visit(&mut broker, removed + DAY);
    assert_eq!(press.keys.members(&scope()).unwrap(), [lake.certificate()]);
}

#[test]
fn a_member_removed_while_an_epoch_is_announced_does_not_get_the_one_that_follows() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let (mut lake, mut hill) = (Party::subscriber("lake"), Party::subscriber("hill"));
    for member in [&lake, &hill] {
        admit(&mut press, member);
    }
    press.visit(&mut broker, START);
    press.keys.rotate(&scope(), Rotation::Ordinary, &mut entropy()).unwrap();
    press.visit(&mut broker, START + SECOND);
    hill.visit(&mut broker, START + 2 * SECOND);
    assert_eq!(
        press.keys.issued(&scope(), START + SECOND),
        [(1, IssuedState::Sending), (2, IssuedState::Announced)]
    );

    press.keys.remove(&scope(), hill.kid(), Rotation::Removal, &mut entropy()).unwrap();
    press.visit(&mut broker, START + 3 * SECOND);
    lake.visit(&mut broker, START + 3 * SECOND);
    hill.visit(&mut broker, START + 3 * SECOND);

    // Epoch 2, which the removed member knows, is never used.
    for (at, readable) in
        [(START + 4 * SECOND, true), (START + 8 * SECOND, false), (START + 90 * SECOND, false)]
    {
        let message = press.seal(at);
        assert!(lake.reads(&message, at), "{at}");
        assert_eq!(hill.reads(&message, at), readable, "{at}");
    }
}

#[test]
fn rotation_goes_through_its_states_on_both_sides() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let mut lake = Party::subscriber("lake");
    admit(&mut press, &lake);
    press.visit(&mut broker, START);
    lake.visit(&mut broker, START);
    let old = press.seal(START);

    let lead = START + DAY - 60 * SECOND;
    press.visit(&mut broker, lead - 1);
    assert_eq!(press.keys.issued(&scope(), lead - 1), [(1, IssuedState::Sending)]);
    press.visit(&mut broker, lead);
    assert_eq!(press.keys.issued(&scope(), lead), [(1, IssuedState::Sending), (2, IssuedState::Announced)]);
    lake.visit(&mut broker, lead);
    press.visit(&mut broker, START + DAY);
    assert_eq!(press.keys.issued(&scope(), START + DAY), [(2, IssuedState::Sending)]);

    let new = press.seal(START + DAY);
    assert!(lake.reads(&new, START + DAY));
    let window_end = START + DAY + 600 * SECOND;
    assert!(lake.reads(&old, window_end - 1));
    let again = press.seal(START + DAY);
    assert!(lake.reads(&again, window_end));
    let mut late = Party::subscriber("lake");
    late.visit(&mut broker, window_end);
    assert_eq!(late.open(&old, window_end).unwrap_err(), OpenError::NoKey { epoch: 1 });
}

#[test]
fn after_a_compromise_the_earlier_epoch_is_gone_at_once() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let mut lake = Party::subscriber("lake");
    admit(&mut press, &lake);
    press.visit(&mut broker, START);
    lake.visit(&mut broker, START);
    let sealed_before = press.seal(START);

    press.keys.rotate(&scope(), Rotation::Compromise, &mut entropy()).unwrap();
    press.visit(&mut broker, START + SECOND);
    let (_, head) = broker.only("_veil/1/kp/");
    assert!(KeyHead::parse(&head).unwrap().0.flags.contains(KeyHeadFlags::NO_TRANSITION));
    lake.visit(&mut broker, START + SECOND);

    let active = START + 6 * SECOND;
    assert_eq!(lake.open(&sealed_before, active).unwrap_err(), OpenError::EpochDropped { epoch: 1 });
    let message = press.seal(active);
    assert!(lake.reads(&message, active));
}

#[test]
fn a_prekey_that_was_erased_opens_nothing_and_the_wrap_was_made_for_it() {
    let mut broker = Broker::default();
    let policy = IssuePolicy { allow_static_wrap: false, ..IssuePolicy::default() };
    let mut press = Party::publisher("press", policy);
    let mut lake = Party::subscriber("lake");
    lake.visit(&mut broker, START);
    press.visit(&mut broker, START);
    let head = broker.only("_veil/1/kp/");

    // The thief has the long-term keys, but not the prekey.
    let mut thief = Party::joining(lake.identity.clone());
    let events = thief.hear(&head, START);
    assert!(matches!(&*events, [KeyEvent::HeadRefused { .. }]), "{events:?}");

    // Nor does the member itself, once the prekey was replaced and its time is over.
    for day in [7, 8] {
        lake.keys.advance(&mut lake.e2e, START + day * DAY, &mut entropy());
    }
    let mut later = Party::joining(lake.identity.clone());
    later.keys.import(&mut later.e2e, &lake.keys.export(&lake.e2e), &mut entropy()).unwrap();
    let events = later.hear(&head, START + 8 * DAY);
    assert!(matches!(&*events, [KeyEvent::HeadRefused { .. }]), "{events:?}");
}

#[test]
fn above_64_members_each_wrap_has_a_topic_of_its_own_in_any_order() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let mut members: Vec<Party> = (0..65).map(|n| Party::subscriber(&format!("member-{n}"))).collect();
    for member in &members {
        admit(&mut press, member);
    }
    press.visit(&mut broker, START);
    let message = press.seal(START);

    let wraps: Vec<_> = broker.retained.iter().filter(|(topic, _)| topic.contains("/w/")).collect();
    assert_eq!(wraps.len(), 65);
    assert!(wraps.iter().all(|(_, payload)| payload.len() == 98));
    for (index, member) in members.iter_mut().enumerate() {
        let own = member.kid().to_string();
        let mut halves: Vec<(String, Vec<u8>)> = broker
            .retained
            .iter()
            .filter(|(topic, _)| topic.starts_with("_veil/1/kp/"))
            .filter(|(topic, _)| !topic.contains("/w/") || topic.ends_with(&own))
            .map(|(topic, payload)| (topic.clone(), payload.clone()))
            .collect();
        assert_eq!(halves.len(), 2);
        if index % 2 == 1 {
            halves.reverse();
        }
        for half in &halves {
            member.hear(half, START);
        }
        assert!(member.reads(&message, START), "member {index}");
    }

    // One that is removed has its wrap cleared, and 64 fit into one message again.
    press.keys.remove(&scope(), members[0].kid(), Rotation::Removal, &mut entropy()).unwrap();
    press.visit(&mut broker, START + 2 * SECOND);
    assert!(!broker.retained.keys().any(|topic| topic.ends_with(&members[0].kid().to_string())));
    members[1].visit(&mut broker, START + 2 * SECOND);
    let message = press.seal(START + 10 * SECOND);
    assert!(members[1].reads(&message, START + 10 * SECOND));
    assert!(!members[0].reads(&message, START + 10 * SECOND));
}

#[test]
fn revoking_a_certificate_takes_its_holder_out_everywhere() {
    for (reason, old_epoch_gone) in
        [(RevocationReason::KeyCompromise, true), (RevocationReason::CessationOfOperation, false)]
    {
        let mut broker = Broker::default();
        let mut press = Party::publisher("press", IssuePolicy::default());
        let (mut lake, hill) = (Party::subscriber("lake"), Party::subscriber("hill"));
        for member in [&lake, &hill] {
            admit(&mut press, member);
        }
        press.visit(&mut broker, START);
        lake.visit(&mut broker, START);
        let sealed_before = press.seal(START);

        broker.retained.insert(crl_topic(), crl(1, &[&hill.identity], reason).as_bytes().to_vec());
        press.visit(&mut broker, START + SECOND);
        lake.visit(&mut broker, START + SECOND);

        assert_eq!(press.keys.members(&scope()).unwrap(), [lake.certificate()]);
        let active = START + 6 * SECOND;
        let message = press.seal(active);
        assert!(lake.reads(&message, active));
        assert_eq!(lake.reads(&sealed_before, active), !old_epoch_gone, "{reason:?}");

        // An older list, put back by the broker, brings nobody back.
        broker.retained.insert(crl_topic(), crl(0, &[], reason).as_bytes().to_vec());
        press.visit(&mut broker, active);
        assert!(press.keys.admit(&scope(), hill.certificate(), active, &mut entropy()).is_err());
    }
}

#[test]
fn a_revoked_publisher_is_believed_no_longer() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let mut lake = Party::subscriber("lake");
    admit(&mut press, &lake);
    press.visit(&mut broker, START);
    lake.visit(&mut broker, START);
    let list = crl(1, &[&press.identity], RevocationReason::KeyCompromise);

    lake.hear(&(crl_topic(), list.as_bytes().to_vec()), START);

    let message = press.seal(START);
    assert_eq!(lake.open(&message, START).unwrap_err(), OpenError::SenderRevoked(press.kid()));
    press.keys.rotate(&scope(), Rotation::Ordinary, &mut entropy()).unwrap();
    press.visit(&mut broker, START + SECOND);
    let refused = lake.hear(&broker.only("_veil/1/kp/"), START + SECOND);
    assert!(matches!(&*refused, [KeyEvent::HeadRefused { .. }]), "{refused:?}");
}

#[test]
fn a_key_authority_serves_several_publishers_that_know_each_other_by_their_prekeys() {
    let mut broker = Broker::default();
    let mut authority =
        Party::issuing(identity("authority", Roles::KEY_AUTHORITY, &[SCOPE]), IssuePolicy::default());
    let both = Roles::PUBLISHER | Roles::SUBSCRIBER;
    let mut press = Party::joining(identity("press", both, &[SCOPE]));
    let mut oven = Party::joining(identity("oven", both, &[SCOPE]));
    for party in [&mut press, &mut oven, &mut authority] {
        party.visit(&mut broker, START);
    }
    for party in [&mut press, &mut oven] {
        party.visit(&mut broker, START);
    }

    let message = press.seal(START);
    assert_eq!(oven.open(&message, START).unwrap_err(), OpenError::UnknownSender(press.kid()));
    assert!(oven.keys.want_certificate(press.kid()));
    oven.visit(&mut broker, START);

    assert!(oven.reads(&message, START));
    let answer = oven.seal(START);
    press.keys.want_certificate(oven.kid());
    press.visit(&mut broker, START);
    assert!(press.reads(&answer, START));
}

#[test]
fn members_demand_signatures_where_the_issuer_says_so() {
    let mut broker = Broker::default();
    let policy = IssuePolicy { signed_only: true, ..IssuePolicy::default() };
    let mut press = Party::publisher("press", policy);
    let mut lake = Party::subscriber("lake");
    admit(&mut press, &lake);
    press.visit(&mut broker, START);
    lake.visit(&mut broker, START);

    let message = press.seal(START);

    assert_eq!(lake.open(&message, START).unwrap().authentication(), Authentication::Signed);
}

#[test]
fn both_sides_go_on_after_a_restart_from_what_they_saved() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let mut lake = Party::subscriber("lake");
    lake.visit(&mut broker, START);
    press.visit(&mut broker, START);
    lake.visit(&mut broker, START);

    let mut press = press.restarted(|identity| Party::issuing(identity, IssuePolicy::default()));
    let mut lake = lake.restarted(Party::joining);

    // Without anything from the broker.
    let message = press.seal(START + SECOND);
    assert!(lake.reads(&message, START + SECOND));
    assert_eq!(press.keys.members(&scope()).unwrap(), [lake.certificate()]);
    let saved = lake.keys.export(&lake.e2e);
    for len in 0..saved.len() {
        let mut again = Party::joining(lake.identity.clone());
        assert!(again.keys.import(&mut again.e2e, &saved[..len], &mut entropy()).is_err(), "{len} bytes");
    }
    let mut other = Party::subscriber("hill");
    let refused = other.keys.import(&mut other.e2e, &saved, &mut entropy());
    assert!(matches!(refused, Err(StateError::Impossible(_))), "the state of another identity");
}

#[test]
fn the_state_of_another_version_is_one_error_that_names_it() {
    let party = Party::subscriber("lake");
    let saved = party.keys.export(&party.e2e);

    for version in (0..=u8::MAX).filter(|version| *version != saved[4]) {
        let mut foreign = saved.to_vec();
        foreign[4] = version;
        let mut again = Party::subscriber("lake");
        let refused = again.keys.import(&mut again.e2e, &foreign, &mut entropy());

        assert_eq!(refused, Err(StateError::Version(version)));
    }
}

#[test]
fn an_issuer_restored_from_an_older_copy_issues_anew_and_is_believed() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let mut lake = Party::subscriber("lake");
    admit(&mut press, &lake);
    press.visit(&mut broker, START);
    let copy = press.keys.export(&press.e2e);
    for n in 1..=3 {
        press.keys.rotate(&scope(), Rotation::Ordinary, &mut entropy()).unwrap();
        press.visit(&mut broker, START + n * 100 * SECOND);
    }
    lake.visit(&mut broker, START + 400 * SECOND);

    let mut restored = Party::issuing(press.identity.clone(), IssuePolicy::default());
    restored.keys.import(&mut restored.e2e, &copy, &mut entropy()).unwrap();
    let events = restored.visit(&mut broker, START + 500 * SECOND);

    assert!(events.contains(&KeyEvent::Overtaken { scope: SCOPE.to_owned(), epoch: 4 }), "{events:?}");
    let events = lake.visit(&mut broker, START + 500 * SECOND);
    let installed = KeyEvent::Installed { scope: SCOPE.to_owned(), issuer: press.kid(), epoch: 5 };
    assert_eq!(events, [installed]);
    let message = restored.seal(START + 505 * SECOND);
    assert!(lake.reads(&message, START + 505 * SECOND));
}

#[test]
fn heads_are_issued_again_in_time_and_an_old_one_is_noticed() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let lake = Party::subscriber("lake");
    admit(&mut press, &lake);
    press.visit(&mut broker, START);
    let first = broker.only("_veil/1/kp/").1;
    press.visit(&mut broker, START + DAY / 2 - 1);
    assert_eq!(broker.only("_veil/1/kp/").1, first);

    press.visit(&mut broker, START + DAY / 2);
    let again = broker.only("_veil/1/kp/").1;

    assert!(KeyHead::parse(&again).unwrap().0.flags.contains(KeyHeadFlags::REISSUE));
    let is_stale = |now| {
        let events = Party::joining(lake.identity.clone())
            .visit(&mut Broker { retained: broker.retained.clone(), ..Broker::default() }, now);
        events.iter().any(|event| matches!(event, KeyEvent::StaleHead { .. }))
    };
    assert!(!is_stale(START + DAY / 2 + DAY));
    assert!(is_stale(START + DAY / 2 + DAY + 1));
}

#[test]
fn a_broker_that_withholds_what_issuers_and_authorities_say_is_noticed_by_those_who_know_the_last() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let mut lake = Party::subscriber("lake");
    admit(&mut press, &lake);
    press.visit(&mut broker, START);
    lake.visit(&mut broker, START);
    let issuer = press.kid();
    let stale = || KeyEvent::StaleHead { scope: SCOPE.to_owned(), issuer };

    let head = broker.only("_veil/1/kp/");
    assert_eq!(lake.keys.stale_due(), START + DAY + 1);
    assert_eq!(lake.hear(&head, START + DAY), []);
    assert_eq!(lake.hear(&head, START + DAY + 1), [stale()], "the broker shows it once more");
    assert_eq!(lake.hear(&head, START + DAY + 2), [], "once is enough");

    let mut lake = lake.restarted(Party::joining);
    lake.keys.advance(&mut lake.e2e, START + DAY, &mut entropy());
    lake.keys.tell_stale(START + 2 * DAY);
    assert_eq!(lake.keys.take_events(), [stale()], "the broker shows nothing");
    assert_eq!(lake.keys.stale_due(), u64::MAX);

    press.visit(&mut broker, START + 2 * DAY);
    lake.visit(&mut broker, START + 2 * DAY);
    lake.keys.tell_stale(START + 2 * DAY);
    assert_eq!(lake.keys.take_events(), [], "there is a newer one");
}

#[test]
fn nobody_is_looked_for_because_of_what_no_member_has_sealed() {
    let mut broker = Broker::default();
    let mut authority =
        Party::issuing(identity("authority", Roles::KEY_AUTHORITY, &[SCOPE]), IssuePolicy::default());
    let both = Roles::PUBLISHER | Roles::SUBSCRIBER;
    let mut press = Party::joining(identity("press", both, &[SCOPE]));
    let mut oven = Party::joining(identity("oven", both, &[SCOPE]));
    for party in [&mut press, &mut oven, &mut authority] {
        party.visit(&mut broker, START);
    }
    for party in [&mut press, &mut oven] {
        party.visit(&mut broker, START);
    }
    let message = press.seal(START);
    let mut forged = message.clone();
    forged[13] ^= 1;

    assert_eq!(oven.open(&forged, START).unwrap_err(), OpenError::BadTag, "of a sender that is nobody");
    assert_eq!(oven.open(&message, START).unwrap_err(), OpenError::UnknownSender(press.kid()));
}

/// Keys of an hour, kept for ten minutes after it.
fn hourly() -> IssuePolicy {
    let timing = EpochTiming { history_ms: 600 * SECOND, ..EpochTiming::default() };
    IssuePolicy { rotate_every_ms: 3_600 * SECOND, outage_ms: 0, timing, ..IssuePolicy::default() }
}

#[test]
fn a_member_that_began_without_keys_knows_when_to_erase_those_that_have_come_and_that_it_has() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", hourly());
    press.visit(&mut broker, START);
    let mut lake = Party::subscriber("lake");
    assert_eq!(lake.e2e.erasure_due(), None);
    lake.visit(&mut broker, START + SECOND);
    press.visit(&mut broker, START + 2 * SECOND);
    lake.visit(&mut broker, START + 3 * SECOND);
    lake.keys.advance(&mut lake.e2e, START + 3 * SECOND, &mut entropy());

    let due = lake.e2e.erasure_due().expect("it has a key");

    lake.e2e.advance(due - 1);
    assert!(!lake.e2e.take_erased());
    lake.e2e.advance(due);
    assert!(lake.e2e.take_erased());
    assert_eq!((lake.e2e.erasure_due(), lake.e2e.take_erased()), (None, false));
}

#[test]
fn a_key_that_came_beside_a_newer_one_is_not_kept_longer_than_that() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", hourly());
    press.visit(&mut broker, START);
    let retained = press.seal(START);
    press.keys.rotate(&scope(), Rotation::Ordinary, &mut entropy()).unwrap();
    press.visit(&mut broker, START + SECOND);
    let mut lake = Party::subscriber("lake");
    lake.visit(&mut broker, START + SECOND);
    press.visit(&mut broker, START + 2 * SECOND);
    lake.visit(&mut broker, START + 3 * SECOND);
    let mut reads = |now| {
        lake.keys.advance(&mut lake.e2e, now, &mut entropy());
        let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
        lake.e2e.open(topic, &retained, true, &none, now).map(|opened| opened.plaintext)
    };

    assert_eq!(reads(START + 3_600 * SECOND), Ok(b"21.5".to_vec()));
    assert_eq!(reads(START + 3 * 3_600 * SECOND), Err(OpenError::EpochDropped { epoch: 1 }));
}
