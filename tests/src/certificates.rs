//! Certificates made for a test: an authority, and what it issues and revokes, as files in PEM.
//!
//! Invariant: the files are gone when the authority is dropped.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

/// An authority.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The file with the certificate.
    pub certificate: PathBuf,
    /// The file with the key.
    pub key: PathBuf,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// Makes an authority that has revoked nothing.
    ///
    /// # Panics
    /// If its files cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority can be made");
        let authority = Self { folder: TempDir::new().expect("the temporary directory is writable"), issuer };
        authority.write("ca.crt", &authority.issuer.pem());
        authority.revoke(&[]);
        authority
    }

    /// The file with its own certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// The file with what it has revoked.
    #[must_use]
    pub fn revocations(&self) -> PathBuf {
        self.path("ca.crl")
    }

    /// Issues a certificate for the host `localhost` and the address 127.0.0.1.
    #[must_use]
    pub fn issue_for_this_machine(&self) -> Certificate {
        self.issue("broker", 1, &["localhost", "127.0.0.1"])
    }

    /// Issues a certificate with this common name and serial number, for these hosts; its files are named after it.
    #[must_use]
    pub fn issue(&self, name: &str, serial: u64, hosts: &[&str]) -> Certificate {
        self.issue_until(2096, name, serial, hosts)
    }

    /// Issues a certificate for whoever `params` are for; its files are named `name`.
    ///
    /// # Panics
    /// If its files cannot be written.
    #[must_use]
    pub fn issue_to(&self, name: &str, params: &CertificateParams) -> Certificate {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be signed");
        Certificate {
            certificate: self.write(&format!("{name}.crt"), &certificate.pem()),
            key: self.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    /// Issues a certificate for a key that somebody else has, as PEM.
    ///
    /// # Panics
    /// If it cannot be signed.
    #[must_use]
    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> String {
        params.signed_by(key, &self.issuer).expect("a certificate can be signed").pem()
    }

    /// Issues a certificate as [`Authority::issue`] does, that is good until this year begins.
    ///
    /// # Panics
    /// If its files cannot be written.
    #[must_use]
    pub fn issue_until(&self, year: i32, name: &str, serial: u64, hosts: &[&str]) -> Certificate {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).expect("hosts have names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(year, 1, 1);
        self.issue_to(name, &params)
    }

    /// Revokes the certificates with these serial numbers, and no others.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn revoke(&self, serials: &[u64]) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2096, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).and_then(|list| list.pem()).expect("a list can be signed");
        self.write("ca.crl", &list);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        // Whole or not at all, as one replaces a certificate.
        let new = self.path("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).expect("the file can be written");
        path
    }
}

impl Certificate {
    /// The part of a configuration file, after the address of a listener, that has it show this certificate.
    #[must_use]
    pub fn on_listener(&self) -> String {
        format!(
            "[[listeners.tls.certificates]]\ncertificate_file = {:?}\nkey_file = {:?}\n",
            text(&self.certificate),
            text(&self.key)
        )
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
