//! Who takes part in the demonstration, with certificates and keys in a temporary folder.
//!
//! The authority's key stays in that folder, which is removed at the end; the broker gets certificates only.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tempfile::TempDir;
use veilmq_client::{
    Builder, Client, QoS,
    e2e::{Directory, EnvelopeOptions, EpochTiming, Keyring, MasterSecret, Scope, ScopeConfig, SenderPolicy},
    identity,
};
use veilmq_protocol::veil::{
    Certificate, Kid, Roles, Scheme, Schemes,
    channel::{Identity, TrustAnchors},
    distribution::{DistributionTopic, Pair, scope_hash},
};
use zeroize::Zeroizing;

use super::{Arguments, http, wire::Wire, within};
use crate::{authority, failure::Failure, format::hex, secret};

const LOOPBACK: &str = "127.0.0.1";
const AUTHORITY: &str = "ca";
const MASTER_KEY: &str = "master.key";
const OTHER_KEY: &str = "other.key";
const EPOCH: u32 = 1;
const DAYS: u32 = 1;

pub(super) struct Cast {
    folder: TempDir,
    host: String,
    port: u16,
    admin: String,
    run: String,
    broker: Certificate,
    authority: Kid,
    /// Who has got an identity.
    parties: Mutex<Vec<Kid>>,
}

impl Cast {
    /// Makes the authority, pins the broker, and introduces the authority to the broker.
    pub(super) async fn assemble(arguments: &Arguments) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("veil-demo-").tempdir();
        let folder = folder.map_err(|error| Failure::new(format!("no temporary folder: {error}")))?;
        let authority_folder = folder.path().join(AUTHORITY);
        let certificate = authority::init(&authority_folder, "veil-demo-ca", DAYS)?;
        for file in [MASTER_KEY, OTHER_KEY] {
            secret::create(&folder.path().join(file))?;
        }
        let broker = broker_certificate(&arguments.admin).await?;
        introduce(&arguments.admin, &certificate).await?;
        let mut run = [0; 4];
        secret::random(&mut run)?;
        Ok(Self {
            folder,
            host: arguments.host.clone(),
            port: arguments.port,
            admin: arguments.admin.clone(),
            run: hex(&run),
            broker,
            authority: certificate.kid(),
            parties: Mutex::default(),
        })
    }

    /// Takes back what this run has left at the broker: what its parties have retained for key distribution, and its authority.
    /// A run that is cut off leaves both; they expire with the certificates, in a day.
    pub(super) async fn leave(self) -> Result<(), Failure> {
        let scope = scope_hash(&self.scope());
        let parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ordinary = self.connect_ordinary("leaving").await?;
        for party in parties {
            let prekey = DistributionTopic::Prekey { member: party };
            let head = DistributionTopic::KeyHead { scope, issuer: party };
            for topic in [prekey, head] {
                let cleared = ordinary.publish(&topic.to_string(), "").qos(QoS::AtLeastOnce).retain(true);
                within("PUBACK", cleared.send()).await??;
            }
        }
        within("DISCONNECT", ordinary.disconnect()).await??;
        withdraw(&self.admin, self.authority).await
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) const fn broker(&self) -> &Certificate {
        &self.broker
    }

    /// The scope of this run; other runs have others.
    pub(super) fn scope(&self) -> String {
        format!("veil-demo/{}/#", self.run)
    }

    pub(super) fn topic(&self, name: &str) -> String {
        format!("veil-demo/{}/{name}", self.run)
    }

    /// Issues an identity for this run.
    pub(super) fn identity(&self, name: &str, role: Roles) -> Result<Arc<Identity>, Failure> {
        let own = vec![self.scope(), format!("{}#", Pair::TOPICS)];
        let scopes = |wanted: Roles| if role.contains(wanted) { own.clone() } else { Vec::new() };
        let request = authority::Request {
            subject: format!("veil-demo-{name}-{}", self.run),
            roles: role,
            publish_scopes: scopes(Roles::PUBLISHER),
            subscribe_scopes: scopes(Roles::SUBSCRIBER),
            days: DAYS,
        };
        let issued = authority::issue(&self.folder().join(AUTHORITY), &request, self.folder())?;
        let identity = identity::load(&issued.file)?;
        self.parties.lock().unwrap_or_else(PoisonError::into_inner).push(identity.kid());
        Ok(Arc::new(identity))
    }

    /// A wire for one client.
    pub(super) async fn wire(&self) -> Result<Wire, Failure> {
        Wire::before(&self.host, self.port).await
    }

    /// The master secret of the scope.
    pub(super) fn master(&self) -> Result<Zeroizing<[u8; 32]>, Failure> {
        secret::load(&self.folder().join(MASTER_KEY))
    }

    /// Describes a client on a VEIL-1 channel of one scheme to the pinned broker.
    pub(super) fn on_channel(
        &self,
        wire: &Wire,
        identity: &Arc<Identity>,
        scheme: Scheme,
    ) -> Result<Builder, Failure> {
        let mut anchors = TrustAnchors::new();
        let pinned = anchors.add(self.broker.clone());
        pinned.map_err(|error| Failure::new(format!("the certificate of the broker: {error}")))?;
        identity::add_anchor(&mut anchors, self.folder().join(AUTHORITY).join("ca.vmc"))?;
        Ok(Client::builder(LOOPBACK, wire.port())
            .identity(Arc::clone(identity))
            .trust(anchors)
            .broker_name(&self.broker.subject)
            .schemes(Schemes::of(&[scheme]))
            // As in the paper, whose broker knows nothing else: messages that a group key alone authenticates.
            .weak_groups(scheme == Scheme::Four || scheme == Scheme::Three)
            .session_expiry_seconds(0)
            .reconnect(false))
    }

    /// Describes an ordinary MQTT client without any key.
    pub(super) fn ordinary(&self, wire: &Wire, name: &str) -> Builder {
        let builder =
            Client::builder(LOOPBACK, wire.port()).client_id(&self.client_id(&name.replace(' ', "-")));
        builder.session_expiry_seconds(0).reconnect(false)
    }

    /// Connects over an integrity-only VEIL-1 channel to the pinned broker, with the key of the scope. Messages
    /// are signed, and accepted from `senders` only.
    pub(super) async fn connect(
        &self,
        wire: &Wire,
        identity: &Arc<Identity>,
        senders: &[&Identity],
    ) -> Result<Client, Failure> {
        let scope = self.scope_config(MASTER_KEY, SenderPolicy::Known, true)?;
        let client = self.on_channel(wire, identity, Scheme::Four)?;
        Ok(client.weak_groups(false).directory(directory(senders)).scope(scope).connect().await?)
    }

    /// Connects as an ordinary MQTT client that has no key at all.
    pub(super) async fn connect_ordinary(&self, name: &str) -> Result<Client, Failure> {
        let wire = self.wire().await?;
        Ok(self.ordinary(&wire, name).connect().await?)
    }

    /// Connects as an ordinary MQTT client that has a key, but not the right one.
    pub(super) async fn connect_with_wrong_key(
        &self,
        name: &str,
        senders: &[&Identity],
    ) -> Result<Client, Failure> {
        let scope = self.scope_config(OTHER_KEY, SenderPolicy::AnyMember, false)?;
        let wire = self.wire().await?;
        Ok(self.ordinary(&wire, name).directory(directory(senders)).scope(scope).connect().await?)
    }

    fn client_id(&self, name: &str) -> String {
        format!("veil-demo-{name}-{}", self.run)
    }

    fn scope_config(
        &self,
        key_file: &str,
        senders: SenderPolicy,
        sign: bool,
    ) -> Result<ScopeConfig, Failure> {
        let scope = Scope::new(&self.scope()).map_err(|error| Failure::new(error.to_string()))?;
        let master = secret::load(&self.folder().join(key_file))?;
        let keyring = Keyring::master(MasterSecret::new(master.as_slice()), EPOCH, EpochTiming::default());
        let options =
            EnvelopeOptions { sign, require_signature: sign, senders, ..EnvelopeOptions::default() };
        Ok(ScopeConfig::envelope(scope, keyring, options))
    }
}

