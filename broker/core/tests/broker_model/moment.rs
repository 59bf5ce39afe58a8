//! When things come up in the model, as far as that gives them an order.
//!
//! What comes up at different moments has the order of the moments. What one session leaves behind when it ends has an order too:
//! its Will, then the copies of groups that it passes on, in the order that they had with it. Everything else that comes up at
//! one moment has none: the copies that one message has for several subscriptions, retained messages, and what different
//! sessions leave behind that a restart finds over, because they all end at once and a broker may begin with any. A copy that is
//! passed on more than once keeps the order that it has, and gets no other.

/// When a delivery came up.
#[derive(Clone, Debug)]
pub(super) struct Moment(Vec<Step>);

/// A moment, and which of the causes it is that act at this moment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    number: u64,
    cause: u64,
}

impl Moment {
    pub(super) fn nth(number: u64) -> Self {
        Self(vec![Step { number, cause: 0 }])
    }

    /// Returns the moment after this one.
    pub(super) fn next(&self) -> Self {
        Self::nth(self.0[0].number + 1)
    }

    /// Returns the same moment, for another cause: its effects have no order with those of this one.
    pub(super) fn with_next_cause(&self) -> Self {
        let Step { number, cause } = self.0[0];
        Self(vec![Step { number, cause: cause + 1 }])
    }

    /// Makes this the moment of something that is part of what comes up at `outer`, after the beginning.
    pub(super) fn within(&self, outer: &Self) -> Self {
        Self([&outer.0[..], &self.0[..]].concat())
    }

    /// Tells whether what came up at this moment has to go before what came up at `other`.
    pub(super) fn precedes(&self, other: &Self) -> bool {
        match self.0.iter().zip(&other.0).find(|(this, other)| this != other) {
            Some((this, other)) => this.number < other.number,
            None => self.0.len() < other.0.len(),
        }
    }
}
