//! Public keys in PEM (RFC 7468 section 13), as tools write them that know nothing of JWKS.
//!
//! A file may hold several. They have no names, so a token with any name may be signed with them. Invariant: as for keys of JWKS the
//! type alone says which algorithm a key is for.

use std::path::Path;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::keys::{JwtError, Material, ed25519, rsa};
use crate::access::password_file::read_bytes;

/// RFC 3279 section 2.3.1.
const RSA: &str = "1.2.840.113549.1.1.1";
/// RFC 5480 section 2.1.1, and its curve P-256.
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
/// RFC 8410 section 3.
const ED25519: &str = "1.3.101.112";
/// An uncompressed point of P-256.
const POINT_BYTES: usize = 65;
const UNCOMPRESSED: u8 = 4;

/// Reads the public keys in a file.
///
/// # Errors
/// [`JwtError`], naming the file and which of its keys cannot be used.
pub(super) fn read(path: &Path) -> Result<Vec<Material>, JwtError> {
    let fault = |place: String, what: &str| JwtError::Key { path: path.into(), place, what: what.to_owned() };
    let bytes = read_bytes(path)?;
    let mut keys = Vec::new();
    for (index, section) in SubjectPublicKeyInfoDer::pem_slice_iter(&bytes).enumerate() {
        let place = || format!("key {}: ", index + 1);
        let section = section.map_err(|_| fault(place(), "it is malformed"))?;
        keys.push(material(&section).map_err(|what| fault(place(), what))?);
    }
    match keys.is_empty() {
        true => Err(fault(String::new(), "there is no PUBLIC KEY in it")),
        false => Ok(keys),
    }
}

fn material(der: &[u8]) -> Result<Material, &'static str> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| "it is malformed")?;
    let bytes = &*info.subject_public_key.data;
    let parameters = info.algorithm.parameters.as_ref();
    let curve = parameters.and_then(|any| any.as_oid().ok()).map(|curve| curve.to_id_string());
    match (info.algorithm.algorithm.to_id_string().as_str(), curve.as_deref()) {
        (RSA, _) => match info.parsed() {
            Ok(PublicKey::RSA(key)) => rsa(key.modulus, key.exponent),
            Ok(_) | Err(_) => Err("its RSA key is malformed"),
        },
        (EC, Some(P256)) => match bytes.len() == POINT_BYTES && bytes.first() == Some(&UNCOMPRESSED) {
            true => Ok(Material::Es256(bytes.to_vec())),
            false => Err("its point is not uncompressed"),
        },
        (ED25519, _) => ed25519(bytes.to_vec()),
        _ => Err("only RSA, EC with P-256 and Ed25519 are served"),
    }
}
