//! The broker in Mosquitto's place: started from a `mosquitto.conf`, it answers with the same bytes, keeps state where that one
//! keeps it, and ends with the same status.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use veilmq_tests::drop_in::{Place, Running, connect, heard, v3, v5};
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tools::{built_program, require_tool, run};
use veilmq_tests::waiting::{wait_for_text, wait_until};
use veilmq_tests::wire::packet;

/// A CONNECT with a user name and no password.
fn named(version: u8, client_id: &str, user: &str) -> Vec<u8> {
    let mut bytes = connect(version, client_id, true, 60, &[]);
    // Behind the fixed header and the name and level of the protocol.
    bytes[9] |= 0x80;
    bytes.extend(u16::try_from(user.len()).unwrap().to_be_bytes());
    bytes.extend(user.as_bytes());
    bytes[1] += u8::try_from(user.len()).unwrap() + 2;
    bytes
}

/// A named pipe among the files that are included makes the reload last as long as the test wants.
#[test]
fn who_connects_while_the_file_is_read_again_is_served_by_what_it_says() {
    let place = Place::new();
    let folder = place.path("conf.d");
    fs::create_dir(&folder).unwrap();
    let text = format!("allow_anonymous true\ninclude_dir {}\n", folder.display());
    let broker = place.start(&built_program("veilmq"), &text);
    let late = folder.join("late.conf");
    assert!(Command::new("mkfifo").arg(&late).status().unwrap().success());

    broker.signal(Signal::SIGHUP);
    let log = place.path("mosquitto.log");
    wait_for_text(&log, "Reloading config.");
    let mut client = TcpStream::connect(broker.address).unwrap();
    client.write_all(&v3("c", true)).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(client.read(&mut [0]).is_err(), "nobody is served meanwhile");
    fs::write(&late, "allow_anonymous false\n").unwrap();

    assert_eq!(heard(&mut client), "20020005closed");
}

