//! TLS between a client of rustls and the broker's side, in memory, however the bytes are cut; and the files that it needs.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tempfile::TempDir;
use veilmq_config::{
    CertificateConfig, CertificateIdentity, ClientCertificate, ListenerTlsConfig, TlsVersion,
};

use super::acceptor::TlsAcceptor;
use super::stats::TlsStats;
use super::*;
use crate::admin::metrics::MetricSource;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// An authority with a folder for what it issues.
struct Issuer {
    folder: TempDir,
    authority: Authority,
}

impl Issuer {
    fn new() -> Self {
        Self::named("an authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issuer = Self { folder: tempfile::tempdir().unwrap(), authority };
        issuer.write("ca.crt", &issuer.authority.pem());
        issuer
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a certificate and its key with this serial number and common name, for these hosts.
    fn issue(&self, file: &str, serial: u64, name: &str, hosts: &[&str]) -> CertificateConfig {
        self.issue_until(file, serial, name, hosts, 4_000)
    }

    /// Writes one that expires with the beginning of a year.
    fn issue_until(
        &self,
        file: &str,
        serial: u64,
        name: &str,
        hosts: &[&str],
        year: i32,
    ) -> CertificateConfig {
        let mut params =
            CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.write(&format!("{file}.crt"), &certificate.pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
        CertificateConfig {
            certificate_file: self.path().join(format!("{file}.crt")),
            key_file: self.path().join(format!("{file}.key")),
        }
    }

    fn revoke(&self, serials: &[u64]) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2036, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write("ca.crl", &params.signed_by(&self.authority).unwrap().pem().unwrap());
    }

    /// A listener that asks for certificates of this authority and takes their common name as User Name.
    fn mutual(&self) -> ListenerTlsConfig {
        ListenerTlsConfig {
            client_certificate: ClientCertificate::Required,
            client_ca_file: Some(self.path().join("ca.crt")),
            crl_file: Some(self.path().join("ca.crl")),
            identity: CertificateIdentity::Cn,
            ..ListenerTlsConfig::default()
        }
    }

    fn client_config(&self, shown: Option<&CertificateConfig>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        Arc::new(match shown {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_file(&pair.certificate_file).unwrap()];
                let key = PrivateKeyDer::from_pem_file(&pair.key_file).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }
}

fn acceptor(
    config: &ListenerTlsConfig,
    certificates: &[CertificateConfig],
) -> Result<Arc<TlsAcceptor>, String> {
    let stats = Arc::new(TlsStats::new(2));
    TlsAcceptor::load("test".into(), config, certificates.to_vec(), stats)
        .map(Arc::new)
        .map_err(|error| error.to_string())
}

/// A client and the broker's side of its connection, and what each has got from the other.
struct Pair {
    client: ClientConnection,
    broker: Tls,
    at_broker: Vec<u8>,
    at_client: Vec<u8>,
    user: Option<Box<str>>,
    /// Bytes in one read of the broker.
    cut: usize,
}

impl Pair {
    fn new(config: &Arc<ClientConfig>, acceptor: &Arc<TlsAcceptor>, host: &'static str, cut: usize) -> Self {
        let client = ClientConnection::new(Arc::clone(config), ServerName::try_from(host).unwrap()).unwrap();
        Self {
            client,
            broker: acceptor.begin().unwrap(),
            at_broker: Vec::new(),
            at_client: Vec::new(),
            user: None,
            cut,
        }
    }

    /// Carries bytes until neither side has any; fails as the client does.
    fn settle(&mut self) -> Result<(), Error> {
        loop {
            let mut up = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut up).unwrap();
            }
            let down = self.broker.unsent().to_vec();
            self.broker.advance(down.len());
            if up.is_empty() && down.is_empty() {
                return Ok(());
            }
            for part in up.chunks_mut(self.cut) {
                self.broker.receive(part, &mut self.at_broker);
                self.user = self.broker.take_user().or(self.user.take());
            }
            let mut rest = down.as_slice();
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                self.client.process_new_packets()?;
                // It ends with "no more for now", or with the broker's farewell.
                let _ = self.client.reader().read_to_end(&mut self.at_client);
            }
        }
    }

