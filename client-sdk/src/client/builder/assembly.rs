//! Makes the parts of a client from its description, and refuses what does not fit together.
//!
//! Invariant: a channel or keys that were asked for are never left out silently.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tracing::warn;
use veilmq_protocol::veil::{Kid, distribution::Pair};

use super::{Asked, Builder};
use crate::{
    client::{
        clock::{entropy, unix_ms},
        driver::Endpoint,
        error::ConnectError,
        keys::Keys,
        retained::Retained,
        sealing::{Sealing, restore, unsigned_kid},
    },
    e2e::{E2e, Member, ReplayWindow, Scope, distribution::Distribution},
    sealed_file::{Content, SealedFile, SealedFileError, StateKey},
    session::{ChannelOptions, Handshake, Session},
};

/// How long a state may be in use by a client that ends: for its last packet, which may take a second, and its last save.
const IN_USE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Builder {
    /// Makes the parts.
    pub(super) fn assemble(mut self) -> Result<(Endpoint, Session, Sealing), ConnectError> {
        self.follow_paper();
        self.warn_of_weakenings();
        if let (true, Some(identity)) = (self.session.client_id.is_empty(), &self.identity) {
            identity.certificate().subject.clone_into(&mut self.session.client_id);
        }
        let mut distribution = self.distribution()?;
        self.widen_replay_window(distribution.is_some())?;
        let state = self.state_key()?;
        self.session.channel = self.channel()?;
        let asks = self.asks()?;
        let member = match self.identity {
            Some(identity) => Member::Identity(identity),
            None => Member::Unsigned(unsigned_kid(&self.session.client_id)),
        };
        let mut e2e = E2e::new(member, self.limits);
        *e2e.directory_mut() = self.directory;
        for scope in self.scopes {
            e2e.add_scope(scope)?;
        }
        if let Some(distribution) = &mut distribution {
            for (scope, options) in self.joined {
                distribution.join(&mut e2e, scope, options)?;
            }
            for (scope, options, policy) in self.issued {
                distribution.issue(&mut e2e, scope, options, policy)?;
            }
            for (publisher, options) in self.pairs {
                distribution.join_pair(&mut e2e, publisher, options)?;
            }
            if let Some((options, policy)) = self.issued_pairs {
                distribution.issue_pairs(&mut e2e, options, policy)?;
            }
        }
        for (scope, keys) in self.legacy {
            e2e.copy_to_legacy(&scope, keys)?;
        }
        for (scope, naming) in self.blind {
            e2e.make_blind(&scope, naming)?;
        }
        let accept = self.accept_replay_after_crash;
        let open = |(path, key): (PathBuf, StateKey)| {
            open_state(&path, &key, distribution.as_mut(), &mut e2e, accept)
        };
        let (file, retained) = state.map(open).transpose()?.unzip();
        if let Some(distribution) = &mut distribution {
            for (scope, certificate) in self.members {
                if distribution.is_removed(&scope, certificate.kid()) {
                    warn!(scope = scope.as_str(), member = %certificate.kid(), "named for the scope, but taken out of it: it stays out");
                    continue;
                }
                distribution.admit(&scope, certificate, unix_ms(), &mut entropy)?;
            }
            for certificate in self.pair_members {
                if distribution.is_removed_from_pairs(certificate.kid()) {
                    warn!(member = %certificate.kid(), "named for a pair, but taken out of it: it stays out");
                    continue;
                }
                distribution.admit_to_pairs(certificate, unix_ms())?;
            }
        }
        let receive_maximum = self.session.receive_maximum.get();
        let keys = distribution.map(|distribution| Keys::new(distribution, asks, receive_maximum));
        let mut sealing = Sealing::new(e2e, keys, file, retained.unwrap_or_default());
        sealing.begin().map_err(|error| ConnectError::State(error.to_string()))?;
        Ok((self.endpoint, Session::new(self.session), sealing))
    }

    /// VEIL-1 section 12.2: what the broker may send again in another order must be told apart.
    fn widen_replay_window(&mut self, has_distributed_scopes: bool) -> Result<(), ConnectError> {
        if self.scopes.is_empty() && !has_distributed_scopes {
            return Ok(());
        }
        let receive_maximum = self.session.receive_maximum.get();
        let needed =
            ReplayWindow::above(receive_maximum).ok_or(ConnectError::ReceiveMaximum(receive_maximum))?;
        self.limits.replay.window = self.limits.replay.window.max(needed);
        Ok(())
    }

    /// The channel this client insists on, if any.
    fn channel(&mut self) -> Result<Option<ChannelOptions>, ConnectError> {
        let asked_for = self.broker.is_some()
            || self.suites.is_some()
            || self.schemes.is_some()
            || self.handshake != Handshake::Sigma;
        match (&self.identity, self.trust.take()) {
            _ if self.plain_channel => Ok(None),
            (None, None) if !asked_for => Ok(None),
            (None, _) => Err(ConnectError::ChannelIncomplete("an identity")),
            (Some(_), None) => Err(ConnectError::ChannelIncomplete("an authority or broker to trust")),
            (Some(identity), Some(trust)) => {
                if self.handshake == Handshake::Compact && self.broker.is_none() {
                    return Err(ConnectError::ChannelIncomplete(
                        "the name of the broker, which COMPACT signs",
                    ));
                }
                let defaults = ChannelOptions::new(Arc::clone(identity), Arc::new(trust));
                Ok(Some(ChannelOptions {
                    broker: self.broker.take(),
                    suites: self.suites.take().unwrap_or_else(|| defaults.suites.clone()),
                    schemes: self.schemes.unwrap_or(defaults.schemes),
                    handshake: self.handshake,
                    resume: self.resume,
                    weak_groups: self.weak_groups,
                    ..defaults
                }))
            }
        }
    }

    /// The scope whose keys are asked for with CONNECT, and of whom.
    fn asks(&self) -> Result<Option<(Scope, Kid)>, ConnectError> {
        let Some(asks) = &self.asks else { return Ok(None) };
        if self.session.channel.is_none() {
            return Err(ConnectError::KeysIncomplete("a VEIL-1 channel, to ask with CONNECT"));
        }
        let (scope, issuer, is_joined) = match asks {
            Asked::Scope(scope, issuer) => {
                (scope.clone(), *issuer, self.joined.iter().any(|(joined, _)| joined == scope))
            }
            Asked::Pair(publisher) => {
                let identity = self.identity.as_ref().ok_or(ConnectError::KeysIncomplete("an identity"))?;
                let pair = Pair { publisher: *publisher, subscriber: identity.kid() };
                let is_joined = self.pairs.iter().any(|(joined, _)| joined == publisher);
                (Scope::new(&pair.to_string())?, *publisher, is_joined)
            }
        };
        match is_joined {
            true => Ok(Some((scope, issuer))),
            false => Err(ConnectError::KeysIncomplete("a scope or pair that is joined, to ask for")),
        }
    }

    /// The distribution of keys, if any scope needs it.
    fn distribution(&self) -> Result<Option<Distribution>, ConnectError> {
        let has_pairs = !self.pairs.is_empty() || self.issued_pairs.is_some();
        match (&self.identity, &self.trust) {
            (_, _) if self.joined.is_empty() && self.issued.is_empty() && !has_pairs => Ok(None),
            (Some(identity), Some(trust)) => Ok(Some(Distribution::new(Arc::clone(identity), trust.clone()))),
            (None, _) => Err(ConnectError::KeysIncomplete("an identity")),
            (Some(_), None) => Err(ConnectError::KeysIncomplete("an authority to trust")),
        }
    }

    fn state_key(&mut self) -> Result<Option<(PathBuf, StateKey)>, ConnectError> {
        let Some((path, key)) = self.state.take() else { return Ok(None) };
        let key = key.or_else(|| self.identity.as_deref().map(StateKey::of_identity));
        let key = key.ok_or(ConnectError::KeysIncomplete("an identity, or a key for the state"))?;
        Ok(Some((path, key)))
    }
}

