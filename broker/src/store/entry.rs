//! Entries: what one key of the store has from now on, as bytes.
//!
//! An entry is a tag, its key, and for a value the length and the bytes of that value. Numbers take as few bytes as they need (LEB128), since
//! most entries are references, and most of those belong to young messages and sessions.
//! Reading trusts nothing: any bytes give entries or an error, never a panic.

use sha2::{Digest, Sha256};
use veilmq_core::{MessageId, SessionId};
use veilmq_protocol::PacketId;

/// A name in a key is 128 bits of its SHA-256: keys stay short whatever a client subscribes to. Who looks for two names alike needs
/// 2^64 attempts, and then harms a subscription or a retained message of its own.
const NAME_BYTES: usize = 16;

/// The longest entry without its value: tag, session, name, length of the value.
const HEAD_BYTES_MAX: usize = 1 + VARINT_BYTES_MAX + NAME_BYTES + VARINT_BYTES_MAX;
/// The most bytes of a number.
const VARINT_BYTES_MAX: usize = 10;

/// A Topic Name or Topic Filter, shortened to a fixed number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name([u8; NAME_BYTES]);

impl Name {
    /// Shortens a name.
    pub(crate) fn of(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        Self(core::array::from_fn(|index| digest[index]))
    }
}

/// What a value is stored under. References come before bodies, so that those of one batch are at hand when its bodies are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A session head.
    Session(SessionId),
    /// A session's subscription to a Topic Filter.
    Subscription(SessionId, Name),
    /// A session's received QoS 2 Packet Identifier.
    Received(SessionId, PacketId),
    /// The retained message of a Topic Name.
    Retained(Name),
    /// A session's reference to a message.
    Reference(SessionId, MessageId),
    /// A message body.
    Body(MessageId),
}

impl Key {
    /// Returns the session whose end removes the value, unless it outlives that.
    pub(crate) fn session(self) -> Option<SessionId> {
        match self {
            Self::Session(session)
            | Self::Subscription(session, _)
            | Self::Received(session, _)
            | Self::Reference(session, _) => Some(session),
            Self::Retained(_) | Self::Body(_) => None,
        }
    }

    /// Returns the number that decides which part of the store the key is in: with its session, or by its message or name.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Session(session)
            | Self::Subscription(session, _)
            | Self::Received(session, _)
            | Self::Reference(session, _) => session.0,
            Self::Retained(Name(name)) => name.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
            Self::Body(message) => message.0,
        }
    }
}

/// What an entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The key has the value of the entry.
    Put {
        /// The key.
        key: Key,
        /// Whether the value is a reference that a session has as a member of a group: it outlives the session.
        shared: bool,
    },
    /// The key has no value any more.
    Removed(Key),
    /// No key of the session has a value any more, but for its references as a member of groups.
    SessionEnded(SessionId),
}

impl Effect {
    /// Returns the number that decides which part of the store it changes.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Put { key, .. } | Self::Removed(key) => key.number(),
            Self::SessionEnded(session) => session.0,
        }
    }
}

/// The kinds of an entry, the low bits of its tag.
const SESSION: u8 = 1;
const SUBSCRIPTION: u8 = 2;
const RECEIVED: u8 = 3;
const RETAINED: u8 = 4;
const REFERENCE: u8 = 5;
const BODY: u8 = 6;
const SESSION_ENDED: u8 = 7;
const KINDS: u8 = 0x07;
/// A removal: nothing follows the key.
const REMOVED: u8 = 1 << 7;
/// A reference that outlives its session.
const SHARED: u8 = 1 << 6;

/// An entry among the contents of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// What it does.
    pub(crate) effect: Effect,
    /// The value that it puts; empty for others.
    pub(crate) value: &'a [u8],
    /// All of its bytes.
    pub(crate) bytes: &'a [u8],
}