/// Two brokers with the same file give the same answers to the same packets.
#[test]
fn the_same_file_gives_the_same_answers_as_mosquitto() {
    let Some(mosquitto) = require_tool("mosquitto") else { return };
    let anonymous = "allow_anonymous true\n";
    // What 2.0 does not bound unless it is told to, 2.1 does.
    let bounded = "allow_anonymous true\nmax_packet_size 2000000\n";
    let too_large = packet(0x30, &[0; 300]);
    let cases: Vec<(String, Vec<Vec<Vec<u8>>>)> = vec![
        (
            bounded.into(),
            vec![
                vec![v5("a")],
                vec![v3("a", true), packet(0xc0, &[])],
                vec![v3("", true)],
                vec![v3("", false)],
                vec![connect(6, "a", true, 60, &[])],
                vec![v5("a"), packet(0x82, b"\0\x01\0\0\x01a\x02\0\x01b\0")],
                vec![
                    v5("a"),
                    packet(0x32, b"\0\x01t\0\x07\0x"),
                    packet(0x82, b"\0\x02\0\0\x01#\x01"),
                    packet(0x30, b"\0\x01t\0x"),
                ],
                vec![v5("a"), packet(0x34, b"\0\x01t\0\x07\0x"), packet(0x62, b"\0\x07")],
                vec![v5("a"), packet(0x82, b"\0\x01\0\0\x04a/#b\0")],
            ],
        ),
        (format!("{bounded}max_keepalive 100\n"), vec![vec![v5("a")]]),
        (
            format!(
                "{anonymous}max_keepalive 60\nmax_inflight_messages 7\nmax_packet_size 200\nmaximum_qos 1\n\
                 retain_available false\nmax_topic_alias 4\n"
            ),
            vec![
                vec![v5("a")],
                vec![v5("a"), packet(0x31, b"\0\x01t\0x")],
                vec![v3("a", true), packet(0x31, b"\0\x01tx")],
                vec![v5("a"), packet(0x34, b"\0\x01t\0\x01\0x")],
                vec![v3("a", true), packet(0x34, b"\0\x01t\0\x01x")],
                vec![v5("a"), too_large.clone()],
                vec![v3("a", true), too_large],
            ],
        ),
        (format!("{bounded}max_inflight_messages 0\nmax_topic_alias 0\n"), vec![vec![v5("a")]]),
        ("max_packet_size 2000000\n".into(), vec![vec![v5("a")], vec![v3("a", true)]]),
        (
            format!("{bounded}upgrade_outgoing_qos true\n"),
            vec![vec![v3("a", true), packet(0x82, b"\0\x01\0\x01t\x01"), packet(0x30, b"\0\x01tx")]],
        ),
        (
            format!("{bounded}queue_qos0_messages true\n"),
            vec![
                vec![v3("away", false), packet(0x82, b"\0\x01\0\x01t\x01")],
                vec![v3("b", true), packet(0x30, b"\0\x01tx"), packet(0xc0, &[])],
                vec![v3("away", false)],
            ],
        ),
        (
            format!("{bounded}message_size_limit 5\n"),
            vec![
                vec![
                    v3("a", true),
                    packet(0x82, b"\0\x01\0\x01t\0"),
                    packet(0x30, b"\0\x01t123456"),
                    packet(0x30, b"\0\x01t12345"),
                ],
                vec![
                    v3("a", true),
                    packet(0x32, b"\0\x01t\0\x07123456"),
                    packet(0x34, b"\0\x01t\0\x08123456"),
                ],
            ],
        ),
        (
            "per_listener_settings true\nmax_packet_size 2000000\nallow_anonymous true\n".into(),
            vec![vec![v5("a")]],
        ),
        (
            format!("{bounded}allow_zero_length_clientid false\n"),
            vec![vec![v5("")], vec![v3("", true)], vec![v3("", false)], vec![v3("a", true)]],
        ),
        (
            format!("{bounded}use_username_as_clientid true\n"),
            vec![vec![v5("a")], vec![v3("a", true)], vec![named(5, "a", "ann")], vec![named(4, "a", "ann")]],
        ),
        (
            format!("{bounded}clientid_prefixes dev-\n"),
            vec![vec![v5("a")], vec![v3("a", true)], vec![v5("dev-a")]],
        ),
        (format!("{bounded}max_qos 0\nmax_topic_alias 0\n"), vec![vec![v5("a")]]),
    ];
    for (text, conversations) in cases {
        let answers: Vec<Vec<Vec<String>>> = [mosquitto.clone(), built_program("veilmq")]
            .iter()
            .map(|program| {
                let place = Place::new();
                let running = place.start(program, &text);
                let answers = conversations.iter().map(|packets| running.answers(packets)).collect();
                assert_eq!(running.terminate().code(), Some(0), "{}", program.display());
                answers
            })
            .collect();

        assert_eq!(answers[0], answers[1], "Mosquitto's answers and ours, with\n{text}");
        assert!(answers[0].iter().flatten().any(|answer| answer.starts_with("20")), "somebody was answered");
    }
}

/// What the manual of 2.1 says and 2.0 does not do yet.
#[test]
fn what_came_with_2_1_is_answered_as_its_manual_says() {
    let place = Place::new();
    let text = "allow_anonymous true\nmessage_size_limit 5\nmax_keepalive 100\n";
    let running = place.start(&built_program("veilmq"), text);
    let answer = |keep_alive| running.answers(&[connect(4, "a", true, keep_alive, &[])]).remove(0);

    let keep_alives = [answer(100), answer(101), answer(0)];
    let shortened = [0, 101].map(|seconds| running.answers(&[connect(5, "a", true, seconds, &[])]).remove(0));
    let large = running.answers(&[
        v5("a"),
        packet(0x32, b"\0\x01t\0\x07\x00large!"),
        packet(0x34, b"\0\x01t\0\x08\x00large!"),
    ]);

    assert_eq!(keep_alives, ["20020000", "20020002closed", "20020002closed"], "identifier rejected");
    let told = "201100000e13006422000a27001e8480210014";
    assert_eq!(shortened, [told, told], "the properties are in another order than in 2.0");
    assert_eq!(large[1..], ["4003000783", "5003000883"], "implementation specific error");
}

