//! MQTT over TLS on the real broker: clients that are not ours, certificates of clients, files that change, and abuse.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::{Authority, Certificate};
use veilmq_tests::message::Message;
use veilmq_tests::mosquitto::Mosquitto;
use veilmq_tests::puppet::{Carrier, Client, Connect, Library, Version};
use veilmq_tests::tls::{TlsClient, TlsStream};
use veilmq_tests::tools::{built_program, require_tool, run};
use veilmq_tests::waiting::wait_until;
use veilmq_tests::websocket::request;
use veilmq_tests::wire::packet;

const PATIENCE: Duration = Duration::from_secs(15);
const PINGREQ: &[u8] = &[0xc0, 0];
const PINGRESP: &[u8] = &[0xd0, 0];
/// CONNACK of MQTT 3.1.1: accepted, no session present.
const ACCEPTED: &[u8] = &[0x20, 2, 0, 0];

/// Starts a broker with a listener that shows `certificate`; `lines` come first, `more` belongs to the TLS of the listener.
fn start(certificate: &Certificate, lines: &str, more: &str) -> Broker {
    Broker::start_configured(|address| {
        format!(
            "shards.count = 2\n{lines}\n[[listeners]]\naddress = \"{address}\"\n[listeners.tls]\n{more}\n{}",
            certificate.on_listener()
        )
    })
}

/// What a listener has to say to take clients of this authority.
fn asks_for_certificates(authority: &Authority, identity: &str) -> String {
    format!(
        "client_certificate = \"required\"\nclient_ca_file = {:?}\ncrl_file = {:?}\nidentity = \"{identity}\"",
        authority.certificate(),
        authority.revocations()
    )
}

/// A CONNECT of MQTT 3.1.1 with a clean session.
fn connect_packet(client_id: &str) -> Vec<u8> {
    let length = u8::try_from(client_id.len()).unwrap();
    packet(0x10, &[b"\0\x04MQTT\x04\x02\0\x3c\0".as_slice(), &[length], client_id.as_bytes()].concat())
}

/// Connects and waits for CONNACK.
fn connected(client: &TlsClient, broker: &Broker, client_id: &str) -> TlsStream {
    let mut stream = client.open(broker.address()).expect("a TLS connection");
    stream.write_all(&connect_packet(client_id)).unwrap();
    assert_eq!(next(&mut stream, 4), ACCEPTED);
    stream
}

fn next(stream: &mut TlsStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    stream.read_exact(&mut read).expect("bytes arrive");
    read
}

fn is_served(stream: &mut TlsStream) -> bool {
    let mut answer = [0; 2];
    stream.write_all(PINGREQ).is_ok() && stream.read_exact(&mut answer).is_ok() && answer == PINGRESP
}

fn handshakes(broker: &Broker, result: &str) -> Option<f64> {
    broker.metric(&format!("veilmq_tls_handshakes_total{{result=\"{result}\"}}"))
}

#[test]
fn clients_of_mosquitto_meet_over_tls() {
    let authority = Authority::new();
    let broker = start(&authority.issue_for_this_machine(), "access.anonymous = true", "");
    let ca = authority.certificate().display().to_string();
    for version in [Version::V311, Version::V5] {
        let Some(clients) = Mosquitto::new(version, broker.port()) else { return };
        for protocol in ["tlsv1.2", "tlsv1.3"] {
            let tls = ["--cafile", &ca, "--tls-version", protocol];

            let subscriber = clients.subscribe(&[&tls[..], &["-t", "a/#", "-q", "2"]].concat());
            clients.publish(&[&tls[..], &["-t", "a/b", "-q", "2", "-m", protocol]].concat());

            assert_eq!(subscriber.message(), format!("a/b q2 r0 {protocol}"));
        }
    }
}

