//! KEYHEAD: what an issuer says about one epoch of one scope (VEIL-1 section 9.2).
//!
//! Holds no key, only a commitment to it. Invariant: times ascend, the scope is a Topic Filter that names topics, and the
//! bytes end with the signature, which nothing here has verified.

use alloc::{string::String, vec::Vec};

use super::{
    DistributionError, read_type,
    signed::{SIGNATURE_LEN, Signed, skip_signature},
    text,
};
use crate::{
    TopicFilter,
    veil::{
        envelope::MAGIC,
        layout::{Reader, put_v8, put_v16},
        registry::{Kid, Suite},
        vmc::Certificate,
    },
};

const KEYHEAD: u8 = 0x13;
/// The longest KEYHEAD without its bundle, in bytes (VEIL-1 section 17).
const HEAD_BYTES_MAX: usize = 8192;

/// How group keys are wrapped: HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256) and HKDF-SHA256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WrapSuite {
    /// With AES-256-GCM.
    Aes256Gcm = 1,
    /// With ChaCha20-Poly1305.
    ChaCha20Poly1305 = 2,
}

/// The flag byte of a KEYHEAD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyHeadFlags(u8);

impl KeyHeadFlags {
    /// b0: a bundle of wraps follows the signature.
    pub const BUNDLE: Self = Self(0x01);
    /// b1: the issuer is a key authority.
    pub const AUTHORITY: Self = Self(0x02);
    /// b2: each wrap is retained on a topic of its own.
    pub const SHARDED: Self = Self(0x04);
    /// b3: the epoch was announced before; this says it again, or for another roster.
    pub const REISSUE: Self = Self(0x08);
    /// b4: members refuse messages without a source signature.
    pub const SIGNED_ONLY: Self = Self(0x10);
    /// b5: earlier epochs are gone once this one is active, without a transition window.
    pub const NO_TRANSITION: Self = Self(0x20);
    const KNOWN: u8 = 0x3F;

    /// Returns the flag byte.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns these flags with those of `other` set if `condition` holds.
    #[must_use]
    pub const fn with(self, other: Self, condition: bool) -> Self {
        if condition { Self(self.0 | other.0) } else { self }
    }
}

/// What a KEYHEAD says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHeadFields {
    /// How the wraps are made.
    pub wrap_suite: WrapSuite,
    /// The flags.
    pub flags: KeyHeadFlags,
    /// First 4 bytes of `H("veil1 scope" || scope)`.
    pub scope_tag: [u8; 4],
    /// The epoch, at least 1.
    pub epoch: u32,
    /// Key identifier of the issuer; that of `certificate`.
    pub issuer: Kid,
    /// When this head was made, unix milliseconds.
    pub created_ms: u64,
    /// When sending under this epoch begins, unix milliseconds.
    pub activate_ms: u64,
    /// When live messages under this epoch are accepted no longer, at the latest; unix milliseconds.
    pub retire_ms: u64,
    /// When the key is erased, at the latest; unix milliseconds.
    pub drop_ms: u64,
    /// The suites messages may be sealed with.
    pub message_suites: Vec<Suite>,
    /// The scope.
    pub scope: String,
    /// `kc`, the commitment to the group key.
    pub commitment: [u8; 32],
    /// What the epoch before is known by, [`KeyHeadFields::link`], or zero.
    pub previous: [u8; 32],
    /// The Merkle root of the roster.
    pub roster_root: [u8; 32],
    /// How many members the roster has.
    pub member_count: u16,
    /// The certificate of the issuer.
    pub certificate: Certificate,
}

