//! The options of Mosquitto that concern TLS on a listener.

use std::path::PathBuf;

use super::option::Scope::Listener;
use super::option::{Allowed, MosquittoOption as Row, forget_text};
use crate::{CertificateConfig, CertificateIdentity, ClientCertificate, ListenerTlsConfig, TlsVersion};

const NO_ENGINES: &str = "keys in an OpenSSL engine cannot be used; give a key file";
const STRONG_ALREADY: &str =
    "no effect: only suites with forward secrecy and authenticated encryption are spoken";

pub(super) const OPTIONS: &[Row] = &[
    Row::text(
        "cafile",
        Listener,
        "`listeners[].tls.client_ca_file`, where `require_certificate` is `true`",
        |draft, path| {
            draft.listener().tls.cafile = Some(path.into());
            Ok(())
        },
    ),
    Row::text(
        "capath",
        Listener,
        "`listeners[].tls.client_ca_file`, where `require_certificate` is `true`; not with `cafile`",
        |draft, path| {
            draft.listener().tls.capath = Some(path.into());
            Ok(())
        },
    ),
    Row::text("certfile", Listener, "`listeners[].tls.certificates[].certificate_file`", |draft, path| {
        draft.listener().tls.certfile = Some(path.into());
        Ok(())
    }),
    Row::text("ciphers", Listener, STRONG_ALREADY, forget_text).without_effect(),
    Row::text("ciphers_tls1.3", Listener, STRONG_ALREADY, forget_text).without_effect(),
    Row::text(
        "crlfile",
        Listener,
        "`listeners[].tls.crl_file`, where `require_certificate` is `true`",
        |draft, path| {
            draft.listener().tls.crlfile = Some(path.into());
            Ok(())
        },
    ),
    Row::text("dhparamfile", Listener, "no effect: keys are agreed on elliptic curves", forget_text)
        .without_effect(),
    Row::refused("disable_client_cert_date_checks", Listener, "an expired certificate proves nothing"),
    Row::text("keyfile", Listener, "`listeners[].tls.certificates[].key_file`", |draft, path| {
        draft.listener().tls.keyfile = Some(path.into());
        Ok(())
    }),
    Row::boolean("require_certificate", Listener, "`listeners[].tls.client_certificate`", |draft, on| {
        draft.listener().tls.requires_certificate = on;
    }),
    Row::refused("tls_engine", Listener, NO_ENGINES),
    Row::refused("tls_engine_kpass_sha1", Listener, NO_ENGINES),
    Row::text("tls_keyform", Listener, "`pem`, and nothing else", |_, form| {
        (form == "pem").then_some(()).ok_or("pem")
    }),
    Row::text("tls_version", Listener, "`listeners[].tls.minimum_version`", |draft, version| {
        draft.listener().tls.minimum_version = match version {
            "tlsv1.2" => TlsVersion::Tls12,
            "tlsv1.3" => TlsVersion::Tls13,
            _ => return Err(VERSIONS),
        };
        Ok(())
    }),
    Row::boolean("use_identity_as_username", Listener, "`listeners[].tls.identity = \"cn\"`", |draft, on| {
        draft.listener().tls.uses_common_name = on;
    }),
    Row::boolean(
        "use_subject_as_username",
        Listener,
        "`listeners[].tls.identity = \"subject\"`",
        |draft, on| {
            draft.listener().tls.uses_subject = on;
        },
    ),
];

const VERSIONS: Allowed = "tlsv1.2 or tlsv1.3";

/// What a listener asks for of TLS.
pub(super) struct Asks {
    pub(super) certificate: bool,
    pub(super) common_name: bool,
    subject: bool,
    own_tls: bool,
}

impl Asks {
    /// Returns the option that a proxy cannot see to.
    pub(super) fn cannot_be_proxied(&self) -> Option<&'static str> {
        match (self.own_tls, self.subject) {
            (true, _) => Some("certfile"),
            (false, true) => Some("use_subject_as_username"),
            (false, false) => None,
        }
    }
}

/// TLS of a listener while it is read.
#[derive(Debug, Default)]
pub(super) struct TlsDraft {
    certfile: Option<PathBuf>,
    keyfile: Option<PathBuf>,
    cafile: Option<PathBuf>,
    /// A directory of such files.
    capath: Option<PathBuf>,
    crlfile: Option<PathBuf>,
    requires_certificate: bool,
    uses_common_name: bool,
    uses_subject: bool,
    minimum_version: TlsVersion,
}

impl TlsDraft {
    /// Returns what is asked for, for listeners whose proxy speaks TLS in their place.
    pub(super) fn asks(&self) -> Asks {
        Asks {
            certificate: self.requires_certificate,
            common_name: self.uses_common_name,
            subject: self.uses_subject,
            own_tls: self.certfile.is_some() || self.keyfile.is_some(),
        }
    }

    /// Makes the TLS of a listener; None if it has none.
    ///
    /// # Errors
    /// The option at fault and what is wrong with it.
    pub(super) fn finish(&self) -> Result<Option<ListenerTlsConfig>, (&'static str, &'static str)> {
        let (certificate_file, key_file) = match (&self.certfile, &self.keyfile) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (Some(_), None) => {
                return Err(("certfile", "needs `keyfile` beside it; nothing would be encrypted"));
            }
            (None, Some(_)) => {
                return Err(("keyfile", "needs `certfile` beside it; nothing would be encrypted"));
            }
        };
        let authorities = match (&self.cafile, &self.capath) {
            (Some(_), Some(_)) if self.requires_certificate => {
                return Err(("capath", "cannot be used with `cafile`; copy that file into the directory"));
            }
            (None, None) if self.requires_certificate => {
                return Err((
                    "require_certificate",
                    "needs `cafile` or `capath`: the authorities that issue the certificates",
                ));
            }
            (file, folder) => file.as_ref().or(folder.as_ref()),
        };
        let identity = match (self.uses_common_name, self.uses_subject) {
            (true, _) => CertificateIdentity::Cn,
            (false, true) => CertificateIdentity::Subject,
            (false, false) => CertificateIdentity::None,
        };
        let mut tls = ListenerTlsConfig {
            certificates: vec![CertificateConfig { certificate_file, key_file }],
            minimum_version: self.minimum_version,
            ..ListenerTlsConfig::default()
        };
        // Without it no certificate is asked for, so none can be looked at.
        if self.requires_certificate {
            tls.client_certificate = ClientCertificate::Required;
            tls.client_ca_file = authorities.cloned();
            tls.crl_file.clone_from(&self.crlfile);
            tls.identity = identity;
        }
        Ok(Some(tls))
    }
}
