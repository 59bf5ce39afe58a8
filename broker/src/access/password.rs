//! One password as a file keeps it: a salted hash in one of the formats that Mosquitto and its authentication plug-in write.
//!
//! Invariant: what a hash costs to check is bounded when it is read, so that a line of a file can neither stop the broker nor
//! take its memory. Comparison takes the same time wherever the first difference is.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD, STANDARD_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use pbkdf2::pbkdf2_hmac;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// About a second and a half of one core.
const ITERATIONS_MAX: u32 = 2_000_000;
const ARGON2_KIBIBYTES_MAX: u32 = 256 * 1024;
/// Passes over that memory, times the memory: about a second of one core.
const ARGON2_WORK_KIBIBYTES_MAX: u64 = 1024 * 1024;
const ARGON2_LANES_MAX: u32 = 16;
const SALT_BYTES_MAX: usize = 1_024;
const DIGEST_BYTES: std::ops::RangeInclusive<usize> = 16..=128;
const SHA512_BYTES: usize = 64;

/// Below this many iterations PBKDF2 is weak (OWASP, 2023, asks for 210,000 with SHA-512).
const STRONG_ITERATIONS_MIN: u32 = 100_000;
const NEW_ITERATIONS: u32 = 210_000;
const NEW_SALT_BYTES: usize = 16;
/// What OWASP recommends for Argon2id: 19 MiB, two passes, one lane.
const NEW_ARGON2: (u32, u32, u32) = (19 * 1024, 2, 1);
const NEW_ARGON2_DIGEST_BYTES: usize = 32;

const PHC_BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A salted hash of a password. It can be checked and written, but not printed or copied.
pub struct PasswordHash {
    method: Method,
    salt: Vec<u8>,
    digest: Zeroizing<Vec<u8>>,
}

enum Method {
    /// `$6$`: SHA-512 of the password and the salt. Old, and cheap to try passwords against.
    Sha512,
    /// `$7$`, or `PBKDF2$` of mosquitto-go-auth.
    Pbkdf2 { hash: Sha2, iterations: u32, is_go_auth: bool },
    /// `$argon2id$`, a PHC string.
    Argon2id(Params),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sha2 {
    Sha256,
    Sha512,
}

/// How a new password is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// SHA-512, as Mosquitto did before 2.0. Weak.
    Sha512,
    /// PBKDF2 with SHA-512, as Mosquitto does since 2.0.
    Pbkdf2 {
        /// Iterations; None takes a number that is strong today.
        iterations: Option<u32>,
    },
    /// Argon2id, as Mosquitto can since 2.1.
    Argon2id,
}

/// Why a text is not the hash of a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordHashError {
    /// It begins like none of the formats.
    #[error("it is not a password hash ($6$, $7$, $argon2id$ or PBKDF2$)")]
    Unknown,
    /// A field is missing, or there is one too many.
    #[error("the password hash does not have the fields of its format")]
    Fields,
    /// A field is not what it should be.
    #[error("the {0} of the password hash is malformed")]
    Field(&'static str),
    /// Checking it would take too long, or too much memory.
    #[error("the {what} of the password hash is {given}; at most {allowed} is taken")]
    TooExpensive {
        /// What is too much.
        what: &'static str,
        /// How much it is.
        given: u64,
        /// How much would do.
        allowed: u64,
    },
    /// The operating system gave no random salt.
    #[error("no random salt: {0}")]
    NoRandomness(String),
}

