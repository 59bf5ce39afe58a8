//! The options by which `veil pub`, `veil sub` and `veil authority` get and issue the keys of end-to-end scopes.

use std::{fs, path::PathBuf};

use clap::Args;
use veilmq_client::{
    Builder,
    e2e::{
        EnvelopeOptions, SenderPolicy,
        distribution::{Admission, IssuePolicy},
    },
    identity,
    sealed_file::StateKey,
};
use veilmq_protocol::veil::{Kid, channel::Secret32};
use zeroize::Zeroizing;

use crate::{failure::Failure, secret};

#[derive(Args)]
pub(crate) struct Keys {
    /// Topic filter whose messages are sealed end to end, with keys that come through the broker (repeatable)
    #[arg(
        long,
        value_name = "FILTER",
        help_heading = "End to end",
        requires = "identity",
        requires = "trust"
    )]
    join: Vec<String>,
    /// Ask this issuer, by its key identifier, for the keys of the --join filter while connecting, if there are none yet
    #[arg(long, value_name = "KID", help_heading = "End to end", requires = "join")]
    ask: Option<Kid>,
    /// Topic filter to issue the keys of, for what this client publishes (repeatable; needs --state)
    #[arg(
        long,
        value_name = "FILTER",
        help_heading = "End to end",
        requires = "identity",
        requires = "trust",
        requires = "state_file"
    )]
    issue: Vec<String>,
    #[command(flatten)]
    policy: Policy,
    #[command(flatten)]
    state: State,
}

/// How keys are issued.
#[derive(Args)]
pub(crate) struct Policy {
    /// Certificate of a member to let in, although it was never there (repeatable); who was removed stays out
    #[arg(long, value_name = "FILE", help_heading = "End to end", requires = "issue")]
    member: Vec<PathBuf>,
    /// Let nobody in but those of --member
    #[arg(long, help_heading = "End to end", requires = "issue")]
    members_only: bool,
    /// How often the keys change, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        help_heading = "End to end",
        requires = "issue",
        default_value_t = 86_400
    )]
    rotate_every: u64,
    /// How long a key is announced before it is used, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        help_heading = "End to end",
        requires = "issue",
        default_value_t = 60
    )]
    key_lead: u64,
    /// Change the key for every new member, so that it reads nothing from before
    #[arg(long, help_heading = "End to end", requires = "issue")]
    join_secrecy: bool,
    /// Give nobody keys whose prekey is not there: without one they have no forward secrecy
    #[arg(long, help_heading = "End to end", requires = "issue")]
    no_static_wraps: bool,
    /// Refuse messages that are not signed; with --issue, have all members refuse them
    #[arg(long, help_heading = "End to end")]
    require_signatures: bool,
}

/// Where keys and counters are kept.
#[derive(Args)]
pub(crate) struct State {
    /// File that keeps keys, members and which messages were received, encrypted [default key: from the identity]
    #[arg(long = "state", value_name = "FILE", help_heading = "End to end")]
    state_file: Option<PathBuf>,
    /// File with the passphrase that the state is encrypted with
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "End to end",
        requires = "state_file",
        conflicts_with = "state_key"
    )]
    passphrase_file: Option<PathBuf>,
    /// File with the key that the state is encrypted with (make one with `veil key new`)
    #[arg(long, value_name = "FILE", help_heading = "End to end", requires = "state_file")]
    state_key: Option<PathBuf>,
}

impl Keys {
    /// The scopes to issue the keys of.
    pub(crate) fn issued(&self) -> &[String] {
        &self.issue
    }

    /// The scopes whose keys come through the broker or go there.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = &String> {
        self.join.iter().chain(&self.issue)
    }

    /// How long a key is announced before it is used.
    pub(crate) const fn key_lead_seconds(&self) -> u64 {
        self.policy.key_lead
    }

    /// Whether messages that are not signed are to be refused.
    pub(crate) const fn requires_signatures(&self) -> bool {
        self.policy.require_signatures
    }

    /// The file of the state.
    pub(crate) fn state_file(&self) -> Option<&PathBuf> {
        self.state.path()
    }

    /// Adds the scopes to the client.
    pub(crate) fn add_to(
        &self,
        mut builder: Builder,
        envelopes: &EnvelopeOptions,
    ) -> Result<Builder, Failure> {
        let options = || EnvelopeOptions { senders: SenderPolicy::Known, ..envelopes.clone() };
        for filter in &self.join {
            let joined = builder.join_scope_with(filter, options());
            builder = joined.map_err(|error| Failure::new(format!("--join {filter:?}: {error}")))?;
        }
        if let (Some(issuer), [filter, ..]) = (self.ask, self.join.as_slice()) {
            let asking = builder.ask_with_connect(filter, issuer);
            builder = asking.map_err(|error| Failure::new(format!("--ask {issuer}: {error}")))?;
        }
        for filter in &self.issue {
            builder = self.policy.issue(builder, filter, options())?;
        }
        self.state.add_to(builder)
    }
}

impl Policy {
    /// Makes the client an issuer of a scope.
    pub(crate) fn issue(
        &self,
        builder: Builder,
        filter: &str,
        options: EnvelopeOptions,
    ) -> Result<Builder, Failure> {
        let policy = IssuePolicy {
            rotate_every_ms: self.rotate_every.saturating_mul(1_000),
            key_lead_ms: self.key_lead.saturating_mul(1_000),
            join_secrecy: self.join_secrecy,
            allow_static_wrap: !self.no_static_wraps,
            signed_only: self.require_signatures,
            admission: if self.members_only { Admission::Named } else { Admission::Certified },
            ..IssuePolicy::default()
        };
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("scope {filter:?}: {error}"));
        let mut builder =
            builder.issue_scope_with(filter, policy, options).map_err(|error| failed(&error))?;
        for path in &self.member {
            let certificate = identity::load_certificate(path)?;
            builder = builder.admit(filter, certificate).map_err(|error| failed(&error))?;
        }
        Ok(builder)
    }
}

impl State {
    /// The file.
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        self.state_file.as_ref()
    }

    /// Keeps the state of the client in the file.
    pub(crate) fn add_to(&self, builder: Builder) -> Result<Builder, Failure> {
        let Some(file) = &self.state_file else { return Ok(builder) };
        Ok(match self.key()? {
            Some(key) => builder.state_file_with_key(file, key),
            None => builder.state_file(file),
        })
    }

    /// The key that was given, if any.
    pub(crate) fn key(&self) -> Result<Option<StateKey>, Failure> {
        if let Some(path) = &self.state_key {
            return Ok(Some(StateKey::Key(Secret32::new(&*secret::load(path)?))));
        }
        let Some(path) = &self.passphrase_file else { return Ok(None) };
        let bytes = fs::read(path).map(Zeroizing::new);
        let bytes = bytes.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        let passphrase = Zeroizing::new(bytes.trim_ascii_end().to_vec());
        if passphrase.is_empty() {
            return Err(Failure::new(format!("{}: the passphrase is empty", path.display())));
        }
        Ok(Some(StateKey::Passphrase(passphrase)))
    }
}