    fn send_all(&mut self, content: &[u8]) {
        let mut sent = 0;
        while sent < content.len() {
            let (front, back) = content[sent..].split_at((content.len() - sent) / 3);
            sent += self.broker.seal(&[IoSlice::new(front), IoSlice::new(back)]).unwrap();
            self.settle().unwrap();
        }
    }
}

#[test]
fn bytes_go_both_ways_however_they_are_cut() {
    let issuer = Issuer::new();
    let acceptor =
        acceptor(&ListenerTlsConfig::default(), &[issuer.issue("a", 1, "a", &["a.example"])]).unwrap();
    let content: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
    for cut in [1, 7, 1_000, 65_536] {
        let content = &content[..content.len().min(cut * 2_000)];
        let mut pair = Pair::new(&issuer.client_config(None), &acceptor, "a.example", cut);
        pair.settle().unwrap();

        for part in content.chunks(50_000) {
            pair.client.writer().write_all(part).unwrap();
            pair.settle().unwrap();
            pair.send_all(part);
        }

        assert!(pair.at_broker == content && pair.at_client == content, "cut into {cut}");
    }
}

#[test]
fn an_idle_connection_holds_no_buffer_and_may_move() {
    fn may_move<T: Send>(_: &T) {}
    let issuer = Issuer::new();
    let acceptor =
        acceptor(&ListenerTlsConfig::default(), &[issuer.issue("a", 1, "a", &["a.example"])]).unwrap();
    let mut pair = Pair::new(&issuer.client_config(None), &acceptor, "a.example", 1_000);

    pair.settle().unwrap();
    pair.client.writer().write_all(b"ping").unwrap();
    pair.settle().unwrap();
    pair.send_all(b"pong");

    may_move(&pair.broker);
    assert_eq!((pair.broker.held.capacity(), pair.broker.unsent.capacity()), (0, 0));
    assert!(pair.broker.handshake.is_none());
}

#[test]
fn a_farewell_is_said_once_behind_what_waits() {
    let issuer = Issuer::new();
    let acceptor =
        acceptor(&ListenerTlsConfig::default(), &[issuer.issue("a", 1, "a", &["a.example"])]).unwrap();
    let mut pair = Pair::new(&issuer.client_config(None), &acceptor, "a.example", 1_000);
    pair.settle().unwrap();

    pair.broker.close();
    pair.send_all(b"bye");
    assert!(pair.broker.has_unsent(false), "close_notify is due");
    assert_eq!(pair.broker.seal(&[]), Some(0));
    pair.settle().unwrap();

    assert_eq!(pair.at_client, b"bye");
    assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
    assert!(!pair.broker.has_unsent(true));
    assert_eq!(pair.broker.seal(&[IoSlice::new(b"more")]), None);
}

#[test]
fn the_peers_farewell_is_its_end() {
    let issuer = Issuer::new();
    let acceptor =
        acceptor(&ListenerTlsConfig::default(), &[issuer.issue("a", 1, "a", &["a.example"])]).unwrap();
    let mut pair = Pair::new(&issuer.client_config(None), &acceptor, "a.example", 1_000);
    pair.settle().unwrap();

    pair.client.writer().write_all(b"last").unwrap();
    pair.client.send_close_notify();
    pair.settle().unwrap();

    assert_eq!(pair.at_broker, b"last");
    assert_eq!(pair.broker.end(), Some(End::Closed));
}

#[test]
fn what_is_not_tls_is_a_violation_and_is_answered_with_an_alert() {
    // [A16]
    let issuer = Issuer::new();
    let acceptor =
        acceptor(&ListenerTlsConfig::default(), &[issuer.issue("a", 1, "a", &["a.example"])]).unwrap();
    let claim_of_a_large_message = {
        let mut bytes = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        bytes.resize(5 + 0x4000, 0);
        bytes
    };
    for bytes in [
        b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 4_000],
        vec![0x16, 3, 1, 0xff, 0xff],
        claim_of_a_large_message,
    ] {
        let mut tls = acceptor.begin().unwrap();
        let mut plaintext = Vec::new();

        for _ in 0..8 {
            tls.receive(&mut bytes.clone(), &mut plaintext);
        }

        assert!(matches!(tls.end(), Some(End::Violated(_))), "{:02x?}", &bytes[..5]);
        assert!(plaintext.is_empty());
        assert!(tls.unsent().is_empty() || tls.unsent()[0] == 0x15, "only an alert is sent");
        assert_eq!(tls.held.capacity(), 0);
        assert_eq!(tls.seal(&[IoSlice::new(b"x")]), None);
    }
}