fn directory(senders: &[&Identity]) -> Directory {
    let mut directory = Directory::default();
    for sender in senders {
        directory.pin(sender.certificate().clone());
    }
    directory
}

async fn broker_certificate(admin: &str) -> Result<Certificate, Failure> {
    let answer = http::get(admin, "/veil/identity").await?;
    if answer.status != 200 {
        return Err(Failure::new(format!(
            "admin listener {admin}: status {} for the certificate of the broker; is this VeilMQ?",
            answer.status
        )));
    }
    Certificate::parse(&answer.body).map_err(|error| {
        Failure::new(format!("admin listener {admin}: the certificate of the broker: {error}"))
    })
}

async fn introduce(admin: &str, authority: &Certificate) -> Result<(), Failure> {
    let answer = http::post(admin, "/veil/trust", authority.as_bytes()).await?;
    accepted(admin, "does not take the authority of this demonstration", &answer)
}

async fn withdraw(admin: &str, authority: Kid) -> Result<(), Failure> {
    let answer = http::delete(admin, &format!("/veil/trust/{authority}")).await?;
    accepted(admin, "does not give up the authority of this demonstration", &answer)
}

fn accepted(admin: &str, what: &str, answer: &http::Answer) -> Result<(), Failure> {
    if answer.status == 200 {
        return Ok(());
    }
    let said: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let said = said.as_ref().and_then(|said| said.get("error")?.as_str()).unwrap_or("no reason given");
    let status = answer.status;
    Err(Failure::new(format!("admin listener {admin}: the broker {what} ({status}): {said}")))
}
