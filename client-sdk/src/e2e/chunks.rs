//! Messages that come in parts (VEIL-1 section 12.5): kept until all parts are there.
//!
//! Takes authentic parts only. Invariants: a message is given out once, whole; what is kept is bounded for each part, message and
//! sender, altogether, and in time.

use std::collections::{BTreeMap, BTreeSet};

use veilmq_protocol::veil::{Kid, envelope::Chunk};

use super::error::OpenError;

/// The longest message, in bytes.
pub(super) const MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// Incomplete messages of one sender.
const MESSAGES_MAX: usize = 4;
/// How many messages of all senders may be incomplete, since a member can name any sender.
const ALL_MESSAGES_MAX: usize = 1_024;
/// What a part takes in memory besides its bytes, about.
const PART_BYTES: usize = 64;
/// How long the parts of a message may take, in milliseconds.
const COMPLETE_MS: u64 = 60_000;

/// What belongs together. A part that is not signed never completes a message whose other parts are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MessageName {
    pub(super) sender: Kid,
    pub(super) session: u64,
    pub(super) topic_hash: [u8; 32],
    pub(super) signed: bool,
    pub(super) message: u64,
}

struct Partial {
    count: u32,
    total_bytes: u64,
    parts: BTreeMap<u32, Vec<u8>>,
    bytes: usize,
    /// With what its parts take besides their bytes.
    held_bytes: usize,
    /// Place in the order of beginnings, which is also that of times.
    began: (u64, u64),
}

/// The messages of which some parts have come.
pub(super) struct Chunks {
    bytes_max: usize,
    bytes: usize,
    begun: u64,
    newest: Option<u64>,
    partial: BTreeMap<MessageName, Partial>,
}