#[test]
fn a_record_that_was_changed_on_the_way_ends_the_connection() {
    let issuer = Issuer::new();
    let acceptor =
        acceptor(&ListenerTlsConfig::default(), &[issuer.issue("a", 1, "a", &["a.example"])]).unwrap();
    let mut pair = Pair::new(&issuer.client_config(None), &acceptor, "a.example", 1_000);
    pair.settle().unwrap();
    pair.client.writer().write_all(b"secret").unwrap();
    let mut bytes = Vec::new();
    pair.client.write_tls(&mut bytes).unwrap();

    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    pair.broker.receive(&mut bytes, &mut pair.at_broker);

    assert_eq!(pair.broker.end(), Some(End::Violated("a TLS record that is not authentic")));
    assert!(pair.at_broker.is_empty());
}

#[test]
fn so_many_handshakes_are_under_way_and_no_more() {
    // [A16]
    let issuer = Issuer::new();
    let acceptor =
        acceptor(&ListenerTlsConfig::default(), &[issuer.issue("a", 1, "a", &["a.example"])]).unwrap();
    let mut pair = Pair::new(&issuer.client_config(None), &acceptor, "a.example", 1_000);
    let other = acceptor.begin().unwrap();

    assert!(acceptor.begin().is_none());
    pair.settle().unwrap();
    let third = acceptor.begin();
    assert!(third.is_some(), "a complete handshake counts no more");
    drop((third, other));
    assert!(acceptor.begin().is_some() && acceptor.begin().is_some());
}

#[test]
fn the_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let issuer = Issuer::new();
    let certificates = [
        issuer.issue("first", 1, "first", &["first.example"]),
        issuer.issue("any", 2, "any", &["*.second.example"]),
        issuer.issue("exact", 3, "exact", &["a.second.example"]),
    ];
    let acceptor = acceptor(&ListenerTlsConfig::default(), &certificates).unwrap();
    for (host, expected) in [("first.example", 0), ("b.second.example", 1), ("a.second.example", 2)] {
        let mut pair = Pair::new(&issuer.client_config(None), &acceptor, host, 1_000);

        pair.settle().unwrap();

        let shown = CertificateDer::from_pem_file(&certificates[expected].certificate_file).unwrap();
        assert_eq!(pair.client.peer_certificates().unwrap()[0], shown, "{host}");
    }
    let mut pair = Pair::new(&issuer.client_config(None), &acceptor, "unknown.example", 1_000);
    assert!(pair.settle().is_err(), "the first one is shown, and the client does not take it");
}