#[test]
fn clients_that_are_not_ours_meet_over_tls_and_secure_websocket() {
    let authority = Authority::new();
    let certificate = authority.issue_for_this_machine();
    let ca = authority.certificate();
    for (protocol, carrier) in
        [("mqtt", Carrier::Tls(ca.clone())), ("websocket", Carrier::SecureWebSocket(ca))]
    {
        let broker = Broker::start_configured(|address| {
            format!(
                "shards.count = 2\naccess.anonymous = true\n[[listeners]]\naddress = \"{address}\"\n\
                 protocol = \"{protocol}\"\n{}",
                certificate.on_listener()
            )
        });
        for (library, version) in [
            (Library::MqttJs, Version::V5),
            (Library::MqttJs, Version::V311),
            (Library::Paho, Version::V5),
            (Library::Paho, Version::V311),
        ] {
            let client = || Client::carried(library, version, broker.port(), &carrier);
            let (Some(mut reader), Some(mut writer)) = (client(), client()) else { return };
            reader.connect(Connect::clean("reader"));
            writer.connect(Connect::clean("writer"));

            for (qos, size) in [(0, 10), (1, 1_000), (2, 300_000)] {
                assert_eq!(reader.subscribe("tls/#", qos), qos);
                let message = Message::new("tls/a", &vec![qos; size], qos);
                writer.publish(message.clone());
                assert_eq!(reader.receive(), message, "{library:?} {version:?} {protocol}");
            }
            reader.disconnect();
            writer.disconnect();
        }
    }
}

#[test]
fn openssl_gets_tls_1_2_and_1_3_and_nothing_older() {
    if require_tool("openssl").is_none() {
        return;
    }
    let authority = Authority::new();
    let broker = start(&authority.issue_for_this_machine(), "access.anonymous = true", "");
    for (flag, expected) in
        [("-tls1_3", Some("TLSv1.3")), ("-tls1_2", Some("TLSv1.2")), ("-tls1_1", None), ("-tls1", None)]
    {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-brief", "-verify_return_error", "-verify_hostname", "localhost", flag]);
        // Without level 0 it would not even try the old versions.
        command.args(["-cipher", "ALL:@SECLEVEL=0", "-connect"]).arg(broker.address().to_string());
        command.arg("-CAfile").arg(authority.certificate()).stdin(Stdio::null());

        let output = run(&mut command, 30);

        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_as_expected = match expected {
            Some(version) => said.contains(&format!("Protocol version: {version}")),
            None => !said.contains("Protocol version") && said.contains("alert"),
        };
        assert!(is_as_expected, "{flag}: {said}");
    }
    let log = broker.log();
    assert!(log.contains("no version or cipher suite of TLS in common"), "{log}");
}

#[test]
fn a_client_certificate_is_the_user_name_and_needs_no_password() {
    let authority = Authority::new();
    let alice = authority.issue("alice", 7, &[]);
    let own = authority.issue_for_this_machine();
    for (identity, expected) in [("cn", "user=\"alice\""), ("subject", "user=\"O=Example,CN=alice\"")] {
        let broker = start(&own, "", &asks_for_certificates(&authority, identity));

        let mut stream = connected(&TlsClient::new(&authority, Some(&alice)), &broker, "c");

        assert!(is_served(&mut stream));
        let log = broker.log();
        assert!(log.lines().any(|line| line.contains("connected") && line.contains(expected)), "{log}");
    }
}

#[test]
fn mosquitto_shows_its_certificate_and_is_refused_without() {
    let authority = Authority::new();
    let alice = authority.issue("alice", 7, &[]);
    let broker = start(&authority.issue_for_this_machine(), "", &asks_for_certificates(&authority, "cn"));
    let Some(clients) = Mosquitto::new(Version::V5, broker.port()) else { return };
    let ca = authority.certificate().display().to_string();
    let (certificate, key) = (alice.certificate.display().to_string(), alice.key.display().to_string());
    let shown = ["--cafile", &ca, "--cert", &certificate, "--key", &key];

    let subscriber = clients.subscribe(&[&shown[..], &["-t", "a"]].concat());
    clients.publish(&[&shown[..], &["-t", "a", "-m", "mutual"]].concat());

    assert_eq!(subscriber.message(), "a q0 r0 mutual");
    let stranger = TlsClient::new(&authority, None);
    let refused = stranger.open(broker.address()).and_then(|mut stream| stream.read(&mut [0]));
    assert!(refused.is_err(), "without a certificate there is no connection");
    let why = "no client certificate, and the listener requires one";
    wait_until("the refusal is logged", || broker.log().contains(why));
}

