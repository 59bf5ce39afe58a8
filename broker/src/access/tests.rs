//! What is administered, reloaded and looked after at one time.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use veilmq_core::{ControlTopic, SessionId, Settings};
use zeroize::Zeroizing;

use super::*;

struct Side {
    keeper: Arc<AccessKeeper>,
    listeners: Listeners,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Side {
    /// One with an empty file of dynamic security.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ds.json");
        fs::write(&path, "{}").unwrap();
        let mut config = BrokerConfig::default();
        config.access.dynamic_security_file = Some(path.clone());
        let shared = Shared::new(Settings::default(), [0; 16], None);
        let keeper = Arc::new(AccessKeeper::new(&config, shared).unwrap());
        Self { keeper, listeners: Listeners::of(&config), path, _folder: folder }
    }

    /// Carries commands out on a thread of their own.
    fn administer(&self, commands: &Value) -> thread::JoinHandle<bool> {
        let command = Command {
            session: SessionId(1),
            topic: ControlTopic::DynamicSecurity,
            client_id: "c".into(),
            user: None,
            payload: Zeroizing::new(json!({ "commands": commands }).to_string().into_bytes()),
        };
        let keeper = Arc::clone(&self.keeper);
        thread::spawn(move || keeper.administer(&command).1)
    }

    fn clients(&self) -> Vec<String> {
        let whole: Value = serde_json::from_slice(&fs::read(&self.path).unwrap()).unwrap();
        let clients = whole["clients"].as_array().unwrap();
        clients.iter().map(|client| client["username"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_reload_waits_for_no_hash_and_nothing_is_lost_by_it() {
    let side = Side::new();
    let names: Vec<String> = (10..22).map(|number| format!("device-{number}")).collect();
    let create = |name: &String| json!({"command": "createClient", "username": name, "password": "p"});
    let administering = side.administer(&names.iter().map(create).collect());
    // It hashes by now, and goes on for a while.
    thread::sleep(Duration::from_millis(100));
    fs::write(&side.path, r#"{"clients":[{"username":"ann"}]}"#).unwrap();

    side.keeper.prepare(side.listeners.clone()).unwrap().apply();

    assert!(!administering.is_finished(), "the reload has waited for hashes");
    assert!(administering.join().unwrap());
    assert_eq!(side.clients(), [vec!["ann".to_owned()], names].concat());
}

#[test]
fn a_look_at_the_files_waits_for_nobody_who_reads_or_writes_them() {
    let side = Side::new();
    let prepared = side.keeper.prepare(side.listeners.clone()).unwrap();
    fs::write(&side.path, r#"{"clients":[{"username":"ann"}]}"#).unwrap();
    let (told, looked) = mpsc::sync_channel(1);
    let keeper = Arc::clone(&side.keeper);
    thread::spawn(move || told.send(keeper.rescan().is_some()).unwrap());

    assert_eq!(looked.recv_timeout(Duration::from_secs(5)), Ok(false));

    prepared.apply();
    let looks = [(); 3].map(|()| side.keeper.rescan().is_some());
    assert_eq!(looks, [false, true, false], "what has changed meanwhile is not missed");
}
