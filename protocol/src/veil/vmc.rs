//! VMC, the compact certificate: its byte layout (VEIL-1 section 3.1).
//!
//! Owns parsing and building of the bytes. It checks shape only; who signed what, and whether it is
//! still valid, is decided by [`channel`](super::channel) when that feature is present.
//! Invariant: the fields of a [`Certificate`] are those of its bytes, which is why they are read
//! through `Deref` and cannot be changed.

use super::{
    layout::{LayoutError, Reader, put_v8, put_v16},
    registry::Kid,
};
use crate::{TopicFilter, TopicName};
use alloc::{string::String, vec::Vec};
use core::{fmt, ops::Deref};

/// The first four bytes of every certificate.
pub const MAGIC: [u8; 4] = *b"VMC1";
/// The longest certificate accepted, in bytes (VEIL-1 section 17).
pub const CERTIFICATE_BYTES_MAX: usize = 4096;
/// The longest subject, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 64;
/// The length of the signature that ends a certificate.
pub const SIGNATURE_LEN: usize = 64;

const EXTENSION_PUBLISH_SCOPES: u8 = 0x01;
const EXTENSION_SUBSCRIBE_SCOPES: u8 = 0x02;
const EXTENSION_PATH_LENGTH: u8 = 0x04;
const EXTENSION_REVOCATION_TOPIC: u8 = 0x05;
const EXTENSION_CRITICAL: u8 = 0x80;

/// What a certificate allows its subject to be; a set of flag bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// No role.
    pub const NONE: Self = Self(0);
    /// May issue certificates.
    pub const CA: Self = Self(1);
    /// May answer a handshake as the broker.
    pub const BROKER: Self = Self(1 << 1);
    /// May publish.
    pub const PUBLISHER: Self = Self(1 << 2);
    /// May receive keys.
    pub const SUBSCRIBER: Self = Self(1 << 3);
    /// May issue group keys for several publishers.
    pub const KEY_AUTHORITY: Self = Self(1 << 4);
    /// May sign rosters.
    pub const POLICY_AUTHORITY: Self = Self(1 << 5);
    /// Any role a client of the broker can have; one of them is needed to connect.
    pub const CLIENT: Self =
        Self(Self::PUBLISHER.0 | Self::SUBSCRIBER.0 | Self::KEY_AUTHORITY.0 | Self::POLICY_AUTHORITY.0);

    const KNOWN: u8 = 0x3F;
    const NAMES: [&'static str; 6] =
        ["ca", "broker", "publisher", "subscriber", "key-authority", "policy-authority"];

    /// The flag byte.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Takes the flag byte of a certificate; `None` when a reserved bit is set.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !Self::KNOWN == 0 { Some(Self(bits)) } else { None }
    }

    /// Whether all of `other` are in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in this set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The roles in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl core::ops::BitOr for Roles {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (bit, name) in Self::NAMES.iter().enumerate() {
            if self.0 & 1 << bit != 0 {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roles({self})")
    }
}

/// Why a certificate is refused, in the order of VEIL-1 section 3.1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The bytes do not have the layout.
    #[error("certificate layout: {0}")]
    Layout(#[from] LayoutError),
    /// Longer than [`CERTIFICATE_BYTES_MAX`].
    #[error("certificate of {0} bytes is above the limit of {CERTIFICATE_BYTES_MAX}")]
    TooLong(usize),
    /// It does not begin with [`MAGIC`].
    #[error("certificate does not begin with VMC1")]
    Magic,
    /// A reserved flag bit is set.
    #[error("certificate flags {0:#04x} have a reserved bit")]
    ReservedFlags(u8),
    /// It ends before it begins.
    #[error("certificate validity ends before it begins")]
    ValidityInverted,
    /// The subject is not 1..=64 bytes of UTF-8 without U+0000.
    #[error("certificate subject is not 1..=64 bytes of UTF-8 without U+0000")]
    Subject,
    /// The extension types do not ascend strictly.
    #[error("certificate extension {0:#04x} is out of order or repeated")]
    ExtensionOrder(u8),
    /// A known extension has a malformed value.
    #[error("certificate extension {0:#04x} is malformed")]
    ExtensionValue(u8),
    /// An unknown extension that must be understood (type with bit 7).
    #[error("certificate extension {0:#04x} is critical and unknown")]
    ExtensionCritical(u8),
    /// No trust anchor has the issuer's key identifier.
    #[error("certificate issuer {0} is not trusted")]
    UnknownIssuer(Kid),
    /// The issuer named in the certificate is not the one it is verified against.
    #[error("certificate names issuer {named}, not {given}")]
    WrongIssuer {
        /// The issuer in the certificate.
        named: Kid,
        /// The certificate it was verified against.
        given: Kid,
    },
    /// The issuer has no CA role.
    #[error("certificate issuer {0} is not a CA")]
    IssuerNotCa(Kid),
    /// More issuing CAs than the root, or the protocol, allows.
    #[error("certificate chain below {0} is too long")]
    PathLength(Kid),
    /// The moment lies before `not_before`.
    #[error("certificate is not valid yet")]
    NotYetValid,
    /// The moment lies after `not_after`.
    #[error("certificate has expired")]
    Expired,
    /// The issuer's signature does not verify.
    #[error("certificate signature is wrong")]
    Signature,
    /// It has none of the roles this protocol step needs.
    #[error("certificate has none of the roles {needed}")]
    Role {
        /// Any one of these would do.
        needed: Roles,
    },
    /// It is on the issuer's revocation list.
    #[error("certificate {serial} of issuer {issuer} is revoked")]
    Revoked {
        /// The issuer.
        issuer: Kid,
        /// The serial number.
        serial: u64,
    },
    /// The subject is not the expected name.
    #[error("certificate subject is not the expected name")]
    WrongSubject,
    /// The private keys are not those of the certificate.
    #[error("the private keys do not belong to the certificate")]
    KeyMismatch,
}

