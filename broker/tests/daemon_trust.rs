//! Whom a running broker trusts follows its trust folder and its configuration.
#![allow(clippy::unwrap_used, reason = "test code")]

mod daemon_support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use daemon_support::{authority, certificate};
use tempfile::TempDir;
use veilmq::trust::{TrustError, TrustFolder, TrustKeeper, parse_authority};
use veilmq_core::{Settings, Shared};
use veilmq_protocol::veil::{Certificate, Kid, Roles};

struct Broker {
    data: TempDir,
    shared: Arc<Shared>,
    folder: TrustFolder,
}

impl Broker {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let folder = TrustFolder::in_data_dir(data.path());
        Self { data, shared: Shared::new(Settings::default(), [0; 16], None), folder }
    }

    fn keeper(&self, configured: &[PathBuf]) -> Result<TrustKeeper, TrustError> {
        TrustKeeper::new(self.folder.clone(), configured, Arc::clone(&self.shared))
    }

    fn trusted(&self) -> Vec<Kid> {
        self.shared.trust().read().unwrap().iter().map(Certificate::kid).collect()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.data.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

#[test]
fn an_authority_added_to_the_folder_is_trusted_at_the_next_look() {
    let broker = Broker::new();
    let keeper = broker.keeper(&[]).unwrap();
    assert_eq!(broker.trusted(), []);

    broker.folder.add(&authority(1)).unwrap();
    keeper.rescan().unwrap();

    assert_eq!(broker.trusted(), [authority(1).kid()]);
}

#[test]
fn an_authority_removed_from_the_folder_is_no_longer_trusted() {
    let broker = Broker::new();
    broker.folder.add(&authority(1)).unwrap();
    let keeper = broker.keeper(&[]).unwrap();
    assert_eq!(broker.trusted(), [authority(1).kid()]);

    broker.folder.remove(authority(1).kid()).unwrap();
    keeper.rescan().unwrap();

    assert_eq!(broker.trusted(), []);
}

#[test]
fn a_configured_authority_stays_when_the_folder_changes() {
    let broker = Broker::new();
    let path = broker.file("root.vmc", authority(1).as_bytes());
    let keeper = broker.keeper(&[path]).unwrap();

    keeper.add(&authority(2)).unwrap();
    broker.folder.remove(authority(2).kid()).unwrap();
    keeper.rescan().unwrap();

    assert_eq!(broker.trusted(), [authority(1).kid()]);
}

#[test]
fn an_issuing_authority_is_trusted_with_its_root_whatever_their_files_are_called() {
    let broker = Broker::new();
    let issuing = certificate("issuing", 2, 1, Roles::CA);
    let keeper = broker.keeper(&[]).unwrap();
    keeper.add(&issuing).unwrap();
    assert_eq!(broker.trusted(), []);

    keeper.add(&authority(1)).unwrap();
    let mut expected = [authority(1).kid(), issuing.kid()];
    expected.sort_unstable();
    assert_eq!(broker.trusted(), expected);

    broker.folder.remove(authority(1).kid()).unwrap();
    keeper.rescan().unwrap();
    assert_eq!(broker.trusted(), []);
}

#[test]
fn a_file_that_is_no_certificate_changes_nothing_else() {
    let broker = Broker::new();
    let keeper = broker.keeper(&[]).unwrap();
    keeper.add(&authority(1)).unwrap();

    fs::write(broker.data.path().join("trust/broken.vmc"), b"VMC1 and no more").unwrap();
    fs::write(broker.data.path().join("trust/notes.txt"), authority(3).as_bytes()).unwrap();
    keeper.rescan().unwrap();

    assert_eq!(broker.trusted(), [authority(1).kid()]);
}

#[test]
fn a_configured_file_that_cannot_be_used_is_named_and_changes_nothing() {
    let broker = Broker::new();
    let good = broker.file("good.vmc", authority(1).as_bytes());
    let bad = broker.file("bad.vmc", b"nonsense");
    let keeper = broker.keeper(std::slice::from_ref(&good)).unwrap();

    let error = keeper.reload(&[good, bad.clone()]).unwrap_err().to_string();

    assert!(error.starts_with(&bad.display().to_string()), "{error}");
    assert_eq!(broker.trusted(), [authority(1).kid()]);
    assert!(broker.keeper(&[bad]).is_err());
}

#[test]
fn only_an_authority_s_own_certificate_is_taken() {
    let device = certificate("device-7", 3, 1, Roles::PUBLISHER);
    let mut forged = authority(1).as_bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;

    for (bytes, expected) in [
        (device.as_bytes(), "\"device-7\" is not an authority's (its roles: publisher)"),
        (&forged, "certificate signature is wrong"),
        (b"", "certificate layout"),
    ] {
        let error = parse_authority("FILE", bytes).unwrap_err().to_string();

        assert!(error.starts_with("FILE: ") && error.contains(expected), "{error}");
    }
}