#[test]
fn the_log_is_heard_on_its_topics_once_and_not_about_itself() {
    let place = Place::new();
    let running =
        place.start(&built_program("veilmq"), "allow_anonymous true\nlog_dest topic\nlog_type all\n");
    let mut listening = TcpStream::connect(running.address).unwrap();
    listening.write_all(&v3("listening", true)).unwrap();
    assert_eq!(heard(&mut listening), "20020000");
    let mut subscribe = b"\0\x01\0\x11$SYS/broker/log/#\0".to_vec();
    listening.write_all(&packet(0x82, &subscribe)).unwrap();
    let answer = heard(&mut listening);
    assert!(answer.starts_with("9003000100"), "{answer}");

    assert_eq!(running.answers(&[v3("somebody", true)]), ["20020000"]);

    let hexadecimal = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines = heard(&mut listening);
    assert!(lines.starts_with("30") && lines.contains(&hexadecimal("$SYS/broker/log/N")), "{lines}");
    assert_eq!(lines.matches(&hexadecimal(" connected")).count(), 1, "{lines}");
    assert!(lines.contains(&hexadecimal("somebody")), "{lines}");
    assert_eq!(heard(&mut listening), "", "nothing is said of what was said");
    // What was said is not retained.
    let mut late = TcpStream::connect(running.address).unwrap();
    subscribe[..2].copy_from_slice(b"\0\x02");
    late.write_all(&[v3("late", true), packet(0x82, &subscribe)].concat()).unwrap();
    assert!(!heard(&mut late).contains(&hexadecimal("somebody")));
}

#[test]
fn a_reload_changes_the_limit_on_messages() {
    let place = Place::new();
    let running = place.start(&built_program("veilmq"), "allow_anonymous true\n");
    let answer = || running.answers(&[v5("a"), packet(0x32, b"\0\x01t\0\x07\x00large!")]).remove(1);
    assert_eq!(answer(), "4003000710");

    let _ = place.write("allow_anonymous true\nmessage_size_limit 5\n");
    running.signal(Signal::SIGHUP);

    wait_until("the limit is in force", || answer() == "4003000783");
}

#[test]
fn an_assigned_client_identifier_looks_like_mosquittos() {
    let place = Place::new();
    let running = place.start(&built_program("veilmq"), "allow_anonymous true\n");

    let answer = running.answers(&[v5("")]).remove(0);

    let bytes: Vec<u8> =
        (0..answer.len()).step_by(2).map(|at| u8::from_str_radix(&answer[at..at + 2], 16).unwrap()).collect();
    // Behind the Topic Alias Maximum: the property, the length of 41, and `auto-` with a UUID.
    assert_eq!(bytes[5..15], *b"\x22\0\x0a\x12\0\x29auto");
    let shape: String = bytes[11..52]
        .iter()
        .map(
            |byte| {
                if byte.is_ascii_digit() || (b'A'..=b'F').contains(byte) { 'X' } else { char::from(*byte) }
            },
        )
        .collect();
    assert_eq!(shape, "auto-XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX");
}

