//! Master secrets in files: 32 random bytes as 64 hexadecimal digits, readable by their owner only.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use zeroize::Zeroizing;

use crate::{
    failure::Failure,
    format::{hex, unhex},
};

const SECRET_BYTES: usize = 32;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Write a new random master secret to a file
    New {
        /// The file; it must not exist
        file: PathBuf,
    },
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let Command::New { file } = command;
    create(&file)?;
    say!("{}: new master secret; give it to every member of the scope, and to nobody else", file.display());
    Ok(())
}

/// Writes a new master secret.
pub(crate) fn create(path: &Path) -> Result<(), Failure> {
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    random(secret.as_mut_slice())?;
    let text = Zeroizing::new(hex(secret.as_slice()) + "\n");
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

/// Reads a master secret: 64 hexadecimal digits, or 32 bytes as they are.
pub(crate) fn load(path: &Path) -> Result<Zeroizing<[u8; SECRET_BYTES]>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", path.display()));
    let mut file = fs::File::open(path).map_err(|error| failed(&error))?;
    let mode = file.metadata().map_err(|error| failed(&error))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(failed(&format!("others may read this key file (mode {mode:03o}); run chmod 600 on it")));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(128));
    std::io::Read::by_ref(&mut file).take(128).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    parse(&bytes).ok_or_else(|| failed(&"a master key is 64 hexadecimal digits, or 32 bytes as they are"))
}

fn parse(bytes: &[u8]) -> Option<Zeroizing<[u8; SECRET_BYTES]>> {
    if let Ok(raw) = <[u8; SECRET_BYTES]>::try_from(bytes) {
        return Some(Zeroizing::new(raw));
    }
    let digits = Zeroizing::new(unhex(str::from_utf8(bytes.trim_ascii()).ok()?)?);
    Some(Zeroizing::new(digits.as_slice().try_into().ok()?))
}

/// Fills a buffer from the operating system.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), Failure> {
    getrandom::fill(bytes).map_err(|error| Failure::new(format!("no randomness: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_is_hexadecimal_text_or_raw_bytes_and_nothing_else() {
        let secret = [0xA5; SECRET_BYTES];
        let text = hex(&secret);

        assert_eq!(parse(&secret).unwrap().as_slice(), secret);
        assert_eq!(parse(text.as_bytes()).unwrap().as_slice(), secret);
        assert_eq!(parse(format!("{}\n", text.to_uppercase()).as_bytes()).unwrap().as_slice(), secret);
        for wrong in [&b""[..], b"secret", &text.as_bytes()[1..], &[b'g'; 64], &[0xA5; 33]] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
    }
}
