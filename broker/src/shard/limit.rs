//! How many Network Connections there may be at one time, over all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::gate::AddressPlace;
use super::meter::Meter;

/// The number of connections that may be open, shared by all shards.
#[derive(Clone, Debug)]
pub struct ConnectionLimit(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    maximum: AtomicUsize,
    open: AtomicUsize,
}

/// The right to have one connection; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    counted: Arc<Counted>,
    /// Few connections have it for long.
    more: Option<Box<More>>,
}

/// What goes with a right, and is given back with it or before.
#[derive(Debug, Default)]
struct More {
    /// The right that a listener gives.
    listener: Option<Permit>,
    /// The right to be not established yet.
    opening: Option<Permit>,
    /// The right that an address has.
    address: Option<AddressPlace>,
    /// The right that an address has to be not established yet.
    opening_address: Option<AddressPlace>,
    meter: Option<Meter>,
}

impl ConnectionLimit {
    /// Allows `maximum` connections at one time.
    pub fn new(maximum: usize) -> Self {
        Self(Arc::new(Counted { maximum: AtomicUsize::new(maximum), open: AtomicUsize::new(0) }))
    }

    /// Allows another number from now on; connections that are open stay.
    pub fn allow(&self, maximum: usize) {
        self.0.maximum.store(maximum, Ordering::Relaxed);
    }

    /// Tells whether there may be one more.
    pub(super) fn has_room(&self) -> bool {
        self.0.open.load(Ordering::Acquire) < self.0.maximum.load(Ordering::Relaxed)
    }

    /// Takes the right to one more connection; None if there are enough.
    pub fn permit(&self) -> Option<Permit> {
        let maximum = self.0.maximum.load(Ordering::Relaxed);
        let more = |open| (open < maximum).then_some(open + 1);
        self.0.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Permit { counted: Arc::clone(&self.0), more: None })
    }
}

impl Permit {
    /// Joins a listener's right to this one, so that both are given back at once.
    pub fn with(mut self, listener: Self) -> Self {
        self.more.get_or_insert_default().listener = Some(listener);
        self
    }

    /// Joins the right to be not established yet.
    pub(super) fn opening(mut self, opening: Self) -> Self {
        self.more.get_or_insert_default().opening = Some(opening);
        self
    }

    /// Joins the right of an address, and what measures the connection.
    pub(super) fn place(&mut self, address: Option<AddressPlace>, meter: Option<Meter>) {
        if address.is_some() || meter.is_some() {
            let more = self.more.get_or_insert_default();
            (more.address, more.meter) = (address, meter);
        }
    }

    /// Joins the right of an address to be not established yet.
    pub(super) fn opening_place(&mut self, address: AddressPlace) {
        self.more.get_or_insert_default().opening_address = Some(address);
    }

    /// Tells whether it is that of a connection which is not established yet.
    pub(super) fn is_opening(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.opening.is_some())
    }

    /// Gives back the right to be not established yet.
    pub(super) fn established(&mut self) {
        let Some(more) = &mut self.more else { return };
        (more.opening, more.opening_address) = (None, None);
        if more.listener.is_none() && more.address.is_none() && more.meter.is_none() {
            self.more = None;
        }
    }

    /// Returns what measures the connection, if its rate is limited.
    pub(super) fn meter(&self) -> Option<&Meter> {
        self.more.as_ref()?.meter.as_ref()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counted.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_permits_that_are_joined_are_given_back_at_once() {
        let (first, second) = (ConnectionLimit::new(1), ConnectionLimit::new(1));
        let both = first.permit().unwrap().with(second.permit().unwrap());
        assert!(first.permit().is_none() && second.permit().is_none());

        drop(both);

        assert!(first.permit().is_some() && second.permit().is_some());
    }

    #[test]
    fn a_permit_that_is_given_back_can_be_taken_again() {
        let limit = ConnectionLimit::new(2);
        let first = limit.permit();
        let second = limit.clone().permit();
        assert!(first.is_some() && second.is_some());

        assert!(!limit.has_room() && limit.permit().is_none());
        drop(first);
        assert!(limit.has_room() && limit.permit().is_some());
    }

    #[test]
    fn a_limit_that_changes_counts_the_connections_that_are_open() {
        let limit = ConnectionLimit::new(2);
        let open = [limit.permit(), limit.permit()];

        limit.allow(1);
        assert!(limit.permit().is_none());
        limit.allow(3);
        assert!(limit.permit().is_some());
        drop(open);
    }
}