#[test]
fn a_websocket_asks_for_certificates_as_plain_mqtt_does() {
    // [B11]
    let authority = Authority::new();
    let alice = authority.issue("alice", 7, &[]);
    let own = authority.issue_for_this_machine();
    let more = asks_for_certificates(&authority, "cn");
    let broker = Broker::start_configured(|address| {
        format!(
            "[[listeners]]\naddress = \"{address}\"\nprotocol = \"websocket\"\n[listeners.tls]\n{more}\n{}",
            own.on_listener()
        )
    });
    let answer = |shown: Option<&Certificate>| {
        let mut stream = TlsClient::new(&authority, shown).open(broker.address())?;
        stream.write_all(request("mqtt").as_bytes())?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok::<_, std::io::Error>(start)
    };

    assert_eq!(&answer(Some(&alice)).unwrap(), b"HTTP/1.1 101");
    assert!(answer(None).is_err());
}

#[test]
fn a_revoked_client_is_disconnected_and_others_are_not() {
    // [B12]
    let authority = Authority::new();
    let own = authority.issue_for_this_machine();
    let broker = start(&own, "", &asks_for_certificates(&authority, "cn"));
    let clients = ["alice", "bob"].map(|name| {
        let serial = u64::try_from(name.len()).unwrap();
        TlsClient::new(&authority, Some(&authority.issue(name, serial, &[])))
    });
    let [mut alice, mut bob] =
        [0, 1].map(|index: usize| connected(&clients[index], &broker, &format!("c{index}")));
    assert!(is_served(&mut alice) && is_served(&mut bob));
    let next_update =
        format!("veilmq_tls_crl_next_update_timestamp_seconds{{listener=\"{}\"}}", broker.address());
    assert_eq!(broker.metric(&next_update), Some(3_976_214_400.0), "2096-01-01");

    authority.revoke(&[5]);

    wait_until("alice is disconnected", || !is_served(&mut alice));
    assert!(is_served(&mut bob));
    let again = clients[0].open(broker.address()).and_then(|mut stream| stream.read(&mut [0]));
    assert!(again.is_err(), "alice cannot come back, not even with a ticket");
    assert!(broker.log().contains("the client certificate is no longer accepted"));
    assert_eq!(broker.metric("veilmq_tls_reloads_total{result=\"success\"}"), Some(1.0));
}

#[test]
fn a_renewed_certificate_is_shown_to_whoever_comes_then_and_a_broken_one_to_nobody() {
    // [B10]
    let authority = Authority::new();
    let own = authority.issue_for_this_machine();
    let broker = start(&own, "access.anonymous = true", "");
    let client = TlsClient::new(&authority, None);
    let mut early = connected(&client, &broker, "early");
    let shown = |stream: &TlsStream| stream.conn.peer_certificates().unwrap()[0].to_vec();
    let first = shown(&early);
    let key = fs::read(&own.key).unwrap();

    fs::write(&own.key, "no key").unwrap();
    wait_until("the broken key is refused", || {
        broker.metric("veilmq_tls_reloads_total{result=\"failure\"}") == Some(1.0)
    });
    let expected = format!("{} holds no private key in PEM", own.key.display());
    assert!(broker.log().contains(&expected), "{}", broker.log());
    assert_eq!(shown(&connected(&TlsClient::new(&authority, None), &broker, "meanwhile")), first);

    fs::write(&own.key, key).unwrap();
    let _ = authority.issue_for_this_machine();
    wait_until("the new certificate is shown", || {
        shown(&connected(&TlsClient::new(&authority, None), &broker, "late")) != first
    });
    assert!(is_served(&mut early), "who is connected stays so");
    let expiry =
        format!("veilmq_tls_certificate_not_after_timestamp_seconds{{listener=\"{}\"}}", broker.address());
    assert!(broker.metric(&expiry).is_some_and(|at| at > 1.7e9));
}

#[test]
fn what_has_expired_is_shown_with_a_warning_and_not_taken_from_clients() {
    // [A16]
    let authority = Authority::new();
    let expired = authority.issue_until(2020, "broker", 1, &["localhost"]);
    let broker = start(&expired, "", &asks_for_certificates(&authority, "cn"));
    assert!(broker.log().contains("broker.crt has expired: clients will refuse it"), "{}", broker.log());
    let refused = TlsClient::new(&authority, None).open(broker.address());
    assert!(refused.is_err(), "a client that looks at dates refuses it");
    wait_until("the client says why", || broker.log().contains("the client does not accept our certificate"));

    let _ = authority.issue_for_this_machine();
    wait_until("it is renewed", || {
        broker.metric("veilmq_tls_reloads_total{result=\"success\"}") == Some(1.0)
    });
    let late = authority.issue_until(2021, "late", 9, &[]);
    let refused = TlsClient::new(&authority, Some(&late)).open(broker.address());

    assert!(refused.and_then(|mut stream| stream.read(&mut [0])).is_err());
    wait_until("the refusal is logged", || broker.log().contains("the client certificate has expired"));
}

