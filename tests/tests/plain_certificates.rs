//! Certificates as mosquitto-tls(7) tells people to make them: of X.509 version 1, self-signed, with the name in the subject alone.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use rustls::version::{TLS12, TLS13};
use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::{Authority, Certificate};
use veilmq_tests::drop_in::v3;
use veilmq_tests::openssl::OpenSsl;
use veilmq_tests::tls::TlsClient;
use veilmq_tests::tools::{require_tool, run};

/// A broker that shows `own` and asks for certificates of these authorities.
fn broker(own: &Certificate, authorities: &Path, revocations: Option<&Path>) -> Broker {
    let revocations = revocations.map(|path| format!("crl_file = {path:?}\n")).unwrap_or_default();
    Broker::start_configured(|address| {
        format!(
            "[[listeners]]\naddress = \"{address}\"\n[listeners.tls]\nclient_certificate = \"required\"\n\
             client_ca_file = {authorities:?}\nidentity = \"cn\"\n{revocations}{}",
            own.on_listener()
        )
    })
}

/// Publishes with mosquitto_pub, and tells whether the broker let it.
fn publishes(broker: &Broker, authority: &Path, shown: &Certificate, version: &str) -> bool {
    let port = broker.port().to_string();
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port, "-t", "t", "-m", "m", "-q", "1", "--tls-version", version]);
    command.arg("--cafile").arg(authority).arg("--cert").arg(&shown.certificate).arg("--key").arg(&shown.key);
    run(&mut command, 60).status.success()
}

#[test]
fn certificates_of_version_1_are_shown_and_taken_as_mosquitto_does() {
    let (Some(authority), Some(_)) = (OpenSsl::new("ca"), require_tool("mosquitto_pub")) else { return };
    let (own, device, lost) =
        (authority.issue("127.0.0.1"), authority.issue("device"), authority.issue("lost"));
    // It says that it is the same authority.
    let impostor = OpenSsl::new("ca").unwrap();
    let forged = impostor.issue("device");
    let list = authority.revoke(&["lost"]);
    let ca = authority.certificate();
    for revocations in [None, Some(list.as_path())] {
        let broker = broker(&own, &ca, revocations);

        for version in ["tlsv1.2", "tlsv1.3"] {
            assert!(publishes(&broker, &ca, &device, version), "{version}: {}", broker.log());
            assert!(!publishes(&broker, &ca, &forged, version), "{version}: signed by another key");
            assert_eq!(publishes(&broker, &ca, &lost, version), revocations.is_none(), "{version}");
        }
        assert!(broker.log().contains("user=\"device\""), "{}", broker.log());
    }
}

#[test]
fn a_certificate_that_is_in_the_file_of_authorities_itself_is_taken() {
    let (Some(authority), Some(_)) = (OpenSsl::new("ca"), require_tool("mosquitto_pub")) else { return };
    let (own, device, other) =
        (authority.issue("127.0.0.1"), authority.self_signed("device"), authority.self_signed("other"));
    let broker = broker(&own, &device.certificate, None);

    assert!(publishes(&broker, &authority.certificate(), &device, "tlsv1.3"), "{}", broker.log());
    assert!(!publishes(&broker, &authority.certificate(), &other, "tlsv1.3"));
}

/// Whoever has seen a certificate, which anybody may, has not got its key. Programs refuse to try, so this client is made by hand.
#[test]
fn a_certificate_is_taken_from_nobody_who_lacks_its_key() {
    let Some(devices) = OpenSsl::new("ca") else { return };
    let (old, alone, other) =
        (devices.issue("device"), devices.self_signed("alone"), devices.self_signed("other"));
    let server = Authority::new();
    for (shown, authorities) in [(&old, &devices.certificate()), (&alone, &alone.certificate)] {
        let broker = broker(&server.issue_for_this_machine(), authorities, None);
        for version in [&TLS12, &TLS13] {
            let is_let_in = |key: &Path| {
                let shown = Certificate { certificate: shown.certificate.clone(), key: key.to_owned() };
                let client = TlsClient::speaking(&[version], &server, Some(&shown));
                let answered = client.open(broker.address()).and_then(|mut stream| {
                    stream.write_all(&v3("c", true))?;
                    let mut answer = [0; 4];
                    stream.read_exact(&mut answer).map(|()| answer)
                });
                answered.is_ok_and(|answer| answer == [0x20, 2, 0, 0])
            };

            assert!(is_let_in(&shown.key), "{version:?}: {}", broker.log());
            assert!(!is_let_in(&other.key), "{version:?}: {}", broker.log());
        }
    }
}
