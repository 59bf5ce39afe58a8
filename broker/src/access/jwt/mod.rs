//! Tokens as passwords: JSON Web Tokens (RFC 7519), signed (RFC 7515), of an issuer whose keys the operator names.
//!
//! Which algorithm a signature has is a property of the key, never of the token: a token that says another one, or none, finds
//! no key. Invariant: nothing a token says is looked at, but for which key is meant, before its signature was found right.

mod claims;
mod keys;
mod pem;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use veilmq_config::JwtConfig;

use self::claims::Claims;
pub use self::keys::JwtError;
use self::keys::Keys;

/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The longest text that MQTT can carry (MQTT 5.0 section 1.5.4).
const USER_NAME_BYTES_MAX: usize = 65_535;

/// Who is trusted to say who clients are, and what their tokens have to say.
pub(super) struct Tokens {
    keys: Keys,
    issuer: Option<String>,
    audience: Option<String>,
    /// The claim that names the user.
    user_claim: String,
    leeway_seconds: u64,
}

/// What a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proven {
    /// The user.
    pub(super) user: Arc<str>,
    /// The number of the key that signed it.
    pub(super) authority: u64,
    /// When it ends, in unix seconds.
    pub(super) until_seconds: u64,
}

/// Why a token proves nothing; for the log, and without what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenFault {
    #[error("it is no signed token")]
    Malformed,
    #[error("no key of this algorithm and name is known")]
    NoKey,
    #[error("its signature is not that of a known key")]
    Signature,
    /// And nothing else is wrong with it.
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    Early,
    #[error("it is of another issuer")]
    Issuer,
    #[error("it is for another audience")]
    Audience,
    #[error("it is of another user")]
    User,
}

impl Tokens {
    /// Reads the keys that the configuration names; None if it names none. Keys that were known `earlier` keep their numbers.
    ///
    /// # Errors
    /// [`JwtError`], naming the file and the key in it.
    pub(super) fn read(config: &JwtConfig, earlier: Option<&Self>) -> Result<Option<Self>, JwtError> {
        if !config.is_on() {
            return Ok(None);
        }
        Ok(Some(Self {
            keys: Keys::read(config, earlier.map(|earlier| &earlier.keys))?,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            user_claim: config.user_claim.clone(),
            leeway_seconds: config.leeway_seconds.into(),
        }))
    }

    /// Returns the numbers of all keys.
    pub(super) fn authorities(&self) -> impl Iterator<Item = u64> + '_ {
        self.keys.numbers()
    }

    /// Tells whether a password has the form of a token.
    pub(super) fn has_form_of_token(password: &[u8]) -> bool {
        // JSON begins with `{"`.
        password.starts_with(b"eyJ") && password.iter().filter(|byte| **byte == b'.').count() == 2
    }

    /// Checks a token that a client gives for the password of a user; without a user name it is the token that says who the client is.
    ///
    /// # Errors
    /// [`TokenFault`].
    pub(super) fn check(&self, user: &str, token: &[u8], now_seconds: u64) -> Result<Proven, TokenFault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::Malformed);
        }
        let token = std::str::from_utf8(token).map_err(|_| TokenFault::Malformed)?;
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenFault::Malformed)?;
        let authority = self.keys.verify(header, signed, signature)?;
        let claims = Claims::parse(payload)?;
        let user = self.check_claims(&claims, user, now_seconds)?;
        let until_seconds = claims.expires_at.saturating_add(self.leeway_seconds);
        Ok(Proven { user: Arc::from(user), authority, until_seconds })
    }

    /// Returns the user of the token.
    fn check_claims<'a>(
        &self,
        claims: &'a Claims,
        user: &str,
        now_seconds: u64,
    ) -> Result<&'a str, TokenFault> {
        if claims.not_before.is_some_and(|at| at > now_seconds.saturating_add(self.leeway_seconds)) {
            return Err(TokenFault::Early);
        }
        if self.issuer.is_some() && claims.issuer != self.issuer {
            return Err(TokenFault::Issuer);
        }
        let is_for = |audience: &String| claims.audience.iter().any(|known| known == audience);
        if !self.audience.as_ref().is_none_or(is_for) {
            return Err(TokenFault::Audience);
        }
        let name = match claims.text(&self.user_claim) {
            Some(name) if name == user => name,
            // MQTT carries no such text as a user name ([MQTT-1.5.4-2]), so none of them may become one here.
            Some(name) if user.is_empty() && is_user_name(name) => name,
            Some(_) | None => return Err(TokenFault::User),
        };
        // Last, for who has been this user is not taken for somebody who guesses. RFC 7519 section 4.1.4: on or after that moment it is
        // not taken.
        match claims.expires_at.saturating_add(self.leeway_seconds) <= now_seconds {
            true => Err(TokenFault::Expired),
            false => Ok(name),
        }
    }
}

/// Tells whether a claim could stand as a user name in CONNECT.
fn is_user_name(name: &str) -> bool {
    (1..=USER_NAME_BYTES_MAX).contains(&name.len()) && !name.contains('\0')
}
