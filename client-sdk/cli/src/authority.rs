//! `veil ca`: a certificate authority in a folder, `ca.vmc` and `ca.key`, and what it issues.
//!
//! The authority's key never leaves its folder and never goes to a broker. An existing key is never overwritten.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Subcommand, ValueEnum};
use veilmq_client::{TopicFilter, identity};
use veilmq_protocol::veil::{
    Certificate, CertificateFields, Kid, Roles,
    channel::{Identity, IdentityKeys},
};
use zeroize::Zeroizing;

use crate::{failure::Failure, revocation, secret::random, show};

/// Certificates are valid from a little before now, for clocks that lag.
const LAG_SECONDS: u64 = 300;
const DAY_SECONDS: u64 = 86_400;
/// The folder with copies of what was issued, beside the authority's key.
const ISSUED: &str = "issued";

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
        /// How many authorities may stand below it: 0, or 1 for a root of issuing authorities
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1), conflicts_with = "parent")]
        path_length: u8,
        /// The folder of a root: make an issuing authority below it
        #[arg(long, value_name = "DIR")]
        parent: Option<PathBuf>,
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
        /// A topic filter the subject may publish to (repeatable); without any, its messages are accepted on every topic
        #[arg(long = "publish-scope", value_name = "FILTER")]
        publish_scopes: Vec<String>,
        /// A topic filter the subject may receive keys for (repeatable); without any, only issuers that name it with --member give it keys
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
    /// Issue a certificate anew: same keys, name, roles and scopes, later end
    Renew {
        /// The folder of the authority
        #[arg(long)]
        dir: PathBuf,
        /// The certificate that ends
        certificate: PathBuf,
        /// Where to put the new one [default: in place of the old one]
        #[arg(long)]
        out: Option<PathBuf>,
        /// How many days it is valid
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// Put a certificate on the revocation list, DIR/ca.crl, with all others for the same keys
    Revoke(revocation::Arguments),
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Role {
    Publisher,
    Subscriber,
    Broker,
    /// Issues group keys for several publishers
    KeyAuthority,
    /// Signs rosters
    PolicyAuthority,
}

impl Role {
    const fn bits(self) -> Roles {
        match self {
            Self::Publisher => Roles::PUBLISHER,
            Self::Subscriber => Roles::SUBSCRIBER,
            Self::Broker => Roles::BROKER,
            Self::KeyAuthority => Roles::KEY_AUTHORITY,
            Self::PolicyAuthority => Roles::POLICY_AUTHORITY,
        }
    }
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Init { dir, name, days, path_length, parent } => {
            let certificate = match parent {
                Some(parent) => init_below(&parent, &dir, &name, days)?,
                None => init_root(&dir, &name, days, path_length)?,
            };
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
        Command::Renew { dir, certificate: file, out, days } => {
            let old = identity::load_certificate(&file)?;
            let renewed = renew(&dir, &old, days)?;
            let out = out.unwrap_or(file);
            identity::save_certificate(&out, &renewed)?;
            show::summary(&out, &renewed);
            Ok(())
        }
        Command::Revoke(arguments) => revocation::run(&arguments),
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

/// Makes an authority in a folder that has none below it.
pub(crate) fn init(dir: &Path, name: &str, days: u32) -> Result<Certificate, Failure> {
    init_root(dir, name, days, 0)
}

fn init_root(dir: &Path, name: &str, days: u32, path_length: u8) -> Result<Certificate, Failure> {
    let keys = new_keys()?;
    let fields = authority_fields(&keys, name, days, path_length)?;
    let certificate =
        fields.sign(&keys).map_err(|error| Failure::new(format!("--name {name:?}: {error}")))?;
    save_authority(dir, &keys, &certificate)?;
    Ok(certificate)
}

/// Makes an issuing authority below a root.
fn init_below(parent: &Path, dir: &Path, name: &str, days: u32) -> Result<Certificate, Failure> {
    let root = load(parent)?;
    if root.certificate().path_length == Some(0) {
        return Err(Failure::new(format!(
            "{}: no authority may stand below this one (make it with --path-length 1)",
            parent.join("ca.vmc").display()
        )));
    }
    let keys = new_keys()?;
    let fields = authority_fields(&keys, name, days, 0)?;
    let certificate =
        fields.sign(root.keys()).map_err(|error| Failure::new(format!("--name {name:?}: {error}")))?;
    save_authority(dir, &keys, &certificate)?;
    Ok(certificate)
}

fn authority_fields(
    keys: &IdentityKeys,
    name: &str,
    days: u32,
    path_length: u8,
) -> Result<CertificateFields, Failure> {
    let request = Request {
        subject: name.to_owned(),
        roles: Roles::CA,
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        days,
    };
    let public = PublicKeys { ed25519: keys.ed25519_public(), x25519: keys.x25519_public() };
    Ok(CertificateFields { path_length: Some(path_length), ..fields(&request, public)? })
}

fn save_authority(dir: &Path, keys: &IdentityKeys, certificate: &Certificate) -> Result<(), Failure> {
    make_folder(dir)?;
    identity::save_keys(&dir.join("ca.key"), keys)?;
    identity::save_certificate(&dir.join("ca.vmc"), certificate)?;
    Ok(())
}

/// Reads an authority from its folder.
pub(crate) fn load(dir: &Path) -> Result<Identity, Failure> {
    let authority = identity::load(dir.join("ca"))?;
    if authority.certificate().roles.contains(Roles::CA) {
        return Ok(authority);
    }
    Err(Failure::new(format!("{}: not the certificate of an authority", dir.join("ca.vmc").display())))
}

/// Says the same as `old` with another serial number and a later end.
fn renew(dir: &Path, old: &Certificate, days: u32) -> Result<Certificate, Failure> {
    let request = Request {
        subject: old.subject.clone(),
        roles: old.roles,
        publish_scopes: old.publish_scopes.clone(),
        subscribe_scopes: old.subscribe_scopes.clone(),
        days,
    };
    let authority = load(dir)?;
    if old.issuer() != authority.kid() {
        return Err(Failure::new(format!("{}: another authority issued this certificate", old.subject)));
    }
    refuse_revoked(dir, &authority, std::slice::from_ref(old))?;
    let public = PublicKeys { ed25519: old.ed25519, x25519: old.x25519 };
    sign_with(dir, &authority, &request, public)
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
    sign_with(dir, &load(dir)?, request, public)
}

/// Signs a certificate, and keeps a copy in the folder of the authority: whoever is revoked is revoked with all that it ever got.
fn sign_with(
    dir: &Path,
    authority: &Identity,
    request: &Request,
    public: PublicKeys,
) -> Result<Certificate, Failure> {
    let signed = fields(request, public)?.sign(authority.keys());
    let certificate =
        signed.map_err(|error| Failure::new(format!("--subject {:?}: {error}", request.subject)))?;
    refuse_revoked(dir, authority, &issued_for(dir, certificate.kid())?)?;
    let copies = dir.join(ISSUED);
    make_folder(&copies)?;
    let copy = copies.join(format!("{}-{:016x}.vmc", certificate.kid(), certificate.serial));
    identity::save_certificate(&copy, &certificate)?;
    Ok(certificate)
}

/// Refuses to certify keys again for which a certificate was revoked.
fn refuse_revoked(dir: &Path, authority: &Identity, certificates: &[Certificate]) -> Result<(), Failure> {
    for certificate in certificates {
        if revocation::is_revoked(dir, authority, certificate)? {
            let (subject, kid) = (&certificate.subject, certificate.kid());
            return Err(Failure::new(format!(
                "{subject}: the keys {kid} are revoked; issue a certificate with new ones"
            )));
        }
    }
    Ok(())
}

/// The certificates that an authority has issued for the keys of `kid`, as far as there are copies in its folder.
pub(crate) fn issued_for(dir: &Path, kid: Kid) -> Result<Vec<Certificate>, Failure> {
    let copies = dir.join(ISSUED);
    let failed = |error: io::Error| Failure::new(format!("{}: {error}", copies.display()));
    let entries = match fs::read_dir(&copies) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&kid.to_string()) {
            found.push(identity::load_certificate(&path)?);
        }
    }
    Ok(found)
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
