//! Wraps: the group key encrypted for one member, and the bundle of them behind a KEYHEAD (VEIL-1 section 9.2).
//!
//! A wrap carries no signature: a false one gives a key that the commitment in the signed head exposes. Invariant: the length
//! of a ciphertext is that of at least one key.

use alloc::vec::Vec;

use super::DistributionError;
use crate::veil::{layout::Reader, registry::Kid};

/// The largest bundle; with more members each wrap has a topic of its own.
pub const BUNDLE_MEMBERS_MAX: usize = 64;
/// Everything but the ciphertext: kid, kind, prekey id, encapsulated key.
const CLEAR_LEN: usize = 8 + 1 + 4 + 32;
/// A ciphertext with one key: count, epoch, key, tag.
const CIPHERTEXT_LEN_MIN: usize = 1 + 4 + 32 + 16;

/// Which key of the member a wrap was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WrapKind {
    /// The X25519 key of its certificate: no forward secrecy.
    Static = 1,
    /// A prekey.
    Prekey = 2,
}

/// One member's wrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrap {
    /// The member.
    pub kid: Kid,
    /// Which of its keys.
    pub kind: WrapKind,
    /// The number of the prekey; 0 with the static key.
    pub prekey_id: u32,
    /// The encapsulated key of HPKE.
    pub encapsulated: [u8; 32],
    /// The ciphertext of HPKE, tag included.
    pub ciphertext: Vec<u8>,
}

impl Wrap {
    /// Parses a wrap that stands alone.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, DistributionError> {
        let mut reader = Reader::new(bytes);
        let kid = Kid::from_bytes(reader.array("member")?);
        let kind = match reader.u8("wrap kind")? {
            1 => WrapKind::Static,
            2 => WrapKind::Prekey,
            _ => return Err(DistributionError::Value("wrap kind")),
        };
        let prekey_id = reader.u32("prekey id")?;
        let encapsulated = reader.array("encapsulated key")?;
        let ciphertext = reader.rest();
        if ciphertext.len() < CIPHERTEXT_LEN_MIN {
            return Err(DistributionError::Value("ciphertext"));
        }
        Ok(Self { kid, kind, prekey_id, encapsulated, ciphertext: ciphertext.into() })
    }

    /// Appends the wrap to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.kid.as_bytes());
        out.push(self.kind as u8);
        out.extend_from_slice(&self.prekey_id.to_be_bytes());
        out.extend_from_slice(&self.encapsulated);
        out.extend_from_slice(&self.ciphertext);
    }
}

/// Splits a bundle: `u16 n`, then `n` wraps of the same length.
///
/// # Errors
/// A [`DistributionError`] about shape, also of a single wrap.
pub fn bundle(bytes: &[u8]) -> Result<Vec<Wrap>, DistributionError> {
    let mut reader = Reader::new(bytes);
    let count = usize::from(reader.u16("bundle count")?);
    let wraps = reader.rest();
    if count == 0 || count > BUNDLE_MEMBERS_MAX {
        return if count == 0 && wraps.is_empty() {
            Ok(Vec::new())
        } else {
            Err(DistributionError::Value("bundle count"))
        };
    }
    if !wraps.len().is_multiple_of(count) || wraps.len() / count < CLEAR_LEN + CIPHERTEXT_LEN_MIN {
        return Err(DistributionError::Value("bundle length"));
    }
    wraps.chunks_exact(wraps.len() / count).map(Wrap::parse).collect()
}

/// Appends a bundle to `out`. The wraps hold as many keys each and are at most [`BUNDLE_MEMBERS_MAX`].
pub fn put_bundle(out: &mut Vec<u8>, wraps: &[Wrap]) {
    debug_assert!(wraps.len() <= BUNDLE_MEMBERS_MAX, "larger rosters are sharded");
    out.extend_from_slice(&u16::try_from(wraps.len()).unwrap_or(u16::MAX).to_be_bytes());
    for wrap in wraps {
        wrap.encode(out);
    }
}
