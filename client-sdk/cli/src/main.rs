//! `veil`: the client side of VeilMQ, with the keys: certificates, publishing, subscribing, and a demonstration.
//!
//! Owns the command line: what is typed becomes options of the SDK, and every failure becomes one line on
//! standard error and an exit status. Keys are only ever read from files, never from the command line.

/// Prints a line for people; that nobody reads on (`veil demo | head`) is no reason to fail.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod acl;
mod authority;
mod connection;
mod control;
mod demo;
mod failure;
mod format;
mod key_authority;
mod keys;
mod orders;
mod pairs;
mod progress;
mod properties;
mod publish;
mod revocation;
mod roster;
mod secret;
mod show;
mod subscribe;
mod topic;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand, error::ErrorKind};

use self::failure::Failure;

/// Publishes, subscribes, and keeps the certificates and keys of VeilMQ's clients.
#[derive(Parser)]
#[command(name = "veil", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a certificate authority, and certificates under it
    #[command(subcommand)]
    Ca(authority::Command),
    /// Look at certificates
    #[command(subcommand)]
    Cert(show::Command),
    /// Print what is in a file: a certificate, a revocation list, a prekey or a KEYHEAD
    Show(show::Show),
    /// Make keys for end-to-end scopes
    #[command(subcommand)]
    Key(secret::Command),
    /// Look at the names that the broker sees of blind topics
    #[command(subcommand)]
    Topic(topic::Command),
    /// Compile rules and policies for blind topics
    #[command(subcommand)]
    Acl(acl::Command),
    /// Issue the keys of end-to-end scopes for many publishers, and look after their members
    #[command(subcommand)]
    Authority(key_authority::Command),
    /// See who has the keys of end-to-end scopes
    #[command(subcommand)]
    Roster(roster::Command),
    /// Publish messages, as mosquitto_pub does
    #[command(disable_help_flag = true, after_help = connection::EXIT_STATUSES)]
    Pub(publish::Arguments),
    /// Subscribe and print messages, as mosquitto_sub does
    #[command(disable_help_flag = true, after_help = connection::EXIT_STATUSES)]
    Sub(subscribe::Arguments),
    /// Show sealed readings of this machine going through a running broker
    #[command(disable_help_flag = true)]
    Demo(demo::Arguments),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match run(arguments.command) {
        Ok(code) => code,
        Err(failure) => {
            // Standard error may be closed; the exit status still tells.
            let _ = writeln!(io::stderr(), "veil: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Ca(command) => authority::run(command)?,
        Command::Cert(command) => show::run(command)?,
        Command::Show(arguments) => show::file(&arguments)?,
        Command::Key(command) => secret::run(command)?,
        Command::Topic(command) => topic::run(command)?,
        Command::Acl(command) => acl::run(command)?,
        Command::Authority(command) => finish(key_authority::run(command))?,
        Command::Roster(command) => finish(roster::run(command))?,
        Command::Pub(arguments) => finish(publish::run(arguments))?,
        Command::Sub(arguments) => finish(subscribe::run(arguments))?,
        Command::Demo(arguments) => finish(demo::run(arguments))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs to the end, and waits for nothing that is left, such as a resolver that does not answer.
fn finish(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

/// Help and version are no errors; everything else is one, with the status mosquitto's clients use.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