#[test]
fn a_client_certificate_is_a_user_name_until_it_is_revoked() {
    let issuer = Issuer::new();
    issuer.revoke(&[77]);
    let alice = issuer.issue("alice", 7, "alice", &[]);
    let acceptor = acceptor(&issuer.mutual(), &[issuer.issue("a", 1, "a", &["a.example"])]).unwrap();
    assert_eq!(acceptor.next_update(), Some(2_082_758_400), "2036-01-01");
    let config = issuer.client_config(Some(&alice));
    let mut pair = Pair::new(&config, &acceptor, "a.example", 1_000);
    pair.settle().unwrap();
    assert_eq!(pair.user.as_deref(), Some("alice"));
    let mut again = Pair::new(&config, &acceptor, "a.example", 1_000);
    again.settle().unwrap();
    assert_eq!(again.client.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(again.user.as_deref(), Some("alice"), "a ticket proves what the certificate did");

    issuer.revoke(&[7]);
    acceptor.reload().unwrap();

    assert!(!pair.broker.is_still_trusted() && !again.broker.is_still_trusted());
    let mut late = Pair::new(&config, &acceptor, "a.example", 1_000);
    let _ = late.settle();
    assert_eq!(late.broker.end(), Some(End::Violated("the client certificate is revoked")));
    assert_eq!(late.user, None);
}

#[test]
fn a_client_certificate_that_has_expired_is_taken_only_where_dates_are_not_looked_at() {
    let issuer = Issuer::new();
    issuer.revoke(&[]);
    let own = issuer.issue("a", 1, "a", &["a.example"]);
    let client = issuer.client_config(Some(&issuer.issue_until("c", 2, "client", &[], 2020)));
    for ignore_client_dates in [false, true] {
        let config = ListenerTlsConfig { ignore_client_dates, ..issuer.mutual() };
        let acceptor = acceptor(&config, std::slice::from_ref(&own)).unwrap();

        let mut pair = Pair::new(&client, &acceptor, "a.example", 1_000);
        let _ = pair.settle();

        assert_eq!(pair.user.as_deref() == Some("client"), ignore_client_dates);
    }
}

#[test]
fn authorities_may_be_files_of_a_directory_and_come_and_go_with_them() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let folder = issuer.path().join("authorities");
    fs::create_dir(&folder).unwrap();
    let config =
        ListenerTlsConfig { client_ca_file: Some(folder.clone()), crl_file: None, ..issuer.mutual() };
    let own = issuer.issue("a", 1, "a", &["a.example"]);
    let client = issuer.client_config(Some(&issuer.issue("c", 2, "client", &[])));
    let none = acceptor(&config, std::slice::from_ref(&own)).err().unwrap();
    assert!(none.contains(&folder.display().to_string()), "{none}");
    fs::copy(other.path().join("ca.crt"), folder.join("other.pem")).unwrap();
    let acceptor = acceptor(&config, &[own]).unwrap();
    let is_let_in = || {
        let mut pair = Pair::new(&client, &acceptor, "a.example", 1_000);
        pair.settle().is_ok() && pair.user.as_deref() == Some("client")
    };
    assert!(!is_let_in());

    let before = acceptor.stamps();
    fs::copy(issuer.path().join("ca.crt"), folder.join("own.crt")).unwrap();
    assert_ne!(acceptor.stamps(), before);
    acceptor.reload().unwrap();

    assert!(is_let_in());
}

#[test]
fn a_handshake_under_way_heeds_what_is_revoked_meanwhile() {
    let issuer = Issuer::new();
    issuer.revoke(&[]);
    let alice = issuer.issue("alice", 7, "alice", &[]);
    let acceptor = acceptor(&issuer.mutual(), &[issuer.issue("a", 1, "a", &["a.example"])]).unwrap();
    let mut pair = Pair::new(&issuer.client_config(Some(&alice)), &acceptor, "a.example", 1_000);

    issuer.revoke(&[7]);
    acceptor.reload().unwrap();
    let _ = pair.settle();

    assert_eq!(pair.broker.end(), Some(End::Violated(DISTRUSTED)));
    assert_eq!(pair.user, None);
}

#[test]
fn who_must_show_a_certificate_and_does_not_is_refused() {
    let issuer = Issuer::new();
    issuer.revoke(&[]);
    let stranger = Issuer::named("a stranger");
    let shown = stranger.issue("mallory", 9, "alice", &[]);
    let own = issuer.issue("a", 1, "a", &["a.example"]);
    let optional = ListenerTlsConfig { client_certificate: ClientCertificate::Optional, ..issuer.mutual() };
    let nobody = "no client certificate, and the listener requires one";
    let unknown = "no trusted authority has issued the client certificate";
    for (config, shown, expected) in [
        (issuer.mutual(), None, Some(End::Violated(nobody))),
        (issuer.mutual(), Some(&shown), Some(End::Violated(unknown))),
        (optional.clone(), Some(&shown), Some(End::Violated(unknown))),
        (optional, None, None),
    ] {
        let acceptor = acceptor(&config, std::slice::from_ref(&own)).unwrap();
        let mut pair = Pair::new(&issuer.client_config(shown), &acceptor, "a.example", 1_000);

        let _ = pair.settle();

        assert_eq!(pair.broker.end(), expected);
        assert_eq!(pair.user, None);
    }
}

