//! Whoever sits between a client and the broker: keeps what passes, and changes what goes to the client.
//!
//! A broker that is malicious itself can do nothing else to its clients, so the same proxy plays it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::thread;

use veilmq_protocol::veil::record::HEADER_LEN;
use veilmq_protocol::{
    Packet, PacketType, ProtocolVersion, Publish, PublishProperties, QoS, TopicName, next_frame,
};

const VERSION: ProtocolVersion = ProtocolVersion::V5;
/// No test sends more.
const BYTES_MAX: usize = 1 << 20;

/// A message on its way to the client, at QoS 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) retain: bool,
}

/// Takes whole units from the front of what has come, and gives what goes on.
trait Rewrite: Send {
    fn rewrite(&mut self, arrived: &mut Vec<u8>) -> Vec<u8>;
}

/// A proxy; it listens until the test process ends.
pub(crate) struct Proxy {
    address: SocketAddr,
    /// From clients to the broker, and back before it was changed.
    captured: [Arc<Mutex<Vec<u8>>>; 2],
}

impl Proxy {
    /// Changes nothing.
    pub(crate) fn silent(target: SocketAddr) -> Self {
        Self::changing_records(target, |_, record| vec![record])
    }

    /// Has `change` say what becomes of each message to a client, on connections of plain MQTT 5.
    pub(crate) fn changing_messages(
        target: SocketAddr,
        change: impl FnMut(Carried) -> Vec<Carried> + Send + 'static,
    ) -> Self {
        Self::start(target, Messages { change, topics: BTreeMap::new() })
    }

    /// Has `change` say what becomes of each record to a client, numbered from 0, on a VEIL-1 channel.
    pub(crate) fn changing_records(
        target: SocketAddr,
        change: impl FnMut(usize, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        Self::start(target, Records { change, count: 0, is_open: false })
    }

    fn start(target: SocketAddr, rewrite: impl Rewrite + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), captured: Default::default() };
        let [up, down] = proxy.captured.clone();
        let rewrite: Arc<Mutex<dyn Rewrite>> = Arc::new(Mutex::new(rewrite));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (up, down, rewrite) = (Arc::clone(&up), Arc::clone(&down), Arc::clone(&rewrite));
                thread::spawn(move || forward(client, server, &up, std::mem::take));
                thread::spawn(move || {
                    forward(server_too, client_too, &down, |arrived| {
                        rewrite.lock().unwrap().rewrite(arrived)
                    });
                });
            }
        });
        proxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients have sent.
    pub(crate) fn sent(&self) -> Vec<u8> {
        self.captured[0].lock().unwrap().clone()
    }

    /// Everything that whoever sees the network has seen.
    pub(crate) fn seen(&self) -> Vec<u8> {
        [self.sent(), self.captured[1].lock().unwrap().clone()].concat()
    }
}

fn forward(
    mut from: TcpStream,
    mut to: TcpStream,
    captured: &Mutex<Vec<u8>>,
    mut rewrite: impl FnMut(&mut Vec<u8>) -> Vec<u8>,
) {
    let mut arrived = Vec::new();
    let mut chunk = [0; 4_096];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        captured.lock().unwrap().extend_from_slice(&chunk[..count]);
        arrived.extend_from_slice(&chunk[..count]);
        if to.write_all(&rewrite(&mut arrived)).is_err() {
            break;
        }
    }
    // The other side may have gone already.
    let _ = to.shutdown(Shutdown::Both);
}

/// The bytes of the first whole packet, taken out.
fn take_packet(arrived: &mut Vec<u8>) -> Option<Vec<u8>> {
    let used = next_frame(arrived, BYTES_MAX).unwrap().map(|(_, used)| used)?;
    Some(arrived.drain(..used).collect())
}

struct Messages<C> {
    change: C,
    /// What Topic Aliases stand for.
    topics: BTreeMap<u16, String>,
}

impl<C: FnMut(Carried) -> Vec<Carried> + Send> Rewrite for Messages<C> {
    fn rewrite(&mut self, arrived: &mut Vec<u8>) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(bytes) = take_packet(arrived) {
            let (frame, _) = next_frame(&bytes, BYTES_MAX).unwrap().unwrap();
            let Packet::Publish(publish) = Packet::decode(frame, VERSION).unwrap() else {
                out.extend_from_slice(&bytes);
                continue;
            };
            let alias = publish.properties.topic_alias.map(NonZeroU16::get);
            if let (Some(topic), Some(alias)) = (publish.topic, alias) {
                self.topics.insert(alias, topic.as_str().to_owned());
            }
            let named = publish.topic.map(|topic| topic.as_str().to_owned());
            let carried = Carried {
                topic: named.or_else(|| self.topics.get(&alias?).cloned()).unwrap(),
                payload: publish.payload.to_vec(),
                retain: publish.retain,
            };
            for carried in (self.change)(carried) {
                out.extend_from_slice(&carried.encode());
            }
        }
        out
    }
}

impl Carried {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let packet = Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: self.retain,
            topic: Some(TopicName::new(&self.topic).unwrap()),
            packet_id: None,
            properties: PublishProperties::default(),
            payload: &self.payload,
        });
        packet.encode(VERSION, &mut bytes).unwrap();
        bytes
    }
}

struct Records<C> {
    change: C,
    count: usize,
    /// CONNACK has passed.
    is_open: bool,
}

impl<C: FnMut(usize, Vec<u8>) -> Vec<Vec<u8>> + Send> Rewrite for Records<C> {
    fn rewrite(&mut self, arrived: &mut Vec<u8>) -> Vec<u8> {
        let mut out = Vec::new();
        while !self.is_open {
            let Some(bytes) = take_packet(arrived) else { return out };
            self.is_open = bytes[0] >> 4 == PacketType::ConnAck as u8;
            out.extend_from_slice(&bytes);
        }
        while let Some(len) =
            arrived.get(1..HEADER_LEN).map(|len| u32::from_be_bytes(len.try_into().unwrap()))
        {
            let end = HEADER_LEN + len as usize;
            if arrived.len() < end {
                break;
            }
            let record = arrived.drain(..end).collect();
            for record in (self.change)(self.count, record) {
                out.extend_from_slice(&record);
            }
            self.count += 1;
        }
        out
    }
}
