//! The script in the fuzzer's bytes: one letter for each step, and its arguments.
//!
//! Only the low bits count, so that every byte means something and a script can still be written by hand: a step is a letter
//! (its low five bits; anything else is skipped), a number is a digit or a letter (its low four bits: 0 to 9, `:` to `?` are 10
//! to 15). An argument that is missing is 0.

/// What happens next.
#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    /// `C` slot, see `packets.rs`: a new connection and its CONNECT.
    Connect { slot: u8 },
    /// `O` slot: a new connection.
    Open { slot: u8 },
    /// The letter of a [`Kind`], slot, see `packets.rs`: a packet.
    Packet { slot: u8, kind: Kind },
    /// `R` slot length bytes: bytes as they are.
    Raw { slot: u8, bytes: &'a [u8] },
    /// `A` slot: everything that the client has to acknowledge.
    Acknowledge { slot: u8 },
    /// `X` slot: the connection is lost.
    Cut { slot: u8 },
    /// `W` position pattern: the next packet differs in the bits of the pattern.
    Damage { position: u8, pattern: u8 },
    /// `I` number: packets are sent in pieces of this many bytes; 0 for whole.
    Pieces { bytes: usize },
    /// `Z` slot: packets wait until another `Z` sends them in one piece.
    Together { slot: u8 },
    /// `T` number: time passes.
    Pass { milliseconds: u64 },
    /// `H` number: commits wait for `G` and `F`; 0 for no longer.
    HoldCommits(bool),
    /// `G`: the oldest batch is made durable.
    Commit,
    /// `F`: the oldest batch is refused.
    FailCommit,
    /// `Y`: the broker is shut down, and another started.
    ShutDown,
    /// `N` shards: the broker is killed, and another started.
    Crash { shards: u16 },
}

/// A packet that a connected client makes.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// `P`
    Publish,
    /// `S`
    Subscribe,
    /// `U`
    Unsubscribe,
    /// `B`: an acknowledgement, due or not.
    Acknowledgement,
    /// `D`
    Disconnect,
    /// `K`
    PingReq,
    /// `E`
    Auth,
}

const SLOTS: u8 = 5;
const PASSES_MS: [u64; 8] = [1, 500, 1_000, 2_000, 16_000, 61_000, 3_600_000, 86_400_000];

/// The bytes that are left.
pub(crate) struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Takes a number, 0 to 15.
    pub(crate) fn number(&mut self) -> u8 {
        self.byte().unwrap_or(0) & 0b1111
    }

    /// Takes a number and returns what it names, counted around.
    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.number()) % all.len()]
    }

    /// Takes the next step; None at the end.
    pub(crate) fn step(&mut self) -> Option<Step<'a>> {
        loop {
            let letter = (self.byte()? & 0b1_1111) | 0x40;
            if let Some(step) = self.named(letter) {
                return Some(step);
            }
        }
    }

    fn named(&mut self, letter: u8) -> Option<Step<'a>> {
        Some(match letter {
            b'C' => Step::Connect { slot: self.slot() },
            b'O' => Step::Open { slot: self.slot() },
            b'P' => self.packet(Kind::Publish),
            b'S' => self.packet(Kind::Subscribe),
            b'U' => self.packet(Kind::Unsubscribe),
            b'B' => self.packet(Kind::Acknowledgement),
            b'D' => self.packet(Kind::Disconnect),
            b'K' => self.packet(Kind::PingReq),
            b'E' => self.packet(Kind::Auth),
            b'R' => Step::Raw { slot: self.slot(), bytes: self.bytes() },
            b'A' => Step::Acknowledge { slot: self.slot() },
            b'X' => Step::Cut { slot: self.slot() },
            b'W' => Step::Damage { position: self.byte().unwrap_or(0), pattern: self.byte().unwrap_or(0) },
            b'I' => Step::Pieces { bytes: usize::from(self.number()) },
            b'Z' => Step::Together { slot: self.slot() },
            b'T' => Step::Pass { milliseconds: self.one_of(&PASSES_MS) },
            b'H' => Step::HoldCommits(self.number() != 0),
            b'G' => Step::Commit,
            b'F' => Step::FailCommit,
            b'Y' => Step::ShutDown,
            b'N' => Step::Crash { shards: 1 + u16::from(self.number()) % 3 },
            _ => return None,
        })
    }

    fn packet(&mut self, kind: Kind) -> Step<'a> {
        Step::Packet { slot: self.slot(), kind }
    }

    fn slot(&mut self) -> u8 {
        self.number() % SLOTS
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte().unwrap_or(0)).min(self.rest.len());
        let (bytes, rest) = self.rest.split_at(len);
        self.rest = rest;
        bytes
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }
}