#[test]
fn a_reload_that_does_not_fit_together_changes_nothing() {
    let issuer = Issuer::new();
    let own = issuer.issue("a", 1, "a", &["a.example"]);
    let acceptor = acceptor(&ListenerTlsConfig::default(), std::slice::from_ref(&own)).unwrap();
    let stamps = acceptor.stamps();
    let before = CertificateDer::from_pem_file(&own.certificate_file).unwrap();

    let other = issuer.issue("b", 2, "b", &["a.example"]);
    fs::copy(&other.certificate_file, &own.certificate_file).unwrap();
    assert_ne!(acceptor.stamps(), stamps);
    let error = acceptor.reload().unwrap_err().to_string();

    assert!(error.contains("a.key is not the key of the certificate in"), "{error}");
    let mut pair = Pair::new(&issuer.client_config(None), &acceptor, "a.example", 1_000);
    pair.settle().unwrap();
    assert_eq!(pair.client.peer_certificates().unwrap()[0], before);

    fs::copy(&other.key_file, &own.key_file).unwrap();
    acceptor.reload().unwrap();
    let mut pair = Pair::new(&issuer.client_config(None), &acceptor, "a.example", 1_000);
    pair.settle().unwrap();
    assert_ne!(pair.client.peer_certificates().unwrap()[0], before);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let issuer = Issuer::new();
    issuer.revoke(&[]);
    let own = issuer.issue("a", 1, "a", &["a.example"]);
    issuer.write("empty", "");
    issuer.write("cut", "-----BEGIN CERTIFICATE-----\nMIIB");
    let file = |name: &str| issuer.path().join(name);
    let with = |certificate: &str, key: &str| CertificateConfig {
        certificate_file: file(certificate),
        key_file: file(key),
    };
    let authority = |name: &str| ListenerTlsConfig { client_ca_file: Some(file(name)), ..issuer.mutual() };
    let revocations = |name: &str| ListenerTlsConfig { crl_file: Some(file(name)), ..issuer.mutual() };
    let plain = ListenerTlsConfig::default();
    for (config, pair, path, fault) in [
        (plain.clone(), with("absent", "a.key"), "absent", "No such file"),
        (plain.clone(), with("a.crt", "absent"), "absent", "No such file"),
        (plain.clone(), with("empty", "a.key"), "empty", "holds no certificate"),
        (plain.clone(), with("cut", "a.key"), "cut", "an END line is missing"),
        (plain.clone(), with("a.crt", "a.crt"), "a.crt", "holds no private key"),
        (plain, with("ca.crt", "a.key"), "a.key", "is not the key of the certificate"),
        (authority("empty"), own.clone(), "empty", "holds no certificate"),
        (revocations("ca.crt"), own.clone(), "ca.crt", "holds no list of revocations"),
    ] {
        let error = acceptor(&config, &[pair]).err().unwrap();

        assert!(error.contains(&file(path).display().to_string()) && error.contains(fault), "{error}");
    }
}

#[test]
fn every_handshake_is_counted_once_by_how_it_ends() {
    let issuer = Issuer::new();
    let own = issuer.issue("a", 1, "a", &["a.example"]);
    let stats = Arc::new(TlsStats::new(1));
    let config = ListenerTlsConfig { minimum_version: TlsVersion::Tls13, ..ListenerTlsConfig::default() };
    let acceptor =
        Arc::new(TlsAcceptor::load("test".into(), &config, vec![own], Arc::clone(&stats)).unwrap());
    let client = issuer.client_config(None);

    for _ in 0..3 {
        Pair::new(&client, &acceptor, "a.example", 1_000).settle().unwrap();
    }
    let held = acceptor.begin();
    assert!(acceptor.begin().is_none());
    drop(held);

    let mut counts = Vec::new();
    stats.visit(&mut |sample| counts.push((sample.label.unwrap().1, sample.value)));
    assert_eq!(counts, [("full", 1), ("resumed", 2), ("failed", 1), ("refused", 1)]);
}
