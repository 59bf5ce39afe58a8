//! `veil roster diff`: whether those who have the key of a scope are those who should (VEIL-1 sections 9.2, 12.4).
//!
//! Looks at what issuers have published, and needs no key. A head commits to its roster, so certificates alone can show that the two
//! are the same; wraps name the members where they are not. Invariant: nothing that does not verify is compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use tokio::time::timeout;
use veilmq_client::{Client, QoS, Received, identity};
use veilmq_protocol::veil::{
    Certificate, Kid, Roles,
    channel::TrustAnchors,
    distribution::{
        Crl, DistributionTopic, KeyHead, KeyHeadFlags, Wrap, WrapKind, bundle, roster_root, scope_hash,
    },
};

use crate::{
    connection::{self, Connection},
    failure::Failure,
    format::{unix_ms, utc},
    pairs::Pairs,
};

/// After so long without another retained message there is none.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Compare who has the key of a scope with who should; status 1 if an issuer has given it to others
    #[command(disable_help_flag = true, after_help = connection::EXIT_STATUSES)]
    Diff(Box<Diff>),
}

#[derive(Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    connection: Connection,
    /// The scope
    filter: String,
    /// Certificates of those who should have its key
    certificate: Vec<PathBuf>,
    /// Revocation list; certificates on it should not have the key (repeatable)
    #[arg(long, value_name = "FILE")]
    crl: Vec<PathBuf>,
    /// File with what an issuer has published on _veil/1/kp/..., instead of asking the broker (repeatable)
    #[arg(long, value_name = "FILE")]
    head: Vec<PathBuf>,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Diff(arguments) = command;
    let roster = Roster::load(&arguments)?;
    let mut published = Published::default();
    for path in &arguments.head {
        let payload = fs::read(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        published.take_head(&payload, &arguments.filter, &roster.anchors, &path.display().to_string());
    }
    if arguments.head.is_empty() {
        published.ask_broker(&arguments, &roster.anchors).await?;
    }
    if published.heads.is_empty() {
        return Err(Failure::new(format!("nobody issues keys of {:?}", arguments.filter)));
    }
    let differing = published.issuers().filter(|issuer| !issuer.print(&roster)).count();
    match differing {
        0 => Ok(()),
        count => {
            Err(Failure::new(format!("{count} of {} issuers have another roster", published.heads.len())))
        }
    }
}

/// Who should have the key.
struct Roster {
    anchors: TrustAnchors,
    members: BTreeMap<Kid, Certificate>,
}

impl Roster {
    fn load(arguments: &Diff) -> Result<Self, Failure> {
        let mut anchors = arguments.connection.anchors()?;
        for path in &arguments.crl {
            revoke(&mut anchors, path)?;
        }
        let mut members = BTreeMap::new();
        for path in &arguments.certificate {
            let certificate = identity::load_certificate(path)?;
            match anchors.verify(&certificate, Roles::CLIENT, None, Some(unix_ms() / 1_000)) {
                Ok(()) => {
                    members.insert(certificate.kid(), certificate);
                }
                Err(error) => say!("{}: does not count: {error}", path.display()),
            }
        }
        Ok(Self { anchors, members })
    }
}

fn revoke(anchors: &mut TrustAnchors, path: &Path) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", path.display()));
    let bytes = fs::read(path).map_err(|error| failed(&error))?;
    let list = Crl::parse(&bytes).map_err(|error| failed(&error))?;
    list.verify(anchors).map_err(|error| failed(&error))?;
    for entry in &list.revoked {
        anchors.revoke(list.issuer.kid(), entry.serial);
    }
    Ok(())
}

/// What issuers have published of a scope.
#[derive(Default)]
struct Published {
    heads: BTreeMap<Kid, (KeyHead, Wraps)>,
    /// Wraps on topics of their own, by issuer.
    apart: BTreeMap<Kid, Wraps>,
}

/// For whom there are wraps, and for which of their keys.
type Wraps = BTreeMap<Kid, WrapKind>;

/// What one of them has.
struct Issuer<'a> {
    head: &'a KeyHead,
    /// Those that could be seen.
    wraps: Wraps,
}

