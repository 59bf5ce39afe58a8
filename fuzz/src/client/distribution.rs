//! A publisher that gives out keys, a member that it may take out, a stranger, and a broker between them that the script plays: it
//! keeps back, repeats, mixes up, cuts and changes what it carries.

use std::collections::BTreeMap;
use std::sync::Arc;

use veilmq_client::Identity;
use veilmq_client::e2e::Saved;
use veilmq_client::e2e::distribution::{Admission, IssuePolicy, Outgoing, Rotation};
use veilmq_protocol::{PublishProperties, TopicName};

use super::world::{Party, SECOND, START, TOPIC, entropy, scope};

const STEPS_MAX: usize = 96;
/// How much the broker remembers.
const CARRIED_MAX: usize = 64;
/// More than any lead of a new key and less than the time for which the old one is accepted.
const SETTLED: u64 = 61 * SECOND;

/// Plays a script of pairs: what happens, and a number that says more of it.
pub fn client_distribution(script: &[u8]) {
    let mut stage = Stage::new();
    for pair in script.chunks_exact(2).take(STEPS_MAX) {
        if let &[deed, number] = pair {
            stage.play(deed, usize::from(number));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Press,
    Lake,
    Stranger,
}

struct Stage {
    press: Party,
    lake: Party,
    stranger: Party,
    now: u64,
    /// What was published, whether the broker passes it on or not.
    carried: Vec<(String, Vec<u8>)>,
    /// Which of it comes next, unless the script says otherwise.
    chosen: usize,
    /// What was sealed, and whether the lake may read it and has read it.
    sealed: BTreeMap<Vec<u8>, Sealed>,
    is_lake_out: bool,
    /// Since when the press has had the chance to tell of it; the keys of before may be in use until they have changed.
    told_out: Option<u64>,
}

#[derive(Clone, Copy, Default)]
struct Sealed {
    is_for_lake: bool,
    is_read: bool,
}

impl Stage {
    fn new() -> Self {
        let mut stage = Self {
            press: Party::publisher("press", policy()),
            lake: Party::subscriber("lake"),
            stranger: Party::subscriber("stranger"),
            now: START,
            carried: Vec::new(),
            chosen: 0,
            sealed: BTreeMap::new(),
            is_lake_out: false,
            told_out: None,
        };
        stage.admit();
        stage
    }

    fn play(&mut self, deed: u8, number: usize) {
        match deed & 15 {
            0 => self.speak(Who::Press),
            1 => self.speak(Who::Lake),
            2 => self.speak(Who::Stranger),
            3 => self.seal(number),
            4 => self.rotate(),
            5 => self.remove(),
            6 => self.admit(),
            7 => self.now += number as u64 * SECOND,
            8 => self.restart(number),
            9 => self.carry(number, listener(deed), |_| {}),
            10 => self.carry(self.chosen, listener(deed), |payload| payload.truncate(number)),
            11 => self.carry(self.chosen, listener(deed), |payload| {
                if let Some(byte) = payload.get_mut(number) {
                    *byte ^= 1 << (deed >> 5);
                }
            }),
            12 => self.splice(number, listener(deed)),
            13 => self.carry_all(listener(deed)),
            14 => self.chosen = number,
            _ => self.carry(self.chosen, listener(deed), |payload| payload.extend_from_slice(&[deed; 3])),
        }
    }

    fn party(&mut self, who: Who) -> &mut Party {
        match who {
            Who::Press => &mut self.press,
            Who::Lake => &mut self.lake,
            Who::Stranger => &mut self.stranger,
        }
    }

    /// Has someone connect and publish what is due.
    fn speak(&mut self, who: Who) {
        let now = self.now;
        if who == Who::Press && self.is_lake_out {
            self.told_out.get_or_insert(now);
        }
        let party = self.party(who);
        party.keys.connected();
        party.keys.advance(&mut party.e2e, now, &mut entropy());
        party.keys.all_is_heard();
        let outgoing = party.keys.outgoing(now, &mut entropy());
        party.keys.announced(&mut party.e2e);
        party.keys.take_events();
        for Outgoing { topic, payload, .. } in outgoing {
            TopicName::new(&topic).expect("a Topic Name");
            self.remember(topic, payload);
        }
    }

    fn remember(&mut self, topic: String, payload: Vec<u8>) {
        if self.carried.len() == CARRIED_MAX {
            self.carried.remove(0);
        }
        self.carried.push((topic, payload));
    }

    fn seal(&mut self, number: usize) {
        let plaintext = format!("{} of {number}", self.sealed.len()).into_bytes();
        let (topic, none) = (TopicName::new(TOPIC).expect("a Topic Name"), PublishProperties::default());
        let Party { e2e, .. } = &mut self.press;
        if let Ok(payload) = e2e.seal(topic, &plaintext, &none, self.now, &mut entropy()) {
            let is_for_lake = self.told_out.is_none_or(|since| self.now < since + SETTLED);
            self.sealed.insert(plaintext, Sealed { is_for_lake, is_read: false });
            self.remember(TOPIC.to_owned(), payload);
        }
    }

    fn rotate(&mut self) {
        // Not while the last change is still to be announced.
        let _ = self.press.keys.rotate(&scope(), Rotation::Ordinary, &mut entropy());
    }

    fn remove(&mut self) {
        let lake = self.lake.kid();
        self.is_lake_out |= self.press.keys.remove(&scope(), lake, Rotation::Removal, &mut entropy()).is_ok();
    }

    fn admit(&mut self) {
        if self.press.keys.admit(&scope(), self.lake.certificate(), self.now, &mut entropy()).is_ok() {
            (self.is_lake_out, self.told_out) = (false, None);
        }
    }

    fn restart(&mut self, number: usize) {
        let now = self.now;
        match number % 3 {
            0 => start_again(&mut self.press, |identity| Party::issuing(identity, policy()), now),
            1 => start_again(&mut self.lake, Party::joining, now),
            _ => start_again(&mut self.stranger, Party::joining, now),
        }
    }

    fn carry(&mut self, number: usize, who: Who, change: impl FnOnce(&mut Vec<u8>)) {
        let Some((topic, mut payload)) = self.carried.get(number % CARRIED_MAX).cloned() else { return };
        change(&mut payload);
        self.deliver(&topic, &payload, who);
    }

    fn carry_all(&mut self, who: Who) {
        for number in 0..self.carried.len() {
            self.carry(number, who, |_| {});
        }
    }

    /// Gives what was published on one topic as if it had been on another.
    fn splice(&mut self, number: usize, who: Who) {
        let (Some((topic, _)), Some((_, payload))) =
            (self.carried.get(self.chosen).cloned(), self.carried.get(number).cloned())
        else {
            return;
        };
        self.deliver(&topic, &payload, who);
    }

    fn deliver(&mut self, topic: &str, payload: &[u8], who: Who) {
        let now = self.now;
        let party = self.party(who);
        if topic != TOPIC {
            party.keys.handle(&mut party.e2e, topic, payload, now, &mut entropy());
            party.keys.take_events();
            return;
        }
        let topic = TopicName::new(topic).expect("a Topic Name");
        let Ok(opened) = party.e2e.open(topic, payload, false, &PublishProperties::default(), now) else {
            return;
        };
        // Nobody needs to have sealed that there is nothing (any more).
        if payload.is_empty() {
            return;
        }
        let sealed = self.sealed.get_mut(&opened.plaintext).expect("only what was sealed opens");
        match who {
            Who::Press => {}
            Who::Lake => {
                assert!(sealed.is_for_lake, "who was taken out reads nothing under the new key");
                assert!(!std::mem::replace(&mut sealed.is_read, true), "a message is delivered once");
            }
            Who::Stranger => panic!("a stranger reads nothing"),
        }
    }
}

fn policy() -> IssuePolicy {
    IssuePolicy { admission: Admission::Named, join_secrecy: true, ..IssuePolicy::default() }
}

fn listener(deed: u8) -> Who {
    match deed >> 4 & 3 {
        0 | 1 => Who::Lake,
        2 => Who::Press,
        _ => Who::Stranger,
    }
}

/// Starts a program again from what it has saved.
fn start_again(party: &mut Party, again: impl FnOnce(Arc<Identity>) -> Party, now: u64) {
    let received = party.e2e.export_state(Saved::AtShutdown);
    let identity = Arc::clone(&party.identity);
    let ended = std::mem::replace(party, Party::joining(identity));
    *party = ended.restarted(again);
    party.e2e.import_state(&received, now, false).expect("what was saved");
}
