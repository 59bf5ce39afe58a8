//! The options of Mosquitto that concern TLS on a listener.

use std::path::PathBuf;

use super::draft::Draft;
use super::option::Scope::Listener;
use super::option::{Allowed, MosquittoOption as Row, forget_text};
use crate::{CertificateConfig, CertificateIdentity, ClientCertificate, ListenerTlsConfig, TlsVersion};

const NO_ENGINES: &str = "keys in an OpenSSL engine cannot be used; give a key file";
const IDENTITY_CN: &str = "`listeners[].tls.identity = \"cn\"`; without `require_certificate true` every client is refused, as by Mosquitto";
const STRONG_ALREADY: &str =
    "no effect: only suites with forward secrecy and authenticated encryption are spoken";

pub(super) const OPTIONS: &[Row] = &[
    Row::text(
        "cafile",
        Listener,
        "`listeners[].tls.issuers_file`, and `listeners[].tls.client_ca_file`, where `require_certificate` is `true`",
        |draft, path| {
            draft.listener().tls.cafile = Some(path.into());
            Ok(())
        },
    ),
    Row::text(
        "capath",
        Listener,
        "`listeners[].tls.issuers_file`, and `listeners[].tls.client_ca_file`, where `require_certificate` is `true`; not with `cafile`",
        |draft, path| {
            draft.listener().tls.capath = Some(path.into());
            Ok(())
        },
    ),
    Row::text("certfile", Listener, "`listeners[].tls.certificates[].certificate_file`", |draft, path| {
        draft.listener().tls.certfile = Some(path.into());
        Ok(())
    }),
    Row::text("ciphers", Listener, STRONG_ALREADY, ciphers).without_effect(),
    Row::text("ciphers_tls1.3", Listener, STRONG_ALREADY, ciphers).without_effect(),
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
    Row::boolean(
        "disable_client_cert_date_checks",
        Listener,
        "`listeners[].tls.ignore_client_dates`, where `require_certificate` is `true`",
        |draft, on| draft.listener().tls.ignores_dates = on,
    ),
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
        let tls = &mut draft.listener().tls;
        match version {
            "tlsv1.2" => tls.minimum_version = TlsVersion::Tls12,
            "tlsv1.3" => tls.minimum_version = TlsVersion::Tls13,
            _ => tls.unusable = Some(("tls_version", "must be tlsv1.2 or tlsv1.3")),
        }
        Ok(())
    }),
    Row::boolean("use_identity_as_username", Listener, IDENTITY_CN, |draft, on| {
        draft.listener().tls.uses_common_name = on;
    }),
    Row::boolean(
        "use_subject_as_username",
        Listener,
        "`listeners[].tls.identity = \"subject\"`; without `require_certificate true` every client is refused, as by Mosquitto",
        |draft, on| {
            draft.listener().tls.uses_subject = on;
        },
    ),
];

/// Looks whether a list names any suite: no name of one is without a capital letter.
fn ciphers(draft: &mut Draft, list: &str) -> Result<(), Allowed> {
    if !list.chars().any(|letter| letter.is_ascii_uppercase()) {
        draft.listener().tls.unusable = Some(("ciphers", "names no suite"));
    }
    Ok(())
}

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
    ignores_dates: bool,
    uses_common_name: bool,
    uses_subject: bool,
    minimum_version: TlsVersion,
    /// The option that TLS cannot be spoken with, and why.
    unusable: Option<(&'static str, &'static str)>,
}

/// Why a listener cannot speak TLS: the option at fault, and what is wrong with it.
pub(super) enum Unusable {
    /// The lines contradict each other.
    Lines(&'static str, &'static str),
    /// Mosquitto notices only when the listener opens.
    Late(&'static str, &'static str),
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

    /// Tells whether users are who their certificates say, and nobody is asked for one: then no client is a user.
    pub(super) fn has_no_users(&self) -> bool {
        (self.uses_common_name || self.uses_subject) && !self.requires_certificate
    }

    /// Makes the TLS of a listener; None if it has none.
    ///
    /// # Errors
    /// [`Unusable`]
    pub(super) fn finish(&self) -> Result<Option<ListenerTlsConfig>, Unusable> {
        let (certificate_file, key_file) = match (&self.certfile, &self.keyfile) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (Some(_), None) => {
                return Err(Unusable::Lines(
                    "certfile",
                    "needs `keyfile` beside it; nothing would be encrypted",
                ));
            }
            (None, Some(_)) => {
                return Err(Unusable::Lines(
                    "keyfile",
                    "needs `certfile` beside it; nothing would be encrypted",
                ));
            }
        };
        if let Some((option, reason)) = self.unusable {
            return Err(Unusable::Late(option, reason));
        }
        // Where it is used, whoever reads it notices.
        if !self.requires_certificate && self.crlfile.as_ref().is_some_and(|path| !path.exists()) {
            return Err(Unusable::Late("crlfile", "names a file that is not there"));
        }
        // For OpenSSL they are not the same.
        if self.cafile.as_ref().is_some_and(|path| path.is_dir()) {
            return Err(Unusable::Late("cafile", "names a directory; `capath` takes one"));
        }
        let authorities = match (&self.cafile, &self.capath) {
            (Some(_), Some(_)) if self.requires_certificate => {
                return Err(Unusable::Lines(
                    "capath",
                    "cannot be used with `cafile`; copy that file into the directory",
                ));
            }
            (None, None) if self.requires_certificate => {
                return Err(Unusable::Lines(
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
            // Mosquitto completes the chain that it shows from there.
            issuers_file: authorities.cloned(),
            minimum_version: self.minimum_version,
            ..ListenerTlsConfig::default()
        };
        // Without it no certificate is asked for, so none can be looked at.
        if self.requires_certificate {
            tls.client_certificate = ClientCertificate::Required;
            tls.client_ca_file = authorities.cloned();
            tls.crl_file.clone_from(&self.crlfile);
            tls.ignore_client_dates = self.ignores_dates;
            tls.identity = identity;
        }
        Ok(Some(tls))
    }
}
