//! The token of operators: read from a file, kept as a digest, compared in constant time.
//!
//! Invariant: the token itself is in memory only while it is read or was just sent; it is written nowhere.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// 16 random bytes in hexadecimal are twice as long.
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 1_024;

/// Why a file has no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// What it holds cannot be a token.
    #[error("{} must hold one token of {TOKEN_BYTES_MIN} or more visible ASCII characters", .0.display())]
    Content(PathBuf),
}

impl TokenError {
    /// Returns the file at fault.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(error) => error.path(),
            Self::Content(path) => path,
        }
    }
}

/// What operators show to be let in.
pub struct Token([u8; 32]);

impl Token {
    /// Reads a token; white space around it does not belong to it.
    ///
    /// # Errors
    /// [`TokenError`], naming the file.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = Zeroizing::new(files::read(path, TOKEN_BYTES_MAX)?);
        files::warn_if_exposed(path);
        let token = text.trim_ascii();
        if token.len() < TOKEN_BYTES_MIN || !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Content(path.to_owned()));
        }
        Ok(Self(Sha256::digest(token).into()))
    }

    /// Tells whether this is the token, in a time that depends on neither.
    pub(super) fn is(&self, shown: &[u8]) -> bool {
        Sha256::digest(shown).as_slice().ct_eq(&self.0).into()
    }
}

/// Reads the token that a configuration names, if it names one.
///
/// # Errors
/// [`TokenError`], naming the file.
pub fn read_token(path: Option<&Path>) -> Result<Option<Token>, TokenError> {
    path.map(Token::read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_stands_between_white_space_and_nothing_else_is_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "\n 0123456789abcdef\r\n").unwrap();

        let token = Token::read(&path).unwrap();

        assert!(token.is(b"0123456789abcdef"));
        for other in ["0123456789abcde", "0123456789abcdef ", "", "0123456789abcdeg"] {
            assert!(!token.is(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn a_file_without_a_usable_token_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for text in ["", "short", "0123456789 abcdef", "0123456789äbcdef", "0123456789\u{7f}abcdef"] {
            std::fs::write(&path, text).unwrap();

            let error = Token::read(&path).err().unwrap().to_string();

            assert!(error.contains(path.to_str().unwrap()), "{text:?}: {error}");
        }
        assert!(Token::read(&folder.path().join("absent")).is_err());
    }
}