/// Takes back what an earlier run of this program has saved.
fn open_state(
    path: &Path,
    key: &StateKey,
    distribution: Option<&mut Distribution>,
    e2e: &mut E2e,
    accept_replay_after_crash: bool,
) -> Result<(SealedFile, Retained), ConnectError> {
    let (file, saved) = open_when_free(path, key).map_err(|error| ConnectError::State(error.to_string()))?;
    let Some(saved) = saved else { return Ok((file, Retained::default())) };
    let retained = restore(&saved, distribution, e2e, accept_replay_after_crash);
    Ok((file, retained.map_err(|error| ConnectError::State(error.to_string()))?))
}

/// Opens the file, once a client that is about to end has let go of it. This takes its time, on a thread that may.
fn open_when_free(path: &Path, key: &StateKey) -> Result<(SealedFile, Option<Content>), SealedFileError> {
    let deadline = Instant::now() + IN_USE;
    loop {
        match SealedFile::open(path, key) {
            Err(SealedFileError::InUse { .. }) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::e2e::MasterSecret;
    use veilmq_protocol::veil::{
        CertificateFields, Roles, Schemes, Suite,
        channel::{Identity, IdentityKeys, TrustAnchors},
    };

    fn identity() -> Arc<Identity> {
        let keys = IdentityKeys::from_seeds(&[1; 32], &[2; 32]);
        let fields = CertificateFields {
            roles: Roles::PUBLISHER,
            serial: 1,
            not_before: 0,
            not_after: u64::MAX,
            ed25519: keys.ed25519_public(),
            x25519: keys.x25519_public(),
            subject: "press-07".to_owned(),
            publish_scopes: Vec::new(),
            subscribe_scopes: Vec::new(),
            path_length: None,
            revocation_topic: None,
        };
        let certificate = fields.sign(&keys).unwrap();
        Arc::new(Identity::new(certificate, keys).unwrap())
    }

    /// Says whether a client would use a channel, or what it misses.
    fn channel(builder: Builder) -> Result<bool, ConnectError> {
        let (_, mut session, _) = builder.assemble()?;
        let now = crate::session::Now { monotonic_ms: 0, unix_ms: 0 };
        session.connect(None, now, &mut |bytes| bytes.fill(7)).unwrap();
        Ok(session.output().windows(6).any(|window| window == b"VEIL-1"))
    }

    #[test]
    fn a_channel_that_was_asked_for_is_never_left_out_silently() {
        let new = || Builder::new("localhost", 1883);
        let misses = |what| Err(ConnectError::ChannelIncomplete(what));
        let (an_identity, trust) = ("an identity", "an authority or broker to trust");
        for (builder, expected) in [
            (new(), Ok(false)),
            (new().identity(identity()).trust(TrustAnchors::new()), Ok(true)),
            (new().identity(identity()).without_channel(), Ok(false)),
            (new().identity(identity()).trust(TrustAnchors::new()).without_channel(), Ok(false)),
            (new().trust(TrustAnchors::new()), misses(an_identity)),
            (new().broker_name("broker"), misses(an_identity)),
            (new().schemes(Schemes::ALL), misses(an_identity)),
            (new().suites(&[Suite::Aes256Gcm]), misses(an_identity)),
            (new().identity(identity()), misses(trust)),
        ] {
            assert_eq!(channel(builder), expected);
        }
    }

    #[test]
    fn no_scope_is_read_with_a_receive_maximum_that_no_replay_window_exceeds() {
        let sealed = |receive_maximum| {
            let builder =
                Builder::new("localhost", 1883).receive_maximum(NonZeroU16::new(receive_maximum).unwrap());
            builder.master_scope("a/#", MasterSecret::new(b"m")).unwrap().assemble().map(drop)
        };

        assert_eq!(sealed(1_023), Ok(()));
        assert_eq!(sealed(1_024), Err(ConnectError::ReceiveMaximum(1_024)));
        let plain = Builder::new("localhost", 1883).receive_maximum(NonZeroU16::MAX);
        assert_eq!(plain.assemble().map(drop), Ok(()));
    }
}
