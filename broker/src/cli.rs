//! The command line of `veilmq`: run the broker, look at its configuration, its health, its identity, whom it trusts, and
//! what it has stored.
//!
//! Every failure is one line on standard error that names what is at fault. Exit status: 0 done, 1 failed, 2 wrong command line
//! (or, of `store check`, no check was possible).

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use veilmq_config::{BrokerConfig, ConfigError, Overrides, Sources};
use veilmq_protocol::veil::{Certificate, Kid};

use crate::admin::health::{self, HealthError};
use crate::clock;
use crate::identity::{IdentityError, IdentityFolder};
use crate::run::{self, RunError};
use crate::trust::{self, TrustError, TrustFolder};
use crate::upkeep::{self, StoreCommand, StoreCommandError};

/// MQTT broker for end-to-end encrypted messages.
#[derive(Debug, Parser)]
#[command(name = "veilmq", version, about, long_about = None, subcommand_negates_reqs = true)]
struct CommandLine {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Options {
    /// Configuration file (TOML); without one the broker listens on loopback only
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// MQTT port
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    /// Directory for the identity and everything that is stored
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Address of metrics and health
    #[arg(long, value_name = "ADDR:PORT", global = true)]
    admin: Option<SocketAddr>,
    /// Log decisions too (level debug)
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file (-c FILE) and say what is wrong with it
    CheckConfig,
    /// Print the configuration as it takes effect
    ShowConfig,
    /// Ask the running broker whether it is ready
    Health,
    /// Add, list or remove the authorities that certify devices
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Print who this broker is, for clients that pin its certificate
    Identity,
    /// Check, export, import or compact what is stored, while the broker does not run
    #[command(subcommand)]
    Store(StoreCommand),
}

#[derive(Debug, Subcommand)]
enum TrustCommand {
    /// Trust the authority with this public certificate; a running broker notices within a second
    Add {
        /// Public certificate (VMC) of the authority
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// List the trusted authorities
    List,
    /// Stop trusting an authority
    Remove {
        /// Key identifier: 16 hexadecimal digits, as `trust list` prints it
        #[arg(value_name = "KID")]
        kid: Kid,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("check-config needs a file: veilmq check-config -c FILE")]
    NoFile,
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Health(#[from] HealthError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("{} comes from the configuration (veil.trust): remove it there", .0.display())]
    Configured(PathBuf),
    #[error(transparent)]
    Store(#[from] StoreCommandError),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs one command line and returns its exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command_line = match CommandLine::try_parse_from(arguments) {
        Ok(command_line) => command_line,
        Err(error) => {
            // Help and version go to standard output with status 0; nothing is left to do if that fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match execute(command_line, &mut io::stdout().lock()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("veilmq: {error}");
            ExitCode::from(error.status())
        }
    }
}

impl CommandError {
    fn status(&self) -> u8 {
        if let Self::Store(error) = self { error.status() } else { 1 }
    }
}

/// Returns the exit status of a command that could do what it was asked for.
fn execute(command_line: CommandLine, out: &mut impl Write) -> Result<u8, CommandError> {
    let file = command_line.options.config.clone();
    if matches!(command_line.command, Some(Command::CheckConfig)) && file.is_none() {
        return Err(CommandError::NoFile);
    }
    let config = load(command_line.options)?;
    match command_line.command {
        None => run::run(&config, file.as_deref())?,
        Some(Command::CheckConfig) => {
            let path = file.unwrap_or_default();
            writeln!(out, "{}: the configuration is valid", path.display())?;
        }
        Some(Command::ShowConfig) => out.write_all(config.to_toml().as_bytes())?,
        Some(Command::Health) => writeln!(out, "{}", health::ask(config.admin.address)?)?,
        Some(Command::Trust(command)) => execute_trust(command, &config, out)?,
        Some(Command::Identity) => print_identity(&config, out)?,
        Some(Command::Store(command)) => return Ok(upkeep::execute(&command, &config.data_dir, out)?),
    }
    Ok(0)
}

fn load(options: Options) -> Result<BrokerConfig, ConfigError> {
    BrokerConfig::load(Sources {
        file: options.config.as_deref(),
        overrides: Overrides {
            port: options.port,
            data_dir: options.data_dir,
            admin: options.admin,
            verbose: options.verbose,
        },
        environment: veilmq_config::process_environment(),
    })
}

fn execute_trust(
    command: TrustCommand,
    config: &BrokerConfig,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let folder = TrustFolder::in_data_dir(&config.data_dir);
    match command {
        TrustCommand::Add { file } => {
            let authority = trust::read_authority(&file)?;
            let path = folder.add(&authority)?;
            writeln!(
                out,
                "trusting {:?} ({}), stored as {}",
                authority.subject,
                authority.kid(),
                path.display()
            )?;
        }
        TrustCommand::List => {
            for path in &config.veil.trust {
                print_authority(path, trust::read_authority(path), out)?;
            }
            for (path, authority) in folder.read()? {
                print_authority(&path, authority, out)?;
            }
        }
        TrustCommand::Remove { kid } => remove_authority(&folder, kid, config, out)?,
    }
    Ok(())
}

fn remove_authority(
    folder: &TrustFolder,
    kid: Kid,
    config: &BrokerConfig,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    match folder.remove(kid) {
        Ok(path) => writeln!(out, "no longer trusting {kid}, removed {}", path.display())?,
        Err(error @ TrustError::Absent { .. }) => {
            let holds = |path: &&PathBuf| trust::read_authority(path).is_ok_and(|a| a.kid() == kid);
            let configured = config.veil.trust.iter().find(holds);
            return Err(configured.map_or(error.into(), |path| CommandError::Configured(path.clone())));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn print_authority(
    path: &Path,
    authority: Result<Certificate, TrustError>,
    out: &mut impl Write,
) -> io::Result<()> {
    match authority {
        Ok(authority) => writeln!(
            out,
            "{}  {}  until {}  {}",
            authority.kid(),
            authority.subject,
            clock::rfc3339(authority.not_after),
            path.display()
        ),
        Err(error) => writeln!(out, "unusable: {error}"),
    }
}

fn print_identity(config: &BrokerConfig, out: &mut impl Write) -> Result<(), CommandError> {
    let folder = IdentityFolder::in_data_dir(&config.data_dir, config.veil.certificate.clone());
    let certificate = folder.certificate()?;
    writeln!(out, "kid          {}", certificate.kid())?;
    writeln!(out, "subject      {}", certificate.subject)?;
    writeln!(out, "certificate  {}", folder.certificate_path().display())?;
    Ok(())
}