impl KeyHeadFields {
    /// Builds the bytes an issuer signs.
    ///
    /// # Errors
    /// Whatever [`KeyHead::parse`] would find wrong.
    pub fn to_be_signed(&self) -> Result<Vec<u8>, DistributionError> {
        self.check()?;
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[KEYHEAD, self.wrap_suite as u8, self.flags.bits()]);
        out.extend_from_slice(&self.scope_tag);
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(self.issuer.as_bytes());
        for moment in [self.created_ms, self.activate_ms, self.retire_ms, self.drop_ms] {
            out.extend_from_slice(&moment.to_be_bytes());
        }
        let suites: Vec<u8> = self.message_suites.iter().map(|suite| suite.value()).collect();
        put_v8(&mut out, &suites, "message suites")?;
        put_v16(&mut out, self.scope.as_bytes(), "scope")?;
        for field in [&self.commitment, &self.previous, &self.roster_root] {
            out.extend_from_slice(field);
        }
        out.extend_from_slice(&self.member_count.to_be_bytes());
        put_v16(&mut out, self.certificate.as_bytes(), "issuer certificate")?;
        if out.len() + SIGNATURE_LEN > HEAD_BYTES_MAX {
            return Err(DistributionError::Value("length"));
        }
        Ok(out)
    }

    fn check(&self) -> Result<(), DistributionError> {
        if self.flags.bits() & !KeyHeadFlags::KNOWN != 0 {
            return Err(DistributionError::Value("flags"));
        }
        if self.epoch == 0 {
            return Err(DistributionError::Value("epoch"));
        }
        if self.activate_ms > self.retire_ms || self.retire_ms > self.drop_ms {
            return Err(DistributionError::Value("times"));
        }
        if self.message_suites.is_empty() {
            return Err(DistributionError::Value("message suites"));
        }
        match TopicFilter::new(&self.scope) {
            Ok(filter) if filter.shared().is_none() => Ok(()),
            Ok(_) | Err(_) => Err(DistributionError::Value("scope")),
        }
    }
}

/// A KEYHEAD.
pub type KeyHead = Signed<KeyHeadFields>;

impl KeyHead {
    /// Parses a KEYHEAD and returns it with what follows: its bundle, if it has one. Nothing is verified here.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn parse(payload: &[u8]) -> Result<(Self, &[u8]), DistributionError> {
        let mut reader = Reader::new(payload);
        read_type(&mut reader, KEYHEAD)?;
        let wrap_suite = match reader.u8("wrap suite")? {
            1 => WrapSuite::Aes256Gcm,
            2 => WrapSuite::ChaCha20Poly1305,
            _ => return Err(DistributionError::Value("wrap suite")),
        };
        let fields = KeyHeadFields {
            wrap_suite,
            flags: KeyHeadFlags(reader.u8("flags")?),
            scope_tag: reader.array("scope tag")?,
            epoch: reader.u32("epoch")?,
            issuer: Kid::from_bytes(reader.array("issuer")?),
            created_ms: reader.u64("created")?,
            activate_ms: reader.u64("activate")?,
            retire_ms: reader.u64("retire")?,
            drop_ms: reader.u64("drop")?,
            message_suites: suites(reader.v8("message suites")?)?,
            scope: text(reader.v16("scope")?, "scope")?,
            commitment: reader.array("commitment")?,
            previous: reader.array("previous")?,
            roster_root: reader.array("roster root")?,
            member_count: reader.u16("member count")?,
            certificate: Certificate::parse(reader.v16("issuer certificate")?)?,
        };
        skip_signature(&mut reader)?;
        fields.check()?;
        if reader.offset() > HEAD_BYTES_MAX {
            return Err(DistributionError::Value("length"));
        }
        let (bytes, rest) = payload.split_at(reader.offset());
        Ok((Self::new(fields, bytes), rest))
    }
}

/// Suites this version does not know are passed over: a later version may allow more.
fn suites(values: &[u8]) -> Result<Vec<Suite>, DistributionError> {
    let known: Vec<Suite> = values.iter().filter_map(|value| Suite::try_from(*value).ok()).collect();
    if known.is_empty() { Err(DistributionError::Value("message suites")) } else { Ok(known) }
}