/// The bytes are not those of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Appends an entry; `value` is used only by one that puts it.
pub(crate) fn encode(effect: Effect, value: &[u8], out: &mut Vec<u8>) {
    match effect {
        Effect::SessionEnded(session) => {
            out.push(SESSION_ENDED);
            put_number(session.0, out);
        }
        Effect::Removed(key) => encode_key(REMOVED, key, out),
        Effect::Put { key, shared } => {
            encode_key(if shared { SHARED } else { 0 }, key, out);
            put_number(value.len() as u64, out);
            out.extend_from_slice(value);
        }
    }
}

fn encode_key(flags: u8, key: Key, out: &mut Vec<u8>) {
    let mut put = |kind, number: u64| {
        out.push(kind | flags);
        put_number(number, out);
    };
    match key {
        Key::Session(session) => put(SESSION, session.0),
        Key::Subscription(session, name) => {
            put(SUBSCRIPTION, session.0);
            out.extend_from_slice(&name.0);
        }
        Key::Received(session, packet_id) => {
            put(RECEIVED, session.0);
            put_number(packet_id.value().into(), out);
        }
        Key::Retained(name) => {
            out.push(RETAINED | flags);
            out.extend_from_slice(&name.0);
        }
        Key::Reference(session, message) => {
            put(REFERENCE, session.0);
            put_number(message.0, out);
        }
        Key::Body(message) => put(BODY, message.0),
    }
}

fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The entries in the contents of a row; ends after the first that is malformed.
pub(crate) struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    /// Reads entries that follow one another without gaps.
    pub(crate) fn new(contents: &'a [u8]) -> Self {
        Self(contents)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let contents = core::mem::take(&mut self.0);
        Some(split_entry(contents).map(|(entry, rest)| {
            self.0 = rest;
            entry
        }))
    }
}

fn split_entry(contents: &[u8]) -> Result<(Entry<'_>, &[u8]), Malformed> {
    let head = Head::read(contents)?;
    let (bytes, rest) = contents.split_at_checked(head.entry_bytes()?).ok_or(Malformed)?;
    Ok((Entry { effect: head.effect, value: &bytes[head.bytes..], bytes }, rest))
}

/// Returns the length of an entry whose first bytes are given, at least as many as tag, key and length can have.
///
/// # Errors
/// [`Malformed`].
pub(crate) fn entry_bytes(beginning: &[u8]) -> Result<usize, Malformed> {
    Head::read(beginning)?.entry_bytes()
}

/// What comes before the value.
struct Head {
    effect: Effect,
    bytes: usize,
    value_bytes: usize,
}

impl Head {
    fn read(contents: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(contents.get(..HEAD_BYTES_MAX).unwrap_or(contents));
        let available = fields.0.len();
        let (effect, value_bytes) = fields.effect().ok_or(Malformed)?;
        Ok(Self { effect, bytes: available - fields.0.len(), value_bytes })
    }

    fn entry_bytes(&self) -> Result<usize, Malformed> {
        self.bytes.checked_add(self.value_bytes).ok_or(Malformed)
    }
}

