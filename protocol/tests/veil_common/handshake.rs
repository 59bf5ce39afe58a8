//! A handshake between two parties in memory, whose every message a test can touch.

use super::{NOW, broker, ca_keys, publisher, seed, trust};
use veilmq_protocol::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, Packet, ProtocolVersion, next_frame,
    veil::{
        Scheme, Schemes, Suite,
        channel::{
            AwaitServerHello, ClientHelloConfig, ClientStart, Established, HandshakeError, Identity,
            ServerPolicy, ServerStart, TrustAnchors,
        },
        hello::{ChannelForm, JoinStatus, ServerFinishParams},
        registry::AUTHENTICATION_METHOD,
    },
};

pub(crate) const NOW_MS: u64 = NOW * 1000;

/// The messages a middlebox could touch, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Connect,
    ServerHello,
    ClientFinish,
    ConnAck,
}

/// Gives out the named seeds, each cut to what is asked for.
pub(crate) fn entropy<'a>(names: &'a [&'a str]) -> impl FnMut(&mut [u8]) + 'a {
    let mut names = names.iter();
    move |out| {
        let name = names.next().expect("the handshake asks for two random values");
        out.copy_from_slice(&seed(name)[..out.len()]);
    }
}

/// Everything that can be different about a handshake.
pub(crate) struct Setup {
    pub(crate) schemes: Schemes,
    pub(crate) suites: Vec<Suite>,
    pub(crate) policy: ServerPolicy,
    pub(crate) client: Identity,
    pub(crate) broker: Identity,
    pub(crate) client_trust: TrustAnchors,
    pub(crate) broker_trust: TrustAnchors,
    pub(crate) expected_broker: &'static str,
    pub(crate) client_id: &'static str,
    pub(crate) params: ServerFinishParams,
}

impl Setup {
    pub(crate) fn new(suite: Suite, scheme: Scheme) -> Self {
        Self {
            schemes: Schemes::of(&[scheme]),
            suites: vec![suite],
            policy: ServerPolicy { schemes: Schemes::ALL, ..ServerPolicy::default() },
            client: publisher(),
            broker: broker(),
            client_trust: trust(),
            broker_trust: trust(),
            expected_broker: "broker-a",
            client_id: "press-07",
            params: params(),
        }
    }

    pub(crate) fn start(&self) -> (ClientStart, Vec<u8>) {
        let config = ClientHelloConfig {
            schemes: self.schemes,
            suites: &self.suites,
            anchor: ca_keys().kid(),
            now_unix_ms: Some(NOW_MS),
            form: ChannelForm::Records,
            join_request: None,
        };
        ClientStart::new(&config, &mut entropy(&["nc", "eph c"])).unwrap()
    }

    /// CONNECT as the client sends it.
    pub(crate) fn connect(&self) -> (AwaitServerHello, Vec<u8>) {
        let (start, hello) = self.start();
        let connect = Connect {
            version: ProtocolVersion::V5,
            bridge: false,
            clean_start: true,
            keep_alive_seconds: 30,
            client_id: self.client_id,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties {
                authentication_method: Some(AUTHENTICATION_METHOD),
                authentication_data: Some(&hello),
                ..ConnectProperties::default()
            },
        };
        let packet = encode(&Packet::Connect(connect));
        (start.sent_connect(&packet), packet)
    }

    /// Runs the handshake; `touch` sees every message on its way.
    pub(crate) fn run(
        &self,
        mut touch: impl FnMut(Message, &mut Vec<u8>),
    ) -> Result<(Established, Established), Failure> {
        let (client, mut connect) = self.connect();
        touch(Message::Connect, &mut connect);
        let (hello, client_id) = read_connect(&connect).ok_or(Failure::NotAConnect)?;
        let (mut server_hello, server) = ServerStart
            .handle(&connect, &hello, &self.broker, &self.policy, NOW_MS + 10, &mut entropy(&["nb", "eph b"]))
            .map_err(Failure::Broker)?;
        touch(Message::ServerHello, &mut server_hello);
        let (mut finish, client) = client
            .handle(&server_hello, &self.client, &self.client_trust, Some(self.expected_broker), Some(NOW))
            .map_err(Failure::Client)?;
        touch(Message::ClientFinish, &mut finish);
        let accepted =
            server.handle(&finish, &self.broker_trust, &client_id, NOW).map_err(Failure::Broker)?;
        let (data, server) = accepted.server_finish(self.params.clone()).map_err(Failure::Broker)?;
        let mut connack = connack(&data);
        let server = server.seal_connack(&mut connack).map_err(Failure::Broker)?;
        touch(Message::ConnAck, &mut connack);
        let client = client.handle(&connack).map_err(Failure::Client)?;
        Ok((client, server))
    }
}

/// Flips every bit of one message in turn, in runs of an exchange that shows its messages; it must fail each time.
pub(crate) fn every_flipped_bit_fails<M: Copy + PartialEq + std::fmt::Debug>(
    message: M,
    run: impl Fn(&mut dyn FnMut(M, &mut Vec<u8>)) -> Result<(Established, Established), Failure>,
) {
    let mut bits = 0;
    run(&mut |seen, bytes| {
        if seen == message {
            bits = bytes.len() * 8;
        }
    })
    .unwrap();
    assert!(bits > 0);
    for bit in 0..bits {
        let outcome = run(&mut |seen, bytes| {
            if seen == message {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        });
        assert!(outcome.is_err(), "{message:?} bit {bit}");
    }
}

/// Which side noticed, and what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    NotAConnect,
    Broker(HandshakeError),
    Client(HandshakeError),
}

pub(crate) fn params() -> ServerFinishParams {
    ServerFinishParams {
        ticket: None,
        record_bytes_max: Some(65_536),
        join: Some((JoinStatus::None, Vec::new())),
        time_unix_ms: Some(NOW_MS),
        group_grants: Vec::new(),
        policy_digest: Some([9; 32]),
    }
}

pub(crate) fn connack(data: &[u8]) -> Vec<u8> {
    let properties = ConnAckProperties {
        server_keep_alive_seconds: Some(30),
        authentication_method: Some(AUTHENTICATION_METHOD),
        authentication_data: Some(data),
        ..ConnAckProperties::default()
    };
    encode(&Packet::ConnAck(ConnAck { properties, ..ConnAck::default() }))
}

pub(crate) fn encode(packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(ProtocolVersion::V5, &mut out).unwrap();
    out
}

/// What a broker takes from a CONNECT: Authentication Data and Client Identifier.
pub(crate) fn read_connect(packet: &[u8]) -> Option<(Vec<u8>, String)> {
    let (frame, used) = next_frame(packet, packet.len()).ok()??;
    let Packet::Connect(connect) = Packet::decode(frame, ProtocolVersion::V5).ok()? else { return None };
    let properties = connect.properties;
    if used != packet.len() || properties.authentication_method != Some(AUTHENTICATION_METHOD) {
        return None;
    }
    Some((properties.authentication_data?.into(), connect.client_id.into()))
}
