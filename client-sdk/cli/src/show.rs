//! `veil show` and `veil cert`: what a certificate, a revocation list, a prekey or a KEYHEAD says.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;
use veilmq_client::identity;
use veilmq_protocol::veil::{
    Certificate,
    distribution::{Crl, KeyHead, Prekey},
};

use crate::{
    failure::Failure,
    format::{hex, utc},
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print a certificate
    Show(Show),
}

#[derive(Args)]
pub(crate) struct Show {
    /// The file, for instance ca.vmc
    file: PathBuf,
    /// Print it as JSON (certificates only)
    #[arg(long)]
    json: bool,
}

/// A certificate in words; the field names are those of the JSON form.
#[derive(Serialize)]
struct View<'a> {
    subject: &'a str,
    roles: String,
    kid: String,
    issuer: String,
    self_signed: bool,
    serial: u64,
    not_before: String,
    not_after: String,
    ed25519: String,
    x25519: String,
    publish_scopes: &'a [String],
    subscribe_scopes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    path_length: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation_topic: Option<&'a str>,
    bytes: usize,
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let Command::Show(arguments) = command;
    certificate(&arguments)
}

/// Prints whatever object of VEIL-1 is in the file; nothing is verified.
pub(crate) fn file(arguments: &Show) -> Result<(), Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", arguments.file.display()));
    let bytes = fs::read(&arguments.file).map_err(|error| failed(&error))?;
    match bytes.get(..3) {
        Some(b"VE\x13") => head(&KeyHead::parse(&bytes).map_err(|error| failed(&error))?.0),
        Some(b"VE\x15") => prekey(&Prekey::parse(&bytes).map_err(|error| failed(&error))?),
        Some(b"VE\x17") => revocations(&Crl::parse(&bytes).map_err(|error| failed(&error))?),
        Some(_) | None => certificate(arguments)?,
    }
    Ok(())
}

fn head(head: &KeyHead) {
    say!("KEYHEAD           epoch {} of {:?}", head.epoch, head.scope);
    say!("issuer            {} ({})", head.issuer, head.certificate.subject.escape_debug());
    say!("members           {}", head.member_count);
    for (name, moment) in [
        ("created", head.created_ms),
        ("activate", head.activate_ms),
        ("retire", head.retire_ms),
        ("drop", head.drop_ms),
    ] {
        say!("{name:<18}{}", utc(moment / 1000));
    }
    say!("commitment        {}", hex(&head.commitment));
    say!("previous          {}", hex(&head.previous));
}

fn prekey(prekey: &Prekey) {
    say!("prekey            {} of {}", prekey.id, prekey.certificate.subject.escape_debug());
    say!("kid               {}", prekey.certificate.kid());
    say!("not after         {}", utc(prekey.not_after_ms / 1000));
}

fn revocations(list: &Crl) {
    say!(
        "revocation list   {} of {} ({})",
        list.number,
        list.issuer.kid(),
        list.issuer.subject.escape_debug()
    );
    say!("this update       {}", utc(list.this_update));
    say!("next update       {}", utc(list.next_update));
    for entry in &list.revoked {
        say!("revoked           {} ({:?})", entry.serial, entry.reason);
    }
}

fn certificate(Show { file, json }: &Show) -> Result<(), Failure> {
    let certificate = identity::load_certificate(file)?;
    let view = View::of(&certificate);
    if *json {
        let text = serde_json::to_string_pretty(&view)
            .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
        say!("{text}");
    } else {
        view.print();
    }
    Ok(())
}

/// One line about a certificate that was just written.
pub(crate) fn summary(file: &Path, certificate: &Certificate) {
    let (roles, kid, until) = (certificate.roles, certificate.kid(), utc(certificate.not_after));
    let subject = certificate.subject.escape_debug();
    say!("{}: {subject} ({roles}), kid {kid}, valid until {until}", file.display());
}

impl<'a> View<'a> {
    fn of(certificate: &'a Certificate) -> Self {
        Self {
            subject: &certificate.subject,
            roles: certificate.roles.to_string(),
            kid: certificate.kid().to_string(),
            issuer: certificate.issuer().to_string(),
            self_signed: certificate.issuer() == certificate.kid(),
            serial: certificate.serial,
            not_before: utc(certificate.not_before),
            not_after: utc(certificate.not_after),
            ed25519: hex(&certificate.ed25519),
            x25519: hex(&certificate.x25519),
            publish_scopes: &certificate.publish_scopes,
            subscribe_scopes: &certificate.subscribe_scopes,
            path_length: certificate.path_length,
            revocation_topic: certificate.revocation_topic.as_deref(),
            bytes: certificate.as_bytes().len(),
        }
    }

    fn print(&self) {
        let issuer = if self.self_signed { " (self-signed)" } else { "" };
        say!("subject           {}", self.subject.escape_debug());
        say!("roles             {}", self.roles);
        say!("key identifier    {}", self.kid);
        say!("issuer            {}{issuer}", self.issuer);
        say!("serial            {}", self.serial);
        say!("valid from        {}", self.not_before);
        say!("valid until       {}", self.not_after);
        say!("Ed25519 key       {}", self.ed25519);
        say!("X25519 key        {}", self.x25519);
        for (label, scopes) in
            [("publish scope    ", self.publish_scopes), ("subscribe scope  ", self.subscribe_scopes)]
        {
            for scope in scopes {
                say!("{label} {scope}");
            }
        }
        if let Some(length) = self.path_length {
            say!("path length       {length}");
        }
        if let Some(topic) = self.revocation_topic {
            say!("revocation topic  {topic}");
        }
        say!("size              {} bytes", self.bytes);
    }
}