#[test]
fn chains_that_go_round_or_have_no_end_are_refused_at_once() {
    // [A16]
    const PLENTY: usize = 40;
    let authority = Authority::new();
    let broker = start(&authority.issue_for_this_machine(), "", &asks_for_certificates(&authority, "cn"));
    let mut bystander =
        connected(&TlsClient::new(&authority, Some(&authority.issue("good", 7, &[]))), &broker, "good");
    let named = |name: &str, is_ca: IsCa| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        (params, KeyPair::generate().unwrap())
    };
    let issuers: Vec<_> = (0..PLENTY)
        .map(|number| named(&format!("issuer {number}"), IsCa::Ca(BasicConstraints::Unconstrained)))
        .collect();
    let issued_by = |(params, key): &(CertificateParams, KeyPair), issuer: usize| {
        let (of, with) = &issuers[issuer];
        params.signed_by(key, &Issuer::from_params(of, with)).unwrap().pem()
    };
    let (leaf, key) = named("leaf", IsCa::NoCa);
    let leaf = (leaf, key);
    let round = (issued_by(&issuers[0], 1) + &issued_by(&issuers[1], 0)).repeat(PLENTY / 2);
    let long: String = (1..PLENTY).map(|number| issued_by(&issuers[number - 1], number)).collect();
    let (last, last_key) = &issuers[PLENTY - 1];
    let endless = long.clone() + &authority.sign(last, last_key);

    let folder = tempfile::tempdir().unwrap();
    for (what, behind) in [("goes round", round), ("comes from nowhere", long), ("is too long", endless)] {
        let chain = Certificate {
            certificate: folder.path().join("chain.crt"),
            key: folder.path().join("chain.key"),
        };
        fs::write(&chain.certificate, issued_by(&leaf, 0) + &behind).unwrap();
        fs::write(&chain.key, leaf.1.serialize_pem()).unwrap();
        let began = Instant::now();

        let refused = TlsClient::new(&authority, Some(&chain)).open(broker.address());

        assert!(refused.and_then(|mut stream| stream.read(&mut [0])).is_err(), "{what}");
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {:?}", began.elapsed());
        assert!(is_served(&mut bystander), "{what}");
    }
    wait_until("all are counted", || handshakes(&broker, "failed") == Some(3.0));
}

