//! `veil ca revoke`: the revocation list of an authority, `ca.crl` in its folder (VEIL-1 section 3.2).
//!
//! Every run makes a list with a higher number. What is revoked stays so; the list is published like any retained message.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use veilmq_client::identity;
use veilmq_protocol::veil::{
    Certificate,
    channel::Identity,
    distribution::{Crl, CrlFields, DistributionTopic, RevocationReason, Revoked},
};

use crate::{authority, failure::Failure, format::unix_ms};

const DAY_SECONDS: u64 = 86_400;
/// The list, in the folder of the authority.
const LIST: &str = "ca.crl";

#[derive(Args)]
pub(crate) struct Arguments {
    /// The folder of the authority
    #[arg(long)]
    dir: PathBuf,
    /// Certificates to revoke; none makes the same list anew, with a later end
    certificate: Vec<PathBuf>,
    /// Why
    #[arg(long, value_enum, default_value = "unspecified")]
    reason: Reason,
    /// Within how many days another list follows
    #[arg(long, default_value_t = 30)]
    days: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Reason {
    Unspecified,
    /// Someone else may have the keys: what was sealed for it counts no more
    KeyCompromise,
    Superseded,
    CessationOfOperation,
    PrivilegeWithdrawn,
}

impl Reason {
    const fn value(self) -> RevocationReason {
        match self {
            Self::Unspecified => RevocationReason::Unspecified,
            Self::KeyCompromise => RevocationReason::KeyCompromise,
            Self::Superseded => RevocationReason::Superseded,
            Self::CessationOfOperation => RevocationReason::CessationOfOperation,
            Self::PrivilegeWithdrawn => RevocationReason::PrivilegeWithdrawn,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let authority = authority::load(&arguments.dir)?;
    let file = arguments.dir.join(LIST);
    let (number, mut revoked) = known(&file, &authority)?;
    for path in &arguments.certificate {
        let certificate = identity::load_certificate(path)?;
        let refused = |why: &str| Failure::new(format!("{}: {why}", path.display()));
        if certificate.kid() == authority.kid() {
            return Err(refused("it is the authority's own, and would end everything that it has certified"));
        }
        if certificate.issuer() != authority.kid() {
            return Err(refused("another authority issued it"));
        }
        let mut serials: Vec<u64> = vec![certificate.serial];
        // A thief has the keys, and perhaps a certificate from before it was renewed.
        serials.extend(
            authority::issued_for(&arguments.dir, certificate.kid())?.iter().map(|other| other.serial),
        );
        for serial in serials {
            let entry = Revoked { serial, reason: arguments.reason.value() };
            if let Err(index) = revoked.binary_search_by_key(&serial, |entry| entry.serial) {
                revoked.insert(index, entry);
            }
        }
    }
    let this_update = unix_ms() / 1000;
    let fields = CrlFields {
        number: number.saturating_add(1),
        this_update,
        next_update: this_update + u64::from(arguments.days) * DAY_SECONDS,
        issuer: authority.certificate().clone(),
        revoked,
    };
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", file.display()));
    let list = fields.sign(authority.keys()).map_err(|error| failed(&error))?;
    fs::write(&file, list.as_bytes()).map_err(|error| failed(&error))?;
    let topic = DistributionTopic::Revocations { authority: authority.kid() };
    say!("{}: list {} with {} certificates", file.display(), list.number, list.revoked.len());
    say!("publish it: veil pub -q 1 -r -t {topic} -f {} ...", file.display());
    Ok(())
}

/// Whether a certificate stands on the list of the authority in `dir`.
pub(crate) fn is_revoked(
    dir: &Path,
    authority: &Identity,
    certificate: &Certificate,
) -> Result<bool, Failure> {
    let (_, revoked) = known(&dir.join(LIST), authority)?;
    Ok(revoked.binary_search_by_key(&certificate.serial, |entry| entry.serial).is_ok())
}

/// The number and entries of the list there is.
fn known(file: &Path, authority: &Identity) -> Result<(u64, Vec<Revoked>), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", file.display()));
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, Vec::new())),
        Err(error) => return Err(failed(&error)),
    };
    let list = Crl::parse(&bytes).map_err(|error| failed(&error))?;
    if list.issuer.kid() != authority.kid() {
        return Err(failed(&"the list of another authority"));
    }
    Ok((list.number, list.revoked.clone()))
}
