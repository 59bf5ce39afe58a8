//! The file: as Mosquitto writes it, and with everything that can be wrong in it.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ds.json");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// As `mosquitto_ctrl dynsec init` of Mosquitto 2.0 writes it, with the password `pw`, and what a newer one may add.
const OF_MOSQUITTO: &str = r##"{
    "clients": [{
        "username": "admin", "textName": "Dynsec admin user",
        "password": "9fKQtSCeYPBCw+o4ZOP0vkbT0EJfLt5a5tD+bxKWyIo35KNuQtD2xvep55ltZ8JTkE7ps1OlQCa6xBTr1Qn6nA==",
        "salt": "yOsEAWia1X3pGhUY", "iterations": 101, "roles": [{ "rolename": "admin" }], "later": [1]
    }, { "username": "nobody" }],
    "roles": [{ "rolename": "admin", "acls": [
        { "acltype": "publishClientSend", "topic": "$CONTROL/dynamic-security/#", "allow": true },
        { "acltype": "subscribePattern", "topic": "$share/#", "allow": false }] }],
    "defaultACLAccess": { "publishClientReceive": true, "unsubscribe": true },
    "newer": { "x": 1 }
}"##;

#[test]
fn a_file_of_mosquitto_is_read_and_stays_one_that_it_can_read() {
    let (_folder, path) = file(OF_MOSQUITTO);

    let directory = Directory::read(&path).unwrap();
    directory.write(&path).unwrap();

    let credentials: Vec<_> = directory.credentials().collect();
    assert_eq!(credentials.len(), 1, "who has no password cannot connect");
    assert!(credentials[0].hash.is_of(b"pw"));
    let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let admin = &written["clients"][0];
    assert_eq!((&admin["salt"], &admin["iterations"]), (&json!("yOsEAWia1X3pGhUY"), &json!(101)));
    assert_eq!((&admin["textname"], &admin["later"]), (&json!("Dynsec admin user"), &json!([1])));
    assert_eq!(written["newer"], json!({"x": 1}));
    assert_eq!(
        written["defaultACLAccess"],
        json!({"publishClientSend": false, "publishClientReceive": true, "subscribe": false, "unsubscribe": true})
    );
}

#[test]
fn a_hash_that_mosquitto_2_0_does_not_know_is_written_as_by_2_1() {
    let hash = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAA";
    let (_folder, path) =
        file(&json!({"clients": [{"username": "ann", "encoded_password": hash}]}).to_string());

    Directory::read(&path).unwrap().write(&path).unwrap();

    let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(written["clients"][0]["encoded_password"].as_str().unwrap().starts_with("$argon2id$"));
    assert_eq!(Directory::read(&path).unwrap().credentials().count(), 1);
}

#[test]
fn what_is_not_understood_is_an_error_that_names_its_place() {
    // [B09]
    for (text, expected) in [
        ("{\n\n\"clients\": [,]}", ":3: it is not JSON"),
        ("[]", ": the file: it is no object"),
        (r#"{"clients": {}}"#, ": clients: it is not a list"),
        (r#"{"clients": [{}, 5]}"#, ": clients[1]: it is no object"),
        (r#"{"clients": [{}]}"#, ": clients[0].username: it is not a text"),
        (r#"{"clients": [{"username": ""}]}"#, ": clients[0].username: it is empty"),
        (
            r#"{"clients": [{"username": "a"}, {"username": "a"}]}"#,
            ": clients[1]: there is another client with this name",
        ),
        (
            r#"{"clients": [{"username": "a", "disabled": "no"}]}"#,
            ": clients[0].disabled: it is not true or false",
        ),
        (
            r#"{"clients": [{"username": "a", "password": "x", "salt": "y", "iterations": 1}]}"#,
            ": clients[0].password: the salt of the password hash is malformed",
        ),
        (
            r#"{"clients": [{"username": "a", "password": "x", "salt": "y", "iterations": 3000000}]}"#,
            ": clients[0].password: ",
        ),
        (
            r#"{"clients": [{"username": "a", "roles": [{"rolename": "r"}]}]}"#,
            ": clients[0].roles[0]: there is no such role",
        ),
        (
            r#"{"groups": [{"groupname": "g", "clients": [{"username": "a"}]}]}"#,
            ": groups[0].clients[0]: there is no such client",
        ),
        (
            r#"{"roles": [{"rolename": "r", "acls": [{"acltype": "x"}]}]}"#,
            ": roles[0].acls[0].acltype: it is no type of rule",
        ),
        (
            r#"{"roles": [{"rolename": "r", "acls": [{"acltype": "subscribePattern", "topic": "a/#/b"}]}]}"#,
            ": roles[0].acls[0].topic: it is not a Topic Filter",
        ),
        (r#"{"anonymousGroup": "g"}"#, ": anonymousGroup: there is no such group"),
        (
            r#"{"defaultACLAccess": {"subscribe": 1}}"#,
            ": defaultACLAccess.subscribe: it is not true or false",
        ),
    ] {
        let (_folder, path) = file(text);

        let error = Directory::read(&path).err().unwrap_or_else(|| panic!("{text} was taken")).to_string();

        assert!(error.starts_with(&format!("{}{expected}", path.display())), "{text}: {error}");
    }
}
