//! Each command with its answer, as Mosquitto gives it, and who has to connect anew.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::*;

/// Carries one message out.
fn send(directory: &mut Directory, commands: &Value) -> Value {
    let payload = json!({ "commands": commands }).to_string();
    let answers = carry_out(directory, payload.as_bytes(), &Hashes::default(), &|_| vec!["127.0.0.1".into()]);
    let whole: Value = serde_json::from_slice(&answers.into_payload()).unwrap();
    whole["responses"].clone()
}

/// Carries one command out and returns its error, or its data, or nothing.
#[expect(clippy::needless_pass_by_value, reason = "commands are written where they are sent")]
fn ask(directory: &mut Directory, command: Value) -> Value {
    let name = command["command"].clone();
    let answer = send(directory, &json!([command]))[0].clone();
    assert_eq!(answer["command"], name);
    match (&answer["error"], &answer["data"]) {
        (Value::Null, data) => data.clone(),
        (error, _) => error.clone(),
    }
}

/// A directory with the client ann, the group g that has her, and the role r that the group has.
fn small() -> Directory {
    // A password takes its time.
    static SMALL: LazyLock<Directory> = LazyLock::new(make_small);
    SMALL.clone()
}

fn make_small() -> Directory {
    let mut directory = Directory::default();
    let answers = send(
        &mut directory,
        &json!([
            {"command": "createRole", "rolename": "r", "textname": "tn", "acls": [
                {"acltype": "publishClientSend", "topic": "a/#", "priority": 3, "allow": true},
                {"acltype": "SUBSCRIBELITERAL", "topic": "a/#"},
                {"acltype": "zz", "topic": "a"}]},
            {"command": "createGroup", "groupname": "g", "roles": [{"rolename": "r", "priority": 2}]},
            {"command": "createClient", "username": "ann", "password": "one", "clientid": "cid",
                "textname": "tn", "textdescription": "td", "groups": [{"groupname": "g", "priority": 4}]},
            {"command": "createClient", "username": "bob", "roles": [{"rolename": "r", "priority": 7}]},
        ]),
    );
    assert!(answers.as_array().unwrap().iter().all(|answer| answer["error"].is_null()), "{answers}");
    directory
}