#[test]
fn a_client_negotiates_once() {
    // [A16]
    let Some(openssl) = require_tool("openssl") else { return };
    let authority = Authority::new();
    let broker = start(&authority.issue_for_this_machine(), "access.anonymous = true", "");
    let mut bystander = connected(&TlsClient::new(&authority, None), &broker, "bystander");
    let mut client = Command::new(openssl)
        .args(["s_client", "-tls1_2", "-connect", &broker.address().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it is connected", || handshakes(&broker, "full") == Some(2.0));

    client.stdin.as_mut().unwrap().write_all(b"R\n").unwrap();
    let told = client.wait_with_output().unwrap();

    let told = [told.stdout, told.stderr].concat();
    assert!(String::from_utf8_lossy(&told).contains("RENEGOTIATING"), "{}", String::from_utf8_lossy(&told));
    assert_eq!(handshakes(&broker, "full"), Some(2.0), "no other handshake");
    assert!(is_served(&mut bystander));
}

#[test]
fn a_hangup_reads_the_files_again() {
    let authority = Authority::new();
    let broker = start(&authority.issue_for_this_machine(), "access.anonymous = true", "");
    let pid = i32::try_from(broker.process_id().unwrap()).unwrap();

    kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();

    wait_until("they are read", || {
        broker.metric("veilmq_tls_reloads_total{result=\"success\"}") == Some(1.0)
    });
}

#[test]
fn who_comes_back_is_known_by_a_ticket() {
    let authority = Authority::new();
    let broker = start(&authority.issue_for_this_machine(), "access.anonymous = true", "");
    let client = TlsClient::new(&authority, None);

    for _ in 0..3 {
        // The ticket comes with the first bytes after the handshake.
        drop(connected(&client, &broker, "again"));
    }

    wait_until("all are counted", || handshakes(&broker, "resumed") == Some(2.0));
    assert_eq!(handshakes(&broker, "full"), Some(1.0));
}

#[test]
fn a_handshake_has_the_time_of_a_connect_and_garbage_has_none() {
    // [A16], [A01]
    let authority = Authority::new();
    let broker = start(
        &authority.issue_for_this_machine(),
        "access.anonymous = true\nlimits.connect_seconds_max = 1",
        "",
    );
    let client = TlsClient::new(&authority, None);
    let mut bystander = connected(&client, &broker, "bystander");
    let raw = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(broker.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        let started = Instant::now();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        (answer, started.elapsed())
    };

    for bytes in [&b""[..], b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let (answer, waited) = raw(bytes);
        assert!(
            answer.is_empty() && waited >= Duration::from_millis(500),
            "{bytes:02x?}: {answer:02x?} {waited:?}"
        );
    }
    for bytes in [&connect_packet("plain")[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 20_000], &[0; 100]] {
        let (answer, waited) = raw(bytes);
        // Nothing, or an alert.
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:02x?}");
        assert!(waited < Duration::from_secs(10), "{waited:?}");
    }
    let silent = client.open(broker.address()).and_then(|mut stream| stream.read(&mut [0]));
    assert_eq!(
        silent.unwrap(),
        0,
        "after the handshake the time for CONNECT runs on, and the end is said in order"
    );

    assert!(is_served(&mut bystander));
    assert!(broker.log().contains("not TLS, or a malformed TLS record"));
    assert!(handshakes(&broker, "failed").is_some_and(|failed| failed >= 6.0));
}

#[test]
fn handshakes_above_the_limit_are_refused_and_make_room_later() {
    // [A16]
    let authority = Authority::new();
    let broker = start(
        &authority.issue_for_this_machine(),
        "access.anonymous = true\nlimits.tls_handshakes_max = 4\nlimits.connect_seconds_max = 60",
        "",
    );
    let client = TlsClient::new(&authority, None);
    let mut established = connected(&client, &broker, "established");
    let stalled: Vec<_> = (0..4).map(|_| TcpStream::connect(broker.address()).unwrap()).collect();
    wait_until("they are accepted", || broker.metric("veilmq_connections_opened_total") == Some(5.0));

    assert!(client.open(broker.address()).is_err(), "there is no room");
    assert_eq!(handshakes(&broker, "refused"), Some(1.0));
    assert!(is_served(&mut established));
    drop(stalled);
    wait_until("there is room", || client.open(broker.address()).is_ok());
}

#[test]
fn a_connection_that_is_cut_publishes_its_will() {
    // [A16]
    let authority = Authority::new();
    let broker = start(&authority.issue_for_this_machine(), "access.anonymous = true", "");
    let client = TlsClient::new(&authority, None);
    let mut heir = connected(&client, &broker, "heir");
    heir.write_all(&packet(0x82, b"\0\x01\0\x04will\0")).unwrap();
    assert_eq!(next(&mut heir, 5), [0x90, 3, 0, 1, 0]);
    for close in [true, false] {
        let mut mortal = client.open(broker.address()).unwrap();
        mortal.write_all(&packet(0x10, b"\0\x04MQTT\x04\x06\0\x3c\0\x06mortal\0\x04will\0\x03bye")).unwrap();
        assert_eq!(next(&mut mortal, 4), ACCEPTED);
        // Half of a PUBLISH, in a record of its own.
        mortal.write_all(b"\x30\x0a\0\x04will").unwrap();

        if close {
            mortal.conn.send_close_notify();
            mortal.flush().unwrap();
        } else {
            mortal.sock.shutdown(Shutdown::Both).unwrap();
        }

        assert_eq!(next(&mut heir, 11), b"\x30\x09\0\x04willbye", "close_notify: {close}");
    }
}

#[test]
fn a_large_message_reaches_a_subscriber_that_reads_slowly() {
    // [D06]
    let authority = Authority::new();
    let broker = start(&authority.issue_for_this_machine(), "access.anonymous = true", "");
    let client = TlsClient::new(&authority, None);
    let mut slow = connected(&client, &broker, "slow");
    slow.write_all(&packet(0x82, b"\0\x01\0\x05large\0")).unwrap();
    assert_eq!(next(&mut slow, 5), [0x90, 3, 0, 1, 0]);
    let payload: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7) as u8).collect();
    let publish = packet(0x30, &[b"\0\x05large".as_slice(), &payload].concat());

    let mut publisher = connected(&client, &broker, "publisher");
    let sent = publish.clone();
    let sending = thread::spawn(move || publisher.write_all(&sent).map(|()| publisher));
    let mut received = Vec::new();
    while received.len() < publish.len() {
        thread::sleep(Duration::from_millis(1));
        let mut part = vec![0; 30_000];
        let bytes = slow.read(&mut part).unwrap();
        assert_ne!(bytes, 0, "the connection stays open");
        received.extend_from_slice(&part[..bytes]);
    }

    assert!(received == publish);
    assert!(is_served(&mut sending.join().unwrap().unwrap()));
}

