//! How many Network Connections there may be at one time, over all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of connections that may be open, shared by all shards.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    maximum: usize,
    open: Arc<AtomicUsize>,
}

/// The right to have one connection; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    open: Arc<AtomicUsize>,
    /// A right that is given back with this one.
    other: Option<Box<Permit>>,
}

impl ConnectionLimit {
    /// Allows `maximum` connections at one time.
    pub fn new(maximum: usize) -> Self {
        Self { maximum, open: Arc::default() }
    }

    /// Takes the right to one more connection; None if there are enough.
    pub fn permit(&self) -> Option<Permit> {
        let more = |open| (open < self.maximum).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Permit { open: Arc::clone(&self.open), other: None })
    }

    /// Returns the number of connections that may be open.
    pub fn maximum(&self) -> usize {
        self.maximum
    }
}

impl Permit {
    /// Joins another limit's right to this one, so that both are given back at once.
    pub fn with(mut self, other: Self) -> Self {
        self.other = Some(Box::new(other));
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
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

        assert!(limit.permit().is_none());
        drop(first);
        assert!(limit.permit().is_some());
    }
}
