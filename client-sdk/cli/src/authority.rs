//! `veil ca`: a certificate authority in a folder, `ca.vmc` and `ca.key`, and what it issues.
//!
//! The authority's key never leaves its folder and never goes to a broker. An existing key is never overwritten.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Subcommand, ValueEnum};
use veilmq_client::{TopicFilter, identity};
use veilmq_protocol::veil::{Certificate, CertificateFields, Roles, channel::IdentityKeys};
use zeroize::Zeroizing;

use crate::{failure::Failure, secret::random, show};

/// Certificates are valid from a little before now, for clocks that lag.
const LAG_SECONDS: u64 = 300;
const DAY_SECONDS: u64 = 86_400;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a new authority
    Init {
        /// The folder of the authority; made if it does not exist
        #[arg(long)]
        dir: PathBuf,
        /// Its name
        #[arg(long, default_value = "veil-ca")]
        name: String,
        /// How many days its certificate is valid
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
    /// Issue a certificate, with new keys or for the keys of an existing certificate
    Issue {
        /// The folder of the authority
        #[arg(long)]
        dir: PathBuf,
        /// The MQTT Client Identifier, or the name of the broker
        #[arg(long)]
        subject: String,
        /// What the subject may be
        #[arg(long = "role", required = true)]
        roles: Vec<Role>,
        /// A topic filter the subject may publish to
        #[arg(long = "publish-scope", value_name = "FILTER")]
        publish_scopes: Vec<String>,
        /// A topic filter the subject may receive keys for
        #[arg(long = "subscribe-scope", value_name = "FILTER")]
        subscribe_scopes: Vec<String>,
        /// Certify the keys of this certificate (a broker's, for instance) instead of making new ones
        #[arg(long, value_name = "FILE")]
        certificate: Option<PathBuf>,
        /// Where to put SUBJECT.vmc and SUBJECT.key [default: the folder of the authority]
        #[arg(long)]
        out: Option<PathBuf>,
        /// How many days the certificate is valid
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Role {
    Publisher,
    Subscriber,
    Broker,
}

impl Role {
    const fn bits(self) -> Roles {
        match self {
            Self::Publisher => Roles::PUBLISHER,
            Self::Subscriber => Roles::SUBSCRIBER,
            Self::Broker => Roles::BROKER,
        }
    }
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Init { dir, name, days } => {
            let certificate = init(&dir, &name, days)?;
            show::summary(&dir.join("ca.vmc"), &certificate);
            say!("keep {} secret; give ca.vmc to brokers and clients", dir.join("ca.key").display());
            Ok(())
        }
        Command::Issue { dir, subject, roles, publish_scopes, subscribe_scopes, certificate, out, days } => {
            let request = Request {
                roles: roles.into_iter().fold(Roles::NONE, |roles, role| roles | role.bits()),
                subject,
                publish_scopes,
                subscribe_scopes,
                days,
            };
            let out = out.unwrap_or_else(|| dir.clone());
            let issued = match certificate {
                Some(existing) => issue_for(&dir, &request, &identity::load_certificate(&existing)?, &out)?,
                None => issue(&dir, &request, &out)?,
            };
            show::summary(&issued.file, &issued.certificate);
            Ok(())
        }
    }
}

/// What a certificate is to say.
pub(crate) struct Request {
    pub(crate) subject: String,
    pub(crate) roles: Roles,
    pub(crate) publish_scopes: Vec<String>,
    pub(crate) subscribe_scopes: Vec<String>,
    pub(crate) days: u32,
}

/// A certificate and the file it is in.
pub(crate) struct Issued {
    pub(crate) certificate: Certificate,
    pub(crate) file: PathBuf,
}

/// Makes an authority in a folder.
pub(crate) fn init(dir: &Path, name: &str, days: u32) -> Result<Certificate, Failure> {
    make_folder(dir)?;
    let keys = new_keys()?;
    let request = Request {
        subject: name.to_owned(),
        roles: Roles::CA,
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        days,
    };
    let public = PublicKeys { ed25519: keys.ed25519_public(), x25519: keys.x25519_public() };
    let fields = CertificateFields { path_length: Some(0), ..fields(&request, public)? };
    let certificate =
        fields.sign(&keys).map_err(|error| Failure::new(format!("--name {name:?}: {error}")))?;
    identity::save_keys(&dir.join("ca.key"), &keys)?;
    identity::save_certificate(&dir.join("ca.vmc"), &certificate)?;
    Ok(certificate)
}

/// Issues a certificate with new keys, written to `out`.
pub(crate) fn issue(dir: &Path, request: &Request, out: &Path) -> Result<Issued, Failure> {
    let keys = new_keys()?;
    let public = PublicKeys { ed25519: keys.ed25519_public(), x25519: keys.x25519_public() };
    let certificate = sign(dir, request, public)?;
    let (file, key_file) = files_in(out, &request.subject)?;
    identity::save_keys(&key_file, &keys)?;
    identity::save_certificate(&file, &certificate)?;
    Ok(Issued { certificate, file })
}

fn issue_for(dir: &Path, request: &Request, existing: &Certificate, out: &Path) -> Result<Issued, Failure> {
    let public = PublicKeys { ed25519: existing.ed25519, x25519: existing.x25519 };
    let certificate = sign(dir, request, public)?;
    let (file, _) = files_in(out, &request.subject)?;
    identity::save_certificate(&file, &certificate)?;
    Ok(Issued { certificate, file })
}

#[derive(Clone, Copy)]
struct PublicKeys {
    ed25519: [u8; 32],
    x25519: [u8; 32],
}

fn sign(dir: &Path, request: &Request, public: PublicKeys) -> Result<Certificate, Failure> {
    let authority = identity::load(&dir.join("ca"))?;
    if !authority.certificate().roles.contains(Roles::CA) {
        return Err(Failure::new(format!(
            "{}: not the certificate of an authority",
            dir.join("ca.vmc").display()
        )));
    }
    let fields = fields(request, public)?;
    fields
        .sign(authority.keys())
        .map_err(|error| Failure::new(format!("--subject {:?}: {error}", request.subject)))
}

fn fields(request: &Request, public: PublicKeys) -> Result<CertificateFields, Failure> {
    for (option, scopes) in
        [("--publish-scope", &request.publish_scopes), ("--subscribe-scope", &request.subscribe_scopes)]
    {
        for scope in scopes {
            TopicFilter::new(scope).map_err(|error| Failure::new(format!("{option} {scope:?}: {error}")))?;
        }
    }
    let mut serial = [0; 8];
    random(&mut serial)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(CertificateFields {
        roles: request.roles,
        serial: u64::from_be_bytes(serial),
        not_before: now.saturating_sub(LAG_SECONDS),
        not_after: now + u64::from(request.days) * DAY_SECONDS,
        ed25519: public.ed25519,
        x25519: public.x25519,
        subject: request.subject.clone(),
        publish_scopes: request.publish_scopes.clone(),
        subscribe_scopes: request.subscribe_scopes.clone(),
        path_length: None,
        revocation_topic: None,
    })
}

fn new_keys() -> Result<IdentityKeys, Failure> {
    let mut seeds = Zeroizing::new([0; IdentityKeys::LEN]);
    random(seeds.as_mut_slice())?;
    Ok(IdentityKeys::from_bytes(&seeds))
}

/// The files for a subject; characters a file name cannot have become `_`.
fn files_in(out: &Path, subject: &str) -> Result<(PathBuf, PathBuf), Failure> {
    make_folder(out)?;
    let is_plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.' | '@' | ':');
    let mut name: String =
        subject.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
    if name.starts_with('.') {
        name.insert(0, '_');
    }
    Ok((out.join(format!("{name}.vmc")), out.join(format!("{name}.key"))))
}

fn make_folder(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| Failure::new(format!("{}: {error}", dir.display())))
}
