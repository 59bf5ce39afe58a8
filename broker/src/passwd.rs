//! `veilmq passwd`: creates and changes password files, with the options of mosquitto_passwd.
//!
//! The command line is its own, because `-c` has another meaning here. Invariant: a password is neither printed nor kept, and a
//! file that cannot be understood is not written.

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use nix::sys::termios::{self, LocalFlags, SetArg};
use zeroize::Zeroizing;

use crate::access::PasswordFileError;
use crate::access::password::{PasswordHash, PasswordHashError, Scheme};
use crate::access::password_file::{PasswordFile, check_user_name};

/// The longest password that MQTT can carry.
const PASSWORD_BYTES_MAX: usize = 65_535;

/// Create or change a password file; without an option sets the password of a user, asking for it.
#[derive(Debug, Parser)]
#[command(name = "veilmq passwd", bin_name = "veilmq passwd", long_about = None)]
struct CommandLine {
    /// Create the file anew, in place of one that is there
    #[arg(short, long, conflicts_with_all = ["delete", "upgrade"])]
    create: bool,
    /// Delete the user
    #[arg(short = 'D', long, conflicts_with_all = ["batch", "upgrade"])]
    delete: bool,
    /// Hash the passwords of a file that has them in clear; hashes in it stay
    #[arg(short = 'U', long, conflicts_with = "batch")]
    upgrade: bool,
    /// Take the password from the command line, where others on this machine can see it
    #[arg(short, long)]
    batch: bool,
    /// How to hash; Mosquitto knows argon2id since 2.1, sha512-pbkdf2 since 2.0
    #[arg(short = 'H', long, value_enum, default_value_t = Hash::Argon2id)]
    hash: Hash,
    /// Iterations of sha512-pbkdf2
    #[arg(short = 'I', long, value_name = "COUNT")]
    iterations: Option<u32>,
    /// The password file
    file: PathBuf,
    /// The user
    #[arg(required_unless_present = "upgrade", conflicts_with = "upgrade")]
    user: Option<String>,
    /// The password, with -b
    #[arg(requires = "batch", required_if_eq("batch", "true"))]
    password: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Hash {
    Argon2id,
    Sha512Pbkdf2,
    Sha512,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswdError {
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    #[error(transparent)]
    File(#[from] PasswordFileError),
    #[error(transparent)]
    Hash(#[from] PasswordHashError),
    #[error("{0}")]
    User(&'static str),
    #[error("there is no user {user:?} in {}", file.display())]
    Absent { user: String, file: PathBuf },
    #[error("-I is for -H sha512-pbkdf2")]
    Iterations,
    #[error("the password is empty")]
    Empty,
    #[error("the password is longer than MQTT allows")]
    TooLong,
    #[error("the two passwords are not the same")]
    Different,
    #[error("cannot read the password: {0}")]
    Input(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs the command; `arguments` are those behind `veilmq passwd`.
///
/// # Errors
/// [`PasswdError`]; the file is then as it was.
pub(crate) fn execute(
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut impl Write,
) -> Result<(), PasswdError> {
    let arguments = std::iter::once(OsString::from("veilmq passwd")).chain(arguments);
    let line = CommandLine::try_parse_from(arguments)?;
    let scheme = match (line.hash, line.iterations) {
        (Hash::Sha512Pbkdf2, iterations) => Scheme::Pbkdf2 { iterations },
        (Hash::Argon2id, None) => Scheme::Argon2id,
        (Hash::Sha512, None) => Scheme::Sha512,
        (Hash::Argon2id | Hash::Sha512, Some(_)) => return Err(PasswdError::Iterations),
    };
    if line.upgrade {
        return upgrade(&line, scheme, out);
    }
    let user = line.user.clone().unwrap_or_default();
    check_user_name(&user).map_err(PasswdError::User)?;
    if line.delete {
        return delete(&line, user, out);
    }
    let mut file = match line.create {
        true => PasswordFile::default(),
        false => PasswordFile::read(&line.file)?,
    };
    let password = match line.password {
        Some(password) => Zeroizing::new(password),
        None => ask()?,
    };
    check_password(&password)?;
    let is_new = file.set(&user, &PasswordHash::make(scheme, password.as_bytes())?);
    file.write(&line.file)?;
    let done = if is_new { "added" } else { "has another password" };
    Ok(writeln!(out, "{user:?} {done} in {}; a running broker notices within seconds", line.file.display())?)
}

fn upgrade(line: &CommandLine, scheme: Scheme, out: &mut impl Write) -> Result<(), PasswdError> {
    let mut file = PasswordFile::read(&line.file)?;
    let count = file.hash_all(|password| PasswordHash::make(scheme, password))?;
    file.write(&line.file)?;
    Ok(writeln!(out, "{count} passwords hashed in {}", line.file.display())?)
}

fn delete(line: &CommandLine, user: String, out: &mut impl Write) -> Result<(), PasswdError> {
    let mut file = PasswordFile::read(&line.file)?;
    if !file.remove(&user) {
        return Err(PasswdError::Absent { user, file: line.file.clone() });
    }
    file.write(&line.file)?;
    Ok(writeln!(
        out,
        "{user:?} deleted from {}; a running broker notices within seconds",
        line.file.display()
    )?)
}

fn check_password(password: &str) -> Result<(), PasswdError> {
    match password.len() {
        0 => Err(PasswdError::Empty),
        1..=PASSWORD_BYTES_MAX => Ok(()),
        _ => Err(PasswdError::TooLong),
    }
}

/// Reads the password from standard input: a line of it, or what is typed twice without being shown.
fn ask() -> Result<Zeroizing<String>, PasswdError> {
    let input = io::stdin();
    if !input.is_terminal() {
        return read_line();
    }
    let first = prompt("Password: ")?;
    let second = prompt("Once more: ")?;
    if first == second { Ok(first) } else { Err(PasswdError::Different) }
}

fn prompt(text: &str) -> Result<Zeroizing<String>, PasswdError> {
    eprint!("{text}");
    let _silence = Silence::new().map_err(PasswdError::Input)?;
    let line = read_line();
    eprintln!();
    line
}

fn read_line() -> Result<Zeroizing<String>, PasswdError> {
    // Room for all of it from the start leaves no copies of its beginning behind.
    let mut line = Zeroizing::new(String::with_capacity(PASSWORD_BYTES_MAX + 2));
    io::stdin().lock().read_line(&mut line).map_err(PasswdError::Input)?;
    let length = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(length);
    Ok(line)
}

/// A terminal that does not show what is typed, as long as this lives.
struct Silence {
    before: termios::Termios,
}

impl Silence {
    fn new() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // There is nobody left to tell if the terminal cannot be set back.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<String, String> {
        let mut out = Vec::new();
        execute(arguments.iter().map(OsString::from), &mut out).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn hash_of(path: &str, user: &str) -> PasswordHash {
        PasswordHash::parse(PasswordFile::read(path.as_ref()).unwrap().find(user).unwrap()).unwrap()
    }

    #[test]
    fn users_are_created_changed_and_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd").display().to_string();

        run(&["-c", "-b", &path, "ann", "one"]).unwrap();
        run(&["-b", "-H", "sha512-pbkdf2", "-I", "101", &path, "bob", "two"]).unwrap();
        assert!(hash_of(&path, "ann").is_of(b"one") && hash_of(&path, "bob").is_of(b"two"));

        run(&["-b", &path, "ann", "three"]).unwrap();
        assert!(hash_of(&path, "ann").is_of(b"three"));
        run(&["-D", &path, "ann"]).unwrap();
        assert!(PasswordFile::read(path.as_ref()).unwrap().find("ann").is_none());
        assert!(run(&["-D", &path, "ann"]).unwrap_err().contains("there is no user \"ann\""));
    }

    #[test]
    fn passwords_in_clear_are_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd").display().to_string();
        std::fs::write(&path, "ann:one\nbob:two\n").unwrap();

        let out = run(&["-U", &path]).unwrap();

        assert!(out.starts_with("2 passwords"), "{out}");
        assert!(hash_of(&path, "ann").is_of(b"one") && hash_of(&path, "bob").is_of(b"two"));
        assert!(run(&["-U", &path]).unwrap().starts_with("0 passwords"));
    }

    #[test]
    fn what_cannot_be_done_is_said_and_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd").display().to_string();
        std::fs::write(&path, "broken\n").unwrap();
        for (arguments, what) in [
            (vec!["-b", &path, "ann", "one"], "passwd:1: there is no `:`"),
            (vec!["-c", "-b", &path, "a:b", "one"], "a user name holds neither"),
            (vec!["-c", "-b", &path, "ann", ""], "the password is empty"),
            (vec!["-c", "-b", "-I", "7", &path, "ann", "one"], "-I is for"),
            (
                vec!["-c", "-b", "-H", "sha512-pbkdf2", "-I", "4000000000", &path, "ann", "one"],
                "at most 2000000",
            ),
            (vec!["-b", &path, "ann"], "required"),
            (vec![&path], "required"),
        ] {
            let error = run(&arguments).unwrap_err();

            assert!(error.contains(what), "{arguments:?}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "broken\n");
        }
    }
}
