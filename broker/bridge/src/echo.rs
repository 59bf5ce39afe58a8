//! Recognises what the other broker sends back because MQTT 3 has no No Local.
//!
//! Only messages of a mapping for both directions can come back. Each one sent is remembered until it has, for a few seconds at
//! most: a message that comes later is a new one.

use std::collections::VecDeque;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

/// How long the other broker may take to send a message back, in milliseconds.
const WAIT_MILLISECONDS: u64 = 10_000;
/// How many messages are remembered.
const REMEMBERED_MAX: usize = 4_096;

/// What was sent and has not come back.
#[derive(Debug)]
pub(crate) struct Echoes {
    key: [u8; 16],
    sent: VecDeque<(u128, u64)>,
}

impl Echoes {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Self { key, sent: VecDeque::new() }
    }

    /// Remembers a message that the other broker will send back.
    pub(crate) fn expect(&mut self, topic: &str, payload: &[u8], now: u64) {
        self.forget_old(now);
        if self.sent.len() == REMEMBERED_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.digest(topic, payload), now));
    }

    /// Says whether a message is one that was sent; each counts once.
    pub(crate) fn is_echo(&mut self, topic: &str, payload: &[u8], now: u64) -> bool {
        self.forget_old(now);
        if self.sent.is_empty() {
            return false;
        }
        let digest = self.digest(topic, payload);
        match self.sent.iter().position(|(sent, _)| *sent == digest) {
            Some(position) => self.sent.remove(position).is_some(),
            None => false,
        }
    }

    fn forget_old(&mut self, now: u64) {
        while self.sent.front().is_some_and(|(_, at)| at + WAIT_MILLISECONDS < now) {
            self.sent.pop_front();
        }
    }

    fn digest(&self, topic: &str, payload: &[u8]) -> u128 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_usize(topic.len());
        hasher.write(topic.as_bytes());
        hasher.write(payload);
        hasher.finish128().as_u128()
    }
}
