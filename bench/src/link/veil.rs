//! A VEIL-1 channel: the client's part of the handshake, and MQTT packets in records.
//!
//! Certificates for all clients are issued here, by an authority that the broker trusts; they share one pair of keys, as the
//! subject is what makes them different clients.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use veilmq_client::identity::{self, IdentityError};
use veilmq_protocol::veil::channel::{
    AwaitServerFinish, AwaitServerHello, ClientHelloConfig, ClientStart, Content, Established, Identity,
    IdentityKeys, Operations, REKEY_RECORDS, RecordOpener, RecordSealer, TrustAnchors,
};
use veilmq_protocol::veil::hello::ChannelForm;
use veilmq_protocol::veil::record::RECORD_OVERHEAD_MAX;
use veilmq_protocol::veil::registry::AUTHENTICATION_METHOD;
use veilmq_protocol::veil::{
    Certificate, CertificateError, CertificateFields, Kid, Roles, Scheme, Schemes, Suite,
};
use veilmq_protocol::{Auth, Packet, ProtocolVersion, ReasonCode, next_frame};

use super::LinkError;
use super::buffers::{Inbox, Outbox, Window};

/// Packets share a record up to this size; a larger packet gets its own.
const RECORD_BYTES_SHARED: usize = 16_384;
/// A record of several packets is believed to be no larger.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// How long the certificates of a run are valid, before and after now.
const VALID_SECONDS: u64 = 86_400;