impl PasswordHash {
    /// Reads what stands behind the user name in a line of a password file.
    ///
    /// # Errors
    /// [`PasswordHashError`]; nothing of the hash is part of its text.
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        let fields: Vec<&str> = text.split('$').collect();
        match *fields.as_slice() {
            ["", "6", salt, digest] => Self::new(Method::Sha512, salt, digest, &STANDARD),
            ["", "7", iterations, salt, digest] => {
                let method =
                    Method::Pbkdf2 { hash: Sha2::Sha512, iterations: count(iterations)?, is_go_auth: false };
                Self::new(method, salt, digest, &STANDARD)
            }
            ["PBKDF2", hash, iterations, salt, digest] => {
                let hash = match hash {
                    "sha512" => Sha2::Sha512,
                    "sha256" => Sha2::Sha256,
                    _ => return Err(PasswordHashError::Field("hash function")),
                };
                let method = Method::Pbkdf2 { hash, iterations: count(iterations)?, is_go_auth: true };
                Self::new(method, salt, digest, &STANDARD)
            }
            ["", "argon2id", version, parameters, salt, digest] => {
                if version != "v=19" {
                    return Err(PasswordHashError::Field("version"));
                }
                Self::new(Method::Argon2id(argon2_parameters(parameters)?), salt, digest, &PHC_BASE64)
            }
            ["", "6" | "7" | "argon2id", ..] | ["PBKDF2", ..] => Err(PasswordHashError::Fields),
            _ => Err(PasswordHashError::Unknown),
        }
    }

    fn new(
        method: Method,
        salt: &str,
        digest: &str,
        base64: &GeneralPurpose,
    ) -> Result<Self, PasswordHashError> {
        let salt = base64.decode(salt).map_err(|_| PasswordHashError::Field("salt"))?;
        let digest = base64.decode(digest).map_err(|_| PasswordHashError::Field("digest"))?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err(PasswordHashError::Field("salt"));
        }
        let has_right_length = match &method {
            Method::Sha512 | Method::Pbkdf2 { is_go_auth: false, .. } => digest.len() == SHA512_BYTES,
            Method::Pbkdf2 { is_go_auth: true, .. } | Method::Argon2id(_) => {
                DIGEST_BYTES.contains(&digest.len())
            }
        };
        if !has_right_length {
            return Err(PasswordHashError::Field("digest"));
        }
        // Argon2 has a least length of its own, which shows only when it is computed.
        let hash = Self { method, salt, digest: Zeroizing::new(digest) };
        match &hash.method {
            Method::Argon2id(_) if hash.salt.len() < argon2::MIN_SALT_LEN => {
                Err(PasswordHashError::Field("salt"))
            }
            _ => Ok(hash),
        }
    }

    /// Hashes a password anew, with a random salt.
    ///
    /// # Errors
    /// Without randomness, and for more iterations than are ever checked.
    pub fn make(scheme: Scheme, password: &[u8]) -> Result<Self, PasswordHashError> {
        let mut salt = vec![0; NEW_SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|error| PasswordHashError::NoRandomness(error.to_string()))?;
        let (method, length) = match scheme {
            Scheme::Sha512 => (Method::Sha512, SHA512_BYTES),
            Scheme::Pbkdf2 { iterations } => {
                let iterations = checked_count(iterations.unwrap_or(NEW_ITERATIONS))?;
                (Method::Pbkdf2 { hash: Sha2::Sha512, iterations, is_go_auth: false }, SHA512_BYTES)
            }
            Scheme::Argon2id => {
                let (kibibytes, passes, lanes) = NEW_ARGON2;
                let parameters = Params::new(kibibytes, passes, lanes, None)
                    .map_err(|_| PasswordHashError::Field("parameters"))?;
                (Method::Argon2id(parameters), NEW_ARGON2_DIGEST_BYTES)
            }
        };
        let mut hash = Self { method, salt, digest: Zeroizing::new(vec![0; length]) };
        hash.digest = hash.digest_of(password);
        Ok(hash)
    }

    /// Tells whether this is the hash of a password. An empty one never is.
    pub fn is_of(&self, password: &[u8]) -> bool {
        let is_same = self.digest_of(password).as_slice().ct_eq(&self.digest);
        bool::from(is_same) && !password.is_empty()
    }

    /// Tells whether passwords can be tried against it too fast.
    pub fn is_weak(&self) -> bool {
        match &self.method {
            Method::Sha512 => true,
            Method::Pbkdf2 { iterations, .. } => *iterations < STRONG_ITERATIONS_MIN,
            Method::Argon2id(_) => false,
        }
    }

    fn digest_of(&self, password: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut digest = Zeroizing::new(vec![0; self.digest.len()]);
        match &self.method {
            Method::Sha512 => {
                let computed = Sha512::new().chain_update(password).chain_update(&self.salt).finalize();
                digest.copy_from_slice(&computed);
            }
            Method::Pbkdf2 { hash: Sha2::Sha512, iterations, .. } => {
                pbkdf2_hmac::<Sha512>(password, &self.salt, *iterations, &mut digest);
            }
            Method::Pbkdf2 { hash: Sha2::Sha256, iterations, .. } => {
                pbkdf2_hmac::<Sha256>(password, &self.salt, *iterations, &mut digest);
            }
            Method::Argon2id(parameters) => {
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters.clone());
                // Lengths were checked when it was read. A digest that stays zero is nobody's.
                if argon2.hash_password_into(password, &self.salt, &mut digest).is_err() {
                    digest.clear();
                }
            }
        }
        digest
    }
}

