//! Who may connect and what each client may do: the tables that all shards consult, and that a reload replaces as a whole.
//!
//! Nothing here computes a hash or reads a file. Whoever drives the core checks passwords ([`Credentials`] go out, a
//! [`Verdict`] comes back) and makes the tables. Invariant: where no rules are in force a session has no [`Permissions`], and a
//! message costs nothing more than finding that out.

mod certificate;
mod control;
mod permissions;
mod presence;
mod roles;
mod rules;
mod tables;
mod template;
mod visitor;
mod voucher;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

pub use self::certificate::{CertificateField, CertificateFields};
pub(crate) use self::control::COMMAND_BYTES_MAX;
pub use self::control::{Command, ControlTopic, ControlTopics};
pub(crate) use self::permissions::{Action, Permissions};
pub(crate) use self::presence::Presence;
pub use self::roles::{Holder, Role, RoleDefaults, RoleRule, Roles};
pub use self::rules::{Actions, Rule, RuleEffect, Rules, Stage, Subject};
pub use self::tables::AccessTables;
pub(crate) use self::template::{Names, Pattern};
pub use self::template::{Template, TemplateError};
pub use self::visitor::{Admission, Visitor};
pub use self::voucher::Terms;
pub(crate) use self::voucher::Voucher;
use crate::e2e::Policies;
use crate::entrance::EntranceId;
use crate::farewell::PeerError;

/// The user that the broker's own bridges are, for whom no rule holds. No client can be it, for no text in MQTT holds U+0000
/// ([MQTT-1.5.4-2]).
pub(crate) const BRIDGES: &str = "bridges\0";

/// Who may connect, and what clients may do.
#[derive(Debug)]
pub struct Access {
    /// Whether a client without a user name, an identity or a certificate may connect.
    pub anonymous: bool,
    /// The users whose passwords are checked, each with a number that changes when what it has to prove does. Without them a
    /// user name is taken at its word where anonymous clients may connect, and refused elsewhere.
    pub users: Option<HashMap<Arc<str>, u64>>,
    /// The numbers of those who vouch for users that are not among `users`, as the issuers of tokens do.
    pub authorities: Vec<u64>,
    /// Whether they may say what a client may do too ([`Terms::rules`]).
    pub authorities_bring_rules: bool,
    /// Whether they may say who a client is that gives a password and no user name.
    pub authorities_name_users: bool,
    /// What clients may do; None lets everybody do everything.
    pub rules: Option<Rules>,
    /// What messages have to be on some topics, whoever may publish there.
    pub policies: Policies,
    /// Whether MQTT 5 clients are told 0x86 when user name and password are refused, and not 0x87 as by everything else that
    /// they are not authorised to.
    pub tells_bad_credentials: bool,
    /// The topics that take commands.
    pub controls: ControlTopics,
}

impl Access {
    /// Makes the tables of a broker that knows no users and has no rules.
    pub fn open_to(anonymous: bool) -> Self {
        Self {
            anonymous,
            users: None,
            authorities: Vec::new(),
            authorities_bring_rules: false,
            authorities_name_users: false,
            rules: None,
            policies: Policies::default(),
            tells_bad_credentials: true,
            controls: ControlTopics::default(),
        }
    }

    /// Tells whether a client may go on: nothing that it proved when it connected has been taken back since.
    pub(crate) fn admits(&self, user: Option<&User>, has_identity: bool) -> bool {
        // What nobody vouches for any more is as good as nothing.
        match user.map(|user| (&user.name, &user.proof)) {
            _ if has_identity => true,
            Some((name, Proof::Password(stamp))) => {
                self.users.as_ref().is_some_and(|users| users.get(name) == Some(stamp))
            }
            Some((_, Proof::Vouched(voucher))) => self.authorities.contains(&voucher.authority),
            Some((_, Proof::Transport | Proof::Remembered)) => true,
            Some((_, Proof::Withdrawn)) => false,
            // It is a claim that could be checked now.
            Some((_, Proof::None)) if self.checks_users() => false,
            Some((_, Proof::None)) | None => self.anonymous,
        }
    }

    /// Tells whether any client may be restricted in what it does.
    pub(crate) fn may_restrict(&self) -> bool {
        self.rules.is_some() || self.authorities_bring_rules
    }

    /// Tells whether a user name has to be proved.
    pub(crate) fn checks_users(&self) -> bool {
        self.users.is_some() || !self.authorities.is_empty()
    }