/// Why no client can prove who it is.
#[derive(Debug, Error)]
pub(crate) enum VeilError {
    #[error(transparent)]
    File(#[from] IdentityError),
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the system gives no random bytes: {0}")]
    Entropy(#[from] getrandom::Error),
}

/// Who certifies the clients of the generator, and which broker they believe.
pub(crate) struct VeilTransport {
    authority: Identity,
    clients: [u8; IdentityKeys::LEN],
    trust: TrustAnchors,
    files: [PathBuf; 2],
    schemes: Schemes,
    suites: Vec<Suite>,
}

impl VeilTransport {
    /// Takes the authority from `authority` (`NAME` for `NAME.vmc` and `NAME.key`) and the broker's certificate, or that of who
    /// certified it, from `broker`.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(crate) fn load(authority: &Path, broker: &Path) -> Result<Self, VeilError> {
        let mut clients = [0; IdentityKeys::LEN];
        getrandom::fill(&mut clients)?;
        Ok(Self {
            authority: identity::load(authority)?,
            clients,
            trust: identity::load_anchors([broker])?,
            files: [authority.to_owned(), broker.to_owned()],
            schemes: Schemes::of(&[Scheme::Two, Scheme::Four]),
            suites: vec![Suite::Aes256Gcm],
        })
    }

    /// Offers one scheme and one suite instead of Schemes 2 and 4 with AES-256-GCM.
    pub(crate) fn only(mut self, scheme: Scheme, suite: Suite) -> Self {
        self.schemes = Schemes::of(&[scheme]);
        self.suites = vec![suite];
        self
    }

    /// Makes an authority: `NAME.vmc` and `NAME.key`.
    ///
    /// # Errors
    /// A file cannot be written, or exists.
    pub(crate) fn make_authority(name: &Path) -> Result<(), VeilError> {
        let mut seeds = [0; IdentityKeys::LEN];
        getrandom::fill(&mut seeds)?;
        let keys = IdentityKeys::from_bytes(&seeds);
        let fields =
            CertificateFields { roles: Roles::CA, path_length: Some(0), ..fields("bench-ca", &keys) };
        let (certificate_file, key_file) = identity::files(name);
        identity::save_keys(&key_file, &keys)?;
        identity::save_certificate(&certificate_file, &fields.sign(&keys)?)?;
        Ok(())
    }

    pub(super) fn words(&self) -> Vec<String> {
        let [authority, broker] = &self.files;
        vec![
            format!("--veil-authority={}", authority.display()),
            format!("--veil-broker={}", broker.display()),
        ]
    }

    /// Begins a handshake: what the Authentication Data of CONNECT is.
    pub(super) fn hello(&self) -> Result<(ClientStart, Vec<u8>), LinkError> {
        let mut seed = [0; 128];
        getrandom::fill(&mut seed).map_err(VeilError::from)?;
        let mut seed = seed.as_slice();
        let mut entropy = |bytes: &mut [u8]| {
            let (now, later) = seed.split_at(bytes.len().min(seed.len()));
            bytes[..now.len()].copy_from_slice(now);
            seed = later;
        };
        let config = ClientHelloConfig {
            schemes: self.schemes,
            suites: &self.suites,
            anchor: self.trust.iter().next().map_or(Kid::from_bytes([0; Kid::LEN]), Certificate::kid),
            now_unix_ms: Some(unix_seconds() * 1_000),
            form: ChannelForm::Records,
            join_request: None,
        };
        Ok(ClientStart::new(&config, &mut entropy)?)
    }

    /// Verifies the broker by its ServerHello, and proves that the client is `client_id`.
    pub(super) fn prove(
        &self,
        state: AwaitServerHello,
        server_hello: &[u8],
        client_id: &str,
    ) -> Result<(Proof, AwaitServerFinish), LinkError> {
        let identity = self.identity(client_id)?;
        let now = Some(unix_seconds());
        let (finish, next) = state.handle(server_hello, &identity, &self.trust, None, now)?;
        Ok((Proof(finish), next))
    }

    fn identity(&self, client_id: &str) -> Result<Identity, VeilError> {
        let keys = IdentityKeys::from_bytes(&self.clients);
        Ok(Identity::new(fields(client_id, &keys).sign(self.authority.keys())?, keys)?)
    }
}

fn fields(subject: &str, keys: &IdentityKeys) -> CertificateFields {
    let now = unix_seconds();
    CertificateFields {
        roles: Roles::PUBLISHER | Roles::SUBSCRIBER,
        serial: now,
        not_before: now - VALID_SECONDS,
        not_after: now + VALID_SECONDS,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: subject.to_owned(),
        publish_scopes: vec!["#".to_owned()],
        subscribe_scopes: vec!["#".to_owned()],
        path_length: None,
        revocation_topic: None,
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A ClientFinish.
pub(super) struct Proof(Vec<u8>);

impl Proof {
    /// The AUTH that carries it.
    pub(super) fn packet(&self) -> Auth<'_> {
        Auth {
            reason: ReasonCode::ContinueAuthentication,
            method: Some(AUTHENTICATION_METHOD),
            data: Some(&self.0),
            ..Auth::default()
        }
    }
}

pub(super) struct VeilLayer {
    sealer: RecordSealer,
    opener: RecordOpener,
    record_bytes_shared: usize,
    record_bytes_max: usize,
    /// A message of a fan-out, rebuilt.
    rebuilt: Vec<u8>,
}

impl VeilLayer {
    pub(super) fn new(established: Established, peer_bytes_max: usize, own_bytes_max: usize) -> Self {
        let (sealer, opener, _) = established.into_parts();
        Self {
            sealer,
            opener,
            record_bytes_shared: RECORD_BYTES_SHARED.min(peer_bytes_max),
            // CONNECT announces no limit, so packets of a moderate size may share a larger record.
            record_bytes_max: own_bytes_max.max(RECORD_BYTES_MAX).saturating_add(RECORD_OVERHEAD_MAX),
            rebuilt: Vec::new(),
        }
    }

    pub(super) fn take_operations(&mut self) -> Operations {
        let mut made = self.sealer.take_operations();
        made += self.opener.take_operations();
        made
    }

    pub(super) fn seal(&mut self, outbox: &mut Outbox, sealed: &mut Outbox) -> Result<(), LinkError> {
        while !outbox.is_empty() {
            let packets = shared_bytes(outbox.pending(), self.record_bytes_shared)?;
            let record = self.sealer.begin(sealed.raw());
            sealed.raw().extend_from_slice(&outbox.pending()[..packets]);
            self.sealer.finish(sealed.raw(), record);
            outbox.advance(packets);
            if self.sealer.records() >= REKEY_RECORDS {
                self.sealer.key_update(sealed.raw());
            }
        }
        Ok(())
    }

    pub(super) fn open(&mut self, received: &mut Window, inbox: &mut Inbox) -> Result<(), LinkError> {
        while let Some(record) = self.opener.next(received.unread(), self.record_bytes_max)? {
            match record.content {
                Content::Packets(range) => inbox.window.append(&received.unread()[range]),
                Content::Fan(delivery) => {
                    self.rebuilt.clear();
                    let publish = delivery.publish(received.unread())?;
                    Packet::Publish(publish).encode(ProtocolVersion::V5, &mut self.rebuilt)?;
                    inbox.window.append(&self.rebuilt);
                }
                Content::KeyUpdated | Content::Control(_) => {}
            }
            received.consume(record.consumed);
        }
        Ok(())
    }
}

/// The bytes of the first packets that fit into `bytes_max`, or of the first one.
fn shared_bytes(packets: &[u8], bytes_max: usize) -> Result<usize, LinkError> {
    let mut taken = 0;
    while let Some((_, bytes)) = next_frame(&packets[taken..], usize::MAX)? {
        if taken > 0 && taken + bytes > bytes_max {
            break;
        }
        taken += bytes;
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_share_a_record_and_are_never_split() {
        let small = [0xC0, 0].repeat(10);
        let large: Vec<u8> = [&[0x30, 10][..], &[0; 10]].concat();

        assert_eq!(shared_bytes(&small, 7).unwrap(), 6);
        assert_eq!(shared_bytes(&[&large[..], &small].concat(), 7).unwrap(), 12);
        assert_eq!(shared_bytes(&small, 100).unwrap(), 20);
    }
}