impl Published {
    async fn ask_broker(&mut self, arguments: &Diff, anchors: &TrustAnchors) -> Result<(), Failure> {
        let client =
            arguments.connection.builder(&arguments.connection.given()?, &Pairs::None)?.connect().await?;
        let hash = Kid::from_bytes(scope_hash(&arguments.filter));
        let heads = format!("{}kp/{hash}/+", DistributionTopic::PREFIX);
        self.listen(&client, &heads, &arguments.filter, anchors).await?;
        if self.heads.values().any(|(head, _)| head.flags.contains(KeyHeadFlags::SHARDED)) {
            // A broker may keep each of these for its member; then they stay unnamed.
            let apart = format!("{}kp/{hash}/+/w/+", DistributionTopic::PREFIX);
            if let Err(failure) = self.listen(&client, &apart, &arguments.filter, anchors).await {
                say!("the wraps of {:?} are not to be seen: {failure}", arguments.filter);
            }
        }
        Ok(client.disconnect().await?)
    }

    async fn listen(
        &mut self,
        client: &Client,
        filter: &str,
        scope: &str,
        anchors: &TrustAnchors,
    ) -> Result<(), Failure> {
        let mut messages = client.subscribe(filter).qos(QoS::AtLeastOnce).await?;
        while let Ok(Some(received)) = timeout(QUIET, messages.next()).await {
            let Received::Message(message) = received else { continue };
            match DistributionTopic::parse(&message.topic) {
                Some(DistributionTopic::KeyHead { .. }) => {
                    self.take_head(&message.payload, scope, anchors, &message.topic);
                }
                Some(DistributionTopic::Wrap { issuer, member, .. }) => {
                    if let Ok(wrap) = Wrap::parse(&message.payload) {
                        self.apart.entry(issuer).or_default().insert(member, wrap.kind);
                    }
                }
                Some(_) | None => {}
            }
        }
        Ok(messages.unsubscribe().await?)
    }

    /// Takes a head that verifies, with whom its bundle names; says why of any other.
    fn take_head(&mut self, payload: &[u8], scope: &str, anchors: &TrustAnchors, origin: &str) {
        let verified = KeyHead::parse(payload).and_then(|(head, rest)| {
            head.verify(anchors, Some(unix_ms() / 1_000))?;
            let wraps = match head.flags.contains(KeyHeadFlags::BUNDLE) {
                true => bundle(rest)?,
                false => Vec::new(),
            };
            Ok((head, wraps.into_iter().map(|wrap| (wrap.kid, wrap.kind)).collect()))
        });
        match verified {
            Ok((head, _)) if head.scope != scope => {
                say!("{origin}: is a head of {:?}, and left out", head.scope);
            }
            Ok((head, wraps)) => {
                self.heads.insert(head.issuer, (head, wraps));
            }
            Err(error) => say!("{origin}: left out: {error}"),
        }
    }

    fn issuers(&self) -> impl Iterator<Item = Issuer<'_>> {
        self.heads.values().map(|(head, wraps)| {
            let apart = self.apart.get(&head.issuer).into_iter().flatten();
            let wraps = wraps.iter().chain(apart).map(|(kid, kind)| (*kid, *kind)).collect();
            Issuer { head, wraps }
        })
    }
}

impl Issuer<'_> {
    /// Prints how the roster of this issuer differs; returns whether it does not.
    fn print(&self, roster: &Roster) -> bool {
        let Self { head, wraps } = self;
        let (issuer, subject) = (head.issuer, head.certificate.subject.escape_debug());
        let since = utc(head.activate_ms / 1_000);
        say!("issuer {issuer} ({subject}), epoch {} from {since}, {} members", head.epoch, head.member_count);
        for (kid, _) in wraps.iter().filter(|(_, kind)| **kind == WrapKind::Static) {
            say!("  ! {kid} has the key without forward secrecy: it had shown no prekey");
        }
        // An issuer needs no wrap for itself.
        let expected: BTreeSet<Kid> = roster.members.keys().filter(|kid| **kid != issuer).copied().collect();
        if roster_root(&expected) == head.roster_root {
            say!("  = the roster");
            return true;
        }
        let named: BTreeSet<Kid> = wraps.keys().copied().collect();
        for kid in named.difference(&expected) {
            say!("  + {kid} has the key and is not on the roster");
        }
        let is_complete = named.len() == usize::from(head.member_count);
        if is_complete && named == expected {
            say!("  ? the head commits to another roster than its wraps name");
        } else if is_complete {
            for kid in expected.difference(&named) {
                let subject =
                    roster.members.get(kid).map_or("", |certificate| &certificate.subject).escape_debug();
                say!("  - {kid} ({subject}) is on the roster and has no key");
            }
        } else {
            let unnamed = usize::from(head.member_count).saturating_sub(named.len());
            say!("  ? {unnamed} members whose wraps cannot be seen; the roster has {}", expected.len());
        }
        false
    }
}
