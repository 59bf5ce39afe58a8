//! The keys that signatures of tokens are checked with: those of a JWKS file (RFC 7517), and of files in PEM.
//!
//! Invariant: a key has one algorithm, which was settled when it was read, and checks signatures of no other.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde::{Deserialize, Deserializer};
use veilmq_config::JwtConfig;
use zeroize::Zeroizing;

use super::{TokenFault, pem};
use crate::access::authority;
use crate::access::password_file::read_bytes;
use crate::files::FileError;

/// RFC 7518 section 3.2: a key at least as long as the hash.
const SECRET_BYTES_MIN: usize = 32;
const KEYS_MAX: usize = 64;
/// RFC 7518 section 3.3.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;
const P256_BYTES: usize = 32;
const ED25519_BYTES: usize = 32;

/// Why keys for tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key is malformed, or cannot be used.
    #[error("{}: {place}{what}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Where in it, with `: ` behind it; empty for the file as a whole.
        place: String,
        /// What is wrong; without what is in the key.
        what: String,
    },
}

impl JwtError {
    /// Returns the file at fault.
    pub(in crate::access) fn path(&self) -> &Path {
        match self {
            Self::File(error) => error.path(),
            Self::Key { path, .. } => path,
        }
    }
}

/// The keys of all issuers.
pub(super) struct Keys {
    keys: Vec<Key>,
}

struct Key {
    /// Its name (`kid`), if it has one.
    name: Option<String>,
    material: Material,
    number: u64,
}

/// A key with what it can check.
#[derive(PartialEq, Eq)]
pub(super) enum Material {
    Hs256(Zeroizing<Vec<u8>>),
    Rs256 {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// The uncompressed point.
    Es256(Vec<u8>),
    EdDsa(Vec<u8>),
}

/// The first part of a token (RFC 7515 section 4.1); extensions that have to be understood are not.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

impl Material {
    const fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Rs256 { .. } => "RS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    fn is_signature(&self, message: &[u8], signature: &[u8]) -> bool {
        let plain = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match self {
            Self::Hs256(secret) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                ring::hmac::verify(&key, message, signature).is_ok()
            }
            Self::Rs256 { modulus, exponent } => RsaPublicKeyComponents { n: modulus, e: exponent }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Self::Es256(point) => plain(&ECDSA_P256_SHA256_FIXED, point),
            Self::EdDsa(key) => plain(&ED25519, key),
        }
    }
}

impl Keys {
    /// Reads the keys of all files that the configuration names. One that was known `earlier` keeps its number.
    ///
    /// # Errors
    /// [`JwtError`].
    pub(super) fn read(config: &JwtConfig, earlier: Option<&Self>) -> Result<Self, JwtError> {
        let mut found = config.jwks_file.as_deref().map(read_set).transpose()?.unwrap_or_default();
        for path in &config.key_files {
            found.extend(pem::read(path)?.into_iter().map(|material| (None, material)));
        }
        let keys = found.into_iter().map(|(name, material)| {
            let is_same = |key: &&Key| key.name == name && key.material == material;
            let same = earlier.and_then(|earlier| earlier.keys.iter().find(is_same));
            let number = same.map_or_else(authority::next, |key| key.number);
            Key { name, material, number }
        });
        Ok(Self { keys: keys.collect() })
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.keys.iter().map(|key| key.number)
    }

    /// Checks a signature, and returns the number of the key that made it.
    ///
    /// # Errors
    /// [`TokenFault`].
    pub(super) fn verify(&self, header: &str, signed: &str, signature: &str) -> Result<u64, TokenFault> {
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenFault::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenFault::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenFault::Malformed);
        }
        let signature = decode(signature)?;
        let is_meant = |key: &&Key| {
            let names = (&key.name, &header.kid);
            key.material.algorithm() == header.alg
                && !matches!(names, (Some(name), Some(wanted)) if name != wanted)
        };
        let mut meant = self.keys.iter().filter(is_meant).peekable();
        if meant.peek().is_none() {
            return Err(TokenFault::NoKey);
        }
        meant
            .find(|key| key.material.is_signature(signed.as_bytes(), &signature))
            .map(|key| key.number)
            .ok_or(TokenFault::Signature)
    }
}

/// A key of a JWKS file.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    #[serde(default, deserialize_with = "secret_text")]
    k: Option<Zeroizing<String>>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

fn secret_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Zeroizing::new))
}

fn read_set(path: &Path) -> Result<Vec<(Option<String>, Material)>, JwtError> {
    let fault = |place: String, what: String| JwtError::Key { path: path.into(), place, what };
    let bytes = Zeroizing::new(read_bytes(path)?);
    let set: JwkSet = serde_json::from_slice(&bytes)
        .map_err(|error| fault(String::new(), format!("it is no set of keys (line {})", error.line())))?;
    if set.keys.len() > KEYS_MAX {
        return Err(fault(String::new(), format!("it has more than {KEYS_MAX} keys")));
    }
    let mut keys = Vec::new();
    for (index, key) in set.keys.into_iter().enumerate() {
        // A key that encrypts signs nothing.
        if key.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            continue;
        }
        let material = key.material().map_err(|what| fault(format!("keys[{index}]: "), what.into()))?;
        if key.alg.as_deref().is_some_and(|algorithm| algorithm != material.algorithm()) {
            let what =
                format!("its algorithm is not {}, which keys of its type are for", material.algorithm());
            return Err(fault(format!("keys[{index}]: "), what));
        }
        keys.push((key.kid, material));
    }
    if keys.is_empty() {
        return Err(fault(String::new(), "it has no key that signs".into()));
    }
    Ok(keys)
}

impl Jwk {
    fn material(&self) -> Result<Material, &'static str> {
        let bytes = |member: &Option<String>, error: &'static str| {
            let text = member.as_ref().ok_or(error)?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| error)
        };
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => rsa(&bytes(&self.n, "`n` is malformed")?, &bytes(&self.e, "`e` is malformed")?),
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(&self.x, "`x` is malformed")?, bytes(&self.y, "`y` is malformed")?);
                if (x.len(), y.len()) != (P256_BYTES, P256_BYTES) {
                    return Err("`x` or `y` has the wrong length");
                }
                Ok(Material::Es256([&[4], x.as_slice(), y.as_slice()].concat()))
            }
            ("OKP", Some("Ed25519")) => ed25519(bytes(&self.x, "`x` is malformed")?),
            ("oct", _) => {
                let text = self.k.as_ref().ok_or("`k` is malformed")?;
                secret(Zeroizing::new(URL_SAFE_NO_PAD.decode(text.as_str()).map_err(|_| "`k` is malformed")?))
            }
            _ => Err("only RSA, EC with P-256, OKP with Ed25519 and oct are served"),
        }
    }
}

/// # Errors
/// It has too few bits, or too many.
pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Material, &'static str> {
    let without_zeros = |number: &[u8]| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number.get(zeros..).unwrap_or_default().to_vec()
    };
    let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
    if !RSA_BYTES.contains(&modulus.len()) {
        return Err("its RSA key has less than 2048 bits, or more than 8192");
    }
    Ok(Material::Rs256 { modulus, exponent })
}

/// # Errors
/// It has another length than such keys have.
pub(super) fn ed25519(key: Vec<u8>) -> Result<Material, &'static str> {
    if key.len() == ED25519_BYTES {
        Ok(Material::EdDsa(key))
    } else {
        Err("its Ed25519 key has the wrong length")
    }
}

fn secret(secret: Zeroizing<Vec<u8>>) -> Result<Material, &'static str> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err("its secret has less than 32 bytes");
    }
    Ok(Material::Hs256(secret))
}