/// What a certificate says, apart from who says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFields {
    /// What the subject may be.
    pub roles: Roles,
    /// Unique per issuer; what a revocation list names.
    pub serial: u64,
    /// First second of validity, unix seconds.
    pub not_before: u64,
    /// Last second of validity, unix seconds.
    pub not_after: u64,
    /// The identity key: signs.
    pub ed25519: [u8; 32],
    /// The static key agreement key: receives wrapped keys.
    pub x25519: [u8; 32],
    /// The MQTT Client Identifier, or the name of the broker.
    pub subject: String,
    /// Topic Filters the subject may publish to and issue keys for (extension 0x01).
    pub publish_scopes: Vec<String>,
    /// Topic Filters the subject may receive keys for (extension 0x02).
    pub subscribe_scopes: Vec<String>,
    /// How many CAs may follow below this CA (extension 0x04).
    pub path_length: Option<u8>,
    /// Where the issuer's revocation list is retained (extension 0x05).
    pub revocation_topic: Option<String>,
}

impl CertificateFields {
    /// Builds the bytes an issuer signs: everything but the signature.
    ///
    /// # Errors
    /// Whatever [`Certificate::parse`] would find wrong with the shape.
    pub fn to_be_signed(&self, issuer: Kid) -> Result<Vec<u8>, CertificateError> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&MAGIC);
        out.push(self.roles.bits());
        out.extend_from_slice(&self.serial.to_be_bytes());
        out.extend_from_slice(&self.not_before.to_be_bytes());
        out.extend_from_slice(&self.not_after.to_be_bytes());
        out.extend_from_slice(&self.ed25519);
        out.extend_from_slice(&self.x25519);
        out.extend_from_slice(issuer.as_bytes());
        put_v8(&mut out, self.subject.as_bytes(), "subject")?;
        put_v16(&mut out, &self.extensions()?, "extensions")?;
        self.check()?;
        match out.len() + SIGNATURE_LEN {
            len if len > CERTIFICATE_BYTES_MAX => Err(CertificateError::TooLong(len)),
            _ => Ok(out),
        }
    }

    fn extensions(&self) -> Result<Vec<u8>, CertificateError> {
        let mut out = Vec::new();
        let mut put = |kind: u8, value: &[u8]| {
            out.push(kind);
            put_v16(&mut out, value, "extension")
        };
        for (kind, scopes) in [
            (EXTENSION_PUBLISH_SCOPES, &self.publish_scopes),
            (EXTENSION_SUBSCRIBE_SCOPES, &self.subscribe_scopes),
        ] {
            if !scopes.is_empty() {
                let mut value = Vec::new();
                for scope in scopes {
                    put_v16(&mut value, scope.as_bytes(), "scope")?;
                }
                put(kind, &value)?;
            }
        }
        if let Some(length) = self.path_length {
            put(EXTENSION_PATH_LENGTH, &[length])?;
        }
        if let Some(topic) = &self.revocation_topic {
            put(EXTENSION_REVOCATION_TOPIC, topic.as_bytes())?;
        }
        Ok(out)
    }

    /// The checks shared by parsing and building that the layout alone does not make.
    fn check(&self) -> Result<(), CertificateError> {
        if self.not_after < self.not_before {
            return Err(CertificateError::ValidityInverted);
        }
        let subject = self.subject.as_bytes();
        if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX || subject.contains(&0) {
            return Err(CertificateError::Subject);
        }
        for (kind, scopes) in [
            (EXTENSION_PUBLISH_SCOPES, &self.publish_scopes),
            (EXTENSION_SUBSCRIBE_SCOPES, &self.subscribe_scopes),
        ] {
            if !scopes.iter().all(|scope| is_scope(scope)) {
                return Err(CertificateError::ExtensionValue(kind));
            }
        }
        match &self.revocation_topic {
            Some(topic) if TopicName::new(topic).is_err() => {
                Err(CertificateError::ExtensionValue(EXTENSION_REVOCATION_TOPIC))
            }
            _ => Ok(()),
        }
    }

    fn read_extensions(&mut self, bytes: &[u8]) -> Result<(), CertificateError> {
        let mut reader = Reader::new(bytes);
        let mut previous = None;
        while reader.remaining() > 0 {
            let kind = reader.u8("extension")?;
            let value = reader.v16("extension")?;
            if previous.is_some_and(|previous| previous >= kind) {
                return Err(CertificateError::ExtensionOrder(kind));
            }
            previous = Some(kind);
            self.read_extension(kind, value)?;
        }
        Ok(())
    }

    fn read_extension(&mut self, kind: u8, value: &[u8]) -> Result<(), CertificateError> {
        let malformed = CertificateError::ExtensionValue(kind);
        match kind {
            EXTENSION_PUBLISH_SCOPES => self.publish_scopes = read_scopes(value).ok_or(malformed)?,
            EXTENSION_SUBSCRIBE_SCOPES => {
                self.subscribe_scopes = read_scopes(value).ok_or(malformed)?;
            }
            EXTENSION_PATH_LENGTH => {
                let [length] = value else {
                    return Err(malformed);
                };
                self.path_length = Some(*length);
            }
            EXTENSION_REVOCATION_TOPIC => {
                let topic = core::str::from_utf8(value).map_err(|_| malformed)?;
                self.revocation_topic = Some(topic.into());
            }
            kind if kind & EXTENSION_CRITICAL != 0 => {
                return Err(CertificateError::ExtensionCritical(kind));
            }
            _ => {}
        }
        Ok(())
    }
}