/// Bytes that are read field by field.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// Reads tag, key, and the length of the value.
    fn effect(&mut self) -> Option<(Effect, usize)> {
        let (tag, rest) = self.0.split_first()?;
        self.0 = rest;
        let key = match tag & KINDS {
            SESSION => Key::Session(self.session()?),
            SUBSCRIPTION => Key::Subscription(self.session()?, self.name()?),
            RECEIVED => {
                let session = self.session()?;
                Key::Received(session, PacketId::new(u16::try_from(self.number()?).ok()?)?)
            }
            RETAINED => Key::Retained(self.name()?),
            REFERENCE => Key::Reference(self.session()?, self.message()?),
            BODY => Key::Body(self.message()?),
            SESSION_ENDED if *tag == SESSION_ENDED => {
                return Some((Effect::SessionEnded(self.session()?), 0));
            }
            _ => return None,
        };
        let shared = match (tag & !KINDS, key) {
            (REMOVED, _) => return Some((Effect::Removed(key), 0)),
            (0, _) => false,
            (SHARED, Key::Reference(..)) => true,
            _ => return None,
        };
        Some((Effect::Put { key, shared }, usize::try_from(self.number()?).ok()?))
    }

    fn session(&mut self) -> Option<SessionId> {
        self.number().map(SessionId)
    }

    fn message(&mut self) -> Option<MessageId> {
        self.number().map(MessageId)
    }

    fn name(&mut self) -> Option<Name> {
        let (name, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(Name(*name))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if bits > u64::MAX >> shift {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop};
    use proptest::{prop_assert, proptest};

    use super::*;

    const NUMBERS: [u64; 6] = [0, 1, 127, 128, 1 << 40, u64::MAX];

    fn effects() -> Vec<Effect> {
        let mut effects = Vec::new();
        for number in NUMBERS {
            let (session, message) = (SessionId(number), MessageId(u64::MAX - number));
            let keys = [
                Key::Session(session),
                Key::Subscription(session, Name::of("a/#")),
                Key::Received(session, PacketId::new(65_535).unwrap()),
                Key::Retained(Name::of("a")),
                Key::Reference(session, message),
                Key::Body(message),
            ];
            effects.push(Effect::SessionEnded(session));
            effects.extend(keys.map(Effect::Removed));
            effects.extend(keys.map(|key| Effect::Put { key, shared: false }));
            effects.push(Effect::Put { key: Key::Reference(session, message), shared: true });
        }
        effects
    }

    fn encoded(effect: Effect, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(effect, value, &mut bytes);
        bytes
    }

    #[test]
    fn entries_that_follow_one_another_are_read_as_they_were_written() {
        let value = vec![7; 300];
        let contents: Vec<u8> = effects().into_iter().flat_map(|effect| encoded(effect, &value)).collect();

        let read: Vec<Entry<'_>> = Entries::new(&contents).map(Result::unwrap).collect();

        assert_eq!(read.iter().map(|entry| entry.effect).collect::<Vec<_>>(), effects());
        for entry in read {
            assert_eq!(entry.value.len(), if matches!(entry.effect, Effect::Put { .. }) { 300 } else { 0 });
            assert_eq!(entry_bytes(entry.bytes), Ok(entry.bytes.len()));
        }
    }

    #[test]
    fn no_part_of_an_entry_is_an_entry() {
        for effect in effects() {
            let bytes = encoded(effect, b"value");
            for len in 1..bytes.len() {
                let read = Entries::new(&bytes[..len]).collect::<Vec<_>>();
                assert_eq!(read, [Err(Malformed)], "{effect:?}, {len} bytes");
            }
        }
    }

    #[test]
    fn a_reference_to_a_young_message_takes_a_few_bytes() {
        let key = Key::Reference(SessionId(10_000), MessageId(1_000_000));

        assert_eq!(encoded(Effect::Put { key, shared: false }, &[0]).len(), 8);
        assert_eq!(encoded(Effect::Removed(key), &[]).len(), 6);
    }

    #[test]
    fn what_no_entry_has_is_refused() {
        let unknown: [&[u8]; 6] = [
            &[0],
            &[SESSION | 1 << 5, 1, 0],
            &[SESSION | SHARED, 1, 0],
            &[REFERENCE | SHARED | REMOVED, 1, 1],
            &[RECEIVED, 1, 0, 0],
            &[BODY, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0],
        ];
        for bytes in unknown {
            assert_eq!(Entries::new(bytes).next(), Some(Err(Malformed)), "{bytes:?}");
        }
    }

    #[test]
    fn names_of_any_length_have_keys_of_one_length() {
        let long = "x".repeat(65_535);

        assert_ne!(Name::of(&long), Name::of(&long[1..]));
        assert_eq!(encoded(Effect::Removed(Key::Retained(Name::of(&long))), &[]).len(), 17);
    }

    proptest! {
        #[test]
        fn any_bytes_give_entries_that_make_up_these_bytes_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut read = 0;
            for entry in Entries::new(&bytes) {
                match entry {
                    Ok(entry) => {
                        prop_assert!(bytes[read..].starts_with(entry.bytes));
                        read += entry.bytes.len();
                    }
                    Err(Malformed) => return Ok(()),
                }
            }
            prop_assert!(read == bytes.len());
        }
    }
}
