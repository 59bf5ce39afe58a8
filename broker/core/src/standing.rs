//! What whoever vouches for clients has said last of those who have retained something, so that a message can be held against it.
//!
//! Invariant: there is an entry for each vouched source of a retained message, with the number of these, and no other. Nothing of it is
//! stored: after a restart nothing is known of a client until it is vouched for again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::access::Rules;
use crate::message::Message;
use crate::source::Source;

/// What is known of what a client may do for whom somebody vouches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing yet.
    #[default]
    Unknown,
    /// What the rules of its listener say.
    OfListener,
    /// What these say.
    Rules(Rules),
    /// Nobody vouches for it any more.
    Withdrawn,
}

/// A client, as it is vouched for: its user name and its Client Identifier.
pub(crate) type Owner = (Option<Arc<str>>, Arc<str>);

/// The standing of those who have retained something.
#[derive(Debug, Default)]
pub(crate) struct Standings(HashMap<Owner, Entry>);

#[derive(Debug, Default)]
struct Entry {
    messages: usize,
    standing: Standing,
}

impl Standings {
    /// Takes note that a message is retained now.
    pub(crate) fn came(&mut self, message: &Message) {
        if let Some(source) = vouched(message) {
            self.0.entry(owner(source)).or_default().messages += 1;
        }
    }

    /// Takes note that a message is retained no more.
    pub(crate) fn left(&mut self, message: &Message) {
        let Some(owner) = vouched(message).map(owner) else { return };
        let Some(entry) = self.0.get_mut(&owner) else { return };
        entry.messages -= 1;
        if entry.messages == 0 {
            self.0.remove(&owner);
        }
    }

    /// Tells whether a client has retained something.
    pub(crate) fn contains(&self, owner: &Owner) -> bool {
        self.0.contains_key(owner)
    }

    /// Takes note of what was said of a client, if it has retained something.
    pub(crate) fn say(&mut self, owner: &Owner, standing: Standing) {
        if let Some(entry) = self.0.get_mut(owner) {
            entry.standing = standing;
        }
    }

    /// Returns what is known of whose a message is.
    pub(crate) fn of(&self, source: &Source) -> Standing {
        self.0.get(&owner(source)).map(|entry| entry.standing.clone()).unwrap_or_default()
    }
}

fn vouched(message: &Message) -> Option<&Source> {
    message.source().map(|source| &**source).filter(|source| source.is_vouched)
}

fn owner(source: &Source) -> Owner {
    (source.user.clone(), Arc::clone(&source.client_id))
}
