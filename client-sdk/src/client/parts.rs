//! Receipts of parts of messages (VEIL-1 section 12.5): a part counts as received when the application has the whole message.
//!
//! Pure bookkeeping: callers acknowledge what this module gives back. Invariant: the receipt of a part is given back once, alone or
//! with that of the part that completed its message.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::session::Receipt;

#[derive(Default)]
pub(super) struct Parts {
    /// Parts of messages that are not whole, in the order in which they came, and the numbers of the messages.
    held: VecDeque<(Receipt, u64)>,
    /// The other parts of messages that are whole, by the receipt of the part that came last.
    others: HashMap<Receipt, Vec<Receipt>>,
    released: Vec<Receipt>,
}

impl Parts {
    /// Keeps the receipt of a part until its message is whole.
    pub(super) fn hold(&mut self, receipt: Receipt, message: u64) {
        self.held.push_back((receipt, message));
    }

    /// The last part of a message has come.
    pub(super) fn complete(&mut self, message: u64, last: Option<Receipt>) {
        let others = self.give_up(|own| own == message);
        match last {
            Some(last) if !others.is_empty() => drop(self.others.insert(last, others)),
            Some(_) | None => self.released.extend(others),
        }
    }

    /// The application has a message: gives the receipts of its other parts.
    pub(super) fn taken(&mut self, last: Receipt) -> Vec<Receipt> {
        self.others.remove(&last).unwrap_or_default()
    }

    /// Gives what need not be held any longer, because its message will never be whole: it is none of those that are `incomplete`.
    pub(super) fn released(&mut self, incomplete: &BTreeSet<u64>) -> Vec<Receipt> {
        let mut released = std::mem::take(&mut self.released);
        released.extend(self.give_up(|message| !incomplete.contains(&message)));
        released
    }

    /// Lets go of one part whose message is not whole. Returns whether it was one.
    pub(super) fn release(&mut self, receipt: Receipt) -> bool {
        let index = self.held.iter().position(|(held, _)| *held == receipt);
        index.and_then(|index| self.held.remove(index)).is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.released.is_empty()
    }

    fn give_up(&mut self, is_meant: impl Fn(u64) -> bool) -> Vec<Receipt> {
        let (given, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|(_, message)| is_meant(*message));
        self.held = kept;
        given.into_iter().map(|(receipt, _)| receipt).collect()
    }
}
