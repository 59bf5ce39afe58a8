//! Clients on the VEIL-1 channel: a broker with an identity, and their half of the handshake.
//!
//! What they have received is not opened.

use veilmq_core::VeilServer;
use veilmq_protocol::veil::channel::{
    ClientHelloConfig, ClientStart, Identity, IdentityKeys, RecordSealer, TrustAnchors,
};
use veilmq_protocol::veil::hello::ChannelForm;
use veilmq_protocol::veil::registry::{AUTHENTICATION_METHOD, Kid, Schemes, Suite};
use veilmq_protocol::veil::vmc::{CertificateFields, Roles};
use veilmq_protocol::{
    Auth, Connect, ConnectProperties, Packet, ProtocolVersion, QoS, ReasonCode, next_frame,
};
use veilmq_simulator::connect_v5;

use crate::load::{Client, Load, NOW, encode, subscription};

/// A broker of one shard, and what its clients know of it.
pub(crate) struct Realm {
    pub(crate) load: Load,
    anchors: TrustAnchors,
    anchor: Kid,
}

/// A client whose channel is open.
pub(crate) struct Sealed {
    client: Client,
    sealer: RecordSealer,
}

impl Realm {
    /// Makes a broker without clients, whose clients will have had `deliveries` messages in the end.
    pub(crate) fn new(deliveries: u64) -> Self {
        let broker = identity("broker", Roles::BROKER);
        let trusted = identity("authority", Roles::CA).certificate().clone();
        let broker_certificate = broker.certificate().clone();
        let load = Load::with_veil(VeilServer::new(broker), trusted, deliveries);
        let anchor = broker_certificate.kid();
        let mut anchors = TrustAnchors::default();
        anchors.add(broker_certificate).unwrap();
        Self { load, anchors, anchor }
    }

    /// Connects a client at once, and opens its channel.
    pub(crate) fn join(&mut self, name: &str, suite: Suite) -> Sealed {
        let config = ClientHelloConfig {
            schemes: Schemes::ALL,
            suites: &[suite],
            anchor: self.anchor,
            now_unix_ms: Some(NOW.milliseconds()),
            form: ChannelForm::Records,
            join_request: None,
        };
        let (start, hello) = ClientStart::new(&config, &mut |bytes| bytes.fill(0x33)).unwrap();
        let connect = connect_v5(name, true, 0);
        let connect = Connect {
            properties: ConnectProperties {
                authentication_method: Some(AUTHENTICATION_METHOD),
                authentication_data: Some(&hello),
                ..connect.properties
            },
            ..connect
        };
        let (client, answer) = self.load.answer(|load| load.connect(&connect));
        let awaiting = start.sent_connect(&encode(client, &[Packet::Connect(connect)]));
        let (frame, _) = next_frame(&answer, usize::MAX).unwrap().unwrap();
        let Packet::Auth(auth) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
            panic!("expected AUTH, got {answer:02x?}");
        };
        let identity = identity(name, Roles::SUBSCRIBER);
        let seconds = NOW.milliseconds() / 1_000;
        let (finish, awaiting) = awaiting
            .handle(auth.data.unwrap(), &identity, &self.anchors, Some("broker"), Some(seconds))
            .unwrap();
        let auth = Auth {
            reason: ReasonCode::ContinueAuthentication,
            method: Some(AUTHENTICATION_METHOD),
            data: Some(&finish),
            ..Auth::default()
        };
        let ((), connack) = self.load.answer(|load| load.send_now(client, &[Packet::Auth(auth)]));
        let (sealer, _, _) = awaiting.handle(&connack).unwrap().into_parts();
        Sealed { client, sealer }
    }

    /// Subscribes a client at once.
    pub(crate) fn subscribe(&mut self, sealed: &mut Sealed, filter: &str, qos: QoS) {
        let mut record = Vec::new();
        let open = sealed.sealer.begin(&mut record);
        record.extend_from_slice(&subscription(sealed.client, filter, qos));
        sealed.sealer.finish(&mut record, open);
        self.load.send_bytes_now(sealed.client, &mut record);
    }
}

/// An identity. All have the same keys, so each can vouch for each.
fn identity(subject: &str, roles: Roles) -> Identity {
    let keys = IdentityKeys::from_seeds(&[1; 32], &[2; 32]);
    let fields = CertificateFields {
        roles,
        serial: 1,
        not_before: 1_700_000_000,
        not_after: 1_900_000_000,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: subject.to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    };
    let certificate = fields.sign(&keys).unwrap();
    Identity::new(certificate, keys).unwrap()
}
