//! A store in memory: for brokers that need no durability, and for tests and simulations.

use std::sync::Arc;

use crate::id::MessageId;
use crate::message::Message;
use crate::record::{Record, Store, StoreError};
use crate::recovery::Recovery;

/// Keeps records as long as it lives.
#[derive(Debug)]
pub struct MemoryStore {
    state: Recovery,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { state: Recovery::holding_bodies() }
    }
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn commit(&mut self, batch: &[Record]) -> Result<(), StoreError> {
        for record in batch {
            self.state.apply(record.clone());
        }
        Ok(())
    }

    fn replay(&mut self, visit: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        self.state.visit(visit);
        Ok(())
    }

    fn fetch(&mut self, messages: &[MessageId]) -> Result<Vec<Arc<Message>>, StoreError> {
        Ok(messages.iter().filter_map(|message| self.state.body(*message)).map(Arc::clone).collect())
    }
}
