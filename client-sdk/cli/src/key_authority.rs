//! `veil authority`: a key authority that runs for long, what it is told meanwhile, and copies of its state.
//!
//! The state is encrypted with a passphrase, a key file, or a key derived from the identity. A restored copy is never the last
//! word: the authority listens to what it has published itself and goes on from there.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
};
use veilmq_client::{
    Client,
    e2e::distribution::Rotation,
    identity,
    sealed_file::{SealedFile, StateKey},
};
use veilmq_protocol::veil::{Certificate, Kid, Roles, channel::Identity};

use crate::{
    connection::{self, Connection},
    control,
    failure::Failure,
    format::{hex, unhex},
    keys::State,
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run: issue the keys of every --issue FILTER until SIGTERM or SIGINT
    #[command(disable_help_flag = true, after_help = connection::EXIT_STATUSES)]
    Run(Box<Connection>),
    /// List the members of a scope
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
        /// Its key identifier, as `veil show` prints it
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
    /// Copy the state, encrypted as it is, after checking that it opens
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

/// Which scope of which running authority.
#[derive(Args)]
pub(crate) struct Target {
    /// The file of its state
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
            let (file, content) = SealedFile::open(state, &key)?;
            let content = content.ok_or_else(|| Failure::new(format!("{}: no state", state.display())))?;
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
            let (file, content) = SealedFile::open(&from, &key)?;
            let content = content.ok_or_else(|| Failure::new(format!("{}: no copy", from.display())))?;
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
    let state = connection.keys.state_file().filter(|_| !connection.keys.issued().is_empty());
    let state = state.ok_or_else(|| Failure::new("give --issue FILTER, and --state FILE"))?;
    may_issue(connection.identity()?.as_ref())?;
    let listener = control::listen(state).await?;
    let given = connection.given()?;
    let client = connection.builder(&given)?.connect().await?;
    say!("issuing the keys of {}", connection.keys.issued().join(", "));
    let stop = |kind| signal(kind).map_err(|error| Failure::new(format!("signals: {error}")));
    let (mut terminate, mut interrupt) = (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(serve_one(client.clone(), stream));
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            reason = client.closed() => return Err(Failure::new(reason.to_string())),
        }
    }
    // The socket goes with the process that answers on it; one that stays is replaced at the next start.
    let _ = std::fs::remove_file(control::path(state));
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

async fn serve_one(client: Client, mut stream: UnixStream) {
    if let Some(words) = control::read(&mut stream).await {
        let outcome = carry_out(&client, &words).await;
        control::answer(stream, outcome).await;
    }
}

async fn carry_out(client: &Client, words: &[String]) -> Result<String, String> {
    let [verb, scope, argument] = words else { return Err("not a request".to_owned()) };
    let (done, what) = match verb.as_str() {
        "members" => {
            let members = client.members(scope).await.map_err(|error| error.to_string())?;
            return Ok(members.iter().map(|kid| format!("{kid}\n")).collect());
        }
        "admit" => {
            let bytes = unhex(argument).ok_or("not a certificate")?;
            let certificate = Certificate::parse(&bytes).map_err(|error| error.to_string())?;
            (client.admit(scope, certificate).await, "it is a member already")
        }
        "remove" | "remove-compromised" => {
            let kid: Kid = argument.parse().map_err(|_| "not a key identifier")?;
            let rotation = if verb == "remove" { Rotation::Removal } else { Rotation::Compromise };
            (client.remove_member(scope, kid, rotation).await, "it was not a member; it stays out")
        }
        "rotate" | "rotate-compromised" => {
            let rotation = if verb == "rotate" { Rotation::Ordinary } else { Rotation::Compromise };
            return client.rotate(scope, rotation).await.map(|()| String::new()).map_err(|e| e.to_string());
        }
        _ => return Err("unknown request".to_owned()),
    };
    match done {
        Ok(true) => Ok(String::new()),
        Ok(false) => Err(what.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