impl fmt::Display for PasswordHash {
    /// Writes it as it stands in a password file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
        let (salt, digest) = (base64(&self.salt), base64(&self.digest));
        match &self.method {
            Method::Sha512 => write!(f, "$6${salt}${digest}"),
            Method::Pbkdf2 { iterations, is_go_auth: false, .. } => {
                write!(f, "$7${iterations}${salt}${digest}")
            }
            Method::Pbkdf2 { hash, iterations, is_go_auth: true } => {
                let hash = if *hash == Sha2::Sha512 { "sha512" } else { "sha256" };
                write!(f, "PBKDF2${hash}${iterations}${salt}${digest}")
            }
            Method::Argon2id(parameters) => write!(
                f,
                "$argon2id$v=19$m={},t={},p={}${}${}",
                parameters.m_cost(),
                parameters.t_cost(),
                parameters.p_cost(),
                STANDARD_NO_PAD.encode(&self.salt),
                STANDARD_NO_PAD.encode(&self.digest)
            ),
        }
    }
}

fn count(text: &str) -> Result<u32, PasswordHashError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let given: u64 =
        text.parse().ok().filter(|_| digits).ok_or(PasswordHashError::Field("iteration count"))?;
    checked_count(u32::try_from(given).unwrap_or(u32::MAX))
}

fn checked_count(iterations: u32) -> Result<u32, PasswordHashError> {
    match iterations {
        0 => Err(PasswordHashError::Field("iteration count")),
        1..=ITERATIONS_MAX => Ok(iterations),
        _ => Err(too_expensive("iteration count", iterations.into(), ITERATIONS_MAX.into())),
    }
}

/// Reads `m=19456,t=2,p=1`.
fn argon2_parameters(text: &str) -> Result<Params, PasswordHashError> {
    const MALFORMED: PasswordHashError = PasswordHashError::Field("parameters");
    let mut values = [0u32; 3];
    let mut names = ["m=", "t=", "p="].into_iter();
    let mut fields = text.split(',');
    for value in &mut values {
        let (Some(name), Some(field)) = (names.next(), fields.next()) else { return Err(MALFORMED) };
        *value = field.strip_prefix(name).and_then(|number| number.parse().ok()).ok_or(MALFORMED)?;
    }
    if fields.next().is_some() {
        return Err(MALFORMED);
    }
    let [kibibytes, passes, lanes] = values;
    if kibibytes > ARGON2_KIBIBYTES_MAX {
        return Err(too_expensive("memory in KiB", kibibytes.into(), ARGON2_KIBIBYTES_MAX.into()));
    }
    let work = u64::from(kibibytes) * u64::from(passes);
    if work > ARGON2_WORK_KIBIBYTES_MAX {
        return Err(too_expensive("memory in KiB times passes", work, ARGON2_WORK_KIBIBYTES_MAX));
    }
    if lanes > ARGON2_LANES_MAX {
        return Err(too_expensive("parallelism", lanes.into(), ARGON2_LANES_MAX.into()));
    }
    Params::new(kibibytes, passes, lanes, None).map_err(|_| MALFORMED)
}

