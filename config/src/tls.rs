//! TLS on listeners: which certificates are shown, and what clients have to show.
//!
//! Only names of files: what is in them is the broker's to read, when it starts and when they change.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::broker_config::BrokerConfig;
use crate::error::{ConfigError, Fault};
use crate::relations::Known;

const CERTIFICATES: &str = "listeners[].tls.certificates[].certificate_file";
const CLIENT_CERTIFICATE: &str = "listeners[].tls.client_certificate";
const CLIENT_CA_FILE: &str = "listeners[].tls.client_ca_file";
const CRL_FILE: &str = "listeners[].tls.crl_file";
const IGNORE_DATES: &str = "listeners[].tls.ignore_client_dates";
const IDENTITY: &str = "listeners[].tls.identity";
const DEFAULT_CERTIFICATE: &str = "tls.certificate_file";
const DEFAULT_KEY: &str = "tls.key_file";

/// The certificate of listeners that name none of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate, followed by those of its issuers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// PEM file with its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// TLS on one listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerTlsConfig {
    /// The certificates to choose from by the name that a client asks for (SNI); the first one is for everybody else.
    pub certificates: Vec<CertificateConfig>,
    /// PEM file with certificates of issuers, where those in the file of a certificate are not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuers_file: Option<PathBuf>,
    /// The oldest version of TLS that is spoken.
    pub minimum_version: TlsVersion,
    /// Whether clients are asked for a certificate.
    pub client_certificate: ClientCertificate,
    /// PEM file with the certificates of the authorities that issue those of clients, or a directory of such files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
    /// PEM file with the lists of certificates that those authorities have revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl_file: Option<PathBuf>,
    /// Whether client certificates that have expired, or are not good yet, are taken.
    pub ignore_client_dates: bool,
    /// What a client certificate proves in MQTT.
    pub identity: CertificateIdentity,
}

/// A certificate with its private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// PEM file with the certificate, followed by those of its issuers.
    pub certificate_file: PathBuf,
    /// PEM file with its private key.
    pub key_file: PathBuf,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    Tls13,
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// No.
    #[default]
    Off,
    /// Yes, and who has none goes on without.
    Optional,
    /// Yes, and who has none is refused.
    Required,
}

/// What a client certificate proves in MQTT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateIdentity {
    /// Only that the client may connect to this listener.
    #[default]
    None,
    /// Its common name is the User Name.
    Cn,
    /// Its whole subject is the User Name, as RFC 2253 writes it.
    Subject,
}

impl BrokerConfig {
    /// Returns the certificates that a listener shows: its own, or else the broker's.
    #[must_use]
    pub fn certificates_of(&self, listener: &ListenerTlsConfig) -> Vec<CertificateConfig> {
        if !listener.certificates.is_empty() {
            return listener.certificates.clone();
        }
        match (&self.tls.certificate_file, &self.tls.key_file) {
            (Some(certificate_file), Some(key_file)) => {
                let (certificate_file, key_file) = (certificate_file.clone(), key_file.clone());
                vec![CertificateConfig { certificate_file, key_file }]
            }
            (None, _) | (_, None) => Vec::new(),
        }
    }

    /// Checks what TLS needs to be complete.
    ///
    /// # Errors
    /// The first option that is missing or in the way.
    pub(crate) fn check_tls(&self, known: &Known) -> Result<(), ConfigError> {
        let halves = [
            (DEFAULT_CERTIFICATE, &self.tls.certificate_file, DEFAULT_KEY, &self.tls.key_file),
            (DEFAULT_KEY, &self.tls.key_file, DEFAULT_CERTIFICATE, &self.tls.certificate_file),
        ];
        for (key, given, missing, other) in halves {
            if given.is_some() && other.is_none() {
                let how = "a certificate is of no use without its key, nor a key without its certificate";
                return Err(ConfigError::new(known.origin(key), Fault::Missing { key: missing, how }));
            }
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            let Some(tls) = &listener.tls else { continue };
            let known = known.within(&[index]);
            tls.check_client_certificates(&known)?;
            if self.certificates_of(tls).is_empty() {
                let how = "a listener with TLS needs one, or tls.certificate_file and tls.key_file for all listeners";
                let origin = known.origin(crate::options::LISTENERS);
                return Err(ConfigError::new(origin, Fault::Missing { key: CERTIFICATES, how }));
            }
        }
        Ok(())
    }
}

impl ListenerTlsConfig {
    fn check_client_certificates(&self, known: &Known) -> Result<(), ConfigError> {
        let is_asked = self.client_certificate != ClientCertificate::Off;
        if is_asked && self.client_ca_file.is_none() {
            let how = "client certificates cannot be verified without the authorities that issue them";
            return Err(ConfigError::new(
                known.origin(CLIENT_CERTIFICATE),
                Fault::Missing { key: CLIENT_CA_FILE, how },
            ));
        }
        let dependents = [
            (CLIENT_CA_FILE, self.client_ca_file.is_some()),
            (CRL_FILE, self.crl_file.is_some()),
            (IGNORE_DATES, self.ignore_client_dates),
            (IDENTITY, self.identity != CertificateIdentity::None),
        ];
        match dependents.into_iter().find(|(_, is_given)| *is_given && !is_asked) {
            None => Ok(()),
            Some((key, _)) => Err(ConfigError::new(
                known.origin(key),
                Fault::Relation {
                    key,
                    value: known.value(key),
                    allowed: "no value".to_owned(),
                    because: format!(
                        "{CLIENT_CERTIFICATE} is \"off\": clients are not asked for a certificate"
                    ),
                },
            )),
        }
    }
}
