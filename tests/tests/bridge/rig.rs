//! The other broker, played by a test, and what the tests of bridges do again and again.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use veilmq_tests::broker::Broker;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tools::built_program;
use veilmq_tests::wire::{Published, RawPacket, Wire, acknowledgement, packet, publish_packet, push_string};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// CONNACK of MQTT 3.1.1: accepted, no session present.
pub(crate) const ACCEPTED: &[u8] = &[0x20, 2, 0, 0];
/// The same with the session present.
pub(crate) const KEPT: &[u8] = &[0x20, 2, 1, 0];
/// Accepted in MQTT 5.
pub(crate) const ACCEPTED_V5: &[u8] = &[0x20, 3, 0, 0, 0];
pub(crate) const STATE: &str = "$SYS/broker/connection/far/state";

/// The other broker, played by the test.
pub(crate) struct Remote(pub(crate) TcpListener);

impl Remote {
    pub(crate) fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection of the bridge.
    pub(crate) fn accept(&self) -> Wire {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return Wire::on(stream).unwrap();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            assert!(Instant::now() < deadline, "the bridge does not connect");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The next connection, whose CONNECT is accepted whatever it says.
    pub(crate) fn accepted(&self) -> Wire {
        let mut wire = self.accept();
        assert_eq!(wire.packet().unwrap().first, 0x10);
        wire.send(ACCEPTED).unwrap();
        wire
    }
}

/// Expects exactly this packet next.
pub(crate) fn expect(wire: &mut Wire, expected: &[u8]) {
    let RawPacket { first, body } = wire.packet().unwrap();
    let got = packet(first, &body);
    assert_eq!(got, expected, "\n got {}\nwant {}", got.escape_ascii(), expected.escape_ascii());
}

/// The configuration of a broker with a bridge to `remote`; the last of the `lines` may begin tables of the bridge.
pub(crate) fn config(own: SocketAddr, remote: SocketAddr, lines: &str) -> String {
    format!(
        "shards.count = 2\naccess.anonymous = true\n[[listeners]]\naddress = \"{own}\"\n{}",
        bridge("b", &[remote], lines)
    )
}

/// One `[[bridges]]`.
pub(crate) fn bridge(name: &str, remotes: &[SocketAddr], lines: &str) -> String {
    let remotes: Vec<String> = remotes.iter().map(|remote| format!("{:?}", remote.to_string())).collect();
    format!(
        "[[bridges]]\nname = \"{name}\"\naddresses = [{}]\nclient_id = \"far\"\nrestart_seconds_min = 1\n\
         restart_seconds_max = 1\n{lines}\n",
        remotes.join(", ")
    )
}

/// One `[[bridges.topics]]`.
pub(crate) fn topic(pattern: &str, direction: &str, qos: u8) -> String {
    format!("[[bridges.topics]]\npattern = \"{pattern}\"\ndirection = \"{direction}\"\nqos = {qos}\n")
}

pub(crate) const QUIET: &str = "notifications = \"off\"\nunsubscribes = false\n";

pub(crate) fn bridged(remote: &Remote, lines: &str) -> Broker {
    let remote = remote.address();
    Broker::start_configured(|own| config(own, remote, lines))
}

pub(crate) fn subscribe_packet(packet_id: u16, filter: &str, options: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    push_string(&mut body, filter);
    body.push(options);
    packet(0x82, &body)
}

pub(crate) fn suback(packet_id: u16, qos: u8) -> Vec<u8> {
    let [high, low] = packet_id.to_be_bytes();
    packet(0x90, &[high, low, qos])
}

/// Publishes and, at QoS 1 and 2, waits until the broker has it.
pub(crate) fn publish(broker: &Broker, topic: &str, qos: u8, payload: &str) {
    let (mut wire, _) = Wire::connect(broker.address(), "publisher", true);
    wire.send(&publish_packet(topic, 1, qos, false, payload.as_bytes())).unwrap();
    match qos {
        1 => expect(&mut wire, &acknowledgement(0x40, 1)),
        _ => {
            expect(&mut wire, &acknowledgement(0x50, 1));
            wire.send(&acknowledgement(0x62, 1)).unwrap();
            expect(&mut wire, &acknowledgement(0x70, 1));
        }
    }
    wire.send(&[0xe0, 0]).unwrap();
}

/// A client of the broker that subscribes.
pub(crate) fn subscriber(broker: &Broker, client_id: &str, filter: &str) -> Wire {
    let (mut wire, _) = Wire::connect(broker.address(), client_id, true);
    wire.subscribe(filter, 2);
    wire.set_patience(PATIENCE).unwrap();
    wire
}

/// The next message, acknowledged to the end.
pub(crate) fn message(wire: &mut Wire) -> Published {
    loop {
        let packet = wire.packet().unwrap();
        match Published::read(&packet) {
            Some(published) => {
                match published.qos {
                    1 => wire.send(&acknowledgement(0x40, published.packet_id)).unwrap(),
                    2 => wire.send(&acknowledgement(0x50, published.packet_id)).unwrap(),
                    _ => {}
                }
                return published;
            }
            None => {
                assert_eq!(packet.first, 0x62);
                wire.send(&acknowledgement(0x70, packet.acknowledged())).unwrap();
            }
        }
    }
}

pub(crate) fn text(published: &Published) -> String {
    format!("{} {}", published.topic, String::from_utf8_lossy(&published.payload))
}

pub(crate) fn hear(wire: &mut Wire, count: usize) -> Vec<String> {
    (0..count).map(|_| text(&message(wire))).collect()
}

/// Requires that nothing more comes.
pub(crate) fn hears_nothing(wire: &mut Wire) {
    wire.set_patience(Duration::from_millis(1_500)).unwrap();
    while let Ok(packet) = wire.packet() {
        assert!(Published::read(&packet).is_none(), "{packet:?}");
    }
    wire.set_patience(PATIENCE).unwrap();
}

pub(crate) fn is_up(broker: &Broker) -> bool {
    broker.metric("veilmq_bridges{state=\"up\"}") == Some(1.0)
}

pub(crate) fn reload(broker: &Broker, configuration: &str) {
    std::fs::write(broker.directory().join("veilmq.toml"), configuration).unwrap();
    assert!(broker.reload(), "{}", broker.log());
}

/// A program that is killed at the end of its test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A broker that runs from a `mosquitto.conf` with one connection.
pub(crate) struct FromConf {
    port: ReservedPort,
    _running: Running,
    _admin: ReservedPort,
    _directory: TempDir,
}

impl FromConf {
    /// Starts one; `lines` stand below `connection`.
    pub(crate) fn start(remote: &Remote, lines: &str) -> Self {
        let (port, admin, directory) = (ReservedPort::new(), ReservedPort::new(), TempDir::new().unwrap());
        let conf = directory.path().join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nconnection sample\naddress {}\nremote_clientid far\n\
             notifications false\nrestart_timeout 1\n{lines}",
            port.number(),
            remote.address()
        );
        std::fs::write(&conf, text).unwrap();
        let mut command = Command::new(built_program("veilmq"));
        command.arg("-c").arg(&conf).arg("--admin").arg(admin.address().to_string());
        let running = Running(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        Self { port, _running: running, _admin: admin, _directory: directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }
}
