//! The asynchronous client re-authenticates by itself and when it is told to, against a scripted broker on a loopback socket.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use veilmq_client::{Client, ReauthenticateError, Status, session::ReauthenticationError};
use veilmq_protocol::{
    Disconnect, Publish, PublishProperties, TopicName,
    veil::distribution::{CrlFields, RevocationReason, Revoked},
};

use super::{
    reauthentication::{answer, finish},
    *,
};

const LIMIT: Duration = Duration::from_secs(20);

/// The broker's end of a connection.
pub(super) struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Peer {
    async fn read(&mut self) {
        let read = timeout(LIMIT, self.stream.read_buf(&mut self.buffer)).await;
        assert!(read.expect("the client in time").unwrap() > 0, "the client left");
    }

    /// The next packet outside records.
    async fn packet(&mut self) -> Vec<u8> {
        loop {
            if let Some((_, len)) = next_frame(&self.buffer, usize::MAX).unwrap() {
                return self.buffer.drain(..len).collect();
            }
            self.read().await;
        }
    }

    /// The packets of the next record.
    async fn record(&mut self, server: &mut Server) -> Vec<u8> {
        loop {
            if let Some(record) = server.opener.next(&mut self.buffer, RECORD_BYTES_MAX).unwrap() {
                let bytes: Vec<u8> = self.buffer.drain(..record.consumed).collect();
                let Content::Packets(range) = record.content else { panic!("{:?}", record.content) };
                return bytes[range].to_vec();
            }
            self.read().await;
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Accepts the connection of a client with its channel.
    pub(super) async fn accept(listener: &TcpListener) -> (Self, Server) {
        Self::accept_as(&broker(), listener).await
    }

    async fn accept_as(broker: &Identity, listener: &TcpListener) -> (Self, Server) {
        let (stream, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
        let mut peer = Self { stream, buffer: Vec::new() };
        let connect_bytes = peer.packet().await;
        let Packet::Connect(connect) = decode(&connect_bytes) else { panic!("CONNECT") };
        let hello = connect.properties.authentication_data.unwrap();
        let (server_hello, next) = ServerStart
            .handle(&connect_bytes, hello, broker, &ServerPolicy::default(), UNIX_MS, &mut |bytes| {
                bytes.fill(99);
            })
            .unwrap();
        peer.send(&encode(&auth(&server_hello))).await;
        let proof = peer.packet().await;
        let Packet::Auth(proof) = decode(&proof) else { panic!("AUTH") };
        let accepted = next.handle(proof.data.unwrap(), &trust(), "press-07", NOW).unwrap();
        let (data, sealing) = accepted.server_finish(ServerFinishParams::default()).unwrap();
        let mut packet = encode(&Packet::ConnAck(connack(ConnAckProperties {
            authentication_method: Some(AUTHENTICATION_METHOD),
            authentication_data: Some(&data),
            ..ConnAckProperties::default()
        })));
        let (sealer, opener, predecessor) = sealing.seal_connack(&mut packet).unwrap().into_parts();
        peer.send(&packet).await;
        (peer, Server { sealer, opener, predecessor })
    }

    /// Takes part in one re-authentication; returns the serial of the client's certificate.
    async fn reauthenticate(&mut self, server: &mut Server) -> u64 {
        let packet = self.record(server).await;
        let (record, next) = answer(server, &broker(), &packet);
        self.send(&record).await;
        let proof = self.record(server).await;
        let (record, serial) = finish(server, next, &proof);
        self.send(&record).await;
        serial
    }
}

/// A broker to be pinned.
fn broker() -> Identity {
    lasting(1, 20, Roles::BROKER, "broker-a", &keys(20))
}

fn client_identity(serial: u64, seed: u8) -> Identity {
    lasting(serial, seed, Roles::PUBLISHER, "press-07", &authority())
}

/// An identity that is valid whatever the clock of the machine says.
fn lasting(serial: u64, seed: u8, roles: Roles, subject: &str, issuer: &IdentityKeys) -> Identity {
    let keys = keys(seed);
    let fields = CertificateFields {
        roles,
        serial,
        not_before: 0,
        not_after: u64::MAX,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: subject.to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    };
    Identity::new(fields.sign(issuer).unwrap(), keys).unwrap()
}

/// A client of the broker on this port.
pub(super) fn builder(port: u16) -> veilmq_client::Builder {
    let mut anchors = TrustAnchors::new();
    anchors.add(broker().certificate().clone()).unwrap();
    Client::builder("127.0.0.1", port)
        .identity(Arc::new(client_identity(1, 10)))
        .trust(anchors)
        .keep_alive_seconds(0)
}

async fn connected(every: Duration) -> (Client, Peer, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = builder(listener.local_addr().unwrap().port()).reauthenticate_every(every).connect();
    let (client, (peer, server)) = tokio::join!(client, Peer::accept(&listener));
    (client.unwrap(), peer, server)
}

#[tokio::test]
async fn a_client_re_authenticates_by_itself_again_and_again() {
    let (client, mut peer, mut server) = connected(Duration::from_millis(20)).await;

    for _ in 0..3 {
        assert_eq!(peer.reauthenticate(&mut server).await, 1);
    }

    assert!(matches!(client.status(), Status::Connected { .. }));
}

#[tokio::test]
async fn a_client_re_authenticates_when_told_and_with_a_renewed_certificate() {
    let (client, mut peer, mut server) = connected(Duration::MAX).await;

    let (done, serial) = tokio::join!(client.reauthenticate(), peer.reauthenticate(&mut server));
    assert_eq!((done, serial), (Ok(()), 1));

    let renewed = Arc::new(client_identity(2, 10));
    let (done, serial) = tokio::join!(client.renew(renewed), peer.reauthenticate(&mut server));
    assert_eq!((done, serial), (Ok(()), 2));

    let stranger = Arc::new(client_identity(3, 50));
    let error = ReauthenticationError::OtherIdentity { got: stranger.kid(), expected: keys(10).kid() };
    assert_eq!(client.renew(stranger).await, Err(ReauthenticateError::NotBegun(error)));
    assert!(matches!(client.status(), Status::Connected { .. }));
}

#[tokio::test]
async fn a_refused_re_authentication_is_one_error_and_the_end_of_the_client() {
    let (client, mut peer, mut server) = connected(Duration::MAX).await;

    let refuse = async {
        peer.record(&mut server).await;
        let farewell = Packet::Disconnect(Disconnect::new(ReasonCode::NotAuthorized));
        let record = seal(&mut server, &[farewell]);
        peer.send(&record).await;
    };
    let (done, ()) = tokio::join!(client.reauthenticate(), refuse);

    let reason = CloseReason::Disconnected { reason: ReasonCode::NotAuthorized, text: None };
    assert_eq!(done, Err(ReauthenticateError::Failed(reason.clone())));
    assert_eq!(client.closed().await, reason);
    assert_eq!(client.reauthenticate().await, Err(ReauthenticateError::Closed(reason)));
}

#[tokio::test]
async fn a_list_that_revokes_the_broker_ends_the_channel_whoever_brings_it() {
    let ca = lasting(9, 1, Roles::CA, "ca", &authority()).certificate().clone();
    let broker = lasting(7, 20, Roles::BROKER, "broker-a", &authority());
    let mut anchors = TrustAnchors::new();
    anchors.add(ca.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::builder("127.0.0.1", listener.local_addr().unwrap().port())
        .identity(Arc::new(client_identity(1, 10)))
        .trust(anchors)
        .join_scope("factory/#")
        .unwrap()
        .reconnect(false)
        .connect();
    let (client, (mut peer, mut server)) = tokio::join!(client, Peer::accept_as(&broker, &listener));
    let client = client.unwrap();
    let revoked = vec![Revoked { serial: 7, reason: RevocationReason::KeyCompromise }];
    let list = CrlFields { number: 1, this_update: 0, next_update: u64::MAX, issuer: ca, revoked };
    let list = list.sign(&authority()).unwrap();

    let topic = format!("_veil/1/crl/{}", authority().kid());
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: true,
        topic: Some(TopicName::new(&topic).unwrap()),
        packet_id: None,
        properties: PublishProperties::default(),
        payload: list.as_bytes(),
    };
    let record = seal(&mut server, &[Packet::Publish(publish)]);
    peer.send(&record).await;

    let error = CertificateError::Revoked { issuer: authority().kid(), serial: 7 };
    assert_eq!(timeout(LIMIT, client.closed()).await.unwrap(), CloseReason::Handshake(error.into()));
}
