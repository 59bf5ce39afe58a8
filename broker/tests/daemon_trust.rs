//! Whom a running broker trusts follows its trust folder and its configuration.
#![allow(clippy::unwrap_used, reason = "test code")]

mod daemon_support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use daemon_support::{authority, certificate, list};
use tempfile::TempDir;
use veilmq::trust::{TrustError, TrustFolder, TrustKeeper, parse_authority};
use veilmq_config::VeilConfig;
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
        TrustKeeper::new(self.folder.clone(), &trusting(configured), Arc::clone(&self.shared))
    }

    /// Whether the certificate of this number, which `authority(1)` has issued, is revoked.
    fn has_revoked(&self, serial: u64) -> bool {
        !self.shared.trust().read().unwrap().vouch_for(authority(1).kid(), serial)
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

fn trusting(authorities: &[PathBuf]) -> VeilConfig {
    VeilConfig { trust: authorities.to_vec(), ..VeilConfig::default() }
}

/// Looks until a file that has changed was left alone for a moment.
fn look(keeper: &TrustKeeper) -> bool {
    let looks: Vec<bool> = (0..3).map(|_| keeper.rescan().unwrap()).collect();
    looks.contains(&true)
}

#[test]
fn lists_come_from_the_configuration_and_the_folder_and_are_read_again_when_they_change() {
    let broker = Broker::new();
    broker.folder.add(&authority(1)).unwrap();
    let configured = broker.file("ca.crl", list(1, 1, &[7]).as_bytes());
    let config = VeilConfig { revocations: vec![configured.clone()], ..VeilConfig::default() };
    let keeper = TrustKeeper::new(broker.folder.clone(), &config, Arc::clone(&broker.shared)).unwrap();
    assert!(broker.has_revoked(7) && !broker.has_revoked(8));
    assert!(look(&keeper) && !look(&keeper), "the shards are told once");

    fs::write(&configured, list(1, 2, &[7, 8]).as_bytes()).unwrap();
    assert!(look(&keeper));
    assert!(broker.has_revoked(8));

    // As it comes from whoever copies it there.
    fs::write(broker.data.path().join("trust/copy.crl"), list(1, 3, &[7, 8, 9]).as_bytes()).unwrap();
    assert!(look(&keeper));
    assert!(broker.has_revoked(9));

    fs::write(&configured, list(1, 1, &[10]).as_bytes()).unwrap();
    fs::write(broker.data.path().join("trust/broken.crl"), b"VE and no more").unwrap();
    fs::write(broker.data.path().join("trust/strange.crl"), list(2, 9, &[7]).as_bytes()).unwrap();
    assert!(!look(&keeper), "older, broken, of an authority that is not trusted");
    assert!(!broker.has_revoked(10));
}

#[test]
fn a_list_that_a_client_has_brought_is_stored_and_an_older_one_does_not_count_after_a_restart() {
    let broker = Broker::new();
    broker.folder.add(&authority(1)).unwrap();
    let keeper = broker.keeper(&[]).unwrap();
    broker.shared.revoke(&list(1, 5, &[7])).unwrap();

    keeper.rescan().unwrap();
    assert_eq!(broker.folder.read_lists().unwrap().len(), 1);

    let after = Shared::new(Settings::default(), [0; 16], None);
    let keeper = TrustKeeper::new(broker.folder.clone(), &trusting(&[]), Arc::clone(&after)).unwrap();
    assert_eq!(after.revocations(), [list(1, 5, &[7])]);
    assert!(after.revoke(&list(1, 4, &[])).is_err());
    drop(keeper);
}

#[test]
fn a_configured_list_that_is_none_is_named() {
    let broker = Broker::new();
    let bad = broker.file("bad.crl", b"nonsense");
    let config = VeilConfig { revocations: vec![bad.clone()], ..VeilConfig::default() };

    let error = TrustKeeper::new(broker.folder.clone(), &config, Arc::clone(&broker.shared)).err().unwrap();

    assert!(error.to_string().starts_with(&bad.display().to_string()), "{error}");
}

#[test]
fn a_reload_that_cannot_read_the_folder_changes_nothing_later_either() {
    let broker = Broker::new();
    broker.folder.create().unwrap();
    let [first, second] =
        [1, 2].map(|number| broker.file(&format!("{number}.vmc"), authority(number).as_bytes()));
    let keeper = broker.keeper(&[first]).unwrap();
    let (folder, aside) = (broker.data.path().join("trust"), broker.data.path().join("aside"));
    fs::rename(&folder, &aside).unwrap();
    fs::write(&folder, b"no folder").unwrap();

    let error = keeper.reload(&trusting(&[second])).unwrap_err();

    assert!(error.to_string().contains(&folder.display().to_string()), "{error}");
    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    assert!(!look(&keeper));
    assert_eq!(broker.trusted(), [authority(1).kid()]);
}

#[test]
fn an_authority_that_goes_is_news_for_the_shards() {
    let broker = Broker::new();
    broker.folder.add(&authority(1)).unwrap();
    let keeper = broker.keeper(&[]).unwrap();
    assert!(!look(&keeper));

    broker.folder.remove(authority(1).kid()).unwrap();

    assert!(look(&keeper));
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

    let error = keeper.reload(&trusting(&[good, bad.clone()])).unwrap_err().to_string();

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