#[test]
fn a_subscriber_that_reads_nothing_is_closed_and_costs_the_others_nothing() {
    // [D06]
    let authority = Authority::new();
    let lines = "access.anonymous = true\nlimits.write_seconds_max = 1\nlimits.outbox_bytes_max = 65_536";
    let broker = start(&authority.issue_for_this_machine(), lines, "");
    let client = TlsClient::new(&authority, None);
    let mut stuck = connected(&client, &broker, "stuck");
    stuck.write_all(&packet(0x82, b"\0\x01\0\x05flood\0")).unwrap();
    assert_eq!(next(&mut stuck, 5), [0x90, 3, 0, 1, 0]);
    let mut publisher = connected(&client, &broker, "publisher");
    let message = packet(0x30, &[b"\0\x05flood".as_slice(), &[7; 60_000]].concat());

    let deadline = Instant::now() + PATIENCE;
    while broker.metric("veilmq_write_timeouts_total") != Some(1.0) {
        assert!(Instant::now() < deadline, "the stuck subscriber is closed");
        for _ in 0..50 {
            publisher.write_all(&message).unwrap();
        }
        assert!(is_served(&mut publisher));
    }

    let dropped = broker.metric("veilmq_messages_dropped_total{reason=\"qos0_no_space\"}");
    assert!(dropped.is_some_and(|dropped| dropped > 0.0), "{dropped:?}");
}

#[test]
fn a_session_is_served_wherever_its_connection_was_accepted() {
    let authority = Authority::new();
    let broker = start(&authority.issue_for_this_machine(), "access.anonymous = true", "");
    let client = TlsClient::new(&authority, None);
    let mut streams: Vec<_> = (0..16)
        .map(|number| {
            let mut stream = client.open(broker.address()).unwrap();
            // What follows CONNECT moves with the connection: in the same record, and half a record later.
            stream.write_all(&[connect_packet(&format!("c{number}")), PINGREQ.to_vec()].concat()).unwrap();
            stream
        })
        .collect();

    for stream in &mut streams {
        assert_eq!(next(stream, 6), [ACCEPTED, PINGRESP].concat());
        assert!(is_served(stream));
    }
}

#[test]
fn a_broker_whose_certificate_cannot_be_used_does_not_start() {
    let authority = Authority::new();
    let own = authority.issue_for_this_machine();
    fs::write(&own.key, "no key").unwrap();
    let mut broker = Broker::configured(|address| {
        format!("access.anonymous = true\n[[listeners]]\naddress = \"{address}\"\n{}", own.on_listener())
    });

    assert!(broker.try_restart().is_err());
    let mut check = Command::new(built_program("veilmq"));
    let checked = run(check.arg("check-config").arg("-c").arg(broker.directory().join("veilmq.toml")), 30);

    let expected = format!("{} holds no private key in PEM", own.key.display());
    for said in [broker.log(), String::from_utf8_lossy(&checked.stderr).into_owned()] {
        assert!(
            said.contains("listeners[].tls.certificates[].key_file: ") && said.contains(&expected),
            "{said}"
        );
    }
    assert_eq!(checked.status.code(), Some(1));
}
