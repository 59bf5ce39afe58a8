//! `veil authority`: a key authority that runs for long, what it is told meanwhile, and copies of its state.
//!
//! The state is encrypted with a passphrase, a key file, or a key derived from the identity. A restored copy is never the last
//! word: the authority listens to what it has published itself and goes on from there.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use veilmq_client::{
    identity,
    sealed_file::{SealedFile, StateKey},
};
use veilmq_protocol::veil::{Kid, Roles, channel::Identity};

use crate::{
    connection::{self, Connection},
    control,
    failure::Failure,
    format::hex,
    keys::State,
    orders::Orders,
    pairs::Pairs,
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run: issue the keys of every --issue FILTER until SIGTERM or SIGINT
    #[command(disable_help_flag = true, after_help = connection::EXIT_STATUSES)]
    Run(Box<Connection>),
    /// List the members of a scope: the key identifier and the subject of each
    Members(Target),
    /// Let a member in by its certificate
    Admit {
        #[command(flatten)]
        target: Target,
        /// Its certificate
        certificate: PathBuf,
    },
    /// Take a member out; the key changes within seconds
    Remove {
        #[command(flatten)]
        target: Target,
        /// Its key identifier, as `veil show` and `veil authority members` print it
        kid: Kid,
        /// Its keys are known to others: what was sealed before counts no more
        #[arg(long)]
        compromised: bool,
    },
    /// Change the key of a scope
    Rotate {
        #[command(flatten)]
        target: Target,
        /// The key is known to others: what was sealed before counts no more
        #[arg(long)]
        compromised: bool,
    },
    /// Copy the state as it was saved last, encrypted as it is, after checking that it opens; the authority may run
    Backup {
        #[command(flatten)]
        copy: Copy,
        /// The copy
        #[arg(long)]
        to: PathBuf,
    },
    /// Put a copy in the place of a state that was lost
    Restore {
        #[command(flatten)]
        copy: Copy,
        /// The copy
        #[arg(long)]
        from: PathBuf,
    },
}

/// Which scope of which running authority, or of a `veil pub` or `veil sub` that issues keys.
#[derive(Args)]
pub(crate) struct Target {
    /// The file of its state; `veil pub --issue` is told in the same way while it runs
    #[arg(long)]
    state: PathBuf,
    /// The scope
    #[arg(long, value_name = "FILTER")]
    scope: String,
}

/// A state and its key.
#[derive(Args)]
pub(crate) struct Copy {
    #[command(flatten)]
    state: State,
    /// Who the authority is, if its state is encrypted with a key derived from that
    #[arg(long, value_name = "DIR_OR_FILE")]
    identity: Option<PathBuf>,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(connection) => serve(&connection).await,
        Command::Members(target) => ask(&target, "members", None).await,
        Command::Admit { target, certificate } => {
            let certificate = identity::load_certificate(&certificate)?;
            ask(&target, "admit", Some(&hex(certificate.as_bytes()))).await
        }
        Command::Remove { target, kid, compromised } => {
            let verb = if compromised { "remove-compromised" } else { "remove" };
            ask(&target, verb, Some(&kid.to_string())).await
        }
        Command::Rotate { target, compromised } => {
            ask(&target, if compromised { "rotate-compromised" } else { "rotate" }, None).await
        }
        Command::Backup { copy, to } => {
            let (state, key) = copy.parts()?;
            if belongs_to(state, &to) {
                let (to, state) = (to.display(), state.display());
                return Err(Failure::new(format!(
                    "{to}: that is {state} or belongs to it; name another file"
                )));
            }
            let (file, content) = SealedFile::read(state, &key)?;
            file.save_as(&to, &content)?;
            say!("{}: copy of {}, under the same key", to.display(), state.display());
            Ok(())
        }
        Command::Restore { copy, from } => {
            let (state, key) = copy.parts()?;
            if state.exists() {
                let state = state.display();
                return Err(Failure::new(format!("{state}: there is a state; move it away first")));
            }
            let (file, content) = SealedFile::read(&from, &key)?;
            // No program begins with this state meanwhile, and none that runs is about to save its own there.
            let _lock = SealedFile::open(state, &key)?;
            file.save_as(state, &content)?;
            say!("{}: restored from {}", state.display(), from.display());
            Ok(())
        }
    }
}

impl Copy {
    fn parts(&self) -> Result<(&PathBuf, StateKey), Failure> {
        let state = self.state.path().ok_or_else(|| Failure::new("--state FILE is needed"))?;
        let key = match (self.state.key()?, &self.identity) {
            (Some(key), _) => key,
            (None, Some(path)) => StateKey::of_identity(&identity::load(path)?),
            (None, None) => {
                return Err(Failure::new("give --passphrase-file, --state-key or --identity"));
            }
        };
        Ok((state, key))
    }
}

/// Whether a file is the state, or one of those that are kept beside it.
fn belongs_to(state: &Path, file: &Path) -> bool {
    let place = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some((fs::canonicalize(folder).ok()?, path.file_name()?.to_owned()))
    };
    let beside = ["", ".new", ".lock", ".sock"].map(|extension| {
        let mut path = state.as_os_str().to_owned();
        path.push(extension);
        place(Path::new(&path))
    });
    place(file).is_some_and(|file| beside.contains(&Some(file)))
}

async fn ask(target: &Target, verb: &str, argument: Option<&str>) -> Result<(), Failure> {
    let words = [verb, &target.scope, argument.unwrap_or_default()];
    let answer = control::ask(&target.state, &words).await?;
    if !answer.is_empty() {
        say!("{}", answer.trim_end());
    }
    Ok(())
}

/// Issues keys until a signal comes.
async fn serve(connection: &Connection) -> Result<(), Failure> {
    may_issue(connection.identity()?.as_ref())?;
    let needed = || Failure::new("give --issue FILTER, and --state FILE");
    Orders::check_is_free(&connection.keys).await?.ok_or_else(needed)?;
    let given = connection.given()?;
    let client = connection.builder(&given, &Pairs::None)?.connect().await?;
    let orders = Orders::listen(&connection.keys).await?.ok_or_else(needed)?;
    say!("issuing the keys of {}", connection.keys.issued().join(", "));
    let stop = |kind| signal(kind).map_err(|error| Failure::new(format!("signals: {error}")));
    let (mut terminate, mut interrupt) = (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
    tokio::select! {
        never = orders.serve(&client) => match never {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        reason = client.closed() => return Err(Failure::new(reason.to_string())),
    }
    client.disconnect().await?;
    Ok(())
}

fn may_issue(identity: Option<&Arc<Identity>>) -> Result<(), Failure> {
    match identity {
        Some(identity) if identity.certificate().roles.contains(Roles::KEY_AUTHORITY) => Ok(()),
        Some(_) => Err(Failure::new(
            "the certificate is not that of a key authority (veil ca issue --role key-authority)",
        )),
        None => Err(Failure::new("--identity is needed")),
    }
}
