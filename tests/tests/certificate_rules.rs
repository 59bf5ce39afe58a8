//! Rules of our own files, and questions to a service, that go by the certificate which a client has shown to TLS: in the real broker,
//! with certificates of an authority that signs whatever it is asked to.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::io::{Read, Write};

use rcgen::{CertificateParams, DistinguishedName, DnType, SanType, SerialNumber};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::{Authority, Certificate};
use veilmq_tests::service::{Reply, Service};
use veilmq_tests::tls::{TlsClient, TlsStream};
use veilmq_tests::wire::{packet, publish_packet_v5, push_string};

const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
const SUBACK: u8 = 0x90;
const UNSEEN: u8 = 0x10;
const NOT_AUTHORIZED: u8 = 0x87;
const RULES: &str = r##"
[everyone]
publish = ["cn/%{cn}/#", "dns/%{dns}", "uri/%{uri}", "mail/%{email}", "serial/%{serial}", "subject/%{subject}"]
subscribe = ["cn/%{cn}/#"]
deny_publish = ["cn/%{cn}/secret"]
"##;

/// A broker that asks for certificates, takes users from none of them, and goes by [`RULES`].
fn start(authority: &Authority, more: &str) -> Broker {
    let server = authority.issue_for_this_machine();
    let mut broker = Broker::configured(|address| {
        format!(
            "shards.count = 2\naccess.anonymous = true\nacl.file = \"DIR/acl.toml\"\nacl.subscribe = \"strict\"\n{more}\n\
             [[listeners]]\naddress = \"{address}\"\n[listeners.tls]\nclient_certificate = \"optional\"\n\
             client_ca_file = {:?}\n{}",
            authority.certificate(),
            server.on_listener()
        )
    });
    let path = broker.directory().join("veilmq.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("DIR", &broker.directory().display().to_string())).unwrap();
    fs::write(broker.directory().join("acl.toml"), RULES).unwrap();
    broker.restart();
    broker
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

/// A client of MQTT 5 that has connected.
struct Client(TlsStream);

impl Client {
    fn join(broker: &Broker, authority: &Authority, certificate: Option<&Certificate>, user: &str) -> Self {
        let stream = TlsClient::new(authority, certificate).open(broker.address()).unwrap();
        let mut client = Self(stream);
        let mut body = Vec::new();
        push_string(&mut body, "MQTT");
        let has_user = if user.is_empty() { 0 } else { 0b1100_0000 };
        body.extend([5, 0b10 | has_user, 0, 0, 0]);
        push_string(&mut body, "c");
        for text in [user, "secret"].iter().filter(|_| has_user != 0) {
            push_string(&mut body, text);
        }
        let (first, answer) = client.ask(&packet(0x10, &body));
        assert_eq!((first, answer[1]), (CONNACK, 0), "{}", broker.log());
        client
    }

    /// Sends a packet and takes one.
    fn ask(&mut self, packet: &[u8]) -> (u8, Vec<u8>) {
        self.0.write_all(packet).unwrap();
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        assert!(head[1] < 0x80, "an answer is short");
        let mut body = vec![0; usize::from(head[1])];
        self.0.read_exact(&mut body).unwrap();
        (head[0], body)
    }

    /// Publishes and returns the Reason Code.
    fn publish(&mut self, topic: &str) -> u8 {
        let (first, body) = self.ask(&publish_packet_v5(topic, 7, 1, b"m"));
        assert_eq!(first, PUBACK);
        body.get(2).copied().unwrap_or(0)
    }

    /// Subscribes and returns the Reason Code.
    fn subscribe(&mut self, filter: &str) -> u8 {
        let mut body = vec![0, 9, 0];
        push_string(&mut body, filter);
        body.push(0);
        let (first, body) = self.ask(&packet(0x82, &body));
        assert_eq!(first, SUBACK);
        *body.last().unwrap()
    }
}

#[test]
fn a_client_may_do_what_is_allowed_to_the_fields_of_its_certificate() {
    let authority = Authority::new();
    let broker = start(&authority, "");
    let mut params = named("m7");
    params.serial_number = Some(SerialNumber::from(0xA1_u64));
    params.subject_alt_names = vec![
        SanType::DnsName("M7.plant.example".try_into().unwrap()),
        SanType::DnsName("second.example".try_into().unwrap()),
        SanType::URI("urn:dev:7".try_into().unwrap()),
        SanType::Rfc822Name("m7@plant.example".try_into().unwrap()),
    ];
    let certificate = authority.issue_to("m7", &params);
    let mut client = Client::join(&broker, &authority, Some(&certificate), "");

    for (topic, expected) in [
        ("cn/m7/x/y", UNSEEN),
        ("cn/m7/secret", NOT_AUTHORIZED),
        ("cn/m8/x", NOT_AUTHORIZED),
        ("dns/m7.plant.example", UNSEEN),
        ("dns/second.example", NOT_AUTHORIZED),
        ("uri/urn:dev:7", UNSEEN),
        ("mail/m7@plant.example", UNSEEN),
        ("serial/A1", UNSEEN),
        ("subject/CN=m7", UNSEEN),
    ] {
        assert_eq!(client.publish(topic), expected, "{topic}");
    }
    assert_eq!([client.subscribe("cn/m7/#"), client.subscribe("cn/+/x")], [0, NOT_AUTHORIZED]);
}

#[test]
fn who_shows_no_certificate_or_one_with_a_hostile_name_is_allowed_nothing_by_it() {
    // [B01]
    let authority = Authority::new();
    let broker = start(&authority, "");
    let hostile = ["+", "#", "m7/x", "m7\0", "/", "%c"];
    let shown = hostile.into_iter().map(Some).chain([None]);
    for name in shown {
        let certificate = name.map(|name| authority.issue_to("eve", &named(name)));
        let mut client = Client::join(&broker, &authority, certificate.as_ref(), "");

        for topic in ["cn/m7/x", "cn//x", "cn/x", "cn/m7", "dns/", "uri/", "subject/"] {
            assert_eq!(client.publish(topic), NOT_AUTHORIZED, "{name:?} at {topic}");
        }
        for filter in ["cn/+/x", "cn/#", "#", "cn/m7/#"] {
            assert_eq!(client.subscribe(filter), NOT_AUTHORIZED, "{name:?} subscribes to {filter}");
        }
    }
}

#[test]
fn a_service_is_told_what_the_certificate_says_and_its_answer_may_go_by_it() {
    let answer = json!({"result": "allow", "publish": ["%{cn}/%u"]}).to_string();
    let service = Service::start(move |_| Reply::ok(&answer));
    let authority = Authority::new();
    let broker = start(&authority, &format!("access.http.url = \"http://{}/login\"", service.address()));
    let mut params = named("m7");
    params.serial_number = Some(SerialNumber::from(0x0B_u64));
    let certificate = authority.issue_to("m7", &params);

    let mut client = Client::join(&broker, &authority, Some(&certificate), "ann");
    let codes = ["m7/ann", "m8/ann", "cn/m7/x"].map(|topic| client.publish(topic));
    Client::join(&broker, &authority, None, "ann");

    assert_eq!(codes, [UNSEEN, NOT_AUTHORIZED, NOT_AUTHORIZED]);
    let der = CertificateDer::from_pem_file(&certificate.certificate).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    let fingerprint: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let questions = service.questions();
    assert_eq!(questions.len(), 2, "what was said of one certificate does not hold without it");
    let said: Value = serde_json::from_str(&questions[0].body).unwrap();
    for (member, expected) in [
        ("cert_common_name", json!("m7")),
        ("cert_subject", json!("CN=m7")),
        ("cert_serial", json!("0B")),
        ("cert_fingerprint_sha256", json!(fingerprint)),
        ("cert_dns", Value::Null),
    ] {
        assert_eq!(said[member], expected, "{member}");
    }
    assert!(!questions[1].body.contains("cert_"), "{}", questions[1].body);
}

#[test]
fn a_field_that_does_not_exist_is_named_with_its_line() {
    // [B09]
    let authority = Authority::new();
    let broker = start(&authority, "");
    fs::write(broker.directory().join("acl.toml"), "[everyone]\npublish = [\"a\",\n\"d/%{organisation}\"]\n")
        .unwrap();

    assert!(!broker.reload());

    let log = broker.log();
    assert!(log.contains("acl.toml:3: ") && log.contains("%{organisation}"), "{log}");
}