#[test]
fn what_is_no_command_is_answered_as_one_that_is_unknown() {
    let mut directory = Directory::default();
    let deep = "[".repeat(100_000);
    for (payload, error) in [
        ("nonsense", "Payload not valid JSON"),
        ("", "Payload not valid JSON"),
        (&deep, "Payload not valid JSON"),
        ("[]", "Invalid/missing commands"),
        ("{}", "Invalid/missing commands"),
        (r#"{"commands":1}"#, "Invalid/missing commands"),
        (r#"{"commands":[1]}"#, "Command not an object"),
        (r#"{"commands":[{}]}"#, "Missing command"),
        (r#"{"commands":[{"command":1}]}"#, "Missing command"),
    ] {
        let answers = carry_out(&mut directory, payload.as_bytes(), &Hashes::default(), &|_| Vec::new());

        let answer: Value = serde_json::from_slice(&answers.into_payload()).unwrap();
        assert_eq!(answer, json!({"responses": [{"command": "Unknown command", "error": error}]}));
    }
    assert_eq!(send(&mut directory, &json!([])), json!([]));
    assert_eq!(
        send(
            &mut directory,
            &json!([
                {"command": "foo", "correlationData": "x"},
                {"command": "listRoles", "correlationData": 5},
                {"command": "getDetails", "correlationData": "y"},
            ])
        ),
        json!([
            {"command": "foo", "correlationData": "x", "error": "Unknown command"},
            {"command": "listRoles", "error": "Invalid correlationData data type."},
            {"command": "getDetails", "correlationData": "y",
                "data": {"clientCount": 0, "groupCount": 0, "roleCount": 0, "changeIndex": 0}},
        ])
    );
}

#[test]
fn a_command_that_cannot_be_carried_out_says_why_and_changes_nothing() {
    let (roles, clients) = (json!([{"rolename": "nope"}]), json!([{"username": "nope"}]));
    for (command, error) in [
        (json!({"command": "createClient"}), "Invalid/missing username"),
        (json!({"command": "createClient", "username": 5}), "Invalid/missing username"),
        (json!({"command": "createClient", "username": "a\u{0}"}), "Invalid/missing username"),
        (json!({"command": "createClient", "username": ""}), "Empty username"),
        (json!({"command": "createClient", "username": "u", "password": 5}), "Invalid/missing password"),
        (json!({"command": "createClient", "username": "u", "clientid": 5}), "Invalid/missing client id"),
        (json!({"command": "createClient", "username": "u", "textname": 5}), "Invalid/missing textname"),
        (
            json!({"command": "createClient", "username": "u", "textdescription": 5}),
            "Invalid/missing textdescription",
        ),
        (
            json!({"command": "createClient", "username": "u", "roles": 5}),
            "'roles' not an array or missing/invalid rolename",
        ),
        (json!({"command": "createClient", "username": "u", "roles": roles}), "Role not found"),
        (
            json!({"command": "createClient", "username": "u", "groups": [{"groupname": "nope"}]}),
            "Group not found",
        ),
        (
            json!({"command": "createClient", "username": "u",
                "groups": [{"groupname": "g"}, {"groupname": "g"}]}),
            "Internal error",
        ),
        (json!({"command": "createClient", "username": "ann"}), "Client already exists"),
        (json!({"command": "deleteClient"}), "Invalid/missing username"),
        (json!({"command": "deleteClient", "username": "nope"}), "Client not found"),
        (json!({"command": "disableClient", "username": "nope"}), "Client not found"),
        (json!({"command": "enableClient"}), "Invalid/missing username"),
        (json!({"command": "setClientId", "username": "nope"}), "Client not found"),
        (json!({"command": "setClientId", "username": "ann", "clientid": 5}), "Invalid/missing client ID"),
        (json!({"command": "setClientPassword", "username": "ann"}), "Invalid/missing password"),
        (
            json!({"command": "setClientPassword", "username": "ann", "password": ""}),
            "Empty password is not allowed",
        ),
        (json!({"command": "setClientPassword", "username": "nope", "password": "z"}), "Client not found"),
        (json!({"command": "modifyClient", "username": "nope"}), "Client not found"),
        (json!({"command": "modifyClient", "username": "ann", "roles": roles}), "Role not found"),
        (
            json!({"command": "modifyClient", "username": "ann", "groups": [{"groupname": "nope"}]}),
            "'groups' contains an object with a 'groupname' that does not exist",
        ),
        (
            json!({"command": "modifyClient", "username": "ann", "groups": [{}]}),
            "'groups' contains an object with an invalid 'groupname'",
        ),
        (json!({"command": "getClient", "username": "nope"}), "Client not found"),
        (json!({"command": "addClientRole", "username": "ann"}), "Invalid/missing rolename"),
        (json!({"command": "addClientRole", "username": "ann", "rolename": "nope"}), "Role not found"),
        (json!({"command": "addClientRole", "username": "nope", "rolename": "r"}), "Client not found"),
        (json!({"command": "addClientRole", "username": "bob", "rolename": "r"}), "Internal error"),
        (json!({"command": "removeClientRole", "username": "ann", "rolename": "nope"}), "Role not found"),
        (json!({"command": "createGroup"}), "Invalid/missing groupname"),
        (json!({"command": "createGroup", "groupname": ""}), "Empty groupname"),
        (json!({"command": "createGroup", "groupname": "g"}), "Group already exists"),
        (json!({"command": "createGroup", "groupname": "h", "roles": 5}), "Internal error"),
        (json!({"command": "createGroup", "groupname": "h", "roles": roles}), "Role not found"),
        (json!({"command": "deleteGroup", "groupname": "nope"}), "Group not found"),
        (json!({"command": "modifyGroup", "groupname": "nope"}), "Group not found"),
        (json!({"command": "modifyGroup", "groupname": "g", "roles": roles}), "Role not found"),
        (
            json!({"command": "modifyGroup", "groupname": "g", "roles": 5}),
            "'roles' not an array or missing/invalid rolename",
        ),
        (
            json!({"command": "modifyGroup", "groupname": "g", "clients": clients}),
            "'clients' contains an object with a 'username' that does not exist",
        ),
        (
            json!({"command": "modifyGroup", "groupname": "g", "clients": [{}]}),
            "'clients' contains an object with an invalid 'username'",
        ),
        (json!({"command": "getGroup", "groupname": "nope"}), "Group not found"),
        (
            json!({"command": "addGroupClient", "groupname": "g", "username": "ann"}),
            "Client is already in this group",
        ),
        (json!({"command": "addGroupClient", "groupname": "nope", "username": "ann"}), "Group not found"),
        (json!({"command": "addGroupClient", "groupname": "g", "username": "nope"}), "Client not found"),
        (json!({"command": "addGroupClient", "groupname": "g"}), "Invalid/missing username"),
        (json!({"command": "removeGroupClient", "groupname": "nope", "username": "ann"}), "Group not found"),
        (
            json!({"command": "addGroupRole", "groupname": "g", "rolename": "r"}),
            "Group is already in this role",
        ),
        (json!({"command": "addGroupRole", "groupname": "g", "rolename": "nope"}), "Role not found"),
        (json!({"command": "removeGroupRole", "groupname": "nope", "rolename": "r"}), "Group not found"),
        (json!({"command": "setAnonymousGroup"}), "Invalid/missing groupname"),
        (json!({"command": "setAnonymousGroup", "groupname": "nope"}), "Group not found"),
        (json!({"command": "createClient", "username": "a\u{7f}"}), "Username not valid UTF-8"),
        (
            json!({"command": "createClient", "username": "a", "clientid": "\u{fdd0}"}),
            "Client ID not valid UTF-8",
        ),
        (json!({"command": "createGroup", "groupname": "\u{ffff}LO"}), "Group name not valid UTF-8"),
        (json!({"command": "createRole", "rolename": "\u{1fffe}"}), "Role name not valid UTF-8"),
        (
            json!({"command": "addRoleACL", "rolename": "r", "acltype": "subscribePattern", "topic": "a\n"}),
            "Topic not valid UTF-8",
        ),
        (json!({"command": "createRole"}), "Invalid/missing rolename"),
        (json!({"command": "createRole", "rolename": ""}), "Empty rolename"),
        (json!({"command": "createRole", "rolename": "r"}), "Role already exists"),
        (
            json!({"command": "createRole", "rolename": "q", "allowwildcardsubs": 5}),
            "Invalid allowwildcardsubs",
        ),
        (
            json!({"command": "createRole", "rolename": "q",
                "acls": [{"acltype": "publishClientSend", "topic": "a/#/b"}]}),
            "Invalid ACL topic",
        ),
        (json!({"command": "deleteRole", "rolename": "nope"}), "Role not found"),
        (json!({"command": "getRole", "rolename": "nope"}), "Role not found"),
        (json!({"command": "modifyRole", "rolename": "nope"}), "Role does not exist"),
        (json!({"command": "addRoleACL", "rolename": "nope"}), "Role not found"),
        (json!({"command": "addRoleACL", "rolename": "r"}), "Invalid/missing acltype"),
        (json!({"command": "addRoleACL", "rolename": "r", "acltype": "zz"}), "Unknown acltype"),
        (
            json!({"command": "addRoleACL", "rolename": "r", "acltype": "subscribePattern"}),
            "Invalid/missing topic",
        ),
        (
            json!({"command": "addRoleACL", "rolename": "r", "acltype": "subscribePattern", "topic": "a/#/b"}),
            "Invalid ACL topic",
        ),
        (
            json!({"command": "addRoleACL", "rolename": "r", "acltype": "publishClientSend", "topic": "a/#"}),
            "ACL with this topic already exists",
        ),
        (
            json!({"command": "removeRoleACL", "rolename": "r", "acltype": "publishClientSend", "topic": "b"}),
            "ACL not found",
        ),
        (json!({"command": "setDefaultACLAccess"}), "Missing/invalid actions array"),
    ] {
        let mut directory = small();
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = (folder.path().join("before"), folder.path().join("after"));
        directory.write(&before).unwrap();

        assert_eq!(ask(&mut directory, command.clone()), error, "{command}");

        directory.write(&after).unwrap();
        assert_eq!(std::fs::read(before).unwrap(), std::fs::read(after).unwrap(), "{command}");
    }
}

#[test]
fn what_there_is_can_be_asked_for() {
    let mut directory = small();
    let ann = json!({"username": "ann", "clientid": "cid", "textname": "tn", "textdescription": "td",
        "roles": [], "groups": [{"groupname": "g", "priority": 4}], "connections": [{"address": "127.0.0.1"}]});
    let group = json!({"groupname": "g", "clients": [{"username": "ann"}],
        "roles": [{"rolename": "r", "priority": 2}]});
    let role = json!({"rolename": "r", "textname": "tn", "allowwildcardsubs": true, "acls": [
        {"acltype": "publishClientSend", "topic": "a/#", "priority": 3, "allow": true},
        {"acltype": "subscribeLiteral", "topic": "a/#", "priority": 0, "allow": false}]});
    for (command, data) in [
        (json!({"command": "getClient", "username": "ann"}), json!({ "client": ann })),
        (json!({"command": "getGroup", "groupname": "g"}), json!({ "group": group })),
        (json!({"command": "getRole", "rolename": "r"}), json!({ "role": role })),
        (json!({"command": "listClients"}), json!({"totalCount": 2, "clients": ["ann", "bob"]})),
        (
            json!({"command": "listClients", "offset": 1, "count": 5}),
            json!({"totalCount": 2, "clients": ["bob"]}),
        ),
        (
            json!({"command": "listClients", "verbose": true, "count": 1}),
            json!({"totalCount": 2, "clients": [ann]}),
        ),
        (
            json!({"command": "listClients", "verbose": 5, "count": "x", "offset": -3}),
            json!({"totalCount": 2, "clients": ["ann", "bob"]}),
        ),
        (json!({"command": "listGroups", "verbose": true}), json!({"totalCount": 1, "groups": [group]})),
        (json!({"command": "listRoles"}), json!({"totalCount": 1, "roles": ["r"]})),
        (json!({"command": "listRoles", "verbose": true}), json!({"totalCount": 1, "roles": [role]})),
        (json!({"command": "getAnonymousGroup"}), json!({"group": {"groupname": ""}})),
        (
            json!({"command": "getDefaultACLAccess"}),
            json!({"acls": [
                {"acltype": "publishClientSend", "allow": false},
                {"acltype": "publishClientReceive", "allow": false},
                {"acltype": "subscribe", "allow": false},
                {"acltype": "unsubscribe", "allow": false}]}),
        ),
        (
            json!({"command": "getDetails"}),
            json!({"clientCount": 2, "groupCount": 1, "roleCount": 1, "changeIndex": 4}),
        ),
    ] {
        assert_eq!(ask(&mut directory, command.clone()), data, "{command}");
    }
}

#[test]
fn each_command_changes_what_it_says() {
    for (command, question, pointer, expected) in [
        (
            json!({"command": "disableClient", "username": "ann"}),
            json!({"command": "getClient", "username": "ann"}),
            "/client/disabled",
            json!(true),
        ),
        (
            json!({"command": "setClientId", "username": "ann", "clientid": "new"}),
            json!({"command": "getClient", "username": "ann"}),
            "/client/clientid",
            json!("new"),
        ),
        (
            json!({"command": "setClientId", "username": "ann"}),
            json!({"command": "getClient", "username": "ann"}),
            "/client/clientid",
            Value::Null,
        ),
        (
            json!({"command": "modifyClient", "username": "ann", "textname": "new", "roles": [{"rolename": "r"}]}),
            json!({"command": "getClient", "username": "ann"}),
            "/client/roles",
            json!([{"rolename": "r"}]),
        ),
        (
            json!({"command": "modifyClient", "username": "ann", "groups": []}),
            json!({"command": "getGroup", "groupname": "g"}),
            "/group/clients",
            json!([]),
        ),
        (
            json!({"command": "addClientRole", "username": "ann", "rolename": "r", "priority": 2_000_000}),
            json!({"command": "getClient", "username": "ann"}),
            "/client/roles",
            json!([{"rolename": "r", "priority": 100_000}]),
        ),
        (
            json!({"command": "removeClientRole", "username": "bob", "rolename": "r"}),
            json!({"command": "getClient", "username": "bob"}),
            "/client/roles",
            json!([]),
        ),
        (
            json!({"command": "deleteGroup", "groupname": "g"}),
            json!({"command": "getClient", "username": "ann"}),
            "/client/groups",
            json!([]),
        ),
        (
            json!({"command": "modifyGroup", "groupname": "g", "textname": "new", "clients": [{"username": "bob"}]}),
            json!({"command": "getGroup", "groupname": "g"}),
            "/group/clients",
            json!([{"username": "bob"}]),
        ),
        (
            json!({"command": "addGroupClient", "groupname": "g", "username": "bob"}),
            json!({"command": "getClient", "username": "bob"}),
            "/client/groups",
            json!([{"groupname": "g"}]),
        ),
        (
            json!({"command": "removeGroupClient", "groupname": "g", "username": "ann"}),
            json!({"command": "getClient", "username": "ann"}),
            "/client/groups",
            json!([]),
        ),
        (
            json!({"command": "removeGroupRole", "groupname": "g", "rolename": "r"}),
            json!({"command": "getGroup", "groupname": "g"}),
            "/group/roles",
            json!([]),
        ),
        (
            json!({"command": "setAnonymousGroup", "groupname": "g"}),
            json!({"command": "getAnonymousGroup"}),
            "/group/groupname",
            json!("g"),
        ),
        (
            json!({"command": "deleteRole", "rolename": "r"}),
            json!({"command": "getGroup", "groupname": "g"}),
            "/group/roles",
            json!([]),
        ),
        (
            json!({"command": "modifyRole", "rolename": "r", "allowwildcardsubs": false, "acls": []}),
            json!({"command": "getRole", "rolename": "r"}),
            "/role",
            json!({"rolename": "r", "textname": "tn", "allowwildcardsubs": false, "acls": []}),
        ),
        (
            json!({"command": "addRoleACL", "rolename": "r", "acltype": "publishClientSend", "topic": "b",
                "priority": 9, "allow": true}),
            json!({"command": "getRole", "rolename": "r"}),
            "/role/acls/0/topic",
            json!("b"),
        ),
        (
            json!({"command": "removeRoleACL", "rolename": "r", "acltype": "publishClientSend", "topic": "a/#"}),
            json!({"command": "getRole", "rolename": "r"}),
            "/role/acls/0/acltype",
            json!("subscribeLiteral"),
        ),
        (
            json!({"command": "setDefaultACLAccess", "acls": [
                {"acltype": "subscribe", "allow": true}, {"acltype": "zz", "allow": true}, {}]}),
            json!({"command": "getDefaultACLAccess"}),
            "/acls/2/allow",
            json!(true),
        ),
    ] {
        let mut directory = small();

        assert_eq!(ask(&mut directory, command.clone()), Value::Null, "{command}");

        let answer = ask(&mut directory, question);
        assert_eq!(*answer.pointer(pointer).unwrap_or(&Value::Null), expected, "{command}: {answer}");
        // What was changed is what is written and read again.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ds.json");
        directory.write(&path).unwrap();
        let again = folder.path().join("again.json");
        Directory::read(&path).unwrap().write(&again).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), std::fs::read(again).unwrap(), "{command}");
    }
    let mut directory = small();
    ask(&mut directory, json!({"command": "setAnonymousGroup", "groupname": "g"}));
    assert_eq!(
        ask(&mut directory, json!({"command": "deleteGroup", "groupname": "g"})),
        "Deleting the anonymous group is forbidden"
    );
}

/// Returns whose connections end when a command is carried out; `*` stands for clients without a user name.
fn unseated(command: &Value) -> BTreeSet<String> {
    let mut directory = small();
    ask(&mut directory, json!({"command": "setAnonymousGroup", "groupname": "g"}));
    let seats = |directory: &Directory| {
        let roles = directory.roles();
        let mut seats: Vec<(String, u64)> =
            roles.users.iter().map(|(name, holder)| (name.to_string(), holder.seat)).collect();
        seats.push(("*".to_owned(), roles.anonymous.seat));
        seats
    };
    let before = seats(&directory);
    let answer = ask(&mut directory, command.clone());
    assert_eq!(answer, Value::Null, "{command}");
    let after = seats(&directory);
    before.into_iter().filter(|seat| !after.contains(seat)).map(|(name, _)| name).collect()
}

#[test]
fn whoever_may_do_something_else_than_before_has_to_connect_anew() {
    // [B07]
    for (command, expected) in [
        (json!({"command": "deleteClient", "username": "ann"}), &["ann"][..]),
        (json!({"command": "disableClient", "username": "ann"}), &["ann"]),
        (json!({"command": "enableClient", "username": "ann"}), &[]),
        (json!({"command": "setClientId", "username": "ann", "clientid": "x"}), &["ann"]),
        (json!({"command": "setClientPassword", "username": "ann", "password": "x"}), &["ann"]),
        (json!({"command": "modifyClient", "username": "ann"}), &["ann"]),
        (json!({"command": "addClientRole", "username": "ann", "rolename": "r"}), &["ann"]),
        (json!({"command": "removeClientRole", "username": "bob", "rolename": "r"}), &["bob"]),
        (json!({"command": "addGroupClient", "groupname": "g", "username": "bob"}), &["bob"]),
        (json!({"command": "removeGroupClient", "groupname": "g", "username": "ann"}), &["ann"]),
        (json!({"command": "removeGroupRole", "groupname": "g", "rolename": "r"}), &["*", "ann"]),
        (
            json!({"command": "modifyGroup", "groupname": "g", "clients": [{"username": "bob"}]}),
            &["*", "ann", "bob"],
        ),
        (json!({"command": "deleteRole", "rolename": "r"}), &["*", "ann", "bob"]),
        (json!({"command": "modifyRole", "rolename": "r", "textname": "x"}), &[]),
        (json!({"command": "modifyRole", "rolename": "r", "allowwildcardsubs": true}), &[]),
        (json!({"command": "modifyRole", "rolename": "r", "acls": []}), &["*", "ann", "bob"]),
        (
            json!({"command": "addRoleACL", "rolename": "r", "acltype": "publishClientSend", "topic": "b"}),
            &["*", "ann", "bob"],
        ),
        (json!({"command": "setAnonymousGroup", "groupname": "g"}), &["*"]),
        (json!({"command": "createClient", "username": "new"}), &[]),
        (json!({"command": "createGroup", "groupname": "new"}), &[]),
        (json!({"command": "createRole", "rolename": "new"}), &[]),
    ] {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();

        assert_eq!(unseated(&command), expected, "{command}");
    }
}

#[test]
fn a_file_that_is_read_again_unseats_only_those_it_says_something_else_of() {
    let before = small();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ds.json");
    let seats = |directory: &Directory| {
        let mut seats: Vec<u64> = directory.roles().users.values().map(|holder| holder.seat).collect();
        seats.sort_unstable();
        seats
    };
    before.write(&path).unwrap();
    let mut same = Directory::read(&path).unwrap();
    same.keep_seats(&before);
    assert_eq!(seats(&same), seats(&before));

    let mut changed = before.clone();
    ask(&mut changed, json!({"command": "removeClientRole", "username": "bob", "rolename": "r"}));
    changed.write(&path).unwrap();
    let mut other = Directory::read(&path).unwrap();
    other.keep_seats(&before);

    let (before, after) = (before.roles(), other.roles());
    assert_eq!(before.users["ann"].seat, after.users["ann"].seat);
    assert_ne!(before.users["bob"].seat, after.users["bob"].seat);
}

#[test]
fn answers_to_one_message_are_bounded_and_what_was_not_answered_was_not_done() {
    let mut directory = Directory::default();
    let description = "x".repeat(60_000);
    for number in 0..100 {
        let name = format!("r{number}");
        let role = json!({"command": "createRole", "rolename": name, "textdescription": description});
        assert_eq!(ask(&mut directory, role), Value::Null);
    }
    let mut commands = vec![json!({"command": "listRoles", "verbose": true}); 10];
    commands.push(json!({"command": "deleteRole", "rolename": "r0"}));

    let answers = send(&mut directory, &commands.into());

    assert!(answers.to_string().len() < 20 * 1024 * 1024);
    assert!(answers[0]["error"].is_null());
    assert_eq!(
        (&answers[9]["error"], &answers[10]["error"]),
        (&json!("Internal error"), &json!("Internal error"))
    );
    assert!(directory.roles().users.is_empty());
    assert_eq!(ask(&mut directory, json!({"command": "listRoles", "count": 1}))["totalCount"], 100);
}

#[test]
fn commands_that_are_carried_out_once_more_make_no_hash_again() {
    let payload = json!({"commands": [
        {"command": "createClient", "username": "cy", "password": "one"},
        {"command": "createClient", "username": "dan", "password": "one"},
    ]});
    let payload = payload.to_string();
    let hashes = Hashes::default();
    let passwords = || {
        let mut directory = Directory::default();
        carry_out(&mut directory, payload.as_bytes(), &hashes, &|_| Vec::new());
        ["cy", "dan"].map(|name| directory.clients[name].password.clone().unwrap())
    };

    let (first, again) = (passwords(), passwords());

    assert!(first.iter().zip(&again).all(|(first, again)| std::sync::Arc::ptr_eq(first, again)));
    assert_ne!(first[0].to_string(), first[1].to_string(), "each client has a hash of its own");
}
