//! The one-byte registries of VEIL-1: suites, schemes, and the key identifier.
//!
//! Owns the numbers and what follows from them alone (tag lengths). Unknown numbers are refused.

use core::{fmt, str::FromStr};

/// The Authentication Method that selects the channel (VEIL-1 section 4).
pub const AUTHENTICATION_METHOD: &str = "VEIL-1";

/// The protocol version carried in every handshake message.
pub const VERSION: u8 = 1;

/// The cipher suites every party implements (VEIL-1 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-CBC, then HMAC-SHA-256 under a separate key; 32-byte tags.
    Aes256CbcHmacSha256 = 1,
    /// AES-256-GCM; 16-byte tags.
    Aes256Gcm = 2,
    /// ChaCha20-Poly1305; 16-byte tags.
    ChaCha20Poly1305 = 3,
}

impl Suite {
    /// Every suite, in registry order.
    pub const ALL: [Self; 3] = [Self::Aes256CbcHmacSha256, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// The registry number.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// The length of its authentication tag, in bytes.
    #[must_use]
    pub const fn tag_len(self) -> usize {
        match self {
            Self::Aes256CbcHmacSha256 => 32,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 16,
        }
    }
}

/// A registry number this implementation does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {registry} {value:#04x}")]
pub struct UnknownValue {
    /// Which registry.
    pub registry: &'static str,
    /// The number received.
    pub value: u8,
}

impl TryFrom<u8> for Suite {
    type Error = UnknownValue;

    fn try_from(value: u8) -> Result<Self, UnknownValue> {
        match value {
            1 => Ok(Self::Aes256CbcHmacSha256),
            2 => Ok(Self::Aes256Gcm),
            3 => Ok(Self::ChaCha20Poly1305),
            value => Err(UnknownValue { registry: "suite", value }),
        }
    }
}

/// The four schemes of the paper, as selected per connection (VEIL-1 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Scheme {
    /// Plain MQTT after an authenticated CONNECT.
    One = 1,
    /// Every packet encrypted under the keys of its connection.
    Two = 2,
    /// Encrypted up; fan-out encrypted under a broker group key.
    Three = 3,
    /// Integrity only; the default, with digest fan-out.
    Four = 4,
}

impl Scheme {
    /// The registry number.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// Whether packets travel in records after CONNACK; Scheme 1 leaves MQTT plain.
    #[must_use]
    pub const fn is_framed(self) -> bool {
        !matches!(self, Self::One)
    }
}

impl TryFrom<u8> for Scheme {
    type Error = UnknownValue;

    fn try_from(value: u8) -> Result<Self, UnknownValue> {
        match value {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            3 => Ok(Self::Three),
            4 => Ok(Self::Four),
            value => Err(UnknownValue { registry: "scheme", value }),
        }
    }
}

/// A set of schemes: bit 0 is Scheme 1, bit 3 is Scheme 4 (VEIL-1 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Schemes(u8);

impl Schemes {
    /// No scheme.
    pub const NONE: Self = Self(0);
    /// All four.
    pub const ALL: Self = Self(0x0F);

    /// The set of the given schemes.
    #[must_use]
    pub fn of(schemes: &[Scheme]) -> Self {
        schemes.iter().copied().collect()
    }

    /// The bits as they travel in a ClientHello.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether `scheme` is in the set.
    #[must_use]
    pub const fn contains(self, scheme: Scheme) -> bool {
        self.0 & (1 << (scheme.value() - 1)) != 0
    }

    /// Whether no scheme is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The schemes in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The scheme with the highest number, which is the order a broker prefers them in.
    #[must_use]
    pub fn highest(self) -> Option<Scheme> {
        [Scheme::Four, Scheme::Three, Scheme::Two, Scheme::One]
            .into_iter()
            .find(|scheme| self.contains(*scheme))
    }
}

impl FromIterator<Scheme> for Schemes {
    fn from_iter<I: IntoIterator<Item = Scheme>>(schemes: I) -> Self {
        Self(schemes.into_iter().fold(0, |bits, scheme| bits | 1 << (scheme.value() - 1)))
    }
}

impl TryFrom<u8> for Schemes {
    type Error = UnknownValue;

    fn try_from(value: u8) -> Result<Self, UnknownValue> {
        if value & !Self::ALL.0 == 0 {
            Ok(Self(value))
        } else {
            Err(UnknownValue { registry: "scheme set", value })
        }
    }
}

/// A key identifier: the first 8 bytes of `H("veil1 kid" || ed25519_pub)` (VEIL-1 section 3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kid([u8; 8]);

impl Kid {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// Takes the eight bytes as they are; computing them needs feature `channel`.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The eight bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key identifier is 16 hexadecimal digits")]
pub struct ParseKidError;

impl FromStr for Kid {
    type Err = ParseKidError;

    fn from_str(text: &str) -> Result<Self, ParseKidError> {
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseKidError);
        }
        let number = u64::from_str_radix(text, 16).map_err(|_| ParseKidError)?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn kid_text_is_sixteen_hexadecimal_digits_both_ways() {
        let kid: Kid = "00b3d9f1b4d6e446".parse().unwrap();

        assert_eq!(kid.as_bytes(), &[0, 0xb3, 0xd9, 0xf1, 0xb4, 0xd6, 0xe4, 0x46]);
        assert_eq!(kid.to_string(), "00b3d9f1b4d6e446");
        for wrong in ["", "00b3d9f1b4d6e44", "00b3d9f1b4d6e4466", "+0b3d9f1b4d6e446", "zzb3d9f1b4d6e446"] {
            assert_eq!(wrong.parse::<Kid>(), Err(ParseKidError), "{wrong}");
        }
    }

    #[test]
    fn scheme_sets_know_their_members_and_refuse_reserved_bits() {
        let set = Schemes::of(&[Scheme::Two, Scheme::Four]);

        assert_eq!(set.bits(), 0b1010);
        assert!(set.contains(Scheme::Four) && !set.contains(Scheme::One));
        assert_eq!(set.highest(), Some(Scheme::Four));
        assert_eq!(Schemes::NONE.highest(), None);
        assert!(Schemes::try_from(0x10).is_err());
    }
}
