//! A broker process of its own for a test, and clients that speak bytes.
#![allow(clippy::unwrap_used, dead_code, reason = "test code, of which each test program uses a part")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take that is expected to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running broker; killed when dropped.
pub(crate) struct Broker {
    pub(crate) mqtt: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) data: TempDir,
    child: Child,
    log: Receiver<String>,
}

impl Broker {
    /// Starts a broker with these lines in its configuration, beside listener and data directory.
    pub(crate) fn start(configuration: &str) -> Self {
        Self::start_on(tempfile::tempdir().unwrap(), configuration)
    }

    /// Starts a broker on a data directory that may have a store.
    pub(crate) fn start_on(data: TempDir, configuration: &str) -> Self {
        Self::start_through(&[], data, configuration)
    }

    /// Starts a broker that may have `files` files open.
    pub(crate) fn start_with_open_files(files: u32, configuration: &str) -> Self {
        let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        Self::start_through(&["sh", "-c", &script], tempfile::tempdir().unwrap(), configuration)
    }

    /// Lets the running process open no more than so many files.
    pub(crate) fn allow_open_files(&self, files: u32) {
        let limit = format!("--nofile={files}:{files}");
        let changed = Command::new("prlimit").args([&limit, "--pid", &self.child.id().to_string()]).status();
        assert!(changed.unwrap().success());
    }

    /// Returns the resident memory of the process, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1_024
    }

    /// Returns what the system allows the process, a line for each resource.
    pub(crate) fn limits(&self) -> String {
        fs::read_to_string(format!("/proc/{}/limits", self.child.id())).unwrap()
    }

    fn start_through(wrapper: &[&str], data: TempDir, configuration: &str) -> Self {
        let file = data.path().join("veilmq.toml");
        let listener = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
        let shards = "[shards]\ncount = 2\n[access]\nanonymous = true\n[admin]\naddress = \"127.0.0.1:0\"\n";
        fs::write(&file, format!("{configuration}\n{listener}{shards}")).unwrap();
        let mut words = wrapper.to_vec();
        words.push(env!("CARGO_BIN_EXE_veilmq"));
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .arg("-c")
            .arg(&file)
            .arg("--data-dir")
            .arg(data.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = lines(child.stderr.take().unwrap());
        let admin = address_after(&log, "metrics and health: http://");
        let mqtt = address_after(&log, "listening for MQTT on ");
        let broker = Self { mqtt, admin, data, child, log };
        broker.wait_for_log("ready");
        broker
    }

    /// Waits for a log line with this text and returns it.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        wait_for_line(&self.log, text)
    }

    /// Connects without saying anything.
    pub(crate) fn socket(&self) -> TcpStream {
        let stream = TcpStream::connect(self.mqtt).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Connects an MQTT 5 client and reads its CONNACK.
    pub(crate) fn client(&self, client_id: &str) -> TcpStream {
        let mut stream = self.socket();
        stream.write_all(&connect(client_id)).unwrap();
        let connack = packet(&mut stream).unwrap();
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:x?}");
        stream
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the broker does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the value of a metric, by its name and label as the page shows them.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics");
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stderr: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // The rest is read all the same, so that the broker never waits for its log.
            let _ = sender.send(line);
        }
    });
    receiver
}

fn wait_for_line(log: &Receiver<String>, text: &str) -> String {
    loop {
        let line = log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the log never said {text:?}"));
        if line.contains(text) {
            return line;
        }
    }
}

fn address_after(log: &Receiver<String>, text: &str) -> SocketAddr {
    let line = wait_for_line(log, text);
    let (_, rest) = line.split_once(text).unwrap();
    let end = rest.find(['/', ' ', '"']).unwrap_or(rest.len());
    rest[..end].parse().unwrap()
}

/// A CONNECT of MQTT 5 with Clean Start and no keep alive.
pub(crate) fn connect(client_id: &str) -> Vec<u8> {
    let mut packet = vec![0x10, 13 + client_id.len() as u8, 0, 4];
    packet.extend_from_slice(b"MQTT\x05\x02\x00\x00\x00\x00");
    packet.push(client_id.len() as u8);
    packet.extend_from_slice(client_id.as_bytes());
    packet
}

/// A SUBSCRIBE with QoS 0 and Packet Identifier 1.
pub(crate) fn subscribe(filter: &str) -> Vec<u8> {
    let mut packet = vec![0x82, 6 + filter.len() as u8, 0, 1, 0, 0, filter.len() as u8];
    packet.extend_from_slice(filter.as_bytes());
    packet.push(0);
    packet
}

/// A PUBLISH with QoS 0, for payloads of 128 to 16,000 bytes.
pub(crate) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let remaining = 2 + topic.len() + 1 + payload.len();
    assert!((128..16_384).contains(&remaining));
    let mut packet =
        vec![0x30, (remaining % 128) as u8 | 0x80, (remaining / 128) as u8, 0, topic.len() as u8];
    packet.extend_from_slice(topic.as_bytes());
    packet.push(0);
    packet.extend_from_slice(payload);
    packet
}

/// Reads one packet, or an empty one at the end of the stream.
pub(crate) fn packet(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut packet = vec![0];
    if stream.read(&mut packet)? == 0 {
        return Ok(Vec::new());
    }
    let (mut remaining, mut shift) = (0, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        packet.push(byte[0]);
        remaining |= usize::from(byte[0] & 0x7F) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let head = packet.len();
    packet.resize(head + remaining, 0);
    stream.read_exact(&mut packet[head..])?;
    Ok(packet)
}

/// Waits until the peer has closed the connection, and returns what came before.
pub(crate) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    bytes
}
