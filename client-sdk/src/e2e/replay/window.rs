//! The numbers of one stream that were received last (VEIL-1 section 12.2).
//!
//! Invariant: a number is new at most once; what lies too far behind the highest is never new, and what is not known, after a
//! window was made wider, counts as received.

use veilmq_protocol::veil::layout::{LayoutError, Reader};

/// Messages in one word of a window.
const WORD: u32 = u64::BITS;

/// How far behind the highest number of a stream a message may come and still be told apart, counting that number.
///
/// It must exceed the Receive Maximum, because that many messages may be sent again in another order.
///
/// ```
/// use veilmq_client::e2e::ReplayWindow;
///
/// assert_eq!(ReplayWindow::default().messages(), 128);
/// assert_eq!(ReplayWindow::above(200).map(ReplayWindow::messages), Some(256));
/// assert_eq!(ReplayWindow::above(1_024), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplayWindow(u32);

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::NARROWEST
    }
}

impl ReplayWindow {
    /// 128 messages, the default.
    pub const NARROWEST: Self = Self(128);
    /// 1,024 messages.
    pub const WIDEST: Self = Self(1_024);

    /// Takes a number of messages from 128 to 1,024, rounded up to a multiple of 64; `None` for any other.
    #[must_use]
    pub const fn new(messages: u16) -> Option<Self> {
        let width = (messages as u32).next_multiple_of(WORD);
        if messages as u32 >= Self::NARROWEST.0 && width <= Self::WIDEST.0 { Some(Self(width)) } else { None }
    }

    /// The narrowest that exceeds a Receive Maximum; `None` if none does.
    #[must_use]
    pub fn above(receive_maximum: u16) -> Option<Self> {
        let messages = receive_maximum.checked_add(1)?;
        Self::new(messages.max(128))
    }

    /// How many messages it holds.
    #[must_use]
    pub const fn messages(self) -> u32 {
        self.0
    }

    const fn words(self) -> usize {
        (self.0 / WORD) as usize
    }
}

/// The last numbers of a stream: bit `i`, counted from the lowest of the first word, is set if `highest - i` was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    highest: u32,
    seen: Box<[u64]>,
}

impl Window {
    pub(super) fn starting_at(seq: u32, width: ReplayWindow) -> Self {
        let mut window = Self { highest: seq, seen: vec![0; width.words()].into() };
        window.set(0);
        window
    }

    pub(super) fn is_new(&self, seq: u32) -> bool {
        match self.highest.checked_sub(seq) {
            None => true,
            Some(behind) => self.word(behind).is_some_and(|word| word & bit(behind) == 0),
        }
    }

    /// Takes a number that is new, and returns how many were skipped since the highest one.
    pub(super) fn commit(&mut self, seq: u32) -> u32 {
        if let Some(behind) = self.highest.checked_sub(seq) {
            self.set(behind);
            return 0;
        }
        let ahead = seq - self.highest;
        self.shift(ahead);
        self.highest = seq;
        self.set(0);
        ahead - 1
    }

    /// Makes a number that was received count as if it had not been, though later ones were.
    pub(super) fn forget(&mut self, seq: u32) {
        let behind = self.highest.checked_sub(seq);
        let word = behind.and_then(|behind| self.seen.get_mut((behind / WORD) as usize));
        if let (Some(behind), Some(word)) = (behind, word) {
            *word &= !bit(behind);
        }
    }

    /// Makes everything up to the highest number count as received.
    pub(super) fn fill(&mut self) {
        self.seen.fill(u64::MAX);
    }

    /// `u32 highest || u8 words || words * u64`, the oldest messages first.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.highest.to_be_bytes());
        out.push(u8::try_from(self.seen.len()).unwrap_or(u8::MAX));
        for word in self.seen.iter().rev() {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }

    /// Reads a window into one of this width.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub(super) fn decode(reader: &mut Reader<'_>, width: ReplayWindow) -> Result<Self, LayoutError> {
        let highest = reader.u32("highest seq")?;
        let count = reader.u8("window width")?;
        let words: Result<Vec<u64>, LayoutError> = (0..count).map(|_| reader.u64("window")).collect();
        let mut seen: Vec<u64> = words?.into_iter().rev().collect();
        seen.resize(width.words(), u64::MAX);
        Ok(Self { highest, seen: seen.into() })
    }

    fn word(&self, behind: u32) -> Option<&u64> {
        self.seen.get((behind / WORD) as usize)
    }

    fn set(&mut self, behind: u32) {
        if let Some(word) = self.seen.get_mut((behind / WORD) as usize) {
            *word |= bit(behind);
        }
    }

    fn shift(&mut self, ahead: u32) {
        let (words, bits) = ((ahead / WORD) as usize, ahead % WORD);
        for index in (0..self.seen.len()).rev() {
            let from = |back: usize| index.checked_sub(back).and_then(|from| self.seen.get(from).copied());
            let upper = from(words).unwrap_or_default() << bits;
            let carried = from(words + 1).and_then(|word| word.checked_shr(WORD - bits)).unwrap_or_default();
            if let Some(word) = self.seen.get_mut(index) {
                *word = upper | carried;
            }
        }
    }
}

const fn bit(behind: u32) -> u64 {
    1 << (behind % WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_go_from_128_to_1024_in_steps_of_64() {
        let rows =
            [(0, None), (127, None), (128, Some(128)), (129, Some(192)), (1_024, Some(1_024)), (1_025, None)];
        for (messages, expected) in rows {
            assert_eq!(ReplayWindow::new(messages).map(ReplayWindow::messages), expected, "{messages}");
        }
        for (receive_maximum, expected) in
            [(1, Some(128)), (127, Some(128)), (128, Some(192)), (1_023, Some(1_024)), (u16::MAX, None)]
        {
            let window = ReplayWindow::above(receive_maximum).map(ReplayWindow::messages);
            assert_eq!(window, expected, "{receive_maximum}");
        }
    }

    #[test]
    fn steps_of_every_length_keep_what_is_still_within_the_window() {
        for width in [ReplayWindow::NARROWEST, ReplayWindow::WIDEST] {
            for ahead in [1, 63, 64, 65, 127, 128, 129, width.messages() - 1, width.messages(), 5_000] {
                let mut window = Window::starting_at(1_000, width);
                window.commit(998);
                assert_eq!(window.commit(1_000 + ahead), ahead - 1);
                let is_new: Vec<bool> = (997..=1_001).map(|seq| window.is_new(seq)).collect();
                let reaches = |seq: u32| 1_000 + ahead - seq < width.messages();
                let next_is_new = ahead > 1 && reaches(1_001);
                assert_eq!(is_new, [reaches(997), false, reaches(999), false, next_is_new], "{ahead}");
            }
        }
    }

    #[test]
    fn what_a_narrower_window_did_not_hold_counts_as_received_in_a_wider_one() {
        let mut narrow = Window::starting_at(2_000, ReplayWindow::NARROWEST);
        narrow.commit(1_990);
        let mut bytes = Vec::new();
        narrow.encode(&mut bytes);

        let wide = Window::decode(&mut Reader::new(&bytes), ReplayWindow::WIDEST).unwrap();
        let again = {
            let mut bytes = Vec::new();
            wide.encode(&mut bytes);
            Window::decode(&mut Reader::new(&bytes), ReplayWindow::NARROWEST).unwrap()
        };

        assert!(wide.is_new(1_989) && !wide.is_new(1_990) && wide.is_new(1_873) && !wide.is_new(1_872));
        assert_eq!(again, narrow);
    }
}
