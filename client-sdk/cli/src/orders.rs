//! What a running issuer is told on its socket, and what it answers: one line of text for each order, or why it was not carried out.

use std::{convert::Infallible, path::PathBuf};

use tokio::net::{UnixListener, UnixStream};
use veilmq_client::{
    Announcement, Client, KeyChange, KeyRequestError,
    e2e::distribution::{IssuePolicy, Rotation},
};
use veilmq_protocol::veil::{Certificate, Kid};

use crate::{
    control,
    failure::{Failure, complain},
    format::unhex,
    keys::Keys,
};

/// An issuer that takes orders. The socket goes with the process that answers on it; one that stays is replaced at the next start.
pub(crate) struct Orders {
    listener: UnixListener,
    socket: PathBuf,
    /// How long a key is announced before it is used.
    key_lead_seconds: u64,
}

impl Orders {
    /// Says before anything is connected whether another program issues keys with the same state; gives this one's, if it issues any.
    ///
    /// # Errors
    /// If another program does.
    pub(crate) async fn check_is_free(keys: &Keys) -> Result<Option<&PathBuf>, Failure> {
        let state = state_of_issuer(keys);
        if let Some(state) = state {
            control::check_is_free(state).await?;
        }
        Ok(state)
    }

    /// Listens beside the state of a program that issues keys; `None` if it issues none. The client has to be connected: before it has the
    /// state, the socket may be that of another program which is just beginning.
    ///
    /// # Errors
    /// If another program issues keys with the same state, or nothing can listen there.
    pub(crate) async fn listen(keys: &Keys) -> Result<Option<Self>, Failure> {
        let Some(state) = state_of_issuer(keys) else { return Ok(None) };
        let listener = control::listen(state).await?;
        let (socket, key_lead_seconds) = (control::path(state), keys.key_lead_seconds());
        Ok(Some(Self { listener, socket, key_lead_seconds }))
    }

    /// The same for a program that has something else to do, which it does where nothing can listen: the path of its state may be too
    /// long for the name of a socket.
    ///
    /// # Errors
    /// If another program issues keys with the same state.
    pub(crate) async fn listen_if_possible(keys: &Keys) -> Result<Option<Self>, Failure> {
        match Self::listen(keys).await {
            Err(failure) if !control::is_answered(keys.state_file().map(PathBuf::as_path)).await => {
                complain(&format!("veil authority cannot tell this program anything: {failure}"));
                Ok(None)
            }
            orders => orders,
        }
    }

    /// Takes orders for a client until it is dropped.
    pub(crate) async fn serve(&self, client: &Client) -> Infallible {
        loop {
            let stream = control::accept(&self.listener).await;
            tokio::spawn(serve_one(client.clone(), self.key_lead_seconds, stream));
        }
    }

    /// Takes orders for as long as the program runs.
    pub(crate) fn serve_beside(self, client: Client) {
        tokio::spawn(async move { self.serve(&client).await });
    }
}

fn state_of_issuer(keys: &Keys) -> Option<&PathBuf> {
    keys.state_file().filter(|_| !keys.issued().is_empty())
}

impl Drop for Orders {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn serve_one(client: Client, key_lead_seconds: u64, mut stream: UnixStream) {
    if let Some(words) = control::read(&mut stream).await {
        let outcome = carry_out(&client, key_lead_seconds, &words).await;
        control::answer(stream, outcome).await;
    }
}

async fn carry_out(client: &Client, key_lead_seconds: u64, words: &[String]) -> Result<String, String> {
    let [verb, scope, argument] = words else { return Err("not a request".to_owned()) };
    let done = match verb.as_str() {
        "members" => members(client, scope).await,
        "admit" => {
            let bytes = unhex(argument).ok_or("not a certificate")?;
            let certificate = Certificate::parse(&bytes).map_err(|error| error.to_string())?;
            return admit(client, scope, certificate).await;
        }
        "remove" | "remove-compromised" => {
            let kid: Kid = argument.parse().map_err(|_| "not a key identifier")?;
            let is_compromised = verb != "remove";
            return remove(client, scope, kid, is_compromised).await;
        }
        "rotate" => rotate(client, scope, Rotation::Ordinary, key_lead_seconds).await,
        "rotate-compromised" => rotate(client, scope, Rotation::Compromise, removal_lead_seconds()).await,
        _ => return Err("unknown request".to_owned()),
    };
    done.map_err(|error| error.to_string())
}

async fn members(client: &Client, scope: &str) -> Result<String, KeyRequestError> {
    let members = client.members(scope).await?;
    // A subject could hold the end of a line, and so somebody else's.
    let line = |member: &Certificate| format!("{} {}\n", member.kid(), member.subject.escape_debug());
    Ok(members.iter().map(line).collect())
}

async fn admit(client: &Client, scope: &str, certificate: Certificate) -> Result<String, String> {
    let who = format!("{} ({})", certificate.subject.escape_debug(), certificate.kid());
    match client.admit(scope, certificate).await {
        Ok(true) => Ok(format!("{who} is a member of {scope}")),
        Ok(false) => Err(format!("{who} is a member of {scope} already")),
        Err(error) => Err(error.to_string()),
    }
}

async fn remove(client: &Client, scope: &str, kid: Kid, is_compromised: bool) -> Result<String, String> {
    let rotation = if is_compromised { Rotation::Compromise } else { Rotation::Removal };
    match client.remove_member(scope, kid, rotation).await {
        Ok(KeyChange { changed: true, announcement }) => {
            let change = change(rotation, announcement, removal_lead_seconds());
            Ok(format!(
                "{kid} is no member of {scope} any more; the next key, which it does not get, {change}"
            ))
        }
        Ok(KeyChange { changed: false, .. }) => {
            Err(format!("{kid} was not a member of {scope}; it stays out"))
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn rotate(
    client: &Client,
    scope: &str,
    rotation: Rotation,
    lead_seconds: u64,
) -> Result<String, KeyRequestError> {
    let announcement = client.rotate(scope, rotation).await?;
    Ok(format!("the next key of {scope} {}", change(rotation, announcement, lead_seconds)))
}

/// What becomes of the next key: an issuer that is not connected announces it when it is.
fn change(rotation: Rotation, announcement: Announcement, lead_seconds: u64) -> String {
    let before = match rotation {
        Rotation::Compromise => "; what was sealed before counts no more from then on",
        Rotation::Ordinary | Rotation::Removal => "",
    };
    let moment = match announcement {
        Announcement::Now => "now",
        Announcement::WhenConnected => "as soon as the broker is there",
    };
    format!("is announced {moment} and used {lead_seconds} seconds later{before}")
}

/// How long a key is announced that takes the place of one that somebody should not have.
fn removal_lead_seconds() -> u64 {
    IssuePolicy::default().removal_lead_ms / 1_000
}
