//! Identities on disk: what is written can be read, and what must not be used is refused by name.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use veilmq_client::identity::{self, IdentityError};
use veilmq_protocol::veil::{Certificate, CertificateError, CertificateFields, Roles, channel::IdentityKeys};

fn keys(seed: u8) -> IdentityKeys {
    IdentityKeys::from_seeds(&[seed; 32], &[seed + 1; 32])
}

fn certificate(keys: &IdentityKeys) -> Certificate {
    let fields = CertificateFields {
        roles: Roles::PUBLISHER,
        serial: 1,
        not_before: 0,
        not_after: 10,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: "press-07".to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    };
    fields.sign(keys).unwrap()
}

fn save(folder: &Path, name: &str, seed: u8) -> (PathBuf, PathBuf) {
    let (certificate_file, key_file) = identity::files(&folder.join(name));
    identity::save_certificate(&certificate_file, &certificate(&keys(seed))).unwrap();
    identity::save_keys(&key_file, &keys(seed)).unwrap();
    (certificate_file, key_file)
}

#[test]
fn an_identity_is_read_by_its_name_by_either_file_and_by_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate_file, key_file) = save(folder.path(), "press.07", 1);

    for path in [&folder.path().join("press.07"), &certificate_file, &key_file, &folder.path().to_owned()] {
        let identity = identity::load(path).unwrap();
        assert_eq!(identity.kid(), keys(1).kid(), "{}", path.display());
        assert_eq!(identity.certificate().subject, "press-07");
    }
}

#[test]
fn a_key_file_is_for_its_owner_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (_, key_file) = save(folder.path(), "a", 1);

    assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(&key_file).unwrap(), [[1; 32], [2; 32]].concat());
    let again = identity::save_keys(&key_file, &keys(3));
    assert!(matches!(again, Err(IdentityError::File { path, .. }) if path == key_file));
    assert_eq!(identity::load_keys(&key_file).unwrap().kid(), keys(1).kid());
}

#[test]
fn what_must_not_be_used_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate_file, key_file) = save(folder.path(), "a", 1);
    save(folder.path(), "b", 3);
    let text = |error: IdentityError| error.to_string();
    let named = |path: &Path, what: &str| format!("{}: {what}", path.display());

    let several = identity::load(folder.path()).err().map(text).unwrap();
    assert_eq!(several, named(folder.path(), "several .key files in this folder; name one of them"));

    fs::copy(folder.path().join("b.vmc"), &certificate_file).unwrap();
    let mixed = identity::load(&key_file).err().map(text).unwrap();
    assert_eq!(mixed, named(&certificate_file, &CertificateError::KeyMismatch.to_string()));

    fs::write(&certificate_file, b"-----BEGIN CERTIFICATE-----").unwrap();
    let pem = identity::load_certificate(&certificate_file).err().map(text).unwrap();
    assert!(pem.starts_with(&named(&certificate_file, "certificate")), "{pem}");

    fs::write(&key_file, [0; 63]).unwrap();
    let short = identity::load_keys(&key_file).err().map(text).unwrap();
    assert_eq!(short, named(&key_file, "a key file has 64 bytes, this one has 63"));

    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o640)).unwrap();
    let open = identity::load_keys(&key_file).err().map(text).unwrap();
    assert_eq!(open, named(&key_file, "others may read this key file (mode 640); run chmod 600 on it"));

    let absent = identity::load_anchors([&folder.path().join("none.vmc")]).err().map(text).unwrap();
    assert!(absent.starts_with(&named(&folder.path().join("none.vmc"), "No such file")), "{absent}");
}

#[test]
fn a_self_signed_certificate_can_be_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate_file, _) = save(folder.path(), "broker", 1);

    let anchors = identity::load_anchors([&certificate_file]).unwrap();

    assert!(anchors.get(keys(1).kid()).is_some());
}
