//! Random lives of a scope against a plain model: who may read a message is decided by the roster alone.

use std::collections::BTreeSet;

use proptest::prelude::*;
use veilmq_client::e2e::distribution::{IssuePolicy, Rotation};

use crate::world::{Broker, Party, SECOND, START, entropy, scope};

const MEMBERS: usize = 3;
/// More than any lead, less than the transition window.
const SETTLED: u64 = 61 * SECOND;

#[derive(Clone, Debug)]
enum Step {
    Admit(usize),
    Remove(usize),
    Rotate,
    Wait(u64),
    RestartIssuer,
    RestartMember(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..MEMBERS).prop_map(Step::Admit),
        (0..MEMBERS).prop_map(Step::Remove),
        Just(Step::Rotate),
        (0..200_000_u64).prop_map(Step::Wait),
        Just(Step::RestartIssuer),
        (0..MEMBERS).prop_map(Step::RestartMember),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Members on the roster read everything; a member that was taken out reads nothing once the epoch has changed.
    #[test]
    fn exactly_the_members_read(steps in prop::collection::vec(step(), 1..14), join_secrecy: bool) {
        let policy = || IssuePolicy {
            join_secrecy,
            admission: veilmq_client::e2e::distribution::Admission::Named,
            ..IssuePolicy::default()
        };
        let mut broker = Broker::default();
        let mut press = Party::publisher("press", policy());
        let mut members: Vec<Party> = (0..MEMBERS).map(|n| Party::subscriber(&format!("m{n}"))).collect();
        let mut roster = BTreeSet::new();
        let mut now = START;
        for step in steps {
            match step {
                Step::Admit(n) => {
                    press.keys.admit(&scope(), members[n].certificate(), now, &mut entropy()).unwrap();
                    roster.insert(n);
                }
                Step::Remove(n) => {
                    press.keys.remove(&scope(), members[n].kid(), Rotation::Removal, &mut entropy()).unwrap();
                    roster.remove(&n);
                }
                Step::Rotate => {
                    press.keys.rotate(&scope(), Rotation::Ordinary, &mut entropy()).unwrap();
                }
                Step::Wait(ms) => now += ms,
                Step::RestartIssuer => press = press.restarted(|identity| Party::issuing(identity, policy())),
                Step::RestartMember(n) => {
                    let member = members.remove(n);
                    members.insert(n, member.restarted(Party::joining));
                }
            }
            now += 2 * SECOND;
            press.visit(&mut broker, now);
            for member in &mut members {
                member.visit(&mut broker, now);
            }
            if !join_secrecy {
                let message = press.seal(now);
                for n in &roster {
                    prop_assert!(members[*n].reads(&message, now), "member {n} at once");
                }
            }
            now += SETTLED;
            press.visit(&mut broker, now);
            for member in &mut members {
                member.visit(&mut broker, now);
            }
            let message = press.seal(now);
            for (n, member) in members.iter_mut().enumerate() {
                prop_assert_eq!(member.reads(&message, now), roster.contains(&n), "member {}", n);
            }
        }
    }
}