impl Chunks {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, begun: 0, newest: None, partial: BTreeMap::new() }
    }

    /// Takes one part and gives the message if it was the last that was missing.
    ///
    /// # Errors
    /// [`OpenError::Incomplete`] while parts are missing, and [`OpenError::Malformed`] for one that does not fit the others.
    pub(super) fn take(
        &mut self,
        name: MessageName,
        chunk: Chunk,
        part: Vec<u8>,
        now_unix_ms: u64,
    ) -> Result<Vec<u8>, OpenError> {
        self.forget_late(now_unix_ms);
        if chunk.total_bytes > MESSAGE_BYTES_MAX || u64::from(chunk.count) > chunk.total_bytes {
            return Err(OpenError::Malformed("chunk total"));
        }
        if part.len() as u64 > chunk.total_bytes {
            return Err(OpenError::Malformed("chunk"));
        }
        if !self.partial.contains_key(&name) {
            self.make_room(name.sender);
            self.begun += 1;
            let began = (now_unix_ms, self.begun);
            let Chunk { count, total_bytes, .. } = chunk;
            self.partial.insert(
                name,
                Partial { count, total_bytes, parts: BTreeMap::new(), bytes: 0, held_bytes: 0, began },
            );
        }
        let Some(partial) = self.partial.get_mut(&name) else { return Err(OpenError::Incomplete) };
        let fits = (partial.count, partial.total_bytes) == (chunk.count, chunk.total_bytes)
            && !partial.parts.contains_key(&chunk.index)
            && (partial.bytes + part.len()) as u64 <= chunk.total_bytes;
        if !fits {
            return Err(OpenError::Malformed("chunk"));
        }
        self.newest = Some(partial.began.1);
        partial.bytes += part.len();
        partial.held_bytes += part.len() + PART_BYTES;
        self.bytes += part.len() + PART_BYTES;
        partial.parts.insert(chunk.index, part);
        if partial.parts.len() < chunk.count as usize {
            self.keep_within_bounds();
            return Err(OpenError::Incomplete);
        }
        let whole = self.forget(&name).filter(|whole| whole.bytes as u64 == whole.total_bytes);
        let whole = whole.ok_or(OpenError::Malformed("chunk total"))?;
        let mut message = Vec::with_capacity(whole.bytes);
        whole.parts.into_values().for_each(|part| message.extend_from_slice(&part));
        Ok(message)
    }

    /// The number of the message that the part taken last belongs to, once.
    pub(super) fn take_newest(&mut self) -> Option<u64> {
        self.newest.take()
    }

    /// The numbers of the messages of which parts are missing.
    pub(super) fn incomplete(&self) -> BTreeSet<u64> {
        self.partial.values().map(|partial| partial.began.1).collect()
    }

    /// When the next message is given up, in unix milliseconds.
    pub(super) fn next_due(&self) -> Option<u64> {
        let (_, began_ms) = self.oldest(|_| true)?;
        Some(began_ms.saturating_add(COMPLETE_MS))
    }

    fn forget(&mut self, name: &MessageName) -> Option<Partial> {
        let partial = self.partial.remove(name)?;
        self.bytes -= partial.held_bytes;
        Some(partial)
    }

    /// Gives up the messages whose parts take too long.
    pub(super) fn forget_late(&mut self, now_unix_ms: u64) {
        while let Some((name, began)) = self.oldest(|_| true)
            && began.saturating_add(COMPLETE_MS) <= now_unix_ms
        {
            self.forget(&name);
        }
    }

    fn make_room(&mut self, sender: Kid) {
        if self.partial.keys().filter(|name| name.sender == sender).count() >= MESSAGES_MAX
            && let Some((name, _)) = self.oldest(|name| name.sender == sender)
        {
            self.forget(&name);
        }
        if self.partial.len() >= ALL_MESSAGES_MAX
            && let Some((name, _)) = self.oldest(|_| true)
        {
            self.forget(&name);
        }
    }

    fn keep_within_bounds(&mut self) {
        while self.bytes > self.bytes_max
            && let Some((name, _)) = self.oldest(|_| true)
        {
            self.forget(&name);
        }
    }

    fn oldest(&self, of: impl Fn(&MessageName) -> bool) -> Option<(MessageName, u64)> {
        let own = self.partial.iter().filter(|(name, _)| of(name));
        own.min_by_key(|(_, partial)| partial.began).map(|(name, partial)| (*name, partial.began.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    fn name(sender: u8, message: u64) -> MessageName {
        let sender = Kid::from_bytes([sender; 8]);
        MessageName { sender, session: 7, topic_hash: [0; 32], signed: false, message }
    }

    fn part(index: u32, count: u32, total_bytes: u64) -> Chunk {
        Chunk { message: 1, index, count, total_bytes }
    }

    #[test]
    fn parts_make_their_message_in_any_order() {
        let mut chunks = Chunks::new(1_000);
        let mut take = |index, bytes: &[u8]| chunks.take(name(1, 1), part(index, 3, 7), bytes.to_vec(), NOW);

        assert_eq!(take(2, b"g"), Err(OpenError::Incomplete));
        assert_eq!(take(0, b"abc"), Err(OpenError::Incomplete));
        assert_eq!(take(1, b"def"), Ok(b"abcdefg".to_vec()));
        assert_eq!(chunks.bytes, 0);
    }

    #[test]
    fn members_under_many_names_make_nobody_hold_more_than_so_many_messages() {
        let mut chunks = Chunks::new(1 << 20);
        for sender in 0..3_000_u64 {
            let name = MessageName { sender: Kid::from_bytes(sender.to_be_bytes()), ..name(0, 1) };

            assert_eq!(chunks.take(name, part(0, 2, 4), vec![0; 2], NOW), Err(OpenError::Incomplete));
            let too_long = chunks.take(MessageName { message: 2, ..name }, part(0, 1, 1), vec![0; 2], NOW);
            assert!(matches!(too_long, Err(OpenError::Malformed(_))));
        }

        assert_eq!(chunks.incomplete().len(), ALL_MESSAGES_MAX);
        let newest = MessageName { sender: Kid::from_bytes(2_999_u64.to_be_bytes()), ..name(0, 1) };
        assert_eq!(chunks.take(newest, part(1, 2, 4), vec![0; 2], NOW), Ok(vec![0; 4]));
    }

    #[test]
    fn parts_that_do_not_fit_are_malformed() {
        for (second, bytes) in [
            (part(1, 3, 4), 2),
            (part(1, 2, 5), 2),
            (part(0, 2, 4), 2),
            (part(1, 2, 4), 3),
            (part(1, 2, 4), 1),
            (part(1, 2, MESSAGE_BYTES_MAX + 1), 2),
            (part(1, 9, 4), 2),
        ] {
            let mut chunks = Chunks::new(1_000);
            assert_eq!(chunks.take(name(1, 1), part(0, 2, 4), vec![0; 2], NOW), Err(OpenError::Incomplete));

            let refused = chunks.take(name(1, 1), second, vec![0; bytes], NOW);

            assert!(matches!(refused, Err(OpenError::Malformed(_))), "{second:?} {bytes}: {refused:?}");
        }
    }

    #[test]
    fn parts_of_one_byte_are_bounded_as_well() {
        let mut chunks = Chunks::new(10_000);

        for index in 0..1_000 {
            let taken = chunks.take(name(1, 1), part(index, 2_000, 2_000), vec![7], NOW);
            assert_eq!(taken, Err(OpenError::Incomplete));
        }

        let parts: usize = chunks.partial.values().map(|partial| partial.parts.len()).sum();
        assert!(parts * (1 + PART_BYTES) <= 10_000, "{parts} are held");
    }

    #[test]
    fn what_is_incomplete_is_bounded_in_number_bytes_and_time() {
        let begin = |chunks: &mut Chunks, name, now| {
            assert_eq!(chunks.take(name, part(0, 2, 200), vec![0; 100], now), Err(OpenError::Incomplete));
        };
        let finish =
            |chunks: &mut Chunks, name, now| chunks.take(name, part(1, 2, 200), vec![0; 100], now).is_ok();
        let mut chunks = Chunks::new(1_000);
        for message in 1..=5 {
            begin(&mut chunks, name(1, message), NOW);
        }
        assert!(!finish(&mut chunks, name(1, 1), NOW), "a fifth message pushed it out");
        assert!(finish(&mut chunks, name(1, 5), NOW));

        let mut chunks = Chunks::new(400);
        for sender in 1..=3 {
            begin(&mut chunks, name(sender, 1), NOW);
        }
        assert!(!finish(&mut chunks, name(1, 1), NOW), "there was no room for three");

        let mut chunks = Chunks::new(1_000);
        begin(&mut chunks, name(1, 1), NOW);
        assert!(!finish(&mut chunks, name(1, 1), NOW + COMPLETE_MS), "too late");
    }
}