/// A scope is a Topic Filter (VEIL-1 section 8.1); it names topics, so it is not shared.
fn is_scope(scope: &str) -> bool {
    TopicFilter::new(scope).is_ok_and(|filter| filter.shared().is_none())
}

/// Whether every topic that `inner` matches is matched by `outer`; what is no Topic Filter covers nothing.
#[must_use]
pub fn scope_covers(outer: &str, inner: &str) -> bool {
    if !is_scope(outer) || !is_scope(inner) {
        return false;
    }
    // [MQTT-4.7.2-1] A wildcard at the first level does not match names that begin with `$`.
    if inner.starts_with('$') && outer.starts_with(['#', '+']) {
        return false;
    }
    let (mut outer, mut inner) = (outer.split('/'), inner.split('/'));
    loop {
        match (outer.next(), inner.next()) {
            (Some("#"), _) | (None, None) => return true,
            (_, Some("#")) | (None, Some(_)) | (Some(_), None) => return false,
            (Some("+"), Some(_)) => {}
            (Some(outer), Some(inner)) if outer == inner => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

fn read_scopes(value: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::new(value);
    let mut scopes = Vec::new();
    while reader.remaining() > 0 {
        let scope = core::str::from_utf8(reader.v16("scope").ok()?).ok()?;
        scopes.push(scope.into());
    }
    (!scopes.is_empty()).then_some(scopes)
}

/// A certificate: what was signed, by whom, and the bytes themselves.
///
/// Its fields are read through `Deref` to [`CertificateFields`].
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    fields: CertificateFields,
    issuer: Kid,
    bytes: Vec<u8>,
}

impl Certificate {
    /// Parses a certificate; the signature is not verified here.
    ///
    /// # Errors
    /// A [`CertificateError`] about shape: layout, magic, flags, subject or extensions.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertificateError::TooLong(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        if reader.array("magic")? != MAGIC {
            return Err(CertificateError::Magic);
        }
        let flags = reader.u8("flags")?;
        let mut fields = CertificateFields {
            roles: Roles::from_bits(flags).ok_or(CertificateError::ReservedFlags(flags))?,
            serial: reader.u64("serial")?,
            not_before: reader.u64("not_before")?,
            not_after: reader.u64("not_after")?,
            ed25519: reader.array("ed25519")?,
            x25519: reader.array("x25519")?,
            subject: String::new(),
            publish_scopes: Vec::new(),
            subscribe_scopes: Vec::new(),
            path_length: None,
            revocation_topic: None,
        };
        let issuer = Kid::from_bytes(reader.array("issuer")?);
        let subject = core::str::from_utf8(reader.v8("subject")?);
        fields.subject = subject.map_err(|_| CertificateError::Subject)?.into();
        let extensions = reader.v16("extensions")?;
        reader.take(SIGNATURE_LEN, "signature")?;
        reader.finish()?;
        fields.read_extensions(extensions)?;
        fields.check()?;
        Ok(Self { fields, issuer, bytes: bytes.into() })
    }

    /// The key identifier of who signed it.
    #[must_use]
    pub const fn issuer(&self) -> Kid {
        self.issuer
    }

    /// The certificate as it travels.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes the signature covers, and the signature.
    #[must_use]
    pub fn signed_parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.bytes.len().saturating_sub(SIGNATURE_LEN))
    }
}

impl Deref for Certificate {
    type Target = CertificateFields;

    fn deref(&self) -> &CertificateFields {
        &self.fields
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.fields.subject)
            .field("roles", &self.fields.roles)
            .field("serial", &self.fields.serial)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}
