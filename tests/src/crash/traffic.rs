//! What the publishers send: numbered messages whose whole content follows from their number.
//!
//! Invariant: a message that lost or changed a single byte is not recognised as one of its stream.

use std::fmt;

use crate::wire::Published;

/// The publishers of a fleet.
pub const PUBLISHERS: u8 = 3;
/// The topics that each publisher uses.
pub const TOPICS: u8 = 4;

/// What MQTT keeps in order: the messages of one publisher to one topic at one QoS, numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream {
    /// Index of the publisher.
    pub publisher: u8,
    /// Index of the topic.
    pub topic: u8,
    /// 1 or 2.
    pub qos: u8,
}

impl fmt::Display for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "publisher-{} on load/{} at QoS {}", self.publisher, self.topic, self.qos)
    }
}

impl Stream {
    /// Every stream of a fleet.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PUBLISHERS).flat_map(|publisher| {
            (0..TOPICS).flat_map(move |topic| [1, 2].map(move |qos| Self { publisher, topic, qos }))
        })
    }

    /// The Topic Name.
    #[must_use]
    pub fn topic_name(self) -> String {
        format!("load/{}", self.topic)
    }

    /// The Application Message with this number: from 10 bytes to 20 kB, so that some need more than one piece in a store.
    #[must_use]
    pub fn payload(self, number: u32) -> Vec<u8> {
        let length = match number % 64 {
            0 => 20_000,
            21 | 42 => 3_000,
            rest => rest * 5,
        };
        let mut payload = format!("{} {} {} {number} ", self.publisher, self.topic, self.qos).into_bytes();
        payload.extend((0..length).map(|index| number.wrapping_mul(31).wrapping_add(index) as u8));
        payload
    }

    /// Recognises a message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(published: &Published) -> Result<(Self, u32), String> {
        let damaged = || format!("a damaged message arrived on {}", published.topic);
        let head = published.payload.splitn(5, |byte| *byte == b' ').take(4);
        let numbers: Vec<u32> =
            head.filter_map(|part| std::str::from_utf8(part).ok()?.parse().ok()).collect();
        let [publisher, topic, qos, number] = numbers[..] else { return Err(damaged()) };
        let stream = Self { publisher: publisher as u8, topic: topic as u8, qos: qos as u8 };
        if stream.payload(number) == published.payload && stream.topic_name() == published.topic {
            Ok((stream, number))
        } else {
            Err(damaged())
        }
    }
}
