//! The command line of `veilmq`: run the broker, look at its configuration, its health, its identity, whom it trusts, and
//! what it has stored.
//!
//! Every failure is one line on standard error that names what is at fault. Exit status: 0 done, 1 failed, 2 wrong command line
//! (or, of `store check`, no check was possible). As in Mosquitto it is 3 for a `mosquitto.conf` that cannot be used, and for
//! a wrong command line of the program under the name `mosquitto`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use veilmq_config::{BrokerConfig, ConfigError, Overrides, Sources, Strictness};
use veilmq_protocol::veil::distribution::Crl;
use veilmq_protocol::veil::{Certificate, Kid};

use crate::admin::health::{self, HealthError};
use crate::clock;
use crate::command_line;
use crate::identity::{IdentityError, IdentityFolder};
use crate::logging;
use crate::passwd::{self, PasswdError};
use crate::run::{self, Origin, RunError};
use crate::trust::{self, TrustError, TrustFolder};
use crate::upkeep::{self, StoreCommand, StoreCommandError};

/// The exit status of Mosquitto for a configuration or command line that is wrong.
const MOSQUITTO_STATUS: u8 = 3;
/// The configuration files to be used where none is named: the first that exists, of several with `:` between them.
const FILES_VARIABLE: &str = "VEILMQ_CONFIG";

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
    /// Configuration file (TOML, or mosquitto.conf); without one the broker listens on loopback only
    #[arg(
        short,
        long,
        visible_alias = "config-file",
        value_name = "FILE",
        global = true,
        overrides_with = "config"
    )]
    config: Option<PathBuf>,
    /// MQTT port; may be given several times
    #[arg(short, long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Directory for the identity and everything that is stored
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Address of metrics and health
    #[arg(long, value_name = "ADDR:PORT", global = true)]
    admin: Option<SocketAddr>,
    /// Log decisions too (level debug)
    #[arg(short, long)]
    verbose: bool,
    /// Log nothing
    #[arg(short, long)]
    quiet: bool,
    /// Go into the background
    #[arg(short, long)]
    daemon: bool,
    /// Check the configuration (-c FILE) and end, as `check-config` does
    #[arg(long)]
    test_config: bool,
    /// Whether the program was called by the name of the one that it replaces.
    #[arg(skip)]
    replaces_mosquitto: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file (-c FILE) and say what is wrong with it
    CheckConfig,
    /// Print the configuration as it takes effect, with the passwords of its bridges
    ShowConfig,
    /// Convert a mosquitto.conf into a configuration file of VeilMQ, on standard output
    Import {
        /// The mosquitto.conf
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Leave out what is not supported, with a comment, instead of failing
        #[arg(long)]
        lenient: bool,
    },
    /// Ask the running broker whether it is ready
    Health,
    /// Add, list or remove the authorities that certify devices
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Print who this broker is, for clients that pin its certificate
    Identity,
    /// Create or change a password file; `veilmq passwd --help` says more
    Passwd,
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
    /// Go by this revocation list, as `veil ca revoke` makes it; a running broker notices within a second
    Revoke {
        /// Revocation list of a trusted authority
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// List the trusted authorities, and their revocation lists
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
    #[error(transparent)]
    MosquittoConfig(ConfigError),
    #[error("cannot go into the background: {0}")]
    Daemon(io::Error),
    #[error("{FILES_VARIABLE}: none of {0} exists; name a file with -c")]
    NoUsualFile(String),
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
    #[error("veilmq passwd takes no option before it")]
    Passwd,
    #[error(transparent)]
    Store(#[from] StoreCommandError),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs one command line and returns its exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    // What containers are told to run: the entry point of the image stands before it.
    if arguments.get(1).is_some_and(|word| names_mosquitto(Path::new(word))) {
        arguments.remove(0);
    }
    if let [_, command, rest @ ..] = arguments.as_slice()
        && command == "passwd"
    {
        return change_passwords(rest);
    }
    let is_mosquitto = arguments.first().is_some_and(|program| names_mosquitto(Path::new(program)));
    if is_mosquitto && let Some(complaint) = command_line::complaint(&arguments) {
        return complain(&complaint);
    }
    let command_line = match parse(arguments, is_mosquitto) {
        Ok(mut command_line) => {
            command_line.options.replaces_mosquitto = is_mosquitto;
            command_line
        }
        Err(error) if is_mosquitto => match unknown_option(&error) {
            Some(option) => return complain(&command_line::unknown(&option)),
            None => return explain(&error, MOSQUITTO_STATUS),
        },
        Err(error) => return explain(&error, 2),
    };
    // Not locked: where the broker logs to standard output, so do its other threads.
    let done = execute(command_line, &mut io::stdout());
    logging::flush();
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // Whoever looks for what Mosquitto says finds it.
            if let Some(words) = error.in_mosquittos_words() {
                eprintln!("Error: {words}");
            }
            eprintln!("veilmq: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// Reads the arguments, and says how Mosquitto is used where that is what is to be replaced.
fn parse(arguments: Vec<OsString>, is_mosquitto: bool) -> Result<CommandLine, clap::Error> {
    let command = match is_mosquitto {
        true => CommandLine::command().override_usage(command_line::USAGE),
        false => CommandLine::command(),
    };
    CommandLine::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// Returns the option that nobody knows, if that is what is wrong.
fn unknown_option(error: &clap::Error) -> Option<String> {
    let option = error.get(ContextKind::InvalidArg).filter(|_| error.kind() == ErrorKind::UnknownArgument)?;
    Some(option.to_string())
}

/// Says in Mosquitto's words what is wrong with the command line, and how it would be right.
fn complain(words: &str) -> ExitCode {
    eprintln!("Error: {words}\n\nUsage: {}", command_line::USAGE);
    ExitCode::from(MOSQUITTO_STATUS)
}

/// Tells whether the program was called by the name of the one that it replaces.
fn names_mosquitto(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "mosquitto")
}

/// Says what is wrong with a command line, or what it asks to be told.
fn explain(error: &clap::Error, status: u8) -> ExitCode {
    // Help and version go to standard output with status 0; nothing is left to do if that fails.
    let _ = error.print();
    if error.exit_code() == 0 { ExitCode::SUCCESS } else { ExitCode::from(status) }
}

/// Runs `veilmq passwd`, whose options are those of mosquitto_passwd and not ours.
fn change_passwords(arguments: &[OsString]) -> ExitCode {
    match passwd::execute(arguments.iter().cloned(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(PasswdError::CommandLine(error)) => explain(&error, 2),
        Err(error) => {
            eprintln!("veilmq passwd: {error}");
            ExitCode::FAILURE
        }
    }
}

impl CommandError {
    fn in_mosquittos_words(&self) -> Option<String> {
        match self {
            Self::MosquittoConfig(error) => error.in_mosquitto.as_ref().map(|said| said.words.clone()),
            Self::Run(error) => error.in_mosquittos_words(),
            _ => None,
        }
    }

    fn status(&self) -> u8 {
        match self {
            Self::Store(error) => error.status(),
            Self::MosquittoConfig(error) => {
                error.in_mosquitto.as_ref().map_or(MOSQUITTO_STATUS, |said| said.status)
            }
            Self::Config(_)
            | Self::Daemon(_)
            | Self::NoFile
            | Self::NoUsualFile(_)
            | Self::Run(_)
            | Self::Health(_)
            | Self::Identity(_)
            | Self::Trust(_)
            | Self::Configured(_)
            | Self::Passwd
            | Self::Output(_) => 1,
        }
    }
}

/// Returns the exit status of a command that could do what it was asked for.
fn execute(command_line: CommandLine, out: &mut impl Write) -> Result<u8, CommandError> {
    let CommandLine { mut options, mut command } = command_line;
    let named = options.config.clone();
    if named.is_none() && !options.replaces_mosquitto {
        options.config = usual_file(std::env::var_os(FILES_VARIABLE))?;
    }
    let file = options.config.clone();
    if options.test_config {
        command = Some(Command::CheckConfig);
    }
    match command {
        Some(Command::CheckConfig) if file.is_none() => return Err(CommandError::NoFile),
        Some(Command::Import { file, lenient }) => {
            let strictness = if lenient { Strictness::Lenient } else { Strictness::Strict };
            let text = veilmq_config::import_mosquitto(&file, strictness);
            out.write_all(text.map_err(CommandError::MosquittoConfig)?.as_bytes())?;
            return Ok(0);
        }
        _ => {}
    }
    let admin = options.admin;
    let to_background = options.daemon && command.is_none();
    let origin = Origin::from(options);
    let config = load(&origin)?;
    if to_background {
        // The parent ends here; no thread has been started yet.
        nix::unistd::daemon(true, false).map_err(|error| CommandError::Daemon(error.into()))?;
    }
    match command {
        None | Some(Command::Import { .. }) => {
            run::run(&config, origin).map_err(|error| error.placed(&config.named))?;
        }
        Some(Command::CheckConfig) => {
            run::check(&config).map_err(|error| error.placed(&config.named))?;
            let path = file.unwrap_or_default();
            writeln!(out, "{}: the configuration is valid", path.display())?;
        }
        Some(Command::ShowConfig) => out.write_all(config.to_toml().as_bytes())?,
        Some(Command::Health) => {
            let asked = health::Asked { admin, config: named.as_deref() };
            writeln!(out, "{}", health::ask(&asked, config.admin.address)?)?;
        }
        Some(Command::Trust(command)) => execute_trust(command, &config, out)?,
        Some(Command::Identity) => print_identity(&config, out)?,
        Some(Command::Passwd) => return Err(CommandError::Passwd),
        Some(Command::Store(command)) => return Ok(upkeep::execute(&command, &config.data_dir, out)?),
    }
    Ok(0)
}

/// Returns the first file of a list that exists; None if there is no list.
///
/// # Errors
/// None of them exists.
fn usual_file(list: Option<OsString>) -> Result<Option<PathBuf>, CommandError> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(None) };
    let found = std::env::split_paths(&list).find(|path| path.exists());
    found.map(Some).ok_or_else(|| CommandError::NoUsualFile(list.to_string_lossy().into_owned()))
}

impl From<Options> for Origin {
    fn from(options: Options) -> Self {
        Self {
            overrides: Overrides {
                ports: options.port,
                data_dir: options.data_dir,
                admin: options.admin,
                verbose: options.verbose,
                quiet: options.quiet,
                replaces_mosquitto: options.replaces_mosquitto,
            },
            file: options.config,
        }
    }
}

fn load(origin: &Origin) -> Result<BrokerConfig, CommandError> {
    let file = origin.file.as_deref();
    let loaded = BrokerConfig::load(Sources {
        file,
        overrides: origin.overrides.clone(),
        environment: veilmq_config::process_environment(),
    });
    let is_mosquitto = |file: &Path| veilmq_config::is_mosquitto_file(file).unwrap_or(true);
    loaded.map_err(|error| match file {
        Some(file) if is_mosquitto(file) => CommandError::MosquittoConfig(error),
        _ => error.into(),
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
            for path in &config.veil.revocations {
                print_list(path, trust::read_list(path), out)?;
            }
            for (path, list) in folder.read_lists()? {
                print_list(&path, list, out)?;
            }
        }
        TrustCommand::Revoke { file } => {
            let list = trust::read_list(&file)?;
            let authorities = config.veil.trust.iter().map(|path| trust::read_authority(path));
            let authorities = authorities.chain(folder.read()?.into_values());
            trust::check_list(&file, &list, authorities.flatten())?;
            let (path, revoked) = (folder.add_list(&list)?, list.revoked.len());
            let (number, authority) = (list.number, list.issuer.kid());
            writeln!(
                out,
                "list {number} of {authority} with {revoked} certificates, stored as {}",
                path.display()
            )?;
        }
        TrustCommand::Remove { kid } => remove_authority(&folder, kid, config, out)?,
    }
    Ok(())
}

fn print_list(path: &Path, list: Result<Crl, TrustError>, out: &mut impl Write) -> io::Result<()> {
    match list {
        Ok(list) => writeln!(
            out,
            "{}  list {}, {} revoked  until {}  {}",
            list.issuer.kid(),
            list.number,
            list.revoked.len(),
            clock::rfc3339(list.next_update),
            path.display()
        ),
        Err(error) => writeln!(out, "{error}"),
    }
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