#[test]
fn what_is_wrong_with_a_file_is_named_with_status_3() {
    let place = Place::new();
    let conf = place.path("bad.conf");
    fs::write(&conf, "listener 1\nfoo bar\n").unwrap();
    let renamed = place.path("mosquitto");
    std::os::unix::fs::symlink(built_program("veilmq"), &renamed).unwrap();

    let absent = place.path("absent.conf");
    for (program, arguments, expected) in [
        (built_program("veilmq"), vec!["-c", conf.to_str().unwrap()], "bad.conf:2: unknown option foo"),
        (renamed.clone(), vec!["-v", "-c", conf.to_str().unwrap()], "bad.conf:2: unknown option foo"),
        (built_program("veilmq"), vec!["check-config", "-c", conf.to_str().unwrap()], "unknown option foo"),
        (built_program("veilmq"), vec!["--test-config", "-c", conf.to_str().unwrap()], "unknown option foo"),
        (built_program("veilmq"), vec!["import", conf.to_str().unwrap()], "unknown option foo"),
        (renamed.clone(), vec!["-c", absent.to_str().unwrap()], "absent.conf"),
        (renamed, vec!["-x"], "-x"),
    ] {
        let output = run(Command::new(&program).args(&arguments), 30);

        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}

#[test]
fn without_a_file_two_of_them_serve_this_machine_side_by_side_under_the_name_of_mosquitto() {
    let place = Place::new();
    let renamed = place.path("mosquitto");
    std::os::unix::fs::symlink(built_program("veilmq"), &renamed).unwrap();
    let second = ReservedPort::new();
    let start = |port: &ReservedPort| {
        let mut command = Command::new(&renamed);
        command.args(["-v", "-p", &port.number().to_string()]).env("HOME", place.directory.path());
        Running::of(command, port.number(), &place.path(&format!("{}.log", port.number())))
    };

    let brokers = [start(&place.port), start(&second)];

    for broker in brokers {
        assert_eq!(broker.answers(&[v5("a")]), ["200e00000b22000a27001e8480210014"], "Mosquitto's bounds");
        assert_eq!(broker.terminate().code(), Some(0));
    }
    assert!(!place.path(".local").exists(), "nothing is kept");
}

#[test]
fn a_session_is_there_after_a_restart_until_the_database_is_removed() {
    let place = Place::new();
    let start = || place.start(&built_program("veilmq"), &place.persistence());
    let comes_back = |running: &Running| running.answers(&[v3("durable", false)]).remove(0) == "20020100";

    let first = start();
    let was_there = comes_back(&first);
    first.terminate();
    let second = start();
    let is_there = comes_back(&second);
    second.terminate();
    fs::remove_file(place.path("mosquitto.db")).unwrap();
    let third = start();
    let is_there_still = comes_back(&third);

    assert_eq!((was_there, is_there, is_there_still), (false, true, false));
    let state = fs::read_dir(place.path("mosquitto.db.veilmq")).unwrap();
    let names = state.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("removed-")).count(), 1, "what was stored is set aside");
    assert!(place.path("mosquitto.db").exists());
}

#[test]
fn a_database_that_mosquitto_wrote_is_left_alone() {
    let Some(mosquitto) = require_tool("mosquitto") else { return };
    let place = Place::new();
    let theirs = place.start(&mosquitto, &place.persistence());
    drop(theirs.answers(&[v3("durable", false)]));
    theirs.terminate();
    let before = fs::read(place.path("mosquitto.db")).unwrap();

    let ours = place.start(&built_program("veilmq"), &place.persistence());
    drop(ours.answers(&[v3("durable", false)]));
    ours.terminate();

    assert_eq!(fs::read(place.path("mosquitto.db")).unwrap(), before);
    let back = place.start(&mosquitto, &place.persistence());
    assert_eq!(back.answers(&[v3("durable", false)]), ["20020100"], "one may go back to Mosquitto");
}

#[test]
fn a_listener_takes_no_more_connections_than_it_may() {
    let place = Place::new();
    // The look whether it listens is a connection too, which is given back.
    let running = place.start(&built_program("veilmq"), "allow_anonymous true\nmax_connections 1\n");
    let deadline = Instant::now() + Duration::from_secs(20);
    let first = loop {
        let mut socket = TcpStream::connect(running.address).unwrap();
        socket.write_all(&v3("first", true)).unwrap();
        if heard(&mut socket) == "20020000" {
            break socket;
        }
        assert!(Instant::now() < deadline, "nobody is let in");
    };

    assert_eq!(running.answers(&[v3("second", true)]), ["closed"]);
    drop(first);
}

