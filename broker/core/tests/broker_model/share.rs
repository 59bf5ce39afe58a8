//! Shared Subscriptions of the model: one copy of a message for each group, somewhere in the group.
//!
//! Which of several equally good members has a copy shows when it is sent, or when it is not sent although it could be. Until
//! then the copy has a place in the session of each of them. Invariant: exactly one place of a copy is the real one.

use std::collections::BTreeMap;

use super::session::Delivery;

/// A place where the copy of a group may be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// The filter as subscribed, which names the group.
    pub(super) group: String,
    copy: u64,
    number: u64,
}

/// How well a member can take a message, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// At once.
    Ready,
    /// When the client has acknowledged something.
    Busy,
    /// When the client connects.
    Away,
    /// Not at all.
    Unreachable,
}

/// The copies of all groups, and the places where each may be.
#[derive(Default)]
pub(super) struct Copies {
    places: BTreeMap<u64, Vec<u64>>,
    last: u64,
}

impl Copies {
    /// Makes a copy for a group, and one place for each of the members that may have been chosen.
    pub(super) fn add(&mut self, group: &str, members: usize) -> Vec<Place> {
        self.last += 1;
        self.places.insert(self.last, Vec::new());
        self.add_places(group, self.last, members)
    }

    fn add_places(&mut self, group: &str, copy: u64, members: usize) -> Vec<Place> {
        let numbers = self.last + 1..=self.last + members as u64;
        self.last += members as u64;
        self.places.get_mut(&copy).unwrap().extend(numbers.clone());
        numbers.map(|number| Place { group: group.to_owned(), copy, number }).collect()
    }

    /// The session with this place is gone: if the copy was there, one of `members` others has it now, or nobody.
    pub(super) fn pass_on(&mut self, place: &Place, members: usize) -> Vec<Place> {
        if members == 0 {
            // It is lost if it was here. Nobody has the place 0.
            self.places.get_mut(&place.copy).unwrap().push(0);
        }
        let places = self.add_places(&place.group, place.copy, members);
        self.is_not_at(place);
        places
    }

    /// A session is gone with its deliveries: if a copy was there it is lost.
    pub(super) fn lose(&mut self, delivery: &Delivery) {
        if let Some(place) = delivery.place.as_ref().filter(|_| self.is_possible(delivery)) {
            self.pass_on(place, 0);
        }
    }

    /// Tells whether the session has this delivery, for all that is known.
    pub(super) fn is_possible(&self, delivery: &Delivery) -> bool {
        delivery.place.as_ref().is_none_or(|place| self.places[&place.copy].contains(&place.number))
    }

    /// Tells whether the session must have this delivery.
    pub(super) fn is_certain(&self, delivery: &Delivery) -> bool {
        delivery.place.as_ref().is_none_or(|place| self.places[&place.copy] == [place.number])
    }

    /// The session has this delivery.
    pub(super) fn is_at(&mut self, place: &Place) {
        self.places.insert(place.copy, vec![place.number]);
    }

    /// The session does not have this delivery.
    pub(super) fn is_not_at(&mut self, place: &Place) {
        self.places.get_mut(&place.copy).unwrap().retain(|number| *number != place.number);
    }
}

/// Returns what a Shared Subscription's filter matches; None for an ordinary filter.
pub(super) fn shared_filter(filter: &str) -> Option<&str> {
    filter.strip_prefix("$share/")?.split_once('/').map(|(_, shared)| shared)
}