    /// Returns what a client is told whose user name or password is refused.
    pub(crate) fn bad_credentials(&self) -> PeerError {
        match self.tells_bad_credentials {
            true => PeerError::Credentials,
            false => PeerError::NotAuthorized("user name or password refused"),
        }
    }

    /// Tells whether a client that these tables let in has to connect anew under others: what its user may do has changed in a way
    /// that clients are told of.
    pub(crate) fn unseats(&self, user: Option<&str>, now: &Self) -> bool {
        match (&self.rules, &now.rules) {
            (Some(before), Some(now)) => before.unseats(user, now),
            (None, _) | (_, None) => false,
        }
    }

    /// Tells whether what a client may do can depend on what is known of it only while it is connected, or was since the start.
    pub(crate) fn goes_by_what_is_not_stored(&self) -> bool {
        self.authorities_bring_rules || self.needs_certificates()
    }

    /// Tells whether what clients may do can depend on their certificates.
    pub(crate) fn needs_certificates(&self) -> bool {
        self.rules.as_ref().is_some_and(Rules::need_certificates)
    }

    /// Returns what a client may do; None if that is everything.
    pub(crate) fn permissions(&self, asker: Asker<'_>) -> Option<Box<Permissions>> {
        if asker.names.user == Some(BRIDGES) {
            return None;
        }
        let rules = asker.rules.or(self.rules.as_ref())?;
        Some(Box::new(rules.permissions(asker.names)))
    }
}

/// A client as rules know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) names: Names<'a>,
    /// What whoever vouches for it says that it may do.
    pub(crate) rules: Option<&'a Rules>,
}

/// The user that a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: Arc<str>,
    pub(crate) proof: Proof,
}

/// How it is known who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It is the client's own word.
    None,
    /// Its password was right; the number is that of [`Access::users`] at that time.
    Password(u64),
    /// Somebody among [`Access::authorities`] vouches for it.
    Vouched(Box<Voucher>),
    /// What carries MQTT has proved it, as TLS does with a client's certificate.
    Transport,
    /// It was proved before the broker was started last, in one way or another.
    Remembered,
    /// Who vouched for it does not any more.
    Withdrawn,
}

impl User {
    pub(crate) fn new(name: Arc<str>, proof: Proof) -> Self {
        Self { name, proof }
    }

    /// Returns the user of a session that was stored.
    pub(crate) fn remembered(name: Arc<str>, is_proven: bool) -> Self {
        Self::new(name, if is_proven { Proof::Remembered } else { Proof::None })
    }

    /// Returns on what terms somebody vouches for it.
    pub(crate) fn terms(&self) -> Option<&Terms> {
        match &self.proof {
            Proof::Vouched(voucher) => Some(&voucher.terms),
            Proof::None | Proof::Password(_) | Proof::Transport | Proof::Remembered | Proof::Withdrawn => {
                None
            }
        }
    }

    /// Returns what whoever vouches for it says that it may do.
    pub(crate) fn rules(&self) -> Option<&Rules> {
        self.terms()?.rules.as_ref()
    }

    /// Tells whether more than the client's word stands behind the name.
    pub(crate) fn is_proven(&self) -> bool {
        self.proof != Proof::None
    }
}

/// What a client shows for who it is, to be checked by whoever drives the core. The password is erased when this is dropped.
pub struct Credentials {
    /// The listener that the connection came by.
    pub entrance: EntranceId,
    /// Whom the connection comes from, as given with [`crate::Input::Accepted`].
    pub peer: Box<str>,
    /// The Client Identifier.
    pub client_id: Arc<str>,
    /// The user name; empty if CONNECT has none.
    pub user: Arc<str>,
    /// The password; empty if CONNECT has none.
    pub password: Zeroizing<Vec<u8>>,
    /// What the certificate says that the client has shown, if it has.
    pub certificate: Option<Arc<CertificateFields>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("peer", &self.peer)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What became of [`Credentials`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password is that of the user, whose number in [`Access::users`] this is.
    Right(u64),
    /// Somebody vouches for the user, who is in no list.
    Vouched {
        /// The user: the one that the client says it is or, if it does not say so, whoever this is.
        user: Arc<str>,
        /// The number among [`Access::authorities`].
        authority: u64,
        /// What it says besides.
        terms: Terms,
    },
    /// There is no such user, or its password is another.
    Wrong,
    /// There were too many wrong ones from this address or for this user.
    Banned,
    /// It cannot be checked now.
    Busy,
}