fn too_expensive(what: &'static str, given: u64, allowed: u64) -> PasswordHashError {
    PasswordHashError::TooExpensive { what, given, allowed }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by mosquitto_passwd 2.0, by its predecessor, and by the reference implementation of Argon2.
    const KNOWN: [(&str, &str); 3] = [
        (
            "test",
            "$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==",
        ),
        (
            "password",
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        ),
        ("password", "PBKDF2$sha256$4096$c2FsdA==$xeR41ZKIyEGqUw22hFxMjZYok6ABzk4RpJY4c6qYE0o="),
    ];

    #[test]
    fn a_hash_that_others_have_written_is_that_of_its_password_and_of_no_other() {
        for (password, text) in KNOWN {
            let hash = PasswordHash::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));

            assert!(hash.is_of(password.as_bytes()), "{text}");
            assert!(!hash.is_of(b"Password"), "{text}");
            assert!(!hash.is_of(b""), "{text}");
            assert_eq!(hash.to_string(), text);
        }
    }

    #[test]
    fn a_new_hash_reads_back_and_is_of_its_password() {
        let schemes = [Scheme::Sha512, Scheme::Pbkdf2 { iterations: Some(101) }, Scheme::Argon2id];
        for (scheme, is_weak) in schemes.into_iter().zip([true, true, false]) {
            let made = PasswordHash::make(scheme, b"pass").unwrap();
            let again = PasswordHash::make(scheme, b"pass").unwrap();

            let read = PasswordHash::parse(&made.to_string()).unwrap();

            assert!(read.is_of(b"pass") && !read.is_of(b"pass "), "{scheme:?}");
            assert_eq!(read.is_weak(), is_weak, "{scheme:?}");
            assert_ne!(made.to_string(), again.to_string(), "the salt is random");
        }
    }

    #[test]
    fn an_empty_password_is_never_right() {
        let hash = PasswordHash::make(Scheme::Sha512, b"").unwrap();

        assert!(!hash.is_of(b""));
    }

    #[test]
    fn what_is_malformed_is_refused_and_says_what_is_wrong() {
        // [B09]
        let digest = STANDARD.encode([1; 64]);
        for (text, what) in [
            (String::new(), "not a password hash"),
            ("bad".to_owned(), "not a password hash"),
            ("$".to_owned(), "not a password hash"),
            ("$5$c2FsdA==$c2FsdA==".to_owned(), "not a password hash"),
            ("$6".to_owned(), "fields"),
            ("$6$".to_owned(), "fields"),
            ("$6$c2FsdA==".to_owned(), "fields"),
            ("$6$c2FsdA==$".to_owned(), "digest"),
            (format!("$6$c2F{{dA==${digest}"), "salt"),
            (format!("$6$${digest}"), "salt"),
            ("$6$c2FsdA==$c2Fs{A==".to_owned(), "digest"),
            ("$6$c2FsdA==$c2FsdA==".to_owned(), "digest"),
            (format!("$6$c2FsdA==${digest}$"), "fields"),
            (format!("$7$-1$c2FsdA==${digest}"), "iteration count"),
            (format!("$7$+1$c2FsdA==${digest}"), "iteration count"),
            (format!("$7$0$c2FsdA==${digest}"), "iteration count"),
            (format!("$7$c2FsdA==${digest}"), "fields"),
            (format!("PBKDF2$md5$1$c2FsdA==${digest}"), "hash function"),
            (format!("$argon2id$v=16$m=8,t=1,p=1$c2FsdHNhbHQ${digest}"), "version"),
            (format!("$argon2id$v=19$t=1,m=8,p=1$c2FsdHNhbHQ${digest}"), "parameters"),
            (format!("$argon2id$v=19$m=1,t=1,p=1$c2FsdHNhbHQ${digest}"), "parameters"),
            (format!("$argon2id$v=19$m=8,t=1,p=1$c2E${digest}"), "salt"),
        ] {
            let error = PasswordHash::parse(&text).err().unwrap_or_else(|| panic!("{text} was taken"));

            assert!(error.to_string().contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn a_hash_that_would_take_too_long_or_too_much_memory_is_refused() {
        // [B15]
        let digest = STANDARD.encode([1; 64]);
        for (text, given) in [
            (format!("$7$1000000000$c2FsdA==${digest}"), 1_000_000_000),
            (format!("PBKDF2$sha512$2000001$c2FsdA==${digest}"), 2_000_001),
            (format!("$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ${digest}"), 4_194_304),
            (format!("$argon2id$v=19$m=65536,t=1000,p=1$c2FsdHNhbHQ${digest}"), 65_536_000),
            (format!("$argon2id$v=19$m=65536,t=1,p=255$c2FsdHNhbHQ${digest}"), 255),
        ] {
            match PasswordHash::parse(&text).err() {
                Some(PasswordHashError::TooExpensive { given: found, .. }) => {
                    assert_eq!(found, given, "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