#[test]
fn log_and_number_of_the_process_go_where_the_file_says() {
    let place = Place::new();
    let (log, number) = (place.path("broker.log"), place.path("broker.pid"));
    let text = format!(
        "allow_anonymous true\nlog_dest file {}\nlog_timestamp_format at %Y\nconnection_messages false\npid_file {}\n",
        log.display(),
        number.display()
    );
    let running = place.start(&built_program("veilmq"), &text);
    drop(running.answers(&[v3("unheard", true)]));
    let process = running.child.id().to_string();

    let written = fs::read_to_string(&number).unwrap();
    fs::rename(&log, place.path("broker.log.1")).unwrap();
    running.signal(Signal::SIGHUP);
    wait_until("there is a log again", || log.exists());
    running.terminate();

    assert_eq!(written, process);
    assert!(!number.exists());
    let before = fs::read_to_string(place.path("broker.log.1")).unwrap();
    assert!(
        before.lines().all(|line| line.starts_with("at 2")) && before.contains("2.1.2 starting"),
        "{before}"
    );
    assert!(!before.contains("unheard (p2"), "{before}");
    assert!(fs::read_to_string(&log).unwrap().contains("SIGTERM"));
    assert_eq!(
        fs::read_to_string(place.path("mosquitto.log")).unwrap(),
        "",
        "nothing goes to standard error"
    );
}

#[test]
fn without_persistence_nothing_is_written() {
    let place = Place::new();
    let running = place.start(&built_program("veilmq"), "allow_anonymous true\n");
    drop(running.answers(&[v3("durable", false)]));
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
        running.signal(signal);
    }
    drop(running.answers(&[v3("durable", false)]));

    assert_eq!(running.terminate().code(), Some(0), "the signals of Mosquitto do not end it");
    let mut names: Vec<_> =
        fs::read_dir(place.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["mosquitto.conf", "mosquitto.log"]);
}

/// What the compose files of Mosquitto's image say: no command at all, or its command, and a health check of the image.
#[test]
fn the_image_of_mosquitto_can_be_replaced_with_the_command_and_the_file_that_are_there() {
    let place = Place::new();
    let conf = |port| place.write(&format!("listener {port} 127.0.0.1\nallow_anonymous true\n"));
    let veilmq = built_program("veilmq");
    let absent = place.path("absent.conf");
    for with_command in [true, false] {
        let port = ReservedPort::new().address().port();
        let conf = conf(port);
        let mut command = Command::new(&veilmq);
        match with_command {
            true => command.args(["/usr/sbin/mosquitto", "-c"]).arg(&conf),
            false => command.env("VEILMQ_CONFIG", format!("{}:{}", absent.display(), conf.display())),
        };
        let running = Running::of(command, port, &place.path("log"));

        let health = run(Command::new(&veilmq).args(["health", "-c"]).arg(&conf), 30);

        assert_eq!(running.answers(&[v3("a", true)]), ["20020000"], "with a command: {with_command}");
        let told = String::from_utf8_lossy(&health.stdout).into_owned();
        assert!(health.status.success() && told.contains("\"status\":\"ready\""), "{told}");
        running.terminate();
        let gone = run(Command::new(&veilmq).args(["health", "-c"]).arg(&conf), 30);
        assert_eq!(gone.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&gone.stderr).contains("no broker with this configuration runs here")
        );
    }
    let none = run(Command::new(&veilmq).arg("show-config").env("VEILMQ_CONFIG", &absent), 30);
    assert!(String::from_utf8_lossy(&none.stderr).contains("VEILMQ_CONFIG: none of "));
}

#[test]
fn a_configuration_that_comes_through_a_pipe_is_read_once_and_whole() {
    for (text, status) in [("listener 1883\nbogus_option x\n", 3), ("listener 1883\n", 0)] {
        let mut child = Command::new(built_program("veilmq"))
            .args(["check-config", "-c", "/dev/stdin"])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();

        let checked = child.wait_with_output().unwrap();

        let told = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!(checked.status.code(), Some(status), "{text}: {told}");
        assert!(status == 0 || told.contains("/dev/stdin:2: unknown option bogus_option"), "{told}");
    }
}
