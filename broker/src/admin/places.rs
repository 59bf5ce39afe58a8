//! The few places of the admin listener: who has one, and who gives way when all are taken.
//!
//! Somebody new is always let in, since it may be the probe that decides whether this broker is killed. Whoever has waited longest
//! without a request under way gives way; only when all have one, who asked first.
//! Invariant: there are never more visitors than places.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The places, and their visitors by number.
#[derive(Clone)]
pub(super) struct Places {
    max: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    /// Counts what happens, so that what was longer ago has the lower number.
    moments: u64,
    visitors: HashMap<u64, State>,
}

struct State {
    is_asking: bool,
    since: u64,
    gives_way: Arc<Notify>,
}

/// Somebody who has a place, or had one.
pub(super) struct Visitor {
    number: u64,
    places: Places,
    gives_way: Arc<Notify>,
}

/// A request under way.
pub(super) struct Asking<'a>(&'a Visitor);

impl Places {
    pub(super) fn new(max: usize) -> Self {
        Self { max, taken: Arc::default() }
    }

    /// Gives somebody a place, if need be that of another one.
    pub(super) fn take(&self) -> Visitor {
        let mut taken = self.lock();
        if taken.visitors.len() >= self.max {
            taken.dismiss_one();
        }
        let number = taken.moment();
        let gives_way = Arc::<Notify>::default();
        let state = State { is_asking: false, since: number, gives_way: Arc::clone(&gives_way) };
        taken.visitors.insert(number, state);
        Visitor { number, places: self.clone(), gives_way }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    fn dismiss_one(&mut self) {
        let first = self.visitors.iter().min_by_key(|(_, state)| (state.is_asking, state.since));
        let number = first.map(|(number, _)| *number);
        if let Some(state) = number.and_then(|number| self.visitors.remove(&number)) {
            state.gives_way.notify_one();
        }
    }
}

impl Visitor {
    /// Waits until somebody else has the place.
    pub(super) async fn lost_place(&self) {
        self.gives_way.notified().await;
    }

    /// Has a request, until what is returned is dropped.
    pub(super) fn asks(&self) -> Asking<'_> {
        self.change(true);
        Asking(self)
    }

    fn change(&self, is_asking: bool) {
        let mut taken = self.places.lock();
        let since = taken.moment();
        if let Some(state) = taken.visitors.get_mut(&self.number) {
            (state.is_asking, state.since) = (is_asking, since);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.change(false);
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.places.lock().visitors.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_place(visitor: &Visitor) -> bool {
        visitor.places.lock().visitors.contains_key(&visitor.number)
    }

    #[test]
    fn who_has_waited_longest_without_a_request_gives_way_and_then_who_asked_first() {
        let places = Places::new(2);
        let (first, second) = (places.take(), places.take());
        let asking = first.asks();

        let third = places.take();
        assert_eq!([&first, &second, &third].map(has_place), [true, false, true]);
        let also_asking = third.asks();
        let fourth = places.take();
        assert_eq!([&first, &third, &fourth].map(has_place), [false, true, true]);

        drop((asking, also_asking));
        let fifth = places.take();
        assert_eq!([&third, &fourth, &fifth].map(has_place), [true, false, true]);
        drop(third);
        let sixth = places.take();
        assert_eq!([&fifth, &sixth].map(has_place), [true, true]);
    }
}
